//! Endpoints that move, source addresses that come and go, marks and NAT.
//!
//! ```text
//!   a: tun 10.0.0.1, fd00::1 ── wan0 192.0.2.1, 2001:db8::1 ═══ 192.0.2.2, 2001:db8::2 wan0 ── tun 10.0.0.2, fd00::2 :b
//! ```
//!
//! Behind a NAT:
//!
//! ```text
//!   a: tun 10.0.0.1 ── eth0 192.168.1.100 ═══ 192.168.1.1 lan │ nat │ wan 203.0.113.1 ═══ 203.0.113.100 eth0 ── tun 10.0.0.2 :b
//! ```

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    End, GUEST_MTU, Namespace, Outer, Pair, Part, Program, Scenario, bounded, eventually, ping,
    socket,
};

const COMMAND: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(15);

fn parts() -> Vec<Part> {
    let mut parts = Program::under_test().parts();
    parts.push(Part::Nftables);
    parts
}

fn us() -> [Program; 2] {
    [Program::under_test(); 2]
}

/// `b` follows `a` to other ports, other addresses and the other IP version.
#[test]
fn roaming() -> Result<()> {
    Scenario::run("roaming", &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);
        ensure!(b.tunnel.endpoint(a.public())? == "(none)");
        pair.tell_a(Outer::V4)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == socket(Outer::V4, 1, 51821));

        scenario.say("another port and another address, IPv4");
        a.namespace.ip("address add 192.0.2.77/24 dev wan0")?;
        a.namespace.ip("address del 192.0.2.1/24 dev wan0")?;
        a.tunnel.set("listen-port 9999")?;
        // The old first address takes the second one with it.
        a.namespace.ip("address replace 192.0.2.77/24 dev wan0")?;
        a.wait_ping("fd00::2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "192.0.2.77:9999");
        ping(&b.namespace, "10.0.0.1", 3, "")?;

        scenario.say("to IPv6, and another port");
        a.tunnel.set("listen-port 9998")?;
        pair.tell_a(Outer::V6)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "[2001:db8::1]:9998");
        ping(&b.namespace, "10.0.0.1", 3, "")?;

        scenario.say("to another IPv6 address");
        a.namespace
            .ip("address add 2001:db8::77/64 dev wan0 nodad")?;
        a.namespace.ip("address del 2001:db8::1/64 dev wan0")?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "[2001:db8::77]:9998");

        scenario.say("the other side's port moves meanwhile, and back to IPv4");
        b.tunnel.set("listen-port 9997")?;
        ping(&b.namespace, "10.0.0.1", 3, "")?;
        ensure!(a.tunnel.endpoint(b.public())? == "[2001:db8::2]:9997");
        a.tunnel
            .set(&format!("peer {} endpoint 192.0.2.2:9997", b.public()))?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "192.0.2.77:9998");
        Ok(())
    })
}

/// The source address falls over to another one when it goes, and answers leave from the address that was written to.
#[test]
fn source_address_falls_over_and_sticks() -> Result<()> {
    let name = "source_address_falls_over_and_sticks";
    Scenario::run(name, &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);

        scenario.say("the address in use is taken away: another one is used");
        let setting = "net.ipv4.conf.wan0.promote_secondaries=1";
        a.namespace.sysctl(setting)?;
        pair.tell_a(Outer::V4)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        a.namespace.ip("address add 192.0.2.10/24 dev wan0")?;
        a.namespace.ip("address del 192.0.2.1/24 dev wan0")?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "192.0.2.10:51821");
        pair.tell_a(Outer::V6)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        a.namespace
            .ip("address add 2001:db8::10/64 dev wan0 nodad")?;
        a.namespace.ip("address del 2001:db8::1/64 dev wan0")?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "[2001:db8::10]:51821");

        scenario.say("whichever address of a's b writes to, a answers from it");
        a.namespace.ip("address flush dev wan0")?;
        for address in ["192.0.2.1/24", "192.0.2.11/24"] {
            a.namespace.ip(&format!("address add {address} dev wan0"))?;
        }
        for address in ["2001:db8::1/64", "2001:db8::11/64"] {
            a.namespace
                .ip(&format!("address add {address} dev wan0 nodad"))?;
        }
        // One that belongs to another interface than the one that packets leave by.
        a.namespace.ip("link add other type bridge")?;
        a.namespace.ip("address add 198.51.100.1/24 dev other")?;
        a.namespace.ip("link set other up")?;
        b.namespace.ip("route add 198.51.100.0/24 dev wan0")?;
        for endpoint in [
            "192.0.2.1:51821",
            "192.0.2.11:51821",
            "[2001:db8::1]:51821",
            "[2001:db8::11]:51821",
            "192.0.2.11:51821",
            "198.51.100.1:51821",
        ] {
            b.tunnel
                .set(&format!("peer {} endpoint {endpoint}", a.public()))?;
            b.wait_ping("10.0.0.1", FIRST)?;
            // a's answer came from there, or b would have followed it elsewhere.
            let seen = b.tunnel.endpoint(a.public())?;
            ensure!(seen == endpoint, "{seen}, not {endpoint}");
            ping(&a.namespace, "10.0.0.2", 2, "")?;
            let seen = b.tunnel.endpoint(a.public())?;
            ensure!(seen == endpoint, "{seen}, not {endpoint}, after a spoke");
        }
        Ok(())
    })
}

