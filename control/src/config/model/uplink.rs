//! Ways out of the machine.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what devices and sockets are opened by. Never: a file's text.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{MacAddr, Name, OwnUdp, Served, WorkerIndex};

/// A way out of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The operator's name for it.
    pub name: Name,
    /// What carries its packets.
    pub driver: UplinkDriver,
    /// Own addresses with their on-link prefixes. Empty for DPDK: they are learned; for kernel UDP
    /// it means every address of the machine.
    pub addresses: Vec<IpNet>,
    /// It learns an IPv4 address by DHCP (DPDK only).
    pub dhcp4: bool,
    /// It learns IPv6 addresses and routers of router advertisements (DPDK only).
    pub accept_ra: bool,
    /// Routes beyond the on-link prefixes (DPDK only: the kernel has its own).
    pub routes: Vec<UplinkRoute>,
    /// Neighbors that are where this says (DPDK only: the kernel has its own).
    pub neighbors: Vec<UplinkNeighbor>,
    /// Servers that names are asked of; `None`: those that it learns (DPDK only: the kernel's resolver has its own).
    pub nameservers: Option<Vec<IpAddr>>,
    /// The largest IP packet that leaves or arrives, in bytes.
    pub mtu: u16,
    /// How many RX and TX queues the device is given (DPDK) or sockets are opened (UDP).
    pub queues: u16,
    /// Which worker serves which queue: `queue_workers[queue]`, `queues` long.
    pub queue_workers: Vec<WorkerIndex>,
    /// The session that says whether a neighbor is alive (DPDK only).
    pub bfd: Option<Bfd>,
    /// Else it is not open, and nothing leaves or arrives by it.
    pub enabled: bool,
    /// What it serves by itself (DPDK only).
    pub serves: Served,
}

/// A BFD session (RFC 5880) with a neighbor on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// The neighbor.
    pub peer: IpAddr,
    /// Milliseconds between two packets, either way.
    pub interval_ms: u32,
    /// So many may be missed.
    pub multiplier: u8,
}

impl Uplink {
    /// Whether it may have an IPv6 address.
    pub fn has_v6(&self) -> bool {
        self.accept_ra || self.addresses.iter().any(|net| net.addr().is_ipv6())
    }

    /// What of it takes UDP ports.
    pub(crate) const fn own_udp(&self) -> OwnUdp {
        OwnUdp {
            dhcp4: self.dhcp4,
            responder: !self.serves.responder.is_empty(),
            bfd: self.bfd.is_some(),
        }
    }
}

/// What carries an uplink's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkDriver {
    /// A device that DPDK drives.
    Dpdk(DpdkUplink),
    /// The kernel's UDP sockets.
    Udp(UdpUplink),
}

/// A device that DPDK drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkUplink {
    /// The device's devargs.
    pub device: DpdkDevice,
    /// What a bond is made of.
    pub members: Vec<DpdkDevice>,
    /// Entries of each RX ring.
    pub rx_descriptors: u16,
    /// Entries of each TX ring.
    pub tx_descriptors: u16,
    /// The host's kernel shares the uplink.
    pub exception: Option<Exception>,
}

/// The exception path: an interface of the kernel's that has all that comes by an uplink and is for nobody here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The interface's name.
    pub interface: String,
    /// The table of the kernel's whose routes by that interface are the uplink's, too.
    pub routes_from: Option<u32>,
}

/// A device by its devargs: `name[,key=value…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkDevice {
    /// The bus that the name belongs to.
    pub bus: DpdkBus,
    /// What `rte_eth_dev_get_port_by_name` knows it by: `0000:3b:00.0`, `net_af_packet0`.
    pub name: String,
    /// Everything behind the first comma, or empty.
    pub args: String,
}

impl DpdkDevice {
    /// Whether it is made of others.
    pub fn is_bond(&self) -> bool {
        self.name.starts_with("net_bonding")
    }

    /// Name and arguments as EAL takes them.
    pub fn devargs(&self) -> String {
        if self.args.is_empty() {
            self.name.clone()
        } else {
            format!("{},{}", self.name, self.args)
        }
    }
}

impl DpdkUplink {
    /// Its device in words, with what that is made of.
    pub fn named(&self) -> String {
        let members: Vec<_> = self.members.iter().map(DpdkDevice::devargs).collect();
        match members.is_empty() {
            true => self.device.devargs(),
            false => format!("{} of {}", self.device.devargs(), members.join(" and ")),
        }
    }

    /// All devices that are plugged for it.
    pub fn devices(&self) -> impl Iterator<Item = &DpdkDevice> {
        [&self.device].into_iter().chain(&self.members)
    }
}

/// The DPDK bus of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpdkBus {
    /// A PCI address with its domain.
    Pci,
    /// A virtual device (`net_…`).
    Vdev,
    /// Any other bus, spelled `bus:name`.
    Other,
}

/// The kernel's UDP sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpUplink {
    /// The interface that the sockets are bound to (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// The mark on outgoing packets (`SO_MARK`).
    pub fwmark: Option<u32>,
}

/// A route of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkRoute {
    /// The prefix; `default` is `0.0.0.0/0` or `::/0` by the family of `via`.
    pub to: IpNet,
    /// The router, on-link at this uplink.
    pub via: IpAddr,
    /// Of equal prefixes the least counts.
    pub metric: u32,
    /// The own address that is spoken from to what is there.
    pub from: Option<IpAddr>,
}

/// A neighbor of an uplink that is never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkNeighbor {
    /// Its address, on-link at this uplink.
    pub address: IpAddr,
    /// Where it is.
    pub mac: MacAddr,
}
