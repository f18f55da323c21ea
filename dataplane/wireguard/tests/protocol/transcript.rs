//! Whole handshakes, byte for byte, against transcripts that were computed without this crate.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use culvert_wireguard::message::DataHeader;
use culvert_wireguard::{
    Budget, Config, Device, Event, Handshake, Instant, Keypair, Now, PeerConfig, PeerId,
    PresharedKey, PrivateKey, PublicKey, Role, Transmit,
};
use rand_core::{TryCryptoRng, TryRng};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    initiator_private: String,
    responder_private: String,
    initiator_public: String,
    responder_public: String,
    initiator_ephemeral: String,
    responder_ephemeral: String,
    initiator_index: String,
    responder_index: String,
    preshared_key: String,
    unix_seconds: u64,
    unix_nanoseconds: u32,
    initiation: String,
    response: String,
    key_to_responder: String,
    key_to_initiator: String,
    first_keepalive: String,
    cookie: Option<Cookie>,
}

#[derive(Deserialize)]
struct Cookie {
    source: SocketAddr,
    secret: String,
    nonce: String,
    reply: String,
    initiator_ephemeral: String,
    initiator_index: String,
    initiation: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../data/handshake.json")).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

/// "Randomness" that was agreed beforehand: ephemeral keys and the like in order, indices in order, no jitter.
struct Script {
    fills: VecDeque<Vec<u8>>,
    words: VecDeque<u32>,
}

impl Script {
    fn new(fills: &[&str], indices: &[&str]) -> Box<Self> {
        Box::new(Self {
            fills: fills.iter().map(|hex| bytes(hex)).collect(),
            words: indices
                .iter()
                .map(|hex| u32::from_le_bytes(array(hex)))
                .collect(),
        })
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.words.pop_front().expect("no further index is drawn"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.fills.pop_front().expect("no further key is drawn"));
        Ok(())
    }
}

impl TryCryptoRng for Script {}

struct Side {
    device: Device,
    peer: PeerId,
}

impl Side {
    fn new(
        private: &str,
        remote: &str,
        psk: &str,
        script: Box<Script>,
        endpoint: Option<SocketAddr>,
        now: Now,
    ) -> Self {
        let private = PrivateKey::from_bytes(array(private));
        let mut device = Device::new(Config::default(), Some(private), script);
        let config = PeerConfig {
            public_key: PublicKey::from_hex(remote).unwrap(),
            preshared_key: PresharedKey::from_hex(psk).unwrap(),
            persistent_keepalive: None,
            endpoint,
        };
        let peer = device.add_peer(config, now).unwrap();
        Self { device, peer }
    }

    fn call(&mut self, now: Now) {
        assert_eq!(self.device.handle_calls(&mut Budget::default(), 2, now), 1);
    }

    fn transmit(&mut self) -> Transmit {
        let transmit = self.device.poll_transmit().expect("a message is due");
        assert!(self.device.poll_transmit().is_none(), "only one is");
        transmit
    }

