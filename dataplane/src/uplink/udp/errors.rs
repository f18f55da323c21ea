//! Errors: what the kernel hears about datagrams that its sockets sent (ICMP).
//!
//! In: raw sockets, which are given every ICMP error that reaches the host. Out: whole messages, one at a time, so many a
//! second. Never: a tunnel's own socket, which would refuse what it sends next for an error about what it sent before; a
//! wait.

use std::{
    io, mem,
    net::{Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use culvert_wireguard::Instant;

use super::socket::from_raw;
use crate::{shared::limits::KERNEL_ERRORS, worker::rate::Rate};

/// linux/icmp.h, linux/icmpv6.h: which types a raw socket is not given, a bit each.
const ICMP_FILTER: libc::c_int = 1;
const ICMP6_FILTER: libc::c_int = 1;
const SOL_RAW: libc::c_int = 255;
const SOL_ICMPV6: libc::c_int = 58;
/// Unreachable, time exceeded, parameter problem (RFC 792).
const V4_TYPES: u32 = 1 << 3 | 1 << 11 | 1 << 12;
/// Unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const V6_TYPES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// As much as an error quotes (RFC 4443, section 3.1), and no jumbo frame's worth.
const MESSAGE_MAX: usize = 2_048;

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError<'m> {
    /// The whole IPv4 packet.
    V4(&'m [u8]),
    /// Who sent it, and the ICMPv6 message.
    V6(Ipv6Addr, &'m [u8]),
}

/// The sockets that hear them.
#[derive(Debug)]
pub struct KernelErrors {
    sockets: [Option<OwnedFd>; 2],
    rate: Rate,
    message: Box<[u8; MESSAGE_MAX]>,
}

impl KernelErrors {
    /// Begins to hear.
    ///
    /// # Errors
    /// When the kernel refuses, which it does without `CAP_NET_RAW`.
    pub fn open(now: Instant) -> io::Result<Self> {
        let v4 = open(
            libc::AF_INET,
            libc::IPPROTO_ICMP,
            (SOL_RAW, ICMP_FILTER),
            [!V4_TYPES],
        )?;
        let mut types = [u32::MAX; 8];
        types[0] = !V6_TYPES;
        // There may be no IPv6 on this machine.
        let v6 = open(
            libc::AF_INET6,
            libc::IPPROTO_ICMPV6,
            (SOL_ICMPV6, ICMP6_FILTER),
            types,
        );
        let burst = u32::try_from(KERNEL_ERRORS.queued).unwrap_or(u32::MAX);
        Ok(Self {
            sockets: [Some(v4), v6.ok()],
            rate: Rate::new(burst, now),
            message: Box::new([0; MESSAGE_MAX]),
        })
    }

    /// The next, if there is one, and not too many came in the last second.
    pub fn receive(&mut self, now: Instant) -> Option<KernelError<'_>> {
        if !self.may_receive(now) {
            return None;
        }
        let Self {
            sockets, message, ..
        } = self;
        let taken = sockets.iter().flatten().find_map(|socket| {
            let (len, from) = receive(socket, &mut message[..])?;
            Some((len.min(MESSAGE_MAX), from))
        });
        let (len, from) = taken?;
        self.rate.spend(1);
        let message = &self.message[..len];
        match from {
            SocketAddr::V4(_) => Some(KernelError::V4(message)),
            SocketAddr::V6(from) => Some(KernelError::V6(*from.ip(), message)),
        }
    }

    /// Whether one may be received now.
    pub fn may_receive(&mut self, now: Instant) -> bool {
        self.rate.refill(KERNEL_ERRORS.per_second, now) > 0
    }

    /// What to poll for the next.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().flatten().map(OwnedFd::as_fd)
    }
}

fn open<const N: usize>(
    family: libc::c_int,
    protocol: libc::c_int,
    (level, name): (libc::c_int, libc::c_int),
    refused: [u32; N],
) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = libc::socklen_t::try_from(size_of_val(&refused)).unwrap_or(0);
    // SAFETY: the filter has `len` bytes and lives for the call.
    let set =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, refused.as_ptr().cast(), len) };
    match set < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(fd),
    }
}

/// One message: how long it is, from whom.
fn receive(socket: &OwnedFd, message: &mut [u8]) -> Option<(usize, SocketAddr)> {
    // SAFETY: zero is a valid sockaddr_storage.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut name_len = libc::socklen_t::try_from(size_of_val(&name)).unwrap_or(0);
    let (buffer, len) = (message.as_mut_ptr().cast(), message.len());
    let from = (&raw mut name).cast();
    // SAFETY: the message has room for `len` bytes, the name for `name_len`; both live for the call.
    let taken =
        unsafe { libc::recvfrom(socket.as_raw_fd(), buffer, len, 0, from, &raw mut name_len) };
    Some((usize::try_from(taken).ok()?, from_raw(&name)?))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

    use culvert_stack::{Problem, hear_v4, hear_v6};

    use super::*;

    /// Whoever writes to a port of loopback that nobody has is told so, and so are we.
    #[test]
    fn what_the_kernel_hears_of_datagrams_is_heard() {
        // Not without rights, which other tests need as well.
        let Ok(mut errors) = KernelErrors::open(Instant::from_nanos(0)) else {
            return;
        };
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(local) else {
                continue;
            };
            let closed = {
                let taken = UdpSocket::bind(local).unwrap();
                taken.local_addr().unwrap()
            };
            socket.send_to(&[4, 0, 0, 0, 9, 9, 9, 9], closed).unwrap();
            let ours = socket.local_addr().unwrap();
            let heard = (0..2_000).find_map(|_| {
                let heard = match errors.receive(Instant::from_nanos(0)) {
                    Some(KernelError::V4(packet)) => hear_v4(packet),
                    Some(KernelError::V6(from, message)) => hear_v6(from, message),
                    None => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        None
                    }
                };
                heard.filter(|heard| heard.about.local == ours)
            });
            let heard = heard.expect("the error is heard");
            assert_eq!(heard.problem, Problem::PortUnreachable);
            assert_eq!(heard.about.remote, closed);
            assert_eq!(heard.about.start, Some([4, 0, 0, 0, 9, 9, 9, 9]));
            assert!(IpAddr::is_loopback(&heard.from));
        }
    }

    #[test]
    fn no_more_are_heard_in_a_second_than_the_limit() {
        let Ok(mut errors) = KernelErrors::open(Instant::from_nanos(0)) else {
            return;
        };
        errors
            .rate
            .spend(u32::try_from(KERNEL_ERRORS.queued).unwrap());
        assert!(!errors.may_receive(Instant::from_nanos(0)));
        assert!(errors.may_receive(Instant::from_nanos(1_000_000)));
    }
}
