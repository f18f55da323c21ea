//! Why packets are lost: every reason has a name and a counter per scope.
//!
//! In: a reason at the place of the drop. Out: counts by name for `show`, the
//! API and metrics. Never: a drop that isn't counted here.
//!
//! A peer has counters for what peers lose packets for, and no others.
//!
//! Counters are relaxed atomics: exact totals, no ordering with anything else.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal),* $(,)?) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name),* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable name under which operators see the reason.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

reasons! {
    // From a guest.
    /// The guest's frame is shorter than its headers say, or not parseable.
    FrameMalformed => "frame-malformed",
    /// The guest's frame is larger than 64 KiB.
    FrameTooLarge => "frame-too-large",
    /// The virtio-net header contradicts the packet.
    OffloadInvalid => "offload-invalid",
    /// The source MAC is not the port's.
    GuardMac => "guard-mac",
    /// The source address is not the port's.
    GuardAddress => "guard-address",
    /// An ARP or neighbor-discovery message claims what is not the port's.
    GuardNeighbor => "guard-neighbor",
    /// DHCP as a server speaks it, from a strict port.
    GuardDhcp => "guard-dhcp",
    /// A router's advertisement or redirect, from a strict port.
    GuardRouter => "guard-router",
    /// A frame with a VLAN or another tag, from a strict port.
    GuardTag => "guard-tag",
    /// A frame with a length in the EtherType's place (LLC, SNAP), from a strict port.
    GuardLlc => "guard-llc",
    /// A chain of IPv6 headers whose end was not reached, from a strict port.
    GuardHeaders => "guard-headers",
    /// A first fragment without its layer 4 header, or neighbor discovery in a fragment, from a strict port.
    GuardFragment => "guard-fragment",
    /// A VLAN that the trunk port doesn't have.
    VlanUnknown => "vlan-unknown",
    /// No tag, from a trunk port without a network for such frames.
    VlanUntagged => "vlan-untagged",
    /// A tag with VLAN 0, which is a priority alone, from a trunk port.
    VlanPriority => "vlan-priority",
    /// A second tag, or one that is not 802.1Q's, from a trunk port; any tag towards one.
    VlanStacked => "vlan-stacked",
    /// A frame with a length in the EtherType's place (LLC, SNAP), from a trunk port or towards one.
    VlanLlc => "vlan-llc",
    /// Neither IPv4, IPv6 nor ARP, and not for a port of the network.
    EtherTypeUnknown => "ether-type-unknown",
    /// The destination MAC belongs to nobody on the network.
    MacUnknown => "mac-unknown",
    /// Nobody answers to the address that was asked for.
    NeighborUnknown => "neighbor-unknown",
    /// Broadcast or multicast with no other port to take it.
    NoListener => "no-listener",
    /// A source or destination that does not leave its link or host: link-local, loopback, unspecified, class E.
    AddressUnroutable => "address-unroutable",
    /// No route to the destination.
    NoRoute => "no-route",
    /// The hop limit ran out.
    TtlExceeded => "ttl-exceeded",
    /// Larger than the tunnel's MTU; the sender was told.
    TooBig => "too-big",
    /// Addressed to the gateway itself, which does not serve it.
    GatewayNotServed => "gateway-not-served",
    /// More DHCP messages and router solicitations come from guests than are served.
    ServiceQueueFull => "service-queue-full",
    /// A DHCP message or a router solicitation that can't be read.
    ServiceMalformed => "service-malformed",
    /// A DHCP message for another server, of a relay, or of a kind that is not served.
    ServiceRefused => "service-refused",
    /// The guest found its address in use by another, and said so (DHCPDECLINE).
    AddressDeclined => "address-declined",
    // Towards a peer.
    /// The peer has no endpoint yet.
    NoEndpoint => "no-endpoint",
    /// The link-layer address of the next hop is not resolved yet.
    NextHopUnresolved => "next-hop-unresolved",
    /// The oldest packet waiting for a handshake made room for a newer one.
    StagedOverflow => "staged-overflow",
    /// Packets that waited for a handshake which was given up.
    StagedExpired => "staged-expired",
    /// The keypair may not send any more (age or count).
    KeypairSpent => "keypair-spent",
    /// The uplink took fewer datagrams than it was given.
    UplinkFull => "uplink-full",
    /// The uplink refused the datagram (kernel error).
    UplinkRefused => "uplink-refused",
    /// It was chosen for sealing, and its buffer or the engine could not take it.
    NotSealed => "not-sealed",
    /// It waited for a peer that was removed.
    PeerRemoved => "peer-removed",
    /// It waited for a peer's key, and its sender is in that network no more.
    GuestRemoved => "guest-removed",
    /// The worker that should send it is too far behind with commands.
    CommandQueueFull => "command-queue-full",
    /// A question for a next hop: the host stacks' thread is too far behind. It is asked again.
    StackQueueFull => "stack-queue-full",
    /// The uplink is down or not configured on this worker.
    UplinkDown => "uplink-down",
    // From the wire.
    /// Not a WireGuard message, or of an impossible length.
    DatagramMalformed => "datagram-malformed",
    /// More datagrams came at once than a burst holds.
    BurstFull => "burst-full",
    /// No session with that receiver index.
    ReceiverUnknown => "receiver-unknown",
    /// The session is too old to receive.
    KeypairExpired => "keypair-expired",
    /// The tag does not verify.
    TagInvalid => "tag-invalid",
    /// The counter was seen before or lies behind the window.
    Replayed => "replayed",
    /// The inner packet is no IPv4 or IPv6 packet.
    InnerMalformed => "inner-malformed",
    /// The inner source address is not in the peer's allowed IPs.
    SourceNotAllowed => "source-not-allowed",
    /// The inner source address is the gateway's or a guest's of the network, whatever the peer's allowed IPs hold.
    SourceLocal => "source-local",
    /// Congestion was met outside, and the inner packet can't be marked.
    CongestionUnmarkable => "congestion-unmarkable",
    /// A handshake message whose mac1 was not made for this tunnel's key.
    HandshakeMac1Invalid => "handshake-mac1-invalid",
    /// More handshake messages come than are taken.
    HandshakeQueueFull => "handshake-queue-full",
    /// More neighbor messages come than the host stack takes. Answers that it waits for are not among them.
    NeighborQueueFull => "neighbor-queue-full",
    /// More answers of neighbors that were asked come than the host stack takes.
    NeighborAwaitedQueueFull => "neighbor-awaited-queue-full",
    /// More messages of BFD sessions come than the host stack takes.
    LivenessQueueFull => "liveness-queue-full",
    /// More BFD messages of the session's neighbor that name no session come than the host stack takes.
    LivenessUnnamedQueueFull => "liveness-unnamed-queue-full",
    /// More advertisements of routers that are known come than the host stack takes.
    RouterQueueFull => "router-queue-full",
    /// More advertisements of others come than the host stack takes.
    RouterUnknownQueueFull => "router-unknown-queue-full",
    /// More ICMP messages come than the host stack takes.
    IcmpQueueFull => "icmp-queue-full",
    /// More TCP segments to us come than the host stack takes.
    SegmentQueueFull => "segment-queue-full",
    /// More TCP connections to us are begun than the host stack looks at.
    OpeningQueueFull => "opening-queue-full",
    /// More UDP datagrams to us that are no tunnel's come than the host stack takes.
    DatagramQueueFull => "datagram-queue-full",
    /// More messages of DHCP servers come than the host stack takes.
    LeaseQueueFull => "lease-queue-full",
    /// More of other frames for the host stack come than it takes.
    HostQueueFull => "host-queue-full",
    /// More frames for the host's kernel come than its interface takes.
    ExceptionQueueFull => "exception-queue-full",
    /// An outer IPv4, UDP or ICMP checksum is wrong.
    OuterChecksum => "outer-checksum",
    /// The outer packet is malformed.
    OuterMalformed => "outer-malformed",
    /// An outer IP fragment longer than the host stack takes.
    OuterFragment => "outer-fragment",
    /// More outer IP fragments come than the host stack puts together.
    FragmentQueueFull => "fragment-queue-full",
    /// An ICMP error about what no peer was sent.
    ErrorUnmatched => "error-unmatched",
    /// An ICMP error says how much passes where that is not searched, or known to be less.
    ErrorIgnored => "error-ignored",
    /// Not addressed to one of the uplink's addresses or tunnels.
    NotForUs => "not-for-us",
    // Towards an interface of the host's.
    /// The host takes frames of this interface more slowly than they come.
    InterfaceFull => "interface-full",
    /// The interface is down, or was deleted.
    InterfaceDown => "interface-down",
    /// The kernel refuses the frame's offload metadata, or its form.
    InterfaceRefused => "interface-refused",
    /// Neither IPv4 nor IPv6, for an interface that carries packets alone.
    InterfaceNotIp => "interface-not-ip",
    // Towards a guest: the port's rings count what is lost there themselves.
    /// More ICMP errors than the limit.
    IcmpLimited => "icmp-limited",
    /// A peer's packet, for a reason that peers' packets are not known to be lost for.
    Unforeseen => "unforeseen",
}

