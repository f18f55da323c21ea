//! What hostile guests and VMMs have done to other backends, each by name.
//!
//! The rule: that port alone is stopped, or the packet is dropped, by name and counted. After
//! each attack the port must serve an honest frontend.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Bench, header, is_up, pattern, take_frames};
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{LinkDown, PortDrop, PortEvent, RingFault, RingOptions};
use culvert_wire::VnetHeader;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use vhost::vhost_user::message::FrontendReq;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const RX: usize = 0;
const TX: usize = 1;

/// One raw descriptor: address, length, flags, next (or id).
type Raw = (u64, u32, u16, u16);

fn layouts() -> [FrontendConfig; 2] {
    let all = RingOptions::all();
    [
        FrontendConfig {
            rings: all - RingOptions::PACKED,
            ..FrontendConfig::default()
        },
        FrontendConfig {
            rings: all,
            ..FrontendConfig::default()
        },
    ]
}

fn is_packed(config: &FrontendConfig) -> bool {
    config.rings.contains(RingOptions::PACKED)
}

/// A frontend whose rings run and are empty.
fn bare(bench: &Bench, config: &FrontendConfig) -> Frontend {
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, config.clone()).unwrap();
    frontend.negotiate().unwrap();
    frontend.share_memory().unwrap();
    for ring in [RX, TX] {
        let base = frontend.queues[ring].driver.first_base();
        frontend.start_ring(ring, base, None).unwrap();
    }
    bench.wait(|event| is_up(event, 1));
    frontend
}

fn descriptor(raw: &Raw, is_packed: bool) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&raw.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&raw.1.to_le_bytes());
    let (flags, last) = if is_packed { (14, 12) } else { (12, 14) };
    bytes[flags..flags + 2].copy_from_slice(&raw.2.to_le_bytes());
    bytes[last..last + 2].copy_from_slice(&raw.3.to_le_bytes());
    bytes
}

/// Makes raw descriptors available in a fresh ring, from its first entry on.
fn offer(frontend: &Frontend, ring: usize, is_packed: bool, chain: &[Raw]) {
    let areas = frontend.queues[ring].driver.areas();
    for (raw, at) in chain.iter().zip((areas.descriptors..).step_by(16)) {
        let available = if is_packed { 1 << 7 } else { 0 };
        let raw = (raw.0, raw.1, raw.2 | available, raw.3);
        frontend.memory.write(at, &descriptor(&raw, is_packed));
    }
    if !is_packed {
        frontend.memory.write(areas.driver + 4, &0u16.to_le_bytes());
        frontend.memory.store(areas.driver + 2, 1);
    }
}

/// Lets the port look at the ring, as a worker would.
fn look(bench: &Bench, ring: usize) {
    if ring == TX {
        take_frames(bench.port(), 0);
    } else if let Ok(mut burst) = bench.port().guest_rx(0).try_lock() {
        let _ = burst.deliver(&VnetHeader::default(), &[&pattern(1500, 0)]);
    }
}

/// The port still serves an honest guest.
fn assert_serves(bench: &Bench, config: &FrontendConfig) {
    let mut frontend = bench.connect(config.clone());
    assert!(frontend.send_frame(0, &header(9), &pattern(600, 9)));
    assert_eq!(take_frames(bench.port(), 0)[0].1, pattern(600, 9));
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    burst.deliver(&header(8), &[&pattern(3000, 8)]).unwrap();
    drop(burst);
    assert_eq!(frontend.receive_frame(0).unwrap().1, pattern(3000, 8));
}

/// Offers a chain that must stop the ring with a fault.
fn expect_fault(ring: usize, config: &FrontendConfig, chain: &[Raw], fault: RingFault) {
    let bench = Bench::new(|_| {});
    let frontend = bare(&bench, config);
    offer(&frontend, ring, is_packed(config), chain);
    look(&bench, ring);
    let stopped = bench.wait(|event| matches!(event, PortEvent::RingStopped { .. }));
    let expected = PortEvent::RingStopped {
        ring: ring as u16,
        fault,
    };
    assert_eq!(stopped, expected, "{config:?}");
    let down = bench.wait(|event| matches!(event, PortEvent::LinkDown { .. }));
    assert_eq!(
        down,
        PortEvent::LinkDown {
            reason: LinkDown::Fault(fault)
        }
    );
    look(&bench, ring);
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert_serves(&bench, config);
}

/// Offers a chain that must be dropped by name and come back, while the ring goes on.
fn expect_drop(ring: usize, config: &FrontendConfig, chain: &[Raw], reason: PortDrop) {
    let bench = Bench::new(|_| {});
    let frontend = bare(&bench, config);
    offer(&frontend, ring, is_packed(config), chain);
    look(&bench, ring);
    let counters = match ring {
        TX => bench.port().guest_tx(0).counters(),
        _ => bench.port().guest_rx(0).counters(),
    };
    let what = format!("{reason:?} {chain:x?} {config:?}");
    assert_eq!(counters.drops(reason), 1, "{what}");
    assert_eq!(counters.frames(), 0, "{what}");
    assert_eq!(counters.faults(), 0, "{what}");
    let areas = frontend.queues[ring].driver.areas();
    if is_packed(config) {
        assert_eq!(
            frontend.memory.load(areas.descriptors + 14) >> 15,
            1,
            "{what}"
        );
    } else {
        assert_eq!(frontend.memory.load(areas.device + 2), 1, "{what}");
    }
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert_serves(&bench, config);
}

