//! Recovery: what smoltcp does not know of lost segments (RFC 6582, section 3.2; RFC 8985, section 7).
//!
//! In: a connection's packets, both ways, the time. Out: when its first segment that is not acknowledged should be sent
//! again, and the acknowledgments that make smoltcp do so. Never: a segment, a window: those are smoltcp's.
//!
//! smoltcp sends one segment again when three duplicates of an acknowledgment have come, and everything when a timer has
//! run out: of two segments lost in a window, or one of the last three, the timer is all that is left. Here
//!
//! - an acknowledgment of a part of what was under way when a segment was sent again says that the next is lost, too
//!   (NewReno's partial acknowledgment);
//! - so does silence of some round-trip times, a few times, ahead of the timer (RACK's tail loss probe).
//!
//! smoltcp is told of it in its own words: three duplicates. What others acknowledge selectively it does not read.

use std::{net::SocketAddr, time::Duration};

use culvert_wire::{Ipv4View, Ipv6View, TcpView, ipv4, ipv6, tcp::flags};
use culvert_wireguard::Instant;

use super::{PROTOCOL, blind::is_after, table::Ends};

const V6_HEADER: usize = 40;
/// Probes ahead of the timer.
const PROBES: u8 = 3;
/// What a receiver may take its time for that has two segments (RFC 8985, section 7.2, adds as much for scheduling).
const SLACK: Duration = Duration::from_millis(10);
/// The same that has one: it waits for another.
const SLACK_OF_ONE: Duration = Duration::from_millis(50);
/// Of what is under way not more than this is one segment.
const ONE_SEGMENT: u32 = 1_460;
/// What a connection starts with.
const ROUND_TRIP: Duration = Duration::from_millis(100);
const DUPLICATES: usize = 3;

/// What is known of a connection's way out.
pub(super) struct Recovery {
    ends: Ends,
    /// All before this is acknowledged; nothing is known before the first acknowledgment.
    acknowledged: Option<u32>,
    /// All before this was sent once.
    sent: u32,
    /// All before this was sent when a segment was sent again.
    recovers: Option<u32>,
    duplicates: usize,
    /// What was last acknowledged of the other's.
    taken: u32,
    window: u16,
    /// A segment whose acknowledgment is waited for, and since when.
    timed: Option<(u32, Instant)>,
    round_trip: Duration,
    /// Since when nothing was acknowledged.
    silent_since: Instant,
    probes: u8,
}

/// What a segment says that is looked at here.
pub(super) struct Said {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    window: u16,
    pub(super) flags: u8,
    /// What it takes of the sequence.
    pub(super) len: u32,
}

impl Recovery {
    pub(super) const fn new(ends: Ends, now: Instant) -> Self {
        Self {
            ends,
            acknowledged: None,
            sent: 0,
            recovers: None,
            duplicates: 0,
            taken: 0,
            window: 0,
            timed: None,
            round_trip: ROUND_TRIP,
            silent_since: now,
            probes: 0,
        }
    }

    /// A packet leaves.
    pub(super) fn note_sent(&mut self, said: &Said, now: Instant) {
        self.taken = said.acknowledgment;
        let end = said.sequence.wrapping_add(said.len);
        if self.acknowledged.is_none() {
            self.sent = end;
        } else if is_after(end, self.sent) {
            if self.acknowledged == Some(self.sent) {
                self.silent_since = now;
            }
            self.sent = end;
            self.timed = self.timed.or(Some((end, now)));
        }
    }

    /// A packet has come that is acceptable, and that smoltcp has yet to see; whether the first segment should be sent
    /// again behind it.
    pub(super) fn note_came(&mut self, said: &Said, now: Instant) -> bool {
        if said.flags & flags::ACK == 0 {
            return false;
        }
        let is_syn = said.flags & flags::SYN != 0;
        // The first acknowledges what begins it (RFC 9293, section 3.10.7.3).
        let before = self.acknowledged.unwrap_or(self.sent);
        let moved = is_after(said.acknowledgment, before);
        if is_after(said.acknowledgment, self.sent) || is_after(before, said.acknowledgment) {
            return false;
        }
        let is_duplicate = !moved && said.len == 0 && said.window == self.window && !is_syn;
        self.acknowledged = Some(said.acknowledgment);
        self.window = said.window;
        if moved {
            self.sample(said.acknowledgment, now);
            (self.duplicates, self.probes, self.silent_since) = (0, 0, now);
            let is_partial = (self.recovers).is_some_and(|end| is_after(end, said.acknowledgment));
            if !is_partial {
                self.recovers = None;
            }
            return is_partial;
        }
        if is_duplicate && said.acknowledgment != self.sent {
            self.duplicates += 1;
            if self.duplicates == DUPLICATES {
                // smoltcp sends it again by itself.
                self.begin();
            }
        }
        false
    }

