//! Any vhost-user messages, with any descriptors: the session ends or goes on, the port serves
//! the next connection.
#![no_main]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, PortEvent, RingOptions};
use culvert_wire::{MacAddr, VnetHeader};
use libfuzzer_sys::fuzz_target;

struct Bench {
    port: Port,
    socket: PathBuf,
    events: Receiver<PortEvent>,
}

fn bench() -> &'static Mutex<Bench> {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    BENCH.get_or_init(|| {
        let socket = std::env::temp_dir().join(format!("cv-fuzz-{}.sock", std::process::id()));
        let mut config = PortConfig::new("fuzz", &socket, MacAddr([2, 0, 0, 0, 0, 1]));
        config.queue_pairs = 2;
        config.connections_per_second = 1_000_000;
        config.messages_per_second = 1_000_000;
        let (sender, events) = channel();
        let port = Port::open(config, move |event| {
            let _ = sender.send(event);
        });
        let port = port.expect("a port");
        Mutex::new(Bench {
            port,
            socket,
            events,
        })
    })
}

/// The descriptors that messages come with: memory, an eventfd, a pipe, a directory.
fn descriptors() -> &'static [OwnedFd; 4] {
    static FDS: OnceLock<[OwnedFd; 4]> = OnceLock::new();
    FDS.get_or_init(|| {
        let memory = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
        let memory = memory.expect("a memfd");
        rustix::fs::ftruncate(&memory, 1 << 20).expect("a megabyte");
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK);
        let (pipe, _) = rustix::pipe::pipe().expect("a pipe");
        let folder = std::fs::File::open("/").expect("a directory");
        [memory, event.expect("an eventfd"), pipe, folder.into()]
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, _], mut input)) = input.split_first_chunk::<2>() else {
        return;
    };
    let bench = bench().lock().expect("one thread");
    let mut rings = RingOptions::all();
    if kind & 2 != 0 {
        rings -= RingOptions::PACKED;
    }
    let config = FrontendConfig {
        rings,
        memory: 1 << 20,
        ring_size: 4,
        guest: 0,
        ..FrontendConfig::default()
    };
    let stream = UnixStream::connect(&bench.socket).expect("a port that listens");
    let mut frontend = Frontend::attach(stream, config).expect("a frontend");
    if kind & 1 != 0 {
        // Half of all begin with a session that works.
        frontend.negotiate().expect("a backend that agrees");
        frontend.share_memory().expect("memory that fits");
        frontend.start().expect("rings that start");
    }
    let user = frontend.memory.user();
    while let Some((&[request, flags, len, fds], rest)) = input.split_first_chunk::<4>() {
        let (body, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        let mut body = body.to_vec();
        // Words that look like small numbers above 2^62 become addresses of ours.
        for word in body.chunks_exact_mut(8) {
            let value = u64::from_ne_bytes((&*word).try_into().expect("eight bytes"));
            if value >> 62 == 1 {
                word.copy_from_slice(&(user + (value & 0xf_ffff)).to_ne_bytes());
            }
        }
        let fds: Vec<BorrowedFd<'_>> = (0..fds & 7)
            .map(|at| descriptors()[usize::from((fds >> 3) + at) % 4].as_fd())
            .collect();
        // Version 1 mostly, with and without a wish for an answer.
        let flags = match flags & 7 {
            0..=2 => 1,
            3..=6 => 9,
            _ => u32::from(flags),
        };
        if frontend
            .send(u32::from(request % 48), flags, &body, &fds)
            .is_err()
        {
            break;
        }
        if let Some(mut burst) = bench.port.guest_tx(0).try_lock() {
            let frames = burst.fetch(4);
            burst.complete(frames);
        }
        if let Ok(mut burst) = bench.port.guest_rx(0).try_lock() {
            let _ = burst.deliver(&VnetHeader::default(), &[&[0; 60]]);
        }
    }
    drop(frontend);
    loop {
        let event = bench.events.recv_timeout(Duration::from_secs(30));
        if let PortEvent::Disconnected { .. } = event.expect("the session's end") {
            break;
        }
    }
    assert!(!bench.port.guest_tx(0).is_live());
    assert!(!bench.port.guest_rx(1).is_live());
});
