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
use std::time::Duration;

use anyhow::{Context, Result};

use crate::culvert::{Culvert, Keys};
use crate::guest::{Addressing, Guest, GuestSpec, Nic};
use crate::network::{Namespace, Veth};
use crate::process::eventually;
use crate::scenario::Scenario;

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
                writeln!(out, "    device: net_af_packet0,iface={}", Veth::NAME)?;
            }
        }
        writeln!(out, "    addresses: {}", list(&self.wan))?;
        writeln!(out, "    mtu: 1500")?;
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
        })
    }
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
    /// Both hosts' UDP port.
    pub const PORT: u16 = 51820;

    /// Lays the cable and writes both specs; nothing runs yet. IPv4 outside, both families inside.
    pub fn lay(
        scenario: &Scenario,
        uplink: Uplink,
        workers: usize,
        mode: SocketMode,
    ) -> Result<Self> {
        let mut a = Self::host(scenario, "hv-a", 1, uplink, workers, mode)?;
        let mut b = Self::host(scenario, "hv-b", 2, uplink, workers, mode)?;
        a.spec.peers.push(Self::peer(&b));
        b.spec.peers.push(Self::peer(&a));
        let veth = Veth::join(&a.namespace, &b.namespace)?;
        if uplink == Uplink::Udp {
            for host in [&a, &b] {
                for address in &host.spec.wan {
                    veth.address(&host.namespace, address)?;
                }
            }
        }
        Ok(Self { a, b, veth })
    }

    /// Starts both.
    pub fn start(&mut self, scenario: &Scenario) -> Result<()> {
        self.a.start(scenario)?;
        self.b.start(scenario)
    }

    /// Boots a guest on each side, at the same time.
    pub fn boot_guests(&self, scenario: &Scenario) -> Result<(Guest, Guest)> {
        let mut vm_a = Guest::start(scenario, &self.a.guest("vm-a")?)?;
        let mut vm_b = Guest::start(scenario, &self.b.guest("vm-b")?)?;
        vm_a.wait_up()?;
        vm_b.wait_up()?;
        Ok((vm_a, vm_b))
    }

    /// Waits until a ping from one guest to an address passes.
    pub fn wait_ping(from: &mut Guest, to: &str, limit: Duration) -> Result<()> {
        let what = format!("a ping from {} to {to}", from.name());
        let command = format!("{} -c 1 -W 1 {to}", crate::guest::PING);
        eventually(&what, limit, || {
            let (status, _) = from.run(&command, Duration::from_secs(10))?;
            Ok((status == 0).then_some(()))
        })
    }

    fn host(
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
            wan: vec![format!("192.0.2.{side}/24")],
            listen_port: Self::PORT,
            keys: Keys::generate(scenario, node)?,
            gateways: vec![format!("10.1.{side}.1/24"), format!("fd00:{side}::1/64")],
            gateway_mac: format!("02:00:00:00:0{side}:01"),
            peers: Vec::new(),
            ports: vec![PortSpec {
                name: "vm1".to_owned(),
                socket: scenario.path(&format!("{node}-vm1.sock")),
                mode,
                queues: 1,
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

    fn peer(host: &Host) -> PeerSpec {
        let spec = &host.spec;
        let address = spec
            .wan
            .first()
            .map(|address| address.split('/').next().unwrap_or_default());
        PeerSpec {
            name: spec.node.clone(),
            public_key: spec.keys.public.clone(),
            endpoint: address.map(|address| format!("{address}:{}", spec.listen_port)),
            allowed_ips: spec
                .gateways
                .iter()
                .map(|gateway| gateway.replace(".1/", ".0/").replace("::1/", "::/"))
                .collect(),
        }
    }
}
