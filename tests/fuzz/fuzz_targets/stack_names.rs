//! Any bytes from a server of names: as they are, and behind the question that was asked; whatever comes of it is what a
//! host can have, and each question ends.
#![no_main]

use std::{hash::RandomState, net::IpAddr, time::Duration};

use culvert_stack::{
    HostConfig, HostStack,
    dns::{Client, Families},
    limits,
};
use culvert_wire::MacAddr;
use culvert_wireguard::Instant;
use libfuzzer_sys::fuzz_target;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Ahead of a datagram's bytes.
const HEADERS: usize = 14 + 20 + 8;

/// The server's answer to a question's frame, without a checksum of UDP's.
fn answered(asked: &[u8], message: &[u8]) -> Vec<u8> {
    let len = (8 + message.len()) as u16;
    let mut frame = [&MAC.0[..], &SERVER.0, &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + len).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9, 0, 53]);
    frame.extend(&asked[34..36]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

/// The question, made an answer with as many records as the first byte says, which are the rest.
fn behind(question: &[u8], bytes: &[u8]) -> Vec<u8> {
    let (&[flags, records], rest) = bytes.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let mut message = question.to_vec();
    message[2] |= 0x80 | flags & 2;
    message[3] = flags >> 4;
    message[7] = records;
    message.extend(rest);
    message
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(1_400)];
    let server: IpAddr = [10, 0, 0, 1].into();
    let config = HostConfig {
        mac: MAC,
        addresses: vec![([10, 0, 0, 9].into(), 24)],
        routes: Vec::new(),
        neighbors: vec![(server, SERVER)],
        mtu: 1500,
    };
    let mut now = Instant(1_000_000_000_000);
    let mut stack = HostStack::begin(config, RandomState::new(), |_| true, now);
    let mut client = Client::new(RandomState::new());
    client.ask_of(&[server]);
    let families = Families { v4: true, v6: true };
    client.look_up((), "peer.example.org", families, now);
    let mut told = None;
    while told.is_none() {
        client.turn(&mut stack, now);
        stack.handle_timeout(now);
        let frames: Vec<_> = std::iter::from_fn(|| stack.poll_frame()).collect();
        for frame in frames {
            let is_question = frame.len() > HEADERS + 12 && frame[23] == 17 && frame[36..38] == [0, 53];
            if is_question {
                let question = &frame[HEADERS..];
                let raw = [&question[..2], bytes].concat();
                stack.handle_frame(&answered(&frame, &raw), now);
                stack.handle_frame(&answered(&frame, &behind(question, bytes)), now);
            }
        }
        client.turn(&mut stack, now);
        told = client.poll_found();
        now = now + Duration::from_millis(250);
        assert!(now.since(Instant(1_000_000_000_000)) < limits::NAME_LIFE + Duration::from_secs(2));
    }
    if let Some(((), Ok(found))) = told {
        assert!(!found.addresses.is_empty() && found.addresses.len() <= 2 * limits::NAME_ADDRESSES);
        for it in found.addresses {
            assert!(!it.is_multicast() && !it.is_unspecified() && !it.is_loopback());
        }
    }
});
