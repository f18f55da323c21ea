//! A worker: one thread that polls its rings and queues, run to completion.
//!
//! In: guest TX rings, interfaces' and uplinks' queues that it owns; commands. Out:
//! everything that `inbound` and `outbound` send and deliver. Never: a lock that others
//! hold for long, a wait while there is work, a log per packet.
//!
//! One turn, in order:
//! 1. the snapshot, once;
//! 2. commands from the control core and the host stacks' thread, announcements, a burst of the host's kernel (`commands`);
//! 3. each uplink queue: one burst inward;
//! 4. each guest queue: one burst outward, as long as its byte credit lasts;
//! 5. nothing found for a while (adaptive polling): sleep on doorbell, kicks,
//!    interfaces, sockets (`sleep`).

mod commands;
pub(crate) mod queues;
pub(crate) mod rate;
mod sleep;
mod times;
pub(crate) mod turn;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::Cache;
use culvert_aead::Engine;
use culvert_wireguard::Instant;

use self::{
    queues::Queues,
    sleep::{NAP_MIN, SPIN},
    turn::{Tools, Turn},
};
use crate::{
    inbound::{self, Punt},
    outbound::{self, door},
    shared::{
        clock,
        control_link::WorkerEnd,
        frames::FrameReceiver,
        ids::{PortIndex, UplinkIndex, WorkerIndex},
        limits::{GUEST_BURST, GUEST_QUANTUM},
        snapshot::{Guest, GuestQueues, Port, Snapshot, SnapshotCell},
    },
    switch::announce::Announcements,
};

pub use self::times::TurnTimes;

/// How a worker waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It never sleeps: the core is its own.
    Busy,
    /// After an idle spell it sleeps until something happens.
    Adaptive,
}

