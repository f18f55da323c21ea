//! Lists of a large installation: what a page takes to make, and what is left of it.

#![allow(
    unsafe_code,
    reason = "an allocator that counts is the only way to see what is made"
)]
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a failure is the test's"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::Run;
use culvert::api::client::Client;
use culvert::api::{self, Request, Requester, Requests};
use culvert::config;
use culvert::plan::Layers;
use culvert::report::Source;
use culvert::report::lists::{Which, Window};
use culvert::report::look::{Cells, CoreLoad, Head, Look, OfKernel};

struct Counting;

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = MADE.try_with(|made| made.set(made.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A file with so many peers, and its key in a folder.
fn text(peers: usize, folder: &Path, port: u16) -> String {
    let own = folder.join("own.key");
    let key = culvert::keys::generate_private().unwrap().to_base64();
    fs::write(&own, &*key).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    let mut text = format!(
        "version: 1\nmemory: {{hugepages: off}}\nuplinks: {{lo: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
         networks: {{n: {{gateway: 192.168.0.1/24, tunnel: t}}}}\ntunnels:\n  t:\n    uplink: lo\n    uapi: off\n    \
         listen_port: {port}\n    private_key_file: {}\n    peers:\n",
        own.display()
    );
    for peer in 0..peers {
        let [.., a, b] = peer.to_be_bytes();
        let key = format!("{:A<43}=", format!("peer{peer:06}"));
        writeln!(
            text,
            "      p{peer}: {{public_key: \"{key}\", allowed_ips: [10.0.{a}.{b}/32]}}"
        )
        .unwrap();
    }
    text
}

/// An engine that has this desired, and nothing else.
fn answer(requests: &Requests, desired: &Layers) {
    while let Some(request) = requests.wait(None) {
        match request {
            Request::Look(Look::Head(reply)) => reply.send(Box::new(Head {
                desired: desired.clone(),
                is_lone: false,
                generation: 1,
                started: Duration::ZERO,
                uptime: Duration::ZERO,
                uplinks: Vec::new(),
                of_kernel: OfKernel::default(),
                down: Vec::new(),
                deaf: Vec::new(),
                core: CoreLoad::default(),
                workers: Vec::new(),
            })),
            Request::Look(Look::Cells(reply)) => reply.send(Cells {
                peers: culvert_dataplane::shared::leaves::Leaves::default(),
                tunnels: Vec::new(),
            }),
            Request::Look(Look::Peers(_, asked, reply)) => reply.send(asked),
            Request::Drain => break,
            other => panic!("{other:?}"),
        }
    }
}

/// Ends the engine when dropped.
struct Over<'r>(&'r Requester);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let _ = self.0.send(Request::Drain);
    }
}

/// However many things there are, a page makes what is on it.
#[test]
fn a_page_makes_what_is_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(20_000, folder.path(), 51_820);
    let read = config::parse(&text, Path::new("c.yaml"), &config::Disk);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    let desired = Layers::new(Arc::new(config));
    let (requester, requests) = api::channel().unwrap();
    thread::scope(|scope| {
        let desired = &desired;
        scope.spawn(move || answer(&requests, desired));
        let _over = Over(&requester);
        let which = Which::default();
        let window = Window {
            after: Some("network n 10.0.20.0/32 allowed-ips peer p5120 (t)".into()),
            limit: 10,
        };
        let mut routes = Vec::new();
        let before = MADE.get();
        let next = requester.routes(&which, &window, &mut |route| routes.push(route));
        let made = MADE.get() - before;
        assert_eq!(routes.len(), 10);
        assert_eq!(routes[0].to, "10.0.20.1/32");
        let last = "network n 10.0.20.10/32 allowed-ips peer p5130 (t)";
        assert_eq!(next.unwrap().as_deref(), Some(last));
        assert!(made < 500, "{made} pieces for ten routes");
        let window = Window {
            after: None,
            limit: 10,
        };
        let before = MADE.get();
        let next = requester.drops(&which, &window, &mut |drop| panic!("{drop:?}"));
        let made = MADE.get() - before;
        assert_eq!(next, Ok(None));
        assert!(made < 500, "{made} pieces for no losses");
        let before = MADE.get();
        let next = requester.peers(&which, &window, &mut |peer| panic!("{peer:?}"));
        let made = MADE.get() - before;
        assert_eq!(next.unwrap().as_deref(), Some("t/p10004"));
        assert!(made < 500, "{made} pieces for ten peers");
    });
}

/// The process's memory, in KiB.
fn resident(process: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.unwrap().trim().parse().unwrap()
}

/// Whoever reads leaves nothing behind, how often and how much he may read.
#[test]
fn memory_is_the_same_after_many_reads() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = folder.path().join("c.yaml");
    fs::write(&config, text(10_000, folder.path(), port)).unwrap();
    let run_dir = folder.path().join("run");
    let life = Run::start(&config, &run_dir, folder.path());
    let client = Client::new(&run_dir);
    let before = resident(life.child.id());
    for _ in 0..4 {
        assert_eq!(client.state(None).unwrap().peers.len(), 10_000);
    }
    let after = resident(life.child.id());
    assert!(
        after < before + (4 << 10),
        "{before} KiB before, {after} after"
    );
}
