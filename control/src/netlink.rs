//! Interfaces of the kernel, over rtnetlink.
//!
//! In: what an interface should be; the kernel's news of interfaces. Out: requests, each
//! with its acknowledgement awaited; interfaces as they are. Never: a route, a rule,
//! another interface than the one that was named.
//!
//! Messages are built and read here by hand: these few kinds need no library. What the
//! kernel sends is read by length, and anything unknown is skipped.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use ipnet::IpNet;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, write},
    net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, netlink, socket_with},
    time::Timespec,
};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const NLA_TYPE_MASK: u16 = 0x3fff;
// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTMGRP_LINK: u32 = 1;
/// Routes of both families, and rules.
const RTMGRP_ROUTES: u32 = 0x40 | 0x400 | 0x80;
// linux/if.h
const IFF_UP: u32 = 0x1;
// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
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
/// The longest message that the kernel makes of one interface.
const MESSAGE_MAX: usize = 32 << 10;
/// The kernel answers at once; this is for machines that stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// An interface as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its kind, as `ip -details link` shows it; empty for a device.
    pub kind: String,
    /// What the tun driver says of it.
    pub tun: Option<TunLink>,
}

/// What the tun driver says of an interface of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunLink {
    /// Ethernet frames instead of packets.
    pub tap: bool,
    /// It stays when nobody has it open.
    pub persistent: bool,
    /// It was made for several queues.
    pub multi_queue: bool,
    /// Queues that somebody has open, if it was made for several.
    pub queues: u32,
}

/// News of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// It is new, or something about it has changed.
    Changed(Link),
    /// It was deleted, or moved to another network namespace.
    Deleted(Link),
    /// The kernel had more news than it could keep: look at everything.
    Missed,
}

/// The number of an interface of this network namespace. (`/sys` shows those of the namespace that it was mounted in.)
#[must_use]
pub fn index_of(name: &str) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

/// Requests, one at a time.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(0)?,
            sequence: 0,
        })
    }

    /// The interface `name`, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::link(RTM_GETLINK, 0, 0, 0);
        message.attribute(IFLA_IFNAME, &terminated(name));
        self.get(message)
    }

    /// The interface with this number, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.get(Message::link(RTM_GETLINK, index, 0, 0))
    }

    fn get(&mut self, message: Message) -> io::Result<Option<Link>> {
        let mut found = None;
        let asked = self.ask(message, 0, |kind, body| {
            if kind == RTM_NEWLINK {
                found = read_link(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.command(Message::link(RTM_NEWLINK, index, IFF_UP, IFF_UP), 0)
    }

    /// Sets the MTU of an interface, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, index, 0, 0);
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.command(message, 0)
    }

    /// Sets the Ethernet address of an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, index, 0, 0);
        message.attribute(IFLA_ADDRESS, &mac);
        self.command(message, 0)
    }

    /// Gives an interface an address; one that it has already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.command(Message::address(RTM_NEWADDR, index, address), flags)
    }

    /// Takes an address from an interface; one that it has not is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        match self.command(Message::address(RTM_DELADDR, index, address), 0) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            result => result,
        }
    }

    fn command(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.ask(message, flags, |_, _| {})
    }

    /// Sends a request and reads up to its acknowledgement.
    fn ask(
        &mut self,
        message: Message,
        flags: u16,
        mut heard: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message.finish(NLM_F_REQUEST | NLM_F_ACK | flags, self.sequence);
        write(&self.socket, &request)?;
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut polled, Timespec::try_from(PATIENCE).ok().as_ref())? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let len = read(&self.socket, &mut buffer)?;
            for (kind, sequence, body) in messages(&buffer[..len]) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        return match word(body, 0).map(u32::cast_signed) {
                            Some(0) => Ok(()),
                            Some(error) => Err(io::Error::from_raw_os_error(-error)),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    NLMSG_DONE => return Ok(()),
                    _ => heard(kind, body),
                }
            }
        }
    }
}

/// The kernel's news of interfaces.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    heard: std::collections::VecDeque<LinkNews>,
}

impl LinkWatch {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(RTMGRP_LINK)?,
            heard: std::collections::VecDeque::new(),
        })
    }

    /// The next news, without waiting.
    pub fn next_news(&mut self) -> Option<LinkNews> {
        if self.heard.is_empty() {
            let mut buffer = vec![0; MESSAGE_MAX];
            match read(&self.socket, &mut buffer) {
                Ok(len) => {
                    for (kind, _, body) in messages(&buffer[..len]) {
                        let news = match kind {
                            RTM_NEWLINK => read_link(body).map(LinkNews::Changed),
                            RTM_DELLINK => read_link(body).map(LinkNews::Deleted),
                            _ => None,
                        };
                        self.heard.extend(news);
                    }
                }
                Err(Errno::NOBUFS) => self.heard.push_back(LinkNews::Missed),
                // Nothing, or nothing now.
                Err(_) => {}
            }
        }
        self.heard.pop_front()
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the kernel's routes have changed.
#[derive(Debug)]
pub struct RouteWatch(OwnedFd);

impl RouteWatch {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        open(RTMGRP_ROUTES).map(Self)
    }

    /// Whether they have since the last look.
    pub fn changed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut changed = false;
        // A thousand messages at the most: what is left is for the next look.
        for _ in 0..1000 {
            match read(&self.0, &mut buffer) {
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(_) => break,
            }
        }
        changed
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A request being written.
struct Message(Vec<u8>);

impl Message {
    /// A header whose length, flags and number come last.
    fn new(kind: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        Self(bytes)
    }

    /// With a `struct ifinfomsg`.
    fn link(kind: u16, index: u32, flags: u32, change: u32) -> Self {
        let mut message = Self::new(kind);
        message.0.extend([0; 4]);
        for word in [index, flags, change] {
            message.0.extend(word.to_ne_bytes());
        }
        message
    }

    /// With a `struct ifaddrmsg` and the address.
    fn address(kind: u16, index: u32, address: IpNet) -> Self {
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

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of one datagram: kind, number, body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
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
fn read_link(body: &[u8]) -> Option<Link> {
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
    fn the_loopback_is_there_and_nothing_else_is_made_up() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!((lo.name.as_str(), lo.tun), ("lo", None));
        assert_eq!(netlink.link_by_index(lo.index).unwrap(), Some(lo));
        assert_eq!(netlink.link("no-such-link").unwrap(), None);
        assert_eq!(netlink.link_by_index(0x7fff_fff0).unwrap(), None);
        assert_eq!(
            index_of("lo"),
            netlink.link("lo").unwrap().map(|lo| lo.index)
        );
        assert_eq!(index_of("no-such-link"), None);
        assert_eq!(index_of("a-name-that-no-interface-can-have"), None);
    }

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
