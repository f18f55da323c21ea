//! Uplinks that the host's kernel shares.
//!
//! In: plans, tunnels' ports, what the kernel's tables say. Out: interfaces that are as their uplinks are, what workers and
//! stacks take for ours, routes. Never: a frame; an interface of somebody else's.

#[cfg(feature = "dpdk")]
use std::net::IpAddr;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use culvert_dataplane::shared::{control_link::Command, ids::UplinkIndex};
#[cfg(feature = "dpdk")]
use culvert_stack::HostRoute;
use culvert_stack::{LEARNED_METRIC, Learned};
use culvert_wire::{MacAddr, ports::OwnPorts};
use ipnet::IpNet;

use super::{Engine, uplinks::UplinkState};
use crate::{
    config::{self, Exception, UplinkDriver, UplinkRoute},
    events::Event,
    exception::{Followed, Kernel, Presence, Setting, Tap, Way},
    netstack::Services,
    plan::{Change, Edit},
};

/// The exception path that an uplink is to have: none while it is switched off.
pub(super) fn exception(uplink: &config::Uplink) -> Option<&Exception> {
    match &uplink.driver {
        UplinkDriver::Dpdk(dpdk) => dpdk.exception.as_ref().filter(|_| uplink.enabled),
        UplinkDriver::Udp(_) => None,
    }
}

/// Ports of ours at an uplink: its tunnels', and what it serves by itself.
fn own_ports(tunnels: Vec<u16>, uplink: &config::Uplink) -> OwnPorts {
    let served = Services::new(&uplink.serves);
    let liveness = uplink.bfd.map(|_| culvert_stack::bfd::PORT);
    let udp = tunnels
        .into_iter()
        .chain(served.udp_ports())
        .chain(liveness);
    OwnPorts::new(udp, served.tcp_ports())
}

/// What an uplink's interface is to be, which has learned this; what is configured counts.
fn setting(uplink: &config::Uplink, learned: &Learned, mac: [u8; 6]) -> Setting {
    let mut addresses = uplink.addresses.clone();
    let lent = learned.addresses.iter();
    addresses.extend(lent.filter_map(|it| IpNet::new(it.address, it.prefix_len).ok()));
    let mut routes = uplink.routes.clone();
    let told = learned.routes.iter().filter_map(|&(to, len, via)| {
        let to = IpNet::new(to, len).ok()?;
        (!via.is_unspecified()).then_some(UplinkRoute {
            to,
            via,
            metric: LEARNED_METRIC,
            from: None,
        })
    });
    routes.extend(told);
    routes.sort_by_key(|route| route.metric);
    // There they have one metric: those that count here are told.
    let mut known = BTreeSet::new();
    routes.retain(|route| known.insert(route.to));
    Setting {
        mac,
        mtu: uplink.mtu,
        addresses,
        routes,
    }
}

/// The same as the uplink stands: without an address that another host has, and without routes while nothing passes, so
/// that the kernel goes by another uplink's.
fn setting_now(uplink: &UplinkState, mac: [u8; 6]) -> Setting {
    let mut setting = setting(&uplink.config, &uplink.taught.for_kernel(), mac);
    (setting.addresses).retain(|address| uplink.is_usable(address.addr()));
    if !is_linked(uplink) {
        setting.routes.clear();
    }
    setting
}

fn is_linked(uplink: &UplinkState) -> bool {
    uplink.link_up != Some(false)
}

fn free_rank(taken: &BTreeSet<u32>) -> u32 {
    (0..).find(|rank| !taken.contains(rank)).unwrap_or(u32::MAX)
}

/// Of a plan.
impl Engine {
    /// Makes the interfaces that a plan wants and that are not there; `opened` are the uplinks that come. What was made is
    /// in `taps` when it fails.
    pub(super) fn prepare_exceptions(
        &mut self,
        plan: &[Change],
        opened: &BTreeMap<config::Name, [u8; 6]>,
        taps: &mut Vec<(String, Tap)>,
    ) -> Result<(), String> {
        let wanted = plan.iter().filter_map(Change::uplink);
        let wanted = wanted.filter_map(|edit| match edit {
            Edit::Add(new) | Edit::Change { new, .. } => Some((new, exception(new)?)),
            Edit::Remove(_) => None,
        });
        for (uplink, exception) in wanted {
            let title = |error| format!("uplink {}: {error}", uplink.name);
            let interface = &exception.interface;
            if self.exceptions.taps.contains_key(interface) {
                continue;
            }
            self.begin_sharing()?;
            let others = self.exceptions.taps.values();
            let others = others.chain(taps.iter().map(|(_, tap)| tap));
            let rank = free_rank(&others.map(Tap::rank).collect());
            let mut tap = Tap::make(interface, rank).map_err(title)?;
            let staying = || self.uplinks.named(&uplink.name)?.mac();
            if let Some(mac) = opened.get(&uplink.name).copied().or_else(staying) {
                // What is learned comes behind.
                let setting = setting(uplink, &Learned::default(), mac);
                tap.set(setting).map_err(title)?;
            }
            taps.push((interface.clone(), tap));
        }
        Ok(())
    }

