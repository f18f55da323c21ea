//! The host stack of an idle DPDK uplink, spoken to by a kernel.
//!
//! ```text
//!   near: Culvert, net_af_packet on wan0, 192.0.2.7 ═══ veth ═══ 192.0.2.2 :far, Linux
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Namespace, Part, Scenario, Veth, eventually};

const ADDRESS: &str = "192.0.2.7";
const YAML: &str = "version: 1\ncores: { workers: 1 }\nmemory: { hugepages: off, megabytes: 128 }\n\
     uplinks:\n  wan: { driver: dpdk, device: \"net_af_packet0,iface=wan0\", addresses: [192.0.2.7/24] }\n\
     tunnels: {}\nnetworks: {}\nports: {}\n";
/// Round-trip times that a figure is made of, so far apart that the worker sleeps between them.
const PINGS: usize = 300;

/// What `ping` prints, in milliseconds, the least first.
fn round_trips(out: &str) -> Vec<f64> {
    let times = out.lines().filter_map(|line| {
        let (_, time) = line.split_once(" time=")?;
        time.split(' ').next()?.parse().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The figure is the promise (a millisecond, where a worker has a processor when it wants one), and is printed: a
/// machine that others load too is no place to judge it.
#[test]
fn pings_to_an_idle_uplink_are_answered_and_timed() -> Result<()> {
    let name = "pings_to_an_idle_uplink_are_answered_and_timed";
    Scenario::run(name, &[Part::Root], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        wire.address(&far, "192.0.2.2/24")?;
        let _culvert = Culvert::start(scenario, "near", Some(&near), YAML)?;
        let patience = Duration::from_secs(20);
        let words = ["ping", "-n", "-c", "1", "-W", "1", ADDRESS];
        eventually("an answer of the uplink's", patience, || {
            Ok(far.run(&words, patience).ok().map(drop))
        })?;
        let neighbor = far.ip("neigh show 192.0.2.7")?;
        ensure!(neighbor.contains("lladdr"), "{neighbor}");

        let count = PINGS.to_string();
        let words = ["ping", "-n", "-c", &count, "-i", "0.02", "-W", "2", ADDRESS];
        let out = far.run(&words, Duration::from_secs(60))?;
        let times = round_trips(&out);
        ensure!(times.len() == PINGS, "{} of {PINGS} answered", times.len());
        let at = |share: usize| times.get((PINGS * share / 100).min(PINGS - 1)).copied();
        let [half, most] = [at(50), at(99)].map(|time| time.context("a time"));
        let (half, most) = (half?, most?);
        scenario.say(format!("{PINGS} pings: p50 {half} ms, p99 {most} ms"));
        Ok(())
    })
}
