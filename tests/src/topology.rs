//! The topology that most scenarios share: two hypervisors, a cable, a network behind each.
//!
//! ```text
//!   vm-a ── port ── hv-a ─────── wan0 (veth) ─────── hv-b ── port ── vm-b
//!   10.1.1.10      gateway 10.1.1.1    192.0.2.1     192.0.2.2    gateway 10.1.2.1     10.1.2.10
//!   fd00:1::10     fd00:1::1        2001:db8::1   2001:db8::2     fd00:2::1           fd00:2::10
//! ```
//!
//! In: an uplink's kind, a number of workers. Out: YAML as an operator would write it, and running hosts.
//! Never: anything that a scenario could not change: every field of a [`HostSpec`] is public.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::culvert::{Culvert, Keys};
use crate::guest::{Addressing, Guest, GuestSpec, Image, Nic};
use crate::network::{Namespace, Veth};
use crate::scenario::Scenario;
use crate::wireguard_go::WireguardGo;

/// What carries the sealed packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// The kernel's UDP sockets.
    Udp,
    /// DPDK's `net_af_packet` on the veth.
    Dpdk,
}

/// Who listens on a port's vhost-user socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketMode {
    /// Culvert does.
    Server,
    /// QEMU does.
    Client,
}

/// A port of a host.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Its name.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
    /// Who listens there.
    pub mode: SocketMode,
    /// Queue pairs.
    pub queues: u16,
    /// The guest's MAC address.
    pub mac: String,
    /// The guest's addresses.
    pub addresses: Vec<String>,
}

/// A peer of a host's tunnel.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub public_key: String,
    /// Where it listens.
    pub endpoint: Option<String>,
    /// What is behind it.
    pub allowed_ips: Vec<String>,
    /// The key shared with it.
    pub preshared_key_file: Option<PathBuf>,
}

/// A host's whole configuration.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// The node's name.
    pub node: String,
    /// Its uplink's kind.
    pub uplink: Uplink,
    /// Its workers.
    pub workers: usize,
    /// Its addresses on the cable.
    pub wan: Vec<String>,
    /// The cable's MTU.
    pub mtu: u16,
    /// The tunnel's UDP port.
    pub listen_port: u16,
    /// Its keys.
    pub keys: Keys,
    /// The guests' gateway addresses.
    pub gateways: Vec<String>,
    /// The gateway's MAC address.
    pub gateway_mac: String,
    /// The tunnel's peers.
    pub peers: Vec<PeerSpec>,
    /// The guests' ports.
    pub ports: Vec<PortSpec>,
}

impl HostSpec {
    /// The configuration file's text.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_yaml(&mut text);
        text
    }

    fn write_yaml(&self, out: &mut String) -> std::fmt::Result {
        let list = |items: &[String]| {
            let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
            format!("[{}]", quoted.join(", "))
        };
        writeln!(out, "version: 1\nnode: {}", self.node)?;
        writeln!(
            out,
            "cores: {{ workers: {}, poll: adaptive }}",
            self.workers
        )?;
        writeln!(out, "uplinks:\n  wan0:")?;
        match self.uplink {
            Uplink::Udp => writeln!(out, "    driver: udp")?,
            Uplink::Dpdk => {
                writeln!(out, "    driver: dpdk")?;
                // A queue pair for each worker.
                let (name, pairs) = (Veth::NAME, self.workers);
                writeln!(
                    out,
                    "    device: net_af_packet0,iface={name},qpairs={pairs}"
                )?;
            }
        }
        writeln!(out, "    addresses: {}", list(&self.wan))?;
        writeln!(out, "    mtu: {}", self.mtu)?;
        writeln!(out, "tunnels:\n  wg0:\n    uplink: wan0")?;
        writeln!(out, "    listen_port: {}", self.listen_port)?;
        writeln!(
            out,
            "    private_key_file: {}",
            self.keys.private_file.display()
        )?;
        writeln!(
            out,
            "    peers:{}",
            if self.peers.is_empty() { " {}" } else { "" }
        )?;
        for peer in &self.peers {
            writeln!(out, "      {}:", peer.name)?;
            writeln!(out, "        public_key: \"{}\"", peer.public_key)?;
            if let Some(endpoint) = &peer.endpoint {
                writeln!(out, "        endpoint: \"{endpoint}\"")?;
            }
            if let Some(file) = &peer.preshared_key_file {
                writeln!(out, "        preshared_key_file: {}", file.display())?;
            }
            writeln!(out, "        allowed_ips: {}", list(&peer.allowed_ips))?;
        }
        writeln!(out, "networks:\n  blue:")?;
        writeln!(out, "    gateway: {}", list(&self.gateways))?;
        writeln!(out, "    gateway_mac: \"{}\"", self.gateway_mac)?;
        writeln!(out, "    tunnel: wg0")?;
        writeln!(
            out,
            "ports:{}",
            if self.ports.is_empty() { " {}" } else { "" }
        )?;
        for port in &self.ports {
            writeln!(out, "  {}:", port.name)?;
            writeln!(out, "    driver: vhost-user")?;
            writeln!(out, "    socket: {}", port.socket.display())?;
            let mode = match port.mode {
                SocketMode::Server => "server",
                SocketMode::Client => "client",
            };
            writeln!(out, "    socket_mode: {mode}")?;
            writeln!(out, "    queues: {}", port.queues)?;
            writeln!(out, "    network: blue")?;
            writeln!(out, "    mac: \"{}\"", port.mac)?;
            writeln!(out, "    addresses: {}", list(&port.addresses))?;
        }
        Ok(())
    }
}

