//! One queue of an interface: what was read and waits, and what is written.
//!
//! In: frames from the kernel, a read each; frames in pieces. Out: Ethernet frames with
//! offload metadata that counts from their first byte; one `writev` per frame. Never: a
//! wait, a copy of a payload, a frame out of order.
//!
//! ```text
//!  slot, tun |..| Ethernet (14), ours | IP packet ................|
//!            |....| vnet header (12)  |        <- one read, from 4 on
//!  slot, tap |....| vnet header (12)  | Ethernet frame ...........|
//!            0    4                   16
//! ```

use std::{
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arrayvec::ArrayVec;
use culvert_aead::{Segment, Segments};
use culvert_wire::{EtherType, MacAddr, VnetHeader, ether, parse::HEAD_LEN};
use rustix::io::{Errno, read, writev};

use super::{Layer, Tun};
use crate::{
    guest::{
        deliver::ETHERNET,
        frames::{Frames, SEGMENT_ROOM},
    },
    loss::{Books, Lost, lose, lose_own},
    pages::Pages,
    shared::{
        drops::DropReason,
        limits::{FRAME_MAX, GUEST_BURST, UPLINK_BURST},
    },
};

/// Where the packet of a tun interface, or the frame of a tap interface, is read to.
const BODY: usize = 16;
/// Where the vnet header is read to.
const VNET: usize = BODY - VnetHeader::LEN;
/// One byte more than any frame has, so that a longer one shows. The stride is an odd
/// number of cache lines away from any power of two: slots don't compete for cache sets.
const SLOT: usize = 66_688;
/// The pieces that one frame may be written from: a header, and a burst's packets.
const PIECES_MAX: usize = UPLINK_BURST + 3;

/// How far offsets move when an Ethernet header is put ahead or taken off.
const SHIFT: u16 = 14;

const _: () = assert!(ETHERNET == 14);
const _: () = assert!(SLOT > BODY + FRAME_MAX);

/// Frames that passed one way.
#[derive(Debug, Default)]
pub struct TunTraffic {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl TunTraffic {
    /// Frames; a super-frame is one.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Their bytes, with Ethernet headers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, frames: u64, bytes: u64) {
        if frames > 0 {
            self.frames.fetch_add(frames, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// A queue's descriptor and what was read from it.
#[derive(Debug)]
pub(super) struct Queue {
    fd: OwnedFd,
    incoming: Mutex<Incoming>,
    /// Frames are held back: whoever polls must not wait for more.
    holds: AtomicBool,
    pub(super) from_host: TunTraffic,
    pub(super) to_host: TunTraffic,
}

impl Queue {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            incoming: Mutex::new(Incoming {
                // Pages are taken when they are first read into: small frames need few.
                memory: Pages::new(SLOT * GUEST_BURST),
                frames: ArrayVec::new(),
                first: 0,
            }),
            holds: AtomicBool::new(false),
            from_host: TunTraffic::default(),
            to_host: TunTraffic::default(),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    pub(super) fn send(
        &self,
        tun: &Tun,
        vnet: &VnetHeader,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let header = vnet.write();
        let pieces = [
            IoSlice::new(&header[..tun.header_len()]),
            IoSlice::new(frame),
        ];
        writev(&self.fd, &pieces).map_err(|error| refusal(tun, error))?;
        self.to_host.add(1, frame.len() as u64);
        Ok(())
    }

    pub(super) fn receive<'r>(&self, tun: &Tun, room: &'r mut [u8]) -> Option<&'r [u8]> {
        // An interrupted read is tried again by the next look.
        let len = match read(&self.fd, &mut *room) {
            Ok(len) => len,
            Err(error) => {
                if is_gone(error) {
                    tun.note_gone();
                }
                return None;
            }
        };
        let frame = room.get(tun.header_len()..len)?;
        self.from_host.add(1, frame.len() as u64);
        Some(frame)
    }

    pub(super) fn try_lock<'q>(&'q self, tun: &'q Tun) -> Option<TunBurst<'q>> {
        let incoming = match self.incoming.try_lock() {
            Ok(incoming) => incoming,
            // What a worker left when it died is whole frames still.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(TunBurst {
            tun,
            queue: self,
            incoming,
        })
    }
}

/// A frame that was read, at `start` of its slot.
#[derive(Clone, Copy, Debug)]
struct Frame {
    vnet: VnetHeader,
    slot: usize,
    len: usize,
}

#[derive(Debug)]
struct Incoming {
    memory: Pages,
    /// What the last reads brought.
    frames: ArrayVec<Frame, GUEST_BURST>,
    /// The first of them that is not done with.
    first: usize,
}

/// A queue that one worker reads.
pub(crate) struct TunBurst<'q> {
    tun: &'q Tun,
    queue: &'q Queue,
    incoming: MutexGuard<'q, Incoming>,
}

impl TunBurst<'_> {
    /// Makes frames available and answers how many: those that were held back, or else
    /// up to `GUEST_BURST` new ones until they have `credit` bytes.
    ///
    /// `header` is put ahead of packets of a tun interface: gateway, port.
    pub(crate) fn fetch(
        &mut self,
        header: (MacAddr, MacAddr),
        credit: i64,
        books: Books<'_>,
    ) -> usize {
        let Self {
            tun,
            queue,
            incoming,
        } = self;
        let incoming = &mut **incoming;
        if incoming.first < incoming.frames.len() {
            return incoming.frames.len() - incoming.first;
        }
        incoming.first = 0;
        incoming.frames.clear();
        let mut left = credit;
        // Junk costs a read and its bytes as a frame does.
        for _ in 0..GUEST_BURST {
            if left <= 0 {
                break;
            }
            let slot = incoming.frames.len();
            let room = &mut incoming.memory[slot * SLOT..][..SLOT];
            let ahead = tun.header_len();
            // Without a header of the kernel's there is none that says anything.
            room[VNET..BODY].fill(0);
            let len = match read(&queue.fd, &mut room[BODY - ahead..]) {
                Ok(len) => len,
                Err(Errno::AGAIN) => break,
                // An interrupted read is tried again by the next burst.
                Err(error) => {
                    if is_gone(error) {
                        tun.note_gone();
                    }
                    break;
                }
            };
            let Some(body) = len.checked_sub(ahead) else {
                break;
            };
            left -= i64::try_from(body).unwrap_or(i64::MAX);
            match adopt(tun.layer, room, body, header) {
                Ok((vnet, len)) => incoming.frames.push(Frame { vnet, slot, len }),
                Err(reason) => {
                    lose_own(books, reason, VnetHeader::default(), &room[BODY..][..body])
                }
            }
        }
        incoming.frames.len()
    }

    /// The first `count` available frames.
    pub(crate) fn frames(&self, count: usize) -> TunFrames<'_> {
        TunFrames {
            layer: self.tun.layer,
            memory: &self.incoming.memory,
            frames: &self.incoming.frames[self.incoming.first..][..count],
        }
    }

    /// Is done with the first `count` available frames; the others are held back.
    pub(crate) fn complete(&mut self, count: usize) {
        let incoming = &mut *self.incoming;
        let done = &incoming.frames[incoming.first..][..count];
        let bytes: usize = done.iter().map(|frame| frame.len).sum();
        self.queue.from_host.add(count as u64, bytes as u64);
        incoming.first += count;
        let holds = incoming.first < incoming.frames.len();
        self.queue.holds.store(holds, Ordering::Relaxed);
    }
}

