//! Open: a tunnel's port is claimed, and one queue per worker bound to it.
//!
//! In: addresses, a port, what an operator asks of the sockets. Out: queues; or why there are none, and which command
//! shows the reason. Never: a port that another process has, too.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Options, Rx, Sockets, Tx,
    calls::{self, Calls},
    socket::Socket,
};
use crate::{
    shared::{
        ids::{TunnelIndex, UplinkIndex},
        limits,
    },
    uplink::{self, Queue},
};

/// Ports that are tried for one that is free in both families.
const PORT_TRIES: usize = 100;

/// Why a UDP uplink can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody listens there already.
    #[error(
        "UDP port {port} on {address} is taken: {source}; `ss -ulpn 'sport = :{port}'` shows by whom"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
    /// There is no such interface.
    #[error(
        "can't bind UDP port {port} to the interface {device}: {source}; is it there (`ip link show {device}`)?"
    )]
    Device {
        /// The interface.
        device: String,
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
    /// The address is not on this machine, or not permitted.
    #[error(
        "can't bind UDP port {port} on {address}: {source}; is the address up on this machine (`ip address show`)?"
    )]
    Bind {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
}

impl OpenError {
    fn new(at: SocketAddr, device: Option<&str>, source: io::Error) -> Self {
        let (address, port) = (at.ip(), at.port());
        if let Some(device) = device
            && source.raw_os_error() == Some(libc::ENODEV)
        {
            return Self::Device {
                device: device.to_owned(),
                port,
                source,
            };
        }
        match source.kind() == io::ErrorKind::AddrInUse {
            true => Self::Taken {
                address,
                port,
                source,
            },
            false => Self::Bind {
                address,
                port,
                source,
            },
        }
    }

    /// The kernel's number for it (errno(3)).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Taken { source, .. }
            | Self::Device { source, .. }
            | Self::Bind { source, .. } => source.raw_os_error(),
        }
    }
}

/// Whether a port could be had at this moment; of port 0, whether any could.
///
/// # Errors
/// As [`open`].
pub fn probe(addresses: &[IpAddr], port: u16, options: Options<'_>) -> Result<(), OpenError> {
    claim(addresses, &binds(addresses), port, options).map(drop)
}

/// Opens one queue per worker for a tunnel's port.
///
/// `addresses` are the uplink's: with exactly one of a family the socket is bound
/// to it, otherwise to the wildcard of each family that is wanted (both when there
/// are none).
///
/// # Errors
/// When the port is taken or the address can't be bound.
pub fn open(
    uplink: UplinkIndex,
    tunnel: TunnelIndex,
    addresses: &[IpAddr],
    port: u16,
    workers: usize,
    options: Options<'_>,
) -> Result<Vec<Queue>, OpenError> {
    let first = claim(addresses, &binds(addresses), port, options)?;
    open_beside(first, uplink, tunnel, addresses, port, workers, options)
}

/// The same for a port that the tunnel has already, on sockets that are bound otherwise: both are open then.
///
/// # Errors
/// As [`open`].
pub fn join(
    uplink: UplinkIndex,
    tunnel: TunnelIndex,
    addresses: &[IpAddr],
    port: u16,
    workers: usize,
    options: Options<'_>,
) -> Result<Vec<Queue>, OpenError> {
    open_beside(
        Vec::new(),
        uplink,
        tunnel,
        addresses,
        port,
        workers,
        options,
    )
}

/// Opens queues beside the `first` sockets on the port, which have done their duty then.
fn open_beside(
    first: Vec<Socket>,
    uplink: UplinkIndex,
    tunnel: TunnelIndex,
    addresses: &[IpAddr],
    port: u16,
    workers: usize,
    options: Options<'_>,
) -> Result<Vec<Queue>, OpenError> {
    let binds = binds(addresses);
    // One set of sockets of both families.
    let bind_all = || -> Result<Sockets, OpenError> {
        let mut sockets = [None, None];
        for &address in &binds {
            let at = SocketAddr::new(address, port);
            let socket = bind(addresses, at, true, options)
                .map_err(|source| OpenError::new(at, options.device, source))?;
            sockets[usize::from(address.is_ipv6())] = socket.map(Arc::new);
        }
        Ok(sockets)
    };
    let mut data = Vec::with_capacity(workers);
    data.push(bind_all()?);
    // There is always somebody of ours on the port.
    drop(first);
    for _ in 1..workers {
        data.push(bind_all()?);
    }
    let mut calls = calls_of(&data, &bind_all)?;
    Ok(data
        .into_iter()
        .map(|sockets| Queue {
            uplink,
            tunnel: Some(tunnel),
            rx: uplink::Rx::Udp(Rx::new(sockets.clone(), calls.take())),
            tx: uplink::Tx::Udp(Tx::new(sockets)),
        })
        .collect())
}

