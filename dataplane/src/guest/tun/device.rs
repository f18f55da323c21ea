//! The tun driver's ioctls.
//!
//! In: what is wanted of an interface. Out: one non-blocking descriptor per queue, with
//! vnet headers of 12 bytes and offloads set. Never: a packet.

#![allow(
    unsafe_code,
    reason = "a named room: ioctls whose structures are the kernel's"
)]

use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
};

use culvert_vhost::Offloads;
use culvert_wire::VnetHeader;

use super::{Claim, Layer, TunConfig, TunError};

// linux/if_tun.h, as `_IOW('T', n, int)`, `_IOR('T', n, unsigned int)` and `_IO('T', n)`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETVNETLE: libc::Ioctl = 0x4004_54dc;
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;

const IFF_TUN: u32 = 0x0001;
const IFF_TAP: u32 = 0x0002;
const IFF_MULTI_QUEUE: u32 = 0x0100;
const IFF_NO_PI: u32 = 0x1000;
const IFF_VNET_HDR: u32 = 0x4000;
const IFF_TUN_EXCL: u32 = 0x8000;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
/// Both at once: the driver knows no other way. Since Linux 6.2.
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;

/// The header with `num_buffers`, as virtio 1.x has it: `VnetHeader::LEN`.
const VNET_HEADER_LEN: libc::c_int = 12;
const _: () = assert!(VnetHeader::LEN == 12);

/// Opens all queues; answers what of the wanted offloads there is.
pub(super) fn open(config: &TunConfig) -> Result<(Vec<OwnedFd>, Offloads), TunError> {
    let multi_queue = match config.claim {
        Claim::Make => config.queues > 1,
        Claim::Attach { multi_queue } => multi_queue,
    };
    if config.queues > 1 && !multi_queue {
        return Err(TunError::SingleQueue {
            interface: config.interface.clone(),
            mode: config.layer.name(),
            queues: config.queues,
        });
    }
    let mut queues = Vec::new();
    for queue in 0..config.queues.max(1) {
        let fd = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|error| {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    forbidden(config, error)
                } else {
                    TunError::NoDriver(error)
                }
            })?;
        let fd = OwnedFd::from(fd);
        let kind = match config.layer {
            Layer::Ip => IFF_TUN,
            Layer::Ethernet => IFF_TAP,
        };
        let mut flags = kind | IFF_NO_PI | IFF_VNET_HDR;
        if multi_queue {
            flags |= IFF_MULTI_QUEUE;
        }
        // Whatever has that name now was not there a moment ago, or is another's.
        if config.claim == Claim::Make && queue == 0 {
            flags |= IFF_TUN_EXCL;
        }
        set_interface(&fd, &config.interface, flags).map_err(|error| refused(config, error))?;
        let set = |request, value, what| {
            set_int(&fd, request, value).map_err(|source| TunError::Refused {
                interface: config.interface.clone(),
                what,
                source,
            })
        };
        set(TUNSETVNETHDRSZ, VNET_HEADER_LEN, "the vnet header's size")?;
        set(TUNSETVNETLE, 1, "the vnet header's byte order")?;
        queues.push(fd);
    }
    let offloads = match queues.first() {
        Some(fd) => set_offloads(fd, config.offloads).map_err(|source| TunError::Refused {
            interface: config.interface.clone(),
            what: "its offloads",
            source,
        })?,
        None => Offloads::empty(),
    };
    Ok((queues, offloads))
}

/// An interface that another program made.
pub(super) struct Found {
    pub(super) interface: String,
    /// What of the wanted offloads there is; none without vnet headers.
    pub(super) offloads: Option<Offloads>,
}

