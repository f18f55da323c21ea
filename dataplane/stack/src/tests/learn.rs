//! What a stack learns of itself: frames of servers and routers.

use super::*;
use crate::guests::frame;

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const BOTH: Learns = Learns {
    dhcp4: true,
    accept_ra: true,
};

/// A stack that knows nothing of itself.
fn bare() -> HostStack {
    let config = HostConfig {
        mac: A,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbors: vec![],
        mtu: 1500,
    };
    let mut stack = HostStack::begin(config, RandomState::new(), |_| true, START);
    stack.handle_timeout(START + Duration::from_secs(2));
    frames(&mut stack);
    stack
}

/// What the stack said last by DHCP: the exchange's number.
fn xid(said: &[Vec<u8>]) -> [u8; 4] {
    let is_dhcp = |frame: &&Vec<u8>| frame.len() > 300 && frame[36..38] == [0, 67];
    let last = said.iter().rev().find(is_dhcp).expect("a question");
    last[46..50].try_into().unwrap()
}

/// Whether a frame is a DHCP message of that kind.
fn is_kind(frame: &[u8], kind: u8) -> bool {
    frame[282..]
        .windows(3)
        .any(|option| option == [53, 1, kind])
}

/// What B says as a server; `to` is where its frame goes.
fn served(kind: u8, xid: [u8; 4], (to, address): (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&xid);
    message[16..20].copy_from_slice(&OURS.octets());
    message[28..34].copy_from_slice(&A.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind, 54, 4, 192, 0, 2, 2, 51, 4, 0, 0, 1, 0]);
    message.extend([1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1, 255]);
    frame::udp4((B, to), (SERVER, address), (67, 68), &message)
}

