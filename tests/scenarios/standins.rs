//! The harness itself, with things that are not Culvert in Culvert's place.
//!
//! ```text
//!   vm-a ── vhost-user ── dpdk-testpmd (io forwarding) ── vhost-user ── vm-b
//! ```

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    Addressing, Capture, Guest, GuestSpec, Image, Keys, Namespace, Nic, PING, Part, Scenario,
    Testpmd, TestpmdSpec, Veth, WireguardGo, tcp_transfer, udp_exchange,
};

const COMMAND: Duration = Duration::from_secs(20);

/// Two guests over testpmd's vhost-user ports: proves QEMU's command line, the image and the command agent.
#[test]
#[ignore = "it proves the scenarios' own parts; scripts/test --long runs it"]
fn guests_over_testpmd() -> Result<()> {
    Scenario::run(
        "guests_over_testpmd",
        &[Part::Root, Part::Qemu, Part::Testpmd, Part::Hugepages],
        |scenario| {
            let sockets = [scenario.path("0.sock"), scenario.path("1.sock")];
            let _testpmd = Testpmd::start(
                scenario,
                &TestpmdSpec {
                    name: "testpmd".to_owned(),
                    devices: vec![
                        format!("net_vhost0,iface={},queues=1", sockets[0].display()),
                        format!(
                            "net_vhost1,iface={},queues=1,client=1",
                            sockets[1].display()
                        ),
                    ],
                    mode: "io".to_owned(),
                    queues: 1,
                    options: Vec::new(),
                },
            )?;
            let guest = |side: usize| GuestSpec {
                name: format!("vm-{side}"),
                mac: format!("52:54:00:00:00:0{}", side + 1),
                nic: Nic::VhostUser {
                    socket: sockets[side].clone(),
                    qemu_listens: side == 1,
                    queues: 1,
                },
                addressing: Addressing {
                    ip4: Some(format!("10.1.1.1{side}/24")),
                    ip6: Some(format!("fd00:1::1{side}/64")),
                    ..Addressing::default()
                },
                device_options: ",host_mtu=1420".to_owned(),
                image: Image::Small,
                incoming: None,
            };
            let mut vm_0 = Guest::start(scenario, &guest(0))?;
            let mut vm_1 = Guest::start(scenario, &guest(1))?;
            vm_0.wait_up()?;
            vm_1.wait_up()?;
            let mtu = vm_0.sh("cat /sys/class/net/eth0/mtu", COMMAND)?;
            ensure!(mtu.trim() == "1420", "{mtu}");
            vm_0.sh(&format!("{PING} -c 3 -W 2 10.1.1.11"), COMMAND)?;
            vm_1.ping("fd00:1::10", 10)?;
            tcp_transfer(&mut vm_0, &mut vm_1, "10.1.1.11", 4)?;
            tcp_transfer(&mut vm_1, &mut vm_0, "fd00:1::10", 4)?;
            udp_exchange(&mut vm_0, "10.1.1.11")?;
            udp_exchange(&mut vm_1, "fd00:1::10")?;
            let (status, output) = vm_0.run("echo out; echo err >&2; exit 7", COMMAND)?;
            ensure!(status == 7 && output == "out\nerr\n", "{status} {output:?}");
            Ok(())
        },
    )
}

/// Two wireguard-go over the veth: proves namespaces, keys, the capture's verdict.
#[test]
fn wireguard_go_over_veth() -> Result<()> {
    let parts = [Part::Root, Part::Tun, Part::WireguardGo, Part::Capture];
    Scenario::run("wireguard_go_over_veth", &parts, |scenario| {
        let (a, b) = (Namespace::make("a")?, Namespace::make("b")?);
        let veth = Veth::join(&a, &b)?;
        veth.address(&a, "192.0.2.1/24")?;
        veth.address(&b, "192.0.2.2/24")?;
        let (key_a, key_b) = (
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        );
        let wg_a = WireguardGo::start(scenario, &a, &key_a, 51820, &["10.0.0.1/24"], 1420)?;
        let wg_b = WireguardGo::start(scenario, &b, &key_b, 51820, &["10.0.0.2/24"], 1420)?;
        wg_a.peer(&a, &key_b, Some("192.0.2.2:51820"), &["10.0.0.2/32"], None)?;
        wg_b.peer(&b, &key_a, None, &["10.0.0.1/32"], None)?;
        let capture = Capture::start(scenario, &a, "veth")?;
        a.run(&["ping", "-c", "3", "-W", "2", "10.0.0.2"], COMMAND)?;
        let crossing = capture.finish(&[51820])?;
        crossing.must_be_sealed()?;
        let (received, sent) = wg_a.transfer(&a)?;
        ensure!(received > 300 && sent > 300, "{received} {sent}");

        let capture = Capture::start(scenario, &a, "leak")?;
        a.run(&["ping", "-c", "2", "-W", "2", "192.0.2.2"], COMMAND)?;
        let crossing = capture.finish(&[51820])?;
        ensure!(
            crossing.other == 4,
            "a plain ping must be seen: {crossing:?}"
        );
        Ok(())
    })
}

/// testpmd as a guest of testpmd: proves the generator's addresses and what is read from its last word.
#[test]
fn testpmd_over_testpmd() -> Result<()> {
    let parts = [Part::Root, Part::Testpmd, Part::Hugepages];
    Scenario::run("testpmd_over_testpmd", &parts, |scenario| {
        let socket = scenario.path("0.sock");
        let host = Testpmd::start(
            scenario,
            &TestpmdSpec {
                name: "host".to_owned(),
                devices: vec![format!("net_vhost0,iface={},queues=2", socket.display())],
                mode: "rxonly".to_owned(),
                queues: 2,
                options: Vec::new(),
            },
        )?;
        let guest = TestpmdSpec::guest("guest", socket, "52:54:00:00:01:10", 2, "txonly");
        let guest = guest.sending("02:00:00:00:01:01", "10.1.1.10", "10.1.2.10", 256);
        let guest = Testpmd::start(scenario, &guest)?;
        std::thread::sleep(Duration::from_secs(2));
        let sent = guest.finish()?.sent;
        let received = host.finish()?.received;
        // What is in the ring when the guest goes is lost.
        ensure!(
            received > 1000 && received <= sent,
            "{sent} sent, {received} received"
        );
        ensure!(sent - received <= 1024, "{sent} sent, {received} received");
        Ok(())
    })
}
