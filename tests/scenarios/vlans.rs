//! Two real guests in two networks of one Culvert, by VLANs of their ports.
//!
//! ```text
//!   fw  eth0.10 10.1.1.2 ── VLAN 10 ──┐
//!       eth0.20 10.2.1.2 ── VLAN 20 ─┐├ blue, gateway 10.1.1.1
//!                                    ├┼ red, gateway 10.2.1.1
//!   vm  eth0    10.1.1.3 ── no tag ──┼┘
//!       eth0.30 10.2.1.3 ── VLAN 30 ─┘
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Guest, GuestSpec, Namespace, Nic, Part, Scenario, tcp_transfer};

const PARTS: [Part; 2] = [Part::Root, Part::Qemu];
const PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(30);

/// `vlans` are those of fw.
fn yaml(vlans: &str) -> String {
    format!(
        "version: 1
node: hv
networks:
  blue: {{ gateway: [10.1.1.1/24, \"fd00:1::1/64\"], mtu: 1420 }}
  red: {{ gateway: [10.2.1.1/24], mtu: 1420 }}
ports:
  fw:
    mac: \"52:54:00:00:00:01\"
    vlans: {{ 10: {{ network: blue, addresses: [10.1.1.2, \"fd00:1::2\"] }}{vlans} }}
  vm:
    mac: \"52:54:00:00:00:02\"
    network: blue
    addresses: [10.1.1.3, \"fd00:1::3\"]
    vlans: {{ 30: {{ network: red, addresses: [10.2.1.3] }} }}
"
    )
}

const RED: &str = ", 20: { network: red, addresses: [10.2.1.2] }";

fn boot(scenario: &Scenario, culvert: &Culvert, name: &str, mac: &str) -> Result<Guest> {
    let spec = GuestSpec {
        name: name.into(),
        mac: mac.into(),
        nic: Nic::VhostUser {
            socket: culvert.run_dir().join(format!("{name}.sock")),
            qemu_listens: false,
            queues: 1,
        },
        addressing: Default::default(),
        device_options: ",host_mtu=1420".into(),
        image: Default::default(),
        incoming: None,
    };
    Guest::start(scenario, &spec)
}

fn add_vlan(guest: &mut Guest, vlan: u16, addresses: &[&str]) -> Result<()> {
    let name = format!("eth0.{vlan}");
    guest.sh(
        &format!(
            "ip link set eth0 up && ip link add link eth0 name {name} type vlan id {vlan} \
             && ip link set {name} up"
        ),
        COMMAND,
    )?;
    for address in addresses {
        guest.sh(&format!("ip addr add {address} dev {name}"), COMMAND)?;
    }
    Ok(())
}

/// From fw and to it: frames, bytes.
fn traffic(culvert: &Culvert) -> Result<[[u64; 2]; 2]> {
    let show = culvert.show()?;
    let ports = show["ports"].as_array().context("ports")?;
    let port = ports.iter().find(|it| it["name"] == "fw").context("fw")?;
    let count = |way: &str, what: &str| port[way][what].as_u64().context("a count");
    Ok([
        [count("rx", "packets")?, count("rx", "bytes")?],
        [count("tx", "packets")?, count("tx", "bytes")?],
    ])
}

#[test]
fn guests_meet_in_the_networks_of_their_vlans() -> Result<()> {
    Scenario::run(
        "guests_meet_in_the_networks_of_their_vlans",
        &PARTS,
        |scenario| {
            let namespace = Namespace::make("hv")?;
            let culvert = Culvert::start(scenario, "culvert", Some(&namespace), &yaml(RED))?;
            let mut fw = boot(scenario, &culvert, "fw", "52:54:00:00:00:01")?;
            let mut vm = boot(scenario, &culvert, "vm", "52:54:00:00:00:02")?;
            fw.wait_up()?;
            vm.wait_up()?;
            add_vlan(&mut fw, 10, &["10.1.1.2/24", "fd00:1::2/64"])?;
            // The gateway of red tells it the address, and asks for no other's.
            add_vlan(&mut fw, 20, &[])?;
            let told = fw.sh("udhcpc -i eth0.20 -n -q -s /bin/true 2>&1", COMMAND)?;
            ensure!(told.contains("10.2.1.2"), "{told}");
            fw.sh("ip addr add 10.2.1.2/24 dev eth0.20", COMMAND)?;
            vm.sh(
                "ip addr add 10.1.1.3/24 dev eth0 && ip addr add fd00:1::3/64 dev eth0",
                COMMAND,
            )?;
            add_vlan(&mut vm, 30, &["10.2.1.3/24"])?;

            scenario.say("gateways and neighbors in each network");
            for address in [
                "10.1.1.1",
                "10.2.1.1",
                "10.1.1.3",
                "10.2.1.3",
                "fd00:1::1",
                "fd00:1::3",
            ] {
                fw.wait_ping(address, PING)?;
                fw.ping(address, 10)?;
            }

            scenario.say("20 MiB each way in each network, with super-frames");
            let offloads = fw.sh("ethtool -k eth0.10", COMMAND)?;
            ensure!(
                offloads.contains("tcp-segmentation-offload: on"),
                "{offloads}"
            );
            for (address, back) in [
                ("10.1.1.3", "10.1.1.2"),
                ("fd00:1::3", "fd00:1::2"),
                ("10.2.1.3", "10.2.1.2"),
            ] {
                let before = traffic(&culvert)?;
                tcp_transfer(&mut fw, &mut vm, address, 20)?;
                tcp_transfer(&mut vm, &mut fw, back, 20)?;
                for (after, before) in traffic(&culvert)?.into_iter().zip(before) {
                    let [packets, bytes] = [after[0] - before[0], after[1] - before[1]];
                    // Half of them are short acknowledgments.
                    ensure!(
                        bytes > 2_000 * packets,
                        "{address}: {bytes} bytes in {packets} frames"
                    );
                }
            }

            scenario.say("one VLAN goes and comes while the other carries pings");
            fw.sh(
                &format!(
                    "{} -i 0.05 -c 200 10.1.1.3 >/tmp/ping 2>&1 &",
                    culvert_tests::PING
                ),
                COMMAND,
            )?;
            culvert.apply(&yaml(""))?;
            let (status, _) = fw.run(
                &format!("{} -c 2 -W 1 10.2.1.3", culvert_tests::PING),
                COMMAND,
            )?;
            ensure!(status != 0, "VLAN 20 is no network's any more");
            culvert.apply(&yaml(RED))?;
            fw.wait_ping("10.2.1.3", PING)?;
            let pings = fw.sh("for i in $(seq 300); do grep -q received /tmp/ping && break; sleep 0.1; done; cat /tmp/ping", Duration::from_secs(60))?;
            ensure!(pings.contains(" 0% packet loss"), "{pings}");
            let drops = culvert.port("fw")?;
            ensure!(drops.drop_count("vlan-unknown") > 0, "{drops:?}");
            Ok(())
        },
    )
}
