//! Super-frames from guest to guest, with every offload on, off, and toggled meanwhile; the guests' own kernels judge.
//!
//! ```text
//!   vm-a ── vhost-user ── hv-a ─────── wan0 (veth) ─────── hv-b ── vhost-user ── vm-b     through a tunnel
//!   10.1.1.10        10.1.1.1   192.0.2.1     192.0.2.2   10.1.2.1        10.1.2.10
//!   fd00:1::10      fd00:1::1                             fd00:2::1      fd00:2::10
//!
//!   vm-a ── vhost-user ── hv-a ── vhost-user ── vm-b                                      on one switch
//!   10.1.1.10, fd00:1::10         10.1.1.11, fd00:1::11
//! ```
//! The guests count checksums that are wrong (`/proc/net/snmp*`), and their tcpdump shows what they were given.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::{
    Counters, Flow, Guest, Part, PortSpec, Scenario, SocketMode, TwoHosts, Uplink, Veth,
};

const PARTS: [Part; 3] = [Part::Root, Part::Qemu, Part::Nftables];
const COMMAND: Duration = Duration::from_secs(30);
const FIRST_PING: Duration = Duration::from_secs(20);

/// What the guests are told to use at most; the cable takes what the tunnel adds to that.
const MTU_MAX: u16 = 9000;
const CABLE: u16 = MTU_MAX + 80;

/// A card that takes nothing but complete packets.
const NO_GUEST_OFFLOADS: &str =
    ",guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";

/// The receiver's addresses.
struct Far {
    v4: &'static str,
    v6: &'static str,
}

impl Far {
    fn both(&self) -> [(&'static str, &'static str); 2] {
        [("ip", self.v4), ("ip6", self.v6)]
    }
}

const THROUGH_THE_TUNNEL: Far = Far {
    v4: "10.1.2.10",
    v6: "fd00:2::10",
};

const ON_ONE_SWITCH: Far = Far {
    v4: "10.1.1.11",
    v6: "fd00:1::11",
};

/// Two guests; `a` sends first.
struct Guests {
    a: Guest,
    b: Guest,
    far: Far,
    hosts: TwoHosts,
}

impl Guests {
    /// Two hosts with a tunnel between them. `device_b` is more for the second guest's card.
    fn apart(scenario: &Scenario, uplink: Uplink, device_b: &str) -> Result<Self> {
        let mut hosts = TwoHosts::lay(scenario, uplink, 1, SocketMode::Server)?;
        hosts.widen(CABLE)?;
        hosts.start(scenario)?;
        let specs = [hosts.a.guest("vm-a")?, hosts.b.guest("vm-b")?];
        Self::boot(scenario, hosts, specs, device_b, THROUGH_THE_TUNNEL)
    }

    /// Two guests of one host.
    fn together(scenario: &Scenario, device_b: &str) -> Result<Self> {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        hosts.widen(CABLE)?;
        let second = PortSpec {
            name: "vm2".to_owned(),
            socket: scenario.path("hv-a-vm2.sock"),
            mac: "52:54:00:00:01:11".to_owned(),
            addresses: [ON_ONE_SWITCH.v4, ON_ONE_SWITCH.v6]
                .map(str::to_owned)
                .into(),
            ..hosts.a.spec.ports[0].clone()
        };
        hosts.a.spec.ports.push(second);
        hosts.a.start(scenario)?;
        let first = hosts.a.guest("vm-a")?;
        hosts.a.spec.ports.swap(0, 1);
        let second = hosts.a.guest("vm-b")?;
        Self::boot(scenario, hosts, [first, second], device_b, ON_ONE_SWITCH)
    }

    fn boot(
        scenario: &Scenario,
        hosts: TwoHosts,
        mut specs: [culvert_tests::GuestSpec; 2],
        device_b: &str,
        far: Far,
    ) -> Result<Self> {
        for spec in &mut specs {
            spec.device_options
                .push_str(&format!(",host_mtu={MTU_MAX}"));
        }
        specs[1].device_options.push_str(device_b);
        let mut a = Guest::start(scenario, &specs[0])?;
        let mut b = Guest::start(scenario, &specs[1])?;
        a.wait_up()?;
        b.wait_up()?;
        for (_, address) in far.both() {
            a.wait_ping(address, FIRST_PING)?;
        }
        Ok(Self { a, b, far, hosts })
    }

