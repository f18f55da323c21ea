//! Messages of rtnetlink, built and read by hand: these few kinds need no library.
//!
//! In: what a request says; what the kernel sends. Out: bytes; kinds, attributes, interfaces. Never: a byte beyond a
//! message's length; a list without an end. Anything unknown is skipped.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Link, TunLink};

// linux/netlink.h
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 0x001;
pub(super) const NLM_F_ACK: u16 = 0x004;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
const NLA_TYPE_MASK: u16 = 0x3fff;
// linux/rtnetlink.h
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTMGRP_LINK: u32 = 1;
/// Routes of both families, and rules.
pub(super) const RTMGRP_ROUTES: u32 = 0x40 | 0x400 | 0x80;
// linux/if.h
pub(super) const IFF_UP: u32 = 0x1;
// linux/if_link.h
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
/// `IFF_TAP`, as the tun driver's type.
const TYPE_TAP: u8 = 2;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A request being written.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A header whose length, flags and number come last.
    fn new(kind: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        Self(bytes)
    }

    /// With a `struct ifinfomsg`.
    pub(super) fn link(kind: u16, index: u32, flags: u32, change: u32) -> Self {
        let mut message = Self::new(kind);
        message.0.extend([0; 4]);
        for word in [index, flags, change] {
            message.0.extend(word.to_ne_bytes());
        }
        message
    }

    /// With a `struct ifaddrmsg` and the address.
    pub(super) fn address(kind: u16, index: u32, address: IpNet) -> Self {
        let mut message = Self::new(kind);
        // Nobody else has the address: the configuration gives it to this port.
        let (family, flags) = match address {
            IpNet::V4(_) => (AF_INET, 0),
            IpNet::V6(_) => (AF_INET6, IFA_F_NODAD),
        };
        message.0.extend([family, address.prefix_len(), flags, 0]);
        message.0.extend(index.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            match address.addr() {
                IpAddr::V4(address) => message.attribute(kind, &address.octets()),
                IpAddr::V6(address) => message.attribute(kind, &address.octets()),
            }
        }
        message
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

pub(super) fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of one datagram: kind, number, body.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::try_from(word(bytes, 0)?).ok()?;
        let message = (half(bytes, 4)?, word(bytes, 8)?, bytes.get(16..len)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message or of another attribute: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let attribute = (half(bytes, 2)? & NLA_TYPE_MASK, bytes.get(4..len)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// A `struct ifinfomsg` with its attributes.
pub(super) fn read_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(body, 4)?,
        up: word(body, 8)? & IFF_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        // The kind comes first.
                        IFLA_INFO_DATA if link.kind == "tun" => link.tun = Some(read_tun(value)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_tun(value: &[u8]) -> TunLink {
    let mut tun = TunLink::default();
    for (kind, value) in attributes(value) {
        let byte = value.first().copied().unwrap_or(0);
        match kind {
            IFLA_TUN_TYPE => tun.tap = byte == TYPE_TAP,
            IFLA_TUN_PERSIST => tun.persistent = byte != 0,
            IFLA_TUN_MULTI_QUEUE => tun.multi_queue = byte != 0,
            IFLA_TUN_NUM_QUEUES => tun.queues = word(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    tun
}

fn text(value: &[u8]) -> String {
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_by_their_lengths_however_they_are_cut() {
        let mut message = Message::link(RTM_NEWLINK, 7, IFF_UP, 0);
        message.attribute(IFLA_IFNAME, b"x0\0");
        message.attribute(IFLA_MTU, &1420u32.to_ne_bytes());
        let bytes = message.finish(0, 3);
        let (kind, sequence, body) = messages(&bytes).next().unwrap();
        assert_eq!((kind, sequence), (RTM_NEWLINK, 3));
        let link = read_link(body).unwrap();
        assert_eq!((link.index, link.up, link.mtu), (7, true, 1420));
        assert_eq!(link.name, "x0");
        for end in 0..bytes.len() {
            for (_, _, body) in messages(&bytes[..end]) {
                let _ = read_link(body);
            }
            let _ = read_link(&bytes[..end]);
        }
        // A length of zero ends the list instead of never ending.
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
