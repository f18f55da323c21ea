//! Tunnels inside tunnels, loops, and how an interface ends.
//!
//! ```text
//!   a: tun1 10.1.0.1 ── in ── tun0 fd00::1 ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 ── tun0 fd00::2 ── in ── tun1 10.1.0.2 :b
//! ```

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    End, GUEST_MTU, Iperf, Keys, Namespace, Outer, Pair, Part, Program, Scenario, Tunnel, Veth,
    bounded, eventually, ping,
};

const COMMAND: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(15);

fn parts() -> Vec<Part> {
    let mut parts = Program::under_test().parts();
    parts.push(Part::Iperf);
    parts
}

fn us() -> [Program; 2] {
    [Program::under_test(); 2]
}

/// A tunnel through a tunnel carries traffic; then each is told to go through the other, and nothing melts.
#[test]
fn tunnels_in_tunnels_and_in_circles() -> Result<()> {
    let name = "tunnels_in_tunnels_and_in_circles";
    Scenario::run(name, &parts(), |scenario| {
        let Pair {
            a,
            b,
            preshared: _,
            veth: _veth,
        } = {
            let pair = Pair::lay(scenario, us())?;
            pair.meet(Outer::V4)?;
            pair
        };
        a.wait_ping("fd00::2", FIRST)?;
        let inner = |end: &End, label: &str| -> Result<(Tunnel, Keys)> {
            let tunnel = Tunnel::start(scenario, &end.namespace, Program::under_test())?;
            let keys = Keys::generate(scenario, label)?;
            tunnel.set(&format!(
                "listen-port 5 private-key {}",
                keys.private_file.display()
            ))?;
            Ok((tunnel, keys))
        };
        let (inner_a, keys_a) = inner(&a, "inner-a")?;
        let (inner_b, keys_b) = inner(&b, "inner-b")?;
        for (end, tunnel, keys, here, there) in
            [(&a, &inner_a, &keys_b, 1, 2), (&b, &inner_b, &keys_a, 2, 1)]
        {
            tunnel.set(&format!(
                "peer {} allowed-ips 10.1.0.{there}/32,fd01::{there}/128 endpoint [fd00::{there}]:5",
                keys.public
            ))?;
            let addresses = [format!("10.1.0.{here}/24"), format!("fd01::{here}/64")];
            tunnel.up(&end.namespace, &addresses, 1340)?;
        }
        a.wait_ping("10.1.0.2", FIRST)?;
        for (from, to) in [(&a, "10.1.0.2"), (&b, "10.1.0.1"), (&a, "fd01::2")] {
            ping(&from.namespace, to, 20, "-i 0.002")?;
            ping(&from.namespace, to, 3, "-s 1272")?;
        }
        let server = Iperf::serve(scenario, &b.namespace, 5202)?;
        for options in ["-n 16M", "-n 16M -R", "-n 16M -P 5"] {
            let flow = server.send(&a.namespace, "10.1.0.2", options)?;
            scenario.say(format!(
                "  {options}: {:.0} Mbit/s",
                flow.bits_per_second / 1e6
            ));
            ensure!(flow.received > 2 << 20, "{flow:?}");
        }

        scenario.say("onion: a second peer of the outer tunnel, whose endpoint is inside it");
        let onion = Tunnel::start(scenario, &b.namespace, Program::under_test())?;
        let keys = Keys::generate(scenario, "onion")?;
        onion.set(&format!(
            "private-key {} listen-port 6 peer {} allowed-ips 10.2.0.1/32",
            keys.private_file.display(),
            a.public()
        ))?;
        onion.up(&b.namespace, &["10.2.0.2/24".to_owned()], 1300)?;
        a.tunnel.set(&format!(
            "peer {} allowed-ips 10.2.0.2/32 endpoint 10.0.0.2:6",
            keys.public
        ))?;
        a.tunnel
            .up(&a.namespace, &["10.2.0.1/24".to_owned()], GUEST_MTU)?;
        a.wait_ping("10.2.0.2", FIRST)?;
        drop(onion);
        // Its endpoint is now behind itself.
        a.tunnel
            .set(&format!("peer {} endpoint 10.2.0.2:6", keys.public))?;
        a.no_ping("10.2.0.2")?;
        a.tunnel.set(&format!("peer {} remove", keys.public))?;
        ping(&a.namespace, "10.1.0.2", 3, "")?;

        scenario.say("a circle: the outer tunnel's endpoint is behind the inner tunnel");
        a.tunnel
            .set(&format!("peer {} endpoint 10.1.0.2:7", b.public()))?;
        drop(b);
        drop(inner_b);
        let sent = || -> Result<u64> {
            Ok(inner_a.transfer(&keys_b.public)?.1 + a.tunnel.transfer(a_peer(&a)?.trim())?.1)
        };
        let before = sent()?;
        let mut command = a.namespace.program("ping");
        command.args(["-q", "-f", "-c", "10", "-W", "1", "10.1.0.2"]);
        let (status, _, _) = bounded(&mut command, COMMAND)?;
        ensure!(!status.success());
        thread::sleep(Duration::from_secs(1));
        let middle = sent()?;
        thread::sleep(Duration::from_secs(1));
        let after = sent()?;
        scenario.say(format!(
            "  {} bytes for ten pings, {} in the second after",
            middle - before,
            after - middle
        ));
        // Each packet goes round until its hop limit is used up; it grows on its way, and is cut to pieces.
        ensure!(
            middle - before < 64 << 20,
            "{} bytes in a circle",
            middle - before
        );
        ensure!(
            after - middle < 10_000,
            "the circle goes on: {} bytes",
            after - middle
        );
        Ok(())
    })
}