    fn both(&mut self) -> [&mut Guest; 2] {
        [&mut self.a, &mut self.b]
    }

    fn sh(&mut self, command: &str) -> Result<()> {
        for guest in self.both() {
            guest.sh(command, COMMAND)?;
        }
        Ok(())
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<()> {
        // Routes remember what ICMP said of a smaller one.
        self.sh(&format!("ip link set eth0 mtu {mtu}"))
    }

    fn set_ecn(&mut self, on: bool) -> Result<()> {
        self.sh(&format!("sysctl -qw net.ipv4.tcp_ecn={}", u8::from(on)))
    }

    /// Runs iperf3 from `a` to `b`.
    fn iperf(&mut self, address: &str, options: &str) -> Result<Flow> {
        // Standard error has its advice on sizes.
        let command =
            format!("iperf3 -J -i 0 --connect-timeout 5000 -c {address} {options} 2>/dev/null");
        let report = self.a.sh(&command, Duration::from_secs(120))?;
        Flow::parse(&report).with_context(|| command)
    }

    fn counters(&mut self) -> Result<[Counters; 2]> {
        let [a, b] = self.both();
        Ok([counters(a)?, counters(b)?])
    }

    fn must_be_right(&mut self) -> Result<()> {
        let [a, b] = self.counters()?;
        a.must_have_right_checksums().context("vm-a")?;
        b.must_have_right_checksums().context("vm-b")
    }
}

fn counters(guest: &mut Guest) -> Result<Counters> {
    Counters::parse(&guest.sh(Counters::COMMAND, COMMAND)?)
}

/// tcpdump in a guest, on what comes in, until it has seen `count` packets that pass a filter.
struct Watch;

impl Watch {
    fn start(guest: &mut Guest, filter: &str, count: u32) -> Result<Self> {
        guest.sh(
            &format!(
                "tcpdump -i eth0 -Q in -n -vv -l -Z root -c {count} '{filter}' >/tmp/seen 2>/tmp/tcpdump & \
                 echo $! >/tmp/tcpdump.pid; \
                 for i in $(seq 100); do grep -q listening /tmp/tcpdump && exit 0; sleep 0.05; done; exit 1"
            ),
            COMMAND,
        )?;
        Ok(Self)
    }

