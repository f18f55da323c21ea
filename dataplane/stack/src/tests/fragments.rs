//! Packets in fragments: put together, refused, forgotten; and ours, cut.

#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of the tests' own making"
)]

use super::*;
use crate::ip::{Ids, split};

const US: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const THEM: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The frame of a UDP datagram from `source` to us.
pub(super) fn datagram_from(source: IpAddr, payload: &[u8]) -> Vec<u8> {
    let v6 = source.is_ipv6();
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut udp = vec![0x9c, 0x40, 0xca, 0x6c];
    udp.extend(udp_len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut sum;
    let mut frame;
    match (source, ip(US[usize::from(v6)])) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum = Checksum::pseudo_v4(source, destination, 17, udp_len.into());
            frame = ether::header(A, B, EtherType::IPV4).to_vec();
            frame.extend(ipv4::header(&ipv4::Ipv4Fields {
                source,
                destination,
                tos: 0,
                id: 0,
                dont_fragment: false,
                ttl: 64,
                protocol: 17,
                total_len: 20 + udp_len,
            }));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum = Checksum::pseudo_v6(source, destination, 17, udp_len.into());
            frame = ether::header(A, B, EtherType::IPV6).to_vec();
            frame.extend(ipv6::header(&ipv6::Ipv6Fields {
                source,
                destination,
                traffic_class: 0,
                hop_limit: 64,
                next_header: 17,
                payload_len: udp_len,
            }));
        }
        _ => unreachable!("of one family"),
    }
    sum.add(&udp);
    udp[6..8].copy_from_slice(&sum.complement_udp().to_be_bytes());
    frame.extend(udp);
    frame
}

fn datagram(v6: bool, payload: &[u8]) -> Vec<u8> {
    datagram_from(ip(THEM[usize::from(v6)]), payload)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// A fragment as its sender writes it: `start` and `bytes` are those of the packet behind its IP header.
#[derive(Clone, Debug)]
struct Cut {
    start: usize,
    bytes: Vec<u8>,
    more: bool,
}

impl Cut {
    fn frame(&self, whole: &[u8], id: u32) -> Vec<u8> {
        self.frame_marked(whole, id, 0)
    }

    fn frame_marked(&self, whole: &[u8], id: u32, ecn: u8) -> Vec<u8> {
        let v6 = whole[12..14] == [0x86, 0xdd];
        let head = if v6 { 54 } else { 34 };
        let mut frame = whole[..head].to_vec();
        let bits = u16::try_from(self.start).unwrap();
        if v6 {
            let len = u16::try_from(8 + self.bytes.len()).unwrap();
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            frame[15] |= ecn << 4;
            let next = std::mem::replace(&mut frame[20], 44);
            frame.extend([next, 0]);
            frame.extend((bits | u16::from(self.more)).to_be_bytes());
            frame.extend(id.to_be_bytes());
        } else {
            let len = u16::try_from(20 + self.bytes.len()).unwrap();
            let bits = (bits / 8) | (u16::from(self.more) << 13);
            frame[15] |= ecn;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            frame[20..22].copy_from_slice(&bits.to_be_bytes());
            frame[24..26].fill(0);
            let sum = Checksum::of(&frame[14..34]).complement();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend(&self.bytes);
        frame
    }
}

/// The cuts of a whole packet's frame at `places`, in eights.
fn cuts(whole: &[u8], places: &[usize]) -> Vec<Cut> {
    let head = if whole[12..14] == [0x86, 0xdd] {
        54
    } else {
        34
    };
    let bytes = &whole[head..];
    let mut ends: Vec<_> = places
        .iter()
        .map(|place| place * 8)
        .filter(|&end| end > 0 && end < bytes.len())
        .collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    ends.dedup();
    let mut start = 0;
    let mut list = Vec::new();
    for end in ends {
        list.push(Cut {
            start,
            bytes: bytes[start..end].to_vec(),
            more: end < bytes.len(),
        });
        start = end;
    }
    list
}

/// Cuts of `size` bytes each.
fn evenly(whole: &[u8], size: usize) -> Vec<Cut> {
    let places: Vec<_> = (1..=whole.len() / size).map(|n| n * size / 8).collect();
    cuts(whole, &places)
}

/// A host that said what it has to say.
fn host() -> HostStack {
    let mut stack = quiet(A, 1);
    stack.handle_timeout(START);
    stack
}

fn datagrams(stack: &mut HostStack) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| stack.poll_datagram())
        .map(|datagram| datagram.frame)
        .collect()
}

