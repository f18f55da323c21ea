//! Handshake messages with a valid mac1, so that they get as deep as their bytes allow, and data headers.
//!
//! Two devices that know each other talk; the input says which of them acts, and how a message is spoiled on its
//! way: not at all, by bytes in any place, or by being another one altogether.
#![no_main]

use core::convert::Infallible;
use core::net::SocketAddr;
use std::time::Duration;

use culvert_wireguard::cookie::Mac1;
use culvert_wireguard::message::{DATA_HEADER_LEN, DataHeader, Kind, Message};
use culvert_wireguard::{
    Budget, Config, Device, Event, Instant, Now, PeerConfig, PeerId, PresharedKey, PrivateKey,
};
use libfuzzer_sys::fuzz_target;
use rand_core::{TryCryptoRng, TryRng};

/// No randomness at all: a counter, so that a crash comes again.
struct Counter(u64);

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ok(self.0 ^ self.0 >> 29)
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for chunk in to.chunks_mut(8) {
            let bytes = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Counter {}

struct Side {
    device: Device,
    peer: PeerId,
    mac1: Mac1,
    address: SocketAddr,
    /// What the other one has sent to it.
    inbox: Vec<Vec<u8>>,
}

fn sides(now: Now) -> [Side; 2] {
    let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
    [0, 1].map(|own: usize| {
        let config = Config { index_slots: 64, ..Config::default() };
        let rng = Box::new(Counter(own as u64 + 1));
        let mut device = Device::new(config, Some(keys[own].clone()), rng);
        let other = SocketAddr::from(([192, 0, 2, 2 - own as u8], 7));
        let peer = device
            .add_peer(
                PeerConfig {
                    public_key: keys[1 - own].public_key(),
                    preshared_key: PresharedKey::from_bytes([3; 32]),
                    persistent_keepalive: None,
                    endpoint: Some(other),
                },
                now,
            )
            .unwrap();
        Side {
            mac1: device.mac1().unwrap(),
            device,
            peer,
            address: SocketAddr::from(([192, 0, 2, 1 + own as u8], 7)),
            inbox: Vec::new(),
        }
    })
}

/// Carries calls and events out as the control core does, and messages to the other side.
fn drain(sides: &mut [Side; 2], from: usize, now: Now) {
    sides[from].device.handle_calls(&mut Budget::default(), 64, now);
    while let Some(event) = sides[from].device.poll_event() {
        if let Event::KeypairAdded { keypair, .. } = event {
            assert_eq!(keypair.receiving_key().len(), 32);
        }
    }
    while let Some(message) = sides[from].device.poll_transmit() {
        assert!(Kind::of(message.bytes()).is_some());
        if sides[1 - from].inbox.len() < 8 {
            sides[1 - from].inbox.push(message.bytes().to_vec());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut now = Now {
        monotonic: Instant::default() + Duration::from_secs(1),
        unix: Duration::from_secs(1_700_000_000),
    };
    let mut sides = sides(now);
    let mut rest = input;
    for _ in 0..24 {
        let Some((&[action, argument], behind)) = rest.split_first_chunk() else {
            return;
        };
        rest = behind;
        let to = usize::from(action & 1);
        let passed = Duration::from_millis(u64::from(argument) * 40);
        now.monotonic = now.monotonic + passed;
        now.unix += passed;
        match action >> 1 & 7 {
            0 => sides[to].device.initiate(sides[to].peer, now),
            1 => sides[to].device.handle_timeout(now),
            // A message as it was sent, with some bytes changed: place, value.
            2..=4 => {
                let Some(mut message) = sides[to].inbox.pop() else {
                    continue;
                };
                let changes = usize::from(action >> 4 & 3);
                for _ in 0..changes {
                    let Some((&[place, value], behind)) = rest.split_first_chunk() else {
                        break;
                    };
                    rest = behind;
                    let len = message.len();
                    message[usize::from(place) % len] ^= value;
                }
                receive(&mut sides, to, message, action & 64 == 0, action & 128 != 0, now);
            }
            // Any bytes of a message's length.
            5 => {
                let len = [148, 92, 64, 32][usize::from(action >> 4 & 3)];
                let mut message = vec![0; len];
                let copied = rest.len().min(len);
                message[..copied].copy_from_slice(&rest[..copied]);
                rest = &rest[copied..];
                message[..4].copy_from_slice(&[1 + (action >> 4 & 3), 0, 0, 0]);
                receive(&mut sides, to, message, action & 64 == 0, action & 128 != 0, now);
            }
            // The same message once more.
            6 => {
                if let Some(message) = sides[to].inbox.last().cloned() {
                    sides[to].inbox.push(message);
                }
            }
            _ => {
                let parsed = Message::parse(rest);
                assert!(parsed.is_none() || Kind::of(rest).is_some());
                if let Some(header) = DataHeader::parse(rest) {
                    let mut out = [0; DATA_HEADER_LEN];
                    header.write(&mut out);
                    assert_eq!(&out[..], &rest[..DATA_HEADER_LEN]);
                }
                let whole = rest.to_vec();
                receive(&mut sides, to, whole, false, false, now);
            }
        }
        drain(&mut sides, to, now);
    }
});

fn receive(
    sides: &mut [Side; 2],
    to: usize,
    mut message: Vec<u8>,
    fill: bool,
    loaded: bool,
    now: Now,
) {
    if fill && message.len() >= 92 {
        let _ = sides[to].mac1.fill(&mut message);
    }
    let source = sides[1 - to].address;
    let backlog = if loaded { 100_000 } else { 0 };
    let _ = sides[to].device.handle_handshake(&message, source, backlog, now);
}
