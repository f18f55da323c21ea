//! Debian's wireguard-go at the far end of a tunnel, a real guest at ours.
//!
//! ```text
//!   vm-a ── vhost-user ── hv-a ─────── wan0 (veth) ─────── far: wireguard-go, iperf3
//!   10.1.1.10                    192.0.2.1     192.0.2.2   10.1.2.1
//!   fd00:1::10                 2001:db8::1   2001:db8::2   fd00:2::1
//! ```
//!
//! Inside the tunnel both IP versions, in both directions; outside one at a time; both uplinks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Far, Guest, Outer, PING, Part, Process, Scenario, Uplink};
use serde_json::Value;

const PARTS: [Part; 5] = [
    Part::Root,
    Part::Tun,
    Part::Qemu,
    Part::WireguardGo,
    Part::Iperf,
];
const FIRST_PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(30);

#[test]
fn udp_over_ipv4() -> Result<()> {
    talk("udp_over_ipv4", Uplink::Udp, 1, Outer::V4)
}

#[test]
fn udp_over_ipv6_on_two_workers() -> Result<()> {
    talk("udp_over_ipv6_on_two_workers", Uplink::Udp, 2, Outer::V6)
}

#[test]
fn dpdk_over_ipv4_on_two_workers() -> Result<()> {
    talk("dpdk_over_ipv4_on_two_workers", Uplink::Dpdk, 2, Outer::V4)
}

#[test]
fn dpdk_over_ipv6() -> Result<()> {
    talk("dpdk_over_ipv6", Uplink::Dpdk, 1, Outer::V6)
}

fn talk(name: &str, uplink: Uplink, workers: usize, outer: Outer) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut far = Far::lay(scenario, uplink, workers, outer)?;
        far.a.start(scenario)?;
        let mut vm = Guest::boot(scenario, &far.a.guest("vm-a")?)?;

        scenario.say("ping both ways");
        for (inside, outside) in [("10.1.2.1", "10.1.1.10"), ("fd00:2::1", "fd00:1::10")] {
            vm.wait_ping(inside, FIRST_PING)?;
            vm.ping(inside, 20)?;
            far.namespace.run(
                &["ping", "-q", "-c", "20", "-i", "0.1", "-W", "2", outside],
                COMMAND,
            )?;
        }

        scenario.say("iperf3 both ways");
        let iperf = Process::start("iperf3", scenario.scratch(), {
            let mut command = far.namespace.program("iperf3");
            command.arg("-s");
            command
        })?;
        for address in ["10.1.2.1", "fd00:2::1"] {
            for direction in ["", "-R"] {
                let command =
                    format!("iperf3 -J -t 2 --connect-timeout 5000 -c {address} {direction}");
                let report: Value = serde_json::from_str(&vm.sh(&command, COMMAND)?)?;
                let bytes = report["end"]["sum_received"]["bytes"]
                    .as_u64()
                    .context("no sum in iperf3's report")?;
                scenario.say(format!(
                    "  {address} {direction}: {:.1} Mbit/s",
                    bytes as f64 * 8.0 / 2e6
                ));
                ensure!(
                    bytes > 200_000,
                    "hardly anything passed: {bytes} bytes {direction}\n{report}"
                );
            }
        }
        drop(iperf);

        // wireguard-go's own counters agree that this was WireGuard.
        let (received, sent) = far.peer.transfer(&far.namespace)?;
        ensure!(received > 400_000 && sent > 400_000, "{received} {sent}");

        scenario.say("the far end moves to another port, and is followed");
        far.peer.wg(&far.namespace, &["listen-port", "51999"])?;
        far.namespace.run(
            &["ping", "-q", "-c", "3", "-i", "0.2", "-W", "2", "10.1.1.10"],
            COMMAND,
        )?;
        vm.ping("10.1.2.1", 5)?;
        let show = far.a.culvert()?.show()?;
        let endpoint = show["peers"][0]["endpoint"].as_str().unwrap_or_default();
        ensure!(
            endpoint.ends_with(":51999"),
            "the endpoint is still {endpoint}"
        );
        far.a.culvert_mut()?.process().must_run()
    })
}

/// A session of five minutes: both sides rekey at least twice, and no ping is lost over it.
#[test]
#[ignore = "takes five minutes; scripts/test --long runs it"]
fn two_rekeys_lose_nothing() -> Result<()> {
    Scenario::run("two_rekeys_lose_nothing", &PARTS, |scenario| {
        let mut far = Far::lay(scenario, Uplink::Dpdk, 1, Outer::V4)?;
        far.a.start(scenario)?;
        let mut vm = Guest::boot(scenario, &far.a.guest("vm-a")?)?;
        vm.wait_ping("10.1.2.1", FIRST_PING)?;
        let mut last_age = 0;
        let mut handshakes = 0;
        for _ in 0..30 {
            let output = vm.sh(&format!("{PING} -q -c 50 -i 0.2 -W 2 10.1.2.1"), COMMAND)?;
            ensure!(output.contains(" 0% packet loss"), "{output}");
            let age = far
                .a
                .culvert()?
                .handshake_age("far")?
                .context("no handshake")?;
            handshakes += u32::from(age < last_age);
            last_age = age;
        }
        ensure!(handshakes >= 2, "only {handshakes} rekeys in five minutes");
        Ok(())
    })
}
