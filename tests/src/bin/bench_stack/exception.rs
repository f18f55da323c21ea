//! What the kernel of a machine carries by the interface that it shares with an uplink.
//!
//! ```text
//!   near: iperf3 ── tap-wan0 ┐
//!                            Culvert, net_af_packet on wan0, 198.51.100.7 ═══ veth ═══ 198.51.100.2 :far: iperf3
//!         iperf3 ── t0 ──────┘ 10.1.1.10                          culvert tun, 10.9.1.10 ──────────────────┘
//! ```
//!
//! In: a scenario. Out: rates of TCP out and in: alone, while the tunnel carries half a gigabit per second, and while it
//! carries what it can. All of it shares the machine's processors: both ends of both flows, the far end of the tunnel, and
//! Culvert.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use culvert_tests::{
    Culvert, Flow, Iperf, Keys, Namespace, Program, Scenario, Tunnel, Veth, eventually, ping,
};

use super::{SOON, tell};

const GOAL_GBPS: f64 = 1.0;
const THEM: &str = "198.51.100.2";
const BEHIND: &str = "10.9.1.10";

pub(super) fn measure(scenario: &Scenario, json: bool) -> Result<()> {
    let (near, far) = (Namespace::make("one")?, Namespace::make("other")?);
    Veth::join(&near, &far)?.address(&far, "198.51.100.2/24")?;
    // The near kernel has the address at its TAP: where the cable is it is deaf.
    for deaf in ["arp_ignore=8", "rp_filter=1"] {
        near.sysctl(&format!("net.ipv4.conf.wan0.{deaf}"))?;
    }
    let (ours, theirs) = (
        Keys::generate(scenario, "one")?,
        Keys::generate(scenario, "other")?,
    );
    let peer = Tunnel::start(scenario, &far, Program::Culvert)?;
    peer.set(&format!(
        "private-key {} listen-port 51822 peer {} allowed-ips 10.1.1.0/24",
        theirs.private_file.display(),
        ours.public
    ))?;
    peer.up(&far, &[format!("{BEHIND}/16")], 1_420)?;
    far.ip(&format!("route add 10.1.1.0/24 dev {}", peer.interface()))?;
    let yaml = format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         uplinks:\n  wan: {{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", exception: tap-wan0, addresses: [198.51.100.7/24] }}\n\
         tunnels:\n  wg0:\n    uplink: wan\n    listen_port: 51820\n    uapi: off\n    private_key_file: {}\n    \
         peers: {{ far: {{ public_key: \"{}\", endpoint: \"{THEM}:51822\", allowed_ips: [10.9.0.0/16] }} }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
         ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
        ours.private_file.display(),
        theirs.public
    );
    let _culvert = Culvert::start(scenario, "one", Some(&near), &yaml)?;
    near.ip("route add 10.9.1.0/24 dev t0")?;
    eventually("an answer through the tunnel", SOON, || {
        Ok(ping(&near, BEHIND, 1, "").ok())
    })?;
    let tunnel = Iperf::serve(scenario, &far, 5_201)?;
    let path = Iperf::serve(scenario, &far, 5_202)?;
    let both = |when: &str| -> Result<()> {
        for (way, options) in [("out", "-t 3"), ("in", "-t 3 -R")] {
            let flow = path.send(&near, THEM, options)?;
            let case = format!("exception/{way}/{when}");
            tell(
                json,
                &case,
                "Gbit/s",
                gbps(&flow),
                Some(("goal", GOAL_GBPS)),
            );
        }
        Ok(())
    };
    both("idle")?;
    for (when, load) in [("half-a-gigabit", "-b 500M"), ("full", "")] {
        beside(
            &near,
            &tunnel,
            load,
            || both(when),
            |load| {
                let case = format!("exception/tunnel/{when}");
                tell(json, &case, "Gbit/s", load, None);
            },
        )?;
    }
    Ok(())
}

/// Does it while the tunnel is loaded, and tells with how much.
fn beside(
    near: &Namespace,
    tunnel: &Iperf,
    load: &str,
    measure: impl FnOnce() -> Result<()>,
    tell: impl FnOnce(f64),
) -> Result<()> {
    let long = Duration::from_secs(9);
    thread::scope(|threads| {
        let options = format!("-t 9 {load}");
        let load = threads.spawn(move || tunnel.send_for(near, BEHIND, &options, long));
        thread::sleep(Duration::from_secs(1));
        measure()?;
        let load = load.join().unwrap_or_else(|_| bail!("the load panicked"))?;
        tell(gbps(&load));
        Ok(())
    })
}

fn gbps(flow: &Flow) -> f64 {
    flow.bits_per_second / 1e9
}
