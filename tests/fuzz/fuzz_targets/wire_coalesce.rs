//! Any packets as a burst: each comes out once, flows keep their order, and a group cut
//! again is what was joined.
#![no_main]

use culvert_wire::coalesce::{Accept, Coalescer};
use culvert_wire::segment::Plan;
use culvert_wire::{Checksum, parse_ip};
use libfuzzer_sys::fuzz_target;

/// The first two bits of each packet's length choose a repair, so that joins happen: the
/// checksums of a valid packet are made right, or its sequence number follows.
fn packets(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut next_sequence = 0u32;
    while let Some((word, rest)) = input.split_first_chunk::<2>() {
        let word = u16::from_le_bytes(*word);
        let len = usize::from(word & 0x3fff).min(rest.len());
        let (packet, rest) = rest.split_at(len);
        input = rest;
        let mut packet = packet.to_vec();
        if word & 0x8000 != 0 {
            repair(&mut packet, (word & 0x4000 != 0).then_some(next_sequence));
        }
        if let Ok(headers) = parse_ip(&packet)
            && let culvert_wire::parse::L4::Tcp(tcp) = headers.l4
        {
            next_sequence = tcp.sequence.wrapping_add(headers.payload_len() as u32);
        }
        packets.push(packet);
    }
    packets
}

fn repair(packet: &mut [u8], sequence: Option<u32>) {
    let Ok(headers) = parse_ip(packet) else {
        return;
    };
    let l4 = headers.l4_offset;
    let (field, protocol) = match headers.l4 {
        culvert_wire::parse::L4::Tcp(_) => (l4 + 16, 6),
        culvert_wire::parse::L4::Udp(_) => (l4 + 6, 17),
        _ => return,
    };
    if let (Some(sequence), 6) = (sequence, protocol) {
        packet[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    let v4 = packet[0] >> 4 == 4;
    if v4 {
        packet[10..12].fill(0);
        let sum = Checksum::of(&packet[..l4]).complement();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet[field..field + 2].fill(0);
    let segment = &packet[l4..headers.ip_len];
    let mut sum = Checksum::of(&packet[if v4 { 12..20 } else { 8..40 }]);
    sum.add_u16(segment.len() as u16);
    sum.add_u16(protocol);
    sum.add(segment);
    let sum = sum.complement_udp();
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

fuzz_target!(|input: &[u8]| {
    let packets = packets(input);
    let mut coalescer = Coalescer::new(64);
    coalescer.begin(Accept::ALL, 0);
    let mut pushed = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        if let Ok(headers) = parse_ip(packet)
            && coalescer.push(index as u32, &headers, packet).is_ok()
        {
            pushed.push(index as u32);
        }
    }
    let mut seen = Vec::new();
    let mut firsts = Vec::new();
    for group in coalescer.groups() {
        let members: Vec<_> = group.members().collect();
        assert_eq!(members.len(), group.count());
        assert!(members.windows(2).all(|pair| pair[0].index < pair[1].index));
        firsts.push(members[0].index);
        seen.extend(members.iter().map(|member| member.index));
        let mut whole = group.header.to_vec();
        for member in &members {
            whole.extend(&packets[member.index as usize][member.range()]);
        }
        assert_eq!(whole.len(), group.len);
        let headers = parse_ip(&whole).expect("a group parses");
        assert_eq!(headers.ip_len, whole.len());
        if members.len() == 1 {
            continue;
        }
        let head = &whole[..whole.len().min(256)];
        let plan = Plan::new(&group.vnet, &headers, head, 65_535).expect("a group can be cut");
        assert_eq!(plan.count(), members.len());
        for (index, member) in members.iter().enumerate() {
            let part = &whole[plan.segment(index).payload];
            let original = &packets[member.index as usize];
            assert_eq!(part, &original[member.range()]);
            let mut out = [0; 256];
            let len = plan.write_headers(index, head, Checksum::of(part), &mut out);
            // All but IPv4's identification and the checksums over it.
            if out[0] >> 4 == 4 {
                out[4..6].copy_from_slice(&original[4..6]);
                out[10..12].copy_from_slice(&original[10..12]);
            }
            let field = headers.l4_offset + usize::from(group.vnet.csum_offset);
            let (ours, theirs) = (&out[field..field + 2], &original[field..field + 2]);
            // Both zeros of one's complement are right.
            if ours == [0, 0] && theirs == [0xff, 0xff] {
                out[field..field + 2].fill(0xff);
            }
            assert_eq!(out[..len], original[..len]);
        }
    }
    assert!(firsts.is_sorted());
    seen.sort_unstable();
    assert_eq!(seen, pushed);
});
