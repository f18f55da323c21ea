//! DHCP: who speaks (RFC 2131, RFC 8415).
//!
//! In: a packet's headers and private head copy. Out: whether a DHCP client or a server sent it.
//! Never: a look at the message; an opinion on who may.

use crate::bytes::array;
use crate::parse::{Fragment, Headers, L3, L4};
use crate::udp;

/// The port that servers for IPv4 are asked at.
pub const SERVER_V4: u16 = 67;
/// The port that clients of IPv4 are answered at.
pub const CLIENT_V4: u16 = 68;
/// The port that clients of IPv6 are answered at.
pub const CLIENT_V6: u16 = 546;
/// The port that servers for IPv6 are asked at.
pub const SERVER_V6: u16 = 547;

/// Whom a packet pretends to come from, by the port that it goes to: clients look at no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A client asks a server.
    Client,
    /// A server, or whoever claims to be one, tells a client.
    Server,
}

/// Who speaks in a packet, if it is DHCP. What has a UDP header counts, of whatever length it says to be, and so does a
/// first fragment: who listens on a raw socket takes both.
#[inline]
pub fn speaker(headers: &Headers, head: &[u8]) -> Option<Speaker> {
    match headers.l4 {
        L4::Udp(udp) => by_port(headers, udp.destination_port),
        L4::Tcp(_) | L4::Icmp4(_) | L4::Icmp6(_) => None,
        L4::Fragment | L4::Malformed | L4::Other => unread(headers, head),
    }
}

/// Of a UDP header that was not read as one.
#[cold]
fn unread(headers: &Headers, head: &[u8]) -> Option<Speaker> {
    let protocol = match &headers.l3 {
        L3::V4(ip) => ip.protocol,
        L3::V6(ip) => ip.protocol,
        L3::Arp | L3::Other => return None,
    };
    if protocol != udp::PROTOCOL || headers.fragment() == Fragment::Later {
        return None;
    }
    let port = u16::from_be_bytes(*array(head, headers.l4_offset + 2)?);
    by_port(headers, port)
}

#[inline]
fn by_port(headers: &Headers, port: u16) -> Option<Speaker> {
    match (matches!(headers.l3, L3::V4(_)), port) {
        (true, SERVER_V4) | (false, SERVER_V6) => Some(Speaker::Client),
        (true, CLIENT_V4) | (false, CLIENT_V6) => Some(Speaker::Server),
        _ => None,
    }
}