    /// Counts lines in which each of the patterns stands, when all packets have come.
    fn finish<const N: usize>(self, guest: &mut Guest, patterns: [&str; N]) -> Result<[u32; N]> {
        let wait = "for i in $(seq 50); do [ -d /proc/$(cat /tmp/tcpdump.pid) ] || exit 0; sleep 0.1; done; \
                    kill -INT $(cat /tmp/tcpdump.pid); cat /tmp/tcpdump; tail -n 6 /tmp/seen; exit 1";
        guest
            .sh(wait, COMMAND)
            .context("not all packets came that were waited for")?;
        let mut counts = [0; N];
        for (count, pattern) in counts.iter_mut().zip(patterns) {
            let command = format!("grep -c -e '{pattern}' /tmp/seen || true");
            *count = guest.sh(&command, COMMAND)?.trim().parse()?;
        }
        Ok(counts)
    }
}

/// Switches everything of a card that can be switched, off and on in turn, until it is stopped.
fn start_toggling(guest: &mut Guest) -> Result<Vec<String>> {
    let listed = guest.sh("ethtool -k eth0", COMMAND)?;
    let features: Vec<String> = listed
        .lines()
        .skip(1)
        .filter(|line| !line.contains("[fixed]"))
        .filter_map(|line| Some(line.split(':').next()?.trim().to_owned()))
        .collect();
    ensure!(features.len() >= 5, "hardly a feature to switch:\n{listed}");
    let names = features.join(" ");
    guest.sh(
        &format!(
            "rm -f /tmp/toggled; touch /tmp/toggle; (n=0; while [ -f /tmp/toggle ]; do for s in off on; do \
             for f in {names}; do ethtool -K eth0 $f $s && n=$((n+1)); done; done; done; \
             echo $n >/tmp/toggled) >/dev/null 2>&1 &"
        ),
        COMMAND,
    )?;
    Ok(features)
}

/// How often something was switched.
fn stop_toggling(guest: &mut Guest) -> Result<u32> {
    let stop = "rm -f /tmp/toggle; for i in $(seq 200); do [ -s /tmp/toggled ] && break; sleep 0.1; done; \
                cat /tmp/toggled";
    Ok(guest.sh(stop, COMMAND)?.trim().parse()?)
}

/// TCP at an MTU, with or without ECN: what the receiver is given is longer than its MTU, and says what it should.
fn tcp(scenario: &Scenario, guests: &mut Guests, mtu: u16, ecn: bool, options: &str) -> Result<()> {
    guests.set_ecn(ecn)?;
    for (family, address) in guests.far.both() {
        let before = counters(&mut guests.b)?;
        // TCP's data from a; an iperf3's control connection sends no long packets.
        let filter = format!("{family} and tcp dst port 5201 and greater {}", mtu + 1000);
        let watch = Watch::start(&mut guests.b, &filter, 20)?;
        let flow = guests.iperf(address, options)?;
        // Their checksums are seeds, which tcpdump calls incorrect: the kernel's counters are the judge.
        let pattern = match family {
            "ip" => "tos 0x2",
            _ => "class 0x02",
        };
        let [marked] = watch.finish(&mut guests.b, [pattern])?;
        ensure!(!ecn || marked >= 15, "{marked} of 20 ECN-capable packets");
        ensure!(ecn || marked == 0, "{marked} packets with ECN");
        let after = counters(&mut guests.b)?;
        let capable = match family {
            "ip" => "IpExtInECT0Pkts",
            _ => "Ip6InECT0Pkts",
        };
        let capable = after.count(capable)? - before.count(capable)?;
        ensure!(!ecn || capable > 100, "{capable} ECN-capable packets");
        ensure!(flow.received > 1 << 20, "hardly anything came: {flow:?}");
        scenario.say(format!(
            "MTU {mtu}, {family}{} {options}: {:.0} Mbit/s",
            if ecn { ", ECN" } else { "" },
            flow.bits_per_second / 1e6
        ));
    }
    guests.must_be_right()
}

/// Datagrams that fit, that are small, and that the sender must fragment.
fn udp(scenario: &Scenario, guests: &mut Guests, mtu: u16, sizes: &[u16]) -> Result<()> {
    for (family, address) in guests.far.both() {
        for &size in sizes {
            // Slow enough for an emulated receiver, and what it loses all the same is no matter: what is looked for is
            // damage.
            let options = format!("-u -l {size} -b 2M -n {}", 200 * u32::from(size));
            let flow = guests.iperf(address, &options)?;
            let least = 20 * u64::from(size);
            ensure!(flow.received >= least, "hardly anything came: {flow:?}");
            scenario.say(format!(
                "MTU {mtu}, {family}, datagrams of {size}: {} lost",
                flow.lost
            ));
        }
    }
    guests.must_be_right()
}

/// TCP both ways and datagrams while both guests switch everything off and on.
fn toggled(scenario: &Scenario, guests: &mut Guests, mtu: u16, options: &[&str]) -> Result<()> {
    for guest in guests.both() {
        let features = start_toggling(guest)?;
        scenario.say(format!("{} switches {}", guest.name(), features.join(" ")));
    }
    for (family, address) in guests.far.both() {
        for options in options {
            let flow = guests.iperf(address, options)?;
            scenario.say(format!(
                "MTU {mtu}, {family}, {options}, while all is switched: {:.0} Mbit/s",
                flow.bits_per_second / 1e6
            ));
            ensure!(flow.received >= 24_000, "hardly anything came: {flow:?}");
        }
    }
    for guest in guests.both() {
        let count = stop_toggling(guest)?;
        scenario.say(format!("{} switched {count} times", guest.name()));
        ensure!(count > 20, "only {count} switches");
    }
    guests.must_be_right()
}

#[test]
fn guests_exchange_super_frames() -> Result<()> {
    Scenario::run("guests_exchange_super_frames", &PARTS, |scenario| {
        let mut guests = Guests::apart(scenario, Uplink::Udp, "")?;
        for (mtu, ecn) in [(1280, true), (MTU_MAX, false)] {
            guests.set_mtu(mtu)?;
            tcp(scenario, &mut guests, mtu, ecn, "-t 1")?;
        }
        toggled(
            scenario,
            &mut guests,
            MTU_MAX,
            &["-t 1", "-u -l 1200 -b 4M -n 240K"],
        )
    })
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn guests_exchange_super_frames_at_every_mtu_over_udp() -> Result<()> {
    Scenario::run(
        "guests_exchange_super_frames_at_every_mtu_over_udp",
        &PARTS,
        |scenario| {
            let mut guests = Guests::apart(scenario, Uplink::Udp, "")?;
            campaign(scenario, &mut guests)
        },
    )
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn guests_exchange_super_frames_at_every_mtu_over_dpdk() -> Result<()> {
    Scenario::run(
        "guests_exchange_super_frames_at_every_mtu_over_dpdk",
        &PARTS,
        |scenario| {
            let mut guests = Guests::apart(scenario, Uplink::Dpdk, "")?;
            campaign(scenario, &mut guests)
        },
    )
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn guests_exchange_super_frames_at_every_mtu_on_one_switch() -> Result<()> {
    Scenario::run(
        "guests_exchange_super_frames_at_every_mtu_on_one_switch",
        &PARTS,
        |scenario| {
            let mut guests = Guests::together(scenario, "")?;
            campaign(scenario, &mut guests)
        },
    )
}

/// All of it, at every MTU.
fn campaign(scenario: &Scenario, guests: &mut Guests) -> Result<()> {
    for mtu in [1280, 1420, 1500, 4000, MTU_MAX] {
        guests.set_mtu(mtu)?;
        for ecn in [false, true] {
            tcp(scenario, guests, mtu, ecn, "-t 2")?;
        }
        udp(scenario, guests, mtu, &[64, mtu - 48, mtu + 1000])?;
        toggled(
            scenario,
            guests,
            mtu,
            &["-t 2", "-t 2 -R", "-t 2 -P 3", "-u -l 1200 -b 4M -n 240K"],
        )?;
    }
    Ok(())
}

/// The cable marks some packets: the receiver's kernel learns of it, and tells the sender's, which slows down and says
/// so (CWR) in its next super-frame.
#[test]
#[ignore = "boots two guests for ten seconds of traffic; scripts/test --long runs it"]
fn guests_hear_of_congestion() -> Result<()> {
    Scenario::run("guests_hear_of_congestion", &PARTS, |scenario| {
        let mut guests = Guests::apart(scenario, Uplink::Udp, "")?;
        congestion(scenario, &mut guests)
    })
}

fn congestion(scenario: &Scenario, guests: &mut Guests) -> Result<()> {
    guests.set_mtu(1420)?;
    guests.set_ecn(true)?;
    guests.hosts.b.namespace.nft(&format!(
        "table ip marks {{ chain marks {{ type filter hook prerouting priority 0; \
         iifname \"{}\" ip ecn ect0 limit rate 20/second burst 1 packets ip ecn set ce; }} }}",
        Veth::NAME
    ))?;
    for (family, address) in guests.far.both() {
        let [before_a, before_b] = guests.counters()?;
        let flow = guests.iperf(address, "-t 3")?;
        let [after_a, after_b] = guests.counters()?;
        let marked = match family {
            "ip" => "IpExtInCEPkts",
            _ => "Ip6InCEPkts",
        };
        let marked = after_b.count(marked)? - before_b.count(marked)?;
        let told = "TcpExtTCPDeliveredCE";
        let told = after_a.count(told)? - before_a.count(told)?;
        scenario.say(format!(
            "{family}: {marked} marked packets, the sender was told of {told}; {:.0} Mbit/s",
            flow.bits_per_second / 1e6
        ));
        ensure!(marked > 0 && told > 0, "{marked} marked, {told} told");
    }
    guests.hosts.b.namespace.nft("delete table ip marks")?;
    guests.must_be_right()
}

/// A receiver that can't check: it is given complete packets of its MTU, each checksum right.
#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn a_guest_without_offloads_gets_complete_packets_from_a_tunnel() -> Result<()> {
    Scenario::run(
        "a_guest_without_offloads_gets_complete_packets_from_a_tunnel",
        &PARTS,
        |scenario| {
            let mut guests = Guests::apart(scenario, Uplink::Udp, NO_GUEST_OFFLOADS)?;
            complete_packets(scenario, &mut guests)
        },
    )
}

#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn a_guest_without_offloads_gets_complete_packets_from_its_neighbor() -> Result<()> {
    Scenario::run(
        "a_guest_without_offloads_gets_complete_packets_from_its_neighbor",
        &PARTS,
        |scenario| {
            let mut guests = Guests::together(scenario, NO_GUEST_OFFLOADS)?;
            complete_packets(scenario, &mut guests)
        },
    )
}

fn complete_packets(scenario: &Scenario, guests: &mut Guests) -> Result<()> {
    for mtu in [1420, MTU_MAX] {
        guests.set_mtu(mtu)?;
        // Its own kernel would join packets before the capture sees them.
        guests.b.sh("ethtool -K eth0 gro off", COMMAND)?;
        for (family, address) in guests.far.both() {
            for (kind, options) in [("tcp", "-t 2"), ("udp", "-u -l 1200 -b 4M -n 1M")] {
                let filter = format!("{family} and {kind} dst port 5201");
                let watch = Watch::start(&mut guests.b, &filter, 300)?;
                guests.iperf(address, options)?;
                let patterns = ["bad udp\\|incorrect", "correct)\\|udp sum ok"];
                let [wrong, right] = watch.finish(&mut guests.b, patterns)?;
                scenario.say(format!(
                    "MTU {mtu}, {family}, {kind}: {right} checksums right, {wrong} wrong"
                ));
                if wrong > 0 || right < 290 {
                    let seen = guests.b.sh("head -n 20 /tmp/seen", COMMAND)?;
                    bail!("{wrong} wrong and {right} right of 300:\n{seen}");
                }
            }
        }
        toggled(scenario, guests, mtu, &["-t 1"])?;
    }
    guests.must_be_right()
}

#[test]
#[ignore = "takes about two minutes; scripts/test --long runs it"]
fn half_a_gigabyte_arrives_as_it_was_sent() -> Result<()> {
    Scenario::run(
        "half_a_gigabyte_arrives_as_it_was_sent",
        &PARTS,
        |scenario| {
            let mut guests = Guests::apart(scenario, Uplink::Udp, "")?;
            guests.set_mtu(1420)?;
            stream(scenario, &mut guests, 32)
        },
    )
}

/// Sends `parts` numbered pieces of 16 MiB, which is what a guest's memory holds, and compares the hash of all that came
/// with the hash of all that should have.
fn stream(scenario: &Scenario, guests: &mut Guests, parts: u32) -> Result<()> {
    let limit = Duration::from_secs(60) + Duration::from_secs(10) * parts;
    let address = guests.far.v4;
    let pieces =
        format!("(for i in $(seq {parts}); do echo $i; dd if=/tmp/part bs=64k 2>/dev/null; done)");
    guests.b.sh(
        "(socat -u -b 65536 TCP4-LISTEN:9000,reuseaddr - | sha1sum >/tmp/sum.new; mv /tmp/sum.new /tmp/sum) \
         >/dev/null 2>&1 &",
        COMMAND,
    )?;
    let make = "dd if=/dev/urandom of=/tmp/part bs=1M count=16 2>/dev/null";
    guests.a.sh(make, COMMAND)?;
    let sent = guests.a.sh(&format!("{pieces} | sha1sum"), limit)?;
    let before = counters(&mut guests.b)?;
    let start = Instant::now();
    let send = format!("{pieces} | socat -u -b 65536 - TCP4:{address}:9000,retry=20,interval=0.2");
    guests.a.sh(&send, limit)?;
    let received = guests.b.sh(
        "for i in $(seq 300); do [ -f /tmp/sum ] && break; sleep 0.1; done; cat /tmp/sum",
        Duration::from_secs(60),
    )?;
    let took = start.elapsed().as_secs_f64();
    ensure!(
        sent.len() > 40 && sent == received,
        "SHA-1 differs: sent {sent}, received {received}"
    );
    let after = counters(&mut guests.b)?;
    let octets = after.count("IpExtInOctets")? - before.count("IpExtInOctets")?;
    let wanted = u64::from(parts) << 24;
    ensure!(octets >= wanted, "{octets} bytes came, not {wanted}");
    scenario.say(format!(
        "{} MiB in {took:.0} s, {:.0} Mbit/s, SHA-1 {}",
        parts * 16,
        f64::from(parts) * 16.0 * 8.0 * 1.048_576 / took,
        sent.trim()
    ));
    guests.must_be_right()
}