/// Room in the frontend's memory that no ring uses, and its end.
fn room(config: &FrontendConfig) -> (u64, u64) {
    (
        config.guest + config.memory as u64 / 2,
        config.guest + config.memory as u64,
    )
}

#[test]
fn buffers_outside_of_memory_or_across_its_end_or_around_the_address_space() {
    for config in layouts() {
        let (_, end) = room(&config);
        for (address, length) in [
            (0, 100),
            (config.guest - 1, 100),
            (end - 50, 100),
            (end, 100),
            (end - 1, u32::MAX),
            (u64::MAX - 10, 100),
            (u64::MAX, 1),
            (u64::MAX - 99, 100),
            (config.guest - 0x1000, 0x2000),
        ] {
            expect_drop(
                TX,
                &config,
                &[(address, length, 0, 0)],
                PortDrop::BadAddress,
            );
            expect_drop(
                RX,
                &config,
                &[(address, length.max(20), WRITE, 0)],
                PortDrop::BadBuffer,
            );
        }
    }
}

#[test]
fn lengths_whose_sum_overflows() {
    for config in layouts() {
        let (at, _) = room(&config);
        // 64 descriptors of 96 MiB: more than a u32 in sum, each within memory.
        let chain: Vec<Raw> = (0..64u16)
            .map(|i| (at, 96 << 20, if i < 63 { NEXT } else { 0 }, i + 1))
            .collect();
        expect_drop(TX, &config, &chain, PortDrop::TooLong);
        expect_drop(TX, &config, &[(at, 70_000, 0, 0)], PortDrop::TooLong);
    }
}

#[test]
fn chains_that_loop() {
    let [split, packed] = layouts();
    let (at, _) = room(&split);
    expect_fault(TX, &split, &[(at, 100, NEXT, 0)], RingFault::ChainTooLong);
    let pair = [(at, 0, NEXT, 1), (at, 0, NEXT, 0)];
    expect_fault(TX, &split, &pair, RingFault::ChainTooLong);
    expect_fault(
        RX,
        &split,
        &[(at, 1, NEXT | WRITE, 0)],
        RingFault::ChainTooLong,
    );
    // In the packed ring a loop is a chain all the way round.
    let round: Vec<Raw> = (0..256).map(|i| (at, 1, NEXT, i)).collect();
    expect_fault(TX, &packed, &round, RingFault::ChainTooLong);
}

#[test]
fn next_and_head_out_of_range() {
    let [split, _] = layouts();
    let (at, _) = room(&split);
    for next in [256, 257, 0xffff] {
        let chain = [(at, 100, NEXT, next)];
        expect_fault(TX, &split, &chain, RingFault::DescriptorOutOfRange);
        let bench = Bench::new(|_| {});
        let frontend = bare(&bench, &split);
        let areas = frontend.queues[TX].driver.areas();
        frontend.memory.write(areas.driver + 4, &next.to_le_bytes());
        frontend.memory.store(areas.driver + 2, 1);
        look(&bench, TX);
        bench.wait(|event| {
            matches!(
                event,
                PortEvent::RingStopped {
                    fault: RingFault::DescriptorOutOfRange,
                    ..
                }
            )
        });
    }
}

#[test]
fn the_available_index_jumps() {
    let [split, _] = layouts();
    for index in [257, 258, 0x8000, 0xffff] {
        for ring in [RX, TX] {
            let bench = Bench::new(|_| {});
            let frontend = bare(&bench, &split);
            let areas = frontend.queues[ring].driver.areas();
            frontend.memory.store(areas.driver + 2, index);
            look(&bench, ring);
            bench.wait(|event| {
                matches!(
                    event,
                    PortEvent::RingStopped {
                        fault: RingFault::AvailableIndexJump,
                        ..
                    }
                )
            });
            drop(frontend);
            assert_serves(&bench, &split);
        }
    }
}

#[test]
fn indirect_tables_out_of_range_nested_empty_or_too_long() {
    for config in layouts() {
        let (at, end) = room(&config);
        for (chain, fault) in [
            ((end, 32, INDIRECT, 0), RingFault::IndirectAddress),
            ((end - 16, 32, INDIRECT, 0), RingFault::IndirectAddress),
            ((u64::MAX - 15, 32, INDIRECT, 0), RingFault::IndirectAddress),
            ((at, 0, INDIRECT, 0), RingFault::IndirectLength),
            ((at, 15, INDIRECT, 0), RingFault::IndirectLength),
            ((at, 40, INDIRECT, 0), RingFault::IndirectLength),
            ((at, 16 * 1025, INDIRECT, 0), RingFault::IndirectLength),
            ((at, u32::MAX - 15, INDIRECT, 0), RingFault::IndirectLength),
            ((at, 32, INDIRECT | NEXT, 1), RingFault::IndirectNested),
        ] {
            expect_fault(TX, &config, &[chain], fault);
        }
        // A table in a table.
        let bench = Bench::new(|_| {});
        let frontend = bare(&bench, &config);
        let inner = descriptor(&(at + 64, 32, INDIRECT, 0), is_packed(&config));
        frontend.memory.write(at, &inner);
        offer(&frontend, TX, is_packed(&config), &[(at, 32, INDIRECT, 0)]);
        look(&bench, TX);
        bench.wait(|event| {
            matches!(
                event,
                PortEvent::RingStopped {
                    fault: RingFault::IndirectNested,
                    ..
                }
            )
        });
    }
}

