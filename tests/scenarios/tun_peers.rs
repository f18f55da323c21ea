//! Peers, keys and allowed IPs, changed by `wg` while packets flow.
//!
//! ```text
//!   b: tun 10.0.0.2 ── wan0 192.0.2.2 ═══ wan0 192.0.2.1 ── a: tun 10.0.0.1 ── wan1 198.51.100.1 ═══ eth0 198.51.100.3 ── tun 10.0.0.3 :c
//! ```

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    End, GUEST_MTU, Keys, Namespace, Outer, Pair, Part, Program, Scenario, Tunnel, eventually,
    key_file, key_text, ping, socket,
};

const COMMAND: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(15);

fn parts() -> Vec<Part> {
    Program::under_test().parts()
}

fn us() -> [Program; 2] {
    [Program::under_test(); 2]
}

/// Whether a datagram sent in one namespace arrives at an address in another.
fn passes(from: &Namespace, to: &Namespace, address: &str) -> Result<bool> {
    let receiver = to.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    let sender = from.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    sender.send_to(b"X", receiver.local_addr()?)?;
    Ok(receiver.recv(&mut [0; 8]).is_ok())
}

/// A packet is taken from the peer that its source address belongs to, and from no other.
#[test]
fn a_more_specific_peer_steals_a_prefix() -> Result<()> {
    let name = "a_more_specific_peer_steals_a_prefix";
    Scenario::run(name, &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);
        pair.meet(Outer::V6)?;
        a.tunnel
            .set(&format!("peer {} allowed-ips 10.0.0.0/24", b.public()))?;
        b.wait_ping("10.0.0.1", FIRST)?;
        ensure!(passes(&b.namespace, &a.namespace, "10.0.0.1")?);

        let thief = Keys::generate(scenario, "thief")?;
        a.tunnel
            .set(&format!("peer {} allowed-ips 10.0.0.2/32", thief.public))?;
        b.tunnel.set("listen-port 9997")?;
        ensure!(!passes(&b.namespace, &a.namespace, "10.0.0.1")?);
        // What is authentic moves the endpoint, whatever it carries.
        ensure!(a.tunnel.endpoint(b.public())? == "[2001:db8::2]:9997");
        a.tunnel.set(&format!("peer {} remove", thief.public))?;
        ensure!(passes(&b.namespace, &a.namespace, "10.0.0.1")?);
        Ok(())
    })
}

