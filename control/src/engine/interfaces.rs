//! Interfaces of tun and tap ports: made, set up, watched.
//!
//! In: a port's configuration, the kernel's news of links. Out: an open interface with
//! its MTU and addresses, up; what has become of it. Never: a packet, a route.

use std::{io, sync::Arc};

use culvert_dataplane::guest::tun::{Claim, Layer, Tun, TunConfig};
use ipnet::IpNet;

use super::ports::offloads;
use crate::{
    config::{self, PortDriver},
    netlink::{Link, LinkNews, LinkWatch, Netlink},
};

/// An interface in use.
pub(super) struct Interface {
    pub(super) tun: Arc<Tun>,
    /// The kernel's number for it.
    pub(super) index: u32,
    /// Its MTU as the kernel has it now.
    pub(super) mtu: u32,
    /// It was deleted under us.
    pub(super) gone: bool,
    /// It is in another network namespace: its number means nothing here any more.
    pub(super) moved: bool,
    /// Whoever asked for it sets it up.
    is_hosts: bool,
}

/// Who sets an interface up.
#[derive(Clone, Debug)]
pub(super) enum Keeper {
    /// We do, as the configuration says.
    Configuration,
    /// Whoever asked for it, as with an interface of the kernel's. It is made down, and down means that its tunnel
    /// rests. That one may have made it, too.
    Host(Option<Arc<Tun>>),
}

/// What has become of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InterfaceEvent {
    /// It is up.
    Up,
    /// It is down.
    Down,
    /// Its MTU is another one now.
    Mtu(u32),
    /// It was deleted: the port is of no more use until it is opened anew.
    Deleted,
    /// It was moved to another network namespace. Its packets pass, its news don't come.
    Moved,
    /// It is in ours again, down and without addresses ([`Interface::resume`]).
    Back,
}

impl Interface {
    /// Makes the interface, or attaches to a persistent one, and sets it up; answers whether it is up then.
    pub(super) fn open(config: &config::Port, keeper: Keeper) -> Result<(Self, bool), String> {
        let (name, layer) = match &config.driver {
            PortDriver::Tun { interface } => (interface, Layer::Ip),
            PortDriver::Tap { interface } => (interface, Layer::Ethernet),
            PortDriver::VhostUser(_) => return Err("no interface".into()),
        };
        let mut netlink = netlink()?;
        let tun = match &keeper {
            Keeper::Host(Some(tun)) => Arc::clone(tun),
            Keeper::Host(None) | Keeper::Configuration => {
                let found = netlink
                    .link(name)
                    .map_err(|error| format!("can't look for the interface {name}: {error}"))?;
                let claim = found.map_or(Ok(Claim::Make), |link| claim(&link, layer))?;
                let tun = Tun::open(&TunConfig {
                    interface: name.clone(),
                    layer,
                    queues: config.queues,
                    offloads: offloads(&config.offloads).legal(),
                    claim,
                });
                tun.map(Arc::new).map_err(|error| error.to_string())?
            }
        };
        let link = netlink
            .link(name)
            .and_then(|link| link.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|error| format!("can't find the interface {name} again: {error}"))?;
        let mut interface = Self {
            tun,
            index: link.index,
            mtu: link.mtu,
            gone: false,
            moved: false,
            is_hosts: matches!(keeper, Keeper::Host(_)),
        };
        let up = interface.prepare(&mut netlink, &link, config)?;
        Ok((interface, up))
    }

    /// Gives it what the configuration says; answers whether it is up then.
    fn prepare(
        &mut self,
        netlink: &mut Netlink,
        link: &Link,
        config: &config::Port,
    ) -> Result<bool, String> {
        self.set_mtu(netlink, link, config)?;
        if self.is_hosts {
            return Ok(link.up);
        }
        self.set_up(netlink, link, config)?;
        let name = &link.name;
        for &address in &config.interface_addresses {
            netlink
                .add_address(self.index, address)
                .map_err(|error| refused(name, &format!("the address {address}"), &error, &format!("`ip address add {address} dev {name}` says more; leave `addresses` out to set them by other means")))?;
        }
        Ok(true)
    }

    /// Takes it as it is again, which is back from another network namespace; answers whether it is up then.
    pub(super) fn resume(&mut self, config: &config::Port) -> Result<bool, String> {
        let mut netlink = netlink()?;
        let Some(link) = self.here(&mut netlink) else {
            return Ok(false);
        };
        self.prepare(&mut netlink, &link, config)
    }

