//! Interfaces of the host as ports: two hosts whose own programs talk through a tunnel.
//!
//! ```text
//!   host a ── t0 (tun) ── culvert ─────── wan0 (veth) ─────── culvert ── t0 (tun) ── host b
//!   10.9.0.1                       192.0.2.1     192.0.2.2                       10.9.0.2
//!   fd09::1                                                                       fd09::2
//! ```
//!
//! Without a gateway (a plain network) the hosts themselves route; with one, Culvert does.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Keys, Namespace, Part, Process, Scenario, Veth, eventually};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use serde_json::Value;

const PARTS: [Part; 4] = [Part::Root, Part::Tun, Part::WireguardGo, Part::Iperf];
const COMMAND: Duration = Duration::from_secs(30);
/// How long something that must happen may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a side is attached to its network.
#[derive(Clone)]
struct Shape {
    driver: &'static str,
    gateway: Option<String>,
    /// The port's other keys.
    port: String,
    workers: usize,
    addresses: Vec<String>,
    /// What the far end has.
    allowed: Vec<String>,
}

impl Shape {
    /// One of the two sides of a plain network, `1` or `2`.
    fn plain(side: u8) -> Self {
        let far = 3 - side;
        Self {
            driver: "tun",
            gateway: None,
            port: String::new(),
            workers: 1,
            addresses: vec![format!("10.9.0.{side}"), format!("fd09::{side}")],
            allowed: vec![format!("10.9.0.{far}/32"), format!("fd09::{far}/128")],
        }
    }

    /// One of two sides whose Culvert routes.
    fn routed(side: u8, driver: &'static str) -> Self {
        let far = 3 - side;
        Self {
            driver,
            gateway: Some(format!("[10.1.{side}.1/24, \"fd00:{side}::1/64\"]")),
            port: format!("mac: \"52:54:00:00:00:0{side}\""),
            workers: 1,
            addresses: vec![format!("10.1.{side}.10"), format!("fd00:{side}::10")],
            allowed: vec![format!("10.1.{far}.0/24"), format!("fd00:{far}::/64")],
        }
    }
}

struct Side {
    number: u8,
    namespace: Namespace,
    keys: Keys,
    shape: Shape,
    culvert: Option<Culvert>,
}

impl Side {
    fn new(scenario: &Scenario, number: u8, shape: Shape) -> Result<Self> {
        let label = format!("tun{number}");
        Ok(Self {
            number,
            namespace: Namespace::make(&label)?,
            keys: Keys::generate(scenario, &label)?,
            shape,
            culvert: None,
        })
    }

    fn yaml(&self, far: &Keys) -> Result<String> {
        let Shape {
            driver,
            gateway,
            port,
            workers,
            addresses,
            allowed,
        } = &self.shape;
        let list = |items: &[String]| {
            let quoted: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
            quoted.join(", ")
        };
        let mut text = String::new();
        writeln!(text, "version: 1\ncores: {{ workers: {workers} }}")?;
        writeln!(text, "uplinks: {{ wan0: {{ driver: udp }} }}")?;
        writeln!(text, "tunnels:\n  wg0:\n    uplink: wan0")?;
        writeln!(text, "    listen_port: 51820")?;
        writeln!(
            text,
            "    private_key_file: {}",
            self.keys.private_file.display()
        )?;
        writeln!(text, "    peers:\n      far:")?;
        writeln!(text, "        public_key: \"{}\"", far.public)?;
        writeln!(text, "        endpoint: 192.0.2.{}:51820", 3 - self.number)?;
        writeln!(text, "        allowed_ips: [{}]", list(allowed))?;
        writeln!(text, "networks:\n  host:\n    tunnel: wg0")?;
        if let Some(gateway) = gateway {
            writeln!(text, "    gateway: {gateway}")?;
        }
        writeln!(text, "ports:\n  t0:\n    driver: {driver}")?;
        writeln!(text, "    network: host")?;
        writeln!(text, "    addresses: [{}]", list(addresses))?;
        if !port.is_empty() {
            writeln!(text, "    {port}")?;
        }
        Ok(text)
    }

    fn start(&mut self, scenario: &Scenario, far: &Keys) -> Result<()> {
        let yaml = self.yaml(far)?;
        let name = format!("host{}", self.number);
        self.culvert = Some(Culvert::start(
            scenario,
            &name,
            Some(&self.namespace),
            &yaml,
        )?);
        self.routes()
    }

