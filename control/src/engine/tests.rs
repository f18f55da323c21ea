//! The real engine, on this machine's loopback: plans carried out and undone.
//!
//! ```text
//!   far (the protocol crate on a socket) ── 127.0.0.1 ── engine with one worker: tunnels a, b, c … of one uplink
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod awaited;
mod compile;
mod far;
mod peers;
mod proposals;
mod reads;
mod wg;
mod workers;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use zeroize::Zeroizing;

use self::far::Far;
use super::*;
use crate::{
    api::{self, ApplyError, Reply},
    config::{self, KeyFileError, KeyFiles},
    keys::PrivateKey,
    state::{Applied, State},
    uapi::{Answer, Ask, Change, Errno},
};

/// The key in the file `NAME.key` is made of the name's first byte.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let name = path.file_name().unwrap().to_string_lossy();
        Ok(Zeroizing::new(key(&name).to_base64().to_string()))
    }
}

fn key(name: &str) -> PrivateKey {
    PrivateKey::from_bytes([name.as_bytes()[0]; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn parse(text: &str) -> Config {
    let networks = if text.contains("networks:") {
        ""
    } else {
        "networks: {}\n"
    };
    let text = format!("version: 1\nnode: test\n{text}{networks}");
    let read = config::parse(&text, Path::new("test.yaml"), &Keys);
    read.map_err(|report| report.render(false)).unwrap().0
}

const UPLINK: &str = "uplinks: {lo: {driver: udp, addresses: [127.0.0.1/8]}}\n";

/// Tunnels with their ports; each has `far` as its peer, and other peers beside it.
fn tunnels(tunnels: &[(&str, u16)], rest: &str) -> Config {
    let mut text = format!("{UPLINK}tunnels:\n");
    let far = key("far").public_key().to_base64();
    for (name, port) in tunnels {
        let peer = format!("far: {{public_key: \"{far}\", allowed_ips: [10.9.0.0/16]{rest}}}");
        text += &format!(
            "  {name}: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: {name}.key, peers: {{{peer}}}}}\n"
        );
    }
    parse(&text)
}

/// UDP ports that are free.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

impl Engine {
    /// Plans a file and applies it.
    pub(super) fn apply_file(&mut self, config: Config, now: Now) -> Result<Applied, ApplyError> {
        let proposal = Proposal::new(self.desired.clone(), config);
        self.apply(proposal, now)
    }
}

/// A running engine and its run directory.
struct Site {
    engine: Engine,
    requester: Requester,
    requests: Requests,
    run_dir: RunDir,
    _folder: TempDir,
}

impl Site {
    fn start(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(&folder.path().join("run")).unwrap();
        let (requester, requests) = api::channel().unwrap();
        let engine = Engine::start(config, Some(&run_dir), requester.clone(), None);
        let engine = engine.unwrap_or_else(|error| panic!("{error}"));
        Self {
            engine,
            requester,
            requests,
            run_dir,
            _folder: folder,
        }
    }

    fn apply(&mut self, config: Config) -> Result<Applied, ApplyError> {
        self.engine.apply_file(config, clock::now())
    }

    fn lines(&mut self, config: Config) -> Vec<String> {
        self.apply(config).unwrap().changes
    }

    fn set(&mut self, tunnel: &str, changes: &[Change]) -> Answer {
        let ask = Ask::Set(changes.to_vec());
        self.engine.ask(&name(tunnel), ask, clock::now())
    }

    /// Whether a tunnel answers a handshake at a port.
    fn answers(&mut self, tunnel: &str, port: u16) -> bool {
        // One call of two that follow each other within 20 ms is not answered.
        (0..4).any(|_| {
            let mut far = Far::call(&key("far"), key(tunnel).public_key(), port);
            (0..40).any(|_| {
                self.engine.round(clock::now()).unwrap();
                far.hears(Duration::from_millis(2))
            })
        })
    }

    fn is_open(&self, port: &str) -> bool {
        UnixStream::connect(self.run_dir.path().join(format!("{port}.sock"))).is_ok()
    }
}

/// What `show` prints of an engine.
pub(super) fn report(engine: &mut Engine) -> State {
    let (requester, requests) = api::channel().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| crate::report::read(&requester, None));
        while !reader.is_finished() {
            engine.take_requests(&requests, clock::now());
        }
        reader.join().unwrap().unwrap()
    })
}