    fn sample(&mut self, acknowledgment: u32, now: Instant) {
        if let Some((end, since)) = self.timed
            && !is_after(end, acknowledgment)
        {
            self.timed = None;
            self.round_trip = (self.round_trip * 7 + now.since(since)) / 8;
        }
    }

    fn begin(&mut self) {
        self.recovers = Some(self.sent);
        // Of what is sent again nobody knows which time is acknowledged (RFC 6298, section 3).
        self.timed = None;
    }

    /// When silence says that something is lost.
    pub(super) fn due(&self) -> Option<Instant> {
        let under_way = self.sent.wrapping_sub(self.acknowledged?);
        if under_way == 0 || self.probes >= PROBES || self.window == 0 {
            return None;
        }
        let slack = match under_way <= ONE_SEGMENT {
            true => SLACK_OF_ONE,
            false => SLACK,
        };
        let wait = (self.round_trip * 2 + slack) * (1 << self.probes);
        Some(self.silent_since + wait)
    }

    /// Silence has lasted so long.
    pub(super) fn note_probe(&mut self, now: Instant) {
        self.probes += 1;
        self.silent_since = now;
        self.begin();
    }

    /// The acknowledgments by which smoltcp is told. Those before the duplicates have it count anew.
    pub(super) fn nudges(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let other = match self.window {
            u16::MAX => u16::MAX - 1,
            window => window + 1,
        };
        let windows = [other, self.window].into_iter();
        windows
            .chain(std::iter::repeat_n(self.window, DUPLICATES))
            .map(|window| self.acknowledge(self.taken, window))
    }

    /// All before this was acknowledged, once something was.
    pub(super) const fn acknowledged(&self) -> Option<u32> {
        self.acknowledged
    }

    /// The acknowledgment of that, where smoltcp takes it.
    pub(super) fn acknowledgment(&self) -> Vec<u8> {
        self.acknowledge(self.taken, self.window)
    }

    /// All before this was sent.
    pub(super) const fn sent(&self) -> u32 {
        self.sent
    }

    /// Whether that number was sent, and is not acknowledged.
    pub(super) fn has_under_way(&self, sequence: u32) -> bool {
        self.acknowledged
            .is_some_and(|first| sequence.wrapping_sub(first) < self.sent.wrapping_sub(first))
    }

    /// What has smoltcp say to the other how far it is, where that number is the next of his: whether we are there,
    /// which he asks with the number before.
    pub(super) fn question(&self, next: u32) -> Vec<u8> {
        self.acknowledge(next.wrapping_sub(1), self.window)
    }

    /// Sums are of no account here: nobody looks at them.
    fn acknowledge(&self, sequence: u32, window: u16) -> Vec<u8> {
        const LEN: u16 = 20;
        let Ends { local, remote } = self.ends;
        let mut tcp = [0; LEN as usize];
        tcp[..2].copy_from_slice(&remote.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&local.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledged.unwrap_or(0).to_be_bytes());
        (tcp[12], tcp[13]) = (0x50, flags::ACK);
        tcp[14..16].copy_from_slice(&window.to_be_bytes());
        match (remote, local) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                let header = ipv4::header(&ipv4::Ipv4Fields {
                    source: *source.ip(),
                    destination: *destination.ip(),
                    tos: 0,
                    id: 0,
                    dont_fragment: true,
                    ttl: 64,
                    protocol: PROTOCOL,
                    total_len: 20 + LEN,
                });
                [&header[..], &tcp].concat()
            }
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                let header = ipv6::header(&ipv6::Ipv6Fields {
                    source: *source.ip(),
                    destination: *destination.ip(),
                    traffic_class: 0,
                    hop_limit: 64,
                    next_header: PROTOCOL,
                    payload_len: LEN,
                });
                [&header[..], &tcp].concat()
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                Vec::new()
            }
        }
    }
}

