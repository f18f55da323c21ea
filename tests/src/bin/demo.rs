//! `scripts/demo`: two hypervisors, two real guests, one encrypted tunnel, and the proof.
//!
//! In: `--uplink udp|dpdk`, `--workers N`, `--shell`; the built `culvert` and the guest image.
//! Out: progress as it works, a table at the end; status 0 only if everything in it was seen to be true.
//! Never: leaves a process, namespace or file behind.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::{
    Capture, Crossing, GUEST_MTU, Guest, Host, Moved, PORT, Part, Scenario, SocketMode, TwoHosts,
    Uplink, eventually, run, tcp_transfer, udp_exchange,
};

const COMMAND: Duration = Duration::from_secs(20);
/// More than the 50 MB that the proof asks for.
const MEGABYTES: u32 = 64;

struct Options {
    uplink: Uplink,
    workers: usize,
    shell: bool,
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| {
        let parts = [Part::Root, Part::Qemu, Part::Capture];
        Scenario::run("demo", &parts, |scenario| demo(scenario, &options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        uplink: Uplink::Dpdk,
        workers: 1,
        shell: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--uplink" => {
                options.uplink = match value()?.as_str() {
                    "udp" => Uplink::Udp,
                    "dpdk" => Uplink::Dpdk,
                    other => bail!("--uplink is udp or dpdk, not {other}"),
                }
            }
            "--workers" => options.workers = value()?.parse().context("--workers is a number")?,
            "--shell" => options.shell = true,
            other => bail!("no option {other}; there are --uplink udp|dpdk, --workers N, --shell"),
        }
    }
    ensure!((1..=8).contains(&options.workers), "--workers is 1 to 8");
    Ok(options)
}