    /// Starts the thread, and gives workers their rings to it.
    fn begin_sharing(&mut self) -> Result<(), String> {
        let doorbells = self.workers.doorbells();
        let ends = self.exceptions.start(&doorbells);
        let ends =
            ends.map_err(|error| format!("can't start a thread for `exception`: {error}"))?;
        for (worker, end) in ends.into_iter().enumerate() {
            let command = Command::ShareWithKernel(Box::new(end));
            let lost = "the kernel hears nothing of its uplinks";
            if let Some(failure) = self.insist(worker, lost, command) {
                tracing::warn!("{failure}");
            }
        }
        Ok(())
    }

    /// Has every interface be what its uplink is, but for uplinks that go, and closes those that are nobody's; answers what
    /// failed.
    pub(super) fn commit_exceptions(
        &mut self,
        made: Vec<(String, Tap)>,
        going: &[usize],
    ) -> Vec<String> {
        self.exceptions.taps.extend(made);
        let (kept, failures) = self.set_interfaces(going);
        self.exceptions.taps.retain(|name, _| kept.contains(name));
        self.follow_tables(going);
        failures
    }

    /// Has interfaces be what their uplinks are now; answers their names, and what failed.
    pub(super) fn set_interfaces(&mut self, going: &[usize]) -> (Vec<String>, Vec<String>) {
        let mut failures = Vec::new();
        let mut kept = Vec::new();
        for (slot, uplink) in self.uplinks.iter() {
            let Some(exception) = exception(&uplink.config).filter(|_| !going.contains(&slot))
            else {
                continue;
            };
            kept.push(exception.interface.clone());
            let tap = self.exceptions.taps.get_mut(&exception.interface);
            if let (Some(tap), Some(mac)) = (tap, uplink.mac()) {
                tap.link(is_linked(uplink));
                let set = tap.set(setting_now(uplink, mac));
                failures.extend(
                    set.err()
                        .map(|error| format!("uplink {}: {error}", uplink.config.name)),
                );
            }
        }
        (kept, failures)
    }

    /// Follows the tables that uplinks take routes from.
    fn follow_tables(&mut self, going: &[usize]) {
        let mut before = std::mem::take(&mut self.exceptions.followed);
        for slot in 0..self.uplinks.places() {
            let Some(uplink) = self
                .uplinks
                .get_mut(slot)
                .filter(|_| !going.contains(&slot))
            else {
                continue;
            };
            let at = exception(&uplink.config).and_then(|it| {
                let tap = self.exceptions.taps.get(&it.interface)?;
                Some((tap.index(), it.routes_from?))
            });
            let Some(at) = at else {
                if !uplink.learned.routes.is_empty() {
                    uplink.learned = Arc::default();
                    uplink.publish_host(&mut self.netstack);
                }
                continue;
            };
            let name = uplink.config.name.clone();
            let followed = match before.remove(&name) {
                Some(followed) if followed.at() == at => Ok(followed),
                _ => Followed::begin(at.0, at.1, Arc::clone(&self.attention)),
            };
            match followed {
                Ok(followed) => {
                    self.exceptions.followed.insert(name, followed);
                }
                Err(error) => {
                    tracing::warn!(uplink = %name, %error, "can't follow the kernel's routes");
                }
            }
        }
    }
}

/// Between plans.
impl Engine {
    /// Ahead of a snapshot: tells stacks and the thread which ports are ours, and who shares what.
    pub(super) fn share_ports(&mut self) {
        if self.exceptions.taps.is_empty() && self.uplinks.iter().all(|(_, it)| it.kernel.is_none())
        {
            return;
        }
        let mut ports: BTreeMap<usize, Vec<u16>> = BTreeMap::new();
        for (_, tunnel) in self.tunnels.iter() {
            for uplink in tunnel.uplinks() {
                let listening = ports.entry(uplink).or_default();
                listening.push(tunnel.config.listen_port);
            }
        }
        for slot in 0..self.uplinks.places() {
            let Some(uplink) = self.uplinks.get(slot) else {
                continue;
            };
            let present = self.uplinks.place(&uplink.config.name) == Some(slot);
            let exception = exception(&uplink.config).filter(|_| present);
            let tap = exception.and_then(|it| self.exceptions.taps.get(&it.interface));
            let kernel = tap.map(|tap| Kernel {
                tun: Arc::clone(tap.tun()),
                ports: Arc::new(own_ports(
                    ports.remove(&slot).unwrap_or_default(),
                    &uplink.config,
                )),
            });
            let is_same = match (&uplink.kernel, &kernel) {
                (None, None) => true,
                (Some(old), Some(new)) => Arc::ptr_eq(&old.tun, &new.tun) && old.ports == new.ports,
                _ => false,
            };
            if !is_same && let Some(uplink) = self.uplinks.change(slot) {
                uplink.kernel = kernel;
                uplink.publish_host(&mut self.netstack);
            }
        }
        self.publish_ways();
    }

