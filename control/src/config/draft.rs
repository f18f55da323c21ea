//! Values with their spans, as the file has them: what is between the tree and the model.
//!
//! In: [`super::read`] builds these. Out: [`super::cross`] compares them and [`super::build`] turns
//! them into the model. Never: a default: what the file doesn't say is `None` here, and so is what
//! was reported already.

mod peers;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use culvert_wire::ether::VlanId;
use ipnet::IpNet;

use super::places::ByName;
use super::report::Span;
use super::section::At;
use super::{
    Account, CpuId, Door, DpdkDevice, Endpoint, Guard, Hugepages, Labels, MacAddr, Name, Offloads,
    OwnUdp, Pmtu, Poll, Ra, Role, SocketMode, Uapi,
};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

pub(super) use self::peers::{AnyPeer, Known, Peers};

/// The whole file.
#[derive(Default)]
pub(super) struct File {
    pub(super) node: Option<At<Name>>,
    pub(super) cores: Cores,
    pub(super) memory: Memory,
    pub(super) metrics: Metrics,
    pub(super) api: Api,
    pub(super) uplinks: Vec<Uplink>,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) networks: Vec<Network>,
    pub(super) ports: Vec<Port>,
    pub(super) places: Places,
}

/// Where the things of a file stand in its lists.
#[derive(Default)]
pub(super) struct Places {
    uplinks: ByName,
    tunnels: ByName,
    networks: ByName,
}

/// What a reference names.
impl File {
    pub(super) fn uplink(&self, reference: Option<&At<Name>>) -> Option<&Uplink> {
        let names = self.uplinks.iter().map(|it| Some(&it.name.value));
        let place = self.places.uplinks.place(&reference?.value, names)?;
        self.uplinks.get(place)
    }

    pub(super) fn tunnel(&self, reference: Option<&At<Name>>) -> Option<&Tunnel> {
        let names = self.tunnels.iter().map(|it| Some(&it.name.value));
        let place = self.places.tunnels.place(&reference?.value, names)?;
        self.tunnels.get(place)
    }

    pub(super) fn network(&self, reference: Option<&At<Name>>) -> Option<&Network> {
        let names = self.networks.iter().map(|it| Some(&it.name.value));
        let place = self.places.networks.place(&reference?.value, names)?;
        self.networks.get(place)
    }
}

#[derive(Default)]
pub(super) struct Cores {
    pub(super) control: Option<At<CpuId>>,
    pub(super) workers: Option<Workers>,
    pub(super) poll: Poll,
}

pub(super) enum Workers {
    Pinned(Vec<At<CpuId>>),
    Count(u16),
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) hugepages: Hugepages,
    pub(super) megabytes: Option<u32>,
    pub(super) mtu_max: Option<At<u32>>,
}

#[derive(Default)]
pub(super) struct Metrics {
    pub(super) listen: Option<SocketAddr>,
    pub(super) wireguard_exporter: Option<bool>,
    pub(super) wireguard_exporter_peers: Option<u32>,
    pub(super) labels: Vec<String>,
}

#[derive(Default)]
pub(super) struct Api {
    pub(super) socket: ApiSocket,
    pub(super) readers: Option<Account>,
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) tls: Option<ApiTls>,
    /// Where `tls` stands without `listen`.
    pub(super) tls_alone: Option<Span>,
    pub(super) body_megabytes: Option<u32>,
    pub(super) key_directory: Option<PathBuf>,
}

#[derive(Default)]
pub(super) struct ApiSocket {
    pub(super) owner: Option<Account>,
    pub(super) group: Option<Account>,
    pub(super) permissions: Option<u32>,
}

pub(super) struct ApiTls {
    pub(super) certificate: At<PathBuf>,
    pub(super) key: At<PathBuf>,
    pub(super) client_ca: At<PathBuf>,
    pub(super) roles: Vec<(String, Role)>,
}

