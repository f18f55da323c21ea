//! Descriptor chains and tables that no driver would write.

use super::*;

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
fn a_chain_of_more_than_is_followed_is_no_chain_however_large_the_ring() {
    for config in layouts() {
        let config = FrontendConfig {
            ring_size: 4096,
            memory: 1 << 30,
            ..config
        };
        let (at, _) = room(&config);
        for (ring, flags) in [(TX, 0), (RX, WRITE)] {
            let chain = |len: u16| -> Vec<Raw> {
                let next = |i| if i + 1 < len { NEXT } else { 0 };
                (0..len).map(|i| (at, 1, flags | next(i), i + 1)).collect()
            };
            expect_fault(ring, &config, &chain(1025), RingFault::ChainTooLong);
        }
    }
}

/// Makes `count` chains available that are the same table of 1000 entries each.
fn offer_tables(
    frontend: &Frontend,
    ring: usize,
    config: &FrontendConfig,
    count: u16,
    entry: &Raw,
) {
    let (at, _) = room(config);
    for index in 0..1000 {
        let next = if index < 999 { NEXT } else { 0 };
        let raw = (entry.0, entry.1, entry.2 | next, index + 1);
        let bytes = descriptor(&raw, is_packed(config));
        frontend.memory.write(at + 16 * u64::from(index), &bytes);
    }
    let table = |id| (at, 16 * 1000, INDIRECT, id);
    let areas = frontend.queues[ring].driver.areas();
    if is_packed(config) {
        let chain: Vec<Raw> = (0..count).map(table).collect();
        offer(frontend, ring, true, &chain);
    } else {
        offer(frontend, ring, false, &[table(0)]);
        let heads = vec![0; 2 * usize::from(count)];
        frontend.memory.write(areas.driver + 4, &heads);
        frontend.memory.store(areas.driver + 2, count);
    }
}

/// Chains that came back from a fresh ring.
fn given_back(frontend: &Frontend, ring: usize, config: &FrontendConfig, of: u16) -> u16 {
    let areas = frontend.queues[ring].driver.areas();
    if !is_packed(config) {
        return frontend.memory.load(areas.device + 2);
    }
    let is_used = |index| {
        let flags = areas.descriptors + 16 * u64::from(index) + 14;
        frontend.memory.load(flags) >> 15 == 1
    };
    (0..of).filter(|&index| is_used(index)).count() as u16
}

#[test]
fn a_look_at_a_ring_follows_so_many_descriptors_and_no_more_and_the_guest_pays() {
    let offered = 64;
    for config in layouts() {
        // With IN_ORDER one used descriptor of a packed ring stands for many.
        let config = FrontendConfig {
            rings: config.rings - RingOptions::IN_ORDER,
            ..config
        };
        let (at, _) = room(&config);
        // Bad ones, empty ones, and such as hold a frame in the end.
        for entry in [(at, 1, WRITE, 0), (at, 0, 0, 0), (at, 1, 0, 0)] {
            let bench = Bench::new(|_| {});
            let frontend = bare(&bench, &config);
            offer_tables(&frontend, TX, &config, offered, &entry);
            let mut burst = bench.port().guest_tx(0).try_lock().unwrap();
            let frames = burst.fetch(64);
            assert!(burst.extra_cost() >= 3 * 1000 * 64, "{entry:?} {config:?}");
            burst.complete(frames);
            drop(burst);
            let back = given_back(&frontend, TX, &config, offered);
            assert!((1..=4).contains(&back), "{back} {entry:?} {config:?}");
        }
        for entry in [(at, 1, 0, 0), (at, 0, WRITE, 0)] {
            let bench = Bench::new(|_| {});
            let frontend = bare(&bench, &config);
            offer_tables(&frontend, RX, &config, offered, &entry);
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            for _ in 0..offered {
                let lost = burst.deliver(&VnetHeader::default(), &[&pattern(100, 0)]);
                assert_eq!(lost, Err(PortDrop::BadBuffer));
            }
            drop(burst);
            let back = given_back(&frontend, RX, &config, offered);
            assert!((1..=8).contains(&back), "{back} {entry:?} {config:?}");
        }
    }
}
