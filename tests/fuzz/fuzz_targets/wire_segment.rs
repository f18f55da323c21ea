//! Any metadata over any frame: what is planned keeps its bounds, and what is cut has
//! right lengths and checksums.
#![no_main]

use culvert_wire::parse::HEAD_LEN;
use culvert_wire::segment::{Plan, SEGMENTS_MAX, may_fragment};
use culvert_wire::{Checksum, VnetHeader, parse_frame, parse_ip};
use libfuzzer_sys::fuzz_target;

/// The sum of 16-bit words, as the RFC has it.
fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fuzz_target!(|input: &[u8]| {
    let Some((vnet, input)) = input.split_first_chunk::<12>() else {
        return;
    };
    let Some((mtu, frame)) = input.split_first_chunk::<2>() else {
        return;
    };
    let vnet = VnetHeader::read(vnet);
    assert_eq!(VnetHeader::read(&vnet.write()), vnet);
    let mtu = usize::from(u16::from_le_bytes(*mtu));
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let Ok(headers) = parse_frame(head, frame.len() as u32) else {
        return;
    };
    let whole = |part: std::ops::Range<usize>| Some(Checksum::of(&frame[part]));
    let fragments = may_fragment(&vnet, &headers)
        .then(|| Plan::fragment(&vnet, &headers, head, mtu, whole));
    let plans = [
        Some(Plan::new(&vnet, &headers, head, mtu)),
        Some(Plan::recut(&vnet, &headers, head, mtu)),
        fragments,
    ];
    let plans = plans.into_iter().flatten();
    for plan in plans.flatten() {
        assert!((1..=SEGMENTS_MAX).contains(&plan.count()));
        let mut payload: Vec<u8> = Vec::new();
        for index in 0..plan.count() {
            let segment = plan.segment(index);
            let part = &frame[segment.payload.clone()];
            let mut out = [0; HEAD_LEN];
            let len = plan.write_headers(index, head, Checksum::of(part), &mut out);
            assert_eq!(len, plan.header_len(index));
            let packet = [&out[..len], part].concat();
            assert_eq!(packet.len(), segment.len);
            assert!(packet.len() <= mtu);
            payload.extend(part);
            if vnet.is_plain() {
                continue;
            }
            let again = parse_ip(&packet).expect("a segment parses");
            assert_eq!(again.ip_len, packet.len());
            let l4 = &packet[again.l4_offset..];
            let addresses = if packet[0] >> 4 == 4 {
                assert_eq!(sum(&packet[..again.l4_offset], 0), 0xffff);
                12..20
            } else {
                8..40
            };
            let pseudo = sum(&packet[addresses], l4.len() as u32);
            let pseudo = pseudo + u32::from(again.protocol().expect("IP"));
            assert_eq!(sum(l4, pseudo), 0xffff);
        }
        let start = headers.l3_offset + plan.header_len(0);
        assert_eq!(payload, frame[start..headers.l3_offset + headers.ip_len]);
    }
});