/// Makes a frame of the `body` bytes that were read behind their vnet header.
fn adopt(
    layer: Layer,
    room: &mut [u8],
    body: usize,
    (gateway, port): (MacAddr, MacAddr),
) -> Result<(VnetHeader, usize), DropReason> {
    let mut bytes = [0; VnetHeader::LEN];
    bytes.copy_from_slice(&room[VNET..BODY]);
    let vnet = VnetHeader::read(&bytes);
    let (vnet, len) = match layer {
        Layer::Ethernet => (vnet, body),
        Layer::Ip => {
            let ether_type = match room[BODY] >> 4 {
                4 => EtherType::IPV4,
                6 => EtherType::IPV6,
                _ => return Err(DropReason::EtherTypeUnknown),
            };
            room[BODY - ETHERNET..BODY].copy_from_slice(&ether::header(gateway, port, ether_type));
            (vnet.moved_on(SHIFT), body + ETHERNET)
        }
    };
    match len {
        // The kernel's frames have a header; a packet without a byte is no packet.
        ..=ETHERNET => Err(DropReason::FrameMalformed),
        _ if len > FRAME_MAX => Err(DropReason::FrameTooLarge),
        _ => Ok((vnet, len)),
    }
}

/// The kernel's words for an interface that was deleted.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::BADFD | Errno::FAULT | Errno::NODEV)
}

/// A burst in an interface's own buffers.
pub(crate) struct TunFrames<'b> {
    layer: Layer,
    memory: &'b [u8],
    frames: &'b [Frame],
}

