//! The tree read by its tables: values with their spans, or nothing where a mistake was reported.
//!
//! In: the tree. Out: drafts, which [`super::cross`] compares and [`super::build`] turns into the
//! model. Never: a default: what the file doesn't say is `None` here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::keyfile::{KeyFileError, KeyFiles};
use super::raw::{Node, Value};
use super::report::{Report, Span};
use super::schema::{self, Form};
use super::section::{At, Section};
use super::{
    Account, CpuId, DpdkDevice, Endpoint, Guard, Hugepages, MacAddr, Name, Offloads, Poll,
    SocketMode, value,
};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// The whole file.
#[derive(Default)]
pub(super) struct File {
    pub(super) node: Option<At<Name>>,
    pub(super) cores: Cores,
    pub(super) memory: Memory,
    pub(super) uplinks: Vec<Uplink>,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) networks: Vec<Network>,
    pub(super) ports: Vec<Port>,
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
    pub(super) interface: Option<String>,
    pub(super) addresses: Vec<At<IpNet>>,
    pub(super) routes: Vec<UplinkRoute>,
    pub(super) mtu: Option<At<u32>>,
    pub(super) queues: Option<At<u32>>,
    pub(super) queue_workers: Option<At<Vec<At<u32>>>>,
    pub(super) rx_descriptors: Option<u16>,
    pub(super) tx_descriptors: Option<u16>,
    pub(super) fwmark: Option<u32>,
}

pub(super) struct UplinkRoute {
    /// `None` is `default`.
    pub(super) to: At<Option<IpNet>>,
    pub(super) via: At<IpAddr>,
}

pub(super) struct Tunnel {
    pub(super) name: At<Name>,
    pub(super) uplink: Option<At<Name>>,
    pub(super) listen_port: Option<At<u16>>,
    pub(super) mtu: Option<At<u32>>,
    pub(super) private_key_file: Option<At<PathBuf>>,
    pub(super) private_key: Option<PrivateKey>,
    pub(super) peers: Vec<Peer>,
}

pub(super) struct Peer {
    pub(super) name: At<Name>,
    pub(super) public_key: Option<At<PublicKey>>,
    pub(super) preshared_key: Option<PresharedKey>,
    pub(super) endpoint: Option<At<Endpoint>>,
    pub(super) allowed_ips: Vec<At<IpNet>>,
    pub(super) persistent_keepalive: Option<u16>,
}

pub(super) struct Network {
    pub(super) name: At<Name>,
    pub(super) gateways: Vec<At<IpNet>>,
    pub(super) gateway_mac: Option<At<MacAddr>>,
    pub(super) tunnel: Option<At<Name>>,
    pub(super) routes: Vec<NetworkRoute>,
    pub(super) mtu: Option<At<u32>>,
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
    pub(super) network: Option<At<Name>>,
    pub(super) mac: Option<At<MacAddr>>,
    pub(super) addresses: Vec<At<IpAddr>>,
    pub(super) guard: Guard,
    pub(super) queues: Option<At<u32>>,
    pub(super) queue_workers: Option<At<Vec<At<u32>>>>,
    pub(super) socket: Option<At<PathBuf>>,
    pub(super) socket_mode: SocketMode,
    pub(super) owner: Option<Account>,
    pub(super) group: Option<Account>,
    pub(super) permissions: Option<u32>,
    pub(super) interface: Option<At<String>>,
    pub(super) offloads: Offloads,
}

/// Reads files by their tables.
pub(super) struct Reader<'r> {
    pub(super) report: &'r mut Report,
    pub(super) keys: &'r dyn KeyFiles,
    /// Relative key files begin here.
    pub(super) folder: &'r Path,
}

