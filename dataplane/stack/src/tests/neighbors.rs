//! What is known of neighbors, and how long.

use super::*;
use crate::neighbors::{Answer, Answered};

#[test]
fn two_that_start_at_once_resolve_within_one_exchange() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        assert!(matches!(
            wire.a.resolve(ip(of_b), START),
            Resolution::Pending { .. }
        ));
        assert!(matches!(
            wire.b.resolve(ip(of_a), START),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(way(&mut wire.a, ip(of_b), START), via(of_a, A, B));
        assert_eq!(way(&mut wire.b, ip(of_a), START), via(of_b, B, A));
        // Six announcements, two questions, two answers: and no event twice.
        assert_eq!(wire.carried, 10);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(events(&mut wire.b), [ip(of_a)]);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        assert_eq!(info(&wire.a, of_b).unwrap().confirmed, Some(START));
    }
}

#[test]
fn who_asks_is_known_without_asking() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(state(&wire.b, of_a), Some(NeighborState::Stale));
        // Nobody resolved it: no event, no timer but the announcements'.
        assert!(events(&mut wire.b).is_empty());
        assert_eq!(way(&mut wire.b, ip(of_a), START), via(of_b, B, A));
        // In use now: probed after five seconds, by unicast, and usable meanwhile.
        wire.advance(START + Duration::from_secs(6), |_| false);
        assert_eq!(state(&wire.b, of_a), Some(NeighborState::Reachable));
        assert!(events(&mut wire.b).is_empty());
    }
}

#[test]
fn a_neighbor_in_use_is_kept_fresh_for_ever() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        let start = wire.carried;
        for second in 1..3_600 {
            wire.advance(START + Duration::from_secs(second), |frame| {
                frame[0] & 1 != 0
            });
            assert!(info(&wire.a, of_b).unwrap().mac.is_some());
        }
        assert!(events(&mut wire.a).is_empty());
        // A question and an answer each 35 s on the average, 20 at least and 50 at most.
        let exchanges = (wire.carried - start) / 2;
        assert!((85..=125).contains(&exchanges), "{exchanges}");
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
    }
}

#[test]
fn who_is_verified_and_does_not_answer_is_lost_within_three_seconds() {
    for of_b in ["192.0.2.2", "2001:db8::2"] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        // Who has just answered is not asked; later it is, and answers.
        let start = wire.carried;
        wire.a.verify(ip(of_b), START + Duration::from_secs(1));
        wire.settle(|_| false);
        assert_eq!(wire.carried, start);
        wire.advance(START + Duration::from_secs(4), |_| false);
        let start = wire.carried;
        wire.a.verify(ip(of_b), wire.now);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Probing));
        wire.a.verify(ip(of_b), wire.now);
        wire.settle(|_| false);
        assert_eq!(wire.carried - start, 2);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        // Then nothing arrives any more.
        let now = wire.now + Duration::from_secs(3);
        wire.advance(now, |_| true);
        wire.a.verify(ip(of_b), now);
        wire.advance(now + Duration::from_secs(4), |_| true);
        // Nobody goes by it, though everyone is asked by now.
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Incomplete));
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        // No neighbor of ours, and nobody that is known.
        wire.a.verify(ip("203.0.113.1"), wire.now);
        assert_eq!(state(&wire.a, "203.0.113.1"), None);
    }
}

#[test]
fn two_lost_questions_are_made_good() {
    for of_b in ["192.0.2.2", "2001:db8::2"] {
        let mut wire = Wire::new();
        wire.settle(|_| true);
        wire.a.resolve(ip(of_b), START);
        let mut lost = 0;
        wire.advance(START + Duration::from_millis(2_500), |_| {
            // The question, its repetition; then announcements are on their way as well.
            lost += 1;
            lost <= 2
        });
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
    }
}

#[test]
fn silence_fails_after_three_questions_and_is_asked_again_once_a_second() {
    for of_b in ["192.0.2.9", "2001:db8::9"] {
        let mut stack = quiet(A, 1);
        let t = START + Duration::from_secs(10);
        assert!(matches!(
            stack.resolve(ip(of_b), t),
            Resolution::Pending { .. }
        ));
        assert_eq!(frames(&mut stack).len(), 1);
        let sent = run(&mut stack, t + Duration::from_secs(5));
        let times: Vec<_> = sent.iter().map(|(at, _)| at.since(t).as_secs()).collect();
        assert_eq!(times, [1, 2]);
        assert_eq!(state(&stack, of_b), Some(NeighborState::Failed));
        assert!(events(&mut stack).is_empty());
        // Asked for a thousand times in two seconds: asked twice.
        let t = t + Duration::from_secs(20);
        let mut asked = 0;
        for n in 0..1_000 {
            let now = t + Duration::from_millis(2 * n);
            assert!(matches!(
                stack.resolve(ip(of_b), now),
                Resolution::Pending { .. }
            ));
            asked += frames(&mut stack).len() + run(&mut stack, now).len();
        }
        assert_eq!(asked, 2);
        // Forgotten in the end.
        run(&mut stack, t + Duration::from_mins(10));
        assert_eq!(state(&stack, of_b), None);
        assert_eq!(stack.poll_timeout(), None);
    }
}

