//! Every timer, to the nanosecond where there is no jitter.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_wireguard::message::Kind;
use culvert_wireguard::{
    Budget, Event, Instant, PeerConfig, PeerId, PeerUpdate, PresharedKey, PublicKey, Role,
};

use crate::world::{World, address, ms, secs};

fn keepalives(world: &World, from: usize, since: Instant) -> Vec<Duration> {
    world
        .sent_by(from, since)
        .filter(|sent| sent.is_keepalive())
        .map(|sent| sent.at.since(since))
        .collect()
}

fn initiations(world: &World, from: usize, since: Instant) -> Vec<Duration> {
    let sent = world
        .sent_by(from, since)
        .filter(|sent| sent.kind() == Kind::Initiation);
    sent.map(|sent| sent.at.since(since)).collect()
}

fn events(
    world: &World,
    node: usize,
    since: Instant,
    is: impl Fn(&Event) -> bool,
) -> Vec<Duration> {
    let events = world.nodes[node]
        .events
        .iter()
        .filter(|(at, event)| *at >= since && is(event));
    events.map(|(at, _)| at.since(since)).collect()
}

fn assert_jittered(actual: Duration, base: Duration) {
    assert!(
        actual >= base && actual < base + ms(334),
        "{actual:?} is not {base:?} and a third of a second"
    );
}

fn set_keepalive(world: &mut World, a: usize, b: usize, interval: Duration) {
    let peer = world.peer(a, b);
    let update = PeerUpdate {
        persistent_keepalive: Some(interval),
        ..PeerUpdate::default()
    };
    world.device(a, |device, now| device.update_peer(peer, update, now));
}

/// A session whose creation lies `age` back, with no traffic since the first exchange.
fn connected(age: Duration) -> (World, Instant) {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let born = world.current(0, 1).unwrap().created();
    world.run(age);
    (world, born)
}

#[test]
fn initiations_are_retried_twenty_times_in_all_with_jitter() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    let start = world.now;
    world.send(0, 1, b"nobody is there");
    world.run(secs(200));
    let sent = initiations(&world, 0, start);
    assert_eq!(sent.len(), 20);
    let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for gap in &gaps {
        assert_jittered(*gap, secs(5));
    }
    assert!(
        gaps.iter().any(|gap| *gap > secs(5) + ms(200))
            && gaps.iter().any(|gap| *gap < secs(5) + ms(130))
    );
    assert_eq!(
        events(&world, 0, start, |event| matches!(
            event,
            Event::SourceStale { .. }
        ))
        .len(),
        19
    );
    let given_up = events(&world, 0, start, |event| {
        matches!(event, Event::HandshakeGivenUp { .. })
    });
    assert_eq!(given_up.len(), 1);
    assert_jittered(given_up[0] - sent[19], secs(5));
    assert_eq!(world.nodes[0].staged_drops, 1);
    assert_eq!(world.staged(0, 1), 0);

    // A new packet starts it all over, in larger steps.
    let again = world.now;
    world.send(0, 1, b"still nobody?");
    world.run(secs(200));
    let sent = initiations(&world, 0, again);
    for (gap, doubled) in sent.windows(2).zip([10, 20, 30, 30]) {
        assert_jittered(gap[1] - gap[0], secs(doubled));
    }
    assert_eq!((sent[0], sent.len()), (secs(0), 8));
}

#[test]
fn every_packet_restarts_the_count_of_attempts() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    let start = world.now;
    for _ in 0..40 {
        world.send(0, 1, b"?");
        world.run(secs(10));
    }
    let sent = initiations(&world, 0, start);
    assert!((20..40).contains(&sent.len()), "{}", sent.len());
    assert!(sent.last().is_some_and(|at| *at > secs(360)), "{sent:?}");
    assert_eq!(
        events(&world, 0, start, |event| matches!(
            event,
            Event::HandshakeGivenUp { .. }
        ))
        .len(),
        0
    );
}

#[test]
fn initiations_are_five_seconds_apart_whatever_asks() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    let start = world.now;
    for _ in 0..499 {
        world.send(0, 1, b"!");
        world.run(ms(10));
    }
    assert_eq!(initiations(&world, 0, start).len(), 1);
    world.run(ms(10));
    world.send(0, 1, b"!");
    assert_eq!(initiations(&world, 0, start).len(), 2);
    assert_eq!(world.staged(0, 1), 128);
    assert_eq!(
        world.nodes[0].staged_drops,
        500 - 128,
        "the oldest made room"
    );
    world.faults.loss = 0;
    world.settle();
}

