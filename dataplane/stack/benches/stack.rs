//! What putting packets together costs: `cargo bench -p culvert-stack`.
//!
//! Each figure is the least of many short runs, in warm caches, per fragment: from the frame that a worker punted to the
//! whole packet's. With `--json`, one object per line. With `--once` each case runs so many packets and nothing is
//! timed: to count instructions under valgrind.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and counts of the bench's own making"
)]

use std::{
    hash::RandomState,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use culvert_stack::{HostConfig, HostStack, ip};
use culvert_wire::{Checksum, EtherType, MacAddr, ether, ipv4, ipv6};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const MTU: u16 = 1_500;
/// What a core may give to 100,000 fragments per second: 5 %.
const GOAL_NS: f64 = 500.0;

struct Options {
    json: bool,
    once: Option<u32>,
    case: Option<String>,
}

impl Options {
    fn read() -> Self {
        let list: Vec<_> = std::env::args().collect();
        let behind = |name: &str| {
            let place = list.iter().position(|it| it == name)?;
            list.get(place + 1)
        };
        Self {
            json: list.iter().any(|it| it == "--json"),
            once: behind("--once").and_then(|count| count.parse().ok()),
            case: behind("--case").cloned(),
        }
    }

    /// Runs a case that takes `count` fragments per call.
    fn run(&self, case: &str, count: usize, mut call: impl FnMut()) {
        if self.case.as_ref().is_some_and(|only| !case.contains(only)) {
            return;
        }
        if let Some(times) = self.once {
            (0..times).for_each(|_| call());
            println!("{case}: {} fragments", times as usize * count);
            return;
        }
        let value = time(call) / count as f64;
        if self.json {
            println!(
                r#"{{"section":"stack","case":"{case}","unit":"ns","value":{value:.1},"reference":"goal","reference_value":{GOAL_NS},"ratio":{:.2}}}"#,
                GOAL_NS / value
            );
        } else {
            println!("{case:<40} {value:>8.1} ns per fragment (goal {GOAL_NS})");
        }
    }
}

/// The least time of one call, in nanoseconds.
fn time(mut call: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        let start = Instant::now();
        call();
        least = least.min(start.elapsed().as_secs_f64() * 1e9);
    }
    least
}

fn main() {
    let options = Options::read();
    for v6 in [false, true] {
        let family = if v6 { "v6" } else { "v4" };
        for fragments in [2, 5, 20, 44] {
            let case = format!("reassembly/{family}/{fragments}");
            together(&options, &case, v6, fragments, false);
        }
        together(
            &options,
            &format!("reassembly/{family}/44/reversed"),
            v6,
            44,
            true,
        );
        strangers(&options, &format!("strangers/{family}"), v6);
    }
    one_source(&options);
}

fn host() -> HostStack {
    let config = HostConfig {
        mac: US,
        addresses: vec![(own(false), 24), (own(true), 64)],
        routes: vec![],
        neighbors: vec![],
        mtu: MTU,
    };
    HostStack::begin(config, RandomState::new(), |_| true, START)
}

const START: culvert_wireguard::Instant = culvert_wireguard::Instant(1 << 40);

/// Sixteen packets, one after the other, all of whose fragments come.
fn together(options: &Options, case: &str, v6: bool, fragments: usize, reversed: bool) {
    const PACKETS: u32 = 16;
    let size = (usize::from(MTU) - if v6 { 48 } else { 20 }) & !7;
    let whole = datagram(v6, 0, fragments * size - 8 - 100);
    let frames: Vec<_> = (0..PACKETS)
        .flat_map(|id| {
            let mut list: Vec<_> = ip::split(&whole, MTU, id).collect();
            assert_eq!(list.len(), fragments);
            if reversed {
                list.reverse();
            }
            list
        })
        .collect();
    let mut stack = host();
    options.run(case, frames.len(), || {
        let mut came = 0;
        for frame in &frames {
            stack.handle_frame(black_box(frame), START);
            came += u32::from(black_box(stack.poll_datagram()).is_some());
        }
        assert_eq!(came, PACKETS);
    });
}

/// First fragments of packets that never get another, each of another source: memory is full all the time.
fn strangers(options: &Options, case: &str, v6: bool) {
    let mut frames: Vec<_> = (0..1_024_u32)
        .filter_map(|_| ip::split(&datagram(v6, 0, 1_400 * 2), MTU, 1).next())
        .collect();
    let (mut stack, mut source) = (host(), 0_u32);
    options.run(case, frames.len(), || {
        for frame in &mut frames {
            source = source.wrapping_add(1);
            come_from(frame, v6, source);
            stack.handle_frame(black_box(frame), START);
        }
    });
    assert!(options.case.is_some() || stack.reassembly_memory() > 2 << 20);
}

/// The same, all of one source: the oldest of its packets makes room.
fn one_source(options: &Options) {
    let whole = datagram(false, 0, 1_400 * 2);
    let frames: Vec<_> = (0..1_024_u32)
        .filter_map(|id| ip::split(&whole, MTU, id).next())
        .collect();
    let mut stack = host();
    options.run("one-source/v4", frames.len(), || {
        for frame in &frames {
            stack.handle_frame(black_box(frame), START);
        }
    });
}

fn own(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(192, 0, 2, 1).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// A datagram's frame from a host by its number.
fn datagram(v6: bool, source: u32, payload: usize) -> Vec<u8> {
    let len = (8 + payload) as u16;
    let mut frame;
    match own(v6) {
        IpAddr::V4(destination) => {
            frame = ether::header(US, THEM, EtherType::IPV4).to_vec();
            frame.extend(ipv4::header(&ipv4::Ipv4Fields {
                source: Ipv4Addr::new(10, 0, 0, 1),
                destination,
                tos: 0,
                id: 0,
                dont_fragment: false,
                ttl: 64,
                protocol: 17,
                total_len: 20 + len,
            }));
        }
        IpAddr::V6(destination) => {
            frame = ether::header(US, THEM, EtherType::IPV6).to_vec();
            frame.extend(ipv6::header(&ipv6::Ipv6Fields {
                source: Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1),
                destination,
                traffic_class: 0,
                hop_limit: 64,
                next_header: 17,
                payload_len: len,
            }));
        }
    }
    come_from(&mut frame, v6, source);
    frame.extend([0x9c, 0x40, 0xca, 0x6c]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(frame.len() + payload, 0x55);
    frame
}

fn come_from(frame: &mut [u8], v6: bool, source: u32) {
    if v6 {
        frame[34..38].copy_from_slice(&source.to_be_bytes());
    } else {
        frame[27..30].copy_from_slice(&source.to_be_bytes()[1..]);
        frame[24..26].fill(0);
        let sum = Checksum::of(&frame[14..34]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}
