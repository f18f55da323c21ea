//! The sockets, and the connections to them.
//!
//! In: clients of `wg`'s protocol, `/var/run/wireguard`. Out: requests to the engine; its answers. Never: the engine's
//! thread: one of its own serves all tunnels with tokio's single-threaded runtime.
//!
//! A socket is made with mode 0600 before it has its name, and gets the name when it listens already: `wg` removes a
//! socket that it can't connect to. A stale one is replaced, one that somebody listens on is not.
//!
//! What clients may take is bounded: their number, a request's length and time, how many requests wait at the engine.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::codec::{self, Reader};
use super::{Answer, Ask, Errno};
use crate::api::{Reply, Request, Requester, SendError};
use crate::config::Name;

/// Where `wg` looks for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// Connections at once; the next one waits in the socket's backlog.
const CLIENTS: usize = 256;
/// Requests at the engine at once: fewer than it has room for, so that `show` gets through.
const ASKING: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long a connection may stay silent between requests.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a request may take from its first byte to its last, and how long the client may take for the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the engine may take.
const ENGINE: Duration = Duration::from_secs(60);
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody listens there.
    #[error("another process serves {} already", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has its name.
    #[error("{} is no socket: remove it", .0.display())]
    NotASocket(PathBuf),
    /// Others could exchange the socket.
    #[error("others may write to {}: chmod 0755 it", .0.display())]
    Exposed(PathBuf),
    /// The system refused.
    #[error("can't make {}: {error}", .path.display())]
    Io {
        /// The socket or its folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A socket that listens under its name; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    place: Place,
}

/// A socket's name, which is removed when dropped if it is still that socket's.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    node: Option<(u64, u64)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.node.is_some() && node(&self.path) == self.node {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn node(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The socket's path for a tunnel that `wg` shall call `name`.
pub fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.sock"))
}

/// Whether a socket could be made: nobody listens there, nothing else is there.
///
/// # Errors
///
/// Why not.
pub fn probe(directory: &Path, name: &str) -> Result<(), OpenError> {
    vacant(&path(directory, name))
}

impl Socket {
    /// Makes the socket.
    ///
    /// # Errors
    ///
    /// When somebody listens there, or the system refuses.
    pub fn open(directory: &Path, name: &str) -> Result<Self, OpenError> {
        let path = path(directory, name);
        let _lock = prepare(directory)?;
        vacant(&path)?;
        // A name that `wg` doesn't look at. The process's number keeps two of them apart.
        let beginning = directory.join(format!(".{name}.{}", std::process::id()));
        let listener = listen(&beginning).and_then(|listener| {
            fs::rename(&beginning, &path)?;
            Ok(listener)
        });
        let listener = listener.map_err(|error| {
            let _ = fs::remove_file(&beginning);
            refused(&path)(error)
        })?;
        let node = node(&path);
        Ok(Self {
            listener,
            place: Place { path, node },
        })
    }

    /// A socket that another process made and handed over.
    pub fn from_fd(fd: OwnedFd, directory: &Path, name: &str) -> Self {
        let path = path(directory, name);
        let node = node(&path);
        Self {
            listener: UnixListener::from(fd),
            place: Place { path, node },
        }
    }

    /// Hands the socket over to another process; its name stays.
    pub fn into_fd(mut self) -> OwnedFd {
        self.place.node = None;
        self.listener.into()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }
}

/// Makes the folder, and keeps others of this program out while a socket in it is exchanged.
fn prepare(directory: &Path) -> Result<Option<File>, OpenError> {
    let io = refused(directory);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(&io)?;
    let folder = File::open(directory).map_err(&io)?;
    let metadata = folder.metadata().map_err(&io)?;
    let own = rustix::process::geteuid().as_raw();
    let foreign = metadata.uid() != 0 && metadata.uid() != own;
    if foreign || metadata.mode() & 0o002 != 0 {
        return Err(OpenError::Exposed(directory.to_owned()));
    }
    // Anybody could hold this lock for ever: it is not waited for long, and not needed unless two begin at once.
    for _ in 0..20 {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder)),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(None)
}

fn vacant(path: &Path) -> Result<(), OpenError> {
    let io = refused(path);
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(OpenError::NotASocket(path.to_owned()));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path).map_err(|error| io(error.into()))?;
    let connected = socket.and_then(|socket| rustix::net::connect(&socket, &address));
    match connected {
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(()),
        // A full backlog (EAGAIN) has somebody behind it, too.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(OpenError::InUse(path.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before the bind: the file is made with these bits, so there is no moment when others may connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn refused(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io {
        path: path.clone(),
        error,
    }
}

/// The thread that serves all sockets of this process; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    handle: tokio::runtime::Handle,
    desk: Arc<Desk>,
    _stop: oneshot::Sender<()>,
}

