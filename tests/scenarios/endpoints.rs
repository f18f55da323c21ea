//! Where peers are: names that change, interfaces that are made anew, peers that are silent, callers that are none.
//!
//! ```text
//!   a: t0 10.9.0.1 ── culvert ── wan0 192.0.2.1 ═══ 192.0.2.2, .3 wan0 ── culvert ── t0 10.9.0.2 :b
//! ```
//!
//! `a` has a name server of its own, on its loopback.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, Veth, culvert_binary, eventually, run,
};
use culvert_wireguard::{PublicKey, cookie::Mac1};

const PARTS: [Part; 2] = [Part::Root, Part::Tun];
const COMMAND: Duration = Duration::from_secs(30);
/// How long something that must happen may take, on a machine that is busy: a few calls, 5 s apart.
const PATIENCE: Duration = Duration::from_secs(60);

struct Hosts {
    a: Namespace,
    b: Namespace,
    keys: [Keys; 2],
}

impl Hosts {
    fn lay(scenario: &Scenario) -> Result<Self> {
        let hosts = Self {
            a: Namespace::make("a")?,
            b: Namespace::make("b")?,
            keys: [
                Keys::generate(scenario, "a")?,
                Keys::generate(scenario, "b")?,
            ],
        };
        hosts.cable()?;
        Ok(hosts)
    }

    fn cable(&self) -> Result<()> {
        let cable = Veth::join(&self.a, &self.b)?;
        cable.address(&self.a, "192.0.2.1/24")?;
        cable.address(&self.b, "192.0.2.2/24")?;
        cable.address(&self.b, "192.0.2.3/24")
    }

    /// A host's file; `uplink` and `peer` are further keys.
    fn yaml(&self, side: usize, uplink: &str, peer: &str) -> String {
        let (near, far) = (&self.keys[side], &self.keys[1 - side]);
        let (own, other) = (side + 1, 2 - side);
        format!(
            "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ wan0: {{ driver: udp{uplink} }} }}\n\
             tunnels:\n  wg0:\n    uplink: wan0\n    listen_port: 51820\n    private_key_file: {}\n    \
             peers: {{ far: {{ public_key: \"{}\", allowed_ips: [10.9.0.{other}/32]{peer} }} }}\n\
             networks: {{ host: {{ tunnel: wg0 }} }}\n\
             ports: {{ t0: {{ driver: tun, network: host, addresses: [10.9.0.{own}] }} }}\n",
            near.private_file.display(),
            far.public,
        )
    }

    fn start(&self, scenario: &Scenario, side: usize, yaml: &str) -> Result<Culvert> {
        let (name, namespace) = [("a", &self.a), ("b", &self.b)][side];
        let culvert = Culvert::start(scenario, name, Some(namespace), yaml)?;
        namespace.ip("route add 10.9.0.0/24 dev t0")?;
        Ok(culvert)
    }

    /// Waits until `a` gets an answer from `b` through the tunnel.
    fn pass(&self) -> Result<()> {
        let ping = ["ping", "-q", "-c", "1", "-W", "1", "10.9.0.2"];
        eventually("a ping through the tunnel", PATIENCE, || {
            Ok(self.a.run(&ping, COMMAND).ok().map(drop))
        })
    }
}

fn peer(culvert: &Culvert) -> Result<serde_json::Value> {
    Ok(culvert.show()?["peers"][0].clone())
}

/// A name server: every name has the addresses that the test says; until it says any, there is no answer.
struct NameServer {
    addresses: Arc<Mutex<Option<Addresses>>>,
    /// The namespace's own `/etc/resolv.conf`, which `ip netns exec` puts in place.
    folder: PathBuf,
}

type Addresses = (Vec<Ipv6Addr>, Vec<Ipv4Addr>);

