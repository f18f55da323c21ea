//! What passes through a tunnel between two hosts, and what `wg` counts of it.
//!
//! ```text
//!   a: tun 10.0.0.1, fd00::1 ── wan0 192.0.2.1, 2001:db8::1 ═══ 192.0.2.2, 2001:db8::2 wan0 ── tun 10.0.0.2, fd00::2 :b
//! ```

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    GUEST_MTU, Iperf, Outer, Pair, Part, Program, Scenario, Veth, eventually, inside, ping,
};

const COMMAND: Duration = Duration::from_secs(30);
/// What a tunnel adds outside: header and tag.
const DATA: u64 = 32;

fn parts() -> Vec<Part> {
    let mut parts = Program::under_test().parts();
    parts.extend([Part::Iperf, Part::Nftables]);
    parts
}

fn us() -> [Program; 2] {
    [Program::under_test(); 2]
}

/// Ten pings over a fresh tunnel: every byte that `wg` and `ip` count is known beforehand.
#[test]
fn counters_are_exact() -> Result<()> {
    Scenario::run("counters_are_exact", &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        ensure!(pair.a.tunnel.latest_handshake(pair.b.public())? == 0);
        ensure!(pair.a.tunnel.transfer(pair.b.public())? == (0, 0));
        pair.meet(Outer::V4)?;
        let words = [
            "ping", "-q", "-c", "10", "-i", "0.05", "-W", "2", "10.0.0.1",
        ];
        pair.b.namespace.run(&words, COMMAND)?;

        // 84 bytes each, padded to 96. b begins; a answers, and b confirms with the first ping.
        let pings = 10 * (96 + DATA);
        let (initiation, response) = (148, 92);
        let what = "the last ping's count";
        eventually(what, COMMAND, || {
            let (received, sent) = pair.b.tunnel.transfer(pair.a.public())?;
            let (mirror_received, mirror_sent) = pair.a.tunnel.transfer(pair.b.public())?;
            Ok((received == response + pings
                && sent == initiation + pings
                && mirror_received == sent
                && mirror_sent == received)
                .then_some(()))
        })
        .map_err(|error| {
            let shown = |end: &culvert_tests::End| end.tunnel.show(&["transfer"]);
            error.context(format!("{:?} {:?}", shown(&pair.a), shown(&pair.b)))
        })?;
        for (end, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
            let at = end.tunnel.latest_handshake(other.public())?;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            ensure!(now.as_secs().abs_diff(at) < 60, "handshake at {at}");
            let link = end.namespace.run(
                &["cat", &counter(end, "rx_bytes"), &counter(end, "tx_bytes")],
                COMMAND,
            )?;
            let link: Vec<u64> = link.split_whitespace().flat_map(str::parse).collect();
            // The interface's own: what went through it, without WireGuard's part. IPv6 may add its group reports
            // to what is sent.
            ensure!(
                link.len() == 2 && link[0] == 840 && link[1] >= 840,
                "{link:?}"
            );
        }
        Ok(())
    })
}

fn counter(end: &culvert_tests::End, name: &str) -> String {
    format!(
        "/sys/class/net/{}/statistics/{name}",
        end.tunnel.interface()
    )
}

#[test]
fn traffic_over_ipv4() -> Result<()> {
    traffic("traffic_over_ipv4", Outer::V4)
}

#[test]
fn traffic_over_ipv6() -> Result<()> {
    traffic("traffic_over_ipv6", Outer::V6)
}

/// Flood pings, TCP, UDP and parallel streams over both families, at the usual MTU and at 34 KB.
fn traffic(name: &str, outer: Outer) -> Result<()> {
    Scenario::run(name, &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        pair.meet(outer)?;
        let servers = [
            Iperf::serve(scenario, &pair.a.namespace, 5201)?,
            Iperf::serve(scenario, &pair.b.namespace, 5202)?,
        ];
        for mtu in [u32::from(GUEST_MTU), 34_816 - 1_500 + u32::from(GUEST_MTU)] {
            scenario.say(format!("MTU {mtu}"));
            for end in [&pair.a, &pair.b] {
                end.namespace
                    .ip(&format!("link set {} mtu {}", Veth::NAME, mtu + 80))?;
                end.namespace
                    .ip(&format!("link set {} mtu {mtu}", end.tunnel.interface()))?;
            }
            let full = [mtu - 28, mtu - 48];
            for ((to_a, to_b), payload) in inside(1).iter().zip(&inside(2)).zip(full) {
                ping(&pair.b.namespace, to_a, 50, "-i 0.002")?;
                ping(&pair.a.namespace, to_b, 50, "-i 0.002")?;
                // The largest that passes uncut, and one that is cut inside.
                for size in [payload, payload + 100] {
                    ping(&pair.a.namespace, to_b, 5, &format!("-s {size}"))?;
                }
                for options in [
                    "-n 24M",
                    "-n 24M -R",
                    "-n 24M -P 5",
                    "-n 12M -u -b 200M -l 1300",
                ] {
                    let flow = servers[1].send(&pair.a.namespace, to_b, options)?;
                    scenario.say(format!(
                        "  {to_b} {options}: {:.0} Mbit/s, {} lost",
                        flow.bits_per_second / 1e6,
                        flow.lost
                    ));
                    ensure!(flow.received >= 2 << 20, "hardly anything passed: {flow:?}");
                }
                // iperf3 ends when all is in its sockets' buffers: twenty of the usual size hold it all.
                let flow = servers[0].send(&pair.b.namespace, to_a, "-n 24M -P 20 -w 128K")?;
                scenario.say(format!(
                    "  {to_a} 20 streams: {:.0} Mbit/s",
                    flow.bits_per_second / 1e6
                ));
                ensure!(flow.received >= 2 << 20, "{flow:?}");
            }
        }
        Ok(())
    })
}

/// What is added to fill 16 bytes never makes a packet longer than the interface's MTU lets it be, also when the MTU
/// changes while packets flow.
#[test]
fn padding_stays_below_the_mtu() -> Result<()> {
    Scenario::run("padding_stays_below_the_mtu", &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        pair.meet(Outer::V4)?;
        pair.a.wait_ping("10.0.0.2", COMMAND)?;
        for mtu in [1299_u32, 1420, 1281, 1300, 1337] {
            for end in [&pair.a, &pair.b] {
                end.namespace
                    .ip(&format!("link set {} mtu {mtu}", end.tunnel.interface()))?;
            }
            // Nothing longer than a sealed packet of exactly the MTU comes through: IP, UDP, header and tag.
            let most = mtu + 20 + 8 + 32;
            for end in [&pair.a, &pair.b] {
                let rules = format!(
                    "table inet cut; delete table inet cut; table inet cut {{ chain c {{ \
                     type filter hook input priority 0; udp dport {{51821, 51822}} meta length > {most} drop; }} }}"
                );
                end.namespace.nft(&rules)?;
            }
            // The news of an MTU reaches a userspace program a moment later.
            let exact = (mtu - 28).to_string();
            let words = [
                "ping", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &exact, "10.0.0.2",
            ];
            eventually("a full packet at the new MTU", COMMAND, || {
                Ok(pair.a.namespace.run(&words, COMMAND).ok().map(drop))
            })?;
            for size in mtu - 28 - 17..=mtu - 28 {
                ping(
                    &pair.a.namespace,
                    "10.0.0.2",
                    1,
                    &format!("-M do -s {size}"),
                )?;
            }
        }
        Ok(())
    })
}