/// What all connections share.
#[derive(Debug)]
struct Desk {
    requester: Requester,
    clients: Arc<Semaphore>,
    asking: Semaphore,
}

/// A socket that is served; closed and removed when dropped.
#[derive(Debug)]
pub struct Served {
    task: JoinHandle<()>,
    place: Place,
}

impl Served {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has no thread or descriptor left.
    pub fn start(requester: Requester) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || drop(runtime.block_on(stopped));
        thread::Builder::new().name("uapi".into()).spawn(run)?;
        let desk = Desk {
            requester,
            clients: Arc::new(Semaphore::new(CLIENTS)),
            asking: Semaphore::new(ASKING),
        };
        Ok(Self {
            handle,
            desk: Arc::new(desk),
            _stop: stop,
        })
    }

    /// Serves a socket for the tunnel of that name.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn serve(&self, socket: Socket, tunnel: Name) -> io::Result<Served> {
        socket.listener.set_nonblocking(true)?;
        let listener = {
            let _inside = self.handle.enter();
            tokio::net::UnixListener::from_std(socket.listener)?
        };
        let desk = Arc::clone(&self.desk);
        let task = self.handle.spawn(accept(listener, desk, tunnel));
        Ok(Served {
            task,
            place: socket.place,
        })
    }
}

async fn accept(listener: tokio::net::UnixListener, desk: Arc<Desk>, tunnel: Name) {
    loop {
        let Ok(place) = Arc::clone(&desk.clients).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (desk, tunnel) = (Arc::clone(&desk), tunnel.clone());
                tokio::spawn(async move {
                    // A client that leaves early is no news.
                    let _ = client(stream, &desk, &tunnel).await;
                    drop(place);
                });
            }
            // No descriptor is left, or the client has gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One connection: requests one after the other until the client leaves, takes too long, or can't be understood.
async fn client(mut stream: UnixStream, desk: &Desk, tunnel: &Name) -> io::Result<()> {
    let mut reader = Reader::new(zone);
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    let mut deadline = Instant::now() + SILENCE;
    loop {
        let count = timeout_at(deadline, stream.read(&mut chunk)).await??;
        if count == 0 {
            if let Some(request) = reader.end() {
                answer(&mut stream, desk, tunnel, request).await?;
            }
            return Ok(());
        }
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            let fresh = !reader.in_request();
            let (read, request) = reader.read(rest);
            rest = &rest[read..];
            let Some(request) = request else {
                if fresh {
                    deadline = Instant::now() + PATIENCE;
                }
                break;
            };
            if !answer(&mut stream, desk, tunnel, request).await? {
                return Ok(());
            }
            deadline = Instant::now() + SILENCE;
        }
    }
}

/// Answers one request; whether another may follow.
async fn answer(
    stream: &mut UnixStream,
    desk: &Desk,
    tunnel: &Name,
    request: codec::Request,
) -> io::Result<bool> {
    let mut open = true;
    let text = match request {
        codec::Request::Get => match desk.ask(tunnel, Ask::Get).await {
            Answer::Device(device) => device.print(),
            Answer::Done => errno(None),
            Answer::Refused(error) => errno(Some(error)),
        },
        codec::Request::Set { changes, refused } => {
            let done = if changes.is_empty() {
                Answer::Done
            } else {
                desk.ask(tunnel, Ask::Set(changes)).await
            };
            match done {
                Answer::Refused(error) => errno(Some(error)),
                Answer::Done | Answer::Device(_) => errno(refused),
            }
        }
        codec::Request::Refused(error) => errno(Some(error)),
        codec::Request::Broken(error) => {
            open = false;
            errno(Some(error))
        }
    };
    timeout(PATIENCE, stream.write_all(text.as_bytes())).await??;
    Ok(open)
}

fn errno(error: Option<Errno>) -> codec::Text {
    Zeroizing::new(codec::errno(error))
}

fn zone(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    let plain = Name::new(name).is_some();
    plain.then_some(text.ok()?.trim().parse().ok()?)
}

impl Desk {
    async fn ask(&self, tunnel: &Name, ask: Ask) -> Answer {
        match timeout(ENGINE, self.ask_patiently(tunnel, ask)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Refused(Errno::TIMEDOUT),
        }
    }

    async fn ask_patiently(&self, tunnel: &Name, ask: Ask) -> Answer {
        let Ok(_turn) = self.asking.acquire().await else {
            return Answer::Refused(Errno::NODEV);
        };
        let (reply, answer) = Reply::new();
        let mut request = Request::Uapi {
            tunnel: tunnel.clone(),
            ask,
            reply,
        };
        loop {
            match self.requester.offer(request) {
                Ok(()) => break,
                Err((SendError::Full, back)) => request = back,
                Err((SendError::Ended, _)) => return Answer::Refused(Errno::NODEV),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        answer.await.unwrap_or(Answer::Refused(Errno::NODEV))
    }
}

#[cfg(test)]
mod tests;
