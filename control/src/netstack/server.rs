//! The thread's end.
//!
//! In: what lies in its queues, the time. Out: what the stacks make of it. Never: more of one kind in a round than its
//! share; a sleep while something lies there.
//!
//! One round, in order:
//! 1. what stacks there are to be;
//! 2. punts, class after class, each with its share of the round, one of each worker in turn; guests' questions are
//!    answered at once; bytes of connections;
//! 3. what the kernel heard, what the core asks for, names;
//! 4. what is due;
//! 5. frames of the stacks to workers, what was heard, what they have learned, and other news to the core.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_dataplane::{
    shared::{
        awaited::{Asked, Watched},
        clock,
        control_link::Attention,
        drops::DropReason,
        ids::{AttachmentIndex, Scope},
        limits::KERNEL_ERRORS,
        punt::PuntClass,
        stack_link::{StackCommand, StackEnd},
    },
    uplink::udp::{KernelError, KernelErrors},
};
use culvert_stack::{HostEvent, HostStack, Stacks, hear_v4, hear_v6};
use culvert_wire::VnetHeader;
use culvert_wireguard::Instant;
use rtrb::{Consumer, Producer};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use super::{
    HeardIn, Host, Hosts, Learned, News, Order, Shared, Taught, datagrams::Datagrams, names::Names,
    streams::Streams,
};
use crate::{
    api::{Reply, arrivals::Arrivals},
    report::look::NeighborSight,
    turns::Turn,
};

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The longest sleep while the core or a worker has to make room first.
const NAP: Duration = Duration::from_millis(10);

/// What the thread runs.
pub(crate) struct Server {
    shared: Arc<Shared>,
    core: Arc<Attention>,
    orders: Consumer<Order>,
    news: Producer<News>,
    heard: Producer<HeardIn>,
    /// Where the kernel's uplinks are heard of.
    kernel: Option<KernelErrors>,
    workers: Vec<StackEnd>,
    /// By class.
    turns: [Turn; PuntClass::ALL.len()],
    hosts: Arc<Hosts>,
    stacks: Stacks<Scope>,
    streams: Streams,
    datagrams: Datagrams,
    names: Names,
    taught: Taught,
}

impl Server {
    pub(super) fn new(
        shared: Arc<Shared>,
        core: Arc<Attention>,
        (orders, news, heard): (Consumer<Order>, Producer<News>, Producer<HeardIn>),
    ) -> Self {
        Self {
            shared,
            core,
            orders,
            news,
            heard,
            kernel: None,
            workers: Vec::new(),
            turns: Default::default(),
            hosts: Arc::default(),
            stacks: Stacks::default(),
            streams: Streams::default(),
            datagrams: Datagrams::default(),
            names: Names::default(),
            taught: Taught::default(),
        }
    }

    /// Connections to what uplinks serve go there.
    pub(super) fn hand_to(&mut self, arrivals: Arrivals) {
        self.streams.hand_to(arrivals);
    }

    /// Gives it its links to all workers.
    pub(crate) fn link(&mut self, workers: Vec<StackEnd>) {
        self.workers = workers;
    }

    /// Has it hear what the kernel is told of datagrams that went out by its sockets.
    pub(super) fn hear_kernel(&mut self) {
        match KernelErrors::open(clock::monotonic()) {
            Ok(kernel) => self.kernel = Some(kernel),
            Err(error) => tracing::info!(
                "ICMP errors are not heard on udp uplinks: {error} (it takes CAP_NET_RAW); \
                 what paths let through is found by probes alone"
            ),
        }
    }

    /// Works until it is asked to end.
    pub(super) fn run(mut self) {
        loop {
            // What is rung from here on ends the sleep below at once.
            self.shared.wake.announce();
            if self.shared.ends.load(Ordering::Acquire) {
                return;
            }
            let now = clock::monotonic();
            let more = self.round(now);
            if !more {
                self.sleep(now);
            }
            self.shared.wake.awake();
        }
    }

    /// One round; whether there is more to do at once.
    pub(crate) fn round(&mut self, now: Instant) -> bool {
        self.adopt(now);
        let more = self.take_punts(1, now);
        self.take_kernel_errors(now);
        self.streams.serve(&mut self.stacks, &self.hosts, now);
        self.datagrams.serve(&mut self.stacks, &self.hosts, now);
        self.take_orders(now);
        self.names.serve(&mut self.stacks, now);
        self.stacks.handle_timeout(now);
        self.send_frames();
        self.tell_heard();
        self.tell_learned(now);
        self.tell_news();
        self.note_adopted();
        more
    }

