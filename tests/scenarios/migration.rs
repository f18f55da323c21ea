//! A guest moves from one Culvert to another while it talks to both hypervisors.
//!
//! ```text
//!     vm ── vhost-user ── hv-a ─────── wan0 (veth) ─────── hv-b ── vhost-user ── vm, later
//!     10.1.1.10        │ 10.1.1.1   192.0.2.1     192.0.2.2  10.1.1.1 │
//!     fd00:1::10      tap                                            tap
//!                 10.1.1.21, fd00:1::21                    10.1.1.22, fd00:1::22
//! ```
//!
//! One layer-3 network stretched over two hypervisors: what is not here is behind the peer, and the gateway answers
//! for it. When the guest runs at hv-b, both configurations are changed as an orchestrator would: its addresses are
//! hv-b's port's from then on, and hv-b's at hv-a. Whoever is beside it at hv-b had the gateway's MAC address for it,
//! and learns the guest's own from the announcement.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Guest, Host, PING, Part, Process, Scenario, SocketMode, TwoHosts, Uplink, eventually,
};

const PARTS: [Part; 4] = [Part::Root, Part::Qemu, Part::Tun, Part::Capture];
const FIRST_PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(60);
const MOVE: Duration = Duration::from_secs(120);
const GUEST_MAC: &str = "52:54:00:00:01:10";
const GATEWAY_MAC: &str = "02:00:00:00:01:01";
/// Enough for several rounds of QEMU's while the guest goes on receiving.
const MEGABYTES_A_SECOND: u64 = 40;
/// What the guest receives meanwhile.
const MEGABYTES: u32 = 48;

#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn a_guest_that_announces_itself_is_migrated() -> Result<()> {
    migrated(
        "a_guest_that_announces_itself_is_migrated",
        "",
        Announcer::Guest,
    )
}

#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn a_guest_that_culvert_announces_is_migrated() -> Result<()> {
    migrated(
        "a_guest_that_culvert_announces_is_migrated",
        ",guest_announce=off",
        Announcer::Culvert,
    )
}