impl Drop for Site {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

#[test]
fn tunnels_that_take_vacant_places_answer() {
    let [a, b, c, d, e] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b), ("c", c)], ""));
    assert!(site.answers("a", a) && site.answers("b", b) && site.answers("c", c));
    site.apply(tunnels(&[("c", c)], "")).unwrap();
    assert!(!site.answers("a", a));
    site.apply(tunnels(&[("c", c), ("d", d), ("e", e)], ""))
        .unwrap();
    for (tunnel, port) in [("c", c), ("d", d), ("e", e)] {
        assert!(site.answers(tunnel, port), "{tunnel}");
    }
}

#[test]
fn two_tunnels_are_added_and_removed_in_one_plan() {
    let [a, b, c, d] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    let lines = site.lines(tunnels(&[("c", c), ("d", d)], ""));
    let tunnels: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("tunnel"))
        .collect();
    assert_eq!(
        tunnels,
        [
            "tunnel c added",
            "tunnel d added",
            "tunnel a removed",
            "tunnel b removed"
        ]
    );
    assert!(site.answers("c", c) && site.answers("d", d));
    assert!(!site.answers("a", a) && !site.answers("b", b));
}

#[test]
fn two_tunnels_swap_their_ports() {
    let [one, two, three] = free_ports();
    let mut site = Site::start(tunnels(&[("a", one), ("b", two)], ""));
    site.apply(tunnels(&[("a", two), ("b", one)], "")).unwrap();
    assert!(site.answers("a", two) && site.answers("b", one));
    // In a ring, with one that is new.
    site.apply(tunnels(&[("a", one), ("b", three), ("c", two)], ""))
        .unwrap();
    assert!(site.answers("a", one) && site.answers("b", three) && site.answers("c", two));
}

#[test]
fn a_tunnel_is_renamed() {
    let [port] = free_ports();
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let lines = site.lines(tunnels(&[("b", port)], ""));
    assert_eq!(
        lines,
        ["tunnel b added", "peer b/far added", "tunnel a removed"]
    );
    assert!(site.answers("b", port));
}

#[test]
fn a_plan_whose_port_is_taken_changes_nothing() {
    let [a, b, c] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let taken = std::net::UdpSocket::bind(("127.0.0.1", c)).unwrap();
    let error = site.apply(tunnels(&[("b", b), ("c", c)], "")).unwrap_err();
    assert!(
        error.to_string().contains(&format!("UDP port {c}")),
        "{error}"
    );
    assert!(site.answers("a", a));
    drop(taken);
    site.apply(tunnels(&[("b", b), ("c", c)], "")).unwrap();
    assert!(site.answers("b", b) && site.answers("c", c));
}

#[test]
fn uplinks_on_different_devices_share_a_port() {
    let [port] = free_ports();
    let config = parse(&format!(
        "uplinks: {{one: {{driver: udp, device: lo}}, two: {{driver: udp, device: nowhere0}}}}
tunnels:
  a: {{uplink: one, uapi: off, listen_port: {port}, private_key_file: a.key, peers: {{}}}}
  b: {{uplink: two, uapi: off, listen_port: {port}, private_key_file: b.key, peers: {{}}}}
"
    ));
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(&folder.path().join("run")).unwrap();
    let (requester, _requests) = api::channel().unwrap();
    let started = Engine::start(config, Some(&run_dir), requester, None);
    let error = started.err().unwrap().to_string();
    // What is refused is the device that there is not, and not the port.
    assert!(
        error.contains("uplink two") && !error.contains("in use"),
        "{error}"
    );
}

#[test]
fn an_uplink_that_can_not_be_bound_anew_is_down_and_tried_again() {
    let [port] = free_ports();
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let is_up = |site: &mut Site| report(&mut site.engine).uplinks[0].link_up;
    // As if the interface had another number than the one that the sockets are bound to; they have the port there.
    let uplink = site.engine.uplinks.get_mut(0).unwrap();
    let config::UplinkDriver::Udp(driver) = &mut uplink.config.driver else {
        panic!("it is a UDP uplink");
    };
    driver.device = Some("lo".into());
    site.engine.follow_devices(clock::now());
    assert!(!is_up(&mut site));
    site.engine.chores_due = Instant::default();
    site.engine.round(clock::now()).unwrap();
    assert!(!is_up(&mut site));

    let slot = site.engine.tunnel_slot(&name("a")).unwrap();
    site.engine.tunnels.get_mut(slot).unwrap().markers.clear();
    let uplink = UplinkIndex::from_slot(0);
    site.engine.tell_all(|| Command::DetachUplink(uplink, None));
    let tried = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        site.engine.chores_due = Instant::default();
        site.engine.round(clock::now()).unwrap();
        is_up(&mut site)
    });
    assert!(tried);
    let tunnel = site.engine.tunnels.get(slot).unwrap();
    assert!(!tunnel.markers.is_empty());
    assert!(tunnel.markers.iter().all(|marker| marker.is_bound_to("lo")));
    let uplink = site.engine.uplinks.get_mut(0).unwrap();
    assert_eq!(uplink.device_index, crate::netlink::index_of("lo"));
    assert!(site.answers("a", port));
}

