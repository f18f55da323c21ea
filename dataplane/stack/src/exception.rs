//! The exception path: what of an uplink is the host's kernel's, where it shares the uplink's addresses.
//!
//! In: packets to us that came whole or were put together, with our ports; frames that the kernel wants to send. Out:
//! whose a packet is; whether a frame may leave. Never: a packet for both; a frame of the kernel's that speaks as a port
//! of ours.
//!
//! What is for both (answers of neighbors) and what can be told apart at a glance is told apart ahead of the stack, by
//! workers. The stack decides on what has to be looked into: fragments once they are whole, errors by the ports that they
//! quote, pings (we answer, the kernel hears its own answers), questions for neighbors.

use std::net::IpAddr;

use culvert_wire::{
    EthernetView, Ipv4View, Ipv6View, MacAddr, ipv6,
    parse::{
        Fragment, Headers, L3, L4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, parse_frame, parse_ip_head,
    },
    ports::OwnPorts,
};

use crate::{HostDrop, HostStack, icmp, limits};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
/// Neighbor discovery (RFC 4861, section 4).
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// From a DHCP server to a client.
const LEASE: (u16, u16) = (culvert_wire::dhcp::SERVER_V4, culvert_wire::dhcp::CLIENT_V4);

/// Ahead of what an error quotes.
const ERROR_HEADER: usize = 8;
/// Longer than any packet: of what an error quotes the end is missing.
const CUT: usize = 1 << 17;
/// The fragment's offset in the header's word.
const OFFSET: u16 = 0x1fff;

/// A look at a frame that the kernel sends by an uplink with this MAC address, where `owns` are our addresses and
/// `ports` our ports there.
///
/// Fragments are looked at one by one: ports stand in the first, and without it nobody puts the others together. So
/// does what an error quotes: whether somebody listens on a port of ours is not for the kernel to say, from whatever
/// address.
///
/// # Errors
/// Why it may not leave.
pub fn may_leave(
    frame: &[u8],
    mac: MacAddr,
    owns: impl Fn(IpAddr) -> bool,
    ports: &OwnPorts,
) -> Result<(), HostDrop> {
    // 1. From this NIC, on its own network.
    let ethernet = EthernetView::new(frame).ok_or(HostDrop::Malformed)?;
    if ethernet.source() != mac {
        return Err(HostDrop::KernelSource);
    }
    if ethernet.ether_type().is_tag() {
        return Err(HostDrop::KernelTagged);
    }

    // 2. What came to a port of ours is not the kernel's to complain of.
    let len = u32::try_from(frame.len()).map_err(|_| HostDrop::Malformed)?;
    let headers = parse_frame(frame, len).map_err(|_| HostDrop::Malformed)?;
    let (Some((source, _)), Some(protocol)) = (headers.addresses(), headers.protocol()) else {
        return Ok(());
    };
    if headers.fragment() == Fragment::Later {
        return Ok(());
    }
    may_complain(&headers, frame, &owns, ports)?;

    // 3. Other addresses are the kernel's own affair: those of its routers, virtual ones.
    if !owns(source) {
        return Ok(());
    }

    // 4. With our addresses, it has its own ports.
    let port = frame.get(headers.l4_offset..headers.l4_offset + 2);
    let port = port.and_then(|port| port.try_into().ok());
    match (protocol, port.map(u16::from_be_bytes)) {
        _ if !headers.complete => Err(HostDrop::KernelHeaders),
        (PROTOCOL_TCP | PROTOCOL_UDP, None) => Err(HostDrop::KernelHeaders),
        (_, Some(port)) if ports.has(protocol, port) => Err(HostDrop::KernelPort),
        _ => Ok(()),
    }
}

