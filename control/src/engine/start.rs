//! How the control core begins, and how it ends.
//!
//! In: a checked configuration and what the process lends. Out: an [`Engine`] with everything open, or the first thing
//! that can't be had and nothing left open. Never: a round.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

use culvert_dataplane::shared::{
    clock,
    control_link::Attention,
    leaves::Leaves,
    snapshot::{Snapshot, SnapshotCell},
};
use culvert_directory::Listener;
use culvert_wireguard::{Budget, Now};

use super::{
    Engine, EngineError, Lone,
    apply::Goal,
    attachments::Attachments,
    due::Due,
    endpoints::Endpoints,
    hops::Hops,
    interfaces,
    learned::Leases,
    losses::Losses,
    names::Names,
    networks::Networks,
    parking::Parking,
    peers::Outdated,
    ports::Ears,
    report,
    rings::LeftRings,
    slots::Slots,
    table::Table,
    uapi,
    uplinks::Dpdk,
    workers::{self, Workers},
};
use crate::{
    api::Requester,
    config::Config,
    netlink::RouteWatch,
    netstack::NetStack,
    plan::{Layers, Proposal},
    process::RunDir,
    turns::Turn,
    uapi::{doors, server::Server},
};

/// How long the sockets for `wg` may take to be removed.
const CLOSED: Duration = Duration::from_secs(2);
/// News of ports that may wait.
const NEWS_MAX: usize = 1_024;

impl Engine {
    /// Opens everything, in the order of dependence; the first thing that can't be had
    /// ends it, and what was opened before closes itself.
    pub(super) fn start(
        config: impl Into<Arc<Config>>,
        run_dir: Option<&RunDir>,
        requester: Requester,
        lone: Option<Lone>,
    ) -> Result<Self, EngineError> {
        let config = config.into();
        let now = clock::now();
        let is_lone = lone.is_some();
        let (lone_socket, lone_tun) = lone.map_or((None, None), |lone| {
            (Some(lone.socket), lone.tun.map(Arc::new))
        });
        let laid = requester.desk().laid();
        let server = Server::start(requester.clone())
            .map_err(|error| EngineError::start("can't start a thread for `wg`", &error))?;
        let attention = Attention::new()
            .map(Arc::new)
            .map_err(|error| EngineError::start("can't make a doorbell", &error))?;
        let snapshots = Arc::new(SnapshotCell::from_pointee(Snapshot::default()));
        // Their threads are no guests on the control core's processor.
        let endpoints = Endpoints::open(run_dir.map(RunDir::directory));
        let leases = Leases::open(requester.state_dir());
        let (netstack, links) =
            NetStack::start(Arc::clone(&attention), requester.arrivals().clone()).map_err(
                |error| EngineError::start("can't start a thread for host stacks", &error),
            )?;
        workers::pin(config.cores.control);
        let (workers, ends) =
            Workers::start(&config.cores, &snapshots, &attention, netstack.wake())?;
        // It waits for them.
        let _ = links.send(ends);
        let (sender, news) = sync_channel(NEWS_MAX);
        let ears = Ears {
            news: sender,
            attention: Arc::clone(&attention),
            doorbells: workers.doorbells(),
        };
        let bell = Arc::clone(&attention);
        let meters = report::Meters::new(workers.count(), now.monotonic);
        let names = Names::new(&attention);
        let mut engine = Self {
            desired: Layers::new(Arc::new(Config {
                uplinks: Vec::new(),
                tunnels: Vec::new(),
                networks: Vec::new(),
                ports: Vec::new(),
                ..Config::clone(&config)
            })),
            run_dir: run_dir.map_or_else(PathBuf::new, |run_dir| run_dir.path().to_owned()),
            doors: server.doors(move || bell.wake().notify()),
            wg_names: uapi::Names::new(),
            server,
            requester,
            lone: is_lone,
            lone_tun,
            lone_socket: None,
            generation: 0,
            started: now,
            snapshots,
            retired: Vec::new(),
            attention,
            workers,
            dpdk: Dpdk::default(),
            uplinks: Table::default(),
            netstack,
            exceptions: Default::default(),
            leases,
            hops: Hops::default(),
            quotable: Default::default(),
            leaving_uplinks: VecDeque::new(),
            turn: Turn::default(),
            tunnels: Table::default(),
            networks: Networks::default(),
            attachments: Attachments::default(),
            peers: Slots::default(),
            outdated: Outdated::default(),
            cells: Leaves::default(),
            leaving: VecDeque::new(),
            parking: Parking::default(),
            ports: Table::default(),
            port_places: HashMap::new(),
            down: Vec::new(),
            left_rings: LeftRings::default(),
            ears,
            news,
            // Listens before the first interface is made: nothing is missed.
            links: interfaces::watch(),
            routes: RouteWatch::open().ok(),
            endpoints,
            names,
            budget: Budget::default(),
            due: Due::default(),
            probing: Default::default(),
            failover: Default::default(),
            last_caller: 0,
            greetings: VecDeque::new(),
            unrouted: VecDeque::new(),
            wishes: Vec::new(),
            meters,
            losses: Losses::default(),
            chores_due: now.monotonic,
            is_calm: false,
            rounds: 0,
        };
        let opened = engine.open(config, now);
        if opened.is_ok() {
            engine.lay_all(&laid, now);
        }
        let opened = opened.and_then(|()| engine.serve_lone(lone_socket));
        match opened {
            Ok(()) => {
                if run_dir.is_some() {
                    engine.sweep_left();
                }
                Ok(engine)
            }
            Err(error) => {
                engine.stop();
                Err(error)
            }
        }
    }

    /// From nothing to the first configuration.
    fn open(&mut self, config: Arc<Config>, now: Now) -> Result<(), EngineError> {
        doors::check_names(self.desired.file(), &config).map_err(EngineError::Start)?;
        let proposal = Proposal::new(self.desired.clone(), config);
        let goal = proposal.goal().clone();
        let plan = proposal.changes(&self.desired);
        self.carry_out(plan, Goal::File(goal), now)
            .map(drop)
            .map_err(|error| EngineError::Start(error.to_string()))
    }

    /// Makes the tunnel of a lone interface one that `wg` finds, and that rests until the interface is up.
    fn serve_lone(&mut self, socket: Option<Listener>) -> Result<(), EngineError> {
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

    /// Ends everything: workers first, then what they worked on.
    pub(super) fn stop(&mut self) {
        self.workers.stop();
        self.exceptions.stop();
        self.netstack.stop();
        self.leases.finish();
        self.snapshots.store(Arc::new(Snapshot::default()));
        self.retired.clear();
        for (_, tunnel) in self.tunnels.iter_mut() {
            tunnel.device.bring_down();
        }
        self.doors.order(uapi::Names::new());
        self.doors.wait(CLOSED);
        self.endpoints.finish();
        self.ports = Table::default();
        for (_, uplink) in self.uplinks.iter_mut() {
            if let Err(error) = uplink.close() {
                tracing::warn!(error, "can't close a device");
            }
        }
        self.tunnels = Table::default();
        // Last: who waits for this name finds the interface's and the UDP port free.
        self.lone_socket = None;
    }
}
