//! Paths with a narrow middle that says nothing: what passes is found out, and followed.
//!
//! ```text
//!   a: Culvert, t0 10.1.1.10 ── wan0 192.0.2.1 ═══ router ═══ wan0 198.51.100.2 ── b: wireguard-go 10.9.1.10, or Culvert
//!                            2001:db8:1::1    (middle's MTU)  2001:db8:2::2
//! ```
//!
//! The router drops its own ICMP, and every fragment: what is too long, is lost without a word.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Culvert, Iperf, Keys, Namespace, Part, Scenario, WireguardGo, eventually, ping, run,
};

const PARTS: [Part; 5] = [
    Part::Root,
    Part::Tun,
    Part::WireguardGo,
    Part::Nftables,
    Part::Iperf,
];
pub(super) const FIRST: Duration = Duration::from_secs(20);
/// A search that ends with halves, three lost probes of each.
const SEARCH: Duration = Duration::from_secs(90);
/// What was found is confirmed once a minute.
const FALL: Duration = Duration::from_secs(150);
const COMMAND: Duration = Duration::from_secs(60);
/// 25 s of quiet, then three probes that are answered after ten.
const QUIET: Duration = Duration::from_secs(110);

pub(super) struct Line {
    pub(super) a: Namespace,
    pub(super) router: Namespace,
    pub(super) b: Namespace,
}

impl Line {
    /// Cables of 9,000 bytes, and a router between that says nothing.
    fn lay() -> Result<Self> {
        let line = Self::lay_telling()?;
        line.silence()?;
        Ok(line)
    }

    /// The same with a router that tells what is too long for it.
    pub(super) fn lay_telling() -> Result<Self> {
        let line = Self {
            a: Namespace::make("a")?,
            router: Namespace::make("r")?,
            b: Namespace::make("b")?,
        };
        let near = [&line.a, &line.b];
        for (side, (near, (v4, v6))) in ["left", "right"].into_iter().zip(
            near.into_iter()
                .zip([("192.0.2", "2001:db8:1"), ("198.51.100", "2001:db8:2")]),
        ) {
            let host = if side == "left" { 1 } else { 2 };
            near.ip(&format!(
                "link add wan0 mtu 9000 type veth peer name {side} mtu 9000 netns {}",
                line.router.name()
            ))?;
            near.ip(&format!("address add {v4}.{host}/24 dev wan0"))?;
            near.ip(&format!("address add {v6}::{host}/64 dev wan0 nodad"))?;
            near.ip("link set wan0 up")?;
            line.router
                .ip(&format!("address add {v4}.254/24 dev {side}"))?;
            line.router
                .ip(&format!("address add {v6}::fe/64 dev {side} nodad"))?;
            line.router.ip(&format!("link set {side} up"))?;
            near.ip(&format!("route add default via {v4}.254"))?;
            near.ip(&format!("-6 route add default via {v6}::fe"))?;
        }
        line.router.sysctl("net.ipv4.ip_forward=1")?;
        line.router.sysctl("net.ipv6.conf.all.forwarding=1")?;
        Ok(line)
    }

    /// The cable to b lets so much through. The router tells nobody, and what it cuts is lost.
    pub(super) fn narrow(&self, mtu: u16) -> Result<()> {
        self.router.ip(&format!("link set right mtu {mtu}"))?;
        Ok(())
    }

    /// Nothing is told of it, and no fragment comes through.
    pub(super) fn silence(&self) -> Result<()> {
        let told = "add rule inet middle output";
        self.router.nft(&format!(
            "add table inet middle\n\
             add chain inet middle output {{ type filter hook output priority 0; }}\n\
             {told} icmp type destination-unreachable drop\n\
             {told} icmpv6 type packet-too-big drop\n"
        ))?;
        // Before the kernel puts them together.
        self.b.nft(
            "add table ip far\n\
             add chain ip far early { type filter hook prerouting priority -450; }\n\
             add rule ip far early iif wan0 ip frag-off & 0x3fff != 0 drop\n",
        )
    }
}

