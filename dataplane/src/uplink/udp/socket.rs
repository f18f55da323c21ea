//! One UDP socket: `sendmmsg` and `recvmmsg` with their control messages.
//!
//! In: groups of committed rooms; buffers to receive into. Out: what the kernel
//! took; messages with source, local address, ECN and segment size. Never: a
//! blocking call, an address or length that the kernel did not write itself.

use std::{
    ffi::CStr,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
};

use arrayvec::ArrayVec;

use super::{Group, Options, Room};
use crate::shared::limits;

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

    /// Sends groups as one message each; answers how many the kernel took.
    ///
    /// `lens[room]` is the length of the datagram in that room.
    pub(super) fn send(&self, groups: &[Group], rooms: &[Room], lens: &[u32]) -> io::Result<usize> {
        let base = groups.first().map_or(0, |group| group.first);
        let last = groups.last().map_or(0, |group| group.first + group.count);
        let mut pieces: ArrayVec<_, { limits::SUB_BATCH }> = rooms[base..last]
            .iter()
            .zip(&lens[base..last])
            .map(|(room, len)| libc::iovec {
                iov_base: room.start.as_ptr().cast(),
                iov_len: *len as usize,
            })
            .collect();
        // Names and control messages are all there before the headers point to them.
        let mut names: ArrayVec<_, { limits::SUB_BATCH }> = groups
            .iter()
            .map(|group| to_raw(group.path.endpoint))
            .collect();
        let mut controls: ArrayVec<_, { limits::SUB_BATCH }> = groups
            .iter()
            .map(|group| {
                let mut control = Control([0; CONTROL_BYTES]);
                let len = self.write_control(group, &mut control);
                (control, len)
            })
            .collect();
        let pieces = pieces.as_mut_ptr();
        let mut headers = ArrayVec::<libc::mmsghdr, { limits::SUB_BATCH }>::new();
        for ((group, (name, name_len)), (control, control_len)) in
            groups.iter().zip(&mut names).zip(&mut controls)
        {
            // SAFETY: a plain C structure for which zero is valid.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = *name_len;
            header.msg_hdr.msg_iov = pieces.wrapping_add(group.first - base);
            header.msg_hdr.msg_iovlen = group.count;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = *control_len;
            headers.push(header);
        }
        let count = libc::c_uint::try_from(groups.len()).unwrap_or(0);
        // SAFETY: each header points to a name, pieces and control bytes that live
        // until the call returns; pieces point to rooms of at least their length.
        let sent = unsafe { libc::sendmmsg(self.raw(), headers.as_mut_ptr(), count, 0) };
        check(sent).map(|sent| usize::try_from(sent).unwrap_or(0))
    }

    /// Writes a group's control messages; answers their length.
    fn write_control(&self, group: &Group, control: &mut Control) -> usize {
        let mut writer = ControlWriter { control, len: 0 };
        if group.count > 1 {
            let size = u16::try_from(group.size).unwrap_or(u16::MAX);
            writer.put(libc::SOL_UDP, UDP_SEGMENT, size);
        }
        let (level, tos, hops) = if self.v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
        };
        for (kind, value) in [(tos, group.outer.tos), (hops, group.outer.hops)] {
            if value != 0 {
                writer.put(level, kind, libc::c_int::from(value));
            }
        }
        match group.path.usable_source() {
            Some(IpAddr::V4(address)) if !self.v6 => {
                let spec = libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: spec,
                    ipi_addr: any,
                };
                writer.put(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(address)) if self.v6 => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: address.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                writer.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            Some(_) | None => {}
        }
        writer.len
    }
}

struct ControlWriter<'a> {
    control: &'a mut Control,
    len: usize,
}

impl ControlWriter<'_> {
    fn put<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = u32::try_from(size_of::<T>()).unwrap_or(0);
        // SAFETY: pure arithmetic.
        let (len, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        let end = self.len + space as usize;
        if end > CONTROL_BYTES {
            return;
        }
        let header = libc::cmsghdr {
            cmsg_len: len as usize,
            cmsg_level: level,
            cmsg_type: kind,
        };
        let start = self.control.0[self.len..end].as_mut_ptr();
        // SAFETY: `start` has room for header and value (`end` was checked), and is
        // aligned to 8 because `Control` is and every space is a multiple of 8.
        unsafe {
            ptr::write_unaligned(start.cast(), header);
            ptr::write_unaligned(start.add(size_of::<libc::cmsghdr>()).cast(), value);
        }
        self.len = end;
    }
}

/// A received message: one datagram, or several of `segment` bytes each.
pub(super) struct Message {
    pub(super) start: NonNull<u8>,
    pub(super) len: usize,
    pub(super) segment: usize,
    pub(super) source: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) ecn: u8,
}

/// Buffers to receive into, and what the kernel wrote about them.
///
/// A look at a socket without datagrams costs the system call alone: headers are made once, and mended only where
/// the kernel wrote.
pub(super) struct Received {
    memory: Box<[u8]>,
    message_bytes: usize,
    headers: Box<[libc::mmsghdr]>,
    names: Box<[libc::sockaddr_storage]>,
    /// The headers point to them.
    _pieces: Box<[libc::iovec]>,
    /// The headers point to them.
    _controls: Box<[Control]>,
    /// Slots from the first on that the kernel may have written to.
    used: usize,
}