#[test]
fn indirect_tables_that_loop_or_point_out_of_themselves() {
    let [split, _] = layouts();
    let (at, _) = room(&split);
    for (entries, fault) in [
        (
            [(at, 8, NEXT, 1), (at, 8, NEXT, 0)],
            RingFault::ChainTooLong,
        ),
        (
            [(at, 8, NEXT, 2), (at, 8, 0, 0)],
            RingFault::DescriptorOutOfRange,
        ),
        (
            [(at, 8, NEXT, 0xffff), (at, 8, 0, 0)],
            RingFault::DescriptorOutOfRange,
        ),
    ] {
        let bench = Bench::new(|_| {});
        let frontend = bare(&bench, &split);
        for (entry, place) in entries.iter().zip((at..).step_by(16)) {
            frontend.memory.write(place, &descriptor(entry, false));
        }
        offer(&frontend, TX, false, &[(at, 32, INDIRECT, 0)]);
        look(&bench, TX);
        let event = bench.wait(|event| matches!(event, PortEvent::RingStopped { .. }));
        assert_eq!(event, PortEvent::RingStopped { ring: 1, fault });
    }
}

#[test]
fn indirect_tables_that_were_not_negotiated() {
    for config in layouts() {
        let rings = config.rings - RingOptions::INDIRECT_DESC;
        let config = FrontendConfig { rings, ..config };
        let (at, _) = room(&config);
        expect_fault(
            TX,
            &config,
            &[(at, 32, INDIRECT, 0)],
            RingFault::IndirectNotNegotiated,
        );
    }
}

#[test]
fn buffers_in_the_wrong_direction() {
    for config in layouts() {
        let (at, _) = room(&config);
        expect_drop(
            TX,
            &config,
            &[(at, 100, WRITE, 0)],
            PortDrop::WrongDirection,
        );
        expect_drop(
            TX,
            &config,
            &[(at, 100, NEXT, 1), (at, 100, WRITE, 0)],
            PortDrop::WrongDirection,
        );
        expect_drop(RX, &config, &[(at, 2000, 0, 0)], PortDrop::BadBuffer);
    }
}

#[test]
fn chains_shorter_than_the_headers_and_empty_chains() {
    for config in layouts() {
        let (at, _) = room(&config);
        for length in [0, 1, 11, 12, 25] {
            expect_drop(TX, &config, &[(at, length, 0, 0)], PortDrop::TooShort);
        }
        expect_drop(
            TX,
            &config,
            &[(at, 0, NEXT, 1), (at, 0, NEXT, 2), (at, 0, 0, 0)],
            PortDrop::TooShort,
        );
    }
}

#[test]
fn receive_buffers_smaller_than_the_header() {
    for config in layouts() {
        let (at, _) = room(&config);
        for length in [0, 1, 11] {
            expect_drop(RX, &config, &[(at, length, WRITE, 0)], PortDrop::BadBuffer);
        }
    }
}

#[test]
fn ring_sizes_and_addresses_that_cannot_be() {
    for config in layouts() {
        let bench = Bench::new(|_| {});
        for size in [0u32, 65_536, 32_769, u32::MAX] {
            let mut frontend = bare(&bench, &config);
            assert!(
                frontend
                    .tell_state(FrontendReq::SET_VRING_NUM, 1, size)
                    .is_err()
            );
        }
        if !is_packed(&config) {
            let mut frontend = bare(&bench, &config);
            frontend
                .tell_state(FrontendReq::SET_VRING_NUM, 1, 100)
                .unwrap();
            bench.wait(|event| {
                matches!(
                    event,
                    PortEvent::RingStopped {
                        fault: RingFault::RingSize,
                        ..
                    }
                )
            });
        }
        // Larger than its place in memory, after set-up.
        let mut frontend = bare(&bench, &config);
        let areas = frontend.queues[TX].driver.areas();
        let end = frontend.memory.user() + frontend.memory.size();
        let device = frontend.memory.user_of(areas.device);
        let ring = |at: u64| {
            let mut body = 1u32.to_ne_bytes().to_vec();
            body.extend(0u32.to_ne_bytes());
            for user in [at, device, at] {
                body.extend(user.to_ne_bytes());
            }
            body.extend(0u64.to_ne_bytes());
            body
        };
        for at in [end - 16, end, 0, !15, frontend.memory.user() - 4096] {
            let body = ring(at);
            frontend
                .tell(FrontendReq::SET_VRING_ADDR, &body, &[])
                .unwrap();
            bench.wait(|event| {
                matches!(
                    event,
                    PortEvent::RingStopped {
                        fault: RingFault::RingAddress,
                        ..
                    }
                )
            });
            assert!(bench.port().guest_tx(0).try_lock().is_none());
        }
        drop(frontend);
        assert_serves(&bench, &config);
    }
}

#[test]
fn ring_size_grows_under_a_running_ring() {
    let [split, _] = layouts();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(split.clone());
    for size in [512, 1024, 32_768, 2, 256] {
        assert!(
            frontend
                .tell_state(FrontendReq::SET_VRING_NUM, 1, size)
                .is_ok()
        );
        take_frames(bench.port(), 0);
    }
    drop(frontend);
    assert_serves(&bench, &split);
}