/// The device is DPDK's that loses all: neighbors answer when the test says so.
#[cfg(feature = "dpdk")]
#[test]
fn neighbors_that_answer_dont_prolong_the_wait_of_messages_to_others() {
    use culvert_dataplane::shared::{ids::Scope, limits::UNROUTED_LIFE};
    use culvert_wire::{MacAddr, arp};
    let mut site = Site::start(parse(
        "memory: {hugepages: off}
uplinks: {w: {driver: dpdk, device: net_null0, addresses: [192.0.2.1/24]}}
tunnels: {a: {uplink: w, uapi: off, listen_port: 1, private_key_file: a.key, peers: {}}}
",
    ));
    let engine = &mut site.engine;
    let slot = engine.tunnel_slot(&name("a")).unwrap();
    let scope = Scope::Uplink(UplinkIndex::from_slot(0));
    let start = clock::now();
    let after = |pause| Now {
        monotonic: start.monotonic + pause,
        ..start
    };
    let first_call = |to: &str, now| {
        let to = to.parse().unwrap();
        Far::first_call(&key("far"), key("silent").public_key(), to, now)
    };
    let silent = first_call("192.0.2.9:9", start);
    engine.transmit(slot, silent, start.monotonic);
    engine.drain_hosts(start);
    for (nth, host) in [2, 3].into_iter().enumerate() {
        let now = after(Duration::from_secs(1 + nth as u64));
        let call = first_call(&format!("192.0.2.{host}:9"), now);
        engine.transmit(slot, call, now.monotonic);
        engine.drain_hosts(now);
        assert_eq!(engine.unrouted.len(), 2);
        let (from, own) = ([192, 0, 2, host].into(), [192, 0, 2, 1].into());
        let packet = arp::ArpPacket::request(MacAddr([2, 0, 0, 0, 0, host]), from, own);
        let mut frame = [0; arp::FRAME_LEN];
        packet.write_frame(&mut frame);
        engine.hosts.handle_frame(scope, &frame, now.monotonic);
        engine.drain_hosts(now);
        let due: Vec<_> = engine.unrouted.iter().map(|&(due, ..)| due).collect();
        assert_eq!(due, [start.monotonic + UNROUTED_LIFE]);
    }
    engine.drain_hosts(after(UNROUTED_LIFE));
    assert!(engine.unrouted.is_empty());
}

#[test]
fn what_is_fixed_needs_a_restart() {
    let [a] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let mut new = tunnels(&[("a", a)], "");
    new.cores.workers.push(config::WorkerCore { cpu: None });
    new.uplinks[0].mtu = 1400;
    let expected = [
        "cores changed (workers: 1 → 2)",
        "uplink lo changed (mtu: 1500 → 1400)",
    ];
    let expected = expected.map(str::to_owned).to_vec();
    assert_eq!(
        site.apply(new).unwrap_err(),
        ApplyError::NeedsRestart(expected)
    );
    assert!(site.answers("a", a));
}

#[test]
fn an_endpoint_of_wgs_does_not_survive_the_file() {
    let [a] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let far = key("far").public_key();
    let endpoint = Change::Endpoint("127.0.0.1:9".parse().unwrap());
    site.set("a", &[Change::Peer(far), endpoint]);
    let known = |site: &mut Site| {
        let report = report(&mut site.engine);
        (report.peers[0].endpoint, report.peers[0].drift.clone())
    };
    assert_eq!(
        known(&mut site),
        (
            Some("127.0.0.1:9".parse().unwrap()),
            vec!["endpoint".to_owned()]
        )
    );
    let lines = site.lines(tunnels(&[("a", a)], ""));
    assert_eq!(lines, ["peer a/far changed (endpoint: 127.0.0.1:9 → none)"]);
    assert_eq!(known(&mut site), (None, Vec::new()));
    let place = site.engine.peer_place(&name("a"), &far).unwrap();
    let now = clock::now().monotonic;
    site.engine.rebuild_paths(now);
    assert_eq!(
        site.engine.peers.get(place).unwrap().cell.path().as_deref(),
        None
    );
}

