//! Peers' names, asked for through a DPDK uplink: the machine itself has no way to any server of names.
//!
//! ```text
//!   near: Culvert, t0 10.1.1.10 ── wan0 (net_af_packet) 192.0.2.10 ═══ wan0 192.0.2.53 :far: dnsmasq
//!                                                                           192.0.2.1, later .2: wireguard-go 10.9.1.10
//! ```

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, Veth, WireguardGo, eventually, ping,
};
use rustix::process::Signal;
use serde_json::Value;

const PARTS: [Part; 4] = [
    Part::Root,
    Part::Tun,
    Part::WireguardGo,
    Part::AddressServers,
];
/// A name's least lifetime, a peer that is missed, a few calls.
const PATIENCE: Duration = Duration::from_secs(90);
const NAME: &str = "far.culvert.test";

struct Site {
    near: Namespace,
    far: Namespace,
    keys: [Keys; 2],
    hosts: PathBuf,
}

impl Site {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        // The first one stays: with it the kernel drops the others.
        for address in ["192.0.2.53/24", "192.0.2.1/24"] {
            wire.address(&far, address)?;
        }
        let keys = |name: &str| Keys::generate(scenario, name);
        Ok(Self {
            near,
            far,
            keys: [keys("a")?, keys("b")?],
            hosts: scenario.path("hosts"),
        })
    }

    fn peer(&self, scenario: &Scenario) -> Result<WireguardGo> {
        let [own, other] = &self.keys;
        let there = ["10.9.1.10/24"];
        let peer = WireguardGo::start(scenario, &self.far, other, 51820, &there, 1280)?;
        peer.peer(&self.far, own, None, &["10.1.1.0/24"], None)?;
        Ok(peer)
    }

    fn start(&self, scenario: &Scenario, uplink: &str) -> Result<(Culvert, WireguardGo)> {
        let [own, other] = &self.keys;
        let peer = self.peer(scenario)?;
        let yaml = format!(
            "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
             uplinks:\n  wan: {{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", {uplink} }}\n\
             tunnels:\n  wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, \
             peers: {{ far: {{ public_key: \"{}\", allowed_ips: [10.9.1.0/24], endpoint: \"{NAME}:51820\" }} }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            own.private_file.display(),
            other.public
        );
        let culvert = Culvert::start(scenario, "culvert", Some(&self.near), &yaml)?;
        self.near.ip("route replace 10.9.1.0/24 dev t0")?;
        Ok((culvert, peer))
    }

    /// A server that knows what stands in `hosts`, and answers `words` more.
    fn dnsmasq(&self, scenario: &Scenario, words: &[&str]) -> Result<Process> {
        let mut command = self.far.program("dnsmasq");
        command
            .args("--keep-in-foreground --log-facility=- --conf-file=/dev/null --user=root --no-resolv --no-hosts --local-ttl=2".split(' '))
            .args(["--interface=wan0", "--bind-interfaces", "--no-ping"])
            .arg(format!("--addn-hosts={}", self.hosts.display()))
            .arg(format!("--dhcp-leasefile={}", scenario.path("leases").display()))
            .arg(format!("--pid-file={}", scenario.path("dnsmasq.pid").display()))
            .args(words);
        Process::start("dnsmasq", scenario.scratch(), command)
    }

    fn reaches(&self) -> Result<()> {
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&self.near, "10.9.1.10", 1, "").ok())
        })
    }
}

fn peer(culvert: &Culvert) -> Result<Value> {
    Ok(culvert.show()?["peers"][0].clone())
}

/// Waits until what is shown of the peer is as wanted.
fn wait_peer(culvert: &Culvert, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = eventually(what, PATIENCE, || {
        last = peer(culvert)?;
        Ok(wanted(&last).then(|| last.clone()))
    });
    found.with_context(|| last.to_string())
}

