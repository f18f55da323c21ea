//! Culvert on one side, every other WireGuard that we can run on the other, as initiator and as responder.
//!
//! ```text
//!   a: Culvert, tun 10.0.0.1 ── wan0 192.0.2.1 ═══ wan0 192.0.2.2 ── tun 10.0.0.2, another program :b
//! ```
//!
//! The kernel's WireGuard, in a guest, is on the far end of several Culverts at once:
//!
//! ```text
//!   near0: Culvert, tun 10.8.0.1 ── wan0 192.0.2.10 ═╗
//!   near1: Culvert, tun 10.8.1.1 ── wan0 192.0.2.11 ═╬═ bridge (switch) ── tap0 ── 192.0.2.2 eth0 ── wg0 10.8.0.2, wg1 10.8.1.2 … :vm-far
//!   …                                               ═╝
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use culvert_tests::{
    Addressing, End, GUEST_MTU, Guest, GuestSpec, Image, Iperf, Namespace, Nic, Outer, Pair, Part,
    Program, Scenario, Veth, eventually, ping, run,
};

const COMMAND: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(15);
/// Past two rekeys: they come 120 s apart.
const RUN: Duration = Duration::from_secs(262);
const PINGS_PER_SECOND: u64 = 10;

#[test]
fn interop_wireguard_go() -> Result<()> {
    interop("interop_wireguard_go", Program::WireguardGo)
}

#[test]
#[ignore = "its peer takes minutes to build; scripts/test --long runs it"]
fn interop_boringtun() -> Result<()> {
    interop("interop_boringtun", Program::Boringtun)
}

/// Both roles over both IP versions outside, with a preshared key: pings, TCP both ways, and the counters of both.
fn interop(name: &str, other: Program) -> Result<()> {
    let mut parts = other.parts();
    parts.push(Part::Iperf);
    Scenario::run(name, &parts, |scenario| {
        for (outer, we_initiate) in [
            (Outer::V4, true),
            (Outer::V4, false),
            (Outer::V6, true),
            (Outer::V6, false),
        ] {
            let role = if we_initiate {
                "initiator"
            } else {
                "responder"
            };
            scenario.say(format!("{outer:?} outside, as {role}"));
            let label = format!("{outer:?}{}", &role[..1]).to_lowercase();
            let pair = Pair::lay_as(scenario, &label, [Program::under_test(), other])?;
            greet(&pair, outer, we_initiate)?;
            ping(&pair.a.namespace, "10.0.0.2", 20, "")?;
            ping(&pair.b.namespace, "fd00::1", 20, "")?;
            ping(&pair.b.namespace, "10.0.0.1", 5, "-M do -s 1392")?;
            ping(&pair.a.namespace, "fd00::2", 5, "-M do -s 1372")?;
            let server = Iperf::serve(scenario, &pair.b.namespace, 5201)?;
            for (address, options) in [("10.0.0.2", "-n 8M"), ("fd00::2", "-n 8M -R")] {
                let flow = server.send(&pair.a.namespace, address, options)?;
                ensure!(flow.received >= 4 << 20, "{flow:?}");
            }
            let (received, sent) = pair.a.tunnel.transfer(pair.b.public())?;
            ensure!(received > 4 << 20 && sent > 4 << 20, "{received} {sent}");
        }
        Ok(())
    })
}

/// The first handshake, begun by the side that is to begin it: only that one knows where the other is.
fn greet(pair: &Pair, outer: Outer, we_initiate: bool) -> Result<()> {
    if we_initiate {
        pair.tell_a(outer)?;
        pair.a.wait_ping("10.0.0.2", FIRST)?;
    } else {
        pair.tell_b(outer)?;
        pair.b.wait_ping("10.0.0.1", FIRST)?;
    }
    // An initiator has received one message less than it has sent: 92 bytes for its 148.
    let (received, sent) = pair.a.tunnel.transfer(pair.b.public())?;
    ensure!(
        (received < sent) == we_initiate,
        "the other side began: {received} received, {sent} sent"
    );
    Ok(())
}

/// A pair whose pings and handshakes are watched.
struct Watched {
    name: String,
    near: End,
    far_key: String,
    far_address: String,
    /// Keeps the other end running.
    _far: Option<(End, Veth)>,
}