#[test]
fn a_peer_of_one_tunnel_is_not_anothers() {
    let [a, b] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    let far = key("far").public_key();
    let endpoint = Change::Endpoint("127.0.0.1:9".parse().unwrap());
    site.set("a", &[Change::Peer(far), endpoint]);
    site.set("b", &[Change::Peer(far), Change::Remove]);
    let peers = report(&mut site.engine).peers;
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].tunnel.as_str(), peers[0].endpoint),
        ("a", Some("127.0.0.1:9".parse().unwrap()))
    );
}

#[test]
fn wg_moves_a_tunnel_to_another_port_or_nothing() {
    let [a, b, c] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    assert!(matches!(
        site.set("a", &[Change::ListenPort(b)]),
        Answer::Refused(Errno::ADDRINUSE)
    ));
    assert!(site.answers("a", a));
    assert!(matches!(
        site.set("a", &[Change::ListenPort(c)]),
        Answer::Done
    ));
    assert!(site.answers("a", c) && site.answers("b", b));
    let report = report(&mut site.engine);
    assert_eq!(
        report.tunnels[0].drift,
        [format!("listen_port (file: {a})")]
    );
    // The file's port is free again, and the file takes it back.
    site.apply(tunnels(&[("a", a), ("b", b)], "")).unwrap();
    assert!(site.answers("a", a));
}

/// Ports of one network, with what more is said of each.
fn ports(ports: &[(&str, &str)]) -> Config {
    let mut text = "networks: {blue: {gateway: [10.0.1.1/24]}}\nports:\n".to_owned();
    for (number, (name, rest)) in ports.iter().enumerate() {
        text += &format!(
            "  {name}: {{network: blue, mac: \"52:54:00:00:00:0{number}\", addresses: [10.0.1.{}]{rest}}}\n",
            number + 5
        );
    }
    parse(&text)
}

#[test]
fn what_a_guest_came_to_own_stays_behind_in_its_network() {
    let networks = "networks: {one: {gateway: [\"fd01::1/64\"]}, two: {gateway: [\"fd02::1/64\"]}}";
    let with = |network: &str, address: &str| {
        let port = format!("network: {network}, mac: \"52:54:00:00:00:01\"");
        let address = format!("addresses: [\"{address}\"]");
        parse(&format!(
            "{networks}\nports: {{vm: {{{port}, {address}}}}}\n"
        ))
    };
    let mut site = Site::start(with("one", "fd01::5"));
    let mut owned = Vec::new();
    for (network, address) in [("one", "fd01::6"), ("two", "fd02::5"), ("one", "fd01::6")] {
        site.apply(with(network, address)).unwrap();
        let snapshot = site.engine.snapshots.load_full();
        let attachment = snapshot.attachments.get(0).unwrap();
        owned.push(Arc::clone(&attachment.link_locals));
        let networks = snapshot.networks.iter();
        let heard: Vec<_> = networks
            .map(|(_, n)| (n.name == network, n.listeners))
            .collect();
        assert!(
            heard
                .iter()
                .all(|&(here, listeners)| listeners == usize::from(here))
        );
    }
    // Nor does it come back: another may have come to own it meanwhile.
    for [a, b] in [[0, 1], [1, 2], [0, 2]] {
        assert!(!Arc::ptr_eq(&owned[a], &owned[b]), "{a} {b}");
    }
    // Within its network it stays.
    site.apply(with("one", "fd01::7")).unwrap();
    let snapshot = site.engine.snapshots.load_full();
    let attachment = snapshot.attachments.get(0).unwrap();
    assert!(Arc::ptr_eq(&owned[2], &attachment.link_locals));
}

#[test]
fn a_port_with_an_unknown_group_stays_as_it_is() {
    let mut site = Site::start(ports(&[("vm1", ""), ("vm2", "")]));
    let grouped = || ports(&[("vm1", ", socket_group: no-such-group"), ("vm2", "")]);
    for _ in 0..2 {
        // It is refused each time, and never "nothing changed".
        let error = site.apply(grouped()).unwrap_err().to_string();
        assert!(
            error.contains("no-such-group") && error.contains("groupadd"),
            "{error}"
        );
        assert!(site.is_open("vm1") && site.is_open("vm2"));
    }
    let lines = site.lines(ports(&[("vm1", ", socket_group: 0"), ("vm2", "")]));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("port vm1 reopened (driver: "),
        "{lines:?}"
    );
    assert!(site.is_open("vm1"));
}