#[test]
fn a_response_counts_towards_the_five_seconds() {
    let mut world = World::new(2, 1);
    world.send(0, 1, b"x");
    world.faults.loss = 100;
    world.settle();
    // The response is lost. Node 1 has something to say, but has just sent a handshake message.
    let start = world.now;
    world.send(1, 0, b"y");
    assert_eq!(initiations(&world, 1, start).len(), 0);
    world.run(ms(4_999));
    assert_eq!(initiations(&world, 1, start).len(), 0);
    world.run(ms(400));
    let sent = initiations(&world, 1, start);
    assert_eq!(sent.len(), 1, "the packet doesn't wait for ever");
    assert_jittered(sent[0], secs(5));
}

#[test]
fn received_data_is_answered_by_a_keepalive_after_ten_seconds() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    world.send(0, 1, b"one");
    world.run(secs(60));
    assert_eq!(keepalives(&world, 1, start), [secs(10)]);
    assert_eq!(
        keepalives(&world, 0, start),
        [],
        "a keepalive isn't answered"
    );
    assert_eq!(initiations(&world, 0, start), []);
}

#[test]
fn further_data_within_the_ten_seconds_is_answered_once_more() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    world.send(0, 1, b"one");
    world.run(secs(3));
    world.send(0, 1, b"two");
    world.run(secs(60));
    assert_eq!(keepalives(&world, 1, start), [secs(10), secs(20)]);
}

#[test]
fn data_sent_in_time_saves_the_keepalive() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    world.send(0, 1, b"question");
    world.run(secs(9));
    world.send(1, 0, b"answer");
    world.run(secs(60));
    assert_eq!(keepalives(&world, 1, start), []);
    assert_eq!(keepalives(&world, 0, start), [secs(19)]);
}

#[test]
fn fifteen_seconds_of_silence_after_the_first_packet_call_for_a_handshake() {
    let (mut world, _) = connected(secs(20));
    world.faults.loss = 100;
    let start = world.now;
    for _ in 0..7 {
        world.send(0, 1, b"anyone?");
        world.run(secs(2));
    }
    assert_eq!(initiations(&world, 0, start), []);
    world.run(secs(3));
    let sent = initiations(&world, 0, start);
    assert_eq!(sent.len(), 1);
    assert_jittered(sent[0], secs(15));
    let stale = events(&world, 0, start, |event| {
        matches!(event, Event::SourceStale { .. })
    });
    assert_eq!(stale, sent);
}

#[test]
fn a_lost_peer_that_returns_is_found() {
    let (mut world, _) = connected(secs(20));
    let peer = world.peer(1, 0);
    // Node 1 restarts and has forgotten the session.
    world.device(1, |device, now| {
        device.bring_down();
        device.bring_up(now);
    });
    world.send(0, 1, b"lost");
    world.run(secs(16));
    world.send(0, 1, b"found");
    world.settle();
    assert_eq!(world.payloads(1), [b"found"]);
    assert!(
        world.nodes[1]
            .device
            .peer(peer)
            .unwrap()
            .last_handshake
            .is_some()
    );
}

#[test]
fn anything_received_ends_the_wait_for_a_handshake() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    world.send(0, 1, b"one");
    world.run(secs(14));
    // Node 1's keepalive came at 10 s. From now on nothing arrives.
    world.faults.loss = 100;
    world.send(0, 1, b"two");
    world.run(secs(14));
    assert_eq!(initiations(&world, 0, start), []);
    world.run(secs(2));
    let sent = initiations(&world, 0, start);
    assert_eq!(sent.len(), 1);
    assert_jittered(sent[0] - secs(14), secs(15));
}

#[test]
fn the_initiator_renews_when_it_sends_after_120_s() {
    let (mut world, born) =
        connected(Duration::from_nanos(secs(120).as_nanos().try_into().unwrap()) - ms(1));
    world.send(0, 1, b"a");
    world.settle();
    assert_eq!(initiations(&world, 0, born).len(), 1, "the first");
    world.run(ms(1));
    world.send(0, 1, b"b");
    world.settle();
    assert_eq!(initiations(&world, 0, born), [secs(0), secs(120)]);
    assert_eq!(
        world.payloads(1),
        [b"a", b"b"],
        "the old keypair carries on meanwhile"
    );
    let now = world.now;
    for (a, b, role) in [(0, 1, Role::Initiator), (1, 0, Role::Responder)] {
        let current = world.current(a, b).unwrap();
        assert_eq!((current.created(), current.role()), (now, role));
        assert_eq!(world.keypairs(a).len(), 2, "current and previous");
    }
}