#[test]
fn ring_indices_out_of_range_in_every_message() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    for index in [2u32, 3, 255, 256, 0x7fff_ffff, u32::MAX] {
        for request in [
            FrontendReq::SET_VRING_NUM,
            FrontendReq::SET_VRING_BASE,
            FrontendReq::SET_VRING_ENABLE,
        ] {
            let mut frontend = bare(&bench, &config);
            assert!(
                frontend.tell_state(request, index, 1).is_err(),
                "{request:?} {index}"
            );
        }
        let mut frontend = bare(&bench, &config);
        let mut body = index.to_ne_bytes().to_vec();
        body.extend([0; 36]);
        assert!(
            frontend
                .tell(FrontendReq::SET_VRING_ADDR, &body, &[])
                .is_err()
        );
        let mut frontend = bare(&bench, &config);
        let mut state = index.to_ne_bytes().to_vec();
        state.extend([0; 4]);
        frontend
            .send(FrontendReq::GET_VRING_BASE as u32, 1, &state, &[])
            .unwrap();
        assert!(frontend.receive().is_err());
    }
    let flags = EventfdFlags::CLOEXEC;
    let fd = eventfd(0, flags).unwrap();
    for request in [
        FrontendReq::SET_VRING_KICK,
        FrontendReq::SET_VRING_CALL,
        FrontendReq::SET_VRING_ERR,
    ] {
        let mut frontend = bare(&bench, &config);
        assert!(frontend.tell_fd(request, 2, fd.as_fd()).is_err());
    }
    let refused = bench.port().counters().refused_sessions();
    assert_eq!(refused, 6 * 5 + 3);
    assert_serves(&bench, &config);
}

#[test]
fn descriptors_that_are_no_eventfds() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let file = tempfile::tempfile().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/zero").unwrap();
    for fd in [file.as_fd(), reader.as_fd(), null.as_fd()] {
        for request in [
            FrontendReq::SET_VRING_KICK,
            FrontendReq::SET_VRING_CALL,
            FrontendReq::SET_VRING_ERR,
        ] {
            let mut frontend = bare(&bench, &config);
            assert!(frontend.tell_fd(request, 1, fd).is_err());
        }
    }
    assert_serves(&bench, &config);
}

#[test]
fn a_call_descriptor_that_is_full_stops_nobody() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config);
    // A blocking eventfd with its counter at the end: a write to it would wait for ever.
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    frontend
        .tell_fd(FrontendReq::SET_VRING_CALL, 0, fd.as_fd())
        .unwrap();
    let memory = &frontend.memory;
    frontend.queues[RX].driver.set_calls(memory, true);
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    burst
        .deliver(&VnetHeader::default(), &[&pattern(60, 0)])
        .unwrap();
    drop(burst);
    assert!(frontend.receive_frame(0).is_some());
}

/// The body of SET_MEM_TABLE: guest address, size, user address, offset of each region.
fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = (regions.len() as u32).to_ne_bytes().to_vec();
    body.extend(0u32.to_ne_bytes());
    body.extend(regions.iter().flatten().flat_map(|word| word.to_ne_bytes()));
    body
}

#[test]
fn memory_that_is_larger_than_its_file_wraps_or_overlaps() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let size = config.memory as u64;
    let small = tempfile::tempfile().unwrap();
    small.set_len(4096).unwrap();
    let device = std::fs::File::open("/dev/zero").unwrap();
    let (guest, user) = (config.guest, 0x7000_0000);
    for regions in [
        vec![[guest, size + 4096, user, 0]],
        vec![[guest, u64::MAX, user, 0]],
        vec![[u64::MAX - 4095, 8192, user, 0]],
        vec![[guest, 8192, u64::MAX - 4095, 0]],
        vec![[guest, 8192, user, u64::MAX - 4095]],
        vec![[guest, 8192, user, size]],
        vec![[guest, 0, user, 0]],
        vec![[guest, 1 << 60, user, 0]],
        vec![
            [guest, 8192, user, 0],
            [guest + 4096, 8192, user + (1 << 20), 0],
        ],
        vec![
            [guest, 8192, user, 0],
            [guest + (1 << 20), 8192, user + 4096, 0],
        ],
    ] {
        let mut frontend = bare(&bench, &config);
        let fd = frontend.memory.fd().try_clone_to_owned().unwrap();
        let fds = vec![fd.as_fd(); regions.len()];
        let refused = frontend.tell(FrontendReq::SET_MEM_TABLE, &table(&regions), &fds);
        assert!(refused.is_err(), "{regions:x?}");
        let mut frontend = bare(&bench, &config);
        let mut body = 0u64.to_ne_bytes().to_vec();
        body.extend(regions[0].iter().flat_map(|word| word.to_ne_bytes()));
        let refused = frontend.tell(FrontendReq::ADD_MEM_REG, &body, &[fd.as_fd()]);
        assert!(refused.is_err(), "{regions:x?}");
    }
    for file in [&small, &device] {
        let mut frontend = bare(&bench, &config);
        let body = table(&[[guest, 8192, user, 0]]);
        assert!(
            frontend
                .tell(FrontendReq::SET_MEM_TABLE, &body, &[file.as_fd()])
                .is_err()
        );
    }
    // Without its descriptor, and with too many.
    let mut frontend = bare(&bench, &config);
    let body = table(&[[guest, 8192, user, 0]]);
    assert!(
        frontend
            .tell(FrontendReq::SET_MEM_TABLE, &body, &[])
            .is_err()
    );
    let mut frontend = bare(&bench, &config);
    let fds = [small.as_fd(), small.as_fd()];
    assert!(
        frontend
            .tell(FrontendReq::SET_MEM_TABLE, &body, &fds)
            .is_err()
    );
    assert_serves(&bench, &config);
}

