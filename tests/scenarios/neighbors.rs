//! How the host stack of a DPDK uplink lives with other hosts on its link.
//!
//! ```text
//!   near: Culvert, net_af_packet on wan0, 192.0.2.7, fd00:7::7 ═══ veth ═══ wan0 of far, Linux: 192.0.2.2, fd00:7::2
//! ```
//!
//! Whatever far says or finds is Linux's, iputils' or ndisc6's word.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{Culvert, Namespace, Part, Scenario, Veth, eventually};

const OURS: &str = "192.0.2.7";
const OURS_V6: &str = "fd00:7::7";
const SOON: Duration = Duration::from_secs(20);
/// A rival is taken to be there for a minute.
const GONE: Duration = Duration::from_secs(90);

fn yaml(more: &str) -> String {
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
     uplinks:\n  wan: {{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", addresses: [{OURS}/24, \"{OURS_V6}/64\"]{more} }}\n\
     tunnels: {{}}\nnetworks: {{}}\nports: {{}}\n"
    )
}

struct Link {
    near: Namespace,
    far: Namespace,
}

fn lay() -> Result<Link> {
    let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
    let wire = Veth::join(&near, &far)?;
    wire.address(&far, "192.0.2.2/24")?;
    wire.address(&far, "fd00:7::2/64")?;
    Ok(Link { near, far })
}

impl Link {
    fn answers(&self, address: &str) -> bool {
        let words = ["ping", "-n", "-c", "1", "-W", "1", address];
        self.far.run(&words, SOON).is_ok()
    }

    fn await_answer(&self, address: &str, patience: Duration) -> Result<()> {
        eventually(&format!("an answer of {address}"), patience, || {
            Ok(self.answers(address).then_some(()))
        })
    }
}

/// The uplink's conflicts: address, and whether it is used.
fn conflicts(culvert: &Culvert) -> Result<Vec<(String, bool)>> {
    let shown = culvert.show()?;
    let conflicts = shown["uplinks"][0]["conflicts"].as_array();
    let conflicts = conflicts.into_iter().flatten().map(|it| {
        let address = it["address"].as_str().unwrap_or_default().to_owned();
        (address, it["used"] == true)
    });
    Ok(conflicts.collect())
}

#[test]
fn stock_tools_find_the_stack_and_a_static_neighbor_is_where_it_was_told() -> Result<()> {
    let name = "stock_tools_find_the_stack_and_a_static_neighbor_is_where_it_was_told";
    Scenario::run(name, &[Part::Root, Part::Arping, Part::Dhcp], |scenario| {
        let link = lay()?;
        let far = &link.far;
        let fixed = ", neighbors: [{ address: 192.0.2.2, mac: \"02:00:00:00:00:99\" }]";
        let culvert = Culvert::start(scenario, "near", Some(&link.near), &yaml(fixed))?;
        link.await_answer(OURS, SOON)?;
        link.await_answer(OURS_V6, SOON)?;
        let out = far.run(&["arping", "-c", "3", "-I", Veth::NAME, OURS], SOON)?;
        ensure!(out.contains("Received 3 response"), "{out}");
        // Duplicate detection of a host that wants our address.
        let words = ["arping", "-D", "-c", "2", "-I", Veth::NAME, OURS];
        ensure!(far.run(&words, SOON).is_err(), "nobody has {OURS}");
        let out = far.run(&["ndisc6", "-1", OURS_V6, Veth::NAME], SOON)?;
        ensure!(
            out.to_lowercase().contains("target link-layer address"),
            "{out}"
        );
        for address in [OURS, OURS_V6] {
            let neighbor = far.ip(&format!("neigh show {address}"))?;
            ensure!(neighbor.contains("lladdr"), "{neighbor}");
        }
        // Pings were answered to where they came from, and nobody's word has moved the static entry.
        let neighbors = culvert.call(&["show", "neighbors"])?;
        ensure!(
            neighbors.contains("02:00:00:00:00:99") && neighbors.contains("static"),
            "{neighbors}"
        );
        Ok(())
    })
}

#[test]
#[ignore = "takes a minute; scripts/test --long runs it"]
fn an_address_that_linux_has_is_told_and_left_to_it_until_it_is_gone() -> Result<()> {
    let name = "an_address_that_linux_has_is_told_and_left_to_it_until_it_is_gone";
    Scenario::run(name, &[Part::Root, Part::Arping], |scenario| {
        let link = lay()?;
        let far = &link.far;
        let with_length = [format!("{OURS}/24"), format!("{OURS_V6}/64 nodad")];
        for address in &with_length {
            far.ip(&format!("address add {address} dev {}", Veth::NAME))?;
        }
        let mut culvert = Culvert::start(scenario, "near", Some(&link.near), &yaml(""))?;
        let both = [(OURS.to_owned(), false), (OURS_V6.to_owned(), false)];
        eventually("both conflicts", SOON, || {
            Ok((conflicts(&culvert)? == both).then_some(()))
        })?;
        let table = culvert.call(&["show"])?;
        ensure!(table.contains("192.0.2.7 is not used"), "{table}");
        let words = ["arping", "-c", "2", "-I", Veth::NAME, OURS];
        ensure!(far.run(&words, SOON).is_err(), "it answers for {OURS}");
        let log = culvert.process().log();
        ensure!(log.contains("another host has the address"), "{log}");

        // Linux gives them up.
        for address in [format!("{OURS}/24"), format!("{OURS_V6}/64")] {
            far.ip(&format!("address del {address} dev {}", Veth::NAME))?;
        }
        for address in [OURS, OURS_V6] {
            link.await_answer(address, GONE)?;
        }
        ensure!(conflicts(&culvert)?.is_empty());

        // It comes back later than we: we stay, and say so.
        let words = [
            "arping",
            "-U",
            "-c",
            "3",
            "-S",
            OURS,
            "-s",
            OURS,
            "-I",
            Veth::NAME,
            OURS,
        ];
        far.ip(&format!("address add {OURS}/32 dev lo"))?;
        let iputils = [&words[..4], &words[6..]].concat();
        far.run(&iputils, SOON).ok();
        far.ip(&format!("address del {OURS}/32 dev lo"))?;
        let contested = [(OURS.to_owned(), true)];
        eventually("a contested address", SOON, || {
            Ok((conflicts(&culvert)? == contested).then_some(()))
        })?;
        link.await_answer(OURS, SOON)
    })
}

#[test]
fn a_bridge_that_snoops_learns_where_solicitations_are_listened_to() -> Result<()> {
    let name = "a_bridge_that_snoops_learns_where_solicitations_are_listened_to";
    Scenario::run(name, &[Part::Root], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        Veth::join(&near, &far)?;
        far.ip("link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 100")?;
        far.ip("link set wan0 master br0")?;
        far.ip("link set br0 up")?;
        far.ip("address add fd00:7::2/64 dev br0 nodad")?;
        let _culvert = Culvert::start(scenario, "near", Some(&near), &yaml(""))?;
        // Of fd00:7::7; RFC 4291, section 2.7.1.
        let group = "ff02::1:ff00:7";
        let listens = || -> Result<bool> {
            let known = far.run(&["bridge", "mdb", "show", "dev", "br0"], SOON)?;
            Ok(known
                .lines()
                .any(|line| line.contains(group) && line.contains(Veth::NAME)))
        };
        eventually("the bridge to know the group", SOON, || {
            Ok(listens()?.then_some(()))
        })?;
        // Forgotten, it is learned again by asking: a querier that starts asks at once.
        far.ip("link set br0 type bridge mcast_snooping 0")?;
        far.ip("link set br0 type bridge mcast_snooping 1")?;
        far.ip("link set br0 type bridge mcast_querier 0")?;
        far.ip("link set br0 type bridge mcast_querier 1")?;
        eventually("an answer to its query", GONE, || {
            Ok(listens()?.then_some(()))
        })?;
        let ping = ["ping", "-n", "-c", "1", "-W", "1", OURS_V6];
        eventually("an answer through it", SOON, || {
            Ok(far.run(&ping, SOON).ok().map(drop))
        })
    })
}
