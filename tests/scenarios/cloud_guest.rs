//! A guest that starts as a cloud's image does, and that nobody tells its addresses.
//!
//! ```text
//!   vm-a: systemd, udev, networkd ── vhost-user ── hv-a ─────── wan0 (veth) ─────── far: wireguard-go
//!   10.1.1.10, fd00:1::10                                                           10.1.2.1, fd00:2::1
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Addressing, Culvert, Far, Guest, GuestSpec, Image, Outer, Part, Scenario, Uplink, eventually,
};

const PARTS: [Part; 5] = [
    Part::Root,
    Part::Tun,
    Part::Qemu,
    Part::CloudGuest,
    Part::WireguardGo,
];
/// From a card that appears to addresses of both families, duplicate detection among them, under TCG.
const UP: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(30);

#[test]
#[ignore = "a minute or two under TCG: scripts/test --long"]
fn a_clouds_guest_comes_up_by_itself() -> Result<()> {
    let name = "a_clouds_guest_comes_up_by_itself";
    Scenario::run(name, &PARTS, |scenario| {
        let far = Far::lay(scenario, Uplink::Dpdk, 1, Outer::V4)?;
        let network = "networks:\n  blue:\n";
        let told = "    mtu: 1400\n    dhcp: { dns: [10.1.2.53, \"fd00:2::53\"], domain: vm.example.org }\n";
        let yaml = far.a.spec.yaml();
        ensure!(yaml.contains(network), "{yaml}");
        let yaml = yaml.replace(network, &format!("{network}{told}"));
        let mut culvert = Culvert::start(scenario, "hv-a", Some(&far.a.namespace), &yaml)?;
        let spec = GuestSpec {
            addressing: Addressing::default(),
            image: Image::Cloud,
            ..far.a.guest("vm-a")?
        };
        let mut guest = Guest::boot(scenario, &spec)?;

        scenario.say("addresses, a way out, the MTU, as its port has them");
        // A bare `ip` is busybox's.
        shows(
            &mut guest,
            "/usr/bin/ip -4 addr",
            &["inet 10.1.1.10/24", "dynamic"],
        )?;
        shows(&mut guest, "/usr/bin/ip -6 addr", &["inet6 fd00:1::10/128"])?;
        shows(
            &mut guest,
            "/usr/bin/ip route",
            &["default via 10.1.1.1", "proto dhcp"],
        )?;
        shows(&mut guest, "/usr/bin/ip -6 route", &["default via fe80::"])?;
        shows(&mut guest, "/usr/bin/ip link", &["mtu 1400"])?;
        // udev has named the card, and networkd says that it is done.
        shows(&mut guest, "/usr/bin/ip link", &["enp"])?;
        let links = "cat /run/systemd/netif/links/*";
        let wanted = [
            "ADMIN_STATE=configured",
            "OPER_STATE=routable",
            "10.1.2.53",
            "fd00:2::53",
            "vm.example.org",
        ];
        shows(&mut guest, links, &wanted)?;

        scenario.say("and it reaches who is behind a tunnel");
        for there in ["10.1.1.1", "fd00:1::1", "10.1.2.1", "fd00:2::1"] {
            let command = format!("/usr/bin/ping -c 1 -W 2 {there}");
            eventually(&format!("an answer from {there}"), UP, || {
                Ok((guest.run(&command, COMMAND)?.0 == 0).then_some(()))
            })?;
        }
        let drops = culvert.port("vm1")?.drops;
        for lost in ["guard-dhcp", "service-refused", "service-malformed"] {
            ensure!(!drops.contains_key(lost), "{drops:?}");
        }
        culvert.process().must_run()
    })
}

/// Waits until a command in the guest prints all of `wanted`.
fn shows(guest: &mut Guest, command: &str, wanted: &[&str]) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("{wanted:?} of `{command}`"), UP, || {
        last = guest.run(command, COMMAND)?.1;
        Ok(wanted.iter().all(|it| last.contains(it)).then_some(()))
    })
    .with_context(|| last.clone())
}