/// Looks at a descriptor and prepares it: non-blocking, offloads and the vnet header's form as [`open`] sets them.
pub(super) fn adopt(fd: &OwnedFd, wanted: Offloads) -> Result<Found, TunError> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) })
        .map_err(|_| TunError::Unfit("is none of a tun interface"))?;
    // SAFETY: TUNGETIFF has set this member of the union.
    let flags = u32::from(unsafe { request.ifr_ifru.ifru_flags }.cast_unsigned());
    if flags & IFF_TUN == 0 {
        return Err(TunError::Unfit("is that of a tap interface, not of a tun"));
    }
    // Whether packets carry information ahead (IFF_NO_PI) can't be told: that bit means something else here.
    let interface = name(&request);
    let refused = |what| {
        let interface = interface.clone();
        move |source| TunError::Refused {
            interface,
            what,
            source,
        }
    };
    rustix::io::ioctl_fionbio(fd, true)
        .map_err(io::Error::from)
        .map_err(refused("non-blocking"))?;
    let mut offloads = None;
    if flags & IFF_VNET_HDR != 0 {
        set_int(fd, TUNSETVNETHDRSZ, VNET_HEADER_LEN).map_err(refused("the vnet header's size"))?;
        set_int(fd, TUNSETVNETLE, 1).map_err(refused("the vnet header's byte order"))?;
        offloads = Some(set_offloads(fd, wanted).map_err(refused("its offloads"))?);
    }
    Ok(Found {
        interface,
        offloads,
    })
}

fn forbidden(config: &TunConfig, source: io::Error) -> TunError {
    TunError::Forbidden {
        interface: config.interface.clone(),
        mode: config.layer.name(),
        source,
    }
}

fn refused(config: &TunConfig, source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => forbidden(config, source),
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TunError::Taken {
            interface: config.interface.clone(),
            mode: config.layer.name(),
            source,
        },
        _ => TunError::Refused {
            interface: config.interface.clone(),
            what: "attaching to it",
            source,
        },
    }
}

/// What the kernel may hand to us uncut. The other way it takes super-frames in any
/// case, those of UDP since it knows them here.
fn set_offloads(fd: &OwnedFd, wanted: Offloads) -> io::Result<Offloads> {
    let mut flags = 0;
    for (bit, flag) in [
        (Offloads::CSUM, TUN_F_CSUM),
        (Offloads::HOST_TSO4, TUN_F_TSO4),
        (Offloads::HOST_TSO6, TUN_F_TSO6),
        (Offloads::HOST_ECN, TUN_F_TSO_ECN),
    ] {
        if wanted.contains(bit) {
            flags |= flag;
        }
    }
    let uso = Offloads::HOST_USO | Offloads::GUEST_USO4 | Offloads::GUEST_USO6;
    if !wanted.intersects(uso) {
        set_long(fd, TUNSETOFFLOAD, flags)?;
        return Ok(wanted);
    }
    match set_long(fd, TUNSETOFFLOAD, flags | TUN_F_CSUM | TUN_F_USO) {
        Ok(()) if wanted.contains(Offloads::HOST_USO | Offloads::CSUM) => Ok(wanted),
        Ok(()) => {
            set_long(fd, TUNSETOFFLOAD, flags)?;
            Ok(wanted)
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            set_long(fd, TUNSETOFFLOAD, flags)?;
            Ok(wanted - uso)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn is_attached(fd: BorrowedFd<'_>) -> bool {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) }).is_ok()
}

pub(super) fn set_carrier(fd: BorrowedFd<'_>, up: bool) -> io::Result<()> {
    let value = libc::c_int::from(up);
    // SAFETY: TUNSETCARRIER reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETCARRIER, &raw const value) })
}

/// Its name, if its network namespace is that of the calling thread.
pub(super) fn name_here(fd: BorrowedFd<'_>) -> io::Result<Option<String>> {
    // SAFETY: TUNGETDEVNETNS takes nothing.
    let there = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETDEVNETNS) };
    check(there)?;
    // SAFETY: a new descriptor, which is owned by nobody else.
    let there = File::from(unsafe { OwnedFd::from_raw_fd(there) }).metadata()?;
    let here = File::open("/proc/thread-self/ns/net")?.metadata()?;
    if (there.dev(), there.ino()) != (here.dev(), here.ino()) {
        return Ok(None);
    }
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) })?;
    Ok(Some(name(&request)))
}

fn name(request: &libc::ifreq) -> String {
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

fn empty_request() -> libc::ifreq {
    // SAFETY: a plain C structure for which zero is valid.
    unsafe { mem::zeroed() }
}

fn set_interface(fd: &OwnedFd, name: &str, flags: u32) -> io::Result<()> {
    let mut request = empty_request();
    // The last byte stays zero; the configuration has checked the length.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let [low, high, ..] = flags.to_le_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_le_bytes([low, high]);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })
}

fn set_int(fd: &OwnedFd, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: these requests read one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) })
}

fn set_long(fd: &OwnedFd, request: libc::Ioctl, value: libc::c_uint) -> io::Result<()> {
    let value = libc::c_ulong::from(value);
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
