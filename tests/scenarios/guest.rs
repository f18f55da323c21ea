//! Two real guests over two Culverts.
//!
//! ```text
//!   vm-a ── vhost-user ── hv-a ─────── wan0 (veth) ─────── hv-b ── vhost-user ── vm-b
//!   10.1.1.10        10.1.1.1   192.0.2.1     192.0.2.2   10.1.2.1        10.1.2.10
//!   fd00:1::10      fd00:1::1                             fd00:2::1      fd00:2::10
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Capture, GUEST_MTU, Guest, PING, PORT, Part, Scenario, SocketMode, TwoHosts, Uplink,
    tcp_transfer, udp_exchange,
};

const PARTS: [Part; 3] = [Part::Root, Part::Qemu, Part::Capture];
const FIRST_PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(30);
/// As an operator would tell QEMU.
const MTU_OFFERED: &str = ",host_mtu=1420";

#[test]
fn two_guests_over_udp() -> Result<()> {
    two_guests("two_guests_over_udp", Uplink::Udp, 1, SocketMode::Client)
}

#[test]
#[ignore = "scripts/demo does the same; scripts/test --long runs it"]
fn two_guests_over_dpdk() -> Result<()> {
    two_guests("two_guests_over_dpdk", Uplink::Dpdk, 1, SocketMode::Server)
}

#[test]
#[ignore = "one scenario has its uplink, another its workers; scripts/test --long runs it"]
fn two_guests_over_udp_on_two_workers() -> Result<()> {
    two_guests(
        "two_guests_over_udp_on_two_workers",
        Uplink::Udp,
        2,
        SocketMode::Server,
    )
}

#[test]
fn two_guests_over_dpdk_on_two_workers() -> Result<()> {
    two_guests(
        "two_guests_over_dpdk_on_two_workers",
        Uplink::Dpdk,
        2,
        SocketMode::Client,
    )
}

/// Ping, a file each way, datagrams; the cable shows WireGuard and nothing else of it.
fn two_guests(name: &str, uplink: Uplink, workers: usize, mode: SocketMode) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, uplink, workers, mode)?;
        let capture = Capture::start(scenario, &hosts.a.namespace, "wan0")?;
        let (mut vm_a, mut vm_b) = started(scenario, &mut hosts, mode, MTU_OFFERED)?;
        let mtu = vm_a.sh("cat /sys/class/net/eth0/mtu", COMMAND)?;
        ensure!(
            mtu.trim() == GUEST_MTU.to_string(),
            "the guest's MTU is {mtu}"
        );

        scenario.say("ping both ways");
        for (from, address) in [(&mut vm_a, "10.1.2.10"), (&mut vm_b, "10.1.1.10")] {
            from.wait_ping(address, FIRST_PING)?;
            from.ping(address, 20)?;
        }
        vm_a.ping("fd00:2::10", 20)?;
        vm_b.ping("fd00:1::10", 20)?;

        scenario.say("50 MiB over TCP, each way");
        let there = tcp_transfer(&mut vm_a, &mut vm_b, "10.1.2.10", 50)?;
        let back = tcp_transfer(&mut vm_b, &mut vm_a, "fd00:1::10", 50)?;
        scenario.say(format!(
            "  {:.0} and {:.0} Mbit/s",
            there.megabits_per_second(),
            back.megabits_per_second()
        ));
        scenario.say("datagrams");
        udp_exchange(&mut vm_a, "10.1.2.10")?;
        udp_exchange(&mut vm_b, "fd00:1::10")?;

        let crossing = capture.finish(&[PORT])?;
        scenario.say(format!("{} WireGuard messages crossed", crossing.wireguard));
        crossing.must_be_sealed()
    })
}

/// A guest that was not told the tunnel's MTU learns it from ICMP, and its TCP works.
#[test]
fn a_stock_guest_learns_the_mtu() -> Result<()> {
    Scenario::run("a_stock_guest_learns_the_mtu", &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        let (mut vm_a, mut vm_b) = started(scenario, &mut hosts, SocketMode::Server, "")?;
        let mtu = vm_a.sh("cat /sys/class/net/eth0/mtu", COMMAND)?;
        ensure!(
            mtu.trim() == "1500",
            "a stock guest has MTU 1500, not {mtu}"
        );
        vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
        vm_a.wait_ping("fd00:2::10", FIRST_PING)?;

        // 1472 + 8 + 20 = 1500 and 1452 + 8 + 40 = 1500: what fits the guest's card and not the tunnel.
        for (address, payload, says) in [
            ("10.1.2.10", 1472, "mtu = 1420"),
            ("fd00:2::10", 1452, "mtu=1420"),
        ] {
            let command = format!("{PING} -c 3 -W 1 -M do -s {payload} {address}");
            let (status, output) = vm_a.run(&command, COMMAND)?;
            ensure!(status != 0, "it cannot have passed: {output}");
            let output_lower = output.to_lowercase();
            ensure!(output_lower.contains(says), "no word of the MTU: {output}");
            // The largest that fits does pass.
            let command = format!("{PING} -c 3 -W 2 -M do -s {} {address}", payload - 80);
            vm_a.sh(&command, COMMAND)?;
        }
        tcp_transfer(&mut vm_a, &mut vm_b, "10.1.2.10", 4)?;
        tcp_transfer(&mut vm_b, &mut vm_a, "fd00:1::10", 4)?;
        Ok(())
    })
}

