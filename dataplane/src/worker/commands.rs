//! Commands: what the control core and the host stacks' thread ask of a worker.
//!
//! In: one command at a time, at the start of a turn. Out: handshake messages and the host stack's frames on an uplink,
//! staged frames sent or dropped, announcements, queues taken and given up. Never: an answer; what can't be done is
//! counted.

#[cfg(feature = "dpdk")]
use std::sync::atomic::Ordering;
use std::{any::Any, cell::RefCell, sync::Arc};

use arrayvec::ArrayVec;

use super::{
    Worker,
    queues::Sending,
    turn::{Tools, Turn},
};
use crate::{
    egress::{self, keepalive::keepalive, probe::probe, staged::Staged},
    guest::deliver,
    loss::{Books, Lost, lose, lose_own},
    shared::{
        control_link::Command,
        drops::DropReason,
        exception_link::KernelEnd,
        ids::{PeerIndex, Scope, TunnelIndex, UplinkIndex},
        limits::{EXCEPTION_BURST, LAST_BURSTS},
        path::Path,
        peer::Peer,
        snapshot::Snapshot,
        stack_link::StackCommand,
    },
    switch::announce,
};
#[cfg(feature = "dpdk")]
use crate::{
    inbound::{self, Punt},
    uplink::dpdk::receive_whole,
};

