//! A DPDK uplink that learns its addresses from servers and routers that nobody here wrote.
//!
//! ```text
//!   near: Culvert, t0 10.1.1.10 ── wan0 (net_af_packet) ═══ veth ═══ wan0 192.0.2.1 :far: dnsmasq, dhcpd or radvd,
//!                                                                         wireguard-go 10.9.1.10
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, Veth, WireguardGo, bounded, eventually,
    ping, run,
};
use rustix::process::Signal;
use serde_json::Value;

const PARTS: [Part; 4] = [
    Part::Root,
    Part::Tun,
    Part::WireguardGo,
    Part::AddressServers,
];
/// Three probes of an address, two lost questions.
const PATIENCE: Duration = Duration::from_secs(40);
const COMMAND: Duration = Duration::from_secs(20);
/// A lease of dhcpd's, in seconds.
const LEASE: u64 = 24;

struct Site {
    near: Namespace,
    far: Namespace,
    keys: [Keys; 2],
    wire: Veth,
}

impl Site {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        wire.address(&far, "192.0.2.1/24")?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        Ok(Self {
            near,
            far,
            keys,
            wire,
        })
    }

    /// The file: what the uplink has or learns, where the peer is, the network behind.
    fn yaml(&self, uplink: &str, endpoint: &str, gateway: &str) -> String {
        let [own, other] = &self.keys;
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
             uplinks:\n  wan: {{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", {uplink} }}\n\
             tunnels:\n  wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, \
             peers: {{ far: {{ public_key: \"{}\", allowed_ips: [10.9.1.0/24], endpoint: \"{endpoint}\" }} }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [{gateway}] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            own.private_file.display(),
            other.public
        )
    }

    fn peer(&self, scenario: &Scenario) -> Result<WireguardGo> {
        let there = ["10.9.1.10/24"];
        let peer = WireguardGo::start(scenario, &self.far, &self.keys[1], 51820, &there, 1280)?;
        peer.peer(&self.far, &self.keys[0], None, &["10.1.1.0/24"], None)?;
        Ok(peer)
    }

    fn start(&self, scenario: &Scenario, yaml: &str) -> Result<Culvert> {
        let culvert = Culvert::start(scenario, "culvert", Some(&self.near), yaml)?;
        self.near.ip("route replace 10.9.1.0/24 dev t0")?;
        Ok(culvert)
    }

    fn reaches(&self) -> Result<()> {
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&self.near, "10.9.1.10", 1, "").ok())
        })
    }

    /// The kernel's interface has these addresses and no others, and that router.
    fn shares(&self, addresses: &[String], router: &str) -> Result<()> {
        let at = |what: &str| {
            let words = format!("ip -4 {what} show dev tap-wan");
            self.near
                .run(&words.split(' ').collect::<Vec<_>>(), COMMAND)
        };
        let has = at("address")?;
        let all = has
            .lines()
            .filter_map(|line| line.trim().strip_prefix("inet "));
        let all: Vec<_> = all.filter_map(|line| line.split(' ').next()).collect();
        ensure!(all == addresses, "{has}");
        let routes = self.kernel_routes()?;
        ensure!(
            routes.contains(&format!("default via {router}")),
            "{routes}"
        );
        Ok(())
    }

    /// The routes that the kernel has by the uplink.
    fn kernel_routes(&self) -> Result<String> {
        let words = ["ip", "-4", "route", "show", "dev", "tap-wan"];
        self.near.run(&words, COMMAND)
    }

    /// When the peer had its last handshake with us, as it says.
    fn handshake(&self, peer: &WireguardGo) -> Result<String> {
        let words = ["wg", "show", peer.interface(), "latest-handshakes"];
        self.far.run(&words, COMMAND)
    }

    fn dnsmasq(&self, scenario: &Scenario, words: &str) -> Result<Process> {
        let leases = scenario.path("dnsmasq.leases");
        let mut command = self.far.program("dnsmasq");
        command
            .args("--keep-in-foreground --port=0 --log-facility=- --log-dhcp --conf-file=/dev/null --user=root".split(' '))
            .args(["--interface=wan0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping"])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg(format!("--pid-file={}", scenario.path("dnsmasq.pid").display()))
            .args(words.split(' '));
        Process::start("dnsmasq", scenario.scratch(), command)
    }

    /// One that lends addresses of that net, and is the router there.
    fn dhcpd(&self, scenario: &Scenario, net: &str) -> Result<Process> {
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = scenario.path(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let config = file(
            "dhcpd.conf",
            format!(
                "authoritative; default-lease-time {LEASE}; max-lease-time {LEASE}; min-lease-time {LEASE};\n\
                 subnet {net}.0 netmask 255.255.255.0 {{ range {net}.50 {net}.59; option routers {net}.1; }}\n"
            ),
        )?;
        let leases = file("dhcpd.leases", String::new())?;
        let mut command = self.far.program("dhcpd");
        command
            .args([
                "-4", "-f", "-d", "--no-pid", "-user", "root", "-group", "root", "-cf",
            ])
            .arg(config)
            .arg("-lf")
            .arg(leases)
            .arg("wan0");
        Process::start("dhcpd", scenario.scratch(), command)
    }
}

