//! What a checked configuration says, as types.
//!
//! In: nothing; [`super::parse`] builds these. Out: the values that the snapshot compiler, the
//! ports and the uplinks are made from. Never: text, spans or anything still to be validated.
//!
//! Every reference by name (a port's network, a network's tunnel, a tunnel's uplink) is known to
//! resolve. References are names and not indices so that one item of two configurations can be
//! compared with `==`: `apply` decides by that what did not change.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::places::Places;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// A whole configuration file that holds no mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from (as given; used in messages and for SIGHUP).
    pub source: PathBuf,
    /// This machine's name in logs and in the API.
    pub node: Name,
    /// Threads and where they run.
    pub cores: Cores,
    /// What is fixed when the process starts.
    pub memory: Memory,
    /// In the file's order.
    pub uplinks: Vec<Uplink>,
    /// In the file's order.
    pub tunnels: Vec<Tunnel>,
    /// In the file's order.
    pub networks: Vec<Network>,
    /// In the file's order.
    pub ports: Vec<Port>,
    /// Where things stand in these lists, which stay as they are from the first look-up on.
    pub places: Places,
}

impl Config {
    /// The uplink of that name.
    pub fn uplink(&self, name: &Name) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| &uplink.name == name)
    }

    /// The tunnel of that name.
    pub fn tunnel(&self, name: &Name) -> Option<&Tunnel> {
        self.tunnels.get(self.tunnel_place(name)?)
    }

    /// The network of that name.
    pub fn network(&self, name: &Name) -> Option<&Network> {
        self.networks.get(self.network_place(name)?)
    }

    /// The port of that name.
    pub fn port(&self, name: &Name) -> Option<&Port> {
        self.ports.get(self.port_place(name)?)
    }

    /// The network that uses a tunnel: at most one does.
    pub fn network_of_tunnel(&self, tunnel: &Name) -> Option<&Network> {
        self.networks.get(self.user_place(tunnel)?)
    }

    /// The uplink that a tunnel's packets leave by.
    ///
    /// # Panics
    ///
    /// If `tunnel` belongs to another configuration.
    pub fn uplink_of(&self, tunnel: &Tunnel) -> &Uplink {
        self.uplink(&tunnel.uplink)
            .expect("a checked tunnel names an uplink of its configuration")
    }

    /// The network that a port is part of.
    ///
    /// # Panics
    ///
    /// If `port` belongs to another configuration.
    pub fn network_of(&self, port: &Port) -> &Network {
        self.network(&port.network)
            .expect("a checked port names a network of its configuration")
    }
}

/// An operator's name for a thing: 1 to 63 of `a-z A-Z 0-9 . _ -`, not beginning with `.` or `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// A name, if `text` is one.
    pub fn new(text: &str) -> Option<Self> {
        let well_formed = !text.is_empty()
            && text.len() <= Self::MAX_LEN
            && !text.starts_with(['.', '-'])
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        well_formed.then(|| Self(text.into()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Threads and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The CPU of the control core; unpinned without one.
    pub control: Option<CpuId>,
    /// One entry per worker, at least one.
    pub workers: Vec<WorkerCore>,
    /// What a worker does when it has nothing to do.
    pub poll: Poll,
}

/// One worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCore {
    /// The CPU it is pinned to; the scheduler's choice without one.
    pub cpu: Option<CpuId>,
}

/// A CPU as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

/// A worker by its place in `cores.workers`, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u16);

/// What a worker does when its queues are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Sleep after an idle spell until a kick, a device's interrupt or a short timer.
    #[default]
    Adaptive,
    /// Never sleep: the core belongs to the worker.
    Busy,
}

/// What is fixed when the process starts; a change needs a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether DPDK takes its memory from hugepages.
    pub hugepages: Hugepages,
    /// Memory for packet buffers and DPDK, in MiB.
    pub megabytes: u32,
    /// The largest MTU that any uplink or port may be given while the process runs, if the file bounds it.
    pub mtu_max: Option<u16>,
}

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if the machine has enough free ones, else ordinary pages.
    #[default]
    Auto,
    /// Hugepages or no start.
    Required,
    /// Ordinary pages.
    Off,
}

/// A way out of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The operator's name for it.
    pub name: Name,
    /// What carries its packets.
    pub driver: UplinkDriver,
    /// Own addresses with their on-link prefixes. Never empty for DPDK; empty for kernel UDP
    /// means every address of the machine.
    pub addresses: Vec<IpNet>,
    /// Routes beyond the on-link prefixes (DPDK only: the kernel has its own).
    pub routes: Vec<UplinkRoute>,
    /// The largest IP packet that leaves or arrives, in bytes.
    pub mtu: u16,
    /// How many RX and TX queues the device is given (DPDK) or sockets are opened (UDP).
    pub queues: u16,
    /// Which worker serves which queue: `queue_workers[queue]`, `queues` long.
    pub queue_workers: Vec<WorkerIndex>,
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
    /// Entries of each RX ring.
    pub rx_descriptors: u16,
    /// Entries of each TX ring.
    pub tx_descriptors: u16,
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
    /// Name and arguments as EAL takes them.
    pub fn devargs(&self) -> String {
        if self.args.is_empty() {
            self.name.clone()
        } else {
            format!("{},{}", self.name, self.args)
        }
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
}

