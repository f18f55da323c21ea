//! Whatever a guest sends: no panic, nothing longer than a frame, nobody else's address.

use proptest::prelude::*;

use super::{messages::raw, *};

/// What must hold of an answer to anything.
fn holds(frame: &[u8]) {
    match serve(&provision(), frame) {
        Ok(Served::Answer(answer) | Served::Declined(Some(answer))) => {
            checked(&answer);
            assert!(answer.len() <= 1514, "{}", answer.len());
        }
        Ok(Served::Silence | Served::Declined(None)) | Err(_) => {}
    }
}

/// Options as (code, value), some of whose lengths lie.
fn options(wide: bool) -> impl Strategy<Value = Vec<u8>> {
    let option = (
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..40),
        -2..3_i32,
    );
    prop::collection::vec(option, 0..20).prop_map(move |options| {
        let mut bytes = Vec::new();
        for (code, value, lie) in options {
            let len = i32::try_from(value.len()).unwrap() + if code % 8 == 0 { lie } else { 0 };
            let len = u8::try_from(len.max(0)).unwrap();
            match wide {
                true => bytes.extend_from_slice(&[0, code % 32, 0, len]),
                false => bytes.extend_from_slice(&[code, len]),
            }
            bytes.extend_from_slice(&value);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_behind_the_ports(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
        holds(&udp4(Ipv4Addr::UNSPECIFIED, &bytes));
        holds(&udp6(&bytes));
        holds(&bytes);
    }

    #[test]
    fn any_options(kind in 0..18_u8, v4 in options(false), v6 in options(true)) {
        holds(&udp4(OWN, &raw(kind, &v4)));
        let message = [&[kind, 1, 2, 3, 0, 1, 0, 1, 7][..], &v6].concat();
        holds(&udp6(&message));
    }

    #[test]
    fn any_header(bytes in prop::collection::vec(any::<u8>(), 236)) {
        let mut message = raw(3, &[50, 4, 10, 1, 1, 10]);
        message[..236].copy_from_slice(&bytes);
        holds(&udp4(Ipv4Addr::UNSPECIFIED, &message));
    }

    #[test]
    fn associations_in_associations(depth in 0..120_usize, kind in prop::sample::select(vec![3_u8, 4, 25])) {
        let mut inner = Vec::new();
        for _ in 0..depth {
            let head = match kind { 4 => 4, _ => 12 };
            let len = u16::try_from(head + inner.len()).unwrap().to_be_bytes();
            inner = [&[0, kind, len[0], len[1]][..], &vec![0; head], &inner].concat();
        }
        holds(&udp6(&[&[1, 1, 2, 3, 0, 1, 0, 1, 7][..], &inner].concat()));
    }

    #[test]
    fn any_change_of_a_solicitation(at in 14..62_usize, byte in any::<u8>()) {
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        let mut frame = frame::icmp6((GUEST_MAC, GATEWAY_MAC), (GUEST_LINK_LOCAL, group), vec![133, 0, 0, 0, 0, 0, 0, 0]);
        frame[at] = byte;
        holds(&frame);
    }
}
