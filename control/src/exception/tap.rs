//! The interface by which the host's kernel shares an uplink.
//!
//! In: what it is to be. Out: an interface that has the NIC's MAC address, MTU, addresses and routes, and is up; what
//! somebody has made of it. Never: an interface that somebody else has made; one that stays behind; an address or a route
//! that was not set here, taken away; one that somebody has set down, set up.

use std::{fs, io, path::Path, sync::Arc};

use culvert_dataplane::guest::tun::{Claim, Layer, Tun, TunConfig};
use culvert_vhost::Offloads;
use ipnet::IpNet;

use crate::{
    config::UplinkRoute,
    netlink::{Link, Netlink, Route},
};

/// What marks routes of ours (`rt_protos`: no program's that is known).
pub(super) const PROTOCOL: u8 = 67;
/// Behind routes that somebody sets by hand; each interface of ours has one of its own from here on, or the kernel would
/// take one's route in place of another's.
const METRIC: u32 = 1_024;
/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// What an interface is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The device's.
    pub(crate) mac: [u8; 6],
    /// The uplink's.
    pub(crate) mtu: u16,
    /// The uplink's.
    pub(crate) addresses: Vec<IpNet>,
    /// The uplink's, as the file has them.
    pub(crate) routes: Vec<UplinkRoute>,
}

/// An interface of ours.
pub(crate) struct Tap {
    tun: Arc<Tun>,
    index: u32,
    /// Which one of ours it is; of equal routes that of the lowest counts.
    rank: u32,
    /// Its link as it was told last.
    is_linked: bool,
    setting: Option<Setting>,
    presence: Presence,
}

/// What somebody has made of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is there.
    Up,
    /// It was set down: the kernel neither sends nor hears by it, and has taken its routes and IPv6 addresses off it.
    Down,
    /// It is in another network namespace, where it has its frames, and what it is given there.
    Moved,
    /// It was deleted.
    Gone,
}

impl Tap {
    /// Makes it; it is down and has nothing.
    pub(crate) fn make(interface: &str, rank: u32) -> Result<Self, String> {
        let mut netlink = netlink()?;
        let look = |netlink: &mut Netlink| {
            let link = netlink.link(interface);
            link.map_err(|error| format!("can't look for the interface {interface}: {error}"))
        };
        if let Some(link) = look(&mut netlink)? {
            return Err(taken(&link));
        }
        let tun = Tun::open(&TunConfig {
            interface: interface.to_owned(),
            layer: Layer::Ethernet,
            queues: 1,
            offloads: Offloads::empty(),
            claim: Claim::Make,
        });
        let tun = tun.map(Arc::new).map_err(|error| error.to_string())?;
        let gone = || format!("can't find the interface {interface} again");
        let link = look(&mut netlink)?.ok_or_else(gone)?;
        Ok(Self {
            tun,
            index: link.index,
            rank,
            is_linked: true,
            setting: None,
            presence: Presence::Up,
        })
    }