impl NameServer {
    fn start(namespace: &Namespace) -> Result<Self> {
        let folder = PathBuf::from("/etc/netns").join(namespace.name());
        fs::create_dir_all(&folder)?;
        let server = Self {
            addresses: Arc::default(),
            folder,
        };
        let text = "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n";
        fs::write(server.folder.join("resolv.conf"), text)?;
        let socket = namespace.enter(|| Ok(UdpSocket::bind("127.0.0.1:53")?))?;
        let addresses = Arc::clone(&server.addresses);
        // It ends with the test's process.
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                let known = addresses.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = known
                    .as_ref()
                    .and_then(|known| answer(&query[..len], known));
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(server)
    }

    fn say(&self, v6: &[Ipv6Addr], v4: &[Ipv4Addr]) {
        let mut known = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some((v6.to_vec(), v4.to_vec()));
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        // Gone if nobody else uses it.
        let _ = fs::remove_dir("/etc/netns");
    }
}

/// RFC 1035, section 4: the header, the question as it came, and a record for each address.
fn answer(query: &[u8], (v6, v4): &Addresses) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = query.get(12..end + 5)?;
    let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let records: Vec<Vec<u8>> = match kind {
        1 => v4.iter().map(|a| a.octets().to_vec()).collect(),
        28 => v6.iter().map(|a| a.octets().to_vec()).collect(),
        _ => Vec::new(),
    };
    let count = u8::try_from(records.len()).ok()?;
    let mut message = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
    message.extend_from_slice(question);
    for record in records {
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        // Class IN, to be kept for no time.
        message.extend([0, 1, 0, 0, 0, 0, 0, u8::try_from(record.len()).ok()?]);
        message.extend(record);
    }
    Some(message)
}

#[test]
fn a_name_is_found_late_and_followed() -> Result<()> {
    Scenario::run("a_name_is_found_late_and_followed", &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let names = NameServer::start(&hosts.a)?;
        let named = hosts.yaml(0, "", ", endpoint: far.test:51820");
        let mut a = hosts.start(scenario, 0, &named)?;
        // It listens where it is called, and answers from there.
        let at = |address| format!(", addresses: [{address}/24]");
        let mut b = hosts.start(scenario, 1, &hosts.yaml(1, &at("192.0.2.2"), ""))?;

        scenario.say("the name server is dead: the core answers all the same");
        eventually("a line about the name", PATIENCE, || {
            let told = a.process().log().contains("can't resolve");
            ensure!(peer(&a)?["endpoint"].is_null(), "it has an endpoint");
            Ok(told.then_some(()))
        })?;
        ensure!(peer(&a)?["state"] == "unknown", "{}", peer(&a)?);

        scenario.say("it answers: one address is dead, the other one alive");
        names.say(
            &[Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xdead)],
            &[Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 2)],
        );
        eventually("an endpoint", Duration::from_secs(100), || {
            Ok(peer(&a)?["endpoint"].is_string().then_some(()))
        })?;
        hosts.pass()?;
        ensure!(peer(&a)?["endpoint"] == "192.0.2.2:51820", "{}", peer(&a)?);

        scenario.say("the peer moves, and its name with it");
        b.stop(COMMAND)?;
        names.say(&[], &[Ipv4Addr::new(192, 0, 2, 3)]);
        let b = hosts.start(scenario, 1, &hosts.yaml(1, &at("192.0.2.3"), ""))?;
        hosts.pass()?;
        ensure!(peer(&a)?["endpoint"] == "192.0.2.3:51820", "{}", peer(&a)?);

        scenario.say("another name in the file, then none");
        a.apply(&hosts.yaml(0, "", ", endpoint: other.test:51821"))?;
        eventually("the other name's place", PATIENCE, || {
            let moved = peer(&a)?["endpoint"] == "192.0.2.3:51821";
            Ok(moved.then_some(()))
        })?;
        a.apply(&hosts.yaml(0, "", ", endpoint: 192.0.2.3:51820"))?;
        ensure!(peer(&a)?["endpoint"] == "192.0.2.3:51820", "{}", peer(&a)?);
        hosts.pass()?;
        drop(b);
        Ok(())
    })
}

