//! Frames between our frontend and a port, in every ring layout.
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, header, is_up, pattern, take_frames, variants};
use culvert_vhost::frontend::FrontendConfig;
use culvert_vhost::{LinkDown, Offloads, PortDrop, PortEvent, RingOptions};
use culvert_wire::VnetHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use vhost::vhost_user::message::FrontendReq;

const LENGTHS: [usize; 14] = [
    14, 15, 60, 64, 243, 244, 245, 256, 257, 1514, 1518, 4096, 9014, 65_550,
];

#[test]
fn frames_of_every_length_come_from_the_guest() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let what = format!("{config:?}");
        let piece = config.piece_len as usize;
        let is_chained = !config.indirect;
        let mut frontend = bench.connect(config);
        let mut sent = 0u64;
        for (round, &len) in LENGTHS.iter().cycle().take(5 * LENGTHS.len()).enumerate() {
            if (len + 12).div_ceil(piece) > if is_chained { 256 } else { 64 } {
                continue;
            }
            let (vnet, frame) = (header(round as u16), pattern(len, round as u64));
            assert!(frontend.send_frame(0, &vnet, &frame), "{what}");
            let taken = take_frames(bench.port(), 0);
            assert_eq!(taken.len(), 1, "{what}");
            assert!(taken[0].0 == vnet && taken[0].1 == frame, "{what}: {len}");
            assert_eq!(frontend.reap(0), 1, "{what}");
            sent += 1;
        }
        let counters = bench.port().guest_tx(0).counters();
        assert_eq!(counters.frames(), sent);
        assert!(
            PortDrop::ALL
                .iter()
                .all(|&reason| counters.drops(reason) == 0)
        );
    }
}

#[test]
fn of_a_frame_whose_tag_is_off_the_rest_is_where_it_would_be_without() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let what = format!("{config:?}");
        let mut frontend = bench.connect(config);
        for (round, len) in (0u16..).zip([18, 19, 64, 255, 256, 260, 261, 400]) {
            let vnet = VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                hdr_len: 58,
                csum_start: 38,
                ..VnetHeader::default()
            };
            let tagged = pattern(len, u64::from(round));
            let plain = [&tagged[..12], &tagged[16..]].concat();
            assert!(frontend.send_frame(0, &vnet, &tagged), "{what}");
            let port = bench.port();
            let mut burst = port.guest_tx(0).try_lock().unwrap();
            // What is not done with comes again, with its tag.
            for _ in 0..2 {
                assert_eq!(burst.fetch(1), 1, "{what}");
                assert_eq!(burst.frame(0).len as usize, len, "{what}");
                // It has one, so it is taken once.
                burst.untag(0);
                burst.untag(0);
                let frame = burst.frame(0);
                let head = frame.head().to_vec();
                assert_eq!(
                    (frame.vnet, frame.len as usize),
                    (vnet.moved_back(4), len - 4)
                );
                assert!(plain.starts_with(&head), "{what}: {len}");
                assert_eq!(head.len(), plain.len().min(252), "{what}: {len}");
                let mut rest = vec![0; plain.len() - 14];
                assert_eq!(burst.copy(0, 14, &mut rest), rest.len(), "{what}: {len}");
                assert!(rest == plain[14..], "{what}: {len}");
                let lens = burst.ranges(0, 14, u32::MAX).map(|(_, len)| len);
                assert_eq!(lens.sum::<usize>(), rest.len(), "{what}: {len}");
                burst.complete(0);
            }
            burst.fetch(1);
            burst.untag(0);
            burst.complete(1);
            drop(burst);
            assert_eq!(frontend.reap(0), 1, "{what}");
        }
        // Counted is what lay in the ring.
        let counters = bench.port().guest_tx(0).counters();
        assert_eq!(
            (counters.frames(), counters.bytes()),
            (8, 18 + 19 + 64 + 255 + 256 + 260 + 261 + 400)
        );
    }
}