/// The same over a packed ring: its position goes along in QEMU's state.
#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn a_guest_with_packed_rings_is_migrated() -> Result<()> {
    migrated(
        "a_guest_with_packed_rings_is_migrated",
        ",guest_announce=off,packed=on",
        Announcer::Culvert,
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Announcer {
    Guest,
    Culvert,
}

fn migrated(name: &str, device_options: &str, announcer: Announcer) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut hosts = laid(scenario)?;
        hosts.a.culvert = Some(start(scenario, &hosts.a, 21)?);
        hosts.b.culvert = Some(start(scenario, &hosts.b, 22)?);

        let mut spec = hosts.a.guest("vm")?;
        spec.device_options.push_str(device_options);
        let mut here = Guest::boot(scenario, &spec)?;
        for address in ["10.1.1.21", "10.1.1.22", "fd00:1::22"] {
            here.wait_ping(address, FIRST_PING)?;
        }
        let socket = scenario.path("migration.sock");
        let mut spec = hosts.b.guest("vm-there")?;
        spec.device_options.push_str(device_options);
        spec.incoming = Some(socket.clone());
        let mut there = Guest::start(scenario, &spec)?;

        // What both hypervisors ask the guest, and what it asks them.
        let pings = [
            pinging(scenario, &hosts.a, "a-v4", "10.1.1.10")?,
            pinging(scenario, &hosts.b, "b-v4", "10.1.1.10")?,
            pinging(scenario, &hosts.b, "b-v6", "fd00:1::10")?,
        ];
        for (address, file) in [("10.1.1.21", "a"), ("10.1.1.22", "b")] {
            let command = format!("{PING} -i 0.1 {address} >/tmp/ping.{file} 2>&1 &");
            here.sh(&command, COMMAND)?;
        }
        eventually("hv-b's neighbor for the guest", FIRST_PING, || {
            Ok((neighbor(&hosts.b, "10.1.1.10")?.as_deref() == Some(GATEWAY_MAC)).then_some(()))
        })?;
        let heard = listening(scenario, &hosts.b)?;

        scenario.say("a file from hv-b to the guest, and its sum");
        let file = scenario.path("file");
        random_file(&file)?;
        // The file stays in the guest's memory, page by page as it was received.
        here.sh(
            "socat -u -T 60 TCP4-LISTEN:9000,reuseaddr CREATE:/tmp/file >/dev/null 2>&1 &",
            COMMAND,
        )?;
        // In pieces, so that it lasts longer than the move does.
        let script = format!(
            "for piece in $(seq 0 {}); do dd if={} bs=256K skip=$piece count=1 status=none; sleep 0.1; done \
             | socat -u -T 60 - TCP4:10.1.1.10:9000,retry=20,interval=0.2",
            4 * MEGABYTES - 1,
            file.display()
        );
        let mut sender = hosts.b.namespace.program("sh");
        sender.args(["-c", &script]);
        let mut sender = Process::start("sender", scenario.scratch(), sender)?;
        let size = |guest: &mut Guest| -> Result<u64> {
            let text = guest.run("stat -c %s /tmp/file", COMMAND)?.1;
            Ok(text.trim().parse().unwrap_or(0))
        };
        eventually("the file's first bytes", FIRST_PING, || {
            Ok((size(&mut here)? > 1 << 20).then_some(()))
        })?;

        scenario.say("the guest moves");
        let moved = here.migrate(&socket, MEGABYTES_A_SECOND, MOVE)?;
        there.wait_arrived(FIRST_PING)?;
        let received = size(&mut there)?;
        scenario.say(format!("{moved:?}; {received} bytes of the file had come"));
        ensure!(moved.rounds > 1, "QEMU had no second look at the logs");
        ensure!(
            received > 1 << 20 && received < u64::from(MEGABYTES) << 20,
            "the file came before or after the move: {received} bytes"
        );
        here.qemu().kill()?;
        drop(here);
        let addresses = std::mem::take(&mut hosts.a.spec.ports[0].addresses);
        hosts.a.spec.ports.clear();
        hosts.b.spec.ports[0].addresses = addresses;
        for (host, list) in [
            (&mut hosts.a, behind(22, true)),
            (&mut hosts.b, behind(21, false)),
        ] {
            host.spec.peers[0].allowed_ips = list;
        }
        hosts.b.culvert()?.apply(&yaml(&hosts.b, 22))?;
        hosts.a.culvert()?.apply(&yaml(&hosts.a, 21))?;

        scenario.say("it is announced to its new neighbors");
        eventually("the guest's own address at hv-b", FIRST_PING, || {
            Ok(
                (neighbor(&hosts.b, "10.1.1.10")?.as_deref() == Some(GUEST_MAC)
                    && neighbor(&hosts.b, "fd00:1::10")?.as_deref() == Some(GUEST_MAC))
                .then_some(()),
            )
        })?;
        ensure!(sender.wait(MOVE)?.success(), "{}", sender.log());
        let sum = hosts
            .b
            .namespace
            .run(&["sha256sum", &file.to_string_lossy()], COMMAND)?;
        let found = eventually("the whole file", COMMAND, || {
            Ok((size(&mut there)? == u64::from(MEGABYTES) << 20).then_some(()))
        })
        .and_then(|()| there.sh("sha256sum /tmp/file", COMMAND))?;
        ensure!(
            found.split(' ').next() == sum.split(' ').next(),
            "hv-b sent {sum}, the guest has {found}"
        );

        scenario.say("the pings go on");
        std::thread::sleep(Duration::from_secs(2));
        for ping in pings {
            let gap = ping.finish()?;
            scenario.say(format!("{}: {gap:.2} s without an answer", ping.name));
        }
        for file in ["a", "b"] {
            let command = format!(
                "tail -n 1 /tmp/ping.{file}; sleep 1; tail -n 1 /tmp/ping.{file}; killall -INT ping; sleep 0.3; grep -c 'bytes from' /tmp/ping.{file}; grep -ci 'wrong\\|DUP' /tmp/ping.{file}; true"
            );
            let said = there.sh(&command, COMMAND)?;
            scenario.say(format!("the guest's own ping {file}: {said}"));
            let lines: Vec<&str> = said.lines().collect();
            ensure!(lines.len() == 4 && lines[3] == "0", "{said}");
            if file == "a" {
                ensure!(
                    lines[0] != lines[1] && lines[1].contains("bytes from"),
                    "{said}"
                );
            }
        }
        let heard = heard.finish()?;
        heard.must_hold(announcer)?;
        there.ping("fd00:1::21", 10)?;
        hosts.a.culvert_mut()?.process().must_run()?;
        hosts.b.culvert_mut()?.process().must_run()
    })
}

/// Two hosts with one network between them. The guest is at hv-a; at hv-b there is a port for it, without addresses.
fn laid(scenario: &Scenario) -> Result<TwoHosts> {
    let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
    let (a, b) = (&mut hosts.a.spec, &mut hosts.b.spec);
    b.gateways.clone_from(&a.gateways);
    b.gateway_mac.clone_from(&a.gateway_mac);
    b.ports[0].mac.clone_from(&a.ports[0].mac);
    b.ports[0].addresses.clear();
    a.peers[0].allowed_ips = behind(22, false);
    b.peers[0].allowed_ips = behind(21, true);
    Ok(hosts)
}