    /// Which one of ours it is.
    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }

    /// Whether its link was up when it was told last.
    pub(crate) fn is_linked(&self) -> bool {
        self.is_linked
    }

    /// Has the kernel find its link up or down.
    pub(crate) fn link(&mut self, up: bool) {
        self.is_linked = up;
        // Before Linux 5.0 it is up all the same.
        let _ = self.tun.set_carrier(up);
    }

    /// Where its frames are.
    pub(crate) fn tun(&self) -> &Arc<Tun> {
        &self.tun
    }

    /// The kernel's number for it.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Looks what has become of it; answers that if it is news.
    pub(crate) fn look(&mut self) -> Option<Presence> {
        let now = match self.found() {
            _ if self.tun.is_gone() || !self.tun.is_attached() => Presence::Gone,
            Ok(Some(link)) if link.up || self.is_back(&link) => {
                self.index = link.index;
                Presence::Up
            }
            Ok(Some(_)) => Presence::Down,
            Ok(None) => Presence::Moved,
            Err(_) => return None,
        };
        let before = std::mem::replace(&mut self.presence, now);
        if now == Presence::Up && before != now {
            // What it lost meanwhile it is given again.
            self.setting = None;
        }
        (now != before).then_some(now)
    }

    /// It, if it is in our network namespace.
    fn found(&self) -> io::Result<Option<Link>> {
        let mut netlink = Netlink::open()?;
        match self.tun.name_here() {
            Ok(Some(name)) => netlink.link(&name),
            Ok(None) => Ok(None),
            // Its number is its own as long as it stays.
            Err(_) => netlink.link_by_index(self.index),
        }
    }

    /// Whether it comes from another network namespace: the kernel, not somebody, has set it down on its way.
    fn is_back(&self, link: &Link) -> bool {
        self.presence == Presence::Moved || link.index != self.index
    }

    /// Whether it was deleted, as far as it was looked.
    pub(crate) fn is_gone(&self) -> bool {
        self.presence == Presence::Gone
    }

    /// Gives it what it has not yet, and takes what it is to have no more; has it up at first.
    pub(crate) fn set(&mut self, new: Setting) -> Result<(), String> {
        if self.setting.as_ref() == Some(&new) || self.presence != Presence::Up {
            return Ok(());
        }
        let before = self.setting.take();
        let mut netlink = netlink()?;
        let refused = |what: String| {
            let name = self.tun.interface();
            move |error: io::Error| refused(name, &what, &error)
        };
        // 1. What it is.
        let index = self.index;
        netlink
            .set_mtu(index, new.mtu.into())
            .map_err(refused(format!("an MTU of {}", new.mtu)))?;
        netlink
            .set_mac(index, new.mac)
            .map_err(refused("the device's Ethernet address".into()))?;
        if before.is_none() {
            self.keep_from_routers(&mut netlink);
            netlink.set_up(index).map_err(refused("up".into()))?;
        }

        // 2. Addresses: new ones first, since without any the kernel drops the interface's routes.
        let old = before.as_ref().map(|it| &it.addresses[..]);
        for &address in &new.addresses {
            netlink
                .add_address(index, address)
                .map_err(refused(format!("the address {address}")))?;
        }
        for &address in old.unwrap_or_default() {
            if !new.addresses.contains(&address) {
                netlink
                    .remove_address(index, address)
                    .map_err(refused(format!("without {address}")))?;
            }
        }

        // 3. Routes, of which an address that went may have taken some.
        let old = before.as_ref().map(|it| &it.routes[..]);
        for route in old.unwrap_or_default() {
            if !new.routes.contains(route) {
                netlink
                    .remove_route(&self.route(route))
                    .map_err(refused(format!("without a route to {}", route.to)))?;
            }
        }
        for route in &new.routes {
            netlink
                .add_route(&self.route(route))
                .map_err(refused(format!(
                    "the route to {} via {}",
                    route.to, route.via
                )))?;
        }
        self.setting = Some(new);
        Ok(())
    }

    /// Has the kernel take neither addresses nor routes of routers by it: it has those of the uplink alone.
    fn keep_from_routers(&self, netlink: &mut Netlink) {
        let Ok(Some(link)) = netlink.link_by_index(self.index) else {
            return;
        };
        if let Err(error) = ["accept_ra", "autoconf"]
            .iter()
            .try_for_each(|key| switch_off(&link.name, key))
        {
            tracing::warn!(
                interface = link.name,
                %error,
                "can't keep the kernel from taking addresses and routes of routers by the interface: set `net.ipv6.conf.{}.accept_ra` to 0, or let Culvert write /proc/sys/net/ipv6/conf (`ReadWritePaths=` of its unit)",
                link.name
            );
        }
    }

    fn route(&self, route: &UplinkRoute) -> Route {
        Route {
            to: route.to,
            via: route.via,
            link: self.index,
            metric: METRIC + self.rank,
            protocol: PROTOCOL,
            table: MAIN,
        }
    }
}

/// Writes 0 into a key of an interface's IPv6, unless it is that already.
fn switch_off(interface: &str, key: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net/ipv6/conf")
        .join(interface)
        .join(key);
    match fs::read_to_string(&path) {
        Ok(value) if value.trim() == "0" => Ok(()),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => fs::write(path, "0"),
    }
}

fn netlink() -> Result<Netlink, String> {
    Netlink::open().map_err(|error| format!("can't open a netlink socket: {error}"))
}

fn taken(link: &Link) -> String {
    let kind = match (link.tun, link.kind.as_str()) {
        (Some(tun), _) if tun.persistent => "an interface that was made to stay",
        (Some(_), _) => "another program's",
        (None, "") => "a device",
        (None, kind) => {
            return format!(
                "the interface {} exists and is a {kind} interface: {MEND}",
                link.name
            );
        }
    };
    format!("the interface {} exists and is {kind}: {MEND}", link.name)
}

const MEND: &str = "the exception path makes one of its own, so choose another name for `exception`, or remove this one (`ip link del`)";

fn refused(name: &str, what: &str, error: &io::Error) -> String {
    let right = if error.kind() == io::ErrorKind::PermissionDenied {
        " (it takes CAP_NET_ADMIN, and for IPv6 that `disable_ipv6` is 0)"
    } else {
        ""
    };
    format!("can't give the interface {name} {what}: {error}{right}")
}
