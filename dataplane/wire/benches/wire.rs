//! What parsing, summing, cutting and joining cost: `cargo bench -p culvert-wire`.
//!
//! Each figure is the least of many short runs, in warm caches. With `--json`, one object
//! per line. The reference beside a sum is the plain loop of RFC 1071.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths and counts of the bench's own making"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use culvert_wire::coalesce::{Accept, Coalescer};
use culvert_wire::fib::{Fib, Prefix};
use culvert_wire::segment::Plan;
use culvert_wire::{Checksum, VnetHeader, parse_frame, parse_ip};

/// The least time of one call, in nanoseconds.
fn time(mut call: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    let mut batch = 1u32;
    let end = Instant::now() + Duration::from_millis(150);
    while Instant::now() < end {
        let start = Instant::now();
        for _ in 0..batch {
            call();
        }
        let taken = start.elapsed();
        if taken < Duration::from_micros(20) {
            batch *= 2;
            continue;
        }
        least = least.min(taken.as_secs_f64() * 1e9 / f64::from(batch));
    }
    least
}

struct Report {
    json: bool,
}

impl Report {
    fn print(&self, case: &str, value: f64, unit: &str) {
        if self.json {
            println!(r#"{{"section":"wire","case":"{case}","unit":"{unit}","value":{value:.2}}}"#);
        } else {
            println!("{case:<32} {value:>10.2} {unit}");
        }
    }

    fn compare(&self, case: &str, value: f64, unit: &str, reference: &str, other: f64) {
        let ratio = other / value;
        if self.json {
            println!(
                r#"{{"section":"wire","case":"{case}","unit":"{unit}","value":{value:.2},"reference":"{reference}","reference_value":{other:.2},"ratio":{ratio:.2}}}"#
            );
        } else {
            println!("{case:<32} {value:>10.2} {unit}   {reference} {other:.2} ({ratio:.1}x)");
        }
    }
}

fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn super_frame(v6: bool, len: usize) -> (VnetHeader, Vec<u8>) {
    let (l3, kind, ether_type) = if v6 {
        (40, VnetHeader::GSO_TCPV6, [0x86, 0xdd])
    } else {
        (20, VnetHeader::GSO_TCPV4, [8, 0])
    };
    let mut frame = vec![0; 14 + l3 + 32 + len];
    frame[12..14].copy_from_slice(&ether_type);
    if v6 {
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&((32 + len) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&[6, 64]);
        frame[22..54].copy_from_slice(&[0xfd; 32]);
    } else {
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((52 + len) as u16).to_be_bytes());
        frame[22..24].copy_from_slice(&[64, 6]);
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = Checksum::of(&frame[14..34]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let l4 = 14 + l3;
    frame[l4..l4 + 4].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
    frame[l4 + 12..l4 + 14].copy_from_slice(&[0x80, 0x10]);
    frame[l4 + 20..l4 + 32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
    let vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: (l4 + 32) as u16,
        gso_size: 1368 - (l3 as u16 - 20),
        csum_start: l4 as u16,
        csum_offset: 16,
        num_buffers: 0,
    };
    (vnet, frame)
}

fn main() {
    let report = Report {
        json: std::env::args().any(|argument| argument == "--json"),
    };
    sums(&report);
    for v6 in [false, true] {
        offloads(&report, v6);
    }
    routes(&report);
}

fn sums(report: &Report) {
    let buffer: Vec<u8> = (0..65_536u32).map(|i| (i * 7) as u8).collect();
    for len in [20, 64, 512, 1420, 65_000] {
        let bytes = &buffer[..len];
        let ours = time(|| {
            black_box(Checksum::of(black_box(bytes)).value());
        });
        let plain = time(|| {
            black_box(plain_sum(black_box(bytes)));
        });
        report.compare(&format!("checksum/{len}"), ours, "ns", "plain loop", plain);
        let raw = time(|| {
            let mut sum = Checksum::ZERO;
            let bytes = black_box(bytes);
            // SAFETY: the pointer and the length are a live slice's.
            unsafe { sum.add_raw(bytes.as_ptr(), bytes.len()) };
            black_box(sum.value());
        });
        report.compare(
            &format!("checksum-raw/{len}"),
            raw,
            "ns",
            "plain loop",
            plain,
        );
    }
}

fn offloads(report: &Report, v6: bool) {
    let family = if v6 { "v6" } else { "v4" };
    let (vnet, frame) = super_frame(v6, 60_000);
    let head = &frame[..256];
    let len = frame.len() as u32;
    let parse = time(|| {
        let _ = black_box(parse_frame(black_box(head), len));
    });
    report.print(&format!("parse/{family}"), parse, "ns");
    let headers = parse_frame(head, len).expect("a frame of ours");
    let plan = time(|| {
        let _ = black_box(Plan::new(black_box(&vnet), &headers, head, 1420));
    });
    report.print(&format!("plan/{family}"), plan, "ns");
    let plan = Plan::new(&vnet, &headers, head, 1420).expect("a plan");
    let mut out = [0; 128];
    let write = time(|| {
        for index in 0..plan.count() {
            let sum = black_box(Checksum::ZERO);
            black_box(plan.write_headers(index, head, sum, &mut out));
        }
    });
    let each = write / plan.count() as f64;
    report.print(&format!("segment-headers/{family}"), each, "ns/segment");

    let packets: Vec<Vec<u8>> = (0..plan.count())
        .map(|index| {
            let payload = &frame[plan.segment(index).payload];
            let len = plan.write_headers(index, head, Checksum::of(payload), &mut out);
            [&out[..len], payload].concat()
        })
        .collect();
    let mut coalescer = Coalescer::new(128);
    let mut run = |packets: &[Vec<u8>], accept: Accept| {
        let mut groups = 0;
        let taken = time(|| {
            coalescer.begin(accept, 14);
            for (index, packet) in packets.iter().enumerate() {
                let headers = parse_ip(packet).expect("a packet of ours");
                let _ = coalescer.push(index as u32, &headers, packet);
            }
            groups = coalescer.groups().map(black_box).count();
        });
        (taken / packets.len() as f64, groups)
    };
    let (joined, groups) = run(&packets, Accept::ALL);
    assert_eq!(groups, 1);
    report.print(
        &format!("parse+coalesce/{family}/1420"),
        joined,
        "ns/packet",
    );
    let (alone, _) = run(&packets, Accept::NONE);
    report.print(&format!("parse+alone/{family}"), alone, "ns/packet");
    // As many flows as packets, 64 bytes each.
    let flows: Vec<Vec<u8>> = (0..128u16)
        .map(|port| {
            let (vnet, mut frame) = super_frame(v6, 12);
            let l4 = usize::from(vnet.csum_start);
            frame[l4..l4 + 2].copy_from_slice(&port.to_be_bytes());
            let head = &frame[..];
            let headers = parse_frame(head, frame.len() as u32).expect("a frame of ours");
            let plan = Plan::new(&vnet, &headers, head, 1420).expect("a plan");
            let payload = &frame[plan.segment(0).payload];
            let len = plan.write_headers(0, head, Checksum::of(payload), &mut out);
            [&out[..len], payload].concat()
        })
        .collect();
    let (scattered, groups) = run(&flows, Accept::ALL);
    assert_eq!(groups, 128);
    report.print(
        &format!("parse+coalesce/{family}/128-flows"),
        scattered,
        "ns/packet",
    );
}

fn routes(report: &Report) {
    let mut state = 1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for count in [10, 1000, 100_000] {
        let mut routes = Vec::new();
        for value in 0..count {
            let v4 = Ipv4Addr::from_bits(next() as u32);
            let v6 = Ipv6Addr::from_bits((0x2001 << 112) | (u128::from(next()) << 48));
            let (v4, v6) = (IpAddr::V4(v4), IpAddr::V6(v6));
            let len = 16 + (next() % 17) as u8;
            routes.push((Prefix::new(v4, len).expect("a length"), value));
            routes.push((Prefix::new(v6, 2 * len).expect("a length"), value));
        }
        let start = Instant::now();
        let fib = Fib::<u32>::build(routes.iter().copied());
        let built = start.elapsed().as_secs_f64() * 1e3;
        report.print(&format!("fib-build/2x{count}"), built, "ms");
        let bytes = fib.heap_bytes() as f64 / f64::from(2 * count);
        report.print(&format!("fib-memory/2x{count}"), bytes, "bytes/prefix");
        let v4: Vec<Ipv4Addr> = (0..1024)
            .map(|_| Ipv4Addr::from_bits(next() as u32))
            .collect();
        let v6: Vec<Ipv6Addr> = (0..1024)
            .map(|_| Ipv6Addr::from_bits((0x2001 << 112) | (u128::from(next()) << 48)))
            .collect();
        let taken = time(|| {
            for address in &v4 {
                black_box(fib.lookup_v4(*address));
            }
        });
        report.print(&format!("fib-lookup/v4/{count}"), taken / 1024.0, "ns");
        let taken = time(|| {
            for address in &v6 {
                black_box(fib.lookup_v6(*address));
            }
        });
        report.print(&format!("fib-lookup/v6/{count}"), taken / 1024.0, "ns");
    }
}
