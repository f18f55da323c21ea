//! The configuration as workers read it: immutable, swapped at a burst boundary.
//!
//! In: what the control core compiled from the YAML. Out: ports, networks, routes,
//! tunnels, peers by index. Never: anything that changes by itself (keypairs,
//! endpoints and counters lie in cells that snapshots share).
//!
//! Threads: any worker reads; the control core makes a new one and frees the old.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use culvert_vhost as vhost;
use culvert_wire::{
    MacAddr,
    ether::VlanId,
    fib::{Fib, Prefix},
};
use culvert_wireguard::cookie::Mac1;

use crate::{
    guest::tun::{Layer, Tun},
    shared::{
        allowance::Allowance,
        drops::Drops,
        ids::{AttachmentIndex, NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex},
        leaves::Leaves,
        link_locals::LinkLocals,
        peer::Peer,
        sessions::SessionTable,
    },
    uplink::Uplink,
};

/// Where a network's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The gateway's own address.
    Gateway,
    /// A guest of this network.
    Guest(AttachmentIndex),
    /// A peer of the network's tunnel.
    Peer(PeerIndex),
    /// Nobody's: an address of the gateway's prefix without a port, or by the operator's
    /// word.
    Unreachable,
}

/// What of a guest's frames is checked against its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Source MAC, source IP, ARP and ND.
    Strict,
    /// The source MAC.
    Mac,
    /// Nothing.
    Off,
}

/// What is behind a port.
#[derive(Clone, Debug)]
pub enum Guest {
    /// A virtual machine: its rings.
    Vhost(Arc<vhost::Port>),
    /// The host, or a container: an interface of the kernel's.
    Tun(Arc<Tun>),
}

impl Guest {
    /// The port of a virtual machine.
    #[must_use]
    pub fn vhost(&self) -> Option<&Arc<vhost::Port>> {
        match self {
            Self::Vhost(port) => Some(port),
            Self::Tun(_) => None,
        }
    }

    /// Whether frames to queue `queue` can arrive.
    #[must_use]
    pub fn takes(&self, queue: u16) -> bool {
        match self {
            Self::Vhost(port) => port.guest_rx(queue).is_live(),
            Self::Tun(tun) => !tun.is_gone(),
        }
    }

    /// Whether it speaks IP alone: neighbors, broadcasts and other protocols are nothing
    /// to it.
    #[must_use]
    pub fn is_ip_only(&self) -> bool {
        match self {
            Self::Vhost(_) => false,
            Self::Tun(tun) => tun.layer() == Layer::Ip,
        }
    }
}

/// What a guest is attached with: who it is to its network. MAC tables, next hops and
/// guards know this, and not the port.
///
/// A port has one, or, as a trunk, one for each of its VLANs. What tells them apart, the tag,
/// is known in two places alone: the door, where it is taken off (`outbound/door.rs`), and the
/// outlet, where it is put on (`guest/deliver.rs`). In between no frame has one that is ours.
#[derive(Debug)]
pub struct Attachment {
    /// Its number.
    pub index: AttachmentIndex,
    /// Where its frames come from and go to.
    pub port: PortIndex,
    /// The VLAN of the port's; without one its frames have no tag.
    pub vlan: Option<VlanId>,
    /// Its network.
    pub network: NetworkIndex,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// The guest's IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Link-local addresses that the guest has come to own.
    pub link_locals: Arc<LinkLocals>,
    /// ICMP errors that it may be sent.
    pub errors: Arc<Allowance>,
    /// Questions of its guest's that come before those of guests that ask more.
    pub questions: Arc<Allowance>,
    /// Whether the network's services are for this guest, too.
    pub is_served: bool,
    /// What of its frames is checked.
    pub guard: Guard,
}

/// A guest port: rings or an interface.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub index: PortIndex,
    /// The operator's name for it.
    pub name: String,
    /// What its guest is attached with without a tag. A trunk may have none.
    pub attachment: Option<AttachmentIndex>,
    /// What it is attached with beside that, in the order of VLANs. With any the port is a trunk.
    pub vlans: Vec<(VlanId, AttachmentIndex)>,
    /// Its rings or its interface.
    pub guest: Guest,
    /// The number of queue pairs.
    pub queues: u16,
    /// Frames from the guest that went nowhere; its rings count the rest.
    pub drops: Arc<Drops>,
}

impl Port {
    /// Whether its guest's frames may have tags.
    #[must_use]
    pub fn is_trunk(&self) -> bool {
        !self.vlans.is_empty()
    }

    /// What its guest is attached with in a VLAN.
    #[must_use]
    pub fn vlan(&self, vlan: VlanId) -> Option<AttachmentIndex> {
        let position = self.vlans.binary_search_by_key(&vlan, |&(vlan, _)| vlan);
        self.vlans.get(position.ok()?).map(|&(_, index)| index)
    }

    /// All that its guest is attached with.
    pub fn attachments(&self) -> impl Iterator<Item = AttachmentIndex> {
        let tagged = self.vlans.iter().map(|&(_, index)| index);
        self.attachment.into_iter().chain(tagged)
    }
}

/// What a network's gateway serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Addresses, by DHCP and DHCPv6.
    pub dhcp: bool,
    /// Router advertisements.
    pub routers: bool,
}