#[test]
fn a_frame_too_short_for_a_tag_stays_as_it_is() {
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(FrontendConfig::default());
    let frame = pattern(15, 1);
    assert!(frontend.send_frame(0, &VnetHeader::default(), &frame));
    let mut burst = bench.port().guest_tx(0).try_lock().unwrap();
    assert_eq!(burst.fetch(1), 1);
    burst.untag(0);
    assert_eq!(burst.frame(0).head(), frame);
}

#[test]
fn a_guest_without_offloads_says_nothing_in_its_headers() {
    for mut config in variants() {
        config.offloads -= Offloads::CSUM
            | Offloads::HOST_TSO4
            | Offloads::HOST_TSO6
            | Offloads::HOST_ECN
            | Offloads::HOST_USO;
        let bench = Bench::new(|_| {});
        let what = format!("{config:?}");
        let mut frontend = bench.connect(config);
        for (round, len) in (0u16..).zip([14, 64, 243, 1514]) {
            let frame = pattern(len, u64::from(round));
            assert!(frontend.send_frame(0, &header(round), &frame), "{what}");
            let taken = take_frames(bench.port(), 0);
            assert_eq!(taken.len(), 1, "{what}");
            assert_eq!(taken[0].0, VnetHeader::default(), "{what}");
            assert!(taken[0].1 == frame, "{what}: {len}");
            assert_eq!(frontend.reap(0), 1, "{what}");
        }
    }
}

#[test]
fn frames_of_every_length_go_to_the_guest() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let what = format!("{config:?}");
        let mut frontend = bench.connect(config);
        for (round, &len) in LENGTHS.iter().cycle().take(5 * LENGTHS.len()).enumerate() {
            let (vnet, frame) = (header(round as u16), pattern(len, round as u64));
            let parts = frame.split_at(len / 3);
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            burst.deliver(&vnet, &[parts.0, parts.1]).unwrap();
            drop(burst);
            let (got, bytes) = frontend.receive_frame(0).unwrap();
            assert!(bytes == frame, "{what}: {len}");
            let expected = VnetHeader {
                num_buffers: got.num_buffers,
                ..vnet
            };
            assert_eq!(got, expected, "{what}");
            assert!(frontend.receive_frame(0).is_none());
        }
        let counters = bench.port().guest_rx(0).counters();
        assert_eq!(counters.frames(), 5 * LENGTHS.len() as u64);
    }
}

/// What a generator does: bursts, without an allocation for each frame.
#[test]
fn bursts_of_a_generator_come_and_go_whole_and_in_order() {
    for mut config in variants() {
        if config.indirect || config.piece_len < 100 {
            continue;
        }
        config.ring_size = 64;
        let is_mergeable = config.rings.contains(RingOptions::MRG_RXBUF);
        let bench = Bench::new(|_| {});
        let what = format!("{config:?}");
        let mut frontend = bench.connect(config);
        let (mut made, mut back) = (0u64, 0u64);
        for round in 0..50usize {
            let mut left = round % 20;
            let (sent, is_full) = frontend
                .send_burst(0, 100, |room| {
                    left = left.checked_sub(1)?;
                    let frame = pattern(60 + (made % 7) as usize, made);
                    room[..frame.len()].copy_from_slice(&frame);
                    made += 1;
                    Some((header(made as u16), frame.len()))
                })
                .unwrap();
            assert!(sent == round % 20 && !is_full, "{what}");
            let taken = take_frames(bench.port(), 0);
            assert_eq!(taken.len(), sent, "{what}");
            // Back they go, every third long enough for several buffers.
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            let first = made - sent as u64;
            for ((vnet, frame), number) in taken.iter().zip(first..) {
                assert_eq!(*vnet, header((number + 1) as u16), "{what}");
                assert!(*frame == pattern(60 + (number % 7) as usize, number));
                let long = pattern(if number % 3 == 0 { 5000 } else { 60 }, number);
                burst.deliver(vnet, &[&long]).unwrap();
            }
            drop(burst);
            let got = frontend.receive_burst(0, 100, |vnet, frame| {
                let len = if back.is_multiple_of(3) { 5000 } else { 60 };
                assert!(frame == pattern(len, back), "{what}");
                assert_eq!(vnet.num_buffers > 1, is_mergeable && len > 2048, "{what}");
                back += 1;
            });
            assert_eq!(got, Ok(sent), "{what}");
        }
        // A ring that nobody empties is full, and that is told.
        let mut send = |most| frontend.send_burst(0, most, |_| Some((VnetHeader::default(), 60)));
        assert_eq!(send(100), Ok((64, true)), "{what}");
        assert_eq!(send(100), Ok((0, true)), "{what}");
        assert_eq!(take_frames(bench.port(), 0).len(), 64);
        assert_eq!(send(10), Ok((10, false)), "{what}");
        assert_eq!(take_frames(bench.port(), 0).len(), 10);
        // Frames that are whole go as they are.
        let ready: Vec<_> = (0..3).map(|n| pattern(60 + n as usize, n)).collect();
        let mut next = ready.iter();
        let sent = frontend.send_ready(0, 100, || next.next().map(Vec::as_slice));
        assert_eq!(sent, Ok((3, false)), "{what}");
        let taken = take_frames(bench.port(), 0);
        let expected = ready.into_iter().map(|it| (VnetHeader::default(), it));
        assert!(taken.into_iter().eq(expected), "{what}");
    }
}

