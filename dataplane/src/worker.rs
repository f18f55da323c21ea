//! A worker: one thread that polls its rings and queues, run to completion.
//!
//! In: guest TX rings, interfaces' and uplinks' queues that it owns; commands. Out:
//! everything that `inbound` and `outbound` send and deliver. Never: a lock that others
//! hold for long, a wait while there is work, a log per packet.
//!
//! One turn, in order:
//! 1. the snapshot, once;
//! 2. commands from the control core;
//! 3. each uplink queue: one burst inward;
//! 4. each guest queue: one burst outward, as long as its byte credit lasts;
//! 5. nothing found for a while (adaptive polling): sleep on doorbell, kicks,
//!    interfaces, sockets.
//!
//! Sleep, in order: announce, ask every guest for kicks and look at every ring once
//! more, look at commands and snapshot once more, then poll. Whoever produces
//! publishes first and rings the doorbell after.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::Cache;
use culvert_wireguard::Instant;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    announce, clock,
    control_link::{Command, WorkerEnd},
    drops::DropReason,
    frames::GuestFrames,
    ids::{PeerIndex, PortIndex, TunnelIndex, UplinkIndex, WorkerIndex},
    inbound::{self, Punt},
    limits::GUEST_BURST,
    outbound, seal,
    snapshot::{Guest, GuestQueues, Port, Snapshot, SnapshotCell},
    turn::{Sending, Tools, Turn},
    uplink::{Rx, Tx, UplinkQueue},
};

/// How a worker waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It never sleeps: the core is its own.
    Busy,
    /// After an idle spell it sleeps until something happens.
    Adaptive,
}

/// How long an adaptive worker looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(30);
/// The least and the most that it looks when each look is a system call: the most is what two sleeps cost.
const SPIN_CALLS: [Duration; 2] = [Duration::from_micros(1), Duration::from_micros(10)];
/// The first and the longest sleep beside queues that can't wake the worker.
const NAP_MIN: Duration = Duration::from_micros(50);
/// See `NAP_MIN`.
const NAP_MAX: Duration = Duration::from_millis(1);
/// The longest sleep when everything can wake the worker.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Bytes that a guest queue may send per turn: two super-frames. What it overdraws it
/// waits for, so queues share by bytes (deficit round robin).
const QUANTUM: i64 = 128 << 10;

/// What a worker did, for `show cores` and `top`.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Turns made.
    pub turns: AtomicU64,
    /// Turns that found work.
    pub busy_turns: AtomicU64,
    /// Nanoseconds spent in turns that found work.
    pub busy_nanos: AtomicU64,
    /// Nanoseconds spent looking and finding nothing.
    pub idle_nanos: AtomicU64,
    /// Nanoseconds asleep.
    pub sleep_nanos: AtomicU64,
    /// Times that it slept.
    pub sleeps: AtomicU64,
    /// Frames from guests.
    pub guest_frames: AtomicU64,
    /// Datagrams from uplinks.
    pub datagrams: AtomicU64,
    /// The generation of the snapshot that the worker goes by.
    pub generation: AtomicU64,
}

/// A worker.
pub struct Worker {
    index: WorkerIndex,
    snapshots: Arc<SnapshotCell>,
    link: WorkerEnd,
    polling: Polling,
    stats: Arc<WorkerStats>,
    tools: Tools,
    rx: Vec<(UplinkIndex, Option<TunnelIndex>, Rx)>,
    tx: Vec<Tx>,
    by_tunnel: Vec<Option<usize>>,
    /// The snapshot that `by_tunnel` and `credits` were made for.
    generation: Option<u64>,
    credits: Vec<i64>,
    now: Instant,
    idle_since: Option<Instant>,
    /// How long it looks before it sleeps.
    spin: Duration,
    nap: Duration,
    stopping: bool,
}

impl Worker {
    /// A worker without queues of uplinks: they come as commands.
    #[must_use]
    pub fn new(
        index: WorkerIndex,
        snapshots: Arc<SnapshotCell>,
        link: WorkerEnd,
        polling: Polling,
        stats: Arc<WorkerStats>,
    ) -> Self {
        Self {
            index,
            snapshots,
            link,
            polling,
            stats,
            tools: Tools::new(),
            rx: Vec::new(),
            tx: Vec::new(),
            by_tunnel: Vec::new(),
            generation: None,
            credits: Vec::new(),
            now: clock::monotonic(),
            idle_since: None,
            spin: SPIN,
            nap: NAP_MIN,
            stopping: false,
        }
    }