impl Said {
    /// Of a packet that begins with its IP header; over IPv6 without others, as smoltcp's and those that it is shown.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (tcp, end) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4View::new(packet)?;
                (ip.header_len(), usize::from(ip.total_len()))
            }
            _ => {
                let ip = Ipv6View::new(packet).filter(|ip| ip.next_header() == PROTOCOL)?;
                (V6_HEADER, V6_HEADER + usize::from(ip.payload_len()))
            }
        };
        let segment = packet.get(tcp..end.min(packet.len()))?;
        let header = TcpView::new(segment)?;
        let has = |flag| usize::from(header.flags() & flag != 0);
        let len = segment.len().checked_sub(header.header_len())?;
        let len = len + has(flags::SYN) + has(flags::FIN);
        Some(Self {
            sequence: header.sequence(),
            acknowledgment: header.acknowledgment(),
            window: header.window(),
            flags: header.flags(),
            len: u32::try_from(len).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        let at = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
        Ends {
            local: at(80),
            remote: at(61_000),
        }
    }

    /// What the connection sends, or is sent: of another recovery's, whose words are the same.
    fn packet(sequence: u32, acknowledgment: u32, window: u16, len: usize) -> Vec<u8> {
        let mut other = Recovery::new(ends(), Instant(0));
        other.acknowledged = Some(acknowledgment);
        let mut packet = other.acknowledge(sequence, window);
        packet.extend(std::iter::repeat_n(0, len));
        let total = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet
    }

    fn said(packet: &[u8]) -> Said {
        Said::read(packet).unwrap()
    }

    /// Ten segments of a hundred bytes under way, across the sequence's end; the first acknowledgment has come.
    fn under_way(now: Instant) -> (Recovery, u32) {
        let first = u32::MAX - 450;
        let mut recovery = Recovery::new(ends(), now);
        recovery.note_sent(&said(&packet(first, 7, 100, 0)), now);
        assert!(!recovery.note_came(&said(&packet(7, first, 100, 0)), now));
        for n in 0..10 {
            let sent = packet(first.wrapping_add(n * 100), 7, 100, 100);
            recovery.note_sent(&said(&sent), now);
        }
        (recovery, first)
    }

    #[test]
    fn a_part_of_what_was_under_way_says_that_the_next_is_lost() {
        let now = Instant::from_nanos(1);
        let (mut recovery, first) = under_way(now);
        let ack = |n: u32| said(&packet(7, first.wrapping_add(n * 100), 100, 0));
        assert!(!recovery.note_came(&ack(2), now));
        for _ in 0..3 {
            assert!(
                !recovery.note_came(&ack(2), now),
                "smoltcp sees three itself"
            );
        }
        assert!(recovery.note_came(&ack(5), now));
        assert!(recovery.note_came(&ack(8), now));
        assert!(!recovery.note_came(&ack(10), now), "all that was under way");
        // Old ones, and those of what was never sent, say nothing.
        assert!(!recovery.note_came(&ack(3), now) && !recovery.note_came(&ack(11), now));
        assert_eq!(recovery.acknowledged, Some(first.wrapping_add(1_000)));
        assert_eq!(recovery.due(), None);
    }

    #[test]
    fn silence_is_probed_a_few_times_and_ever_later() {
        let mut now = Instant::from_nanos(1);
        let (mut recovery, first) = under_way(now);
        let mut waits = Vec::new();
        while let Some(due) = recovery.due() {
            waits.push(due.since(now));
            now = due;
            recovery.note_probe(now);
        }
        let first_wait = ROUND_TRIP * 2 + SLACK_OF_ONE;
        assert_eq!(waits, [first_wait, first_wait * 2, first_wait * 4]);
        // Whatever is acknowledged begins anew.
        assert!(recovery.note_came(&said(&packet(7, first.wrapping_add(100), 100, 0)), now));
        assert_eq!(recovery.due(), Some(now + first_wait));
        assert!(!recovery.note_came(&said(&packet(7, first.wrapping_add(100), 0, 0)), now));
        assert_eq!(recovery.due(), None, "nobody waits at a closed window");
    }
}
