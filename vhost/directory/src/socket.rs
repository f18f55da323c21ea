//! Sockets that listen under a name: one way to make them, to replace a stale one and to leave.
//!
//! In: a directory, a name, who may connect. Out: a listening socket. Never: a live socket of another process removed;
//! a moment in which the socket has other rights than it shall have; rights given to anything but that socket, whoever
//! may write to the directory.
//!
//! 1. Others that make a socket of this name the same way are kept out ([`Directory::lock`]).
//! 2. Nobody listens there, and nothing but a socket is there.
//! 3. The socket is made in a folder that nobody else may enter. There it gets its owner and mode, and listens.
//! 4. It is renamed to its name, which also replaces a stale one at once. Who finds it can connect.
//!
//! The process knows the names of all of its sockets ([`remove_all`]): whoever ends it need not wait until their owners do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fchmod, fstat, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt::socket_peercred,
};
use rustix::process::{getegid, geteuid};

use super::lock::process_name;
use super::{Directory, LockError, own, plain, through};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How often another process that makes a socket of that name is waited for, 5 ms each.
const PATIENCE: u32 = 40;
/// Names that are tried for the folder.
const FOLDERS: u32 = 1_000;

/// Who may connect, and whose the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Another owner.
    pub owner: Option<u32>,
    /// Another group.
    pub group: Option<u32>,
}

impl Access {
    /// The owner alone.
    pub const OWNER: Self = Self::mode(0o600);

    /// Whom these bits let in.
    pub const fn mode(mode: u32) -> Self {
        Self {
            mode,
            owner: None,
            group: None,
        }
    }
}

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{holder} listens on {path} already: stop it, or choose another path", path = .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process in words.
        holder: String,
    },
    /// Something that is no socket has its name.
    #[error("{} is no socket: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("can't make {path}: {action}: {error}", path = .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A socket that listens under its name, which is removed when dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    place: Place,
}

/// A socket's name, which is removed when dropped if it is still that socket's.
#[derive(Debug)]
pub struct Place {
    directory: Directory,
    name: OsString,
    path: PathBuf,
    /// Its number among those of this process.
    number: u64,
}

/// A name, and the socket that had it when it was made.
#[derive(Debug)]
struct Made {
    directory: Directory,
    name: OsString,
    node: (u64, u64),
}

impl Made {
    /// Removes the name, unless something else has it by now.
    fn remove(&self) {
        if self.directory.node(&self.name) == Some(self.node) {
            let _ = self.directory.remove(&self.name);
        }
    }
}

/// All names that are this process's.
static MADE: Mutex<BTreeMap<u64, Made>> = Mutex::new(BTreeMap::new());

fn made() -> MutexGuard<'static, BTreeMap<u64, Made>> {
    // Nothing is left half done there.
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the names of all sockets of this process, which is about to end.
pub fn remove_all() {
    std::mem::take(&mut *made()).values().for_each(Made::remove);
}

/// Removes the socket of a process that has ended without doing so; whether there was one. What is no socket, another
/// user's, this process's, or has somebody who listens, stays.
pub fn sweep(directory: &Directory, name: impl AsRef<OsStr>) -> bool {
    let name = name.as_ref();
    let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return false;
    };
    let node = (found.st_dev, found.st_ino);
    let is_socket = FileType::from_raw_mode(found.st_mode) == FileType::Socket;
    let is_live = made().values().any(|made| made.node == node);
    if !is_socket || found.st_uid != own() || is_live || vacant(directory, name).is_err() {
        return false;
    }
    directory.remove(name).is_ok()
}

impl Place {
    fn new(directory: &Directory, name: &OsStr) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(node) = directory.node(name) {
            let (directory, name) = (directory.clone(), name.to_owned());
            let socket = Made {
                directory,
                name,
                node,
            };
            made().insert(number, socket);
        }
        Self {
            directory: directory.clone(),
            name: name.to_owned(),
            path: directory.path().join(name),
            number,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets others in from now on. In between nobody but the owner of before can connect. The directory must be one
    /// that nobody else may write to.
    ///
    /// # Errors
    ///
    /// When the system refuses; nobody but an owner may connect then.
    pub fn admit(&self, access: Access) -> io::Result<()> {
        let set_mode = |mode| chmodat(&self.directory, &self.name, mode, AtFlags::empty());
        set_mode(Mode::RUSR | Mode::WUSR)?;
        let owner = access.owner.map_or_else(geteuid, Uid::from_raw);
        let group = access.group.map_or_else(getegid, Gid::from_raw);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&self.directory, &self.name, Some(owner), Some(group), flags)?;
        Ok(set_mode(Mode::from_raw_mode(access.mode))?)
    }

    /// Leaves the name to somebody else.
    pub fn leave(self) {
        made().remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let socket = made().remove(&self.number);
        socket.iter().for_each(Made::remove);
    }
}

impl Listener {
    /// Makes a socket that doesn't block.
    ///
    /// # Errors
    ///
    /// When somebody listens there, or the system refuses.
    pub fn open(
        directory: &Directory,
        name: impl AsRef<OsStr>,
        access: Access,
    ) -> Result<Self, ListenError> {
        let name = name.as_ref();
        let path = directory.path().join(name);
        let failed = |action| failed(&path, action);
        plain(name).map_err(failed("naming it"))?;
        // Those who connect name it by its path.
        SocketAddrUnix::new(&path).map_err(|error| failed("naming it")(error.into()))?;
        let _alone = alone(directory, name, &path)?;
        vacant(directory, name)?;
        let folder = Folder::make(directory).map_err(failed("making a folder for it"))?;
        let listener = folder
            .listen(access)
            .map_err(|(action, error)| failed(action)(error))?;
        renameat(&folder.inside, INSIDE, directory, name)
            .map_err(|error| failed("putting it in place")(error.into()))?;
        let place = Place::new(directory, name);
        Ok(Self { listener, place })
    }