    /// What an operator would set: the ways to the far end.
    fn routes(&self) -> Result<()> {
        match self.shape.gateway {
            None => {
                self.namespace.ip("route add 10.9.0.0/24 dev t0")?;
                self.namespace.ip("-6 route add fd09::/64 dev t0")?;
            }
            Some(_) => {
                let (near, far) = (self.number, 3 - self.number);
                self.namespace.ip(&format!(
                    "route add 10.1.{far}.0/24 via 10.1.{near}.1 dev t0"
                ))?;
                self.namespace.ip(&format!(
                    "-6 route add fd00:{far}::/64 via fd00:{near}::1 dev t0"
                ))?;
            }
        }
        Ok(())
    }

    fn culvert(&self) -> Result<&Culvert> {
        self.culvert.as_ref().context("culvert does not run")
    }

    fn port(&self) -> Result<Value> {
        Ok(self.culvert()?.show()?["ports"][0].clone())
    }

    fn has_interface(&self) -> bool {
        self.namespace.ip("link show t0").is_ok()
    }

    /// `ping` until an answer comes, then a few more that all must be answered.
    fn ping(&self, to: &str) -> Result<String> {
        eventually(&format!("a ping of {to}"), PATIENCE, || {
            Ok(self
                .namespace
                .run(&["ping", "-q", "-c", "1", "-W", "1", to], COMMAND)
                .ok())
        })?;
        self.namespace
            .run(&["ping", "-c", "5", "-i", "0.1", "-W", "3", to], COMMAND)
    }
}

struct Pair {
    a: Side,
    b: Side,
}

impl Pair {
    /// Two hosts on a cable, each with a running Culvert.
    fn start(scenario: &Scenario, a: Shape, b: Shape) -> Result<Self> {
        let mut a = Side::new(scenario, 1, a)?;
        let mut b = Side::new(scenario, 2, b)?;
        Veth::join(&a.namespace, &b.namespace)?;
        for side in [&a, &b] {
            let address = format!("address add 192.0.2.{}/24 dev wan0", side.number);
            side.namespace.ip(&address)?;
        }
        a.start(scenario, &b.keys)?;
        b.start(scenario, &a.keys)?;
        Ok(Self { a, b })
    }
}

/// A running `iperf3 -s`.
fn iperf_server(scenario: &Scenario, side: &Side) -> Result<Process> {
    let mut command = side.namespace.program("iperf3");
    command.arg("-s");
    let server = Process::start("iperf3", scenario.scratch(), command)?;
    eventually("iperf3 to listen", PATIENCE, || {
        let listens = side
            .namespace
            .run(&["ss", "-ltn", "sport = :5201"], COMMAND)?;
        Ok(listens.contains(":5201").then_some(()))
    })?;
    Ok(server)
}

/// Runs iperf3 for two seconds; answers the bytes that arrived.
fn iperf(scenario: &Scenario, from: &Side, to: &str, options: &[&str]) -> Result<u64> {
    let mut words = vec![
        "iperf3",
        "-J",
        "-t",
        "2",
        "--connect-timeout",
        "5000",
        "-c",
        to,
    ];
    words.extend(options);
    let report: Value = serde_json::from_str(&from.namespace.run(&words, COMMAND)?)?;
    let bytes = report["end"]["sum_received"]["bytes"]
        .as_u64()
        .with_context(|| format!("no sum in iperf3's report: {report}"))?;
    scenario.say(format!(
        "  {to} {options:?}: {:.1} Mbit/s",
        bytes as f64 * 8.0 / 2e6
    ));
    ensure!(bytes > 1_000_000, "hardly anything passed: {bytes} bytes");
    Ok(bytes)
}

/// A capture on an interface, which ends when it has seen `count` packets of a filter.
fn capture(scenario: &Scenario, side: &Side, count: u32, filter: &str) -> Result<Process> {
    let mut command = side.namespace.program("tcpdump");
    let count = count.to_string();
    command.args(["-i", "t0", "-n", "-c", &count, filter]);
    let mut tcpdump = Process::start("tcpdump", scenario.scratch(), command)?;
    eventually("tcpdump's first word", PATIENCE, || {
        tcpdump.must_run()?;
        Ok(tcpdump.log().contains("listening on").then_some(()))
    })?;
    Ok(tcpdump)
}

