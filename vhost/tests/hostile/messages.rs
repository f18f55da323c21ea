//! Messages that are cut, malformed, repeated or never answered; connections without number.

use super::*;

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
fn the_configuration_space_is_not_offered_and_asking_for_it_ends_the_session() {
    // QEMU warns at each start of a network backend that offers it.
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(FrontendConfig::default());
    let offered = frontend
        .ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)
        .unwrap();
    assert_eq!(offered >> 9 & 1, 0);
    let mut body = [0u32.to_ne_bytes(), 12u32.to_ne_bytes(), [0; 4]].concat();
    body.extend([0; 12]);
    frontend
        .send(FrontendReq::GET_CONFIG as u32, 1, &body, &[])
        .unwrap();
    assert!(frontend.receive().is_err());
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert_serves(&bench, &FrontendConfig::default());
}

#[test]
fn a_refused_message_that_is_answered_leaves_the_session_as_it_was() {
    for config in layouts() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config.clone());
        let fd = frontend.memory.fd().try_clone_to_owned().unwrap();
        let region = |guest: u64, size: u64, user: u64| -> Vec<u8> {
            [0, guest, size, user, 0]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect()
        };
        // Into the guest's memory, beyond the file's end, one that is not there.
        let within = region(config.guest + 4096, 4096, 0x1000);
        let beyond = region(1 << 40, config.memory as u64 + 4096, 0x1000);
        let unknown = region(1 << 41, 4096, 0x1000);
        for (request, body, fds) in [
            (FrontendReq::ADD_MEM_REG, &within, &[fd.as_fd()][..]),
            (FrontendReq::ADD_MEM_REG, &beyond, &[fd.as_fd()]),
            (FrontendReq::REM_MEM_REG, &unknown, &[]),
        ] {
            let refused = frontend.tell(request, body, fds).unwrap_err();
            assert!(refused.to_string().contains("was refused"), "{refused}");
            bench.wait(
                |event| matches!(event, PortEvent::Refused { reason } if reason.contains("memory")),
            );
        }
        let index = 77u32;
        frontend
            .tell_state(FrontendReq::SET_VRING_NUM, index, 256)
            .unwrap_err();
        bench.wait(
            |event| matches!(event, PortEvent::Refused { reason } if reason.contains("ring 77")),
        );
        assert!(frontend.send_frame(0, &header(1), &pattern(100, 1)));
        assert_eq!(take_frames(bench.port(), 0).len(), 1);
        assert_eq!(bench.port().counters().connections(), 1);
        assert_eq!(bench.port().counters().refused_sessions(), 0);
    }
}

#[test]
fn a_ring_that_starts_again_within_a_session_is_told() {
    for config in layouts() {
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let kick = frontend.kick_fd(TX).try_clone_to_owned().unwrap();
        frontend
            .tell_fd(FrontendReq::SET_VRING_KICK, 1, kick.as_fd())
            .unwrap();
        bench.wait(|event| matches!(event, PortEvent::RingsStarted));
        // Without a descriptor the guest can't kick: whoever sleeps has to look by itself.
        assert!(bench.port().guest_tx(0).can_kick());
        let no_descriptor = 1 | 1 << 8;
        frontend
            .tell_u64(FrontendReq::SET_VRING_KICK, no_descriptor)
            .unwrap();
        bench.wait(|event| matches!(event, PortEvent::RingsStarted));
        assert!(!bench.port().guest_tx(0).can_kick());
    }
}

#[test]
fn what_keeps_a_guest_from_its_link_is_told_once_and_shown_as_long_as_it_stands() {
    for without in [Obstacle::MemoryNotShared, Obstacle::LegacyDriver] {
        let bench = Bench::new(|_| {});
        let stream = UnixStream::connect(bench.path()).unwrap();
        let mut frontend = Frontend::attach(stream, FrontendConfig::default()).unwrap();
        frontend.negotiate().unwrap();
        let features = frontend.features();
        if without == Obstacle::LegacyDriver {
            frontend.set_features(features & !(1 << 32)).unwrap();
            frontend.share_memory().unwrap();
        }
        frontend.start().unwrap();
        let told = |event: &PortEvent| matches!(event, PortEvent::Hindered { obstacle } if *obstacle == without);
        bench.wait(told);
        let status = bench.port().status();
        assert!(status.is_connected && status.queue_pairs == 0);
        assert_eq!(status.obstacle, Some(without));
        assert!(without.mending().contains("QEMU"));
        if without == Obstacle::LegacyDriver {
            frontend.set_features(features).unwrap();
        } else {
            frontend.share_memory().unwrap();
        }
        bench.wait(|event| {
            assert!(!told(event), "once");
            is_up(event, 1)
        });
        let status = bench.port().status();
        assert_eq!((status.queue_pairs, status.obstacle), (1, None));
    }
}

#[test]
fn another_vmm_that_waits_is_told_and_served_when_its_turn_comes() {
    let config = FrontendConfig::default();
    let bench = Bench::new(|_| {});
    let first = bench.connect(config.clone());
    let second = UnixStream::connect(bench.path()).unwrap();
    bench.wait(|event| matches!(event, PortEvent::AnotherWaits));
    assert!(bench.port().status().another_waits);
    drop(second);
    let third = UnixStream::connect(bench.path()).unwrap();
    bench.wait(|event| matches!(event, PortEvent::AnotherWaits));
    assert_eq!(bench.port().counters().connections(), 1);
    drop(first);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    let mut frontend = Frontend::attach(third, config.clone()).unwrap();
    frontend.negotiate().unwrap();
    let status = bench.port().status();
    assert!(status.is_connected && !status.another_waits);
    assert_eq!(bench.port().counters().connections(), 2);
    drop(frontend);
    assert_serves(&bench, &config);
}

#[test]
fn callers_without_number_get_so_many_sessions_a_second() {
    let per_second = 20;
    let bench = Bench::new(|config| config.connections_per_second = per_second);
    let start = Instant::now();
    let address = rustix::net::SocketAddrUnix::new(bench.path()).unwrap();
    let call = || {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        );
        rustix::net::connect(socket.unwrap(), &address).is_ok()
    };
    let mut calls = 0;
    while start.elapsed() < Duration::from_secs(1) {
        calls += u64::from(call());
    }
    // No more than the pace allows, and those that were let in were served.
    let seconds = u64::from(per_second) * (start.elapsed().as_secs() + 1);
    let served = bench.port().counters().connections();
    let at_once = u64::from(per_second) * 4;
    assert!(served <= at_once + seconds, "{served} of {calls}");
    assert!(served >= at_once && served <= calls, "{served} of {calls}");
    assert_serves(&bench, &FrontendConfig::default());
}

#[test]
fn a_vmm_that_sends_without_pause_is_read_at_a_pace() {
    let per_second = 500;
    let bench = Bench::new(|config| config.messages_per_second = per_second);
    let start = Instant::now();
    let mut stream = UnixStream::connect(bench.path()).unwrap();
    let owner = [3u32.to_ne_bytes(), 1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    let request = [8u32, 1, 8, 0, 256].map(u32::to_ne_bytes).concat();
    stream.write_all(&owner).unwrap();
    stream.set_nonblocking(true).unwrap();
    while start.elapsed() < Duration::from_secs(1) {
        let _ = stream.write(&request);
    }
    let seconds = u64::from(per_second) * (start.elapsed().as_secs() + 1);
    let read = bench.port().counters().messages();
    assert!(read <= u64::from(per_second) * 4 + seconds, "{read}");
    assert!(read >= u64::from(per_second), "{read}");
}
