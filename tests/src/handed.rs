//! What a program is handed by the one that starts it: descriptors.
//!
//! In: a namespace, an interface's name. Out: descriptors that survive the start of another program. Never: an
//! interface that outlives its descriptor.

#![allow(unsafe_code, reason = "a named room: one ioctl of the tun driver's")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::network::Namespace;

/// `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// How an interface is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunFlags {
    /// A tap in a tun's place.
    pub tap: bool,
    /// A vnet header ahead of each packet.
    pub vnet: bool,
}

/// Makes an interface in `namespace` and leaves its descriptor to the programs that are started from here on.
pub fn make_tun(namespace: &Namespace, interface: &str, flags: TunFlags) -> Result<OwnedFd> {
    let mut wanted = if flags.tap {
        libc::IFF_TAP
    } else {
        libc::IFF_TUN
    };
    wanted |= libc::IFF_NO_PI;
    if flags.vnet {
        wanted |= libc::IFF_VNET_HDR;
    }
    let wanted = libc::c_short::try_from(wanted).context("16 bits of flags")?;
    namespace.enter(|| {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: wanted },
        };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error()).context("TUNSETIFF");
        }
        hand_over(&file)?;
        Ok(file.into())
    })
}

/// Leaves a descriptor to the programs that are started from here on.
pub fn hand_over(descriptor: impl AsFd) -> Result<()> {
    fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(())
}
