//! Any bytes as a frame and as a packet: every parser and every answer.
#![no_main]

use culvert_wire::arp::ArpPacket;
use culvert_wire::icmp::{ANSWER_LEN_MAX, IcmpError, echo_reply_in_place, write_error};
use culvert_wire::nd::NdMessage;
use culvert_wire::parse::HEAD_LEN;
use culvert_wire::{Headers, parse_frame, parse_ip};
use libfuzzer_sys::fuzz_target;

fn bounds(headers: &Headers, len: usize) {
    assert!(headers.l3_offset <= headers.l4_offset);
    assert!(headers.l4_offset <= headers.payload_offset);
    assert!(headers.payload_offset <= headers.l3_offset + headers.ip_len);
    assert!(headers.l3_offset + headers.ip_len <= len);
}

fuzz_target!(|bytes: &[u8]| {
    let head = &bytes[..bytes.len().min(HEAD_LEN)];
    if let Ok(headers) = parse_frame(head, bytes.len() as u32) {
        bounds(&headers, bytes.len());
        let mut out = [0; ANSWER_LEN_MAX];
        for error in [IcmpError::TooBig { mtu: 1420 }, IcmpError::Unreachable] {
            for source in [[10, 0, 0, 1].into(), [0xfd; 16].into()] {
                if let Ok(len) = write_error(error, &headers, head, source, &mut out) {
                    assert!(parse_ip(&out[..len]).is_ok_and(|h| h.ip_len == len));
                }
            }
        }
        let _ = NdMessage::parse(&headers, bytes);
        let _ = ArpPacket::parse(&bytes[headers.l3_offset..]);
    }
    if let Ok(headers) = parse_ip(bytes) {
        bounds(&headers, bytes.len());
    }
    // A length that the copy does not bear out.
    if let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len));
        if let Ok(headers) = parse_frame(&rest[..rest.len().min(HEAD_LEN)], len as u32) {
            bounds(&headers, len);
        }
    }
    let mut packet = bytes.to_vec();
    if let Some(len) = echo_reply_in_place(&mut packet) {
        // A reply is not answered again.
        assert_eq!(echo_reply_in_place(&mut packet[..len]), None);
    }
});
