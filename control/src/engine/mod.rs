//! The control core: drives tunnels, ports, uplinks and workers.
//!
//! In: a checked configuration, requests, what workers and ports tell. Out: snapshots,
//! commands to workers, handshake messages, answers. Never: an mbuf, a vring or a
//! device's queue: workers touch those.
//!
//! One thread. Each round of [`Engine::serve`], in order: requests, news of ports,
//! handshakes and frames that workers punted, signals of peers, deadlines; then it
//! sleeps on its doorbell, the requests' descriptor and the next deadline. A flood of
//! handshakes gets a fixed share of a round, so nothing else waits for long.
//!
//! Rooms: [`tunnels`] the protocol, [`uplinks`] devices and next hops, [`ports`]
//! guests, [`interfaces`] the kernel's side of tun ports, [`workers`] threads, [`compile`]
//! snapshots, [`apply`] changes, [`uapi`] what `wg` asks, [`drift`] what it changed against
//! the file, [`report`] what `show` prints, [`endpoints`] what survives a restart.

mod apply;
mod compile;
mod drift;
mod endpoints;
mod interfaces;
mod ports;
mod report;
mod slots;
mod tunnels;
mod uapi;
mod uplinks;
mod workers;

use std::{
    collections::VecDeque,
    error::Error,
    net::SocketAddr,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

use culvert_dataplane::{
    clock,
    control_link::{Attention, Command, Inline},
    drops::DropReason,
    ids::{PeerIndex, PortIndex, TunnelIndex, UplinkIndex},
    path::Link,
    peer::signal,
    snapshot::{Snapshot, SnapshotCell},
    tun::Tun,
};
use culvert_wireguard::{Instant, Now, Transmit, limits::UNDER_LOAD_BACKLOG};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use self::{
    apply::Manner,
    endpoints::Endpoints,
    interfaces::InterfaceEvent,
    ports::{Ears, PortNews, PortState},
    slots::Slots,
    tunnels::{OutdatedPaths, PeerState, TunnelState, Wish},
    uplinks::{Dpdk, UplinkState},
    workers::Workers,
};
use crate::{
    api::{Request, Requester, Requests},
    config::{Config, Endpoint, Name},
    netlink::{LinkWatch, RouteWatch},
    process::{Notify, RunDir},
    uapi::server::{Served, Server, Socket},
};

/// Handshake messages per round: about 10 ms of X25519.
const HANDSHAKES_PER_ROUND: usize = 64;
/// Frames for the host stack per round.
const FRAMES_PER_ROUND: usize = 256;
/// The longest sleep: signals that wake nobody are looked at that often.
const ROUND: Duration = Duration::from_millis(100);
/// How often links, workers and files are looked after.
const CHORES: Duration = Duration::from_secs(1);
/// The first handshakes with all peers are spread over at most this time.
const GREETING: Duration = Duration::from_secs(5);
/// The least time between two first handshakes.
const GREETING_STEP: Duration = Duration::from_millis(5);
/// A peer with traffic has its next hop asked for that often, which keeps it fresh.
const REFRESH: Duration = Duration::from_secs(5);
/// Handshake messages that may wait for a next hop.
const UNROUTED_MAX: usize = 1_024;
/// How long they wait.
const UNROUTED_LIFE: Duration = Duration::from_secs(3);
/// News of ports that may wait.
const NEWS_MAX: usize = 1_024;

/// Why the engine could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was tried, what was found, and how to mend it.
    #[error("{0}")]
    Start(String),
    /// A worker's thread ended by itself.
    #[error("worker {0} has ended unexpectedly: this is a bug; the log says where")]
    WorkerDied(usize),
}

impl EngineError {
    fn start(what: &str, error: &dyn Error) -> Self {
        Self::Start(format!("{what}: {error}"))
    }
}

/// What a run needs besides a configuration.
pub struct Surroundings<'s> {
    /// Where sockets lie and endpoints are kept. Without one, nothing is kept.
    pub run_dir: Option<&'s RunDir>,
    /// For those who ask the engine on their own account.
    pub requester: Requester,
    /// The engine's end.
    pub requests: Requests,
    /// The service manager.
    pub notify: &'s Notify,
    /// Called once everything is open.
    pub ready: Box<dyn FnOnce() + 's>,
    /// The configuration is one interface in the place of a kernel's: it is the host's to set up, no file rules it,
    /// and the run ends when it is deleted.
    pub lone: Option<Lone>,
}

