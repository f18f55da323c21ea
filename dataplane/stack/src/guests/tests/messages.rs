//! Messages whose bytes were written by hand: what a codec on both ends would hide.

use super::*;

/// The options of a DHCP message, in order.
pub(super) fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    assert_eq!(message[236..240], [99, 130, 83, 99]);
    let mut rest = &message[240..];
    let mut options = Vec::new();
    loop {
        match rest {
            [255, behind @ ..] => {
                assert!(behind.iter().all(|&byte| byte == 0), "padding alone");
                return options;
            }
            [code, len, behind @ ..] => {
                let (value, behind) = behind.split_at(usize::from(*len));
                options.push((*code, value.to_vec()));
                rest = behind;
            }
            _ => panic!("no end"),
        }
    }
}

/// A DISCOVER as a client without a list of options sends it; `extra` behind the message's type.
pub(super) fn raw(kind: u8, extra: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    message[28..34].copy_from_slice(&GUEST_MAC.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend_from_slice(&[53, 1, kind]);
    message.extend_from_slice(extra);
    message.push(255);
    message
}

#[test]
fn an_offer_has_all_options_byte_for_byte() {
    let frame = answered(&provision(), &udp4(Ipv4Addr::UNSPECIFIED, &raw(1, &[])));
    let (_, message) = checked(&frame);
    assert!(message.len() >= 300, "BOOTP's length");
    assert_eq!(message[..4], [2, 1, 6, 0]);
    assert_eq!(message[4..8], 0xdead_beef_u32.to_be_bytes());
    assert_eq!(message[16..20], OWN.octets());
    let lease = 43_200_u32;
    let routes = [&[12, 172, 16, 10, 1, 1, 20][..], &[0, 10, 1, 1, 1]].concat();
    let expected: Vec<(u8, Vec<u8>)> = vec![
        (1, vec![255, 255, 255, 0]),
        // One router: Windows refuses an option of sixteen bytes.
        (3, vec![10, 1, 1, 1]),
        (6, vec![9, 9, 9, 9]),
        (15, b"vm.example.org".to_vec()),
        (26, 1420_u16.to_be_bytes().to_vec()),
        (28, vec![10, 1, 1, 255]),
        (51, lease.to_be_bytes().to_vec()),
        (53, vec![2]),
        (54, vec![10, 1, 1, 1]),
        (58, (lease / 2).to_be_bytes().to_vec()),
        (59, (lease / 8 * 7).to_be_bytes().to_vec()),
        (119, b"\x02vm\x07example\x03org\0".to_vec()),
        (121, routes.clone()),
        (249, routes),
    ];
    let mut told = options(message);
    told.sort();
    assert_eq!(told, expected);
}

#[test]
fn each_option_can_be_asked_for() {
    let always = [51, 53, 54, 58, 59];
    for code in [1, 3, 6, 15, 26, 28, 119, 121, 249] {
        let asked = raw(1, &[55, 1, code]);
        let frame = answered(&provision(), &udp4(Ipv4Addr::UNSPECIFIED, &asked));
        let (_, message) = checked(&frame);
        let mut told: Vec<_> = options(message).into_iter().map(|it| it.0).collect();
        told.retain(|it| !always.contains(it));
        assert_eq!(told, [code]);
    }
}

#[test]
fn an_option_that_cant_be_read_hides_none_behind_it() {
    // A host name that is no text, an empty FQDN, an architecture of one byte; then what is asked for.
    let odd = [12, 2, 0xff, 0xfe, 81, 0, 93, 1, 7];
    let asked = [&odd[..], &[50, 4, 10, 1, 1, 99]].concat();
    let frame = answered(&provision(), &udp4(Ipv4Addr::UNSPECIFIED, &raw(3, &asked)));
    let (_, message) = checked(&frame);
    assert!(options(message).contains(&(53, vec![6])), "refused");
}

#[test]
fn a_hardware_address_longer_than_its_field_is_no_message() {
    let mut message = raw(1, &[]);
    for len in 17..=255 {
        message[2] = len;
        let served = serve(&provision(), &udp4(Ipv4Addr::UNSPECIFIED, &message));
        assert_eq!(served, Err(Unanswered::Malformed), "{len}");
    }
}

#[test]
fn an_advertisement_has_all_options_byte_for_byte() {
    let frame = advertise(&provision()).unwrap();
    let (headers, _) = checked(&frame);
    let message = &frame[headers.l4_offset..];
    assert_eq!(message[0], 134);
    // 64 hops, M and O, half an hour.
    assert_eq!(message[4..8], [64, 0xc0, 0x07, 0x08]);
    assert_eq!(message[8..16], [0; 8]);
    let lifetime = [0, 0, 0x07, 0x08];
    let expected = [
        &[1, 1, 2, 0, 0, 0, 0, 0xfe][..],
        &[5, 1, 0, 0, 0, 0, 0x05, 0x8c],
        &[3, 4, 64, 0x80],
        &86_400_u32.to_be_bytes(),
        &14_400_u32.to_be_bytes(),
        &[0; 4],
        &[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[25, 3, 0, 0],
        &lifetime,
        &[0x26, 0x20, 0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe],
        &[31, 3, 0, 0],
        &lifetime,
        b"\x02vm\x07example\x03org\0",
    ]
    .concat();
    assert_eq!(message[16..], expected);
}
