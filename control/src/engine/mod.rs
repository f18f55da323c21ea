//! The control core: drives tunnels, ports, uplinks and workers.
//!
//! In: a checked configuration, requests, what workers and ports tell. Out: snapshots,
//! commands to workers, handshake messages, answers. Never: an mbuf, a vring or a
//! device's queue: workers touch those.
//!
//! One thread. Each round of [`Engine::serve`], in order: requests, news of ports,
//! handshakes that workers punted, signals of peers, deadlines; then it
//! sleeps on its doorbell, the requests' descriptor and the next deadline. Requests and handshakes
//! get a fixed share of a round each, so a flood of one lets nothing else wait for long.
//!
//! Rooms: [`start`] how it begins and ends, [`round`] what a round does, [`paths`] the ways out, [`hops`] what they
//! share, [`heard`] what others say of what left by them, [`failover`] which of several uplinks, [`health`] how far
//! that is relied on, [`tunnels`] the protocol, [`peers`] whom it concerns, [`uplinks`] devices and next hops,
//! [`exceptions`] those that the kernel shares, [`ports`] guests, [`interfaces`] the kernel's side of tun ports,
//! [`networks`] and their routes, [`workers`] threads, [`due`] which tunnels are to be driven, [`table`] what changed,
//! [`compile`] snapshots of it, [`apply`] plans carried out, [`uapi`] what `wg` asks, [`parking`] what comes back if it
//! is not confirmed, [`layer`] what the API layer does to single objects, [`report`] what readers are told, [`places`]
//! where peers may be, [`names`] what names stand for, [`resolver`] what the system says of them, [`devices`]
//! interfaces of uplinks, [`endpoints`] what survives a restart, [`keeper`] who writes that.

mod apply;
mod attachments;
mod compile;
mod devices;
mod due;
mod endpoints;
mod exceptions;
mod failover;
mod guests;
mod health;
mod heard;
mod hops;
mod interfaces;
mod keeper;
mod layer;
mod learned;
mod losses;
mod names;
mod networks;
#[cfg(feature = "dpdk")]
mod nics;
mod own;
mod parking;
mod paths;
mod peers;
mod places;
mod pmtu;
mod ports;
mod report;
mod resolver;
mod rings;
mod round;
mod slots;
mod start;
mod table;
mod tunnels;
mod uapi;
mod uplinks;
mod workers;

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    net::SocketAddr,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use culvert_dataplane::{
    guest::tun::Tun,
    shared::{
        clock,
        control_link::{Attention, Command},
        leaves::Leaves,
        limits::REQUESTS_PER_ROUND,
        peer::Peer as Cell,
        snapshot::{Snapshot, SnapshotCell},
    },
};
use culvert_directory::Listener;
use culvert_wireguard::{Budget, Instant, Now};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use self::{
    apply::{Leaving, Place},
    attachments::Attachments,
    due::Due,
    endpoints::Endpoints,
    failover::Failover,
    heard::Quotable,
    hops::Hops,
    learned::Leases,
    losses::Losses,
    names::Names,
    networks::Networks,
    parking::Parking,
    peers::{Outdated, PeerState},
    pmtu::Probing,
    ports::{DownPort, Ears, PortNews, PortState},
    rings::LeftRings,
    slots::Slots,
    table::Table,
    tunnels::{Outgoing, TunnelState, Wish},
    uplinks::{Dpdk, UplinkState},
    workers::Workers,
};
pub use self::{heard::LastError, pmtu::PathMtu};
use crate::{
    api::{Request, Requester, Requests},
    config::{Config, Endpoint, Name},
    exception::Exceptions,
    keys::PublicKey,
    netlink::{LinkWatch, RouteWatch},
    netstack::NetStack,
    plan::Layers,
    process::{self, Notify, RunDir},
    turns::Turn,
    uapi::{
        doors::Doors,
        server::{Served, Server},
    },
};

/// While there is traffic: signals that are not urgent wake nobody and are looked at that often.
const ROUND: Duration = Duration::from_millis(100);
/// Timers of the protocol are worked off together, this far apart: each has tenths of seconds to spare.
const SLACK: Duration = Duration::from_millis(100);
/// The same for handshakes that wait for their turn.
const CALLS_SLACK: Duration = Duration::from_millis(20);
/// The first handshakes with all peers are spread over at most this time.
const GREETING: Duration = Duration::from_secs(5);
/// The least time between two first handshakes.
const GREETING_STEP: Duration = Duration::from_millis(5);

