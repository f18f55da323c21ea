//! Tx: what is committed leaves in groups, each one message of the kernel's.
//!
//! In: rooms filled with datagrams, each with its path. Out: one `sendmmsg` per run of one family. Never: a wait for
//! room in the socket's buffer; a refusal of one path that others suffer from.

use std::{io, ops::Range, ptr::NonNull, sync::Arc};

use super::{Sockets, socket::Socket};
use crate::{
    loss::{Lost, lose_all},
    pages::Pages,
    shared::{drops::DropReason, limits, path::Path},
    uplink::{Outer, Room, Uplink},
};

/// The longest payload that one `UDP_SEGMENT` send carries over IPv4.
const SEGMENTED_BYTES: usize = 65_507;

/// Committed rooms that leave as one message.
pub(super) struct Group {
    pub(super) path: Arc<Path>,
    pub(super) outer: Outer,
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bytes of each datagram but the last, which may be shorter.
    pub(super) size: usize,
    bytes: usize,
    /// The last datagram was shorter: nothing may follow.
    closed: bool,
}

/// The sending half.
pub struct Tx {
    pub(super) sockets: Sockets,
    /// What was reserved, in `memory`.
    rooms: Vec<Room>,
    memory: Pages,
    lens: Vec<u32>,
    pub(super) groups: Vec<Group>,
}

impl Tx {
    pub(super) fn new(sockets: Sockets) -> Self {
        let memory = Self::stride(limits::DATAGRAM_MAX) * limits::SUB_BATCH;
        Self {
            sockets,
            rooms: Vec::with_capacity(limits::SUB_BATCH),
            memory: Pages::new(memory),
            lens: Vec::with_capacity(limits::SUB_BATCH),
            groups: Vec::with_capacity(limits::SUB_BATCH),
        }
    }

    /// From one room to the next: as near as can be, so that a burst lies in few pages, and an odd number of cache
    /// lines, because rooms at multiples of 4 KiB would compete for the same cache sets.
    const fn stride(longest: usize) -> usize {
        let lines = (longest + culvert_aead::TAILROOM).div_ceil(64);
        64 * (lines | 1)
    }

    pub(in crate::uplink) fn reserve(&mut self, count: usize, longest: usize) -> usize {
        debug_assert!(self.lens.is_empty(), "what was committed has left");
        let stride = Self::stride(longest.min(limits::DATAGRAM_MAX));
        self.rooms.clear();
        self.rooms.extend(
            self.memory
                .chunks_exact_mut(stride)
                .take(count.min(limits::SUB_BATCH))
                .map(|chunk| {
                    let len = u32::try_from(chunk.len()).unwrap_or(0);
                    // SAFETY: chunks are disjoint parts of `memory`, which lives as long as the rooms and is touched
                    // through them alone until they are made anew.
                    unsafe { Room::new(NonNull::from(chunk).cast(), len) }
                }),
        );
        self.rooms.len()
    }

    pub(in crate::uplink) fn rooms(&mut self) -> &mut [Room] {
        &mut self.rooms
    }

    #[expect(clippy::unused_self, reason = "a DPDK queue's limit is its own")]
    pub(in crate::uplink) fn datagram_max(&self) -> usize {
        limits::DATAGRAM_MAX
    }

    pub(in crate::uplink) fn commit(&mut self, len: usize, path: &Arc<Path>, outer: Outer) {
        let room = self.lens.len();
        self.lens.push(u32::try_from(len).unwrap_or(0));
        if let Some(group) = self.groups.last_mut() {
            let fits = !group.closed
                && group.outer == outer
                && len <= group.size
                && group.count < limits::SUB_BATCH
                && group.bytes + len <= SEGMENTED_BYTES
                && (Arc::ptr_eq(&group.path, path) || group.path.as_ref() == path.as_ref())
                && path.joins();
            if fits {
                group.count += 1;
                group.bytes += len;
                group.closed = len < group.size;
                return;
            }
        }
        self.groups.push(Group {
            path: Arc::clone(path),
            outer,
            first: room,
            count: 1,
            size: len,
            bytes: len,
            closed: false,
        });
    }

