//! Any segments and datagrams to a host stack that listens, calls and has an endpoint: it stands, keeps no more than its
//! bounds, and rests when nothing comes.
#![no_main]

use std::{
    hash::RandomState,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use culvert_stack::{
    HostConfig, HostStack, limits,
    tcp::{Listener, Phase, Service},
    udp::Family,
};
use culvert_wire::{Checksum, EtherType, MacAddr, ether, fib::Prefix, ipv4};
use culvert_wireguard::Instant;
use libfuzzer_sys::fuzz_target;

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 80;

/// A packet with a right sum, whatever it says.
fn frame(protocol: u8, host: u8, l4: &[u8]) -> Vec<u8> {
    let source = Ipv4Addr::new(192, 0, 2, 2 + host % 4);
    let total_len = u16::try_from(20 + l4.len()).unwrap_or(u16::MAX);
    let ip = ipv4::header(&ipv4::Ipv4Fields {
        source,
        destination: OWN,
        tos: 0,
        id: 1,
        dont_fragment: true,
        ttl: 64,
        protocol,
        total_len,
    });
    let mut l4 = l4.to_vec();
    let at = if protocol == 6 { 16 } else { 6 };
    l4[at..at + 2].fill(0);
    let len = u32::try_from(l4.len()).unwrap_or(0);
    let mut sum = Checksum::pseudo_v4(source, OWN, protocol, len);
    sum.add(&l4);
    l4[at..at + 2].copy_from_slice(&sum.complement().to_be_bytes());
    [&ether::header(US, THEM, EtherType::IPV4)[..], &ip, &l4].concat()
}

fuzz_target!(|input: &[u8]| {
    let others = (2..6).map(|host| (IpAddr::from([192, 0, 2, host]), THEM));
    let config = HostConfig {
        mac: US,
        addresses: vec![(OWN.into(), 24)],
        routes: Vec::new(),
        neighbors: others.collect(),
        mtu: 1_500,
    };
    let mut now = Instant::from_nanos(1 << 40);
    let mut stack = HostStack::begin(config, RandomState::new(), |_| true, now);
    let allow = Prefix::new(OWN.into(), 24).into_iter().collect();
    let service = Service(0);
    stack.listen(vec![Listener { port: PORT, service, allow }]);
    let endpoint = stack.open_endpoint(Family::V4).expect("the first");
    let _ = stack.bind(endpoint, None, 53);
    let mut open = Vec::new();
    // The last words of ours to each host: whoever sees them can answer them.
    let mut said = [(0_u16, 0_u32, 0_u32); 4];
    let mut rest = input;
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let [what, host, flags, port, sequence, acknowledgment, window, len] = *head;
        let len = usize::from(len).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let (ours, seen, expected) = said[usize::from(host % 4)];
        match what & 7 {
            0 => now = now + Duration::from_millis(u64::from(port) * 40),
            1 => {
                let mut datagram = vec![0, port, 0, 53, 0, 0, 0, 0];
                datagram.extend(bytes);
                let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
                datagram[4..6].copy_from_slice(&len.to_be_bytes());
                stack.handle_frame(&frame(17, host, &datagram), now);
            }
            2 => {
                let to = (IpAddr::from([192, 0, 2, 2 + host % 4]), u16::from(port)).into();
                open.extend(stack.connect(to, now).ok());
            }
            _ => {
                let to = if what & 8 == 0 { PORT } else { ours };
                let mut segment = vec![4, port % 8];
                segment.extend(to.to_be_bytes());
                segment.extend(expected.wrapping_add(u32::from(sequence) << (what >> 4)).to_be_bytes());
                segment.extend(seen.wrapping_add(u32::from(acknowledgment)).to_be_bytes());
                let options = len.min(40) / 4;
                segment.extend([(5 + u8::try_from(options).unwrap_or(0)) << 4, flags, window, 0]);
                segment.extend([0; 4]);
                segment.extend(bytes);
                stack.handle_frame(&frame(6, host, &segment), now);
            }
        }
        stack.handle_timeout(now);
        while let Some(frame) = stack.poll_frame().or_else(|| stack.poll_segment()) {
            if frame.len() >= 54 && frame[23] == 6 {
                let word = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
                let place = usize::from(frame[33].wrapping_sub(2) % 4);
                said[place] = (u16::from_be_bytes([frame[34], frame[35]]), word(38), word(42));
            }
        }
        open.extend(stack.poll_accepted());
        for &id in &open {
            stack.read(id, now, <[u8]>::len);
            stack.write(id, bytes, now);
        }
        open.retain(|&id| {
            let lives = stack.phase(id) != Phase::Closed;
            if !lives {
                stack.release(id, false, now);
            }
            lives
        });
        let _ = stack.receive(endpoint);
        assert!(stack.connections().count() <= limits::CONNECTIONS + limits::OPENINGS);
    }
    // Nothing is left of what nobody holds.
    for id in open {
        stack.release(id, true, now);
    }
    for _ in 0..10_000 {
        let due = stack.poll_timeout().filter(|&at| at < now + limits::CONNECTION_LINGER * 4);
        let Some(at) = due else { break };
        now = now.max(at) + Duration::from_millis(1);
        stack.handle_timeout(now);
        while stack.poll_frame().is_some() || stack.poll_segment().is_some() {}
    }
    assert_eq!(stack.connections().count(), 0, "a connection of nobody's lives");
});
