//! Punts: frames from the wire that are the host stack's, class by class.
//!
//! In: from workers, frames with the scope that they came to. Out: the same at the stacks' thread, by class. Never: a
//! class that takes another's room; a frame lost without a name; a frame that lies there while that thread sleeps.
//!
//! ```text
//!                 ┌ answers we wait for ───▶ rate ─▶ ring ┐ served first
//!                 ├ a session of BFD's ────▶ rate ─▶ ring │
//!                 ├ answers of neighbors ──▶ rate ─▶ ring │
//!                 ├ BFD that begins ───────▶ rate ─▶ ring │
//!                 ├ routers that are known ▶ rate ─▶ ring │
//!                 ├ other routers ─────────▶ rate ─▶ ring │
//!  a worker's  ───┤ their questions ───────▶ rate ─▶ ring ├──────────────▶ host stack of the scope
//!  punts          ├ ICMP to us ────────────▶ rate ─▶ ring │
//!                 ├ TCP of connections ────▶ rate ─▶ ring │
//!                 ├ TCP that begins some ──▶ rate ─▶ ring │
//!                 ├ UDP to us ─────────────▶ rate ─▶ ring │
//!                 ├ guests ────────────────▶ rate ─▶ ring │
//!                 ├ guests that ask more ──▶ rate ─▶ ring │
//!                 ├ DHCP servers' words ───▶ rate ─▶ ring │
//!                 └ the rest ──────────────▶ rate ─▶ ring ┘ served last
//! ```
//!
//! Threads: one [`Punts`] per worker, one [`Punted`] per worker at the stacks' thread. Handshakes go another way
//! (`control_link`): they are no frames, and the tunnels', not the stack's.

use std::{array, sync::Arc};

use culvert_wireguard::Instant;

use crate::{
    shared::{
        drops::DropReason,
        exception_link::ToKernel,
        frames::{FrameReceiver, FrameSender, frames},
        ids::{Scope, UplinkIndex},
        limits::{self, PuntBudget},
        wake::Wake,
    },
    worker::rate::Rate,
};

/// What a frame for the host stack is about; who comes first is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PuntClass {
    /// A neighbor answers what it was asked, from where it is known to be if that is known (`awaited`): without its
    /// answers, peers behind it go dark.
    NeighborAwaited,
    /// A neighbor says that it hears us (BFD), and names our session: late is as good as lost.
    Liveness,
    /// A neighbor answers us alone, unasked or from elsewhere. A storm of broadcasts, as a loop in the wiring makes it,
    /// is no answer.
    NeighborAnswer,
    /// A packet of BFD's that names no session of ours and comes from ours' neighbor, from where that is: it may begin one.
    LivenessUnnamed,
    /// A router that is known advertises itself, from where it has answered (`awaited`): without its words, addresses and
    /// routes end.
    Router,
    /// Another says to be a router.
    RouterUnknown,
    /// A neighbor asks for us, or announces itself.
    NeighborQuestion,
    /// ICMP to us: pings, errors.
    Icmp,
    /// TCP to us that says to be of a connection.
    Segment,
    /// TCP to us that begins a connection: a flood of these takes nothing from those that have one.
    Opening,
    /// UDP to us that is no tunnel's.
    Datagram,
    /// A guest asks its gateway: DHCP, DHCPv6, router solicitations.
    Guest,
    /// The same of a guest that asks more than a client does.
    GuestMore,
    /// Parts of packets to us; a path that is narrow for a tunnel's brings many.
    Fragment,
    /// A DHCP server's answer to what our client has asked.
    Lease,
    /// What the stack tells its sender that nobody takes, mostly.
    Rest,
}

impl PuntClass {
    /// All of them, in the order in which they are served.
    pub const ALL: [Self; 16] = [
        Self::NeighborAwaited,
        Self::Liveness,
        Self::NeighborAnswer,
        Self::LivenessUnnamed,
        Self::Router,
        Self::RouterUnknown,
        Self::NeighborQuestion,
        Self::Icmp,
        Self::Segment,
        Self::Opening,
        Self::Datagram,
        Self::Guest,
        Self::GuestMore,
        Self::Fragment,
        Self::Lease,
        Self::Rest,
    ];

    /// What it may take.
    #[must_use]
    pub const fn budget(self) -> PuntBudget {
        match self {
            Self::NeighborAwaited => limits::PUNT_NEIGHBORS_AWAITED,
            Self::Liveness => limits::PUNT_LIVENESS,
            Self::NeighborAnswer => limits::PUNT_NEIGHBOR_ANSWERS,
            Self::LivenessUnnamed => limits::PUNT_LIVENESS_UNNAMED,
            Self::Router => limits::PUNT_ROUTERS,
            Self::RouterUnknown => limits::PUNT_ROUTERS_UNKNOWN,
            Self::NeighborQuestion => limits::PUNT_NEIGHBOR_QUESTIONS,
            Self::Icmp => limits::PUNT_ICMP,
            Self::Segment => limits::PUNT_SEGMENTS,
            Self::Opening => limits::PUNT_OPENINGS,
            Self::Datagram => limits::PUNT_DATAGRAMS,
            Self::Guest => limits::PUNT_GUEST,
            Self::GuestMore => limits::PUNT_GUEST_MORE,
            Self::Fragment => limits::PUNT_FRAGMENTS,
            Self::Lease => limits::PUNT_LEASES,
            Self::Rest => limits::PUNT_REST,
        }
    }