/// What `show` tells of the uplink.
fn uplink(culvert: &Culvert) -> Result<Value> {
    Ok(culvert.show()?["uplinks"][0].clone())
}

/// Waits until the uplink has addresses that are `wanted`.
fn wait_addresses(culvert: &Culvert, wanted: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
    let mut last = Value::Null;
    let found = eventually("the uplink's addresses", PATIENCE, || {
        last = uplink(culvert)?;
        let all = last["addresses"].as_array().context("addresses")?;
        let all = all.iter().filter_map(|it| it.as_str().map(str::to_owned));
        let all: Vec<_> = all.collect();
        Ok(wanted(&all).then_some(all))
    });
    found.with_context(|| last.to_string())
}

fn of(prefix: &'static str) -> impl Fn(&[String]) -> bool {
    move |all| all.iter().any(|it| it.starts_with(prefix))
}

fn count(log: &str, word: &str) -> usize {
    log.lines().filter(|line| line.contains(word)).count()
}

#[test]
fn a_lease_carries_a_tunnel_and_outlives_a_restart() -> Result<()> {
    let name = "a_lease_carries_a_tunnel_and_outlives_a_restart";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        let yaml = site.yaml("dhcp4: true", "192.0.2.1:51820", "10.1.1.1/24");
        let _peer = site.peer(scenario)?;
        let culvert = site.start(scenario, &yaml)?;
        let text = culvert.call(&["show", "ports"])?;
        ensure!(text.contains("none yet"), "{text}");
        let words = "--dhcp-range=192.0.2.50,192.0.2.59,255.255.255.0,2m --dhcp-option=option:mtu,1400 --dhcp-option=option:dns-server,192.0.2.53 --domain=example.org";
        let server = site.dnsmasq(scenario, words)?;
        let lent = wait_addresses(&culvert, of("192.0.2.5"))?;
        site.reaches()?;
        let (address, _) = lent[0].split_once('/').context("a length")?;
        ping(&site.far, address, 1, "")?;
        let shown = uplink(&culvert)?;
        let learned = &shown["learned"];
        ensure!(
            learned["server"] == "192.0.2.1" && learned["mtu"] == 1400,
            "{shown}"
        );
        ensure!(
            learned["dns"][0] == "192.0.2.53" && learned["domain"] == "example.org",
            "{shown}"
        );
        ensure!(learned["expires_in"].as_u64() <= Some(120), "{shown}");
        // What passes the link is all that a path is taken to let through.
        let peer = &culvert.show()?["peers"][0];
        ensure!(
            peer["path_mtu"] == 1400 && peer["path_mtu_known"] == "link",
            "{peer}"
        );
        let long = "-n -c 1 -W 2 -M do -s 1313 10.9.1.10";
        let mut long_ping = site.near.program("ping");
        let (_, out, told) = bounded(long_ping.args(long.split(' ')), COMMAND)?;
        ensure!(out.contains("mtu = 1340"), "{out}{told}");
        let routes = culvert.call(&["show", "routes"])?;
        ensure!(
            routes.contains("via 192.0.2.1") && routes.contains("learned"),
            "{routes}"
        );
        ensure!(!yaml.contains(address), "{yaml}");
        let running = culvert.call(&["show", "config"]).unwrap_or_default();
        ensure!(!running.contains(address), "{running}");

        // A restart asks for the same address, and looks for no server.
        let asked = |word| count(&server.log(), word);
        let (discovers, requests) = (asked("DHCPDISCOVER"), asked("DHCPREQUEST"));
        let mut culvert = culvert;
        culvert.stop(PATIENCE)?;
        ensure!(asked("DHCPRELEASE") == 0, "{}", server.log());
        let mut culvert = culvert.restart(scenario, Some(&site.near))?;
        culvert.wait_ready()?;
        site.near.ip("route replace 10.9.1.0/24 dev t0")?;
        wait_addresses(&culvert, |all| all == lent)?;
        site.reaches()?;
        ensure!(asked("DHCPDISCOVER") == discovers, "{}", server.log());
        ensure!(asked("DHCPREQUEST") > requests, "{}", server.log());

        // Once it is not to be learned any more it is given back.
        let fixed = "addresses: [192.0.2.99/24]";
        culvert.apply(&site.yaml(fixed, "192.0.2.1:51820", "10.1.1.1/24"))?;
        eventually("the lease to be given back", COMMAND, || {
            Ok((asked("DHCPRELEASE") == 1).then_some(()))
        })?;
        wait_addresses(&culvert, |all| all == ["192.0.2.99/24"])?;
        site.reaches()?;

        // So it is when the whole uplink goes.
        culvert.apply(&yaml)?;
        wait_addresses(&culvert, of("192.0.2.5"))?;
        site.reaches()?;
        culvert.apply("version: 1\ncores: { workers: 1 }\nmemory: { hugepages: off, megabytes: 128 }\nnetworks: {}\n")?;
        eventually("the lease to be given back again", COMMAND, || {
            Ok((asked("DHCPRELEASE") == 2).then_some(()))
        })?;
        Ok(())
    })
}