    fn set_mtu(
        &mut self,
        netlink: &mut Netlink,
        link: &Link,
        config: &config::Port,
    ) -> Result<(), String> {
        let (name, mtu) = (&link.name, u32::from(config.mtu));
        if link.mtu != mtu {
            netlink.set_mtu(link.index, mtu).map_err(|error| {
                let by_hand = format!("`ip link set {name} mtu {mtu}` says more");
                refused(name, &format!("an MTU of {mtu}"), &error, &by_hand)
            })?;
        }
        self.mtu = mtu;
        Ok(())
    }

    /// Ethernet address, up: what is so already needs no right to set it.
    fn set_up(
        &self,
        netlink: &mut Netlink,
        link: &Link,
        config: &config::Port,
    ) -> Result<(), String> {
        let name = &link.name;
        let mac = config.mac.octets();
        if self.tun.layer() == Layer::Ethernet && link.mac != Some(mac) {
            netlink.set_mac(link.index, mac).map_err(|error| {
                let by_hand = format!("`ip link set {name} address {}` says more", config.mac);
                refused(
                    name,
                    &format!("the Ethernet address {}", config.mac),
                    &error,
                    &by_hand,
                )
            })?;
        }
        if !link.up {
            netlink.set_up(link.index).map_err(|error| {
                let by_hand = format!("`ip link set {name} up` says more");
                refused(name, "up", &error, &by_hand)
            })?;
        }
        Ok(())
    }

    /// Refuses a change that does not reach the interface where it is.
    pub(super) fn check_reach(&self, old: &config::Port, new: &config::Port) -> Result<(), String> {
        let stays = old.mtu == new.mtu
            && old.mac == new.mac
            && old.interface_addresses == new.interface_addresses;
        if !self.moved || stays {
            return Ok(());
        }
        let name = self.tun.interface();
        Err(format!(
            "the interface {name} is in another network namespace, where its MTU, Ethernet address and addresses can't be changed from here: move it back first, or remove the port and add it again"
        ))
    }

    /// Carries a change of the configuration over to the interface as it stands. What it did before it failed stays
    /// done; the change back undoes it.
    pub(super) fn adjust(&mut self, old: &config::Port, new: &config::Port) -> Result<(), String> {
        if self.gone || self.moved {
            return Ok(());
        }
        let name = self.tun.interface().to_owned();
        let mut netlink = netlink()?;
        let link = netlink
            .link_by_index(self.index)
            .and_then(|link| link.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|error| format!("can't look at the interface {name}: {error}"))?;
        if old.mtu != new.mtu || old.mac != new.mac {
            self.set_mtu(&mut netlink, &link, new)?;
            self.set_up(&mut netlink, &link, new)?;
        }
        if old.interface_addresses != new.interface_addresses {
            self.readdress(
                &mut netlink,
                &old.interface_addresses,
                &new.interface_addresses,
            )?;
        }
        Ok(())
    }

    /// New addresses come before old ones go: without any the kernel drops the interface's routes. Of IPv6 it has an
    /// address once, whatever the prefix.
    fn readdress(
        &self,
        netlink: &mut Netlink,
        before: &[IpNet],
        after: &[IpNet],
    ) -> Result<(), String> {
        let name = self.tun.interface();
        let gone = || before.iter().filter(|net| !after.contains(net));
        let is_in_the_way = |net: &&IpNet| {
            matches!(net, IpNet::V6(_)) && after.iter().any(|new| new.addr() == net.addr())
        };
        let remove = |netlink: &mut Netlink, net: &IpNet| {
            let removed = netlink.remove_address(self.index, *net);
            removed.map_err(|error| refused(name, &format!("without {net}"), &error, ""))
        };
        let add = |netlink: &mut Netlink, net: &IpNet| {
            let added = netlink.add_address(self.index, *net);
            added.map_err(|error| refused(name, &format!("the address {net}"), &error, ""))
        };
        for net in gone().filter(is_in_the_way) {
            remove(netlink, net)?;
        }
        after.iter().try_for_each(|net| add(netlink, net))?;
        for net in gone().filter(|net| !is_in_the_way(net)) {
            remove(netlink, net)?;
        }
        // With a prefix's first address the kernel takes the others of that prefix, unless it promotes them.
        after.iter().try_for_each(|net| add(netlink, net))
    }

