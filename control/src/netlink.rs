//! Interfaces of the kernel, over rtnetlink.
//!
//! In: what an interface should be; the kernel's news of interfaces. Out: requests, each
//! with its acknowledgement awaited; interfaces and routes as they are. Never: a rule,
//! another interface than the one that was named, or a route by another.
//!
//! Rooms: [`message`] what is sent and read, [`route`] which way the kernel would send.

mod message;
pub mod route;

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

use self::message::{
    AF_INET, AF_INET6, IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, Message, NLM_F_ACK,
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_DELADDR,
    RTM_DELLINK, RTM_DELROUTE, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTMGRP_LINK,
    RTMGRP_ROUTES, messages, read_link, read_route, terminated, word,
};

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
    /// Whether packets can pass, too: its carrier is there.
    pub running: bool,
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

/// A route of the kernel's by a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix.
    pub to: IpNet,
    /// The router.
    pub via: IpAddr,
    /// The number of the interface.
    pub link: u32,
    /// The least counts.
    pub metric: u32,
    /// Who made it (`rt_protos`).
    pub protocol: u8,
    /// The table that it stands in.
    pub table: u32,
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

    /// Adds a route, or puts it in the place of an equal one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.command(Message::route(RTM_NEWROUTE, route), flags)
    }

    /// Removes a route; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        match self.command(Message::route(RTM_DELROUTE, route), 0) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Tells `hear` of all routes that lead over a router by an interface, in all tables.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self, link: u32, mut hear: impl FnMut(Route)) -> io::Result<()> {
        for family in [AF_INET, AF_INET6] {
            self.ask(Message::routes(family), NLM_F_DUMP, |kind, body| {
                if kind == RTM_NEWROUTE
                    && let Some(route) = read_route(body, link)
                {
                    hear(route);
                }
            })?;
        }
        Ok(())
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

    /// The same, and for news of interfaces: with a link that goes down the kernel forgets routes without a word.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_links() -> io::Result<Self> {
        open(RTMGRP_ROUTES | RTMGRP_LINK).map(Self)
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

impl AsFd for RouteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
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
}
