//! Keepalive: one empty packet, sealed and sent.
//!
//! In: a peer. Out: a datagram on its uplink. Never: a frame.

use std::sync::Arc;

use culvert_aead::SealJob;
use culvert_wireguard::message::{DATA_HEADER_LEN, DataHeader, data_len};

use crate::{
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        peer::{Peer, signal},
    },
    uplink::Outer,
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Seals and sends one empty packet: a keepalive.
pub(crate) fn keepalive(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
) {
    let (keypair, path) = (peer.keypair(), peer.path());
    let (Some(keypair), Some(path)) = (keypair.as_ref(), path.as_ref()) else {
        return;
    };
    let Some((uplink, tx)) = sending.along(turn.snapshot, path, peer.tunnel) else {
        return;
    };
    if tx.reserve(1, data_len(0)) == 0 {
        lose(peer.books(), DropReason::UplinkFull, Lost::Count(1));
        return;
    }
    let Ok(mut range) = keypair.reserve(1, turn.now) else {
        peer.want_key(turn.now, turn.attention);
        return;
    };
    let (Some(counter), Some(room)) = (range.next(), tx.rooms().first_mut()) else {
        return;
    };
    let Some((header, body)) = room.bytes_mut().split_first_chunk_mut::<DATA_HEADER_LEN>() else {
        return;
    };
    DataHeader {
        receiver: keypair.remote_index(),
        counter,
    }
    .write(header);
    let Ok(job) = SealJob::in_place(keypair.sending_key(), counter, body, 0) else {
        return;
    };
    tools.engine.seal(&mut [job]);
    tx.commit(data_len(0), path, Outer::default(), None);
    tx.flush(uplink);
    peer.traffic.sent(1, data_len(0) as u64);
    peer.raise(signal::KEEPALIVE_SENT, turn.attention);
}
