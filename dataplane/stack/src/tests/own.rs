//! How own addresses come to be used, and what happens when another has them.

use super::*;

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn at(millis: u64) -> Instant {
    START + Duration::from_millis(millis)
}

fn begun_unknown() -> HostStack {
    HostStack::new(config(A, 1), RandomState::new(), START)
}

fn standing(stack: &HostStack, address: &str) -> Standing {
    let mut own = stack.own();
    own.find(|(it, _)| *it == ip(address)).unwrap().1
}

fn told(stack: &mut HostStack) -> Vec<(IpAddr, Standing)> {
    let told = std::iter::from_fn(|| stack.poll_event());
    told.filter_map(|event| match event {
        HostEvent::Own { address, standing } => Some((address, standing)),
        HostEvent::Neighbor { .. } => None,
    })
    .collect()
}

/// Whoever has `address` at `mac` answers a probe for it.
fn answer(mac: MacAddr, address: &str) -> Vec<u8> {
    match ip(address) {
        IpAddr::V4(_) => arp_reply(mac, address, A, "0.0.0.0"),
        IpAddr::V6(_) => message::announcement(mac, ip(address)),
    }
}

#[test]
fn an_address_is_asked_for_three_times_and_then_used_and_announced() {
    let mut stack = begun_unknown();
    let mut sent: Vec<_> = frames(&mut stack)
        .into_iter()
        .map(|it| (START, it))
        .collect();
    // Nothing is said from it, and nothing answered for it.
    for frame in [
        arp_request(B, "192.0.2.2", V4),
        echo_request(B, A, ip("192.0.2.2"), ip(V4)),
        echo_request(B, A, ip("2001:db8::2"), ip(V6)),
    ] {
        stack.handle_frame(&frame, at(10));
    }
    assert_eq!(stack.dropped(HostDrop::NotForUs), 3);
    for next_hop in ["192.0.2.2", "2001:db8::2"] {
        let pending = stack.resolve(ip(next_hop), at(10));
        assert!(matches!(pending, Resolution::Pending { .. }));
    }
    assert!(frames(&mut stack).is_empty());
    sent.extend(run(&mut stack, at(750)));
    let used = [(V4, 0), (V6, 1), ("fe80::ff:fe00:a", 2)];
    for (address, place) in used {
        let probe = message::probe(A, ip(address));
        let mut times = sent
            .iter()
            .filter(|(_, it)| *it == probe)
            .map(|(at, _)| *at);
        let [first, second, third] = [(); 3].map(|()| times.next().unwrap());
        assert_eq!((first, times.next()), (START, None));
        for pause in [second.since(first), third.since(second)] {
            assert!((150..=250).contains(&pause.as_millis()), "{pause:?}");
        }
        let announced = message::announcement(A, ip(address));
        let (announced_at, _) = sent.iter().find(|(_, it)| *it == announced).unwrap();
        assert!((150..=250).contains(&announced_at.since(third).as_millis()));
        assert_eq!(standing(&stack, address), Standing::InUse, "{place}");
    }
    // Who was waited for is asked as soon as there is an address to ask from.
    let is_question = |frame: &[u8]| frame[6..12] == A.0 && frame.ends_with(&[2, 0, 0, 0, 0, 0xa]);
    let asked = sent
        .iter()
        .filter(|(_, it)| is_question(it) && it[54] == 135);
    assert!(asked.count() >= 1);
    let arp = message::solicitation(
        A,
        ip(V4),
        Solicit {
            address: ip("192.0.2.2"),
            mac: None,
        },
    );
    assert!(sent.iter().any(|(_, it)| Some(it) == arp.as_ref()));
    assert_eq!(told(&mut stack).len(), 3);
}

#[test]
fn what_is_known_to_be_ours_is_used_at_once() {
    let stack = begun(config(A, 1));
    assert!(stack.own().all(|(_, standing)| standing == Standing::InUse));
}

