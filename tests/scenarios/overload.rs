//! What can be flooded is flooded, and who must be heard is heard.
//!
//! ```text
//!   t0 (tun) ── culvert ───────── wan0 (veth) ═══ wan0 ── br0 ── far: wireguard-go, dnsmasq, the kernel
//!   10.1.1.10  │  │    192.0.2.1               192.0.2.2   │
//!              │  │  2001:db8::1             2001:db8::2   └── flood0 (tap): the floods
//!   :noisy t1 ─┘  └─ t2 :late, a guest that comes up
//! ```

use std::fs::File;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Far, Namespace, Numbered, Outcome, Outer, Pace, Part, PeerSpec, Process, Scenario,
    TunFlags, Uplink, Veth, eventually, make_tun,
};

use super::dhcp::{client, has_v4};
use super::overload_kinds::{kinds, send_frames};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const COMMAND: Duration = Duration::from_secs(60);
/// How long something that must happen may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(40);

/// Frames that bring no datagram with them are answered, too. How soon is printed, not asserted: on an idle machine
/// within a millisecond; that the core is told at once is a test of the device's (`datagrams_cross_devices`).
#[test]
fn neighbors_and_pings_on_a_dpdk_device_are_answered() -> Result<()> {
    let name = "neighbors_and_pings_on_a_dpdk_device_are_answered";
    Scenario::run(name, &PARTS, |scenario| {
        let far = Far::lay(scenario, Uplink::Dpdk, 1, Outer::V4)?;
        let yaml = far.a.spec.yaml().replace("poll: adaptive", "poll: busy");
        let mut culvert = Culvert::start(scenario, "hv-a", Some(&far.a.namespace), &yaml)?;
        for address in ["192.0.2.1", "2001:db8::1"] {
            let ping = |words: &str| -> Result<Vec<f64>> {
                let words = format!("ping -W 5 {words} {address}");
                let words: Vec<&str> = words.split_whitespace().collect();
                times(&far.namespace.run(&words, COMMAND)?)
            };
            ping("-c 1")?;
            let warm = ping("-c 41 -i 0.05")?;
            ensure!(warm.len() == 41, "{} of 41 pings answered", warm.len());
            let mut cold = Vec::new();
            for _ in 0..11 {
                far.namespace
                    .ip(&format!("neighbor flush dev {}", Veth::NAME))?;
                cold.extend(ping("-c 1")?);
            }
            ensure!(cold.len() == 11, "{} of 11 pings answered", cold.len());
            for (what, times) in [("ping", warm), ("neighbor and ping", cold)] {
                scenario.say(format!("{address}: {what}: {:.3} ms", median(times)));
            }
        }
        culvert.process().must_run()
    })
}