/// What the demo has seen.
struct Seen {
    round_trips: Vec<(&'static str, f64)>,
    there: Moved,
    back: Moved,
    datagrams: u32,
    crossing: Crossing,
}

fn demo(scenario: &Scenario, options: &Options) -> Result<()> {
    let uplink = match options.uplink {
        Uplink::Udp => "the kernel's UDP sockets",
        Uplink::Dpdk => "DPDK (net_af_packet)",
    };
    scenario.say(format!(
        "two namespaces joined by a veth; one culvert in each, {} worker(s), uplink: {uplink}",
        options.workers
    ));
    let mut hosts = TwoHosts::lay(
        scenario,
        options.uplink,
        options.workers,
        SocketMode::Server,
    )?;
    let capture = Capture::start(scenario, &hosts.a.namespace, "wan0")?;
    hosts.start(scenario)?;
    scenario.say("both culverts run; booting a Linux guest on each side");
    let (mut vm_a, mut vm_b) = hosts.boot_guests(scenario, &format!(",host_mtu={GUEST_MTU}"))?;
    let kernel = vm_a.sh("uname -r", COMMAND)?;
    scenario.say(format!("both guests are up: Linux {}", kernel.trim()));

    let round_trips = ping_both_ways(scenario, &mut vm_a, &mut vm_b)?;
    let there = file(scenario, &mut vm_a, &mut vm_b, "10.1.2.10")?;
    let back = file(scenario, &mut vm_b, &mut vm_a, "fd00:1::10")?;
    let datagrams = udp_exchange(&mut vm_a, "10.1.2.10")? + udp_exchange(&mut vm_b, "fd00:1::10")?;
    scenario.say(format!(
        "{datagrams} UDP datagrams went out and came back unchanged"
    ));

    scenario.say("reading what crossed the veth meanwhile");
    let crossing = capture.finish(&[PORT])?;
    crossing.must_be_sealed()?;
    scenario.say(format!(
        "{} WireGuard messages, {} of ARP or neighbor discovery, {} of anything else",
        crossing.wireguard, crossing.neighbor, crossing.other
    ));
    if options.shell {
        consoles(scenario)?;
    }
    let seen = Seen {
        round_trips,
        there,
        back,
        datagrams,
        crossing,
    };
    let table = table(&hosts, &seen)?;
    drop((vm_a, vm_b));
    for host in [&mut hosts.a, &mut hosts.b] {
        let node = host.spec.node.clone();
        let took = host.culvert_mut()?.stop(Duration::from_secs(5))?;
        scenario.say(format!(
            "{node} ended {:.0} ms after SIGTERM",
            took.as_secs_f64() * 1e3
        ));
    }
    println!("\n{table}");
    Ok(())
}

fn ping_both_ways(
    scenario: &Scenario,
    vm_a: &mut Guest,
    vm_b: &mut Guest,
) -> Result<Vec<(&'static str, f64)>> {
    vm_a.wait_ping("10.1.2.10", COMMAND)?;
    let mut round_trips = Vec::new();
    for (what, from, to) in [
        ("vm-a to vm-b, IPv4", 0, "10.1.2.10"),
        ("vm-b to vm-a, IPv4", 1, "10.1.1.10"),
        ("vm-a to vm-b, IPv6", 0, "fd00:2::10"),
        ("vm-b to vm-a, IPv6", 1, "fd00:1::10"),
    ] {
        let vm = if from == 0 { &mut *vm_a } else { &mut *vm_b };
        vm.wait_ping(to, COMMAND)?;
        let mean = vm.ping(to, 20)?;
        scenario.say(format!("ping {what}: 20 of 20 answered, mean {mean:.2} ms"));
        round_trips.push((what, mean));
    }
    Ok(round_trips)
}

fn file(scenario: &Scenario, from: &mut Guest, to: &mut Guest, address: &str) -> Result<Moved> {
    scenario.say(format!(
        "sending {MEGABYTES} MiB over TCP from {} to {} ({address})",
        from.name(),
        to.name()
    ));
    let moved = tcp_transfer(from, to, address, MEGABYTES)?;
    scenario.say(format!(
        "arrived with the same SHA-256 ({}…), {:.0} Mbit/s",
        &moved.sha256[..16],
        moved.megabits_per_second()
    ));
    Ok(moved)
}

fn table(hosts: &TwoHosts, seen: &Seen) -> Result<String> {
    let mut lines = Vec::new();
    for (what, mean) in &seen.round_trips {
        lines.push(format!("ping {what:<23} {mean:>9.2} ms"));
    }
    for (what, moved) in [
        ("vm-a to vm-b, IPv4", &seen.there),
        ("vm-b to vm-a, IPv6", &seen.back),
    ] {
        lines.push(format!(
            "TCP  {what:<23} {:>9.0} Mbit/s  {} bytes, SHA-256 equal",
            moved.megabits_per_second(),
            moved.bytes
        ));
    }
    lines.push(format!(
        "UDP  {:<23} {:>9} echoed",
        "both ways", seen.datagrams
    ));
    lines.push(format!(
        "on the veth: {} WireGuard, {} ARP/ND, {} other",
        seen.crossing.wireguard, seen.crossing.neighbor, seen.crossing.other
    ));
    for host in [&hosts.a, &hosts.b] {
        lines.extend(host_lines(host)?);
    }
    Ok(lines.join("\n"))
}

fn host_lines(host: &Host) -> Result<Vec<String>> {
    let mut lines = vec![format!(
        "{}  public key {}",
        host.spec.node, host.spec.keys.public
    )];
    for port in &host.spec.ports {
        let counts = host.culvert()?.port(&port.name)?;
        ensure!(
            counts.from_guest > 0 && counts.to_guest > 0,
            "port {} of {} counted nothing",
            port.name,
            host.spec.node
        );
        let drops: Vec<String> = counts
            .drops
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        lines.push(format!(
            "      port {:<5} {:>9} packets from the guest, {:>9} to it, drops: {}",
            port.name,
            counts.from_guest,
            counts.to_guest,
            if drops.is_empty() {
                "none".to_owned()
            } else {
                drops.join(", ")
            }
        ));
    }
    Ok(lines)
}

/// Opens the guests' consoles side by side in tmux and waits until they are closed.
fn consoles(scenario: &Scenario) -> Result<()> {
    let server = format!("culvert-{}", std::process::id());
    let console = |name: &str| {
        let socket = scenario.path(&format!("{name}-console.sock"));
        format!(
            "socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{}",
            socket.display()
        )
    };
    let tmux = || {
        let mut command = Command::new("tmux");
        command.args(["-L", &server]);
        command
    };
    run(
        tmux().args([
            "new-session",
            "-d",
            "-s",
            "guests",
            "-x",
            "160",
            "-y",
            "48",
            &console("vm-a"),
        ]),
        COMMAND,
    )?;
    run(
        tmux().args(["split-window", "-h", "-t", "guests", &console("vm-b")]),
        COMMAND,
    )?;
    run(
        tmux().args([
            "set-option",
            "-t",
            "guests",
            "status-right",
            "vm-a | vm-b   Ctrl-b d ends the demo",
        ]),
        COMMAND,
    )?;
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        let status = tmux()
            .args(["attach", "-t", "guests"])
            .status()
            .context("tmux")?;
        // The session may already have ended with its consoles.
        let _ = tmux().arg("kill-server").status();
        ensure!(status.success(), "tmux ended with {status}");
        return Ok(());
    }
    scenario.say(format!(
        "no terminal here; the consoles: tmux -L {server} attach   (closing both ends the demo)"
    ));
    eventually(
        "the end of the consoles",
        Duration::from_secs(24 * 3600),
        || {
            Ok((!tmux()
                .args(["has-session", "-t", "guests"])
                .output()?
                .status
                .success())
            .then_some(()))
        },
    )
}