/// A WireGuard device with its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The operator's name for it.
    pub name: Name,
    /// Where its datagrams leave and arrive.
    pub uplink: Name,
    /// Its UDP port on every address of the uplink. 0 asks for any free one; a running configuration has its
    /// number.
    pub listen_port: u16,
    /// The mark on its packets (`SO_MARK`; UDP uplinks only); 0 is none.
    pub fwmark: u32,
    /// The largest inner IP packet, in bytes.
    pub mtu: u16,
    /// Where the private key came from; empty if from no file.
    pub private_key_file: PathBuf,
    /// Its identity. The file's tunnels have one; without, nothing is sent or answered.
    pub private_key: Option<PrivateKey>,
    /// Whether and where `wg` finds it.
    pub uapi: Uapi,
    /// In the file's order; no two share a public key or an allowed prefix. Whoever keeps one shares it.
    pub peers: Vec<Arc<Peer>>,
}

impl Tunnel {
    /// The tunnel itself, without its peers.
    #[must_use]
    pub fn head(&self) -> Self {
        Self {
            name: self.name.clone(),
            uplink: self.uplink.clone(),
            private_key_file: self.private_key_file.clone(),
            private_key: self.private_key.clone(),
            uapi: self.uapi.clone(),
            peers: Vec::new(),
            ..*self
        }
    }

    /// The peer of that name.
    pub fn peer(&self, name: &Name) -> Option<&Arc<Peer>> {
        self.peers.iter().find(|peer| &peer.name == name)
    }
}

/// Whether and under which name `wg` finds a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uapi {
    /// Under the tunnel's name, if that can be had.
    #[default]
    Auto,
    /// Under this name, or the configuration is refused.
    Name(Name),
    /// Not at all.
    Off,
}

/// The far end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The operator's name for it.
    pub name: Name,
    /// Its identity.
    pub public_key: PublicKey,
    /// The symmetric key shared with it, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where that came from; none if from no file.
    pub preshared_key_file: Option<PathBuf>,
    /// Where it listens, if it is known from the start.
    pub endpoint: Option<Endpoint>,
    /// Prefixes behind it, host bits cleared.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; none without one.
    pub persistent_keepalive: Option<u16>,
}

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket address.
    Address(SocketAddr),
    /// What has to be looked up while the tunnel runs (UDP uplinks only).
    Host {
        /// A DNS name, or a link-local address with the name of an interface (`fe80::1%eth0`).
        name: String,
        /// The UDP port.
        port: u16,
    },
}

impl Endpoint {
    /// The address, unless it has a name.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // An address with a zone.
            Self::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// A layer-2 segment that ports join, with Culvert as its router; or a plain network, which is
/// one tun port and a tunnel, and where the host routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The operator's name for it.
    pub name: Name,
    /// The router's addresses with the network's prefixes; none in a plain network.
    pub gateways: Vec<IpNet>,
    /// The router's MAC address; derived from the network's name unless the file has one.
    pub gateway_mac: MacAddr,
    /// The tunnel that leads out of it; none is a network of this machine alone.
    pub tunnel: Option<Name>,
    /// Routes besides those from the peers' allowed IPs.
    pub routes: Vec<NetworkRoute>,
    /// The MTU that guests are offered, in bytes.
    pub mtu: u16,
}

impl Network {
    /// Whether it has no router of ours: packets pass between its one tun port and its tunnel as
    /// they are, and the peers' allowed IPs alone decide where they go.
    pub fn is_plain(&self) -> bool {
        self.gateways.is_empty()
    }
}

/// A route of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRoute {
    /// The prefix, host bits cleared.
    pub to: IpNet,
    /// Where it leads.
    pub next_hop: NextHop,
}

/// Where a network's route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// A peer of the network's tunnel.
    Peer(Name),
    /// A guest of the network that routes for others.
    Guest(IpAddr),
    /// Nowhere: dropped, and answered with ICMP.
    Unreachable,
}

/// A guest's (or the host's) attachment to a network.
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
    /// The network it joins.
    pub network: Name,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// The guest's addresses, each inside a gateway's prefix of its network (of a plain network:
    /// any).
    pub addresses: Vec<IpAddr>,
    /// The same with the prefix lengths of its network, as a tun or tap port's interface is given them; of other
    /// ports none.
    pub interface_addresses: Vec<IpNet>,
    /// What of a guest's frames is checked against `mac` and `addresses`.
    pub guard: Guard,
    /// The MTU offered to the guest, in bytes: its network's.
    pub mtu: u16,
    /// What is offered to the guest.
    pub offloads: Offloads,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// By its number.
    Id(u32),
    /// By its name, looked up when the socket is made.
    Name(String),
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
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// An address as `52:54:00:12:34:56` (or with `-`), whatever its group bit.
    pub fn parse(text: &str) -> Option<Self> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next()?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            *octet = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(octets))
    }

    /// A stable, locally administered unicast address for a name (FNV-1a, RFC 7042 section 2.1).
    pub fn derived(name: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let [a, b, c, d, e, ..] = hash.to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// The six octets in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the address names a group (broadcast included).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