fn checksum_errors(side: &Side) -> Result<String> {
    side.namespace.run(
        &[
            "nstat",
            "-asz",
            "TcpInCsumErrors",
            "UdpInCsumErrors",
            "IpInHdrErrors",
        ],
        COMMAND,
    )
}

#[test]
fn hosts_talk_through_plain_networks() -> Result<()> {
    Scenario::run("hosts_talk_through_plain_networks", &PARTS, |scenario| {
        let mut pair = Pair::start(scenario, Shape::plain(1), Shape::plain(2))?;

        scenario.say("ping: nothing of the packet changes on the way");
        for to in ["10.9.0.2", "fd09::2"] {
            let answer = pair.a.ping(to)?;
            ensure!(answer.contains("ttl=64"), "the hop limit fell: {answer}");
            ensure!(answer.contains(" 0% packet loss"), "{answer}");
        }

        scenario.say("an address that no peer has is unreachable");
        let nowhere = pair
            .a
            .namespace
            .program("ping")
            .args(["-c", "1", "-W", "2", "10.9.0.77"])
            .output()?;
        let text = String::from_utf8_lossy(&nowhere.stdout).into_owned();
        ensure!(
            text.contains("From 10.9.0.77") && text.contains("Unreachable"),
            "{text}"
        );
        let nowhere = pair
            .a
            .namespace
            .program("ping")
            .args(["-c", "1", "-W", "2", "fd09::77"])
            .output()?;
        let text = String::from_utf8_lossy(&nowhere.stdout).into_owned();
        ensure!(
            text.contains("From fd09::77") && text.contains("unreachable"),
            "{text}"
        );

        scenario.say("TCP: super-frames arrive");
        let server = iperf_server(scenario, &pair.b)?;
        for to in ["10.9.0.2", "fd09::2"] {
            let mut super_frames = capture(
                scenario,
                &pair.b,
                20,
                &format!("tcp and greater 20000 and dst host {to}"),
            )?;
            iperf(scenario, &pair.a, to, &[])?;
            super_frames
                .wait(PATIENCE)
                .context("no super-frames at the receiver")?;
            iperf(scenario, &pair.a, to, &["-R"])?;
        }
        drop(server);

        scenario.say(
            "UDP: super-frames leave, are cut to the datagrams that were meant, and arrive joined",
        );
        let mut super_frames = capture(scenario, &pair.b, 1, "udp and greater 3000")?;
        datagrams(&pair)?;
        super_frames
            .wait(PATIENCE)
            .context("no UDP super-frame at the receiver")?;

        for side in [&pair.a, &pair.b] {
            let errors = checksum_errors(side)?;
            let bad = errors
                .lines()
                .skip(1)
                .any(|line| line.split_whitespace().nth(1) != Some("0"));
            ensure!(!bad, "{errors}");
            let drops = side.culvert()?.drops()?;
            let lost: Vec<_> = drops
                .keys()
                .filter(|name| name.starts_with("interface-") || name.starts_with("offload"))
                .collect();
            ensure!(lost.is_empty(), "{drops:?}");
        }
        pair.a.culvert.as_mut().context("a")?.process().must_run()?;
        pair.b.culvert.as_mut().context("b")?.process().must_run()
    })
}

