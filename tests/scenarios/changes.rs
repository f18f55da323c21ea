//! Changes of a file, as the kernel shows them: on interfaces, and in the packets of a tunnel.
//!
//! ```text
//!   t0 (tun), t1 (tap) ── culvert ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 :far
//! ```
//!
//! Nobody answers in `far`: what arrives there is counted by its mark before it leaves.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Keys, Namespace, Part, Scenario, Veth, eventually};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::Nftables];
const COMMAND: Duration = Duration::from_secs(30);
/// How long something that must happen may take, on a machine that is busy: a few calls, 5 s apart.
const PATIENCE: Duration = Duration::from_secs(60);

struct Host {
    namespace: Namespace,
    far: Namespace,
    keys: [Keys; 2],
}

/// What a file says that changes.
#[derive(Clone, Copy)]
struct File<'f> {
    prefix: u8,
    mtu: u16,
    fwmark: u32,
    /// Further ports.
    ports: &'f str,
}

const FIRST: File<'_> = File {
    prefix: 24,
    mtu: 1400,
    fwmark: 0x51,
    ports: "",
};

impl Host {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (namespace, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let cable = Veth::join(&namespace, &far)?;
        cable.address(&namespace, "192.0.2.1/24")?;
        cable.address(&far, "192.0.2.2/24")?;
        let keys = |name: &str| Keys::generate(scenario, name);
        Ok(Self {
            namespace,
            far,
            keys: [keys("near")?, keys("far")?],
        })
    }

