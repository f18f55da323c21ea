//! Open: what is authentic, and was not seen before.
//!
//! In: claims. Out: the claims whose datagrams verified, opened in place, and whose counters are new; what they prove of
//! their peers. Never: plaintext of a packet that does not verify.

use arrayvec::ArrayVec;
use culvert_aead::{Jobs, OpenJob};
use culvert_wireguard::message::{DATA_HEADER_LEN, data_len};

use super::{Claim, Claims, Sessions, plaintext};
use crate::{
    loss::{Lost, lose},
    shared::{drops::DropReason, limits::UPLINK_BURST, peer::signal, sessions::Session},
    uplink::{Datagram, Uplink},
    worker::turn::{Tools, Turn},
};

/// Step 2: verifies and decrypts in place; keeps the claims that verified.
pub(super) fn open(
    tools: &mut Tools,
    burst: &mut [Datagram],
    claims: &mut Claims,
    sessions: &Sessions,
) {
    let mut jobs = Jobs::<OpenJob<'_>, UPLINK_BURST>::new();
    let mut next = 0;
    for (index, datagram) in burst.iter_mut().enumerate() {
        let Some(claim) = claims.get(next).filter(|claim| claim.datagram == index) else {
            continue;
        };
        next += 1;
        let key = sessions[claim.session].keypair.receiving_key();
        let sealed = &mut datagram.bytes_mut()[DATA_HEADER_LEN..];
        // A claim's datagram holds at least a header and a tag.
        let Ok(job) = OpenJob::in_place(key, claim.counter, sealed) else {
            break;
        };
        if jobs.push(job).is_err() {
            break;
        }
    }
    tools.engine.open(&mut jobs);
    if jobs.iter().filter(|job| job.ok()).count() < claims.len() {
        let verified: ArrayVec<_, UPLINK_BURST> = jobs.iter().map(OpenJob::ok).collect();
        lose_unopened(burst, claims, &verified, sessions);
    }
}

/// Loses the claims that were not opened: `verified` says it of those that were tried.
#[cold]
fn lose_unopened(burst: &[Datagram], claims: &mut Claims, verified: &[bool], sessions: &Sessions) {
    let mut verified = verified.iter();
    claims.retain(|claim| {
        let reason = match verified.next() {
            Some(true) => return true,
            Some(false) => DropReason::TagInvalid,
            None => DropReason::DatagramMalformed,
        };
        let lost = Lost::Wire(burst[claim.datagram].bytes());
        lose(sessions[claim.session].peer.books(), reason, lost);
        false
    });
}

/// Step 3.
pub(super) fn accept(
    turn: &Turn<'_>,
    uplink: &Uplink,
    burst: &[Datagram],
    opened: &mut Claims,
    sessions: &Sessions,
) {
    let mut kept = 0;
    let mut start = 0;
    while start < opened.len() {
        let session = &sessions[opened[start].session];
        let peer = &session.peer;
        let run = opened[start..]
            .iter()
            .take_while(|claim| claim.session == opened[start].session)
            .count();
        let first = kept;
        {
            let mut window = session.keypair.replay();
            for position in start..start + run {
                let claim = opened[position];
                if window.accept(claim.counter) {
                    opened[kept] = claim;
                    kept += 1;
                } else {
                    let lost = Lost::Inner(plaintext(&burst[claim.datagram]));
                    lose(peer.books(), DropReason::Replayed, lost);
                }
            }
        }
        start += run;
        if kept > first {
            note_received(turn, uplink, burst, &opened[first..kept], session);
        }
    }
    opened.truncate(kept);
}

/// What authenticated packets of one session tell: the peer is there, and where.
fn note_received(
    turn: &Turn<'_>,
    uplink: &Uplink,
    burst: &[Datagram],
    claims: &[Claim],
    session: &Session,
) {
    let peer = &session.peer;
    if session.keypair.confirm() {
        peer.raise_confirmed(&session.keypair, turn.attention);
    }
    let mut bytes = 0;
    let mut signals = 0;
    for claim in claims {
        let len = burst[claim.datagram].bytes().len();
        bytes += len;
        signals |= match len == data_len(0) {
            true => signal::KEEPALIVE_RECEIVED,
            false => signal::DATA_RECEIVED,
        };
    }
    peer.traffic.received(claims.len() as u64, bytes as u64);
    peer.raise(signals, turn.attention);
    if let Some(last) = claims.last() {
        let last = &burst[last.datagram];
        let (now, attention) = (turn.now, turn.attention);
        peer.note_source(last.source, last.local, uplink, now, attention);
    }
}