/// What a worker did, for `show cores` and `top`.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Turns made.
    pub turns: AtomicU64,
    /// Turns that found work, by how long they took.
    pub busy_turns: TurnTimes,
    /// Nanoseconds spent in turns that found work.
    pub busy_nanos: AtomicU64,
    /// Nanoseconds spent looking and finding nothing.
    pub idle_nanos: AtomicU64,
    /// Nanoseconds of the longest turn, with work or without, since somebody took a reading and set it to zero.
    pub longest_nanos: AtomicU64,
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
    /// Frames of the host's kernel, if it shares uplinks.
    from_kernel: Option<FrameReceiver<UplinkIndex>>,
    announcements: Announcements,
    polling: Polling,
    stats: Arc<WorkerStats>,
    tools: Tools,
    queues: Queues,
    /// The snapshot that it goes by.
    generation: Option<u64>,
    /// Its guest queues, and what each may send, in bytes; below zero what it owes.
    served: Arc<GuestQueues>,
    credits: Vec<((PortIndex, u16), i64)>,
    now: Instant,
    idle_since: Option<Instant>,
    /// How long it looks before it sleeps.
    spin: Duration,
    nap: Duration,
    /// Nothing has ended its last sleep but the time: it looks at everything once, and sleeps again.
    has_napped: bool,
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
            from_kernel: None,
            announcements: Announcements::default(),
            polling,
            stats,
            tools: Tools::new(),
            queues: Queues::default(),
            generation: None,
            served: Arc::default(),
            credits: Vec::new(),
            now: clock::monotonic(),
            idle_since: None,
            spin: SPIN,
            nap: NAP_MIN,
            has_napped: false,
            stopping: false,
        }
    }

    /// The same with this engine instead of the fastest one: for measurements on which the processor must have no say.
    #[must_use]
    pub fn with_engine(mut self, engine: Engine) -> Self {
        self.tools.engine = engine;
        self
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
                self.has_napped = false;
            } else if self.polling == Polling::Adaptive {
                let since = *self.idle_since.get_or_insert(self.now);
                if self.has_napped || self.now.since(since) >= self.spin {
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
        if nanos > stats.longest_nanos.load(Ordering::Relaxed) {
            stats.longest_nanos.store(nanos, Ordering::Relaxed);
        }
        add(&stats.turns, 1);
        if found {
            stats.busy_turns.count(nanos);
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
        self.keep_credits(snapshot);
    }

    /// Another snapshot forgives no queue its debt.
    fn keep_credits(&mut self, snapshot: &Snapshot) {
        let queues = snapshot.workers.get(self.index.slot());
        if queues.is_some_and(|queues| Arc::ptr_eq(queues, &self.served)) {
            return;
        }
        self.served = queues.cloned().unwrap_or_default();
        // Both are in order: one look at each, however many there are.
        let mut before = std::mem::take(&mut self.credits).into_iter().peekable();
        let mut kept = |queue| {
            while before.next_if(|(other, _)| *other < queue).is_some() {}
            let same = before.next_if(|(other, _)| *other == queue);
            (queue, same.map_or(0, |(_, credit)| credit))
        };
        self.credits = self.served.iter().map(|&queue| kept(queue)).collect();
    }

    fn guest_queues<'s>(&self, snapshot: &'s Snapshot) -> &'s [(PortIndex, u16)] {
        snapshot
            .workers
            .get(self.index.slot())
            .map_or(&[], |queues| queues.as_slice())
    }

    /// Steps 2 to 4; whether there was anything to do.
    fn turn(&mut self, snapshot: &Snapshot) -> bool {
        let mut found = false;
        while let Ok(command) = self.link.commands.pop() {
            found = true;
            self.obey(snapshot, command);
        }
        while let Ok(command) = self.link.stack_commands.pop() {
            found = true;
            self.serve_stack(snapshot, command);
        }
        found |= self.announce(snapshot);
        found |= self.send_for_kernel(snapshot);
        for place in 0..self.queues.len() {
            found |= self.inward(snapshot, place);
        }
        for position in 0..self.guest_queues(snapshot).len() {
            found |= self.outward(snapshot, position);
        }
        found
    }

    /// Step 3: one burst of one uplink queue.
    #[inline]
    fn inward(&mut self, snapshot: &Snapshot, place: usize) -> bool {
        let Self {
            queues,
            link,
            tools,
            stats,
            now,
            index,
            ..
        } = self;
        let Some((queue, mut sending)) = queues.receiving(place) else {
            return false;
        };
        let Some(uplink) = snapshot.uplink(queue.uplink) else {
            return false;
        };
        sending.keep_up();
        let burst = queue
            .rx
            .receive(uplink, queue.tunnel, &mut link.punts, *now);
        let count = burst.len();
        let punted = link.punts.ring();
        if count == 0 {
            return punted;
        }
        stats.datagrams.fetch_add(count as u64, Ordering::Relaxed);
        let turn = Turn {
            snapshot,
            now: *now,
            attention: &link.attention,
            worker: index.0,
        };
        let mut punt = Punt {
            handshakes: &mut link.handshakes,
        };
        inbound::inbound(&turn, tools, &mut sending, &mut punt, uplink, burst);
        true
    }

    /// Step 4: one burst of one guest queue.
    fn outward(&mut self, snapshot: &Snapshot, position: usize) -> bool {
        let Some(&(port, queue)) = self.guest_queues(snapshot).get(position) else {
            return false;
        };
        let Some(port) = snapshot.port(port) else {
            return false;
        };
        let Self {
            queues,
            link,
            tools,
            stats,
            now,
            index,
            credits,
            ..
        } = self;
        let Some((_, credit)) = credits.get_mut(position) else {
            return false;
        };
        *credit = (*credit + GUEST_QUANTUM).min(GUEST_QUANTUM);
        if *credit <= 0 {
            return true;
        }
        let turn = Turn {
            snapshot,
            now: *now,
            attention: &link.attention,
            worker: index.0,
        };
        let mut sending = queues.sending();
        let (fetched, done) = match &port.guest {
            Guest::Vhost(vhost) => {
                let ring = vhost.guest_tx(queue);
                if !ring.is_live() {
                    return false;
                }
                let Some(mut burst) = ring.try_lock() else {
                    return false;
                };
                let fetched = burst.fetch(GUEST_BURST);
                let extra = burst.extra_cost();
                if fetched == 0 {
                    *credit -= i64::from(extra);
                    return false;
                }
                burst.disable_notifications();
                let done = door::enter(
                    &turn,
                    tools,
                    &mut sending,
                    &mut link.punts,
                    port,
                    (&mut burst, fetched),
                    credit,
                );
                // Not before: a look that costs all the credit must move something on all the same.
                *credit -= share(extra, done, fetched);
                burst.complete(done);
                (fetched, done)
            }
            Guest::Tun(tun) => {
                let guest = port.attachment.and_then(|index| snapshot.attached(index));
                let Some(guest) = guest else {
                    return false;
                };
                let Some(mut burst) = tun.try_lock(queue) else {
                    return false;
                };
                let header = (guest.network.gateway_mac, guest.attachment.mac);
                let fetched = burst.fetch(header, *credit, port.books());
                if fetched == 0 {
                    return false;
                }
                let frames = burst.frames(fetched);
                let done = outbound::outbound(
                    &turn,
                    tools,
                    &mut sending,
                    &mut link.punts,
                    (port, &guest),
                    &frames,
                    credit,
                );
                burst.complete(done);
                // What found no room is looked at again after a nap, not at once.
                (done, done)
            }
        };
        link.punts.ring();
        stats.guest_frames.fetch_add(done as u64, Ordering::Relaxed);
        fetched > 0
    }

    fn as_turn<'a>(&'a self, snapshot: &'a Snapshot) -> Turn<'a> {
        Turn {
            snapshot,
            now: self.now,
            attention: &self.link.attention,
            worker: self.index.0,
        }
    }

    fn guest_rings<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = (&'s Port, u16)> {
        self.guest_queues(snapshot)
            .iter()
            .filter_map(|&(port, queue)| Some((snapshot.port(port)?.as_ref(), queue)))
    }
}

/// What `done` of the frames `fetched` have to pay of a look at the ring: the others are looked at again.
fn share(extra: u32, done: usize, fetched: usize) -> i64 {
    let share = u64::from(extra) * done as u64 / fetched as u64;
    i64::try_from(share).unwrap_or(i64::MAX)
}
