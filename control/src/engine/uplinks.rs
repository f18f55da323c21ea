//! Uplinks: devices and sockets, and the way to an endpoint through them.
//!
//! In: the configured uplinks. Out: queues for the workers, the stacks that they need,
//! paths. Never: an mbuf or a socket of a worker's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

#[cfg(feature = "dpdk")]
use std::{net::Ipv6Addr, time::Duration};

#[cfg(feature = "dpdk")]
use culvert_dataplane::uplink::dpdk;
use culvert_dataplane::{
    shared::{
        control_link::{Entry, Seat},
        drops::DropReason,
        hop::Hop,
        ids::{Scope, UplinkIndex},
        path::Path,
    },
    uplink::{Queue, UplinkCounters, udp},
};
use culvert_stack::{Drops, Standing, bfd};
#[cfg(feature = "dpdk")]
use culvert_stack::{HostConfig, Learns, Routes};
#[cfg(feature = "dpdk")]
use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

#[cfg(feature = "dpdk")]
use super::{exceptions, nics};
use super::{
    health::Health,
    hops::{For, Hops},
    learned::LearnedState,
    table::Named,
};
use crate::{
    config::{self, UplinkDriver},
    exception::{Kernel, Learned},
    netlink::index_of,
    netstack::{Host, NetStack},
    state::Nic,
};

#[cfg(feature = "dpdk")]
use crate::netstack::Services;

/// Seconds that a link may take to come up after its device was opened.
#[cfg(feature = "dpdk")]
const LINK_PATIENCE: u8 = 3;
/// How long workers may take to give up a device's queues: they do at their next turn.
#[cfg(feature = "dpdk")]
const CLOSING: Duration = Duration::from_secs(1);

/// What a way out is found by: the stacks and their neighbors, and for whom.
pub(super) type Ways<'e> = (&'e mut NetStack, &'e mut Hops, For);

/// An uplink, as the control core keeps it.
pub(super) struct UplinkState {
    pub(super) config: config::Uplink,
    pub(super) counters: Arc<UplinkCounters>,
    /// What its host stack has lost, and those before it.
    pub(super) host_drops: Arc<Drops>,
    /// What tunnels lost while they were on it.
    pub(super) lost: BTreeMap<String, u64>,
    /// What its host stack has learned.
    pub(super) taught: LearnedState,
    pub(super) link_up: Option<bool>,
    /// Whether it works by itself, for tunnels that have others beside it.
    pub(super) health: Health,
    /// What its BFD session says, if it has one.
    pub(super) liveness: Arc<bfd::Watch>,
    /// What was told of that last.
    told: bfd::State,
    pub(super) speed_mbps: Option<u64>,
    /// The number of the interface that its sockets are bound to.
    pub(super) device_index: Option<u32>,
    /// They could not be bound to the one that has its name now: that is told, and tried again.
    pub(super) is_refused: bool,
    /// Its device was closed and can't be opened again: that is tried.
    pub(super) is_shut: bool,
    /// Own addresses that another host has, and how they stand.
    pub(super) rivals: BTreeMap<IpAddr, Standing>,
    /// Looks at the link that may still find it down before that is news.
    #[cfg(feature = "dpdk")]
    patience: u8,
    pub(super) kind: Kind,
    /// The host's kernel, if it shares the uplink.
    pub(super) kernel: Option<Kernel>,
    /// Routes that its tables have for the uplink.
    pub(super) learned: Arc<Learned>,
    /// Of paths that lead over no neighbor of ours: the kernel's way, or no way.
    pub(super) hop: Arc<Hop>,
}

/// What an uplink is made of.
pub(super) enum Kind {
    /// It is switched off.
    Off,
    /// Kernel sockets, one set per tunnel.
    Udp,
    /// A device, which needs a host stack beside it.
    #[cfg(feature = "dpdk")]
    Dpdk(Box<dpdk::DpdkUplink>),
}

impl Named for UplinkState {
    fn name(&self) -> &config::Name {
        &self.config.name
    }
}