/// Takes the port for this process alone. With SO_REUSEPORT a second process of the same user could bind, too, and take
/// half of the traffic: so these sockets, one for each address, bind without it, which the kernel lets only the first
/// on the port do. They let others join from then on.
fn claim(
    addresses: &[IpAddr],
    binds: &[IpAddr],
    port: u16,
    options: Options<'_>,
) -> Result<Vec<Socket>, OpenError> {
    let mut first = Vec::new();
    for &address in binds {
        let at = SocketAddr::new(address, port);
        let socket = bind(addresses, at, false, options).and_then(|socket| {
            socket.iter().try_for_each(Socket::share)?;
            Ok(socket)
        });
        first.extend(socket.map_err(|source| OpenError::new(at, options.device, source))?);
    }
    Ok(first)
}

/// A socket at one of the places that `addresses` come to: none is the wildcard of IPv6 on a machine without, which is
/// not worth an error.
fn bind(
    addresses: &[IpAddr],
    at: SocketAddr,
    shared: bool,
    options: Options<'_>,
) -> io::Result<Option<Socket>> {
    match Socket::bind(at, shared, options) {
        Err(error)
            if error.kind() != io::ErrorKind::AddrInUse && addresses.is_empty() && at.is_ipv6() =>
        {
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// The lanes for handshake messages, the first worker's to read. A kernel that can't
/// sort (before 4.5) has none, and all comes to the data sockets.
fn calls_of(
    data: &[Sockets],
    bind_all: &dyn Fn() -> Result<Sockets, OpenError>,
) -> Result<Option<Calls>, OpenError> {
    let rules = calls::sorting(u32::try_from(data.len()).unwrap_or(1));
    // Until the lanes are there, what is sorted to them goes by the kernel's own rule.
    let sorted = |sockets: &Sockets| {
        let mut families = sockets.iter().flatten();
        families.all(|socket| socket.sort(&rules).is_ok())
    };
    if !data.first().is_some_and(sorted) {
        return Ok(None);
    }
    let lanes = [bind_all()?, bind_all()?];
    for socket in lanes.iter().flatten().flatten() {
        socket.bound(limits::CALLS_BUFFER);
    }
    Ok(Some(Calls::new(lanes)))
}

/// What sockets of an uplink with these addresses are bound to: one address of a family at most.
#[must_use]
pub fn binds(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let mut binds = Vec::new();
    for wildcard in any {
        let mut family = addresses
            .iter()
            .filter(|a| a.is_ipv4() == wildcard.is_ipv4());
        match (family.next(), family.next()) {
            (Some(&only), None) => binds.push(only),
            (Some(_), Some(_)) => binds.push(wildcard),
            (None, _) if addresses.is_empty() => binds.push(wildcard),
            (None, _) => {}
        }
    }
    binds
}

/// A UDP port that is free on all of `addresses`, or on the machine when there are none: nobody else has it at
/// this moment.
///
/// # Errors
/// When the kernel has none, or the addresses can't be bound.
pub fn free_port(addresses: &[IpAddr], options: Options<'_>) -> io::Result<u16> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    let binds = binds(addresses);
    for _ in 0..PORT_TRIES {
        let mut sockets = Vec::new();
        let mut port = 0;
        for &address in &binds {
            match bind(addresses, SocketAddr::new(address, port), false, options) {
                Ok(Some(socket)) => {
                    port = socket.port()?;
                    sockets.push(socket);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    taken = error;
                    port = 0;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if port != 0 {
            return Ok(port);
        }
    }
    Err(taken)
}
