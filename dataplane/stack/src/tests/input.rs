//! What a frame does: answers, limits, what is hostile.

use super::*;

#[test]
fn duplicate_detection_is_answered_and_conflicts_are_defended() {
    let mut a = quiet(A, 1);
    // RFC 5227: a probe has no sender address.
    a.handle_frame(&arp_request(C, "0.0.0.0", "192.0.2.1"), START);
    let reply = frames(&mut a);
    assert_eq!(ArpPacket::parse(&reply[0][14..]).unwrap().target_mac, C);
    // RFC 4862: nor has a solicitation; the answer goes to all nodes.
    let target = "fe80::ff:fe00:a".parse().unwrap();
    a.handle_frame(&message::probe(C, IpAddr::V6(target)), START);
    assert_eq!(
        frames(&mut a),
        [message::announcement(A, IpAddr::V6(target))]
    );
    assert_eq!(a.neighbors().count(), 0);
    // Another that claims our address hears of us, not more than each 10 s.
    for second in 0..20 {
        let now = START + Duration::from_secs(second);
        a.handle_frame(&arp_request(C, "192.0.2.1", "192.0.2.1"), now);
        a.handle_frame(&message::announcement(C, ip("2001:db8::1")), now);
    }
    assert_eq!(frames(&mut a).len(), 4);
    assert_eq!(a.dropped(HostDrop::AddressConflict), 40);
}

#[test]
fn echo_requests_to_us_are_answered() {
    let mut a = quiet(A, 1);
    for (source, destination) in [
        ("192.0.2.2", "192.0.2.1"),
        ("198.51.100.1", "192.0.2.1"),
        ("2001:db8::2", "2001:db8::1"),
        ("fe80::2", "fe80::ff:fe00:a"),
    ] {
        let request = echo_request(B, A, ip(source), ip(destination));
        let mut padded = request.clone();
        padded.resize(request.len() + 20, 0xee);
        a.handle_frame(&padded, START);
        let reply = a.poll_frame().unwrap();
        assert_eq!(reply.len(), request.len());
        assert_eq!((&reply[..6], &reply[6..12]), (&B.0[..], &A.0[..]));
        assert_eq!(reply[reply.len() - 12..], request[request.len() - 12..]);
        let headers = parse_frame(&reply, u32::try_from(reply.len()).unwrap()).unwrap();
        assert_eq!(headers.addresses(), Some((ip(destination), ip(source))));
        // Ours to check: a reply turned back is a request that must not be answered.
        assert_eq!(icmp::echo_reply_in_place(&mut reply[14..].to_vec()), None);
        match headers.l3 {
            L3::V4(header) => {
                assert!(header.checksum_ok && header.ttl == 64);
                assert!(Checksum::of(&reply[34..]).is_valid());
                assert_eq!(Ipv4View::new(&reply[14..]).unwrap().protocol(), 1);
            }
            L3::V6(header) => assert_eq!(header.hop_limit, 64),
            L3::Arp | L3::Other => panic!("not IP"),
        }
    }
    assert_eq!(a.drops().count(), 0);

    // Not to us, by group, broken.
    let good = echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.1"));
    a.handle_frame(&echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.9")), START);
    a.handle_frame(&echo_request(B, C, ip("192.0.2.2"), ip("192.0.2.1")), START);
    a.handle_frame(
        &echo_request(B, MacAddr::BROADCAST, ip("192.0.2.2"), ip("192.0.2.1")),
        START,
    );
    assert_eq!(a.dropped(HostDrop::NotForUs), 3);
    let mut broken = good.clone();
    *broken.last_mut().unwrap() ^= 1;
    a.handle_frame(&broken, START);
    a.handle_frame(&echo_request(B, A, ip("224.0.0.1"), ip("192.0.2.1")), START);
    assert_eq!(a.dropped(HostDrop::EchoRefused), 1);
    assert_eq!(a.dropped(HostDrop::SourceInvalid), 1);
    a.handle_frame(&echo_request(A, A, ip("192.0.2.2"), ip("192.0.2.1")), START);
    assert_eq!(a.dropped(HostDrop::Looped), 1);
    assert!(frames(&mut a).is_empty());
}

/// A ping waits for nothing here: no neighbor is asked for its answer, and no time has to pass.
#[test]
fn an_echo_request_is_answered_at_once_whatever_is_known_of_its_sender() {
    for (own, other) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let (mut a, mut b) = (quiet(A, 1), quiet(B, 2));
        let request = echo_request(B, A, ip(other), ip(own));
        let mut seen = Vec::new();
        for seconds in 0..70 {
            let now = START + Duration::from_secs(seconds);
            a.handle_timeout(now);
            if [1, 10].contains(&seconds) {
                a.resolve(ip(other), now);
            }
            for question in frames(&mut a) {
                b.handle_frame(&question, now);
                // It is silent at first, then it answers, then nothing again.
                if seconds == 10 {
                    let answers = frames(&mut b);
                    answers.iter().for_each(|it| a.handle_frame(it, now));
                }
            }
            frames(&mut b);
            let before = (a.poll_timeout(), state(&a, other));
            a.handle_frame(&request, now);
            assert_eq!(frames(&mut a).len(), 1, "in {:?}", before.1);
            assert_eq!((a.poll_timeout(), state(&a, other)), before);
            if seen.last() != before.1.as_ref() {
                seen.extend(before.1);
            }
        }
        let all = [
            NeighborState::Incomplete,
            NeighborState::Failed,
            NeighborState::Reachable,
            NeighborState::Stale,
            NeighborState::Probing,
            NeighborState::Incomplete,
            NeighborState::Failed,
        ];
        assert_eq!(seen[seen.len() - all.len()..], all);
    }
}