impl UplinkState {
    /// Opens an uplink; a DPDK device brings one queue per worker.
    #[cfg_attr(not(feature = "dpdk"), expect(unused_variables, reason = "DPDK only"))]
    pub(super) fn open(
        config: config::Uplink,
        index: UplinkIndex,
        workers: usize,
        dpdk: &Dpdk,
    ) -> Result<(Self, Vec<Queue>), String> {
        match &config.driver {
            _ if !config.enabled => Ok((Self::off(config, index), Vec::new())),
            UplinkDriver::Udp(driver) => {
                let device_index = driver.device.as_deref().and_then(index_of);
                let state = Self {
                    device_index,
                    kind: Kind::Udp,
                    hop: Arc::new(Hop::kernel(index)),
                    ..Self::off(config, index)
                };
                Ok((state, Vec::new()))
            }
            #[cfg(not(feature = "dpdk"))]
            UplinkDriver::Dpdk(_) => Err(format!(
                "uplink {}: this build has no DPDK: use `driver: udp`, or build with the feature `dpdk`",
                config.name
            )),
            #[cfg(feature = "dpdk")]
            UplinkDriver::Dpdk(driver) => {
                let mut addresses = own_addresses(&config);
                if config.accept_ra {
                    // There will be one of that family.
                    addresses.push(Ipv6Addr::UNSPECIFIED.into());
                }
                let devargs = driver.device.devargs();
                let members: Vec<_> = driver.members.iter().map(|it| it.devargs()).collect();
                let wanted = dpdk::Config {
                    uplink: index,
                    device: &devargs,
                    members: &members,
                    addresses: &addresses,
                    mtu: config.mtu,
                    workers,
                    queues: usize::from(config.queues),
                    descriptors: [Some(driver.rx_descriptors), Some(driver.tx_descriptors)],
                };
                let opened = dpdk::open(dpdk.eal()?, &wanted);
                let (device, queues) =
                    opened.map_err(|error| format!("uplink {}: {error}", config.name))?;
                let state = Self {
                    patience: LINK_PATIENCE,
                    kind: Kind::Dpdk(Box::new(device)),
                    ..Self::off(config, index)
                };
                Ok((state, queues))
            }
        }
    }

    /// One that is switched off: nothing leads out by it. What others have at first, it has, too.
    fn off(config: config::Uplink, index: UplinkIndex) -> Self {
        Self {
            config,
            device_index: None,
            is_refused: false,
            is_shut: false,
            rivals: BTreeMap::new(),
            counters: Arc::default(),
            host_drops: Arc::default(),
            lost: BTreeMap::new(),
            taught: LearnedState::default(),
            link_up: None,
            health: Health::default(),
            liveness: Arc::default(),
            told: bfd::State::Down,
            speed_mbps: None,
            #[cfg(feature = "dpdk")]
            patience: 0,
            kind: Kind::Off,
            kernel: None,
            learned: Arc::default(),
            hop: Arc::new(Hop::nowhere(index)),
        }
    }

    /// Why the kernel lets a tunnel have no sockets on a port, or none with that mark; `None` if it would.
    pub(super) fn refuses(&self, port: u16, fwmark: u32) -> Option<udp::OpenError> {
        let UplinkDriver::Udp(driver) = &self.config.driver else {
            return None;
        };
        let options = udp::Options {
            device: driver.device.as_deref(),
            fwmark: (fwmark != 0).then_some(fwmark),
        };
        udp::probe(&own_addresses(&self.config), port, options).err()
    }

    /// The way to `endpoint` from UDP port `port`; `local` is the address that its peer
    /// last wrote to.
    pub(super) fn path(
        &self,
        (netstack, hops, whose): Ways<'_>,
        endpoint: SocketAddr,
        local: Option<IpAddr>,
        port: u16,
        now: Instant,
    ) -> Path {
        let local = local.filter(|local| local.is_ipv4() == endpoint.is_ipv4());
        let without_neighbor = || Path::new(endpoint, local, port, Arc::clone(&self.hop));
        let scope = self.scope();
        let host = scope.and_then(|scope| Some((scope, netstack.get(scope)?)));
        let way =
            host.and_then(|(scope, host)| Some((scope, host, host.routes.way(endpoint.ip())?)));
        let Some((scope, host, way)) = way else {
            return without_neighbor();
        };
        let (at, ours) = ((scope, way.next_hop), host.config.mac);
        let ask = || self.ask(netstack, at);
        match hops.over(at, ours, whose, now, ask) {
            Some(hop) => Path::new(endpoint, Some(local.unwrap_or(way.source)), port, hop),
            None => without_neighbor(),
        }
    }

    fn ask(&self, netstack: &mut NetStack, (scope, next_hop): (Scope, IpAddr)) -> bool {
        let is_asked = netstack.ask(scope, next_hop);
        if !is_asked {
            self.counters.drops.add(DropReason::StackQueueFull, 1);
        }
        is_asked
    }

