//! The way to an endpoint: addresses and, on a DPDK uplink, the outer headers.
//!
//! In: an endpoint and, from the control core, a resolved next hop. Out: an
//! immutable `Path` that workers write from. Never: a look-up per packet; a
//! changed neighbor or endpoint makes a new `Path`.

use std::net::{IpAddr, SocketAddr};

use culvert_wire::MacAddr;

/// How datagrams reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer's address and UDP port.
    pub endpoint: SocketAddr,
    /// The local address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// What lies below IP.
    pub link: Link,
}

/// What a path knows of the link layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The kernel's business (UDP uplink).
    Kernel,
    /// An Ethernet next hop (DPDK uplink).
    Ethernet {
        /// The uplink's own address.
        source: MacAddr,
        /// The next hop's address.
        destination: MacAddr,
        /// The local UDP port: the tunnel's. A DPDK queue serves all tunnels of
        /// its uplink, so the path must say.
        port: u16,
    },
    /// The next hop's address is being asked for.
    Unresolved,
}