#[test]
fn packets_that_a_renewal_overtakes_still_arrive() {
    let (mut world, _) = connected(secs(120));
    let before: Vec<_> = [(0, 1), (1, 0)]
        .into_iter()
        .map(|(a, b)| {
            let peer = world.peer(a, b);
            // Sealed, but held up on the way.
            world.send_to(a, peer, b"overtaken");
            let sent = world
                .wire
                .iter()
                .rev()
                .find(|sent| sent.from == a && sent.kind() == Kind::Data);
            (b, sent.unwrap().clone())
        })
        .collect();
    world.lose_in_flight();
    world.run(secs(6));
    assert!(
        world.keypairs(0).len() == 2 && world.keypairs(1).len() == 2,
        "a renewal took place"
    );
    for (to, sent) in before {
        world.inject(to, sent.source, &sent.bytes);
        assert_eq!(world.payloads(to), [b"overtaken"]);
    }
}

#[test]
fn the_responder_doesnt_renew() {
    let (mut world, born) = connected(secs(119));
    for _ in 0..50 {
        world.send(1, 0, b"x");
        world.run(secs(1));
    }
    // Node 0 only receives: its turn is at 165 s.
    assert_eq!(initiations(&world, 1, born), []);
    let first_reply = keepalives(&world, 0, born)
        .into_iter()
        .find(|at| *at > secs(119))
        .unwrap();
    assert!(
        first_reply <= secs(130),
        "its keepalives are sent data of no kind that renews at 120 s"
    );
}

#[test]
fn a_receiving_initiator_renews_once_after_165_s() {
    let (mut world, born) = connected(secs(164));
    let mut renewals = || {
        world.faults.loss = 0;
        world.send(1, 0, b"x");
        world.deliver_to(0);
        world.faults.loss = 100;
        world.run(ms(100));
        initiations(&world, 0, born).len() - 1
    };
    assert_eq!(renewals(), 0);
    for _ in 0..9 {
        renewals();
    }
    assert_eq!(renewals(), 1, "165 s have passed");
    let sent = initiations(&world, 0, born);
    assert!(sent[1] >= secs(165) && sent[1] < secs(165) + ms(200));
}

#[test]
fn nothing_is_sent_or_opened_after_180_s() {
    let (mut world, born) = connected(secs(180) - ms(1));
    world.send(1, 0, b"in time");
    world.send(1, 0, b"late");
    let [in_time, late] = [2, 1].map(|back| world.wire[world.wire.len() - back].clone());
    world.inject(0, in_time.source, &in_time.bytes);
    assert_eq!(world.payloads(0), [b"in time"]);
    world.lose_in_flight();
    world.run(ms(1));
    assert_eq!(world.now.since(born), secs(180));
    world.inject(0, late.source, &late.bytes);
    assert_eq!(world.nodes[0].data_drops, ["expired"]);
    let mark = world.now;
    world.send(1, 0, b"b");
    assert_eq!(world.staged(1, 0), 1);
    assert_eq!(world.count(1, mark, Kind::Initiation), 1);
    world.settle();
    assert_eq!(world.payloads(0), [b"in time".to_vec(), b"b".to_vec()]);
}

#[test]
fn keys_are_wiped_after_540_s() {
    let (mut world, born) = connected(secs(539));
    assert_eq!(world.keypairs(0).len(), 1);
    world.run(ms(999));
    assert!(world.current(0, 1).is_some());
    world.run(ms(1));
    assert_eq!(world.now.since(born), secs(540));
    for node in 0..2 {
        assert!(world.keypairs(node).is_empty());
        assert!(world.current(node, 1 - node).is_none());
        assert_eq!(
            world.nodes[node].device.poll_timeout(),
            None,
            "an idle peer wakes nobody"
        );
    }
}

#[test]
fn an_open_initiation_is_wiped_540_s_after_giving_up() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    world.send(0, 1, b"x");
    world.run(secs(110));
    let response = {
        let initiation = world
            .wire
            .iter()
            .rev()
            .find(|sent| sent.kind() == Kind::Initiation)
            .unwrap()
            .clone();
        world.inject(1, address(0), &initiation.bytes);
        world.wire.last().unwrap().clone()
    };
    world.run(secs(541));
    world.inject(0, address(1), &response.bytes);
    assert!(world.keypairs(0).is_empty());
}

