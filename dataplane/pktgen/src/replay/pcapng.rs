//! The newer format: blocks, in sections that have an order of bytes and interfaces of their own (draft-ietf-opsawg-pcapng).
//!
//! In: what follows the first block's type. Out: packets of enhanced and simple packet blocks. Never: a block that is kept
//! without need; others are stepped over.
//!
//! ```text
//!   | type 4 | whole length 4 | body, padded to 4 | whole length again 4 |
//! ```

use super::{Order, Packet, ReplayError, Source};
use crate::limits::{CAPTURE_INTERFACES_MAX, CAPTURE_PACKET_MAX};

/// A section header's type: the same in both orders.
pub(super) const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE: u32 = 1;
const SIMPLE: u32 = 3;
const ENHANCED: u32 = 6;
const MAGIC: u32 = 0x1a2b_3c4d;
/// Type and both lengths.
const FRAME: u32 = 12;
/// What a block that is kept has beside its packet: fields and options, the largest of which is 64 KiB.
const BESIDE_MAX: u32 = 131_072;

/// What an interface description says.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    /// The most that is kept of a packet; 0: no limit.
    snap: u32,
    resolution: Resolution,
}

/// What a tick of an interface's clock is.
#[derive(Clone, Copy, Debug)]
struct Resolution {
    ticks_per_s: u64,
}

pub(super) fn read(
    source: &mut Source<'_>,
    push: &mut dyn FnMut(Packet<'_>),
) -> Result<(), ReplayError> {
    let (mut order, mut interfaces) = (section(source)?, Vec::new());
    loop {
        let Some(kind) = source.take_or_end(4)? else {
            return Ok(());
        };
        if kind == SECTION {
            (order, interfaces) = (section(source)?, Vec::new());
            continue;
        }
        let kind = order.u32(kind, 0);
        let len = order.u32(source.take(4)?, 0);
        let body = body_len(source, len)?;
        match kind {
            INTERFACE | SIMPLE | ENHANCED if body > CAPTURE_PACKET_MAX + BESIDE_MAX => {
                return Err(source.malformed("a block longer than a packet may be"));
            }
            INTERFACE => add_interface(order, source, body, &mut interfaces)?,
            SIMPLE | ENHANCED => packet(kind, order, source.take(body)?, &interfaces, push),
            _ => source.skip(body)?,
        }
        if order.u32(source.take(4)?, 0) != len {
            return Err(source.malformed("a block's two lengths differ"));
        }
    }
}

fn body_len(source: &Source<'_>, len: u32) -> Result<u32, ReplayError> {
    match len.checked_sub(FRAME) {
        Some(body) if body.is_multiple_of(4) => Ok(body),
        _ => Err(source.malformed("a block's length is none")),
    }
}

/// The rest of a section header; gives the section's order of bytes.
fn section(source: &mut Source<'_>) -> Result<Order, ReplayError> {
    let head: [u8; 8] = source.take(8)?.first_chunk().copied().unwrap_or_default();
    let order = [Order::Little, Order::Big]
        .into_iter()
        .find(|it| it.u32(&head, 4) == MAGIC);
    let order =
        order.ok_or_else(|| source.malformed("a section with an unknown order of bytes"))?;
    let rest = body_len(source, order.u32(&head, 0))?.checked_sub(4);
    // The magic number was read; the second length is still to come.
    let rest = rest.ok_or_else(|| source.malformed("a section's length is none"))?;
    source.skip(rest)?;
    source.skip(4)?;
    Ok(order)
}

fn add_interface(
    order: Order,
    source: &mut Source<'_>,
    body: u32,
    interfaces: &mut Vec<Interface>,
) -> Result<(), ReplayError> {
    if interfaces.len() == CAPTURE_INTERFACES_MAX {
        return Err(source.malformed("a section with more than 1,024 interfaces"));
    }
    let block = source.take(body)?;
    let resolution = Resolution::of_options(order, block.get(8..).unwrap_or_default());
    interfaces.push(Interface {
        link: order.u16(block, 0),
        snap: order.u32(block, 4),
        resolution,
    });
    Ok(())
}

fn packet(
    kind: u32,
    order: Order,
    block: &[u8],
    interfaces: &[Interface],
    push: &mut dyn FnMut(Packet<'_>),
) {
    let (number, fields) = if kind == ENHANCED {
        (order.u32(block, 0), 20)
    } else {
        (0, 4)
    };
    let Some(interface) = interfaces.get(number as usize) else {
        return;
    };
    let original_len = order.u32(block, fields - 4);
    let len = match kind {
        ENHANCED => order.u32(block, 12),
        _ if interface.snap == 0 => original_len,
        _ => original_len.min(interface.snap),
    };
    let ticks = u64::from(order.u32(block, 4)) << 32 | u64::from(order.u32(block, 8));
    let bytes = block
        .get(fields..)
        .and_then(|it| it.get(..len as usize))
        .unwrap_or_default();
    push(Packet {
        bytes,
        original_len,
        link: interface.link,
        time_ns: if kind == ENHANCED {
            interface.resolution.ns(ticks)
        } else {
            0
        },
    });
}

impl Resolution {
    /// The option if_tsresol: a power of ten, or with the upper bit of two; microseconds without it.
    fn of_options(order: Order, mut options: &[u8]) -> Self {
        while options.len() >= 4 {
            let (code, len) = (order.u16(options, 0), usize::from(order.u16(options, 2)));
            if let (9, Some(&value)) = (code, options.get(4).filter(|_| len == 1)) {
                return Self::of(value);
            }
            options = options
                .get(4 + len.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        Self::of(6)
    }

    fn of(value: u8) -> Self {
        let power = u32::from(value & 0x7f);
        let base: u64 = if value & 0x80 == 0 { 10 } else { 2 };
        Self {
            ticks_per_s: base.checked_pow(power).unwrap_or(u64::MAX),
        }
    }

    fn ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks_per_s);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}