// SAFETY: the headers' pointers lead into boxed slices, which stay where they are when the value moves; they are
// followed only in `receive` and `messages`, which borrow it.
unsafe impl Send for Received {}

impl Received {
    pub(super) fn new(messages: usize, message_bytes: usize) -> Self {
        // SAFETY: plain C structures for which zero is valid.
        let (header, name, piece): (libc::mmsghdr, libc::sockaddr_storage, libc::iovec) =
            unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut memory = vec![0; messages * message_bytes].into_boxed_slice();
        let mut headers = vec![header; messages].into_boxed_slice();
        let mut names = vec![name; messages].into_boxed_slice();
        let mut pieces = vec![piece; messages].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL_BYTES]); messages].into_boxed_slice();
        let memory_start = memory.as_mut_ptr();
        let (names_start, pieces_start, controls_start) = (
            names.as_mut_ptr(),
            pieces.as_mut_ptr(),
            controls.as_mut_ptr(),
        );
        for (slot, header) in headers.iter_mut().enumerate() {
            // SAFETY: `slot` is below the number of names, pieces, controls and buffers.
            unsafe {
                let piece = pieces_start.add(slot);
                (*piece).iov_base = memory_start.add(slot * message_bytes).cast();
                (*piece).iov_len = message_bytes;
                header.msg_hdr.msg_name = names_start.add(slot).cast();
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_control = controls_start.add(slot).cast();
            }
            header.msg_hdr.msg_iovlen = 1;
        }
        Self {
            memory,
            message_bytes,
            headers,
            names,
            _pieces: pieces,
            _controls: controls,
            used: messages,
        }
    }

    /// Receives up to `count` messages into the slots from `first` on; answers how
    /// many came. A burst begins with slot 0.
    pub(super) fn receive(&mut self, socket: &Socket, first: usize, count: usize) -> usize {
        if first == 0 {
            for header in &mut self.headers[..self.used] {
                header.msg_len = 0;
                header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
                header.msg_hdr.msg_controllen = CONTROL_BYTES;
                header.msg_hdr.msg_flags = 0;
            }
            self.used = 0;
        }
        let headers = &mut self.headers[first..first + count];
        let len = libc::c_uint::try_from(headers.len()).unwrap_or(0);
        // SAFETY: each header points to a name, a buffer and control bytes of the
        // lengths it states, all owned by `self` and borrowed for the call.
        let received = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(
                socket.raw(),
                headers.as_mut_ptr(),
                len,
                flags,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).unwrap_or(0);
        // A message that ended in an error left its traces one slot behind.
        self.used = (first + received + 1).min(self.headers.len());
        received
    }

    /// The messages in `slots`, which the last `receive` filled. What is truncated or
    /// of an unknown family is passed over.
    pub(super) fn messages(&mut self, slots: Range<usize>) -> impl Iterator<Item = Message> + '_ {
        slots.filter_map(|slot| {
            let header = &self.headers[slot];
            let len = (header.msg_len as usize).min(self.message_bytes);
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                return None;
            }
            let source = from_raw(&self.names[slot])?;
            let mut message = Message {
                start: NonNull::from(&mut self.memory[slot * self.message_bytes..]).cast(),
                len,
                segment: len.max(1),
                source,
                local: None,
                ecn: 0,
            };
            read_control(&header.msg_hdr, &mut message);
            Some(message)
        })
    }
}

fn read_control(header: &libc::msghdr, message: &mut Message) {
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages
    // to `msg_control`; each value is read only if its type says what it is, and the
    // kernel pads values to 8 bytes, so the reads stay inside.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(head) = control.as_ref() {
            let value = libc::CMSG_DATA(control);
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_UDP, UDP_GRO) => {
                    let size = ptr::read_unaligned(value.cast::<libc::c_int>());
                    if let Ok(size @ 1..) = usize::try_from(size) {
                        message.segment = size;
                    }
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => message.ecn = *value & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = ptr::read_unaligned(value.cast::<libc::c_int>());
                    message.ecn = u8::try_from(class & 3).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = ptr::read_unaligned(value.cast::<libc::in_pktinfo>());
                    let octets = info.ipi_spec_dst.s_addr.to_ne_bytes();
                    message.local = Some(Ipv4Addr::from(octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = ptr::read_unaligned(value.cast::<libc::in6_pktinfo>());
                    message.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

fn to_raw(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: every sockaddr fits into, and is aligned like, the storage.
            unsafe { ptr::write((&raw mut storage).cast(), raw) };
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write((&raw mut storage).cast(), raw) };
            socklen::<libc::sockaddr_in6>()
        }
    };
    (storage, len)
}

fn from_raw(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let raw: libc::sockaddr_in = unsafe { ptr::read(ptr::from_ref(storage).cast()) };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let raw: libc::sockaddr_in6 = unsafe { ptr::read(ptr::from_ref(storage).cast()) };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or(0)
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