/// A better route by another interface takes over a running session.
#[test]
fn another_route_takes_over() -> Result<()> {
    Scenario::run("another_route_takes_over", &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);
        a.namespace.ip(&format!(
            "link add wan1 type veth peer name wan1 netns {}",
            b.namespace.name()
        ))?;
        b.namespace.ip("link set wan1 up")?;
        a.namespace.ip("address add 192.0.2.3/24 dev wan1")?;
        a.namespace.ip("link set wan1 up")?;
        for device in ["wan0", "wan1"] {
            a.namespace.ip(&format!("route flush dev {device}"))?;
        }
        a.namespace
            .ip("route add 192.0.2.0/24 dev wan0 src 192.0.2.1 metric 2")?;
        pair.tell_a(Outer::V4)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ensure!(b.tunnel.endpoint(a.public())? == "192.0.2.1:51821");
        a.namespace
            .ip("route add 192.0.2.0/24 dev wan1 src 192.0.2.3 metric 1")?;
        // The kernel's WireGuard changes over with the next packet; what a userspace program notices, it notices
        // within a moment.
        eventually("the move to the better route", FIRST, || {
            a.wait_ping("10.0.0.2", FIRST)?;
            let at = b.tunnel.endpoint(a.public())?;
            Ok((at == "192.0.2.3:51821").then_some(()))
        })
    })
}

/// A network with a NAT in its middle, and an end on each side of it.
struct Nat {
    a: End,
    b: End,
    nat: Namespace,
}

fn lay_nat(scenario: &Scenario) -> Result<Nat> {
    let a = End::make(scenario, "a", Program::under_test(), 51821)?;
    let b = End::make(scenario, "b", Program::under_test(), 51822)?;
    let nat = Namespace::make("nat")?;
    for (end, inner, here, there) in [
        (&a, "lan", "192.168.1.1/24", "192.168.1.100/24"),
        (&b, "wan", "203.0.113.1/24", "203.0.113.100/24"),
    ] {
        nat.ip(&format!(
            "link add {inner} type veth peer name eth0 netns {}",
            end.namespace.name()
        ))?;
        nat.ip(&format!("address add {here} dev {inner}"))?;
        nat.ip(&format!("link set {inner} up"))?;
        end.namespace.ip(&format!("address add {there} dev eth0"))?;
        end.namespace.ip("link set eth0 up")?;
    }
    a.namespace.ip("route add default via 192.168.1.1")?;
    let rules = "table ip nat { chain post { type nat hook postrouting priority 100; \
                 ip saddr 192.168.1.0/24 ip daddr 203.0.113.0/24 snat to 203.0.113.1; } }";
    nat.nft(rules)?;
    for setting in [
        "net.ipv4.ip_forward=1",
        "net.netfilter.nf_conntrack_udp_timeout=2",
        "net.netfilter.nf_conntrack_udp_timeout_stream=2",
    ] {
        nat.sysctl(setting)?;
    }
    for (end, other, side) in [(&a, &b, 1), (&b, &a, 2)] {
        end.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.{}/32,fd00::{}/128",
            other.public(),
            3 - side,
            3 - side
        ))?;
        let addresses = [format!("10.0.0.{side}/24"), format!("fd00::{side}/64")];
        end.tunnel.up(&end.namespace, &addresses, GUEST_MTU)?;
    }
    Ok(Nat { a, b, nat })
}

