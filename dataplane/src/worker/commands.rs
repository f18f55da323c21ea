//! Commands: what the control core asks of a worker.
//!
//! In: one command at a time, at the start of a turn. Out: handshake messages and the host stack's frames on an uplink,
//! staged frames sent or dropped, announcements, queues taken and given up. Never: an answer; what can't be done is
//! counted.

use std::sync::Arc;

use super::{
    Worker,
    turn::{Sending, Tools, Turn},
};
use crate::{
    egress::{self, keepalive::keepalive},
    loss::{Books, Lost, lose, lose_own},
    shared::{
        control_link::Command,
        drops::DropReason,
        ids::{PeerIndex, Scope, TunnelIndex},
        path::Path,
        peer::Peer,
        snapshot::Snapshot,
    },
    switch::announce,
    uplink::UplinkQueue,
};

impl Worker {
    /// Step 2.
    pub(super) fn obey(&mut self, snapshot: &Snapshot, command: Command) {
        match command {
            Command::Handshake {
                tunnel,
                path,
                message,
            } => {
                self.send_handshake(snapshot, tunnel, &path, message.as_slice());
            }
            Command::Frame { scope, frame } => {
                let Scope::Uplink(uplink) = scope;
                let queue = self.rx.iter().position(|&(at, _, _)| at == uplink);
                let sent = queue
                    .and_then(|queue| self.tx.get_mut(queue))
                    .is_some_and(|tx| tx.send_frame(&frame));
                if !sent && let Some(uplink) = snapshot.uplink(uplink) {
                    lose(uplink.books(), DropReason::UplinkFull, Lost::Wire(&frame));
                }
            }
            Command::Keepalive(peer) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    // What waited confirms a key as well, if it leaves.
                    if egress::flush(turn, tools, sending, peer) == 0 {
                        keepalive(turn, tools, sending, peer);
                    }
                });
            }
            Command::FlushStaged(peer) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    egress::flush(turn, tools, sending, peer);
                });
            }
            Command::DropStaged(peer) => {
                if let Some(cell) = snapshot.peer(peer) {
                    let lost = self.discard(peer, cell.books(), DropReason::StagedExpired);
                    cell.note_unstaged(lost);
                }
            }
            Command::ForgetStaged(peer, uplink) => {
                if let Some(uplink) = snapshot.uplink(uplink) {
                    self.discard(peer, uplink.books(), DropReason::PeerRemoved);
                }
            }
            Command::Announce(port) => announce::announce(&self.as_turn(snapshot), port),
            Command::AnnounceGone(network, address) => {
                announce::announce_gone(&self.as_turn(snapshot), network, address);
            }
            Command::AttachUplink(queue) => {
                let UplinkQueue {
                    uplink,
                    tunnel,
                    rx,
                    tx,
                } = *queue;
                self.rx.push((uplink, tunnel, rx));
                self.tx.push(tx);
                self.generation = None;
                self.adopt(snapshot);
            }
            Command::DetachUplink(uplink, tunnel) => {
                while let Some(position) = self
                    .rx
                    .iter()
                    .position(|&(at, only, _)| at == uplink && (tunnel.is_none() || only == tunnel))
                {
                    self.rx.swap_remove(position);
                    self.tx.swap_remove(position);
                }
                self.adopt(snapshot);
            }
            Command::HandOver(uplink, pairs) => {
                for (at, only, rx) in &mut self.rx {
                    let heir = |&(from, to)| (*at == uplink && *only == Some(from)).then_some(to);
                    if let Some(heir) = pairs.iter().find_map(heir) {
                        *only = Some(heir);
                        rx.serve(heir);
                    }
                }
                self.adopt(snapshot);
            }
            Command::Stop => self.stopping = true,
        }
    }

    /// Loses all that waits for `peer`; answers how many frames.
    fn discard(&mut self, peer: PeerIndex, books: Books<'_>, reason: DropReason) -> u64 {
        let staged = &mut self.tools.staged;
        let mut count = 0;
        while let Some((vnet, place)) = staged.take(peer) {
            lose_own(books, reason, vnet, staged.bytes(place));
            count += 1;
        }
        count
    }

    fn with_peer(
        &mut self,
        snapshot: &Snapshot,
        peer: PeerIndex,
        act: impl FnOnce(&Turn<'_>, &mut Tools, &mut Sending<'_>, &Arc<Peer>),
    ) {
        let Self {
            tx,
            by_tunnel,
            link,
            tools,
            now,
            index,
            ..
        } = self;
        let Some(peer) = snapshot.peer(peer) else {
            return;
        };
        let turn = Turn {
            snapshot,
            now: *now,
            attention: &link.attention,
            worker: index.0,
        };
        act(&turn, tools, &mut Sending::new(tx, by_tunnel), peer);
    }

    fn send_handshake(
        &mut self,
        snapshot: &Snapshot,
        tunnel: TunnelIndex,
        path: &Arc<Path>,
        message: &[u8],
    ) {
        /// The kernel's `HANDSHAKE_DSCP`: class AF41, 0x88 as an octet.
        const HANDSHAKE_TOS: u8 = 0x88;
        let uplink = snapshot
            .tunnel(tunnel)
            .and_then(|tunnel| snapshot.uplink(tunnel.uplink));
        let Some(uplink) = uplink else { return };
        let mut sending = Sending::new(&mut self.tx, &self.by_tunnel);
        let Some(tx) = sending
            .position(tunnel)
            .and_then(|position| sending.queue(position))
        else {
            lose(uplink.books(), DropReason::UplinkDown, Lost::Wire(message));
            return;
        };
        let room = match tx.reserve(1, message.len()) {
            0 => None,
            _ => tx
                .rooms()
                .first_mut()
                .and_then(|r| r.bytes_mut().get_mut(..message.len())),
        };
        let Some(room) = room else {
            lose(uplink.books(), DropReason::UplinkFull, Lost::Wire(message));
            return;
        };
        room.copy_from_slice(message);
        tx.commit(message.len(), path, HANDSHAKE_TOS.into(), None);
        tx.flush(uplink);
    }
}
