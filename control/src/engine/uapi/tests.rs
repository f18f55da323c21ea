//! `wg`'s requests against a real engine: sockets of the loopback, no device.

use std::{net::SocketAddr, path::Path, sync::Arc};

use culvert_dataplane::shared::{clock, peer::Peer as Cell};
use zeroize::Zeroizing;

use super::*;
use crate::{
    api,
    config::{KeyFileError, KeyFiles, Pmtu, parse},
    keys::{PrivateKey, PublicKey},
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

/// Tunnels with the same peer each, and no other.
fn engine(tunnels: &[&str]) -> Engine {
    let peer = private(b'p').public_key().to_base64();
    let mut text = "version: 1\ncores: {workers: 1}\nmemory: {hugepages: off}\n\
         uplinks: {u: {driver: udp, addresses: [127.0.0.1/8]}}\ntunnels:\n"
        .to_owned();
    let mut networks = "networks:\n".to_owned();
    for (number, name) in tunnels.iter().enumerate() {
        text += &format!(
            "  {name}:\n    uplink: u\n    listen_port: {}\n    private_key_file: {name}\n    uapi: off\n    \
             peers: {{p: {{public_key: \"{peer}\", endpoint: \"127.0.0.1:9\", allowed_ips: [10.{number}.0.0/16]}}}}\n",
            number + 1,
        );
        networks += &format!("  {name}: {{gateway: 10.9.{number}.1/24, tunnel: {name}}}\n");
    }
    let read = parse(&(text + &networks), Path::new("/test.yaml"), &Named);
    let (mut config, _) = read.map_err(|report| report.render(false)).unwrap();
    for tunnel in &mut config.tunnels {
        // Any that is free: tests run beside each other.
        tunnel.listen_port = 0;
    }
    let (requester, _) = api::channel().unwrap();
    Engine::start(config, None, requester, None).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Engine {
    fn wg(&mut self, tunnel: &str, changes: &[Change]) -> Result<(), Errno> {
        match self.ask(&name(tunnel), Ask::Set(changes.to_vec()), clock::now()) {
            Answer::Done => Ok(()),
            Answer::Refused(errno) => Err(errno),
            Answer::Device(..) => panic!("nobody asked for it"),
        }
    }

    fn endpoint(&self, tunnel: &str, key: &PublicKey) -> Option<SocketAddr> {
        let told = self.tell(&name(tunnel), 0).unwrap().0;
        let peer = told
            .peers
            .iter()
            .find(|peer| &peer.config.public_key == key);
        peer.unwrap().endpoint
    }

    /// What holds a peer's session.
    fn cell(&self, tunnel: &str, key: &PublicKey) -> Arc<Cell> {
        let slot = self.tunnel_slot(&name(tunnel)).unwrap();
        let state = self.tunnels.get(slot).unwrap();
        let place = state.peers[&state.device.find(key).unwrap()];
        Arc::clone(&self.peers.get(place).unwrap().cell)
    }
}

#[test]
fn what_wg_does_to_a_peer_it_does_in_one_tunnel_alone() {
    let mut engine = engine(&["a", "b"]);
    let key = private(b'p').public_key();
    let (before_a, before_b) = (engine.cell("a", &key), engine.cell("b", &key));
    let at: SocketAddr = "127.0.0.1:10".parse().unwrap();

    engine
        .wg("a", &[Change::Peer(key), Change::Endpoint(at)])
        .unwrap();
    assert_eq!(engine.endpoint("a", &key), Some(at));
    assert_eq!(engine.endpoint("b", &key).unwrap().port(), 9);

    // Removed and made anew: the other tunnel's peer keeps its cell, and so its session.
    let anew = [Change::ReplacePeers, Change::Peer(key)];
    engine.wg("a", &anew).unwrap();
    assert!(!Arc::ptr_eq(&engine.cell("a", &key), &before_a));
    assert!(Arc::ptr_eq(&engine.cell("b", &key), &before_b));
    assert_eq!(engine.endpoint("a", &key), None);
    assert_eq!(engine.endpoint("b", &key).unwrap().port(), 9);

    engine
        .wg("a", &[Change::Peer(key), Change::Remove])
        .unwrap();
    assert!(Arc::ptr_eq(&engine.cell("b", &key), &before_b));
    let drift: Vec<_> = crate::engine::tests::report(&mut engine).peers;
    let drift: Vec<_> = drift.iter().map(|p| (&*p.tunnel, p.drift.len())).collect();
    assert_eq!(drift, [("b", 0)]);
    engine.stop();
}

#[test]
fn what_the_kernel_refuses_is_told_by_its_number() {
    let mut engine = engine(&["a", "b"]);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let set = [Change::ListenPort(port)];
    assert_eq!(engine.wg("a", &set), Err(Errno::ADDRINUSE));
    // Another tunnel's of this process is taken, too.
    let of_b = engine.tell(&name("b"), 0).unwrap().0.listen_port;
    assert_eq!(
        engine.wg("a", &[Change::ListenPort(of_b)]),
        Err(Errno::ADDRINUSE)
    );
    // What stands before the port is done all the same.
    let both = [Change::ReplacePeers, Change::ListenPort(port)];
    assert_eq!(engine.wg("a", &both), Err(Errno::ADDRINUSE));
    assert!(engine.tell(&name("a"), 0).unwrap().0.peers.is_empty());
    drop(taken);
    engine.wg("a", &set).unwrap();
    assert_eq!(engine.tell(&name("a"), 0).unwrap().0.listen_port, port);
    engine.stop();
}

#[test]
fn a_shortage_is_not_told_as_a_port_that_is_taken() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    // The limit is the process's, which other tests may share: this one runs in a process of its own.
    const INSIDE: &str = "CULVERT_TEST_SHORTAGE";
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "engine::uapi::tests::a_shortage_is_not_told_as_a_port_that_is_taken";
        let mut command = std::process::Command::new(own);
        let output = command.args(["--exact", name]).env(INSIDE, "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let mut engine = engine(&["a"]);
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (soft, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
    setrlimit(RLIMIT_NOFILE, 3, hard).unwrap();
    let refused = engine.wg("a", &[Change::ListenPort(port)]);
    setrlimit(RLIMIT_NOFILE, soft, hard).unwrap();
    let too_many_files = Errno(24);
    assert_eq!(refused, Err(too_many_files));
    engine.stop();
}

#[test]
fn tunnels_of_one_device_have_ports_of_their_own() {
    let key = private(b'k');
    let tunnel = |of: &str, listen_port| Tunnel {
        name: name(of),
        uplink: name("u"),
        backups: vec![name("v")],
        listen_port,
        fwmark: 0,
        mtu: 1420,
        pmtu: Pmtu::Off,
        private_key_file: "".into(),
        private_key: Some(key.clone()),
        preshared_keys_file: None,
        uapi: Uapi::Off,
        peers: Vec::new(),
    };
    let tunnels = [tunnel("a", 1), tunnel("b", 2)];
    let check = |listen_port, fwmark| {
        let new = Tunnel {
            fwmark,
            ..tunnel("a", listen_port)
        };
        let own = OwnUdp {
            dhcp4: true,
            responder: false,
            bfd: true,
        };
        let at = |device: &str, own| check_on_device((&name(device), own), &new, tunnels.iter());
        assert_eq!(at("w", OwnUdp::default()), Ok(()));
        at("u", own).and(at("v", own))
    };
    assert_eq!(check(3, 0), Ok(()));
    assert_eq!(check(1, 0), Ok(()));
    assert_eq!(check(2, 0), Err(Errno::ADDRINUSE));
    // What the uplink has for itself is taken, too.
    assert_eq!(check(7, 0), Ok(()));
    for own in [68, 3784] {
        assert_eq!(check(own, 0), Err(Errno::ADDRINUSE));
    }
    // Sockets on another uplink may have a mark; without those nobody would set it.
    assert_eq!(check(1, 7), Ok(()));
    let marked = Tunnel {
        fwmark: 7,
        backups: Vec::new(),
        ..tunnel("a", 1)
    };
    let refused = check_on_device((&name("u"), OwnUdp::default()), &marked, tunnels.iter());
    assert_eq!(refused, Err(Errno::INVAL));
}
