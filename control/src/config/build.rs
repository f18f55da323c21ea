//! A file without a mistake becomes the model: defaults are filled in here and nowhere else.
//!
//! In: drafts that were read and compared without an error. Out: a [`Config`]. Never: a message:
//! `None` means that a mistake was overlooked before, which is a defect of this program.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::draft::{self, PortKind, UplinkKind, Workers};
use super::{
    Api, ApiSocket, ApiTls, Attachment, Bfd, Config, Cores, Dhcp, DpdkUplink, Exception, Guard,
    IpNet, MacAddr, Memory, Metrics, Name, Network, NetworkRoute, NextHop, Peer, Places, Port,
    PortDriver, Ra, Served, SocketPath, Tunnel, Uapi, UdpUplink, Uplink, UplinkDriver,
    UplinkNeighbor, UplinkRoute, VhostUserPort, WorkerCore, WorkerIndex, limits,
};

/// The model of a file.
pub(super) fn config(file: &draft::File, source: &Path) -> Option<Config> {
    let cores = cores(&file.cores);
    let workers = cores.workers.len();
    let memory = memory(file);
    let api = api(&file.api)?;
    let mut turn = 0;
    let ports = file
        .ports
        .iter()
        .map(|draft| port(draft, file, workers, &mut turn))
        .collect::<Option<_>>()?;
    let networks = file
        .networks
        .iter()
        .map(|draft| network(draft, file))
        .collect::<Option<_>>()?;
    let tunnels = file
        .tunnels
        .iter()
        .map(|draft| tunnel(draft, file))
        .collect::<Option<_>>()?;
    let uplinks = file
        .uplinks
        .iter()
        .map(|draft| uplink(draft, workers))
        .collect::<Option<_>>()?;
    Some(Config {
        source: source.to_owned(),
        node: (file.node.as_ref()).map_or_else(host_name, |at| at.value.clone()),
        cores,
        memory,
        metrics: metrics(&file.metrics),
        api,
        uplinks,
        tunnels,
        networks,
        ports,
        places: Places::default(),
    })
}

/// How many workers a file asks for.
pub(super) fn worker_count(cores: &draft::Cores) -> usize {
    match &cores.workers {
        None => 1,
        Some(Workers::Count(count)) => usize::from(*count),
        Some(Workers::Pinned(cpus)) => cpus.len(),
    }
}

/// An uplink's MTU in bytes.
pub(super) fn uplink_mtu(uplink: &draft::Uplink) -> u32 {
    uplink.mtu.map_or(limits::MTU_DEFAULT, |at| at.value)
}

/// A tunnel's MTU in bytes; `None` while its uplink is unknown.
pub(super) fn tunnel_mtu(tunnel: &draft::Tunnel, file: &draft::File) -> Option<u32> {
    let derived = || {
        let uplinks = tunnel.uplinks().map(|at| file.uplink(Some(at)));
        let mtus = uplinks.map(|uplink| Some(uplink_mtu(uplink?)));
        let least = mtus.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        Some(derived_tunnel_mtu(least))
    };
    tunnel.mtu.map(|at| at.value).or_else(derived)
}

/// The MTU of a tunnel that has none of its own, by its uplink's, in bytes.
pub(super) fn derived_tunnel_mtu(uplink: u32) -> u32 {
    uplink
        .saturating_sub(limits::TUNNEL_OVERHEAD)
        .max(limits::MTU_MIN)
}

/// The workers of queues that have none assigned: they take turns, from that one on.
pub(super) fn derived_queue_workers(
    queues: usize,
    workers: usize,
    turn: &mut usize,
) -> Vec<WorkerIndex> {
    let mut next = || {
        let index = *turn % workers.max(1);
        *turn += 1;
        WorkerIndex(narrow_usize(index))
    };
    (0..queues).map(|_| next()).collect()
}

/// A network's MTU in bytes.
pub(super) fn network_mtu(network: &draft::Network, file: &draft::File) -> u32 {
    let tunnel = || file.tunnel(network.tunnel.as_ref());
    let derived = || tunnel().and_then(|tunnel| tunnel_mtu(tunnel, file));
    network
        .mtu
        .map(|at| at.value)
        .or_else(derived)
        .unwrap_or(limits::MTU_DEFAULT)
}

fn cores(draft: &draft::Cores) -> Cores {
    let workers = match &draft.workers {
        Some(Workers::Pinned(cpus)) => cpus
            .iter()
            .map(|cpu| WorkerCore {
                cpu: Some(cpu.value),
            })
            .collect(),
        Some(Workers::Count(_)) | None => vec![WorkerCore { cpu: None }; worker_count(draft)],
    };
    Cores {
        control: draft.control.map(|at| at.value),
        workers,
        poll: draft.poll,
    }
}

