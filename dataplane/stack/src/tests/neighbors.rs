//! What is known of neighbors, and how long.

use super::*;

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
        // A question and an answer each 35 s.
        assert_eq!(wire.carried - start, 2 * (3_599 / 35));
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
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
        let mut probes = 0;
        let lose = |frame: &[u8]| {
            probes += usize::from(frame[..6] == B.0);
            true
        };
        wire.advance(START + Duration::from_millis(37_900), lose);
        assert_eq!(probes, 3);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Probing));
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
        assert!(events(&mut wire.a).is_empty());
        wire.advance(START + Duration::from_secs(38), |_| true);
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
fn an_announced_change_of_a_neighbor_in_use_is_taken() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        events(&mut wire.a);
        wire.b.reconfigure(config(C, 2), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Stale));
        assert_eq!(way(&mut wire.a, ip(of_b), START), via(of_a, A, C));
        wire.advance(START + Duration::from_secs(6), |_| false);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        // Of one that nobody asked about, nothing is taken.
        assert_eq!(
            wire.b
                .neighbors()
                .filter(|n| n.state == NeighborState::Reachable)
                .count(),
            0
        );
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
