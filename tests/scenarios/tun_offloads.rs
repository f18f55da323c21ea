//! Super-frames from one interface to the other, with every offload on, off, and toggled meanwhile.
//!
//! ```text
//!   a: tun 10.0.0.1, fd00::1 ── wan0 192.0.2.1, 2001:db8::1 ═══ 192.0.2.2, 2001:db8::2 wan0 ── tun 10.0.0.2, fd00::2 :b
//! ```
//! The kernels at both ends are the judges: they count checksums that are wrong, and tcpdump shows what it got.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Counters, Iperf, Outer, Pair, Part, Process, Program, Scenario, Veth, eventually, inside,
    trains,
};

const COMMAND: Duration = Duration::from_secs(30);

fn parts() -> Vec<Part> {
    let mut parts = Program::under_test().parts();
    parts.extend([Part::Iperf, Part::Capture]);
    parts
}

/// Two ends that know each other, their cable as the kernel makes one.
fn lay(scenario: &Scenario) -> Result<Pair> {
    let pair = Pair::lay(scenario, [Program::under_test(); 2])?;
    for end in [&pair.a, &pair.b] {
        end.namespace.run(
            &[
                "ethtool",
                "-K",
                Veth::NAME,
                "tx",
                "on",
                "rx",
                "on",
                "gso",
                "on",
                "tso",
                "on",
            ],
            COMMAND,
        )?;
    }
    pair.meet(Outer::V4)?;
    pair.a.wait_ping("10.0.0.2", COMMAND)?;
    Ok(pair)
}

fn set_mtu(pair: &Pair, mtu: u32) -> Result<()> {
    for end in [&pair.a, &pair.b] {
        end.namespace
            .ip(&format!("link set {} mtu {}", Veth::NAME, mtu + 80))?;
        end.namespace
            .ip(&format!("link set {} mtu {mtu}", end.tunnel.interface()))?;
    }
    // The news of an MTU reaches a userspace program a moment later.
    let exact = (mtu - 28).to_string();
    let words = [
        "ping", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &exact, "10.0.0.2",
    ];
    eventually("a full packet at the new MTU", COMMAND, || {
        Ok(pair.a.namespace.run(&words, COMMAND).ok().map(drop))
    })
}

fn must_be_right(pair: &Pair) -> Result<()> {
    for end in [&pair.a, &pair.b] {
        Counters::of(&end.namespace)?
            .must_have_right_checksums()
            .with_context(|| end.namespace.name().to_owned())?;
    }
    Ok(())
}

/// tcpdump on an interface, until it has seen `count` packets that pass a filter.
struct Watch(Process);

impl Watch {
    fn start(
        scenario: &Scenario,
        name: &str,
        end: &culvert_tests::End,
        filter: &str,
        count: u32,
    ) -> Result<Self> {
        let mut command = end.namespace.program("tcpdump");
        command.args(["-i", end.tunnel.interface(), "-n", "-l", "-v", "-Z", "root"]);
        command.args(["-c", &count.to_string(), filter]);
        let mut process = Process::start(name, scenario.scratch(), command)?;
        eventually("tcpdump's first word", COMMAND, || {
            process.must_run()?;
            Ok(process.log().contains("listening on").then_some(()))
        })?;
        Ok(Self(process))
    }

    /// What it saw.
    fn finish(mut self) -> Result<String> {
        self.0
            .wait(Duration::from_secs(10))
            .context("the packets that were waited for")?;
        Ok(self.0.log())
    }
}

