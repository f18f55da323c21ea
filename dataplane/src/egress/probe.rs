//! Probe: one data message of an exact length, which may not be cut on its way.
//!
//! In: a peer, addresses, a length outside. Out: a datagram on its uplink: a small echo request inside, or what everybody
//! throws away, and zeros, which a peer cuts off (whitepaper, section 5.4.6) and answers shortly. Never: a sign that data was sent, which would have a peer called that does not answer.

use std::net::IpAddr;

use culvert_aead::{Engine, SealJob};
use culvert_wire::{
    icmp::write_echo_request,
    ipv4::{self, Ipv4Fields},
    ipv6::{self, Ipv6Fields},
};
use culvert_wireguard::{
    Keypair,
    message::{DATA_HEADER_LEN, DataHeader, data_len},
};

use super::admission::{Way, admission};
use crate::{
    shared::{control_link::Probe, peer::Peer},
    uplink::{Outer, Tx},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Seals and sends a probe, if the peer can be sent to now: one that does not leave is as one that did not pass.
#[cold]
pub(crate) fn probe(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    (peer, probe): (&Peer, &Probe),
) {
    if let Ok(way) = admission(turn, sending, peer) {
        send(turn, tools, sending, (peer, probe), &way);
    }
}

fn send(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    (peer, probe): (&Peer, &Probe),
    way: &Way,
) -> Option<()> {
    let (uplink, tx) = sending.outlet(turn.snapshot, way.queue?)?;
    let inner = usize::from(probe.size.checked_sub(way.path.overhead())?);
    let len = data_len(inner);
    if len > tx.datagram_max() || tx.reserve(1, len) == 0 {
        return None;
    }
    let counter = way.keypair.reserve(1, turn.now).ok()?.next()?;
    seal(&mut tools.engine, tx, (&way.keypair, counter), probe, inner)?;
    let outer = Outer {
        whole: true,
        ..Outer::default()
    };
    tx.commit(len, &way.path, outer, None);
    tx.flush(uplink);
    peer.traffic.sent(1, len as u64);
    Some(())
}

/// Writes it into the first room; `None` if that is too small.
fn seal(
    engine: &mut Engine,
    tx: &mut Tx,
    (keypair, counter): (&Keypair, u64),
    probe: &Probe,
    inner: usize,
) -> Option<()> {
    let room = tx.rooms().first_mut()?.bytes_mut();
    let (header, body) = room.split_first_chunk_mut::<DATA_HEADER_LEN>()?;
    DataHeader {
        receiver: keypair.remote_index(),
        counter,
    }
    .write(header);
    let packet = body.get_mut(..inner)?;
    packet.fill(0);
    let ends = (probe.source, probe.destination);
    let written = match probe.asks {
        true => write_echo_request(ends, (probe.id, probe.token), packet),
        false => write_discard(ends, packet),
    };
    if written == 0 {
        return None;
    }
    let job = SealJob::in_place(keypair.sending_key(), counter, body, inner).ok()?;
    engine.seal(&mut [job]);
    Some(())
}

/// Writes a packet that nobody answers: without a next header (RFC 8200, section 4.7), or for the port that discards (RFC 863).
/// 0: it does not fit.
fn write_discard(ends: (IpAddr, IpAddr), out: &mut [u8]) -> usize {
    const PROTOCOL_UDP: u8 = 17;
    const NO_NEXT_HEADER: u8 = 59;
    const DISCARD: [u8; 8] = [0, 9, 0, 9, 0, 8, 0, 0];
    let write = |out: &mut [u8], header: &[u8], behind: &[u8]| {
        let len = header.len() + behind.len();
        let (head, rest) = out.get_mut(..len)?.split_at_mut(header.len());
        head.copy_from_slice(header);
        rest.copy_from_slice(behind);
        Some(len)
    };
    let written = match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = ipv4::header(&Ipv4Fields {
                source,
                destination,
                tos: 0,
                id: 0,
                dont_fragment: true,
                ttl: 1,
                protocol: PROTOCOL_UDP,
                total_len: 28,
            });
            write(out, &header, &DISCARD)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = ipv6::header(&Ipv6Fields {
                source,
                destination,
                traffic_class: 0,
                hop_limit: 1,
                next_header: NO_NEXT_HEADER,
                payload_len: 0,
            });
            write(out, &header, &[])
        }
        _ => None,
    };
    written.unwrap_or(0)
}