/// UDP super-frames of 40 datagrams each; every datagram that arrives is one that was sent.
fn datagrams(pair: &Pair) -> Result<()> {
    const SIZE: usize = 1_200;
    const COUNT: usize = 40;
    const FRAMES: usize = 50;
    let receiver = pair
        .b
        .namespace
        .enter(|| Ok(UdpSocket::bind("10.9.0.2:4000")?))?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let sender = pair
        .a
        .namespace
        .enter(|| Ok(UdpSocket::bind("10.9.0.1:0")?))?;
    sender.connect("10.9.0.2:4000")?;
    setsockopt(&sender, UdpGsoSegment, &i32::try_from(SIZE)?)?;
    let mut seen = 0;
    let mut datagram = vec![0; 65_536];
    for frame in 0..FRAMES {
        let mut bytes = vec![0; SIZE * COUNT];
        for (index, part) in bytes.chunks_exact_mut(SIZE).enumerate() {
            let number = u8::try_from((frame * COUNT + index) % 251)?;
            part.fill(number);
        }
        ensure!(sender.send(&bytes)? == bytes.len());
        // One frame at a time: the receiver's buffer is small.
        for index in 0..COUNT {
            let len = match receiver.recv(&mut datagram) {
                Ok(len) => len,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let number = u8::try_from((frame * COUNT + index) % 251)?;
            ensure!(
                len == SIZE && datagram[..len].iter().all(|&byte| byte == number),
                "datagram {index} of frame {frame} is another: {len} bytes of {}",
                datagram[0]
            );
            seen += 1;
        }
    }
    ensure!(
        seen == FRAMES * COUNT,
        "{seen} of {} datagrams arrived",
        FRAMES * COUNT
    );
    Ok(())
}

#[test]
fn an_interface_follows_its_host() -> Result<()> {
    Scenario::run("an_interface_follows_its_host", &PARTS, |scenario| {
        let mut pair = Pair::start(scenario, Shape::plain(1), Shape::plain(2))?;
        pair.a.ping("10.9.0.2")?;

        scenario.say("down and up");
        pair.a.namespace.ip("link set t0 down")?;
        eventually("`show` to say that the link is down", PATIENCE, || {
            Ok((pair.a.port()?["link_up"] == false).then_some(()))
        })?;
        // What comes meanwhile is lost under a name: by the interface, or by the tunnel, which rests with it.
        let _ = pair.b.namespace.run(
            &["ping", "-c", "2", "-i", "0.2", "-W", "1", "10.9.0.1"],
            COMMAND,
        );
        let drops = pair.a.culvert()?.drops()?;
        let lost = ["interface-down", "receiver-unknown"].map(|name| drops.get(name).copied());
        ensure!(lost.into_iter().flatten().sum::<u64>() > 0, "{drops:?}");
        pair.a.namespace.ip("link set t0 up")?;
        pair.a.routes()?;
        eventually("`show` to say that the link is up", PATIENCE, || {
            Ok((pair.a.port()?["link_up"] == true).then_some(()))
        })?;
        pair.a.ping("10.9.0.2")?;

        scenario.say("another MTU is the tunnel's, too");
        for side in [&pair.a, &pair.b] {
            side.namespace.ip("link set t0 mtu 1300")?;
            eventually("the MTU in `show`", PATIENCE, || {
                Ok((side.port()?["mtu"] == 1300).then_some(()))
            })?;
        }
        pair.a.namespace.run(
            &[
                "ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", "1272", "10.9.0.2",
            ],
            COMMAND,
        )?;
        let server = iperf_server(scenario, &pair.b)?;
        iperf(scenario, &pair.a, "10.9.0.2", &[])?;

        scenario.say("deleted under traffic");
        let sent = || -> Result<u64> { Ok(pair.a.port()?["rx"]["bytes"].as_u64().unwrap_or(0)) };
        let before = sent()?;
        let mut traffic = Process::start("iperf3-client", scenario.scratch(), {
            let mut command = pair.a.namespace.program("iperf3");
            command.args(["-t", "20", "-c", "10.9.0.2"]);
            command
        })?;
        eventually("traffic", PATIENCE, || {
            traffic.must_run()?;
            Ok((sent()? > before + 50_000_000).then_some(()))
        })?;
        pair.a.namespace.ip("link delete t0")?;
        eventually("`show` to say that the port is gone", PATIENCE, || {
            Ok((pair.a.port()?["connected"] == false).then_some(()))
        })?;
        traffic.kill()?;
        drop(server);
        pair.a.culvert.as_mut().context("a")?.process().must_run()?;

        scenario.say("idle beside a deleted interface");
        let culvert = pair.a.culvert.as_mut().context("a")?;
        let pid = culvert.process().pid();
        let before = cpu_ticks(pid)?;
        std::thread::sleep(Duration::from_secs(2));
        let used = cpu_ticks(pid)? - before;
        ensure!(
            used < 100,
            "it used {used} ticks of CPU in two seconds of nothing"
        );

        scenario.say("the same file again brings it back");
        let yaml = pair.a.yaml(&pair.b.keys)?;
        pair.a.culvert()?.apply(&yaml)?;
        ensure!(pair.a.has_interface());
        pair.a.routes()?;
        pair.b.namespace.ip("link set t0 mtu 1420")?;
        pair.a.ping("10.9.0.2")?;
        pair.a.ping("fd09::2").map(drop)
    })
}

/// User and system time of a process, in hundredths of a second on Linux.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let field = |at: usize| -> Result<u64> {
        Ok(rest
            .split_whitespace()
            .nth(at)
            .context("a short stat")?
            .parse()?)
    };
    Ok(field(11)? + field(12)?)
}

