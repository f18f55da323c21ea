//! A flood of handshake initiations from invented addresses, each with a valid mac1.
//!
//! In: a namespace, whom to call (a public key), where. Out: as many initiations as one core can send, until dropped.
//! Never: more than its bound of packets; anything to an address outside the namespaces.
//!
//! Everything but the source address is made beforehand: a pool of messages that look like initiations to anyone
//! without the private key. What they cost the receiver is what an attacker who knows its public key can make it cost.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_wireguard::PublicKey;
use culvert_wireguard::cookie::Mac1;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketType, ipproto,
    sendmmsg, socket,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::network::Namespace;
use crate::scenario::Scenario;
use crate::topology::{GUEST_MTU, Outer};
use crate::tunnel::{End, Pair, Program};

/// Messages made beforehand: they stay in a core's cache.
const POOL: usize = 1024;
/// Packets per system call.
const BATCH: usize = 64;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const INITIATION: usize = 148;
const PACKET: usize = IP_HEADER + UDP_HEADER + INITIATION;
/// The end of any flood: minutes at the highest rate seen.
const MOST: u64 = 500_000_000;

/// A running flood; it ends when dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    started: Instant,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts sending from `namespace` on a core.
    pub fn start(
        namespace: &Namespace,
        public_key: &str,
        to: SocketAddrV4,
        core: usize,
    ) -> Result<Self> {
        let receiver = PublicKey::from_base64(public_key).context("a public key")?;
        let pool = pool(&Mac1::new(&receiver), to)?;
        let raw = namespace.enter(|| {
            // IPPROTO_RAW: the headers are ours, source address included.
            let protocol = Some(ipproto::RAW);
            Ok(socket(AddressFamily::INET, SocketType::RAW, protocol)?)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (halt, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut cores = CpuSet::new();
            cores.set(core);
            sched_setaffinity(None, &cores)?;
            send_until(&raw, pool, to, &halt, &count)
        });
        Ok(Self {
            stop,
            sent,
            started: Instant::now(),
            thread: Some(thread),
        })
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it: how many packets were sent, and in what time.
    pub fn finish(mut self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            outcome.map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        }
        Ok((self.sent(), self.started.elapsed()))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A flood that is no longer wanted may have failed.
            let _ = thread.join();
        }
    }
}

/// IP and UDP headers, and messages with random insides.
fn pool(mac1: &Mac1, to: SocketAddrV4) -> Result<Vec<[u8; PACKET]>> {
    let mut random = vec![0; POOL * INITIATION];
    let mut source = std::fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut random)?;
    let messages = random.chunks_exact(INITIATION);
    messages
        .map(|noise| {
            let mut packet = [0; PACKET];
            // The kernel fills in the length, the identification and the checksum.
            packet[0] = 0x45;
            packet[8] = 64;
            packet[9] = 17;
            packet[16..20].copy_from_slice(&to.ip().octets());
            let udp = &mut packet[IP_HEADER..];
            udp[2..4].copy_from_slice(&to.port().to_be_bytes());
            let len = u16::try_from(UDP_HEADER + INITIATION)?;
            udp[4..6].copy_from_slice(&len.to_be_bytes());
            let message = &mut udp[UDP_HEADER..];
            message.copy_from_slice(noise);
            message[..4].copy_from_slice(&[1, 0, 0, 0]);
            // No mac2: whoever invents a source address gets no cookie.
            message[INITIATION - 16..].fill(0);
            ensure!(mac1.fill(message));
            Ok(packet)
        })
        .collect()
}

