//! A tunnel with two uplinks of which one fails, with wireguard-go at the far end.
//!
//! ```text
//!            ┌ wan0 192.0.2.1    ═══ 192.0.2.2    wan0 ┐
//!   t0 near ─┤                                         ├─ lo 203.0.113.9 far: wireguard-go
//!            └ wan1 198.51.100.1 ═══ 198.51.100.2 wan1 ┘
//! ```
//!
//! Datagrams with numbers go both ways, and are counted at the other end.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, WireguardGo, eventually, ping, run,
};
use serde_json::Value;

const PARTS: [Part; 4] = [Part::Root, Part::Tun, Part::WireguardGo, Part::Nftables];
/// A few questions for a gateway, and the time that an uplink is held down, many times over.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two datagrams of a flow.
const STEP: Duration = Duration::from_millis(2);
/// Where the far end hears.
const FAR: &str = "203.0.113.9";

const UDP: [&str; 2] = [
    "{ driver: udp, device: wan0 }",
    "{ driver: udp, device: wan1 }",
];
const DPDK: [&str; 2] = [
    "{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", addresses: [192.0.2.7/24], routes: [{ to: default, via: 192.0.2.2 }] }",
    "{ driver: dpdk, device: \"net_af_packet1,iface=wan1\", addresses: [198.51.100.7/24], routes: [{ to: default, via: 198.51.100.2 }] }",
];

struct Hosts {
    near: Namespace,
    far: Namespace,
    keys: [Keys; 2],
}

/// What was sent one way, and what arrived.
struct Flow {
    sent: u32,
    arrived: BTreeSet<u32>,
}

impl Flow {
    fn lost(&self) -> usize {
        self.sent as usize - self.arrived.len()
    }
}