/// One hypervisor: its namespace, its Culvert when it runs.
#[derive(Debug)]
pub struct Host {
    /// The running program.
    pub culvert: Option<Culvert>,
    /// What it runs with.
    pub spec: HostSpec,
    /// Where it lives.
    pub namespace: Namespace,
}

impl Host {
    /// The program, which must have been started.
    pub fn culvert(&self) -> Result<&Culvert> {
        self.culvert
            .as_ref()
            .context("this host's culvert does not run")
    }

    /// The same, to be changed.
    pub fn culvert_mut(&mut self) -> Result<&mut Culvert> {
        self.culvert
            .as_mut()
            .context("this host's culvert does not run")
    }

    /// Starts Culvert with the spec as it is now.
    pub fn start(&mut self, scenario: &Scenario) -> Result<()> {
        let yaml = self.spec.yaml();
        self.culvert = Some(Culvert::start(
            scenario,
            &self.spec.node,
            Some(&self.namespace),
            &yaml,
        )?);
        Ok(())
    }

    /// Applies the spec as it is now to the running Culvert.
    pub fn apply(&self) -> Result<()> {
        self.culvert()?.apply(&self.spec.yaml())
    }

    /// Kills Culvert and starts it again at once, as a supervisor would; returns before it is ready.
    pub fn crash_and_restart(&mut self, scenario: &Scenario) -> Result<()> {
        let mut culvert = self
            .culvert
            .take()
            .context("this host's culvert does not run")?;
        culvert.kill()?;
        self.culvert = Some(culvert.restart(scenario, Some(&self.namespace))?);
        Ok(())
    }

    /// A guest for its first port.
    pub fn guest(&self, name: &str) -> Result<GuestSpec> {
        let port = self.spec.ports.first().context("this host has no port")?;
        let length =
            |address: &String| format!("{address}/{}", if address.contains(':') { 64 } else { 24 });
        let pick = |list: &[String], six: bool| {
            list.iter().find(|item| item.contains(':') == six).cloned()
        };
        let bare = |address: String| address.split('/').next().unwrap_or_default().to_owned();
        Ok(GuestSpec {
            name: name.to_owned(),
            mac: port.mac.clone(),
            nic: Nic::VhostUser {
                socket: port.socket.clone(),
                qemu_listens: port.mode == SocketMode::Client,
                queues: port.queues,
            },
            addressing: Addressing {
                ip4: pick(&port.addresses, false).as_ref().map(length),
                gateway4: pick(&self.spec.gateways, false).map(bare),
                ip6: pick(&port.addresses, true).as_ref().map(length),
                gateway6: pick(&self.spec.gateways, true).map(bare),
            },
            device_options: String::new(),
            image: Image::Small,
            incoming: None,
        })
    }
}

/// The tunnel's UDP port on every host.
pub const PORT: u16 = 51820;

/// What a guest is told to use on the wire: 1500 outside, less what WireGuard over IPv6 takes.
pub const GUEST_MTU: u16 = 1420;

/// One of the two sides, `1` or `2`: the digit in all its addresses. It knows no peer yet.
pub(crate) fn host(
    scenario: &Scenario,
    node: &str,
    side: u8,
    uplink: Uplink,
    workers: usize,
    mode: SocketMode,
) -> Result<Host> {
    let spec = HostSpec {
        node: node.to_owned(),
        uplink,
        workers,
        wan: vec![format!("192.0.2.{side}/24"), format!("2001:db8::{side}/64")],
        mtu: 1500,
        listen_port: PORT,
        keys: Keys::generate(scenario, node)?,
        gateways: vec![format!("10.1.{side}.1/24"), format!("fd00:{side}::1/64")],
        gateway_mac: format!("02:00:00:00:0{side}:01"),
        peers: Vec::new(),
        ports: vec![PortSpec {
            name: "vm1".to_owned(),
            socket: scenario.path(&format!("{node}-vm1.sock")),
            mode,
            queues: u16::try_from(workers)?,
            mac: format!("52:54:00:00:0{side}:10"),
            addresses: vec![format!("10.1.{side}.10"), format!("fd00:{side}::10")],
        }],
    };
    Ok(Host {
        culvert: None,
        spec,
        namespace: Namespace::make(node)?,
    })
}

/// What is behind a side.
pub(crate) fn behind(side: u8) -> Vec<String> {
    vec![format!("10.1.{side}.0/24"), format!("fd00:{side}::/64")]
}

/// Where a side's tunnel listens.
pub(crate) fn endpoint(side: u8, outer: Outer) -> String {
    match outer {
        Outer::V4 => format!("192.0.2.{side}:{PORT}"),
        Outer::V6 => format!("[2001:db8::{side}]:{PORT}"),
    }
}