#[test]
fn another_address_moves_the_path_and_keeps_the_session() -> Result<()> {
    let name = "another_address_moves_the_path_and_keeps_the_session";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        let peer = site.peer(scenario)?;
        let mut server = site.dhcpd(scenario, "192.0.2")?;
        // The kernel shares the uplink, and is deaf at what is the NIC here.
        let sharing = "dhcp4: true, exception: tap-wan";
        site.near.sysctl("net.ipv4.conf.wan0.arp_ignore=8")?;
        site.near.sysctl("net.ipv4.conf.wan0.rp_filter=1")?;
        let yaml = site.yaml(sharing, "192.0.2.1:51820", "10.1.1.1/24");
        let culvert = site.start(scenario, &yaml)?;
        let lent = wait_addresses(&culvert, of("192.0.2.5"))?;
        site.shares(&lent, "192.0.2.1")?;
        site.reaches()?;
        let handshake = site.handshake(&peer)?;
        // The link is another net's now, which the server lends of; traffic runs all the while.
        let mut pings = site.near.program("ping");
        pings.args(["-n", "-q", "-i", "0.05", "-W", "1", "10.9.1.10"]);
        let pings = pings.stdout(Stdio::piped()).spawn()?;
        server.kill()?;
        site.far.ip("address add 198.51.100.1/24 dev wan0")?;
        site.far.ip("address del 192.0.2.1/24 dev wan0")?;
        site.far.ip("address add 192.0.2.1/32 dev lo")?;
        // It tells of a way to what is behind the tunnel, too.
        let words = "--dhcp-range=198.51.100.50,198.51.100.59,255.255.255.0,2m --dhcp-option=option:classless-static-route,0.0.0.0/0,198.51.100.1,10.9.1.0/25,198.51.100.1,10.44.0.0/16,198.51.100.1";
        let server = site.dnsmasq(scenario, words)?;
        let moved = wait_addresses(&culvert, of("198.51.100.5"));
        let log = server.log();
        std::thread::sleep(Duration::from_secs(2));
        rustix::process::kill_process(rustix::process::Pid::from_child(&pings), Signal::INT)?;
        let out = pings.wait_with_output()?;
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let moved = moved.with_context(|| log.clone())?;
        ensure!(log.contains("DHCPNAK"), "{log}");
        scenario.say(format!("while the address changed: {}", out.trim()));
        let lost = out.split(", ").find(|it| it.contains("packet loss"));
        let lost = lost.and_then(|it| it.split('%').next()?.parse::<f64>().ok());
        // While the new address is probed there is none to send from.
        ensure!(lost.is_some_and(|lost| lost < 80.0), "{out}");
        site.reaches()?;
        ensure!(site.handshake(&peer)? == handshake, "another handshake");
        site.shares(&moved, "198.51.100.1")?;
        routes_beside_a_tunnel_are_the_kernels_and_others_are_not(&site, &culvert, &yaml)
    })
}

