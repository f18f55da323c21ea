//! Indices: one newtype per kind of thing that the snapshot numbers.
//!
//! In: small integers given out by the snapshot compiler. Out: typed indices, and what is scoped by one.
//! Never: arithmetic on them, or one kind where another is meant.

macro_rules! index {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The index as a position in a table.
            #[must_use]
            pub const fn slot(self) -> usize {
                self.0 as usize
            }

            /// The index of a table's position; tables are bounded by `limits`.
            ///
            /// # Panics
            /// When `slot` exceeds `u32::MAX`, which no bounded table reaches.
            #[must_use]
            pub fn from_slot(slot: usize) -> Self {
                Self(u32::try_from(slot).expect("tables are bounded far below 2^32 entries"))
            }
        }
    )*};
}

index! {
    /// A guest port.
    PortIndex,
    /// What a guest is attached to a network with.
    AttachmentIndex,
    /// A network: ports that share a gateway and, at most, one tunnel.
    NetworkIndex,
    /// A tunnel: one WireGuard interface with its key, listen port and peers.
    TunnelIndex,
    /// A peer of some tunnel, numbered over all tunnels.
    PeerIndex,
    /// An uplink: where sealed datagrams leave and arrive.
    UplinkIndex,
    /// A worker (poll-mode core).
    WorkerIndex,
}

/// What a host stack belongs to: whatever the stacks are asked or told begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// An uplink whose link layer is ours.
    Uplink(UplinkIndex),
    /// What a guest is attached with: it is served by its network's gateway.
    Guest(AttachmentIndex),
}