/// A prefix moves from peer to peer under traffic, and peers are removed and come back under traffic.
#[test]
fn prefixes_move_and_peers_go_under_traffic() -> Result<()> {
    let name = "prefixes_move_and_peers_go_under_traffic";
    Scenario::run(name, &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);
        let c = End::make(scenario, "c", Program::under_test(), 51823)?;
        a.namespace.ip(&format!(
            "link add wan1 type veth peer name eth0 netns {}",
            c.namespace.name()
        ))?;
        for (namespace, device, address) in [
            (&a.namespace, "wan1", "198.51.100.1/24"),
            (&c.namespace, "eth0", "198.51.100.3/24"),
        ] {
            namespace.ip(&format!("address add {address} dev {device}"))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        c.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.1/32 endpoint 198.51.100.1:51821",
            a.public()
        ))?;
        c.tunnel.up(
            &c.namespace,
            &["10.0.0.3/24".to_owned(), "10.0.0.9/32".to_owned()],
            GUEST_MTU,
        )?;
        b.tunnel
            .up(&b.namespace, &["10.0.0.9/32".to_owned()], GUEST_MTU)?;
        a.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.3/32 endpoint 198.51.100.3:51823",
            c.public()
        ))?;
        pair.meet(Outer::V4)?;
        a.wait_ping("10.0.0.2", FIRST)?;
        a.wait_ping("10.0.0.3", FIRST)?;

        scenario.say("10.0.0.9 is b's, then c's, then b's, with pings all the while");
        let sent_to = |end: &End| -> Result<u64> { Ok(a.tunnel.transfer(end.public())?.1) };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let noise = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let words = ["ping", "-q", "-f", "-c", "200", "-W", "1", "10.0.0.9"];
                    // Those that cross a move may be lost.
                    let _ = a.namespace.run(&words, COMMAND);
                }
            });
            let moves = || -> Result<()> {
                for _ in 0..5 {
                    for (owner, other, own) in [(b, &c, "10.0.0.2"), (&c, b, "10.0.0.3")] {
                        a.tunnel.set(&format!(
                            "peer {} allowed-ips {own}/32,10.0.0.9/32",
                            owner.public()
                        ))?;
                        let others = a.tunnel.field("allowed-ips", other.public())?;
                        ensure!(!others.contains("10.0.0.9"), "still the other's: {others}");
                        let (before, idle) = (sent_to(owner)?, sent_to(other)?);
                        ping(&a.namespace, "10.0.0.9", 10, "")?;
                        ensure!(
                            sent_to(owner)? >= before + 10 * 128,
                            "not sent to its owner"
                        );
                        // A keepalive at most, and what was on its way.
                        let strays = sent_to(other)? - idle;
                        ensure!(strays < 10 * 128, "{strays} bytes for the other one");
                    }
                }
                Ok(())
            };
            let outcome = moves();
            stop.store(true, Ordering::Relaxed);
            ensure!(noise.join().is_ok());
            outcome
        })?;

        scenario.say("b's source is refused where c owns it");
        let receiver = a.namespace.enter(|| Ok(UdpSocket::bind("10.0.0.1:0")?))?;
        receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        let sender = b.namespace.enter(|| Ok(UdpSocket::bind("10.0.0.9:0")?))?;
        sender.send_to(b"X", receiver.local_addr()?)?;
        ensure!(
            receiver.recv(&mut [0; 8]).is_err(),
            "a stolen source passed"
        );

        scenario.say("b is removed and comes back, three times, while it sends and is sent to");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let flood = |from: &Namespace, to: &'static str| -> Result<()> {
                let socket = from.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        // Unreachable while the peer is gone.
                        let _ = socket.send_to(&[0; 1200], to);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            };
            let floods = [
                scope.spawn(move || flood(&a.namespace, "10.0.0.2:9")),
                scope.spawn(move || flood(&b.namespace, "10.0.0.1:9")),
            ];
            let rounds = || -> Result<()> {
                for _ in 0..3 {
                    a.tunnel.set(&format!("peer {} remove", b.public()))?;
                    ensure!(!a.tunnel.peers()?.contains(&b.keys.public));
                    thread::sleep(Duration::from_millis(50));
                    let received = b.tunnel.transfer(a.public())?.0;
                    thread::sleep(Duration::from_millis(300));
                    let later = b.tunnel.transfer(a.public())?.0;
                    ensure!(
                        later == received,
                        "{} bytes to a removed peer",
                        later - received
                    );
                    ping(&a.namespace, "10.0.0.3", 5, "")?;
                    a.tunnel.set(&format!(
                        "peer {} preshared-key {} allowed-ips 10.0.0.2/32 endpoint {}",
                        b.public(),
                        pair.preshared.display(),
                        socket(Outer::V4, 2, b.port)
                    ))?;
                    a.wait_ping("10.0.0.2", FIRST)?;
                }
                Ok(())
            };
            let outcome = rounds();
            stop.store(true, Ordering::Relaxed);
            for flood in floods {
                ensure!(flood.join().is_ok_and(|done| done.is_ok()));
            }
            outcome
        })
    })
}

