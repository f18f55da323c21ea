//! Why the stack ignored a frame or did not send one.
//!
//! In: reasons, as they occur. Out: their stable names, and how often each occurred, to whoever holds the counters.
//! Never: a lock.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal),* $(,)?) => {
        /// Why a frame was ignored or not sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HostDrop { $($(#[$doc])* $name),* }

        impl HostDrop {
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
    /// Cut short, contradicting itself, or failing a check of its protocol.
    Malformed => "malformed",
    /// Another's frame, packet or question.
    NotForUs => "not-for-us",
    /// Our own frame come back.
    Looped => "looped",
    /// A protocol or message that the stack doesn't serve.
    NotServed => "not-served",
    /// An announcement or answer of a neighbor that nobody asked for.
    Unsolicited => "unsolicited",
    /// Someone says unasked to be a neighbor that we know elsewhere, or a router.
    NeighborDoubtful => "neighbor-doubtful",
    /// Someone else says to have an address of ours.
    AddressConflict => "address-conflict",
    /// More questions than are answered per second.
    RateLimited => "rate-limited",
    /// An echo request that may not be answered: a fragment, a wrong checksum, a source
    /// that isn't one host.
    EchoRefused => "echo-refused",
    /// A packet that says to come from a group, from us, or from nowhere.
    SourceInvalid => "source-invalid",
    /// A packet whose sender chose its way.
    SourceRouted => "source-routed",
    /// A packet with an option that nobody may pass over.
    OptionRefused => "option-refused",
    /// A fragment that can't be part of a packet: empty, not of eights, beyond the longest, behind too many headers.
    FragmentInvalid => "fragment-invalid",
    /// A first fragment that ends ahead of its packet's headers.
    FragmentHeaders => "fragment-headers",
    /// A fragment that came before.
    FragmentDuplicate => "fragment-duplicate",
    /// A fragment over another: nothing comes of its packet.
    FragmentOverlap => "fragment-overlap",
    /// A fragment behind the last, a second last one, or one whose congestion bits differ from the others' kind.
    FragmentContradicts => "fragment-contradicts",
    /// A fragment of a packet of which nothing comes.
    FragmentRefused => "fragment-refused",
    /// A packet in more fragments than are taken.
    FragmentsTooMany => "fragments-too-many",
    /// A packet of which not all came in time.
    ReassemblyTimeout => "reassembly-timeout",
    /// The oldest packet of which not all came made room.
    ReassemblyFull => "reassembly-full",
    /// The oldest packet of a source with too many of them made room.
    ReassemblySourceFull => "reassembly-source-full",
    /// An error that was not sent: more than the limit, of its receiver or of all.
    ErrorLimited => "error-limited",
    /// An error about what we did not send.
    ErrorUnmatched => "error-unmatched",
    /// An error about what we sent, while others wait to be heard.
    ErrorsFull => "errors-full",
    /// A datagram out of fragments, while others wait to be taken.
    DatagramsFull => "datagrams-full",
    /// A TCP segment for a port that nobody listens on.
    TcpPortClosed => "tcp-port-closed",
    /// A TCP connection begun by who is not allowed to.
    TcpNotAllowed => "tcp-not-allowed",
    /// A TCP segment of no connection.
    TcpNoConnection => "tcp-no-connection",
    /// A TCP connection that was not open yet and made room for another, or found none.
    TcpOpeningsFull => "tcp-openings-full",
    /// All places for connections to a service are taken, of the API, of metrics or of the responder.
    TcpServiceFull => "tcp-service-full",
    /// An address, over IPv6 a /64, has as many connections to a service as are left for others.
    TcpSourceFull => "tcp-source-full",
    /// No room for another TCP connection.
    TcpConnectionsFull => "tcp-connections-full",
    /// A reset of a TCP connection that lacks the very number that ends it. If it might be meant, the other is asked.
    TcpResetDoubtful => "tcp-reset-doubtful",
    /// A segment that begins a TCP connection which is open already: the other is asked; or one that was begun here.
    TcpSynDoubtful => "tcp-syn-doubtful",
    /// A TCP segment that acknowledges what was never sent: the other is asked.
    TcpAckDoubtful => "tcp-ack-doubtful",
    /// A frame for the host's kernel, while others wait to be taken.
    KernelFull => "kernel-full",
    /// A frame of the host's kernel from another hardware address than the uplink's.
    KernelSource => "kernel-source",
    /// A frame of the host's kernel for a VLAN.
    KernelTagged => "kernel-tagged",
    /// A frame of the host's kernel from a port that is ours.
    KernelPort => "kernel-port",
    /// A frame of the host's kernel from an address of ours, whose port can't be seen.
    KernelHeaders => "kernel-headers",
    /// An ICMP error of the host's kernel about what came to a port that is ours.
    KernelError => "kernel-error",
    /// A message of a DHCP server that answers nothing we asked, or offers what no host can have.
    DhcpUnasked => "dhcp-unasked",
    /// An offer of an address that could not be used when it was lent.
    DhcpUnusable => "dhcp-unusable",
    /// A router's advertisement, or a prefix of it, that found no room, or made it for another.
    AdvertisedFull => "advertised-full",
    /// An advertisement of a router that did not answer when it was asked whether it is there.
    AdvertisedUnanswered => "advertised-unanswered",
    /// An advertisement from elsewhere than its router answers, or of who answers that it is none. The router is asked.
    AdvertisedDoubtful => "advertised-doubtful",
    /// A BFD packet of nobody with whom there is a session, or from beyond the link.
    LivenessUnknown => "liveness-unknown",
    /// A BFD packet that is cut short, contradicts itself, or names another session; of one that is up, too, one that
    /// names none.
    LivenessRefused => "liveness-refused",
    /// A UDP datagram for an endpoint whose buffer is full, or that takes no more.
    UdpBufferFull => "udp-buffer-full",
    /// A UDP datagram of ours whose next hop did not answer, or that made room for another.
    UdpUnrouted => "udp-unrouted",
    /// An answer of a server of names that can't be read.
    NameMalformed => "name-malformed",
    /// An answer of a server of names to what we did not ask it, or by another number.
    NameUnasked => "name-unasked",
    /// So many of those came to one question that it was asked by a connection.
    NameSpoofed => "name-spoofed",
    /// An answer of a server of names that is longer than any that is read.
    NameTooLong => "name-too-long",
    /// No room for another neighbor.
    NeighborsFull => "neighbors-full",
    /// No room for another frame to send.
    OutputFull => "output-full",
}

/// How often each reason occurred. Read it wherever it is held: it outlives the stack that counts.
#[derive(Debug)]
pub struct Drops([AtomicU64; HostDrop::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// It occurred once more.
    pub fn count(&self, reason: HostDrop) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `reason` occurred.
    #[must_use]
    pub fn of(&self, reason: HostDrop) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// What occurred, by name, with counts above 0.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        HostDrop::ALL
            .iter()
            .map(|&reason| (reason.name(), self.of(reason)))
            .filter(|&(_, n)| n > 0)
    }
}
