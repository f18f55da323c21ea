//! Why the stack ignored a frame or did not send one.
//!
//! In: nothing. Out: reasons with stable names. Never: a count: the stack has those.

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
    /// Someone else says to have an address of ours.
    AddressConflict => "address-conflict",
    /// More questions than are answered per second.
    RateLimited => "rate-limited",
    /// An echo request that may not be answered: a fragment, a wrong checksum, a source
    /// that isn't one host.
    EchoRefused => "echo-refused",
    /// An echo request longer than the link's MTU.
    EchoTooLong => "echo-too-long",
    /// No room for another neighbor.
    NeighborsFull => "neighbors-full",
    /// No room for another frame to send.
    OutputFull => "output-full",
}
