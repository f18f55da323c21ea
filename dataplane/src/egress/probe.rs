//! Probe: one data message of an exact length, which may not be cut on its way.
//!
//! In: a peer, addresses, a length outside. Out: a datagram on its uplink: a small echo request inside, and zeros, which a
//! peer cuts off (whitepaper, section 5.4.6) and answers shortly. Never: a sign that data was sent, which would have a peer called that does not answer.

use culvert_aead::{Engine, SealJob};
use culvert_wire::icmp::write_echo_request;
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
    if write_echo_request(ends, (probe.id, probe.token), packet) == 0 {
        return None;
    }
    let job = SealJob::in_place(keypair.sending_key(), counter, body, inner).ok()?;
    engine.seal(&mut [job]);
    Some(())
}