#[test]
fn a_new_session_postpones_the_wiping() {
    let (mut world, born) = connected(secs(300));
    world.send(0, 1, b"new session");
    world.settle();
    world.run(secs(539));
    assert!(world.current(0, 1).is_some());
    world.run(secs(1));
    assert!(world.current(0, 1).is_none());
    assert_eq!(world.now.since(born), secs(840));
}

#[test]
fn persistent_keepalives_keep_their_interval_and_yield_to_traffic() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    set_keepalive(&mut world, 0, 1, secs(25));
    world.run(secs(55));
    assert_eq!(
        keepalives(&world, 0, start),
        [secs(0), secs(25), secs(50)],
        "switching it on sends one"
    );
    world.send(0, 1, b"sent");
    world.run(secs(5));
    world.send(1, 0, b"received");
    world.run(secs(24));
    let since = |world: &World| {
        keepalives(world, 0, start)
            .into_iter()
            .filter(|at| *at > secs(50))
            .collect::<Vec<_>>()
    };
    // Received data is answered after 10 s, by the other rule; that is sent traffic, too.
    assert_eq!(since(&world), [secs(70)]);
    world.run(secs(15));
    assert_eq!(since(&world), [secs(70), secs(95)]);
}

#[test]
fn persistent_keepalives_can_be_switched_off_and_dont_start_twice() {
    let (mut world, _) = connected(secs(20));
    let start = world.now;
    set_keepalive(&mut world, 0, 1, secs(10));
    world.run(secs(1));
    set_keepalive(&mut world, 0, 1, secs(20));
    assert_eq!(
        keepalives(&world, 0, start),
        [secs(0)],
        "a changed interval sends none"
    );
    world.run(secs(1));
    set_keepalive(&mut world, 0, 1, secs(0));
    world.run(secs(100));
    assert_eq!(keepalives(&world, 0, start), [secs(0)]);
}

#[test]
fn persistent_keepalives_hold_a_session_for_ever() {
    let mut world = World::new(2, 1);
    let start = world.now;
    set_keepalive(&mut world, 0, 1, secs(25));
    world.run(secs(3_600));
    assert!(world.current(0, 1).unwrap().sendable(world.now).is_ok());
    let sent = initiations(&world, 0, start);
    assert!(
        sent.windows(2).all(|pair| pair[1] - pair[0] <= secs(150)),
        "{sent:?}"
    );
    assert!((24..=30).contains(&sent.len()), "{}", sent.len());
    assert_eq!(initiations(&world, 1, start), []);
    world.send(1, 0, b"still there?");
    world.settle();
    assert_eq!(world.payloads(0), [b"still there?"]);
}

#[test]
fn persistent_keepalives_never_give_up() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    set_keepalive(&mut world, 0, 1, secs(25));
    world.run(secs(600));
    let mark = world.now;
    world.faults.loss = 0;
    world.run(secs(31));
    assert!(!initiations(&world, 0, mark).is_empty());
    assert!(world.current(0, 1).is_some());
}

/// Where the initiations of node 0 went, from the first on.
fn places(world: &World, since: Instant) -> Vec<SocketAddr> {
    let sent = world
        .sent_by(0, since)
        .filter(|sent| sent.kind() == Kind::Initiation);
    sent.map(|sent| sent.to).collect()
}

#[test]
fn all_places_are_called_in_turn_until_one_answers() {
    let mut world = World::new(2, 1);
    let peer = world.peer(0, 1);
    let (old, dead, alive) = (address(1), address(7), address(8));
    world.move_node(1, alive);
    let update = PeerUpdate {
        elsewhere: Some(vec![dead, alive]),
        ..PeerUpdate::default()
    };
    world.device(0, |device, now| device.update_peer(peer, update, now));
    let start = world.now;
    world.send(0, 1, b"where are you?");
    world.run(secs(15));
    assert_eq!(places(&world, start), [old, dead, alive]);
    assert_eq!(world.endpoint(0, 1), Some(alive));
    assert_eq!(world.payloads(1), [b"where are you?"]);
    let unanswered = events(&world, 0, start, |event| {
        matches!(event, Event::Unanswered { calls: 1..=2, .. })
    });
    assert_eq!(unanswered.len(), 2);

    // A lost call does not lead data away from the place where the peer was heard.
    world.run(secs(121));
    world.faults.loss = 100;
    let lost = world.now;
    world.send(0, 1, b"lost");
    world.run(secs(7));
    assert_eq!(places(&world, lost), [alive, dead]);
    assert_eq!(world.endpoint(0, 1), Some(alive));
    world.faults.loss = 0;
    world.send(0, 1, b"not lost");
    world.run(secs(1));
    assert_eq!(world.payloads(1).last().unwrap(), b"not lost");
}