/// The IP version outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Two hypervisors joined by a veth.
#[derive(Debug)]
pub struct TwoHosts {
    /// `hv-a`.
    pub a: Host,
    /// `hv-b`.
    pub b: Host,
    /// The cable.
    pub veth: Veth,
}

impl TwoHosts {
    /// Lays the cable and writes both specs; nothing runs yet.
    pub fn lay(
        scenario: &Scenario,
        uplink: Uplink,
        workers: usize,
        mode: SocketMode,
    ) -> Result<Self> {
        let mut a = host(scenario, "hv-a", 1, uplink, workers, mode)?;
        let mut b = host(scenario, "hv-b", 2, uplink, workers, mode)?;
        a.spec.peers.push(Self::peer(&b, 2));
        b.spec.peers.push(Self::peer(&a, 1));
        let veth = Veth::join(&a.namespace, &b.namespace)?;
        for host in [&mut a, &mut b] {
            // One family outside: with IPv6 on it, the kernel's side of the cable would announce itself (MLD).
            host.spec.wan.truncate(1);
            if uplink == Uplink::Udp {
                veth.address(&host.namespace, &host.spec.wan[0])?;
            }
        }
        Ok(Self { a, b, veth })
    }

    /// Starts both.
    pub fn start(&mut self, scenario: &Scenario) -> Result<()> {
        self.a.start(scenario)?;
        self.b.start(scenario)
    }

    /// Makes the cable one for larger packets, before anything runs: both specs and both of its ends.
    pub fn widen(&mut self, mtu: u16) -> Result<()> {
        for host in [&mut self.a, &mut self.b] {
            host.spec.mtu = mtu;
            host.namespace
                .ip(&format!("link set {} mtu {mtu}", Veth::NAME))?;
        }
        Ok(())
    }

    /// Boots a guest on each side, at the same time.
    pub fn boot_guests(&self, scenario: &Scenario, device_options: &str) -> Result<(Guest, Guest)> {
        let mut specs = [self.a.guest("vm-a")?, self.b.guest("vm-b")?];
        for spec in &mut specs {
            spec.device_options.push_str(device_options);
        }
        let mut vm_a = Guest::start(scenario, &specs[0])?;
        let mut vm_b = Guest::start(scenario, &specs[1])?;
        vm_a.wait_up()?;
        vm_b.wait_up()?;
        Ok((vm_a, vm_b))
    }

    fn peer(host: &Host, side: u8) -> PeerSpec {
        PeerSpec {
            name: host.spec.node.clone(),
            public_key: host.spec.keys.public.clone(),
            endpoint: Some(endpoint(side, Outer::V4)),
            allowed_ips: behind(side),
            preshared_key_file: None,
        }
    }
}

/// A hypervisor and, at the other end of the veth, Debian's wireguard-go in the place of `hv-b`.
///
/// ```text
///   vm-a ── port ── hv-a ─────── wan0 (veth) ─────── far: wireguard-go
///   10.1.1.10                192.0.2.1     192.0.2.2       10.1.2.1
///   fd00:1::10             2001:db8::1   2001:db8::2       fd00:2::1
/// ```
#[derive(Debug)]
pub struct Far {
    /// The hypervisor.
    pub a: Host,
    /// The far end's program.
    pub peer: WireguardGo,
    /// The far end's namespace.
    pub namespace: Namespace,
    /// The cable.
    pub veth: Veth,
}

impl Far {
    /// Lays the cable and starts wireguard-go; Culvert is not started yet.
    pub fn lay(scenario: &Scenario, uplink: Uplink, workers: usize, outer: Outer) -> Result<Self> {
        let mut a = host(scenario, "hv-a", 1, uplink, workers, SocketMode::Server)?;
        let namespace = Namespace::make("far")?;
        let veth = Veth::join(&a.namespace, &namespace)?;
        if uplink == Uplink::Udp {
            for address in &a.spec.wan {
                veth.address(&a.namespace, address)?;
            }
        }
        veth.address(&namespace, "192.0.2.2/24")?;
        veth.address(&namespace, "2001:db8::2/64")?;
        let keys = Keys::generate(scenario, "far")?;
        let inside = ["10.1.2.1/24", "fd00:2::1/64"];
        let peer = WireguardGo::start(scenario, &namespace, &keys, PORT, &inside, GUEST_MTU)?;
        let behind_a = behind(1);
        let behind_a: Vec<&str> = behind_a.iter().map(String::as_str).collect();
        let preshared = keys.preshared(scenario)?;
        peer.peer(
            &namespace,
            &a.spec.keys,
            Some(&endpoint(1, outer)),
            &behind_a,
            Some(&preshared),
        )?;
        a.spec.peers.push(PeerSpec {
            name: "far".to_owned(),
            public_key: keys.public,
            endpoint: Some(endpoint(2, outer)),
            allowed_ips: behind(2),
            preshared_key_file: Some(preshared),
        });
        Ok(Self {
            a,
            peer,
            namespace,
            veth,
        })
    }
}