#[test]
fn a_neighbor_that_goes_silent_is_usable_until_three_probes_failed() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        // Three to it alone, then three to everyone.
        let (mut alone, mut all) = (Vec::new(), Vec::new());
        let mut second = 0;
        while state(&wire.a, of_b) != Some(NeighborState::Failed) {
            second += 1;
            assert!(second < 60);
            let now = START + Duration::from_secs(second);
            wire.advance(now, |frame| {
                let is_question = frame[12..14] == [8, 6] || frame[54] == 135;
                match (is_question, frame[..6] == B.0) {
                    (true, true) => alone.push(second),
                    (true, false) if frame[28..32] != frame[38..42] => all.push(second),
                    _ => {}
                }
                true
            });
            if state(&wire.a, of_b) == Some(NeighborState::Probing) {
                assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
                assert!(events(&mut wire.a).is_empty());
            }
        }
        assert_eq!((alone.len(), all.len()), (3, 3), "{of_b}");
        assert!((20..=50).contains(&alone[0]), "{alone:?}");
        assert_eq!([alone[2], all[0], all[2]], [2, 3, 5].map(|n| alone[0] + n));
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        // And back with the next question.
        assert!(matches!(
            wire.a.resolve(ip(of_b), wire.now),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
    }
}

#[test]
fn a_neighbor_that_moves_is_followed_once_its_old_place_is_silent() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        let t = START + Duration::from_secs(5);
        wire.advance(t, |_| false);
        events(&mut wire.a);
        wire.b.reconfigure(config(C, 2), t);
        wire.settle(|_| false);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Probing));
        assert_eq!(info(&wire.a, of_b).unwrap().mac, Some(B), "not yet");
        wire.advance(t + Duration::from_secs(1), |_| false);
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, C));
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        assert_eq!(events(&mut wire.a), [ip(of_b)], "told once, of the end");
    }
}

/// All that another can say unasked to be where traffic goes.
fn lies(of_a: &str, of_b: &str) -> Vec<Vec<u8>> {
    match (ip(of_a), ip(of_b)) {
        (IpAddr::V6(of_a), IpAddr::V6(of_b)) => vec![
            message::announcement(C, of_b.into()),
            message::nd(|out| nd::write_advertisement(of_a, A, of_b, C, true, out)),
            message::nd(|out| nd::write_solicitation(C, of_b, of_a, out)),
        ],
        _ => vec![
            arp_request(C, of_b, of_b),
            arp_reply(C, of_b, A, of_a),
            arp_request(C, of_b, of_a),
        ],
    }
}

#[test]
fn nobody_else_is_a_router_as_long_as_it_answers() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        // Ahead of its first answer nothing is learned of a router.
        for lie in lies(of_a, of_b) {
            wire.a.handle_frame(&lie, START);
        }
        assert_eq!(state(&wire.a, of_b), None);
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        events(&mut wire.a);
        let before = wire.carried;
        for tenth in 1..600 {
            let now = START + Duration::from_millis(100 * tenth);
            for lie in lies(of_a, of_b) {
                wire.a.handle_frame(&lie, now);
            }
            let to_impostor = |frame: &[u8]| frame[..6] == C.0;
            wire.advance(now, to_impostor);
            assert_eq!(way(&mut wire.a, ip(of_b), now), via(of_a, A, B));
        }
        assert!(events(&mut wire.a).is_empty());
        // One probe a second at most, and its answer.
        assert!(wire.carried - before < 150, "{}", wire.carried - before);
        assert!(wire.a.dropped(HostDrop::NeighborDoubtful) > 1_000);
        // A router that has failed is asked as soon as anyone says to be it, and not believed unasked.
        let mut alone = quiet(A, 1);
        alone.resolve(ip(of_b), START);
        run(&mut alone, START + Duration::from_secs(10));
        frames(&mut alone);
        assert_eq!(state(&alone, of_b), Some(NeighborState::Failed));
        let later = START + Duration::from_secs(11);
        alone.handle_frame(&lies(of_a, of_b)[0], later);
        alone.handle_timeout(later);
        assert_eq!(
            (info(&alone, of_b).unwrap().mac, frames(&mut alone).len()),
            (None, 1)
        );
    }
}

