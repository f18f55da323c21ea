//! The UDP uplink: kernel sockets with batches, `UDP_SEGMENT` and `UDP_GRO`.
//!
//! In: sealed datagrams with their paths; bursts from the sockets. Out: one
//! `sendmmsg` per sub-batch, one `recvmmsg` per socket and burst. Never: an
//! allocation after opening, a blocking call, a write behind a datagram's end
//! (with GRO the next one lies there).
//!
//! Threads: each worker owns a queue: its own sockets, bound to the same port with
//! `SO_REUSEPORT`. The kernel spreads sessions over them, and hands handshake messages
//! to sockets of their own ([`calls`]), which the first worker reads.

#![allow(
    unsafe_code,
    reason = "a named room: the kernel's message headers and our own buffers"
)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Datagram, Outer, Queue, Room, Uplink};
use crate::loss::{Lost, lose, lose_all};
use crate::shared::{
    drops::DropReason,
    ids::{TunnelIndex, UplinkIndex},
    limits,
    path::Path,
};

mod calls;
mod socket;

use calls::Calls;
use socket::{Message, Received, Socket};

/// Messages asked for at once while datagrams come one by one.
const MESSAGES: usize = 64;
/// Messages asked for at once while the kernel coalesces: each may hold 64 datagrams.
const MESSAGES_COALESCED: usize = 8;
/// Slots for handshake messages behind those.
const CALLS: usize = limits::CALLS_PER_TURN;
/// Bytes per message: the longest UDP payload.
const MESSAGE_BYTES: usize = 65_536;
/// Datagrams in one coalesced message (the kernel's `UDP_GRO_CNT_MAX` is 64).
const DATAGRAMS_PER_MESSAGE: usize = 128;
/// Looks in vain after which a socket is looked at less often, and how often then.
const QUIET: u32 = 16;
/// See `QUIET`.
const QUIET_EVERY: u32 = 7;
/// Ports that are tried for one that is free in both families.
const PORT_TRIES: usize = 100;
/// The longest payload that one `UDP_SEGMENT` send carries over IPv4.
const SEGMENTED_BYTES: usize = 65_507;

/// What an operator may ask of the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Only this interface (`SO_BINDTODEVICE`).
    pub device: Option<&'a str>,
    /// The mark of outgoing packets (`SO_MARK`).
    pub fwmark: Option<u32>,
}

/// Why a UDP uplink can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody listens there already.
    #[error(
        "UDP port {port} on {address} is taken: {source}; `ss -ulpn 'sport = :{port}'` shows by whom"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
    /// The address is not on this machine, or not permitted.
    #[error(
        "can't bind UDP port {port} on {address}: {source}; is the address up on this machine (`ip address show`)?"
    )]
    Bind {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
}

impl OpenError {
    /// The kernel's number for it (errno(3)).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Taken { source, .. } | Self::Bind { source, .. } => source.raw_os_error(),
        }
    }
}

/// Whether a port could be had at this moment; of port 0, whether any could.
///
/// # Errors
/// As [`open`].
pub fn probe(addresses: &[IpAddr], port: u16, options: Options<'_>) -> Result<(), OpenError> {
    claim(addresses, &bind_addresses(addresses), port, options).map(drop)
}

/// Opens one queue per worker for a tunnel's port.
///
/// `addresses` are the uplink's: with exactly one of a family the socket is bound
/// to it, otherwise to the wildcard of each family that is wanted (both when there
/// are none).
///
/// # Errors
/// When the port is taken or the address can't be bound.
pub fn open(
    uplink: UplinkIndex,
    tunnel: TunnelIndex,
    addresses: &[IpAddr],
    port: u16,
    workers: usize,
    options: Options<'_>,
) -> Result<Vec<Queue>, OpenError> {
    let binds = bind_addresses(addresses);
    let first = claim(addresses, &binds, port, options)?;
    // One set of sockets of both families.
    let bind = || -> Result<Sockets, OpenError> {
        let mut sockets = [None, None];
        for &address in &binds {
            match Socket::bind(SocketAddr::new(address, port), true, options) {
                Ok(socket) => sockets[usize::from(address.is_ipv6())] = Some(Arc::new(socket)),
                Err(_) if addresses.is_empty() && address.is_ipv6() => {}
                Err(source) => {
                    return Err(OpenError::Bind {
                        address,
                        port,
                        source,
                    });
                }
            }
        }
        Ok(sockets)
    };
    let mut data = Vec::with_capacity(workers);
    data.push(bind()?);
    // There is always somebody of ours on the port.
    drop(first);
    for _ in 1..workers {
        data.push(bind()?);
    }
    let mut calls = calls_of(&data, &bind)?;
    Ok(data
        .into_iter()
        .map(|sockets| Queue {
            uplink,
            tunnel: Some(tunnel),
            rx: super::Rx::Udp(Rx::new(sockets.clone(), calls.take())),
            tx: super::Tx::Udp(Tx::new(sockets)),
        })
        .collect())
}