    /// The host stack that it needs.
    pub(super) fn host(&self) -> Option<Host> {
        match &self.kind {
            Kind::Off | Kind::Udp => None,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => {
                let mut config = host_config(&self.config, &self.learned, device.mac());
                self.taught.used().add_to(&mut config);
                Some(Host {
                    learns: Learns {
                        dhcp4: self.config.dhcp4,
                        accept_ra: self.config.accept_ra,
                    },
                    held: self.taught.held().cloned(),
                    unusable: self.taught.unusable(),
                    birth: 0,
                    name: self.config.name.clone(),
                    routes: Routes::among(&config, |address| self.is_usable(address)),
                    config,
                    kernel: self.kernel.clone(),
                    bfd: self
                        .config
                        .bfd
                        .map(|bfd| (session(bfd), Arc::clone(&self.liveness))),
                    services: Services::new(&self.config.serves),
                    nameservers: self.nameservers(),
                    drops: Arc::clone(&self.host_drops),
                    counters: Arc::clone(&self.counters),
                })
            }
        }
    }

    /// Its device's hardware address, if the link layer is ours.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        match &self.kind {
            Kind::Off | Kind::Udp => None,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => Some(device.mac().0),
        }
    }

    /// Whether senders on this machine may leave sums to it.
    pub(super) fn is_partial(&self) -> bool {
        match &self.kind {
            Kind::Off | Kind::Udp => false,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => device.device().capabilities().leaves_sums,
        }
    }

    /// The scope of its host stack, if it needs one: below IP, nobody else looks after it.
    pub(super) fn scope(&self) -> Option<Scope> {
        match &self.kind {
            Kind::Off | Kind::Udp => None,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(_) => Some(Scope::Uplink(self.hop.uplink())),
        }
    }

    /// The addresses that are ours on this link, a host stack's link-local one included.
    pub(super) fn addresses(&self, netstack: &NetStack) -> Vec<IpAddr> {
        match self.scope().and_then(|scope| netstack.get(scope)) {
            Some(host) => host.routes.addresses().collect(),
            None => own_addresses(&self.config),
        }
    }

    /// Its NIC, while it is open.
    pub(super) fn nic(&self) -> Option<Nic> {
        match &self.kind {
            _ if self.is_shut => None,
            Kind::Off | Kind::Udp => None,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => Some(nics::told(device)),
        }
    }

    /// Whether the kernel wants its device back.
    pub(super) fn is_wanted_back(&self) -> bool {
        match &self.kind {
            Kind::Off | Kind::Udp => false,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => !self.is_shut && device.device().is_wanted_back(),
        }
    }

    /// Whether its device, which is closed, could be opened again.
    pub(super) fn is_back(&self) -> bool {
        match &self.kind {
            Kind::Off | Kind::Udp => true,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => device.device().is_back(),
        }
    }

    /// Looks at the link; tells when it went up or down, and answers whether it has come up.
    pub(super) fn watch_link(&mut self) -> bool {
        match &self.kind {
            _ if self.is_shut => false,
            Kind::Off | Kind::Udp => false,
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => {
                let Ok(link) = device.link() else {
                    return false;
                };
                self.speed_mbps = link.speed_mbps.map(u64::from);
                if self.link_up.is_none() && !link.up && self.patience > 0 {
                    // A device that was just opened may take a moment.
                    self.patience -= 1;
                    return false;
                }
                let has_changed = self.link_up.replace(link.up) != Some(link.up);
                if has_changed {
                    let uplink = self.config.name.clone();
                    match link.up {
                        true => crate::events::Event::UplinkUp { uplink }.tell(),
                        false => crate::events::Event::UplinkDown { uplink }.tell(),
                    }
                    if let Some(kernel) = &self.kernel {
                        // Before Linux 5.0 its interface is up all the same.
                        let _ = kernel.tun.set_carrier(link.up);
                    }
                }
                has_changed && link.up
            }
        }
    }

    /// Why nothing passes, whatever the destination; `None`: it may.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        match self.link_up {
            _ if !self.config.enabled => Some("it is switched off"),
            _ if self.is_shut => Some("the device is not open"),
            Some(false) => Some("the link is down"),
            _ if self.config.bfd.is_some() && !self.liveness.passes() => {
                Some("its BFD session is down")
            }
            Some(true) | None => None,
        }
    }

    /// Its device is closed, or is about to be.
    pub(super) fn note_shut(&mut self) {
        (self.is_shut, self.link_up) = (true, Some(false));
        if let Some(kernel) = &self.kernel {
            // As for a link that went down.
            let _ = kernel.tun.set_carrier(false);
        }
    }

    /// Its device, as it is configured.
    pub(super) fn devargs(&self) -> String {
        match &self.config.driver {
            UplinkDriver::Dpdk(dpdk) => dpdk.named(),
            UplinkDriver::Udp(udp) => udp.device.clone().unwrap_or_default(),
        }
    }

    /// Tells when its BFD session has come up or gone down.
    pub(super) fn tell_liveness(&mut self) {
        let Some(bfd) = self.config.bfd else { return };
        let state = self.liveness.state();
        let was_up = std::mem::replace(&mut self.told, state) == bfd::State::Up;
        let (uplink, peer) = (self.config.name.clone(), bfd.peer);
        match (was_up, state == bfd::State::Up) {
            (false, true) => crate::events::Event::BfdUp { uplink, peer }.tell(),
            (true, false) => crate::events::Event::BfdDown { uplink, peer }.tell(),
            (true, true) | (false, false) => {}
        }
    }

    /// The link of the interface that its sockets are bound to; tells when it went up or down.
    pub(super) fn note_link(&mut self, up: bool) {
        // What is up at first is no news.
        if self.link_up.replace(up).unwrap_or(true) != up {
            let uplink = self.config.name.clone();
            match up {
                true => crate::events::Event::UplinkUp { uplink }.tell(),
                false => crate::events::Event::UplinkDown { uplink }.tell(),
            }
        }
    }

    /// Who has what is not to be ours any more is no rival.
    pub(super) fn forget_rivals(&mut self) {
        let (addresses, learned) = (&self.config.addresses, &self.taught);
        (self.rivals).retain(|rival, _| {
            let is_link_local = matches!(rival, IpAddr::V6(it) if it.is_unicast_link_local());
            is_link_local || addresses.iter().any(|net| net.addr() == *rival) || learned.has(*rival)
        });
    }

    /// Takes over what changed in an uplink that stays as it is: neighbors that are still on its link are kept.
    pub(super) fn reconfigure(&mut self, new: config::Uplink, netstack: &mut NetStack) {
        self.config = new;
        self.forget_rivals();
        if let (Some(scope), Some(host)) = (self.scope(), self.host()) {
            netstack.change(scope, host);
        }
    }

    /// Closes the device, as soon as workers have given up its queues; answers why it can't be closed.
    pub(super) fn close(&mut self) -> Result<(), String> {
        match &mut self.kind {
            Kind::Off | Kind::Udp => Ok(()),
            #[cfg(feature = "dpdk")]
            Kind::Dpdk(device) => {
                let end = std::time::Instant::now() + CLOSING;
                loop {
                    match device.close() {
                        Ok(()) => return Ok(()),
                        Err(dpdk::sys::DeviceError::QueuesInUse(_))
                            if std::time::Instant::now() < end =>
                        {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                        Err(error) => {
                            return Err(format!("uplink {}: {error}", self.config.name));
                        }
                    }
                }
            }
        }
    }
}