/// A persistent keepalive holds the NAT's entry, which else is gone after two seconds; marks choose routes; what the
/// tunnel can't send comes back as ICMP, through the NAT, too.
#[test]
fn nat_marks_and_unreachable_hosts() -> Result<()> {
    let name = "nat_marks_and_unreachable_hosts";
    Scenario::run(name, &parts(), |scenario| {
        let Nat { a, b, nat } = lay_nat(scenario)?;
        a.tunnel.set(&format!(
            "peer {} endpoint 203.0.113.100:51822 persistent-keepalive 1",
            b.public()
        ))?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ping(&b.namespace, "10.0.0.1", 1, "")?;
        ensure!(b.tunnel.endpoint(a.public())? == "203.0.113.1:51821");
        thread::sleep(Duration::from_millis(3500));
        ping(&b.namespace, "10.0.0.1", 1, "")?;

        scenario.say("without the keepalive the entry goes");
        a.tunnel
            .set(&format!("peer {} persistent-keepalive off", b.public()))?;
        thread::sleep(Duration::from_millis(4500));
        b.no_ping("10.0.0.1")?;
        a.ping("10.0.0.2")?;

        scenario.say("bound to the interface, and marked");
        let interface = a.tunnel.interface();
        ping(&a.namespace, "10.0.0.2", 2, &format!("-I {interface}"))?;
        let rules = "table ip marks { chain out { type route hook output priority -150; meta mark set 1; } }";
        a.namespace.nft(rules)?;
        ping(&a.namespace, "10.0.0.2", 2, "")?;
        ping(&a.namespace, "10.0.0.2", 2, &format!("-I {interface}"))?;
        a.namespace.nft("delete table ip marks")?;

        scenario.say(
            "everything but the tunnel's own packets goes into the tunnel, as wg-quick routes it",
        );
        b.tunnel.up(
            &b.namespace,
            &["192.0.2.99/32".to_owned(), "2001:db8:9::1/128".to_owned()],
            GUEST_MTU,
        )?;
        a.tunnel.set(&format!(
            "fwmark 51820 peer {} allowed-ips 192.0.2.99/32,2001:db8:9::1/128,10.0.0.2/32",
            b.public()
        ))?;
        ensure!(a.tunnel.show(&["fwmark"])?.trim() == "0xca6c");
        for family in ["-4", "-6"] {
            let ip = |words: &str| -> Result<()> {
                let mut all = vec!["ip", family];
                all.extend(words.split_whitespace());
                a.namespace.run(&all, COMMAND).map(drop)
            };
            ip(&format!("route add default dev {interface} table 51820"))?;
            ip("rule add not fwmark 51820 table 51820")?;
            ip("rule add table main suppress_prefixlength 0")?;
        }
        ping(&a.namespace, "192.0.2.99", 100, "-i 0.002")?;
        ping(&a.namespace, "2001:db8:9::1", 100, "-i 0.002")?;

        scenario.say("host unreachable: no peer, then no endpoint");
        nat.ip("route add 10.0.0.0/24 via 203.0.113.100")?;
        let rules = "table ip nat { chain post { type nat hook postrouting priority 100; \
                     ip saddr 203.0.113.0/24 ip daddr 10.0.0.0/24 snat to 10.0.0.2; } }";
        b.namespace.nft(rules)?;
        b.namespace.sysctl("net.ipv4.ip_forward=1")?;
        b.tunnel.set(&format!("peer {} remove", a.public()))?;
        if b.tunnel.program() != Program::Culvert {
            // wireguard-go and boringtun drop such packets in silence.
            return Ok(());
        }
        let unreachable = |namespace: &Namespace, address: &str, word: &str| -> Result<()> {
            let mut command = namespace.program("ping");
            command.args(["-c", "1", "-W", "2", address]);
            let (_, out, err) = bounded(&mut command, COMMAND)?;
            ensure!(out.contains(word), "no '{word}' for {address}:\n{out}{err}");
            Ok(())
        };
        unreachable(&b.namespace, "10.0.0.1", "Destination Host Unreachable")?;
        unreachable(&b.namespace, "fd00::1", "Address unreachable")?;
        // Through b's own NAT: the error finds its way back to who sent the ping.
        unreachable(&nat, "10.0.0.1", "Destination Host Unreachable")?;
        b.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.1/32,fd00::1/128",
            a.public()
        ))?;
        unreachable(&b.namespace, "10.0.0.1", "Destination Host Unreachable")?;
        unreachable(&b.namespace, "fd00::1", "Address unreachable")?;
        Ok(())
    })
}
