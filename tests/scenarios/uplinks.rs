//! Uplinks that come, change and go under a flow on another one.
//!
//! ```text
//!            ┌ wan0 192.0.2.1    ═══ 192.0.2.2    wan0 ┐
//!   t0 near ─┤                                         ├─ far t0
//!            └ wan1 198.51.100.1 ═══ 198.51.100.2 wan1 ┘
//! ```
//!
//! Every datagram of the flow has a number, and is counted in `far`.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Keys, Namespace, Part, Scenario, Veth, eventually, ping};

/// A few handshakes' calls, 5 s apart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two datagrams of the flow.
const STEP: Duration = Duration::from_millis(1);

const UDP: &str = "{ driver: udp, addresses: [198.51.100.1/24] }";
const OTHER_UDP: &str = "{ driver: udp, addresses: [198.51.100.3/24], device: wan1 }";
/// The kernel has other addresses on that interface than this one.
const DPDK: &str =
    "{ driver: dpdk, device: \"net_af_packet0,iface=wan1\", addresses: [198.51.100.7/24] }";
const FURTHER: &str = "{ driver: dpdk, device: \"net_af_packet0,iface=wan1\", \
                       addresses: [198.51.100.8/24], mtu: 1400 }";

struct Hosts {
    near: Namespace,
    far: Namespace,
    keys: [Keys; 2],
}

impl Hosts {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let first = Veth::join(&near, &far)?;
        first.address(&near, "192.0.2.1/24")?;
        first.address(&far, "192.0.2.2/24")?;
        for words in [
            "link add wan1 type veth peer name wan1 netns",
            "address add 198.51.100.1/24 dev wan1",
            "address add 198.51.100.3/24 dev wan1",
            "link set wan1 up",
        ] {
            let words = words.replace("netns", &format!("netns {}", far.name()));
            near.ip(&words)?;
        }
        far.ip("address add 198.51.100.2/24 dev wan1")?;
        far.ip("link set wan1 up")?;
        let keys = |name: &str| Keys::generate(scenario, name);
        Ok(Self {
            near,
            far,
            keys: [keys("near")?, keys("far")?],
        })
    }

    /// The flow's tunnel on `uplink`; with a second uplink, the other tunnel on that.
    fn near_yaml(&self, uplink: &str, two: Option<&str>) -> String {
        let [near, far] = &self.keys;
        let key = near.private_file.display();
        let second = two.map_or_else(String::new, |two| format!("  two: {two}\n"));
        let other = two.map_or_else(String::new, |_| {
            format!(
                "  wg1: {{ uplink: two, listen_port: 51821, uapi: off, private_key_file: {key}, peers: {{ \
                 other: {{ public_key: \"{}\", allowed_ips: [10.8.0.0/16], endpoint: 198.51.100.2:51821, persistent_keepalive: 1s }} }} }}\n",
                far.public
            )
        });
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
             uplinks:\n  one: {{ driver: udp, addresses: [192.0.2.1/24] }}\n{second}\
             tunnels:\n  wg0: {{ uplink: {uplink}, listen_port: 51820, uapi: off, private_key_file: {key}, peers: {{ \
             far: {{ public_key: \"{}\", allowed_ips: [10.9.0.0/16], endpoint: 192.0.2.2:51820 }} }} }}\n{other}\
             networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            far.public,
        )
    }

    fn far_yaml(&self) -> String {
        let [near, far] = &self.keys;
        let key = far.private_file.display();
        let tunnel = |name: &str, port: u16, nets: &str| {
            format!(
                "  {name}: {{ uplink: all, listen_port: {port}, uapi: off, private_key_file: {key}, peers: {{ \
                 {name}near: {{ public_key: \"{}\", allowed_ips: [{nets}] }} }} }}\n",
                near.public
            )
        };
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ all: {{ driver: udp }} }}\n\
             tunnels:\n{}{}networks: {{ n: {{ tunnel: wg0, gateway: [10.9.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.9.1.10] }} }}\n",
            tunnel("wg0", 51820, "10.1.1.0/24"),
            tunnel("wg1", 51821, "10.2.1.0/24"),
        )
    }

    fn start(&self, scenario: &Scenario) -> Result<[Culvert; 2]> {
        let yaml = self.near_yaml("one", None);
        let near = Culvert::start(scenario, "near", Some(&self.near), &yaml)?;
        let far = Culvert::start(scenario, "far", Some(&self.far), &self.far_yaml())?;
        self.near.ip("route add 10.9.1.0/24 dev t0")?;
        self.far.ip("route add 10.1.1.0/24 dev t0")?;
        self.reaches()?;
        Ok([near, far])
    }

    fn reaches(&self) -> Result<()> {
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&self.near, "10.9.1.10", 1, "").ok())
        })
    }

    /// Sends numbers while `act` works; answers how many were sent, and those that arrived.
    fn flow(&self, act: impl FnOnce() -> Result<()>) -> Result<(u32, BTreeSet<u32>)> {
        let taker = self.far.enter(|| Ok(UdpSocket::bind("10.9.1.10:7777")?))?;
        taker.set_read_timeout(Some(Duration::from_millis(500)))?;
        let giver = self.near.enter(|| Ok(UdpSocket::bind("10.1.1.10:0")?))?;
        giver.connect("10.9.1.10:7777")?;
        let (sent, ends) = (AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let giving = scope.spawn(|| -> Result<()> {
                while !ends.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    giver.send(&number.to_be_bytes())?;
                    thread::sleep(STEP);
                }
                Ok(())
            });
            let taking = scope.spawn(|| {
                let (mut arrived, mut number) = (BTreeSet::new(), [0; 4]);
                loop {
                    match taker.recv(&mut number) {
                        Ok(_) => arrived.insert(u32::from_be_bytes(number)),
                        Err(_) if ends.load(Ordering::Relaxed) => return arrived,
                        Err(_) => false,
                    };
                }
            });
            let acted = act();
            ends.store(true, Ordering::Relaxed);
            giving.join().ok().context("the sender panicked")??;
            let arrived = taking.join().ok().context("the receiver panicked")?;
            acted?;
            Ok((sent.load(Ordering::Relaxed), arrived))
        })
    }
}

