//! What packets in fragments take of the machine's memory, as the allocator has it.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of the test's own making"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hash::RandomState,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use culvert_stack::{HostConfig, HostStack, limits};
use culvert_wire::{Checksum, EtherType, MacAddr, ether, ipv4};
use culvert_wireguard::Instant;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What the C library puts around a block.
const AROUND: usize = 16;

// SAFETY: the system's allocator, and a sum.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() + AROUND, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() + AROUND, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn packet(source: u32, bytes: usize) -> Vec<u8> {
    let mut frame = ether::header(US, THEM, EtherType::IPV4).to_vec();
    frame.extend(ipv4::header(&ipv4::Ipv4Fields {
        source: Ipv4Addr::from_bits(0x0a00_0000 | (source & 0xff_ffff)),
        destination: Ipv4Addr::new(192, 0, 2, 1),
        tos: 0,
        id: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: 17,
        total_len: 20 + bytes as u16,
    }));
    frame.resize(frame.len() + bytes, 7);
    frame
}

/// The fragment of `frame` in which the others are missing.
fn alone(mut frame: Vec<u8>, id: u32, start: usize) -> Vec<u8> {
    let bits = 0x2000 | (start / 8) as u16;
    frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
    frame[20..22].copy_from_slice(&bits.to_be_bytes());
    frame[24..26].fill(0);
    let sum = Checksum::of(&frame[14..34]).complement();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn no_flood_of_fragments_takes_more_than_the_bound() {
    type Flood = fn(u32) -> Vec<u8>;
    let few = 9_000;
    let floods: [(&str, u32, Flood); 7] = [
        ("tiny, of all hosts", few, |n| alone(packet(n, 8), n, 800)),
        ("first ones, of all hosts", few, |n| {
            alone(packet(n, 1_480), n, 0)
        }),
        ("a few large ones of each packet", few, |n| {
            alone(packet(n / 8, 1_480), 1, (n as usize % 8) * 8_000)
        }),
        ("tiny ones of each packet", 60_000, |n| {
            alone(packet(n / 100, 8), 1, (n as usize % 100) * 16)
        }),
        ("of one host", few, |n| alone(packet(1, 1_480), n, 8)),
        ("over each other", 3 * few, |n| {
            alone(packet(n / 3, 808), 1, (n as usize % 3) * 400)
        }),
        ("as long as they can be", few, |n| {
            alone(packet(n, 32_000), n, 8)
        }),
    ];
    let now = Instant::from_nanos(1 << 40);
    for (what, count, flood) in floods {
        let config = HostConfig {
            mac: US,
            addresses: vec![(IpAddr::from([192, 0, 2, 1]), 24)],
            routes: vec![],
            neighbors: vec![],
            mtu: 1_500,
        };
        let empty = HELD.load(Ordering::Relaxed);
        let mut stack = HostStack::begin(config.clone(), RandomState::new(), |_| true, now);
        let before = HELD.load(Ordering::Relaxed);
        let mut counted = 0;
        for n in 0..count {
            let frame = flood(n);
            stack.handle_frame(&frame, now);
            drop(frame);
            let held = HELD.load(Ordering::Relaxed) - before;
            counted = counted.max(stack.reassembly_memory());
            assert!(held <= limits::REASSEMBLY_HIGH, "{what}: {held} bytes");
        }
        let is_full = counted > limits::REASSEMBLY_LOW || what == "of one host";
        assert!(
            is_full && counted <= limits::REASSEMBLY_HIGH,
            "{what}: {counted}"
        );
        drop((stack, config));
        let left = HELD.load(Ordering::Relaxed).saturating_sub(empty);
        assert!(left < 1_024, "{what}: {left} bytes are not given back");
    }
}
