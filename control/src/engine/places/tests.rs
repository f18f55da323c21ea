//! Where peers are looked for, by a real engine: sockets of the loopback, a far end made of the protocol alone, and
//! time as the tests have it.

use std::{
    net::UdpSocket,
    path::{Path, PathBuf},
};

use culvert_dataplane::shared::clock;
use culvert_wireguard::{Config as DeviceConfig, Device, PeerConfig, PresharedKey, PrivateKey};
use rand_core::UnwrapErr;
use zeroize::Zeroizing;

use super::*;
use crate::engine::{names::ASK_AGAIN, resolver::LIFETIME, tests::report};
use crate::{
    api,
    config::{KeyFileError, KeyFiles, parse},
    process::RunDir,
};

/// A key file's text is its name's key.
struct Named;

impl KeyFiles for Named {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let name = path.file_name().unwrap().to_string_lossy();
        Ok(private(name.as_bytes()[0]).to_base64())
    }
}

fn private(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

/// One tunnel; each peer with its key's number and its endpoint.
fn config(peers: &[(u8, &str)]) -> crate::config::Config {
    let mut text = "version: 1\ncores: {workers: 1}\nmemory: {hugepages: off}\n\
         uplinks: {u: {driver: udp, addresses: [127.0.0.1/8]}}\n\
         networks: {n: {gateway: 10.9.0.1/24, tunnel: t}}\n\
         tunnels:\n  t:\n    uplink: u\n    listen_port: 1\n    private_key_file: t\n    uapi: off\n    peers:\n"
        .to_owned();
    for (n, endpoint) in peers {
        let key = private(*n).public_key().to_base64();
        text += &format!("      p{n}: {{public_key: \"{key}\", endpoint: \"{endpoint}\"}}\n");
    }
    let read = parse(&text, Path::new("/test.yaml"), &Named);
    let (mut config, _) = read.map_err(|report| report.render(false)).unwrap();
    // Any that is free: tests run beside each other.
    config.tunnels[0].listen_port = 0;
    config
}

/// An engine that knows of names what the test answers.
fn engine(peers: &[(u8, &str)], run_dir: Option<&RunDir>) -> Engine {
    let mut engine = asking_engine(peers, run_dir);
    engine.names.resolver.silent = Some(Vec::new());
    engine
}

/// An engine that asks the system.
fn asking_engine(peers: &[(u8, &str)], run_dir: Option<&RunDir>) -> Engine {
    let (requester, _) = api::channel().unwrap();
    Engine::start(config(peers), run_dir, requester, None).unwrap()
}

/// Of the one tunnel.
fn key(name: &str) -> Key {
    (0, name.into())
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Engine {
    fn apply_peers(&mut self, peers: &[(u8, &str)], now: Now) {
        let (_, tunnel) = self.tunnels.iter().next().unwrap();
        let port = tunnel.config.listen_port;
        let mut config = config(peers);
        config.tunnels[0].listen_port = port;
        self.apply_file(config, now).unwrap();
        self.round(now).unwrap();
    }

    /// What a resolver says.
    fn answer(&mut self, name: &str, addresses: &[&str], now: Now) {
        let addresses = addresses.iter().map(|a| at(&format!("{a}:0"))).collect();
        let found = Ok((addresses, LIFETIME));
        for slot in self.names.note(&key(name), found, now.monotonic) {
            self.seek(slot, now);
        }
        self.round(now).unwrap();
    }

    fn place_of(&self, n: u8) -> Option<SocketAddr> {
        let (_, tunnel) = self.tunnels.iter().next().unwrap();
        let id = tunnel.device.find(&private(n).public_key()).unwrap();
        tunnel.device.peer(id).unwrap().endpoint
    }

    /// Lets time pass as the core would: it is awake when something is due.
    fn pass(&mut self, mut now: Now, time: Duration) -> Now {
        let end = now.monotonic + time;
        while now.monotonic < end {
            let more = self.round(now).unwrap();
            if !more {
                self.note_due();
                let wakes = self.wakes_at(now.monotonic).max(now.monotonic).min(end);
                now.unix += wakes.since(now.monotonic);
                now.monotonic = wakes;
            }
        }
        now
    }
}

/// The far end of a tunnel at a place of its own.
struct Far {
    device: Device,
    socket: UdpSocket,
}

impl Far {
    fn new(n: u8) -> Self {
        let rng = Box::new(UnwrapErr(getrandom::SysRng));
        let mut device = Device::new(DeviceConfig::default(), Some(private(n)), rng);
        let peer = PeerConfig {
            public_key: private(b't').public_key(),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: None,
        };
        device.add_peer(peer, clock::now()).unwrap();
        Self {
            device,
            socket: place(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Answers the next handshake message.
    fn answer(&mut self) {
        let mut message = [0; 2_048];
        let (len, source) = self.socket.recv_from(&mut message).unwrap();
        self.device
            .handle_handshake(&message[..len], source, 0, clock::now());
        let response = self.device.poll_transmit().unwrap();
        self.socket.send_to(response.bytes(), source).unwrap();
    }
}

/// Where nobody answers.
fn place() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    socket
}

/// A run directory whose file says that peer `n`, configured so, was heard there.
fn remembering(
    n: u8,
    configured: &str,
    answer: &[&str],
    heard: &str,
) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    std::fs::create_dir(&path).unwrap();
    let key = format!("t/{}", private(n).public_key().to_base64());
    let entry =
        serde_json::json!({ "endpoint": heard, "configured": configured, "answer": answer });
    let text = serde_json::json!({ key: entry }).to_string();
    std::fs::write(path.join("endpoints.json"), text).unwrap();
    (folder, path)
}

#[test]
fn names_in_the_file_move_their_peers_and_what_was_before_is_forgotten() {
    let mut engine = engine(&[(1, "127.0.0.1:9")], None);
    let now = clock::now();
    assert_eq!(engine.place_of(1), Some(at("127.0.0.1:9")));
    engine.apply_peers(&[(1, "one.invalid:10")], now);
    // Until the answer there is nothing better.
    assert_eq!(engine.place_of(1), Some(at("127.0.0.1:9")));
    engine.answer("one.invalid", &["127.0.0.2", "127.0.0.3"], now);
    assert_eq!(engine.place_of(1), Some(at("127.0.0.2:10")));
    // The same name at another port, then another name.
    engine.apply_peers(&[(1, "one.invalid:11")], now);
    assert_eq!(engine.place_of(1), Some(at("127.0.0.2:11")));
    engine.apply_peers(&[(1, "two.invalid:11")], now);
    engine.answer("two.invalid", &["127.0.0.4"], now);
    assert_eq!(engine.place_of(1), Some(at("127.0.0.4:11")));
    engine.apply_peers(&[(1, "127.0.0.1:12")], now);
    assert_eq!(engine.place_of(1), Some(at("127.0.0.1:12")));
    assert!(engine.names.known.is_empty() && engine.names.due.is_empty());
    engine.stop();
}

#[test]
fn the_name_of_a_removed_peer_is_forgotten_and_asked_for_anew() {
    let mut engine = engine(&[(1, "one.invalid:10"), (2, "one.invalid:20")], None);
    let now = clock::now();
    engine.round(now).unwrap();
    engine.answer("one.invalid", &["127.0.0.2"], now);
    // The other is there still.
    engine.apply_peers(&[(2, "one.invalid:20")], now);
    assert_eq!(engine.names.known[&key("one.invalid")].peers.len(), 1);
    for _ in 0..3 {
        engine.apply_peers(&[], now);
        assert!(engine.names.known.is_empty() && engine.names.due.is_empty());
        engine.apply_peers(&[(1, "one.invalid:10")], now);
        assert_eq!(engine.place_of(1), None);
        engine.answer("one.invalid", &["127.0.0.3"], now);
        assert_eq!(engine.place_of(1), Some(at("127.0.0.3:10")));
    }
    engine.stop();
}

#[test]
fn a_name_that_is_not_found_is_asked_for_until_it_is() {
    let mut engine = engine(&[(1, "late.invalid:10"), (2, "late.invalid:20")], None);
    let now = clock::now();
    engine.round(now).unwrap();
    assert_eq!(engine.place_of(1), None);
    let mut pauses = Vec::new();
    let mut asked = now.monotonic;
    for _ in 0..9 {
        let late = key("late.invalid");
        engine.names.schedule(&late, asked);
        let answer = Err("no such name".into());
        assert!(engine.names.note(&late, answer, asked).is_empty());
        let due = engine.names.poll_timeout().unwrap();
        pauses.push(due.since(asked).as_secs());
        asked = due;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    engine.answer("late.invalid", &["127.0.0.1"], now);
    assert_eq!(engine.place_of(1), Some(at("127.0.0.1:10")));
    assert_eq!(engine.place_of(2), Some(at("127.0.0.1:20")));
    let due = engine.names.poll_timeout().unwrap();
    assert_eq!(due.since(now.monotonic), LIFETIME);
    engine.stop();
}

#[test]
fn an_answer_counts_for_its_lifetime_and_a_name_that_is_lost_keeps_its_places() {
    let mut engine = engine(&[(1, "one.invalid:10")], None);
    let mut now = clock::now();
    engine.round(now).unwrap();
    engine.answer("one.invalid", &["127.0.0.2", "127.0.0.3"], now);
    let asked = |engine: &Engine| engine.names.known[&key("one.invalid")].asked;
    let first = asked(&engine);
    // Nobody calls, and nobody is missed: it is asked for nevertheless, once.
    let due = engine.names.poll_timeout().unwrap();
    assert_eq!(due.since(now.monotonic), LIFETIME);
    now.monotonic = due;
    engine.ask_for_names(now.monotonic);
    assert!(asked(&engine) > first && engine.names.poll_timeout().is_none());
    let told = report(&mut engine).peers.remove(0).endpoint_name.unwrap();
    assert_eq!((&*told.name, &*told.state), ("one.invalid:10", "found"));
    assert_eq!(told.asked_in_s, None);
    // The same in another order concerns nobody.
    let mut note = |found: Result<Vec<SocketAddr>, String>| {
        let found = found.map(|addresses| (addresses, LIFETIME));
        let concerned = (engine.names).note(&key("one.invalid"), found, now.monotonic);
        concerned.len()
    };
    let same = vec![at("127.0.0.3:0"), at("127.0.0.2:0")];
    assert_eq!(note(Ok(same)), 0);
    assert_eq!(note(Ok(vec![at("127.0.0.4:0")])), 1);
    assert_eq!(note(Err("no such name".into())), 0);
    let told = report(&mut engine).peers.remove(0).endpoint_name.unwrap();
    assert_eq!(told.state, "failed");
    assert_eq!(told.error.as_deref(), Some("no such name"));
    assert_eq!(told.addresses, [at("127.0.0.4:0").ip()]);
    // What fails is asked for at its own time, whoever misses it.
    let due = engine.names.poll_timeout().unwrap();
    engine.names.doubt(&key("one.invalid"), now.monotonic);
    assert_eq!(engine.names.poll_timeout(), Some(due));
    engine.stop();
}

#[test]
fn a_peer_that_is_missed_has_its_name_asked_for_before_the_lifetime_ends() {
    let mut engine = engine(&[(1, "one.invalid:10")], None);
    let now = clock::now();
    engine.round(now).unwrap();
    engine.answer("one.invalid", &["127.0.0.2"], now);
    engine.names.doubt(&key("one.invalid"), now.monotonic);
    let due = engine.names.poll_timeout().unwrap();
    assert!(due.since(now.monotonic) <= ASK_AGAIN);
    engine.stop();
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let far = Far::new(1);
    let port = far.address().port();
    let mut engine = engine(&[(1, &format!("many.invalid:{port}"))], None);
    let now = clock::now();
    engine.round(now).unwrap();
    // The last of them is there.
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"];
    engine.answer("many.invalid", &addresses, now);
    assert_eq!(engine.place_of(1), Some(at(&format!("127.0.0.2:{port}"))));
    engine.pass(now, Duration::from_secs(30));
    // It is called there by then; the worker comes to it in its own time.
    let patience = Some(Duration::from_secs(60));
    far.socket.set_read_timeout(patience).unwrap();
    assert_eq!(far.socket.peek(&mut [0; 256]).unwrap(), 148);
    engine.stop();
}

#[test]
fn an_address_with_a_zone_is_that_of_this_namespaces_interface() {
    let text = "[fe80::1%lo]:10";
    let mut engine = asking_engine(&[(1, text)], None);
    let (_, peer) = engine.peers.iter().next().unwrap();
    assert_eq!(peer.configured_endpoint().unwrap(), text);
    // The resolver's own threads answer.
    while engine.place_of(1).is_none() {
        engine.round(clock::now()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let lo = crate::netlink::index_of("lo").unwrap();
    assert_eq!(engine.place_of(1), Some(at(&format!("[fe80::1%{lo}]:10"))));
    engine.stop();
}

#[test]
fn what_was_remembered_counts_as_long_as_its_name_stands_for_the_same() {
    let start = |answer: &[&str]| {
        let (_folder, path) = remembering(1, "one.invalid:10", &["127.0.0.2:10"], "127.0.0.9:10");
        let run_dir = RunDir::open(&path).unwrap();
        let mut engine = engine(&[(1, "one.invalid:10")], Some(&run_dir));
        let now = clock::now();
        engine.round(now).unwrap();
        // Without an answer, too.
        assert_eq!(engine.place_of(1), Some(at("127.0.0.9:10")));
        engine.answer("one.invalid", answer, now);
        let endpoint = engine.place_of(1).unwrap();
        engine.stop();
        endpoint
    };
    assert_eq!(start(&["127.0.0.2"]), at("127.0.0.9:10"));
    assert_eq!(start(&["127.0.0.3"]), at("127.0.0.3:10"));
}

#[test]
fn what_was_remembered_and_what_the_file_says_are_called_in_turn() {
    let (mut far, dead) = (Far::new(1), place());
    let configured = far.address().to_string();
    let heard = dead.local_addr().unwrap().to_string();
    let (_folder, path) = remembering(1, &configured, &[&configured], &heard);
    let run_dir = RunDir::open(&path).unwrap();
    let mut engine = engine(&[(1, &configured)], Some(&run_dir));
    let mut now = clock::now();
    assert_eq!(engine.place_of(1), Some(dead.local_addr().unwrap()));
    now = engine.pass(now, Duration::from_secs(7));
    assert_eq!(dead.recv(&mut [0; 2_048]).unwrap(), 148);
    far.answer();
    while engine.place_of(1) != Some(far.address()) {
        engine.round(now).unwrap();
    }
    assert_eq!(report(&mut engine).peers[0].state, "up");
    engine.stop();
    drop(run_dir);
    // That is what counts from now on.
    let kept = std::fs::read_to_string(path.join("endpoints.json")).unwrap();
    assert!(
        kept.contains(&configured) && !kept.contains(&heard),
        "{kept}"
    );
}

/// As a large pool of servers is published: some of them at a time, others each time.
#[test]
fn a_peer_whose_name_stands_for_others_each_time_grows_silent() {
    let mut engine = engine(&[(1, "pool.invalid:10")], None);
    let mut now = clock::now();
    engine.round(now).unwrap();
    let (mut silent, mut calls) = (0, 0);
    for answer in 0..29_u8 {
        // Nobody is there.
        engine.answer("pool.invalid", &[&format!("127.1.{answer}.1")], now);
        now = engine.pass(now, ASK_AGAIN);
        let peer = report(&mut engine).peers.remove(0);
        silent += u32::from(peer.state == "silent");
        calls = calls.max(peer.unanswered);
    }
    // For five minutes, less the first half of one.
    assert!(silent >= 24 && calls > SILENT_AFTER, "{silent} {calls}");
    // What the configuration says is called at once.
    engine.apply_peers(&[(1, "other.invalid:10")], now);
    engine.answer("other.invalid", &["127.2.0.1"], now);
    let peer = report(&mut engine).peers.remove(0);
    assert_ne!(peer.state, "silent");
    engine.stop();
}

#[test]
fn an_answer_that_concerns_many_peers_takes_several_rounds() {
    let peers: Vec<_> = (1..=40).map(|n| (n, "one.invalid:10")).collect();
    let mut engine = engine(&peers, None);
    let now = clock::now();
    engine.round(now).unwrap();
    // As if each peer were many.
    let found = Ok((vec![at("127.0.0.2:0")], LIFETIME));
    let slots = (engine.names).note(&key("one.invalid"), found, now.monotonic);
    engine.names.answered = slots
        .into_iter()
        .cycle()
        .take(2 * SEEKS_PER_ROUND + 1)
        .collect();
    assert!(engine.round(now).unwrap() && engine.round(now).unwrap());
    assert_eq!(engine.names.answered.len(), 1);
    assert_eq!(engine.place_of(40), Some(at("127.0.0.2:10")));
    engine.round(now).unwrap();
    assert!(engine.names.answered.is_empty());
    engine.stop();
}

#[test]
fn a_silent_peer_is_told_of_in_the_state() {
    let dead = place();
    let mut engine = engine(&[(1, &dead.local_addr().unwrap().to_string())], None);
    let mut now = clock::now();
    now = engine.pass(now, Duration::from_secs(8));
    let peer = report(&mut engine).peers.remove(0);
    assert_eq!((&*peer.state, peer.unanswered), ("calling", 2));
    engine.pass(now, Duration::from_secs(30));
    let peer = report(&mut engine).peers.remove(0);
    assert_eq!(peer.state, "silent");
    assert!((6..=8).contains(&peer.unanswered), "{}", peer.unanswered);
    engine.stop();
}

#[test]
fn the_core_is_awake_for_what_is_due_alone() {
    let mut idle = engine(&[], None);
    let now = idle.pass(clock::now(), Duration::from_secs(5));
    let before = idle.rounds;
    idle.pass(now, Duration::from_secs(60));
    // Once a second for what has time.
    assert!(idle.rounds - before <= 61, "{}", idle.rounds - before);
    idle.stop();

    let dead = place().local_addr().unwrap().to_string();
    let peers: Vec<_> = (1..=100).map(|n| (n, dead.as_str())).collect();
    let mut silent = engine(&peers, None);
    let now = silent.pass(clock::now(), Duration::from_secs(30));
    let before = silent.rounds;
    silent.pass(now, Duration::from_secs(10));
    assert!(silent.rounds - before <= 110, "{}", silent.rounds - before);
    silent.stop();
}