#[test]
fn a_killed_culvert_leaves_no_interface() -> Result<()> {
    Scenario::run("a_killed_culvert_leaves_no_interface", &PARTS, |scenario| {
        let mut pair = Pair::start(scenario, Shape::plain(1), Shape::plain(2))?;
        pair.a.ping("10.9.0.2")?;
        let mut culvert = pair.a.culvert.take().context("a")?;
        culvert.kill()?;
        eventually("the interface to go", PATIENCE, || {
            Ok((!pair.a.has_interface()).then_some(()))
        })?;
        let mut culvert = culvert.restart(scenario, Some(&pair.a.namespace))?;
        culvert.wait_ready()?;
        pair.a.culvert = Some(culvert);
        pair.a.routes()?;
        pair.a.ping("10.9.0.2")?;

        let mut culvert = pair.a.culvert.take().context("a")?;
        culvert.stop(PATIENCE)?;
        ensure!(!pair.a.has_interface(), "it stays after an orderly end");
        Ok(())
    })
}

#[test]
fn two_queues_and_workers() -> Result<()> {
    Scenario::run("two_queues_and_workers", &PARTS, |scenario| {
        let two = |side| Shape {
            port: "queues: 2".into(),
            workers: 2,
            ..Shape::plain(side)
        };
        let pair = Pair::start(scenario, two(1), two(2))?;
        pair.a.ping("10.9.0.2")?;
        let server = iperf_server(scenario, &pair.b)?;
        iperf(scenario, &pair.a, "10.9.0.2", &["-P", "8"])?;
        iperf(scenario, &pair.a, "fd09::2", &["-P", "8", "-R"])?;
        drop(server);
        let show = pair.a.culvert()?.show()?;
        let cores = show["cores"].as_array().context("no cores")?;
        for core in cores.iter().filter(|core| core["name"] != "control") {
            let packets = core["packets"].as_u64().unwrap_or(0);
            ensure!(packets > 100, "a worker hardly did anything: {show}");
        }
        Ok(())
    })
}

#[test]
fn a_tap_and_a_tun_behind_gateways() -> Result<()> {
    Scenario::run("a_tap_and_a_tun_behind_gateways", &PARTS, |scenario| {
        let tun = Shape {
            port: String::new(),
            ..Shape::routed(2, "tun")
        };
        let pair = Pair::start(scenario, Shape::routed(1, "tap"), tun)?;
        scenario.say("the gateways answer");
        for (side, gateway) in [
            (&pair.a, "10.1.1.1"),
            (&pair.a, "fd00:1::1"),
            (&pair.b, "10.1.2.1"),
            (&pair.b, "fd00:2::1"),
        ] {
            side.ping(gateway)?;
        }
        scenario.say("both route: two hops");
        for to in ["10.1.2.10", "fd00:2::10"] {
            let answer = pair.a.ping(to)?;
            ensure!(answer.contains("ttl=62"), "{answer}");
        }
        let server = iperf_server(scenario, &pair.b)?;
        for to in ["10.1.2.10", "fd00:2::10"] {
            iperf(scenario, &pair.a, to, &[])?;
            iperf(scenario, &pair.a, to, &["-R"])?;
        }
        drop(server);

        scenario.say("a guard on an interface: another source address does not pass");
        pair.a.namespace.ip("address add 10.1.1.66/24 dev t0")?;
        let _ = pair.a.namespace.run(
            &["ping", "-c", "1", "-W", "1", "-I", "10.1.1.66", "10.1.2.10"],
            COMMAND,
        );
        let port = pair.a.culvert()?.port("t0")?;
        ensure!(
            port.drop_count("guard-address") + port.drop_count("guard-neighbor") > 0,
            "{port:?}"
        );
        Ok(())
    })
}

/// A kernel behind a strict guard, with everything routed to a peer: its link-local addresses are its own.
#[test]
fn a_kernel_keeps_its_link_local_addresses() -> Result<()> {
    Scenario::run(
        "a_kernel_keeps_its_link_local_addresses",
        &PARTS,
        |scenario| {
            let everything = |side| Shape {
                allowed: vec!["0.0.0.0/0".into(), "::/0".into()],
                ..Shape::routed(side, "tap")
            };
            let pair = Pair::start(scenario, everything(1), everything(2))?;
            let a = &pair.a;
            scenario.say("made of the MAC address; then of chance");
            settled(a, "fe80::5054:ff:fe00:1/64")?;
            a.namespace.ip("link set t0 down addrgenmode random")?;
            a.namespace.ip("link set t0 up")?;
            settled(a, "fe80::")?;
            a.namespace.ip("address add fd00:1::10/64 dev t0")?;
            a.ping("fd00:1::1")?;
            let port = a.culvert()?.port("t0")?;
            let refused = port.drop_count("guard-address") + port.drop_count("guard-neighbor");
            ensure!(refused == 0, "{port:?}");
            Ok(())
        },
    )
}