#[test]
fn a_lease_comes_by_frames_to_an_address_that_is_not_ours_yet() {
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    let offer = served(2, xid(&frames(&mut stack)), (A, OURS));
    stack.handle_frame(&offer, START);
    let ack = served(
        5,
        xid(&frames(&mut stack)),
        (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
    );
    let mut spoilt = ack.clone();
    spoilt[120] ^= 1;
    stack.handle_frame(&spoilt, START);
    assert_eq!(stack.dropped(HostDrop::Malformed), 1, "another sum");
    stack.handle_frame(&ack, START);
    stack.handle_frame(&ack, START);
    assert_eq!(stack.dropped(HostDrop::DhcpUnasked), 1);
    let now = START;
    let learned = stack.poll_learned(now).unwrap();
    assert_eq!(learned.addresses[0].address, IpAddr::V4(OURS));
    assert_eq!(stack.poll_learned(now), None, "told");
    assert!(
        !stack.own().any(|(own, _)| own == IpAddr::V4(OURS)),
        "not by itself"
    );

    let mut config = config(A, 9);
    (config.addresses, config.routes) = (Vec::new(), Vec::new());
    learned.add_to(&mut config);
    stack.reconfigure(config, now);
    frames(&mut stack);
    assert!(matches!(
        stack.resolve(ip("198.51.100.1"), now),
        Resolution::Pending { source, next_hop } if source == IpAddr::V4(OURS) && next_hop == ip("192.0.2.1")
    ));
    frames(&mut stack);
    // It is not to be learned any more: given back, forgotten.
    stack.learn_own(Learns::default(), None, now);
    let said = frames(&mut stack);
    assert_eq!(said.len(), 1);
    assert!(said[0][..6] == B.0 && is_kind(&said[0], 7));
    let forgotten = stack.poll_learned(now + Duration::from_secs(1)).unwrap();
    assert_eq!(forgotten, Learned::default());
    stack.handle_frame(&ack, now);
    assert_eq!(stack.dropped(HostDrop::DhcpUnasked), 1, "nobody listens");
}

#[test]
fn who_has_the_address_has_it_declined() {
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    let offer = served(2, xid(&frames(&mut stack)), (A, OURS));
    stack.handle_frame(&offer, START);
    let ack = served(5, xid(&frames(&mut stack)), (A, OURS));
    stack.handle_frame(&ack, START);
    let learned = stack.poll_learned(START).unwrap();
    let mut config = stack.config.clone();
    learned.add_to(&mut config);
    stack.reconfigure(config, START);
    let probe = frames(&mut stack);
    assert!(probe.iter().any(|frame| frame[12..14] == [8, 6]));
    let taken = ArpPacket {
        sender: OURS,
        target_mac: A,
        target: NONE,
        ..ArpPacket::announcement(C, OURS).reply(C)
    };
    stack.handle_frame(&message::arp(&taken), START);
    let said = frames(&mut stack);
    assert!(
        said.iter()
            .any(|frame| frame.len() > 300 && is_kind(frame, 4))
    );
    let now = START + Duration::from_secs(1);
    assert_eq!(stack.poll_learned(now), Some(Learned::default()));
    // One that is in use is defended, and kept.
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    let offer = served(2, xid(&frames(&mut stack)), (A, OURS));
    stack.handle_frame(&offer, START);
    let ack = served(5, xid(&frames(&mut stack)), (A, OURS));
    stack.handle_frame(&ack, START);
    let mut config = stack.config.clone();
    stack.poll_learned(START).unwrap().add_to(&mut config);
    stack.reconfigure(config, START);
    run(&mut stack, now);
    stack.handle_frame(&message::arp(&taken), now);
    assert_eq!(stack.poll_learned(now), None);
}

/// What the router `fe80::r` says: that prefix of a few, and that it is preferred (8) or not.
fn advertised(router: u16, flags: u8, n: u8) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    message.extend([0x20, 1, 0xd, 0xb8, 0, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ends = (near(router), nd::ALL_NODES);
    frame::icmp6((B, MacAddr::BROADCAST), ends, message)
}

/// Its answer to who asks whether it is there.
fn there(router: u16) -> Vec<u8> {
    let ours = link_local(A);
    message::nd(|out| nd::write_advertisement(ours, A, near(router), B, true, out))
}

fn near(router: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, router)
}

#[test]
fn routers_are_heard_and_change_no_more_than_once_a_second() {
    let mut stack = bare();
    stack.handle_frame(&advertised(1, 0, 0), START);
    assert_eq!(stack.dropped(HostDrop::NotServed), 1, "nobody listens");
    stack.learn_own(BOTH, None, START);
    frames(&mut stack);
    // It is asked first, and believed when it answers.
    stack.handle_frame(&advertised(1, 0, 0), START);
    assert_eq!(stack.poll_learned(START), None);
    let asked = frames(&mut stack);
    assert_eq!((asked.len(), asked[0][54]), (1, 135));
    stack.handle_frame(&there(1), START);
    let learned = stack.poll_learned(START).unwrap();
    assert_eq!(learned.routes, [(ip("::"), 0, ip("fe80::1"))]);
    let mut told = 0;
    for n in 1..=7 {
        let now = START + Duration::from_millis(170 * u64::from(n));
        stack.handle_frame(&advertised(1, 0, n), now);
        told += usize::from(stack.poll_learned(now).is_some());
    }
    assert_eq!(told, 1);
    let due = stack.poll_timeout().unwrap();
    let learned = stack
        .poll_learned(due.max(START + Duration::from_secs(3)))
        .unwrap();
    assert_eq!(learned.addresses.len(), 8);
    assert_eq!(learned.routes, [(ip("::"), 0, ip("fe80::1"))]);
}

#[test]
fn who_says_to_be_many_routers_has_few_of_them_remembered_and_awaited() {
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    // Others ask for us, and are remembered.
    for host in 1..=900 {
        let (IpAddr::V6(ours), asker) = (link_local(A).into(), near(0x8000 + host)) else {
            unreachable!("it is IPv6");
        };
        let now = START + Duration::from_millis(2 * u64::from(host));
        stack.handle_frame(
            &message::nd(|out| nd::write_solicitation(B, asker, ours, out)),
            now,
        );
        frames(&mut stack);
    }
    let known = stack.neighbors().count();
    assert_eq!(known, 900);
    for router in 1..=300 {
        let now = START + Duration::from_millis(3_000 + 10 * u64::from(router));
        stack.handle_frame(&advertised(router, 0, 0), now);
        stack.handle_timeout(now);
        frames(&mut stack);
        let most = limits::HOST_PROBED;
        assert!(stack.neighbors().count() <= known + most);
        let awaited = stack.take_awaited().unwrap_or_default();
        assert!(awaited.len() <= most && awaited.iter().all(|it| !it.is_in_use));
    }
    let stays = stack.neighbors().filter(|it| it.mac.is_some());
    assert_eq!(stays.count(), known);
    // One that is there is heard among them.
    let now = START + Duration::from_millis(6_101);
    stack.handle_frame(&advertised(0x7000, 0, 0), now);
    stack.handle_frame(&there(0x7000), now);
    let learned = stack.poll_learned(now).unwrap();
    assert_eq!(learned.routes[0].2, IpAddr::from(near(0x7000)));
}

#[test]
fn nobody_ends_a_router_in_its_name_and_one_that_was_replaced_is_followed_within_seconds() {
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    stack.handle_frame(&advertised(1, 0, 0), START);
    stack.handle_frame(&there(1), START);
    let known = stack.poll_learned(START).unwrap();
    let from = |mac: MacAddr, mut frame: Vec<u8>| {
        frame[6..12].copy_from_slice(&mac.0);
        frame
    };
    // It is no router, C says, and that there is another prefix.
    let mut lie = advertised(1, 0, 9);
    lie[60..62].fill(0);
    let sum = u16::from_be_bytes([lie[56], lie[57]]);
    let (sum, carry) = sum.overflowing_add(1_800);
    lie[56..58].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    // So it says itself, C says.
    let mut no_router = there(1);
    no_router[58] &= 0x7f;
    let sum = u16::from_be_bytes([no_router[56], no_router[57]]);
    let (sum, carry) = sum.overflowing_add(0x8000);
    no_router[56..58].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    let mut now = START;
    for _ in 0..60 {
        now = now + Duration::from_millis(100);
        stack.handle_frame(&from(C, lie.clone()), now);
        stack.handle_timeout(now);
        // The router answers whenever it is asked, later than C.
        if frames(&mut stack).iter().any(|frame| frame[54] == 135) {
            stack.handle_frame(&from(C, no_router.clone()), now);
            stack.handle_frame(&there(1), now);
        }
        assert_eq!(stack.poll_learned(now), None);
    }
    assert!(
        stack
            .drops()
            .any(|(name, n)| name == "advertised-doubtful" && n > 1)
    );
    assert_eq!(stack.take_routers(), Some(vec![(ip("fe80::1"), B)]));
    assert_eq!(stack.take_routers(), None);

    // It is gone, and C has its place: it answers once everyone is asked.
    let ours = link_local(A);
    let answer = message::nd(|out| nd::write_advertisement(ours, A, near(1), C, true, out));
    let begin = now;
    stack.handle_frame(&from(C, advertised(1, 0, 0)), now);
    let moved = loop {
        now = now + Duration::from_millis(100);
        assert!(now < begin + Duration::from_secs(9), "within seconds");
        stack.handle_timeout(now);
        for asked in frames(&mut stack) {
            if asked[54] == 135 && asked[..2] == [0x33, 0x33] {
                stack.handle_frame(&answer, now);
            }
        }
        if let Some(routers) = stack.take_routers() {
            break routers;
        }
    };
    assert_eq!(moved, [(ip("fe80::1"), C)]);
    assert_eq!(
        stack.poll_learned(now),
        None,
        "the same as before: {known:?}"
    );
}

#[test]
fn a_router_that_is_gone_stands_behind_one_that_answers_whoever_speaks_for_it() {
    let mut stack = bare();
    stack.learn_own(BOTH, None, START);
    for router in [1, 2] {
        let flags = if router == 1 { 8 } else { 0 };
        stack.handle_frame(&advertised(router, flags, 0), START);
        stack.handle_frame(&there(router), START);
    }
    // The last that it tells until then, when frames of routers are gone.
    let routers = |stack: &mut HostStack, now: &mut Instant, seconds: u64| {
        let until = *now + Duration::from_secs(seconds);
        let mut last = None;
        while *now <= until {
            stack.handle_timeout(*now);
            frames(stack);
            last = stack.poll_learned(*now).or(last);
            *now = *now + Duration::from_millis(100);
        }
        let routes = last.map(|learned| learned.routes).unwrap_or_default();
        routes.iter().map(|(_, _, via)| *via).collect::<Vec<_>>()
    };
    let [one, two] = [ip("fe80::1"), ip("fe80::2")];
    let mut now = START;
    assert_eq!(routers(&mut stack, &mut now, 3), [one, two]);
    // Somebody says that it is there, which it does not.
    stack.handle_frame(&advertised(1, 8, 0), now);
    assert_eq!(routers(&mut stack, &mut now, 8), [two, one]);
    stack.handle_frame(&advertised(1, 8, 0), now);
    assert!(routers(&mut stack, &mut now, 8).is_empty(), "nothing new");
    // It is back.
    stack.handle_frame(&advertised(1, 8, 0), now);
    stack.handle_frame(&there(1), now);
    assert_eq!(routers(&mut stack, &mut now, 1), [one, two]);
    // Nobody is a router who does not answer.
    stack.handle_frame(&advertised(3, 8, 9), now);
    assert!(routers(&mut stack, &mut now, 11).is_empty());
    assert_eq!(stack.dropped(HostDrop::AdvertisedUnanswered), 1);
}