impl Reader<'_> {
    /// The whole tree.
    pub(super) fn file(&mut self, root: &Node) -> Option<File> {
        let start = Span {
            line: 1,
            column: 1,
            width: 1,
        };
        let span = if root.span.line == 0 {
            start
        } else {
            root.span
        };
        let file = Section::open(root, "the file", span, &schema::FILE, self.report)?;
        let _ = file.integer("version", self.report);
        let node = file.get("node", self.report, value::name);
        let cores = self.cores(&file);
        let memory = self.memory(&file);
        let uplinks = file.named("uplinks", self.report);
        let tunnels = file.named("tunnels", self.report);
        let networks = file.named("networks", self.report);
        let ports = file.named("ports", self.report);
        Some(File {
            node,
            cores,
            memory,
            uplinks: uplinks
                .into_iter()
                .map(|(name, section)| self.uplink(name, section))
                .collect(),
            tunnels: tunnels
                .into_iter()
                .map(|(name, section)| self.tunnel(name, section))
                .collect(),
            networks: networks
                .into_iter()
                .map(|(name, section)| self.network(name, section))
                .collect(),
            ports: ports
                .into_iter()
                .filter_map(|(name, section)| self.port(name, section?))
                .collect(),
        })
    }

    fn cores(&mut self, file: &Section<'_>) -> Cores {
        let Some(section) = file.table("cores", self.report) else {
            return Cores::default();
        };
        let control = section.integer("control", self.report);
        let poll = section.choice("poll", self.report).map(|at| at.value);
        Cores {
            control: control.map(|at| At::new(CpuId(narrow(at.value)), at.span)),
            workers: self.workers(&section),
            poll: if poll == Some("busy") {
                Poll::Busy
            } else {
                Poll::Adaptive
            },
        }
    }

    fn workers(&mut self, section: &Section<'_>) -> Option<Workers> {
        let node = section.node("workers")?;
        let (Form::Integer { min, max }, Form::Integer { max: last_cpu, .. }) =
            (schema::WORKERS, schema::CPU)
        else {
            unreachable!("both are integers in the table")
        };
        if matches!(node.value, Value::Text(_)) {
            let count = value::integer(node, "the number of `workers`", min, max, self.report)?;
            return Some(Workers::Count(narrow(count)));
        }
        let cpus = section.list("workers", self.report, |item, what, report| {
            value::integer(item, &format!("a CPU in {what}"), 0, last_cpu, report)
                .map(|cpu| CpuId(narrow(cpu)))
        });
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.report
                .error(node.span, "`workers` of `cores` is empty")
                .help("expected the CPUs of the workers, as in `[1, 2]`, or a number of unpinned workers");
        } else if cpus.len() > max as usize {
            self.report.error(
                node.span,
                format!(
                    "`workers` of `cores` has {} CPUs, at most {max} are used",
                    cpus.len()
                ),
            );
        }
        Some(Workers::Pinned(cpus))
    }

    fn memory(&mut self, file: &Section<'_>) -> Memory {
        let Some(section) = file.table("memory", self.report) else {
            return Memory::default();
        };
        let hugepages = section.choice("hugepages", self.report).map(|at| at.value);
        Memory {
            hugepages: match hugepages {
                Some("required") => Hugepages::Required,
                Some("off") => Hugepages::Off,
                _ => Hugepages::Auto,
            },
            megabytes: section.integer("megabytes", self.report).map(|at| at.value),
            mtu_max: section.integer("mtu_max", self.report),
        }
    }

    fn uplink(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Uplink {
        let mut uplink = Uplink {
            name,
            kind: None,
            device: None,
            interface: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            queues: None,
            queue_workers: None,
            rx_descriptors: None,
            tx_descriptors: None,
            fwmark: None,
        };
        let Some(section) = section else {
            return uplink;
        };
        uplink.addresses = section.list("addresses", self.report, value::interface);
        uplink.routes = section
            .tables("routes", self.report)
            .iter()
            .filter_map(|route| self.uplink_route(route))
            .collect();
        uplink.mtu = section.integer("mtu", self.report);
        uplink.queues = section.integer("queues", self.report);
        uplink.queue_workers = self.queue_workers(&section);
        uplink.rx_descriptors = self.descriptors(&section, "rx_descriptors");
        uplink.tx_descriptors = self.descriptors(&section, "tx_descriptors");
        uplink.fwmark = section.integer("fwmark", self.report).map(|at| at.value);
        match section.choice("driver", self.report).map(|at| at.value) {
            Some("dpdk") => {
                uplink.kind = Some(UplinkKind::Dpdk);
                uplink.device = section.get("device", self.report, value::dpdk_device);
                self.need(&section, &["device", "addresses"], "a `dpdk` uplink");
                self.refuse(
                    &section,
                    &["fwmark"],
                    "for `udp` uplinks",
                    "remove it, or choose `driver: udp`",
                );
            }
            Some(_) => {
                uplink.kind = Some(UplinkKind::Udp);
                uplink.interface = section
                    .get("device", self.report, value::interface_name)
                    .map(|at| at.value);
                self.refuse(
                    &section,
                    &["routes", "rx_descriptors", "tx_descriptors"],
                    "for `dpdk` uplinks",
                    "remove it: the kernel's routes and devices carry a `udp` uplink",
                );
            }
            None => {}
        }
        uplink
    }

    fn uplink_route(&mut self, route: &Section<'_>) -> Option<UplinkRoute> {
        let to = route.get("to", self.report, value::destination);
        let via = route.get("via", self.report, value::address);
        Some(UplinkRoute { to: to?, via: via? })
    }

    fn descriptors(&mut self, section: &Section<'_>, key: &str) -> Option<u16> {
        let at = section.integer(key, self.report)?;
        if !at.value.is_power_of_two() {
            let title = section.title();
            self.report
                .error(at.span, format!("`{key}` of {title} is `{}`", at.value))
                .help(format!(
                    "expected a power of two, as in `{}`",
                    at.value.next_power_of_two().min(32768)
                ));
            return None;
        }
        Some(narrow(at.value))
    }

    fn queue_workers(&mut self, section: &Section<'_>) -> Option<At<Vec<At<u32>>>> {
        let node = section.node("queue_workers")?;
        let Form::Integer { min, max } = schema::WORKER_INDEX else {
            unreachable!("an integer in the table")
        };
        let workers = section.list("queue_workers", self.report, |item, what, report| {
            value::integer(item, &format!("a worker in {what}"), min, max, report)
        });
        Some(At::new(workers, node.span))
    }

    fn tunnel(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Tunnel {
        let mut tunnel = Tunnel {
            name,
            uplink: None,
            listen_port: None,
            mtu: None,
            private_key_file: None,
            private_key: None,
            peers: Vec::new(),
        };
        let Some(section) = section else {
            return tunnel;
        };
        tunnel.uplink = section.get("uplink", self.report, value::name);
        tunnel.listen_port = section
            .integer("listen_port", self.report)
            .map(|at| At::new(narrow(at.value), at.span));
        tunnel.mtu = section.integer("mtu", self.report);
        tunnel.private_key_file = self.key_path(&section, "private_key_file");
        tunnel.private_key = tunnel.private_key_file.as_ref().and_then(|file| {
            self.secret(file, "the private key", "genkey", PrivateKey::from_base64)
        });
        let peers = section.named("peers", self.report);
        tunnel.peers = peers
            .into_iter()
            .map(|(name, section)| self.peer(name, section))
            .collect();
        tunnel
    }

    fn peer(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Peer {
        let mut peer = Peer {
            name,
            public_key: None,
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
        };
        let Some(section) = section else { return peer };
        peer.public_key = section.get("public_key", self.report, value::public_key);
        peer.preshared_key = self
            .key_path(&section, "preshared_key_file")
            .and_then(|file| {
                self.secret(
                    &file,
                    "the preshared key",
                    "genpsk",
                    PresharedKey::from_base64,
                )
            });
        peer.endpoint = section.get("endpoint", self.report, value::endpoint);
        peer.allowed_ips = section.list("allowed_ips", self.report, value::prefix);
        let keepalive = section.get("persistent_keepalive", self.report, |node, what, report| {
            value::seconds(node, what, u32::from(u16::MAX), report)
        });
        peer.persistent_keepalive = keepalive
            .map(|at| narrow(at.value))
            .filter(|seconds| *seconds != 0);
        peer
    }

    fn key_path(&mut self, section: &Section<'_>, key: &str) -> Option<At<PathBuf>> {
        let at = section.get(key, self.report, value::path)?;
        // 44 characters that end in `=`: a key where its file should stand. Never print it.
        let text = at.value.as_os_str();
        if text.len() == crate::keys::KEY_TEXT_LEN && at.value.to_string_lossy().ends_with('=') {
            self.report
                .error(
                    at.span,
                    format!("`{key}` of {} holds a key itself", section.title()),
                )
                .help("expected the path of a file that holds it and that only its owner can read");
            return None;
        }
        Some(At::new(self.folder.join(at.value), at.span))
    }

    fn secret<K>(
        &mut self,
        file: &At<PathBuf>,
        what: &str,
        command: &str,
        parse: impl FnOnce(&str) -> Result<K, culvert_wireguard::keys::KeyError>,
    ) -> Option<K> {
        let path = file.value.display();
        let parsed = self
            .keys
            .read(&file.value)
            .and_then(|text| parse(&text).map_err(|_| KeyFileError::NotAKey));
        let error = match parsed {
            Ok(key) => return Some(key),
            Err(error) => error,
        };
        let mistake = self.report.error(
            file.span,
            format!("{what} in `{path}` can't be used: {error}"),
        );
        let quoted = shell_quoted(&file.value);
        let make = format!("to make a new one: (umask 077; culvert {command} > {quoted})");
        match error {
            KeyFileError::Missing | KeyFileError::NotAKey => mistake.help(make),
            KeyFileError::Exposed { .. } => mistake.help(format!("to mend it: chmod 600 {quoted}")),
            KeyFileError::NotAFile => mistake.help("expected a file with one line of base64"),
            KeyFileError::Io(_) => mistake.help("run it as the file's owner, usually root"),
        };
        None
    }

    fn network(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Network {
        let mut network = Network {
            name,
            gateways: Vec::new(),
            gateway_mac: None,
            tunnel: None,
            routes: Vec::new(),
            mtu: None,
        };
        let Some(section) = section else {
            return network;
        };
        network.gateways = section.list("gateway", self.report, value::interface);
        if matches!(section.node("gateway"), Some(Node { value: Value::List(items), .. }) if items.is_empty())
        {
            self.report
                .error(
                    section.key_span("gateway").unwrap_or(section.span),
                    format!("{} has an empty `gateway`", section.title()),
                )
                .help("expected at least one address with its prefix, as in `[10.1.1.1/24]`");
        }
        network.gateway_mac = section.get("gateway_mac", self.report, value::mac);
        network.tunnel = section.get("tunnel", self.report, value::name);
        network.routes = section
            .tables("routes", self.report)
            .iter()
            .filter_map(|route| self.network_route(route))
            .collect();
        network.mtu = section.integer("mtu", self.report);
        network
    }

    fn network_route(&mut self, route: &Section<'_>) -> Option<NetworkRoute> {
        let to = route.get("to", self.report, value::destination);
        let peer = route.get("peer", self.report, value::name);
        let via = route.get("via", self.report, value::address);
        let unreachable = route
            .get("unreachable", self.report, value::boolean)
            .is_some_and(|at| at.value);
        let written = ["peer", "via"]
            .iter()
            .filter(|key| route.node(key).is_some())
            .count();
        if written + usize::from(unreachable) != 1 {
            self.report
                .error(
                    route.span,
                    format!(
                        "{} leads to {} places",
                        route.title(),
                        written + usize::from(unreachable)
                    ),
                )
                .help(
                    "expected exactly one of `peer: NAME`, `via: ADDRESS` and `unreachable: true`",
                );
            return None;
        }
        let next_hop = match (peer, via) {
            (Some(peer), _) => NextHop::Peer(peer),
            (_, Some(via)) => NextHop::Guest(via),
            // Written but reported already.
            (None, None) if written == 1 => return None,
            (None, None) => NextHop::Unreachable,
        };
        Some(NetworkRoute { to: to?, next_hop })
    }

    fn port(&mut self, name: At<Name>, section: Section<'_>) -> Option<Port> {
        let kind = match (
            section.node("driver"),
            section.choice("driver", self.report),
        ) {
            (None, _) => PortKind::VhostUser,
            (Some(_), choice) => match choice?.value {
                "tun" => PortKind::Tun,
                "tap" => PortKind::Tap,
                _ => PortKind::VhostUser,
            },
        };
        let mode = section
            .choice("socket_mode", self.report)
            .map(|at| at.value);
        let mode = if mode == Some("client") {
            SocketMode::Client
        } else {
            SocketMode::Server
        };
        let guard = section.choice("guard", self.report).map(|at| at.value);
        let port = Port {
            kind,
            network: section.get("network", self.report, value::name),
            mac: section.get("mac", self.report, value::mac),
            addresses: section.list("addresses", self.report, value::address),
            guard: match guard {
                Some("mac") => Guard::Mac,
                Some("off") => Guard::Off,
                _ => Guard::Strict,
            },
            queues: section.integer("queues", self.report),
            queue_workers: self.queue_workers(&section),
            socket: section.get("socket", self.report, value::path),
            socket_mode: mode,
            owner: section
                .get("socket_owner", self.report, value::account)
                .map(|at| at.value),
            group: section
                .get("socket_group", self.report, value::account)
                .map(|at| at.value),
            permissions: section
                .get("socket_permissions", self.report, value::permissions)
                .map(|at| at.value),
            interface: section.get("interface", self.report, value::interface_name),
            offloads: self.offloads(&section),
            name,
        };
        self.check_kind(&section, &port);
        Some(port)
    }

    fn check_kind(&mut self, section: &Section<'_>, port: &Port) {
        if port.kind != PortKind::Tun {
            self.need(section, &["mac"], "the port of a guest");
        }
        if port.kind == PortKind::VhostUser {
            self.refuse(
                section,
                &["interface"],
                "for `tun` and `tap` ports",
                "remove it, or choose another `driver`",
            );
            if port.socket_mode == SocketMode::Client {
                self.refuse(
                    section,
                    &["socket_owner", "socket_group", "socket_permissions"],
                    "for `socket_mode: server`",
                    "remove it: in client mode the VMM makes the socket",
                );
            }
            return;
        }
        self.refuse(
            section,
            &[
                "socket",
                "socket_mode",
                "socket_owner",
                "socket_group",
                "socket_permissions",
            ],
            "for `vhost-user` ports",
            "remove it, or choose `driver: vhost-user`",
        );
        if port.interface.is_none()
            && section.node("interface").is_none()
            && !value::is_interface_name(port.name.value.as_str())
        {
            self.report
                .error(
                    port.name.span,
                    format!("{}'s name is too long for an interface", section.title()),
                )
                .help("give it an `interface: NAME` of at most 15 characters");
        }
    }

    fn offloads(&mut self, port: &Section<'_>) -> Offloads {
        let Some(node) = port.node("offloads") else {
            return Offloads::ALL;
        };
        if matches!(node.value, Value::Text(_)) {
            let what = format!("`offloads` of {}", port.title());
            let word = value::choice(node, &what, &["all", "none"], self.report);
            return if word == Some("none") {
                Offloads::NONE
            } else {
                Offloads::ALL
            };
        }
        let Some(section) = port.table("offloads", self.report) else {
            return Offloads::ALL;
        };
        let mut read = |key| {
            section
                .get(key, self.report, value::boolean)
                .map(|at| at.value)
        };
        let checksum = read("checksum").unwrap_or(true);
        // What is not written follows what it needs; what is written must agree with it.
        let tso4 = read("tso4").unwrap_or(checksum);
        let tso6 = read("tso6").unwrap_or(checksum);
        let offloads = Offloads {
            checksum,
            tso4,
            tso6,
            ecn: read("ecn").unwrap_or(tso4 || tso6),
            uso: read("uso").unwrap_or(checksum),
            mergeable: read("mergeable").unwrap_or(true),
            packed: read("packed").unwrap_or(true),
        };
        let needs = [
            ("tso4", offloads.tso4, checksum, "`checksum`"),
            ("tso6", offloads.tso6, checksum, "`checksum`"),
            ("uso", offloads.uso, checksum, "`checksum`"),
            ("ecn", offloads.ecn, tso4 || tso6, "`tso4` or `tso6`"),
        ];
        for (key, on, met, need) in needs {
            if on && !met {
                let span = section.key_span(key).unwrap_or(section.span);
                self.report
                    .error(
                        span,
                        format!("`{key}` of {} is on without {need}", section.title()),
                    )
                    .help(format!("switch {need} on, or `{key}` off"));
            }
        }
        offloads
    }

    /// Reports keys that are missing for one kind of section.
    fn need(&mut self, section: &Section<'_>, keys: &[&str], kind: &str) {
        for key in keys.iter().filter(|key| section.lacks(key)) {
            self.report
                .error(section.span, format!("{} has no `{key}`", section.title()))
                .help(format!("{kind} needs `{key}: {}`", section.example(key)));
        }
    }

    /// Reports keys that don't apply to one kind of section.
    fn refuse(&mut self, section: &Section<'_>, keys: &[&str], belongs: &str, mend: &str) {
        for key in keys {
            if let Some(span) = section.key_span(key) {
                self.report
                    .error(
                        span,
                        format!("`{key}` in {} is only {belongs}", section.title()),
                    )
                    .help(mend);
            }
        }
    }
}

/// A number that its table keeps within 16 bits.
fn narrow(value: u32) -> u16 {
    u16::try_from(value).expect("the tables keep these numbers below 65536")
}

/// A path as a shell takes it.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | '%')
    };
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