#[test]
fn a_frontend_sees_that_its_backend_is_gone() {
    let mut bench = Bench::new(|_| {});
    let frontend = bench.connect(FrontendConfig::default());
    assert!(frontend.is_connected());
    drop(bench.port.take());
    assert!(!frontend.is_connected());
}

/// A device that may be anybody's is told on, and nothing panics.
#[test]
fn a_device_that_breaks_the_rules_is_an_error() {
    for is_packed in [false, true] {
        let rings = if is_packed {
            RingOptions::PACKED
        } else {
            RingOptions::empty()
        };
        let config = FrontendConfig {
            rings,
            ..FrontendConfig::default()
        };
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut frontend = culvert_vhost::frontend::Frontend::attach(ours, config).unwrap();
        frontend.fill(0);
        let areas = frontend.queues[0].driver.areas();
        if is_packed {
            // Used and available, of an id that no chain has.
            let entry = [0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0xff, 0xff, 0x80, 0x80];
            frontend.memory.write(areas.descriptors, &entry);
        } else {
            frontend
                .memory
                .write(areas.device + 4, &[0xff, 0xff, 0xff, 0xff, 60, 0, 0, 0]);
            frontend.memory.store(areas.device + 2, 1);
        }
        let got = frontend.receive_burst(0, 32, |_, _| panic!("a frame"));
        assert!(got.is_err(), "{got:?}");
    }
}

#[test]
fn bursts_wrap_around_the_ring_in_order() {
    for mut config in variants() {
        config.ring_size = 32;
        if config.piece_len < 100 {
            continue;
        }
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let mut next = 0u64;
        for _ in 0..200 {
            let first = next;
            while frontend.send_frame(0, &VnetHeader::default(), &pattern(60, next)) {
                next += 1;
            }
            assert!(next > first);
            for (frame, expected) in take_frames(bench.port(), 0).iter().zip(first..) {
                assert!(frame.1 == pattern(60, expected));
            }
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            let mut delivered = 0;
            while burst
                .deliver(&VnetHeader::default(), &[&pattern(100, delivered)])
                .is_ok()
            {
                delivered += 1;
            }
            drop(burst);
            assert_eq!(delivered, 32);
            for seed in 0..delivered {
                assert!(frontend.receive_frame(0).unwrap().1 == pattern(100, seed));
            }
        }
    }
}

#[test]
fn one_guests_frame_goes_to_another_without_a_copy_between() {
    let (from, to) = (Bench::new(|_| {}), Bench::new(|_| {}));
    let mut sender = from.connect(FrontendConfig {
        piece_len: 1000,
        ..FrontendConfig::default()
    });
    let mut receiver = to.connect(FrontendConfig::default());
    let (vnet, frame) = (header(3), pattern(30_000, 3));
    assert!(sender.send_frame(0, &vnet, &frame));
    {
        let mut tx = from.port().guest_tx(0).try_lock().unwrap();
        assert_eq!(tx.fetch(32), 1);
        let mut rx = to.port().guest_rx(0).try_lock().unwrap();
        let head = tx.frame(0).head().to_vec();
        let rest = tx.ranges(0, head.len() as u32, u32::MAX);
        // SAFETY: the ranges are the burst's, which is alive.
        unsafe { rx.deliver_ranges(&vnet, &head, rest) }.unwrap();
        drop(rx);
        tx.complete(1);
    }
    let (got, bytes) = receiver.receive_frame(0).unwrap();
    assert!(bytes == frame);
    assert_eq!(got.num_buffers, 15);
    assert_eq!(got.gso_size, vnet.gso_size);
}