/// A network: ports behind one gateway.
#[derive(Clone, Debug)]
pub struct Network {
    /// The operator's name for it.
    pub name: String,
    /// The gateway's MAC address.
    pub gateway_mac: MacAddr,
    /// The gateway's addresses.
    pub gateways: Vec<IpAddr>,
    /// Their prefixes: what is on the network's link.
    pub prefixes: Vec<Prefix>,
    /// The tunnel that its traffic takes.
    pub tunnel: Option<TunnelIndex>,
    /// Who has which MAC address, sorted.
    pub macs: Arc<[(MacAddr, AttachmentIndex)]>,
    /// How many of those hear broadcasts: all but who speaks IP alone.
    pub listeners: usize,
    /// Who has which IP address. Of a plain network: peers alone.
    pub routes: Fib<NextHop>,
    /// A network without a router of ours: this one guest, and its tunnel. Packets pass
    /// between them untouched, as through a WireGuard interface of the kernel's; where
    /// they go beyond is for the host's own routes to say.
    pub plain: Option<AttachmentIndex>,
    /// What guests may ask the gateway for.
    pub services: Services,
}

impl Network {
    /// Whether `address` is the one that the gateway speaks from on the link, which is made of its MAC address.
    #[must_use]
    pub fn is_gateway_link_local(&self, address: Ipv6Addr) -> bool {
        let bits = (0xfe80_u128 << 112) | u128::from(self.gateway_mac.interface_id());
        address.to_bits() == bits && self.gateways.iter().any(IpAddr::is_ipv6)
    }

    /// Whether `address` is on the network's link.
    #[must_use]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// The guest that has `mac`.
    #[must_use]
    pub fn by_mac(&self, mac: MacAddr) -> Option<AttachmentIndex> {
        let position = self.macs.binary_search_by_key(&mac, |&(mac, _)| mac).ok()?;
        self.macs.get(position).map(|&(_, guest)| guest)
    }
}

/// A tunnel: one WireGuard interface.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The operator's name for it.
    pub name: String,
    /// The largest inner IP packet; a peer's path may take less.
    pub mtu: u16,
    /// TCP connections through it are offered an MSS that fits.
    pub mss_clamp: bool,
    /// The network behind it.
    pub network: Option<NetworkIndex>,
    /// Which peer may send from which address.
    pub allowed: Fib<PeerIndex>,
    /// The check that lets a handshake message into the queue.
    pub mac1: Option<Mac1>,
    /// Receiver indices; lives as long as the tunnel.
    pub sessions: Arc<SessionTable>,
}

/// A guest where it is attached.
#[derive(Clone, Copy, Debug)]
pub struct Attached<'s> {
    /// What it is attached with.
    pub attachment: &'s Attachment,
    /// Where its frames come from and go to.
    pub port: &'s Port,
    /// What it is attached to.
    pub network: &'s Network,
}

/// The guest queues that one worker polls, in order.
pub type GuestQueues = Vec<(PortIndex, u16)>;

/// All of it. A clone shares everything: the next one is made of the last, with what changed.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots.
    pub generation: u64,
    /// By `PortIndex`.
    pub ports: Leaves<Arc<Port>>,
    /// By `AttachmentIndex`.
    pub attachments: Leaves<Arc<Attachment>>,
    /// By `NetworkIndex`.
    pub networks: Leaves<Arc<Network>>,
    /// By `TunnelIndex`.
    pub tunnels: Leaves<Arc<Tunnel>>,
    /// By `PeerIndex`.
    pub peers: Leaves<Arc<Peer>>,
    /// By `UplinkIndex`.
    pub uplinks: Leaves<Arc<Uplink>>,
    /// By `WorkerIndex`.
    pub workers: Vec<Arc<GuestQueues>>,
}

impl Snapshot {
    /// The port `index`.
    #[must_use]
    pub fn port(&self, index: PortIndex) -> Option<&Arc<Port>> {
        self.ports.get(index.slot())
    }

    /// The attachment `index`.
    #[must_use]
    pub fn attachment(&self, index: AttachmentIndex) -> Option<&Arc<Attachment>> {
        self.attachments.get(index.slot())
    }

    /// The attachment `index` with its port and its network.
    #[must_use]
    pub fn attached(&self, index: AttachmentIndex) -> Option<Attached<'_>> {
        let attachment = self.attachment(index)?;
        Some(Attached {
            port: self.port(attachment.port)?,
            network: self.network(attachment.network)?,
            attachment,
        })
    }

    /// The network `index`.
    #[must_use]
    pub fn network(&self, index: NetworkIndex) -> Option<&Network> {
        self.networks.get(index.slot()).map(Arc::as_ref)
    }

    /// The tunnel `index`.
    #[must_use]
    pub fn tunnel(&self, index: TunnelIndex) -> Option<&Tunnel> {
        self.tunnels.get(index.slot()).map(Arc::as_ref)
    }

    /// The peer `index`.
    #[must_use]
    pub fn peer(&self, index: PeerIndex) -> Option<&Arc<Peer>> {
        self.peers.get(index.slot())
    }

    /// The uplink `index`.
    #[must_use]
    pub fn uplink(&self, index: UplinkIndex) -> Option<&Arc<Uplink>> {
        self.uplinks.get(index.slot())
    }
}

/// Where the current snapshot is published.
pub type SnapshotCell = ArcSwap<Snapshot>;
