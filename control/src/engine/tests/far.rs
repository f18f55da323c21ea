//! A WireGuard at the other end, made of the protocol crate and one socket.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::shared::clock;
use culvert_wireguard::{
    Budget, Device, Event, Handshake, Keypair, Now, PeerConfig, PresharedKey, Transmit,
    message::{DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader, Kind},
};
use rand_core::UnwrapErr;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::keys::{PrivateKey, PublicKey};

/// One that has called, and waits for the answer.
pub(super) struct Far {
    device: Device,
    socket: UdpSocket,
}

impl Far {
    /// Calls whoever has that key at a port of this machine's.
    pub(super) fn call(own: &PrivateKey, other: PublicKey, port: u16) -> Self {
        Self::call_at(own, other, ([127, 0, 0, 1], port).into())
    }

    /// The same at one of its addresses.
    pub(super) fn call_at(own: &PrivateKey, other: PublicKey, to: SocketAddr) -> Self {
        let now = clock::now();
        let random = Box::new(UnwrapErr(getrandom::SysRng));
        let mut device = Device::new(Default::default(), Some(own.clone()), random);
        let peer = PeerConfig {
            public_key: other,
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some(to),
        };
        let peer = device.add_peer(peer, now).unwrap();
        device.initiate(peer, now);
        device.handle_calls(&mut Budget::default(), 1, now);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        while let Some(message) = device.poll_transmit() {
            // Where nobody listens, nobody answers.
            let _ = socket.send_to(message.bytes(), message.to);
        }
        Self { device, socket }
    }

    /// What it says first to whoever has that key and is at `to`, without a socket.
    pub(super) fn first_call(
        own: &PrivateKey,
        other: PublicKey,
        to: SocketAddr,
        now: Now,
    ) -> Transmit {
        let random = Box::new(UnwrapErr(getrandom::SysRng));
        let mut device = Device::new(Default::default(), Some(own.clone()), random);
        let peer = PeerConfig {
            public_key: other,
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some(to),
        };
        let peer = device.add_peer(peer, now).unwrap();
        device.initiate(peer, now);
        device.handle_calls(&mut Budget::default(), 1, now);
        device.poll_transmit().unwrap()
    }

    /// Whether the answer comes within `patience`.
    pub(super) fn hears(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 256];
        let Ok((len, from)) = self.socket.recv_from(&mut buffer) else {
            return false;
        };
        let verdict = self
            .device
            .handle_handshake(&buffer[..len], from, 0, clock::now());
        matches!(verdict, Handshake::ResponseAccepted(_))
    }
}

/// Once it was answered.
impl Far {
    /// The session that it has.
    pub(super) fn session(&mut self) -> Arc<Keypair> {
        let events = std::iter::from_fn(|| self.device.poll_event());
        let current = events.filter_map(|event| {
            let Event::CurrentKeypair { keypair, .. } = event else {
                return None;
            };
            keypair
        });
        current.last().unwrap()
    }

    /// Where it is.
    pub(super) fn place(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Goes to another port.
    pub(super) fn move_on(&mut self) {
        self.socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    }

    /// Says with a session that it is there.
    pub(super) fn keep_alive(&self, session: &Keypair, port: u16) {
        let counter = session
            .reserve(1, clock::monotonic())
            .unwrap()
            .next()
            .unwrap();
        let mut message = [0; DATA_MIN_LEN];
        let header = DataHeader {
            receiver: session.remote_index(),
            counter,
        };
        header.write(message.first_chunk_mut().unwrap());
        let key = cipher(session.sending_key());
        let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), &mut []);
        message[DATA_HEADER_LEN..].copy_from_slice(tag.unwrap().as_ref());
        self.socket.send_to(&message, ("127.0.0.1", port)).unwrap();
    }

    /// The next message that comes within `patience`: its kind, and of data that the session opens the counter.
    pub(super) fn receives(&self, session: &Keypair, patience: Duration) -> Option<(Kind, u64)> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 256];
        let (len, _) = self.socket.recv_from(&mut buffer).ok()?;
        let kind = Kind::of(&buffer[..len]).unwrap();
        let Some(header) = DataHeader::parse(&buffer[..len]).filter(|_| kind == Kind::Data) else {
            return Some((kind, 0));
        };
        assert_eq!(header.receiver, session.local_index());
        let key = cipher(session.receiving_key());
        let body = &mut buffer[DATA_HEADER_LEN..len];
        key.open_in_place(nonce(header.counter), Aad::empty(), body)
            .unwrap();
        Some((kind, header.counter))
    }
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap())
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