/// What the resolver gives for a name with several addresses comes in another order each time.
#[test]
fn places_in_another_order_are_no_new_ones() {
    let mut world = World::new(2, 1);
    let peer = world.peer(0, 1);
    let (old, first, second) = (address(1), address(7), address(8));
    let tell = |world: &mut World, elsewhere: &[SocketAddr], endpoint| {
        let update = PeerUpdate {
            elsewhere: Some(elsewhere.to_vec()),
            endpoint,
            ..PeerUpdate::default()
        };
        world.device(0, |device, now| device.update_peer(peer, update, now));
    };
    let unanswered = |world: &World| world.nodes[0].device.peer(peer).unwrap().unanswered;
    tell(&mut world, &[first, second], None);
    world.faults.loss = 100;
    let start = world.now;
    world.send(0, 1, b"where are you?");
    for turn in 0..30 {
        let orders = [[second, first], [first, second]];
        tell(&mut world, &orders[turn % 2], None);
        world.run(secs(6));
    }
    // One attempt of ninety seconds, all places in turn, and then it gives up.
    let called = places(&world, start);
    assert!((15..=20).contains(&called.len()), "{called:?}");
    assert_eq!(called[..6], [old, first, second, old, first, second]);
    let before = unanswered(&world);
    assert!(before >= 15, "{before}");

    // A place that changes its role, or leaves, is no new one either.
    tell(&mut world, &[old, second], Some(first));
    tell(&mut world, &[old], None);
    assert_eq!(unanswered(&world), before);
    tell(&mut world, &[address(9), old], None);
    assert_eq!(unanswered(&world), 0);
}

#[test]
fn a_new_place_that_is_told_of_patiently_waits_for_its_turn() {
    let mut world = World::new(2, 1);
    let peer = world.peer(0, 1);
    let unanswered = |world: &World| world.nodes[0].device.peer(peer).unwrap().unanswered;
    world.faults.loss = 100;
    world.send(0, 1, b"where are you?");
    world.run(secs(40));
    let (before, start) = (unanswered(&world), world.now);
    assert!(before >= 5, "{before}");
    let update = PeerUpdate {
        elsewhere: Some(vec![address(9)]),
        patiently: true,
        ..PeerUpdate::default()
    };
    world.device(0, |device, now| device.update_peer(peer, update, now));
    assert_eq!(unanswered(&world), before);
    assert!(places(&world, start).is_empty(), "not at once");
    world.run(secs(15));
    assert!(places(&world, start).contains(&address(9)));
    assert!(unanswered(&world) > before);
}

#[test]
fn a_new_place_is_called_without_the_old_ones_delay() {
    let mut world = World::new(2, 1);
    let peer = world.peer(0, 1);
    world.move_node(1, address(8));
    set_keepalive(&mut world, 0, 1, secs(25));
    world.run(secs(600));
    let mark = world.now;
    let update = PeerUpdate {
        endpoint: Some(address(8)),
        ..PeerUpdate::default()
    };
    world.device(0, |device, now| device.update_peer(peer, update, now));
    world.run(secs(6));
    assert_eq!(places(&world, mark), [address(8)]);
    assert!(world.current(0, 1).is_some());
}

#[test]
fn whoever_calls_is_answered_and_called_at_full_pace_again() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    set_keepalive(&mut world, 0, 1, secs(25));
    world.run(secs(600));
    world.faults.loss = 0;
    world.send(1, 0, b"here I am");
    world.settle();
    assert_eq!(world.payloads(0), [b"here I am"]);
    let status = world.nodes[0].device.peer(world.peer(0, 1)).unwrap();
    assert_eq!(status.unanswered, 0);
}

#[test]
fn an_idle_tunnel_is_silent() {
    let (mut world, _) = connected(secs(30));
    let mark = world.now;
    world.run(secs(7_200));
    assert_eq!(
        world.sent_by(0, mark).count() + world.sent_by(1, mark).count(),
        0
    );
}