/// The round-trip times in what `ping` prints, in milliseconds.
fn times(output: &str) -> Result<Vec<f64>> {
    let times = output.lines().filter_map(|line| line.split_once(" time="));
    times
        .map(|(_, rest)| {
            let number = rest.split_whitespace().next().unwrap_or_default();
            number.parse().with_context(|| format!("no time: {rest}"))
        })
        .collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// ARP, ND, ICMP, fragments, SYNs and DHCP for the host stack, handshakes, datagrams and frames for nobody, a guest that
/// sends to peers that are not there, another that asks for addresses without end: all at once. What a tunnel carries
/// goes on, whoever asks in earnest gets his answer, and every loss has a name.
#[test]
fn all_floods_at_once() -> Result<()> {
    let parts = [&PARTS[..], &[Part::Dhcp, Part::AddressServers]].concat();
    Scenario::run("all_floods_at_once", &parts, |scenario| {
        let mut far = Far::lay(scenario, Uplink::Dpdk, 2, Outer::V4)?;
        let flood = bridge(&far.namespace)?;
        // It has to call us, through the floods.
        far.a.spec.peers[0].endpoint = None;
        for (name, endpoint, net) in [
            ("silent", "192.0.2.2:9", "10.1.3.0/24"),
            ("gone", "192.0.2.77:51820", "10.1.4.0/24"),
        ] {
            far.a.spec.peers.push(PeerSpec {
                name: name.to_owned(),
                public_key: culvert_tests::Keys::generate(scenario, name)?.public,
                endpoint: Some(endpoint.to_owned()),
                allowed_ips: vec![net.to_owned()],
                preshared_key_file: None,
            });
        }
        far.a.spec.ports.clear();
        let mut culvert = Culvert::start(scenario, "hv-a", Some(&far.a.namespace), &yaml(&far))?;
        for net in ["10.1.2.0/24", "10.1.3.0/24", "10.1.4.0/24"] {
            far.a
                .namespace
                .ip(&format!("route add {net} via 10.1.1.1 dev t0"))?;
        }
        let guests = Guests::lay(&far.a.namespace)?;
        let kinds = kinds(&far, &far.a.spec.keys.public)?;

        let stop = AtomicBool::new(false);
        let sent: Vec<AtomicU64> = kinds.iter().map(|_| AtomicU64::new(0)).collect();
        let heard = std::thread::scope(|scope| -> Result<Heard> {
            let flooded = scope.spawn(|| send_frames(&flood, &kinds, &sent, &stop));
            let guest = scope.spawn(|| {
                far.a.namespace.enter(|| {
                    let socket = UdpSocket::bind("10.1.1.10:0")?;
                    while !stop.load(Ordering::Relaxed) {
                        for _ in 0..32 {
                            // A full interface loses; that is the guest's affair.
                            let _ = socket.send_to(&[0; 400], "10.1.3.5:9");
                            let _ = socket.send_to(&[0; 400], "10.1.4.5:9");
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Ok(())
                })
            });
            let heard = listen(scenario, &far, &culvert, &guests);
            stop.store(true, Ordering::Relaxed);
            let panicked = |_| anyhow::anyhow!("a flood panicked");
            flooded.join().map_err(panicked)??;
            guest.join().map_err(panicked)??;
            heard
        })?;
        scenario.say(format!("{heard:?}"));

        // What is not heard is lost by name.
        let drops = eventually("the last losses counted", PATIENCE, || {
            let before = culvert.drops()?;
            std::thread::sleep(Duration::from_millis(300));
            let after = culvert.drops()?;
            Ok((before == after).then_some(after))
        })?;
        scenario.say(format!("{drops:?}"));
        for (kind, sent) in kinds.iter().zip(&sent) {
            let sent = sent.load(Ordering::Relaxed);
            scenario.say(format!("{sent} × {}", kind.name));
            let lost = kind.lost.iter().filter_map(|reason| drops.get(*reason));
            let (lost, names) = (lost.sum::<u64>(), kind.lost);
            ensure!(lost > 0, "{}: nothing lost as {names:?}", kind.name);
        }
        for reason in [
            "staged-overflow",
            "next-hop-unresolved",
            "service-queue-full",
        ] {
            let lost = drops.get(reason).unwrap_or(&0);
            ensure!(*lost > 0, "the guests lost nothing as {reason}: {drops:?}");
        }
        ensure!(
            heard.pings > 0,
            "no ping of the uplink's address was answered"
        );
        let Outcome { sent, received, .. } = heard.carried;
        ensure!(
            received * 10 >= sent * 9,
            "{received} of {sent} packets through the tunnel"
        );
        culvert.process().must_run()
    })
}

/// The uplink learns an address beside its own and serves metrics; guests come by taps.
fn yaml(far: &Far) -> String {
    let guest = |name: &str, last: u8| {
        format!(
            "  {name}: {{ driver: tap, network: blue, mac: \"52:54:00:00:00:{last}\", addresses: [10.1.1.{last}] }}\n"
        )
    };
    let ports = format!(
        "ports:\n  t0:\n    driver: tun\n    network: blue\n    mac: \"52:54:00:00:01:10\"\n    addresses: [10.1.1.10]\n{}{}",
        guest("t1", 11),
        guest("t2", 12)
    );
    let mtu = "    mtu: 1500\n";
    let more = "    dhcp4: true\n    metrics: { allow: [192.0.2.0/24] }\n";
    let yaml = far.a.spec.yaml().replace("ports: {}\n", &ports);
    yaml.replacen(mtu, &format!("{mtu}{more}"), 1)
}

/// Two guests whose taps are in namespaces of their own.
struct Guests {
    noisy: Namespace,
    late: Namespace,
}

impl Guests {
    fn lay(hypervisor: &Namespace) -> Result<Self> {
        let take = |name: &str, tap: &str| -> Result<Namespace> {
            let guest = Namespace::make(name)?;
            hypervisor.ip(&format!("link set {tap} netns {}", guest.name()))?;
            guest.ip(&format!("link set {tap} mtu 1420 up"))?;
            Ok(guest)
        };
        let (noisy, late) = (take("noisy", "t1")?, take("late", "t2")?);
        noisy.ip("addr add 10.1.1.11/24 dev t1")?;
        Ok(Self { noisy, late })
    }

    /// One asks for an address more often than anybody is served.
    fn ask_without_end(&self, scenario: &Scenario) -> Result<Process> {
        let mut command = self.noisy.program("perfdhcp");
        command.args(["-4", "-r", "8000", "-p", "600", "-R", "1", "-l", "t1"]);
        Process::start("perfdhcp", scenario.scratch(), command)
    }
}

/// What got through the floods.
#[derive(Debug)]
struct Heard {
    /// Pings of the uplink's own address that were answered, of 100.
    pings: usize,
    /// What a peer sent a guest, once there was a session.
    carried: Outcome,
}

/// While the floods last: a peer calls and sends, neighbors ask for us, pings come, whole and in fragments, somebody
/// connects, a guest and the uplink itself ask for an address.
fn listen(scenario: &Scenario, far: &Far, culvert: &Culvert, guests: &Guests) -> Result<Heard> {
    let _asking = guests.ask_without_end(scenario)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(culvert.handshake_age("far")?.is_none(), "nobody called yet");
    let count = |words: &str| -> Result<usize> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let (_, out, _) =
            culvert_tests::bounded(far.namespace.program(words[0]).args(&words[1..]), COMMAND)?;
        Ok(times(&out)?.len())
    };
    let wait = |what: &str, wanted: &dyn Fn() -> Result<bool>| -> Result<()> {
        let begun = Instant::now();
        eventually(what, PATIENCE, || Ok(wanted()?.then_some(())))?;
        scenario.say(format!("{what}: after {:?}", begun.elapsed()));
        Ok(())
    };
    wait("a peer's first packet through the floods", &|| {
        Ok(count("ping -c 1 -W 2 10.1.1.10")? > 0)
    })?;
    ensure!(
        culvert.handshake_age("far")?.is_some(),
        "a handshake was made"
    );
    let at = |text: &str| -> Result<SocketAddrV4> { Ok(text.parse()?) };
    let carried = Numbered::start(
        (&far.namespace, at("10.1.2.1:7000")?),
        (&far.a.namespace, at("10.1.1.10:7000")?),
        Pace::Rate(500),
    )?;

    // Over IPv4 the device's kernel puts fragments together, as far as its frames go.
    for (address, size) in [("192.0.2.1", 1900), ("2001:db8::1", 3000)] {
        far.namespace.ip("neighbor flush dev br0")?;
        wait(
            &format!("a neighbor that asks for {address} is answered"),
            &|| {
                count(&format!("ping -c 2 -i 0.2 -W 1 {address}"))?;
                let known = far
                    .namespace
                    .ip(&format!("neighbor show {address} dev br0"))?;
                Ok(known.contains("lladdr"))
            },
        )?;
        wait(&format!("a ping of {address} in fragments"), &|| {
            Ok(count(&format!("ping -c 4 -i 0.2 -W 1 -s {size} {address}"))? > 0)
        })?;
    }
    wait("metrics by the uplink", &|| {
        let words = [
            "-sS",
            "-m",
            "8",
            "-o",
            "/dev/null",
            "http://192.0.2.1:9587/metrics",
        ];
        let mut curl = far.namespace.program("curl");
        let (status, ..) = culvert_tests::bounded(curl.args(words), COMMAND)?;
        Ok(status.success())
    })?;
    let words = "udhcpc -f -i t2 -s /etc/udhcpc/default.script";
    let udhcpc = client(scenario, &guests.late, "udhcpc", words)?;
    has_v4(&guests.late, 2)?;
    drop(udhcpc);
    let _server = lend(scenario, &far.namespace)?;
    wait("an address for the uplink", &|| {
        let show = culvert.show()?;
        let all = show["uplinks"][0]["addresses"].to_string();
        Ok(all.contains("192.0.2.5"))
    })?;

    let pings = count("ping -c 100 -i 0.02 -W 2 192.0.2.1")?;
    let show = culvert.show()?;
    let neighbors = show["neighbors"].as_array().context("no neighbors")?;
    let ours = neighbors.iter().find(|n| n["address"] == "192.0.2.2");
    let state = ours.and_then(|n| n["state"].as_str()).unwrap_or_default();
    ensure!(
        ["reachable", "stale", "probing"].contains(&state),
        "the next hop of a live peer is {state:?}"
    );
    let carried = carried.finish()?;
    Ok(Heard { pings, carried })
}

/// A server on the link lends addresses.
fn lend(scenario: &Scenario, namespace: &Namespace) -> Result<Process> {
    let file = |name: &str| scenario.path(name).display().to_string();
    let mut command = namespace.program("dnsmasq");
    command
        .args("--keep-in-foreground --port=0 --log-facility=- --log-dhcp --conf-file=/dev/null --user=root".split(' '))
        .args("--interface=br0 --bind-interfaces --dhcp-authoritative --no-ping".split(' '))
        .arg("--dhcp-range=192.0.2.50,192.0.2.59,255.255.255.0,1h")
        .arg(format!("--dhcp-leasefile={}", file("dnsmasq.leases")))
        .arg(format!("--pid-file={}", file("dnsmasq.pid")));
    Process::start("dnsmasq", scenario.scratch(), command)
}

/// Puts the far end's side of the cable and a tap for the floods on one bridge, which has the addresses.
fn bridge(namespace: &Namespace) -> Result<File> {
    let tap = TunFlags {
        tap: true,
        vnet: false,
    };
    let flood = File::from(make_tun(namespace, "flood0", tap)?);
    for words in [
        "link add br0 type bridge",
        "address flush dev wan0",
        "link set flood0 master br0",
        "link set wan0 master br0",
        "link set flood0 up",
        "link set br0 up",
        "address add 192.0.2.2/24 dev br0",
        "address add 2001:db8::2/64 dev br0 nodad",
    ] {
        namespace.ip(words)?;
    }
    Ok(flood)
}
