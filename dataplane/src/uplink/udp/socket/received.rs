//! Received: `recvmmsg`, and what the kernel wrote about each message.
//!
//! In: a socket that may have something. Out: messages with source, local address, ECN and segment size. Never: a header
//! written anew that the kernel did not touch.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    ptr::{self, NonNull},
};

use super::{CONTROL_BYTES, Control, Socket, UDP_GRO, address::from_raw, socklen};
use crate::pages::Pages;

/// A received message: one datagram, or several of `segment` bytes each.
pub(in crate::uplink::udp) struct Message {
    pub(in crate::uplink::udp) start: NonNull<u8>,
    pub(in crate::uplink::udp) len: usize,
    pub(in crate::uplink::udp) segment: usize,
    pub(in crate::uplink::udp) source: SocketAddr,
    pub(in crate::uplink::udp) local: Option<IpAddr>,
    pub(in crate::uplink::udp) ecn: u8,
}

/// Buffers to receive into, and what the kernel wrote about them.
///
/// A look at a socket without datagrams costs the system call alone: headers are made once, and mended only where
/// the kernel wrote.
pub(in crate::uplink::udp) struct Received {
    memory: Pages,
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

// SAFETY: the headers' pointers lead into boxed slices and pages, which stay where they are when the value moves; they are
// followed only in `receive` and `messages`, which borrow it.
unsafe impl Send for Received {}

impl Received {
    pub(in crate::uplink::udp) fn new(messages: usize, message_bytes: usize) -> Self {
        // SAFETY: plain C structures for which zero is valid.
        let (header, name, piece): (libc::mmsghdr, libc::sockaddr_storage, libc::iovec) =
            unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut memory = Pages::new(messages * message_bytes);
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
    pub(in crate::uplink::udp) fn receive(
        &mut self,
        socket: &Socket,
        first: usize,
        count: usize,
    ) -> usize {
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
    pub(in crate::uplink::udp) fn messages(
        &mut self,
        slots: Range<usize>,
    ) -> impl Iterator<Item = Message> + '_ {
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
