//! The in-memory uplink: buffers that change hands between a queue and whoever holds the other end of its wire.
//!
//! In: rooms filled with sealed datagrams; datagrams that the [`Wire`] sends. Out: the same at the other end, in order.
//! Never: a system call, a copy on the queue's side, an allocation after opening.
//!
//! For measurements and tests that must be the same in every run; no configuration makes one.
//!
//! Threads: the worker that owns the queue, and one that holds the wire. A buffer belongs to who has it: full ones go
//! one way, spare ones come back.
//!
//! ```text
//!   Tx ── full ──> Wire::receive        Wire::send ── full ──> Rx
//!      <─ spare ──                                 <─ spare ──
//! ```

#![allow(unsafe_code, reason = "a named room: views of a queue's own buffers")]

use std::{
    net::{IpAddr, SocketAddr},
    ptr::NonNull,
    sync::Arc,
};

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Datagram, Outer, Queue, Room, Uplink};
use crate::{
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        ids::{TunnelIndex, UplinkIndex},
        limits::{SUB_BATCH, UPLINK_BURST},
        path::Path,
    },
};

/// What the queue of a memory uplink is.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The uplink that it belongs to.
    pub uplink: UplinkIndex,
    /// The tunnel that it serves.
    pub tunnel: TunnelIndex,
    /// The uplink's own address.
    pub address: IpAddr,
    /// Datagrams that fit on the wire, each way.
    pub datagrams: usize,
    /// Bytes of the longest of them.
    pub longest: usize,
}

/// A queue and the other end of its wire.
#[must_use]
pub fn open(config: &Config) -> (Queue, Wire) {
    let (near, outgoing) = lane(config);
    let (far, incoming) = lane(config);
    let queue = Queue {
        uplink: config.uplink,
        tunnel: Some(config.tunnel),
        rx: super::Rx::Memory(Rx::new(incoming, config)),
        tx: super::Tx::Memory(Tx::new(near, config)),
    };
    let wire = Wire {
        incoming: far,
        outgoing,
    };
    (queue, wire)
}

/// A buffer with a datagram in it.
struct Parcel {
    buffer: Box<[u8]>,
    len: usize,
    /// The far end: where it goes, or where it came from.
    far: SocketAddr,
    /// The outer header's traffic class.
    tos: u8,
}

/// One direction, as the one who fills buffers sees it.
struct Filling {
    spare: Consumer<Box<[u8]>>,
    full: Producer<Parcel>,
}

/// One direction, as the one who empties them sees it.
struct Emptying {
    full: Consumer<Parcel>,
    spare: Producer<Box<[u8]>>,
}

/// One direction of the wire, with all of its buffers spare.
fn lane(config: &Config) -> (Filling, Emptying) {
    let (full_in, full) = RingBuffer::new(config.datagrams);
    let (mut spare_in, spare) = RingBuffer::new(config.datagrams);
    let size = config.longest + culvert_aead::TAILROOM;
    for _ in 0..config.datagrams {
        // There are as many places as buffers.
        let _ = spare_in.push(vec![0; size].into_boxed_slice());
    }
    let filling = Filling {
        spare,
        full: full_in,
    };
    let emptying = Emptying {
        full,
        spare: spare_in,
    };
    (filling, emptying)
}

/// The other end: the network, as far as the queue can tell.
pub struct Wire {
    incoming: Filling,
    outgoing: Emptying,
}

impl Wire {
    /// Sends a datagram from `far` to the queue, with this traffic class around it. `false`: the wire is full, or the
    /// datagram is too long for it.
    pub fn send(&mut self, far: SocketAddr, tos: u8, datagram: &[u8]) -> bool {
        let Filling { spare, full } = &mut self.incoming;
        let Ok(buffer) = spare.peek() else {
            return false;
        };
        if datagram.len() > buffer.len() {
            return false;
        }
        let Ok(mut buffer) = spare.pop() else {
            return false;
        };
        buffer[..datagram.len()].copy_from_slice(datagram);
        let parcel = Parcel {
            buffer,
            len: datagram.len(),
            far,
            tos,
        };
        full.push(parcel).is_ok()
    }

