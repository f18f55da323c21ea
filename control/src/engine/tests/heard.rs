//! ICMP errors about what a peer was sent, and about what nobody was.

use std::{net::SocketAddr, num::NonZeroU16};

use culvert_dataplane::shared::{drops::DropReason, hop::Hop, path::Path as WayOut, peer::signal};
use culvert_stack::{Heard, Problem, Quoted};
use culvert_wire::MacAddr;
use culvert_wireguard::{Keypair, Now, Role};

use super::*;
use crate::state::PeerError;

/// A tunnel whose peer is thought to be at a port of loopback that nobody has.
struct Lost {
    site: Site,
    port: u16,
    peer: SocketAddr,
}

impl Lost {
    fn start() -> Self {
        let [port, peer] = free_ports();
        let peer = SocketAddr::from(([127, 0, 0, 1], peer));
        let rest = format!(", endpoint: \"{peer}\", pmtu: probe, probe: 10.9.0.1");
        let config = tunnels(&[("a", port)], &rest);
        Self {
            site: Site::start(config),
            port,
            peer,
        }
    }

    /// It is sent to, as far as the core knows.
    fn is_sent_to(&mut self) {
        let engine = &mut self.site.engine;
        let place = engine.peers.iter().next().unwrap().0;
        let cell = Arc::clone(&engine.peers.get(place).unwrap().cell);
        cell.raise(signal::DATA_SENT, &engine.attention);
        for _ in 0..2 {
            engine.round(clock::now()).unwrap();
        }
    }

    fn hears(&mut self, about: Quoted, problem: Problem) {
        let from = [192, 0, 2, 254].into();
        let heard = Heard {
            from,
            problem,
            about,
        };
        let Now { monotonic, .. } = clock::now();
        self.site.engine.hear(None, &heard, monotonic);
    }

    fn about(&self) -> Quoted {
        Quoted {
            local: ([127, 0, 0, 1], self.port).into(),
            remote: self.peer,
            start: None,
        }
    }

    fn told(&mut self) -> Option<PeerError> {
        report(&mut self.site.engine).peers[0].last_error.clone()
    }

    fn counts(&self) -> [u64; 2] {
        let (_, uplink) = self.site.engine.uplinks.iter().next().unwrap();
        [DropReason::ErrorUnmatched, DropReason::ErrorIgnored]
            .map(|reason| uplink.counters.drops.count(reason))
    }
}

#[test]
fn an_error_that_quotes_what_a_peer_is_sent_is_shown() {
    let mut lost = Lost::start();
    lost.is_sent_to();
    lost.hears(lost.about(), Problem::PortUnreachable);
    let told = lost.told().unwrap();
    assert_eq!((&*told.what, told.mtu), ("port-unreachable", None));
    assert_eq!(told.from, Some([192, 0, 2, 254].into()));
    lost.hears(lost.about(), Problem::TooBig { mtu: 1_400 });
    let told = lost.told().unwrap();
    assert_eq!((&*told.what, told.mtu), ("too-big", Some(1_400)));
    assert_eq!(lost.counts(), [0, 0]);
}

#[test]
fn an_error_about_what_was_not_sent_is_counted_and_changes_nothing() {
    let mut lost = Lost::start();
    lost.is_sent_to();
    let about = lost.about();
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], about.remote.port()));
    let others = [
        Quoted {
            remote: elsewhere,
            ..about
        },
        Quoted {
            remote: SocketAddr::new(about.remote.ip(), 1),
            ..about
        },
        // A session that nobody has.
        Quoted {
            start: Some([4, 0, 0, 0, 1, 2, 3, 4]),
            ..about
        },
        Quoted {
            start: Some([0; 8]),
            ..about
        },
        Quoted {
            start: Some([255; 8]),
            ..about
        },
    ];
    for (n, other) in (1..).zip(others) {
        lost.hears(other, Problem::TooBig { mtu: 1_300 });
        assert_eq!(lost.counts(), [n, 0]);
    }
    // What the kernel really hears of it is another matter.
    assert!(lost.told().is_none_or(|told| told.what != "too-big"));
    // What is not from a port of ours is the host's own affair.
    let local = SocketAddr::from(([127, 0, 0, 1], 1));
    lost.hears(Quoted { local, ..about }, Problem::Unreachable);
    assert_eq!(lost.counts(), [5, 0]);
}