impl Hosts {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        far.ip(&format!("address add {FAR}/32 dev lo"))?;
        for (wan, net) in [("wan0", "192.0.2"), ("wan1", "198.51.100")] {
            let peer = far.name();
            near.ip(&format!(
                "link add {wan} type veth peer name {wan} netns {peer}"
            ))?;
            for (side, host) in [(&near, 1), (&far, 2)] {
                side.sysctl(&format!("net.ipv6.conf.{wan}.disable_ipv6=1"))?;
                // What a packet socket behind the cable sees is whole.
                let words = [
                    "ethtool", "-K", wan, "tx", "off", "rx", "off", "gso", "off", "tso", "off",
                ];
                side.run(&words, PATIENCE)?;
                side.ip(&format!("address add {net}.{host}/24 dev {wan}"))?;
                side.ip(&format!("link set {wan} up"))?;
            }
            let metric = if wan == "wan0" { 1 } else { 2 };
            near.ip(&format!(
                "route add {FAR}/32 via {net}.2 dev {wan} metric {metric}"
            ))?;
        }
        let keys = |name: &str| Keys::generate(scenario, name);
        let keys = [keys("near")?, keys("far")?];
        Ok(Self { near, far, keys })
    }

    fn yaml(&self, uplinks: [&str; 2], tunnel: &str) -> String {
        let [near, far] = &self.keys;
        let [one, two] = uplinks;
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 256 }}\n\
             uplinks:\n  wan0: {one}\n  wan1: {two}\n\
             tunnels:\n  wg0: {{ {tunnel}, listen_port: 51820, uapi: off, private_key_file: {key}, peers: {{ \
             far: {{ public_key: \"{public}\", allowed_ips: [10.9.0.0/16], endpoint: \"{FAR}:51820\" }} }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            key = near.private_file.display(),
            public = far.public,
        )
    }

    fn start(&self, scenario: &Scenario, uplinks: [&str; 2]) -> Result<(Culvert, WireguardGo)> {
        let [keys, far] = &self.keys;
        let far = WireguardGo::start(scenario, &self.far, far, 51820, &["10.9.1.10/24"], 1420)?;
        far.peer(&self.far, keys, None, &["10.1.1.0/24"], None)?;
        let yaml = self.yaml(uplinks, "uplinks: [wan0, wan1]");
        let near = Culvert::start(scenario, "near", Some(&self.near), &yaml)?;
        self.near.ip("route add 10.9.1.0/24 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&self.near, "10.9.1.10", 1, "").ok())
        })?;
        Ok((near, far))
    }

    /// Sends numbers both ways while `act` works.
    fn flows(&self, act: impl FnOnce() -> Result<()>) -> Result<[Flow; 2]> {
        let (near, far) = ((&self.near, "10.1.1.10"), (&self.far, "10.9.1.10"));
        let ends = AtomicBool::new(false);
        let open = |(from, own): (&Namespace, &str), (to, other): (&Namespace, &str)| {
            let taker = to.enter(|| Ok(UdpSocket::bind((other, 7777))?))?;
            taker.set_read_timeout(Some(Duration::from_millis(500)))?;
            let giver = from.enter(|| Ok(UdpSocket::bind((own, 0))?))?;
            giver.connect((other, 7777))?;
            anyhow::Ok((giver, taker, AtomicU32::new(0)))
        };
        let ways = [open(near, far)?, open(far, near)?];
        thread::scope(|scope| {
            let running = ways.each_ref().map(|(giver, taker, sent)| {
                let ends = &ends;
                let giving = scope.spawn(move || {
                    while !ends.load(Ordering::Relaxed) {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        // Where there is no way for a moment, it is lost.
                        let _ = giver.send(&number.to_be_bytes());
                        thread::sleep(STEP);
                    }
                });
                let taking = scope.spawn(move || {
                    let (mut arrived, mut number) = (BTreeSet::new(), [0; 4]);
                    loop {
                        match taker.recv(&mut number) {
                            Ok(_) => arrived.insert(u32::from_be_bytes(number)),
                            Err(_) if ends.load(Ordering::Relaxed) => return arrived,
                            Err(_) => false,
                        };
                    }
                });
                (giving, taking, sent)
            });
            let acted = act();
            ends.store(true, Ordering::Relaxed);
            let flows = running.map(|(giving, taking, sent)| {
                giving.join().ok().context("the sender panicked")?;
                let arrived = taking.join().ok().context("the receiver panicked")?;
                let sent = sent.load(Ordering::Relaxed);
                anyhow::Ok(Flow { sent, arrived })
            });
            acted?;
            let [out, back] = flows;
            Ok([out?, back?])
        })
    }
}

fn peer(near: &Culvert) -> Result<Value> {
    Ok(near.show()?["peers"][0].clone())
}

/// Until the peer is reached by that uplink, by what is shown of it, of its tunnel and by metrics.
fn reached_by(scenario: &Scenario, near: &Culvert, uplink: &str) -> Result<()> {
    eventually(&format!("the peer by {uplink}"), PATIENCE, || {
        Ok((peer(near)?["uplink"] == uplink).then_some(()))
    })?;
    let show = near.show()?;
    let counts = &show["tunnels"][0]["uplinks"];
    ensure!(counts[uplink] == 1, "{counts}");
    scenario.say(format!("reached by {uplink}"));
    Ok(())
}

/// Something that fails, with what makes it work again; numbers that are lost meanwhile are told.
fn fails(
    scenario: &Scenario,
    hosts: &Hosts,
    near: &Culvert,
    what: &str,
    break_it: impl FnOnce() -> Result<()>,
    mend_it: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = peer(near)?["last_handshake_unix"].clone();
    let flows = hosts.flows(|| {
        reached_by(scenario, near, "wan0")?;
        scenario.say(format!("{what}: broken"));
        break_it()?;
        reached_by(scenario, near, "wan1")?;
        ping(&hosts.near, "10.9.1.10", 3, "")?;
        scenario.say(format!("{what}: mended"));
        mend_it()?;
        reached_by(scenario, near, "wan0")?;
        ping(&hosts.near, "10.9.1.10", 3, "").map(drop)
    })?;
    for (way, flow) in ["out", "back"].iter().zip(&flows) {
        scenario.say(format!(
            "{what}: {way}: {} of {} lost",
            flow.lost(),
            flow.sent
        ));
        ensure!(flow.lost() < flow.sent as usize / 2, "{way} stood still");
    }
    let after = peer(near)?["last_handshake_unix"].clone();
    ensure!(before == after, "another handshake: {before}, then {after}");
    Ok(())
}

fn cut(hosts: &Hosts) -> (impl FnOnce() -> Result<()>, impl FnOnce() -> Result<()>) {
    let link =
        |word: &'static str| move || hosts.far.ip(&format!("link set wan0 {word}")).map(drop);
    (link("down"), link("up"))
}

/// Kernel sockets on two interfaces: the cable is cut, then the route is taken away, then the uplink switched off.
#[test]
fn a_tunnel_on_two_interfaces_survives_a_cut_cable_and_a_lost_route() -> Result<()> {
    let name = "a_tunnel_on_two_interfaces_survives_a_cut_cable_and_a_lost_route";
    Scenario::run(name, &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (mut near, _far) = hosts.start(scenario, UDP)?;
        let (down, up) = cut(&hosts);
        fails(scenario, &hosts, &near, "cable", down, up)?;
        let route = |word: &'static str| {
            let words = format!("route {word} {FAR}/32 via 192.0.2.2 dev wan0 metric 1");
            let hosts = &hosts;
            move || hosts.near.ip(&words).map(drop)
        };
        fails(scenario, &hosts, &near, "route", route("del"), route("add"))?;
        let switch = |word: &'static str| {
            let near = &near;
            move || near.call(&["uplink", word, "wan0"]).map(drop)
        };
        let (off, on) = (switch("down"), switch("up"));
        fails(scenario, &hosts, &near, "switch", off, on)?;
        let log = near.process().log();
        ensure!(log.contains("peers are reached by another uplink"), "{log}");
        near.process().must_run()
    })
}