#[test]
fn an_uplink_follows_an_interface_that_is_made_anew() -> Result<()> {
    let name = "an_uplink_follows_an_interface_that_is_made_anew";
    Scenario::run(name, &PARTS, |scenario| {
        for uplink in [
            ", device: wan0",
            ", addresses: [192.0.2.1/24]",
            ", device: wan0, addresses: [192.0.2.1/24]",
        ] {
            scenario.say(format!("uplink{uplink}"));
            let hosts = Hosts::lay(scenario)?;
            let to_b = ", endpoint: 192.0.2.2:51820, persistent_keepalive: 1s";
            let yaml = hosts.yaml(0, uplink, to_b);
            let yaml = yaml.replace("workers: 1", "workers: 2");
            let mut a = hosts.start(scenario, 0, &yaml)?;
            let b = hosts.start(scenario, 1, &hosts.yaml(1, "", ""))?;
            hosts.pass()?;
            let sockets = || {
                let listed = hosts.a.run(&["ss", "-Huln", "sport = :51820"], COMMAND)?;
                Ok::<_, anyhow::Error>(listed.lines().count())
            };
            let opened = sockets()?;
            let link =
                |a: &Culvert| Ok::<_, anyhow::Error>(a.show()?["uplinks"][0]["link_up"].clone());
            ensure!(link(&a)? == true);

            hosts.a.ip("link del wan0")?;
            let bound = uplink.contains("device");
            if bound {
                eventually("the uplink to be down", PATIENCE, || {
                    Ok((link(&a)? == false).then_some(()))
                })?;
            }
            hosts.cable()?;
            hosts.pass()?;
            ensure!(link(&a)? == true);
            // One for each worker and each lane, and the old ones are closed.
            let per_family = opened % 4 == 0;
            ensure!(per_family && sockets()? == opened, "{opened} sockets");
            let log = a.process().log();
            for said in ["the interface is gone", "bound to it anew"] {
                ensure!(log.matches(said).count() == usize::from(bound), "{log}");
            }
            drop(b);
        }
        Ok(())
    })
}

/// Programs that are put into another network namespace often keep the `/sys` of the one they came from, where the
/// interface of that name has another number.
#[test]
fn zones_are_those_of_the_daemons_own_network_namespace() -> Result<()> {
    let name = "zones_are_those_of_the_daemons_own_network_namespace";
    Scenario::run(name, &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        for (host, address) in [(&hosts.a, "fe80::a1"), (&hosts.b, "fe80::b2")] {
            host.sysctl("net.ipv6.conf.wan0.disable_ipv6=0")?;
            host.ip(&format!("address add {address}/64 dev wan0 nodad"))?;
        }
        let elsewhere = Namespace::make("c")?;
        elsewhere.ip("link add wan0 index 77 type veth peer name wan1")?;
        let shown = hosts.a.ip("-o link show dev wan0")?;
        let number = shown.split(':').next().unwrap_or_default();
        ensure!(number != "77", "{shown}");

        let _b = hosts.start(scenario, 1, &hosts.yaml(1, "", ""))?;
        // Sockets of all namespaces lie in one folder.
        let wg = format!("cvz{:x}", std::process::id());
        let yaml = hosts.yaml(0, ", device: wan0", ", endpoint: \"[fe80::b2%wan0]:51820\"");
        let yaml = yaml.replace(
            "    listen_port",
            &format!("    uapi: {wg}\n    listen_port"),
        );
        let file = scenario.path("zones.yaml");
        fs::write(&file, yaml)?;
        let run_dir = scenario.path("zones.run");
        let mut command = elsewhere.program("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", hosts.a.name()))
            .arg("--")
            .arg(culvert_binary()?)
            .args(["run", "-c"])
            .arg(&file)
            .arg("--run-dir")
            .arg(&run_dir);
        let mut a = Process::start("zones", scenario.scratch(), command)?;
        let endpoint = || -> Result<String> {
            let mut show = Command::new(culvert_binary()?);
            show.args(["show", "--json", "--run-dir"]).arg(&run_dir);
            let show: serde_json::Value = serde_json::from_str(&run(&mut show, COMMAND)?)?;
            Ok(show["peers"][0]["endpoint"].to_string())
        };
        eventually("the zone to be found", PATIENCE, || {
            a.must_run()?;
            Ok(endpoint().is_ok_and(|it| it != "null").then_some(()))
        })?;
        let at = |host: &str, port: u16| format!("\"[fe80::{host}%{number}]:{port}\"");
        ensure!(endpoint()? == at("b2", 51820), "{} {shown}", endpoint()?);
        hosts.a.ip("route add 10.9.0.0/24 dev t0")?;
        hosts.pass()?;

        scenario.say("the same by wg's protocol");
        let key = STANDARD.decode(&hosts.keys[1].public)?;
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        for (host, port) in [("b9", 7), ("b2", 51820)] {
            let mut socket = UnixStream::connect(format!("/var/run/wireguard/{wg}.sock"))?;
            let set = format!("set=1\npublic_key={key}\nendpoint=[fe80::{host}%wan0]:{port}\n\n");
            socket.write_all(set.as_bytes())?;
            let mut answer = [0; 9];
            socket.read_exact(&mut answer)?;
            ensure!(
                &answer == b"errno=0\n\n",
                "{}",
                String::from_utf8_lossy(&answer)
            );
            ensure!(endpoint()? == at(host, port), "{} {shown}", endpoint()?);
        }
        hosts.pass()
    })
}

