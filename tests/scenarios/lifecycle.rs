//! Starting, stopping, changing, and being shouted at.
//!
//! ```text
//!   vm-a ── vhost-user ── hv-a ─────── wan0 (veth) ─────── hv-b ── vhost-user ── vm-b
//!   10.1.1.10        10.1.1.1   192.0.2.1     192.0.2.2   10.1.2.1        10.1.2.10
//! ```
//!
//! Where no packet is needed, only `hv-a` runs.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Far, Guest, Keys, Outer, PING, PORT, Part, PeerSpec, PortSpec, Scenario, SocketMode,
    TwoHosts, Uplink, culvert_binary, run,
};

const PARTS: [Part; 1] = [Part::Root];
const PARTS_WITH_GUEST: [Part; 2] = [Part::Root, Part::Qemu];
const PARTS_WITH_FAR: [Part; 4] = [Part::Root, Part::Qemu, Part::Tun, Part::WireguardGo];
const FIRST_PING: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(5);

#[test]
fn sigterm_leaves_nothing() -> Result<()> {
    Scenario::run("sigterm_leaves_nothing", &PARTS, |scenario| {
        for uplink in [Uplink::Udp, Uplink::Dpdk] {
            let mut hosts = TwoHosts::lay(scenario, uplink, 1, SocketMode::Server)?;
            hosts.a.start(scenario)?;
            let socket = hosts.a.spec.ports[0].socket.clone();
            ensure!(socket.exists(), "no socket at {}", socket.display());
            let culvert = hosts.a.culvert_mut()?;
            let took = culvert.stop(END)?;
            ensure!(took < Duration::from_secs(1), "it took {took:?} to end");
            ensure!(!socket.exists(), "{} is still there", socket.display());
            let left = sockets_in(culvert.run_dir())?;
            ensure!(left.is_empty(), "left in the run directory: {left:?}");
        }
        Ok(())
    })
}

#[test]
fn a_second_instance_is_refused() -> Result<()> {
    Scenario::run("a_second_instance_is_refused", &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        hosts.a.start(scenario)?;
        let yaml = hosts.a.spec.yaml();
        let first = hosts.a.culvert()?;
        let namespace = &hosts.a.namespace;

        let holder = format!("culvert (pid {})", first.show()?["pid"]);

        // The same run directory.
        let refused = first.second(namespace, first.run_dir(), &yaml)?;
        let said = format!(
            "{holder} uses the run directory {} already",
            first.run_dir().display()
        );
        ensure!(refused.contains(&said), "no '{said}' in: {refused}");
        first.show().context("the first instance must not suffer")?;

        // Another run directory, the same UDP port.
        let other = scenario.path("other.run");
        let refused = first.second(namespace, &other, &yaml)?;
        let said = format!("tunnel wg0: uplink wan0: UDP port {PORT} on 192.0.2.1 is taken");
        ensure!(refused.contains(&said), "no '{said}' in: {refused}");

        // Another port, the same vhost-user socket.
        let elsewhere = yaml.replace(&format!("listen_port: {PORT}"), "listen_port: 51999");
        let refused = first.second(namespace, &other, &elsewhere)?;
        let socket = &hosts.a.spec.ports[0].socket;
        let said = format!("{holder} listens on {}", socket.display());
        ensure!(refused.contains(&said), "no '{said}' in: {refused}");
        first.show().context("the first instance must not suffer")?;
        UnixStream::connect(socket).context("the first instance's socket must not suffer")?;
        Ok(())
    })
}

/// Keys pass between `wg` and `culvert` both ways.
#[test]
fn keys_are_those_of_wg() -> Result<()> {
    Scenario::run("keys_are_those_of_wg", &[Part::WireguardGo], |_| {
        let script = r#"
            set -e
            key=$("$0" genkey)
            [ "$(echo "$key" | wg pubkey)" = "$(echo "$key" | "$0" pubkey)" ]
            key=$(wg genkey)
            [ "$(echo "$key" | wg pubkey)" = "$(echo "$key" | "$0" pubkey)" ]
            [ "$("$0" genpsk | base64 -d | wc -c)" = 32 ]
            ! echo nonsense | "$0" pubkey 2>/dev/null
        "#;
        run(
            Command::new("bash")
                .args(["-c", script])
                .arg(culvert_binary()?),
            COMMAND,
        )?;
        Ok(())
    })
}

