//! The interface by which the host's kernel shares an uplink.
//!
//! In: what it is to be. Out: an interface that has the NIC's MAC address, MTU, addresses and routes, and is up. Never: an
//! interface that somebody else has made; one that stays behind; an address or a route that was not set here, taken away.

use std::{io, sync::Arc};

use culvert_dataplane::guest::tun::{Claim, Layer, Tun, TunConfig};
use culvert_vhost::Offloads;
use ipnet::IpNet;

use crate::{
    config::UplinkRoute,
    netlink::{Link, Netlink, Route},
};

/// What marks routes of ours (`rt_protos`: no program's that is known).
pub(super) const PROTOCOL: u8 = 67;
/// Behind routes that somebody sets by hand.
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
    setting: Option<Setting>,
}

impl Tap {
    /// Makes it; it is down and has nothing.
    pub(crate) fn make(interface: &str) -> Result<Self, String> {
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
            setting: None,
        })
    }

    /// Where its frames are.
    pub(crate) fn tun(&self) -> &Arc<Tun> {
        &self.tun
    }

    /// The kernel's number for it.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Gives it what it has not yet, and takes what it is to have no more; has it up.
    pub(crate) fn set(&mut self, new: Setting) -> Result<(), String> {
        if self.setting.as_ref() == Some(&new) {
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
        netlink.set_up(index).map_err(refused("up".into()))?;

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

    fn route(&self, route: &UplinkRoute) -> Route {
        Route {
            to: route.to,
            via: route.via,
            link: self.index,
            metric: METRIC,
            protocol: PROTOCOL,
            table: MAIN,
        }
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
