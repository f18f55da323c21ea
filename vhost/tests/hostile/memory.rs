//! Memory that is not there, goes away or is cut short.

use super::*;

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
    assert_eq!(bench.port().counters().refused_messages(), 2 * 10 + 2);
    // Without its descriptor, and with too many.
    let mut frontend = bare(&bench, &config);
    let body = table(&[[guest, 8192, user, 0]]);
    assert!(
        frontend
            .tell(FrontendReq::SET_MEM_TABLE, &body, &[])
            .is_err()
    );
    drop(frontend);
    let mut frontend = bare(&bench, &config);
    let fds = [small.as_fd(), small.as_fd()];
    assert!(
        frontend
            .tell(FrontendReq::SET_MEM_TABLE, &body, &fds)
            .is_err()
    );
    drop(frontend);
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
        scope.spawn(|| carry_until(port, &is_done));
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