impl Watched {
    /// Pings and counts handshakes until the time is over: none lost, three handshakes or more.
    fn watch(&self) -> Result<()> {
        let count = RUN.as_secs() * PINGS_PER_SECOND;
        let mut pings = self.near.namespace.program("ping");
        pings.args(["-q", "-W", "3", "-i", "0.1", "-c", &count.to_string()]);
        pings.arg(&self.far_address);
        let pings = thread::spawn(move || run(&mut pings, RUN * 2));
        let start = Instant::now();
        let (received, sent) = self.near.tunnel.transfer(&self.far_key)?;
        let mut handshakes = vec![self.near.tunnel.latest_handshake(&self.far_key)?];
        while start.elapsed() < RUN {
            thread::sleep(Duration::from_secs(1));
            let last = self.near.tunnel.latest_handshake(&self.far_key)?;
            if handshakes.last() != Some(&last) {
                handshakes.push(last);
            }
        }
        let report = pings.join().map_err(|_| anyhow!("panicked"))??;
        ensure!(
            report.contains(&format!(" {count} received")),
            "pings were lost:\n{report}"
        );
        ensure!(handshakes.len() >= 3, "handshakes at {handshakes:?} only");
        // Rekeyed when it was due, not again and again.
        for pair in handshakes.windows(2) {
            ensure!(
                (115..=170).contains(&(pair[1] - pair[0])),
                "handshakes at {handshakes:?}"
            );
        }
        let (later_received, later_sent) = self.near.tunnel.transfer(&self.far_key)?;
        // boringtun does not pad.
        let (least, most) = (count * 116, count * 128 * 21 / 20);
        for bytes in [later_received - received, later_sent - sent] {
            ensure!(
                (least..=most).contains(&bytes),
                "{bytes} bytes for {count} pings"
            );
        }
        Ok(())
    }
}

/// Everything past two rekeys, side by side: each program, both roles, both IP versions, with and without a preshared
/// key.
#[test]
#[ignore = "takes five minutes; scripts/test --long runs it"]
fn every_peer_past_two_rekeys() -> Result<()> {
    let mut parts = Program::Boringtun.parts();
    parts.push(Part::Qemu);
    Scenario::run("every_peer_past_two_rekeys", &parts, |scenario| {
        let mut watched = Vec::new();
        let mut number = 0;
        for other in [
            Program::WireguardGo,
            Program::Boringtun,
            Program::under_test(),
        ] {
            for outer in [Outer::V4, Outer::V6] {
                for we_initiate in [true, false] {
                    let role = if we_initiate {
                        "initiator"
                    } else {
                        "responder"
                    };
                    let label = format!("p{number}");
                    let mut pair = Pair::lay_as(scenario, &label, [Program::under_test(), other])?;
                    let with_psk = (number + number / 4) % 2 == 0;
                    if !with_psk {
                        pair.forget_preshared()?;
                    }
                    greet(&pair, outer, we_initiate)?;
                    let key = if with_psk { "with" } else { "without" };
                    let Pair { a, b, veth, .. } = pair;
                    watched.push(Watched {
                        name: format!("{} {outer:?} {role} {key} a preshared key", other.name()),
                        near: a,
                        far_key: b.keys.public.clone(),
                        far_address: "10.0.0.2".to_owned(),
                        _far: Some((b, veth)),
                    });
                    number += 1;
                }
            }
        }
        let switch = Namespace::make("switch")?;
        let (_guest, with_kernel) = kernel_pairs(scenario, &switch)?;
        watched.extend(with_kernel);
        scenario.say(format!("{} pairs", watched.len()));

        let outcomes: Vec<(String, Result<()>)> = thread::scope(|scope| {
            let running: Vec<_> = watched
                .iter()
                .map(|pair| (pair.name.clone(), scope.spawn(|| pair.watch())))
                .collect();
            let ended = running.into_iter().map(|(name, thread)| {
                let outcome = thread.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
                (name, outcome)
            });
            ended.collect()
        });
        let mut failed = 0;
        for (name, outcome) in &outcomes {
            match outcome {
                Ok(()) => scenario.say(format!("  {name}: passed")),
                Err(error) => {
                    failed += 1;
                    scenario.say(format!("  {name}: {error:#}"));
                }
            }
        }
        ensure!(failed == 0, "{failed} of {} pairs failed", outcomes.len());
        Ok(())
    })
}