#[test]
fn steady_one_way_traffic_renews_on_time_without_loss() {
    let mut world = World::new(2, 1);
    let start = world.now;
    for n in 0_u32..3_600 {
        world.send(0, 1, n.to_string().as_bytes());
        world.run(ms(250));
    }
    assert_eq!(
        world.payloads(1),
        (0..3_600_u32)
            .map(|n| n.to_string().into_bytes())
            .collect::<Vec<_>>()
    );
    let sent = initiations(&world, 0, start);
    assert_eq!(sent.len(), 8, "every 120 s: {sent:?}");
    assert!(
        sent.windows(2)
            .all(|pair| pair[1] - pair[0] >= secs(120) && pair[1] - pair[0] <= secs(121))
    );
    assert_eq!(initiations(&world, 1, start), []);
}

#[test]
fn both_ways_traffic_renews_by_the_initiator_alone() {
    let mut world = World::new(2, 1);
    let start = world.now;
    world.connect(0, 1);
    for _ in 0..1_000 {
        world.send(0, 1, b"x");
        world.send(1, 0, b"y");
        world.run(ms(500));
    }
    assert_eq!(initiations(&world, 0, start).len(), 5);
    assert_eq!(initiations(&world, 1, start).len(), 0);
    assert_eq!(
        (world.payloads(0).len(), world.payloads(1).len()),
        (1_000, 1_000)
    );
    assert_eq!(
        keepalives(&world, 0, start).len(),
        4,
        "one for each renewal"
    );
}

#[test]
fn timeouts_are_worked_off_in_portions() {
    let mut world = World::new(1, 1);
    for n in 0..200_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let config = PeerConfig {
            public_key: PublicKey::from_bytes(key),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: Some(secs(25)),
            endpoint: Some(address(9)),
        };
        assert_eq!(world.add(0, config), PeerId(n));
    }
    let portions: Vec<_> = std::iter::from_fn(|| {
        let device = &mut world.nodes[0].device;
        device
            .poll_timeout()
            .filter(|at| *at <= world.now)
            .map(|_| ())?;
        world.device(0, |device, now| device.handle_timeout(now));
        Some(world.wire.len())
    })
    .collect();
    // Of the calls, the budget allows no more at once.
    assert_eq!(portions, [64, 64, 64, 64]);
    world.run(secs(1));
    assert_eq!(world.wire.len(), 200);
}

/// A device that may call two silent peers per second, with 200 of them, all with keepalives.
fn crowd() -> World {
    let mut world = World::new(2, 1);
    world.budget = Budget::new(100, 2);
    for n in 0..200_u8 {
        let config = PeerConfig {
            public_key: PublicKey::from_bytes([n + 1; 32]),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: Some(secs(25)),
            endpoint: Some(address(9)),
        };
        world.add(0, config);
    }
    world
}

fn calls_to_crowd(world: &World, since: Instant) -> usize {
    let calls = places(world, since);
    calls.iter().filter(|to| **to == address(9)).count()
}

#[test]
fn a_crowd_of_silent_peers_shares_a_budget_and_each_has_its_turn() {
    let mut world = crowd();
    world.run(secs(300));
    let mark = world.now;
    world.run(secs(100));
    assert_eq!(calls_to_crowd(&world, mark), 200);
    let device = &world.nodes[0].device;
    let calls: Vec<_> = device.peers().map(|status| status.unanswered).collect();
    assert!(calls[1..].iter().all(|n| (5..=6).contains(n)), "{calls:?}");
}

#[test]
fn nobody_waits_for_a_crowd_of_silent_peers() {
    let mut world = crowd();
    world.run(secs(100));
    world.send(1, 0, b"from outside");
    world.settle();
    assert_eq!(world.payloads(0), [b"from outside"]);

    // The other way it is a first call again.
    world.run(secs(200));
    world.send(0, 1, b"from inside");
    world.settle();
    assert_eq!(world.payloads(1), [b"from inside"]);

    // Whoever lost one call comes ahead of those that lost more.
    world.run(secs(200));
    world.faults.loss = 100;
    world.send(0, 1, b"lost at first");
    world.settle();
    world.faults.loss = 0;
    world.run(secs(6));
    assert_eq!(world.payloads(1).last().unwrap(), b"lost at first");
}
