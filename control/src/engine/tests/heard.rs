//! ICMP errors about what a peer was sent, and about what nobody was.

use std::net::SocketAddr;

use culvert_dataplane::shared::{drops::DropReason, peer::signal};
use culvert_stack::{Heard, Problem, Quoted};
use culvert_wireguard::Now;

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
