//! Rings of impossible sizes and places, and their event descriptors.

use super::*;

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
        // That has an answer only if it succeeds, so that this is the session's end.
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
    let counters = bench.port().counters();
    assert_eq!(counters.refused_messages(), 6 * 4 + 3);
    assert_eq!(counters.refused_sessions(), 6);
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