/// Waits until the side has such a link-local address, to which nobody objected.
fn settled(side: &Side, address: &str) -> Result<()> {
    const SHOW: [&str; 8] = ["ip", "-6", "-o", "address", "show", "dev", "t0", "scope"];
    eventually(address, PATIENCE, || {
        let shown = side
            .namespace
            .run(&[&SHOW[..], &["link"]].concat(), COMMAND)?;
        ensure!(!shown.contains("dadfailed"), "{shown}");
        let has = shown.contains(address) && !shown.contains("tentative");
        Ok(has.then_some(()))
    })
}

#[test]
fn interfaces_that_can_not_be_had() -> Result<()> {
    Scenario::run("interfaces_that_can_not_be_had", &PARTS, |scenario| {
        let far = Keys::generate(scenario, "far")?;
        let mut side = Side::new(scenario, 1, Shape::plain(1))?;
        let ip = |words: &str| side.namespace.ip(words);

        scenario.say("the name of a device of another kind");
        ip("link add t0 type veth peer name t1")?;
        refused(
            scenario,
            &side,
            &far,
            "exists and is a veth interface, no tun",
        )?;
        ip("link delete t0")?;
        ip("tuntap add t0 mode tap")?;
        refused(scenario, &side, &far, "exists and is a tap, no tun")?;
        ip("link delete t0")?;

        scenario.say("more queues than it was made for");
        ip("tuntap add t0 mode tun")?;
        side.shape.port = "queues: 2".into();
        refused(
            scenario,
            &side,
            &far,
            "was made for one queue, 2 are wanted",
        )?;
        side.shape.port.clear();

        scenario.say("a persistent interface is taken as it is, by one, and stays");
        side.start(scenario, &far)?;
        refused(scenario, &side, &far, "is taken")?;
        let mut culvert = side.culvert.take().context("culvert")?;
        culvert.stop(PATIENCE)?;
        ensure!(side.has_interface(), "a persistent interface is gone");
        side.namespace.ip("link delete t0")?;

        scenario.say("somebody else's interface");
        side.shape.port = "queues: 2".into();
        side.shape.workers = 2;
        side.start(scenario, &far)?;
        refused(scenario, &side, &far, "belongs to another running program")?;
        drop(side.culvert.take());

        scenario.say("without the right");
        eventually("the interface to go", PATIENCE, || {
            Ok((!side.has_interface()).then_some(()))
        })?;
        let yaml = scenario.path("refused.yaml");
        std::fs::write(&yaml, side.yaml(&far)?)?;
        let output = side
            .namespace
            .program("timeout")
            .args([
                "20",
                "setpriv",
                "--bounding-set",
                "-net_admin",
                "--inh-caps",
                "-net_admin",
                "--",
            ])
            .arg(culvert_tests::culvert_binary()?)
            .args(["run", "-c"])
            .arg(&yaml)
            .arg("--run-dir")
            .arg(scenario.path("powerless.run"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && text.contains("CAP_NET_ADMIN"),
            "{text}"
        );
        Ok(())
    })
}

/// Starts a Culvert that must end by itself and say why.
fn refused(scenario: &Scenario, side: &Side, far: &Keys, why: &str) -> Result<()> {
    // Another UDP port and run directory than a running one's: the interface is what is taken.
    let yaml = side
        .yaml(far)?
        .replace("listen_port: 51820", "listen_port: 51899");
    let path = scenario.path("refused.yaml");
    std::fs::write(&path, yaml)?;
    let run_dir = scenario.path("refused.run");
    let start = Instant::now();
    let output = side
        .namespace
        .program("timeout")
        .arg("20")
        .arg(culvert_tests::culvert_binary()?)
        .args(["run", "-c"])
        .arg(&path)
        .arg("--run-dir")
        .arg(run_dir)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && text.contains(why),
        "not {why:?} after {:?}: {} {text}",
        start.elapsed(),
        output.status
    );
    Ok(())
}