/// Takes the port for this process alone. With SO_REUSEPORT a second process of the same user could bind, too, and take
/// half of the traffic: so these sockets, one for each address, bind without it, which the kernel lets only the first
/// on the port do. They let others join from then on.
fn claim(
    addresses: &[IpAddr],
    binds: &[IpAddr],
    port: u16,
    options: Options<'_>,
) -> Result<Vec<Socket>, OpenError> {
    let mut first = Vec::new();
    for &address in binds {
        let socket = Socket::bind(SocketAddr::new(address, port), false, options);
        match socket.and_then(|socket| socket.share().map(|()| socket)) {
            Ok(socket) => first.push(socket),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(OpenError::Taken {
                    address,
                    port,
                    source,
                });
            }
            // A machine without IPv6: the wildcard is not worth an error.
            Err(_) if addresses.is_empty() && address.is_ipv6() => {}
            Err(source) => {
                return Err(OpenError::Bind {
                    address,
                    port,
                    source,
                });
            }
        }
    }
    Ok(first)
}

/// A socket per family.
type Sockets = [Option<Arc<Socket>>; 2];

/// The lanes for handshake messages, the first worker's to read. A kernel that can't
/// sort (before 4.5) has none, and all comes to the data sockets.
fn calls_of(
    data: &[Sockets],
    bind: &dyn Fn() -> Result<Sockets, OpenError>,
) -> Result<Option<Calls>, OpenError> {
    let rules = calls::sorting(u32::try_from(data.len()).unwrap_or(1));
    // Until the lanes are there, what is sorted to them goes by the kernel's own rule.
    let sorted = |sockets: &Sockets| {
        let mut families = sockets.iter().flatten();
        families.all(|socket| socket.sort(&rules).is_ok())
    };
    if !data.first().is_some_and(sorted) {
        return Ok(None);
    }
    let lanes = [bind()?, bind()?];
    for socket in lanes.iter().flatten().flatten() {
        socket.bound(limits::CALLS_BUFFER);
    }
    Ok(Some(Calls::new(lanes)))
}

fn bind_addresses(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let mut binds = Vec::new();
    for wildcard in any {
        let mut family = addresses
            .iter()
            .filter(|a| a.is_ipv4() == wildcard.is_ipv4());
        match (family.next(), family.next()) {
            (Some(&only), None) => binds.push(only),
            (Some(_), Some(_)) => binds.push(wildcard),
            (None, _) if addresses.is_empty() => binds.push(wildcard),
            (None, _) => {}
        }
    }
    binds
}

/// Looks at a queue's sockets, and changes them, while a worker uses them.
#[derive(Clone, Debug)]
pub struct Marker(Vec<Arc<Socket>>);

impl Marker {
    /// Marks what leaves from now on (`SO_MARK`); 0 is no mark.
    ///
    /// # Errors
    /// When the kernel refuses, which it does without `CAP_NET_ADMIN`.
    pub fn mark(&self, mark: u32) -> io::Result<()> {
        self.0.iter().try_for_each(|socket| socket.mark(mark))
    }

    /// Whether the sockets are bound to the interface that has this name now. A socket remembers the number of the one
    /// that it was bound to, which means nothing when that is made anew; and to bind it again would take it out of the
    /// port's group, where messages are sorted: then others are opened instead.
    #[must_use]
    pub fn is_bound_to(&self, device: &str) -> bool {
        self.0.iter().all(|socket| socket.is_bound_to(device))
    }
}