/// Why a peer's packets are lost, on their way to it or from it: there are many peers, and each has a counter for
/// these alone. The last takes what should be none of them.
const OF_PEERS: [DropReason; 27] = [
    DropReason::FrameMalformed,
    DropReason::FrameTooLarge,
    DropReason::OffloadInvalid,
    DropReason::AddressUnroutable,
    DropReason::NoRoute,
    DropReason::TtlExceeded,
    DropReason::TooBig,
    DropReason::GatewayNotServed,
    DropReason::NoEndpoint,
    DropReason::NextHopUnresolved,
    DropReason::StagedOverflow,
    DropReason::StagedExpired,
    DropReason::GuestRemoved,
    DropReason::KeypairSpent,
    DropReason::UplinkFull,
    DropReason::NotSealed,
    DropReason::UplinkDown,
    DropReason::DatagramMalformed,
    DropReason::KeypairExpired,
    DropReason::TagInvalid,
    DropReason::Replayed,
    DropReason::InnerMalformed,
    DropReason::SourceNotAllowed,
    DropReason::SourceLocal,
    DropReason::CongestionUnmarkable,
    DropReason::IcmpLimited,
    DropReason::Unforeseen,
];

/// The counter that a reason has at a peer.
const PLACES: [usize; DropReason::ALL.len()] = {
    let mut places = [OF_PEERS.len() - 1; DropReason::ALL.len()];
    let mut place = 0;
    while place < OF_PEERS.len() {
        places[OF_PEERS[place] as usize] = place;
        place += 1;
    }
    places
};

