//! A patch panel for one or two vhost-user ports: what comes from one guest goes to the other.
//!
//! With one socket, frames go back to their sender with their addresses exchanged, ARP requests
//! and pings are answered (by anyone the guest asks for). With `sink`, frames are only counted;
//! with `source`, frames are sent to the guest as fast as it takes them.
//!
//! Usage: patch [--client] [--queues N] [--seconds S] [--size BYTES] [sink|source] SOCKET [SOCKET]
#![allow(
    clippy::cast_possible_truncation,
    reason = "a tool for tests: its numbers are small"
)]

use std::time::{Duration, Instant};

use culvert_vhost::{Port, PortConfig, PortDrop, SocketMode};
use culvert_wire::{MacAddr, VnetHeader};

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Patch,
    Sink,
    Source,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut work, mut sockets, mut mode) = (Work::Patch, Vec::new(), SocketMode::Server);
    let (mut queues, mut seconds, mut size) = (1u16, u64::MAX, 60usize);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|n| n.parse().ok())
                .expect("a number")
        };
        match argument.as_str() {
            "sink" => work = Work::Sink,
            "source" => work = Work::Source,
            "--client" => mode = SocketMode::Client,
            "--queues" => queues = number() as u16,
            "--seconds" => seconds = number(),
            "--size" => size = number() as usize,
            _ => sockets.push(argument),
        }
    }
    let ports: Vec<Port> = sockets
        .iter()
        .zip(1u8..)
        .map(|(socket, number)| {
            let mut config = PortConfig::new(
                format!("p{number}"),
                socket,
                MacAddr([0x52, 0x54, 0, 0, 0, number]),
            );
            config.socket_mode = mode;
            config.queue_pairs = queues;
            config.state_file = Some(format!("{socket}.state").into());
            let name = config.name.clone();
            Port::open(config, move |event| eprintln!("{name}: {event:?}")).expect("a port")
        })
        .collect();
    let started = Instant::now();
    let mut told = Instant::now();
    let mut last = [0u64; 4];
    while started.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..1024 {
            for queue in 0..queues {
                match (work, ports.as_slice()) {
                    (Work::Patch, [one]) => reflect(one, queue),
                    (Work::Patch, [one, two]) => {
                        patch(one, two, queue);
                        patch(two, one, queue);
                    }
                    (Work::Sink, ports) => ports.iter().for_each(|port| sink(port, queue)),
                    (Work::Source, ports) => {
                        ports.iter().for_each(|port| source(port, queue, size));
                    }
                    (Work::Patch, _) => panic!("one or two sockets"),
                }
            }
        }
        let spent = told.elapsed();
        if spent > Duration::from_secs(1) {
            told = Instant::now();
            report(&ports, spent, &mut last);
        }
    }
}

fn report(ports: &[Port], spent: Duration, last: &mut [u64; 4]) {
    for (port, last) in ports.iter().zip(last.chunks_exact_mut(2)) {
        let pairs = 0..port.queue_pairs();
        let tx: u64 = pairs
            .clone()
            .map(|q| port.guest_tx(q).counters().frames())
            .sum();
        let rx: u64 = pairs
            .clone()
            .map(|q| port.guest_rx(q).counters().frames())
            .sum();
        let rate = |now: u64, then: u64| (now - then) as f64 / spent.as_secs_f64() / 1e6;
        print!(
            "{}: tx {:.3} rx {:.3} Mpps",
            port.config().name,
            rate(tx, last[0]),
            rate(rx, last[1])
        );
        (last[0], last[1]) = (tx, rx);
        for reason in PortDrop::ALL {
            let sum: u64 = pairs
                .clone()
                .map(|q| {
                    port.guest_tx(q).counters().drops(reason)
                        + port.guest_rx(q).counters().drops(reason)
                })
                .sum();
            if sum > 0 {
                print!(", {} {sum}", reason.name());
            }
        }
        println!();
    }
}

fn patch(from: &Port, to: &Port, queue: u16) {
    let Some(mut tx) = from.guest_tx(queue).try_lock() else {
        return;
    };
    let frames = tx.fetch(64);
    if frames > 0
        && let Ok(mut rx) = to.guest_rx(queue).lock_briefly()
    {
        rx.expect(frames);
        for index in 0..frames {
            let frame = tx.frame(index);
            let head = frame.head();
            let rest = tx.ranges(index, head.len() as u32, u32::MAX);
            // SAFETY: `tx` lives beyond the call and vouches for the ranges.
            let _ = unsafe { rx.deliver_ranges(&frame.vnet, head, rest) };
        }
    }
    tx.complete(frames);
}

fn sink(port: &Port, queue: u16) {
    let Some(mut tx) = port.guest_tx(queue).try_lock() else {
        return;
    };
    let frames = tx.fetch(32);
    tx.complete(frames);
}

fn source(port: &Port, queue: u16, size: usize) {
    let Ok(mut rx) = port.guest_rx(queue).try_lock() else {
        return;
    };
    let frame = [0x5au8; 65536];
    for _ in 0..32 {
        if rx
            .deliver(&VnetHeader::default(), &[&frame[..size]])
            .is_err()
        {
            break;
        }
    }
}

fn reflect(port: &Port, queue: u16) {
    let Some(mut tx) = port.guest_tx(queue).try_lock() else {
        return;
    };
    let frames = tx.fetch(64);
    if frames > 0
        && let Ok(mut rx) = port.guest_rx(queue).lock_briefly()
    {
        let mut bytes = vec![0u8; 70_000];
        for index in 0..frames {
            let length = tx.copy(index, 0, &mut bytes);
            let frame = &mut bytes[..length];
            answer(frame);
            let mut header = tx.frame(index).vnet;
            header.num_buffers = 0;
            let _ = rx.deliver(&header, &[frame]);
        }
    }
    tx.complete(frames);
}

/// Turns a frame into what its receiver would send back.
fn answer(frame: &mut [u8]) {
    let is =
        |frame: &[u8], at: usize, wanted: &[u8]| frame.get(at..at + wanted.len()) == Some(wanted);
    let sender: [u8; 6] = frame[6..12].try_into().expect("six bytes");
    if is(frame, 12, &[8, 6]) && frame.len() >= 42 {
        // ARP: the address that was asked for is at a MAC of our own.
        let asked: [u8; 10] = frame[22..32].try_into().expect("ten bytes");
        let target: [u8; 4] = frame[38..42].try_into().expect("four bytes");
        frame[21] = 2;
        frame[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[28..32].copy_from_slice(&target);
        frame[32..42].copy_from_slice(&asked);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    } else {
        frame.copy_within(0..6, 6);
        if is(frame, 12, &[8, 0]) && frame.len() >= 35 && frame[23] == 1 {
            let addresses: [u8; 8] = frame[26..34].try_into().expect("eight bytes");
            frame[26..30].copy_from_slice(&addresses[4..]);
            frame[30..34].copy_from_slice(&addresses[..4]);
            if frame[34] == 8 {
                // Echo reply: the type falls by 8, the checksum rises by 0x0800.
                frame[34] = 0;
                let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
                let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
                frame[36..38].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
    frame[..6].copy_from_slice(&sender);
}
