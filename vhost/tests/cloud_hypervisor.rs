//! Cloud Hypervisor's messages, in its order: its binary needs KVM, its half of the protocol
//! doesn't.
//!
//! What it sends for a network device (virtio-devices/src/vhost_user, net and vu_common_ctrl):
//! - *At its start*: SET_OWNER; GET_FEATURES; GET_PROTOCOL_FEATURES; SET_PROTOCOL_FEATURES with
//!   those of MQ, REPLY_ACK, CONFIGURE_MEM_SLOTS, INFLIGHT_SHMFD and LOG_SHMFD that it was offered;
//!   all of these without a wish for an acknowledgement. From here on each message has one.
//!   GET_QUEUE_NUM, which must be no less than its number of *rings*.
//! - *When the driver is ready*: SET_FEATURES; SET_MEM_TABLE; SET_VRING_NUM of all rings; for each
//!   ring SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_KICK; SET_VRING_ENABLE of all.
//!   The base is the *available* index, also of a ring that is half used.
//! - *Pause, resume, reset*: SET_VRING_ENABLE of all rings. *More memory*: ADD_MEM_REG.
//! - *When the backend is gone*: it connects again, every 100 ms for a minute; SET_OWNER;
//!   GET_FEATURES; SET_PROTOCOL_FEATURES as acknowledged before, without asking; then as when the
//!   driver is ready.
//!
//! It keeps the control ring to itself, so there are two rings per pair.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use common::{Bench, header, is_up, pattern, take_frames};
use culvert_vhost::PortEvent;
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Offloads, RingOptions};
use vhost::vhost_user::message::FrontendReq;

const PROTOCOL_FEATURES: u64 = 1 << 30;
/// MQ, LOG_SHMFD, REPLY_ACK, INFLIGHT_SHMFD, CONFIGURE_MEM_SLOTS.
const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 12 | 1 << 15;
const RINGS: usize = 2;

/// What it would take for the device.
fn wanted() -> u64 {
    let rings = RingOptions::MRG_RXBUF | RingOptions::EVENT_IDX;
    let offloads = Offloads::CSUM
        | Offloads::GUEST_CSUM
        | Offloads::GUEST_TSO4
        | Offloads::GUEST_TSO6
        | Offloads::GUEST_ECN
        | Offloads::HOST_TSO4
        | Offloads::HOST_TSO6
        | Offloads::HOST_ECN;
    // VERSION_1, and MTU.
    rings.bits() | offloads.bits() | 1 << 32 | 1 << 3 | PROTOCOL_FEATURES
}

fn say(frontend: &mut Frontend, request: FrontendReq, body: &[u8]) {
    frontend.send(request as u32, 1, body, &[]).unwrap();
}

/// Both features, as acknowledged.
fn start(frontend: &mut Frontend) -> (u64, u64) {
    say(frontend, FrontendReq::SET_OWNER, &[]);
    let offered = frontend.ask_u64(FrontendReq::GET_FEATURES).unwrap();
    let acknowledged = offered & wanted();
    assert!(acknowledged & PROTOCOL_FEATURES != 0);
    let protocol = frontend
        .ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)
        .unwrap()
        & PROTOCOL;
    let body = protocol.to_ne_bytes();
    say(frontend, FrontendReq::SET_PROTOCOL_FEATURES, &body);
    assert!(protocol & 1 << 3 != 0, "acknowledgements");
    assert!(protocol & 1 != 0, "several queues");
    let rings = frontend.ask_u64(FrontendReq::GET_QUEUE_NUM).unwrap();
    assert!(rings >= RINGS as u64);
    (acknowledged, protocol)
}

fn set_up(frontend: &mut Frontend, features: u64) {
    frontend.set_features(features).unwrap();
    frontend.share_memory().unwrap();
    for (ring, number) in (0..RINGS).zip(0u32..) {
        let size = frontend.queues[ring].driver.size().into();
        frontend
            .tell_state(FrontendReq::SET_VRING_NUM, number, size)
            .unwrap();
    }
    for (ring, number) in (0..RINGS).zip(0u32..) {
        frontend.set_ring_address(ring, None).unwrap();
        let areas = frontend.queues[ring].driver.areas();
        let available = frontend.memory.load(areas.driver + 2).into();
        frontend
            .tell_state(FrontendReq::SET_VRING_BASE, number, available)
            .unwrap();
        let call = frontend.call_fd(ring).try_clone_to_owned().unwrap();
        frontend
            .tell_fd(FrontendReq::SET_VRING_CALL, number, call.as_fd())
            .unwrap();
        let kick = frontend.kick_fd(ring).try_clone_to_owned().unwrap();
        frontend
            .tell_fd(FrontendReq::SET_VRING_KICK, number, kick.as_fd())
            .unwrap();
    }
    enable(frontend, true);
}