macro_rules! counters {
    ($(#[$doc:meta])* $pub:vis $name:ident, $reasons:expr, $place:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        $pub struct $name {
            counts: [AtomicU64; $reasons.len()],
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    counts: std::array::from_fn(|_| AtomicU64::new(0)),
                }
            }
        }

        impl $name {
            /// Counts `n` packets lost for `reason`.
            $pub fn add(&self, reason: DropReason, n: u64) {
                self.counts[$place(reason)].fetch_add(n, Ordering::Relaxed);
            }

            /// How many were lost for `reason`.
            #[must_use]
            $pub fn count(&self, reason: DropReason) -> u64 {
                let of = |(found, n)| (found == reason).then_some(n);
                self.iter().find_map(of).unwrap_or_default()
            }

            /// All reasons that have occurred, with their counts.
            $pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
                let counts = self.counts.iter().map(|n| n.load(Ordering::Relaxed));
                let counts = $reasons.iter().copied().zip(counts);
                counts.filter(|&(_, n)| n > 0)
            }

            /// The number of packets lost for any reason.
            #[must_use]
            $pub fn total(&self) -> u64 {
                self.iter().map(|(_, n)| n).sum()
            }
        }
    };
}

counters!(
    /// The drop counters of a port or an uplink.
    pub Drops,
    DropReason::ALL,
    |reason| reason as usize
);