#[test]
fn stale_sockets_are_taken_over() -> Result<()> {
    Scenario::run("stale_sockets_are_taken_over", &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        hosts.a.start(scenario)?;
        hosts.a.crash_and_restart(scenario)?;
        hosts.a.culvert_mut()?.wait_ready()?;
        UnixStream::connect(&hosts.a.spec.ports[0].socket)
            .context("nobody listens on the socket")?;
        Ok(())
    })
}

#[test]
fn a_bad_config_starts_nothing() -> Result<()> {
    Scenario::run("a_bad_config_starts_nothing", &PARTS, |scenario| {
        let hosts = TwoHosts::lay(scenario, Uplink::Udp, 1, SocketMode::Server)?;
        let good = hosts.a.spec.yaml();
        let wrong_key = good.replace("    listen_port:", "    listen_prot:");
        let wrong_value = good.replace("mtu: 1500", "mtu: many");
        let line = |text: &str, word: &str| {
            text.lines()
                .position(|line| line.contains(word))
                .map(|index| index + 1)
        };
        for (yaml, word) in [(&wrong_key, "listen_prot"), (&wrong_value, "many")] {
            let mut culvert = Culvert::launch(scenario, "bad", Some(&hosts.a.namespace), yaml)?;
            let status = culvert.process().wait(END)?;
            let log = culvert.process().log();
            ensure!(status.code() == Some(1), "{status}: {log}");
            let place = format!(
                ":{}:",
                line(yaml, word).context("the mistake is in the text")?
            );
            ensure!(log.contains(&place), "no '{place}' in {log}");
            ensure!(!hosts.a.spec.ports[0].socket.exists(), "a port was opened");
        }
        ensure!(
            fs::read_to_string(scenario.path("bad.log"))?.contains("listen_port"),
            "the nearest key is not named"
        );

        // A key file that is not there: what was tried, and what mends it.
        let no_key = good.replace(".key", ".nokey");
        let mut culvert = Culvert::launch(scenario, "nokey", Some(&hosts.a.namespace), &no_key)?;
        let status = culvert.process().wait(END)?;
        let log = culvert.process().log();
        ensure!(
            !status.success() && log.contains(".nokey") && log.contains("genkey"),
            "{status}: {log}"
        );
        Ok(())
    })
}

/// Twenty changes of peers and ports under a running ping: none is lost. Then a bad one: nothing changes.
#[test]
fn apply_keeps_sessions() -> Result<()> {
    Scenario::run("apply_keeps_sessions", &PARTS_WITH_GUEST, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, Uplink::Dpdk, 1, SocketMode::Server)?;
        hosts.start(scenario)?;
        let (mut vm_a, _vm_b) = hosts.boot_guests(scenario, "")?;
        vm_a.wait_ping("10.1.2.10", FIRST_PING)?;
        vm_a.wait_ping("fd00:2::10", FIRST_PING)?;
        let pings = 2000;
        vm_a.sh(
            &format!("({PING} -q -i 0.005 -c {pings} 10.1.2.10 >/tmp/flood 2>&1; touch /tmp/flooded) >/dev/null 2>&1 &"),
            COMMAND,
        )?;
        let before = hosts.a.spec.clone();
        for round in 0..10 {
            let keys = Keys::generate(scenario, &format!("extra-{round}"))?;
            hosts.a.spec.peers.push(PeerSpec {
                name: format!("extra-{round}"),
                public_key: keys.public,
                endpoint: Some("192.0.2.77:51820".to_owned()),
                allowed_ips: vec![format!("10.77.{round}.0/24")],
                preshared_key_file: None,
            });
            hosts.a.spec.ports.push(PortSpec {
                name: format!("extra-{round}"),
                socket: scenario.path(&format!("extra-{round}.sock")),
                mode: SocketMode::Server,
                queues: 1,
                mac: format!("52:54:00:00:77:{round:02}"),
                addresses: vec![format!("10.1.1.{}", 100 + round)],
            });
            hosts.a.apply()?;
            ensure!(
                scenario.path(&format!("extra-{round}.sock")).exists(),
                "the new port has no socket"
            );
            hosts.a.spec = before.clone();
            hosts.a.apply()?;
            ensure!(
                !scenario.path(&format!("extra-{round}.sock")).exists(),
                "the old port's socket is still there"
            );
        }
        let output = vm_a.sh(
            "while [ ! -f /tmp/flooded ]; do sleep 0.1; done; cat /tmp/flood",
            COMMAND,
        )?;
        ensure!(
            output.contains(&format!("{pings} received")),
            "lost during apply: {output}"
        );

        scenario.say("a bad file");
        let culvert = hosts.a.culvert()?;
        let shown = peer_names(&culvert.show()?);
        let bad = hosts.a.spec.yaml().replace(
            "allowed_ips: [\"10.1.2.0/24\"",
            "allowed_ips: [\"10.1.2.0/240\"",
        );
        ensure!(
            bad != hosts.a.spec.yaml(),
            "the mistake must be in the text"
        );
        let (status, out, err) = culvert.try_apply(&bad)?;
        ensure!(!status.success(), "a bad file was applied: {out}{err}");
        ensure!(
            format!("{out}{err}").contains("10.1.2.0/240"),
            "the mistake is not named: {out}{err}"
        );
        ensure!(peer_names(&culvert.show()?) == shown, "the peers changed");
        vm_a.ping("10.1.2.10", 20)?;
        Ok(())
    })
}

