//! Locks on what two processes must not share: a run directory, a port's socket, a tunnel's UDP
//! port.
//!
//! In: paths and addresses. Out: locks that the kernel releases when the process ends in whatever
//! way, or the process that holds them. Never: waiting.
//!
//! Paths are shared by network namespaces, so sockets are locked by a file beside them. UDP ports
//! are each namespace's own, so tunnels are locked by names in the abstract socket namespace
//! (unix(7)), which is each network namespace's own too. Without that lock SO_REUSEPORT would let a
//! second process of the same user take half of a tunnel's packets.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{what} is in use by {holder}: stop it, or change one of the two configurations")]
    Held {
        /// What is locked.
        what: String,
        /// The process in words: "culvert (pid 123)".
        holder: String,
    },
    /// The system refused.
    #[error("can't lock {what} by {}: {error}", .path.display())]
    Io {
        /// What should be locked.
        what: String,
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A locked file; unlocked when dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
}

impl FileLock {
    /// Locks the file, which is made if need be, and writes this process's id into it.
    pub(super) fn acquire(path: &Path) -> Result<Self, LockError> {
        let io = |error| LockError::Io {
            what: path.display().to_string(),
            path: path.to_owned(),
            error,
        };
        // Whoever unlinks a lock file holds it: after locking, the path must still name this file.
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o640)
                .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
                .open(path)
                .map_err(io)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held {
                        what: path.display().to_string(),
                        holder: holder_in(&mut file),
                    });
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(io(error.into())),
            }
            let locked = file.metadata().map_err(io)?;
            let named = fs::symlink_metadata(path);
            if !named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()))
            {
                continue;
            }
            write_pid(&mut file).map_err(io)?;
            return Ok(Self { file });
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process that wrote its id into a lock file.
fn holder_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    match read.ok().and_then(|_| text.trim().parse().ok()) {
        Some(pid) => process_name(pid),
        None => "another process".into(),
    }
}

/// "culvert (pid 123)"
fn process_name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("a process (pid {pid})"),
        name => format!("{name} (pid {pid})"),
    }
}

/// A port's socket path that this process alone uses.
#[derive(Debug)]
pub struct SocketLock {
    path: PathBuf,
    lock: FileLock,
}

/// Locks a port's socket by the file `.NAME.lock` beside it. Only its holder may remove a stale
/// socket there.
///
/// # Errors
///
/// When another process has it, or the file can't be made.
pub fn lock_socket(socket: &Path) -> Result<SocketLock, LockError> {
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    let path = socket.with_file_name(format!(".{name}.lock"));
    let what = || format!("the socket {}", socket.display());
    let lock = FileLock::acquire(&path).map_err(|error| match error {
        LockError::Held { holder, .. } => LockError::Held {
            what: what(),
            holder,
        },
        LockError::Io { path, error, .. } => LockError::Io {
            what: what(),
            path,
            error,
        },
    })?;
    Ok(SocketLock { path, lock })
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        // While the lock is held: see the loop in `FileLock::acquire`.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.lock.file, FlockOperation::Unlock);
    }
}

/// A UDP port that this process alone uses, on some addresses of one network namespace.
#[derive(Debug)]
pub struct UdpLock {
    /// Bound and never accepted from: the name is the lock.
    _names: Vec<UnixListener>,
}

/// What stands before the port and the address in a lock's name.
const UDP_PREFIX: &str = "culvert/udp";

/// Locks a UDP port on `addresses`, or on all addresses when there are none, in the calling
/// thread's network namespace.
///
/// # Errors
///
/// When another process has the port on one of these addresses, or on all.
pub fn lock_udp(addresses: &[IpAddr], port: u16) -> Result<UdpLock, LockError> {
    let all = [String::from("any")];
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let texts = if texts.is_empty() {
        all.as_slice()
    } else {
        texts.as_slice()
    };
    let mut names = Vec::with_capacity(texts.len());
    for text in texts {
        let name = format!("{UDP_PREFIX}/{port}/{text}");
        names.push(bind(&name).map_err(|error| udp_error(&name, text, port, error))?);
    }
    // "any" collides with every address and the other way round. Each process binds first and looks
    // then: of two at once, one or both see the other, and never none.
    let own: Vec<String> = texts
        .iter()
        .map(|text| format!("{UDP_PREFIX}/{port}/{text}"))
        .collect();
    for name in bound_names(&format!("{UDP_PREFIX}/{port}/")).map_err(|error| LockError::Io {
        what: format!("UDP port {port}"),
        path: "/proc/net/unix".into(),
        error,
    })? {
        let wide = name.ends_with("/any") || addresses.is_empty();
        if wide && !own.contains(&name) {
            return Err(udp_error(
                &name,
                "any address",
                port,
                io::ErrorKind::AddrInUse.into(),
            ));
        }
    }
    Ok(UdpLock { _names: names })
}

fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

fn udp_error(name: &str, address: &str, port: u16, error: io::Error) -> LockError {
    let address = if address == "any" {
        "any address"
    } else {
        address
    };
    let what = format!("UDP port {port} on {address}");
    if error.kind() == io::ErrorKind::AddrInUse {
        let holder = holder_of(name).map_or_else(|| "another process".into(), process_name);
        return LockError::Held { what, holder };
    }
    let path = PathBuf::from(format!("@{name}"));
    LockError::Io { what, path, error }
}

/// The process that listens at an abstract name.
fn holder_of(name: &str) -> Option<i32> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    // Non-blocking: nobody accepts there, and a full backlog must not hold this process up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&socket, &address).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
    Some(peer.pid.as_raw_pid())
}

/// Abstract names of the calling thread's network namespace with that beginning.
fn bound_names(prefix: &str) -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/unix")?;
    let prefix = format!("@{prefix}");
    let names = table.lines().filter_map(|line| {
        let name = line.split_ascii_whitespace().next_back()?;
        name.starts_with(&prefix).then(|| name[1..].to_owned())
    });
    let mut names: Vec<String> = names.collect();
    // A connection to a listener bears its name too.
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_locked_once_and_free_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm1.sock");
        let first = lock_socket(&socket).unwrap();
        let error = lock_socket(&socket).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }));
        let text = error.to_string();
        assert!(
            text.contains(&format!("pid {}", std::process::id())),
            "{text}"
        );
        assert!(text.contains("vm1.sock"), "{text}");
        drop(first);
        drop(lock_socket(&socket).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_udp_port_is_locked_by_address() {
        // A port that no other test of this machine locks.
        let port = 9;
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let two: IpAddr = "2001:db8::2".parse().unwrap();
        let first = lock_udp(&[one], port).unwrap();
        let second = lock_udp(&[two], port).unwrap();
        let error = lock_udp(&[two], port).unwrap_err().to_string();
        assert!(error.contains("UDP port 9 on 2001:db8::2"), "{error}");
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        assert!(lock_udp(&[], port).is_err());
        drop((first, second));
        let any = lock_udp(&[], port).unwrap();
        assert!(lock_udp(&[one], port).is_err());
        assert!(lock_udp(&[], port).is_err());
        drop(any);
        drop(lock_udp(&[one, two], port).unwrap());
    }
}