#[test]
fn what_is_not_completed_comes_again() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        for seed in 0..8 {
            assert!(frontend.send_frame(0, &VnetHeader::default(), &pattern(64, seed)));
        }
        for (round, expected) in [(3, 0), (0, 3), (2, 3), (99, 5)] {
            let mut burst = bench.port().guest_tx(0).try_lock().unwrap();
            assert_eq!(burst.fetch(32) as u64, 8 - expected);
            let mut bytes = [0; 64];
            burst.copy(0, 0, &mut bytes);
            assert!(bytes[..] == pattern(64, expected)[..]);
            burst.complete(round);
        }
        assert_eq!(frontend.reap(0), 8);
        assert_eq!(bench.port().guest_tx(0).counters().frames(), 8);
    }
}

#[test]
fn a_full_guest_ring_drops_by_name_and_takes_nothing() {
    for mut config in variants() {
        config.ring_size = 4;
        let mergeable = config.rings.contains(RingOptions::MRG_RXBUF);
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let frame = pattern(3000, 1);
        let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
        // Two buffers of 2048 each with MRG_RXBUF, one large one without.
        let room = if mergeable { 2 } else { 4 };
        for _ in 0..room {
            burst.deliver(&VnetHeader::default(), &[&frame]).unwrap();
        }
        let refused = burst.deliver(&VnetHeader::default(), &[&frame]);
        assert_eq!(refused, Err(PortDrop::RingFull));
        drop(burst);
        let counters = bench.port().guest_rx(0).counters();
        assert_eq!(counters.drops(PortDrop::RingFull), 1);
        assert_eq!(counters.frames(), room);
        for _ in 0..room {
            assert!(frontend.receive_frame(0).unwrap().1 == frame);
        }
        bench
            .port()
            .guest_rx(0)
            .try_lock()
            .unwrap()
            .deliver(&header(1), &[&frame])
            .unwrap();
        assert!(frontend.receive_frame(0).unwrap().1 == frame);
    }
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped_by_name() {
    for packed in [RingOptions::empty(), RingOptions::PACKED] {
        let bench = Bench::new(|_| {});
        let config = FrontendConfig {
            rings: packed,
            buffer_len: 1526,
            ..FrontendConfig::default()
        };
        let mut frontend = bench.connect(config);
        let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
        assert!(!burst.is_mergeable());
        let refused = burst.deliver(&VnetHeader::default(), &[&pattern(1515, 0)]);
        assert_eq!(refused, Err(PortDrop::FrameTooBig));
        burst
            .deliver(&VnetHeader::default(), &[&pattern(1514, 0)])
            .unwrap();
        drop(burst);
        let (got, bytes) = frontend.receive_frame(0).unwrap();
        assert_eq!((got.num_buffers, bytes.len()), (1, 1514));
    }
}

#[test]
fn the_guest_is_called_only_when_it_asked() {
    for config in variants() {
        let what = format!("{config:?}");
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let deliver = || {
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            for _ in 0..3 {
                burst
                    .deliver(&VnetHeader::default(), &[&pattern(60, 0)])
                    .unwrap();
            }
        };
        frontend.take_calls(0);
        let memory = &frontend.memory;
        frontend.queues[0].driver.set_calls(memory, false);
        deliver();
        assert_eq!(frontend.take_calls(0), 0, "{what}");
        for _ in 0..3 {
            frontend.receive_frame(0).unwrap();
        }
        let memory = &frontend.memory;
        frontend.queues[0].driver.set_calls(memory, true);
        deliver();
        // One for the whole burst.
        assert_eq!(frontend.take_calls(0), 1, "{what}");
    }
}

#[test]
fn a_worker_that_sleeps_is_kicked_and_one_that_polls_is_not() {
    let is_kicked = |bench: &Bench| {
        let fd = bench.port().guest_tx(0).kick_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            > 0
    };
    for config in variants() {
        let what = format!("{config:?}");
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let tx = bench.port().guest_tx(0);
        // Polling: the frontend asks the ring whether to kick, and is told not to.
        assert!(frontend.send_frame(0, &header(0), &pattern(60, 0)));
        assert!(!is_kicked(&bench), "{what}");
        // Going to sleep while work is there is refused.
        assert!(tx.try_lock().unwrap().enable_notifications(), "{what}");
        assert_eq!(take_frames(bench.port(), 0).len(), 1);
        assert!(!tx.try_lock().unwrap().enable_notifications(), "{what}");
        assert!(frontend.send_frame(0, &header(0), &pattern(60, 0)));
        assert!(is_kicked(&bench), "{what}");
        tx.clear_kick();
        assert!(!is_kicked(&bench), "{what}");
        assert_eq!(tx.counters().kicks(), 1);
        tx.try_lock().unwrap().disable_notifications();
        assert_eq!(take_frames(bench.port(), 0).len(), 1);
        assert!(frontend.send_frame(0, &header(0), &pattern(60, 0)));
        assert!(!is_kicked(&bench), "{what}");
    }
}

#[test]
fn several_queue_pairs_run_and_stop_one_by_one() {
    let bench = Bench::new(|config| config.queue_pairs = 4);
    let config = FrontendConfig {
        queue_pairs: 4,
        ..FrontendConfig::default()
    };
    let mut frontend = bench.connect(config);
    for pair in 0..4 {
        assert!(frontend.send_frame(pair, &header(pair), &pattern(100, pair.into())));
    }
    for pair in 0..4 {
        assert_eq!(
            take_frames(bench.port(), pair)[0].1,
            pattern(100, pair.into())
        );
    }
    frontend
        .tell_state(FrontendReq::SET_VRING_ENABLE, 6, 0)
        .unwrap();
    frontend
        .tell_state(FrontendReq::SET_VRING_ENABLE, 7, 0)
        .unwrap();
    bench.wait(|event| is_up(event, 3));
    assert!(bench.port().guest_tx(3).try_lock().is_none());
    assert_eq!(
        bench.port().guest_rx(3).try_lock().unwrap_err(),
        PortDrop::NotReady
    );
    assert!(frontend.send_frame(3, &header(3), &pattern(77, 7)));
    frontend
        .tell_state(FrontendReq::SET_VRING_ENABLE, 6, 1)
        .unwrap();
    frontend
        .tell_state(FrontendReq::SET_VRING_ENABLE, 7, 1)
        .unwrap();
    bench.wait(|event| is_up(event, 4));
    assert_eq!(take_frames(bench.port(), 3)[0].1, pattern(77, 7));
}

#[test]
fn as_many_queue_pairs_as_there_may_be() {
    // Each ring has some descriptors on both sides: more than the usual soft limit.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let pairs = culvert_vhost::limits::QUEUE_PAIRS_MAX;
    let bench = Bench::new(|port| port.queue_pairs = pairs);
    let mut frontend = bench.connect(FrontendConfig {
        queue_pairs: pairs,
        ring_size: 4,
        buffer_len: 2048,
        ..FrontendConfig::default()
    });
    for pair in 0..pairs {
        let frame = pattern(200, pair.into());
        assert!(frontend.send_frame(pair, &header(pair), &frame));
    }
    for pair in 0..pairs {
        assert_eq!(
            take_frames(bench.port(), pair)[0].1,
            pattern(200, pair.into())
        );
        let mut burst = bench.port().guest_rx(pair).try_lock().unwrap();
        let frame = pattern(300, pair.into());
        burst.deliver(&header(pair), &[&frame]).unwrap();
        drop(burst);
        assert!(frontend.receive_frame(pair).unwrap().1 == frame);
    }
    // One more is refused with its reason.
    let mut config = bench.config.clone();
    config.queue_pairs = pairs + 1;
    assert!(culvert_vhost::Port::open(config, |_| {}).is_err());
}

#[test]
fn each_offload_can_be_switched_off() {
    for off in Offloads::all() {
        let bench = Bench::new(|port| port.offloads = Offloads::all() - off);
        let frontend = bench.connect(FrontendConfig::default());
        let offered = Offloads::from_bits_truncate(frontend.offered());
        assert_eq!(offered, (Offloads::all() - off).legal(), "without {off:?}");
    }
}

#[test]
fn a_guest_that_reboots_is_served_again() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        for round in 0..3u64 {
            assert!(frontend.send_frame(0, &header(0), &pattern(90, round)));
            assert_eq!(take_frames(bench.port(), 0)[0].1, pattern(90, round));
            for index in 0..2 {
                frontend.stop_ring(index).unwrap();
            }
            bench.wait(|event| {
                matches!(
                    event,
                    PortEvent::LinkDown {
                        reason: LinkDown::Stopped
                    }
                )
            });
            assert!(bench.port().guest_tx(0).try_lock().is_none());
            for queue in &mut frontend.queues {
                queue.driver.reset(&frontend.memory);
            }
            frontend.start().unwrap();
            bench.wait(|event| is_up(event, 1));
        }
    }
}