/// A learned route that overlaps what a peer is allowed leads nobody past the tunnel, whichever of them comes first.
fn routes_beside_a_tunnel_are_the_kernels_and_others_are_not(
    site: &Site,
    culvert: &Culvert,
    yaml: &str,
) -> Result<()> {
    let way = |to: &str| site.near.run(&["ip", "route", "get", to], COMMAND);
    let routes = site.kernel_routes()?;
    ensure!(
        routes.contains("10.44.0.0/16 via 198.51.100.1") && !routes.contains("10.9.1."),
        "{routes}"
    );
    ensure!(way("10.9.1.10")?.contains("dev t0"));
    let refused = |culvert: &Culvert| -> Result<String> {
        let shown = uplink(culvert)?;
        Ok(shown["learned"]["routes_refused"].to_string())
    };
    let shown = refused(culvert)?;
    ensure!(
        shown.contains("10.9.1.0/25 via 198.51.100.1: 10.9.1.0/24 of network n")
            && !shown.contains("10.44.0.0"),
        "{shown}"
    );
    let text = culvert.call(&["show", "uplinks"])?;
    let note = "the route to 10.9.1.0/25 via 198.51.100.1 is not used";
    ensure!(text.contains(note), "{text}");
    let routes = culvert.call(&["show", "routes"])?;
    let mut lines = routes.lines().filter(|it| it.contains("10.44.0.0/16"));
    ensure!(
        lines.any(|it| it.contains("1024") && it.ends_with("learned")),
        "{routes}"
    );

    let wider = yaml.replace("[10.9.1.0/24]", "[10.9.1.0/24, 10.44.5.0/24]");
    culvert.apply(&wider)?;
    let routes = site.kernel_routes()?;
    ensure!(
        !routes.contains("10.44.") && routes.contains("default via"),
        "{routes}"
    );
    let shown = refused(culvert)?;
    ensure!(shown.contains("10.44.0.0/16 via 198.51.100.1"), "{shown}");
    culvert.apply(yaml)?;
    let routes = site.kernel_routes()?;
    ensure!(routes.contains("10.44.0.0/16 via"), "{routes}");
    site.reaches()
}

#[test]
#[ignore = "takes most of a minute; scripts/test --long runs it"]
fn a_lease_that_nobody_renews_is_used_until_it_is_over() -> Result<()> {
    let name = "a_lease_that_nobody_renews_is_used_until_it_is_over";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        let _peer = site.peer(scenario)?;
        let mut server = site.dhcpd(scenario, "192.0.2")?;
        let yaml = site.yaml("dhcp4: true", "192.0.2.1:51820", "10.1.1.1/24");
        let mut culvert = site.start(scenario, &yaml)?;
        wait_addresses(&culvert, of("192.0.2.5"))?;
        site.reaches()?;
        // Renewed in time, with its server.
        let acks = count(&server.log(), "DHCPACK");
        eventually("a renewal", PATIENCE, || {
            Ok((count(&server.log(), "DHCPACK") > acks).then_some(()))
        })?;
        server.kill()?;
        std::thread::sleep(Duration::from_secs(LEASE / 2));
        ping(&site.near, "10.9.1.10", 3, "")?;
        wait_addresses(&culvert, <[String]>::is_empty)?;
        let told = culvert.process().log();
        ensure!(told.contains("a learned address is lost"), "{told}");
        // And when someone lends it again, the tunnel goes on.
        let _server = site.dhcpd(scenario, "192.0.2")?;
        wait_addresses(&culvert, of("192.0.2.5"))?;
        site.reaches()
    })
}

