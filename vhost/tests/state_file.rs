//! The file that keeps the positions of packed rings, where the file system is full.
//!
//! A store into a page of a mapped file that the file system has no room for raises SIGBUS, which
//! would end all ports at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ffi::CString;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use common::{Bench, header, is_up, pattern, take_frames};
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, PortError, PortEvent, RingOptions};
use culvert_wire::MacAddr;
use vhost::vhost_user::message::FrontendReq;

/// Bytes of the file of a port with one queue pair.
const FILE: usize = 2 * 4096;

/// A file system of four pages, which ends with the thread that made it.
struct Tiny(tempfile::TempDir);

impl Tiny {
    /// Runs `body` in a mount namespace with such a file system.
    fn with(body: impl FnOnce(&Tiny) + Send + 'static) {
        let skipped = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
        if !rustix::process::geteuid().is_root() {
            assert!(
                skipped.split(',').any(|name| name.trim() == "root"),
                "a full file system needs root for a mount; CULVERT_TEST_SKIP=root goes without it"
            );
            eprintln!("not run: no root, and CULVERT_TEST_SKIP allows that");
            return;
        }
        std::thread::spawn(|| body(&Tiny::mount())).join().unwrap();
    }

    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = |text: &[u8]| CString::new(text).unwrap();
        let target = text(folder.path().as_os_str().as_bytes());
        let (root, tmpfs, size) = (text(b"/"), text(b"tmpfs"), text(b"size=16k"));
        let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        let kind = tmpfs.as_ptr();
        // SAFETY: the calls get texts that end with a zero, and change this thread's namespace.
        let results = unsafe {
            [
                libc::unshare(libc::CLONE_NEWNS),
                libc::mount(kind, root.as_ptr(), none, private, none.cast()),
                libc::mount(kind, target.as_ptr(), kind, 0, size.as_ptr().cast()),
            ]
        };
        assert_eq!(results, [0; 3], "{}", io::Error::last_os_error());
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes all room but `left` bytes.
    fn fill(&self, left: usize) {
        let mut filler = std::fs::File::create(self.path("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - left as u64).unwrap();
    }
}

fn config(folder: &Path, state_file: PathBuf) -> PortConfig {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut config = PortConfig::new("p", folder.join("p.sock"), mac);
    config.state_file = Some(state_file);
    config
}

#[test]
fn a_port_without_room_for_its_state_is_refused_and_one_that_has_it_keeps_it() {
    Tiny::with(|tiny| {
        let folder = tempfile::tempdir().unwrap();
        tiny.fill(FILE / 2);
        let config = config(folder.path(), tiny.path("p.rings"));
        let refused = Port::open(config.clone(), |_| {}).unwrap_err();
        assert!(
            matches!(refused, PortError::StateFile { .. }),
            "{refused:?}"
        );
        let words = refused.to_string();
        for part in ["8192 bytes", "p.rings", "No space left", "make room"] {
            assert!(words.contains(part), "{words}");
        }
        assert!(!config.socket.exists());

        std::fs::remove_file(tiny.path("filler")).unwrap();
        // One that an older process left with a hole in it is filled up.
        let file = std::fs::File::create(tiny.path("p.rings")).unwrap();
        file.set_len(FILE as u64).unwrap();
        let bench = Bench::new(|own| own.state_file = Some(tiny.path("p.rings")));
        tiny.fill(0);
        let mut frontend = bench.connect(FrontendConfig {
            rings: RingOptions::all(),
            ..FrontendConfig::default()
        });
        for seed in 0..100 {
            assert!(frontend.send_frame(0, &header(1), &pattern(100, seed)));
            assert_eq!(take_frames(bench.port(), 0)[0].1, pattern(100, seed));
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            burst.deliver(&header(1), &[&pattern(100, seed)]).unwrap();
            drop(burst);
            assert_eq!(frontend.receive_frame(0).unwrap().1, pattern(100, seed));
        }
    });
}

#[test]
fn a_port_that_offers_no_packed_rings_needs_no_file() {
    Tiny::with(|tiny| {
        tiny.fill(0);
        let bench = Bench::new(|own| {
            own.state_file = Some(tiny.path("p.rings"));
            own.rings -= RingOptions::PACKED;
        });
        let mut frontend = bench.connect(FrontendConfig::default());
        assert!(frontend.send_frame(0, &header(1), &pattern(100, 1)));
        assert_eq!(take_frames(bench.port(), 0).len(), 1);
        frontend.stop_ring(1).unwrap();
        assert!(!tiny.path("p.rings").exists());
    });
}

#[test]
fn split_rings_leave_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.rings");
    let kept = pattern(FILE, 7);
    std::fs::write(&path, &kept).unwrap();
    let bench = Bench::new(|own| own.state_file = Some(path.clone()));
    let mut frontend = bench.connect(FrontendConfig::default());
    assert!(frontend.send_frame(0, &header(1), &pattern(100, 1)));
    assert_eq!(take_frames(bench.port(), 0).len(), 1);
    for ring in [0, 1] {
        frontend.stop_ring(ring).unwrap();
    }
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert!(std::fs::read(&path).unwrap() == kept);
}

#[test]
fn a_position_that_the_vmm_was_not_told_is_not_forgotten() {
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(FrontendConfig {
        rings: RingOptions::all(),
        ..FrontendConfig::default()
    });
    let send = |frontend: &mut Frontend, seed: u64| {
        assert!(frontend.send_frame(0, &header(1), &pattern(100, seed)));
        let frames = take_frames(bench.port(), 0);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].1, pattern(100, seed));
    };
    for seed in 0..10 {
        send(&mut frontend, seed);
    }
    // The VMM asks where the ring stands, and is gone before it hears.
    frontend.stream().shutdown(Shutdown::Read).unwrap();
    let request = FrontendReq::GET_VRING_BASE as u32;
    let _ = frontend.send(request, 1, &1u64.to_ne_bytes(), &[]);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    frontend.reconnect(&bench.path()).unwrap();
    for ring in [0, 1] {
        let base = frontend.queues[ring].driver.first_base();
        frontend.start_ring(ring, base, None).unwrap();
    }
    bench.wait(|event| is_up(event, 1));
    send(&mut frontend, 11);
}
