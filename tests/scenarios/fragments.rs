//! Outer packets in fragments, as a kernel cuts them, to a DPDK uplink.
//!
//! ```text
//!   t0 near ── dtap0 (DPDK's net_tap) ── br0 ── wan1 ══ the test, which shuffles ══ wan1 ── far: wireguard-go
//!   10.1.1.10  198.51.100.7                                                  198.51.100.2   10.9.1.10
//!              2001:db8:1::7                                                 2001:db8:1::2
//! ```
//!
//! The far kernel's route is narrow: it cuts what wireguard-go sends, handshakes too, and long pings. `net_af_packet` would
//! not do: it has the kernel put fragments of IPv4 together.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    Bridge, Counters, Culvert, Keys, Namespace, Part, Program, Scenario, Tunnel, eventually, ping,
};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than a handshake message takes.
const NARROW: u16 = 100;

struct Hosts {
    near: Namespace,
    far: Namespace,
    bridge: Bridge,
    keys: Keys,
}

impl Hosts {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let bridge = Bridge::join(&near, &far, "wan1")?;
        far.ip("address add 198.51.100.2/24 dev wan1")?;
        far.ip("address add 2001:db8:1::2/64 dev wan1 nodad")?;
        let keys = Keys::generate(scenario, "near")?;
        Ok(Self {
            near,
            far,
            bridge,
            keys,
        })
    }

    fn start(&self, scenario: &Scenario, far_key: &str) -> Result<Culvert> {
        let yaml = format!(
            "version: 1\ncores: {{ workers: 2 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
             uplinks: {{ wan: {{ driver: dpdk, device: \"net_tap0,iface=dtap0\", \
             addresses: [198.51.100.7/24, \"2001:db8:1::7/64\"] }} }}\n\
             tunnels: {{ wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, peers: {{ \
             far: {{ public_key: \"{far_key}\", allowed_ips: [10.9.0.0/16] }} }} }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24] }} }}\n\
             ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10] }} }}\n",
            self.keys.private_file.display(),
        );
        let culvert = Culvert::start(scenario, "near", Some(&self.near), &yaml)?;
        // The device has the interface's address, which a bridge would take for its own.
        for words in [
            "link set dtap0 down",
            "link set dtap0 address 02:00:00:00:77:01 addrgenmode none",
            "link add br0 type bridge",
            "link set br0 addrgenmode none",
            "link set dtap0 master br0",
            "link set wan1 master br0",
            "link set dtap0 up",
            "link set br0 up",
        ] {
            self.near.ip(words)?;
        }
        self.near.ip("route add 10.9.1.0/24 dev t0")?;
        Ok(culvert)
    }
}

#[test]
fn a_tunnel_behind_a_narrow_path_is_carried_in_fragments() -> Result<()> {
    Scenario::run("fragments_tunnel", &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let far = Tunnel::start(scenario, &hosts.far, Program::WireguardGo)?;
        let far_keys = Keys::generate(scenario, "far")?;
        far.set(&format!(
            "private-key {} listen-port 51822 peer {} allowed-ips 10.1.1.0/24 endpoint 198.51.100.7:51820",
            far_keys.private_file.display(),
            hosts.keys.public
        ))?;
        far.up(&hosts.far, &["10.9.1.10/16".to_owned()], 1420)?;
        hosts
            .far
            .ip(&format!("route add 10.1.1.0/24 dev {}", far.interface()))?;
        let narrow = format!("route replace 198.51.100.0/24 dev wan1 mtu {NARROW}");
        hosts.far.ip(&narrow)?;
        let culvert = hosts.start(scenario, &far_keys.public)?;

        scenario.say("the far end calls: its handshake comes in fragments");
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&hosts.far, "10.1.1.10", 1, "").ok())
        })?;
        let created = || Counters::of(&hosts.far)?.count("IpFragCreates");
        ensure!(created()? >= 2, "nothing was cut");

        for shuffled in [false, true] {
            hosts.bridge.shuffle(shuffled);
            scenario.say(format!("datagrams, shuffled: {shuffled}"));
            let before = (created()?, received(&culvert)?);
            let arrived = flow(&hosts)?;
            let after = (created()?, received(&culvert)?);
            ensure!(arrived == NUMBERS, "{arrived} of {NUMBERS} arrived");
            // 1,200 bytes and the headers of two IP packets, a tunnel's and UDP's, in pieces of 80.
            let cut = after.0 - before.0;
            ensure!(cut >= u64::from(NUMBERS) * 16, "{cut} fragments");
            let whole = after.1 - before.1;
            ensure!(whole >= u64::from(NUMBERS), "{whole} datagrams received");
            ping(&hosts.far, "10.1.1.10", 20, "-s 1300")?;
            ping(&hosts.near, "10.9.1.10", 20, "-s 1300")?;
        }
        ensure!(hosts.bridge.displaced() > 1_000, "nothing was shuffled");
        let drops = culvert.drops()?;
        let lost: Vec<_> = drops
            .iter()
            .filter(|(name, _)| name.contains("fragment") || name.contains("reassembly"))
            .collect();
        ensure!(lost.is_empty(), "{lost:?}");
        Ok(())
    })
}

