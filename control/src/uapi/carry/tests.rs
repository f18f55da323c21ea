use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use super::*;
use crate::config::Uapi;
use crate::keys::{PresharedKey, PrivateKey};

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn peer(n: u8, nets: &[&str]) -> Arc<Peer> {
    Arc::new(Peer {
        name: Name::new(&format!("p{n}")).unwrap(),
        public_key: key(n),
        preshared_key: None,
        preshared_key_file: None,
        endpoint: None,
        allowed_ips: nets.iter().map(|text| net(text)).collect(),
        persistent_keepalive: None,
        pmtu: None,
        probe: None,
        labels: Labels::default(),
        enabled: true,
    })
}

fn tunnel(peers: Vec<Arc<Peer>>) -> Tunnel {
    Tunnel {
        name: Name::new("wg0").unwrap(),
        uplink: Name::new("wan0").unwrap(),
        backups: Vec::new(),
        listen_port: 51820,
        fwmark: 0,
        mtu: 1420,
        pmtu: crate::config::Pmtu::Off,
        private_key_file: "/key".into(),
        private_key: Some(PrivateKey::from_bytes([9; 32])),
        preshared_keys_file: None,
        uapi: Uapi::Auto,
        peers,
    }
}

fn nets(tunnel: &Tunnel, n: u8) -> Vec<String> {
    let peer = tunnel.peers.iter().find(|peer| peer.public_key == key(n));
    peer.unwrap()
        .allowed_ips
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A configuration as a tunnel that stands. One peer is remembered by name.
struct Of<'t>(&'t Tunnel);

impl Standing for Of<'_> {
    fn head(&self) -> &Tunnel {
        self.0
    }

    fn own_key(&self) -> Option<PublicKey> {
        self.0.private_key.as_ref().map(PrivateKey::public_key)
    }

    fn peer(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let mut peers = self.0.peers.iter();
        peers.find(|peer| &peer.public_key == key).cloned()
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.0.peers.iter().map(|peer| peer.public_key).collect()
    }

    fn owner(&self, net: &IpNet) -> Option<PublicKey> {
        let mut peers = self.0.peers.iter();
        let owner = peers.find(|peer| peer.allowed_ips.contains(net));
        owner.map(|peer| peer.public_key)
    }

    fn is_named(&self, name: &Name) -> bool {
        self.0.peer(name).is_some()
    }

    fn former_name(&self, key: &PublicKey) -> Option<Name> {
        (key.as_bytes() == &[200; 32]).then(|| Name::new("known").unwrap())
    }
}

/// Carries changes out, and their outcome as an engine does; answers what they came to.
fn carry(tunnel: &mut Tunnel, changes: &[Change]) -> Vec<plan::Change> {
    let plan = carry_out(changes, &Of(tunnel));
    for head in plan.iter().filter_map(|change| change.tunnel()?.after()) {
        let peers = std::mem::take(&mut tunnel.peers);
        *tunnel = Tunnel {
            peers,
            ..head.clone()
        };
    }
    for edit in plan.iter().filter_map(|change| Some(&change.peer()?.edit)) {
        let old = edit.before().map(|old| old.public_key);
        let place = (tunnel.peers.iter()).position(|peer| Some(peer.public_key) == old);
        match (place, edit) {
            (None, Edit::Add(new)) => tunnel.peers.push(Arc::clone(new)),
            (Some(place), Edit::Change { new, .. }) => tunnel.peers[place] = Arc::clone(new),
            (Some(place), Edit::Remove(_)) => drop(tunnel.peers.remove(place)),
            (place, edit) => panic!("{edit:?} at {place:?}"),
        }
    }
    plan
}

/// The keys of peers that lose their sessions.
fn removed(plan: &[plan::Change]) -> HashSet<PublicKey> {
    let edits = plan.iter().filter_map(|change| Some(&change.peer()?.edit));
    let removed = edits.filter(|edit| matches!(edit, Edit::Remove(_)));
    removed
        .filter_map(|edit| Some(edit.before()?.public_key))
        .collect()
}

/// The keys of peers whose endpoints count anew.
fn moved(plan: &[plan::Change]) -> HashSet<PublicKey> {
    let moved = plan
        .iter()
        .filter_map(plan::Change::peer)
        .filter(|change| change.moves);
    moved
        .filter_map(|change| Some(change.edit.after()?.public_key))
        .collect()
}