#[test]
fn who_has_answered_is_not_moved_by_a_word_though_nobody_uses_it() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        // As routers are asked that are learned and not yet led by.
        let Answer::Ask(question) = wire.a.neighbors.probe(ip(of_b), START) else {
            panic!("nothing is known of it");
        };
        wire.a.solicit(question);
        wire.settle(|_| false);
        let later = START + Duration::from_secs(60);
        for lie in lies(of_a, of_b) {
            wire.a.handle_frame(&lie, later);
        }
        let to_impostor = |frame: &[u8]| frame[..6] == C.0;
        wire.advance(later + Duration::from_secs(2), to_impostor);
        let known = info(&wire.a, of_b).unwrap();
        assert_eq!(known.mac, Some(B));
        assert!(known.confirmed > Some(START), "it was asked itself");
    }
}

#[test]
fn a_static_neighbor_is_where_the_configuration_says() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut fixed = config(A, 1);
        fixed.neighbors = vec![(ip(of_b), B), (ip("203.0.113.1"), B)];
        let mut a = begun(fixed.clone());
        frames(&mut a);
        assert_eq!(way(&mut a, ip(of_b), START), via(of_a, A, B));
        assert_eq!(state(&a, of_b), Some(NeighborState::Static));
        assert_eq!(a.neighbors().count(), 1, "what is not on the link is none");
        for lie in lies(of_a, of_b) {
            a.handle_frame(&lie, START);
        }
        assert!(a.dropped(HostDrop::NeighborDoubtful) >= 3);
        assert_eq!(frames(&mut a).len(), 1, "the answer to a question");
        let sent = run(&mut a, START + Duration::from_hours(1));
        assert_eq!(sent.len(), 3, "the second announcements alone");
        frames(&mut a);
        assert!(events(&mut a).is_empty());
        // Somewhere else, then wherever it says itself.
        fixed.neighbors[0].1 = C;
        a.reconfigure(fixed.clone(), START);
        assert_eq!(events(&mut a), [ip(of_b)]);
        assert_eq!(way(&mut a, ip(of_b), START), via(of_a, A, C));
        fixed.neighbors.clear();
        a.reconfigure(fixed, START);
        assert_eq!(events(&mut a), [ip(of_b)]);
        assert_eq!(way(&mut a, ip(of_b), START), None);
        assert_eq!(frames(&mut a).len(), 1);
    }
}

#[test]
fn what_is_reachable_is_so_for_half_to_one_and_a_half_of_thirty_seconds() {
    let mut wide = config(A, 1);
    wide.addresses[0].1 = 16;
    let mut a = begun(wide);
    frames(&mut a);
    let mut seconds = Vec::new();
    for host in 1..=200 {
        let host = format!("192.0.9.{host}");
        a.resolve(ip(&host), START);
        a.handle_frame(&arp_reply(B, &host, A, "192.0.2.1"), START);
    }
    for second in 1..=46 {
        run(&mut a, START + Duration::from_secs(second));
        let stale = a
            .neighbors()
            .filter(|it| it.state != NeighborState::Reachable);
        seconds.push(stale.count());
    }
    assert_eq!((seconds[13], seconds[45]), (0, 200), "15 and 45 s");
    for (second, expected) in [(20, 33), (30, 100), (40, 167)] {
        let stale = seconds[second - 1];
        assert!(stale.abs_diff(expected) < 35, "{stale} of {expected}");
    }
}

#[test]
fn announcements_of_strangers_are_ignored() {
    let mut a = quiet(A, 1);
    a.handle_frame(&arp_request(B, "192.0.2.2", "192.0.2.2"), START);
    a.handle_frame(&arp_request(B, "192.0.2.2", "192.0.2.3"), START);
    a.handle_frame(&message::announcement(B, ip("2001:db8::2")), START);
    assert_eq!(a.neighbors().count(), 0);
    assert_eq!(a.dropped(HostDrop::Unsolicited), 2);
    assert_eq!(a.dropped(HostDrop::NotForUs), 1);
    // An asker beyond the link is answered, and not remembered.
    a.handle_frame(&arp_request(B, "198.51.100.1", "192.0.2.1"), START);
    assert_eq!(frames(&mut a).len(), 1);
    assert_eq!(a.neighbors().count(), 0);
    let named: Vec<_> = a.drops().collect();
    assert_eq!(named, [("not-for-us", 1), ("unsolicited", 2)]);
}

