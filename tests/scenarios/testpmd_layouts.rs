//! DPDK's virtio-user in every ring layout and along every path that it has for one.
//!
//! ```text
//!   in.pcap ── testpmd io ── virtio-user ── vm1 ┐
//!                                               ├ one network of one Culvert
//!   out.pcap ── testpmd io ── virtio-user ─ vm2 ┘
//! ```
//!
//! Frames of all lengths go from one guest's ring to the other's. A file is read faster than anything behind it goes
//! on, so some may be lost, by name; what arrives is byte for byte what was sent, in its order.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Part, Scenario, Testpmd, TestpmdSpec, eventually};

const PARTS: [Part; 3] = [Part::Root, Part::Testpmd, Part::Hugepages];
const FRAMES: usize = 4000;
const PATIENCE: Duration = Duration::from_secs(20);
const MACS: [&str; 2] = ["52:54:00:00:01:10", "52:54:00:00:01:11"];

#[test]
fn split() -> Result<()> {
    layout("split", "packed_vq=0,mrg_rxbuf=1,in_order=0")
}

#[test]
fn split_without_mergeable_buffers() -> Result<()> {
    layout(
        "split_without_mergeable_buffers",
        "packed_vq=0,mrg_rxbuf=0,in_order=0",
    )
}

#[test]
fn split_in_order() -> Result<()> {
    layout("split_in_order", "packed_vq=0,mrg_rxbuf=1,in_order=1")
}

#[test]
fn split_in_order_without_mergeable_buffers() -> Result<()> {
    layout(
        "split_in_order_without_mergeable_buffers",
        "packed_vq=0,mrg_rxbuf=0,in_order=1",
    )
}

#[test]
fn split_vectorised() -> Result<()> {
    layout(
        "split_vectorised",
        "packed_vq=0,mrg_rxbuf=0,in_order=0,vectorized=1",
    )
}

#[test]
fn packed() -> Result<()> {
    layout("packed", "packed_vq=1,mrg_rxbuf=1,in_order=0")
}

#[test]
fn packed_without_mergeable_buffers() -> Result<()> {
    layout(
        "packed_without_mergeable_buffers",
        "packed_vq=1,mrg_rxbuf=0,in_order=0",
    )
}

#[test]
fn packed_in_order() -> Result<()> {
    layout("packed_in_order", "packed_vq=1,mrg_rxbuf=1,in_order=1")
}

#[test]
fn packed_in_order_without_mergeable_buffers() -> Result<()> {
    layout(
        "packed_in_order_without_mergeable_buffers",
        "packed_vq=1,mrg_rxbuf=0,in_order=1",
    )
}

#[test]
fn packed_vectorised() -> Result<()> {
    layout(
        "packed_vectorised",
        "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
    )
}

/// A ring whose size is no power of two, which only packed ones may have.
#[test]
fn packed_of_an_odd_size() -> Result<()> {
    layout(
        "packed_of_an_odd_size",
        "packed_vq=1,mrg_rxbuf=1,in_order=1,queue_size=100",
    )
}