/// Devices: the gateway answers no ARP, then the cable is cut.
#[test]
fn a_tunnel_on_two_devices_survives_a_silent_gateway_and_a_cut_cable() -> Result<()> {
    let name = "a_tunnel_on_two_devices_survives_a_silent_gateway_and_a_cut_cable";
    Scenario::run(name, &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (mut near, _far) = hosts.start(scenario, DPDK)?;
        let deafen = || {
            hosts.far.nft(
                "table arp deaf { chain in { type filter hook input priority 0; iifname wan0 drop; } }",
            )
        };
        let mend = || hosts.far.nft("delete table arp deaf");
        fails(scenario, &hosts, &near, "gateway", deafen, mend)?;
        let (down, up) = cut(&hosts);
        fails(scenario, &hosts, &near, "cable", down, up)?;
        near.process().must_run()
    })
}

/// A device, and the kernel behind it.
#[test]
fn a_device_and_the_kernel_back_each_other_up() -> Result<()> {
    let name = "a_device_and_the_kernel_back_each_other_up";
    Scenario::run(name, &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (mut near, _far) = hosts.start(scenario, [DPDK[0], UDP[1]])?;
        let (down, up) = cut(&hosts);
        fails(scenario, &hosts, &near, "cable", down, up)?;
        near.process().must_run()
    })
}

/// FRR's bfdd with one session, and the zebra that it asks for interfaces.
struct Frr {
    folder: PathBuf,
    _zebra: Process,
    bfdd: Option<Process>,
}