fn memory(file: &draft::File) -> Memory {
    Memory {
        hugepages: file.memory.hugepages,
        megabytes: file.memory.megabytes.unwrap_or(limits::MEGABYTES_DEFAULT),
        mtu_max: file.memory.mtu_max.map(|at| narrow(at.value)),
    }
}

fn metrics(draft: &draft::Metrics) -> Metrics {
    let default = Metrics::default();
    Metrics {
        listen: draft.listen,
        wireguard_exporter: draft.wireguard_exporter.unwrap_or_default(),
        wireguard_exporter_peers: draft
            .wireguard_exporter_peers
            .unwrap_or(default.wireguard_exporter_peers),
        labels: draft.labels.clone(),
    }
}

fn api(draft: &draft::Api) -> Option<Api> {
    let default = Api::default();
    let socket = &draft.socket;
    let tls = |tls: &draft::ApiTls| {
        Some(ApiTls {
            listen: draft.listen.as_ref().map(|at| at.value),
            certificate: tls.certificate.value.clone(),
            key: tls.key.value.clone(),
            client_ca: tls.client_ca.value.clone(),
            roles: tls.roles.clone(),
        })
    };
    Some(Api {
        socket: ApiSocket {
            owner: socket.owner.clone(),
            group: socket.group.clone(),
            permissions: socket.permissions.unwrap_or(default.socket.permissions),
        },
        readers: draft.readers.clone(),
        tls: match &draft.tls {
            Some(draft) => Some(tls(draft)?),
            None => None,
        },
        body_megabytes: draft.body_megabytes.unwrap_or(default.body_megabytes),
        key_directory: (draft.key_directory.clone()).unwrap_or(default.key_directory),
    })
}

fn uplink(draft: &draft::Uplink, workers: usize) -> Option<Uplink> {
    let driver = match draft.kind? {
        UplinkKind::Dpdk => UplinkDriver::Dpdk(DpdkUplink {
            device: draft.device.as_ref()?.value.clone(),
            members: draft.members.iter().map(|at| at.value.clone()).collect(),
            rx_descriptors: draft.rx_descriptors.unwrap_or(limits::RING_DEFAULT),
            tx_descriptors: draft.tx_descriptors.unwrap_or(limits::RING_DEFAULT),
            exception: draft.exception.as_ref().map(|interface| Exception {
                interface: interface.value.clone(),
                routes_from: draft.routes_from.map(|at| at.value),
            }),
        }),
        UplinkKind::Udp => UplinkDriver::Udp(UdpUplink {
            device: draft.interface.clone(),
            fwmark: draft.fwmark,
        }),
    };
    let queues = draft.queues.map_or(workers, |at| at.value as usize);
    let assigned = draft
        .queue_workers
        .as_ref()
        .map(|at| at.value.iter().map(|at| worker(at.value)).collect());
    let round_robin = || derived_queue_workers(queues, workers, &mut 0);
    Some(Uplink {
        name: draft.name.value.clone(),
        driver,
        addresses: draft.addresses.iter().map(|at| at.value).collect(),
        dhcp4: draft.dhcp4,
        accept_ra: draft.accept_ra,
        routes: draft.routes.iter().map(uplink_route).collect(),
        neighbors: draft.neighbors.iter().map(uplink_neighbor).collect(),
        nameservers: (draft.nameservers.as_ref())
            .map(|all| all.iter().map(|at| at.value).collect()),
        mtu: narrow(uplink_mtu(draft)),
        queues: narrow_usize(queues),
        queue_workers: assigned.unwrap_or_else(round_robin),
        bfd: draft.bfd.as_ref().map(bfd),
        enabled: draft.enabled,
        serves: served(&draft.serves),
    })
}

fn bfd(draft: &draft::Bfd) -> Bfd {
    Bfd {
        peer: draft.peer.value,
        interval_ms: draft.interval_ms.unwrap_or(limits::BFD_INTERVAL),
        multiplier: (draft.multiplier).map_or(limits::BFD_MULTIPLIER, |it| {
            u8::try_from(it).unwrap_or(u8::MAX)
        }),
    }
}

fn served(draft: &draft::Served) -> Served {
    let responder = draft.responder.as_ref();
    Served {
        api: draft.api.as_ref().map(|at| at.value.clone()),
        metrics: draft.metrics.as_ref().map(|at| at.value.clone()),
        responder: responder.map_or_else(Vec::new, |at| at.value.clone()),
    }
}

fn uplink_route(draft: &draft::UplinkRoute) -> UplinkRoute {
    UplinkRoute {
        to: draft
            .to
            .value
            .unwrap_or_else(|| everything(draft.via.value.is_ipv4())),
        via: draft.via.value,
        metric: draft.metric,
        from: draft.from.as_ref().map(|at| at.value),
    }
}

