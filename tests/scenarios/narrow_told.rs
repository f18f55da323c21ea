//! Paths with a narrow middle that says so, from an uplink of the kernel's and from a DPDK one.
//!
//! ```text
//!   a: Culvert, t0 10.1.1.10 ── (dtap0, DPDK's net_tap ── br0 ──) wan0 192.0.2.1 ═══ router ═══ wan0 198.51.100.2 ── b: Culvert, t0 10.9.1.10
//!                                                              2001:db8:1::1    (middle's MTU)  2001:db8:2::2
//! ```
//!
//! Over IPv6 nobody cuts on the way: what is too long is lost until the router is heard, and is then cut where it leaves.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{Culvert, Iperf, Keys, Part, Scenario, eventually, ping};

use super::narrow::{FIRST, Line, routes, wait_found};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::Iperf];
/// A search that the router helps with: far less than one that it does not.
const TOLD: Duration = Duration::from_secs(30);

/// What the cable at a takes, as Culvert is told.
const MTU: u16 = 1500;

pub(super) const V4: &str = "198.51.100.2:51820";
pub(super) const V6: &str = "[2001:db8:2::2]:51820";
const UDP: &str = "{ driver: udp, mtu: MTU }";
const DPDK: &str = "{ driver: dpdk, device: \"net_tap0,iface=dtap0\", mtu: MTU, \
                    addresses: [192.0.2.1/24, \"2001:db8:1::1/64\"], routes: [{ to: default, via: 192.0.2.254 }, \
                    { to: default, via: \"2001:db8:1::fe\" }] }";

/// Both ends, as they run.
pub(super) struct Ends {
    pub(super) line: Line,
    keys: [Keys; 2],
    uplink: String,
    mtu: u16,
    pub(super) near: Culvert,
    _far: Culvert,
    server: Iperf,
}

impl Ends {
    fn lay(scenario: &Scenario, uplink: &str, pmtu: &str) -> Result<Self> {
        Self::lay_wide(scenario, uplink, pmtu, MTU)
    }

    pub(super) fn lay_wide(
        scenario: &Scenario,
        uplink: &str,
        pmtu: &str,
        mtu: u16,
    ) -> Result<Self> {
        let line = Line::lay_telling()?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        let uplink = uplink.replace("MTU", &mtu.to_string());
        let file = yaml((&keys, 0), &uplink, (pmtu, mtu), Some(V4));
        if uplink.contains("dpdk") {
            line.a.ip("address flush dev wan0")?;
        }
        let near = Culvert::start(scenario, "a", Some(&line.a), &file)?;
        if uplink.contains("net_tap") {
            // The device has the interface's address, which a bridge would take for its own.
            for words in [
                "link set dtap0 down",
                "link set dtap0 address 02:00:00:00:77:01 addrgenmode none",
                "link add br0 type bridge",
                "link set br0 addrgenmode none",
                "link set dtap0 master br0",
                "link set wan0 master br0",
                "link set dtap0 up",
                "link set br0 up",
            ] {
                line.a.ip(words)?;
            }
        }
        let far = UDP.replace("MTU", "9000");
        let far = yaml((&keys, 1), &far, ("off", mtu), None);
        let far = Culvert::start(scenario, "b", Some(&line.b), &far)?;
        routes(&line.a, "10.9.1", "fd00:9", "t0")?;
        routes(&line.b, "10.1.1", "fd00:1", "t0")?;
        let server = Iperf::serve(scenario, &line.b, 5201)?;
        Ok(Self {
            line,
            keys,
            uplink,
            mtu,
            near,
            _far: far,
            server,
        })
    }

    /// The far end is at `at` from now on, over that IP version.
    pub(super) fn turn_to(&self, at: &str, pmtu: &str) -> Result<()> {
        let file = yaml((&self.keys, 0), &self.uplink, (pmtu, self.mtu), Some(at));
        self.near.apply(&file)?;
        eventually("an answer through the tunnel", FIRST, || {
            Ok(ping(&self.line.a, "10.9.1.10", 1, "").ok())
        })
    }

    /// Some megabytes pass, over both IP versions inside.
    pub(super) fn carries(&self) -> Result<()> {
        for address in ["10.9.1.10", "fd00:9::10"] {
            let flow = self.server.send(&self.line.a, address, "-n 16M")?;
            ensure!(flow.received >= 4 << 20, "{address}: {flow:?}");
        }
        Ok(())
    }

    fn peer(&self) -> Result<serde_json::Value> {
        Ok(self.near.show()?["peers"][0].clone())
    }
}