/// A hypervisor's own addresses, and the guest's if it is there.
fn behind(own: u8, has_guest: bool) -> Vec<String> {
    let guest = ["10.1.1.10/32", "fd00:1::10/128"].map(str::to_owned);
    let own = [format!("10.1.1.{own}/32"), format!("fd00:1::{own}/128")];
    own.into_iter()
        .chain(guest.into_iter().filter(|_| has_guest))
        .collect()
}

/// The configuration with a tap port for the hypervisor itself.
fn yaml(host: &Host, own: u8) -> String {
    let text = host.spec.yaml().replace("ports: {}\n", "ports:\n");
    format!(
        "{text}  own:\n    driver: tap\n    network: blue\n    mac: \"02:00:00:00:02:{own}\"\n    addresses: [10.1.1.{own}, \"fd00:1::{own}\"]\n"
    )
}

fn start(scenario: &Scenario, host: &Host, own: u8) -> Result<culvert_tests::Culvert> {
    let text = yaml(host, own);
    culvert_tests::Culvert::start(scenario, &host.spec.node, Some(&host.namespace), &text)
}

fn random_file(path: &Path) -> Result<()> {
    let mut command = std::process::Command::new("dd");
    command.args(["if=/dev/urandom", "bs=1M"]);
    command.arg(format!("of={}", path.display()));
    command.arg(format!("count={MEGABYTES}"));
    culvert_tests::run(&mut command, COMMAND).map(drop)
}

/// The MAC address that a hypervisor's kernel has for an address of the network.
fn neighbor(host: &Host, address: &str) -> Result<Option<String>> {
    let said = host
        .namespace
        .ip(&format!("neigh show {address} dev own"))?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "lladdr");
    Ok(words.nth(1).map(str::to_owned))
}

/// A ping that runs until it is asked.
struct Pinging {
    name: &'static str,
    process: Process,
}

fn pinging(scenario: &Scenario, host: &Host, name: &'static str, to: &str) -> Result<Pinging> {
    let mut command = host.namespace.program("ping");
    command.args(["-D", "-i", "0.1", to]);
    let process = Process::start(&format!("ping-{name}"), scenario.scratch(), command)?;
    Ok(Pinging { name, process })
}

impl Pinging {
    /// The longest time between two answers; there must be answers up to now, and no wrong one.
    fn finish(&self) -> Result<f64> {
        let log = self.process.log();
        let answers: Vec<(f64, &str)> = log
            .lines()
            .filter(|line| line.contains("bytes from"))
            .filter_map(|line| {
                let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
                Some((time.parse().ok()?, rest))
            })
            .collect();
        let (last, _) = answers.last().context("no answer")?;
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
        ensure!(now - last < 1.5, "no answer any more:\n{log}");
        ensure!(
            !log.contains("DUP!") && !log.contains("wrong data"),
            "{log}"
        );
        let gaps = answers.windows(2).map(|pair| pair[1].0 - pair[0].0);
        Ok(gaps.fold(0.0, f64::max))
    }
}

/// tcpdump on hv-b's own interface.
struct Listening(Process);

fn listening(scenario: &Scenario, host: &Host) -> Result<Listening> {
    let mut command = host.namespace.program("tcpdump");
    command.args(["-i", "own", "-n", "-e", "-l", "-Z", "root"]);
    command.arg("rarp or arp or icmp6[icmp6type] = icmp6-neighboradvert");
    let mut process = Process::start("announcements", scenario.scratch(), command)?;
    eventually("tcpdump's first word", FIRST_PING, || {
        process.must_run()?;
        Ok(process.log().contains("listening on").then_some(()))
    })?;
    Ok(Listening(process))
}

/// What was heard.
struct Heard(String);

impl Listening {
    fn finish(self) -> Result<Heard> {
        // The kernel hands over a part-filled block of its ring after a second.
        std::thread::sleep(Duration::from_millis(1500));
        Ok(Heard(self.0.log()))
    }
}

impl Heard {
    fn must_hold(&self, announcer: Announcer) -> Result<()> {
        let said = |words: &[&str]| {
            self.0
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        let arp = said(&["who-has 10.1.1.10", "tell 10.1.1.10", GUEST_MAC]);
        let nd = said(&["fd00:1::10 > ff02::1", "neighbor advertisement", GUEST_MAC]);
        let rarp = said(&["Reverse", GUEST_MAC, "Broadcast"]);
        ensure!(arp && nd, "no announcement: {}", self.0);
        ensure!(
            rarp == (announcer == Announcer::Culvert),
            "a RARP is the VMM's wish, for a guest that can't announce itself: {}",
            self.0
        );
        Ok(())
    }
}