    fn yaml(&self, file: File<'_>) -> String {
        let File {
            prefix,
            mtu,
            fwmark,
            ports,
        } = file;
        let [near, far] = &self.keys;
        let v6 = 40 + prefix;
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ wan0: {{ driver: udp }} }}\n\
             tunnels:\n  wg0:\n    uplink: wan0\n    listen_port: 51820\n    fwmark: {fwmark}\n    uapi: off\n    \
             private_key_file: {}\n    \
             peers: {{ far: {{ public_key: \"{}\", allowed_ips: [10.9.0.0/16], endpoint: 192.0.2.2:51820, persistent_keepalive: 1s }} }}\n\
             networks: {{ n: {{ mtu: {mtu}, tunnel: wg0, gateway: [10.1.1.1/{prefix}, \"fd00:1::1/{v6}\"] }} }}\n\
             ports:\n  \
             t0: {{ driver: tun, network: n, addresses: [10.1.1.10, \"fd00:1::10\"] }}\n  \
             t1: {{ driver: tap, network: n, mac: \"52:54:00:00:00:01\", addresses: [10.1.1.11, \"fd00:1::11\"] }}\n{ports}",
            near.private_file.display(),
            far.public,
        )
    }

    /// What `ip` says of both interfaces: addresses, MTU, and the routes that come with them.
    fn look(&self) -> Result<String> {
        let mut all = String::new();
        for interface in ["t0", "t1"] {
            for words in ["-o link show dev", "-o address show dev"] {
                all += &self.namespace.ip(&format!("{words} {interface}"))?;
            }
            for family in ["-4", "-6"] {
                all += &self
                    .namespace
                    .ip(&format!("{family} route show dev {interface}"))?;
            }
        }
        // Link-local addresses are the kernel's, and tentative at first; it sorts as it likes.
        let lines = all.lines().map(str::trim);
        let mut lines: Vec<_> = lines.filter(|line| !line.contains("fe80:")).collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// Packets to the peer that bear this mark, from now on until one has come.
    fn await_mark(&self, mark: u32) -> Result<()> {
        let rule = format!("ip daddr 192.0.2.2 udp dport 51820 meta mark {mark} counter");
        self.namespace.nft(&format!(
            "table ip marks {{ chain out {{ type filter hook output priority 0; {rule}; }} }}"
        ))?;
        let counted = eventually(&format!("a packet with mark {mark:#x}"), PATIENCE, || {
            let list = self
                .namespace
                .run(&["nft", "list", "table", "ip", "marks"], COMMAND)?;
            let none = list.contains("counter packets 0 ");
            ensure!(list.contains("counter packets"), "{list}");
            Ok((!none).then_some(()))
        });
        self.namespace.nft("delete table ip marks")?;
        counted
    }

    fn marks_nothing_else(&self, mark: u32) -> Result<()> {
        let rule = format!("ip daddr 192.0.2.2 udp dport 51820 meta mark != {mark} counter");
        self.namespace.nft(&format!(
            "table ip others {{ chain out {{ type filter hook output priority 0; {rule}; }} }}"
        ))?;
        self.await_mark(mark)?;
        let list = self
            .namespace
            .run(&["nft", "list", "table", "ip", "others"], COMMAND)?;
        ensure!(list.contains("counter packets 0 "), "{list}");
        self.namespace.nft("delete table ip others")
    }
}

#[test]
fn a_gateways_prefix_reaches_the_interfaces() -> Result<()> {
    let name = "a_gateways_prefix_reaches_the_interfaces";
    Scenario::run(name, &PARTS, |scenario| {
        let host = Host::lay(scenario)?;
        let culvert = Culvert::start(scenario, "near", Some(&host.namespace), &host.yaml(FIRST))?;
        for prefix in [24, 16, 24] {
            let file = File { prefix, ..FIRST };
            culvert.apply(&host.yaml(file))?;
            let v6 = 40 + prefix;
            let third = if prefix == 16 { 0 } else { 1 };
            for (interface, last) in [("t0", "10"), ("t1", "11")] {
                let show = |words: &str| host.namespace.ip(&format!("{words} {interface}"));
                let addresses = show("-o address show dev")?;
                for address in [
                    format!("10.1.1.{last}/{prefix}"),
                    format!("fd00:1::{last}/{v6}"),
                ] {
                    ensure!(addresses.contains(&address), "no {address}: {addresses}");
                }
                ensure!(addresses.matches("10.1.1.").count() <= 2, "{addresses}");
                ensure!(addresses.matches("fd00:1::").count() == 1, "{addresses}");
                let routes = show("-4 route show dev")?;
                let route = format!("10.1.{third}.0/{prefix}");
                ensure!(
                    routes.contains(&route) && routes.lines().count() == 1,
                    "not {route} alone: {routes}"
                );
                let routes = show("-6 route show dev")?;
                ensure!(routes.contains(&format!("/{v6} ")), "{routes}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_change_that_fails_late_leaves_interfaces_and_mark_as_they_were() -> Result<()> {
    let name = "a_change_that_fails_late_leaves_interfaces_and_mark_as_they_were";
    Scenario::run(name, &PARTS, |scenario| {
        let host = Host::lay(scenario)?;
        let culvert = Culvert::start(scenario, "near", Some(&host.namespace), &host.yaml(FIRST))?;
        let before = host.look()?;
        host.marks_nothing_else(FIRST.fwmark)?;

        scenario.say("its last port can't be opened");
        // Its rings' file can't be made, which nobody looks at ahead.
        let rings = culvert.run_dir().join("vm.rings");
        fs::create_dir(&rings)?;
        let next = File {
            prefix: 16,
            mtu: 1300,
            fwmark: 0x52,
            ports: "  vm: { network: n, mac: \"52:54:00:00:00:02\", addresses: [10.1.1.12] }\n",
        };
        let (status, out, err) = culvert.try_apply(&host.yaml(next))?;
        ensure!(
            !status.success() && err.contains("vm"),
            "{status} {out}{err}"
        );
        let after = host.look()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        host.marks_nothing_else(FIRST.fwmark)?;
        let show = culvert.show()?;
        let ports = show["ports"].as_array().context("ports")?;
        ensure!(
            ports.len() == 2 && ports.iter().all(|port| port["mtu"] == 1400),
            "{show}"
        );

        scenario.say("it is carried out once it can be");
        fs::remove_dir(&rings)?;
        culvert.apply(&host.yaml(next))?;
        let after = host.look()?;
        ensure!(
            after.contains("mtu 1300")
                && !after.contains("mtu 1400")
                && after.contains("10.1.1.10/16"),
            "{after}"
        );
        host.marks_nothing_else(next.fwmark)
    })
}

/// The disk is full for a while: that is said once, and its end.
#[test]
fn endpoints_are_kept_again_when_the_disk_has_room() -> Result<()> {
    let name = "endpoints_are_kept_again_when_the_disk_has_room";
    Scenario::run(name, &PARTS, |scenario| {
        let host = Host::lay(scenario)?;
        let far = &host.far;
        // `ip netns exec` makes a mount namespace, in which the run directory is a disk of its own.
        let run_dir = scenario.path("small");
        fs::create_dir(&run_dir)?;
        let yaml = host.yaml(FIRST);
        let file = scenario.path("small.yaml");
        fs::write(&file, &yaml)?;
        let script = format!(
            "mount -t tmpfs -o size=64k,mode=750 none {dir}; \
             ln -s /proc/$$/root{dir} {dir}.seen; exec {culvert} run -c {file} --run-dir {dir}",
            dir = run_dir.display(),
            culvert = culvert_tests::culvert_binary()?.display(),
            file = file.display(),
        );
        let mut command = host.namespace.program("sh");
        command.args(["-c", &script]);
        let mut near = culvert_tests::Process::start("small", scenario.scratch(), command)?;
        let seen = scenario.path("small.seen");
        eventually("the control socket", PATIENCE, || {
            near.must_run()?;
            Ok(seen.join("api.sock").exists().then_some(()))
        })?;
        // Until there is no room: nobody answers yet, so that nothing is kept yet.
        fs::write(seen.join("filler"), vec![0; 64 << 10])
            .err()
            .context("the disk is not full")?;
        let [own, other] = &host.keys;
        let answering = format!(
            "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ wan0: {{ driver: udp }} }}\n\
             tunnels: {{ wg0: {{ uplink: wan0, listen_port: 51820, uapi: off, private_key_file: {}, \
             peers: {{ near: {{ public_key: \"{}\", endpoint: 192.0.2.1:51820, persistent_keepalive: 1s }} }} }} }}\nnetworks: {{ }}\n",
            other.private_file.display(),
            own.public,
        );
        let _answering = Culvert::start(scenario, "far", Some(far), &answering)?;
        eventually("a line about the failure", PATIENCE, || {
            near.must_run()?;
            Ok(near
                .log()
                .contains("can't keep the peers' endpoints")
                .then_some(()))
        })?;
        // Some more tries that say nothing.
        std::thread::sleep(Duration::from_secs(4));
        fs::remove_file(seen.join("filler"))?;
        eventually("the file", PATIENCE, || {
            let text = fs::read_to_string(seen.join("endpoints.json")).unwrap_or_default();
            Ok(text.contains("192.0.2.2:51820").then_some(()))
        })?;
        eventually("a line about its end", PATIENCE, || {
            Ok(near
                .log()
                .contains("endpoints are kept again")
                .then_some(()))
        })?;
        let log = near.log();
        ensure!(log.matches("can't keep").count() == 1, "{log}");
        Ok(())
    })
}