#[test]
fn regions_come_and_go_and_an_unknown_one_is_refused() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config.clone());
    let extra = tempfile::tempfile().unwrap();
    extra.set_len(1 << 20).unwrap();
    let region = |at: u64| {
        let mut body = 0u64.to_ne_bytes().to_vec();
        for word in [
            0x9_0000_0000 + at,
            1 << 16,
            0x1_0000_0000 + at,
            at % (1 << 19),
        ] {
            body.extend(word.to_ne_bytes());
        }
        body
    };
    for round in 0..3 {
        for at in (0..40u64).map(|n| n << 16) {
            frontend
                .tell(FrontendReq::ADD_MEM_REG, &region(at), &[extra.as_fd()])
                .unwrap();
            assert!(frontend.send_frame(0, &header(1), &pattern(64, at)));
            assert_eq!(
                take_frames(bench.port(), 0)[0].1,
                pattern(64, at),
                "{round}"
            );
        }
        for at in (0..40u64).map(|n| n << 16) {
            frontend
                .tell(FrontendReq::REM_MEM_REG, &region(at), &[])
                .unwrap();
        }
    }
    assert!(
        frontend
            .tell(FrontendReq::REM_MEM_REG, &region(0), &[])
            .is_err()
    );
    let mut frontend = bench.connect(config.clone());
    // One more than there are slots.
    let slots = frontend.ask_u64(FrontendReq::GET_MAX_MEM_SLOTS).unwrap();
    for at in (1..slots).map(|n| n << 16) {
        frontend
            .tell(FrontendReq::ADD_MEM_REG, &region(at), &[extra.as_fd()])
            .unwrap();
    }
    let more = region(slots << 16);
    assert!(
        frontend
            .tell(FrontendReq::ADD_MEM_REG, &more, &[extra.as_fd()])
            .is_err()
    );
    drop(frontend);
    assert_serves(&bench, &config);
}

#[test]
fn memory_is_removed_under_a_running_ring() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config.clone());
    let is_done = AtomicBool::new(false);
    let port = bench.port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                take_frames(port, 0);
                if let Ok(mut burst) = port.guest_rx(0).try_lock() {
                    let _ = burst.deliver(&header(0), &[&[0; 1000]]);
                }
            }
        });
        let memory = &frontend.memory;
        let mut body = 0u64.to_ne_bytes().to_vec();
        for word in [memory.guest(), memory.size(), memory.user(), 0] {
            body.extend(word.to_ne_bytes());
        }
        let fd = memory.fd().try_clone_to_owned().unwrap();
        for seed in 0..200 {
            frontend.send_frame(0, &header(0), &pattern(200, seed));
            frontend.tell(FrontendReq::REM_MEM_REG, &body, &[]).unwrap();
            assert!(port.guest_tx(0).try_lock().is_none());
            frontend.send_frame(0, &header(0), &pattern(200, seed));
            frontend
                .tell(FrontendReq::ADD_MEM_REG, &body, &[fd.as_fd()])
                .unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
    });
    drop(frontend);
    assert_serves(&bench, &config);
}

#[test]
fn a_memory_file_cannot_be_truncated_once_it_is_sealed() {
    let bench = Bench::new(|_| {});
    let frontend = bench.connect(FrontendConfig::default());
    assert!(rustix::fs::ftruncate(frontend.memory.fd(), 0).is_err());
}

#[test]
fn a_memory_file_that_is_truncated_stops_its_port_alone() {
    let config = FrontendConfig::default();
    let (bench, other) = (Bench::new(|_| {}), Bench::new(|_| {}));
    let _neighbour = other.connect(config.clone());
    for ring in [RX, TX] {
        let mut frontend = bench.connect(config.clone());
        // A plain file can't be sealed. It replaces the memory, rings and all.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let mut file = file.unwrap();
        let memory = &frontend.memory;
        let mut bytes = vec![0; memory.size() as usize];
        memory.read(memory.guest(), &mut bytes);
        file.write_all(&bytes).unwrap();
        let region = [memory.guest(), memory.size(), memory.user(), 0];
        let fds = [file.as_fd()];
        frontend
            .tell(FrontendReq::SET_MEM_TABLE, &table(&[region]), &fds)
            .unwrap();
        file.set_len(0).unwrap();
        look(&bench, ring);
        bench.wait(|event| {
            matches!(
                event,
                PortEvent::RingStopped {
                    fault: RingFault::MemoryTruncated,
                    ..
                }
            )
        });
        drop(frontend);
        bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    }
    assert!(other.port().guest_tx(0).is_live());
    assert_serves(&bench, &config);
}

