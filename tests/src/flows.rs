//! Numbered packets: how many were lost, came twice, were overtaken, and for how long nothing came.
//!
//! In: two namespaces with a way between them, a pace. Out: what became of the packets, once the flow is finished.
//! Never: a packet whose number is used twice; one that the sender's kernel refused and that counts as lost.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};

use crate::network::Namespace;
use crate::process::{program, run};

/// Bytes of a packet's payload.
const SIZE: usize = 512;
/// What the receiver's socket holds while its thread is not running.
const BUFFER: usize = 16 << 20;
/// Silence after which nothing more is on its way.
const SILENCE: Duration = Duration::from_millis(500);
/// Packets that a sender who is late makes up for at once.
const AT_ONCE: u64 = 32;
/// When all that was in flight was lost, another one goes ahead.
const STALLED: Duration = Duration::from_millis(5);

/// How fast packets are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as they arrive, so many in flight.
    Window(u64),
    /// So many in a second, whatever becomes of them.
    Rate(u64),
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Packets that its sender's kernel took.
    pub sent: u64,
    /// Those that arrived, each counted once.
    pub received: u64,
    /// Further copies of them.
    pub duplicates: u64,
    /// Those that came behind a later one.
    pub overtaken: u64,
    /// The longest time between two that came.
    pub gap: Duration,
    /// Those that the receiver's own socket had no room for.
    pub unread: u64,
    /// Between the first and the last one sent.
    pub took: Duration,
}

impl Outcome {
    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Packets in a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }

    /// Of two flows at once.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            received: self.received + other.received,
            duplicates: self.duplicates + other.duplicates,
            overtaken: self.overtaken + other.overtaken,
            gap: self.gap.max(other.gap),
            unread: self.unread + other.unread,
            took: self.took.max(other.took),
        }
    }
}

/// A running flow.
#[derive(Debug)]
pub struct Numbered {
    ends: Arc<AtomicBool>,
    sender: JoinHandle<Result<(u64, Duration)>>,
    receiver: JoinHandle<Result<Outcome>>,
    sent: Arc<AtomicU64>,
}

impl Numbered {
    /// Starts one.
    pub fn start(
        (from, source): (&Namespace, SocketAddrV4),
        (to, target): (&Namespace, SocketAddrV4),
        pace: Pace,
    ) -> Result<Self> {
        let bind = |namespace: &Namespace, at: SocketAddrV4| {
            namespace.enter(|| UdpSocket::bind(at).with_context(|| format!("can't bind to {at}")))
        };
        let (source, target_socket) = (bind(from, source)?, bind(to, target)?);
        setsockopt(&target_socket, sockopt::RcvBufForce, &BUFFER)?;
        source.connect(target)?;
        let ends = Arc::new(AtomicBool::new(false));
        let (sent, arrived) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let receiver = {
            let (sent, arrived) = (Arc::clone(&sent), Arc::clone(&arrived));
            let (over, port) = (Arc::clone(&ends), target.port());
            let namespace = to.name().to_owned();
            thread::spawn(move || {
                let mut outcome = receive(&target_socket, &over, (&sent, &arrived))?;
                outcome.unread = unread(&namespace, port)?;
                Ok(outcome)
            })
        };
        let sender = {
            let (ends, sent) = (Arc::clone(&ends), Arc::clone(&sent));
            thread::spawn(move || send(&source, pace, &ends, (&sent, &arrived)))
        };
        Ok(Self {
            ends,
            sender,
            receiver,
            sent,
        })
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is on its way.
    pub fn finish(self) -> Result<Outcome> {
        self.ends.store(true, Ordering::Release);
        let join = || anyhow!("a flow's thread panicked");
        let (sent, took) = self.sender.join().map_err(|_| join())??;
        let received = self.receiver.join().map_err(|_| join())??;
        Ok(Outcome {
            sent,
            took,
            ..received
        })
    }
}

fn send(
    socket: &UdpSocket,
    pace: Pace,
    ends: &AtomicBool,
    (sent, arrived): (&AtomicU64, &AtomicU64),
) -> Result<(u64, Duration)> {
    let mut packet = [0; SIZE];
    let begin = Instant::now();
    let (mut next, mut last, mut ahead) = (0_u64, begin, 0);
    while !ends.load(Ordering::Acquire) {
        let due = match pace {
            Pace::Window(window) => {
                let stalled = last.elapsed() >= STALLED;
                ahead = if stalled { ahead + 1 } else { 0 };
                arrived.load(Ordering::Acquire) + window + ahead
            }
            Pace::Rate(rate) => {
                let due = begin.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000;
                u64::try_from(due)?
            }
        };
        if next >= due {
            match pace {
                Pace::Window(_) => thread::yield_now(),
                Pace::Rate(_) => thread::sleep(Duration::from_micros(200)),
            }
            continue;
        }
        for _ in 0..AT_ONCE.min(due - next) {
            packet[..8].copy_from_slice(&next.to_le_bytes());
            // A full queue, or what ICMP said of an earlier one: this one was not sent.
            if socket.send(&packet).is_ok() {
                next += 1;
                sent.store(next, Ordering::Release);
            }
        }
        last = Instant::now();
    }
    Ok((next, last - begin))
}

fn receive(
    socket: &UdpSocket,
    ends: &AtomicBool,
    (sent, arrived): (&AtomicU64, &AtomicU64),
) -> Result<Outcome> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut outcome = Outcome::default();
    let (mut seen, mut newest) = (Vec::<u64>::new(), 0);
    let mut last: Option<Instant> = None;
    let mut packet = [0; SIZE];
    loop {
        let Ok(SIZE) = socket.recv(&mut packet) else {
            let all = outcome.received == sent.load(Ordering::Acquire);
            match ends.load(Ordering::Acquire) {
                true if all || last.is_none_or(|at| at.elapsed() >= SILENCE) => return Ok(outcome),
                _ => continue,
            }
        };
        let now = Instant::now();
        if let Some(last) = last.filter(|_| !ends.load(Ordering::Relaxed)) {
            outcome.gap = outcome.gap.max(now - last);
        }
        last = Some(now);
        let (head, _) = packet.split_first_chunk().context("eight bytes")?;
        let number = u64::from_le_bytes(*head);
        let (word, bit) = (usize::try_from(number / 64)?, 1 << (number % 64));
        if seen.len() <= word {
            seen.resize(word + 1024, 0);
        }
        if seen[word] & bit != 0 {
            outcome.duplicates += 1;
            continue;
        }
        seen[word] |= bit;
        outcome.received += 1;
        outcome.overtaken += u64::from(number < newest);
        newest = newest.max(number);
        arrived.fetch_max(number + 1, Ordering::Release);
    }
}

/// Packets that the socket on `port` had no room for.
fn unread(namespace: &str, port: u16) -> Result<u64> {
    let mut command = program(Some(namespace), "cat");
    let table = run(command.arg("/proc/net/udp"), Duration::from_secs(10))?;
    let local = format!(":{port:04X} ");
    let row = table.lines().find(|row| row.contains(&local));
    let drops = row.and_then(|row| row.split_whitespace().last()?.parse().ok());
    Ok(drops.unwrap_or(0))
}