#[test]
fn a_port_that_fails_late_gives_the_socket_back() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let taker = || ports(&[("vm2", ", socket: vm1.sock")]);
    // Its rings' file can't be made, which nobody looks at ahead.
    let rings = site.run_dir.path().join("vm2.rings");
    fs::create_dir(&rings).unwrap();
    let error = site.apply(taker()).unwrap_err().to_string();
    assert!(error.contains("vm2"), "{error}");
    assert!(site.is_open("vm1"));
    let report = report(&mut site.engine);
    assert_eq!(
        (report.ports.len(), report.ports[0].name.as_str()),
        (1, "vm1")
    );
    assert_eq!(report.ports[0].hindrance, None);
    fs::remove_dir(&rings).unwrap();
    assert_eq!(site.lines(taker()), ["port vm2 added", "port vm1 removed"]);
    assert!(site.is_open("vm1"));
}

#[test]
fn a_port_that_can_not_come_back_is_told_and_tried_again() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let rings = |port: &str| site.run_dir.path().join(format!("{port}.rings"));
    let (vm1, vm2) = (rings("vm1"), rings("vm2"));
    let _ = fs::remove_file(&vm1);
    fs::create_dir(&vm1).unwrap();
    fs::create_dir(&vm2).unwrap();
    let error = site
        .apply(ports(&[("vm2", ", socket: vm1.sock")]))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("port vm1 is down and tried again"),
        "{error}"
    );
    let problem = |site: &mut Site| report(&mut site.engine).ports[0].hindrance.clone();
    assert!(problem(&mut site).is_some());
    site.engine.retry_ports();
    assert!(problem(&mut site).is_some() && !site.is_open("vm1"));
    fs::remove_dir(&vm1).unwrap();
    site.engine.retry_ports();
    assert!(problem(&mut site).is_none() && site.is_open("vm1"));
}

#[test]
fn a_port_that_is_down_is_opened_by_the_same_file() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let rings = |port: &str| site.run_dir.path().join(format!("{port}.rings"));
    let (vm1, vm2) = (rings("vm1"), rings("vm2"));
    let _ = fs::remove_file(&vm1);
    fs::create_dir(&vm1).unwrap();
    fs::create_dir(&vm2).unwrap();
    site.apply(ports(&[("vm2", ", socket: vm1.sock")]))
        .unwrap_err();
    let applied = site.apply(ports(&[("vm1", "")])).unwrap();
    assert!(applied.changes.is_empty(), "{applied:?}");
    assert!(
        applied.failures.len() == 1 && applied.failures[0].contains("port vm1"),
        "{applied:?}"
    );
    // Another's change is carried out meanwhile, and so is its own that its opening does not depend on.
    let added = "port vm3 added";
    let both = |rest| ports(&[("vm1", rest), ("vm3", "")]);
    let applied = site.apply(both("")).unwrap();
    assert_eq!(
        (applied.changes, applied.failures.len()),
        (vec![added.into()], 1)
    );
    assert!(site.is_open("vm3") && !site.is_open("vm1"));
    let applied = site.apply(both(", guard: off")).unwrap();
    assert_eq!((applied.changes.len(), applied.failures.len()), (1, 1));
    // But what is asked for newly and can't be had is refused.
    let error = site.apply(both(", queues: 2")).unwrap_err().to_string();
    assert!(error.contains("port vm1"), "{error}");
    assert_eq!(site.engine.down.len(), 1);
    assert!(site.engine.down[0].config.guard == config::Guard::Off);
    fs::remove_dir(&vm1).unwrap();
    let lines = site.lines(both(", guard: off"));
    assert_eq!(lines, ["port vm1 reopened"]);
    assert!(site.is_open("vm1") && site.engine.down.is_empty());
}

#[test]
fn two_ports_swap_their_sockets() {
    let mut site = Site::start(ports(&[("vm1", ""), ("vm2", "")]));
    let swapped = ports(&[("vm1", ", socket: vm2.sock"), ("vm2", ", socket: vm1.sock")]);
    site.apply(swapped).unwrap();
    assert!(site.is_open("vm1") && site.is_open("vm2"));
    let sockets: Vec<_> = report(&mut site.engine)
        .ports
        .into_iter()
        .map(|port| port.socket)
        .collect();
    assert!(sockets[0].ends_with("vm2.sock") && sockets[1].ends_with("vm1.sock"));
}

