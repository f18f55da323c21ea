//! The configuration that `culvert tun` runs: one interface, one tunnel, the kernel's sockets.
//!
//! In: the interface's name. Out: a [`Config`]. Never: a file.

use std::path::PathBuf;

use crate::config::{
    Api, Attachment, Config, Cores, Guard, Hugepages, Labels, MacAddr, Memory, Metrics, Name,
    Network, Offloads, Places, Pmtu, Poll, Port, PortDriver, Ra, Served, Tunnel, Uapi, UdpUplink,
    Uplink, UplinkDriver, WorkerCore, WorkerIndex,
};

/// Beyond so many workers one tunnel gains nothing.
const WORKERS_MAX: usize = 4;
/// The MTU of a new interface: 1500 outside, less IPv6, UDP and WireGuard.
const MTU: u16 = 1420;
/// The largest MTU that the host may give it.
const MTU_MAX: u16 = 9168;

/// One tun port, one plain network, one tunnel that `wg` will give a key, one uplink with all addresses of the
/// machine; all of the interface's name, unless that can't be one. An interface that was handed over has one queue.
pub(super) fn lone(interface: &str, handed_over: bool) -> Config {
    let word = || Name::new("tun").expect("a word is a name");
    let name = || Name::new(interface).unwrap_or_else(word);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = u16::try_from(cores.min(WORKERS_MAX)).unwrap_or(1);
    let all_workers: Vec<_> = (0..workers).map(WorkerIndex).collect();
    let queues = if handed_over { 1 } else { workers };
    Config {
        api: Api::default(),
        source: PathBuf::new(),
        node: name(),
        cores: Cores {
            control: None,
            workers: vec![WorkerCore { cpu: None }; usize::from(workers)],
            poll: Poll::Adaptive,
        },
        memory: Memory {
            hugepages: Hugepages::Off,
            megabytes: 64,
            mtu_max: Some(MTU_MAX),
        },
        metrics: Metrics::default(),
        uplinks: vec![Uplink {
            name: name(),
            driver: UplinkDriver::Udp(UdpUplink::default()),
            addresses: Vec::new(),
            dhcp4: false,
            accept_ra: false,
            routes: Vec::new(),
            neighbors: Vec::new(),
            nameservers: None,
            mtu: 1500,
            queues: workers,
            queue_workers: all_workers,
            bfd: None,
            enabled: true,
            serves: Served::default(),
        }],
        tunnels: vec![Tunnel {
            name: name(),
            backups: Vec::new(),
            uplink: name(),
            listen_port: 0,
            fwmark: 0,
            mtu: MTU,
            pmtu: Pmtu::Off,
            private_key_file: PathBuf::new(),
            private_key: None,
            preshared_keys_file: None,
            // The engine is given the socket.
            uapi: Uapi::Off,
            peers: Vec::new(),
        }],
        networks: vec![Network {
            name: name(),
            gateways: Vec::new(),
            gateway_mac: MacAddr::derived(interface),
            tunnel: Some(name()),
            routes: Vec::new(),
            mtu: MTU,
            mss_clamp: false,
            dhcp: None,
            ra: Ra::Off,
        }],
        ports: vec![Port {
            name: name(),
            driver: PortDriver::Tun {
                interface: interface.to_owned(),
            },
            queues,
            queue_workers: (0..queues).map(WorkerIndex).collect(),
            attachments: vec![Attachment {
                vlan: None,
                network: name(),
                addresses: Vec::new(),
                // The host is its own router.
                guard: Guard::Off,
                dhcp: false,
            }],
            mac: MacAddr::derived("host"),
            interface_addresses: Vec::new(),
            mtu: MTU,
            offloads: Offloads::ALL,
            labels: Labels::default(),
            enabled: true,
        }],
        places: Places::default(),
    }
}
