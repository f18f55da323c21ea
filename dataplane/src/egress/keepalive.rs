//! Keepalive: one empty packet, sealed and sent.
//!
//! In: a peer. Out: a datagram on its uplink, or a loss under a name; what is missing is asked for. Never: a frame.

use culvert_aead::{Engine, SealJob};
use culvert_wireguard::{
    Keypair,
    message::{DATA_HEADER_LEN, DataHeader, data_len},
};

use super::admission::{Unready, Way, admission};
use crate::{
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        peer::{Peer, signal},
    },
    uplink::{Outer, Tx},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Seals and sends one empty packet: a keepalive. Without a key, a handshake says the same.
pub(crate) fn keepalive(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Peer,
) {
    let lost = match admission(turn, sending, peer) {
        Ok(way) => send(turn, tools, sending, (peer, &way)).err(),
        Err(Unready::KeyWanted) => None,
        Err(Unready::Refused(reason)) => Some(reason),
    };
    if let Some(reason) = lost {
        lose(peer.books(), reason, Lost::Count(1));
    }
}

fn send(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    (peer, way): (&Peer, &Way),
) -> Result<(), DropReason> {
    let keypair = &way.keypair;
    let outlet = way
        .queue
        .and_then(|queue| sending.outlet(turn.snapshot, queue));
    let (uplink, tx) = outlet.ok_or(DropReason::UplinkDown)?;
    if tx.reserve(1, data_len(0)) == 0 {
        return Err(DropReason::UplinkFull);
    }
    let range = keypair.reserve(1, turn.now);
    let counter = range.ok().and_then(|mut range| range.next());
    let counter = counter.ok_or(DropReason::KeypairSpent)?;
    seal(&mut tools.engine, tx, keypair, counter).ok_or(DropReason::NotSealed)?;
    tx.commit(data_len(0), &way.path, Outer::default(), None);
    tx.flush(uplink);
    peer.traffic.sent(1, data_len(0) as u64);
    peer.raise(signal::KEEPALIVE_SENT, turn.attention);
    Ok(())
}

/// Writes it into the first room; `None` if that is too small.
fn seal(engine: &mut Engine, tx: &mut Tx, keypair: &Keypair, counter: u64) -> Option<()> {
    let room = tx.rooms().first_mut()?.bytes_mut();
    let (header, body) = room.split_first_chunk_mut::<DATA_HEADER_LEN>()?;
    DataHeader {
        receiver: keypair.remote_index(),
        counter,
    }
    .write(header);
    let job = SealJob::in_place(keypair.sending_key(), counter, body, 0).ok()?;
    engine.seal(&mut [job]);
    Some(())
}