/// Whether a packet of the kernel's is no error, or one about what came to no port of ours. Where that can't be seen in
/// what it quotes, it does not leave: no host sends errors about later fragments (RFC 1122, section 3.2.2).
fn may_complain(
    headers: &Headers,
    frame: &[u8],
    owns: impl Fn(IpAddr) -> bool,
    ports: &OwnPorts,
) -> Result<(), HostDrop> {
    let kind = frame.get(headers.l4_offset).copied().unwrap_or_default();
    let is_error = match (headers.l3, headers.protocol()) {
        (L3::V4(_), Some(PROTOCOL_ICMP)) => icmp::is_error_v4(kind),
        (L3::V6(_), Some(PROTOCOL_ICMPV6)) => icmp::is_error_v6(kind),
        _ => false,
    };
    if !is_error {
        return Ok(());
    }
    let quote = frame.get(headers.l4_offset + ERROR_HEADER..);
    let quote = quote.unwrap_or_default();
    let quoted = parse_ip_head(quote, CUT).map_err(|_| HostDrop::KernelHeaders)?;
    let (Some((_, to)), Some(protocol)) = (quoted.addresses(), quoted.protocol()) else {
        return Err(HostDrop::KernelHeaders);
    };
    if !owns(to) {
        return Ok(());
    }
    let port = match quoted.fragment() {
        Fragment::Later => None,
        Fragment::Whole | Fragment::First => quote.get(quoted.l4_offset + 2..quoted.l4_offset + 4),
    };
    let port = port.and_then(|port| port.try_into().ok());
    match (protocol, port.map(u16::from_be_bytes)) {
        (PROTOCOL_TCP | PROTOCOL_UDP, None) => Err(HostDrop::KernelHeaders),
        (_, Some(port)) if ports.has(protocol, port) => Err(HostDrop::KernelError),
        // The chain of headers ends where the quote does.
        (it, _) if is_extension(it) && quoted.fragment() != Fragment::Later => {
            Err(HostDrop::KernelHeaders)
        }
        _ => Ok(()),
    }
}

const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60)
}

impl HostStack {
    /// Whether a whole packet to us is the kernel's.
    pub(super) fn is_kernels(&self, headers: &Headers, frame: &[u8], protocol: u8) -> bool {
        let Some(ports) = &self.kernel else {
            return false;
        };
        if !self.is_to_us(headers) {
            return false;
        }
        let known = [PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP, PROTOCOL_ICMPV6];
        if headers.protocol() != Some(protocol) {
            return !known.contains(&protocol);
        }
        match headers.l4 {
            L4::Tcp(tcp) => !ports.has(PROTOCOL_TCP, tcp.destination_port),
            L4::Udp(udp) if self.watches(udp.destination_port) => false,
            // What a DHCP server says the kernel has been given already.
            L4::Udp(udp) if (udp.source_port, udp.destination_port) == LEASE => false,
            L4::Udp(udp) => !ports.has(PROTOCOL_UDP, udp.destination_port),
            L4::Icmp4(it) if icmp::is_error_v4(it.kind) => !quotes_ours(headers, frame, ports),
            L4::Icmp6(it) if icmp::is_error_v6(it.kind) => !quotes_ours(headers, frame, ports),
            L4::Icmp4(it) => it.kind != ECHO_REQUEST_V4,
            L4::Icmp6(it) => it.kind != ECHO_REQUEST_V6 && !DISCOVERY.contains(&it.kind),
            L4::Fragment | L4::Malformed => false,
            L4::Other => !known.contains(&protocol),
        }
    }

    /// The kernel is to have this frame; without a kernel it is for nobody.
    pub(super) fn leave_to_kernel(&mut self, frame: &[u8]) -> Result<(), HostDrop> {
        if self.kernel.is_none() {
            return Err(HostDrop::NotForUs);
        }
        if self.for_kernel.len() >= limits::KERNEL_FRAMES {
            return Err(HostDrop::KernelFull);
        }
        self.for_kernel.push_back(frame.to_vec());
        Ok(())
    }
}

/// Whether an error to us is about what left from a port of ours.
fn quotes_ours(headers: &Headers, frame: &[u8], ports: &OwnPorts) -> bool {
    let quote = frame.get(headers.l4_offset + ERROR_HEADER..);
    let quote = quote.unwrap_or_default();
    let (protocol, at) = match headers.l3 {
        L3::V4(_) => match Ipv4View::new(quote) {
            Some(ip) if ip.fragment_bits() & OFFSET == 0 => (ip.protocol(), ip.header_len()),
            _ => return false,
        },
        L3::V6(_) | L3::Arp | L3::Other => match Ipv6View::new(quote) {
            // What we send has no extension headers, but for a fragment's.
            Some(ip) if ip.next_header() == ip6::FRAGMENT => match quote.get(ip6::FRAGMENTED) {
                Some(&[next, _, high, low, ..]) if high == 0 && low & 0xf8 == 0 => {
                    (next, ip6::FRAGMENTED.end)
                }
                _ => return false,
            },
            Some(ip) => (ip.next_header(), ipv6::HEADER_LEN),
            None => return false,
        },
    };
    let port = quote.get(at..at + 2).and_then(|port| port.try_into().ok());
    port.is_some_and(|port| ports.has(protocol, u16::from_be_bytes(port)))
}

mod ip6 {
    use std::ops::Range;

    use culvert_wire::ipv6::HEADER_LEN;

    pub(super) const FRAGMENT: u8 = 44;
    /// Where a fragment's header stands (RFC 8200, section 4.5).
    pub(super) const FRAGMENTED: Range<usize> = HEADER_LEN..HEADER_LEN + 8;
}

#[cfg(test)]
mod tests;
