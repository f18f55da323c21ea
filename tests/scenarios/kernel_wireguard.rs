//! The Linux kernel's WireGuard, the reference, at the far end of a tunnel: inside a guest of its own.
//!
//! ```text
//!   vm-a ── vhost-user ── hv-a ─────── wan0 (veth) ── bridge ── tap0 ── vm-far: wg0 (kernel)
//!   10.1.1.10                    192.0.2.1                              192.0.2.2   10.1.2.1
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Addressing, Culvert, Guest, GuestSpec, Image, Keys, Namespace, Nic, PORT, Part, PeerSpec,
    Scenario, SocketMode, TwoHosts, Uplink, Veth, tcp_transfer,
};

use super::narrow::wait_found;

const PARTS: [Part; 3] = [Part::Root, Part::Qemu, Part::Tun];
const FIRST_PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(30);
/// 25 s of quiet, then three probes that are answered after ten; on a machine that is busy.
const QUIET: Duration = Duration::from_secs(150);

/// A hypervisor with a guest, and the guest at the far end, whose `wg0` is up. `change` has the hypervisor's file.
fn laid(
    scenario: &Scenario,
    change: impl FnOnce(String) -> String,
) -> Result<(TwoHosts, Guest, Guest)> {
    // The far hypervisor's namespace serves as a switch: its Culvert is never started.
    let mut hosts = TwoHosts::lay(scenario, Uplink::Dpdk, 1, SocketMode::Server)?;
    let nic = bridged_tap(&hosts.b.namespace)?;
    let keys = Keys::generate(scenario, "far")?;
    let psk = keys.preshared(scenario)?;
    hosts.a.spec.peers = vec![PeerSpec {
        name: "far".to_owned(),
        public_key: keys.public.clone(),
        endpoint: Some(format!("192.0.2.2:{PORT}")),
        allowed_ips: vec!["10.1.2.0/24".to_owned(), "fd00:2::/64".to_owned()],
        preshared_key_file: Some(psk.clone()),
    }];
    hosts.a.culvert = Some(Culvert::start(
        scenario,
        "hv-a",
        Some(&hosts.a.namespace),
        &change(hosts.a.spec.yaml()),
    )?);
    let far = GuestSpec {
        name: "vm-far".to_owned(),
        mac: "52:54:00:00:99:02".to_owned(),
        nic,
        addressing: Addressing {
            ip4: Some("192.0.2.2/24".to_owned()),
            ..Addressing::default()
        },
        device_options: String::new(),
        image: Image::Small,
        incoming: None,
    };
    let mut far = Guest::start(scenario, &far)?;
    let mut vm = Guest::start(scenario, &hosts.a.guest("vm-a")?)?;
    far.wait_up()?;
    vm.wait_up()?;

    scenario.say("setting up wg0 in the far guest");
    let secret = |path: &std::path::Path| std::fs::read_to_string(path);
    far.sh(
        &format!(
            "umask 077; echo '{}' >/tmp/key; echo '{}' >/tmp/psk",
            secret(&keys.private_file)?.trim(),
            secret(&psk)?.trim()
        ),
        COMMAND,
    )?;
    let peer = &hosts.a.spec.keys.public;
    for command in [
        "for m in $(cat /etc/wireguard.modules); do insmod /lib/modules/$m.ko || exit 1; done"
            .to_owned(),
        "ip link add wg0 type wireguard".to_owned(),
        format!("wg set wg0 private-key /tmp/key listen-port {PORT}"),
        format!(
            "wg set wg0 peer {peer} preshared-key /tmp/psk endpoint 192.0.2.1:{PORT} \
             allowed-ips 10.1.1.0/24,fd00:1::/64"
        ),
        "ip address add 10.1.2.1/24 dev wg0; ip -6 address add fd00:2::1/64 dev wg0".to_owned(),
        "ip link set wg0 up; ip route add 10.1.1.0/24 dev wg0; ip -6 route add fd00:1::/64 dev wg0"
            .to_owned(),
    ] {
        far.sh(&command, COMMAND)?;
    }
    Ok((hosts, vm, far))
}

#[test]
fn kernel_wireguard() -> Result<()> {
    Scenario::run("kernel_wireguard", &PARTS, |scenario| {
        let (mut hosts, mut vm, mut far) = laid(scenario, |yaml| yaml)?;
        scenario.say("ping both ways");
        vm.wait_ping("10.1.2.1", FIRST_PING)?;
        vm.ping("10.1.2.1", 20)?;
        vm.ping("fd00:2::1", 20)?;
        far.ping("10.1.1.10", 20)?;
        far.ping("fd00:1::10", 20)?;

        scenario.say("a file each way");
        tcp_transfer(&mut vm, &mut far, "10.1.2.1", 8)?;
        tcp_transfer(&mut far, &mut vm, "fd00:1::10", 8)?;

        scenario
            .say("the kernel's side takes the interface down and up: a new handshake from there");
        far.sh(
            "ip link set wg0 down; ip link set wg0 up; ip route add 10.1.1.0/24 dev wg0",
            COMMAND,
        )?;
        far.wait_ping("10.1.1.10", FIRST_PING)?;
        let handshake = far.sh("wg show wg0 latest-handshakes", COMMAND)?;
        ensure!(!handshake.trim().ends_with("\t0"), "{handshake}");
        hosts.a.culvert_mut()?.process().must_run()
    })
}

/// Nobody behind the kernel's WireGuard is asked: its own empty packets are the answers.
#[test]
#[ignore = "a quiet minute and more: scripts/test --long"]
fn the_kernels_wireguard_shows_what_a_path_lets_through_in_quiet_times() -> Result<()> {
    let name = "the_kernels_wireguard_shows_what_a_path_lets_through_in_quiet_times";
    Scenario::run(name, &PARTS, |scenario| {
        let port = format!("    listen_port: {PORT}\n");
        let (mut hosts, mut vm, _far) = laid(scenario, |yaml| {
            yaml.replace(&port, &format!("{port}    pmtu: probe\n"))
        })?;
        vm.wait_ping("10.1.2.1", FIRST_PING)?;
        // The tunnel's MTU and what goes around it.
        let near = hosts.a.culvert()?;
        wait_found(near, 1480, QUIET).with_context(|| match near.show() {
            Ok(show) => show["peers"].to_string(),
            Err(error) => error.to_string(),
        })?;
        vm.ping("10.1.2.1", 5)?;
        hosts.a.culvert_mut()?.process().must_run()
    })
}

/// A bridge in the namespace between the veth and a new TAP interface.
fn bridged_tap(namespace: &Namespace) -> Result<Nic> {
    let nic = Nic::tap(namespace, "tap0")?;
    namespace.ip("link add br0 type bridge")?;
    for name in ["br0", "tap0"] {
        let setting = format!("net.ipv6.conf.{name}.disable_ipv6=1");
        namespace.run(&["sysctl", "-qw", &setting], COMMAND)?;
    }
    for port in ["tap0", Veth::NAME] {
        namespace.ip(&format!("link set {port} master br0"))?;
    }
    namespace.ip("link set br0 up")?;
    Ok(nic)
}
