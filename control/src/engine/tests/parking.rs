//! What a change removes that waits for its confirmation, and what becomes of it.

use std::sync::Weak;

use culvert_dataplane::shared::{drops::DropReason, ids::TunnelIndex};
use culvert_wireguard::{Keypair, limits::REJECT_AFTER_TIME, message::Kind};

use super::*;

/// A tunnel whose only peer has a session with it.
struct Trial {
    site: Site,
    port: u16,
    far: Far,
    session: Arc<Keypair>,
    cell: Arc<Cell>,
    before: Config,
}

impl Trial {
    fn begin() -> Self {
        let mut trial = Self::call();
        assert!(trial.is_heard());
        assert_eq!(trial.says(), Some(Kind::Data));
        trial
    }

    /// Its peer has called, and said nothing more.
    fn call() -> Self {
        let [port] = free_ports();
        let before = tunnels(&[("a", port)], "");
        let mut site = Site::start(before.clone());
        let mut far = Far::call(&key("far"), key("a").public_key(), port);
        await_round(&mut site, |_| far.hears(Duration::from_millis(2)));
        let session = far.session();
        let cell = Arc::clone(&site.engine.peers.iter().next().unwrap().1.cell);
        Self {
            site,
            port,
            far,
            session,
            cell,
            before,
        }
    }

    fn apply(&mut self, config: Config, on_trial: bool) {
        let proposal = Proposal::new(self.site.engine.desired.clone(), config);
        let applied = self.site.engine.apply(proposal, on_trial, clock::now());
        assert_eq!(applied.unwrap().failures, [""; 0]);
    }

    fn without_peer(&self) -> Config {
        let mut config = self.before.clone();
        config.tunnels[0].peers.clear();
        config
    }

    /// Whether what the peer says with its session is accepted.
    fn is_heard(&mut self) -> bool {
        let received = |cell: &Cell| cell.traffic.rx_packets.load(Ordering::Relaxed);
        let unknown = |site: &Site| {
            let uplink = site.engine.uplinks.get(0).unwrap();
            let counters = &uplink.counters;
            counters.drops.count(DropReason::ReceiverUnknown)
        };
        let before = (received(&self.cell), unknown(&self.site));
        self.far.keep_alive(&self.session, self.port);
        await_round(&mut self.site, |site| {
            (received(&self.cell), unknown(site)) != before
        });
        received(&self.cell) > before.0
    }

    /// What the peer is sent when there is something to be sent to it.
    fn says(&mut self) -> Option<Kind> {
        let place = self.cell.index.slot();
        self.site.engine.keep_alive(place);
        let message = self.far.receives(&self.session, Duration::from_millis(500));
        message.map(|(kind, _)| kind)
    }

    fn our_keypair(&self) -> Weak<Keypair> {
        Arc::downgrade(self.cell.keypair().as_ref().unwrap())
    }
}

#[test]
fn a_peer_that_comes_back_goes_on_with_its_session() {
    let mut trial = Trial::begin();
    let (ours, place) = (trial.our_keypair(), trial.cell.index.slot());
    trial.apply(trial.without_peer(), true);
    assert!(!trial.is_heard());
    assert_eq!(trial.says(), None);
    await_round(&mut trial.site, |site| site.engine.leaving.is_empty());
    assert_eq!(trial.site.engine.peers.len(), 0);
    // A stranger gets another place.
    let stranger = key("stranger").public_key();
    trial.site.set("a", &[Change::Peer(stranger)]);
    assert!(trial.site.engine.peers.get(place).is_none());

    trial.apply(trial.before.clone(), false);
    let peer = trial.site.engine.peers.get(place).unwrap();
    assert!(Arc::ptr_eq(&peer.cell, &trial.cell));
    assert!(ours.ptr_eq(&trial.our_keypair()));
    // No round lies between: its packets pass at once.
    let sent = trial.cell.keypair().as_ref().unwrap().sent();
    assert_eq!(trial.says(), Some(Kind::Data));
    assert_eq!(trial.cell.keypair().as_ref().unwrap().sent(), sent + 1);
    assert!(trial.is_heard());
    compile::assert_compiled(&mut trial.site);
    // It leaves as any other does.
    trial.apply(trial.without_peer(), false);
    await_round(&mut trial.site, |site| site.engine.leaving.is_empty());
    assert_eq!(trial.site.engine.peers.in_use(), 0);
}

#[test]
fn a_session_that_only_workers_know_to_be_confirmed_comes_back_confirmed() {
    let mut trial = Trial::call();
    assert!(trial.cell.keypair().is_none());
    trial.far.keep_alive(&trial.session, trial.port);
    // The worker opens it; no round of the core's lies between.
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    while trial.cell.keypair().is_none() && std::time::Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    let ours = trial.our_keypair();
    trial.apply(trial.without_peer(), true);
    trial.apply(trial.before.clone(), false);
    assert!(ours.ptr_eq(&trial.our_keypair()));
    assert_eq!(trial.says(), Some(Kind::Data));
}

#[test]
fn a_confirmation_wipes_what_is_parked() {
    for (confirms, is_prompt) in [(true, true), (true, false), (false, false)] {
        let mut trial = Trial::begin();
        let ours = trial.our_keypair();
        trial.apply(trial.without_peer(), true);
        if !is_prompt {
            await_round(&mut trial.site, |site| site.engine.leaving.is_empty());
        }
        assert!(ours.upgrade().is_some());
        let engine = &mut trial.site.engine;
        if confirms {
            engine.wipe_parked();
        } else {
            // Or time does, when its keypairs are too old.
            let now = clock::now();
            let mut later = now;
            later.monotonic = now.monotonic + REJECT_AFTER_TIME;
            engine.round(later).unwrap();
        }
        await_round(&mut trial.site, |site| {
            site.engine.leaving.is_empty() && ours.upgrade().is_none()
        });
        assert_eq!(trial.site.engine.peers.in_use(), 0);
        assert!(!trial.is_heard());
        trial.apply(trial.before.clone(), false);
        assert!(trial.cell.keypair().is_none());
        assert!(!trial.is_heard());
    }
}

#[test]
fn a_tunnel_that_comes_back_has_its_sessions() {
    let mut trial = Trial::begin();
    let mut without = trial.before.clone();
    without.tunnels.clear();
    trial.apply(without.clone(), true);
    assert_eq!(trial.says(), None);
    // A tunnel that comes meanwhile would get another place.
    trial.apply(trial.before.clone(), false);
    assert_eq!(trial.site.engine.tunnel_slot(&name("a")), Some(0));
    assert_eq!(trial.says(), Some(Kind::Data));
    assert!(trial.is_heard());
    compile::assert_compiled(&mut trial.site);

    let ours = trial.our_keypair();
    trial.apply(without, true);
    trial.site.engine.wipe_parked();
    await_round(&mut trial.site, |site| {
        site.engine.leaving.is_empty() && ours.upgrade().is_none()
    });
    trial.apply(trial.before.clone(), false);
    let snapshot = trial.site.engine.snapshots.load_full();
    let tunnel = snapshot.tunnel(TunnelIndex::from_slot(0)).unwrap();
    assert!(tunnel.sessions.find(trial.session.remote_index()).is_none());
}

#[test]
fn whom_wg_adds_under_a_parked_key_is_another() {
    let mut trial = Trial::begin();
    let ours = trial.our_keypair();
    trial.apply(trial.without_peer(), true);
    trial
        .site
        .set("a", &[Change::Peer(key("far").public_key())]);
    await_round(&mut trial.site, |_| ours.upgrade().is_none());
    trial.apply(trial.before.clone(), false);
    assert!(!trial.is_heard());
}