#[test]
fn nothing_changes_nothing() {
    let before = tunnel(vec![peer(1, &["10.0.0.0/8"]), peer(2, &["fd00::/8"])]);
    let mut after = before.clone();
    assert_eq!(carry(&mut after, &[]), []);
    assert_eq!(carry(&mut after, &[Change::Peer(key(1))]), []);
    assert_eq!(after, before);
}

#[test]
fn settings_of_tunnel_and_peer() {
    let mut wg = tunnel(vec![peer(1, &[])]);
    let psk = PresharedKey::from_bytes([7; 32]);
    let plan = carry(
        &mut wg,
        &[
            Change::ListenPort(7),
            Change::Fwmark(8),
            Change::Peer(key(1)),
            Change::PresharedKey(Some(psk.clone())),
            Change::Endpoint(at("192.0.2.1:5")),
            Change::PersistentKeepalive(25),
        ],
    );
    assert_eq!((wg.listen_port, wg.fwmark), (7, 8));
    let peer = &wg.peers[0];
    assert_eq!(peer.preshared_key, Some(psk));
    assert_eq!(peer.endpoint, Some(Endpoint::Address(at("192.0.2.1:5"))));
    assert_eq!(peer.persistent_keepalive, Some(25));
    assert_eq!(moved(&plan), HashSet::from([key(1)]));
    assert_eq!(removed(&plan), HashSet::new());
    // Once more: the peer may have moved since.
    let again = [Change::Peer(key(1)), Change::Endpoint(at("192.0.2.1:5"))];
    assert_eq!(moved(&carry(&mut wg, &again)), HashSet::from([key(1)]));
    carry(
        &mut wg,
        &[
            Change::Peer(key(1)),
            Change::PresharedKey(None),
            Change::PersistentKeepalive(0),
        ],
    );
    assert_eq!(wg.peers[0].preshared_key, None);
    assert_eq!(wg.peers[0].persistent_keepalive, None);
}

#[test]
fn a_prefix_moves_to_the_peer_that_asks_last() {
    let mut wg = tunnel(vec![peer(1, &["10.0.0.0/8", "10.1.0.0/16"]), peer(2, &[])]);
    let steal = [Change::Peer(key(2)), Change::AllowedIp(net("10.0.0.0/8"))];
    carry(&mut wg, &steal);
    assert_eq!(nets(&wg, 1), ["10.1.0.0/16"]);
    assert_eq!(nets(&wg, 2), ["10.0.0.0/8"]);
    // There and back in one request, and once more within one peer.
    let both = [
        Change::Peer(key(1)),
        Change::AllowedIp(net("10.0.0.0/8")),
        Change::Peer(key(2)),
        Change::AllowedIp(net("10.0.0.0/8")),
        Change::AllowedIp(net("10.0.0.0/8")),
    ];
    carry(&mut wg, &both);
    assert_eq!(nets(&wg, 1), ["10.1.0.0/16"]);
    assert_eq!(nets(&wg, 2), ["10.0.0.0/8"]);
}

#[test]
fn prefixes_are_replaced_and_dropped() {
    let mut wg = tunnel(vec![
        peer(1, &["10.0.0.0/8", "fd00::/8"]),
        peer(2, &["192.0.2.0/24"]),
    ]);
    let changes = [
        Change::Peer(key(1)),
        Change::ReplaceAllowedIps,
        Change::AllowedIp(net("10.2.0.0/16")),
        Change::AllowedIp(net("10.1.0.0/16")),
        // Another's is not this one's to drop.
        Change::DropAllowedIp(net("192.0.2.0/24")),
        Change::DropAllowedIp(net("10.2.0.0/16")),
    ];
    carry(&mut wg, &changes);
    assert_eq!(nets(&wg, 1), ["10.1.0.0/16"]);
    assert_eq!(nets(&wg, 2), ["192.0.2.0/24"]);
}

#[test]
fn peers_are_made_updated_and_removed() {
    let mut wg = tunnel(vec![peer(1, &["10.0.0.0/8"]), peer(2, &[])]);
    let changes = [
        Change::Peer(key(1)),
        Change::Remove,
        // Nobody is left that this could be about.
        Change::AllowedIp(net("10.9.0.0/16")),
        Change::Peer(key(3)),
        Change::UpdateOnly,
        Change::AllowedIp(net("10.0.0.0/8")),
        Change::Peer(key(2)),
        Change::UpdateOnly,
        Change::AllowedIp(net("10.8.0.0/16")),
        Change::Peer(key(4)),
        Change::AllowedIp(net("10.4.0.0/16")),
        Change::Peer(key(5)),
        Change::Remove,
    ];
    let plan = carry(&mut wg, &changes);
    let keys: Vec<_> = wg.peers.iter().map(|peer| peer.public_key).collect();
    assert_eq!(keys, [key(2), key(4)]);
    assert_eq!(nets(&wg, 2), ["10.8.0.0/16"]);
    assert_eq!(nets(&wg, 4), ["10.4.0.0/16"]);
    assert_eq!(removed(&plan), HashSet::from([key(1)]));
}