counters!(
    /// What a peer has lost.
    PeerCounts,
    OF_PEERS,
    place_at_peer
);

/// A peer's drop counters. Most peers lose nothing, and there are many: counters come with the first loss, one
/// allocation in a peer's life.
#[derive(Debug, Default)]
pub struct PeerDrops(ArcSwapOption<PeerCounts>);

impl PeerDrops {
    /// Counts `n` packets lost for `reason`.
    pub fn add(&self, reason: DropReason, n: u64) {
        match &*self.0.load() {
            Some(counts) => counts.add(reason, n),
            None => self.begin().add(reason, n),
        }
    }

    /// Another worker may lose its first packet at the same moment: both count in the same counters.
    #[cold]
    fn begin(&self) -> Arc<PeerCounts> {
        let new = Arc::new(PeerCounts::default());
        let none: Option<Arc<PeerCounts>> = None;
        let before = self.0.compare_and_swap(&none, Some(Arc::clone(&new)));
        before.as_ref().map_or(new, Arc::clone)
    }

    /// How many were lost for `reason`.
    #[must_use]
    pub fn count(&self, reason: DropReason) -> u64 {
        let counts = self.0.load();
        counts.as_ref().map_or(0, |counts| counts.count(reason))
    }

    /// All reasons that have occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + use<> {
        let counts = self.0.load();
        let counts = counts
            .as_ref()
            .map(|counts| counts.iter().collect::<Vec<_>>());
        counts.into_iter().flatten()
    }

    /// The number of packets lost for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        let counts = self.0.load();
        counts.as_ref().map_or(0, |counts| counts.total())
    }
}

fn place_at_peer(reason: DropReason) -> usize {
    let place = PLACES[reason as usize];
    debug_assert_eq!(
        OF_PEERS[place], reason,
        "a reason that peers have no counter for"
    );
    place
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_counters_separate() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        let drops = Drops::default();
        drops.add(DropReason::Replayed, 3);
        drops.add(DropReason::TooBig, 1);
        assert_eq!(drops.count(DropReason::Replayed), 3);
        assert_eq!(drops.total(), 4);
        assert_eq!(drops.iter().count(), 2);
    }

    #[test]
    fn a_peer_has_a_counter_of_its_own_for_each_of_its_reasons() {
        let drops = PeerDrops::default();
        for (n, reason) in (1..).zip(OF_PEERS) {
            drops.add(reason, n);
            assert_eq!(drops.count(reason), n, "{}", reason.name());
        }
        assert_eq!(drops.iter().count(), OF_PEERS.len());
        assert_eq!(drops.count(DropReason::GuardMac), 0);
    }

    #[test]
    fn first_losses_at_the_same_moment_are_all_counted() {
        for _ in 0..100 {
            let drops = PeerDrops::default();
            std::thread::scope(|scope| {
                let lose = || drops.add(DropReason::Replayed, 1);
                (0..4).for_each(|_| drop(scope.spawn(lose)));
            });
            assert_eq!(drops.total(), 4);
        }
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "no counter"))]
    fn what_peers_have_no_counter_for_is_counted_all_the_same() {
        let drops = PeerDrops::default();
        drops.add(DropReason::GuardMac, 2);
        assert_eq!(
            drops.iter().collect::<Vec<_>>(),
            [(DropReason::Unforeseen, 2)]
        );
    }
}