    /// How a frame of it is lost that is longer than any that the stack takes.
    const fn too_long(self) -> DropReason {
        match self {
            Self::Fragment => DropReason::OuterFragment,
            Self::Guest | Self::GuestMore => DropReason::ServiceMalformed,
            Self::NeighborAwaited
            | Self::Liveness
            | Self::NeighborAnswer
            | Self::LivenessUnnamed
            | Self::Router
            | Self::RouterUnknown
            | Self::NeighborQuestion
            | Self::Icmp
            | Self::Segment
            | Self::Opening
            | Self::Datagram
            | Self::Lease
            | Self::Rest => DropReason::NotForUs,
        }
    }

    /// How a frame of it is lost that comes on top of too many.
    #[must_use]
    pub const fn overflow(self) -> DropReason {
        match self {
            Self::NeighborAnswer | Self::NeighborQuestion => DropReason::NeighborQueueFull,
            Self::NeighborAwaited => DropReason::NeighborAwaitedQueueFull,
            Self::Liveness => DropReason::LivenessQueueFull,
            Self::LivenessUnnamed => DropReason::LivenessUnnamedQueueFull,
            Self::Router => DropReason::RouterQueueFull,
            Self::RouterUnknown => DropReason::RouterUnknownQueueFull,
            Self::Icmp => DropReason::IcmpQueueFull,
            Self::Segment => DropReason::SegmentQueueFull,
            Self::Opening => DropReason::OpeningQueueFull,
            Self::Datagram => DropReason::DatagramQueueFull,
            Self::Guest | Self::GuestMore => DropReason::ServiceQueueFull,
            Self::Fragment => DropReason::FragmentQueueFull,
            Self::Lease => DropReason::LeaseQueueFull,
            Self::Rest => DropReason::HostQueueFull,
        }
    }
}

/// A frame for a host stack.
pub struct Punt {
    /// Whose stack.
    pub scope: Scope,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

/// A class at the worker's end.
struct Lane {
    frames: FrameSender<Scope>,
    rate: Rate,
}

/// A worker's end.
pub struct Punts {
    lanes: [Lane; PuntClass::ALL.len()],
    /// The host's kernel's, if it shares an uplink.
    kernel: Option<ToKernel>,
    /// The stacks' thread's.
    bell: Arc<Wake>,
    /// Classes of which something was pushed that it was not told of, a bit for each.
    untold: u32,
}

impl Punts {
    /// Hands a frame over.
    ///
    /// # Errors
    /// Under which name it is lost: it is longer than anything that a stack takes, or more come than are taken.
    pub fn push(
        &mut self,
        class: PuntClass,
        scope: Scope,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        if frame.len() > limits::HOST_FRAME_MAX {
            return Err(class.too_long());
        }
        let lane = &mut self.lanes[class as usize];
        let is_taken =
            lane.rate.take(class.budget().per_second, now) && lane.frames.push(scope, frame);
        self.untold |= u32::from(is_taken) << class as usize;
        is_taken.then_some(()).ok_or(class.overflow())
    }

    /// The host's kernel shares uplinks from now on.
    pub fn share(&mut self, kernel: ToKernel) {
        self.kernel = Some(kernel);
    }

    /// Hands a frame to the host's kernel.
    ///
    /// # Errors
    /// Under which name it is lost.
    pub fn push_to_kernel(
        &mut self,
        uplink: UplinkIndex,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        match &mut self.kernel {
            Some(kernel) => kernel.push(uplink, frame, now),
            None => Err(DropReason::NotForUs),
        }
    }

