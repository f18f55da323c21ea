//! A guest that rewrites what is being read, and a VMM that changes what is in use.

use super::*;

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

#[test]
fn indirect_tables_are_rewritten_while_they_are_walked() {
    for config in layouts() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config.clone());
        let port = bench.port();
        let (table, end) = room(&config);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    take_frames_loosely(port);
                }
            });
            let until = Instant::now() + Duration::from_millis(800);
            let limit = until + Duration::from_secs(20);
            let counters = port.guest_tx(0).counters();
            let is_through = || counters.faults() > 0 && counters.frames() > 0;
            let mut round = 0u64;
            while Instant::now() < until || !is_through() && Instant::now() < limit {
                // A ring with that one chain, each time anew: it may have been stopped.
                frontend.stop_ring(TX).unwrap();
                offer(
                    &frontend,
                    TX,
                    is_packed(&config),
                    &[(table, 64, INDIRECT, 0)],
                );
                let driver = &frontend.queues[TX].driver;
                let base = driver.first_base();
                if !is_packed(&config) {
                    frontend.memory.store(driver.areas().device + 2, 0);
                }
                frontend.start_ring(TX, base, None).unwrap();
                // Each entry by turns: fine, beyond the memory, a table of its own, a loop, too
                // long, in the wrong direction.
                for _ in 0..200 {
                    round += 1;
                    let entry: Raw = match round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59 {
                        0 => (end - 4, 100, 0, 0),
                        1 => (table, 64, INDIRECT, 0),
                        2 => (table + 128, 30, NEXT, 0),
                        3 => (table + 128, u32::MAX, 0, 0),
                        4 => (table + 128, 100, WRITE, 0),
                        5..10 => (table + 128, 40, NEXT, (round % 5) as u16),
                        _ => (table + 128, 100, 0, 0),
                    };
                    let at = table + 16 * (round % 4);
                    frontend
                        .memory
                        .write(at, &descriptor(&entry, is_packed(&config)));
                }
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let counters = port.guest_tx(0).counters();
        println!("{} frames, {} faults", counters.frames(), counters.faults());
        assert!(counters.faults() > 0 && counters.frames() > 0);
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
        scope.spawn(|| carry_until(port, &is_done));
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