/// What a lone interface is given.
#[derive(Debug)]
pub struct Lone {
    /// Where `wg` finds its tunnel.
    pub socket: Socket,
    /// The interface, if it was handed over; else it is made.
    pub tun: Option<Tun>,
}

/// Runs a configuration on the calling thread until [`Request::Drain`] arrives.
///
/// # Errors
///
/// When something that the configuration names can't be had.
pub fn run(config: Config, surroundings: Surroundings<'_>) -> Result<(), EngineError> {
    let Surroundings {
        run_dir,
        requester,
        requests,
        notify,
        ready,
        lone,
    } = surroundings;
    let mut engine = Engine::start(config, run_dir, requester, lone)?;
    ready();
    notify.ready();
    let result = engine.serve(&requests, notify);
    engine.stop();
    result
}

/// Everything that the control core owns.
struct Engine {
    config: Config,
    /// What the file said when it was last applied: what differs from it is drift.
    ruled: Option<Config>,
    run_dir: PathBuf,
    /// Serves `wg`.
    server: Server,
    /// One interface in the place of a kernel's.
    lone: bool,
    /// That interface, if it was handed over.
    lone_tun: Option<Arc<Tun>>,
    /// Where `wg` finds its tunnel.
    lone_socket: Option<Served>,
    generation: u64,
    started: Instant,
    snapshots: Arc<SnapshotCell>,
    /// Old snapshots that some worker may still hold.
    retired: Vec<Arc<Snapshot>>,
    attention: Arc<Attention>,
    workers: Workers,
    uplinks: Slots<UplinkState>,
    tunnels: Slots<TunnelState>,
    peers: Slots<PeerState>,
    outdated: OutdatedPaths,
    /// Places of removed peers that workers may still know.
    leaving: Vec<usize>,
    ports: Slots<PortState>,
    ears: Ears,
    news: Receiver<PortNews>,
    /// The kernel's news of interfaces.
    links: Option<LinkWatch>,
    routes: Option<RouteWatch>,
    endpoints: Endpoints,
    /// Peers whose first handshake is due.
    greetings: VecDeque<(Instant, usize)>,
    /// Handshake messages whose next hop is not known yet.
    unrouted: VecDeque<(Instant, usize, Transmit)>,
    wishes: Vec<Wish>,
    meters: report::Meters,
    chores_due: Instant,
}