/// A UDP port that is free on all of `addresses`, or on the machine when there are none: nobody else has it at
/// this moment.
///
/// # Errors
/// When the kernel has none, or the addresses can't be bound.
pub fn free_port(addresses: &[IpAddr], options: Options<'_>) -> io::Result<u16> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    let binds = bind_addresses(addresses);
    for _ in 0..PORT_TRIES {
        let mut sockets = Vec::new();
        let mut port = 0;
        for &address in &binds {
            match Socket::bind(SocketAddr::new(address, port), false, options) {
                Ok(socket) => {
                    port = socket.port()?;
                    sockets.push(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    taken = error;
                    port = 0;
                    break;
                }
                Err(_) if addresses.is_empty() && address.is_ipv6() => {}
                Err(error) => return Err(error),
            }
        }
        if port != 0 {
            return Ok(port);
        }
    }
    Err(taken)
}

/// The receiving half.
pub struct Rx {
    sockets: Sockets,
    calls: Option<Calls>,
    received: Box<Received>,
    datagrams: Vec<Datagram>,
    coalesced: bool,
    /// Looks so far; whose turn it is to be first.
    looks: u32,
    /// Looks at each socket since it had something.
    quiet: [u32; 2],
    /// Sockets that have something, says the kernel.
    ready: [bool; 2],
}

impl Rx {
    fn new(sockets: Sockets, calls: Option<Calls>) -> Self {
        Self {
            sockets,
            calls,
            received: Box::new(Received::new(MESSAGES + CALLS, MESSAGE_BYTES)),
            datagrams: Vec::with_capacity(MESSAGES * DATAGRAMS_PER_MESSAGE),
            coalesced: false,
            looks: 0,
            quiet: [0; 2],
            ready: [true; 2],
        }
    }

    /// The worker slept; `ready` are the descriptors that have something, in the order in which they were named.
    pub(super) fn woken(&mut self, ready: &[bool], slept: Duration) {
        let mut ready = ready.iter().copied();
        for family in 0..2 {
            if self.sockets[family].is_some() {
                self.ready[family] |= ready.next().unwrap_or(false);
            }
        }
        if let Some(calls) = &mut self.calls {
            calls.woken(ready, slept);
        }
    }

    pub(super) fn receive(&mut self, uplink: &Uplink, tunnel: TunnelIndex) -> &mut [Datagram] {
        self.datagrams.clear();
        let mut bytes = 0;
        let mut coalesced = false;
        let mut first = 0;
        let budget = if self.coalesced {
            MESSAGES_COALESCED
        } else {
            MESSAGES
        };
        self.looks = self.looks.wrapping_add(1);
        // Neither family may starve the other.
        let families = if self.looks.is_multiple_of(2) {
            [0, 1]
        } else {
            [1, 0]
        };
        for family in families {
            let Some(socket) = &self.sockets[family] else {
                continue;
            };
            // Each look is a system call. What was quiet for long wakes the worker, or is found a few looks later.
            let is_quiet = self.quiet[family] >= QUIET;
            let ready = std::mem::take(&mut self.ready[family]);
            if is_quiet && !ready && !self.looks.is_multiple_of(QUIET_EVERY) {
                continue;
            }
            let count = self.received.receive(socket, first, budget - first);
            self.quiet[family] = match count {
                0 => self.quiet[family].saturating_add(1),
                _ => 0,
            };
            let mut beyond = 0;
            let mut read = 0;
            for message in self.received.messages(first..first + count) {
                bytes += message.len;
                coalesced |= message.segment < message.len;
                beyond += Self::split(&message, tunnel, &mut self.datagrams);
                read += 1;
            }
            note_lost(uplink, count - read, beyond);
            first += count;
            if first == budget {
                break;
            }
        }
        self.coalesced = coalesced;
        // The slots behind are free: the buffers are made for the larger budget.
        if let Some(calls) = &mut self.calls
            && let Some(now) = calls.is_due()
        {
            let carried = uplink.counters.carried();
            let end = MESSAGES + CALLS;
            let count = calls.receive(&mut self.received, first, end, (now, carried));
            if calls.is_crowded() {
                uplink.counters.crowded.store(true, Ordering::Relaxed);
            }
            let mut beyond = 0;
            let mut read = 0;
            for message in self.received.messages(first..first + count) {
                bytes += message.len;
                beyond += Self::split(&message, tunnel, &mut self.datagrams);
                read += 1;
            }
            note_lost(uplink, count - read, beyond);
        }
        if !self.datagrams.is_empty() {
            uplink
                .counters
                .received(self.datagrams.len() as u64, bytes as u64);
        }
        &mut self.datagrams
    }

    /// Cuts a coalesced message into its datagrams; answers how many found no room.
    fn split(message: &Message, tunnel: TunnelIndex, datagrams: &mut Vec<Datagram>) -> usize {
        let mut offset = 0;
        while datagrams.len() < datagrams.capacity() {
            let len = message.segment.min(message.len - offset);
            // SAFETY: the message's bytes lie in a buffer of `received`, which the
            // kernel writes only in `receive`; pieces don't overlap.
            let mut datagram = unsafe {
                Datagram::new(
                    message.start.add(offset),
                    u32::try_from(len).unwrap_or(0),
                    message.source,
                    message.local,
                    tunnel,
                    message.ecn,
                )
            };
            offset += len;
            // An empty message is a datagram, too: it is dropped by name.
            let ends = len == 0 || offset >= message.len;
            datagram.ends = ends;
            datagrams.push(datagram);
            if ends {
                return 0;
            }
        }
        (message.len - offset).div_ceil(message.segment).max(1)
    }

    pub(super) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        list.extend(self.sockets.iter().flatten().map(|socket| socket.as_fd()));
        if let Some(calls) = &self.calls {
            calls.descriptors(list);
        }
    }

    pub(super) fn owed(&self) -> Option<Duration> {
        self.calls.as_ref().and_then(Calls::owed)
    }

    /// For the control core, which doesn't own the queue. The sending half has the same sockets.
    pub(super) fn marker(&self) -> Marker {
        let calls = self.calls.iter().flat_map(Calls::sockets);
        Marker(
            self.sockets
                .iter()
                .flatten()
                .chain(calls)
                .cloned()
                .collect(),
        )
    }
}