#[test]
fn answers_are_limited_and_leave_room_for_questions() {
    let mut a = quiet(A, 1);
    let ask = arp_request(B, "192.0.2.2", "192.0.2.1");
    for _ in 0..5_000 {
        a.handle_frame(&ask, START + Duration::from_secs(5));
    }
    assert_eq!(a.dropped(HostDrop::RateLimited), 4_000);
    assert_eq!(a.dropped(HostDrop::OutputFull), 1_000 - 192);
    a.resolve(ip("192.0.2.9"), START + Duration::from_secs(5));
    assert_eq!(frames(&mut a).len(), 193);
    a.handle_frame(&ask, START + Duration::from_secs(6));
    assert_eq!(frames(&mut a).len(), 1);
}

#[test]
fn a_flood_evicts_nobody_in_use() {
    let mut wide = config(A, 1);
    wide.addresses[0] = (ip("10.0.0.1"), 8);
    wide.routes[0].via = ip("10.0.0.2");
    let mut a = begun(wide);
    frames(&mut a);
    let t = |ms| START + Duration::from_millis(ms);
    // One in use, known; one router.
    a.handle_frame(&arp_request(B, "10.0.0.3", "10.0.0.1"), START);
    assert_eq!(way(&mut a, ip("10.0.0.3"), START), via("10.0.0.1", A, B));
    a.resolve(ip("10.0.0.2"), START);
    a.handle_frame(&arp_reply(C, "10.0.0.2", A, "10.0.0.1"), START);
    assert_eq!(events(&mut a), [ip("10.0.0.2")]);
    // Strangers ask for us.
    for n in 0..5_000_u64 {
        let host = Ipv4Addr::from_bits(0x0a01_0000 + u32::try_from(n).unwrap());
        a.handle_frame(&arp_request(C, &host.to_string(), "10.0.0.1"), t(2 * n));
        frames(&mut a);
    }
    assert_eq!(a.neighbors().count(), limits::HOST_NEIGHBORS);
    assert_eq!(info(&a, "10.0.0.3").unwrap().mac, Some(B));
    assert_eq!(info(&a, "10.0.0.2").unwrap().mac, Some(C));
    // We are made to ask for strangers that don't exist: beyond the table it is refused.
    for n in 0..5_000_u32 {
        let host = Ipv4Addr::from_bits(0x0a02_0000 + n);
        assert!(matches!(
            a.resolve(host.into(), t(10_000)),
            Resolution::Pending { .. }
        ));
    }
    assert_eq!(a.neighbors().count(), limits::HOST_NEIGHBORS);
    assert_eq!(a.dropped(HostDrop::NeighborsFull), 5_000 - 1_022);
    assert_eq!(
        way(&mut a, ip("10.0.0.3"), t(10_000)),
        via("10.0.0.1", A, B)
    );
    assert_eq!(way(&mut a, ip("8.8.8.8"), t(10_000)), via("10.0.0.1", A, C));
    // A router that is new to the table finds room all the same.
    let mut wide = config(A, 1);
    wide.addresses[0] = (ip("10.0.0.1"), 8);
    wide.routes[0].via = ip("10.0.0.4");
    a.reconfigure(wide, t(10_000));
    frames(&mut a);
    assert!(matches!(
        a.resolve(ip("8.8.8.8"), t(10_000)),
        Resolution::Pending { .. }
    ));
    assert_eq!(frames(&mut a).len(), 1);
    assert!(info(&a, "10.0.0.4").is_some());
    assert!(events(&mut a).is_empty());
    // When they have failed, there is room again; all timers run, whatever the queue
    // holds at once.
    let sent = run(&mut a, t(14_000));
    assert!(sent.len() > 2 * 1_000, "{}", sent.len());
    assert!(matches!(
        a.resolve(ip("10.3.0.1"), t(14_000)),
        Resolution::Pending { .. }
    ));
    assert!(info(&a, "10.3.0.1").is_some());
    // Those in use were lost to their silence alone, whichever was asked first.
    run(&mut a, t(60_000));
    let mut lost = events(&mut a);
    lost.sort_unstable();
    assert_eq!(lost, [ip("10.0.0.2"), ip("10.0.0.3")]);
}

