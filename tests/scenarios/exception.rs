//! The exception path: a machine with one NIC, which DPDK has, stays reachable by its kernel.
//!
//! ```text
//!   near: sshd, FRR ── tap-wan0 ┐
//!                               Culvert ── dtap0 (DPDK's net_tap) ── br0 ── wan0 ═══ veth ═══ wan0: far, Linux
//!         10.1.1.10 ── t0 ──────┘ 198.51.100.7, 2001:db8:1::7          198.51.100.2, 2001:db8:1::2
//! ```
//!
//! The kernel of `near` has the address twice in sight, at the TAP and behind the bridge: at the bridge it is told to be
//! deaf, as it is to a NIC that DPDK has.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Flow, Iperf, Keys, Namespace, Part, Process, Program, Scenario, Tunnel, Veth,
    eventually, ping,
};
use serde_json::Value;

const PARTS: [Part; 2] = [Part::Root, Part::Tun];
const PATIENCE: Duration = Duration::from_secs(60);
const US: [&str; 2] = ["198.51.100.7", "2001:db8:1::7"];
const THEM: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

struct Hosts {
    near: Namespace,
    far: Namespace,
    keys: Keys,
}

impl Hosts {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        wire.address(&far, "198.51.100.2/24")?;
        wire.address(&far, "2001:db8:1::2/64")?;
        let keys = Keys::generate(scenario, "near")?;
        Ok(Self { near, far, keys })
    }

    fn yaml(&self, exception: &str, peers: &str) -> String {
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
             uplinks: {{ wan: {{ driver: dpdk, device: \"net_tap0,iface=dtap0\", {exception} \
             addresses: [198.51.100.7/24, \"2001:db8:1::7/64\"] }} }}\n\
             tunnels: {{ wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, peers: {{ {peers} }} }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            self.keys.private_file.display(),
        )
    }

    /// Has what DPDK calls its NIC plugged into the cable.
    fn plug(&self) -> Result<()> {
        for words in [
            "link set dtap0 down",
            "link set dtap0 address 02:00:00:00:77:01 addrgenmode none",
            // LLDP's group is one that bridges keep to themselves otherwise.
            "link add br0 type bridge group_fwd_mask 0x4000",
            "link set br0 addrgenmode none",
            "link set dtap0 master br0",
            "link set wan0 master br0",
            "link set dtap0 up",
            "link set br0 up",
        ] {
            self.near.ip(words)?;
        }
        for deaf in ["arp_ignore=8", "rp_filter=1"] {
            self.near.sysctl(&format!("net.ipv4.conf.br0.{deaf}"))?;
        }
        self.near.sysctl("net.ipv6.conf.br0.disable_ipv6=1")
    }

    fn start(&self, scenario: &Scenario, exception: &str, peers: &str) -> Result<Culvert> {
        let yaml = self.yaml(exception, peers);
        let culvert = Culvert::start(scenario, "near", Some(&self.near), &yaml)?;
        self.plug()?;
        eventually("an answer of the uplink", PATIENCE, || {
            Ok(ping(&self.far, US[0], 1, "").ok())
        })?;
        Ok(culvert)
    }

    /// Whether the near kernel has this interface.
    fn has(&self, interface: &str) -> bool {
        self.near.ip(&format!("link show {interface}")).is_ok()
    }

    fn socket(namespace: &Namespace, at: &str) -> Result<UdpSocket> {
        let socket = namespace.enter(|| Ok(UdpSocket::bind(at)?))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(socket)
    }
}

fn drops(culvert: &Culvert, name: &str) -> Result<u64> {
    Ok(culvert.drops()?.get(name).copied().unwrap_or(0))
}

/// What passes, what has one answer, and what may not leave.
#[test]
fn the_kernel_shares_an_uplink_and_does_not_speak_as_culvert() -> Result<()> {
    Scenario::run("exception_shared", &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (near, far) = (&hosts.near, &hosts.far);
        let mut culvert = hosts.start(scenario, "exception: tap-wan0,", "")?;

        scenario.say("the interface is as the NIC and the uplink are");
        let link = near.ip("-d addr show tap-wan0")?;
        let nic = near.ip("link show dtap0")?;
        ensure!(!nic.is_empty() && link.contains("mtu 1500"), "{link}");
        for part in ["198.51.100.7/24", "2001:db8:1::7/64", ",UP"] {
            ensure!(link.contains(part), "{part}: {link}");
        }
        let mac = far.ip("neigh show 198.51.100.7")?;
        let mac = mac.split(' ').find(|word| word.len() == 17);
        let mac = mac.context("a neighbor's address")?;
        ensure!(link.contains(mac), "{mac}: {link}");

        scenario.say(
            "a ping has one answer, and the kernel hears the answers to its own, cut or whole",
        );
        for side in [0, 1] {
            let words = ["ping", "-n", "-c", "3", "-i", "0.2", US[side]];
            let said = far.run(&words, PATIENCE)?;
            ensure!(!said.contains("DUP"), "{said}");
            for size in ["56", "1400", "3000", "40000"] {
                ping(far, US[side], 2, &format!("-s {size}"))?;
                ping(near, THEM[side], 2, &format!("-s {size}"))?;
            }
        }

        scenario.say("datagrams of any length, both ways");
        for (us, them) in [
            ("198.51.100.7:4000", "198.51.100.2:4001"),
            ("[2001:db8:1::7]:4000", "[2001:db8:1::2]:4001"),
        ] {
            let (ours, theirs) = (Hosts::socket(near, us)?, Hosts::socket(far, them)?);
            let mut bytes = vec![0; 65_000];
            for len in [0, 1, 1_000, 1_472, 1_473, 9_000, 40_000, 65_000] {
                let sent: Vec<u8> = (0..len).map(|n: usize| n.to_le_bytes()[0] ^ 3).collect();
                theirs.send_to(&sent, us)?;
                let (count, from) = ours.recv_from(&mut bytes)?;
                ensure!(
                    bytes[..count] == sent && from == them.parse()?,
                    "{len} to us"
                );
                ours.send_to(&sent, them)?;
                let (count, from) = theirs.recv_from(&mut bytes)?;
                ensure!(
                    bytes[..count] == sent && from == us.parse()?,
                    "{len} from us"
                );
            }
        }

        scenario.say("the tunnel's port is not the kernel's, whole or in fragments");
        for (n, (us, them)) in [
            ("198.51.100.7:51820", "198.51.100.2:4001"),
            ("[2001:db8:1::7]:51820", "[2001:db8:1::2]:4001"),
            ("198.51.100.7:61500", "198.51.100.2:4001"),
        ]
        .into_iter()
        .enumerate()
        {
            let (ours, theirs) = (Hosts::socket(near, us)?, Hosts::socket(far, them)?);
            for len in [100, 4_000] {
                ours.send_to(&vec![1; len], them)?;
            }
            let mut bytes = [0; 5_000];
            ensure!(theirs.recv_from(&mut bytes).is_err(), "it came from {us}");
            let refused = drops(&culvert, "host-kernel-port")?;
            ensure!(refused == 2 * (n as u64 + 1), "{refused} refused");
            // And what comes to it is Culvert's: no answer of the kernel's says that nobody is there.
            theirs.send_to(&[9; 100], us)?;
            ensure!(ours.recv_from(&mut bytes).is_err(), "it went to {us}");
        }

        scenario.say("protocols of the link layer");
        for (name, group, kind) in [("lldp", "0e", "88cc"), ("isis", "14", "002e")] {
            let (near, far) = ((near, "tap-wan0"), (far, "wan0"));
            for (from, to) in [(near, far), (far, near)] {
                let own = match from.1 {
                    "tap-wan0" => mac.replace(':', ""),
                    _ => "020000000102".to_owned(),
                };
                link_layer(
                    scenario,
                    name,
                    (from, to),
                    &format!("0180c20000{group}{own}{kind}"),
                )?;
            }
        }
        let other = "0180c200000e02000000999988cc".to_owned();
        ensure!(
            link_layer(
                scenario,
                "other",
                ((near, "tap-wan0"), (far, "wan0")),
                &other
            )
            .is_err(),
            "a foreign source left"
        );
        ensure!(drops(&culvert, "host-kernel-source")? > 0);

        scenario.say("it follows its uplink");
        let more = "addresses: [198.51.101.7/24, 198.51.100.7/24, \"2001:db8:1::7/64\"], routes: [{to: 203.0.113.0/24, via: 198.51.100.2}]";
        let less = "addresses: [198.51.100.7/24, \"2001:db8:1::7/64\"]";
        let shared = hosts.yaml("exception: tap-wan0,", "");
        for (yaml, has) in [(shared.replace(less, more), true), (shared, false)] {
            culvert.apply(&yaml)?;
            let addresses = near.ip("addr show tap-wan0")?;
            let routes = near.ip("route show dev tap-wan0")?;
            ensure!(addresses.contains("198.51.101.7/24") == has, "{addresses}");
            ensure!(addresses.contains("198.51.100.7/24"), "{addresses}");
            let is_there = routes.contains("203.0.113.0/24 via 198.51.100.2 proto 67");
            ensure!(is_there == has, "{routes}");
        }
        ping(near, THEM[0], 2, "")?;

        scenario.say("it goes with its key, and with its process, however that ends");
        culvert.apply(&hosts.yaml("", ""))?;
        eventually("no interface", PATIENCE, || {
            Ok((!hosts.has("tap-wan0")).then_some(()))
        })?;
        culvert.apply(&hosts.yaml("exception: tap-two,", ""))?;
        ensure!(hosts.has("tap-two"));
        ping(near, THEM[0], 2, "")?;
        culvert.kill()?;
        eventually("no interface", PATIENCE, || {
            Ok((!hosts.has("tap-two")).then_some(()))
        })?;
        // The file is as it was at first.
        let mut culvert = culvert.restart(scenario, Some(near))?;
        culvert.wait_ready()?;
        ensure!(hosts.has("tap-wan0"));

        scenario.say("a name that is another's is refused in a sentence");
        near.ip("link add taken type veth peer name taken2")?;
        near.ip("tuntap add mode tap name kept")?;
        for (name, kind) in [("taken", "a veth interface"), ("kept", "made to stay")] {
            let yaml = hosts.yaml(&format!("exception: {name},"), "");
            let (status, _, said) = culvert.try_apply(&yaml)?;
            ensure!(!status.success() && said.contains(kind), "{said}");
            ensure!(
                said.contains("choose another name for `exception`"),
                "{said}"
            );
        }
        ensure!(hosts.has("tap-wan0"), "what was refused changed something");
        Ok(())
    })
}

/// Whatever is done to the interface: the tunnel goes on, and the kernel has its way again when it can.
#[test]
fn an_interface_that_is_meddled_with_is_made_good() -> Result<()> {
    let parts = [PARTS[0], PARTS[1], Part::WireguardGo];
    Scenario::run("exception_meddled", &parts, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (near, far) = (&hosts.near, &hosts.far);
        let peer = Tunnel::start(scenario, far, Program::WireguardGo)?;
        let keys = Keys::generate(scenario, "far")?;
        peer.set(&format!(
            "private-key {} listen-port 51822 peer {} allowed-ips 10.1.1.0/24",
            keys.private_file.display(),
            hosts.keys.public
        ))?;
        peer.up(far, &["10.9.1.10/16".to_owned()], 1420)?;
        far.ip(&format!("route add 10.1.1.0/24 dev {}", peer.interface()))?;
        let entry = format!(
            "far: {{ public_key: \"{}\", endpoint: \"198.51.100.2:51822\", allowed_ips: [10.9.0.0/16] }}",
            keys.public
        );
        let exception = "exception: tap-wan0, routes: [{ to: 203.0.113.0/24, via: 198.51.100.2 }],";
        let mut culvert = hosts.start(scenario, exception, &entry)?;
        near.ip("route add 10.9.1.0/24 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;
        let is_whole = || -> Result<bool> {
            let shown = near.ip("addr show dev tap-wan0").unwrap_or_default();
            let routes = near.ip("route show dev tap-wan0").unwrap_or_default();
            let parts = ["198.51.100.7/24", "2001:db8:1::7/64", ",UP"];
            Ok(parts.iter().all(|part| shown.contains(part)) && routes.contains("203.0.113.0/24"))
        };
        let passes = |what: &str| -> Result<()> {
            eventually(what, PATIENCE, || Ok(is_whole()?.then_some(())))?;
            for side in [0, 1] {
                eventually(what, PATIENCE, || Ok(ping(near, THEM[side], 1, "").ok()))?;
            }
            Ok(())
        };
        let says = |culvert: &mut Culvert, what: &str| {
            eventually(what, PATIENCE, || {
                Ok(culvert.process().log().contains(what).then_some(()))
            })
        };
        passes("the kernel's way")?;

        scenario.say("set down and up by hand");
        near.ip("link set tap-wan0 down")?;
        says(&mut culvert, "the interface was set down")?;
        ensure!(ping(near, THEM[0], 1, "").is_err(), "it was set up again");
        ping(near, "10.9.1.10", 3, "").context("the tunnel, while it is down")?;
        near.ip("link set tap-wan0 up")?;
        says(&mut culvert, "the interface is up again")?;
        passes("the kernel's way, after it was down")?;

        scenario.say("deleted");
        near.ip("link del tap-wan0")?;
        ping(near, "10.9.1.10", 3, "").context("the tunnel, while it is gone")?;
        says(&mut culvert, "the interface is made again")?;
        passes("the kernel's way, after it was gone")?;

        scenario.say("deleted, and its name taken by another's for a while");
        eventually("a name to be taken", PATIENCE, || {
            let _ = near.ip("link del tap-wan0");
            Ok(near.ip("tuntap add mode tap name tap-wan0").ok())
        })?;
        std::thread::sleep(Duration::from_secs(3));
        ping(near, "10.9.1.10", 3, "").context("the tunnel, while its name is taken")?;
        near.ip("link del tap-wan0")?;
        passes("the kernel's way, after its name was taken")?;

        scenario.say("the link goes down, and the carrier with it");
        near.ip("link set dtap0 down")?;
        eventually("no carrier", PATIENCE, || {
            let shown = near.ip("link show tap-wan0")?;
            Ok(shown.contains("NO-CARRIER").then_some(()))
        })?;
        scenario.say("made again without one, and it is back with the link");
        near.ip("link del tap-wan0")?;
        eventually("no carrier of the new one", PATIENCE, || {
            let shown = near.ip("link show tap-wan0").unwrap_or_default();
            Ok(shown.contains("NO-CARRIER").then_some(()))
        })?;
        near.ip("link set dtap0 up")?;
        passes("the kernel's way, after the link was down")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;

        scenario.say("moved to another namespace, where it has its frames");
        let other = Namespace::make("other")?;
        near.ip(&format!("link set tap-wan0 netns {}", other.name()))?;
        says(&mut culvert, "moved to another network namespace")?;
        other.ip("addr add 198.51.100.7/24 dev tap-wan0")?;
        other.ip("link set tap-wan0 up")?;
        eventually("an answer there", PATIENCE, || {
            Ok(ping(&other, THEM[0], 1, "").ok())
        })?;
        ping(near, "10.9.1.10", 3, "").context("the tunnel, while it is elsewhere")?;

        scenario.say("and back, where it has all again by itself, under another number, too");
        let back = |interface: &str| {
            // Its number is another's meanwhile.
            let shown = other.ip(&format!("-o link show {interface}"))?;
            let number = shown.split(':').next().context("a number")?;
            near.ip(&format!("link add br-{number} index {number} type bridge"))?;
            other.ip(&format!("link set {interface} netns {}", near.name()))
        };
        back("tap-wan0")?;
        passes("the kernel's way, after it was elsewhere")?;
        scenario.say("a guest's interface likewise");
        near.ip(&format!("link set t0 netns {}", other.name()))?;
        says(
            &mut culvert,
            "its link state and MTU are not followed there",
        )?;
        back("t0")?;
        says(&mut culvert, "is back from another network namespace")?;
        eventually("it is up", PATIENCE, || {
            Ok(near.ip("link show t0")?.contains(",UP").then_some(()))
        })?;
        near.ip("route add 10.9.1.0/24 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;

        scenario.say("it goes from there, too");
        near.ip(&format!("link set tap-wan0 netns {}", other.name()))?;
        eventually("it is there", PATIENCE, || {
            Ok(other.ip("link show tap-wan0").ok())
        })?;
        culvert.apply(&hosts.yaml("", &entry))?;
        eventually("no interface there", PATIENCE, || {
            Ok(other.ip("link show tap-wan0").is_err().then_some(()))
        })?;
        ping(near, "10.9.1.10", 3, "").context("the tunnel, without it")?;
        let panicked = culvert.process().log();
        ensure!(!panicked.contains("panic"), "{panicked}");
        Ok(())
    })
}

/// What the uplink does not use the kernel has not, nor what anybody on the link says to have.
#[test]
fn the_kernel_has_what_the_uplink_uses_alone() -> Result<()> {
    let parts = [PARTS[0], PARTS[1], Part::AddressServers];
    Scenario::run("exception_alone", &parts, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (near, far) = (&hosts.near, &hosts.far);
        far.ip("address add 198.51.100.7/32 dev wan0")?;
        far.sysctl("net.ipv6.conf.all.forwarding=1")?;
        let config = scenario.path("radvd.conf");
        fs::write(
            &config,
            "interface wan0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 900;\n\
             prefix 2001:db8:9::/64 { }; };\n",
        )?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
        let culvert = hosts.start(scenario, "exception: tap-wan0, routes_from: main,", "")?;

        scenario.say("an address that another host has");
        let has = |address: &str| -> Result<bool> {
            Ok(near.ip("addr show dev tap-wan0")?.contains(address))
        };
        eventually("no address of another's", PATIENCE, || {
            Ok((!has("198.51.100.7/24")?).then_some(()))
        })?;
        ensure!(has("2001:db8:1::7/64")?, "both went");

        scenario.say("what a router on the link says");
        let mut command = far.program("radvd");
        command.args(["-n", "-m", "stderr", "-d", "2", "-C"]);
        command
            .arg(&config)
            .arg("-p")
            .arg(scenario.path("radvd.pid"));
        let _router = Process::start("radvd", scenario.scratch(), command)?;
        eventually("an advertisement", PATIENCE, || {
            let counts = near.run(&["nstat", "-asz", "Icmp6InRouterAdvertisements"], PATIENCE)?;
            let mut words = counts.split_whitespace();
            words.find(|it| *it == "Icmp6InRouterAdvertisements");
            Ok(words.next().is_some_and(|it| it != "0").then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(!has("2001:db8:9:")?, "an address of a router's");
        let routes = near.ip("-6 route show dev tap-wan0")?;
        ensure!(!routes.contains("proto ra"), "{routes}");
        scenario.say("nor is the uplink led by such a route of somebody's");
        near.ip("-6 route add default via 2001:db8:1::2 dev tap-wan0 proto ra")?;
        near.ip("-6 route add 2001:db8:a::/64 via 2001:db8:1::2 dev tap-wan0 proto static")?;
        eventually("one route", PATIENCE, || {
            Ok((learned(&culvert)? == 1).then_some(()))
        })?;
        Ok(())
    })
}

#[test]
fn the_kernel_goes_by_the_uplink_whose_link_is_up() -> Result<()> {
    Scenario::run("exception_two", &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let near = &hosts.near;
        let second = "two: { driver: dpdk, device: \"net_tap1,iface=dtap1\", exception: tap-wan1, \
             addresses: [198.51.102.7/24, \"2001:db8:2::7/64\"], \
             routes: [{to: default, via: 198.51.102.1}, {to: default, via: \"2001:db8:2::1\"}] }";
        let first = "exception: tap-wan0, routes: [{to: default, via: 198.51.100.2}, {to: default, via: \"2001:db8:1::2\"}],";
        let yaml = hosts
            .yaml(first, "")
            .replace("] } }\ntunnels", &format!("] }}, {second} }}\ntunnels"));
        let _culvert = Culvert::start(scenario, "near", Some(near), &yaml)?;
        hosts.plug()?;
        near.ip("link set dtap1 up")?;
        let defaults = |interfaces: &[&str]| {
            eventually("default routes", PATIENCE, || {
                for family in ["-4", "-6"] {
                    let routes = near.ip(&format!("{family} route show default"))?;
                    let routes: Vec<_> = routes
                        .lines()
                        .filter(|line| line.contains("proto 67"))
                        .collect();
                    let are_there = routes.len() == interfaces.len()
                        && interfaces
                            .iter()
                            .zip(&routes)
                            .all(|(name, line)| line.contains(name));
                    if !are_there {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            })
        };
        scenario.say("both, that of the first ahead");
        defaults(&["tap-wan0", "tap-wan1"])?;
        let routes = near.ip("route show default")?;
        ensure!(
            routes.contains("metric 1024") && routes.contains("metric 1025"),
            "{routes}"
        );
        scenario.say("the one whose link is up");
        near.ip("link set dtap0 down")?;
        defaults(&["tap-wan1"])?;
        near.ip("link set dtap0 up")?;
        defaults(&["tap-wan0", "tap-wan1"])
    })
}

/// Sends a frame that begins so from an interface to another.
fn link_layer(
    scenario: &Scenario,
    name: &str,
    ((from, out), (to, at)): ((&Namespace, &str), (&Namespace, &str)),
    head: &str,
) -> Result<()> {
    let frame = scenario.path(name);
    let digits = format!("{head}{}", "42".repeat(46));
    let bytes: Result<Vec<u8>, _> = (0..digits.len() / 2)
        .map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16))
        .collect();
    fs::write(&frame, bytes?)?;
    let mut listen = to.program("tcpdump");
    listen.args([
        "-i",
        at,
        "-l",
        "-U",
        "-n",
        "-e",
        "-c",
        "1",
        "--immediate-mode",
        "-Q",
        "in",
    ]);
    listen.arg("ether[14]=0x42 and ether[20]=0x42");
    let mut listener = Process::start(&format!("listen-{name}"), scenario.scratch(), listen)?;
    eventually("it listens", PATIENCE, || {
        Ok(listener.log().contains("listening on").then_some(()))
    })?;
    let send = format!("socat -u OPEN:{} INTERFACE:{out}", frame.display());
    for _ in 0..5 {
        from.run(&["sh", "-c", &send], PATIENCE)?;
        if listener.wait(Duration::from_millis(500)).is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("no frame came")
}

/// The near end's peer, whose endpoint is found by a route that the far routers tell of.
fn uplink(culvert: &Culvert) -> Result<Value> {
    let show = culvert.show()?;
    let uplink = show.pointer("/uplinks/0").context("an uplink")?;
    Ok(uplink.clone())
}

fn learned(culvert: &Culvert) -> Result<u64> {
    let learned = uplink(culvert)?;
    let learned = learned.get("routes_learned").and_then(Value::as_u64);
    learned.context("how many routes were learned")
}

/// FRR's daemons in a namespace, by sockets and files of their own.
struct Frr {
    _daemons: Vec<Process>,
    folder: String,
}

impl Frr {
    const FOLDER: &'static str = "/usr/lib/frr";

    fn start(
        scenario: &Scenario,
        namespace: &Namespace,
        name: &str,
        texts: &[String; 2],
    ) -> Result<Self> {
        let folder = scenario.path(&format!("frr-{name}"));
        fs::create_dir_all(&folder)?;
        // They run as a user of their own.
        for (path, mode) in [(scenario.scratch(), 0o711), (&folder, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let folder = folder.display().to_string();
        let mut daemons = Vec::new();
        let [ospf, bgp] = texts;
        for (daemon, text) in [("zebra", ""), ("ospfd", ospf), ("bgpd", bgp)] {
            let config = format!("{folder}/{daemon}.conf");
            fs::write(&config, format!("hostname {name}\n{text}"))?;
            let mut command: Command = namespace.program(format!("{}/{daemon}", Self::FOLDER));
            command.args(["-f", &config]);
            command.args(["-i", &format!("{folder}/{daemon}.pid")]);
            command.args([
                "-z",
                &format!("{folder}/zserv.api"),
                "--vty_socket",
                &folder,
            ]);
            command.args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
            if daemon == "bgpd" {
                command.args(["-p", "179"]);
            }
            daemons.push(Process::start(
                &format!("{daemon}-{name}"),
                scenario.scratch(),
                command,
            )?);
            let socket = format!("{folder}/{daemon}.vty");
            eventually("a daemon", PATIENCE, || {
                Ok(fs::exists(&socket)?.then_some(()))
            })?;
        }
        Ok(Self {
            _daemons: daemons,
            folder,
        })
    }

    fn say(&self, namespace: &Namespace, words: &[&str]) -> Result<String> {
        let mut all = vec!["vtysh", "--vty_socket", &self.folder];
        words.iter().for_each(|word| all.extend(["-c", word]));
        namespace.run(&all, PATIENCE)
    }
}

#[test]
fn routes_that_frr_learns_lead_to_a_peer() -> Result<()> {
    let parts = [PARTS[0], PARTS[1], Part::WireguardGo, Part::Frr];
    Scenario::run("exception_frr", &parts, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (near, far) = (&hosts.near, &hosts.far);
        // Behind the far router: by OSPF, by BGP.
        far.ip("address add 203.0.113.9/32 dev lo")?;
        far.ip("address add 203.0.114.9/32 dev lo")?;
        let peer = Tunnel::start(scenario, far, Program::WireguardGo)?;
        let keys = Keys::generate(scenario, "far")?;
        let set = |endpoint: &str| {
            peer.set(&format!(
                "private-key {} listen-port 51822 peer {} allowed-ips 10.1.1.0/24{endpoint}",
                keys.private_file.display(),
                hosts.keys.public
            ))
        };
        set("")?;
        peer.up(far, &["10.9.1.10/16".to_owned()], 1420)?;
        far.ip(&format!("route add 10.1.1.0/24 dev {}", peer.interface()))?;
        let entry = |endpoint: &str| {
            format!(
                "far: {{ public_key: \"{}\", endpoint: \"{endpoint}:51822\", allowed_ips: [10.9.0.0/16] }}",
                keys.public
            )
        };
        let exception = "exception: tap-wan0, routes_from: main,";
        let culvert = hosts.start(scenario, exception, &entry("203.0.113.9"))?;
        near.ip("route add 10.9.1.0/24 dev t0")?;
        ensure!(learned(&culvert)? == 0);

        scenario.say("OSPF and BGP over the exception path");
        let ospf = |interface: &str, own: &str| {
            format!(
                "interface {interface}\n ip ospf hello-interval 1\n ip ospf dead-interval 4\nexit\n\
                 router ospf\n ospf router-id {own}\n network 198.51.100.0/24 area 0\n network 203.0.113.9/32 area 0\nexit\n"
            )
        };
        let bgp = |[own, other]: [&str; 2], [from, to]: [u32; 2]| {
            format!(
                "router bgp {from}\n bgp router-id {own}\n no bgp ebgp-requires-policy\n\
                 neighbor {other} remote-as {to}\n neighbor {other} timers connect 1\n\
                 address-family ipv4 unicast\n  network 203.0.114.9/32\n exit-address-family\nexit\n"
            )
        };
        let near_texts = [
            ospf("tap-wan0", US[0]),
            bgp([US[0], THEM[0]], [64_500, 64_501]),
        ];
        let far_texts = [
            ospf("wan0", THEM[0]),
            bgp([THEM[0], US[0]], [64_501, 64_500]),
        ];
        let _near_frr = Frr::start(scenario, near, "near", &near_texts)?;
        let far_frr = Frr::start(scenario, far, "far", &far_texts)?;
        eventually("both routes", PATIENCE, || {
            Ok((learned(&culvert)? == 2).then_some(()))
        })?;
        let kernel = near.ip("route show dev tap-wan0")?;
        for (prefix, by) in [("203.0.113.9", "proto ospf"), ("203.0.114.9", "proto bgp")] {
            let line = kernel.lines().find(|line| line.starts_with(prefix));
            ensure!(line.is_some_and(|line| line.contains(by)), "{kernel}");
        }

        scenario.say("the peer is called by the route of OSPF's, then by that of BGP's");
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;
        culvert.apply(&hosts.yaml(exception, &entry("203.0.114.9")))?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;

        scenario.say("what the routers take back is gone, here too");
        let words = [
            "configure terminal",
            "router bgp 64501",
            "address-family ipv4 unicast",
            "no network 203.0.114.9/32",
        ];
        far_frr.say(far, &words)?;
        eventually("one route", PATIENCE, || {
            Ok((learned(&culvert)? == 1).then_some(()))
        })?;
        eventually("no way", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").err())
        })?;

        scenario.say("a full table is refused by count");
        let mut batch = String::new();
        for n in 0..6_000_u32 {
            let [_, _, a, b] = n.to_be_bytes();
            batch += &format!("route add 11.{a}.{b}.0/24 via 198.51.100.2 dev tap-wan0\n");
        }
        let file = scenario.path("routes");
        fs::write(&file, batch)?;
        near.run(&["ip", "-b", &file.display().to_string()], PATIENCE)?;
        eventually("a bound", PATIENCE, || {
            let uplink = uplink(&culvert)?;
            let count = |key: &str| uplink.get(key).and_then(Value::as_u64);
            let is_bound = count("routes_learned") == Some(4_096);
            Ok((is_bound && count("routes_refused") == Some(1_905)).then_some(()))
        })?;
        near.ip("route flush dev tap-wan0 proto boot")?;
        eventually("one route", PATIENCE, || {
            Ok((learned(&culvert)? == 1).then_some(()))
        })?;
        near.ip("link set tap-wan0 down")?;
        eventually("none", PATIENCE, || {
            Ok((learned(&culvert)? == 0).then_some(()))
        })
    })
}

/// OpenSSH's server in a namespace, which the test's own key opens.
fn serve_ssh(scenario: &Scenario, namespace: &Namespace) -> Result<Process> {
    let path = |name: &str| scenario.path(name).display().to_string();
    for key in ["ssh-host", "ssh-key"] {
        let words = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            &path(key),
        ];
        namespace.run(&words, PATIENCE)?;
    }
    fs::copy(path("ssh-key.pub"), path("ssh-authorized"))?;
    let config = format!(
        "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n",
        US[0],
        path("ssh-host"),
        path("ssh-authorized"),
    );
    fs::write(path("sshd_config"), config)?;
    // It locks itself up in a folder of /run, which is one of its own here.
    let start = format!(
        "mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f {}",
        path("sshd_config")
    );
    let mut command = namespace.program("unshare");
    command.args(["-m", "sh", "-c", &start]);
    Process::start("sshd", scenario.scratch(), command)
}

fn ssh(scenario: &Scenario, namespace: &Namespace) -> Result<Duration> {
    let path = |name: &str| scenario.path(name).display().to_string();
    let key = path("ssh-key");
    let known = format!("UserKnownHostsFile={}", path("ssh-known"));
    let options = [
        "StrictHostKeyChecking=no",
        "BatchMode=yes",
        "ConnectTimeout=10",
        &known,
    ];
    let mut words = vec!["ssh", "-F", "none", "-i", &key];
    options
        .iter()
        .for_each(|option| words.extend(["-o", option]));
    words.extend(["root@198.51.100.7", "echo", "reachable"]);
    let began = std::time::Instant::now();
    let said = namespace.run(&words, PATIENCE)?;
    ensure!(said.contains("reachable"), "{said}");
    Ok(began.elapsed())
}

/// One NIC, `net_af_packet` on the cable; its figures are printed, and judged by who reads them: other programs share the
/// machine.
#[test]
fn ssh_answers_while_the_tunnel_is_loaded() -> Result<()> {
    let parts = [PARTS[0], PARTS[1], Part::Iperf, Part::Ssh];
    Scenario::run("exception_ssh", &parts, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let (near, far) = (&hosts.near, &hosts.far);
        for deaf in ["arp_ignore=8", "rp_filter=1"] {
            near.sysctl(&format!("net.ipv4.conf.wan0.{deaf}"))?;
        }
        let peer = Tunnel::start(scenario, far, Program::Culvert)?;
        let keys = Keys::generate(scenario, "far")?;
        peer.set(&format!(
            "private-key {} listen-port 51822 peer {} allowed-ips 10.1.1.0/24",
            keys.private_file.display(),
            hosts.keys.public
        ))?;
        peer.up(far, &["10.9.1.10/16".to_owned()], 1420)?;
        far.ip(&format!("route add 10.1.1.0/24 dev {}", peer.interface()))?;
        let entry = format!(
            "far: {{ public_key: \"{}\", endpoint: \"198.51.100.2:51822\", allowed_ips: [10.9.0.0/16] }}",
            keys.public
        );
        let yaml = hosts
            .yaml("exception: tap-wan0,", &entry)
            .replace("net_tap0,iface=dtap0", "net_af_packet0,iface=wan0");
        let culvert = Culvert::start(scenario, "near", Some(near), &yaml)?;
        near.ip("route add 10.9.1.0/24 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(near, "10.9.1.10", 1, "").ok())
        })?;
        let _sshd = serve_ssh(scenario, near)?;
        eventually("ssh", PATIENCE, || Ok(ssh(scenario, far).ok()))?;

        let [tunnel, path] = [5_201, 5_202].map(|port| Iperf::serve(scenario, far, port));
        let (tunnel, path) = (tunnel?, path?);
        let mbits = |flow: &Flow| flow.bits_per_second / 1e6;
        let alone = path.send(near, THEM[0], "-t 4")?;
        let back = path.send(near, THEM[0], "-t 4 -R")?;
        scenario.say(format!(
            "the exception path alone: {:.0} Mbit/s out, {:.0} in",
            mbits(&alone),
            mbits(&back)
        ));
        let longer = Duration::from_secs(14);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| tunnel.send_for(near, "10.9.1.10", "-t 14 -P 2", longer));
            std::thread::sleep(Duration::from_secs(2));
            let mut times = Vec::new();
            for _ in 0..5 {
                times.push(ssh(scenario, far)?.as_millis());
            }
            let out = path.send(near, THEM[0], "-t 3")?;
            let back = path.send(near, THEM[0], "-t 3 -R")?;
            let load = load
                .join()
                .map_err(|_| anyhow::anyhow!("the load panicked"))??;
            scenario.say(format!(
                "the tunnel at {:.0} Mbit/s; ssh in {times:?} ms; the exception path: {:.0} Mbit/s out, {:.0} in",
                mbits(&load),
                mbits(&out),
                mbits(&back)
            ));
            ensure!(load.received > 0 && out.received > 0 && back.received > 0);
            Ok(())
        })?;
        scenario.say(format!("{:?}", culvert.drops()?));
        Ok(())
    })
}