#[test]
fn a_peer_s_name_is_asked_for_through_the_uplink_and_followed() -> Result<()> {
    let name = "a_peer_s_name_is_asked_for_through_the_uplink_and_followed";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        fs::write(&site.hosts, format!("192.0.2.1 {NAME}\n"))?;
        let mut server = site.dnsmasq(scenario, &["--log-queries"])?;
        // Nobody is at the first one's address.
        let servers = "nameservers: { addresses: [192.0.2.54, 192.0.2.53] }";
        let uplink = format!("addresses: [192.0.2.10/24], {servers}");
        let (culvert, far) = site.start(scenario, &uplink)?;
        site.reaches()?;
        let log = server.log();
        ensure!(
            log.contains(&format!("query[A] {NAME} from 192.0.2.10")),
            "{log}"
        );
        // There is no address of IPv6 to reach others from.
        ensure!(!log.contains("query[AAAA]"), "{log}");
        let shown = peer(&culvert)?;
        ensure!(
            shown["endpoint_name"]["addresses"][0] == "192.0.2.1",
            "{shown}"
        );

        // It moves, and has forgotten where we are; once its name's time is over it is found there.
        drop(far);
        site.far.ip("address del 192.0.2.1/24 dev wan0")?;
        site.far.ip("address add 192.0.2.2/24 dev wan0")?;
        let _far = site.peer(scenario)?;
        fs::write(&site.hosts, format!("192.0.2.2 {NAME}\n"))?;
        server.signal(Signal::HUP)?;
        wait_peer(&culvert, "the name's new address", |shown| {
            shown["endpoint_name"]["addresses"][0] == "192.0.2.2"
        })?;
        site.reaches()?;
        let shown = peer(&culvert)?;
        ensure!(shown["endpoint"] == "192.0.2.2:51820", "{shown}");

        // Without a server the last answer counts, and why there is no other is told.
        server.kill()?;
        let shown = wait_peer(&culvert, "a failure", |shown| {
            shown["endpoint_name"]["state"] == "failed"
        })?;
        let error = shown["endpoint_name"]["error"].as_str().unwrap_or_default();
        scenario.say(error);
        ensure!(
            error.contains("192.0.2.53") && error.contains("uplink wan"),
            "{shown}"
        );
        ensure!(
            shown["endpoint_name"]["addresses"][0] == "192.0.2.2",
            "{shown}"
        );
        site.reaches()
    })
}

#[test]
fn an_answer_too_long_for_a_datagram_comes_by_a_connection() -> Result<()> {
    let name = "an_answer_too_long_for_a_datagram_comes_by_a_connection";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        let long = |letter: &str| {
            let label = letter.repeat(60);
            format!("{label}.{label}.{label}.test")
        };
        let [a, b, c] = ["a", "b", "c"].map(long);
        fs::write(&site.hosts, format!("192.0.2.1 {c}\n"))?;
        let aliases = [(NAME, &a), (&*a, &b), (&*b, &c)];
        let words = aliases.map(|(alias, name)| format!("--cname={alias},{name}"));
        let words = words.each_ref().map(String::as_str);
        let _server = site.dnsmasq(scenario, &words)?;
        // The same question by a datagram has no whole answer.
        let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in NAME.split('.') {
            question.push(u8::try_from(label.len())?);
            question.extend(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let socket = site.far.enter(|| Ok(UdpSocket::bind("192.0.2.1:0")?))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut answer = [0; 512];
        eventually("an answer of dnsmasq's", PATIENCE, || {
            socket.send_to(&question, "192.0.2.53:53")?;
            Ok(socket.recv(&mut answer).ok())
        })?;
        ensure!(answer[2] & 2 != 0, "it is not truncated: {answer:?}");

        let servers = "nameservers: { addresses: [192.0.2.53] }";
        let uplink = format!("addresses: [192.0.2.10/24], {servers}");
        let (culvert, _far) = site.start(scenario, &uplink)?;
        site.reaches()?;
        let shown = peer(&culvert)?;
        ensure!(
            shown["endpoint_name"]["addresses"][0] == "192.0.2.1",
            "{shown}"
        );
        Ok(())
    })
}

#[test]
fn servers_of_names_are_learned_with_the_lease() -> Result<()> {
    let name = "servers_of_names_are_learned_with_the_lease";
    Scenario::run(name, &PARTS, |scenario| {
        let site = Site::lay(scenario)?;
        fs::write(&site.hosts, format!("192.0.2.1 {NAME}\n"))?;
        let words = [
            "--dhcp-range=192.0.2.60,192.0.2.69,255.255.255.0,2m",
            "--dhcp-option=option:dns-server,192.0.2.53",
            "--dhcp-authoritative",
            "--log-queries",
        ];
        let server = site.dnsmasq(scenario, &words)?;
        let (culvert, _far) = site.start(scenario, "dhcp4: true")?;
        site.reaches()?;
        let log = server.log();
        ensure!(
            log.contains(&format!("query[A] {NAME} from 192.0.2.6")),
            "{log}"
        );
        let shown = peer(&culvert)?;
        ensure!(shown["endpoint_name"]["state"] == "found", "{shown}");
        Ok(())
    })
}