#[test]
fn a_change_that_does_not_reach_a_moved_interface_is_refused() {
    let interface = format!("cvm{}", std::process::id() % 1_000_000);
    let config = |mtu: u16| {
        let mut config = ports(&[("vm1", &format!(", driver: tap, interface: {interface}"))]);
        config.ports[0].mtu = mtu;
        config
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut site = Site::start(config(1500));
    let (_, port) = site.engine.ports.iter_mut().next().unwrap();
    port.interface.as_mut().unwrap().moved = true;
    let error = site.apply(config(1400)).unwrap_err().to_string();
    assert!(
        error.contains("another network namespace") && !error.contains(';'),
        "{error}"
    );
}

/// So many peers beside `far`.
fn crowd(port: u16, peers: u32) -> Config {
    let mut config = tunnels(&[("a", port)], "");
    let peer = |number: u32| {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let net = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        Arc::new(config::Peer {
            name: name(&format!("p{number}")),
            public_key: PublicKey::from_bytes(bytes),
            preshared_key: None,
            preshared_key_file: None,
            endpoint: None,
            allowed_ips: vec![ipnet::IpNet::new(net.into(), 32).unwrap()],
            persistent_keepalive: None,
        })
    };
    config.tunnels[0].peers.extend((0..peers).map(peer));
    config
}

#[test]
fn the_places_of_many_removed_peers_are_free_again() {
    let [a] = free_ports();
    let mut site = Site::start(crowd(a, 10_000));
    site.apply(crowd(a, 0)).unwrap();
    for _ in 0..10_000 {
        if site.engine.leaving.is_empty() {
            break;
        }
        site.engine.round(clock::now()).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(site.engine.leaving.len(), 0);
    site.apply(crowd(a, 10_000)).unwrap();
    assert!(
        site.engine.peers.places() <= 10_001 + 1,
        "places grow: {}",
        site.engine.peers.places()
    );
}

/// Requests without pause leave handshakes their share of each round.
#[test]
fn a_storm_of_requests_does_not_starve_handshakes() {
    let [a] = free_ports();
    let mut site = Site::start(crowd(a, 10_000));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (requester, ended) = (site.requester.clone(), &ended);
        let storm = move || {
            let mut second = 0;
            while !ended.load(Ordering::Relaxed) {
                second = (second + 1) % 100 + 1;
                let mut key = [7; 32];
                key[..4].copy_from_slice(&0_u32.to_be_bytes());
                let change = [
                    Change::Peer(PublicKey::from_bytes(key)),
                    Change::PersistentKeepalive(second),
                ];
                let (reply, _) = Reply::new();
                let ask = Ask::Set(change.to_vec());
                let tunnel = name("a");
                if requester
                    .send(Request::Uapi { tunnel, ask, reply })
                    .is_err()
                {
                    std::thread::yield_now();
                }
            }
        };
        scope.spawn(storm);
        let mut far = Far::call(&key("far"), key("a").public_key(), a);
        let rounds = (0..1_000).find(|_| {
            site.engine.take_requests(&site.requests, clock::now());
            site.engine.round(clock::now()).unwrap();
            far.hears(Duration::from_micros(1))
        });
        ended.store(true, Ordering::Relaxed);
        assert!(rounds.is_some());
    });
}

/// What one change costs this thread among many, printed.
#[test]
fn a_change_among_many_peers() {
    let [a] = free_ports();
    let mut site = Site::start(crowd(a, 100_000));
    let mut file = crowd(a, 100_000);
    let key = file.tunnels[0].peers[50_000].public_key;
    let set = |second| [Change::Peer(key), Change::PersistentKeepalive(second)];
    cost("ten `wg set`", || {
        (1..=10).for_each(|second| drop(site.set("a", &set(second))));
    });
    Arc::make_mut(&mut file.tunnels[0].peers[7]).persistent_keepalive = Some(5);
    let (proposal, keeper) = cost("one changed peer by file, planned", || {
        let proposal = Proposal::new(site.engine.desired.clone(), file);
        let keeper = proposal.keeper();
        (proposal, keeper)
    });
    let applied = cost("the same, carried out", || {
        site.engine.apply(proposal, clock::now()).unwrap()
    });
    assert_eq!(applied.changes.len(), 2);
    cost("the file before, freed", || drop(keeper));
}

/// What something costs in time of this thread, whatever others do.
fn cost<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let begin = now();
    let done = work();
    println!("among 100,000 peers: {what}: {:?}", now() - begin);
    done
}