/// Where a peer is reached.
fn endpoint(culvert: &Culvert, peer: &str) -> Result<String> {
    let show = culvert.show()?;
    let peers = show["peers"].as_array().context("peers")?;
    let found = peers.iter().find(|it| it["name"] == peer);
    let endpoint = found.context("no peer")?["endpoint"].as_str();
    Ok(endpoint.unwrap_or_default().to_owned())
}

#[test]
fn a_flow_loses_nothing_while_another_uplink_comes_changes_and_goes() -> Result<()> {
    let name = "a_flow_loses_nothing_while_another_uplink_comes_changes_and_goes";
    Scenario::run(name, &[Part::Root, Part::Tun], |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let [near, far] = hosts.start(scenario)?;
        let (sent, arrived) = hosts.flow(|| {
            for (two, address) in [
                (Some(UDP), "198.51.100.1:"),
                (Some(OTHER_UDP), "198.51.100.3:"),
                (Some(DPDK), "198.51.100.7:"),
                (Some(FURTHER), "198.51.100.8:"),
                (None, ""),
                (Some(DPDK), "198.51.100.7:"),
                (Some(UDP), "198.51.100.1:"),
                (None, ""),
            ] {
                scenario.say(format!("two: {two:?}"));
                near.apply(&hosts.near_yaml("one", two))?;
                eventually("the other end follows", PATIENCE, || {
                    Ok(endpoint(&far, "wg1near")?
                        .starts_with(address)
                        .then_some(()))
                })?;
            }
            Ok(())
        })?;
        let lost = sent as usize - arrived.len();
        scenario.say(format!("{sent} sent, {lost} lost"));
        ensure!(lost == 0 && sent > 100, "{lost} of {sent} lost");
        Ok(())
    })
}

#[test]
fn a_tunnel_moves_to_other_uplinks_and_keeps_its_session() -> Result<()> {
    let name = "a_tunnel_moves_to_other_uplinks_and_keeps_its_session";
    Scenario::run(name, &[Part::Root, Part::Tun], |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let [near, far] = hosts.start(scenario)?;
        let before = near.handshake_age("far")?;
        ensure!(endpoint(&far, "wg0near")?.starts_with("192.0.2.1:"));
        let (sent, arrived) = hosts.flow(|| {
            for (uplink, address) in [("two", "198.51.100.1:"), ("one", "192.0.2.1:")] {
                near.apply(&hosts.near_yaml(uplink, Some(UDP)))?;
                eventually("the other end follows", PATIENCE, || {
                    Ok(endpoint(&far, "wg0near")?
                        .starts_with(address)
                        .then_some(()))
                })?;
                hosts.reaches()?;
            }
            near.apply(&hosts.near_yaml("one", None))
        })?;
        let lost = sent as usize - arrived.len();
        scenario.say(format!("{sent} sent, {lost} lost"));
        ensure!(lost == 0 && sent > 10, "{lost} of {sent} lost");
        // The handshake is still the first one.
        let after = near.handshake_age("far")?;
        ensure!(after >= before, "{before:?}, then {after:?}");
        Ok(())
    })
}
