//! Files that are planned beside the control core, while it serves others.

use super::*;

/// The tunnel `a` with `far` and so many other peers, the first of which has a keepalive.
fn file(port: u16, peers: u32, keepalive: u16) -> Config {
    let mut config = crowd(port, peers);
    Arc::make_mut(&mut config.tunnels[0].peers[1]).persistent_keepalive = Some(keepalive);
    config
}

/// What `wg` does to each peer of its own.
fn by_wg(config: &Config) -> Vec<Change> {
    let key = |place: usize| config.tunnels[0].peers[place].public_key;
    let net = |text: &str| text.parse().unwrap();
    vec![
        Change::Fwmark(0),
        Change::Peer(key(1)),
        Change::PersistentKeepalive(99),
        Change::Peer(key(2)),
        Change::Remove,
        Change::Peer(key(3)),
        Change::Endpoint("127.0.0.1:9".parse().unwrap()),
        Change::AllowedIp(net("10.77.0.0/16")),
        Change::Peer(key(4)),
        Change::AllowedIp(net("11.0.0.7/32")),
        Change::Peer(PublicKey::from_bytes([99; 32])),
        Change::AllowedIp(net("10.78.0.0/16")),
    ]
}

impl Site {
    /// Whether all is as a file has it.
    fn assert_is(&self, file: &Config) {
        let engine = &self.engine;
        assert_eq!(engine.desired.plan(file), []);
        for tunnel in &file.tunnels {
            let slot = engine.tunnel_slot(&tunnel.name).unwrap();
            let state = engine.tunnels.get(slot).unwrap();
            assert_eq!(state.peers.len(), tunnel.peers.len());
            for peer in &tunnel.peers {
                let place = state.place(&peer.public_key).unwrap();
                assert_eq!(engine.peers.get(place).unwrap().config, *peer);
                for net in &peer.allowed_ips {
                    assert_eq!(state.owner(net), Some(place), "{net}");
                }
            }
        }
    }

    fn propose(&self, file: &Config) -> Proposal {
        Proposal::new(self.engine.desired.clone(), file.clone())
    }

    /// Serves until somebody's work is done.
    pub(super) fn serve_until<T: Send>(&mut self, work: impl FnOnce(&Requester) -> T + Send) -> T {
        let requester = self.requester.clone();
        std::thread::scope(|scope| {
            let work = scope.spawn(move || work(&requester));
            while !work.is_finished() {
                self.engine.take_requests(&self.requests, clock::now());
                self.engine.round(clock::now()).unwrap();
                std::thread::yield_now();
            }
            work.join().unwrap()
        })
    }
}

#[test]
fn a_file_takes_back_what_wg_sets_while_it_is_planned() {
    let [port] = free_ports();
    for planned in [file(port, 8, 5), file(port, 6, 7)] {
        let mut site = Site::start(file(port, 8, 5));
        let proposal = site.propose(&planned);
        assert!(matches!(site.set("a", &by_wg(&planned)), Answer::Done));
        site.engine.apply(proposal, false, clock::now()).unwrap();
        site.assert_is(&planned);
        // And what it had set before.
        assert!(matches!(site.set("a", &by_wg(&planned)), Answer::Done));
        let proposal = site.propose(&planned);
        let back = [
            Change::Peer(PublicKey::from_bytes([99; 32])),
            Change::Remove,
        ];
        assert!(matches!(site.set("a", &back), Answer::Done));
        site.engine.apply(proposal, false, clock::now()).unwrap();
        site.assert_is(&planned);
    }
}

#[test]
fn the_port_that_wg_gives_a_tunnel_meanwhile_is_taken_back() {
    let [port, another] = free_ports();
    let mut site = Site::start(file(port, 2, 5));
    let planned = file(port, 2, 6);
    let proposal = site.propose(&planned);
    site.set("a", &[Change::ListenPort(another)]);
    assert!(site.answers("a", another));
    let applied = site.engine.apply(proposal, false, clock::now()).unwrap();
    let line = format!("tunnel a changed (listen_port: {another} → {port})");
    assert!(applied.changes.contains(&line), "{applied:?}");
    site.assert_is(&planned);
    assert!(site.answers("a", port));
}

#[test]
fn a_file_that_was_planned_from_another_one_is_applied_all_the_same() {
    let [port] = free_ports();
    let mut site = Site::start(file(port, 8, 5));
    let files = [file(port, 4, 6), file(port, 12, 7)];
    let proposals = files.each_ref().map(|file| site.propose(file));
    for (file, proposal) in files.iter().zip(proposals) {
        site.engine.apply(proposal, false, clock::now()).unwrap();
        site.assert_is(file);
    }
}

#[test]
fn two_files_at_once_are_applied_in_turn() {
    let [port] = free_ports();
    let mut site = Site::start(file(port, 8, 5));
    let files = [file(port, 4, 6), file(port, 12, 7)];
    let generations = site.serve_until(|requester| {
        std::thread::scope(|scope| {
            let apply = |file: &Config| {
                let file = file.clone();
                scope.spawn(move || api::apply_blocking(requester, file).unwrap().generation)
            };
            files.each_ref().map(apply).map(|it| it.join().unwrap())
        })
    });
    let last = usize::from(generations[1] > generations[0]);
    assert_ne!(generations[0], generations[1]);
    site.assert_is(&files[last]);
}

/// However often `wg` sets something, one plan is enough.
#[test]
fn a_file_is_applied_during_a_storm_of_wg_set() {
    let [port] = free_ports();
    let mut site = Site::start(file(port, 500, 5));
    let (before, after) = (file(port, 500, 5), file(port, 500, 6));
    let ended = AtomicBool::new(false);
    let applied = site.serve_until(|requester| {
        std::thread::scope(|scope| {
            let keys: Vec<_> = before.tunnels[0]
                .peers
                .iter()
                .map(|peer| peer.public_key)
                .collect();
            let (requester, ended) = (requester.clone(), &ended);
            let applies = requester.clone();
            scope.spawn(move || {
                for (turn, key) in keys.iter().cycle().enumerate() {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let seconds = u16::try_from(turn % 1_000).unwrap();
                    let set = vec![Change::Peer(*key), Change::PersistentKeepalive(seconds)];
                    let (ask, tunnel) = (Ask::Set(set), name("a"));
                    let (reply, answer) = Reply::new();
                    if requester.send(Request::Uapi { tunnel, ask, reply }).is_ok() {
                        drop(answer.blocking_recv());
                    }
                }
            });
            let applied = [after.clone(), before.clone(), after.clone()]
                .map(|file| api::apply_blocking(&applies, file));
            ended.store(true, Ordering::Relaxed);
            applied
        })
    });
    for applied in applied {
        assert!(applied.unwrap().failures.is_empty());
    }
    site.apply(after.clone()).unwrap();
    site.assert_is(&after);
}
