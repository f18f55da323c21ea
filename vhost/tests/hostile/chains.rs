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