thread_local! {
    /// What its entries left on a worker's thread: it may be bound to it.
    static ENTERED: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

impl Worker {
    /// Step 2.
    pub(super) fn obey(&mut self, snapshot: &Snapshot, command: Command) {
        match command {
            Command::Handshake {
                tunnel,
                peer,
                path,
                message,
            } => {
                self.send_handshake(snapshot, (tunnel, peer), &path, message.as_slice());
            }
            Command::Keepalive(peer) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    // What waited confirms a key as well, if it leaves.
                    if egress::flush(turn, tools, sending, peer) == 0 {
                        keepalive(turn, tools, sending, peer);
                    }
                });
            }
            Command::Probe(peer, what) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    probe(turn, tools, sending, (peer, &what));
                });
            }
            Command::FlushStaged(peer) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    egress::flush(turn, tools, sending, peer);
                });
            }
            Command::FlushAwaited => self.flush_awaited(snapshot),
            Command::DropStaged(peer) => {
                if let Some(cell) = snapshot.peer(peer) {
                    let lost = self.discard(peer, Some(cell.books()), DropReason::StagedExpired);
                    cell.note_unstaged(lost);
                }
            }
            Command::ForgetStaged(peer, uplink) => {
                // Whatever became of the uplink: another peer may get the place.
                let books = snapshot.uplink(uplink).map(|uplink| uplink.books());
                self.discard(peer, books, DropReason::PeerRemoved);
            }
            Command::Announce(port) => self.announcements.push(port),
            Command::AnnounceGone(network, address) => {
                announce::announce_gone(&self.as_turn(snapshot), network, address);
            }
            Command::Enter(entry) => ENTERED.with_borrow_mut(|entered| entered.push(entry())),
            Command::ShareWithKernel(end) => {
                let KernelEnd {
                    to_kernel,
                    from_kernel,
                } = *end;
                self.link.punts.share(to_kernel);
                self.from_kernel = Some(from_kernel);
            }
            Command::AttachUplink(queue) => self.queues.attach(*queue),
            Command::DetachUplink(uplink, tunnel) => {
                self.receive_last(snapshot, uplink, tunnel);
                self.queues.detach(uplink, tunnel);
            }
            Command::HandOver(pairs) => self.queues.hand_over(&pairs),
            Command::Stop => self.stopping = true,
        }
    }

    /// Step 2, for the host stacks.
    pub(super) fn serve_stack(&mut self, snapshot: &Snapshot, command: StackCommand) {
        match command {
            StackCommand::Frame { scope, frame } => match scope {
                Scope::Uplink(uplink) => self.send_frame(snapshot, uplink, &frame),
                Scope::Guest(guest) => {
                    // Who is gone by now needs no answer.
                    if let Some(guest) = snapshot.attached(guest) {
                        deliver::own(guest, self.index.0, &frame);
                    }
                }
            },
            StackCommand::Datagram { scope, frame } => self.receive_whole(snapshot, scope, frame),
        }
    }

    /// A turn's part of the announcements that were asked for; whether there was any.
    pub(super) fn announce(&mut self, snapshot: &Snapshot) -> bool {
        if self.announcements.is_empty() {
            return false;
        }
        let mut announcements = std::mem::take(&mut self.announcements);
        announcements.serve(&self.as_turn(snapshot));
        self.announcements = announcements;
        true
    }

    fn send_frame(&mut self, snapshot: &Snapshot, uplink: UplinkIndex, frame: &[u8]) {
        let mut sending = self.queues.sending();
        let queue = sending.shared(uplink);
        let outlet = queue.and_then(|queue| sending.outlet(snapshot, queue));
        let lost = match outlet {
            Some((_, tx)) => (!tx.send_frame(frame)).then_some(DropReason::UplinkFull),
            None => Some(DropReason::UplinkDown),
        };
        if let (Some(reason), Some(uplink)) = (lost, snapshot.uplink(uplink)) {
            lose(uplink.books(), reason, Lost::Wire(frame));
        }
    }

    /// Sends what the host's kernel has given us for its uplinks, a burst; whether there was anything.
    pub(super) fn send_for_kernel(&mut self, snapshot: &Snapshot) -> bool {
        let Self {
            queues,
            from_kernel: Some(frames),
            ..
        } = self
        else {
            return false;
        };
        let mut sending = queues.sending();
        let mut uplinks = ArrayVec::<UplinkIndex, EXCEPTION_BURST>::new();
        for _ in 0..EXCEPTION_BURST {
            let taken = frames.take(|uplink, frame| {
                let queue = sending.shared(uplink);
                let outlet = queue.and_then(|queue| sending.outlet(snapshot, queue));
                let lost = match outlet {
                    Some((_, tx)) => (!tx.put_frame(frame)).then_some(DropReason::UplinkFull),
                    None => Some(DropReason::UplinkDown),
                };
                if let (Some(reason), Some(uplink)) = (lost, snapshot.uplink(uplink)) {
                    lose(uplink.books(), reason, Lost::Wire(frame));
                }
                uplink
            });
            let Some(uplink) = taken else {
                break;
            };
            if !uplinks.contains(&uplink) {
                uplinks.push(uplink);
            }
        }
        for &uplink in &uplinks {
            let queue = sending.shared(uplink);
            if let Some((uplink, tx)) = queue.and_then(|queue| sending.outlet(snapshot, queue)) {
                tx.send_put(uplink);
            }
        }
        !uplinks.is_empty()
    }

    /// What came in fragments goes the way of what comes whole.
    #[cold]
    #[inline(never)]
    #[cfg_attr(not(feature = "dpdk"), expect(unused_mut, reason = "DPDK only"))]
    fn receive_whole(&mut self, snapshot: &Snapshot, scope: Scope, mut frame: Box<[u8]>) {
        let Scope::Uplink(uplink) = scope else {
            return;
        };
        let Some(uplink) = snapshot.uplink(uplink) else {
            return;
        };
        #[cfg(feature = "dpdk")]
        let received = {
            let Self {
                queues,
                link,
                tools,
                stats,
                now,
                index,
                ..
            } = self;
            let turn = Turn {
                snapshot,
                now: *now,
                attention: &link.attention,
                worker: index.0,
            };
            let mut punt = Punt {
                handshakes: &mut link.handshakes,
            };
            receive_whole(&mut frame, uplink, |burst| {
                stats.datagrams.fetch_add(1, Ordering::Relaxed);
                let mut sending = queues.sending();
                inbound::inbound(&turn, tools, &mut sending, &mut punt, uplink, burst);
            })
        };
        #[cfg(not(feature = "dpdk"))]
        let received: Result<(), _> = Err(DropReason::UplinkDown);
        if let Err(reason) = received {
            lose(uplink.books(), reason, Lost::Wire(&frame));
        }
    }

    /// What queues hold that are given up is worked off first, as far as a few bursts go: while they are open, more comes.
    #[cold]
    #[inline(never)]
    fn receive_last(
        &mut self,
        snapshot: &Snapshot,
        uplink: UplinkIndex,
        tunnel: Option<TunnelIndex>,
    ) {
        for place in 0..self.queues.len() {
            let goes = self.queues.goes(place, uplink, tunnel);
            let _ = goes && (0..LAST_BURSTS).any(|_| !self.inward(snapshot, place));
        }
    }

    /// Loses all that waits for `peer`, whose books may be gone; answers how many frames.
    fn discard(&mut self, peer: PeerIndex, books: Option<Books<'_>>, reason: DropReason) -> u64 {
        let staged = &mut self.tools.staged;
        let mut count = 0;
        while let Some((_, vnet, place)) = staged.take(peer) {
            if let Some(books) = books {
                lose_own(books, reason, vnet, staged.bytes(place));
            }
            count += 1;
        }
        count
    }

    /// Rare, and with much on its stack: apart from what is done in every turn.
    #[cold]
    #[inline(never)]
    fn flush_awaited(&mut self, snapshot: &Snapshot) {
        let waiting: ArrayVec<_, { Staged::CELLS }> = self.tools.staged.peers().collect();
        for peer in waiting {
            self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                if peer.path().as_ref().is_some_and(|path| path.is_resolved()) {
                    egress::flush(turn, tools, sending, peer);
                }
            });
        }
    }

    fn with_peer(
        &mut self,
        snapshot: &Snapshot,
        peer: PeerIndex,
        act: impl FnOnce(&Turn<'_>, &mut Tools, &mut Sending<'_>, &Arc<Peer>),
    ) {
        let Self {
            queues,
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
        act(&turn, tools, &mut queues.sending(), peer);
    }

    fn send_handshake(
        &mut self,
        snapshot: &Snapshot,
        (tunnel, peer): (TunnelIndex, Option<PeerIndex>),
        path: &Arc<Path>,
        message: &[u8],
    ) {
        /// The kernel's `HANDSHAKE_DSCP`: class AF41, 0x88 as an octet.
        const HANDSHAKE_TOS: u8 = 0x88;
        let mut sending = self.queues.sending();
        let Some((uplink, tx)) = sending.along(snapshot, path, tunnel) else {
            // What answers a stranger by an uplink that is gone is nobody's: its books went, too.
            let uplink = snapshot.uplink(path.uplink()).map(|uplink| uplink.books());
            let peer = || peer.and_then(|peer| Some(snapshot.peer(peer)?.books()));
            if let Some(books) = uplink.or_else(peer) {
                lose(books, DropReason::UplinkDown, Lost::Wire(message));
            }
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