#[test]
fn a_duplicate_is_told_and_not_used_until_the_other_is_gone() {
    for (duplicate, other, neighbor, foreign) in [
        (V4, V6, "192.0.2.2", "8.8.8.8"),
        (V6, V4, "2001:db8::3", "2001:4860::8"),
    ] {
        let mut stack = begun_unknown();
        stack.resolve(ip(neighbor), START);
        frames(&mut stack);
        stack.handle_frame(&answer(C, duplicate), at(1));
        assert_eq!(told(&mut stack), [(ip(duplicate), Standing::Duplicate(C))]);
        run(&mut stack, at(3_000));
        frames(&mut stack);
        assert_eq!(standing(&stack, other), Standing::InUse);
        told(&mut stack);
        // Neither answered for nor spoken from; what is reached from it alone is not reached.
        stack.handle_frame(&echo_request(B, A, ip(neighbor), ip(duplicate)), at(3_001));
        assert!(frames(&mut stack).is_empty());
        for destination in [neighbor, foreign] {
            assert_eq!(
                stack.resolve(ip(destination), at(3_001)),
                Resolution::NoRoute
            );
        }
        // As long as the other is there, that stays; nobody is told twice.
        let mut probes = 0;
        for tenth in 40..3_000 {
            let now = at(100 * tenth);
            for (_, frame) in run(&mut stack, now) {
                if frame == message::probe(A, ip(duplicate)) {
                    probes += 1;
                    stack.handle_frame(&answer(C, duplicate), now);
                }
            }
        }
        assert!((3..=5).contains(&probes), "each minute: {probes}");
        assert!(told(&mut stack).is_empty());
        // It has gone: the address is ours a minute later.
        let sent = run(&mut stack, START + Duration::from_secs(400));
        let announced = message::announcement(A, ip(duplicate));
        assert_eq!(sent.iter().filter(|(_, it)| *it == announced).count(), 2);
        assert_eq!(told(&mut stack), [(ip(duplicate), Standing::InUse)]);
        let now = START + Duration::from_secs(400);
        let pending = stack.resolve(ip(foreign), now);
        assert!(matches!(pending, Resolution::Pending { .. }));
    }
}

#[test]
fn two_that_want_one_address_at_once_both_leave_it() {
    for address in [V4, V6] {
        let [mut a, mut b] = [A, B].map(|mac| {
            let mut config = config(mac, 1);
            config.routes.clear();
            HostStack::new(config, RandomState::new(), START)
        });
        let probe = |mac| message::probe(mac, ip(address));
        a.handle_frame(&probe(B), at(1));
        b.handle_frame(&probe(A), at(1));
        assert_eq!(standing(&a, address), Standing::Duplicate(B));
        assert_eq!(standing(&b, address), Standing::Duplicate(A));
    }
}

#[test]
fn an_address_in_use_is_kept_and_defended_and_the_conflict_told_with_its_end() {
    for (address, neighbor) in [(V4, "192.0.2.2"), (V6, "2001:db8::2")] {
        let mut stack = quiet(A, 1);
        let mut sent = 0;
        for second in 10..40 {
            let now = START + Duration::from_secs(second);
            stack.handle_frame(&message::announcement(C, ip(address)), now);
            sent += frames(&mut stack).len() + run(&mut stack, now).len();
        }
        assert_eq!(sent, 3, "each ten seconds");
        assert_eq!(told(&mut stack), [(ip(address), Standing::Contested(C))]);
        stack.handle_frame(&echo_request(B, A, ip(neighbor), ip(address)), at(40_000));
        assert_eq!(frames(&mut stack).len(), 1);
        run(&mut stack, at(98_000));
        assert!(told(&mut stack).is_empty());
        run(&mut stack, at(99_000));
        assert_eq!(told(&mut stack), [(ip(address), Standing::InUse)]);
    }
}

#[test]
fn a_link_that_comes_up_has_addresses_announced_and_duplicates_asked_for() {
    let mut stack = begun_unknown();
    stack.handle_frame(&answer(C, V4), at(1));
    run(&mut stack, at(5_000));
    frames(&mut stack);
    stack.link_came_up(at(6_000));
    let sent: Vec<_> = frames(&mut stack);
    assert_eq!(
        sent,
        [
            message::probe(A, ip(V4)),
            message::announcement(A, ip(V6)),
            message::announcement(A, ip("fe80::ff:fe00:a")),
        ]
    );
    run(&mut stack, at(7_000));
    assert_eq!(standing(&stack, V4), Standing::InUse);
}

#[test]
fn what_is_sent_to_an_own_address_comes_back_and_never_leaves() {
    for own in [V4, V6] {
        let mut stack = quiet(A, 1);
        let to_us = Resolution::Resolved {
            source: ip(own),
            next_hop: ip(own),
            mac: A,
        };
        assert_eq!(stack.resolve(ip(own), START), to_us);
        // Nobody takes an echo reply: it is the last thing that is heard of the request.
        stack.send(echo_request(A, A, ip(own), ip(own)), limits::HOST_OUTPUT);
        assert_eq!(stack.poll_timeout(), Some(Instant(0)));
        stack.handle_timeout(START);
        assert_eq!(stack.returning.len(), 1, "the reply");
        stack.handle_timeout(START);
        assert_eq!(stack.dropped(HostDrop::NotServed), 1);
        assert!(frames(&mut stack).is_empty() && stack.poll_timeout().is_none());
        // Off the wire it is still somebody's forgery.
        stack.handle_frame(&echo_request(A, A, ip(own), ip(own)), START);
        assert_eq!(stack.dropped(HostDrop::Looped), 1);
        for _ in 0..100 {
            stack.send(echo_request(A, A, ip(own), ip(own)), limits::HOST_OUTPUT);
        }
        assert_eq!(stack.dropped(HostDrop::OutputFull), 100 - 64);
    }
}