/// A new private key counts at once; retransmissions and keepalives keep their times after it.
#[test]
fn timers_go_on_after_a_new_private_key() -> Result<()> {
    let name = "timers_go_on_after_a_new_private_key";
    Scenario::run(name, &parts(), |scenario| {
        let pair = Pair::lay(scenario, us())?;
        let (a, b) = (&pair.a, &pair.b);
        pair.meet(Outer::V4)?;
        a.wait_ping("10.0.0.2", FIRST)?;

        scenario.say("both sides know of the change: no ping is lost");
        let next = Keys::generate(scenario, "a2")?;
        let psk = pair.preshared.display();
        a.tunnel
            .set(&format!("private-key {}", next.private_file.display()))?;
        b.tunnel.set(&format!(
            "peer {} preshared-key {psk} allowed-ips 10.0.0.1/32,fd00::1/128 peer {} remove",
            next.public,
            a.public()
        ))?;
        a.wait_ping("10.0.0.2", FIRST)?;
        ping(&b.namespace, "10.0.0.1", 3, "")?;
        ensure!(a.tunnel.show(&["public-key"])?.trim() == next.public);

        scenario
            .say("b hears of the next change three seconds late: a's second initiation finds it");
        let last = Keys::generate(scenario, "a3")?;
        a.tunnel
            .set(&format!("private-key {}", last.private_file.display()))?;
        let mut waiting = a.namespace.program("ping");
        waiting.args(["-q", "-c", "1", "-W", "12", "10.0.0.2"]);
        let waiting = thread::spawn(move || culvert_tests::run(&mut waiting, COMMAND));
        thread::sleep(Duration::from_secs(3));
        ensure!(b.tunnel.transfer(&next.public).is_ok());
        b.tunnel.set(&format!(
            "peer {} preshared-key {psk} allowed-ips 10.0.0.1/32,fd00::1/128 peer {} remove",
            last.public, next.public
        ))?;
        // The ping was staged meanwhile, and goes out with the key.
        let answer = waiting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(answer.contains(" 1 received"), "{answer}");

        scenario.say("b sends and a says nothing: a keepalive after ten seconds");
        let sender = b.namespace.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        // Nobody listens, and a must not say so.
        let silent = a.namespace.enter(|| Ok(UdpSocket::bind("10.0.0.1:0")?))?;
        let (before, _) = b.tunnel.transfer(&last.public)?;
        sender.send_to(b"X", silent.local_addr()?)?;
        thread::sleep(Duration::from_secs(8));
        ensure!(
            b.tunnel.transfer(&last.public)?.0 == before,
            "a spoke too early"
        );
        eventually("the keepalive", Duration::from_secs(5), || {
            Ok((b.tunnel.transfer(&last.public)?.0 == before + 32).then_some(()))
        })
    })
}