    /// Hands the next datagram that the queue sent, and where it was sent to, to `read`.
    pub fn receive<T>(&mut self, read: impl FnOnce(SocketAddr, &[u8]) -> T) -> Option<T> {
        let Emptying { full, spare } = &mut self.outgoing;
        let parcel = full.pop().ok()?;
        let seen = read(parcel.far, &parcel.buffer[..parcel.len]);
        // There are as many places as buffers.
        let _ = spare.push(parcel.buffer);
        Some(seen)
    }

    /// Takes the next datagram off the wire, and gives its buffer back cut to so many bytes: a room that holds less than
    /// the queue says. `false`: none was sent.
    pub fn cut(&mut self, len: usize) -> bool {
        let Emptying { full, spare } = &mut self.outgoing;
        let Ok(parcel) = full.pop() else {
            return false;
        };
        let mut buffer = parcel.buffer.into_vec();
        buffer.truncate(len);
        spare.push(buffer.into_boxed_slice()).is_ok()
    }
}

/// The receiving half.
pub struct Rx {
    lane: Emptying,
    address: IpAddr,
    /// The last burst's buffers, which `datagrams` points into.
    held: Vec<Box<[u8]>>,
    datagrams: Vec<Datagram>,
}

impl Rx {
    fn new(lane: Emptying, config: &Config) -> Self {
        Self {
            lane,
            address: config.address,
            held: Vec::with_capacity(UPLINK_BURST),
            datagrams: Vec::with_capacity(UPLINK_BURST),
        }
    }

    #[inline]
    pub(super) fn receive(&mut self, uplink: &Uplink, tunnel: TunnelIndex) -> &mut [Datagram] {
        self.datagrams.clear();
        for buffer in self.held.drain(..) {
            // There are as many places as buffers.
            let _ = self.lane.spare.push(buffer);
        }
        let mut bytes = 0;
        while self.held.len() < UPLINK_BURST
            && let Ok(parcel) = self.lane.full.pop()
        {
            let Parcel {
                mut buffer,
                len,
                far,
                tos,
            } = parcel;
            bytes += len as u64;
            // SAFETY: `Wire::send` put `len` bytes into the buffer, which stays where it is, in `held` and touched by
            // nobody else, until the next `receive`.
            self.datagrams.push(unsafe {
                Datagram::new(
                    NonNull::from(&mut *buffer).cast(),
                    u32::try_from(len).unwrap_or(0),
                    far,
                    Some(self.address),
                    tunnel,
                    tos & 3,
                )
            });
            self.held.push(buffer);
        }
        if !self.datagrams.is_empty() {
            uplink.counters.received(self.datagrams.len() as u64, bytes);
        }
        &mut self.datagrams
    }
}

/// The sending half.
pub struct Tx {
    lane: Filling,
    longest: usize,
    /// The buffers that `rooms` point into.
    reserved: Vec<Box<[u8]>>,
    rooms: Vec<Room>,
    /// Length, destination and traffic class of what was committed.
    committed: Vec<(usize, SocketAddr, u8)>,
}

impl Tx {
    fn new(lane: Filling, config: &Config) -> Self {
        Self {
            lane,
            longest: config.longest,
            reserved: Vec::with_capacity(SUB_BATCH),
            rooms: Vec::with_capacity(SUB_BATCH),
            committed: Vec::with_capacity(SUB_BATCH),
        }
    }

    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> usize {
        let count = count.min(SUB_BATCH);
        while self.reserved.len() < count
            && let Ok(buffer) = self.lane.spare.pop()
        {
            self.reserved.push(buffer);
        }
        self.rooms.clear();
        self.rooms
            .extend(self.reserved.iter_mut().take(count).map(|buffer| {
                let len = u32::try_from(buffer.len()).unwrap_or(0);
                // SAFETY: the buffer stays where it is, and is touched through the room alone, until `flush` sends it
                // or `reserve` makes the rooms anew.
                unsafe { Room::new(NonNull::from(&mut **buffer).cast(), len) }
            }));
        self.rooms.len()
    }

    pub(super) fn rooms(&mut self) -> &mut [Room] {
        &mut self.rooms
    }

    pub(super) fn datagram_max(&self) -> usize {
        self.longest
    }

