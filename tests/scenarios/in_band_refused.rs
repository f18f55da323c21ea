//! What an uplink serves by itself is for those outside: nobody reaches it through a tunnel, or from a guest's port.
//!
//! ```text
//!   near: t0 10.1.1.10 ── Culvert ── wan0 192.0.2.7, .8 ═══ 192.0.2.2 :far: Linux, wireguard-go 10.9.1.10
//!                            └──────── tunnel, by 192.0.2.7 ─────────────────────┘
//! ```
//!
//! Both ends send what is for 192.0.2.8 into the tunnel or to the gateway, as whoever wants to get in would.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Scenario, Veth, WireguardGo, eventually, ping,
};

use super::in_band::{certificates, curl};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const PATIENCE: Duration = Duration::from_secs(40);
/// For an answer that must not come.
const SILENCE: Duration = Duration::from_secs(2);
/// The API's, metrics', echo, and one of nobody's, which would be refused by whoever has the address.
const TCP: [u16; 4] = [9443, 9587, 7, 22];

fn yaml(scenario: &Scenario, keys: &[Keys; 2]) -> String {
    let folder = scenario.scratch().display();
    let [own, other] = keys;
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         api:\n  tls:\n    certificate: {folder}/own.pem\n    key: {folder}/own.key\n    client_ca: {folder}/ca.pem\n    \
         roles: {{ ops.test: write }}\n\
         uplinks:\n  wan:\n    driver: dpdk\n    device: \"net_af_packet0,iface=wan0\"\n    \
         addresses: [192.0.2.7/24, 192.0.2.8/24, \"2001:db8::8/64\"]\n    \
         api: {{ allow: [0.0.0.0/0, \"::/0\"] }}\n    metrics: {{ allow: [0.0.0.0/0, \"::/0\"] }}\n    \
         responder: {{ allow: [0.0.0.0/0, \"::/0\"] }}\n\
         tunnels:\n  wg0: {{ uplink: wan, listen_port: 51820, uapi: off, private_key_file: {}, \
         peers: {{ far: {{ public_key: \"{}\", allowed_ips: [10.9.1.0/24, \"fd00:9::/64\"], endpoint: \"192.0.2.2:51820\" }} }} }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: [10.1.1.1/24, \"fd00:1::1/64\"] }} }}\n\
         ports: {{ t0: {{ driver: tun, network: n, addresses: [10.1.1.10, \"fd00:1::10\"] }} }}\n",
        own.private_file.display(),
        other.public
    )
}

/// Nobody there takes a connection, refuses one, or answers a datagram or a ping.
fn is_nobody(from: &Namespace, address: &str) -> Result<()> {
    let at = |port: u16| -> Result<SocketAddr> { Ok(SocketAddr::new(address.parse()?, port)) };
    for port in TCP {
        let to = at(port)?;
        let tried = from.enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)))?;
        match tried {
            Ok(_) => bail!("{to} took a connection"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                bail!("{to} refused a connection: somebody is there")
            }
            // Silence, or a router's word that no way leads there.
            Err(_) => {}
        }
    }
    let to = at(7)?;
    let answer = from.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.send_to(b"anybody?", to)?;
        Ok(socket.recv_from(&mut [0; 64]))
    })?;
    ensure!(answer.is_err(), "{to} answered");
    ensure!(ping(from, address, 1, "").is_err(), "{address} was pinged");
    Ok(())
}

#[test]
fn nobody_reaches_what_an_uplink_serves_from_inside() -> Result<()> {
    let name = "nobody_reaches_what_an_uplink_serves_from_inside";
    Scenario::run(name, &PARTS, |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        wire.address(&far, "192.0.2.2/24")?;
        wire.address(&far, "2001:db8::2/64")?;
        certificates(scenario)?;
        let keys = [
            Keys::generate(scenario, "near")?,
            Keys::generate(scenario, "far")?,
        ];
        let inside = ["10.9.1.10/24", "fd00:9::10/64"];
        let peer = WireguardGo::start(scenario, &far, &keys[1], 51820, &inside, 1280)?;
        let behind = [
            "10.1.1.0/24",
            "fd00:1::/64",
            "192.0.2.8/32",
            "2001:db8::8/128",
        ];
        peer.peer(&far, &keys[0], None, &behind, None)?;
        let mut culvert = Culvert::start(scenario, "near", Some(&near), &yaml(scenario, &keys))?;
        near.ip("route replace 10.9.1.0/24 dev t0")?;
        near.ip("-6 route replace fd00:9::/64 dev t0")?;
        eventually("an answer through the tunnel", PATIENCE, || {
            Ok(ping(&near, "10.9.1.10", 1, "").ok())
        })?;
        ping(&near, "fd00:9::10", 3, "")?;

        scenario.say("outside it answers");
        eventually("metrics by the uplink", PATIENCE, || {
            let asked = curl(scenario, &far, "http://192.0.2.7:9587/metrics")?;
            Ok((asked.0 == "200").then_some(()))
        })?;

        scenario.say("a peer tries from inside the tunnel");
        let lost =
            |name: &str| -> Result<u64> { Ok(culvert.drops()?.get(name).copied().unwrap_or(0)) };
        let mut before = lost("no-route")?;
        for address in ["192.0.2.8", "2001:db8::8"] {
            let way = far.ip(&format!("route get {address}"))?;
            ensure!(way.contains(peer.interface()), "{way}");
            is_nobody(&far, address).context("through the tunnel")?;
            let now = lost("no-route")?;
            // Four SYNs at least, a datagram, a ping.
            ensure!(
                now >= before + 6,
                "{before}, then {now}: {:?}",
                culvert.drops()?
            );
            before = now;
        }

        scenario.say("a guest tries");
        near.ip("route add 192.0.2.8 via 10.1.1.1 dev t0")?;
        near.ip("-6 route add 2001:db8::8 via fd00:1::1 dev t0")?;
        for address in ["192.0.2.8", "2001:db8::8"] {
            let way = near.ip(&format!("route get {address}"))?;
            ensure!(way.contains("dev t0"), "{way}");
            is_nobody(&near, address).context("from a guest's port")?;
            let now = lost("no-route")?;
            ensure!(
                now >= before + 6,
                "{before}, then {now}: {:?}",
                culvert.drops()?
            );
            before = now;
        }
        for silent in ["host-tcp-not-allowed", "host-tcp-port-closed"] {
            ensure!(
                lost(silent)? == 0,
                "it came to the stack: {:?}",
                culvert.drops()?
            );
        }
        scenario.say("and outside it answers still");
        let asked = curl(scenario, &far, "http://192.0.2.7:9587/metrics")?;
        ensure!(asked.0 == "200", "{asked:?}");
        culvert.process().must_run()
    })
}
