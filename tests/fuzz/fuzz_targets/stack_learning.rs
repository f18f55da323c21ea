//! Any bytes from the wire for a stack that learns its addresses: as frames, as what a DHCP server says, as what a router
//! says; whatever comes of it is what a host can have.
#![no_main]

use std::{hash::RandomState, net::IpAddr, time::Duration};

use culvert_stack::{HostConfig, HostStack, Learns, limits};
use culvert_wire::{Checksum, MacAddr};
use culvert_wireguard::Instant;
use libfuzzer_sys::fuzz_target;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const LEARNS: Learns = Learns {
    dhcp4: true,
    accept_ra: true,
};

/// A server's message to our client, without a checksum.
fn served(message: &[u8]) -> Vec<u8> {
    let len = (8 + message.len()) as u16;
    let mut frame = [&MAC.0[..], &[2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0]].concat();
    frame.extend((20 + len).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9, 0, 67, 0, 68]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

const ROUTER: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 1];

/// A router's message, with a checksum.
fn said(to: [u16; 8], mut message: Vec<u8>) -> Vec<u8> {
    let (from, to) = (ROUTER.into(), to.into());
    let mut sum = Checksum::pseudo_v6(from, to, 58, message.len() as u32);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    if !to.is_multicast() {
        frame[..6].copy_from_slice(&MAC.0);
    }
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

fn advertised(options: &[u8]) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend(options);
    said([0xff02, 0, 0, 0, 0, 0, 0, 1], message)
}

/// The router is there.
fn answered() -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
    message.extend(ROUTER.iter().flat_map(|word| word.to_be_bytes()));
    message.extend([2, 1, 2, 0, 0, 0, 0, 2]);
    said([0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1], message)
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(1_400)];
    let config = HostConfig {
        mac: MAC,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbors: Vec::new(),
        mtu: 1500,
    };
    let mut now = Instant(1_000_000_000_000);
    let mut stack = HostStack::new(config, RandomState::new(), now);
    stack.learn_own(LEARNS, None, now);
    let mut asked = [0; 4];
    for kind in [2, 5, 6] {
        while let Some(frame) = stack.poll_frame() {
            if frame.len() > 50 && frame[12..14] == [8, 0] {
                asked.copy_from_slice(&frame[46..50]);
            }
        }
        stack.handle_frame(bytes, now);
        stack.handle_frame(&advertised(bytes), now);
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[4..8].copy_from_slice(&asked);
        message[16..20].copy_from_slice(&[10, 0, 0, 9]);
        message[28..34].copy_from_slice(&MAC.0);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 1, 0]);
        message.extend(bytes);
        stack.handle_frame(&served(&message), now);
    }
    for _ in 0..12 {
        now = now + Duration::from_secs(1);
        stack.handle_timeout(now);
        stack.handle_frame(&answered(), now);
        if let Some(learned) = stack.poll_learned(now) {
            assert!(learned.addresses.len() <= 1 + limits::RA_ROUTERS * limits::RA_PREFIXES);
            assert!(learned.routes.len() <= limits::LEARNED_ROUTES + limits::RA_ROUTERS * (limits::RA_PREFIXES + 1));
            assert!(learned.dns.len() <= 2 * limits::LEARNED_DNS);
            for it in learned.addresses {
                assert!(!it.address.is_multicast() && !it.address.is_unspecified() && !it.address.is_loopback());
                assert!(it.prefix_len <= if matches!(it.address, IpAddr::V4(_)) { 32 } else { 128 });
            }
        }
    }
});