    /// A socket that another process made there and handed over.
    pub fn adopt(fd: OwnedFd, directory: &Directory, name: impl AsRef<OsStr>) -> Self {
        Self {
            listener: fd.into(),
            place: Place::new(directory, name.as_ref()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// The socket and its name.
    pub fn into_parts(self) -> (UnixListener, Place) {
        (self.listener, self.place)
    }

    /// The socket, to accept from.
    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Keeps others of this program away from a name while its socket is exchanged.
fn alone(directory: &Directory, name: &OsStr, path: &Path) -> Result<super::Lock, ListenError> {
    let mut lock = OsString::from(".");
    lock.push(name);
    lock.push(".lock");
    for _ in 0..PATIENCE {
        match directory.lock(&lock, true) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { .. }) => thread::sleep(Duration::from_millis(5)),
            Err(LockError::Io(error)) => return Err(failed(path, "locking it")(error)),
        }
    }
    Err(ListenError::InUse {
        path: path.to_owned(),
        holder: "another process that starts".into(),
    })
}

/// Whether a socket could be made: nobody listens there, nothing else is there.
///
/// # Errors
///
/// Why not.
pub fn vacant(directory: &Directory, name: impl AsRef<OsStr>) -> Result<(), ListenError> {
    let name = name.as_ref();
    let path = || directory.path().join(name);
    let failed = |error: Errno| failed(&path(), "looking at it")(error.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = match openat(directory, name, flags, Mode::empty()) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let found = fstat(&there).map_err(failed)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket(path()));
    }
    match listening(&there).map_err(failed)? {
        None => Ok(()),
        Some(holder) => Err(ListenError::InUse {
            path: path(),
            holder,
        }),
    }
}

/// Who listens on a socket, in words.
fn listening(there: &OwnedFd) -> Result<Option<String>, Errno> {
    // Non-blocking: a full backlog must not hold us up.
    let socket = stream()?;
    match connect(&socket, &SocketAddrUnix::new(through(there))?) {
        Ok(()) => {
            let pid = socket_peercred(&socket).map(|peer| peer.pid.as_raw_pid());
            Ok(Some(
                pid.map_or_else(|_| "another process".into(), process_name),
            ))
        }
        // Somebody is behind a full backlog, too.
        Err(Errno::AGAIN) => Ok(Some("another process".into())),
        // A process was killed and left it.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn stream() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The socket's first name.
const INSIDE: &str = "s";

/// A folder that nobody else may enter; removed when dropped.
struct Folder<'d> {
    directory: &'d Directory,
    name: String,
    inside: Directory,
}

impl<'d> Folder<'d> {
    fn make(directory: &'d Directory) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut tries = 0;
        let name = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".{:x}.{count:x}", std::process::id());
            match mkdirat(directory, &name, Mode::RWXU) {
                Ok(()) => break name,
                Err(Errno::EXIST) if tries < FOLDERS => tries += 1,
                Err(error) => return Err(error.into()),
            }
        };
        let entered = enter(directory, &name);
        let inside = entered.inspect_err(|_| remove_folder(directory, &name))?;
        Ok(Self {
            directory,
            name,
            inside,
        })
    }

    fn listen(&self, access: Access) -> Result<UnixListener, (&'static str, io::Error)> {
        let step = |action| move |error: Errno| (action, io::Error::from(error));
        let socket = stream().map_err(step("creating it"))?;
        // Before the bind: the file is made with no more than these bits.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(step("setting its mode"))?;
        let at = self.inside.by_descriptor(OsStr::new(INSIDE));
        let at = SocketAddrUnix::new(at).map_err(step("naming it"))?;
        bind(&socket, &at).map_err(step("binding it"))?;
        let (owner, group) = (
            access.owner.map(Uid::from_raw),
            access.group.map(Gid::from_raw),
        );
        if owner.is_some() || group.is_some() {
            chownat(
                &self.inside,
                INSIDE,
                owner,
                group,
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(step("setting its owner"))?;
        }
        chmodat(
            &self.inside,
            INSIDE,
            Mode::from_raw_mode(access.mode),
            AtFlags::empty(),
        )
        .map_err(step("setting its mode"))?;
        listen(&socket, BACKLOG).map_err(step("listening on it"))?;
        Ok(socket.into())
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let _ = self.inside.remove(INSIDE);
        remove_folder(self.directory, &self.name);
    }
}

fn enter(directory: &Directory, name: &str) -> io::Result<Directory> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(directory, name, flags, Mode::empty())?;
    // Who may write to the directory may have put another in its place.
    let found = fstat(&fd)?;
    if found.st_uid != own() || found.st_mode & 0o077 != 0 {
        return Err(Errno::PERM.into());
    }
    Ok(Directory {
        fd: fd.into(),
        path: directory.path().join(name).into(),
    })
}

fn remove_folder(directory: &Directory, name: &str) {
    let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
}

fn failed<'p>(path: &'p Path, action: &'static str) -> impl Fn(io::Error) -> ListenError + use<'p> {
    move |error| ListenError::Io {
        path: path.to_owned(),
        action,
        error,
    }
}

#[cfg(test)]
mod tests;
