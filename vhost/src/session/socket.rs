//! The socket on which VMMs come, or to which we go.
//!
//! In: a path, a mode, access rights. Out: connected streams.
//! Never: a wait for a VMM that this thread can't be woken from.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_directory::{Access, Directory, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::{PortConfig, SocketAccess, SocketMode};
use crate::event::PortError;
use crate::limits;

/// Where sessions come from.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// We listen.
    Server(Listener),
    /// The VMM listens at this path.
    Client(PathBuf),
}

impl Endpoint {
    /// Makes the socket, or remembers where to connect.
    pub(crate) fn open(config: &PortConfig) -> Result<Self, PortError> {
        match config.socket_mode {
            SocketMode::Server => listen(&config.socket, config.access).map(Self::Server),
            SocketMode::Client => Ok(Self::Client(config.socket.clone())),
        }
    }

    /// The next connection; `None` when `alarm` became readable first.
    pub(super) fn next(&self, alarm: &OwnedFd) -> Option<UnixStream> {
        loop {
            let attempt = match self {
                Self::Server(listener) => {
                    let mut fds = [
                        PollFd::new(listener, PollFlags::IN),
                        PollFd::new(alarm, PollFlags::IN),
                    ];
                    let _ = poll(&mut fds, None);
                    if !fds[1].revents().is_empty() {
                        return None;
                    }
                    accept(listener)
                }
                Self::Client(path) => connect(path),
            };
            match attempt {
                Ok(stream) => return Some(stream),
                // The connection was gone before we took it.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && matches!(self, Self::Server(_)) => {}
                // Nobody listens yet, or we are short of descriptors: later.
                Err(error) => {
                    tracing::trace!(%error, "no vhost-user connection yet");
                    if wait(alarm, Duration::from_millis(limits::RECONNECT_PAUSE_MS)) {
                        return None;
                    }
                }
            }
        }
    }

    /// Where others knock while one is served.
    pub(super) fn listener(&self) -> Option<&Listener> {
        match self {
            Self::Server(listener) => Some(listener),
            Self::Client(_) => None,
        }
    }
}

/// A connection, if there is one.
pub(super) fn accept(listener: &Listener) -> io::Result<UnixStream> {
    let (stream, _) = listener.socket().accept()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Waits; true if `alarm` became readable.
pub(super) fn wait(alarm: &OwnedFd, pause: Duration) -> bool {
    let mut fds = [PollFd::new(alarm, PollFlags::IN)];
    let pause = Timespec::try_from(pause).ok();
    let _ = poll(&mut fds, pause.as_ref());
    !fds[0].revents().is_empty()
}

/// Connects without waiting: where the other side's queue is full, a blocking socket would hang.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn listen(path: &Path, access: SocketAccess) -> Result<Listener, PortError> {
    let access = Access {
        mode: access.mode,
        owner: access.owner,
        group: access.group,
    };
    let system = |error| PortError::System {
        action: "opening the directory of the socket",
        error,
    };
    let (directory, name) = Directory::of(path).map_err(system)?;
    Listener::open(&directory, name, access).map_err(PortError::Socket)
}