#[test]
fn descriptors_and_buffers_are_rewritten_while_they_are_read() {
    for config in layouts() {
        let bench = Bench::new(|_| {});
        let is_done = AtomicBool::new(false);
        let mut frontend = bench.connect(config.clone());
        let port = bench.port();
        let mut restarts = 0;
        std::thread::scope(|scope| {
            let frontend = &mut frontend;
            let restarts = &mut restarts;
            let is_done = &is_done;
            for ring in [RX, TX] {
                scope.spawn(move || {
                    while !is_done.load(Ordering::Relaxed) {
                        if ring == TX {
                            take_frames_loosely(port);
                        } else if let Ok(mut burst) = port.guest_rx(0).try_lock() {
                            for _ in 0..8 {
                                let _ = burst.deliver(&header(1), &[&[7; 1400]]);
                            }
                        }
                    }
                });
            }
            // The guest: any bits in descriptors, tables and indices, as fast as it can.
            let until = Instant::now() + Duration::from_millis(1500);
            // A machine with other work may take longer to break a ring.
            let limit = until + Duration::from_secs(20);
            let mut state = 0x1234_5678_9abc_def1u64;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            while Instant::now() < until || *restarts == 0 && Instant::now() < limit {
                // A ring that was stopped is set up again, on whatever lies there.
                for ring in [RX, TX] {
                    let is_live = match ring {
                        TX => port.guest_tx(0).is_live(),
                        _ => port.guest_rx(0).is_live(),
                    };
                    if !is_live {
                        let base = frontend.stop_ring(ring).unwrap();
                        frontend.start_ring(ring, base, None).unwrap();
                        *restarts += 1;
                    }
                }
                let is_rx = random() % 2 == 0;
                let areas = frontend.queues[usize::from(!is_rx)].driver.areas();
                let slot = random() % 256;
                let near = config.guest + random() % (config.memory as u64 + 5000);
                let length = random() as u32 >> (random() % 32);
                let flags = match random() % 64 {
                    0 => random() as u16,
                    1..=8 => NEXT,
                    9 => WRITE,
                    _ if is_rx => WRITE,
                    _ => 0,
                };
                // Available in this lap or the other, in the packed layout.
                let lap = if random() % 2 == 0 { 1 << 7 } else { 1 << 15 };
                let flags = if is_packed(&config) {
                    flags | lap
                } else {
                    flags
                };
                let raw = (near, length, flags, random() as u16 % 257);
                let at = areas.descriptors + 16 * slot;
                frontend
                    .memory
                    .write(at, &descriptor(&raw, is_packed(&config)));
                frontend.memory.write(
                    areas.driver + 4 + 2 * slot,
                    &(random() as u16 % 257).to_le_bytes(),
                );
                // Mostly a few more chains; sometimes a jump.
                let step = if random() % 64 == 0 {
                    random() as u16
                } else {
                    random() as u16 % 8
                };
                let ahead = frontend.memory.load(areas.device + 2).wrapping_add(step);
                frontend.memory.store(areas.driver + 2, ahead);
            }
            is_done.store(true, Ordering::Relaxed);
        });
        println!("{restarts} rings broken and set up again");
        assert!(restarts > 0);
        let frames = bench.port().guest_tx(0).counters().frames();
        assert!(frames > 0, "some frames were taken among the attacks");
        drop(frontend);
        bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
        assert_serves(&bench, &config);
    }
}

/// Takes frames and reads all of each, without expecting two reads to agree.
fn take_frames_loosely(port: &culvert_vhost::Port) {
    let Some(mut burst) = port.guest_tx(0).try_lock() else {
        return;
    };
    let count = burst.fetch(64);
    let mut bytes = [0; 70_000];
    for index in 0..count {
        let length = burst.frame(index).len as usize;
        assert_eq!(burst.copy(index, 0, &mut bytes), length);
        let _ = burst.frame(index).head();
    }
    burst.complete(count);
}

#[test]
fn features_and_addresses_change_under_load() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config.clone());
    let is_done = AtomicBool::new(false);
    let port = bench.port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                take_frames(port, 0);
                if let Ok(mut burst) = port.guest_rx(0).try_lock() {
                    let _ = burst.deliver(&header(0), &[&[0; 1000]]);
                }
            }
        });
        let features = frontend.features();
        for seed in 0..300u64 {
            frontend.send_frame(0, &header(0), &pattern(200, seed));
            frontend
                .set_features(features & !(1 << (seed % 40)))
                .unwrap();
            frontend
                .set_ring_address((seed % 2) as usize, None)
                .unwrap();
            frontend.set_features(features).unwrap();
        }
        // Features that nobody offered.
        assert!(frontend.set_features(features | 1 << 60).is_err());
        is_done.store(true, Ordering::Relaxed);
    });
    drop(frontend);
    assert_serves(&bench, &config);
}

#[test]
fn messages_that_are_cut_too_long_unknown_or_malformed() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let header = |request: u32, flags: u32, size: u32| {
        [
            request.to_ne_bytes(),
            flags.to_ne_bytes(),
            size.to_ne_bytes(),
        ]
        .concat()
    };
    let mut attacks = vec![
        header(1, 1, 0)[..7].to_vec(),
        header(5, 1, 40),
        [header(5, 1, 40), vec![0; 20]].concat(),
        header(5, 1, u32::MAX),
        header(5, 1, 4097),
        header(0, 1, 0),
        header(4711, 1, 0),
        header(u32::MAX, 1, 0),
        header(1, 0, 0),
        header(1, 2, 0),
        header(1, 5, 0),
        header(1, 0xffff_fff1, 0),
        [header(5, 1, 8), 33u32.to_ne_bytes().to_vec(), vec![0; 4]].concat(),
        [header(5, 1, 8), u32::MAX.to_ne_bytes().to_vec(), vec![0; 4]].concat(),
        [header(2, 1, 4), vec![0; 4]].concat(),
    ];
    // Every request with bodies of every small size.
    for request in 0..60 {
        for size in [0u32, 1, 8, 12, 20, 40, 44, 260] {
            attacks.push([header(request, 1, size), vec![0xff; size as usize]].concat());
            attacks.push([header(request, 9, size), vec![0; size as usize]].concat());
        }
    }
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = fds();
    for attack in &attacks {
        let mut stream = UnixStream::connect(bench.path()).unwrap();
        let _ = stream.write_all(attack);
    }
    assert_serves(&bench, &config);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    // Other tests run in this process, so this is no exact figure.
    assert!(fds() < before + attacks.len() / 2);
}

