//! The older format: a header of 24 bytes, then packets with 16 each (draft-ietf-opsawg-pcap).
//!
//! In: what follows the magic number. Out: packets. Never: more of a packet than the limit in memory.

use super::{Order, Packet, ReplayError, Source};
use crate::limits::CAPTURE_PACKET_MAX;

/// The orders of bytes, and what fractions of seconds count.
const MAGICS: [([u8; 4], Order, u64); 4] = [
    ([0xd4, 0xc3, 0xb2, 0xa1], Order::Little, 1000),
    ([0xa1, 0xb2, 0xc3, 0xd4], Order::Big, 1000),
    ([0x4d, 0x3c, 0xb2, 0xa1], Order::Little, 1),
    ([0xa1, 0xb2, 0x3c, 0x4d], Order::Big, 1),
];

pub(super) fn read(
    magic: [u8; 4],
    source: &mut Source<'_>,
    push: &mut dyn FnMut(Packet<'_>),
) -> Result<(), ReplayError> {
    let found = MAGICS.iter().find(|(bytes, ..)| *bytes == magic);
    let (_, order, fraction_ns) = found.ok_or(ReplayError::NoCapture)?;
    let header = source.take(20)?;
    // Above the link layer's number the field has the length of the check sequence.
    let link = order.u16(header, if *order == Order::Little { 16 } else { 18 });
    while let Some(head) = source.take_or_end(16)? {
        let (seconds, fraction) = (order.u32(head, 0), order.u32(head, 4));
        let (len, original_len) = (order.u32(head, 8), order.u32(head, 12));
        if len > CAPTURE_PACKET_MAX {
            return Err(source.malformed("a packet longer than 256 KiB"));
        }
        let bytes = source.take(len)?;
        push(Packet {
            bytes,
            original_len,
            link,
            time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * fraction_ns,
        });
    }
    Ok(())
}
