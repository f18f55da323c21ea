//! Blind: segments of who knows the ends of a connection and none of its numbers (RFC 5961).
//!
//! In: a segment of a connection that is open; what of its numbers is next. Out: whether it may go on, and if not,
//! whether the other is asked what he means. Never: a segment, an answer: smoltcp makes that.
//!
//! Who answers a question (a challenge ACK) with a reset has heard the question, and says the very number that ends the
//! connection. Questions are as seldom as smoltcp's (`challenge_ack_reply`: one a second of its time), for each
//! connection by itself: from a bound that connections share others could tell how many there are (RFC 5961, section 7,
//! has one).

use culvert_wire::{parse::Tcp as Segment, tcp::flags};

use crate::HostDrop;

/// The numbers of a connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The next byte of the other's (RCV.NXT).
    pub(super) next: u32,
    /// So many there is room for.
    pub(super) window: u32,
    /// All of ours before this was sent (SND.NXT).
    pub(super) sent: u32,
}

/// A segment that does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) reason: HostDrop,
    /// The other is asked.
    pub(super) is_asked: bool,
}

/// Whether `a` comes behind `b`.
pub(super) const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

impl Numbers {
    /// Whether a segment of `len` lies in the window (RFC 9293, section 3.10.7.4), or ends at it: whoever has filled it
    /// says there what he has heard.
    pub(super) const fn holds(self, sequence: u32, len: u32) -> bool {
        let (first, end) = (
            sequence.wrapping_sub(self.next),
            sequence.wrapping_add(len).wrapping_sub(self.next),
        );
        first <= self.window || (0 < end && end <= self.window)
    }

    /// What hinders a segment. Of what is acknowledged anew smoltcp looks at the lower end by itself.
    pub(super) fn doubt(self, segment: &Segment) -> Option<Doubt> {
        let has = |flag| segment.flags & flag != 0;
        let ahead = segment.sequence.wrapping_sub(self.next);
        let doubt = |reason, is_asked| Some(Doubt { reason, is_asked });
        match () {
            // The very number, or a question (section 3.2).
            () if has(flags::RST) && ahead == 0 => None,
            () if has(flags::RST) => doubt(HostDrop::TcpResetDoubtful, ahead < self.window),
            // Wherever it lies (section 4.2).
            () if has(flags::SYN) => doubt(HostDrop::TcpSynDoubtful, true),
            // Of what was never sent (section 5.2).
            () if has(flags::ACK) && is_after(segment.acknowledgment, self.sent) => {
                doubt(HostDrop::TcpAckDoubtful, true)
            }
            () => None,
        }
    }
}

/// How far the other's bytes have come, told from what smoltcp acknowledges and hands out: it has the number, and does
/// not say it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The first byte's.
    first: Option<u32>,
    /// Bytes that were read.
    read: u32,
}

impl Progress {
    /// A segment of ours has acknowledged all that came; of that, `waiting` was not read.
    pub(super) fn note_acknowledged(&mut self, acknowledgment: u32, waiting: u32) {
        let come = self.read.wrapping_add(waiting);
        self.first.get_or_insert(acknowledgment.wrapping_sub(come));
    }

    pub(super) fn note_read(&mut self, bytes: usize) {
        // Modulo 2^32, as sequence numbers are.
        let bytes = u32::try_from(bytes & 0xffff_ffff).unwrap_or(0);
        self.read = self.read.wrapping_add(bytes);
    }

    /// The next byte's, where so many wait to be read.
    pub(super) fn next(&self, waiting: u32) -> Option<u32> {
        Some(self.first?.wrapping_add(self.read).wrapping_add(waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
        Segment {
            source_port: 1,
            destination_port: 2,
            sequence,
            acknowledgment,
            header_len: 20,
            flags,
        }
    }

    #[test]
    fn only_the_next_number_ends_a_connection_and_what_lies_in_the_window_is_asked_about() {
        let next = u32::MAX - 5;
        let numbers = Numbers {
            next,
            window: 1_000,
            sent: 77,
        };
        let reset = |ahead: u32, other| {
            let doubt = numbers.doubt(&segment(flags::RST | other, next.wrapping_add(ahead), 0));
            doubt.map(|it| {
                assert_eq!(it.reason, HostDrop::TcpResetDoubtful);
                it.is_asked
            })
        };
        for other in [0, flags::ACK, flags::SYN] {
            assert_eq!(reset(0, other), None);
            assert_eq!(reset(1, other), Some(true));
            assert_eq!(reset(999, other), Some(true));
            assert_eq!(reset(1_000, other), Some(false));
            assert_eq!(reset(u32::MAX, other), Some(false));
        }
        // With no room the next number is in no window, and counts.
        let full = Numbers {
            window: 0,
            ..numbers
        };
        assert_eq!(full.doubt(&segment(flags::RST, next, 0)), None);
        let asked = |reason| {
            Some(Doubt {
                reason,
                is_asked: true,
            })
        };
        for sequence in [0, next, 9] {
            let begins = numbers.doubt(&segment(flags::SYN, sequence, 0));
            assert_eq!(begins, asked(HostDrop::TcpSynDoubtful));
        }
        for (acknowledgment, doubt) in [
            (77, None),
            (0, None),
            (u32::MAX, None),
            (78, asked(HostDrop::TcpAckDoubtful)),
            (1 << 30, asked(HostDrop::TcpAckDoubtful)),
        ] {
            let acknowledges = segment(flags::ACK, next, acknowledgment);
            assert_eq!(numbers.doubt(&acknowledges), doubt, "{acknowledgment}");
        }
    }
    #[test]
    fn what_lies_in_the_window_is_taken_in_parts_too() {
        let next = u32::MAX - 5;
        let numbers = Numbers {
            next,
            window: 1_000,
            sent: 0,
        };
        let full = Numbers {
            window: 0,
            ..numbers
        };
        let at = |ahead: u32| next.wrapping_add(ahead);
        for (ahead, len) in [(0, 0), (1_000, 0), (0, 1), (999, 500), (u32::MAX - 98, 100)] {
            assert!(numbers.holds(at(ahead), len), "{ahead} {len}");
        }
        for (ahead, len) in [(u32::MAX, 0), (1_001, 0), (1_001, 9), (u32::MAX - 99, 100)] {
            assert!(!numbers.holds(at(ahead), len), "{ahead} {len}");
        }
        assert!(full.holds(next, 0) && !full.holds(at(1), 0) && !full.holds(at(u32::MAX), 1));
    }
}