#[test]
fn an_answer_that_does_not_replace_only_casts_doubt() {
    let mut wire = Wire::new();
    let of_b = "2001:db8::2";
    wire.a.resolve(ip(of_b), START);
    wire.settle(|_| false);
    events(&mut wire.a);
    // The override flag (0x20 of the flags) cleared, the checksum mended for it.
    let mut frame = message::announcement(C, ip(of_b));
    frame[58] = 0;
    frame[56..58].fill(0);
    let (source, all): (Ipv6Addr, Ipv6Addr) = (of_b.parse().unwrap(), nd::ALL_NODES);
    let mut sum = Checksum::pseudo_v6(source, all, 58, 32);
    sum.add(&frame[54..]);
    frame[56..58].copy_from_slice(&sum.complement().to_be_bytes());
    wire.a.handle_frame(&frame, START);
    assert_eq!(state(&wire.a, of_b), Some(NeighborState::Stale));
    assert_eq!(info(&wire.a, of_b).unwrap().mac, Some(B));
    assert!(events(&mut wire.a).is_empty());
}

#[test]
fn who_was_asked_is_awaited_from_where_it_is_known_to_be() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        let awaited = |stack: &mut HostStack| {
            let awaited = stack.take_awaited()?;
            assert!(awaited.iter().all(|it| it.is_in_use));
            Some(awaited.iter().map(|it| (it.address, it.mac)).collect())
        };
        assert_eq!(awaited(&mut wire.a), Some(Vec::new()));
        assert_eq!(awaited(&mut wire.a), None, "nothing new");
        wire.a.resolve(ip(of_b), START);
        assert_eq!(awaited(&mut wire.a), Some(vec![(ip(of_b), None)]));
        wire.settle(|_| false);
        assert_eq!(awaited(&mut wire.a), Some(vec![]), "it has answered");
        // Others say to be it, and it is asked itself.
        let later = START + Duration::from_secs(5);
        wire.advance(later, |_| false);
        wire.a.take_awaited();
        for lie in lies(of_a, of_b) {
            wire.a.handle_frame(&lie, later);
        }
        assert_eq!(awaited(&mut wire.a), Some(vec![(ip(of_b), Some(B))]));
        wire.settle(|_| false);
        assert_eq!(awaited(&mut wire.a), None, "a question is under way");
        // It is silent: whoever is there now is asked for.
        wire.advance(later + Duration::from_millis(1_000), |_| true);
        assert_eq!(awaited(&mut wire.a), Some(vec![(ip(of_b), None)]));
        wire.advance(later + Duration::from_secs(6), |_| true);
        assert_eq!(awaited(&mut wire.a), Some(vec![]), "it has failed");
        // So is it when it is asked whether it is still there.
        wire.a.resolve(ip(of_b), wire.now + Duration::from_secs(2));
        wire.settle(|_| false);
        wire.a.take_awaited();
        let now = wire.now + Duration::from_secs(5);
        wire.a.verify(ip(of_b), now);
        assert_eq!(awaited(&mut wire.a), Some(vec![(ip(of_b), Some(B))]));
        wire.a.reconfigure(config(A, 1), now);
        assert!(awaited(&mut wire.a).is_some());
    }
}

/// The answer of who is at `mac` to a question of `stack` for `of`.
fn answer(of: &str, mac: MacAddr, is_router: bool) -> Vec<u8> {
    match (ip("2001:db8::1"), ip(of)) {
        (IpAddr::V6(ours), IpAddr::V6(of)) => {
            message::nd(|out| nd::write_advertisement(ours, A, of, mac, is_router, out))
        }
        _ => arp_reply(mac, of, A, "192.0.2.1"),
    }
}

#[test]
fn what_was_answered_from_elsewhere_says_nothing_of_where_a_mere_word_leads() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.7"), ("2001:db8::1", "2001:db8::7")] {
        let mut stack = quiet(A, 1);
        stack.resolve(ip(of_b), START);
        stack.handle_frame(&answer(of_b, B, false), START);
        assert_eq!(info(&stack, of_b).unwrap().confirmed, Some(START));
        // It is silent, and whoever is there now is asked for; then another says to be it, unasked.
        let later = START + Duration::from_secs(60);
        run(&mut stack, later);
        assert_eq!(info(&stack, of_b).unwrap().mac, None);
        stack.handle_frame(&lies(of_a, of_b)[0], later);
        let known = info(&stack, of_b).unwrap();
        assert_eq!((known.mac, known.confirmed), (Some(C), None));
        assert_eq!(stack.neighbors.answers(ip(of_b)), None);
    }
}