#[test]
fn peers_that_are_replaced_are_made_anew() {
    let mut wg = tunnel(vec![peer(1, &["10.0.0.0/8"]), peer(2, &[])]);
    let changes = [
        Change::ReplacePeers,
        Change::Peer(key(200)),
        Change::Peer(key(1)),
        Change::Endpoint(at("[2001:db8::1]:1")),
    ];
    let plan = carry(&mut wg, &changes);
    let names: Vec<_> = wg.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(
        names,
        ["known", "p1"],
        "in the order in which they were made"
    );
    assert!(wg.peers[1].allowed_ips.is_empty());
    assert_eq!(removed(&plan), HashSet::from([key(1), key(2)]));
    assert_eq!(moved(&plan), HashSet::from([key(1)]));
}

#[test]
fn names_pass_from_one_to_another() {
    let mut wg = tunnel(vec![peer(200, &["10.0.0.0/8"]), peer(2, &[])]);
    Arc::get_mut(&mut wg.peers[1]).unwrap().name = Name::new("known").unwrap();
    let changes = [
        Change::Peer(key(200)),
        Change::Remove,
        Change::Peer(key(2)),
        Change::Remove,
        Change::Peer(key(200)),
    ];
    carry(&mut wg, &changes);
    assert_eq!(wg.peers[0].name.as_str(), "p200");
    carry(&mut wg, &[Change::Peer(key(200)), Change::Remove]);
    carry(&mut wg, &[Change::Peer(key(200))]);
    assert_eq!(wg.peers[0].name.as_str(), "known");
}

#[test]
fn the_tunnel_is_not_its_own_peer() {
    let private = PrivateKey::from_bytes([5; 32]);
    let mut wg = tunnel(vec![peer(1, &[])]);
    Arc::get_mut(&mut wg.peers[0]).unwrap().public_key = private.public_key();
    let changes = [
        Change::PrivateKey(Some(private.clone())),
        Change::Peer(private.public_key()),
        Change::AllowedIp(net("10.0.0.0/8")),
    ];
    carry(&mut wg, &changes);
    assert!(wg.peers.is_empty());
    assert_eq!(wg.private_key, Some(private));
    carry(&mut wg, &[Change::PrivateKey(None)]);
    assert_eq!(wg.private_key, None);
}

/// Whoever reads the configuration must not think that the file has the key.
#[test]
fn a_key_from_elsewhere_lies_in_no_file() {
    let private = PrivateKey::from_bytes([5; 32]);
    let mut wg = tunnel(Vec::new());
    let same = wg.private_key.clone();
    let file = wg.private_key_file.clone();
    assert_ne!(file, Path::new(""));
    assert!(carry(&mut wg, &[Change::PrivateKey(same)]).is_empty());
    assert_eq!(wg.private_key_file, file);
    carry(&mut wg, &[Change::PrivateKey(Some(private))]);
    assert_eq!(wg.private_key_file, Path::new(""));
}

#[test]
fn new_names_are_names_and_differ() {
    let mut bytes = [0xff; 32];
    let mut changes = Vec::new();
    for last in 0..20 {
        bytes[31] = last;
        changes.push(Change::Peer(PublicKey::from_bytes(bytes)));
    }
    let mut wg = tunnel(Vec::new());
    carry(&mut wg, &changes);
    let names: HashSet<_> = wg.peers.iter().map(|peer| peer.name.clone()).collect();
    assert_eq!(names.len(), 20);
    assert!(names.contains("wg-________"));
}

#[test]
fn many_prefixes_take_no_square_of_their_number() {
    let mut changes = vec![Change::Peer(key(1))];
    changes.extend((0..130_560_u32).map(|n| {
        Change::AllowedIp(IpNet::new(std::net::Ipv4Addr::from(n << 8).into(), 24).unwrap())
    }));
    let mut wg = tunnel(Vec::new());
    carry(&mut wg, &changes);
    assert_eq!(wg.peers[0].allowed_ips.len(), 130_560);
    assert!(wg.peers[0].allowed_ips.is_sorted());
}