impl TunFrames<'_> {
    fn whole(&self, i: usize) -> &[u8] {
        let start = match self.layer {
            Layer::Ip => BODY - ETHERNET,
            Layer::Ethernet => BODY,
        };
        let frame = &self.frames[i];
        &self.memory[frame.slot * SLOT + start..][..frame.len]
    }
}

impl Frames for TunFrames<'_> {
    fn count(&self) -> usize {
        self.frames.len()
    }

    fn vnet(&self, i: usize) -> &VnetHeader {
        &self.frames[i].vnet
    }

    fn len(&self, i: usize) -> usize {
        self.frames[i].len
    }

    fn head(&self, i: usize) -> &[u8] {
        let whole = self.whole(i);
        &whole[..whole.len().min(HEAD_LEN)]
    }

    fn segments<'a, 'r>(
        &'a self,
        i: usize,
        range: std::ops::Range<usize>,
        room: &'r Segments<'a, SEGMENT_ROOM>,
    ) -> Option<&'r [Segment<'a>]> {
        room.keep([Segment::from(self.whole(i).get(range)?)])
    }

    fn copy(&self, i: usize, offset: usize, to: &mut [u8]) -> bool {
        match self.whole(i).get(offset..offset + to.len()) {
            Some(from) => {
                to.copy_from_slice(from);
                true
            }
            None => false,
        }
    }

    fn private(&self, i: usize) -> Option<&[u8]> {
        Some(self.whole(i))
    }
}

/// Writes a burst into one queue.
pub(crate) struct Writer<'q> {
    tun: &'q Tun,
    queue: &'q Queue,
    books: Books<'q>,
    frames: u64,
    bytes: u64,
}

impl<'q> Writer<'q> {
    /// A writer into queue `queue`, whose losses go to `books`.
    pub(crate) fn new(tun: &'q Tun, queue: u16, books: Books<'q>) -> Option<Self> {
        Some(Self {
            tun,
            queue: tun.queue(queue)?,
            books,
            frames: 0,
            bytes: 0,
        })
    }

    /// The interface.
    pub(crate) fn tun(&self) -> &'q Tun {
        self.tun
    }

    /// Writes one Ethernet frame whose parts lie one behind the other; the first part
    /// holds at least the Ethernet header. What the kernel does not take is lost, by name.
    pub(crate) fn deliver(&mut self, vnet: &VnetHeader, parts: &[&[u8]]) {
        let Some((first, rest)) = parts.split_first() else {
            return;
        };
        let (vnet, first) = match self.tun.layer {
            Layer::Ethernet => (*vnet, *first),
            Layer::Ip => {
                let ether_type = first.get(12..ETHERNET);
                let is_ip = ether_type.is_some_and(|field| {
                    field == EtherType::IPV4.0.to_be_bytes()
                        || field == EtherType::IPV6.0.to_be_bytes()
                });
                if !is_ip {
                    lose(self.books, DropReason::InterfaceNotIp, Lost::Pieces(parts));
                    return;
                }
                (vnet.moved_back(SHIFT), &first[ETHERNET..])
            }
        };
        let header = VnetHeader {
            num_buffers: 0,
            ..vnet
        }
        .write();
        let mut pieces = ArrayVec::<IoSlice<'_>, PIECES_MAX>::new();
        if !self.tun.bare {
            pieces.push(IoSlice::new(&header));
        }
        for part in std::iter::once(first).chain(rest.iter().copied()) {
            if !part.is_empty() && pieces.try_push(IoSlice::new(part)).is_err() {
                lose(self.books, DropReason::FrameTooLarge, Lost::Pieces(parts));
                return;
            }
        }
        match writev(&self.queue.fd, &pieces) {
            Ok(_) => {
                self.frames += 1;
                let len: usize = parts.iter().map(|part| part.len()).sum();
                self.bytes += len as u64;
            }
            Err(error) => self.lost(error, parts),
        }
    }

    #[cold]
    fn lost(&self, error: Errno, parts: &[&[u8]]) {
        lose(self.books, refusal(self.tun, error), Lost::Pieces(parts));
    }
}

/// Under which name a frame is lost that the kernel does not take.
fn refusal(tun: &Tun, error: Errno) -> DropReason {
    match error {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR => DropReason::InterfaceFull,
        Errno::IO => DropReason::InterfaceDown,
        Errno::BADFD | Errno::NODEV => {
            tun.note_gone();
            DropReason::InterfaceDown
        }
        _ => DropReason::InterfaceRefused,
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.queue.to_host.add(self.frames, self.bytes);
    }
}

#[cfg(test)]
mod tests;