/// Culvert's file: a tun port, one peer, a tunnel as wide as the cable.
fn yaml(keys: &[Keys; 2], of: usize, pmtu: &str, endpoint: Option<&str>) -> String {
    let (own, other) = (&keys[of], &keys[1 - of]);
    let key = own.private_file.display();
    let endpoint = endpoint.map_or_else(String::new, |at| format!(", endpoint: \"{at}\""));
    let [(net, net6), (there, there6)] = match of {
        0 => [("10.1.1", "fd00:1"), ("10.9.1", "fd00:9")],
        _ => [("10.9.1", "fd00:9"), ("10.1.1", "fd00:1")],
    };
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         uplinks: {{ wan0: {{ driver: udp, mtu: 9000 }} }}\n\
         tunnels:\n  wg0: {{ uplink: wan0, listen_port: 51820, uapi: off, mtu: 8920, pmtu: {pmtu}, \
         private_key_file: {key}, peers: {{ far: {{ public_key: \"{}\", probe: {there}.10, \
         allowed_ips: [{there}.0/24, \"{there6}::/64\"]{endpoint} }} }} }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: [{net}.1/24, \"{net6}::1/64\"] }} }}\n\
         ports: {{ t0: {{ driver: tun, network: n, addresses: [{net}.10, \"{net6}::10\"] }} }}\n",
        other.public
    )
}

pub(super) fn routes(
    namespace: &Namespace,
    there: &str,
    there6: &str,
    interface: &str,
) -> Result<()> {
    namespace.ip(&format!("route replace {there}.0/24 dev {interface}"))?;
    namespace.ip(&format!("-6 route replace {there6}::/64 dev {interface}"))?;
    Ok(())
}

/// The path's MTU as `show` has it, once it was found.
fn found(culvert: &Culvert) -> Result<Option<u64>> {
    let show = culvert.show()?;
    let peer = &show["peers"][0];
    Ok((peer["path_mtu_known"] == "found")
        .then(|| peer["path_mtu"].as_u64())
        .flatten())
}

/// Waits until what was found is that, as exactly as it is found.
pub(super) fn wait_found(culvert: &Culvert, mtu: u16, limit: Duration) -> Result<()> {
    let near = u64::from(mtu) - 15..=u64::from(mtu);
    eventually(&format!("a path MTU of {mtu} to be found"), limit, || {
        Ok(found(culvert)?
            .filter(|found| near.contains(found))
            .map(drop))
    })
}

/// Large pings and TCP pass, both IP versions inside. What comes back is shorter than the middle.
fn passes(server: &Iperf, a: &Namespace) -> Result<()> {
    // The first hears of the MTU, the others fit it.
    let _ = ping(a, "10.9.1.10", 1, "-s 4000");
    ping(a, "10.9.1.10", 5, "-s 4000")?;
    for address in ["10.9.1.10", "fd00:9::10"] {
        let flow = server.send(a, address, "-n 16M")?;
        ensure!(flow.received >= 4 << 20, "{address}: {flow:?}");
    }
    Ok(())
}

/// What a tunnel over one IP version has to do.
fn follow(scenario: &Scenario, line: &Line, near: &Culvert, mtus: &[u16]) -> Result<()> {
    let server = Iperf::serve(scenario, &line.b, 5201)?;
    for (n, &mtu) in mtus.iter().enumerate() {
        scenario.say(format!("the middle lets {mtu} bytes through"));
        line.narrow(mtu)?;
        let mut pings = line.a.program("ping");
        pings.args(["-q", "-i", "0.2", "-W", "1", "-w", "240", "10.9.1.10"]);
        let mut pings = pings.stdout(std::process::Stdio::null()).spawn()?;
        let waited = wait_found(near, mtu, if n == 0 { SEARCH } else { FALL });
        pings.kill()?;
        pings.wait()?;
        waited?;
        passes(&server, &line.a)?;
    }
    Ok(())
}

#[test]
fn a_silent_middle_is_no_black_hole_with_wireguard_go_behind_it() -> Result<()> {
    let name = "a_silent_middle_is_no_black_hole_with_wireguard_go_behind_it";
    Scenario::run(name, &PARTS, |scenario| {
        let line = Line::lay()?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        line.narrow(1400)?;
        let there = ["10.9.1.10/24", "fd00:9::10/64"];
        let far = WireguardGo::start(scenario, &line.b, &keys[1], 51820, &there, 1280)?;
        let allowed = ["10.1.1.0/24", "fd00:1::/64"];
        far.peer(&line.b, &keys[0], None, &allowed, None)?;
        let file = |at: &str| yaml(&keys, 0, "probe", Some(at));
        let near = Culvert::start(scenario, "a", Some(&line.a), &file("198.51.100.2:51820"))?;
        routes(&line.a, "10.9.1", "fd00:9", "t0")?;
        eventually("an answer through the tunnel", FIRST, || {
            Ok(ping(&line.a, "10.9.1.10", 1, "").ok())
        })?;
        follow(scenario, &line, &near, &[1400, 1376])?;
        scenario.say("over IPv6");
        near.apply(&file("[2001:db8:2::2]:51820"))?;
        follow(scenario, &line, &near, &[1400])?;
        let text = near.call(&["show", "peers", "-o", "wide"])?;
        ensure!(text.contains("(found)"), "{text}");
        let sent = near.show()?["peers"][0]["fragmented"].as_u64();
        sent.context("no count of fragmented packets")?;
        Ok(())
    })
}

#[test]
fn what_the_operator_says_of_a_path_is_believed() -> Result<()> {
    let name = "what_the_operator_says_of_a_path_is_believed";
    Scenario::run(name, &PARTS, |scenario| {
        let line = Line::lay()?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        line.narrow(1300)?;
        let file = |of, pmtu, at: &str| yaml(&keys, of, pmtu, Some(at));
        let near = file(0, "1300", "198.51.100.2:51820");
        let near = Culvert::start(scenario, "a", Some(&line.a), &near)?;
        let far = file(1, "1300", "192.0.2.1:51820");
        let _far = Culvert::start(scenario, "b", Some(&line.b), &far)?;
        routes(&line.a, "10.9.1", "fd00:9", "t0")?;
        routes(&line.b, "10.1.1", "fd00:1", "t0")?;
        eventually("an answer through the tunnel", FIRST, || {
            Ok(ping(&line.a, "10.9.1.10", 1, "").ok())
        })?;
        // Pings that may be cut are, at the gateway: of a host that has not been told yet how much fits.
        run(
            line.a.program("ping").args([
                "-M",
                "dont",
                "-q",
                "-c",
                "5",
                "-i",
                "0.2",
                "-s",
                "4000",
                "10.9.1.10",
            ]),
            COMMAND,
        )?;
        let server = Iperf::serve(scenario, &line.b, 5201)?;
        for options in ["-n 16M", "-n 16M -R"] {
            let flow = server.send(&line.a, "10.9.1.10", options)?;
            ensure!(flow.received >= 4 << 20, "{flow:?}");
        }
        let peer = near.show()?["peers"][0].clone();
        ensure!(
            peer["path_mtu"] == 1300 && peer["path_mtu_known"] == "configured",
            "{peer}"
        );
        ensure!(peer["fragmented"].as_u64() >= Some(5), "{peer}");
        Ok(())
    })
}

#[test]
#[ignore = "a quiet minute and more: scripts/test --long"]
fn a_path_is_found_in_a_quiet_time_if_nobody_behind_it_answers() -> Result<()> {
    let name = "a_path_is_found_in_a_quiet_time_if_nobody_behind_it_answers";
    Scenario::run(name, &PARTS, |scenario| {
        let line = Line::lay()?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        line.narrow(1500)?;
        let there = ["10.9.1.10/24", "fd00:9::10/64"];
        let far = WireguardGo::start(scenario, &line.b, &keys[1], 51820, &there, 1420)?;
        far.peer(
            &line.b,
            &keys[0],
            None,
            &["10.1.1.0/24", "fd00:1::/64"],
            None,
        )?;
        let file = yaml(&keys, 0, "probe", Some("198.51.100.2:51820"));
        let file = file.replace("probe: 10.9.1.10, ", "");
        let file = file
            .replace("mtu: 9000", "mtu: 1500")
            .replace("mtu: 8920", "mtu: 1420");
        let near = Culvert::start(scenario, "a", Some(&line.a), &file)?;
        routes(&line.a, "10.9.1", "fd00:9", "t0")?;
        eventually("an answer through the tunnel", FIRST, || {
            Ok(ping(&line.a, "10.9.1.10", 1, "").ok())
        })?;
        // The tunnel's MTU and what goes around it.
        wait_found(&near, 1480, QUIET)
    })
}
