//! Handshakes per second on one core, the cost of refusing junk, and memory per peer.
//!
//! `cargo bench -p culvert-wireguard [-- --json]`. The reference of a handshake is its X25519 operations alone,
//! measured in the same run: a ratio of 1 would mean that nothing else costs anything.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use culvert_wireguard::{
    Budget, Config, Device, Event, Handshake, Instant, Now, PeerConfig, PeerId, PresharedKey,
    PrivateKey, PublicKey,
};
use rand_core::{Rng as _, SeedableRng as _, TryCryptoRng, TryRng};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: u64 = 2_000;
const IDLE_PEERS: u32 = 10_000;

fn main() {
    let report = if std::env::args().any(|arg| arg == "--json") {
        json
    } else {
        text
    };
    let x25519 = per_round(|rng| {
        let (a, b) = (PrivateKey::generate(rng), [9; 32]);
        let secret = x25519_dalek::StaticSecret::from(*a.as_bytes());
        black_box(secret.diffie_hellman(&x25519_dalek::PublicKey::from(b)));
    });
    let public = per_round(|rng| {
        black_box(PrivateKey::generate(rng).public_key());
    });
    let handshake = handshakes();
    // An initiator makes one ephemeral key and agrees on es, ee, se; a responder on es, ee, se; ss is precomputed.
    let floor = public.as_secs_f64() + 3.0 * x25519.as_secs_f64();
    report(
        "handshake/initiator",
        "1/s",
        rate(handshake.initiator),
        "X25519 alone",
        1.0 / floor,
    );
    report(
        "handshake/responder",
        "1/s",
        rate(handshake.responder),
        "X25519 alone",
        1.0 / floor,
    );
    report(
        "refuse/bad-mac1",
        "1/s",
        rate(handshake.bad_mac1),
        "X25519 alone",
        1.0 / x25519.as_secs_f64(),
    );
    report(
        "refuse/cookie-reply",
        "1/s",
        rate(handshake.cookie_reply),
        "X25519 alone",
        1.0 / x25519.as_secs_f64(),
    );
    let idle = idle_peer_bytes();
    report(
        "memory/idle-peer",
        "B",
        idle,
        "8 receiver-index slots of it",
        64.0,
    );
}

fn text(case: &str, unit: &str, value: f64, reference: &str, reference_value: f64) {
    println!("{case:24} {value:12.0} {unit:4} ({reference}: {reference_value:.0})");
}

fn json(case: &str, unit: &str, value: f64, reference: &str, reference_value: f64) {
    let ratio = if unit == "B" {
        reference_value / value
    } else {
        value / reference_value
    };
    println!(
        "{{\"section\":\"wireguard\",\"case\":\"{case}\",\"unit\":\"{unit}\",\"value\":{value:.1},\
         \"reference\":\"{reference}\",\"reference_value\":{reference_value:.1},\"ratio\":{ratio:.3}}}"
    );
}

/// Time that this thread has spent on a core: what runs beside it doesn't count.
struct Clock(Duration);

impl Clock {
    fn start() -> Self {
        Self(Self::read())
    }

    fn elapsed(&self) -> Duration {
        Self::read().saturating_sub(self.0)
    }

    fn read() -> Duration {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
    }
}

fn rate(time: Duration) -> f64 {
    1.0 / time.as_secs_f64()
}

fn per_round(mut act: impl FnMut(&mut ChaCha20Rng)) -> Duration {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let start = Clock::start();
    for _ in 0..ROUNDS {
        act(&mut rng);
    }
    start.elapsed() / u32::try_from(ROUNDS).unwrap_or(u32::MAX)
}

struct Costs {
    initiator: Duration,
    responder: Duration,
    bad_mac1: Duration,
    cookie_reply: Duration,
}

/// Whole handshakes of two devices, each side's part timed apart.
fn handshakes() -> Costs {
    let [mut a, mut b] = [1, 2].map(|seed| {
        let mut rng = Random::new(seed);
        let private_key = PrivateKey::generate(&mut rng);
        Device::new(Config::default(), Some(private_key), Box::new(rng))
    });
    let to_b = peer(
        &mut a,
        b.public_key().expect("it has an identity"),
        Some(address(2)),
    );
    peer(&mut b, a.public_key().expect("it has an identity"), None);
    let (mut initiator, mut responder) = (Duration::ZERO, Duration::ZERO);
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        // Each round lies beyond REJECT_AFTER_TIME, so that a new session is needed.
        let now = at(200 * round);
        let start = Clock::start();
        a.initiate(to_b, now);
        a.handle_calls(&mut Budget::default(), 1, now);
        let initiation = a.poll_transmit().expect("an initiation is due");
        initiator += start.elapsed();
        let start = Clock::start();
        let verdict = b.handle_handshake(initiation.bytes(), address(1), 0, now);
        assert!(matches!(verdict, Handshake::InitiationAccepted(_)));
        let response = b.poll_transmit().expect("a response is due");
        responder += start.elapsed();
        let start = Clock::start();
        let verdict = a.handle_handshake(response.bytes(), address(2), 0, now);
        assert!(matches!(verdict, Handshake::ResponseAccepted(_)));
        initiator += start.elapsed();
        for device in [&mut a, &mut b] {
            while let Some(event) = device.poll_event() {
                drop::<Event>(event);
            }
        }
        last = initiation.bytes().to_vec();
    }
    let now = at(200 * ROUNDS);
    let cookie_reply = per_round(|_| {
        assert_eq!(
            b.handle_handshake(&last, address(1), 4_096, now),
            Handshake::CookieSent
        );
        black_box(b.poll_transmit());
    });
    last[120] ^= 1;
    let bad_mac1 = per_round(|_| {
        black_box(b.handle_handshake(&last, address(1), 0, now));
    });
    let rounds = u32::try_from(ROUNDS).unwrap_or(u32::MAX);
    Costs {
        initiator: initiator / rounds,
        responder: responder / rounds,
        bad_mac1,
        cookie_reply,
    }
}

/// Resident memory per peer without a session, index table included.
fn idle_peer_bytes() -> f64 {
    let before = resident_bytes();
    let config = Config {
        index_slots: 8 * IDLE_PEERS,
        ..Config::default()
    };
    let mut rng = Random::new(3);
    let private_key = PrivateKey::generate(&mut rng);
    let mut device = Device::new(config, Some(private_key), Box::new(rng));
    for n in 0..IDLE_PEERS {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        peer(&mut device, PublicKey::from_bytes(key), Some(address(1)));
    }
    let after = resident_bytes();
    black_box(&device);
    (after - before) / f64::from(IDLE_PEERS)
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0.0);
    pages * 4096.0
}

fn peer(device: &mut Device, public_key: PublicKey, endpoint: Option<SocketAddr>) -> PeerId {
    let config = PeerConfig {
        public_key,
        preshared_key: PresharedKey::default(),
        persistent_keepalive: None,
        endpoint,
    };
    device
        .add_peer(config, at(0))
        .expect("each key is added once")
}

fn at(seconds: u64) -> Now {
    Now {
        monotonic: Instant((1_000 + seconds) * 1_000_000_000),
        unix: Duration::from_secs(1_700_000_000 + seconds),
    }
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 51820))
}

/// A generator that is the device's own.
struct Random(ChaCha20Rng);

impl Random {
    fn new(seed: u8) -> Self {
        Self(ChaCha20Rng::from_seed([seed; 32]))
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

impl TryCryptoRng for Random {}