#[test]
fn garbage_on_udp_sockets() -> Result<()> {
    garbage("garbage_on_udp_sockets", Uplink::Udp)
}

#[test]
fn garbage_on_a_dpdk_device() -> Result<()> {
    garbage("garbage_on_a_dpdk_device", Uplink::Dpdk)
}

/// Datagrams that are no WireGuard, or nearly: counted by name, and the ping beside them loses nothing.
fn garbage(name: &str, uplink: Uplink) -> Result<()> {
    Scenario::run(name, &PARTS_WITH_FAR, |scenario| {
        let mut far = Far::lay(scenario, uplink, 1, Outer::V4)?;
        far.a.start(scenario)?;
        let mut vm = Guest::boot(scenario, &far.a.guest("vm-a")?)?;
        vm.wait_ping("10.1.2.1", FIRST_PING)?;
        vm.sh(
            &format!("({PING} -q -i 0.05 -c 100 10.1.2.1 >/tmp/ping 2>&1; touch /tmp/pinged) >/dev/null 2>&1 &"),
            COMMAND,
        )?;
        let before = far.a.culvert()?.drops()?;
        let rounds = 100;
        far.namespace.enter(|| {
            let socket = UdpSocket::bind("192.0.2.2:0")?;
            let target = ("192.0.2.1", PORT);
            for round in 0..rounds {
                for datagram in bad_datagrams(round) {
                    socket.send_to(&datagram, target)?;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        })?;
        let output = vm.sh(
            "while [ ! -f /tmp/pinged ]; do sleep 0.1; done; cat /tmp/ping",
            COMMAND,
        )?;
        ensure!(
            output.contains("100 received"),
            "lost beside garbage: {output}"
        );
        let after = far.a.culvert()?.drops()?;
        let grown =
            |reason: &str| after.get(reason).unwrap_or(&0) - before.get(reason).unwrap_or(&0);
        // Seven of the datagrams have no shape of WireGuard's, one has a data packet's shape and no session.
        let rounds = u64::from(rounds);
        ensure!(grown("datagram-malformed") >= 7 * rounds, "{after:?}");
        ensure!(grown("receiver-unknown") >= rounds, "{after:?}");
        far.a.culvert_mut()?.process().must_run()
    })
}

/// Seven of impossible shape, a data packet to nobody, handshake messages that verify nowhere.
fn bad_datagrams(round: u8) -> Vec<Vec<u8>> {
    let filled = |kind: u8, length: usize| {
        let mut bytes = vec![round; length];
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    };
    vec![
        vec![],
        vec![round],
        vec![4, 0, 0],
        filled(0, 148),
        filled(9, 1400),
        filled(1, 147),
        filled(4, 31),
        filled(4, 96),
        filled(1, 148),
        filled(2, 92),
        filled(3, 64),
    ]
}

fn sockets_in(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn peer_names(show: &serde_json::Value) -> Vec<String> {
    culvert_tests::names(show, "peers")
}