/// Opens a tunnel's port on an uplink: one queue per worker; if it `joins`, beside sockets that the tunnel has there
/// already. A DPDK uplink needs none.
pub(super) fn open_tunnel(
    uplink: &config::Uplink,
    (index, tunnel): Seat,
    port: u16,
    fwmark: u32,
    workers: usize,
    joins: bool,
) -> Result<Vec<Queue>, udp::OpenError> {
    let UplinkDriver::Udp(driver) = &uplink.driver else {
        return Ok(Vec::new());
    };
    if !uplink.enabled {
        return Ok(Vec::new());
    }
    let options = udp::Options {
        device: driver.device.as_deref(),
        fwmark: (fwmark != 0).then_some(fwmark),
    };
    let addresses = own_addresses(uplink);
    let open = if joins { udp::join } else { udp::open };
    open(index, tunnel, &addresses, port, workers, options)
}

/// A UDP port of an uplink that nobody else has.
pub(super) fn free_port(uplink: &config::Uplink) -> Result<u16, String> {
    // Of a DPDK device's ports, which the kernel doesn't know, any may be taken by a tunnel of ours: the caller
    // looks at those.
    let (addresses, device) = match &uplink.driver {
        UplinkDriver::Dpdk(_) => (vec![IpAddr::from([127, 0, 0, 1])], None),
        UplinkDriver::Udp(driver) => (own_addresses(uplink), driver.device.as_deref()),
    };
    let options = udp::Options {
        device,
        fwmark: None,
    };
    udp::free_port(&addresses, options)
        .map_err(|error| format!("uplink {}: no free UDP port: {error}", uplink.name))
}