/// The head of a whole packet as reassembly leaves it: with the ID of its fragments.
fn with_id(whole: &[u8], id: u32) -> Vec<u8> {
    let mut whole = whole.to_vec();
    if whole[12..14] == [8, 0] {
        whole[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        whole[24..26].fill(0);
        let sum = Checksum::of(&whole[14..34]).complement();
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    whole
}

/// A datagram, where it is cut, and in which order its fragments come, some twice.
fn shuffled() -> impl Strategy<Value = (bool, Vec<u8>, Vec<Cut>)> {
    (any::<bool>(), prop_oneof![1..200_usize, 1..60_000_usize]).prop_flat_map(|(v6, len)| {
        let whole = datagram(v6, &payload(len));
        let places = prop::collection::vec(1..=len / 8 + 1, 1..100);
        places
            .prop_map(move |places| (whole.clone(), places))
            .prop_flat_map(move |(whole, places)| {
                let mut list = cuts(&whole, &places);
                if let [only] = &mut list[..] {
                    // A packet in one piece is no fragment: give it two.
                    let at = only.bytes.len() / 16 * 8;
                    if (8..only.bytes.len()).contains(&at) {
                        list = cuts(&whole, &[at / 8]);
                    }
                }
                (Just(whole), Just(list.clone()).prop_shuffle(), Just(list))
            })
            .prop_map(move |(whole, order, _)| (v6, whole, order))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_split_in_any_order_with_duplicates_gives_the_datagram_back(
        (v6, whole, order) in shuffled(),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut stack = host();
        let head = if v6 { 54 } else { 34 };
        let mut twice = 0;
        for (place, cut) in order.iter().enumerate() {
            prop_assert!(stack.poll_datagram().is_none());
            stack.handle_frame(&cut.frame(&whole, 7), START);
            if place + 1 < order.len() {
                for index in &again {
                    let earlier = index.index(place + 1);
                    if index.index(5) == 0 {
                        stack.handle_frame(&order[earlier].frame(&whole, 7), START);
                        twice += 1;
                    }
                }
            }
        }
        if order.len() > 1 || v6 {
            prop_assert_eq!(datagrams(&mut stack), [with_id(&whole, 7)]);
        } else {
            // It never was a fragment.
            prop_assert_eq!(whole.len(), head + order[0].bytes.len());
        }
        prop_assert_eq!(stack.dropped(HostDrop::FragmentDuplicate), twice);
        prop_assert_eq!(stack.reassembly_memory(), 0);
    }

    #[test]
    fn any_overlap_gives_nothing(
        (_, whole, order) in shuffled(),
        victim in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        (shift, len, other) in (-3_isize..=3, 1..40_usize, any::<bool>()),
    ) {
        prop_assume!(order.len() > 1);
        // Over the end or the beginning of one, within it, or in its place with other bytes.
        // Not of the last one: that would complete the packet ahead of it.
        let victim = &order[victim.index(order.len() - 1)];
        let mut over = victim.clone();
        if other {
            over.bytes[0] ^= 1;
        } else {
            over.start = victim.start.saturating_add_signed(shift * 8);
            over.bytes = vec![0x55; len * 8];
            over.more = true;
        }
        let (start, end) = (over.start, over.start + over.bytes.len());
        let total = order.iter().map(|cut| cut.start + cut.bytes.len()).max().unwrap();
        prop_assume!(start < victim.start + victim.bytes.len() && victim.start < end);
        prop_assume!(end <= 65_000 && start < total);
        let is_same = |cut: &Cut| cut.start == start && cut.bytes == over.bytes && cut.more == over.more;
        prop_assume!(!order.iter().any(is_same));
        // The packet lacks the last one until that comes.
        let last = &order[order.len() - 1];
        prop_assume!(last.start < start || end < last.start + last.bytes.len());
        let mut stack = host();
        let mut all = order.clone();
        // Ahead of the last one: it would come too late behind it.
        all.insert(place.index(order.len()), over);
        for cut in all.iter().chain(&order).chain(&order) {
            stack.handle_frame(&cut.frame(&whole, 7), START);
            prop_assert!(stack.poll_datagram().is_none());
        }
        let refused = stack.dropped(HostDrop::FragmentOverlap)
            + stack.dropped(HostDrop::FragmentContradicts)
            + stack.dropped(HostDrop::FragmentHeaders);
        prop_assert!(refused > 0);
        // Nothing of it is held, and its time ends without a word.
        prop_assert!(stack.reassembly_memory() < 2_000);
        run(&mut stack, START + Duration::from_secs(61));
        prop_assert_eq!(stack.reassembly_memory(), 0);
    }

    #[test]
    fn what_we_cut_comes_together_elsewhere(
        v6 in any::<bool>(),
        len in prop_oneof![1..200_usize, 1..65_000_usize],
        mtu in prop_oneof![Just(1_280_u16), 576..9_000_u16],
        id in any::<u32>(),
    ) {
        let whole = datagram(v6, &payload(len));
        let mut stack = host();
        let list: Vec<_> = split(&whole, mtu, id).collect();
        prop_assert_eq!(list.len(), split(&whole, mtu, id).len());
        for frame in &list {
            prop_assert!(frame.len() <= 14 + usize::from(mtu));
            stack.handle_frame(frame, START);
        }
        if list.len() > 1 || v6 {
            prop_assert_eq!(datagrams(&mut stack), [with_id(&whole, id)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_never_passes_its_bound(
        input in prop::collection::vec(
            (any::<bool>(), 0..300_u32, 0..3_u32, 0..8_000_usize, 1..1_200_usize, any::<bool>(), 0..50_u64),
            1..400,
        ),
        copies in 1..40_u32,
    ) {
        let mut stack = host();
        let mut now = START;
        let wholes = [false, true].map(|v6| datagram(v6, &payload(64)));
        for (v6, source, id, start, len, more, pause) in input {
            now = now + Duration::from_millis(pause);
            for copy in 0..copies {
                let cut = Cut { start: start * 8, bytes: vec![9; len * 8 / (1 + len % 3)], more };
                if cut.start + cut.bytes.len() > 65_000 {
                    continue;
                }
                let mut frame = cut.frame(&wholes[usize::from(v6)], id + copy * 5);
                if v6 {
                    frame[26..30].copy_from_slice(&source.to_be_bytes());
                    frame[22] = 0x20;
                } else {
                    frame[28..30].copy_from_slice(&[(source >> 8) as u8, source as u8]);
                    frame[24..26].fill(0);
                    let sum = Checksum::of(&frame[14..34]).complement();
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                stack.handle_frame(&frame, now);
                prop_assert!(stack.reassembly_memory() <= limits::REASSEMBLY_HIGH);
                drop(datagrams(&mut stack));
                drop(frames(&mut stack));
            }
            stack.handle_timeout(now);
        }
        run(&mut stack, now + Duration::from_mins(2));
        prop_assert_eq!(stack.reassembly_memory(), 0);
    }
}

#[test]
fn a_packets_time_is_over_half_a_minute_or_a_minute_after_its_first_fragment() {
    for (v6, seconds) in [(false, 30), (true, 60)] {
        let whole = datagram(v6, &payload(2_000));
        let list = evenly(&whole, 800);
        for missing in 0..list.len() {
            let mut stack = host();
            for (n, cut) in (0..).zip(&list) {
                let now = START + Duration::from_secs(n);
                if n != missing as u64 {
                    stack.handle_frame(&cut.frame(&whole, 9), now);
                }
            }
            let begun = u64::from(missing == 0);
            let end = START + Duration::from_secs(seconds + begun);
            assert_eq!(stack.poll_timeout(), Some(end));
            let told = run(&mut stack, end);
            assert_eq!(stack.dropped(HostDrop::ReassemblyTimeout), 1);
            assert_eq!((stack.reassembly_memory(), stack.poll_timeout()), (0, None));
            // Without its first fragment nobody is told.
            assert_eq!(told.len(), usize::from(missing != 0), "without {missing}");
            for (_, error) in told {
                let first = list[0].frame(&whole, 9);
                let (at, kind, most) = match v6 {
                    false => (34, [11, 1], 14 + 576),
                    true => (54, [3, 1], 14 + 1280),
                };
                assert_eq!(error[at..at + 2], kind);
                let quoted = &error[at + 8..];
                assert_eq!(quoted, &first[14..14 + quoted.len()]);
                assert_eq!(error.len(), most.min(14 + first.len() + at - 14 + 8 - 14));
            }
            stack.handle_frame(&list[missing].frame(&whole, 9), end);
            assert_eq!(datagrams(&mut stack).len(), 0);
        }
    }
}

#[test]
fn what_can_be_no_part_of_a_packet_is_refused() {
    for v6 in [false, true] {
        let whole = datagram(v6, &payload(2_000));
        let cut = |start, len, more| Cut {
            start,
            bytes: vec![7; len],
            more,
        };
        let most = if v6 { 65_535 } else { 65_515 };
        for (cut, reason, tell) in [
            (cut(8, 0, true), HostDrop::FragmentInvalid, None),
            (cut(0, 1_001, true), HostDrop::FragmentInvalid, Some(4)),
            // Of any but the first nobody is told.
            (cut(65_512, 24, false), HostDrop::FragmentInvalid, None),
            (cut(8, 1_001, true), HostDrop::FragmentInvalid, None),
            (cut(0, 0, false), HostDrop::FragmentInvalid, None),
        ] {
            if !v6 && cut.start == 0 && !cut.more {
                continue;
            }
            let mut stack = host();
            stack.handle_frame(&cut.frame(&whole, 1), START);
            assert_eq!(stack.dropped(reason), 1, "{v6} {} {}", cut.start, cut.more);
            assert_eq!(stack.reassembly_memory(), 0);
            let told = frames(&mut stack);
            match tell.filter(|_| v6) {
                None => assert!(told.is_empty()),
                Some(pointer) => {
                    assert_eq!(told[0][54..56], [4, 0]);
                    assert_eq!(told[0][58..62], u32::to_be_bytes(pointer));
                }
            }
        }
        // Up to the last byte of the longest it may go.
        let mut stack = host();
        let last = cut(65_504, most - 65_504, false);
        stack.handle_frame(&last.frame(&whole, 1), START);
        assert_eq!(stack.drops().count(), 0);
        assert!(stack.reassembly_memory() > 0);
    }
}

#[test]
fn a_first_fragment_has_the_headers_of_its_packet() {
    // TCP's offset field, and with it its flags, in the second fragment (RFC 1858).
    let mut whole = datagram(false, &payload(100));
    whole[23] = 6;
    let mut stack = host();
    for cut in cuts(&whole, &[1]) {
        stack.handle_frame(&cut.frame(&whole, 1), START);
    }
    assert_eq!(stack.dropped(HostDrop::FragmentHeaders), 1);
    assert!(frames(&mut stack).is_empty());

    // Destination options in the first, UDP in the second (RFC 7112).
    let mut whole = datagram(true, &payload(100));
    whole[20] = 60;
    whole.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    whole[18..20].copy_from_slice(&u16::to_be_bytes(116));
    let mut stack = host();
    for cut in cuts(&whole, &[1]) {
        stack.handle_frame(&cut.frame(&whole, 1), START);
    }
    assert_eq!(stack.dropped(HostDrop::FragmentHeaders), 1);
    let told = frames(&mut stack);
    assert_eq!(
        (told.len(), &told[0][54..62]),
        (1, &[4, 3, told[0][56], told[0][57], 0, 0, 0, 0][..])
    );
    // All in the first is fine.
    let mut stack = host();
    for cut in cuts(&whole, &[2]) {
        stack.handle_frame(&cut.frame(&whole, 1), START);
    }
    assert_eq!(datagrams(&mut stack), [whole]);
}

#[test]
fn an_atomic_fragment_is_a_packet_whatever_else_has_its_id() {
    let mut stack = host();
    let long = datagram(true, &payload(3_000));
    let list = evenly(&long, 1_000);
    stack.handle_frame(&list[0].frame(&long, 5), START);
    let short = datagram(true, b"whole");
    stack.handle_frame(&cuts(&short, &[])[0].frame(&short, 5), START);
    assert_eq!(datagrams(&mut stack), [short]);
    for cut in &list[1..] {
        stack.handle_frame(&cut.frame(&long, 5), START);
    }
    assert_eq!(datagrams(&mut stack), [long]);
}

#[test]
fn a_source_has_so_many_packets_and_the_oldest_makes_room() {
    let whole = datagram(false, &payload(2_000));
    let list = evenly(&whole, 1_000);
    let mut stack = host();
    for id in 0..65 {
        stack.handle_frame(&list[0].frame(&whole, id), START);
    }
    assert_eq!(stack.dropped(HostDrop::ReassemblySourceFull), 1);
    // Another source has its own.
    let other = datagram_from(ip("198.51.100.7"), &payload(2_000));
    let others = evenly(&other, 1_000);
    stack.handle_frame(&others[0].frame(&other, 1), START);
    for (id, came) in [(1, 1), (64, 1), (0, 0)] {
        for cut in &list[1..] {
            stack.handle_frame(&cut.frame(&whole, id), START);
        }
        assert_eq!(datagrams(&mut stack).len(), came, "{id}");
    }
    for cut in &others[1..] {
        stack.handle_frame(&cut.frame(&other, 1), START);
    }
    assert_eq!(datagrams(&mut stack), [with_id(&other, 1)]);
}

#[test]
fn the_oldest_packets_make_room_down_to_the_low_water() {
    let whole = datagram(false, &payload(30_000));
    let list = evenly(&whole, 1_480);
    let mut stack = host();
    let (mut highest, mut full) = (0, None);
    for id in 0..2_000_u32 {
        let source = Ipv4Addr::from_bits(0xc633_6400 + id);
        let from = datagram_from(source.into(), &payload(30_000));
        stack.handle_frame(&list[3].frame(&from, 1), START);
        let memory = stack.reassembly_memory();
        if memory < highest {
            full.get_or_insert((highest, memory));
        }
        highest = highest.max(memory);
    }
    for n in 0..20_000_u32 {
        let source = Ipv4Addr::from_bits(0x0a00_0000 + n);
        let from = datagram_from(source.into(), &payload(30));
        let tiny = Cut {
            start: 800,
            bytes: vec![1; 8],
            more: true,
        };
        stack.handle_frame(&tiny.frame(&from, 1), START);
        let memory = stack.reassembly_memory();
        if memory < highest {
            full.get_or_insert((highest, memory));
        }
        highest = highest.max(memory);
    }
    let (before, after) = full.unwrap();
    assert!(before <= limits::REASSEMBLY_HIGH && before > limits::REASSEMBLY_HIGH - 4_000);
    assert!(after <= limits::REASSEMBLY_LOW && after > limits::REASSEMBLY_LOW - 4_000);
    assert!(stack.dropped(HostDrop::ReassemblyFull) > 10_000);
    // What comes together at once comes through meanwhile.
    for cut in &list {
        stack.handle_frame(&cut.frame(&whole, 1), START);
    }
    assert_eq!(datagrams(&mut stack), [with_id(&whole, 1)]);
}

#[test]
fn a_packet_in_too_many_fragments_is_given_up() {
    let whole = datagram(false, &payload(1_200));
    let list = evenly(&whole, 8);
    assert!(list.len() > limits::FRAGMENTS_PER_DATAGRAM);
    let mut stack = host();
    for cut in &list {
        stack.handle_frame(&cut.frame(&whole, 1), START);
    }
    assert_eq!(stack.dropped(HostDrop::FragmentsTooMany), 1);
    assert_eq!(datagrams(&mut stack).len(), 0);
    assert!(stack.reassembly_memory() < 1_000);
    let whole = datagram(false, &payload(limits::FRAGMENTS_PER_DATAGRAM * 8 - 8));
    for cut in evenly(&whole, 8) {
        stack.handle_frame(&cut.frame(&whole, 2), START);
    }
    assert_eq!(datagrams(&mut stack).len(), 1);
}

#[test]
fn congestion_that_one_fragment_met_the_packet_met() {
    let (none, one, zero, met) = (0, 1, 2, 3);
    for v6 in [false, true] {
        let whole = datagram(v6, &payload(100));
        for (marks, expected) in [
            ([none, none], Some(none)),
            ([zero, zero], Some(zero)),
            ([zero, met], Some(met)),
            ([met, one], Some(met)),
            ([met, met], Some(met)),
            ([none, met], None),
            ([zero, none], None),
        ] {
            let mut stack = host();
            for (cut, ecn) in cuts(&whole, &[3]).iter().zip(marks) {
                stack.handle_frame(&cut.frame_marked(&whole, 1, ecn), START);
            }
            let came = datagrams(&mut stack);
            let found = came.first().map(|frame| match v6 {
                true => frame[15] >> 4 & 3,
                false => frame[15] & 3,
            });
            assert_eq!(found, expected, "{marks:?}");
        }
    }
}

#[test]
fn neither_others_nor_groups_nor_nobodys_fragments_are_kept() {
    let whole = datagram(false, &payload(2_000));
    let good = evenly(&whole, 1_000)[0].clone();
    let mut stack = host();
    let mut frame = good.frame(&whole, 1);
    frame[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    stack.handle_frame(&frame, START);
    let other = {
        let mut whole = whole.clone();
        whole[33] = 99;
        whole
    };
    stack.handle_frame(&good.frame(&other, 1), START);
    assert_eq!(stack.dropped(HostDrop::NotForUs), 2);
    for source in ["127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255"] {
        let from = datagram_from(ip(source), &payload(2_000));
        stack.handle_frame(&good.frame(&from, 1), START);
    }
    for source in ["ff02::1", "::1", "::", "::ffff:192.0.2.2"] {
        let from = datagram_from(ip(source), &payload(2_000));
        stack.handle_frame(&good.frame(&from, 1), START);
    }
    assert_eq!(stack.dropped(HostDrop::SourceInvalid), 8);
    assert_eq!(stack.reassembly_memory(), 0);
}

#[test]
fn identifications_of_a_way_dont_repeat_and_say_nothing_of_others() {
    let mut ids = Ids::new(RandomState::new());
    let own = ip("192.0.2.1");
    let mut of = |n: u32| ids.next(own, Ipv4Addr::from_bits(n).into());
    let seen: std::collections::HashSet<_> = (0..65_536).map(|_| of(1) as u16).collect();
    assert_eq!(seen.len(), 65_536);
    // Other destinations begin elsewhere.
    let first: std::collections::HashSet<_> = (0..1_000).map(of).collect();
    assert!(first.len() > 990);
}

/// Long pings between two stacks: requests cut by one way, replies by ours.
#[test]
fn pings_of_any_size_are_answered_in_fragments() {
    for v6 in [false, true] {
        for len in (0..65_000).step_by(777).chain([1, 8, 1_472, 1_473, 65_000]) {
            let mut stack = host();
            let body = payload(len);
            let mut message = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 7, 0, 1];
            message.extend(&body);
            let mut whole = datagram(v6, &payload(len));
            let (head, protocol) = if v6 { (54, 58) } else { (34, 1) };
            whole.truncate(head);
            whole[if v6 { 20 } else { 23 }] = protocol;
            let mut sum = match (ip(THEM[1]), ip(US[1])) {
                (IpAddr::V6(source), IpAddr::V6(destination)) if v6 => {
                    let len = u32::try_from(message.len()).unwrap();
                    Checksum::pseudo_v6(source, destination, 58, len)
                }
                _ => Checksum::ZERO,
            };
            sum.add(&message);
            message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
            whole.extend(&message);
            let whole = with_id(&whole, 3);
            let mut list: Vec<_> = split(&whole, 1_500, 3).collect();
            list.reverse();
            for frame in &list {
                stack.handle_frame(frame, START);
            }
            let replies = frames(&mut stack);
            assert_eq!(stack.drops().count(), 0);
            assert_eq!(
                replies.len(),
                (message.len())
                    .div_ceil(if v6 { 1_448 } else { 1_480 })
                    .max(1)
            );
            let bytes: Vec<u8> = replies
                .iter()
                .flat_map(|reply| {
                    assert!(reply.len() <= 1_514);
                    let head = if v6 && reply[20] == 44 { 62 } else { head };
                    reply[head..].to_vec()
                })
                .collect();
            assert_eq!(bytes[8..], body, "{v6} {len}");
            assert_eq!(bytes[0], if v6 { 129 } else { 0 });
        }
    }
}
