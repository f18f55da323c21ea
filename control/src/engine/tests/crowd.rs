//! Among very many peers: places that come back, the share of a storm, what a change costs.

use super::*;

/// So many peers beside `far`.
pub(super) fn crowd(port: u16, peers: u32) -> Config {
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
            pmtu: None,
            probe: None,
            labels: config::Labels::default(),
            enabled: true,
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

/// Losses are looked for in portions, between which the core does what else is due, and everybody's once a second at most.
#[test]
fn losses_of_many_are_looked_for_some_at_a_time() {
    let [a] = free_ports();
    let mut site = Site::start(crowd(a, 1_000));
    let second = Duration::from_secs(1);
    // The pauses of a turn, which begins when there was a longer one.
    let mut now = clock::monotonic() + second;
    let mut pause = |site: &mut Site| {
        site.engine.watch_losses(now);
        let pause = site.engine.losses.due.since(now);
        now = now + pause;
        pause
    };
    while pause(&mut site) <= second / 8 {}
    for _ in 0..2 {
        let pauses: Vec<_> = (0..4).map(|_| pause(&mut site)).collect();
        assert_eq!(pauses[..3], [second / 8; 3]);
        assert_eq!(pauses.iter().sum::<Duration>(), second);
    }
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
        site.engine.apply(proposal, false, clock::now()).unwrap()
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
