//! Reports of the groups that the stack listens to.

use culvert_wire::mld;

use super::*;

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn at(millis: u64) -> Instant {
    START + Duration::from_millis(millis)
}

fn group(address: &str) -> Ipv6Addr {
    let IpAddr::V6(address) = ip(address) else {
        unreachable!("it is of IPv6");
    };
    nd::solicited_node(address)
}

/// Kind and group of each record of the frames that are reports, and the source.
fn reported(frames: &[Vec<u8>]) -> Vec<(u8, Ipv6Addr, Ipv6Addr)> {
    let reports = frames
        .iter()
        .filter(|it| it.get(54) == Some(&58) && it.get(62) == Some(&143));
    let records = reports.flat_map(|it| {
        let source: [u8; 16] = it[22..38].try_into().unwrap();
        let records = it[70..].chunks(20);
        records.map(move |record| {
            let group: [u8; 16] = record[4..20].try_into().unwrap();
            (record[0], Ipv6Addr::from(group), Ipv6Addr::from(source))
        })
    });
    records.collect()
}

/// A query of version 2, or of version 1.
fn query(group: Ipv6Addr, millis: u16, is_v1: bool) -> Vec<u8> {
    let to = if group.is_unspecified() {
        nd::ALL_NODES
    } else {
        group
    };
    let mut message = vec![130, 0, 0, 0];
    message.extend(millis.to_be_bytes());
    message.extend([0, 0]);
    message.extend(group.octets());
    message.resize(if is_v1 { 24 } else { 28 }, 0);
    let mut sum = Checksum::pseudo_v6(ROUTER, to, 58, u32::try_from(message.len()).unwrap());
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    let header = ipv6::header(&ipv6::Ipv6Fields {
        source: ROUTER,
        destination: to,
        traffic_class: 0,
        hop_limit: 1,
        next_header: 0,
        payload_len: u16::try_from(message.len() + 8).unwrap(),
    });
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let ethernet = ether::header(MacAddr::from_ipv6_multicast(to), C, EtherType::IPV6);
    [&ethernet[..], &header, &alert, &message].concat()
}

fn sent(stack: &mut HostStack, until: Instant) -> Vec<Vec<u8>> {
    let mut sent = all_frames(stack);
    while let Some(due) = stack.poll_timeout().filter(|due| *due <= until) {
        stack.handle_timeout(due);
        sent.extend(all_frames(stack));
    }
    sent
}

#[test]
fn solicited_node_groups_are_joined_ahead_of_their_addresses_and_left_behind_them() {
    let near: Ipv6Addr = "fe80::ff:fe00:a".parse().unwrap();
    let groups = [group("2001:db8::1"), group("fe80::ff:fe00:a")];
    let mut stack = HostStack::new(config(A, 1), RandomState::new(), START);
    let first = all_frames(&mut stack);
    // While no address is ours yet, from nobody: the answers to what asks for them come by these groups.
    let unspecified = Ipv6Addr::UNSPECIFIED;
    assert_eq!(reported(&first), groups.map(|it| (4, it, unspecified)));
    let report = |frame: &Vec<u8>| frame.get(62) == Some(&143);
    assert!(first.iter().position(report) < first.iter().position(|it| it.get(54) == Some(&135)));
    let later = reported(&sent(&mut stack, at(5_000)));
    for group in groups {
        let of = later
            .iter()
            .filter(|(_, it, from)| *it == group && *from == near);
        // The second of the first two, if that is late, and two for each address that becomes ours.
        assert!((2..=5).contains(&of.count()), "{later:?}");
    }
    let mut changed = config(A, 1);
    changed.addresses[1] = (ip("2001:db8::7"), 64);
    stack.reconfigure(changed, at(6_000));
    let said = reported(&sent(&mut stack, at(6_100)));
    assert!(
        said.contains(&(3, groups[0], near)) && said.contains(&(4, group("2001:db8::7"), near))
    );
    assert!(said.iter().all(|(_, it, _)| *it != groups[1]));
}

#[test]
fn queries_are_answered_within_their_time_and_no_more_often_than_the_limit() {
    let mut stack = quiet(A, 1);
    let near: Ipv6Addr = "fe80::ff:fe00:a".parse().unwrap();
    let groups = [group("2001:db8::1"), group("fe80::ff:fe00:a")];
    let everyone = Ipv6Addr::UNSPECIFIED;
    stack.handle_frame(&query(everyone, 1_000, false), at(10_000));
    let said = reported(&sent(&mut stack, at(11_000)));
    assert_eq!(said, groups.map(|it| (2, it, near)));
    stack.handle_frame(&query(groups[0], 1_000, false), at(20_000));
    assert_eq!(
        reported(&sent(&mut stack, at(21_000))),
        [(2, groups[0], near)]
    );
    stack.handle_frame(&query(group("2001:db8::77"), 1_000, false), at(30_000));
    assert!(sent(&mut stack, at(31_000)).is_empty());
    // An hour's worth within a second.
    let mut answers = 0;
    for micros in 0..1_000 {
        let now = at(40_000) + Duration::from_micros(micros * 900);
        stack.handle_frame(&query(everyone, 0, false), now);
        answers += sent(&mut stack, now).len();
    }
    assert_eq!(
        answers,
        usize::try_from(limits::HOST_REPORTS_PER_SECOND).unwrap()
    );
    assert!(stack.dropped(HostDrop::RateLimited) > 900);
    // A querier of the old version hears of each group by itself, and is remembered.
    stack.handle_frame(&query(everyone, 1_000, true), at(50_000));
    let old = sent(&mut stack, at(51_000));
    assert_eq!(old, groups.map(|it| mld::report_v1(A, near, it)));
    stack.link_came_up(at(60_000));
    assert!(reported(&sent(&mut stack, at(62_500))).is_empty());
}