/// TCP of both families, with and without ECN, at MTUs from the least of IPv6 to a large one: the receiver's kernel is
/// given packets longer than its MTU, and finds every checksum right.
#[test]
fn super_frames_arrive_whole() -> Result<()> {
    Scenario::run("super_frames_arrive_whole", &parts(), |scenario| {
        let pair = lay(scenario)?;
        let server = Iperf::serve(scenario, &pair.b.namespace, 5201)?;
        for mtu in [1280_u32, 1420, 4000, 9000] {
            set_mtu(&pair, mtu)?;
            for (ecn, address) in [0, 1].iter().flat_map(|ecn| inside(2).map(|to| (ecn, to))) {
                for end in [&pair.a, &pair.b] {
                    end.namespace.sysctl(&format!("net.ipv4.tcp_ecn={ecn}"))?;
                }
                let family = if address.contains(':') { "ip6" } else { "ip" };
                // TCP's data from a; an iperf3's control connection sends no long packets.
                let filter = format!("{family} and tcp dst port 5201 and greater {}", mtu + 1000);
                let watch = Watch::start(
                    scenario,
                    &format!("tcpdump-{mtu}-{ecn}-{family}"),
                    &pair.b,
                    &filter,
                    20,
                )?;
                let flow = server.send(&pair.a.namespace, &address, "-n 48M")?;
                ensure!(flow.received >= 40 << 20, "{flow:?}");
                // Their checksums are seeds for a NIC to complete, which tcpdump calls incorrect: the kernel's counters
                // are the judge.
                let seen = watch.finish()?;
                if *ecn == 1 {
                    let marked =
                        seen.matches("tos 0x2").count() + seen.matches("class 0x02").count();
                    ensure!(marked >= 15, "no ECN-capable transport in:\n{seen}");
                }
            }
            must_be_right(&pair)?;
        }
        Ok(())
    })
}

/// Messages cut with `UDP_SEGMENT`: each datagram keeps its size and its bytes, and they arrive as trains.
#[test]
fn trains_of_datagrams_stay_trains() -> Result<()> {
    Scenario::run("trains_of_datagrams_stay_trains", &parts(), |scenario| {
        let pair = lay(scenario)?;
        for mtu in [1280_u32, 1420, 9000] {
            set_mtu(&pair, mtu)?;
            for address in inside(2) {
                let address = address.parse()?;
                let most = usize::try_from(mtu)? - 48;
                for size in [most, 1000, 333, 64] {
                    let came = trains(&pair.a.namespace, &pair.b.namespace, address, size, 200)?;
                    scenario.say(format!("MTU {mtu}, {address}, {size} bytes: {came:?}"));
                    ensure!(
                        came.longest > 8 * size.min(2000),
                        "hardly any train came whole: {came:?}"
                    );
                }
            }
            must_be_right(&pair)?;
        }
        Ok(())
    })
}

/// Every feature of both interfaces is switched off and on again and again while TCP and trains of datagrams pass.
#[test]
fn offloads_may_change_under_traffic() -> Result<()> {
    Scenario::run("offloads_may_change_under_traffic", &parts(), |scenario| {
        let pair = lay(scenario)?;
        let server = Iperf::serve(scenario, &pair.b.namespace, 5201)?;
        for address in inside(2) {
            let over = AtomicBool::new(false);
            let toggles = thread::scope(|scope| {
                let toggling = scope.spawn(|| toggle(&pair, &over));
                let outcome = (|| {
                    for options in ["-t 3", "-t 3 -R", "-t 3 -P 3"] {
                        let flow = server.send(&pair.a.namespace, &address, options)?;
                        scenario.say(format!(
                            "{address} {options}: {:.2} Gbit/s",
                            flow.bits_per_second / 1e9
                        ));
                        ensure!(flow.received > 20 << 20, "hardly anything passed: {flow:?}");
                    }
                    for size in [1200, 100] {
                        let to = address.parse()?;
                        trains(&pair.a.namespace, &pair.b.namespace, to, size, 500)?;
                    }
                    anyhow::Ok(())
                })();
                over.store(true, Ordering::Relaxed);
                let toggles = toggling
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("toggling panicked"));
                outcome.and(toggles)
            })?;
            scenario.say(format!("{toggles} times a feature changed"));
            ensure!(toggles > 100, "only {toggles} changes of a feature");
            must_be_right(&pair)?;
        }
        Ok(())
    })
}