/// A tun port, one peer.
fn yaml(
    (keys, of): (&[Keys; 2], usize),
    uplink: &str,
    (pmtu, mtu): (&str, u16),
    at: Option<&str>,
) -> String {
    let (own, other) = (&keys[of], &keys[1 - of]);
    let key = own.private_file.display();
    let endpoint = at.map_or_else(String::new, |at| format!(", endpoint: \"{at}\""));
    let [(net, net6), (there, there6)] = match of {
        0 => [("10.1.1", "fd00:1"), ("10.9.1", "fd00:9")],
        _ => [("10.9.1", "fd00:9"), ("10.1.1", "fd00:1")],
    };
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         uplinks: {{ wan0: {uplink} }}\n\
         tunnels:\n  wg0: {{ uplink: wan0, listen_port: 51820, uapi: off, mtu: {}, pmtu: {pmtu}, \
         private_key_file: {key}, peers: {{ far: {{ public_key: \"{}\", probe: {there}.10, \
         allowed_ips: [{there}.0/24, \"{there6}::/64\"]{endpoint} }} }} }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: [{net}.1/24, \"{net6}::1/64\"] }} }}\n\
         ports: {{ t0: {{ driver: tun, network: n, addresses: [{net}.10, \"{net6}::10\"] }} }}\n",
        mtu - 80,
        other.public
    )
}

/// No path is known: what is too long for it is cut, by routers, or where it leaves, once a router was heard.
fn carries_what_is_too_long(name: &str, uplink: &str) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let ends = Ends::lay(scenario, uplink, "off")?;
        for at in [V6, V4, V6] {
            ends.line.narrow(MTU)?;
            ends.turn_to(at, "off")?;
            for middle in [1400, 1300, 1280, MTU] {
                scenario.say(format!("to {at}, the middle lets {middle} bytes through"));
                ends.line.narrow(middle)?;
                ends.carries()?;
            }
        }
        let error = ends.peer()?["last_error"].clone();
        ensure!(error["what"] == "too-big", "{error}");
        let cut = ends.near.show()?["uplinks"][0]["fragmented"].as_u64();
        let is_ours = uplink.contains("dpdk");
        ensure!((cut > Some(0)) == is_ours, "{cut:?} datagrams were cut");
        Ok(())
    })
}

#[test]
fn a_dpdk_uplink_cuts_what_a_router_says_is_too_long() -> Result<()> {
    carries_what_is_too_long("a_dpdk_uplink_cuts_what_a_router_says_is_too_long", DPDK)
}

#[test]
fn a_udp_uplink_carries_what_a_router_says_is_too_long() -> Result<()> {
    carries_what_is_too_long("a_udp_uplink_carries_what_a_router_says_is_too_long", UDP)
}

/// A path that is searched becomes narrow while something flows.
fn follows_what_is_said(name: &str, uplink: &str) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let ends = Ends::lay(scenario, uplink, "probe")?;
        // Routers cut data over IPv4 without a word: only probes are answered.
        ends.line.narrow(1400)?;
        ends.turn_to(V4, "probe")?;
        wait_found(&ends.near, 1400, TOLD)?;
        ends.carries()?;
        ends.line.narrow(1500)?;
        ends.turn_to(V6, "probe")?;
        thread::scope(|scope| {
            let flow = scope.spawn(|| ends.server.send(&ends.line.a, "10.9.1.10", "-t 6"));
            for middle in [1500, 1400, 1300] {
                scenario.say(format!("the middle lets {middle} bytes through"));
                ends.line.narrow(middle)?;
                let found = wait_found(&ends.near, middle, TOLD);
                found.with_context(|| format!("{:?}", ends.peer()))?;
            }
            let flow = flow.join().ok().context("iperf3's end panicked")??;
            ensure!(flow.received >= 4 << 20, "{flow:?}");
            Ok(())
        })?;
        ends.carries()
    })
}

#[test]
fn a_path_of_a_dpdk_uplink_is_what_a_router_says_and_probes_confirm() -> Result<()> {
    let name = "a_path_of_a_dpdk_uplink_is_what_a_router_says_and_probes_confirm";
    follows_what_is_said(name, DPDK)
}

#[test]
fn a_path_of_a_udp_uplink_is_what_a_router_says_and_probes_confirm() -> Result<()> {
    let name = "a_path_of_a_udp_uplink_is_what_a_router_says_and_probes_confirm";
    follows_what_is_said(name, UDP)
}
