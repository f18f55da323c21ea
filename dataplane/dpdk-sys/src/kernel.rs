//! The kernel interface under a device such as `net_af_packet`: what DPDK doesn't tell of it.
//!
//! *In*: an interface's name or index, in the calling thread's network namespace. *Out*: its MTU and state, the
//! driver's packet sockets, a multicast membership. *Never*: a change that outlives this process.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fs, io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// The MTU of an interface.
pub(crate) fn mtu(interface: &str) -> io::Result<u32> {
    let request = interface_request(interface, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU filled in this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether an interface is up and has a carrier.
pub(crate) fn is_running(interface: &str) -> io::Result<bool> {
    let request = interface_request(interface, libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS filled in this member.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let both = libc::IFF_UP | libc::IFF_RUNNING;
    Ok(flags & both == both)
}

/// The index of an interface.
pub(crate) fn index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: a C string that lives for the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The name of the interface with this index.
pub(crate) fn name(index: u32) -> Option<String> {
    let mut name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // SAFETY: the buffer has the size that the call wants; what it writes ends with a zero.
    unsafe {
        if libc::if_indextoname(index, name.as_mut_ptr()).is_null() {
            return None;
        }
        Some(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

fn interface_request(interface: &str, call: libc::Ioctl) -> io::Result<libc::ifreq> {
    let name = CString::new(interface)?;
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: an ifreq is plain bytes; the name fits with its end; a new descriptor is owned by nobody else.
    unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        std::ptr::copy_nonoverlapping(name.as_ptr(), request.ifr_name.as_mut_ptr(), bytes.len());
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        if libc::ioctl(socket.as_raw_fd(), call, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(request)
    }
}

/// Has an interface receive all multicast as long as the returned socket is open.
pub(crate) fn all_multicast(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: a new descriptor is owned by nobody else; the request lives for the call and has its true size.
    // Protocol 0: the socket itself receives nothing.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::packet_mreq = mem::zeroed();
        request.mr_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        request.mr_type = u16::try_from(libc::PACKET_MR_ALLMULTI).map_err(io::Error::other)?;
        let size = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
        let result = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size,
        );
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(socket)
        }
    }
}

/// Whether a PCI device is there and bound to a driver that DPDK takes it from: vfio, uio, or one that shares it (mlx).
pub(crate) fn is_bound(address: &str) -> bool {
    let link = std::path::Path::new("/sys/bus/pci/devices").join(address);
    let Ok(driver) = fs::read_link(link.join("driver")) else {
        return false;
    };
    let name = driver.file_name().map(std::ffi::OsStr::to_string_lossy);
    name.is_some_and(|name| {
        name.contains("vfio") || name.contains("uio") || name.starts_with("mlx")
    })
}

/// This process's packet sockets that are bound to an interface, by descriptor. `net_af_packet` opens one per
/// queue, in order, and offers no other way to wait for packets.
pub(crate) fn packet_sockets(index: u32) -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let mut sockets: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&fd| bound_to(fd) == Some(index))
        .collect();
    sockets.sort_unstable();
    sockets
}

/// The interface that a descriptor is bound to, if it is a packet socket.
fn bound_to(fd: RawFd) -> Option<u32> {
    // SAFETY: the address is plain bytes of the size given; a descriptor that isn't a socket, or was closed
    // meanwhile, makes the call fail.
    let address = unsafe {
        let mut address: libc::sockaddr_ll = mem::zeroed();
        let mut size = libc::socklen_t::try_from(size_of_val(&address)).ok()?;
        if libc::getsockname(fd, (&raw mut address).cast(), &raw mut size) < 0 {
            return None;
        }
        address
    };
    (c_int::from(address.sll_family) == libc::AF_PACKET)
        .then_some(address.sll_ifindex.cast_unsigned())
}

/// A descriptor of our own for somebody's socket.
pub(crate) fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fails for a descriptor that isn't open; the new one is owned by nobody else.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        (copy >= 0).then(|| OwnedFd::from_raw_fd(copy))
    }
}

/// Takes back a socket's pending error (its interface went down), so that a poll waits again.
pub(crate) fn clear_error(socket: BorrowedFd<'_>) {
    let mut error: c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&error)).unwrap_or(0);
    // SAFETY: an integer of the size given.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut size,
        );
    }
}