/// Why the engine could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was tried, what was found, and how to mend it.
    #[error("{0}")]
    Start(String),
    /// A worker's thread ended by itself.
    #[error("worker {0} has ended unexpectedly: this is a bug; the log says where")]
    WorkerDied(usize),
    /// The host stacks' thread ended by itself.
    #[error("the host stacks' thread has ended unexpectedly: this is a bug; the log says where")]
    StackDied,
    /// The exception path's thread ended by itself.
    #[error(
        "the exception path's thread has ended unexpectedly: this is a bug; the log says where"
    )]
    ExceptionDied,
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
    pub socket: Listener,
    /// The interface, if it was handed over; else it is made.
    pub tun: Option<Tun>,
}

/// Runs a configuration on the calling thread until [`Request::Drain`] arrives.
///
/// # Errors
///
/// When something that the configuration names can't be had.
pub fn run(
    config: impl Into<Arc<Config>>,
    surroundings: Surroundings<'_>,
) -> Result<(), EngineError> {
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

/// What is left of the requests in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// None that had come.
    Nothing,
    /// Perhaps some.
    More,
    /// The process is to end.
    End,
}

/// Everything that the control core owns.
struct Engine {
    /// What shall be, by whose word: the file's, and `wg`'s over it.
    desired: Layers,
    run_dir: PathBuf,
    /// Those who ask it, to tell them what changes for them.
    requester: Requester,
    /// Serves `wg`.
    server: Server,
    /// The sockets that it serves, and under which names the tunnels were to be found last.
    doors: Doors,
    wg_names: uapi::Names,
    /// One interface in the place of a kernel's.
    lone: bool,
    /// That interface, if it was handed over.
    lone_tun: Option<Arc<Tun>>,
    /// Where `wg` finds its tunnel.
    lone_socket: Option<Served>,
    generation: u64,
    started: Now,
    snapshots: Arc<SnapshotCell>,
    /// Old snapshots that some worker may still hold.
    retired: Vec<Arc<Snapshot>>,
    attention: Arc<Attention>,
    workers: Workers,
    /// Whose handshakes are next.
    turn: Turn,
    dpdk: Dpdk,
    uplinks: Table<UplinkState>,
    /// Host stacks, on a thread of their own.
    netstack: NetStack,
    /// Uplinks that the host's kernel shares.
    exceptions: Exceptions,
    /// Leases that outlive the process.
    leases: Leases,
    hops: Hops,
    /// Whose datagrams an error may quote.
    quotable: Quotable,
    /// Places of uplinks that had a stack, and the generation by which its thread has done with it.
    leaving_uplinks: VecDeque<(u64, usize)>,
    tunnels: Table<TunnelState>,
    networks: Networks,
    /// What ports' guests are attached with.
    attachments: Attachments,
    peers: Slots<PeerState>,
    outdated: Outdated,
    /// Peers as snapshots have them.
    cells: Leaves<Arc<Cell>>,
    /// Removed peers whose places workers may still know.
    leaving: VecDeque<Leaving>,
    parking: Parking,
    ports: Table<PortState>,
    /// Which of them has which socket or interface.
    port_places: HashMap<Place, usize>,
    /// Ports that can't be opened at present: they are tried again.
    down: Vec<DownPort>,
    /// Files of rings whose ports are gone.
    left_rings: LeftRings,
    ears: Ears,
    news: Receiver<PortNews>,
    /// The kernel's news of interfaces.
    links: Option<LinkWatch>,
    routes: Option<RouteWatch>,
    endpoints: Endpoints,
    names: Names,
    /// How many handshakes may be begun.
    budget: Budget,
    due: Due,
    probing: Probing,
    failover: Failover,
    /// The tunnel whose peers were called first in the last round.
    last_caller: usize,
    /// Peers whose first handshake is due.
    greetings: VecDeque<(Instant, Arc<Cell>)>,
    /// Handshake messages whose next hop is not known yet.
    unrouted: VecDeque<(Instant, usize, Outgoing)>,
    wishes: Vec<Wish>,
    meters: report::Meters,
    losses: Losses,
    chores_due: Instant,
    /// The last sweep found no signals, and whoever raises one rings.
    is_calm: bool,
    /// Rounds so far.
    rounds: u64,
}

impl Engine {
    /// Works until it is asked to end.
    fn serve(&mut self, requests: &Requests, notify: &Notify) -> Result<(), EngineError> {
        let watchdog = notify.watchdog();
        let mut alive = Instant::default();
        loop {
            // What is rung from here on ends the sleep below at once.
            self.attention.wake().announce();
            let (now, spent) = (clock::now(), clock::spent());
            let asked = match self.take_requests(requests, now) {
                Asked::Nothing => false,
                Asked::More => true,
                Asked::End => return Ok(()),
            };
            let more = self.round(clock::now())? || asked;
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
            let worked = clock::monotonic().since(now.monotonic);
            self.meters.worked(worked, clock::spent() - spent);
            if !more {
                self.note_due();
                self.sleep(requests, now.monotonic);
            }
            self.attention.wake().awake();
        }
    }