#[test]
fn who_is_let_go_of_makes_room_and_is_back_when_he_is_asked_for() {
    let mut wide = config(A, 1);
    wide.addresses[0].1 = 16;
    let mut stack = begun(wide);
    frames(&mut stack);
    let host = |n: usize| format!("192.0.{}.{}", 100 + n / 200, 1 + n % 200);
    let known = |stack: &mut HostStack, n: usize| {
        let is_known = matches!(
            stack.resolve(ip(&host(n)), START),
            Resolution::Resolved { .. }
        );
        frames(stack);
        is_known
    };
    // As many as there is room for have answered.
    for n in 0..limits::HOST_NEIGHBORS {
        stack.resolve(ip(&host(n)), START);
        stack.handle_frame(&answer(&host(n), B, false), START);
        assert!(known(&mut stack, n));
    }
    let one_more = limits::HOST_NEIGHBORS;
    assert!(!known(&mut stack, one_more));
    assert_eq!(stack.dropped(HostDrop::NeighborsFull), 1);
    for n in [7, 8, 9] {
        stack.let_go(ip(&host(n)));
    }
    assert!(known(&mut stack, 8), "it is still there, and in use again");
    assert!(!known(&mut stack, one_more));
    stack.handle_frame(&answer(&host(one_more), B, false), START);
    assert!(known(&mut stack, one_more) && known(&mut stack, 8));
    assert_eq!(stack.dropped(HostDrop::NeighborsFull), 1);
}

/// The same without the option that says where it is.
fn bare_answer(of: &str, mac: MacAddr) -> Vec<u8> {
    let (IpAddr::V6(ours), IpAddr::V6(target)) = (ip("2001:db8::1"), ip(of)) else {
        unreachable!("both are IPv6");
    };
    let mut frame = answer(of, mac, true);
    frame.truncate(54 + 24);
    frame[18..20].copy_from_slice(&[0, 24]);
    frame[56..58].fill(0);
    let mut sum = Checksum::pseudo_v6(target, ours, 58, 24);
    sum.add(&frame[54..]);
    frame[56..58].copy_from_slice(&sum.complement().to_be_bytes());
    frame
}

#[test]
fn who_does_not_say_where_it_is_answers_from_where_it_is_known_to_be() {
    let mut stack = quiet(A, 1);
    let of_b = "2001:db8::7";
    stack.resolve(ip(of_b), START);
    stack.handle_frame(&bare_answer(of_b, B), START);
    assert_eq!(info(&stack, of_b).unwrap().mac, None, "nowhere yet");
    stack.handle_frame(&answer(of_b, B, true), START);
    let later = START + Duration::from_secs(4);
    for (mac, confirmed) in [(C, START), (B, later)] {
        stack.verify(ip(of_b), later);
        stack.handle_frame(&bare_answer(of_b, mac), later);
        let known = info(&stack, of_b).unwrap();
        assert_eq!((known.mac, known.confirmed), (Some(B), Some(confirmed)));
    }
}

#[test]
fn what_was_answered_is_told_with_its_age_and_whether_a_router_said_so() {
    let at = |millis: u64| START + Duration::from_millis(millis);
    let mut stack = quiet(A, 1);
    let of_b = "2001:db8::7";
    let since = |stack: &HostStack, millis| stack.neighbors.answered_since(ip(of_b), at(millis));
    let said = |is_router| Some(Answered { mac: B, is_router });
    assert!(matches!(
        stack.neighbors.probe(ip(of_b), at(0)),
        Answer::Ask(_)
    ));
    assert_eq!(since(&stack, 0), None, "asked alone");
    stack.handle_frame(&answer(of_b, B, true), at(10));
    assert_eq!(since(&stack, 10), said(true));
    // Who answered so lately is not asked again; it is later, and what it answered then is no answer any more.
    assert_eq!(stack.neighbors.probe(ip(of_b), at(2_009)), Answer::Known(B));
    assert_eq!(since(&stack, 2_009), said(true));
    assert_eq!(since(&stack, 2_010), None);
    // Who clears the flag in an answer is a router no more; who does so unasked is not heard.
    stack.handle_frame(&answer(of_b, B, false), at(9_000));
    assert_eq!(since(&stack, 0), said(true));
    assert!(matches!(
        stack.neighbors.probe(ip(of_b), at(9_001)),
        Answer::Ask(_)
    ));
    stack.handle_frame(&answer(of_b, B, false), at(9_002));
    assert_eq!(since(&stack, 9_002), said(false));
    // The operator's word is an answer, whenever.
    let mut fixed = config(A, 1);
    fixed.neighbors = vec![(ip(of_b), B)];
    stack.reconfigure(fixed, at(9_003));
    assert_eq!(since(&stack, 99_000), said(true));
}