    #[inline]
    pub(super) fn commit(&mut self, len: usize, path: &Arc<Path>, outer: Outer) {
        self.committed.push((len, path.endpoint, outer.tos));
    }

    #[inline]
    pub(super) fn flush(&mut self, uplink: &Uplink) {
        let (mut packets, mut bytes) = (0, 0);
        let committed = self.committed.drain(..);
        let buffers = self.reserved.drain(..committed.len());
        for (buffer, (len, far, tos)) in buffers.zip(committed) {
            let parcel = Parcel {
                buffer,
                len,
                far,
                tos,
            };
            match self.lane.full.push(parcel) {
                Ok(()) => {
                    packets += 1;
                    bytes += len as u64;
                }
                // There are as many places as buffers, so this does not happen.
                Err(_) => lose(uplink.books(), DropReason::UplinkFull, Lost::Count(1)),
            }
        }
        self.rooms.clear();
        uplink.counters.sent(packets, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::shared::hop::Hop;

    const FAR: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)), 51_820);

    fn uplink() -> Uplink {
        Uplink {
            index: UplinkIndex(0),
            name: "memory".into(),
            addresses: Vec::new(),
            tunnels: Vec::new(),
            hop: Arc::new(Hop::kernel(UplinkIndex(0))),
            kernel: None,
            counters: Arc::default(),
        }
    }

    fn ends(datagrams: usize) -> (Rx, Tx, Wire) {
        let (queue, wire) = open(&Config {
            uplink: UplinkIndex(0),
            tunnel: TunnelIndex(0),
            address: "192.0.2.1".parse().unwrap(),
            datagrams,
            longest: 100,
        });
        match (queue.rx, queue.tx) {
            (super::super::Rx::Memory(rx), super::super::Tx::Memory(tx)) => (rx, tx, wire),
            _ => unreachable!("a memory queue"),
        }
    }

    #[test]
    fn what_is_committed_arrives_and_its_buffers_come_back() {
        let (_, mut tx, mut wire) = ends(3);
        let uplink = uplink();
        let path = Arc::new(Path::new(FAR, None, 0, Arc::clone(&uplink.hop)));
        for round in 0..5u8 {
            assert_eq!(tx.reserve(64), 3);
            for (room, byte) in tx.rooms().iter_mut().take(2).zip(round..) {
                room.bytes_mut()[..4].fill(byte);
            }
            tx.commit(4, &path, Outer::from(2));
            tx.commit(3, &path, Outer::from(0));
            tx.flush(&uplink);
            // One is reserved still; the others are on the wire.
            assert_eq!(tx.reserve(64), 1);
            let mut came = Vec::new();
            while let Some(datagram) = wire.receive(|to, bytes| (to, bytes.to_vec())) {
                came.push(datagram);
            }
            assert_eq!(came, [(FAR, vec![round; 4]), (FAR, vec![round + 1; 3])]);
        }
        assert_eq!(uplink.counters.tx_packets.load(Relaxed), 10);
        assert_eq!(uplink.counters.tx_bytes.load(Relaxed), 35);
    }

    #[test]
    fn what_the_wire_sends_is_received_once_and_in_order() {
        let (mut rx, _, mut wire) = ends(200);
        let uplink = uplink();
        for n in 0..=255u8 {
            // Two hundred fit; and none that is longer than its buffer.
            assert_eq!(wire.send(FAR, 1, &[n; 8]), n < 200);
        }
        assert!(!wire.send(FAR, 0, &[0; 1000]));
        let mut came = Vec::new();
        for most in [128, 72, 0] {
            let burst = rx.receive(&uplink, TunnelIndex(0));
            assert_eq!(burst.len(), most);
            for datagram in burst {
                assert_eq!((datagram.source, datagram.ecn), (FAR, 1));
                came.push(datagram.bytes().to_vec());
            }
        }
        let sent: Vec<_> = (0..200u8).map(|n| vec![n; 8]).collect();
        assert_eq!(came, sent);
        assert_eq!(uplink.counters.rx_packets.load(Relaxed), 200);
        // All buffers are spare again.
        assert!((0..200).all(|_| wire.send(FAR, 0, &[0])));
    }
}