fn enable(frontend: &mut Frontend, enabled: bool) {
    for number in [0, 1] {
        frontend
            .tell_state(FrontendReq::SET_VRING_ENABLE, number, enabled.into())
            .unwrap();
    }
}

fn config() -> FrontendConfig {
    FrontendConfig {
        rings: RingOptions::MRG_RXBUF | RingOptions::EVENT_IDX,
        memory: 64 << 20,
        ..FrontendConfig::default()
    }
}

/// Frames both ways, each once and whole.
fn assert_serves(bench: &Bench, frontend: &mut Frontend, seed: u64) {
    for number in 0..100u16 {
        let frame = pattern(60 + 41 * usize::from(number), seed + u64::from(number));
        assert!(frontend.send_frame(0, &header(number), &frame));
        assert_eq!(
            take_frames(bench.port(), 0),
            [(header(number), frame.clone())]
        );
        bench
            .port()
            .guest_rx(0)
            .try_lock()
            .unwrap()
            .deliver(&header(7), &[&frame])
            .unwrap();
        assert_eq!(frontend.receive_frame(0).unwrap().1, frame);
    }
}

#[test]
fn its_start_pause_memory_and_reset_are_served() {
    let bench = Bench::new(|_| {});
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, config()).unwrap();
    let (features, protocol) = start(&mut frontend);
    set_up(&mut frontend, features);
    bench.wait(|event| is_up(event, 1));
    frontend.fill(0);
    assert_serves(&bench, &mut frontend, 1);
    // Paused: nothing is taken. Resumed: nothing was lost.
    enable(&mut frontend, false);
    assert!(!bench.port().guest_tx(0).is_live());
    assert!(frontend.send_frame(0, &header(1), &[9; 100]));
    enable(&mut frontend, true);
    assert_eq!(take_frames(bench.port(), 0), [(header(1), vec![9; 100])]);
    // Memory that is plugged in while the rings run.
    assert!(protocol & 1 << 15 != 0, "memory slots");
    let more = rustix::fs::memfd_create("more", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&more, 2 << 20).unwrap();
    let mut body = 0u64.to_ne_bytes().to_vec();
    for word in [0x8_0000_0000u64, 2 << 20, 0x7000_0000_0000, 0] {
        body.extend(word.to_ne_bytes());
    }
    frontend
        .tell(FrontendReq::ADD_MEM_REG, &body, &[more.as_fd()])
        .unwrap();
    assert_serves(&bench, &mut frontend, 2);
    // A reset disables the rings; the driver that comes next sets all up again.
    enable(&mut frontend, false);
    for ring in 0..RINGS {
        frontend.queues[ring].driver.reset(&frontend.memory);
    }
    set_up(&mut frontend, features);
    frontend.fill(0);
    assert_serves(&bench, &mut frontend, 3);
    assert_eq!(bench.port().counters().refused_sessions(), 0);
}

#[test]
fn it_connects_again_with_rings_that_are_half_used() {
    let mut bench = Bench::new(|_| {});
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, config()).unwrap();
    let (features, protocol) = start(&mut frontend);
    set_up(&mut frontend, features);
    bench.wait(|event| is_up(event, 1));
    frontend.fill(0);
    assert_serves(&bench, &mut frontend, 4);
    for round in 0..3u64 {
        // Frames that the backend has not taken when it ends, and one that the guest has not seen.
        for number in 0..5 {
            assert!(frontend.send_frame(
                0,
                &header(number),
                &pattern(200, round + u64::from(number))
            ));
        }
        let port = bench.port();
        port.guest_rx(0)
            .try_lock()
            .unwrap()
            .deliver(&header(1), &[&[3; 70]])
            .unwrap();
        bench.restart();
        let stream = UnixStream::connect(bench.path()).unwrap();
        frontend.reattach(stream);
        say(&mut frontend, FrontendReq::SET_OWNER, &[]);
        frontend.ask_u64(FrontendReq::GET_FEATURES).unwrap();
        say(
            &mut frontend,
            FrontendReq::SET_PROTOCOL_FEATURES,
            &protocol.to_ne_bytes(),
        );
        set_up(&mut frontend, features);
        bench.wait(|event| is_up(event, 1));
        assert_eq!(frontend.receive_frame(0).unwrap().1, [3; 70]);
        let frames = take_frames(bench.port(), 0);
        let expected: Vec<_> = (0..5)
            .map(|number| (header(number), pattern(200, round + u64::from(number))))
            .collect();
        assert_eq!(frames, expected);
        assert_serves(&bench, &mut frontend, 100 * round);
    }
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
}