    fn keypair(&mut self) -> Arc<Keypair> {
        std::iter::from_fn(|| self.device.poll_event())
            .find_map(|event| {
                if let Event::KeypairAdded { keypair, .. } = event {
                    Some(keypair)
                } else {
                    None
                }
            })
            .expect("a session began")
    }
}

fn at(case: &Case, later: u64) -> Now {
    Now {
        monotonic: Instant((100 + later) * 1_000_000_000),
        unix: Duration::new(case.unix_seconds + later, case.unix_nanoseconds),
    }
}

const RESPONDER: &str = "198.51.100.1:51820";
const INITIATOR: &str = "192.0.2.7:40000";

#[test]
fn both_sides_of_each_handshake_match() {
    for case in cases() {
        let now = at(&case, 0);
        let script = Script::new(&[&case.initiator_ephemeral], &[&case.initiator_index]);
        let endpoint = Some(RESPONDER.parse().unwrap());
        let psk = &case.preshared_key;
        let mut a = Side::new(
            &case.initiator_private,
            &case.responder_public,
            psk,
            script,
            endpoint,
            now,
        );
        assert_eq!(
            a.device.public_key().unwrap().to_hex(),
            case.initiator_public
        );
        let script = Script::new(&[&case.responder_ephemeral], &[&case.responder_index]);
        let mut b = Side::new(
            &case.responder_private,
            &case.initiator_public,
            psk,
            script,
            None,
            now,
        );

        a.device.initiate(a.peer, now);
        a.call(now);
        let initiation = a.transmit();
        assert_eq!(initiation.bytes(), bytes(&case.initiation), "{}", case.name);
        assert_eq!(
            (initiation.to, initiation.tos),
            (RESPONDER.parse().unwrap(), 0x88)
        );

        let verdict =
            b.device
                .handle_handshake(initiation.bytes(), INITIATOR.parse().unwrap(), 0, now);
        assert_eq!(
            verdict,
            Handshake::InitiationAccepted(b.peer),
            "{}",
            case.name
        );
        let response = b.transmit();
        assert_eq!(response.bytes(), bytes(&case.response), "{}", case.name);
        assert_eq!(
            (response.to, response.tos),
            (INITIATOR.parse().unwrap(), 0x88)
        );

        let verdict =
            a.device
                .handle_handshake(response.bytes(), RESPONDER.parse().unwrap(), 0, now);
        assert_eq!(
            verdict,
            Handshake::ResponseAccepted(a.peer),
            "{}",
            case.name
        );

        let (to_responder, to_initiator) =
            (array(&case.key_to_responder), array(&case.key_to_initiator));
        let (ours, theirs) = (a.keypair(), b.keypair());
        assert_eq!(
            (ours.sending_key(), ours.receiving_key()),
            (&to_responder, &to_initiator)
        );
        assert_eq!(
            (theirs.sending_key(), theirs.receiving_key()),
            (&to_initiator, &to_responder)
        );
        assert_eq!(
            (ours.role(), theirs.role()),
            (Role::Initiator, Role::Responder)
        );
        assert_eq!(ours.remote_index(), theirs.local_index());
        assert_eq!(theirs.remote_index(), ours.local_index());

        let counter = ours.reserve(1, now.monotonic).unwrap().next().unwrap();
        let mut keepalive = [0; 32];
        let header = DataHeader {
            receiver: ours.remote_index(),
            counter,
        };
        header.write(keepalive.first_chunk_mut().unwrap());
        let tag = ChaCha20Poly1305::new(ours.sending_key().into())
            .encrypt_inout_detached(&[0; 12].into(), &[], InOutBuf::from(&mut [][..]))
            .unwrap();
        keepalive[16..].copy_from_slice(&tag);
        assert_eq!(keepalive[..], bytes(&case.first_keepalive), "{}", case.name);
    }
}

#[test]
fn cookie_replies_and_mac2_match() {
    let mut ran = 0;
    for case in cases() {
        let Some(cookie) = &case.cookie else { continue };
        ran += 1;
        let now = at(&case, 0);
        let script = Script::new(
            &[&case.initiator_ephemeral, &cookie.initiator_ephemeral],
            &[&case.initiator_index, &cookie.initiator_index],
        );
        let endpoint = Some(RESPONDER.parse().unwrap());
        let psk = &case.preshared_key;
        let mut a = Side::new(
            &case.initiator_private,
            &case.responder_public,
            psk,
            script,
            endpoint,
            now,
        );
        let script = Script::new(
            &[&cookie.secret, &cookie.nonce, &case.responder_ephemeral],
            &[&case.responder_index],
        );
        let mut b = Side::new(
            &case.responder_private,
            &case.initiator_public,
            psk,
            script,
            None,
            now,
        );

        a.device.initiate(a.peer, now);
        a.call(now);
        let initiation = a.transmit();
        let verdict = b
            .device
            .handle_handshake(initiation.bytes(), cookie.source, 4096, now);
        assert_eq!(verdict, Handshake::CookieSent, "{}", case.name);
        let reply = b.transmit();
        assert_eq!(reply.bytes(), bytes(&cookie.reply), "{}", case.name);
        assert_eq!((reply.to, reply.tos, reply.peer), (cookie.source, 0, None));

        let verdict = a
            .device
            .handle_handshake(reply.bytes(), RESPONDER.parse().unwrap(), 0, now);
        assert_eq!(verdict, Handshake::CookieAccepted(a.peer), "{}", case.name);
        assert!(
            a.device.poll_transmit().is_none(),
            "the cookie waits for the next try"
        );

        let now = at(&case, 6);
        a.device.handle_timeout(now);
        a.call(now);
        let again = a.transmit();
        assert_eq!(again.bytes(), bytes(&cookie.initiation), "{}", case.name);
        let verdict = b
            .device
            .handle_handshake(again.bytes(), cookie.source, 4096, now);
        assert_eq!(
            verdict,
            Handshake::InitiationAccepted(b.peer),
            "{}",
            case.name
        );
    }
    assert_eq!(ran, 2);
}