const NUMBERS: u32 = 300;

/// Sends numbers from the far end, a few ahead of what has come: no queue is too short for them, on however busy a machine.
/// Answers how many of them came.
fn flow(hosts: &Hosts) -> Result<u32> {
    const AHEAD: u32 = 8;
    let taker = hosts
        .near
        .enter(|| Ok(UdpSocket::bind("10.1.1.10:7777")?))?;
    taker.set_read_timeout(Some(Duration::from_secs(2)))?;
    let giver = hosts.far.enter(|| Ok(UdpSocket::bind("10.9.1.10:0")?))?;
    giver.connect("10.1.1.10:7777")?;
    let (mut sent, mut came, mut bytes) = (0, BTreeSet::new(), [0; 2_000]);
    loop {
        while sent < NUMBERS.min(u32::try_from(came.len())? + AHEAD) {
            let mut datagram = [7; 1_200];
            datagram[..4].copy_from_slice(&sent.to_be_bytes());
            giver.send(&datagram)?;
            sent += 1;
        }
        let Ok(len) = taker.recv(&mut bytes) else {
            break;
        };
        if let (1_200, Some(number)) = (len, bytes.first_chunk()) {
            came.insert(u32::from_be_bytes(*number));
        }
        if came.len() == NUMBERS as usize {
            break;
        }
    }
    Ok(u32::try_from(came.len())?)
}

/// Datagrams that the uplink received.
fn received(culvert: &Culvert) -> Result<u64> {
    let show = culvert.show()?;
    let count = show.pointer("/uplinks/0/rx/packets");
    Ok(count.and_then(serde_json::Value::as_u64).unwrap_or(0))
}

#[test]
fn long_pings_to_a_dpdk_uplink_are_answered() -> Result<()> {
    Scenario::run("fragments_pings", &PARTS[..2], |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let nobody = Keys::generate(scenario, "nobody")?;
        let mut culvert = hosts.start(scenario, &nobody.public)?;
        eventually("an answer of the uplink", PATIENCE, || {
            Ok(ping(&hosts.far, "198.51.100.7", 1, "").ok())
        })?;
        let reassembled = || -> Result<[u64; 2]> {
            let counters = Counters::of(&hosts.far)?;
            Ok([
                counters.count("IpReasmOKs")?,
                counters.count("Ip6ReasmOKs")?,
            ])
        };
        for shuffled in [false, true] {
            hosts.bridge.shuffle(shuffled);
            for size in [
                1, 8, 100, 1_452, 1_453, 1_472, 1_473, 3_000, 9_999, 20_000, 40_001, 65_000,
            ] {
                scenario.say(format!("{size} bytes, shuffled: {shuffled}"));
                let before = reassembled()?;
                for address in ["198.51.100.7", "2001:db8:1::7"] {
                    ping(
                        &hosts.far,
                        address,
                        5,
                        &format!("-M dont -i 0.05 -s {size}"),
                    )?;
                }
                let after = reassembled()?;
                let cut = [size > 1_472, size > 1_452];
                for family in [0, 1] {
                    let grown = after[family] - before[family];
                    ensure!(
                        grown >= if cut[family] { 5 } else { 0 },
                        "{grown} replies of {size} bytes came in fragments"
                    );
                }
            }
        }
        ensure!(hosts.bridge.displaced() > 500, "nothing was shuffled");
        culvert.process().must_run()
    })
}
