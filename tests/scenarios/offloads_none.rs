//! A host whose interface was opened without offloads: what a tunnel brings is cut and summed before it is handed over.
//!
//! ```text
//!   a: vm1 (all offloads) ── hv-a ─────── wan0 (veth) ─────── hv-b ── vm1 (offloads: none) :b
//!   10.1.1.10, fd00:1::10       192.0.2.1     192.0.2.2       10.1.2.10, fd00:2::10
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Counters, Culvert, Host, Iperf, Part, Process, Scenario, SocketMode, TwoHosts, Uplink,
    eventually,
};

const PARTS: [Part; 4] = [Part::Root, Part::Tun, Part::Iperf, Part::Capture];
const COMMAND: Duration = Duration::from_secs(30);
const INTERFACE: &str = "vm1";
const SEEN: u32 = 1000;

#[test]
fn a_tun_interface_without_offloads_gets_complete_packets() -> Result<()> {
    without_offloads(
        "a_tun_interface_without_offloads_gets_complete_packets",
        "tun",
    )
}

#[test]
fn a_tap_interface_without_offloads_gets_complete_packets() -> Result<()> {
    without_offloads(
        "a_tap_interface_without_offloads_gets_complete_packets",
        "tap",
    )
}

fn without_offloads(name: &str, driver: &str) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        hosts.widen(9080)?;
        start(scenario, &mut hosts.a, driver, "all")?;
        start(scenario, &mut hosts.b, driver, "none")?;
        for (host, far) in [(&hosts.a, 2), (&hosts.b, 1)] {
            let near = 3 - far;
            let namespace = &host.namespace;
            namespace.ip(&format!(
                "route add 10.1.{far}.0/24 via 10.1.{near}.1 dev {INTERFACE}"
            ))?;
            namespace.ip(&format!(
                "-6 route add fd00:{far}::/64 via fd00:{near}::1 dev {INTERFACE}"
            ))?;
        }
        let server = Iperf::serve(scenario, &hosts.b.namespace, 5201)?;
        for mtu in [1280, 1420, 9000] {
            for host in [&hosts.a, &hosts.b] {
                let namespace = &host.namespace;
                namespace.ip(&format!("link set {INTERFACE} mtu {mtu}"))?;
            }
            for (family, address) in [("ip", "10.1.2.10"), ("ip6", "fd00:2::10")] {
                let words = ["ping", "-q", "-c", "1", "-W", "1", address];
                eventually("an answer to a ping", COMMAND, || {
                    Ok(hosts.a.namespace.run(&words, COMMAND).ok().map(drop))
                })?;
                for (kind, options) in [("tcp", "-n 48M"), ("udp", "-u -l 1200 -b 100M -n 4M")] {
                    let name = format!("tcpdump-{mtu}-{family}-{kind}");
                    let filter = format!("{family} and {kind} dst port 5201");
                    let watch = watch(scenario, &hosts.b, &name, &filter)?;
                    server.send(&hosts.a.namespace, address, options)?;
                    judge(watch, mtu).with_context(|| format!("MTU {mtu}, {family}, {kind}"))?;
                }
            }
        }
        for host in [&hosts.a, &hosts.b] {
            Counters::of(&host.namespace)?.must_have_right_checksums()?;
        }
        Ok(())
    })
}

/// Starts Culvert with an interface in the place of the host's first port.
fn start(scenario: &Scenario, host: &mut Host, driver: &str, offloads: &str) -> Result<()> {
    let yaml = host.spec.yaml();
    let (head, _) = yaml.split_once("ports:\n").context("a section of ports")?;
    let port = host.spec.ports.first().context("a port")?;
    let addresses: Vec<String> = port
        .addresses
        .iter()
        .map(|ip| format!("\"{ip}\""))
        .collect();
    let yaml = format!(
        "{head}ports:\n  {INTERFACE}:\n    driver: {driver}\n    network: blue\n    mac: \"{}\"\n    \
         addresses: [{}]\n    offloads: {offloads}\n",
        port.mac,
        addresses.join(", ")
    );
    let culvert = Culvert::start(scenario, &host.spec.node, Some(&host.namespace), &yaml)?;
    host.culvert = Some(culvert);
    Ok(())
}

/// tcpdump on what comes in.
fn watch(scenario: &Scenario, host: &Host, name: &str, filter: &str) -> Result<Process> {
    let mut command = host.namespace.program("tcpdump");
    command.args(["-i", INTERFACE, "-Q", "in", "-n", "-l", "-vv", "-Z", "root"]);
    command.args(["-c", &SEEN.to_string(), filter]);
    let mut process = Process::start(name, scenario.scratch(), command)?;
    eventually("tcpdump's first word", COMMAND, || {
        process.must_run()?;
        Ok(process.log().contains("listening on").then_some(()))
    })?;
    Ok(process)
}

/// Each packet is one that a wire would carry: no longer than the MTU, its checksum right.
fn judge(mut watch: Process, mtu: usize) -> Result<()> {
    watch
        .wait(Duration::from_secs(10))
        .context("the packets that were waited for")?;
    let seen = watch.log();
    let right = seen.matches("(correct)").count() + seen.matches("[udp sum ok]").count();
    let wrong = seen.matches("incorrect").count() + seen.matches("bad udp cksum").count();
    ensure!(wrong == 0, "{wrong} wrong checksums:\n{seen}");
    ensure!(right == SEEN as usize, "{right} checksums judged:\n{seen}");
    // IPv4 says the packet's length in parentheses, behind its protocol; both say the payload's at the end.
    let longest = seen
        .lines()
        .filter_map(|line| {
            line.rsplit_once("length ")?
                .1
                .split(')')
                .next()?
                .parse()
                .ok()
        })
        .max()
        .unwrap_or(usize::MAX);
    ensure!(longest <= mtu, "a packet of {longest} bytes:\n{seen}");
    Ok(())
}