/// Loses messages that could not be read (cut short, or from a source of an unknown family), and datagrams beyond what a
/// burst holds.
fn note_lost(uplink: &Uplink, unread: usize, beyond: usize) {
    if unread > 0 {
        let lost = Lost::Count(unread);
        lose(uplink.books(), DropReason::DatagramMalformed, lost);
    }
    if beyond > 0 {
        lose(uplink.books(), DropReason::BurstFull, Lost::Count(beyond));
    }
}

/// Committed rooms that leave as one message.
struct Group {
    path: Arc<Path>,
    outer: Outer,
    first: usize,
    count: usize,
    /// Bytes of each datagram but the last, which may be shorter.
    size: usize,
    bytes: usize,
    /// The last datagram was shorter: nothing may follow.
    closed: bool,
}

/// The sending half.
pub struct Tx {
    sockets: Sockets,
    /// What was reserved, in `memory`.
    rooms: Vec<Room>,
    memory: Box<[u8]>,
    lens: Vec<u32>,
    groups: Vec<Group>,
}

impl Tx {
    fn new(sockets: Sockets) -> Self {
        let memory = Self::stride(limits::DATAGRAM_MAX) * limits::SUB_BATCH;
        Self {
            sockets,
            rooms: Vec::with_capacity(limits::SUB_BATCH),
            memory: vec![0; memory].into_boxed_slice(),
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

    pub(super) fn reserve(&mut self, count: usize, longest: usize) -> usize {
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

    pub(super) fn rooms(&mut self) -> &mut [Room] {
        &mut self.rooms
    }

    #[expect(clippy::unused_self, reason = "a DPDK queue's limit is its own")]
    pub(super) fn datagram_max(&self) -> usize {
        limits::DATAGRAM_MAX
    }

    pub(super) fn commit(&mut self, len: usize, path: &Arc<Path>, outer: Outer) {
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

    pub(super) fn flush(&mut self, uplink: &Uplink) {
        let mut first = 0;
        let mut retried = false;
        while first < self.groups.len() {
            // A run of groups of one family goes out in one call.
            let v6 = self.groups[first].path.endpoint.is_ipv6();
            let run = self.groups[first..]
                .iter()
                .take_while(|group| group.path.endpoint.is_ipv6() == v6)
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
        match socket.send(groups, &self.rooms, &self.lens) {
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

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd: &OwnedFd = self.fd();
        fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