#[test]
fn a_silent_peer_with_keepalives_is_told_of_once() -> Result<()> {
    let name = "a_silent_peer_with_keepalives_is_told_of_once";
    Scenario::run(name, &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let to_b = ", endpoint: 192.0.2.2:51820, persistent_keepalive: 25s";
        let mut a = hosts.start(scenario, 0, &hosts.yaml(0, "", to_b))?;
        eventually("a line about the silence", Duration::from_secs(100), || {
            Ok(a.process().log().contains("peer is silent").then_some(()))
        })?;
        ensure!(peer(&a)?["state"] == "silent", "{}", peer(&a)?);
        let b = hosts.start(scenario, 1, &hosts.yaml(1, "", ""))?;
        hosts.pass()?;
        ensure!(peer(&a)?["state"] == "up", "{}", peer(&a)?);
        let log = a.process().log();
        ensure!(log.matches("peer is silent").count() == 1, "{log}");
        ensure!(log.contains("192.0.2.2:51820"), "{log}");
        drop(b);
        Ok(())
    })
}

/// Handshake messages that are none, each kind a number of times: all of them are found under their names.
#[test]
fn bad_handshakes_are_counted_by_name() -> Result<()> {
    Scenario::run("bad_handshakes_are_counted_by_name", &PARTS, |scenario| {
        let hosts = Hosts::lay(scenario)?;
        let b = hosts.start(scenario, 1, &hosts.yaml(1, "", ""))?;
        let socket = hosts.a.enter(|| Ok(UdpSocket::bind("192.0.2.1:0")?))?;
        let key = STANDARD.decode(&hosts.keys[1].public)?;
        let mac1 = Mac1::new(&PublicKey::from_bytes(key[..].try_into()?));
        let message = |kind: u8, len: usize, authentic: bool| {
            let mut message = vec![0x5a; len];
            message[..4].copy_from_slice(&[kind, 0, 0, 0]);
            assert!(!authentic || mac1.fill(&mut message));
            message
        };
        // As many of each as come within a second's budget.
        let bad = [
            ("handshake-mac1-invalid", 5, message(1, 148, false)),
            ("handshake-undecryptable", 7, message(1, 148, true)),
            ("handshake-index-unknown", 11, message(2, 92, true)),
        ];
        let mut sent = BTreeMap::new();
        for (name, times, message) in &bad {
            for _ in 0..*times {
                socket.send_to(message, "192.0.2.2:51820")?;
            }
            sent.insert((*name).to_owned(), *times);
        }
        eventually("all of them under their names", PATIENCE, || {
            let mut drops = b.drops()?;
            drops.retain(|name, _| name.starts_with("handshake"));
            Ok((drops == sent).then_some(()))
        })
        .with_context(|| format!("{:?} instead of {sent:?}", b.drops()))
    })
}
