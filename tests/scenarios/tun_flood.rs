//! A flood of initiations from invented addresses, with a valid mac1, at the rate that one core can send.
//!
//! ```text
//!   a: tun 10.0.0.1 ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 ── b: tun 10.0.0.2
//!                                   198.51.100.2 wan1 ──┘
//!                                        ║
//!                                   198.51.100.1 wan0 ── x: the flood, and a newcomer, tun 10.0.0.3
//! ```
//!
//! What it costs the established session in speed is measured by `scripts/bench wireguard`, not here.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{Iperf, Part, Program, Scenario, Siege, eventually, ping};

/// A newcomer calls every five seconds, and is heard as one of a crowd until it has its cookie: the odds of one call
/// are one in five or so.
const WAY_IN: Duration = Duration::from_secs(150);

#[test]
fn a_flood_of_handshakes() -> Result<()> {
    let program = Program::under_test();
    let mut parts = program.parts();
    parts.push(Part::Iperf);
    Scenario::run("a_flood_of_handshakes", &parts, |scenario| {
        let siege = Siege::lay(scenario, program)?;
        let (a, b) = (&siege.pair.a, &siege.pair.b);
        let server = Iperf::serve(scenario, &b.namespace, 5201)?;
        server.send(&a.namespace, "10.0.0.2", "-n 4M")?;
        let before = b.tunnel.resident_kib()?;
        let flood = siege.flood_tunnel()?;
        eventually("the flood", Duration::from_secs(5), || {
            Ok((flood.sent() > 100_000).then_some(()))
        })?;

        let flow = server.send(&a.namespace, "10.0.0.2", "-t 3")?;
        scenario.say(format!(
            "the established session moves {:.0} Mbit/s meanwhile",
            flow.bits_per_second / 1e6
        ));
        ensure!(flow.received > 1 << 20, "{flow:?}");
        ping(&a.namespace, "10.0.0.2", 10, "-i 0.05")?;

        siege.newcomer.wait_ping("10.0.0.2", WAY_IN)?;
        scenario.say("the newcomer is in");
        ping(&siege.newcomer.namespace, "10.0.0.2", 10, "-i 0.05")?;

        let (sent, took) = flood.finish()?;
        let after = b.tunnel.resident_kib()?;
        scenario.say(format!(
            "{:.0} thousand initiations a second; memory from {before} to {after} KiB",
            sent as f64 / took.as_secs_f64() / 1e3
        ));
        // Queues, the rate limiter's table (65,536 addresses) and socket buffers are bounded: some megabytes.
        ensure!(
            after < before + 48 * 1024,
            "{before} KiB became {after} KiB"
        );
        ping(&a.namespace, "10.0.0.2", 10, "")
    })
}