fn uplink_neighbor(draft: &draft::UplinkNeighbor) -> UplinkNeighbor {
    UplinkNeighbor {
        address: draft.address.value,
        mac: draft.mac.value,
    }
}

/// `default` of one family.
pub(super) fn everything(ipv4: bool) -> IpNet {
    if ipv4 {
        IpNet::V4(ipnet::Ipv4Net::default())
    } else {
        IpNet::V6(ipnet::Ipv6Net::default())
    }
}

fn tunnel(draft: &draft::Tunnel, file: &draft::File) -> Option<Tunnel> {
    let uplink = file.uplink(draft.uplink.as_ref())?;
    Some(Tunnel {
        name: draft.name.value.clone(),
        uplink: draft.uplink.as_ref()?.value.clone(),
        backups: draft.backups.iter().map(|at| at.value.clone()).collect(),
        listen_port: draft.listen_port?.value,
        fwmark: draft
            .fwmark
            .map(|at| at.value)
            .or(uplink.fwmark)
            .unwrap_or(0),
        mtu: narrow(tunnel_mtu(draft, file)?),
        private_key_file: draft.private_key_file.as_ref()?.value.clone(),
        private_key: Some(draft.private_key.clone()?),
        preshared_keys_file: draft
            .preshared_keys_file
            .as_ref()
            .map(|at| at.value.clone()),
        uapi: draft
            .uapi
            .as_ref()
            .map_or_else(Uapi::default, |at| at.value.clone()),
        pmtu: draft.pmtu.map(|at| at.value).unwrap_or_default(),
        peers: models(&draft.peers)?,
    })
}

fn models(drafts: &draft::Peers) -> Option<Vec<Arc<Peer>>> {
    let mut models = Vec::with_capacity(drafts.len());
    for draft in drafts.iter() {
        models.push(draft.model()?);
    }
    Some(models)
}

pub(super) fn peer(draft: &draft::Peer) -> Option<Arc<Peer>> {
    let mut allowed_ips: Vec<IpNet> = draft.allowed_ips.iter().map(|at| at.value).collect();
    allowed_ips.sort_unstable();
    allowed_ips.dedup();
    Some(Arc::new(Peer {
        // A copy: what stays of many peers lies apart from what is free again once the file is read.
        name: Name::new(draft.name.value.as_str())?,
        public_key: draft.public_key.as_ref()?.value,
        preshared_key: draft.preshared_key.clone(),
        preshared_key_file: draft.preshared_key_file.clone(),
        endpoint: draft.endpoint.as_ref().map(|at| at.value.clone()),
        allowed_ips,
        persistent_keepalive: draft.persistent_keepalive,
        pmtu: draft.pmtu,
        probe: draft.probe,
        labels: draft.labels.clone(),
        enabled: draft.enabled,
    }))
}

fn network(draft: &draft::Network, file: &draft::File) -> Option<Network> {
    let name = draft.name.value.clone();
    Some(Network {
        gateways: draft.gateways.iter().map(|at| at.value).collect(),
        gateway_mac: draft
            .gateway_mac
            .map_or_else(|| MacAddr::derived(name.as_str()), |at| at.value),
        tunnel: draft.tunnel.as_ref().map(|at| at.value.clone()),
        routes: draft
            .routes
            .iter()
            .map(network_route)
            .collect::<Option<_>>()?,
        mtu: narrow(network_mtu(draft, file)),
        mss_clamp: draft.mss_clamp.is_some_and(|at| at.value),
        ra: ra(draft),
        dhcp: dhcp(draft),
        name,
    })
}

/// What guests of a network are told by DHCP; `None` if it is off.
fn dhcp(network: &draft::Network) -> Option<Dhcp> {
    let Some(written) = &network.dhcp else {
        return Some(Dhcp::default());
    };
    let draft = written.value.as_ref()?;
    Some(Dhcp {
        dns: draft.dns.iter().map(|at| at.value).collect(),
        domain: draft.domain.clone(),
        lease: draft.lease.unwrap_or(limits::LEASE_DEFAULT),
    })
}

/// How a network's router advertises itself.
pub(super) fn ra(network: &draft::Network) -> Ra {
    let default = || Ra::by(dhcp(network).as_ref());
    network.ra.map_or_else(default, |at| at.value)
}

pub(super) fn network_route(draft: &draft::NetworkRoute) -> Option<NetworkRoute> {
    let (to, next_hop) = match &draft.next_hop {
        draft::NextHop::Peer(peer) => (draft.to.value?, NextHop::Peer(peer.value.clone())),
        draft::NextHop::Unreachable => (draft.to.value?, NextHop::Unreachable),
        draft::NextHop::Guest(guest) => {
            let to = draft
                .to
                .value
                .unwrap_or_else(|| everything(guest.value.is_ipv4()));
            (to, NextHop::Guest(guest.value))
        }
    };
    Some(NetworkRoute { to, next_hop })
}

