//! The sockets, and the connections to them.
//!
//! In: clients of `wg`'s protocol, `/var/run/wireguard`. Out: requests to the engine; its answers. Never: the engine's
//! thread: one of its own serves all tunnels with tokio's single-threaded runtime.
//!
//! A socket gets its name when it listens already: `wg` removes a socket that it can't connect to.
//!
//! What clients may take is bounded: their number, a request's length and time, how many requests wait at the engine.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use culvert_directory::{Access, Directory, DirectoryError, ListenError, Listener, Place, vacant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::codec::{self, Reader};
use super::doors::Doors;
use super::{Answer, Ask, Device, Errno, Peer};
use crate::api::{Reply, Request, Requester, SendError};
use crate::config::Name;
use crate::netlink::index_of;
use crate::plan::Layers;

/// Where `wg` looks for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// Connections at once; the next one waits in the socket's backlog.
const CLIENTS: usize = 256;
/// Requests at the engine at once: fewer than it has room for, so that `show` gets through.
const ASKING: usize = 16;
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
    /// Its directory is not there, or others could exchange the socket.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Somebody listens there, or the system refuses.
    #[error(transparent)]
    Socket(#[from] ListenError),
}

/// The directory where `wg` looks, which is made if need be.
///
/// # Errors
///
/// When others may write to it.
pub fn directory() -> Result<Directory, OpenError> {
    Ok(Directory::own(Path::new(DIRECTORY), 0o755)?)
}

/// The name of a socket for a tunnel that `wg` shall call `name`.
pub fn file_name(name: &str) -> String {
    format!("{name}.sock")
}

/// Whether a socket could be made: nobody listens there, nothing else is there.
///
/// # Errors
///
/// Why not.
pub fn probe(name: &str) -> Result<(), OpenError> {
    Ok(vacant(&directory()?, file_name(name))?)
}

/// Makes a socket that its owner alone may connect to.
///
/// # Errors
///
/// When somebody listens there, or the system refuses.
pub fn open(directory: &Directory, name: &str) -> Result<Listener, OpenError> {
    Ok(Listener::open(directory, file_name(name), Access::OWNER)?)
}

/// The thread that serves all sockets of this process; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    spot: Spot,
    _stop: oneshot::Sender<()>,
}

/// Where sockets are served: the thread, and what its connections share.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    handle: tokio::runtime::Handle,
    desk: Arc<Desk>,
}

/// What all connections share.
#[derive(Debug)]
struct Desk {
    requester: Requester,
    clients: Arc<Semaphore>,
    asking: Semaphore,
}

/// A socket that is served; closed and removed when dropped, with all connections to it.
#[derive(Debug)]
pub struct Served {
    task: JoinHandle<()>,
    place: Place,
}

impl Served {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
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
        let desk = Arc::new(desk);
        Ok(Self {
            spot: Spot { handle, desk },
            _stop: stop,
        })
    }

    /// Serves a socket for the tunnel of that name.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn serve(&self, socket: Listener, tunnel: Name) -> io::Result<Served> {
        self.spot.serve(socket, tunnel)
    }

    /// Keeps doors for tunnels; `ring` is called with each piece of news.
    pub fn doors(&self, ring: impl Fn() + Send + 'static) -> Doors {
        Doors::keep(self.spot.clone(), ring)
    }
}

impl Spot {
    pub(super) fn serve(&self, socket: Listener, tunnel: Name) -> io::Result<Served> {
        let (listener, place) = socket.into_parts();
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = self.handle.enter();
            tokio::net::UnixListener::from_std(listener)?
        };
        let desk = Arc::clone(&self.desk);
        let task = self.handle.spawn(accept(listener, desk, tunnel));
        Ok(Served { task, place })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }
}

/// Accepts connections, which end with it.
async fn accept(listener: tokio::net::UnixListener, desk: Arc<Desk>, tunnel: Name) {
    let mut connections = JoinSet::new();
    loop {
        // Their memory goes with those that have ended.
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&desk.clients).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (desk, tunnel) = (Arc::clone(&desk), tunnel.clone());
                connections.spawn(async move {
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
    let mut reader = Reader::new(index_of);
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
        codec::Request::Get => match desk.get(tunnel).await {
            Ok(device) => {
                let (tunnel, desired) = (tunnel.clone(), desk.desired(&device).await);
                let print = move || in_order(device, desired, &tunnel).print();
                // The text of many peers holds up no other client.
                match tokio::task::spawn_blocking(print).await {
                    Ok(text) => text,
                    Err(_) => errno(Some(Errno::NOMEM)),
                }
            }
            Err(error) => errno(Some(error)),
        },
        codec::Request::Set { changes, refused } => {
            let done = if changes.is_empty() {
                Answer::Done
            } else {
                desk.ask(tunnel, Ask::Set(changes)).await
            };
            match done {
                Answer::Refused(error) => errno(Some(error)),
                Answer::Done | Answer::Device(..) => errno(refused),
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

/// The peers in the order in which they are desired: the file's, then those that `wg` added, in theirs.
fn in_order(mut device: Device, desired: Option<Layers>, tunnel: &Name) -> Device {
    if let Some(desired) = desired {
        let peers = desired.peers(tunnel).enumerate();
        let places: HashMap<_, _> = peers
            .map(|(place, peer)| (peer.public_key, place))
            .collect();
        let place = |peer: &Peer| {
            places
                .get(&peer.config.public_key)
                .copied()
                .unwrap_or(usize::MAX)
        };
        device.peers.sort_by_key(place);
    }
    device
}

impl Desk {
    /// A tunnel with its peers, which the engine tells in parts, in no order: it does other things between them.
    async fn get(&self, tunnel: &Name) -> Result<Device, Errno> {
        let (mut peers, mut from) = (Vec::new(), 0);
        loop {
            match self.ask(tunnel, Ask::Get(from)).await {
                Answer::Device(mut part, rest) => {
                    peers.append(&mut part.peers);
                    let Some(rest) = rest else {
                        return Ok(Device { peers, ..*part });
                    };
                    from = rest;
                }
                Answer::Refused(error) => return Err(error),
                Answer::Done => return Err(Errno::PROTO),
            }
        }
    }

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
        let request = Request::Uapi {
            tunnel: tunnel.clone(),
            ask,
            reply,
        };
        self.hand_over(request).await;
        answer.await.unwrap_or(Answer::Refused(Errno::NODEV))
    }

    /// What is desired, if a device has peers that could be in another order.
    async fn desired(&self, device: &Device) -> Option<Layers> {
        if device.peers.len() < 2 {
            return None;
        }
        let (reply, answer) = Reply::new();
        self.hand_over(Request::Desired { reply }).await;
        timeout(ENGINE, answer).await.ok()?.ok()
    }

    /// Gives the engine a request once it has room; if it has ended, nobody replies.
    async fn hand_over(&self, mut request: Request) {
        while let Err((SendError::Full, back)) = self.requester.offer(request) {
            request = back;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[cfg(test)]
mod tests;