fn layout(name: &str, ring: &str) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut culvert = Culvert::start(scenario, "hv", None, &yaml(scenario))?;
        let sent = frames();
        let (input, output) = (scenario.path("in.pcap"), scenario.path("out.pcap"));
        fs::write(&input, pcap(&sent))?;
        let guest = |index: usize, file: String, ring: &str| {
            let socket = scenario.path(&format!("vm{}.sock", index + 1));
            let name = format!("guest-{}", index + 1);
            let mut spec = TestpmdSpec::guest(&name, socket, MACS[index], 1, "io");
            if ring.contains("queue_size") {
                spec.devices[0] = spec.devices[0].replace("queue_size=256,", "");
            }
            spec.devices[0] = format!("{},{ring}", spec.devices[0]);
            spec.devices.push(format!("net_pcap0,{file}"));
            Testpmd::start(scenario, &spec)
        };
        let sink = guest(1, format!("tx_pcap={}", output.display()), ring)?;
        eventually("the sink's link", PATIENCE, || {
            Ok(is_up(&culvert, "vm2")?.then_some(()))
        })?;
        let source = guest(0, format!("rx_pcap={}", input.display()), ring)?;
        let mut before = 0;
        let delivered = eventually("the last frame", PATIENCE, || {
            let now = culvert.port("vm2")?.to_guest;
            let is_last = now > 0 && now == before;
            before = now;
            std::thread::sleep(Duration::from_millis(300));
            Ok(is_last.then_some(now))
        })?;
        let counted = source.finish()?;
        sink.finish()?;
        let received = parse(&fs::read(&output)?)?;
        let from = culvert.port("vm1")?;
        scenario.say(format!(
            "{} frames, {counted:?}; {from:?}, {delivered} delivered, {} received",
            sent.len(),
            received.len()
        ));
        ensure!(received.len() as u64 == delivered, "{delivered} delivered");
        ensure!(received.len() > FRAMES / 8, "hardly any arrived");
        // What arrived is what was sent, in order, with gaps.
        let mut rest = sent.iter();
        for (index, frame) in received.iter().enumerate() {
            ensure!(
                rest.any(|sent| sent == frame),
                "frame {index} was not sent, or not in this order: {frame:02x?}"
            );
        }
        culvert.process().must_run()
    })
}

fn is_up(culvert: &Culvert, port: &str) -> Result<bool> {
    let show = culvert.show()?;
    let ports = show["ports"].as_array().context("ports")?;
    let port = ports.iter().find(|entry| entry["name"] == port);
    Ok(port.is_some_and(|port| port["link_up"] == true))
}

fn yaml(scenario: &Scenario) -> String {
    let port = |index: usize| {
        let number = index + 1;
        format!(
            "  vm{number}:\n    driver: vhost-user\n    socket: {}\n    network: blue\n    mac: \"{}\"\n    addresses: [10.1.1.1{index}]\n",
            scenario.path(&format!("vm{number}.sock")).display(),
            MACS[index]
        )
    };
    format!(
        "version: 1\nnode: hv\ncores: {{ workers: 1, poll: adaptive }}\nnetworks:\n  blue:\n    gateway: [10.1.1.1/24]\nports:\n{}{}",
        port(0),
        port(1)
    )
}

/// UDP datagrams of all lengths from one guest to the other, each with a number and a pattern.
fn frames() -> Vec<Vec<u8>> {
    (0..FRAMES)
        .map(|number| {
            let payload = 18 + number * 7 % 1455;
            let length = u16::try_from(20 + 8 + payload).unwrap_or(u16::MAX);
            let mut ip = vec![0x45, 0];
            ip.extend(length.to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 1, 10, 10, 1, 1, 11]);
            let sum: u32 = ip
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let sum = u16::try_from(folded).unwrap_or(u16::MAX);
            ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
            let mut frame = Vec::new();
            for mac in [MACS[1], MACS[0]] {
                let octets = mac.split(':').map(|pair| u8::from_str_radix(pair, 16));
                frame.extend(octets.map(Result::unwrap_or_default));
            }
            frame.extend([8, 0]);
            frame.extend(ip);
            frame.extend(4000u16.to_be_bytes());
            frame.extend(9u16.to_be_bytes());
            frame.extend((length - 20).to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(number.to_be_bytes());
            frame.extend((0..payload - 8).map(|at| ((at * 31) ^ (number * 17)).to_le_bytes()[0]));
            frame
        })
        .collect()
}

/// A capture file of them.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap_or(0);
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a capture file.
fn parse(mut file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    file = file.get(24..).context("a capture file")?;
    while let Some((head, rest)) = file.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let frame = rest.get(..length).context("a whole frame")?;
        frames.push(frame.to_vec());
        file = &rest[length..];
    }
    Ok(frames)
}
