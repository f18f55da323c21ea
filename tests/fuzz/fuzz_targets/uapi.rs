//! Any bytes as `wg`'s requests, in any pieces: the reader, what a set makes of a tunnel, and what is printed of it.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use culvert::config::{IpNet, Name, Peer, Pmtu, Tunnel, Uapi};
use culvert::keys::{PrivateKey, PublicKey};
use culvert::plan::{self, Edit};
use culvert::uapi::carry::{Standing, carry_out};
use culvert::uapi::codec::{Change, LINE_MAX, Reader, Request, print_set};
use libfuzzer_sys::fuzz_target;

fn zones(name: &str) -> Option<u32> {
    (name == "eth0").then_some(2)
}

fn requests(bytes: &[u8], piece: usize) -> Vec<Request> {
    let mut reader = Reader::new(zones);
    let mut requests = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (read, request) = reader.read(rest);
            assert!(read > 0 && read <= rest.len());
            assert!(request.is_some() || read == rest.len());
            rest = &rest[read..];
            let broken = matches!(request, Some(Request::Broken(_)));
            requests.extend(request);
            if broken {
                return requests;
            }
        }
    }
    requests.extend(reader.end());
    requests
}

fn tunnel() -> Tunnel {
    Tunnel {
        name: Name::new("wg0").unwrap(),
        uplink: Name::new("wan0").unwrap(),
        backups: Vec::new(),
        listen_port: 51820,
        fwmark: 0,
        mtu: 1420,
        pmtu: Pmtu::Off,
        private_key_file: Default::default(),
        private_key: Some(PrivateKey::from_bytes([7; 32])),
        preshared_keys_file: None,
        uapi: Uapi::Auto,
        peers: Vec::new(),
    }
}

/// A configuration as a tunnel that stands.
struct Of<'t>(&'t Tunnel);

impl Standing for Of<'_> {
    fn head(&self) -> &Tunnel {
        self.0
    }

    fn own_key(&self) -> Option<PublicKey> {
        self.0.private_key.as_ref().map(PrivateKey::public_key)
    }

    fn peer(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        self.0.peers.iter().find(|peer| &peer.public_key == key).cloned()
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.0.peers.iter().map(|peer| peer.public_key).collect()
    }

    fn owner(&self, net: &IpNet) -> Option<PublicKey> {
        let owner = self.0.peers.iter().find(|peer| peer.allowed_ips.contains(net));
        owner.map(|peer| peer.public_key)
    }

    fn is_named(&self, name: &Name) -> bool {
        self.0.peer(name).is_some()
    }

    fn former_name(&self, _: &PublicKey) -> Option<Name> {
        None
    }
}

/// Carries changes out, and what they come to.
fn carry(tunnel: &mut Tunnel, changes: &[Change]) {
    let plan = carry_out(changes, &Of(tunnel));
    for head in plan.iter().filter_map(|change| change.tunnel()?.after()) {
        let peers = std::mem::take(&mut tunnel.peers);
        *tunnel = Tunnel { peers, ..head.clone() };
    }
    for change in plan.iter().filter_map(plan::Change::peer) {
        let old = change.edit.before().map(|old| old.public_key);
        let place = tunnel.peers.iter().position(|peer| Some(peer.public_key) == old);
        match (place, &change.edit) {
            (None, Edit::Add(new)) => tunnel.peers.push(Arc::clone(new)),
            (Some(place), Edit::Change { new, .. }) => tunnel.peers[place] = Arc::clone(new),
            (Some(place), Edit::Remove(_)) => drop(tunnel.peers.remove(place)),
            (place, edit) => panic!("{edit:?} at {place:?}"),
        }
    }
}

/// What must hold of every tunnel.
fn check(tunnel: &Tunnel) {
    let own = tunnel.private_key.as_ref().map(PrivateKey::public_key);
    let (mut keys, mut names, mut nets) = (HashSet::new(), HashSet::new(), HashSet::new());
    for peer in &tunnel.peers {
        assert_ne!(Some(peer.public_key), own);
        assert!(keys.insert(peer.public_key));
        assert!(names.insert(peer.name.clone()));
        assert!(peer.allowed_ips.is_sorted());
        for net in &peer.allowed_ips {
            assert_eq!(*net, net.trunc());
            assert!(nets.insert(*net));
        }
    }
}

fn changes(requests: &[Request]) -> impl Iterator<Item = &[Change]> {
    requests.iter().filter_map(|request| match request {
        Request::Set { changes, .. } => Some(changes.as_slice()),
        _ => None,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (&first, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let whole = requests(bytes, LINE_MAX * 64);
    assert_eq!(requests(bytes, usize::from(first) + 1), whole);
    let mut tunnel = tunnel();
    for changes in changes(&whole) {
        carry(&mut tunnel, changes);
        check(&tunnel);
        let printed = requests(print_set(changes).as_bytes(), LINE_MAX);
        let [Request::Set { changes: again, refused: None }] = printed.as_slice() else {
            panic!("{printed:?}");
        };
        assert_eq!(again, changes);
    }
});
