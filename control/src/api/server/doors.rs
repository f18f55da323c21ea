//! The ways into the API: `api.sock`, `api-read.sock`, a TCP port.
//!
//! In: what the configuration says of them. Out: listeners with the role of who comes in, on the API's thread. Never: a
//! door that is half changed: what can fail is done in [`Keeper::prepare`], before anything changes.
//!
//! A door that stays as it is keeps its connections; one that changes ends them when their requests are answered.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_directory::{Access, Directory, Listener, Place};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caller::Caller;
use super::crowd::{Crowd, DOOR, SHARE, Whose};
use super::{ServeError, connection, tls};
use crate::config::{Api, Role};
use crate::process::{self, accounts};

/// How long a TLS handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that are under way at once: who has no certificate takes no more of the places than these.
pub(super) const HANDSHAKES: usize = 64;

/// What is waited for when the system has no descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The doors' names, and what is open.
#[derive(Debug)]
pub(crate) struct Keeper {
    run_dir: Directory,
    held: Mutex<Held>,
    news: mpsc::UnboundedSender<News>,
}

/// A socket for readers alone; it closes when dropped.
#[derive(Debug)]
pub(super) struct ToRead {
    _place: Place,
    _news: mpsc::UnboundedSender<News>,
}

/// What is open.
#[derive(Debug)]
struct Held {
    api: Api,
    socket: Place,
    readers: Option<Place>,
    tcp: Option<Tcp>,
}

/// Doors that are ready to be opened in place of those that are.
#[derive(Debug)]
pub(crate) struct Prepared {
    api: Api,
    access: Access,
    /// Who may read, and the socket unless there is one.
    readers: Option<(Access, Option<Listener>)>,
    tcp: Option<Tcp>,
    /// The port unless it is open already, or none is wanted.
    listener: Option<TcpListener>,
}

/// What handshakes of a TCP port are done with.
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) tls: Arc<tls::Loaded>,
    roles: Arc<[(String, Role)]>,
}

/// What the API's thread is told.
#[derive(Debug)]
pub(super) enum News {
    Open(Role, UnixListener),
    OpenTcp(Tcp, TcpListener),
    /// Other handshakes from now on.
    Shake(Tcp),
    /// Those of connections that come by uplinks, from now on.
    InBand(Option<Tcp>),
    /// Its connections end; the door stays.
    Clear(Way),
    Close(Way),
    BodyMax(usize),
}

/// A door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Socket,
    Readers,
    Tcp,
}

impl Keeper {
    /// Makes the control socket, and with it all doors.
    pub(super) fn open(
        run_dir: &Directory,
        api: &Api,
    ) -> Result<(Self, mpsc::UnboundedReceiver<News>), ServeError> {
        let access = access(api).map_err(ServeError::Doors)?;
        let listener = Listener::open(run_dir, process::API_SOCKET, access)?;
        let (listener, socket) = listener.into_parts();
        let (sender, news) = mpsc::unbounded_channel();
        let held = Held {
            api: Api {
                socket: api.socket.clone(),
                ..Api::default()
            },
            socket,
            readers: None,
            tcp: None,
        };
        let keeper = Self {
            run_dir: run_dir.clone(),
            held: Mutex::new(held),
            news: sender,
        };
        keeper.tell(News::Open(Role::Write, listener));
        let prepared = keeper.prepare(api).map_err(ServeError::Doors)?;
        match keeper.change(prepared) {
            failures if failures.is_empty() => Ok((keeper, news)),
            failures => Err(ServeError::Doors(failures.join("; "))),
        }
    }

    /// Makes `api.sock` alone, for readers: of what has no file, and can't be changed that way.
    pub(super) fn open_to_read(
        run_dir: &Directory,
    ) -> Result<(ToRead, mpsc::UnboundedReceiver<News>), ServeError> {
        let access = access(&Api::default()).map_err(ServeError::Doors)?;
        let listener = Listener::open(run_dir, process::API_SOCKET, access)?;
        let (listener, place) = listener.into_parts();
        let (sender, news) = mpsc::unbounded_channel();
        // The receiver is at hand.
        let _ = sender.send(News::Open(Role::Read, listener));
        let door = ToRead {
            _place: place,
            _news: sender,
        };
        Ok((door, news))
    }

    /// Does all that can fail.
    ///
    /// # Errors
    ///
    /// In words, when an account, a file or an address can't be had.
    pub(crate) fn prepare(&self, api: &Api) -> Result<Prepared, String> {
        let held = self.held();
        let readers = api.readers.as_ref().map(|group| -> Result<_, String> {
            let access = Access {
                group: Some(accounts::group(group).map_err(of_api)?),
                ..Access::mode(0o660)
            };
            let open = || Listener::open(&self.run_dir, process::READ_SOCKET, access);
            let new = held.readers.is_none().then(open).transpose();
            Ok((access, new.map_err(of_api)?))
        });
        let tcp = api.tls.as_ref().map(|new| -> Result<_, String> {
            Ok(Tcp {
                tls: Arc::new(tls::load(new).map_err(|error| error.to_string())?),
                roles: new.roles.clone().into(),
            })
        });
        let new = port(api).filter(|_| port(api) != port(&held.api));
        let listener = new.map(|new| {
            let failed = |error| of_api(format!("can't listen on {new}: {error}"));
            bound(new).map_err(failed)
        });
        Ok(Prepared {
            api: api.clone(),
            access: access(api)?,
            readers: readers.transpose()?,
            tcp: tcp.transpose()?,
            listener: listener.transpose()?,
        })
    }