/// One guest reboots while the other pings: the ping comes back by itself.
#[test]
fn a_guest_reboots() -> Result<()> {
    Scenario::run("a_guest_reboots", &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Dpdk, 1, SocketMode::Server)?;
        let (mut vm_a, mut vm_b) = started(scenario, &mut hosts, SocketMode::Server, MTU_OFFERED)?;
        vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
        vm_a.sh(&background_ping("10.1.2.10"), COMMAND)?;
        std::thread::sleep(Duration::from_secs(1));
        scenario.say("rebooting vm-b");
        vm_b.reboot()?;
        vm_b.wait_up()?;
        scenario.say("vm-b is up again");
        vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
        let log = vm_a.sh(READ_BACKGROUND_PING, COMMAND)?;
        let gap = longest_gap(&log)?;
        ensure!(gap > 1.0, "it pinged through a reboot? {log}");
        vm_b.ping("10.1.1.10", 10)?;
        hosts.b.culvert_mut()?.process().must_run()
    })
}

/// A guest that vanishes in the middle of a transfer costs its own port alone; another one takes its place.
#[test]
fn a_guest_is_killed_while_it_sends() -> Result<()> {
    Scenario::run("a_guest_is_killed_while_it_sends", &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        let (mut vm_a, mut vm_b) = started(scenario, &mut hosts, SocketMode::Server, MTU_OFFERED)?;
        vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
        vm_b.sh("iperf3 -c 10.1.1.10 -t 60 >/dev/null 2>&1 &", COMMAND)?;
        vm_a.sh("iperf3 -c 10.1.2.10 -t 60 >/dev/null 2>&1 &", COMMAND)?;
        std::thread::sleep(Duration::from_secs(2));
        vm_b.qemu().kill()?;
        drop(vm_b);
        vm_a.ping("10.1.1.1", 5)
            .context("the other side's guest must not suffer")?;
        let mut vm_b = Guest::boot(scenario, &hosts.b.guest("vm-b")?)?;
        vm_b.wait_ping("10.1.1.10", FIRST_PING)?;
        vm_b.ping("10.1.1.10", 10)?;
        hosts.a.culvert_mut()?.process().must_run()?;
        hosts.b.culvert_mut()?.process().must_run()
    })
}

#[test]
fn a_killed_server_is_back_within_two_seconds() -> Result<()> {
    killed(
        "a_killed_server_is_back_within_two_seconds",
        SocketMode::Server,
    )
}

#[test]
fn a_killed_client_is_back_within_two_seconds() -> Result<()> {
    killed(
        "a_killed_client_is_back_within_two_seconds",
        SocketMode::Client,
    )
}

/// `kill -9` of one Culvert under running guests, and a restart: nobody touches the guests.
fn killed(name: &str, mode: SocketMode) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Dpdk, 1, mode)?;
        let (mut vm_a, mut vm_b) = started(scenario, &mut hosts, mode, MTU_OFFERED)?;
        for round in 1..=3 {
            vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
            vm_a.sh(&background_ping("10.1.2.10"), COMMAND)?;
            std::thread::sleep(Duration::from_secs(1));
            hosts.a.crash_and_restart(scenario)?;
            std::thread::sleep(Duration::from_secs(5));
            let gap = longest_gap(&vm_a.sh(READ_BACKGROUND_PING, COMMAND)?)?;
            scenario.say(format!("round {round}: {gap:.2} s without an answer"));
            ensure!(gap < 2.0, "traffic was away for {gap:.2} s");
            hosts.a.culvert_mut()?.wait_ready()?;
        }
        vm_b.ping("fd00:1::10", 10)?;
        let moved = tcp_transfer(&mut vm_b, &mut vm_a, "10.1.1.10", 4)?;
        scenario.say(format!(
            "{:.0} Mbit/s afterwards",
            moved.megabits_per_second()
        ));
        Ok(())
    })
}

/// Both Culverts and both guests. In client mode QEMU waits for Culvert, in server mode it reconnects: the
/// order of starting does not matter, so half of the scenarios take the other one.
fn started(
    scenario: &Scenario,
    hosts: &mut TwoHosts,
    mode: SocketMode,
    device_options: &str,
) -> Result<(Guest, Guest)> {
    if mode == SocketMode::Server {
        hosts.start(scenario)?;
        return hosts.boot_guests(scenario, device_options);
    }
    let mut specs = [hosts.a.guest("vm-a")?, hosts.b.guest("vm-b")?];
    for spec in &mut specs {
        spec.device_options.push_str(device_options);
    }
    let mut vm_a = Guest::start(scenario, &specs[0])?;
    let mut vm_b = Guest::start(scenario, &specs[1])?;
    hosts.start(scenario)?;
    vm_a.wait_up()?;
    vm_b.wait_up()?;
    Ok((vm_a, vm_b))
}

/// Ten pings a second with the time of each answer, until it is read.
fn background_ping(address: &str) -> String {
    format!("{PING} -D -i 0.1 {address} >/tmp/ping 2>&1 & echo $! >/tmp/ping.pid")
}

const READ_BACKGROUND_PING: &str =
    "kill -INT $(cat /tmp/ping.pid); sleep 0.3; grep -v ^$ /tmp/ping";

/// The longest time between two answers, in seconds; there must be an answer at the end.
fn longest_gap(log: &str) -> Result<f64> {
    let times: Vec<f64> = log
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    ensure!(times.len() > 10, "hardly an answer:\n{log}");
    times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .reduce(f64::max)
        .context("no answers")
}
