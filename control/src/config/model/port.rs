//! Ports, and what guests and the host are attached with by them.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what sockets and interfaces are opened by, and what a guest may
//! do. Never: a file's text.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use culvert_wire::ether::VlanId;
use ipnet::IpNet;

use super::{Labels, MacAddr, Name, WorkerIndex};

/// Where a guest (or the host) is attached to networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The operator's name for it.
    pub name: Name,
    /// How the guest is attached.
    pub driver: PortDriver,
    /// Queue pairs.
    pub queues: u16,
    /// Which worker serves which queue pair: `queue_workers[queue]`, `queues` long.
    pub queue_workers: Vec<WorkerIndex>,
    /// What its guest is attached with: at most one without a VLAN, which comes first, then by VLAN. One at least, and
    /// each in a network of its own.
    pub attachments: Vec<Attachment>,
    /// The guest's MAC address, in all its networks.
    pub mac: MacAddr,
    /// The addresses without a VLAN with the prefix lengths of their network, as a tun or tap port's interface is given
    /// them; of other ports none.
    pub interface_addresses: Vec<IpNet>,
    /// The MTU offered to the guest, in bytes: the largest of its networks'.
    pub mtu: u16,
    /// What is offered to the guest.
    pub offloads: Offloads,
    /// What others call it.
    pub labels: Labels,
    /// Else it is not open, and what it would have is for others to have.
    pub enabled: bool,
}

impl Port {
    /// What the guest is attached with without a VLAN.
    pub fn native(&self) -> Option<&Attachment> {
        self.attachments.iter().find(|it| it.vlan.is_none())
    }

    /// Where among its attachments that of a VLAN is.
    pub fn place(&self, vlan: Option<VlanId>) -> Option<usize> {
        self.attachments
            .binary_search_by_key(&vlan, |it| it.vlan)
            .ok()
    }

    /// What it is attached with by VLANs.
    pub fn vlans(&self) -> impl Iterator<Item = (VlanId, &Attachment)> {
        self.attachments
            .iter()
            .filter_map(|it| Some((it.vlan?, it)))
    }

    /// The networks that it joins.
    pub fn networks(&self) -> impl Iterator<Item = &Name> {
        self.attachments.iter().map(|it| &it.network)
    }
}

/// What a guest is attached to one network with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The VLAN of its port; without one its frames have no tag.
    pub vlan: Option<VlanId>,
    /// The network it joins.
    pub network: Name,
    /// The guest's addresses, each inside a gateway's prefix of its network (of a plain network:
    /// any).
    pub addresses: Vec<IpAddr>,
    /// What of a guest's frames is checked against its MAC address and these.
    pub guard: Guard,
    /// Whether its network's gateway tells the guest its addresses.
    pub dhcp: bool,
}

/// How a guest is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortDriver {
    /// A virtual machine over vhost-user.
    VhostUser(VhostUserPort),
    /// A kernel TUN interface (layer 3).
    Tun {
        /// The interface's name.
        interface: String,
    },
    /// A kernel TAP interface (layer 2).
    Tap {
        /// The interface's name.
        interface: String,
    },
}

/// A vhost-user socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserPort {
    /// Where the socket is.
    pub socket: SocketPath,
    /// Who listens.
    pub mode: SocketMode,
    /// Its owner (server mode); Culvert's own user without one.
    pub owner: Option<Account>,
    /// Its group (server mode); Culvert's own group without one.
    pub group: Option<Account>,
    /// Its permission bits (server mode).
    pub permissions: u32,
}

/// A socket's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketPath {
    /// As the file has it.
    Absolute(PathBuf),
    /// Below the run directory, whichever that is.
    InRunDir(PathBuf),
}

impl SocketPath {
    /// The path for one run directory.
    pub fn resolve(&self, run_dir: &Path) -> PathBuf {
        match self {
            Self::Absolute(path) => path.clone(),
            Self::InRunDir(path) => run_dir.join(path),
        }
    }
}

/// Who listens on a vhost-user socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// Culvert listens and the VMM connects.
    #[default]
    Server,
    /// The VMM listens and Culvert connects, again and again.
    Client,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// By its number.
    Id(u32),
    /// By its name, looked up when the socket is made.
    Name(String),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What of a guest's frames is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Source MAC, source IP, ARP and ND must be the port's own.
    #[default]
    Strict,
    /// The source MAC must be the port's own.
    Mac,
    /// Nothing: for guests that route or bridge.
    Off,
}

/// What a guest is offered; both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums (CSUM, GUEST_CSUM).
    pub checksum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// TCP segmentation over IPv6.
    pub tso6: bool,
    /// TCP segmentation with ECN's CWR.
    pub ecn: bool,
    /// UDP segmentation.
    pub uso: bool,
    /// Frames over several RX buffers (MRG_RXBUF).
    pub mergeable: bool,
    /// Packed rings.
    pub packed: bool,
}

impl Offloads {
    /// Everything.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
        mergeable: true,
        packed: true,
    };

    /// Whole frames with complete checksums only; the rings' layout is not an offload.
    pub const NONE: Self = Self {
        checksum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso: false,
        mergeable: true,
        packed: true,
    };

    /// Each by its key in the file.
    #[must_use]
    pub const fn each(self) -> [(&'static str, bool); 7] {
        let Self {
            checksum,
            tso4,
            tso6,
            ecn,
            uso,
            mergeable,
            packed,
        } = self;
        [
            ("checksum", checksum),
            ("tso4", tso4),
            ("tso6", tso6),
            ("ecn", ecn),
            ("uso", uso),
            ("mergeable", mergeable),
            ("packed", packed),
        ]
    }
}
