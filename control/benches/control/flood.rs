//! Strangers without number who call, and one peer among them who wants a session.
//!
//! In: the socket of a running Culvert's tunnel, on loopback. Out: how long the peer took. Never: more messages than a
//! pace says, or any once it is dropped.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use culvert::keys::{PrivateKey, PublicKey};
use culvert_dataplane::shared::clock;
use culvert_wireguard::{Budget, Device, Handshake, Now, PeerConfig, PeerId, PresharedKey};
use rand_core::UnwrapErr;

/// Messages in a millisecond: some times what one core answers.
const PER_MILLISECOND: usize = 20;

/// Strangers, each with a socket of its own.
const STRANGERS: u8 = 64;

/// How long the peer waits for an answer before it calls again.
const PATIENCE: Duration = Duration::from_millis(500);

/// Protocol: nobody calls the same peer more often (`REKEY_TIMEOUT`, and a third of a second of jitter).
const AGAIN: Duration = Duration::from_millis(5_400);

/// Valid initiations of nobody's peers; ends when it is dropped.
pub(crate) struct Flood {
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(of: PublicKey, port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let strangers = (1..=STRANGERS).map(|number| Caller::new([number; 32], of, port));
        let mut strangers: Vec<_> = strangers.collect();
        let calls: Vec<_> = strangers.iter_mut().map(Caller::message).collect();
        let sender = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut next = (0..strangers.len()).cycle();
                while !over.load(Ordering::Relaxed) {
                    for stranger in next.by_ref().take(PER_MILLISECOND) {
                        strangers[stranger].say(&calls[stranger]);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            over,
            sender: Some(sender),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // What it failed of is seen in the figures.
        let _ = self.sender.take().map(JoinHandle::join);
    }
}

/// Somebody who calls from a socket of its own.
pub(crate) struct Caller {
    device: Device,
    peer: PeerId,
    socket: UdpSocket,
    /// Its clock runs ahead: it waits for nothing that only the protocol asks of it.
    ahead: Duration,
}

impl Caller {
    pub(crate) fn new(key: [u8; 32], of: PublicKey, port: u16) -> Self {
        let random = Box::new(UnwrapErr(getrandom::SysRng));
        let mut device = Device::new(
            Default::default(),
            Some(PrivateKey::from_bytes(key)),
            random,
        );
        let peer = PeerConfig {
            public_key: of,
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some(SocketAddr::from(([127, 0, 0, 1], port))),
        };
        let peer = device.add_peer(peer, clock::now()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            device,
            peer,
            socket,
            ahead: Duration::ZERO,
        }
    }

    /// Its identity.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.device.public_key().unwrap()
    }

    /// How long it takes until it has a new session.
    pub(crate) fn session(&mut self) -> Duration {
        let begin = Instant::now();
        loop {
            let message = self.message();
            self.say(&message);
            if self.is_answered() {
                return begin.elapsed();
            }
        }
    }

    /// What it calls with, as soon as it may: who is not answered calls less and less often.
    fn message(&mut self) -> Vec<u8> {
        loop {
            self.ahead += AGAIN;
            let now = self.now();
            self.device.renew(self.peer, now);
            self.device.handle_timeout(now);
            self.device.handle_calls(&mut Budget::default(), 1, now);
            if let Some(said) = self.device.poll_transmit() {
                return said.bytes().to_vec();
            }
        }
    }

    fn say(&self, message: &[u8]) {
        // Where there is no room for it, it is lost, as on a wire.
        let _ = self.socket.send(message);
    }

    /// Whether there is a session; a cookie is none yet. What answers an earlier call is none either.
    fn is_answered(&mut self) -> bool {
        let mut buffer = [0; 256];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let from = self.socket.peer_addr().unwrap();
            let now = self.now();
            match self.device.handle_handshake(&buffer[..len], from, 0, now) {
                Handshake::ResponseAccepted(_) => return true,
                Handshake::CookieAccepted(_) => return false,
                Handshake::InitiationAccepted(_)
                | Handshake::CookieSent
                | Handshake::Dropped(_) => {}
            }
        }
        false
    }

    fn now(&self) -> Now {
        let now = clock::now();
        Now {
            monotonic: now.monotonic + self.ahead,
            unix: now.unix + self.ahead,
        }
    }
}