/// Frames that look right, with some bytes bent.
fn bent_frames() -> impl Strategy<Value = Vec<u8>> {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let answer = nd_answer();
    let seeds = vec![
        arp_request(B, "192.0.2.2", "192.0.2.1"),
        arp_request(B, "192.0.2.2", "192.0.2.2"),
        message::nd(|out| nd::write_solicitation(B, v6("2001:db8::2"), v6("2001:db8::1"), out)),
        message::announcement(B, ip("2001:db8::2")),
        answer,
        echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.1")),
        echo_request(B, A, ip("2001:db8::2"), ip("2001:db8::1")),
        Vec::new(),
    ];
    (
        proptest::sample::select(seeds),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        any::<proptest::sample::Index>(),
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(mut frame, bends, cut, whole, tail)| {
            for (at, value) in bends {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
            }
            if !whole {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame.extend(tail);
            frame
        })
}

fn nd_answer() -> Vec<u8> {
    let (of_a, of_b): (Ipv6Addr, Ipv6Addr) = (
        "2001:db8::1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
    );
    message::nd(|out| nd::write_advertisement(of_a, A, of_b, B, false, out))
}

proptest! {
    #[test]
    fn hostile_frames_move_nothing_beyond_its_bounds(
        input in proptest::collection::vec((bent_frames(), 0_u64..3_000), 0..40),
    ) {
        let mut a = begun(config(A, 1));
        let mut now = START;
        for (frame, pause) in input {
            a.handle_frame(&frame, now);
            a.resolve(ip("192.0.2.2"), now);
            a.resolve(ip("2001:db8::2"), now);
            now = now + Duration::from_millis(pause);
            a.handle_timeout(now);
            prop_assert!(a.poll_timeout().is_none_or(|at| at > now));
            for frame in frames(&mut a) {
                // All that we send is well-formed, from us, and not to ourselves.
                let headers = parse_frame(&frame, u32::try_from(frame.len()).unwrap()).unwrap();
                prop_assert_eq!(headers.ether.source, A);
                prop_assert!(headers.ether.destination != A);
            }
            for neighbor in a.neighbors() {
                prop_assert!(neighbor.mac.is_none_or(|mac| mac.is_unicast() && mac != A));
                prop_assert!(a.routes.is_neighbor(neighbor.address));
            }
        }
    }

    #[test]
    fn any_bytes_do_no_harm(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut a = quiet(A, 1);
        a.handle_frame(&frame, START);
        prop_assert!(a.neighbors().count() <= 1);
        prop_assert!(frames(&mut a).len() <= 1);
    }
}
