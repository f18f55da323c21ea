//! `culvert tun` with an interface and a socket that somebody else opened, as wireguard-go takes them.
//!
//! ```text
//!   a: tun of ours, handed over, 10.0.0.1 ── wan0 192.0.2.1 ═══ wan0 192.0.2.2 ── 10.0.0.2, the program's own :b
//! ```

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    End, Iperf, Keys, Namespace, Part, Program, Scenario, TunFlags, Tunnel, Veth, bounded,
    culvert_binary, hand_over, make_tun, ping,
};

const COMMAND: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(15);
const PLAIN: TunFlags = TunFlags {
    tap: false,
    vnet: false,
};

#[test]
fn culvert_tun_takes_descriptors() -> Result<()> {
    let mut parts = Program::under_test().parts();
    parts.push(Part::Iperf);
    Scenario::run("culvert_tun_takes_descriptors", &parts, |scenario| {
        for vnet in [true, false] {
            scenario.say(format!("an interface, vnet headers: {vnet}"));
            let near = Namespace::make("a")?;
            let mut kept: Option<OwnedFd> = None;
            let tunnel = Tunnel::start_with(
                scenario,
                &near,
                Program::under_test(),
                |interface, command| {
                    let tun = make_tun(&near, interface, TunFlags { vnet, ..PLAIN })?;
                    command.env("WG_TUN_FD", tun.as_raw_fd().to_string());
                    kept = Some(tun);
                    Ok(())
                },
            )?;
            traffic(scenario, near, tunnel)?;
        }
        scenario.say("a socket");
        let near = Namespace::make("a")?;
        let mut kept = None;
        let tunnel = Tunnel::start_with(
            scenario,
            &near,
            Program::under_test(),
            |interface, command| {
                let path = format!("/var/run/wireguard/{interface}.sock");
                fs::create_dir_all("/var/run/wireguard")?;
                let socket = UnixListener::bind(path)?;
                hand_over(&socket)?;
                command.env("WG_UAPI_FD", socket.as_raw_fd().to_string());
                kept = Some(socket);
                Ok(())
            },
        )?;
        traffic(scenario, near, tunnel)
    })
}

/// Pings and TCP both ways between this program and one with descriptors of its own.
fn traffic(scenario: &Scenario, namespace: Namespace, tunnel: Tunnel) -> Result<()> {
    let keys = Keys::generate(scenario, "handed")?;
    let private = keys.private_file.display().to_string();
    tunnel.set(&format!("private-key {private} listen-port 51821"))?;
    let near = End {
        tunnel,
        keys,
        port: 51821,
        namespace,
    };
    let far = End::make(scenario, "b", Program::under_test(), 51822)?;
    let veth = Veth::join(&near.namespace, &far.namespace)?;
    for (end, other, side) in [(&near, &far, 1), (&far, &near, 2)] {
        veth.address(&end.namespace, &format!("192.0.2.{side}/24"))?;
        let (to, port) = (3 - side, other.port);
        end.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.{to}/32 endpoint 192.0.2.{to}:{port}",
            other.public()
        ))?;
        let address = format!("10.0.0.{side}/24");
        end.tunnel.up(&end.namespace, &[address], 1420)?;
    }
    near.wait_ping("10.0.0.2", FIRST)?;
    ping(&far.namespace, "10.0.0.1", 20, "")?;
    let server = Iperf::serve(scenario, &far.namespace, 5201)?;
    for options in ["-n 8M", "-n 8M -R"] {
        let flow = server.send(&near.namespace, "10.0.0.2", options)?;
        ensure!(flow.received >= 4 << 20, "{flow:?}");
    }
    Ok(())
}

#[test]
fn culvert_tun_refuses_descriptors_that_are_of_no_use() -> Result<()> {
    let name = "culvert_tun_refuses_descriptors_that_are_of_no_use";
    Scenario::run(name, &[Part::Root, Part::Tun], |scenario| {
        let namespace = Namespace::make("unfit")?;
        let refusal = |value: &str| -> Result<String> {
            let mut command = namespace.program(culvert_binary()?);
            command
                .args(["tun", "--foreground", "cvunfit"])
                .env("WG_TUN_FD", value);
            let (status, out, err) = bounded(&mut command, COMMAND)?;
            ensure!(!status.success() && out.is_empty(), "{status} {out} {err}");
            ensure!(err.lines().count() == 1, "{err}");
            Ok(err)
        };
        let tap = TunFlags { tap: true, ..PLAIN };
        let tap = make_tun(&namespace, "cvunfit", tap)?;
        let said = refusal(&tap.as_raw_fd().to_string())?;
        ensure!(said.contains("a tap"), "{said}");
        drop(tap);
        let file = fs::File::open("/dev/null")?;
        hand_over(&file)?;
        for (value, word) in [
            (file.as_raw_fd().to_string(), "none of a tun interface"),
            ("many".to_owned(), "no number"),
            ("987654".to_owned(), "Bad file descriptor"),
        ] {
            let said = refusal(&value)?;
            ensure!(said.contains(word) && said.contains("WG_TUN_FD"), "{said}");
        }
        scenario.say("none of them left anything behind");
        let links = namespace.ip("-o link")?;
        ensure!(!links.contains("cvunfit"), "{links}");
        Ok(())
    })
}
