//! ICMP errors: what is told, what is heard.

use super::{fragments::datagram_from, *};

const US: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const THEM: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The type, code and quote of an error that the stack sent.
fn read(frame: &[u8]) -> (u8, u8, [u8; 4], &[u8]) {
    let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
    let at = headers.l4_offset;
    let rest = [frame[at + 4], frame[at + 5], frame[at + 6], frame[at + 7]];
    (frame[at], frame[at + 1], rest, &frame[at + 8..])
}

#[test]
fn a_port_and_a_protocol_that_nobody_has_are_told() {
    for v6 in [false, true] {
        let mut stack = quiet(A, 1);
        let datagram = datagram_from(ip(THEM[usize::from(v6)]), &[5; 3_000]);
        stack.handle_frame(&datagram, START);
        let told = frames(&mut stack);
        let (kind, code, _, quote) = read(&told[0]);
        assert_eq!((kind, code), if v6 { (1, 4) } else { (3, 3) });
        assert_eq!(told[0].len(), 14 + if v6 { 1280 } else { 576 });
        assert_eq!(quote, &datagram[14..14 + quote.len()]);
        let mut strange = datagram.clone();
        strange[if v6 { 20 } else { 23 }] = 250;
        if !v6 {
            strange[24..26].fill(0);
            let sum = Checksum::of(&strange[14..34]).complement();
            strange[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        stack.handle_frame(&strange, START);
        let told = frames(&mut stack);
        let (kind, code, rest, _) = read(&told[0]);
        let expected = if v6 {
            (4, 1, [0, 0, 0, 6])
        } else {
            (3, 2, [0; 4])
        };
        assert_eq!((kind, code, rest), expected);
        assert_eq!(stack.dropped(HostDrop::NotServed), 2);

        // By a group's frame, and to a group, nothing is told.
        let mut group = datagram.clone();
        group[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        stack.handle_frame(&group, START);
        assert!(frames(&mut stack).is_empty());
    }
}

#[test]
fn options_that_cant_be_passed_over_are_told_and_chosen_ways_are_not_gone() {
    let mut stack = quiet(A, 1);
    let with = |options: [u8; 4]| {
        let mut frame = datagram_from(ip(THEM[0]), &[5; 30]);
        frame.splice(34..34, options);
        frame[14] = 0x46;
        let len = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[24..26].fill(0);
        let sum = Checksum::of(&frame[14..38]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    stack.handle_frame(&with([131, 3, 4, 0]), START);
    assert_eq!(stack.dropped(HostDrop::SourceRouted), 1);
    assert!(frames(&mut stack).is_empty());
    stack.handle_frame(&with([68, 9, 0, 0]), START);
    let told = frames(&mut stack);
    assert_eq!(read(&told[0]).0, 12);
    assert_eq!(read(&told[0]).2, [20, 0, 0, 0]);
    // An unknown one is none of our business.
    stack.handle_frame(&with([30, 4, 0, 0]), START);
    assert_eq!(read(&frames(&mut stack)[0]).0, 3);

    let mut odd = datagram_from(ip(THEM[1]), &[5; 30]);
    odd[20] = 0;
    odd.splice(54..54, [17, 0, 0xc7, 4, 0, 0, 0, 0]);
    let len = u16::try_from(odd.len() - 54).unwrap();
    odd[18..20].copy_from_slice(&len.to_be_bytes());
    stack.handle_frame(&odd, START);
    let told = frames(&mut stack);
    let (kind, code, rest, _) = read(&told[0]);
    assert_eq!((kind, code, rest), (4, 2, [0, 0, 0, 42]));
}

#[test]
fn errors_are_limited_for_each_host_and_in_all() {
    let mut stack = quiet(A, 1);
    let one = datagram_from(ip("198.51.100.1"), &[5; 8]);
    let sent = |stack: &mut HostStack, frame: &[u8], now| {
        stack.handle_frame(frame, now);
        frames(stack).len()
    };
    let count: usize = (0..100).map(|_| sent(&mut stack, &one, START)).sum();
    assert_eq!(count, limits::HOST_ERRORS_TO_ONE as usize);
    assert_eq!(stack.dropped(HostDrop::ErrorLimited), 68);
    let later = START + Duration::from_millis(1_001);
    assert_eq!(sent(&mut stack, &one, later), 1);
    // Many hosts: not more in all.
    let mut all = 0;
    for n in 0..20_000_u32 {
        let source = Ipv4Addr::from_bits(0x0a00_0000 + n);
        all += sent(&mut stack, &datagram_from(source.into(), &[5; 8]), later);
    }
    assert_eq!(all, limits::HOST_ERRORS_PER_SECOND as usize - 1);
}

/// An ICMP message of the far end's to us.
fn message(v6: bool, kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    let mut frame = datagram_from(ip(THEM[usize::from(v6)]), &vec![0; message.len() - 8]);
    let head = if v6 { 54 } else { 34 };
    frame.truncate(head);
    let mut sum = Checksum::ZERO;
    if v6 {
        frame[20] = 58;
        if let (IpAddr::V6(from), IpAddr::V6(to)) = (ip(THEM[1]), ip(US[1])) {
            sum = Checksum::pseudo_v6(from, to, 58, u32::try_from(message.len()).unwrap());
        }
    } else {
        frame[23] = 1;
        frame[24..26].fill(0);
        let header = Checksum::of(&frame[14..34]).complement();
        frame[24..26].copy_from_slice(&header.to_be_bytes());
    }
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    frame.extend(message);
    frame
}

/// A datagram of ours to a host behind a router, without Ethernet.
fn ours(v6: bool) -> Vec<u8> {
    let mut sent = datagram_from(ip(THEM[usize::from(v6)]), b"12345678 and more");
    if v6 {
        let (from, to) = (ip(US[1]), ip("2001:db8:9::9"));
        if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
            sent[22..38].copy_from_slice(&from.octets());
            sent[38..54].copy_from_slice(&to.octets());
        }
    } else {
        sent[26..30].copy_from_slice(&[192, 0, 2, 1]);
        sent[30..34].copy_from_slice(&[203, 0, 113, 9]);
    }
    sent.split_off(14)
}

#[test]
fn an_error_counts_that_quotes_what_may_be_ours() {
    for (v6, kind, code, rest, problem) in [
        (false, 3, 4, 1_400, Problem::TooBig { mtu: 1_400 }),
        (false, 3, 3, 0, Problem::PortUnreachable),
        (false, 3, 1, 0, Problem::Unreachable),
        (false, 3, 13, 0, Problem::Prohibited),
        (false, 11, 0, 0, Problem::TimeExceeded),
        (false, 12, 0, 0, Problem::Parameter),
        (true, 2, 0, 1_280, Problem::TooBig { mtu: 1_280 }),
        (true, 1, 4, 0, Problem::PortUnreachable),
        (true, 1, 0, 0, Problem::Unreachable),
        (true, 1, 1, 0, Problem::Prohibited),
        (true, 3, 0, 0, Problem::TimeExceeded),
        (true, 4, 0, 0, Problem::Parameter),
    ] {
        let mut stack = quiet(A, 1);
        stack.handle_frame(&message(v6, kind, code, rest, &ours(v6)), START);
        let remote = ["203.0.113.9", "2001:db8:9::9"][usize::from(v6)];
        let heard = stack.poll_heard().unwrap();
        assert_eq!(heard.problem, problem);
        assert_eq!(heard.from, ip(THEM[usize::from(v6)]));
        assert_eq!(heard.about.local, (ip(US[usize::from(v6)]), 40_000).into());
        assert_eq!(heard.about.remote, (ip(remote), 51_820).into());
        assert_eq!(heard.about.start, Some(*b"12345678"));
        assert_eq!((stack.drops().count(), stack.poll_heard()), (0, None));
        assert!(frames(&mut stack).is_empty(), "an error is not answered");
    }
}

#[test]
fn an_error_about_anything_else_counts_nothing() {
    let mut stack = quiet(A, 1);
    for v6 in [false, true] {
        let kind = if v6 { 2 } else { 3 };
        let code = if v6 { 0 } else { 4 };
        let unmatched = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut quote = ours(v6);
            change(&mut quote);
            message(v6, kind, code, 1_300, &quote)
        };
        let (source, protocol) = if v6 { (23, 6) } else { (15, 9) };
        for frame in [
            unmatched(&|quote| quote[source] ^= 8),
            unmatched(&|quote| quote[protocol] = 6),
            unmatched(&|quote| quote[0] ^= 0x20),
            unmatched(&|quote| quote.truncate(if v6 { 47 } else { 27 })),
            unmatched(&|quote| quote.clear()),
        ] {
            stack.handle_frame(&frame, START);
            assert_eq!(stack.poll_heard(), None);
        }
        let mut broken = unmatched(&|_| ());
        *broken.last_mut().unwrap() ^= 1;
        stack.handle_frame(&broken, START);
        assert_eq!(stack.poll_heard(), None);
    }
    assert_eq!(stack.dropped(HostDrop::ErrorUnmatched), 10);
    assert_eq!(stack.dropped(HostDrop::Malformed), 2);
    // Nobody hears for a while.
    for _ in 0..100 {
        stack.handle_frame(&message(false, 3, 4, 1_300, &ours(false)), START);
    }
    assert_eq!(std::iter::from_fn(|| stack.poll_heard()).count(), 64);
    assert_eq!(stack.dropped(HostDrop::ErrorsFull), 36);
}