/// One namespace, one interface that talks to nobody: what is set is what is shown.
#[test]
fn what_is_set_is_what_is_shown() -> Result<()> {
    Scenario::run("what_is_set_is_what_is_shown", &parts(), |scenario| {
        let namespace = Namespace::make("solo")?;
        let start = || Tunnel::start(scenario, &namespace, Program::under_test());
        let keys = [
            Keys::generate(scenario, "1")?,
            Keys::generate(scenario, "2")?,
        ];
        let peer = &keys[1].public;
        let count = |text: &str| text.split_whitespace().count();

        scenario.say("130,560 allowed IPs of one peer");
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\n",
            key_text(&keys[0].private_file)?
        );
        writeln!(text, "[Peer]\nPublicKey = {peer}")?;
        for a in 1..=255 {
            for b in 0..=255 {
                writeln!(text, "AllowedIPs = {a}.{b}.0.0/16, {a}::{b}/128")?;
            }
        }
        let tunnel = start()?;
        tunnel.conf(scenario, "setconf", &text)?;
        let shown = tunnel.show(&["allowed-ips"])?;
        ensure!(count(&shown) == 255 * 256 * 2 + 1, "{}", count(&shown));
        drop(tunnel);

        scenario.say("40 peers with 52 each, 30 with one of them owning anything, 197 on one");
        let tunnel = start()?;
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\n",
            key_text(&keys[0].private_file)?
        );
        for a in 1..=40 {
            writeln!(text, "[Peer]\nPublicKey = {}", invented(a))?;
            for b in 1..=52 {
                writeln!(text, "AllowedIPs = {a}.{b}.0.0/16")?;
            }
        }
        tunnel.conf(scenario, "setconf", &text)?;
        let shown = tunnel.show(&["allowed-ips"])?;
        ensure!(shown.lines().count() == 40);
        ensure!(shown.lines().all(|line| count(line) == 53), "{shown}");
        let mut text = String::new();
        for a in 1..=30 {
            writeln!(text, "[Peer]\nPublicKey = {}", invented(a))?;
        }
        writeln!(text, "AllowedIPs = 255.2.3.4/32, abcd::255/128")?;
        tunnel.conf(scenario, "setconf", &text)?;
        ensure!(tunnel.peers()?.len() == 30);
        ensure!(tunnel.show(&["private-key"])?.trim() == "(none)");
        let last = tunnel.field("allowed-ips", &invented(30))?;
        ensure!(last.contains("255.2.3.4/32") && count(&last) == 2, "{last}");
        let many: Vec<String> = (1..=197).map(|i| format!("abcd::{i}")).collect();
        tunnel.set(&format!("peer {peer} allowed-ips {}", many.join(",")))?;
        ensure!(count(&tunnel.field("allowed-ips", peer)?) == 197);
        ensure!(tunnel.field("allowed-ips", &invented(1))? == "(none)");

        scenario.say("keys are set and cleared");
        let tunnel = start()?;
        let psk = keys[0].preshared(scenario)?;
        let private = key_text(&keys[0].private_file)?;
        tunnel.set(&format!(
            "private-key {} peer {peer} preshared-key {}",
            keys[0].private_file.display(),
            psk.display()
        ))?;
        ensure!(tunnel.show(&["private-key"])?.trim() == private);
        ensure!(tunnel.field("preshared-keys", peer)? == key_text(&psk)?);
        tunnel.set(&format!(
            "private-key /dev/null peer {peer} preshared-key /dev/null"
        ))?;
        ensure!(tunnel.show(&["private-key"])?.trim() == "(none)");
        ensure!(tunnel.field("preshared-keys", peer)? == "(none)");

        scenario.say("nobody is their own peer");
        tunnel.set(&format!("private-key {}", keys[1].private_file.display()))?;
        ensure!(tunnel.show(&["public-key"])?.trim() == peer);
        ensure!(tunnel.peers()?.is_empty());
        tunnel.set(&format!("peer {peer}"))?;
        ensure!(tunnel.peers()?.is_empty());
        tunnel.set(&format!("private-key {}", keys[0].private_file.display()))?;
        tunnel.set(&format!("peer {peer}"))?;
        ensure!(tunnel.peers()?.as_slice() == std::slice::from_ref(peer));

        scenario.say("a key is clamped: its lowest three bits don't count");
        let raised = format!("/{}", &private[1..]);
        let file = key_file(scenario, "raised.key", &raised)?;
        tunnel.set(&format!("private-key {}", file.display()))?;
        let shown = tunnel.show(&["private-key"])?;
        ensure!(shown.trim() == format!("+{}", &private[1..]), "{shown}");

        scenario.say("prefixes within prefixes, replaced");
        for (set, kept) in [
            (
                "0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16",
                5,
            ),
            ("0.0.0.0/0", 1),
            ("::/0,1700::/111,5000::/4,e000::/37,9000::/75", 5),
            ("::/0", 1),
            ("10.1.2.3/8,10.0.0.0/8", 1),
        ] {
            tunnel.set(&format!("peer {peer} allowed-ips {set}"))?;
            let shown = tunnel.field("allowed-ips", peer)?;
            ensure!(count(&shown) == kept, "{set} became {shown}");
        }
        tunnel.set(&format!("peer {peer} remove"))?;
        ensure!(tunnel.peers()?.is_empty());

        scenario.say("points of low order: peers to whom nothing is ever sent");
        namespace.ip("address add 192.0.2.1/24 dev lo")?;
        let sink = namespace.enter(|| Ok(UdpSocket::bind("192.0.2.1:1111")?))?;
        sink.set_read_timeout(Some(Duration::from_secs(2)))?;
        for point in [
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
            "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
            "7P///////////////////////////////////////38=",
            "7f///////////////////////////////////////38=",
            "7v///////////////////////////////////////38=",
        ] {
            tunnel.set(&format!(
                "peer {point} persistent-keepalive 1 endpoint 192.0.2.1:1111"
            ))?;
        }
        ensure!(!tunnel.peers()?.is_empty());
        tunnel.up(&namespace, &[], GUEST_MTU)?;
        let heard = sink.recv(&mut [0; 200]);
        ensure!(heard.is_err(), "{heard:?} bytes to a point of low order");
        // The sink does hear: an honest key's initiation arrives.
        tunnel.set(&format!(
            "peer {peer} persistent-keepalive 1 endpoint 192.0.2.1:1111"
        ))?;
        let heard = sink
            .recv(&mut [0; 200])
            .context("an honest peer's initiation")?;
        ensure!(heard == 148, "{heard}");
        Ok(())
    })
}

/// A public key that nobody has the private key of.
fn invented(number: u8) -> String {
    use std::process::Command;
    let bytes = [number; 32].map(|byte| format!("\\{byte:03o}")).concat();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("printf '{bytes}' | base64 | wg pubkey")]);
    culvert_tests::run(&mut command, COMMAND)
        .map_or_else(|_| String::new(), |key| key.trim().to_owned())
}