#[test]
fn repeated_messages_leak_no_descriptors() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config);
    let flags = EventfdFlags::CLOEXEC;
    let fd = eventfd(0, flags).unwrap();
    let memory = frontend.memory.fd().try_clone_to_owned().unwrap();
    let mut log = 4096u64.to_ne_bytes().to_vec();
    log.extend(0u64.to_ne_bytes());
    let count = |inode: u64| {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok())
            .filter(|found| std::os::unix::fs::MetadataExt::ino(found) == inode)
            .count()
    };
    let inode = rustix::fs::fstat(&memory).unwrap().st_ino;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    for round in 0..2000 {
        for request in [
            FrontendReq::SET_VRING_KICK,
            FrontendReq::SET_VRING_CALL,
            FrontendReq::SET_VRING_ERR,
        ] {
            frontend.tell_fd(request, round % 2, fd.as_fd()).unwrap();
        }
        frontend
            .tell(FrontendReq::SET_LOG_BASE, &log, &[memory.as_fd()])
            .unwrap();
        frontend.share_memory().unwrap();
    }
    // Ours and the frontend's own, none of the port's: it maps and closes.
    assert_eq!(count(inode), 2);
    let highest = eventfd(0, flags).unwrap().as_raw_fd();
    assert!(highest < 1500, "descriptor {highest} of {limit:?}");
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let config = FrontendConfig {
        memory: 4 << 20,
        ring_size: 16,
        ..FrontendConfig::default()
    };
    let bench = Bench::new(|_| {});
    for _ in 0..1000 {
        let frontend = Frontend::connect(&bench.path(), config.clone()).unwrap();
        drop(frontend);
    }
    let mut ended = 0;
    while ended < 1000 {
        bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
        ended += 1;
    }
    let probe = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    assert!(probe.as_raw_fd() < 500);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        maps.lines()
            .filter(|line| line.contains("memfd:guest"))
            .count()
            < 100
    );
}

/// Descriptors that are open, and kilobytes that are resident.
fn footprint() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let (_, line) = status.split_once("VmRSS:").unwrap();
    (
        fds,
        line.split_whitespace().next().unwrap().parse().unwrap(),
    )
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn a_hundred_thousand_connections_leak_nothing() {
    let config = FrontendConfig {
        memory: 1 << 20,
        ring_size: 4,
        buffer_len: 1600,
        ..FrontendConfig::default()
    };
    let bench = Bench::new(|_| {});
    let connect = |count: usize| {
        for _ in 0..count {
            let mut frontend = Frontend::connect(&bench.path(), config.clone()).unwrap();
            assert!(frontend.send_frame(0, &header(0), &[7; 60]));
            drop(frontend);
            bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
        }
    };
    // What is allocated once is allocated by then.
    connect(1000);
    let before = footprint();
    connect(99_000);
    let after = footprint();
    println!("(descriptors, KiB resident): {before:?}, and {after:?} at the end");
    assert_eq!(before.0, after.0);
    assert!(after.1 < before.1 + 2048, "{before:?} {after:?}");
}

#[test]
fn a_vmm_that_reads_no_replies_is_given_up() {
    let bench = Bench::new(|_| {});
    let mut stream = UnixStream::connect(bench.path()).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    let request = [1u32.to_ne_bytes(), 1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    while stream.write_all(&request).is_ok() {}
    bench.wait(|event| {
        matches!(event, PortEvent::Disconnected { reason } if reason.contains("takes no reply"))
    });
    drop(stream);
    assert_serves(&bench, &FrontendConfig::default());
}

#[test]
fn a_driver_without_version_1_gets_no_link_and_a_better_one_does() {
    let bench = Bench::new(|_| {});
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, FrontendConfig::default()).unwrap();
    frontend.negotiate().unwrap();
    let features = frontend.features();
    frontend.set_features(features & !(1 << 32)).unwrap();
    frontend.share_memory().unwrap();
    frontend.start().unwrap();
    assert!(!bench.port().guest_tx(0).is_live());
    frontend.set_features(features).unwrap();
    bench.wait(|event| is_up(event, 1));
}

#[test]
fn rings_are_enabled_before_features_are_set_as_qemu_does() {
    let bench = Bench::new(|_| {});
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, FrontendConfig::default()).unwrap();
    frontend.ask_u64(FrontendReq::GET_FEATURES).unwrap();
    let protocol = frontend
        .ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)
        .unwrap();
    frontend
        .tell_u64(FrontendReq::SET_PROTOCOL_FEATURES, protocol | 1 << 63)
        .unwrap();
    for ring in 0..2 {
        frontend
            .tell_state(FrontendReq::SET_VRING_ENABLE, ring, 1)
            .unwrap();
    }
    frontend.tell_u64(FrontendReq::NET_SET_MTU, 1400).unwrap();
    bench.wait(|event| matches!(event, PortEvent::MtuSet { mtu: 1400 }));
    frontend.tell_u64(FrontendReq::SET_STATUS, 15).unwrap();
    assert_eq!(frontend.ask_u64(FrontendReq::GET_STATUS).unwrap(), 15);
    frontend
        .tell_u64(FrontendReq::SEND_RARP, 0x0605_0403_0201)
        .unwrap();
    let announced = bench.wait(|event| matches!(event, PortEvent::Announce { .. }));
    let mac = culvert_wire::MacAddr([1, 2, 3, 4, 5, 6]);
    assert_eq!(announced, PortEvent::Announce { mac });
    // QEMU's own SET_FEATURES comes without the protocol bit.
    let features = frontend.ask_u64(FrontendReq::GET_FEATURES).unwrap();
    let wanted = features & !(1 << 30) & !(1 << 26) & !(1 << 34);
    frontend.set_features(wanted).unwrap();
    frontend.share_memory().unwrap();
    frontend.start().unwrap();
    bench.wait(|event| is_up(event, 1));
    assert!(frontend.send_frame(0, &header(1), &pattern(100, 1)));
    assert_eq!(take_frames(bench.port(), 0).len(), 1);
}

