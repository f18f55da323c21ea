//! Rx: bursts from a worker's sockets of one port, and handshake messages behind them.
//!
//! In: what the kernel coalesced. Out: datagrams, in memory that is held until the next burst. Never: a system call for a
//! socket that was quiet for long, unless it is its turn or it woke the worker.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::atomic::Ordering,
    time::Duration,
};

use super::{
    Marker, Sockets,
    calls::Calls,
    socket::{Message, Received},
};
use crate::{
    loss::{Lost, lose},
    shared::{drops::DropReason, ids::TunnelIndex, limits},
    uplink::{Datagram, Uplink},
};

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
    pub(super) fn new(sockets: Sockets, calls: Option<Calls>) -> Self {
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
    pub(in crate::uplink) fn woken(&mut self, ready: &[bool], slept: Duration) {
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

    pub(in crate::uplink) fn receive(
        &mut self,
        uplink: &Uplink,
        tunnel: TunnelIndex,
    ) -> &mut [Datagram] {
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

    pub(in crate::uplink) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        list.extend(self.sockets.iter().flatten().map(|socket| socket.as_fd()));
        if let Some(calls) = &self.calls {
            calls.descriptors(list);
        }
    }

    pub(in crate::uplink) fn owed(&self) -> Option<Duration> {
        self.calls.as_ref().and_then(Calls::owed)
    }

    /// For the control core, which doesn't own the queue. The sending half has the same sockets.
    pub(in crate::uplink) fn marker(&self) -> Marker {
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

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, ptr::NonNull, sync::Arc};

    use super::*;
    use crate::shared::{hop::Hop, ids::UplinkIndex};

    /// More than the kernel ever joins, so that no sender can have it so: what finds no room is counted all the same.
    #[test]
    fn datagrams_beyond_a_burst_have_a_name() {
        let uplink = Uplink {
            index: UplinkIndex(0),
            name: "udp".into(),
            addresses: Vec::new(),
            tunnels: Vec::new(),
            hop: Arc::new(Hop::kernel(UplinkIndex(0))),
            kernel: None,
            counters: Arc::default(),
        };
        let mut bytes = *b"aabbccdde";
        let message = Message {
            start: NonNull::from(&mut bytes).cast(),
            len: bytes.len(),
            segment: 2,
            source: SocketAddr::from(([192, 0, 2, 1], 7)),
            local: None,
            ecn: 0,
        };
        let mut datagrams = Vec::with_capacity(8);
        let room = datagrams.capacity();
        let mut beyond = 0;
        while datagrams.len() < room {
            beyond = Rx::split(&message, TunnelIndex(0), &mut datagrams);
        }
        let whole = room / 5;
        assert_eq!(
            beyond,
            5 * (whole + usize::from(!room.is_multiple_of(5))) - room
        );
        assert_eq!(datagrams[4].bytes(), b"e");
        assert_eq!(Rx::split(&message, TunnelIndex(0), &mut datagrams), 5);
        note_lost(&uplink, 3, beyond + 5);
        let drops: Vec<_> = uplink.counters.drops.iter().collect();
        let expected = [
            (DropReason::DatagramMalformed, 3),
            (DropReason::BurstFull, beyond as u64 + 5),
        ];
        assert_eq!(drops, expected);
    }
}
