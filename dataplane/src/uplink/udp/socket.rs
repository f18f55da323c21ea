//! One UDP socket: what it is bound to, and its options.
//!
//! In: an address, what an operator asks. Out: a bound socket, which sends groups of committed rooms ([`send`]) and fills
//! buffers ([`received`]). Never: a blocking call, an address or length that the kernel did not write itself.

mod address;
mod received;
mod send;

use std::{
    ffi::CStr,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

pub(super) use self::address::from_raw;
use self::address::to_raw;
pub(super) use self::received::{Message, Received};
use super::Options;

/// Bytes asked of the kernel for each direction.
const SOCKET_BUFFER: libc::c_int = 8 << 20;
/// Room for the control messages of one message, either way.
const CONTROL_BYTES: usize = 128;
/// `UDP_SEGMENT` and `UDP_GRO` (linux/udp.h).
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// linux/socket.h.
const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;

/// One instruction of a classic BPF program.
#[derive(Clone, Copy)]
pub(super) struct Rule(libc::sock_filter);

impl Rule {
    const fn new(code: u32, jf: u8, k: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
        let code = code as u16;
        Self(libc::sock_filter { code, jt: 0, jf, k })
    }

    /// Loads the message's byte at an offset.
    pub(super) const fn load_byte(at: u32) -> Self {
        Self::new(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, at)
    }

    /// Loads the message's four bytes at an offset.
    pub(super) const fn load_word(at: u32) -> Self {
        Self::new(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, at)
    }

    /// What was loaded becomes its rest.
    pub(super) const fn modulo(by: u32) -> Self {
        Self::new(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, by)
    }

    /// Skips so many instructions unless this was loaded.
    pub(super) const fn unless_equal(value: u32, skip: u8) -> Self {
        Self::new(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value)
    }

    /// Chooses this socket.
    pub(super) const fn answer(socket: u32) -> Self {
        Self::new(libc::BPF_RET | libc::BPF_K, 0, socket)
    }

    /// Chooses the socket that was loaded.
    pub(super) const fn answer_loaded() -> Self {
        Self::new(libc::BPF_RET | libc::BPF_A, 0, 0)
    }
}

/// Control messages must be aligned like their header.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// A bound, non-blocking socket of one family.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    v6: bool,
}

impl Socket {
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Binds to `address`; `shared` lets the other workers bind to it too.
    pub(super) fn bind(
        address: SocketAddr,
        shared: bool,
        options: Options<'_>,
    ) -> io::Result<Self> {
        let v6 = address.is_ipv6();
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::socket(family, kind, libc::IPPROTO_UDP) })?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, v6 };
        if shared {
            socket.share()?;
        }
        if let Some(device) = options.device {
            socket.bind_to_device(device)?;
        }
        if let Some(mark) = options.fwmark {
            socket.mark(mark)?;
        }
        if v6 {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            let dont = libc::IPV6_PMTUDISC_DONT;
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, dont)?;
        } else {
            socket.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            socket.set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            // WireGuard sends with DF clear.
            socket.set(
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DONT,
            )?;
        }
        // Best effort: smaller buffers and no GRO only cost speed.
        for (force, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if socket.set(libc::SOL_SOCKET, force, SOCKET_BUFFER).is_err() {
                let _ = socket.set(libc::SOL_SOCKET, plain, SOCKET_BUFFER);
            }
        }
        let _ = socket.set(libc::SOL_UDP, UDP_GRO, 1);
        let (name, len) = to_raw(address);
        // SAFETY: `name` is a valid address of `len` bytes.
        check(unsafe { libc::bind(socket.raw(), (&raw const name).cast(), len) })?;
        Ok(socket)
    }

    /// Lets other sockets of this user bind to the same address from now on.
    pub(super) fn share(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// Bounds what waits to be received. The kernel counts its own part, and doubles.
    pub(super) fn bound(&self, bytes: libc::c_int) {
        let bytes = bytes / 2;
        for force in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
            if self.set(libc::SOL_SOCKET, force, bytes).is_ok() {
                return;
            }
        }
    }

    /// Lets a program choose the socket of the port's group for each message, by the
    /// order in which they were bound.
    pub(super) fn sort(&self, rules: &[Rule]) -> io::Result<()> {
        let mut filter: Vec<libc::sock_filter> = rules.iter().map(|rule| rule.0).collect();
        let program = libc::sock_fprog {
            len: libc::c_ushort::try_from(filter.len()).unwrap_or(0),
            filter: filter.as_mut_ptr(),
        };
        let (level, name) = (libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF);
        let len = socklen::<libc::sock_fprog>();
        // SAFETY: the program and its instructions live for the call; the kernel
        // checks and copies them.
        let result =
            unsafe { libc::setsockopt(self.raw(), level, name, (&raw const program).cast(), len) };
        check(result).map(drop)
    }

    /// Marks what leaves from now on.
    pub(super) fn mark(&self, mark: u32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
    }

    /// The port that it is bound to.
    pub(super) fn port(&self) -> io::Result<u16> {
        // SAFETY: zero is a valid sockaddr_storage.
        let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut len = socklen::<libc::sockaddr_storage>();
        // SAFETY: `name` has room for `len` bytes; both live for the call.
        check(unsafe { libc::getsockname(self.raw(), (&raw mut name).cast(), &raw mut len) })?;
        Ok(from_raw(&name).map_or(0, |address| address.port()))
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn set(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        let len = socklen::<libc::c_int>();
        // SAFETY: the option's value is an int of `len` bytes.
        let result =
            unsafe { libc::setsockopt(self.raw(), level, name, (&raw const value).cast(), len) };
        check(result).map(drop)
    }

    fn bind_to_device(&self, device: &str) -> io::Result<()> {
        let len = libc::socklen_t::try_from(device.len()).unwrap_or(0);
        let (level, name) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        // SAFETY: the name's bytes live for the call; the kernel reads `len` of them.
        let result =
            unsafe { libc::setsockopt(self.raw(), level, name, device.as_ptr().cast(), len) };
        check(result).map(drop)
    }

    /// Whether it is bound to the interface that has this name now.
    pub(super) fn is_bound_to(&self, device: &str) -> bool {
        let mut name = [0u8; libc::IFNAMSIZ];
        let mut len = libc::socklen_t::try_from(name.len()).unwrap_or(0);
        let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        let value = name.as_mut_ptr().cast();
        // SAFETY: `value` has room for `len` bytes; both live for the call.
        let result = unsafe { libc::getsockopt(self.raw(), level, option, value, &raw mut len) };
        // An interface that is gone has no name.
        let found = CStr::from_bytes_until_nul(&name);
        check(result).is_ok() && found.is_ok_and(|found| found.to_bytes() == device.as_bytes())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd: &OwnedFd = self.fd();
        fd.as_fd()
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
