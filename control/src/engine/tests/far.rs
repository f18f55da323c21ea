//! A WireGuard at the other end, made of the protocol crate and one socket.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use culvert_dataplane::shared::clock;
use culvert_wireguard::{Budget, Device, Handshake, Now, PeerConfig, PresharedKey, Transmit};
use rand_core::UnwrapErr;

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