    /// What news of links mean for this interface. They may be older than what was done to
    /// it since, so the interface itself is looked at.
    pub(super) fn hears(&mut self, news: &LinkNews, was_up: bool) -> Vec<InterfaceEvent> {
        match news {
            _ if self.gone => Vec::new(),
            // It may have another number now.
            LinkNews::Changed(_) | LinkNews::Missed if self.moved => self.look_elsewhere(),
            _ if self.moved => Vec::new(),
            LinkNews::Changed(link) | LinkNews::Deleted(link) if link.index != self.index => {
                Vec::new()
            }
            LinkNews::Changed(_) | LinkNews::Deleted(_) | LinkNews::Missed => self.look(was_up),
        }
    }

    fn look(&mut self, was_up: bool) -> Vec<InterfaceEvent> {
        let look = |mut netlink: Netlink| netlink.link_by_index(self.index);
        match Netlink::open().and_then(look) {
            // Whatever its name is now.
            Ok(Some(link)) if link.tun.is_some() => self.compare(&link, was_up),
            Ok(_) => self.lost(),
            // No news then.
            Err(_) => Vec::new(),
        }
    }

    fn look_elsewhere(&mut self) -> Vec<InterfaceEvent> {
        let found = Netlink::open().ok();
        let Some(link) = found.and_then(|mut netlink| self.here(&mut netlink)) else {
            return Vec::new();
        };
        (self.index, self.mtu, self.moved) = (link.index, link.mtu, false);
        vec![InterfaceEvent::Back]
    }

    /// It, if it is in our network namespace.
    fn here(&self, netlink: &mut Netlink) -> Option<Link> {
        let name = self.tun.name_here().ok()??;
        netlink.link(&name).ok()?
    }

    fn compare(&mut self, link: &Link, was_up: bool) -> Vec<InterfaceEvent> {
        let mut events = Vec::new();
        if link.mtu != self.mtu {
            self.mtu = link.mtu;
            events.push(InterfaceEvent::Mtu(link.mtu));
        }
        if link.up != was_up {
            events.push(if link.up {
                InterfaceEvent::Up
            } else {
                InterfaceEvent::Down
            });
        }
        events
    }

    fn lost(&mut self) -> Vec<InterfaceEvent> {
        if self.tun.is_attached() {
            self.moved = true;
            return vec![InterfaceEvent::Moved];
        }
        self.gone = true;
        vec![InterfaceEvent::Deleted]
    }
}

/// The watch over all interfaces; without one an operator is told once.
pub(super) fn watch() -> Option<LinkWatch> {
    LinkWatch::open()
        .inspect_err(|error| {
            tracing::warn!(%error, "can't listen to the kernel's news of interfaces: changes of tun ports are not noticed");
        })
        .ok()
}

fn netlink() -> Result<Netlink, String> {
    Netlink::open().map_err(|error| format!("can't open a netlink socket: {error}"))
}

fn refused(name: &str, what: &str, error: &io::Error, by_hand: &str) -> String {
    let right = if error.kind() == io::ErrorKind::PermissionDenied {
        " (it takes CAP_NET_ADMIN)"
    } else {
        ""
    };
    let by_hand = match by_hand {
        "" => String::new(),
        text => format!("; {text}"),
    };
    format!("can't give the interface {name} {what}: {error}{right}{by_hand}")
}

/// Whether an interface that is there can be ours.
fn claim(link: &Link, layer: Layer) -> Result<Claim, String> {
    let (name, wanted) = (&link.name, layer.name());
    let Some(tun) = link.tun else {
        let kind = match link.kind.as_str() {
            "" => "a device".to_owned(),
            kind => format!("a {kind} interface"),
        };
        return Err(format!(
            "the interface {name} exists and is {kind}, no {wanted}: choose another `interface`"
        ));
    };
    let found = if tun.tap { "tap" } else { "tun" };
    if found != wanted {
        return Err(format!(
            "the interface {name} exists and is a {found}, no {wanted}: choose `driver: {found}` or another `interface`"
        ));
    }
    if !tun.persistent || tun.queues > 0 {
        return Err(format!(
            "the interface {name} belongs to another running program: choose another `interface`"
        ));
    }
    Ok(Claim::Attach {
        multi_queue: tun.multi_queue,
    })
}
