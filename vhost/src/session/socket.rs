//! The socket on which VMMs come, or to which we go.
//!
//! In: a path, a mode, access rights. Out: connected streams.
//! Never: a live socket of another process removed; a moment in which the socket has other
//! rights than configured.
//!
//! A listening socket is made under a temporary name, gets its owner and mode, listens, and
//! only then is renamed to its path, which also replaces a stale one atomically.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::{PortConfig, SocketAccess, SocketMode};
use crate::event::PortError;
use crate::limits;

/// Where sessions come from.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// We listen.
    Server(Listening),
    /// The VMM listens at this path.
    Client(PathBuf),
}

impl Endpoint {
    /// Makes the socket, or remembers where to connect.
    pub(crate) fn open(config: &PortConfig) -> Result<Self, PortError> {
        match config.socket_mode {
            SocketMode::Server => Listening::new(&config.socket, config.access).map(Self::Server),
            SocketMode::Client => Ok(Self::Client(config.socket.clone())),
        }
    }

    /// The next connection; `None` when `alarm` became readable first.
    pub(super) fn next(&self, alarm: &OwnedFd) -> Option<UnixStream> {
        loop {
            let attempt = match self {
                Self::Server(listening) => {
                    let mut fds = [
                        PollFd::new(&listening.listener, PollFlags::IN),
                        PollFd::new(alarm, PollFlags::IN),
                    ];
                    let _ = poll(&mut fds, None);
                    if !fds[1].revents().is_empty() {
                        return None;
                    }
                    listening.listener.accept().map(|(stream, _)| stream)
                }
                Self::Client(path) => UnixStream::connect(path),
            };
            match attempt.and_then(|stream| {
                stream.set_nonblocking(true)?;
                Ok(stream)
            }) {
                Ok(stream) => return Some(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody listens yet, or we are short of descriptors: later.
                Err(error) => {
                    tracing::trace!(%error, "no vhost-user connection yet");
                    if wait(alarm, limits::RECONNECT_PAUSE_MS) {
                        return None;
                    }
                }
            }
        }
    }
}

/// Waits; true if `alarm` became readable.
pub(super) fn wait(alarm: &OwnedFd, pause_ms: u64) -> bool {
    let mut fds = [PollFd::new(alarm, PollFlags::IN)];
    let pause = Timespec::try_from(Duration::from_millis(pause_ms)).ok();
    let _ = poll(&mut fds, pause.as_ref());
    !fds[0].revents().is_empty()
}

/// A listening socket that removes itself.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that a successor's socket isn't removed by mistake.
    identity: Option<(u64, u64)>,
}

/// Connections that may wait.
const BACKLOG: i32 = 16;

impl Listening {
    fn new(path: &Path, access: SocketAccess) -> Result<Self, PortError> {
        let failed = |action| {
            let path = path.to_owned();
            move |error: io::Error| PortError::Socket {
                action,
                path,
                error,
            }
        };
        ensure_free(path)?;
        let temporary = temporary_name(path);
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| failed("creating")(error.into()))?;
        // The final path must be connectable too, so its length is checked here.
        rustix::net::SocketAddrUnix::new(path).map_err(|error| failed("naming")(error.into()))?;
        let address = rustix::net::SocketAddrUnix::new(&temporary)
            .map_err(|error| failed("naming")(error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed("binding")(error.into()))?;
        let prepare = || -> Result<(), (&'static str, io::Error)> {
            let permissions = std::fs::Permissions::from_mode(access.mode);
            std::fs::set_permissions(&temporary, permissions)
                .map_err(|error| ("setting the mode of", error))?;
            std::os::unix::fs::chown(&temporary, access.owner, access.group)
                .map_err(|error| ("setting the owner of", error))?;
            rustix::net::listen(&socket, BACKLOG)
                .map_err(|error| ("listening on", error.into()))?;
            std::fs::rename(&temporary, path).map_err(|error| ("putting in place", error))
        };
        if let Err((action, error)) = prepare() {
            let _ = std::fs::remove_file(&temporary);
            return Err(failed(action)(error));
        }
        Ok(Self {
            listener: socket.into(),
            path: path.to_owned(),
            identity: identity(path),
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|found| (found.dev(), found.ino()))
}

/// Refuses a path where someone listens, or where something else than a socket lies.
fn ensure_free(path: &Path) -> Result<(), PortError> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(PortError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        // Nobody listens: a process was killed and left it. Renaming replaces it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(PortError::SocketInUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(PortError::Socket {
            action: "probing",
            path: path.to_owned(),
            error,
        }),
    }
}

/// A short name beside `path`: a socket's path has at most 107 bytes.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{:x}.{count:x}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> SocketAccess {
        SocketAccess {
            mode: 0o640,
            ..SocketAccess::default()
        }
    }

    #[test]
    fn a_socket_appears_with_its_rights_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm1.sock");
        let listening = Listening::new(&path, access()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_taken_over_and_a_live_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm1.sock");
        let live = UnixListener::bind(&path).unwrap();
        let refused = Listening::new(&path, access()).unwrap_err();
        assert!(
            matches!(refused, PortError::SocketInUse { .. }),
            "{refused}"
        );
        // A killed process leaves the file behind.
        drop(live);
        assert!(path.exists());
        let _listening = Listening::new(&path, access()).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm1.sock");
        std::fs::write(&path, b"precious").unwrap();
        let refused = Listening::new(&path, access()).unwrap_err();
        assert!(matches!(refused, PortError::NotASocket { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm1.sock");
        let first = Listening::new(&path, access()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = Listening::new(&path, access()).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