impl ApiTls {
    /// Where the path of a key stands.
    pub(super) fn place(&self, key: &str) -> Span {
        match key {
            "key" => self.key.span,
            "client_ca" => self.client_ca.span,
            _ => self.certificate.span,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UplinkKind {
    Dpdk,
    Udp,
}

pub(super) struct Uplink {
    pub(super) name: At<Name>,
    /// `None`: the section is broken, nothing else of it is known.
    pub(super) kind: Option<UplinkKind>,
    pub(super) device: Option<At<DpdkDevice>>,
    pub(super) members: Vec<At<DpdkDevice>>,
    pub(super) interface: Option<String>,
    pub(super) addresses: Vec<At<IpNet>>,
    pub(super) dhcp4: bool,
    pub(super) accept_ra: bool,
    pub(super) routes: Vec<UplinkRoute>,
    pub(super) neighbors: Vec<UplinkNeighbor>,
    pub(super) nameservers: Option<Vec<At<IpAddr>>>,
    pub(super) mtu: Option<At<u32>>,
    pub(super) queues: Option<At<u32>>,
    pub(super) queue_workers: Option<At<Vec<At<u32>>>>,
    pub(super) serves: Served,
    pub(super) rx_descriptors: Option<u16>,
    pub(super) tx_descriptors: Option<u16>,
    pub(super) fwmark: Option<u32>,
    pub(super) exception: Option<At<String>>,
    pub(super) routes_from: Option<At<u32>>,
    pub(super) bfd: Option<Bfd>,
    pub(super) enabled: bool,
}

pub(super) struct Bfd {
    pub(super) peer: At<IpAddr>,
    pub(super) interval_ms: Option<u32>,
    pub(super) multiplier: Option<u32>,
}

#[derive(Default)]
pub(super) struct Served {
    pub(super) api: Option<At<Door>>,
    pub(super) metrics: Option<At<Door>>,
    pub(super) responder: Option<At<Vec<IpNet>>>,
}

impl Uplink {
    /// What of it takes UDP ports.
    pub(super) const fn own_udp(&self) -> OwnUdp {
        OwnUdp {
            dhcp4: self.dhcp4,
            responder: self.serves.responder.is_some(),
            bfd: self.bfd.is_some(),
        }
    }

    /// Whether it may have addresses of a family that stand nowhere.
    pub(super) const fn learns(&self, ipv4: bool) -> bool {
        if ipv4 { self.dhcp4 } else { self.accept_ra }
    }

    /// Whether it has servers of names, or may learn of some.
    pub(super) fn may_know_names(&self) -> bool {
        let learns = self.dhcp4 || self.accept_ra;
        (self.nameservers.as_ref()).map_or(learns, |servers| !servers.is_empty())
    }
}

pub(super) struct UplinkRoute {
    /// `None` is `default`.
    pub(super) to: At<Option<IpNet>>,
    pub(super) via: At<IpAddr>,
    pub(super) metric: u32,
    pub(super) from: Option<At<IpAddr>>,
}

pub(super) struct UplinkNeighbor {
    pub(super) address: At<IpAddr>,
    pub(super) mac: At<MacAddr>,
}

pub(super) struct Tunnel {
    pub(super) name: At<Name>,
    pub(super) uplink: Option<At<Name>>,
    /// Those behind the first of `uplinks`.
    pub(super) backups: Vec<At<Name>>,
    pub(super) listen_port: Option<At<u16>>,
    pub(super) mtu: Option<At<u32>>,
    pub(super) private_key_file: Option<At<PathBuf>>,
    pub(super) private_key: Option<PrivateKey>,
    pub(super) preshared_keys_file: Option<At<PathBuf>>,
    pub(super) fwmark: Option<At<u32>>,
    pub(super) uapi: Option<At<Uapi>>,
    pub(super) pmtu: Option<At<Pmtu>>,
    pub(super) peers: Peers,
}

impl Tunnel {
    /// What it names as its uplinks, the first choice first.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = &At<Name>> {
        self.uplink.iter().chain(&self.backups)
    }

    /// One of which only the name is known.
    pub(super) fn named(name: At<Name>) -> Self {
        Self {
            name,
            uplink: None,
            backups: Vec::new(),
            listen_port: None,
            mtu: None,
            private_key_file: None,
            private_key: None,
            preshared_keys_file: None,
            fwmark: None,
            uapi: None,
            pmtu: None,
            peers: Peers::default(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Peer {
    pub(super) name: At<Name>,
    pub(super) public_key: Option<At<PublicKey>>,
    pub(super) preshared_key: Option<PresharedKey>,
    pub(super) preshared_key_file: Option<PathBuf>,
    pub(super) endpoint: Option<At<Endpoint>>,
    pub(super) allowed_ips: Vec<At<IpNet>>,
    pub(super) persistent_keepalive: Option<u16>,
    pub(super) pmtu: Option<Pmtu>,
    pub(super) probe: Option<IpAddr>,
    pub(super) labels: Labels,
    pub(super) enabled: bool,
}

impl Peer {
    /// One of which only the name is known.
    pub(super) fn named(name: At<Name>) -> Self {
        Self {
            name,
            public_key: None,
            preshared_key: None,
            preshared_key_file: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            pmtu: None,
            probe: None,
            labels: Labels::default(),
            enabled: true,
        }
    }
}

pub(super) struct Network {
    pub(super) name: At<Name>,
    /// No `gateway` is written: a network without a router.
    pub(super) plain: bool,
    pub(super) gateways: Vec<At<IpNet>>,
    pub(super) gateway_mac: Option<At<MacAddr>>,
    pub(super) tunnel: Option<At<Name>>,
    pub(super) routes: Vec<NetworkRoute>,
    pub(super) mtu: Option<At<u32>>,
    pub(super) mss_clamp: Option<At<bool>>,
    /// `None` is the default; in it, `None` is `false`.
    pub(super) dhcp: Option<At<Option<Dhcp>>>,
    /// `None` is the default.
    pub(super) ra: Option<At<Ra>>,
}

#[derive(Default)]
pub(super) struct Dhcp {
    pub(super) dns: Vec<At<IpAddr>>,
    pub(super) domain: Option<String>,
    pub(super) lease: Option<u32>,
}

pub(super) struct NetworkRoute {
    /// `None` is `default`.
    pub(super) to: At<Option<IpNet>>,
    pub(super) next_hop: NextHop,
}

pub(super) enum NextHop {
    Peer(At<Name>),
    Guest(At<IpAddr>),
    Unreachable,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PortKind {
    VhostUser,
    Tun,
    Tap,
}

pub(super) struct Port {
    pub(super) name: At<Name>,
    pub(super) kind: PortKind,
    /// That without a VLAN first, then by VLAN.
    pub(super) attachments: Vec<Attachment>,
    pub(super) mac: Option<At<MacAddr>>,
    pub(super) queues: Option<At<u32>>,
    pub(super) queue_workers: Option<At<Vec<At<u32>>>>,
    pub(super) socket: Option<At<PathBuf>>,
    pub(super) socket_mode: SocketMode,
    pub(super) owner: Option<Account>,
    pub(super) group: Option<Account>,
    pub(super) permissions: Option<u32>,
    pub(super) interface: Option<At<String>>,
    pub(super) offloads: Offloads,
    pub(super) labels: Labels,
    pub(super) enabled: bool,
}

pub(super) struct Attachment {
    pub(super) vlan: Option<At<VlanId>>,
    pub(super) network: Option<At<Name>>,
    pub(super) addresses: Vec<At<IpAddr>>,
    /// Some of them were reported, and are not among them.
    pub(super) lacks_addresses: bool,
    /// `None` is the default.
    pub(super) guard: Option<At<Guard>>,
    pub(super) dhcp: bool,
}

impl Attachment {
    /// In words: "port `vm1`", "VLAN 10 of port `fw`".
    pub(super) fn title(&self, port: &Port) -> String {
        let port = &port.name.value;
        match &self.vlan {
            None => format!("port `{port}`"),
            Some(vlan) => format!("VLAN {} of port `{port}`", vlan.value),
        }
    }

    /// Where its VLAN stands, or its port's name.
    pub(super) fn span(&self, port: &Port) -> Span {
        self.vlan.as_ref().map_or(port.name.span, |at| at.span)
    }
}