/// Switches every feature that can be switched off and on in turn until it is over; answers how often.
fn toggle(pair: &Pair, over: &AtomicBool) -> Result<usize> {
    let ends = [&pair.a, &pair.b];
    let listed = ends[0]
        .namespace
        .run(&["ethtool", "-k", ends[0].tunnel.interface()], COMMAND)?;
    let features: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter(|line| !line.contains("[fixed]"))
        .filter_map(|line| Some(line.split(':').next()?.trim()))
        .collect();
    for feature in ["tx-udp-segmentation", "tcp-segmentation-offload"] {
        ensure!(features.contains(&feature), "no {feature} in:\n{listed}");
    }
    let mut count = 0;
    for round in 0.. {
        for feature in &features {
            for end in ends {
                if over.load(Ordering::Relaxed) && round > 0 {
                    return Ok(count);
                }
                let state = if round % 2 == 0 { "off" } else { "on" };
                let words = ["ethtool", "-K", end.tunnel.interface(), feature, state];
                if end.namespace.run(&words, COMMAND).is_ok() {
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}

/// A host whose kernel leaves nothing to the interface sends packets that need nothing: each has its checksums
/// complete where it enters the tunnel, and they arrive so.
#[test]
fn without_offloads_every_checksum_is_there() -> Result<()> {
    Scenario::run(
        "without_offloads_every_checksum_is_there",
        &parts(),
        |scenario| {
            let pair = lay(scenario)?;
            // The kernel of b completes what it sends itself, and cuts it.
            for feature in ["tx", "tso", "gso", "tx-udp-segmentation"] {
                let words = ["ethtool", "-K", pair.b.tunnel.interface(), feature, "off"];
                pair.b.namespace.run(&words, COMMAND)?;
            }
            let server = Iperf::serve(scenario, &pair.b.namespace, 5201)?;
            for address in inside(2) {
                let family = if address.contains(':') { "ip6" } else { "ip" };
                let watch = Watch::start(
                    scenario,
                    &format!("tcpdump-{family}"),
                    &pair.b,
                    &format!("{family} and tcp src port 5201"),
                    500,
                )?;
                server.send(&pair.a.namespace, &address, "-n 32M -R")?;
                let seen = watch.finish()?;
                ensure!(!seen.contains("incorrect"), "wrong checksums:\n{seen}");
                ensure!(
                    seen.matches("(correct)").count() >= 400,
                    "tcpdump judged hardly any checksum:\n{seen}"
                );
            }
            must_be_right(&pair)
        },
    )
}

#[test]
fn a_file_arrives_as_it_was_sent() -> Result<()> {
    Scenario::run("a_file_arrives_as_it_was_sent", &parts(), |scenario| {
        file(scenario, 500)
    })
}

#[test]
#[ignore = "takes about a minute; scripts/test --long runs it"]
fn ten_gigabytes_arrive_as_they_were_sent() -> Result<()> {
    Scenario::run(
        "ten_gigabytes_arrive_as_they_were_sent",
        &parts(),
        |scenario| file(scenario, 10_000),
    )
}

/// Sends a stream of `megabytes` through the tunnel; both ends hash it.
fn file(scenario: &Scenario, megabytes: u32) -> Result<()> {
    let pair = lay(scenario)?;
    let limit = Duration::from_secs(60) + Duration::from_millis(40) * megabytes;
    // Random enough that no two places are alike, and faster to make than to send: a keystream.
    let source = format!(
        "head -c {megabytes}M /dev/zero | openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 2>/dev/null"
    );
    let script = |text: String| ["bash".to_owned(), "-c".to_owned(), text];
    let path = |name: &str| scenario.path(name).display().to_string();
    let start = Instant::now();
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let words = script(format!(
                "set -o pipefail; socat -u -b 1048576 TCP4-LISTEN:9000,reuseaddr - | tee >(wc -c >{}) | sha1sum",
                path("count")
            ));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            pair.b.namespace.run(&words, limit)
        });
        let words = script(format!(
            "set -o pipefail; mkfifo {fifo}; sha1sum <{fifo} >{sum} & {source} | tee {fifo} | \
             socat -u -b 1048576 - TCP4:10.0.0.2:9000,retry=50,interval=0.1 && wait && cat {sum}",
            fifo = path("fifo"),
            sum = path("sum")
        ));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let sent = pair.a.namespace.run(&words, limit);
        let received = receiver
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the receiver panicked"));
        anyhow::Ok((sent?, received?))
    })?;
    let took = start.elapsed().as_secs_f64();
    ensure!(
        sent.len() > 40 && sent == received,
        "{sent} is not {received}"
    );
    let count: u64 = fs::read_to_string(path("count"))?.trim().parse()?;
    ensure!(count == u64::from(megabytes) << 20, "{count} bytes came");
    scenario.say(format!(
        "{megabytes} MiB in {took:.1} s, {:.2} Gbit/s, SHA-1 {}",
        f64::from(megabytes) * 8.0 * 1.048_576 / 1e3 / took,
        sent.trim()
    ));
    must_be_right(&pair)
}