#[test]
fn a_stopped_ring_goes_on_where_it_stood() {
    for config in variants() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        for seed in 0..100u64 {
            assert!(frontend.send_frame(0, &header(0), &pattern(90, seed)));
            if seed % 3 == 0 {
                let base = frontend.stop_ring(1).unwrap();
                frontend.start_ring(1, base, None).unwrap();
            }
            assert_eq!(take_frames(bench.port(), 0)[0].1, pattern(90, seed));
        }
    }
}

#[test]
fn memory_is_replaced_under_load_and_nothing_is_lost() {
    for config in [
        FrontendConfig::default(),
        FrontendConfig {
            rings: RingOptions::all(),
            ..FrontendConfig::default()
        },
    ] {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let is_done = AtomicBool::new(false);
        let port = bench.port();
        let got = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut got = Vec::new();
                while !is_done.load(Ordering::Relaxed) {
                    got.extend(take_frames(port, 0));
                }
                got.extend(take_frames(port, 0));
                got
            });
            for seed in 0..2000u64 {
                while !frontend.send_frame(0, &header(0), &pattern(64, seed)) {
                    std::thread::yield_now();
                }
                if seed % 20 == 0 {
                    frontend.share_memory().unwrap();
                }
                if seed % 50 == 7 {
                    frontend
                        .tell_state(FrontendReq::SET_VRING_ENABLE, 1, 0)
                        .unwrap();
                    frontend
                        .tell_state(FrontendReq::SET_VRING_ENABLE, 1, 1)
                        .unwrap();
                }
            }
            is_done.store(true, Ordering::Relaxed);
            worker.join().unwrap()
        });
        assert_eq!(got.len(), 2000);
        for (frame, seed) in got.iter().zip(0..) {
            assert!(frame.1 == pattern(64, seed));
        }
    }
}

#[test]
fn offloads_are_what_both_sides_want() {
    let bench = Bench::new(|config| config.offloads = Offloads::all() - Offloads::GUEST_CSUM);
    let frontend = bench.connect(FrontendConfig::default());
    assert_eq!(frontend.features() & Offloads::GUEST_TSO4.bits(), 0);
    assert_ne!(frontend.features() & Offloads::HOST_USO.bits(), 0);
    let burst = bench.port().guest_rx(0).try_lock().unwrap();
    assert_eq!(burst.offloads(), Offloads::empty());
    drop(burst);
    let bench = Bench::new(|_| {});
    let wanted = Offloads::GUEST_CSUM | Offloads::GUEST_USO4 | Offloads::CSUM;
    let _frontend = bench.connect(FrontendConfig {
        offloads: wanted,
        ..FrontendConfig::default()
    });
    let burst = bench.port().guest_rx(0).try_lock().unwrap();
    assert_eq!(
        burst.offloads(),
        Offloads::GUEST_CSUM | Offloads::GUEST_USO4
    );
}