#[test]
fn routers_tell_an_uplink_its_addresses() -> Result<()> {
    let name = "routers_tell_an_uplink_its_addresses";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        site.wire.address(&site.far, "2001:db8:7::1/64")?;
        site.far.sysctl("net.ipv6.conf.all.forwarding=1")?;
        let config = scenario.path("radvd.conf");
        fs::write(
            &config,
            "interface wan0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 9; AdvLinkMTU 1400;\n\
             prefix 2001:db8:7::/64 { AdvValidLifetime 20; AdvPreferredLifetime 20; };\n\
             RDNSS 2001:db8:7::53 { }; };\n",
        )?;
        run(Command::new("chmod").arg("644").arg(&config), COMMAND)?;
        let mut command = site.far.program("radvd");
        command.args(["-n", "-m", "stderr", "-d", "2", "-C"]);
        command
            .arg(&config)
            .arg("-p")
            .arg(scenario.path("radvd.pid"));
        let mut router = Process::start("radvd", scenario.scratch(), command)?;
        let _peer = site.peer(scenario)?;
        let yaml = site.yaml("accept_ra: true", "[2001:db8:7::1]:51820", "10.1.1.1/24");
        let culvert = site.start(scenario, &yaml)?;
        let told = wait_addresses(&culvert, of("2001:db8:7:"))?;
        let mac = site
            .near
            .run(&["cat", "/sys/class/net/wan0/address"], COMMAND);
        scenario.say(format!("{told:?} {}", mac.unwrap_or_default().trim()));
        site.reaches()?;
        let (address, _) = told[0].split_once('/').context("a length")?;
        ping(&site.far, address, 1, "")?;
        let shown = uplink(&culvert)?;
        let learned = &shown["learned"];
        ensure!(
            learned["mtu"] == 1400 && learned["dns"][0] == "2001:db8:7::53",
            "{shown}"
        );
        ensure!(
            learned["routes"][0]["via"]
                .as_str()
                .is_some_and(|via| via.starts_with("fe80::")),
            "{shown}"
        );
        // It says that it goes, and then the prefix's time is over.
        router.signal(Signal::TERM)?;
        router.wait(COMMAND)?;
        eventually("the router to be forgotten", COMMAND, || {
            let shown = uplink(&culvert)?;
            Ok(shown["learned"]["routes"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(()))
        })?;
        wait_addresses(&culvert, <[String]>::is_empty)?;
        Ok(())
    })
}

#[test]
fn an_address_that_overlaps_is_refused_until_it_does_not() -> Result<()> {
    let name = "an_address_that_overlaps_is_refused_until_it_does_not";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        let words = "--dhcp-range=192.0.2.50,192.0.2.59,255.255.255.0,2m";
        let server = site.dnsmasq(scenario, words)?;
        let released = |times: usize| {
            eventually("the lease to be given back", COMMAND, || {
                Ok((count(&server.log(), "DHCPRELEASE") == times).then_some(()))
            })
        };
        let file = |gateway: &str| site.yaml("dhcp4: true", "192.0.2.1:51820", gateway);
        let both = "10.1.1.1/24, 192.0.2.129/25";
        let mut culvert = site.start(scenario, &file(both))?;
        let reason = eventually("a refusal", PATIENCE, || {
            let shown = uplink(&culvert)?;
            Ok(shown["learned"]["refused"][0].as_str().map(str::to_owned))
        })?;
        ensure!(reason.contains("192.0.2.128/25 of network n"), "{reason}");
        ensure!(
            uplink(&culvert)?["addresses"]
                .as_array()
                .is_some_and(Vec::is_empty)
        );
        let told = culvert.process().log();
        ensure!(told.contains("a learned address is not used"), "{told}");
        // It is given back, and no more of its kind are taken meanwhile.
        released(1)?;
        eventually("another question", PATIENCE, || {
            Ok((count(&server.log(), "DHCPDISCOVER") >= 2).then_some(()))
        })?;
        let shown = uplink(&culvert)?;
        ensure!(
            shown["learned"]["refused"][0] == reason && shown["learned"]["server"].is_null(),
            "{shown}"
        );
        ensure!(count(&server.log(), "DHCPACK") == 1, "{}", server.log());
        culvert.apply(&file("10.1.1.1/24"))?;
        wait_addresses(&culvert, of("192.0.2.5"))?;
        let text = culvert.call(&["show", "ports"])?;
        ensure!(text.contains("192.0.2.5"), "{text}");
        // And the other way: the network that comes has the word.
        culvert.apply(&file(both))?;
        wait_addresses(&culvert, <[String]>::is_empty)?;
        released(2)?;
        // Nor is it asked for by the next run.
        culvert.stop(PATIENCE)?;
        let asked = count(&server.log(), "DHCPDISCOVER");
        let mut culvert = culvert.restart(scenario, Some(&site.near))?;
        culvert.wait_ready()?;
        eventually("a question for any address", PATIENCE, || {
            Ok((count(&server.log(), "DHCPDISCOVER") > asked).then_some(()))
        })
    })
}