    /// Answers what is asked, as long as the requests' share of a round lasts; one at least.
    fn take_requests(&mut self, requests: &Requests, begin: Now) -> Asked {
        let mut now = begin;
        while let Some(request) = requests.try_next() {
            match request {
                Request::Look(look) => self.look(look, now.monotonic),
                Request::Desired { reply } => reply.send(self.desired.clone()),
                Request::Apply {
                    proposal,
                    on_trial,
                    reply,
                } => reply.send(self.apply(*proposal, on_trial, now)),
                Request::Call { tunnel, key } => self.renew(&tunnel, &key, now),
                Request::Confirmed { reply } => {
                    self.wipe_parked();
                    reply.send(());
                }
                Request::Layer { step, reply } => reply.send(self.lay(*step, now)),
                Request::Uapi { tunnel, ask, reply } => reply.send(self.ask(&tunnel, ask, now)),
                Request::Drain => {
                    tracing::info!("draining");
                    process::step("draining");
                    return Asked::End;
                }
            }
            now = clock::now();
            if now.monotonic.since(begin.monotonic) >= REQUESTS_PER_ROUND {
                return Asked::More;
            }
        }
        Asked::Nothing
    }

    fn sleep(&self, requests: &Requests, now: Instant) {
        let timeout = self.wakes_at(now).since(now);
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

    /// When there is something to do, unless somebody rings earlier.
    fn wakes_at(&self, now: Instant) -> Instant {
        let tunnels = self.due.first().into_iter();
        let callers = self.due.callers();
        let callers = callers.filter_map(|slot| self.tunnels.get(slot));
        let calls = callers.filter_map(|tunnel| tunnel.device.poll_calls(&self.budget));
        let greeting = self.greetings.front().map(|(due, _)| *due);
        let unrouted = self.unrouted.front().map(|&(due, ..)| due);
        let names = self.names.poll_timeout();
        let probes = self.probing.poll_timeout();
        let looks = !self.is_calm;
        let exact = unrouted.into_iter().chain(names);
        let calls = calls.chain(greeting).map(|due| coarse(due, CALLS_SLACK));
        tunnels
            .chain(probes)
            .map(|due| coarse(due, SLACK))
            .chain(calls)
            .chain(exact)
            .chain(looks.then(|| now + ROUND))
            .fold(self.chores_due.min(self.losses.due), Instant::min)
    }

    /// Gives every worker a command; `false` if one of them was too far behind for it.
    fn tell_all(&mut self, command: impl Fn() -> Command) -> bool {
        let mut all = true;
        for worker in 0..self.workers.count() {
            all &= self.workers.send(worker, command());
        }
        all
    }

    /// Gives every worker a command that must not be lost; answers which failed to take it, and what that means.
    fn insist_all(&mut self, lost: &str, command: impl Fn() -> Command) -> Vec<String> {
        let workers = 0..self.workers.count();
        workers
            .filter_map(|worker| self.insist(worker, lost, command()))
            .collect()
    }

    /// The same for one worker.
    fn insist(&mut self, worker: usize, lost: &str, command: Command) -> Option<String> {
        let taken = self.workers.insist(worker, command);
        let failure = || format!("worker {worker} takes no commands, so {lost}: restart culvert");
        (!taken).then(failure)
    }

    /// Where a configured peer is thought to be at first: where it was last, unless the configuration has changed
    /// since, or where the configuration says. Other places are called in turn, and what names stand for is found
    /// out meanwhile.
    fn first_endpoint(&self, tunnel: &Name, peer: &crate::config::Peer) -> Option<SocketAddr> {
        let configured = peer.endpoint.as_ref().map(ToString::to_string);
        let last = self
            .endpoints
            .before(&endpoint_key(tunnel, peer), configured.as_deref());
        last.or(match &peer.endpoint {
            Some(Endpoint::Address(address)) => Some(*address),
            Some(Endpoint::Host { .. }) | None => None,
        })
    }

    fn tunnel_slot(&self, name: &Name) -> Option<usize> {
        self.tunnels.place(name)
    }

    fn peer_place(&self, tunnel: &Name, key: &PublicKey) -> Option<usize> {
        self.tunnels.get(self.tunnel_slot(tunnel)?)?.place(key)
    }
}

/// The next instant on a grid, so that what is due about the same time is done at once.
fn coarse(due: Instant, step: Duration) -> Instant {
    let step = u64::try_from(step.as_nanos()).unwrap_or(1);
    Instant::from_nanos(due.as_nanos().div_ceil(step).saturating_mul(step))
}

fn endpoint_key(tunnel: &Name, peer: &crate::config::Peer) -> String {
    format!("{tunnel}/{}", peer.public_key.to_base64())
}

#[cfg(test)]
mod tests;