fn send_until(
    raw: &impl std::os::fd::AsFd,
    mut pool: Vec<[u8; PACKET]>,
    to: SocketAddrV4,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let address = SocketAddrAny::from(to);
    let mut serial = 0_u32;
    while !stop.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < MOST {
        for batch in pool.chunks_mut(BATCH) {
            for packet in batch.iter_mut() {
                // 11.0.0.0/8, in no order that a table would like.
                serial = serial.wrapping_add(1);
                let spread = serial.wrapping_mul(0x9E37_79B1).to_be_bytes();
                packet[12..16]
                    .copy_from_slice(&Ipv4Addr::new(11, spread[0], spread[1], spread[2]).octets());
                packet[20..22].copy_from_slice(&[0x80 | spread[2], spread[3]]);
            }
            let slices: Vec<[IoSlice<'_>; 1]> =
                batch.iter().map(|packet| [IoSlice::new(packet)]).collect();
            let mut space: Vec<[MaybeUninit<u8>; 0]> = vec![[]; batch.len()];
            let mut ancillary: Vec<SendAncillaryBuffer<'_, '_, '_>> = space
                .iter_mut()
                .map(|space| SendAncillaryBuffer::new(space))
                .collect();
            let mut headers: Vec<MMsgHdr<'_>> = slices
                .iter()
                .zip(&mut ancillary)
                .map(|(slice, ancillary)| MMsgHdr::new_with_addr(&address, slice, ancillary))
                .collect();
            match sendmmsg(raw, &mut headers, SendFlags::empty()) {
                Ok(count) => {
                    sent.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("sendmmsg"),
            }
        }
    }
    Ok(())
}

/// A tunnel between two hosts, and a third host from which one of them is flooded.
///
/// ```text
///   a: tun 10.0.0.1 ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 ── b: tun 10.0.0.2
///                                   198.51.100.2 wan1 ──┘
///                                        ║
///                                   198.51.100.1 wan0 ── x: the flood, and a newcomer, tun 10.0.0.3
/// ```
#[derive(Debug)]
pub struct Siege {
    /// The established tunnel; `b` is flooded.
    pub pair: Pair,
    /// A peer that `b` knows and that has no session yet.
    pub newcomer: End,
    /// Where a flood goes that is to cost nothing but its way: a socket that nobody reads.
    sink: std::net::UdpSocket,
    /// The core that is the flood's alone.
    core: usize,
}

impl Siege {
    /// Lays it out and waits until the pair talks. The last core is the flood's; this
    /// thread and what it starts from here on keep to the others.
    pub fn lay(scenario: &Scenario, program: Program) -> Result<Self> {
        let core = leave_a_core()?;
        let pair = Pair::lay(scenario, [program; 2])?;
        pair.meet(Outer::V4)?;
        let b = &pair.b;
        let newcomer = End::make(scenario, "x", program, 51823)?;
        b.namespace.ip(&format!(
            "link add wan1 type veth peer name wan0 netns {}",
            newcomer.namespace.name()
        ))?;
        b.namespace.ip("address add 198.51.100.2/24 dev wan1")?;
        b.namespace.ip("link set wan1 up")?;
        newcomer
            .namespace
            .ip("address add 198.51.100.1/24 dev wan0")?;
        newcomer.namespace.ip("link set wan0 up")?;
        // Answers to invented addresses have a way, too.
        b.namespace.ip("route add default via 198.51.100.1")?;
        b.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.3/32",
            newcomer.public()
        ))?;
        newcomer.tunnel.set(&format!(
            "peer {} allowed-ips 10.0.0.2/32 endpoint 198.51.100.2:{}",
            b.public(),
            b.port
        ))?;
        newcomer
            .tunnel
            .up(&newcomer.namespace, &["10.0.0.3/24".to_owned()], GUEST_MTU)?;
        let sink = b
            .namespace
            .enter(|| Ok(std::net::UdpSocket::bind("198.51.100.2:9")?))?;
        pair.a.wait_ping("10.0.0.2", Duration::from_secs(15))?;
        Ok(Self {
            pair,
            newcomer,
            sink,
            core,
        })
    }

    /// Floods `b`'s tunnel.
    pub fn flood_tunnel(&self) -> Result<Flood> {
        let to = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), self.pair.b.port);
        Flood::start(
            &self.newcomer.namespace,
            self.pair.b.public(),
            to,
            self.core,
        )
    }

    /// Sends the same packets the same way to a port that nobody reads.
    pub fn flood_sink(&self) -> Result<Flood> {
        let to = SocketAddrV4::new(
            Ipv4Addr::new(198, 51, 100, 2),
            self.sink.local_addr()?.port(),
        );
        Flood::start(
            &self.newcomer.namespace,
            self.pair.b.public(),
            to,
            self.core,
        )
    }
}

/// Takes the last of this thread's cores from it, unless it is the only one.
fn leave_a_core() -> Result<usize> {
    let mut cores = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rfind(|core| cores.is_set(*core));
    let last = last.context("a thread without a core")?;
    if cores.count() > 1 {
        cores.unset(last);
        sched_setaffinity(None, &cores)?;
    }
    Ok(last)
}