/// `turn` is the worker that the next queue without an assignment goes to: queues of all ports
/// take turns, so that many ports of one queue use all workers.
pub(super) fn port(
    draft: &draft::Port,
    file: &draft::File,
    workers: usize,
    turn: &mut usize,
) -> Option<Port> {
    let name = draft.name.value.clone();
    let interface = || {
        draft
            .interface
            .as_ref()
            .map_or_else(|| name.to_string(), |at| at.value.clone())
    };
    let driver = match draft.kind {
        PortKind::Tun => PortDriver::Tun {
            interface: interface(),
        },
        PortKind::Tap => PortDriver::Tap {
            interface: interface(),
        },
        PortKind::VhostUser => PortDriver::VhostUser(VhostUserPort {
            socket: socket(draft),
            mode: draft.socket_mode,
            owner: draft.owner.clone(),
            group: draft.group.clone(),
            permissions: draft.permissions.unwrap_or(limits::PERMISSIONS_DEFAULT),
        }),
    };
    let queues = draft.queues.map_or(1, |at| at.value);
    let assigned = draft
        .queue_workers
        .as_ref()
        .map(|at| at.value.iter().map(|at| worker(at.value)).collect());
    let networks = draft.attachments.iter();
    let networks = networks.map(|it| file.network(it.network.as_ref()));
    let networks = networks.collect::<Option<Vec<_>>>()?;
    let attached = draft.attachments.iter().zip(&networks);
    let attachments: Vec<_> = attached
        .map(|(it, network)| attachment(it, network))
        .collect();
    let interface_addresses = match draft.kind {
        PortKind::VhostUser => Vec::new(),
        PortKind::Tun | PortKind::Tap => {
            with_prefixes(&attachments.first()?.addresses, networks.first()?)
        }
    };
    let mtus = networks.iter().map(|network| network_mtu(network, file));
    Some(Port {
        driver,
        queues: narrow(queues),
        queue_workers: assigned
            .unwrap_or_else(|| derived_queue_workers(queues as usize, workers, turn)),
        attachments,
        mac: draft
            .mac
            .map_or_else(|| MacAddr::derived(name.as_str()), |at| at.value),
        interface_addresses,
        mtu: narrow(mtus.max()?),
        offloads: draft.offloads,
        labels: draft.labels.clone(),
        enabled: draft.enabled,
        name,
    })
}

fn attachment(draft: &draft::Attachment, network: &draft::Network) -> Attachment {
    Attachment {
        vlan: draft.vlan.map(|at| at.value),
        network: network.name.value.clone(),
        addresses: draft.addresses.iter().map(|at| at.value).collect(),
        guard: guard(draft, network),
        dhcp: draft.dhcp,
    }
}

/// Addresses with the prefix lengths of their network.
fn with_prefixes(addresses: &[IpAddr], network: &draft::Network) -> Vec<IpNet> {
    let with_prefix = |&address: &IpAddr| {
        let mut gateways = network.gateways.iter().map(|at| &at.value);
        let gateway = gateways.find(|gateway| gateway.contains(&address));
        let len = gateway.map_or(if address.is_ipv4() { 32 } else { 128 }, IpNet::prefix_len);
        IpNet::new(address, len).ok()
    };
    addresses.iter().filter_map(with_prefix).collect()
}

/// What of a port's frames is checked; a plain network has nothing to check by.
pub(super) fn guard(attachment: &draft::Attachment, network: &draft::Network) -> Guard {
    let default = if network.plain {
        Guard::Off
    } else {
        Guard::Strict
    };
    attachment.guard.map_or(default, |at| at.value)
}

/// Where a port's socket is: what the file says, else `NAME.sock` in the run directory.
pub(super) fn socket(draft: &draft::Port) -> SocketPath {
    match &draft.socket {
        Some(at) if at.value.is_absolute() => SocketPath::Absolute(at.value.clone()),
        Some(at) => SocketPath::InRunDir(at.value.clone()),
        None => SocketPath::InRunDir(format!("{}.sock", draft.name.value).into()),
    }
}

fn worker(index: u32) -> WorkerIndex {
    WorkerIndex(narrow(index))
}

/// This machine's name as far as a [`Name`] can hold it.
fn host_name() -> Name {
    let uname = rustix::system::uname();
    let text = uname.nodename().to_string_lossy();
    let plain: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
        .take(Name::MAX_LEN)
        .collect();
    let fallback = || Name::new("culvert").expect("a word is a name");
    Name::new(plain.trim_start_matches(['.', '-'])).unwrap_or_else(fallback)
}

fn narrow(value: u32) -> u16 {
    u16::try_from(value).expect("the tables keep these numbers below 65536")
}

fn narrow_usize(value: usize) -> u16 {
    u16::try_from(value).expect("queues and workers are counted in hundreds")
}