    fn publish_ways(&self) {
        let ways = self.uplinks.iter().filter_map(|(slot, uplink)| {
            let kernel = uplink.kernel.as_ref()?;
            let way = Way {
                tun: Arc::clone(&kernel.tun),
                mac: MacAddr(uplink.mac()?),
                addresses: uplink.addresses(&self.netstack),
                ports: Arc::clone(&kernel.ports),
                drops: Arc::clone(&uplink.host_drops),
                counters: Arc::clone(&uplink.counters),
                worker: uplink
                    .config
                    .queue_workers
                    .first()
                    .map_or(0, |it| it.0.into()),
                mtu: uplink.config.mtu,
                is_partial: uplink.is_partial(),
            };
            Some((UplinkIndex::from_slot(slot), Arc::new(way)))
        });
        self.exceptions.publish(ways.collect());
    }

    /// Takes over what the kernel's tables say now.
    pub(super) fn hear_routes(&mut self) {
        let heard: Vec<_> = (self.exceptions.followed.iter())
            .filter_map(|(name, followed)| Some((name.clone(), followed.take()?)))
            .collect();
        for (name, learned) in heard {
            let Some(slot) = self.uplinks.place(&name) else {
                continue;
            };
            let Some(uplink) = self.uplinks.get_mut(slot) else {
                continue;
            };
            Event::UplinkRoutes {
                uplink: name,
                learned: learned.routes.len(),
                refused: learned.refused,
            }
            .tell();
            uplink.learned = learned;
            uplink.publish_host(&mut self.netstack);
            self.outdate_paths_by(slot);
        }
    }

    /// Looks what has become of interfaces and their links: those that were deleted under us are made again, and those that
    /// were set up again or are back have again what they had. (Each second.)
    pub(super) fn mend_exceptions(&mut self) {
        let taps = self.exceptions.taps.iter_mut();
        let news: Vec<_> = taps
            .filter_map(|(name, tap)| Some((name.clone(), tap.look()?)))
            .collect();
        let is_back = news.iter().any(|(_, presence)| *presence == Presence::Up);
        for (interface, presence) in news {
            tell(&interface, presence);
        }
        let gone = self.exceptions.taps.iter().filter(|(_, tap)| tap.is_gone());
        let gone: Vec<_> = gone.map(|(name, tap)| (name.clone(), tap.rank())).collect();
        let mut is_new = false;
        for (interface, rank) in gone {
            // If its name is another's now, it is tried again.
            if let Ok(tap) = Tap::make(&interface, rank) {
                tracing::warn!(interface, "the interface is made again");
                self.exceptions.taps.insert(interface, tap);
                is_new = true;
            }
        }
        if is_new || is_back || self.has_link_turned() {
            self.reset_interfaces();
        }
        if is_new || is_back {
            self.follow_tables(&[]);
        }
        if is_new {
            self.publish();
        }
    }

    /// Whether an interface has not the link that its uplink has.
    fn has_link_turned(&self) -> bool {
        self.uplinks.iter().any(|(_, uplink)| {
            let exception = exception(&uplink.config);
            let tap = exception.and_then(|it| self.exceptions.taps.get(&it.interface));
            tap.is_some_and(|tap| tap.is_linked() != is_linked(uplink))
        })
    }

    /// Has interfaces be what their uplinks are now, and says what failed.
    pub(super) fn reset_interfaces(&mut self) {
        let (_, failures) = self.set_interfaces(&[]);
        for failure in failures {
            tracing::warn!("{failure}");
        }
    }
}

fn tell(interface: &str, presence: Presence) {
    match presence {
        Presence::Up => tracing::info!(interface, "the interface is up again"),
        Presence::Down => tracing::warn!(
            interface,
            "the interface was set down: the kernel has no way by its uplink until `ip link set {interface} up`"
        ),
        Presence::Moved => tracing::warn!(
            interface,
            "the interface was moved to another network namespace: it has its frames there, and is given addresses and routes no more"
        ),
        Presence::Gone => tracing::warn!(
            interface,
            "the interface was deleted: the kernel has no way by its uplink while another one has its name"
        ),
    }
}

impl UplinkState {
    /// What its stack goes by has changed.
    pub(super) fn publish_host(&self, netstack: &mut crate::netstack::NetStack) {
        if let (Some(scope), Some(host)) = (self.scope(), self.host())
            && netstack.get(scope).is_some()
        {
            netstack.change(scope, host);
        }
    }
}

/// Routes of the file, and those that the kernel's tables have; of equal metrics the file's count.
#[cfg(feature = "dpdk")]
pub(super) fn routes(file: &[UplinkRoute], learned: &[(IpNet, IpAddr, u32)]) -> Vec<HostRoute> {
    let file = file.iter().copied();
    let learned = learned.iter().map(|&(to, via, metric)| UplinkRoute {
        to,
        via,
        metric,
        from: None,
    });
    let host_route = |route: UplinkRoute| HostRoute {
        to: route.to.network(),
        len: route.to.prefix_len(),
        via: route.via,
        metric: route.metric,
        source: route.from,
    };
    file.chain(learned).map(host_route).collect()
}