impl Engine {
    /// Opens everything, in the order of dependence; the first thing that can't be had
    /// ends it, and what was opened before closes itself.
    fn start(
        config: Config,
        run_dir: Option<&RunDir>,
        requester: Requester,
        lone: Option<Lone>,
    ) -> Result<Self, EngineError> {
        let now = clock::now();
        let is_lone = lone.is_some();
        let (lone_socket, lone_tun) = lone.map_or((None, None), |lone| {
            (Some(lone.socket), lone.tun.map(Arc::new))
        });
        let server = Server::start(requester)
            .map_err(|error| EngineError::start("can't start a thread for `wg`", &error))?;
        let attention = Attention::new()
            .map(Arc::new)
            .map_err(|error| EngineError::start("can't make a doorbell", &error))?;
        let snapshots = Arc::new(SnapshotCell::from_pointee(Snapshot::default()));
        let dpdk = Dpdk::start(&config)?;
        workers::pin(config.cores.control);
        let workers = Workers::start(&config.cores, &snapshots, &attention, &dpdk.thread_setup())?;
        let (sender, news) = sync_channel(NEWS_MAX);
        let ears = Ears {
            news: sender,
            attention: Arc::clone(&attention),
            doorbells: workers.doorbells(),
        };
        let meters = report::Meters::new(workers.count());
        let mut engine = Self {
            ruled: (!is_lone).then(|| config.clone()),
            run_dir: run_dir.map_or_else(PathBuf::new, |run_dir| run_dir.path().to_owned()),
            server,
            lone: is_lone,
            lone_tun,
            lone_socket: None,
            generation: 0,
            started: now.monotonic,
            snapshots,
            retired: Vec::new(),
            attention,
            workers,
            uplinks: Slots::default(),
            tunnels: Slots::default(),
            peers: Slots::default(),
            outdated: OutdatedPaths::default(),
            leaving: Vec::new(),
            ports: Slots::default(),
            ears,
            news,
            // Listens before the first interface is made: nothing is missed.
            links: interfaces::watch(),
            routes: RouteWatch::open().ok(),
            endpoints: Endpoints::open(run_dir.map(RunDir::path)),
            greetings: VecDeque::new(),
            unrouted: VecDeque::new(),
            wishes: Vec::new(),
            meters,
            chores_due: now.monotonic,
            config: Config {
                uplinks: Vec::new(),
                tunnels: Vec::new(),
                networks: Vec::new(),
                ports: Vec::new(),
                ..config.clone()
            },
        };
        let opened = engine.open_uplinks(&config, &dpdk, now);
        let opened = opened.and_then(|()| {
            engine
                .change(config, &Manner::default(), now)
                .map(drop)
                .map_err(|error| EngineError::Start(error.to_string()))
        });
        let opened = opened.and_then(|()| engine.serve_lone(lone_socket));
        match opened {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.stop();
                Err(error)
            }
        }
    }

    fn open_uplinks(&mut self, config: &Config, dpdk: &Dpdk, now: Now) -> Result<(), EngineError> {
        for uplink in &config.uplinks {
            let index = UplinkIndex::from_slot(self.uplinks.next());
            let count = self.workers.count();
            let (state, queues) =
                UplinkState::open(uplink.clone(), index, count, dpdk, now.monotonic)?;
            self.uplinks.insert(state);
            self.attach(&uplink.queue_workers.clone(), queues);
        }
        Ok(())
    }

    /// Ends everything: workers first, then what they worked on.
    fn stop(&mut self) {
        self.workers.stop();
        self.snapshots.store(Arc::new(Snapshot::default()));
        self.retired.clear();
        for (_, tunnel) in self.tunnels.iter_mut() {
            tunnel.device.bring_down();
        }
        for (_, tunnel) in self.tunnels.iter_mut() {
            tunnel.served = None;
        }
        self.note_endpoints();
        self.endpoints.save();
        self.ports = Slots::default();
        for (_, uplink) in self.uplinks.iter_mut() {
            uplink.close();
        }
        self.tunnels = Slots::default();
        // Last: who waits for this name finds the interface's and the UDP port free.
        self.lone_socket = None;
    }

    /// Works until it is asked to end.
    fn serve(&mut self, requests: &Requests, notify: &Notify) -> Result<(), EngineError> {
        let watchdog = notify.watchdog();
        let mut alive = Instant::default();
        loop {
            // What is rung from here on ends the sleep below at once.
            self.attention.wake().announce();
            let now = clock::now();
            while let Some(request) = requests.try_next() {
                match request {
                    Request::State { reply } => reply.send(Box::new(self.report(now))),
                    Request::Apply { config, reply } => reply.send(self.apply(*config, now)),
                    Request::Uapi { tunnel, ask, reply } => reply.send(self.ask(&tunnel, ask, now)),
                    Request::Drain => {
                        tracing::info!("draining");
                        return Ok(());
                    }
                }
            }
            let more = self.round(now)?;
            if self.lone && self.ports.iter().any(|(_, port)| port.is_gone()) {
                tracing::info!("the interface was deleted");
                return Ok(());
            }
            if let Some(interval) = watchdog
                && now.monotonic.since(alive) >= interval
            {
                notify.alive();
                alive = now.monotonic;
            }
            if !more {
                self.sleep(requests, now.monotonic);
            }
            self.attention.wake().awake();
        }
    }

    fn sleep(&self, requests: &Requests, now: Instant) {
        let timeout = self
            .next_deadline()
            .map_or(ROUND, |due| due.since(now).min(ROUND));
        let mut polled = vec![
            PollFd::new(self.attention.wake(), PollFlags::IN),
            PollFd::from_borrowed_fd(requests.as_fd(), PollFlags::IN),
        ];
        polled.extend(
            self.links
                .iter()
                .map(|links| PollFd::new(links, PollFlags::IN)),
        );
        // An interrupted or failed poll is an early end of the sleep.
        let _ = poll(&mut polled, Timespec::try_from(timeout).ok().as_ref());
    }

    fn next_deadline(&self) -> Option<Instant> {
        let tunnels = self
            .tunnels
            .iter()
            .filter_map(|(_, tunnel)| tunnel.device.poll_timeout());
        let hosts = self
            .uplinks
            .iter()
            .filter_map(|(_, uplink)| uplink.host_ref()?.poll_timeout());
        let greeting = self.greetings.front().map(|&(due, _)| due);
        tunnels.chain(hosts).chain(greeting).min()
    }

    /// One round; whether there is more to do at once.
    fn round(&mut self, now: Now) -> Result<bool, EngineError> {
        while let Ok((name, event)) = self.news.try_recv() {
            if let Some((slot, port)) = self.ports.iter_mut().find(|(_, p)| p.config.name == name)
                && port.heard(event, now.monotonic)
            {
                // A worker that is too far behind loses it; the VMM repeats its request.
                let command = Command::Announce(PortIndex::from_slot(slot));
                self.workers.send(0, command);
            }
        }
        self.take_links(now);
        let more = self.take_handshakes(now) | self.take_frames(now.monotonic);
        self.take_signals(now);
        self.pass_deadlines(now);
        self.drain_tunnels(now);
        // Neighbors make paths, and paths ask for neighbors.
        self.drain_hosts(now);
        self.rebuild_paths(now.monotonic);
        self.drain_hosts(now);
        if now.monotonic >= self.chores_due {
            self.chores_due = now.monotonic + CHORES;
            self.chores(now.monotonic)?;
        }
        Ok(more)
    }

    /// What has become of interfaces. An MTU that the host gave to the interface of a
    /// plain network is its tunnel's from then on.
    fn take_links(&mut self, now: Now) {
        let mut follow = false;
        let mut switched = Vec::new();
        while let Some(news) = self.links.as_mut().and_then(LinkWatch::next_news) {
            for (_, port) in self.ports.iter_mut() {
                let was_up = port.link_up;
                let events = port.interface.as_mut().map(|at| at.hears(&news, was_up));
                for event in events.into_iter().flatten() {
                    if event == InterfaceEvent::Deleted && self.lone {
                        // It was to end so.
                        continue;
                    }
                    port.heard_interface(event);
                    match event {
                        InterfaceEvent::Mtu(_) => follow = true,
                        // Where its news don't come from, it may be up.
                        InterfaceEvent::Up | InterfaceEvent::Moved => {
                            switched.push((port.config.network.clone(), true));
                        }
                        InterfaceEvent::Down => {
                            switched.push((port.config.network.clone(), false));
                        }
                        InterfaceEvent::Deleted => {}
                    }
                }
            }
        }
        for (network, up) in switched {
            self.switch(&network, up, now);
        }
        if follow {
            self.publish();
        }
    }

    /// The tunnel of a plain network rests while its interface is down, as the kernel's do.
    fn switch(&mut self, network: &Name, up: bool, now: Now) {
        let network = self.config.network(network).filter(|n| n.is_plain());
        let tunnel = network.and_then(|network| network.tunnel.as_ref());
        let slot = tunnel.and_then(|name| self.tunnel_slot(name));
        if let Some(tunnel) = slot.and_then(|slot| self.tunnels.get_mut(slot)) {
            if up {
                tunnel.device.bring_up(now);
            } else {
                tunnel.device.bring_down();
            }
        }
    }

    /// Makes the tunnel of a lone interface one that `wg` finds, and that rests until the interface is up.
    fn serve_lone(&mut self, socket: Option<Socket>) -> Result<(), EngineError> {
        let Some(socket) = socket else {
            return Ok(());
        };
        let down = self.ports.iter().any(|(_, port)| !port.link_up);
        let Some((_, tunnel)) = self.tunnels.iter_mut().next() else {
            return Ok(());
        };
        if down {
            tunnel.device.bring_down();
        }
        let served = self.server.serve(socket, tunnel.name.clone());
        self.lone_socket = Some(
            served
                .map_err(|error| EngineError::start("can't serve the socket for `wg`", &error))?,
        );
        Ok(())
    }

    fn take_handshakes(&mut self, now: Now) -> bool {
        let mut left = HANDSHAKES_PER_ROUND;
        let mut backlog: usize = self
            .workers
            .0
            .iter()
            .map(|worker| worker.link.handshakes.slots())
            .sum();
        if backlog == 0 {
            return false;
        }
        // What waits in front of the workers counts, too.
        let crowded = self.uplinks.iter().fold(false, |any, (_, uplink)| {
            any | uplink.counters.crowded.swap(false, Ordering::Relaxed)
        });
        let crowd = if crowded { UNDER_LOAD_BACKLOG } else { 0 };
        for worker in &mut self.workers.0 {
            while left > 0
                && let Ok(punt) = worker.link.handshakes.pop()
            {
                left -= 1;
                backlog = backlog.saturating_sub(1);
                if let Some(tunnel) = self.tunnels.get_mut(punt.tunnel.slot()) {
                    let message = punt.message.as_slice();
                    let (source, local) = (punt.source, punt.local);
                    let waiting = backlog.max(crowd);
                    tunnel.handshake(message, source, local, waiting, &mut self.peers, now);
                }
            }
        }
        backlog > 0
    }

    fn take_frames(&mut self, now: Instant) -> bool {
        let mut left = FRAMES_PER_ROUND;
        for worker in &mut self.workers.0 {
            while left > 0
                && let Ok(punt) = worker.link.host.pop()
            {
                left -= 1;
                let uplink = self.uplinks.get_mut(punt.uplink.slot());
                if let Some(host) = uplink.and_then(UplinkState::host) {
                    host.handle_frame(punt.frame.as_slice(), now);
                }
            }
        }
        left == 0
    }

    /// What workers noticed about peers.
    fn take_signals(&mut self, now: Now) {
        let Self {
            attention,
            peers,
            tunnels,
            ..
        } = self;
        attention.sweep(|index| {
            let Some(peer) = peers.get_mut(index.slot()) else {
                return;
            };
            let bits = peer.cell.take_signals();
            if bits & signal::DATA_SENT != 0 && now.monotonic.since(peer.refreshed) >= REFRESH {
                peer.outdate_path();
            }
            if let Some(tunnel) = tunnels.get_mut(peer.tunnel) {
                tunnel.signals(peer, bits, now);
            }
        });
    }

    fn pass_deadlines(&mut self, now: Now) {
        while let Some(&(due, peer)) = self.greetings.front()
            && due <= now.monotonic
        {
            self.greetings.pop_front();
            let peer = self.peers.get(peer).map(|peer| (peer.tunnel, peer.cell.id));
            if let Some((tunnel, id)) = peer
                && let Some(tunnel) = self.tunnels.get_mut(tunnel)
            {
                tunnel.device.initiate(id, now);
            }
        }
        for (_, tunnel) in self.tunnels.iter_mut() {
            if tunnel
                .device
                .poll_timeout()
                .is_some_and(|due| due <= now.monotonic)
            {
                tunnel.device.handle_timeout(now);
            }
        }
        for (_, uplink) in self.uplinks.iter_mut() {
            if let Some(host) = uplink.host()
                && host.poll_timeout().is_some_and(|due| due <= now.monotonic)
            {
                host.handle_timeout(now.monotonic);
            }
        }
    }

    /// Carries out what the protocol wants.
    fn drain_tunnels(&mut self, now: Now) {
        let mut wishes = std::mem::take(&mut self.wishes);
        for slot in 0..self.tunnels.places() {
            let Some(tunnel) = self.tunnels.get_mut(slot) else {
                continue;
            };
            tunnel.drain(&mut self.peers, &mut wishes);
            for wish in wishes.drain(..) {
                match wish {
                    Wish::Transmit(message) => self.transmit(slot, message, now.monotonic),
                    Wish::Keepalive(slot) => {
                        let peer = PeerIndex::from_slot(slot);
                        let waits = |peer: &PeerState| peer.cell.staged.load(Ordering::Relaxed);
                        if self.peers.get(slot).is_some_and(|peer| waits(peer) > 0) {
                            // What waits confirms the key as well.
                            self.tell_all(|| Command::FlushStaged(peer));
                        } else {
                            self.workers.send(0, Command::Keepalive(peer));
                        }
                    }
                    Wish::Flush(peer) => {
                        self.tell_all(|| Command::FlushStaged(PeerIndex::from_slot(peer)));
                    }
                    Wish::DropStaged(peer) => {
                        self.tell_all(|| Command::DropStaged(PeerIndex::from_slot(peer)));
                    }
                    // Before the messages behind it: they go along the new path.
                    Wish::Path(peer) => self.rebuild_path(peer, now.monotonic),
                }
            }
        }
        self.wishes = wishes;
    }

    /// Gives every worker a command; `false` if one of them was too far behind for it.
    fn tell_all(&mut self, command: impl Fn() -> Command) -> bool {
        let mut all = true;
        for worker in 0..self.workers.count() {
            all &= self.workers.send(worker, command());
        }
        all
    }

    /// Sends a handshake message, or keeps it until its next hop is known.
    fn transmit(&mut self, slot: usize, message: Transmit, now: Instant) {
        let Some(tunnel) = self.tunnels.get(slot) else {
            return;
        };
        let peer = message.peer.and_then(|id| tunnel.peers.get(&id).copied());
        let local = peer.and_then(|peer| self.peers.get(peer)?.local);
        let uplink_slot = tunnel.uplink;
        let Some(uplink) = self.uplinks.get_mut(uplink_slot) else {
            return;
        };
        let port = tunnel.config.listen_port;
        let path = uplink.path(message.to, local, port, now);
        if path.link == Link::Unresolved {
            if self.unrouted.len() == UNROUTED_MAX {
                self.unrouted.pop_front();
            }
            self.unrouted
                .push_back((now + UNROUTED_LIFE, slot, message));
            return;
        }
        let Some(inline) = Inline::new(message.bytes()) else {
            return;
        };
        if let Some(peer) = peer.and_then(|peer| self.peers.get(peer)) {
            peer.cell.traffic.sent(1, message.bytes().len() as u64);
        }
        let worker = peer.unwrap_or(0) % self.workers.count();
        let command = Command::Handshake {
            tunnel: TunnelIndex::from_slot(slot),
            path: Arc::new(path),
            message: inline,
        };
        if !self.workers.send(worker, command)
            && let Some(uplink) = self.uplinks.get(uplink_slot)
        {
            uplink.counters.drops.add(DropReason::CommandQueueFull, 1);
        }
    }

    /// Sends what the host stacks made; neighbors that changed change paths.
    fn drain_hosts(&mut self, now: Now) {
        let mut resolved = false;
        for slot in 0..self.uplinks.places() {
            let Some(host) = self.uplinks.get_mut(slot).and_then(UplinkState::host) else {
                continue;
            };
            while let Some(frame) = host.poll_frame() {
                let uplink = UplinkIndex::from_slot(slot);
                let frame = frame.into_boxed_slice();
                self.workers.send(0, Command::Frame { uplink, frame });
            }
            let mut changed = Vec::new();
            while let Some(culvert_dataplane::host::HostEvent::Neighbor { address }) =
                host.poll_event()
            {
                changed.push(address);
            }
            if changed.is_empty() {
                continue;
            }
            resolved = true;
            for (_, peer) in self.peers.iter_mut() {
                let tunnel = self.tunnels.get(peer.tunnel).filter(|t| t.uplink == slot);
                let endpoint = tunnel.and_then(|t| t.device.peer(peer.cell.id)?.endpoint);
                let next_hop = endpoint.and_then(|endpoint| host.next_hop(endpoint.ip()));
                if next_hop.is_some_and(|hop| changed.contains(&hop)) {
                    peer.outdate_path();
                }
            }
        }
        if resolved
            || self
                .unrouted
                .front()
                .is_some_and(|&(due, ..)| due <= now.monotonic)
        {
            for (due, tunnel, message) in std::mem::take(&mut self.unrouted) {
                if due > now.monotonic {
                    self.transmit(tunnel, message, now.monotonic);
                }
            }
        }
    }

    fn rebuild_paths(&mut self, now: Instant) {
        for slot in self.outdated.take() {
            self.rebuild_path(slot, now);
        }
    }

    /// Publishes the way to a peer's present endpoint.
    fn rebuild_path(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.renew_path(now);
        let Some(tunnel) = self.tunnels.get(peer.tunnel) else {
            return;
        };
        let Some(uplink) = self.uplinks.get_mut(tunnel.uplink) else {
            return;
        };
        let endpoint = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        let port = tunnel.config.listen_port;
        let path = endpoint.map(|endpoint| uplink.path(endpoint, peer.local, port, now));
        if peer.cell.path().as_deref() != path.as_ref() {
            peer.cell.publish_path(path);
        }
    }

    /// What has time.
    fn chores(&mut self, now: Instant) -> Result<(), EngineError> {
        if let Some(worker) = self.workers.dead() {
            return Err(EngineError::WorkerDied(worker));
        }
        for (_, uplink) in self.uplinks.iter_mut() {
            uplink.watch_link();
        }
        self.retired
            .retain(|snapshot| Arc::strong_count(snapshot) > 1);
        if self.routes.as_mut().is_some_and(RouteWatch::changed) {
            self.forget_sources();
        }
        self.note_endpoints();
        self.endpoints.save();
        self.meters.read(&self.workers, now);
        Ok(())
    }

    /// Lets the kernel choose again from which of its addresses peers are written to:
    /// another route may be the better one now.
    fn forget_sources(&mut self) {
        for (_, peer) in self.peers.iter_mut() {
            let uplink = self.tunnels.get(peer.tunnel).map(|tunnel| tunnel.uplink);
            let uplink = uplink.and_then(|uplink| self.uplinks.get(uplink));
            if uplink.is_some_and(|uplink| uplink.host_ref().is_none())
                && peer.local.take().is_some()
            {
                peer.outdate_path();
            }
        }
    }

    fn note_endpoints(&mut self) {
        for (_, peer) in self.peers.iter_mut() {
            let Some(tunnel) = self.tunnels.get(peer.tunnel) else {
                continue;
            };
            let status = tunnel.device.peer(peer.cell.id);
            let Some(endpoint) = status.and_then(|status| status.endpoint) else {
                continue;
            };
            if peer.noted.replace(endpoint) != Some(endpoint) {
                let key = endpoint_key(&tunnel.name, &peer.config);
                let configured = peer.configured_endpoint();
                self.endpoints.note(key, configured, endpoint);
            }
        }
    }

    /// Where a configured peer is thought to be: where it was last, unless the
    /// configuration has changed since, or where the configuration says.
    fn first_endpoint(&self, tunnel: &Name, peer: &crate::config::Peer) -> Option<SocketAddr> {
        let configured = peer.endpoint.as_ref().map(ToString::to_string);
        let last = self
            .endpoints
            .last(&endpoint_key(tunnel, peer), configured.as_deref());
        last.or_else(|| match &peer.endpoint {
            Some(Endpoint::Address(address)) => Some(*address),
            Some(Endpoint::Host { name, port }) => resolve(tunnel, &peer.name, name, *port),
            None => None,
        })
    }

    fn tunnel_slot(&self, name: &Name) -> Option<usize> {
        self.tunnels
            .iter()
            .find(|(_, tunnel)| &tunnel.name == name)
            .map(|(slot, _)| slot)
    }
}

fn endpoint_key(tunnel: &Name, peer: &crate::config::Peer) -> String {
    format!("{tunnel}/{}", peer.public_key.to_base64())
}

/// Asks the system's resolver; a name that it doesn't know leaves the peer to call us.
fn resolve(tunnel: &Name, peer: &Name, name: &str, port: u16) -> Option<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    match (name, port).to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => Some(address),
        Ok(None) | Err(_) => {
            tracing::warn!(%tunnel, %peer, name, "can't resolve the endpoint's name: the peer has to call first");
            None
        }
    }
}