impl Frr {
    fn start(scenario: &Scenario, far: &Namespace, peer: &str) -> Result<Self> {
        let folder = scenario.path("frr");
        let mut install = std::process::Command::new("install");
        install.args(["-d", "-o", "frr", "-g", "frr"]).arg(&folder);
        run(&mut install, PATIENCE)?;
        fs::write(folder.join("zebra.conf"), "")?;
        let session =
            "detect-multiplier 3\n receive-interval 100\n transmit-interval 100\n no shutdown";
        let text = format!("bfd\n peer {peer}\n {session}\n exit\nexit\n");
        fs::write(folder.join("bfdd.conf"), text)?;
        let zebra = Self::daemon(scenario, far, &folder, "zebra")?;
        eventually("zebra's socket", PATIENCE, || {
            Ok(folder.join("zserv.api").exists().then_some(()))
        })?;
        let mut frr = Self {
            folder,
            _zebra: zebra,
            bfdd: None,
        };
        frr.revive(scenario, far)?;
        Ok(frr)
    }

    fn daemon(
        scenario: &Scenario,
        far: &Namespace,
        folder: &std::path::Path,
        name: &str,
    ) -> Result<Process> {
        let mut command = far.program(format!("/usr/lib/frr/{name}"));
        command.args(["-u", "frr", "-g", "frr", "-P", "0", "--log", "stdout"]);
        for (option, file) in [
            ("-f", format!("{name}.conf")),
            ("-i", format!("{name}.pid")),
            ("-z", "zserv.api".into()),
            ("--vty_socket", String::new()),
        ] {
            command.arg(option).arg(folder.join(file));
        }
        if name == "bfdd" {
            command.arg("--bfdctl").arg(folder.join("bfdd.sock"));
        }
        Process::start(name, scenario.scratch(), command)
    }

    fn revive(&mut self, scenario: &Scenario, far: &Namespace) -> Result<()> {
        self.bfdd = Some(Self::daemon(scenario, far, &self.folder, "bfdd")?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.bfdd.take().map_or(Ok(()), |mut bfdd| bfdd.kill())
    }

    fn peers(&self, far: &Namespace) -> Result<String> {
        let folder = self.folder.display().to_string();
        let words = ["vtysh", "--vty_socket", &folder, "-c", "show bfd peers"];
        far.run(&words, PATIENCE)
    }
}

/// FRR at the far end: its bfdd dies, with link and neighbor in order, and starts again.
#[test]
fn a_tunnel_on_two_devices_survives_the_end_of_a_bfd_session_with_frr() -> Result<()> {
    let name = "a_tunnel_on_two_devices_survives_the_end_of_a_bfd_session_with_frr";
    let parts = [&PARTS[..], &[Part::Frr]].concat();
    Scenario::run(name, &parts, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let mut frr = Frr::start(scenario, &hosts.far, "192.0.2.7")?;
        let watched = DPDK[0].replace(" }] }", " }], bfd: { peer: 192.0.2.2, interval: 100ms } }");
        let (mut near, _far) = hosts.start(scenario, [&watched, DPDK[1]])?;
        let bfd = || -> Result<Value> {
            let show = near.show()?;
            let uplinks = show["uplinks"].as_array().context("uplinks")?;
            let wan0 = uplinks.iter().find(|it| it["name"] == "wan0");
            Ok(wan0.context("wan0")?["bfd"].clone())
        };
        let is_up = |frr: &Frr| {
            eventually("a session", PATIENCE, || {
                let peers = frr.peers(&hosts.far)?;
                Ok((bfd()? == "up" && peers.contains("Status: up")).then_some(()))
            })
        };
        is_up(&frr)?;
        scenario.say(frr.peers(&hosts.far)?);
        let cell = std::cell::RefCell::new(&mut frr);
        let kill = || cell.borrow_mut().kill();
        let revive = || cell.borrow_mut().revive(scenario, &hosts.far);
        fails(scenario, &hosts, &near, "bfd", kill, revive)?;
        is_up(&frr)?;
        let log = near.process().log();
        for line in [
            "the BFD session is up",
            "the BFD session is down",
            "its BFD session is down",
        ] {
            ensure!(log.contains(line), "no {line:?} in {log}");
        }
        near.process().must_run()
    })
}