    pub(in crate::uplink) fn flush(&mut self, uplink: &Uplink) {
        let mut first = 0;
        let mut retried = false;
        while first < self.groups.len() {
            // A run of groups of one family goes out in one call.
            let v6 = self.groups[first].path.endpoint.is_ipv6();
            let whole = self.groups[first].outer.whole;
            let run = self.groups[first..]
                .iter()
                .take_while(|group| group.path.endpoint.is_ipv6() == v6)
                .take_while(|group| group.outer.whole == whole)
                .count();
            let Some(socket) = self.sockets[usize::from(v6)].clone() else {
                self.lose(uplink, DropReason::UplinkDown, first..first + run);
                first += run;
                continue;
            };
            let done = self.send_run(&socket, first, run, retried, uplink);
            retried = done == 0;
            first += done;
        }
        self.groups.clear();
        self.lens.clear();
        self.rooms.clear();
    }

    /// Sends `run` groups from `first` on; answers how many are done with, sent or
    /// dropped: at least one, unless the first may pass at a second try.
    fn send_run(
        &mut self,
        socket: &Socket,
        first: usize,
        run: usize,
        retried: bool,
        uplink: &Uplink,
    ) -> usize {
        let groups = &self.groups[first..first + run];
        let whole = groups[0].outer.whole;
        let sent = match whole {
            true => socket.send_whole(groups, &self.rooms, &self.lens),
            false => socket.send(groups, &self.rooms, &self.lens),
        };
        match sent {
            Ok(sent) => {
                let done = &groups[..sent];
                uplink.counters.sent(
                    done.iter().map(|g| g.count as u64).sum(),
                    done.iter().map(|g| g.bytes as u64).sum(),
                );
                sent.max(1)
            }
            // What is left is dropped, not kept; the tunnel's senders slow down for it.
            Err(errno) if is_full(&errno) => {
                self.lose(uplink, DropReason::UplinkFull, first..first + run);
                run
            }
            Err(errno) => match errno.raw_os_error() {
                // Some devices, and routes with a smaller MTU, refuse segmentation: go on without it.
                // Too long for the first link already, which is what it was to find out.
                Some(libc::EMSGSIZE) if whole => 1,
                Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if groups[0].count > 1 => {
                    self.send_singly(socket, first, uplink);
                    1
                }
                _ if !retried && is_source_gone(&errno, &groups[0].path) => {
                    groups[0].path.refuse_source();
                    0
                }
                _ => {
                    self.lose(uplink, DropReason::UplinkRefused, first..first + 1);
                    1
                }
            },
        }
    }

    /// Loses the datagrams of these groups.
    #[cold]
    fn lose(&self, uplink: &Uplink, reason: DropReason, groups: Range<usize>) {
        for group in &self.groups[groups] {
            self.lose_rooms(uplink, reason, group.first..group.first + group.count);
        }
    }

    /// Loses the datagrams of these rooms.
    #[cold]
    fn lose_rooms(&self, uplink: &Uplink, reason: DropReason, rooms: Range<usize>) {
        let lost = rooms.map(|room| Lost::Wire(self.rooms[room].bytes(self.lens[room] as usize)));
        lose_all(uplink.books(), reason, lost);
    }

    /// Sends one group's datagrams as messages of their own.
    fn send_singly(&self, socket: &Socket, group: usize, uplink: &Uplink) {
        let group = &self.groups[group];
        let mut source_gone = false;
        let end = group.first + group.count;
        for room in group.first..end {
            let bytes = self.lens[room] as usize;
            let single = Group {
                path: Arc::clone(&group.path),
                outer: group.outer,
                first: room,
                count: 1,
                size: bytes,
                bytes,
                closed: true,
            };
            let single = [single];
            let send = || socket.send(&single, &self.rooms, &self.lens);
            let sent = send().or_else(|errno| {
                if !is_source_gone(&errno, &group.path) {
                    return Err(errno);
                }
                source_gone = true;
                group.path.refuse_source();
                send()
            });
            match sent {
                Ok(_) => uplink.counters.sent(1, bytes as u64),
                Err(errno) if is_full(&errno) => {
                    self.lose_rooms(uplink, DropReason::UplinkFull, room..end);
                    break;
                }
                Err(_) => self.lose_rooms(uplink, DropReason::UplinkRefused, room..room + 1),
            }
        }
        if !source_gone {
            group.path.refuse_joined();
        }
    }
}

/// Whether the socket's buffer, or the device's queue, is full.
fn is_full(errno: &io::Error) -> bool {
    matches!(errno.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS))
}

/// Whether the address that we send from may be gone (IPv4 says the one or the other by version, IPv6 EINVAL): then
/// the kernel chooses another.
fn is_source_gone(errno: &io::Error, path: &Path) -> bool {
    matches!(
        errno.raw_os_error(),
        Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL)
    ) && path.usable_source().is_some()
}
