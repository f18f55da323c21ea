//! A bond of DPDK's as an uplink's device, with LACP (IEEE 802.1AX) towards another one.
//!
//! ```text
//!   t0 near ── net_bonding0 ─┬ net_af_packet0 ═ wan0 ═ net_af_packet0 ┬─ net_bonding0 ── far t0
//!              192.0.2.1     └ net_af_packet1 ═ wan1 ═ net_af_packet1 ┘    192.0.2.2
//! ```
//!
//! What both bonds say is seen by tcpdump. LACP begins slowly: half a minute may pass. These members don't tell DPDK of
//! their links, so that a cable that is pulled is none of this.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{Culvert, Keys, Namespace, Part, Process, Scenario, eventually, ping};

const PATIENCE: Duration = Duration::from_secs(100);
const MEMBERS: &str = "\"net_af_packet0,iface=wan0\", \"net_af_packet1,iface=wan1\"";

fn yaml(keys: [&Keys; 2], [own, other]: [&str; 2], [net, far]: [u8; 2]) -> String {
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 256 }}\n\
         uplinks:\n  wan: {{ driver: dpdk, device: \"net_bonding0,mode=4\", members: [{MEMBERS}], addresses: [{own}/24] }}\n\
         tunnels:\n  wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, peers: {{ \
         other: {{ public_key: \"{}\", allowed_ips: [10.{far}.0.0/16], endpoint: {other}:51820 }} }} }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: [10.{net}.1.1/24] }} }}\n\
         ports: {{ t0: {{ driver: tun, network: n, addresses: [10.{net}.1.10] }} }}\n",
        keys[0].private_file.display(),
        keys[1].public,
    )
}

#[test]
fn a_tunnel_over_a_bond_with_lacp() -> Result<()> {
    let parts = [Part::Root, Part::Tun, Part::Capture];
    Scenario::run("a_tunnel_over_a_bond_with_lacp", &parts, |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let keys = [
            Keys::generate(scenario, "near")?,
            Keys::generate(scenario, "far")?,
        ];
        let addresses = ["192.0.2.1", "192.0.2.2"];
        for wan in ["wan0", "wan1"] {
            near.ip(&format!(
                "link add {wan} type veth peer name {wan} netns {}",
                far.name()
            ))?;
            near.ip(&format!("link set {wan} up"))?;
            far.ip(&format!("link set {wan} up"))?;
        }
        let mut words = far.program("timeout");
        words.args([
            "120",
            "tcpdump",
            "-Z",
            "root",
            "-lnvi",
            "wan1",
            "ether proto 0x8809",
        ]);
        let seen = Process::start("lacp", scenario.scratch(), words)?;
        eventually("tcpdump", PATIENCE, || {
            Ok(seen.log().contains("listening on").then_some(()))
        })?;
        let [own, other] = addresses;
        let bonded = yaml([&keys[1], &keys[0]], [other, own], [2, 1]);
        let ours = yaml([&keys[0], &keys[1]], addresses, [1, 2]);
        let mut one = Culvert::start(scenario, "near", Some(&near), &ours)?;
        let mut two = Culvert::start(scenario, "far", Some(&far), &bonded)?;
        near.ip("route add 10.2.1.0/24 dev t0")?;
        far.ip("route add 10.1.1.0/24 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&near, "10.2.1.10", 1, "").ok())
        })?;
        ping(&far, "10.1.1.10", 20, "-i 0.05")?;
        // Either end says of the other what that says of itself, and both of both that they distribute.
        eventually("both ends' word", PATIENCE, || {
            let log = seen.log();
            let all = "[Activity, Aggregation, Synchronization, Collecting, Distributing]";
            let agreed = log
                .split("LACPv1")
                .any(|message| message.matches(all).count() == 2);
            Ok(agreed.then_some(()))
        })?;
        let systems: std::collections::BTreeSet<_> = seen
            .log()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("System "))
            .filter_map(|rest| rest.split(',').next().map(str::to_owned))
            .filter(|system| system != "00:00:00:00:00:00")
            .collect();
        ensure!(systems.len() == 2, "{systems:?}");

        // Its members become uplinks of their own, and are one again.
        let device = two.show()?["uplinks"][0]["device"].clone();
        let named =
            "net_bonding0,mode=4 of net_af_packet0,iface=wan0 and net_af_packet1,iface=wan1";
        ensure!(device == named, "{device}");
        let apart = bonded
            .replace("net_bonding0,mode=4", "net_af_packet0,iface=wan0")
            .replace(
                &format!("members: [{MEMBERS}], addresses: [{other}/24] }}"),
                &format!(
                    "addresses: [{other}/24] }}\n  \
                     two: {{ driver: dpdk, device: \"net_af_packet1,iface=wan1\", addresses: [198.51.100.2/24] }}"
                ),
            );
        ensure!(apart.contains("two:"), "{apart}");
        two.apply(&apart)?;
        two.apply(&bonded)?;
        eventually("an answer once more", PATIENCE, || {
            Ok(ping(&near, "10.2.1.10", 1, "").ok())
        })?;
        for culvert in [&mut one, &mut two] {
            culvert.stop(Duration::from_secs(20))?;
            let log = culvert.process().log();
            ensure!(!log.contains("can't close a device"), "{log}");
        }
        Ok(())
    })
}
