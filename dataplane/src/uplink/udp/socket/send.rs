//! Send: `sendmmsg` with control messages.
//!
//! In: groups of committed rooms. Out: how many messages the kernel took. Never: an allocation.

use std::{io, mem, net::IpAddr, ptr};

use arrayvec::ArrayVec;

use super::{CONTROL_BYTES, Control, Socket, UDP_SEGMENT, address::to_raw, check};
use crate::{
    shared::limits,
    uplink::{Room, udp::tx::Group},
};

impl Socket {
    /// Sends groups as one message each; answers how many the kernel took.
    ///
    /// `lens[room]` is the length of the datagram in that room.
    pub(in crate::uplink::udp) fn send(
        &self,
        groups: &[Group],
        rooms: &[Room],
        lens: &[u32],
    ) -> io::Result<usize> {
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

    /// The same for what may be cut neither here nor on the way, and where nothing but the first link's MTU is known
    /// beforehand: as the socket is set for it, nobody else sends by it.
    #[cold]
    pub(in crate::uplink::udp) fn send_whole(
        &self,
        groups: &[Group],
        rooms: &[Room],
        lens: &[u32],
    ) -> io::Result<usize> {
        let (level, name, probes, cuts) = match self.v6 {
            true => (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
                libc::IPV6_PMTUDISC_DONT,
            ),
            false => (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
                libc::IP_PMTUDISC_DONT,
            ),
        };
        self.set(level, name, probes)?;
        let sent = self.send(groups, rooms, lens);
        self.set(level, name, cuts)?;
        sent
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