#[test]
fn a_hint_that_says_nothing_new_is_counted() {
    let mut lost = Lost::start();
    // Nothing is searched: nothing was sent.
    lost.site.engine.round(clock::now()).unwrap();
    lost.hears(lost.about(), Problem::TooBig { mtu: 1_400 });
    assert_eq!(lost.counts(), [0, 1]);
    lost.is_sent_to();
    lost.hears(lost.about(), Problem::TooBig { mtu: 1_400 });
    assert_eq!(lost.counts(), [0, 1]);
    lost.hears(lost.about(), Problem::TooBig { mtu: 9_000 });
    assert_eq!(lost.counts(), [0, 2]);
}

/// Nobody but us cuts what leaves by a device of ours.
#[test]
fn datagrams_are_cut_by_the_word_of_one_who_saw_them_and_not_for_ever() {
    let mut lost = Lost::start();
    lost.site.engine.round(clock::now()).unwrap();
    let now = clock::now().monotonic;
    let place = lost.site.engine.peers.iter().next().unwrap().0;
    let cell = Arc::clone(&lost.site.engine.peers.get(place).unwrap().cell);
    let indices = (1, u32::from_le_bytes([1, 2, 3, 4]));
    let keys = ([1; 32], [2; 32]);
    let keypair = Keypair::from_parts(cell.id, Role::Initiator, indices, keys, now);
    cell.publish_keypair(Some(Arc::new(keypair)));
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let hop = Arc::new(Hop::ethernet(UplinkIndex::from_slot(0), mac, Some(mac)));
    let path = WayOut::new(lost.peer, None, lost.port, hop);
    cell.publish_path(Some(path.clone()));
    let mut said = |start: Option<[u8; 8]>, mtu, after| {
        let about = Quoted {
            start,
            ..lost.about()
        };
        lost.hears(about, Problem::TooBig { mtu });
        let peer = lost.site.engine.peers.get(place).unwrap();
        peer.cut(&path, now + Duration::from_secs(after))
            .map(NonZeroU16::get)
    };
    let seen = Some([4, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(said(None, 1_300, 0), None, "anybody may have said so");
    assert_eq!(said(Some([4, 0, 0, 0, 1, 2, 3, 5]), 1_300, 0), None);
    assert_eq!(said(seen, 1_400, 0), Some(1_400));
    assert_eq!(said(seen, 100, 0), Some(1_280), "less passes everywhere");
    assert_eq!(said(seen, 1_300, 599), Some(1_300));
    assert_eq!(said(seen, 1_300, 700), None, "it may have become wider");
    // Elsewhere that says nothing.
    let mut elsewhere = path.clone();
    elsewhere.endpoint = ([127, 0, 0, 3], 1).into();
    let peer = lost.site.engine.peers.get(place).unwrap();
    assert_eq!(peer.cut(&elsewhere, now), None);
}

/// The kernel tells of it, if we may hear that.
#[test]
fn a_peer_that_is_not_there_is_shown_as_the_kernel_hears_it() {
    if culvert_dataplane::uplink::udp::KernelErrors::open(clock::monotonic()).is_err() {
        return;
    }
    let mut lost = Lost::start();
    await_round(&mut lost.site, |site| {
        let (_, peer) = site.engine.peers.iter().next().unwrap();
        peer.last_error
            .as_ref()
            .is_some_and(|error| error.problem == Problem::PortUnreachable)
    });
}