    /// Opens what was prepared, and closes what it is in place of. Answers which sockets let nobody in, in words; the
    /// next configuration tries these again, the same one, too.
    pub(crate) fn change(&self, mut prepared: Prepared) -> Vec<String> {
        let mut held = self.held();
        let mut failures = Vec::new();
        let mebibytes = usize::try_from(prepared.api.body_megabytes).unwrap_or(1);
        self.tell(News::BodyMax(mebibytes << 20));
        if held.api.socket != prepared.api.socket {
            if let Err(failure) = admit(&held.socket, prepared.access) {
                failures.push(failure);
                prepared.api.socket = held.api.socket.clone();
            }
            self.tell(News::Clear(Way::Socket));
        }
        if let Err(failure) = self.change_readers(&mut held, &prepared.api, prepared.readers) {
            failures.push(failure);
            prepared.api.readers = held.api.readers.clone();
        }
        self.change_tcp(&mut held, &prepared.api, (prepared.tcp, prepared.listener));
        held.api = prepared.api;
        failures
    }

    fn change_readers(
        &self,
        held: &mut Held,
        api: &Api,
        new: Option<(Access, Option<Listener>)>,
    ) -> Result<(), String> {
        match new {
            None if held.readers.take().is_some() => self.tell(News::Close(Way::Readers)),
            None => {}
            Some((_, Some(listener))) => {
                let (listener, place) = listener.into_parts();
                held.readers = Some(place);
                self.tell(News::Open(Role::Read, listener));
            }
            Some((access, None)) if held.api.readers != api.readers => {
                let admitted = held.readers.iter().try_for_each(|it| admit(it, access));
                self.tell(News::Clear(Way::Readers));
                return admitted;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn change_tcp(
        &self,
        held: &mut Held,
        api: &Api,
        (tcp, listener): (Option<Tcp>, Option<TcpListener>),
    ) {
        let is_same = match (&held.tcp, &tcp) {
            (Some(old), Some(new)) => old.tls.is_same(&new.tls) && held.api.tls == api.tls,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            self.tell(News::InBand(tcp.clone()));
        }
        match (port(api).and(tcp.clone()), listener) {
            (None, _) if port(&held.api).is_some() => self.tell(News::Close(Way::Tcp)),
            (None, _) => {}
            (Some(tcp), Some(listener)) => self.tell(News::OpenTcp(tcp, listener)),
            (Some(tcp), None) if !is_same => {
                self.tell(News::Shake(tcp));
                self.tell(News::Clear(Way::Tcp));
            }
            (Some(_), None) => {}
        }
        held.tcp = tcp;
    }

    fn tell(&self, news: News) {
        // Fails when the API's thread has ended, which it has said.
        let _ = self.news.send(news);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn admit(place: &Place, access: Access) -> Result<(), String> {
    place.admit(access).map_err(|error| {
        let path = place.path().display();
        tracing::error!(%path, %error, "nobody is let in here: its owner or mode can't be set");
        format!("nobody is let in at {path}: its owner or mode can't be set: {error}")
    })
}

/// Where the TCP port is.
fn port(api: &Api) -> Option<SocketAddr> {
    api.tls.as_ref().and_then(|tls| tls.listen)
}

fn of_api(error: impl std::fmt::Display) -> String {
    format!("api: {error}")
}

fn access(api: &Api) -> Result<Access, String> {
    let socket = &api.socket;
    let owner = socket.owner.as_ref().map(accounts::user).transpose();
    let group = socket.group.as_ref().map(accounts::group).transpose();
    Ok(Access {
        mode: socket.permissions,
        owner: owner.map_err(of_api)?,
        group: group.map_err(of_api)?,
    })
}

/// Listens on an address, which the machine may be given later.
fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

/// What is open, at the API's thread.
#[derive(Default)]
struct Doors(Vec<Open>);

/// An open door. Dropped, it closes, and its connections end.
struct Open {
    way: Way,
    /// Ends its connections.
    clear: watch::Sender<()>,
    /// Of a TCP port.
    tcp: Option<watch::Sender<Tcp>>,
}

/// Opens and closes doors as it is told, until nobody is left who could.
pub(super) async fn keep(
    mut news: mpsc::UnboundedReceiver<News>,
    router: axum::Router,
    in_band: watch::Sender<Option<Tcp>>,
    body_max: &AtomicUsize,
) -> io::Result<()> {
    let mut doors = Doors::default();
    while let Some(news) = news.recv().await {
        match news {
            News::Open(role, listener) => doors.open(role, listener, router.clone())?,
            News::OpenTcp(tcp, listener) => doors.open_tcp(tcp, listener, router.clone())?,
            News::Shake(tcp) => {
                let ports = doors.0.iter().filter_map(|door| door.tcp.as_ref());
                ports.for_each(|port| drop(port.send_replace(tcp.clone())));
            }
            News::InBand(tcp) => drop(in_band.send_replace(tcp)),
            News::Clear(way) => {
                let ways = doors.0.iter().filter(|door| door.way == way);
                ways.for_each(|door| door.clear.send_replace(()));
            }
            News::Close(way) => doors.close(way),
            News::BodyMax(bytes) => body_max.store(bytes, Ordering::Relaxed),
        }
    }
    Ok(())
}

impl Doors {
    fn open(&mut self, role: Role, listener: UnixListener, router: axum::Router) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (clear, closing) = watch::channel(());
        tokio::spawn(local(listener, role, router, closing));
        let way = match role {
            Role::Write => Way::Socket,
            Role::Read => Way::Readers,
        };
        let tcp = None;
        self.0.push(Open { way, clear, tcp });
        Ok(())
    }

    fn open_tcp(
        &mut self,
        tcp: Tcp,
        listener: TcpListener,
        router: axum::Router,
    ) -> io::Result<()> {
        self.close(Way::Tcp);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (clear, closing) = watch::channel(());
        let (shake, shaken) = watch::channel(tcp);
        tokio::spawn(remote(listener, shaken, router, closing));
        self.0.push(Open {
            way: Way::Tcp,
            clear,
            tcp: Some(shake),
        });
        Ok(())
    }

    fn close(&mut self, way: Way) {
        self.0.retain(|door| door.way != way);
    }
}

/// The next who comes, or nobody yet; `None` when the door has closed.
async fn next<T>(
    come: impl Future<Output = io::Result<T>>,
    closing: &mut watch::Receiver<()>,
) -> Option<Option<T>> {
    tokio::select! {
        come = come => {
            if come.is_err() {
                // No descriptor is left, or who came has gone.
                sleep(PAUSE).await;
            }
            Some(come.ok())
        }
        // Told without an end, this concerns those that are in.
        closed = closing.changed() => closed.ok().map(|()| None),
    }
}

/// Takes in processes of this machine.
async fn local(
    listener: tokio::net::UnixListener,
    role: Role,
    router: axum::Router,
    mut closing: watch::Receiver<()>,
) {
    let crowd = Crowd::new(DOOR, SHARE);
    while let Some(come) = next(listener.accept(), &mut closing).await {
        let Some((stream, who)) = come.and_then(|(it, _)| it.peer_cred().ok().map(|who| (it, who)))
        else {
            continue;
        };
        let caller = Caller::local(who.uid(), who.pid(), role);
        let (router, closing) = (router.clone(), closing.clone());
        match crowd.place(Whose::User(who.uid())) {
            Some(place) => drop(tokio::spawn(async move {
                let _place = place;
                connection::serve(stream, caller, router, closing).await;
            })),
            None => connection::turn_away(&stream),
        }
    }
}

/// Takes in clients with certificates.
async fn remote(
    listener: tokio::net::TcpListener,
    shaken: watch::Receiver<Tcp>,
    router: axum::Router,
    mut closing: watch::Receiver<()>,
) {
    let (crowd, strangers) = (
        Crowd::new(DOOR, SHARE),
        Crowd::new(HANDSHAKES, HANDSHAKES / 2),
    );
    while let Some(come) = next(listener.accept(), &mut closing).await {
        let Some((stream, from)) = come else {
            continue;
        };
        let whose = Whose::at(from.ip());
        // Who is turned away would have to be shaken hands with to hear why.
        let Some(stranger) = strangers.place(whose.clone()) else {
            continue;
        };
        let crowd = crowd.clone();
        let (tcp, router, closing) = (shaken.borrow().clone(), router.clone(), closing.clone());
        tokio::spawn(async move {
            let shaken = shake(tcp, stream).await;
            drop(stranger);
            let place = crowd.place(whose);
            if let (Some((stream, caller)), Some(_place)) = (shaken, place) {
                connection::serve(stream, caller, router, closing).await;
            }
        });
    }
}

/// Who comes in with a certificate; `None` without one that the CA vouches for.
async fn shake(tcp: Tcp, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Caller)> {
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(Arc::clone(&tcp.tls.config));
    let stream = timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .ok()?
        .ok()?;
    let caller = of_certificate(&tcp, stream.get_ref().1)?;
    Some((stream, caller))
}

/// Who has shaken hands.
pub(super) fn of_certificate(tcp: &Tcp, shaken: &rustls::ServerConnection) -> Option<Caller> {
    let certificate = shaken.peer_certificates()?.first()?;
    Some(tls::caller(certificate, &tcp.roles))
}
