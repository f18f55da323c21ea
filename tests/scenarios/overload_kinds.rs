//! The kinds of floods: what one sends to a DPDK uplink from its link.
//!
//! In: whom they are for. Out: frames, each of another sender, as fast as a tap takes them. Never: one that is answered to
//! anybody who is there.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Far, Namespace, Veth};
use culvert_wireguard::{PublicKey, cookie::Mac1};

/// One kind of flood.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// The names under which some of it is lost, one or the other.
    pub(super) lost: &'static [&'static str],
    frame: Vec<u8>,
    /// Where the sender's last address bytes are, and its MAC's.
    spoof: &'static [usize],
    /// Its sums are made anew for each sender: it is a SYN.
    is_syn: bool,
}

/// All of them.
pub(super) fn kinds(far: &Far, public_key: &str) -> Result<Vec<Kind>> {
    let mac = mac_of(&far.a.namespace)?;
    let key = PublicKey::from_base64(public_key).context("a public key")?;
    let mut call = vec![7; 148];
    call[..4].copy_from_slice(&[1, 0, 0, 0]);
    call[132..].fill(0);
    ensure!(Mac1::new(&key).fill(&mut call));
    let mut junk_call = call.clone();
    junk_call[120] ^= 1;
    let mut data = vec![9; 96];
    data[..4].copy_from_slice(&[4, 0, 0, 0]);
    let mut arp = vec![0; 28];
    arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[8..14].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    arp[14..18].copy_from_slice(&[192, 0, 2, 99]);
    arp[24..28].copy_from_slice(&[192, 0, 2, 1]);
    let udp = |port: u16, payload: &[u8]| {
        let len = u16::try_from(payload.len() + 8).unwrap_or(8);
        let mut bytes = vec![0x99, 0x99];
        bytes.extend(port.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes
    };
    let mut echo = vec![8, 0, 0, 0, 1, 2, 0, 3];
    echo.extend([0; 48]);
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let v4 = |protocol: u8, body: &[u8]| ethernet(mac, [8, 0], &ipv4(protocol, body));
    Ok(vec![
        Kind {
            name: "ARP requests",
            lost: &["neighbor-queue-full"],
            frame: ethernet([0xff; 6], [8, 6], &arp),
            spoof: &[10, 11, 26, 27],
            is_syn: false,
        },
        Kind {
            name: "neighbor solicitations",
            lost: &["neighbor-queue-full"],
            frame: solicitation(),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "pings",
            lost: &["icmp-queue-full"],
            frame: v4(1, &echo),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "handshakes",
            // Asked for a cookie only as long as more come than are looked at.
            lost: &[
                "handshake-undecryptable",
                "handshake-cookie-sent",
                "handshake-queue-full",
            ],
            frame: v4(17, &udp(51_820, &call)),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "handshakes for others",
            lost: &["handshake-mac1-invalid"],
            frame: v4(17, &udp(51_820, &junk_call)),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "data of no session",
            lost: &["receiver-unknown"],
            frame: v4(17, &udp(51_820, &data)),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "datagrams for nobody",
            lost: &["datagram-queue-full", "host-error-limited"],
            frame: v4(17, &udp(9, &[0; 18])),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "fragments",
            lost: &["fragment-queue-full", "host-reassembly-source-full"],
            frame: first_fragment(mac),
            spoof: &[10, 11, 60, 61],
            is_syn: false,
        },
        Kind {
            name: "connections that nobody means to have",
            lost: &["opening-queue-full", "host-tcp-openings-full"],
            frame: v4(6, &syn(METRICS)),
            spoof: &[10, 11, 29, 35],
            is_syn: true,
        },
        Kind {
            name: "connections of who may have none",
            lost: &["opening-queue-full", "host-tcp-not-allowed"],
            frame: stranger(&v4(6, &syn(METRICS))),
            spoof: &[10, 11, 29, 35],
            is_syn: true,
        },
        Kind {
            name: "words of DHCP servers",
            lost: &["host-queue-full"],
            frame: offer(mac),
            spoof: &[10, 11, EXCHANGE, EXCHANGE + 1],
            is_syn: false,
        },
        Kind {
            name: "frames of no protocol",
            lost: &["not-for-us"],
            frame: ethernet(mac, [0x88, 0xb5], &[0; 46]),
            spoof: &[10, 11],
            is_syn: false,
        },
        Kind {
            name: "cut packets",
            lost: &["outer-malformed"],
            frame: v4(17, &[0; 4]),
            spoof: &[10, 11],
            is_syn: false,
        },
    ])
}

/// All kinds in turn, some 60,000 frames per second at the most.
pub(super) fn send_frames(
    mut tap: &File,
    kinds: &[Kind],
    sent: &[AtomicU64],
    stop: &AtomicBool,
) -> Result<()> {
    let mut serial = 0_u32;
    let mut frames: Vec<_> = kinds.iter().map(|kind| kind.frame.clone()).collect();
    while !stop.load(Ordering::Relaxed) {
        for ((kind, frame), sent) in kinds.iter().zip(&mut frames).zip(sent) {
            for _ in 0..8 {
                serial = serial.wrapping_mul(0x9E37_79B1).wrapping_add(1);
                for (&at, byte) in kind.spoof.iter().zip(serial.to_be_bytes()) {
                    frame[at] = byte;
                }
                if kind.is_syn {
                    sum(frame);
                }
                if tap.write(frame).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(super) fn ethernet(to: [u8; 6], ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 9, 9], &ether_type, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The metrics' port at an uplink.
const METRICS: u16 = 9587;

fn syn(port: u16) -> Vec<u8> {
    let mut segment = vec![0x99, 0x99];
    segment.extend(port.to_be_bytes());
    segment.extend([1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// From 203.0.113.99, whom no list has.
fn stranger(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[26..29].copy_from_slice(&[203, 0, 113]);
    frame
}

/// Makes the sums of a SYN in IPv4.
fn sum(frame: &mut [u8]) {
    const TCP: usize = 20;
    let (_, packet) = frame.split_at_mut(14);
    let (header, segment) = packet.split_at_mut(20);
    let segment = &mut segment[..TCP];
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    segment[16..18].fill(0);
    let pseudo = [&header[12..20], &[0, 6, 0, 20], segment].concat();
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// Where an exchange's number lies.
const EXCHANGE: usize = 14 + 20 + 8 + 4;

/// 192.0.2.99 offers 192.0.2.98 to the uplink's client, in an exchange that it does not know.
fn offer(mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0];
    message.resize(16, 0);
    message.extend([192, 0, 2, 98]);
    message.resize(28, 0);
    message.extend(mac);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63]);
    message.extend([
        53, 1, 2, 54, 4, 192, 0, 2, 99, 51, 4, 0, 0, 9, 9, 1, 4, 255, 255, 255, 0, 255,
    ]);
    let len = u16::try_from(message.len() + 8).unwrap_or(8);
    let mut datagram = vec![0, 67, 0, 68];
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(message);
    ethernet(mac, [8, 0], &ipv4(17, &datagram))
}

/// From 192.0.2.99.
fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + body.len()).unwrap_or(20);
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend([192, 0, 2, 99, 192, 0, 2, 1]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

/// The first fragment of a packet of 2001:db8::99's, the others of which never come; its number lies at 58.
fn first_fragment(mac: [u8; 6]) -> Vec<u8> {
    let source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];
    let us = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let header = [0x60, 0, 0, 0, 0, 24, 44, 64];
    let fragment = [17, 0, 0, 1, 0, 0, 0, 0];
    let packet = [&header[..], &source, &us, &fragment, &[0x99; 16]].concat();
    ethernet(mac, [0x86, 0xdd], &packet)
}

/// 2001:db8::99 asks for 2001:db8::1, without saying where it is itself.
fn solicitation() -> Vec<u8> {
    let source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    let target = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    let pseudo = [&source[..], &group, &[0, 0, 0, 24, 0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let packet = [&header[..], &source, &group, &message].concat();
    ethernet([0x33, 0x33, 0xff, 0, 0, 1], [0x86, 0xdd], &packet)
}

pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The MAC address of a side's end of the cable.
pub(super) fn mac_of(namespace: &Namespace) -> Result<[u8; 6]> {
    let line = namespace.ip(&format!("-o link show {}", Veth::NAME))?;
    let (_, rest) = line.split_once("link/ether ").context("no MAC")?;
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(rest.split([':', ' '])) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(mac)
}