    /// Tells who takes it of what was pushed; whether anything was. Whoever pushes calls it before it looks at
    /// anything else.
    pub fn ring(&mut self) -> bool {
        let mut untold = std::mem::take(&mut self.untold);
        let is_news = untold != 0;
        while untold != 0 {
            self.lanes[untold.trailing_zeros() as usize].frames.tell();
            untold &= untold - 1;
        }
        if is_news {
            self.bell.notify();
        }
        self.kernel.as_mut().is_some_and(ToKernel::ring) || is_news
    }
}

/// The stacks' end.
pub struct Punted([FrameReceiver<Scope>; PuntClass::ALL.len()]);

impl Punted {
    /// The oldest frame of a class.
    pub fn pop(&mut self, class: PuntClass) -> Option<Punt> {
        self.0[class as usize].take(|scope, frame| Punt {
            scope,
            frame: frame.to_vec(),
        })
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(FrameReceiver::is_empty)
    }
}

/// The rings of one worker's punts; `bell` wakes who takes them.
#[must_use]
pub fn rings(bell: Arc<Wake>, now: Instant) -> (Punts, Punted) {
    let mut taken = Vec::with_capacity(PuntClass::ALL.len());
    let lanes = PuntClass::ALL.map(|class| {
        let queued = class.budget().queued;
        // Where there is room for a head there is room for the longest frame.
        let (frames, theirs) = frames(queued, queued * limits::HOST_FRAME_MAX);
        taken.push(theirs);
        let burst = u32::try_from(queued).unwrap_or(u32::MAX);
        let rate = Rate::new(burst, now);
        Lane { frames, rate }
    });
    let mut taken = taken.into_iter();
    let punted = array::from_fn(|_| taken.next().expect("a ring per class"));
    let punts = Punts {
        lanes,
        kernel: None,
        bell,
        untold: 0,
    };
    (punts, Punted(punted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope::Uplink(UplinkIndex(3));

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn bell() -> Arc<Wake> {
        Arc::new(Wake::new().unwrap())
    }

    fn drain((punts, punted): (&mut Punts, &mut Punted), class: PuntClass) -> usize {
        punts.ring();
        std::iter::from_fn(|| punted.pop(class)).count()
    }

    #[test]
    fn a_flood_of_one_class_leaves_the_others_their_room() {
        let (mut punts, mut punted) = rings(bell(), at(0));
        let mut lost = Vec::new();
        for n in 0..10_000_u32 {
            lost.extend(
                punts
                    .push(PuntClass::Icmp, SCOPE, &n.to_be_bytes(), at(0))
                    .err(),
            );
        }
        for class in PuntClass::ALL {
            if class != PuntClass::Icmp {
                punts.push(class, SCOPE, &[1], at(0)).unwrap();
            }
        }
        assert!(
            lost.iter()
                .all(|&reason| reason == DropReason::IcmpQueueFull)
        );
        let taken = drain((&mut punts, &mut punted), PuntClass::Icmp);
        assert_eq!(taken, PuntClass::Icmp.budget().queued);
        assert_eq!(taken + lost.len(), 10_000);
        for class in PuntClass::ALL {
            let expected = usize::from(class != PuntClass::Icmp);
            assert_eq!(
                drain((&mut punts, &mut punted), class),
                expected,
                "{class:?}"
            );
        }
        assert!(punted.is_empty());
    }

    #[test]
    fn frames_of_any_length_arrive_as_they_were_in_order_and_scope() {
        let (mut punts, mut punted) = rings(bell(), at(0));
        let class = PuntClass::Fragment;
        let other = Scope::Uplink(UplinkIndex(9));
        let frame = |n: usize| vec![u8::try_from(n % 251).unwrap(); n * 7 % 2_049];
        // More than the ring has bytes: frames lie across its end.
        for n in 0..3_000 {
            let scope = if n % 2 == 0 { SCOPE } else { other };
            punts.push(class, scope, &frame(n), at(n as u64)).unwrap();
            punts.ring();
            if n >= 100 {
                let taken = punted.pop(class).unwrap();
                let scope = if (n - 100) % 2 == 0 { SCOPE } else { other };
                assert_eq!((taken.scope, taken.frame), (scope, frame(n - 100)));
            }
        }
        assert_eq!(drain((&mut punts, &mut punted), class), 100);
        // As many of the longest as there is room for.
        let longest = [7; limits::HOST_FRAME_MAX];
        let pushed = (0..1_000).filter(|_| punts.push(class, SCOPE, &longest, at(9_000)).is_ok());
        assert_eq!(pushed.count(), class.budget().queued);
    }

    #[test]
    fn a_class_has_so_many_per_second_and_no_more() {
        for class in PuntClass::ALL {
            let (mut punts, mut punted) = rings(bell(), at(0));
            let mut taken = 0;
            for millis in 0..1_000 {
                for _ in 0..200 {
                    // What is lost is counted by whom it comes from.
                    let _ = punts.push(class, SCOPE, &[1], at(millis));
                }
                taken += drain((&mut punts, &mut punted), class);
            }
            let PuntBudget {
                per_second, queued, ..
            } = class.budget();
            // From the first to the last of them it is a millisecond less than a second.
            let most = per_second as usize * 999 / 1_000 + queued;
            assert!(
                (most - 10..=most + 10).contains(&taken),
                "{class:?}: {taken} of {most}"
            );
        }
    }

    #[test]
    fn what_is_pushed_is_told_once() {
        let bell = bell();
        let rung = || {
            let rung = bell.is_rung();
            bell.awake();
            bell.announce();
            rung
        };
        let (mut punts, _punted) = rings(Arc::clone(&bell), at(0));
        bell.announce();
        assert!(!punts.ring() && !rung(), "nothing to tell");
        punts.push(PuntClass::Rest, SCOPE, &[1], at(0)).unwrap();
        assert!(punts.ring() && rung());
        assert!(!punts.ring() && !rung(), "told already");
        assert_eq!(
            punts.push(
                PuntClass::Icmp,
                SCOPE,
                &[0; limits::HOST_FRAME_MAX + 1],
                at(0)
            ),
            Err(DropReason::NotForUs)
        );
        assert!(!punts.ring() && !rung(), "nothing was handed over");
    }
}