fn own_addresses(uplink: &config::Uplink) -> Vec<IpAddr> {
    uplink.addresses.iter().map(|net| net.addr()).collect()
}

#[cfg(feature = "dpdk")]
fn session(config: config::Bfd) -> bfd::Config {
    bfd::Config {
        peer: config.peer,
        interval: Duration::from_millis(config.interval_ms.into()),
        multiplier: config.multiplier,
    }
}

#[cfg(feature = "dpdk")]
fn host_config(config: &config::Uplink, learned: &Learned, mac: MacAddr) -> HostConfig {
    HostConfig {
        mac,
        addresses: config
            .addresses
            .iter()
            .map(|net| (net.addr(), net.prefix_len()))
            .collect(),
        routes: exceptions::routes(&config.routes, &learned.routes),
        neighbors: config
            .neighbors
            .iter()
            .map(|neighbor| (neighbor.address, MacAddr(neighbor.mac.0)))
            .collect(),
        mtu: config.mtu,
    }
}

/// DPDK's environment: started once, when the first uplink comes that needs it.
#[derive(Default)]
pub(super) struct Dpdk {
    #[cfg(feature = "dpdk")]
    eal: Option<dpdk::sys::Eal>,
    /// What it was given.
    memory: Option<config::Memory>,
}

impl Dpdk {
    /// Starts DPDK for what `config` wants; once is enough. Answers what every worker's thread has to do then: it makes
    /// itself known to DPDK, whose caches it may use from then on.
    pub(super) fn start(&mut self, config: &config::Config) -> Result<Option<Entry>, String> {
        #[cfg(feature = "dpdk")]
        if self.eal.is_none() {
            let eal = start_eal(config)?;
            (self.eal, self.memory) = (Some(eal), Some(config.memory));
            return Ok(Some(Arc::new(move || {
                match dpdk::sys::Registration::new(eal) {
                    Ok(registration) => Box::new(registration),
                    Err(error) => {
                        tracing::warn!(%error, "a worker has no place in DPDK: it will be slow");
                        Box::new(())
                    }
                }
            })));
        }
        let _ = config;
        Ok(None)
    }

    /// The memory that it runs with.
    pub(super) fn memory(&self) -> Option<config::Memory> {
        self.memory
    }

    #[cfg(feature = "dpdk")]
    fn eal(&self) -> Result<dpdk::sys::Eal, String> {
        self.eal.ok_or_else(|| "DPDK does not run".into())
    }
}

#[cfg(feature = "dpdk")]
fn start_eal(config: &config::Config) -> Result<dpdk::sys::Eal, String> {
    use dpdk::sys::{Eal, EalConfig, Hugepages, LogLevel, Pci};

    let has_pci = config.uplinks.iter().any(|uplink| match &uplink.driver {
        UplinkDriver::Dpdk(driver) => driver.devices().any(|it| it.bus == config::DpdkBus::Pci),
        UplinkDriver::Udp(_) => false,
    });
    Eal::init(EalConfig {
        hugepages: match config.memory.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Required => Hugepages::Required,
            config::Hugepages::Off => Hugepages::Off,
        },
        memory_mb: config.memory.megabytes,
        cpus: config
            .cores
            .control
            .map(|cpu| usize::from(cpu.0))
            .into_iter()
            .collect(),
        pci: if has_pci { Pci::Idle } else { Pci::Off },
        log: Some(Box::new(|level, line: &str| match level {
            LogLevel::Critical | LogLevel::Error => tracing::error!(target: "dpdk", "{line}"),
            // DPDK looks for pages of every size; `memory` says what is needed.
            LogLevel::Warning if line.contains("hugepages reported on node") => {
                tracing::debug!(target: "dpdk", "{line}");
            }
            LogLevel::Warning => tracing::warn!(target: "dpdk", "{line}"),
            LogLevel::Notice | LogLevel::Info | LogLevel::Debug => {
                tracing::debug!(target: "dpdk", "{line}");
            }
        })),
        ..EalConfig::default()
    })
    .map_err(|error| error.to_string())
}
