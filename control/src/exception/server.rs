//! The thread's end.
//!
//! In: what lies in workers' rings and in interfaces. Out: the same, the other way. Never: more of one of them in a round
//! than its share; a frame read from an interface that has no room on its way: the kernel keeps it, and slows down who
//! sends.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_dataplane::shared::{
    exception_link::WorkerLane,
    ids::UplinkIndex,
    limits::{EXCEPTION_PER_ROUND, FRAME_MAX},
};
use culvert_stack::may_leave;
use culvert_wire::{
    Checksum, VnetHeader, ether,
    parse::{L3, L4, parse_frame},
    tcp, udp,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use super::{Shared, Way};

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The same while a worker has to make room first.
const NAP: Duration = Duration::from_micros(200);

type Ways = BTreeMap<UplinkIndex, Arc<Way>>;

/// What the thread runs.
pub(super) struct Server {
    shared: Arc<Shared>,
    lanes: Vec<WorkerLane>,
    /// For a frame of the kernel's, with what stands ahead of it.
    room: Vec<u8>,
    /// A worker had no room.
    is_stuck: bool,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, lanes: Vec<WorkerLane>) -> Self {
        Self {
            shared,
            lanes,
            room: vec![0; FRAME_MAX + VnetHeader::LEN],
            is_stuck: false,
        }
    }

    /// Works until it is asked to end.
    pub(super) fn run(mut self) {
        loop {
            // What is rung from here on ends the sleep below at once.
            self.shared.wake.announce();
            if self.shared.ends.load(Ordering::Acquire) {
                return;
            }
            let ways = self.shared.ways.load_full();
            if !self.round(&ways) {
                self.sleep(&ways);
            }
            self.shared.wake.awake();
        }
    }

    /// One round; whether there is more to do at once.
    pub(super) fn round(&mut self, ways: &Ways) -> bool {
        self.is_stuck = false;
        let mut more = false;
        for lane in &mut self.lanes {
            let take = || {
                lane.to_kernel
                    .take(|uplink, frame| give(ways, uplink, frame))
            };
            more |= std::iter::repeat_with(take)
                .take(EXCEPTION_PER_ROUND)
                .take_while(Option::is_some)
                .count()
                == EXCEPTION_PER_ROUND;
        }
        for (&uplink, way) in ways {
            more |= self.bring(uplink, way);
        }
        more
    }

    /// A share of the frames that the kernel sends; whether there may be more.
    fn bring(&mut self, uplink: UplinkIndex, way: &Way) -> bool {
        let Some(lane) = self.lanes.get_mut(way.worker) else {
            return false;
        };
        let longest = ether::HEADER_LEN + usize::from(way.mtu);
        let mut any = false;
        for _ in 0..EXCEPTION_PER_ROUND {
            if !lane.has_room(longest) {
                self.is_stuck = true;
                break;
            }
            let Some(frame) = way.tun.receive(&mut self.room) else {
                break;
            };
            let owns = |address| way.addresses.contains(&address);
            match may_leave(frame, way.mac, owns, &way.ports) {
                Ok(()) => any |= lane.send(uplink, frame),
                Err(reason) => way.drops.count(reason),
            }
        }
        if any {
            lane.ring();
        }
        any && !self.is_stuck
    }

    fn sleep(&self, ways: &Ways) {
        let mut polled = vec![PollFd::new(&*self.shared.wake, PollFlags::IN)];
        let mut timeout = NAP;
        if !self.is_stuck {
            timeout = SLEEP_MAX;
            let readable = ways.values().filter_map(|way| way.tun.readable());
            polled.extend(readable.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        // An interrupted or failed poll is an early end of the sleep.
        let _ = poll(&mut polled, Timespec::try_from(timeout).ok().as_ref());
    }
}

/// Gives the kernel a frame that came by an uplink; one that it shares no more is nobody's.
fn give(ways: &Ways, uplink: UplinkIndex, frame: &[u8]) {
    let Some(way) = ways.get(&uplink) else {
        return;
    };
    let vnet = match way.is_partial {
        true => left_to_us(frame),
        false => VnetHeader::default(),
    };
    if let Err(reason) = way.tun.send(&vnet, frame) {
        way.counters.drops.add(reason, 1);
    }
}

/// Tells the kernel that a frame's sum is left to it, where a sender on this machine did so: the field has the
/// pseudo-header's sum alone.
fn left_to_us(frame: &[u8]) -> VnetHeader {
    let none = VnetHeader::default();
    let len = u32::try_from(frame.len()).unwrap_or(0);
    let Ok(headers) = parse_frame(frame, len) else {
        return none;
    };
    let offset = match headers.l4 {
        L4::Tcp(_) => tcp::CHECKSUM_OFFSET,
        L4::Udp(_) => udp::CHECKSUM_OFFSET,
        L4::Icmp4(_) | L4::Icmp6(_) | L4::Fragment | L4::Malformed | L4::Other => return none,
    };
    let at = headers.l4_offset + usize::from(offset);
    let field = frame
        .get(at..at + 2)
        .and_then(|field| field.try_into().ok());
    let l4_len = headers.l3_offset + headers.ip_len - headers.l4_offset;
    let l4_len = u32::try_from(l4_len).unwrap_or(0);
    let seed = match (headers.l3, headers.protocol()) {
        (L3::V4(ip), Some(protocol)) => {
            Checksum::pseudo_v4(ip.source, ip.destination, protocol, l4_len)
        }
        (L3::V6(ip), Some(protocol)) => {
            Checksum::pseudo_v6(ip.source, ip.destination, protocol, l4_len)
        }
        _ => return none,
    };
    match (
        field.map(u16::from_be_bytes),
        u16::try_from(headers.l4_offset),
    ) {
        (Some(field), Ok(start)) if field == seed.value() => VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..none
        },
        _ => none,
    }
}