fn a_peer(a: &End) -> Result<String> {
    a.tunnel.show(&["peers"])
}

/// Made in one namespace and moved to another: its UDP sockets stay where it was made, as containers are given an
/// interface and nothing else of the network.
#[test]
fn an_interface_is_given_to_a_container() -> Result<()> {
    let name = "an_interface_is_given_to_a_container";
    Scenario::run(name, &parts(), |scenario| {
        let host = Namespace::make("host")?;
        let far = End::make(scenario, "far", Program::under_test(), 51822)?;
        let veth = Veth::join(&host, &far.namespace)?;
        veth.address(&host, "192.0.2.1/24")?;
        veth.address(&far.namespace, "192.0.2.2/24")?;
        let mut near = Tunnel::start(scenario, &host, Program::under_test())?;
        let keys = Keys::generate(scenario, "near")?;
        near.set(&format!(
            "private-key {} listen-port 51821 peer {} allowed-ips 10.0.0.2/32 endpoint 192.0.2.2:51822",
            keys.private_file.display(),
            far.public()
        ))?;
        far.tunnel
            .set(&format!("peer {} allowed-ips 10.0.0.1/32", keys.public))?;
        far.tunnel
            .up(&far.namespace, &["10.0.0.2/24".to_owned()], GUEST_MTU)?;

        let container = Namespace::make("box")?;
        host.ip(&format!(
            "link set {} netns {}",
            near.interface(),
            container.name()
        ))?;
        near.up(&container, &["10.0.0.1/24".to_owned()], GUEST_MTU)?;
        let words = ["ping", "-q", "-c", "1", "-W", "1", "10.0.0.2"];
        eventually("an answer inside the container", FIRST, || {
            Ok(container.run(&words, COMMAND).ok().map(drop))
        })?;
        ping(&container, "10.0.0.2", 20, "")?;
        ping(&far.namespace, "10.0.0.1", 20, "")?;
        let routes = container.ip("route show default")?;
        ensure!(routes.is_empty(), "{routes}");

        scenario.say("the container goes, and the program with it");
        drop(container);
        near.must_end(FIRST)
    })
}

/// The interface is deleted: the program ends, and leaves neither process nor socket; its namespace can go.
#[test]
fn namespaces_are_left_clean() -> Result<()> {
    Scenario::run("namespaces_are_left_clean", &parts(), |scenario| {
        let Pair { mut a, mut b, .. } = {
            let pair = Pair::lay(scenario, us())?;
            pair.meet(Outer::V6)?;
            pair
        };
        a.wait_ping("10.0.0.2", FIRST)?;
        // While packets flow.
        let mut pinging = a.namespace.program("ping");
        pinging.args(["-q", "-f", "-w", "2", "10.0.0.2"]);
        let pinging = thread::spawn(move || bounded(&mut pinging, COMMAND));
        thread::sleep(Duration::from_millis(200));
        a.namespace
            .ip(&format!("link del {}", a.tunnel.interface()))?;
        a.tunnel.must_end(FIRST)?;
        // Taken down is not ended: up again, it carries on.
        let interface = b.tunnel.interface().to_owned();
        b.namespace.ip(&format!("link set {interface} down"))?;
        b.namespace.ip(&format!("link set {interface} up"))?;
        b.tunnel.process().must_run()?;
        b.tunnel.process().signal(rustix::process::Signal::TERM)?;
        b.tunnel.must_end(FIRST)?;
        let _ = pinging.join();
        for end in [&a, &b] {
            let name = end.namespace.name();
            let pids = end.namespace.run(&["ip", "netns", "pids", name], COMMAND)?;
            // That is the one that asks.
            ensure!(pids.lines().count() <= 1, "processes are left: {pids}");
            let sockets = end.namespace.run(&["ss", "-Hanup"], COMMAND)?;
            ensure!(sockets.trim().is_empty(), "sockets are left: {sockets}");
            let links = end.namespace.ip("-o link show type tun")?;
            ensure!(links.trim().is_empty(), "interfaces are left: {links}");
        }
        Ok(())
    })
}