/// Four Culverts whose peers are four interfaces of the kernel's in one guest.
fn kernel_pairs(scenario: &Scenario, switch: &Namespace) -> Result<(Guest, Vec<Watched>)> {
    switch.ip("link add br0 type bridge")?;
    for setting in ["all", "default"] {
        switch.sysctl(&format!("net.ipv6.conf.{setting}.disable_ipv6=1"))?;
    }
    switch.ip("link set br0 up")?;
    let nic = Nic::tap(switch, "tap0")?;
    switch.ip("link set tap0 master br0")?;
    let mut guest = Guest::boot(
        scenario,
        &GuestSpec {
            name: "vm-far".to_owned(),
            mac: "52:54:00:00:99:02".to_owned(),
            nic,
            addressing: Addressing {
                ip4: Some("192.0.2.2/24".to_owned()),
                ip6: Some("2001:db8::2/64".to_owned()),
                ..Addressing::default()
            },
            device_options: String::new(),
            image: Image::Small,
            incoming: None,
        },
    )?;
    guest.sh(
        "for m in $(cat /etc/wireguard.modules); do insmod /lib/modules/$m.ko || exit 1; done",
        COMMAND,
    )?;
    let mut pairs = Vec::new();
    for (number, (outer, we_initiate)) in [
        (Outer::V4, true),
        (Outer::V4, false),
        (Outer::V6, true),
        (Outer::V6, false),
    ]
    .into_iter()
    .enumerate()
    {
        let label = format!("near{number}");
        let near = End::make(scenario, &label, Program::under_test(), 51821)?;
        switch.ip(&format!(
            "link add {label} type veth peer name wan0 netns {}",
            near.namespace.name()
        ))?;
        switch.ip(&format!("link set {label} master br0 up"))?;
        near.namespace.sysctl("net.ipv6.conf.wan0.accept_dad=0")?;
        near.namespace
            .ip(&format!("address add 192.0.2.1{number}/24 dev wan0"))?;
        near.namespace.ip(&format!(
            "address add 2001:db8::1{number}/64 dev wan0 nodad"
        ))?;
        near.namespace.ip("link set wan0 up")?;

        let far_port = 51830 + number;
        let wg = format!("wg{number}");
        guest.sh(
            &format!(
                "umask 077; wg genkey >/tmp/{wg}.key; wg genpsk >/tmp/{wg}.psk; ip link add {wg} type wireguard"
            ),
            COMMAND,
        )?;
        let far_key = guest.sh(&format!("wg pubkey </tmp/{wg}.key"), COMMAND)?;
        let far_key = far_key.trim().to_owned();
        let psk = guest.sh(&format!("cat /tmp/{wg}.psk"), COMMAND)?;
        let psk = culvert_tests::key_file(scenario, &format!("{wg}.psk"), psk.trim())?;
        let (near_endpoint, far_endpoint) = match outer {
            Outer::V4 => (
                format!("192.0.2.1{number}:51821"),
                format!("192.0.2.2:{far_port}"),
            ),
            Outer::V6 => (
                format!("[2001:db8::1{number}]:51821"),
                format!("[2001:db8::2]:{far_port}"),
            ),
        };
        let (near_knows, far_knows) = if we_initiate {
            (format!("endpoint {far_endpoint}"), String::new())
        } else {
            (String::new(), format!("endpoint {near_endpoint}"))
        };
        near.tunnel.set(&format!(
            "peer {far_key} preshared-key {} allowed-ips 10.8.{number}.2/32 {near_knows}",
            psk.display()
        ))?;
        near.tunnel
            .up(&near.namespace, &[format!("10.8.{number}.1/24")], GUEST_MTU)?;
        guest.sh(
            &format!(
                "wg set {wg} private-key /tmp/{wg}.key listen-port {far_port} peer {} preshared-key /tmp/{wg}.psk \
                 allowed-ips 10.8.{number}.1/32 {far_knows} && \
                 ip address add 10.8.{number}.2/24 dev {wg} && ip link set {wg} up",
                near.public()
            ),
            COMMAND,
        )?;
        let far_address = format!("10.8.{number}.2");
        if we_initiate {
            near.wait_ping(&far_address, FIRST)?;
        } else {
            eventually("the kernel's first ping", FIRST, || {
                Ok(guest.wait_ping(&format!("10.8.{number}.1"), FIRST).ok())
            })?;
        }
        let role = if we_initiate {
            "initiator"
        } else {
            "responder"
        };
        pairs.push(Watched {
            name: format!("the kernel {outer:?} {role} with a preshared key"),
            near,
            far_key,
            far_address,
            _far: None,
        });
    }
    Ok((guest, pairs))
}
