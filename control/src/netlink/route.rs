//! Which way the kernel would send.
//!
//! In: a destination, and what the socket is bound to. Out: the interface, if a route leads there. Never: a guess: where
//! no route is, the kernel sends IPv4 of a socket that is bound to an interface onto that link, in vain.

use std::{io, net::IpAddr};

use rustix::io::Errno;

use super::{
    Netlink,
    message::{Message, RTM_NEWROUTE, read_route_interface},
};

/// What a socket that sends is bound to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound {
    /// The address, if it is bound to one.
    pub source: Option<IpAddr>,
    /// The number of the interface, if it is bound to one.
    pub interface: Option<u32>,
    /// The mark of its packets; 0 is none.
    pub mark: u32,
}

/// Which way the kernel would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By this interface, which can send.
    By {
        /// Its number.
        interface: u32,
    },
    /// No route leads there, or by an interface that is down.
    None,
}

impl Netlink {
    /// The way by which the kernel would send to `destination`.
    ///
    /// # Errors
    /// The kernel's, but for its word that there is no way.
    pub fn way(&mut self, destination: IpAddr, bound: Bound) -> io::Result<Way> {
        let mut found = None;
        let asked = self.ask(Message::way(destination, bound), 0, |kind, body| {
            if kind == RTM_NEWROUTE {
                found = read_route_interface(body);
            }
        });
        // No route, an unreachable one, a prohibited one, a black hole or an address that is not ours any more.
        let no_way = [
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::ACCESS,
            Errno::INVAL,
            Errno::NODEV,
            Errno::ADDRNOTAVAIL,
            Errno::NETDOWN,
        ];
        if let Err(error) = asked {
            let number = error.raw_os_error();
            let says_so = no_way.iter().any(|it| Some(it.raw_os_error()) == number);
            return if says_so { Ok(Way::None) } else { Err(error) };
        }
        let Some(interface) = found else {
            return Ok(Way::None);
        };
        // The kernel goes by a route over an interface without a carrier, too.
        let runs = (self.link_by_index(interface)?).is_some_and(|link| link.running);
        Ok(if runs {
            Way::By { interface }
        } else {
            Way::None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::index_of;

    #[test]
    fn the_loopback_leads_to_itself_and_nowhere_else() {
        let mut netlink = Netlink::open().unwrap();
        let lo = index_of("lo");
        let by_lo = Way::By {
            interface: lo.unwrap(),
        };
        let ours = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(netlink.way(ours, Bound::default()).unwrap(), by_lo);
        let bound = Bound {
            source: Some(IpAddr::from([127, 0, 0, 2])),
            ..Bound::default()
        };
        assert_eq!(netlink.way(ours, bound).unwrap(), by_lo);
        // Bound to an interface, without a route that leads there by it: the kernel would try the link.
        let bound = Bound {
            interface: lo,
            ..Bound::default()
        };
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(netlink.way(elsewhere, bound).unwrap(), Way::None);
        // An address that this machine has not.
        let bound = Bound {
            source: Some(elsewhere),
            ..Bound::default()
        };
        assert_eq!(netlink.way(ours, bound).unwrap(), Way::None);
    }
}