    /// Works until `Command::Stop`.
    pub fn run(mut self) {
        let mut snapshots = Cache::new(Arc::clone(&self.snapshots));
        self.now = clock::monotonic();
        while !self.stopping {
            let snapshot = Arc::clone(snapshots.load());
            if self.pass(&snapshot) {
                self.idle_since = None;
                self.nap = NAP_MIN;
            } else if self.polling == Polling::Adaptive {
                let since = *self.idle_since.get_or_insert(self.now);
                if self.now.since(since) >= self.spin {
                    self.sleep(&snapshot);
                }
            }
        }
        // The last packets (a guest's RST, a peer's) have been sent; queues close here.
    }

    /// Makes one turn, without sleep, and says whether there was anything to do: for
    /// tests and simulations, where bursts must be the same in every run.
    pub fn step(&mut self) -> bool {
        self.now = clock::monotonic();
        let snapshot = self.snapshots.load_full();
        self.pass(&snapshot)
    }

    /// Steps 1 to 4, with their time.
    fn pass(&mut self, snapshot: &Snapshot) -> bool {
        if self.generation != Some(snapshot.generation) {
            self.adopt(snapshot);
        }
        let found = self.turn(snapshot);
        self.account(found, clock::monotonic());
        found
    }

    fn account(&mut self, found: bool, now: Instant) {
        let nanos = now.as_nanos().saturating_sub(self.now.as_nanos());
        self.now = now;
        let stats = &self.stats;
        let add = |counter: &AtomicU64, n| {
            counter.store(
                counter.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        };
        add(&stats.turns, 1);
        if found {
            add(&stats.busy_turns, 1);
            add(&stats.busy_nanos, nanos);
        } else {
            add(&stats.idle_nanos, nanos);
        }
    }

    /// Prepares what depends on the snapshot.
    fn adopt(&mut self, snapshot: &Snapshot) {
        self.generation = Some(snapshot.generation);
        self.stats
            .generation
            .store(snapshot.generation, Ordering::Release);
        self.credits = vec![0; self.queues(snapshot).len()];
        let position = |tunnel: TunnelIndex| {
            let uplink = snapshot.tunnel(tunnel)?.uplink;
            self.rx
                .iter()
                .position(|&(at, only, _)| at == uplink && only.is_none_or(|only| only == tunnel))
        };
        self.by_tunnel = (0..snapshot.tunnels.len())
            .map(|t| position(TunnelIndex::from_slot(t)))
            .collect();
    }

    fn queues<'s>(&self, snapshot: &'s Snapshot) -> &'s [(PortIndex, u16)] {
        snapshot
            .workers
            .get(self.index.slot())
            .map_or(&[], GuestQueues::as_slice)
    }

    /// Steps 2 to 4; whether there was anything to do.
    fn turn(&mut self, snapshot: &Snapshot) -> bool {
        let mut found = false;
        while let Ok(command) = self.link.commands.pop() {
            found = true;
            self.obey(snapshot, command);
        }
        for queue in 0..self.rx.len() {
            found |= self.inward(snapshot, queue);
        }
        for position in 0..self.queues(snapshot).len() {
            found |= self.outward(snapshot, position);
        }
        found
    }

    /// Step 3: one burst of one uplink queue.
    fn inward(&mut self, snapshot: &Snapshot, queue: usize) -> bool {
        let Self {
            rx,
            tx,
            by_tunnel,
            link,
            tools,
            stats,
            now,
            index,
            ..
        } = self;
        let Some((uplink, _, rx)) = rx.get_mut(queue) else {
            return false;
        };
        let Some(uplink) = snapshot.uplink(*uplink) else {
            return false;
        };
        let burst = rx.receive(uplink, &mut link.host);
        let count = burst.datagrams.len();
        if count == 0 {
            return burst.punted;
        }
        if burst.punted {
            link.attention.wake().notify();
        }
        stats.datagrams.fetch_add(count as u64, Ordering::Relaxed);
        let turn = Turn {
            snapshot,
            now: *now,
            attention: &link.attention,
            worker: index.0,
        };
        let mut sending = Sending::new(tx, by_tunnel);
        let mut punt = Punt {
            handshakes: &mut link.handshakes,
        };
        inbound::inbound(
            &turn,
            tools,
            &mut sending,
            &mut punt,
            uplink,
            burst.datagrams,
        );
        true
    }

    /// Step 4: one burst of one guest queue.
    fn outward(&mut self, snapshot: &Snapshot, position: usize) -> bool {
        let Some(&(port, queue)) = self.queues(snapshot).get(position) else {
            return false;
        };
        let Some(port) = snapshot.port(port) else {
            return false;
        };
        let Self {
            tx,
            by_tunnel,
            link,
            tools,
            stats,
            now,
            index,
            credits,
            ..
        } = self;
        let Some(credit) = credits.get_mut(position) else {
            return false;
        };
        *credit = (*credit + QUANTUM).min(QUANTUM);
        if *credit <= 0 {
            return true;
        }
        let turn = Turn {
            snapshot,
            now: *now,
            attention: &link.attention,
            worker: index.0,
        };
        let mut sending = Sending::new(tx, by_tunnel);
        let (fetched, done) = match &port.guest {
            Guest::Vhost(guest) => {
                let ring = guest.guest_tx(queue);
                if !ring.is_live() {
                    return false;
                }
                let Some(mut burst) = ring.try_lock() else {
                    return false;
                };
                let fetched = burst.fetch(GUEST_BURST);
                if fetched == 0 {
                    return false;
                }
                burst.disable_notifications();
                let mut count = 0;
                while count < fetched && *credit > 0 {
                    *credit -= i64::from(burst.frame(count).len);
                    count += 1;
                }
                let frames = GuestFrames::new(&burst, count);
                let done = outbound::outbound(&turn, tools, &mut sending, port, &frames);
                burst.complete(done);
                (fetched, done)
            }
            Guest::Tun(tun) => {
                let Some(network) = snapshot.network(port.network) else {
                    return false;
                };
                let Some(mut burst) = tun.try_lock(queue) else {
                    return false;
                };
                let header = (network.gateway_mac, port.mac);
                let fetched = burst.fetch(header, *credit, &port.drops);
                if fetched == 0 {
                    return false;
                }
                let frames = burst.frames(fetched);
                let done = outbound::outbound(&turn, tools, &mut sending, port, &frames);
                let bytes: usize = (0..done).map(|i| burst.len(i)).sum();
                *credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
                burst.complete(done);
                // What found no room is looked at again after a nap, not at once.
                (done, done)
            }
        };
        stats.guest_frames.fetch_add(done as u64, Ordering::Relaxed);
        fetched > 0
    }

    /// Step 2.
    fn obey(&mut self, snapshot: &Snapshot, command: Command) {
        match command {
            Command::Handshake {
                tunnel,
                path,
                message,
            } => {
                self.send_handshake(snapshot, tunnel, &path, message.as_slice());
            }
            Command::Frame { uplink, frame } => {
                let queue = self.rx.iter().position(|&(at, _, _)| at == uplink);
                let sent = queue
                    .and_then(|queue| self.tx.get_mut(queue))
                    .is_some_and(|tx| tx.send_frame(&frame));
                if !sent && let Some(uplink) = snapshot.uplink(uplink) {
                    uplink.counters.drops.add(DropReason::UplinkFull, 1);
                }
            }
            Command::Keepalive(peer) => {
                self.with_peer(snapshot, peer, |turn, tools, sending, peer| {
                    let waited = tools.staged.holds(peer.index);
                    outbound::flush_staged(turn, tools, sending, peer);
                    if !waited {
                        seal::keepalive(turn, tools, sending, peer);
                    }
                })
            }
            Command::FlushStaged(peer) => {
                self.with_peer(snapshot, peer, outbound::flush_staged);
            }
            Command::DropStaged(peer) => {
                let dropped = self.tools.staged.discard(peer);
                if let Some(peer) = snapshot.peer(peer).filter(|_| dropped > 0) {
                    peer.note_unstaged(dropped);
                    peer.drops.add(DropReason::StagedExpired, dropped);
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
            Command::Stop => self.stopping = true,
        }
    }

    fn as_turn<'a>(&'a self, snapshot: &'a Snapshot) -> Turn<'a> {
        Turn {
            snapshot,
            now: self.now,
            attention: &self.link.attention,
            worker: self.index.0,
        }
    }

    fn with_peer(
        &mut self,
        snapshot: &Snapshot,
        peer: PeerIndex,
        act: impl FnOnce(&Turn<'_>, &mut Tools, &mut Sending<'_>, &Arc<crate::peer::Peer>),
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
        path: &Arc<crate::path::Path>,
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
            uplink.counters.drops.add(DropReason::UplinkDown, 1);
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
            uplink.counters.drops.add(DropReason::UplinkFull, 1);
            return;
        };
        room.copy_from_slice(message);
        tx.commit(message.len(), path, HANDSHAKE_TOS.into(), None);
        tx.flush(&uplink.counters);
    }

    /// Step 5.
    fn sleep(&mut self, snapshot: &Snapshot) {
        self.link.wake.announce();
        let stays_awake = self.arm(snapshot)
            || !self.link.commands.is_empty()
            || self.snapshots.load().generation != snapshot.generation;
        if !stays_awake {
            self.wait(snapshot);
        }
        self.link.wake.awake();
        let now = clock::monotonic();
        let slept = now.as_nanos().saturating_sub(self.now.as_nanos());
        self.stats.sleep_nanos.fetch_add(slept, Ordering::Relaxed);
        self.stats.sleeps.fetch_add(1, Ordering::Relaxed);
        self.spin = self.next_spin(snapshot, Duration::from_nanos(slept));
        self.now = now;
        self.idle_since = None;
    }

    /// How long to look next time, after a sleep of this length.
    ///
    /// A guest's ring is a load from memory, and waking us by a kick costs the guest more than looking costs us. A
    /// socket or an interface is a system call per look, and its kernel wakes us cheaply: there it pays to look only
    /// while work comes so close that a sleep ends before the looking would have.
    fn next_spin(&self, snapshot: &Snapshot, slept: Duration) -> Duration {
        let is_cheap = self
            .guest_rings(snapshot)
            .any(|(port, _)| matches!(port.guest, Guest::Vhost(_)))
            || self.rx.iter().any(|(_, _, rx)| rx.is_polled());
        let [least, most] = SPIN_CALLS;
        if is_cheap {
            SPIN
        } else if slept < most {
            (self.spin * 2).clamp(least, most)
        } else {
            (self.spin / 2).clamp(least, most)
        }
    }

    /// Asks all guests for kicks; whether work arrived meanwhile.
    fn arm(&self, snapshot: &Snapshot) -> bool {
        let mut found = false;
        for (port, queue) in self.guest_rings(snapshot) {
            // An interface's descriptor stays readable while there is a frame.
            let Guest::Vhost(guest) = &port.guest else {
                continue;
            };
            let ring = guest.guest_tx(queue);
            if ring.is_live() {
                // Held by the session thread: look again at once.
                found |= ring
                    .try_lock()
                    .is_none_or(|mut burst| burst.enable_notifications());
            }
        }
        found
    }

    fn guest_rings<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = (&'s Port, u16)> {
        self.queues(snapshot)
            .iter()
            .filter_map(|&(port, queue)| Some((snapshot.port(port)?.as_ref(), queue)))
    }

    fn wait(&mut self, snapshot: &Snapshot) {
        let mut polled = vec![PollFd::new(&*self.link.wake, PollFlags::IN)];
        let mut blind = false;
        let mut timeout = SLEEP_MAX;
        for (port, queue) in self.guest_rings(snapshot) {
            let fd = match &port.guest {
                Guest::Vhost(guest) => Some(guest.guest_tx(queue).kick_fd()),
                Guest::Tun(tun) => {
                    // Nothing tells when there is room again for what is held back.
                    blind |= tun.holds(queue);
                    tun.readable_fd(queue)
                }
            };
            polled.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let mut sockets = Vec::new();
        let mut ends = Vec::with_capacity(self.rx.len());
        for (_, _, rx) in &self.rx {
            let before = sockets.len();
            rx.descriptors(&mut sockets);
            blind |= sockets.len() == before;
            timeout = rx.owed().map_or(timeout, |owed| timeout.min(owed));
            ends.push(sockets.len());
        }
        polled.extend(
            sockets
                .iter()
                .map(|fd: &BorrowedFd<'_>| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        if blind {
            timeout = timeout.min(self.nap);
        }
        // An interrupted or failed poll is an early end of the sleep.
        let _ = poll(
            &mut polled,
            rustix::time::Timespec::try_from(timeout).ok().as_ref(),
        );
        let slept = clock::monotonic().since(self.now);
        let answers = &polled[polled.len() - sockets.len()..];
        let ready: Vec<bool> = answers.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut begin = 0;
        for ((_, _, rx), end) in self.rx.iter_mut().zip(ends) {
            rx.woken(&ready[begin..end], slept);
            begin = end;
        }
        self.nap = (self.nap * 2).min(NAP_MAX);
        for (port, queue) in self.guest_rings(snapshot) {
            if let Guest::Vhost(guest) = &port.guest {
                guest.guest_tx(queue).clear_kick();
            }
        }
    }
}
