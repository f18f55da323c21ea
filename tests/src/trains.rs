//! Trains of datagrams: sent as one message with `UDP_SEGMENT`, received as one with `UDP_GRO`.
//!
//! In: two namespaces, an address, sizes. Out: how the datagrams came, each checked for its size and every byte.
//! Never: a loss that passes as success.

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
    sockopt::{RcvBufForce, UdpGroSegment, UdpGsoSegment},
};

use crate::network::Namespace;

/// Trains on their way at once: queues on the way are not what is tested.
const WINDOW: usize = 3;
/// How long either side waits for one more message.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest payload of a UDP datagram over IPv4.
const PAYLOAD_MAX: usize = 65_507;
/// Datagrams in one message (the kernel's `UDP_MAX_SEGMENTS` was 64 at first).
const SEGMENTS_MAX: usize = 64;

/// How trains arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trains {
    /// Datagrams, all of them right.
    pub datagrams: usize,
    /// Messages that they came in.
    pub messages: usize,
    /// Bytes of the longest message.
    pub longest: usize,
}

/// Sends `count` trains of datagrams of `size` bytes to `address` in `to`; the last one of each train is shorter.
pub fn trains(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    size: usize,
    count: usize,
) -> Result<Trains> {
    ensure!(size > 8, "a datagram holds its number");
    let per_train = SEGMENTS_MAX.min(PAYLOAD_MAX / size);
    let total = per_train * count;
    let length = |index: usize| match (index + 1) % per_train {
        0 => size / 2 + 4,
        _ => size,
    };
    let receiver = to.enter(|| {
        // Any port: programs that start just now may hold the last one's socket a moment longer.
        let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        setsockopt(&socket, UdpGroSegment, &true)?;
        setsockopt(&socket, RcvBufForce, &(32 << 20))?;
        Ok(socket)
    })?;
    let came = AtomicUsize::new(0);
    thread::scope(|scope| {
        let received = scope.spawn(|| receive(&receiver, total, length, &came));
        let sent = from.enter(|| {
            let any: IpAddr = match address {
                IpAddr::V4(_) => [0; 4].into(),
                IpAddr::V6(_) => [0; 16].into(),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.connect(receiver.local_addr()?)?;
            setsockopt(&socket, UdpGsoSegment, &i32::try_from(size)?)?;
            for train in 0..count {
                let bytes: Vec<u8> = (train * per_train..(train + 1) * per_train)
                    .flat_map(|index| datagram(index, length(index)))
                    .collect();
                socket.send(&bytes).context("a train")?;
                let sent = (train + 1) * per_train;
                let start = Instant::now();
                while sent - came.load(Ordering::Relaxed) > WINDOW * per_train {
                    // The receiver says what is missing.
                    if start.elapsed() > PATIENCE {
                        return Ok(());
                    }
                    thread::sleep(Duration::from_micros(100));
                }
            }
            Ok(())
        });
        let received = received
            .join()
            .unwrap_or_else(|_| bail!("the receiver panicked"));
        sent.and(received)
    })
}

fn receive(
    socket: &UdpSocket,
    total: usize,
    length: impl Fn(usize) -> usize,
    came: &AtomicUsize,
) -> Result<Trains> {
    let mut trains = Trains::default();
    let mut buffer = vec![0; 1 << 16];
    let mut seen = vec![false; total];
    while trains.datagrams < total {
        let mut control = nix::cmsg_space!(i32);
        let mut pieces = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut pieces,
            Some(&mut control),
            MsgFlags::empty(),
        )
        .with_context(|| format!("{} of {total} datagrams came", trains.datagrams))?;
        let len = message.bytes;
        let mut size = len;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::UdpGroSegments(segment) = control {
                size = usize::try_from(segment)?;
            }
        }
        trains.messages += 1;
        trains.longest = trains.longest.max(len);
        for bytes in buffer[..len].chunks(size.max(1)) {
            let number = bytes
                .first_chunk::<4>()
                .context("a datagram without number")?;
            let index = usize::try_from(u32::from_be_bytes(*number))?;
            ensure!(index < total, "a datagram with the number {index}");
            ensure!(!seen[index], "datagram {index} came twice");
            ensure!(
                bytes.len() == length(index),
                "datagram {index} has {} bytes, not {}",
                bytes.len(),
                length(index)
            );
            ensure!(
                bytes == datagram(index, bytes.len()),
                "datagram {index} was changed"
            );
            seen[index] = true;
            trains.datagrams += 1;
        }
        came.store(trains.datagrams, Ordering::Relaxed);
    }
    Ok(trains)
}

/// A datagram's bytes: its number, then bytes that depend on number and place.
fn datagram(index: usize, length: usize) -> Vec<u8> {
    let number = u32::try_from(index).unwrap_or(u32::MAX);
    let mut state = u64::from(number) | 1 << 40;
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((4..length).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    }));
    bytes
}