    fn sleep(&mut self, now: Instant) {
        let due = [self.stacks.poll_timeout(), self.names.poll_timeout()];
        let due = due.into_iter().flatten().min();
        let due = due.map_or(SLEEP_MAX, |due| due.since(now).min(SLEEP_MAX));
        let may_hear = self
            .kernel
            .as_mut()
            .is_none_or(|kernel| kernel.may_receive(now));
        let is_full = self.news.is_full() || self.heard.is_full();
        let is_behind = (self.workers.first()).is_some_and(|worker| !worker.has_room());
        let is_stuck = is_full || is_behind || !may_hear || !self.is_adopted();
        let timeout = if is_stuck { due.min(NAP) } else { due };
        let mut polled = vec![PollFd::new(&*self.shared.wake, PollFlags::IN)];
        if may_hear && !self.heard.is_full() {
            let descriptors = self.kernel.iter().flat_map(KernelErrors::descriptors);
            polled.extend(descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        self.streams.polled(&self.stacks, &mut polled);
        // An interrupted or failed poll is an early end of the sleep.
        let _ = poll(&mut polled, Timespec::try_from(timeout).ok().as_ref());
    }

    /// Step 1. Before stacks end or begin, what lies there for those before them is theirs.
    fn adopt(&mut self, now: Instant) {
        let hosts = self.shared.hosts.load_full();
        if hosts.generation == self.hosts.generation {
            return;
        }
        self.take_punts(self.workers.len(), now);
        // What an uplink leaves to another needs no proof: nobody else has it.
        let stacks = self.stacks.iter().flat_map(|(_, stack)| stack.own());
        let used = stacks.filter(|(_, standing)| standing.is_used());
        let known: BTreeSet<_> = used.map(|(address, _)| address).collect();
        let before = std::mem::replace(&mut self.hosts, Arc::clone(&hosts));
        for &scope in before.stacks.keys() {
            if !hosts.stacks.contains_key(&scope) {
                self.stacks.remove(scope);
                self.taught.remove(&scope);
                self.names.remove(scope);
            }
        }
        for (&scope, host) in &hosts.stacks {
            let last = before.stacks.get(&scope);
            if !last.is_some_and(|last| Arc::ptr_eq(last, host)) {
                self.take_over(scope, host, last.map(Arc::as_ref), &known, now);
            }
        }
    }

    fn take_over(
        &mut self,
        scope: Scope,
        host: &Host,
        before: Option<&Host>,
        known: &BTreeSet<IpAddr>,
        now: Instant,
    ) {
        let config = host.config.clone();
        match self.stacks.get_mut(scope) {
            Some(stack) if before.is_some_and(|before| before.birth == host.birth) => {
                stack.reconfigure(config, now);
            }
            _ => {
                let is_known = |address| known.contains(&address);
                let stack = HostStack::begin(config, RandomState::new(), is_known, now);
                let stack = stack.counting(Arc::clone(&host.drops));
                self.stacks.insert(scope, stack);
            }
        }
        if let Some(stack) = self.stacks.get_mut(scope) {
            stack.share(host.kernel.as_ref().map(|kernel| Arc::clone(&kernel.ports)));
            stack.watch(host.bfd.clone(), RandomState::new().hash_one(()), now);
            stack.listen(host.services.listeners());
            self.datagrams.serve_by(scope, stack, &host.services);
            self.names.serve_by(scope, host);
            stack.learn_own(host.learns, host.held.clone(), now);
            stack.refuse_lease(host.unusable, now);
        }
    }

    /// Step 2, with so many shares of a round; whether more lies there.
    fn take_punts(&mut self, shares: usize, now: Instant) -> bool {
        let (stacks, guests) = (&mut self.stacks, &self.hosts.guests);
        let mut answers = Vec::new();
        for class in PuntClass::ALL {
            self.turns[class as usize].serve(
                &mut self.workers,
                class.budget().per_round * shares,
                |worker| worker.punts.pop(class),
                |punt| match punt.scope {
                    Scope::Uplink(_) => {
                        stacks.handle_frame(punt.scope, punt.frame.as_slice(), now);
                    }
                    Scope::Guest(guest) => {
                        let answer = guests.serve(guest, punt.frame.as_slice());
                        answers.extend(answer.map(|answer| (guest, answer)));
                    }
                },
            );
            give_datagrams(stacks, &mut self.workers, &self.hosts);
            give_to_kernels(stacks, &self.hosts);
        }
        for (guest, answer) in answers {
            self.deliver(guest, answer);
        }
        self.workers.iter().any(|worker| !worker.punts.is_empty())
    }

    /// What the kernel has heard. What finds no room stays in its buffers.
    fn take_kernel_errors(&mut self, now: Instant) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        let before = self.heard.slots();
        for _ in 0..KERNEL_ERRORS.per_round {
            if self.heard.is_full() {
                break;
            }
            let heard = match kernel.receive(now) {
                Some(KernelError::V4(packet)) => hear_v4(packet),
                Some(KernelError::V6(from, message)) => hear_v6(from, message),
                None => break,
            };
            // There was room.
            let _ = heard.map(|heard| self.heard.push((None, heard)));
        }
        if self.heard.slots() < before {
            self.core.wake().notify();
        }
    }

    /// Has a guest given a frame, by the worker that polls it.
    fn deliver(&mut self, at: AttachmentIndex, frame: Vec<u8>) {
        let Some(guest) = self.hosts.guests.get(at) else {
            return;
        };
        let scope = Scope::Guest(at);
        let frame = frame.into_boxed_slice();
        let worker = self.workers.get_mut(guest.worker);
        if !worker.is_some_and(|worker| worker.send(StackCommand::Frame { scope, frame })) {
            guest.drops.add(DropReason::CommandQueueFull, 1);
        }
    }

    fn advertise(&mut self, guests: &[AttachmentIndex]) {
        for &guest in guests {
            if let Some(frame) = self.hosts.guests.advertise(guest) {
                self.deliver(guest, frame);
            }
        }
    }

    /// Step 3: at most what there is room for.
    fn take_orders(&mut self, now: Instant) {
        for _ in 0..self.orders.slots() {
            match self.orders.pop() {
                Ok(Order::Ask(scope, next_hop)) => self.stacks.ask(scope, next_hop, now),
                Ok(Order::LetGo(scope, next_hop)) => self.stacks.let_go(scope, next_hop),
                Ok(Order::LinkUp(scope)) => {
                    if let Some(stack) = self.stacks.get_mut(scope) {
                        stack.link_came_up(now);
                    }
                }
                Ok(Order::Verify(scope, next_hop)) => self.stacks.verify(scope, next_hop, now),
                Ok(Order::Neighbors(reply)) => self.tell_neighbors(reply),
                Ok(Order::Advertise(guests)) => self.advertise(&guests),
                Ok(Order::LookUp(scope, question)) => self.names.ask(scope, question, now),
                Err(_) => return,
            }
        }
    }

    fn tell_neighbors(&self, reply: Reply<Vec<NeighborSight>>) {
        let mut neighbors = Vec::new();
        for (scope, stack) in self.stacks.iter() {
            let Some(host) = self.hosts.stacks.get(&scope) else {
                continue;
            };
            neighbors.extend(stack.neighbors().map(|known| NeighborSight {
                uplink: host.name.clone(),
                known,
            }));
        }
        reply.send(neighbors);
    }

    /// Step 5. What is asked is known to workers before it is.
    fn send_frames(&mut self) {
        for (scope, stack) in self.stacks.iter_mut() {
            let Some(host) = self.hosts.stacks.get(&scope) else {
                continue;
            };
            let awaited = &host.counters.awaited;
            awaited.lease.set(stack.lease_exchange());
            let watched = stack.watched();
            awaited
                .session
                .set(watched.map(|(neighbor, mac, number)| Watched {
                    neighbor,
                    mac,
                    number,
                }));
            if let Some(neighbors) = stack.take_awaited() {
                awaited.neighbors.set(neighbors.iter().map(|it| Asked {
                    address: it.address,
                    mac: it.mac,
                    is_in_use: it.is_in_use,
                }));
            }
            if let Some(routers) = stack.take_routers() {
                awaited
                    .routers
                    .set(routers.into_iter().map(|(address, mac)| Asked {
                        address,
                        mac: Some(mac),
                        is_in_use: true,
                    }));
            }
        }
        while let Some((scope, frame)) = self.stacks.poll_frame() {
            let frame = frame.into_boxed_slice();
            let command = StackCommand::Frame { scope, frame };
            let taken = (self.workers.first_mut()).is_some_and(|worker| worker.send(command));
            if !taken && let Some(host) = self.hosts.stacks.get(&scope) {
                host.counters.drops.add(DropReason::CommandQueueFull, 1);
            }
        }
        // Connections write no more while these wait.
        while let Some(worker) = self.workers.first_mut()
            && worker.has_room()
            && let Some((scope, frame)) = self.stacks.poll_segment()
        {
            let frame = frame.into_boxed_slice();
            worker.send(StackCommand::Frame { scope, frame });
        }
    }

    /// Errors about datagrams that say to be ours. What finds no room stays with its stack.
    fn tell_heard(&mut self) {
        let mut any = false;
        while !self.heard.is_full()
            && let Some((scope, heard)) = self.stacks.poll_heard()
        {
            any |= self.heard.push((Some(scope), heard)).is_ok();
        }
        if any {
            self.core.wake().notify();
        }
    }

    fn tell_learned(&mut self, now: Instant) {
        let mut any = false;
        while let Some((scope, learned)) = self.stacks.poll_learned(now) {
            let birth = self.hosts.stacks.get(&scope).map(|host| host.birth);
            let told = (birth.unwrap_or_default(), Arc::new(learned));
            self.taught.insert(scope, told);
            any = true;
        }
        if any {
            self.shared.taught.store(Arc::new(self.taught.clone()));
            self.core.wake().notify();
        }
    }

    /// What finds no room stays with its stack.
    fn tell_news(&mut self) {
        let mut any = false;
        while !self.news.is_full()
            && let Some((scope, event)) = self.stacks.poll_event()
        {
            let stack = self.stacks.get(scope);
            let birth = self.hosts.stacks.get(&scope).map(|host| host.birth);
            let learned = match event {
                HostEvent::Neighbor { address } => Learned::Neighbor {
                    address,
                    mac: stack.and_then(|stack| stack.neighbor(address)),
                },
                HostEvent::Own { address, standing } => Learned::Own { address, standing },
            };
            let news = News {
                scope,
                birth: birth.unwrap_or_default(),
                learned,
            };
            any |= self.news.push(news).is_ok();
        }
        for (_, watch) in self.hosts.stacks.values().filter_map(|it| it.bfd.as_ref()) {
            any |= watch.take_news();
        }
        if any {
            self.core.wake().notify();
        }
    }

    /// Nothing that was sent by the stacks before is on its way any more.
    fn note_adopted(&self) {
        if !self.is_adopted() && self.workers.iter().all(StackEnd::has_taken_all) {
            let generation = self.hosts.generation;
            self.shared.adopted.store(generation, Ordering::Release);
        }
    }

    fn is_adopted(&self) -> bool {
        self.shared.adopted.load(Ordering::Relaxed) == self.hosts.generation
    }
}

/// What stacks leave to the host's kernel goes into the interface that it shares the uplink by.
fn give_to_kernels(stacks: &mut Stacks<Scope>, hosts: &Hosts) {
    while let Some((scope, frame)) = stacks.poll_for_kernel() {
        let Some(host) = hosts.stacks.get(&scope) else {
            continue;
        };
        let Some(kernel) = &host.kernel else {
            continue;
        };
        if let Err(reason) = kernel.tun.send(&VnetHeader::default(), &frame) {
            host.counters.drops.add(reason, 1);
        }
    }
}

/// What came in fragments goes on as if it had come whole: one source's by one worker, in order.
fn give_datagrams(stacks: &mut Stacks<Scope>, workers: &mut [StackEnd], hosts: &Hosts) {
    while let Some((scope, datagram)) = stacks.poll_datagram() {
        let worker = datagram.spread % workers.len().max(1);
        let frame = datagram.frame.into_boxed_slice();
        let worker = workers.get_mut(worker);
        let taken = worker.is_some_and(|worker| worker.send_datagram(scope, frame));
        if !taken && let Some(host) = hosts.stacks.get(&scope) {
            host.counters.drops.add(DropReason::CommandQueueFull, 1);
        }
    }
}