#[test]
fn the_configuration_space_is_read_within_its_bounds() {
    let bench = Bench::new(|config| config.mtu = Some(1420));
    let mut frontend = bench.connect(FrontendConfig::default());
    let request = |offset: u32, size: u32| {
        let mut body = [offset.to_ne_bytes(), size.to_ne_bytes(), [0; 4]].concat();
        body.extend(vec![0; size as usize]);
        body
    };
    frontend
        .send(FrontendReq::GET_CONFIG as u32, 1, &request(0, 12), &[])
        .unwrap();
    let reply = frontend.receive().unwrap();
    assert_eq!(reply[12..18], [2, 0, 0, 0, 0, 1]);
    assert_eq!(reply[22..24], 1420u16.to_le_bytes());
    // Out of the space: an empty answer, as the protocol has it.
    frontend
        .send(FrontendReq::GET_CONFIG as u32, 1, &request(250, 100), &[])
        .unwrap();
    assert_eq!(frontend.receive().unwrap().len(), 12);
    frontend
        .send(
            FrontendReq::GET_CONFIG as u32,
            1,
            &request(u32::MAX, 16),
            &[],
        )
        .unwrap();
    assert!(frontend.receive().is_err());
}

/// Runs `work` on a thread of its own; a thread that waits for ever fails the test.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver
        .recv_timeout(common::PATIENCE)
        .expect("a worker that never waits")
}

fn set_blocking(fd: &OwnedFd, is_blocking: bool) {
    let flags = rustix::fs::fcntl_getfl(fd).unwrap();
    let is_set = flags - OFlags::NONBLOCK;
    let flags = if is_blocking {
        is_set
    } else {
        is_set | OFlags::NONBLOCK
    };
    rustix::fs::fcntl_setfl(fd, flags).unwrap();
}

/// Leaves no room for a signal.
fn fill(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0u8; 8]);
    let _ = rustix::io::write(fd, &(u64::MAX - 1).to_ne_bytes());
}

#[test]
fn event_descriptors_that_the_vmm_makes_blocking() {
    for mut config in layouts() {
        // A call for every burst.
        config.rings -= RingOptions::EVENT_IDX;
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let new = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (kick, call) = (new(), new());
        for ring in [RX, TX] {
            for (request, fd) in [
                (FrontendReq::SET_VRING_CALL, &call),
                (FrontendReq::SET_VRING_KICK, &kick),
            ] {
                frontend.tell_fd(request, ring as u32, fd.as_fd()).unwrap();
            }
        }
        fill(&call);
        set_blocking(&call, true);
        set_blocking(&kick, true);
        let (bench, frontend) = in_time({
            let done = Arc::new(AtomicBool::new(false));
            let bursts = Arc::new(AtomicUsize::new(0));
            let seen_bursts = Arc::clone(&bursts);
            let (is_done, fd) = (Arc::clone(&done), call.try_clone().unwrap());
            move || {
                // The worker's side, both directions.
                let mut deliver = |count: usize| {
                    let before = bench.port().guest_rx(0).counters().calls();
                    for seed in 0..count {
                        let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
                        let frame = pattern(60, seed as u64);
                        burst.deliver(&VnetHeader::default(), &[&frame]).unwrap();
                        bursts.fetch_add(1, Ordering::Relaxed);
                        drop(burst);
                        assert!(frontend.receive_frame(0).unwrap().1 == frame);
                        assert!(frontend.send_frame(0, &header(0), &frame));
                        assert!(take_frames(bench.port(), 0)[0].1 == frame);
                    }
                    let after = bench.port().guest_rx(0).counters().calls();
                    assert_eq!(after - before, count as u64);
                };
                deliver(10);
                // Nobody kicked.
                bench.port().guest_tx(0).clear_kick();
                // The VMM empties the counter and fills it again, once per burst, at moments that
                // drift over the burst: so also between a look at it and a write. A worker that
                // was caught so waits for ever.
                let filler = std::thread::spawn(move || {
                    let (mut seen, mut delay) = (0, 0);
                    while !is_done.load(Ordering::Relaxed) {
                        let now = seen_bursts.load(Ordering::Relaxed);
                        if now == seen {
                            std::hint::spin_loop();
                            continue;
                        }
                        (seen, delay) = (now, (delay + 7) % 2000);
                        (0..delay).for_each(|_| std::hint::spin_loop());
                        set_blocking(&fd, false);
                        fill(&fd);
                        set_blocking(&fd, true);
                    }
                });
                deliver(5000);
                done.store(true, Ordering::Relaxed);
                filler.join().unwrap();
                (bench, frontend)
            }
        });
        // The session's side: a ring that starts calls the guest.
        fill(&call);
        set_blocking(&call, true);
        let _ = in_time(move || {
            let mut frontend = frontend;
            for enable in [0, 1] {
                frontend
                    .tell_state(FrontendReq::SET_VRING_ENABLE, 0, enable)
                    .unwrap();
            }
            bench.wait(|event| is_up(event, 1));
            (bench, frontend)
        });
    }
}
