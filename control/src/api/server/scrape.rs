//! `/metrics` on TCP, where the configuration wants it.
//!
//! In: the address, whenever it changes. Out: metrics, and nothing else, in HTTP/1.1. Never: more connections than
//! [`CONNECTIONS`], [`SHARE`] of one address, or one that says nothing for longer than [`IDLE`].
//!
//! An address that can't be had is tried again, and said once. One that is wanted no longer ends its connections when
//! their requests are answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::answer::plain;
use super::connection::Impatient;
use super::crowd::{Crowd, Whose};
use super::desk::PATIENCE;
use super::metrics::Scrapes;
use crate::api::Requester;

/// Some readers, each with a connection that it keeps.
const CONNECTIONS: usize = 32;
/// Those of one address.
const SHARE: usize = 8;
/// A reader that comes once a minute keeps its connection.
const IDLE: Duration = Duration::from_secs(75);
/// A connection ends then, with the answer that is under way.
const LIFE: Duration = Duration::from_secs(600);
/// So long that answer may take.
const GRACE: Duration = Duration::from_secs(60);
/// The pause before an address is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Listens wherever it is wanted to.
pub(super) async fn serve(requester: Requester) {
    let mut wanted = requester.measures();
    loop {
        let address = *wanted.borrow_and_update();
        let serving = pin!(async {
            match address {
                Some(address) => listen(address, &requester).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            () = serving => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

async fn listen(address: SocketAddr, requester: &Requester) {
    let listener = bind(address).await;
    tracing::info!(%address, "metrics are served over TCP");
    let readers = Readers::new(requester.clone());
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // No descriptor is left, for instance.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        readers.admit(stream, Whose::at(from.ip()));
    }
}

/// Those who read by one way. Dropped, their connections end.
pub(super) struct Readers {
    requester: Requester,
    open: watch::Sender<()>,
    crowd: Crowd,
    scrapes: Scrapes,
}

impl Readers {
    pub(super) fn new(requester: Requester) -> Self {
        Self {
            requester,
            open: watch::channel(()).0,
            crowd: Crowd::new(CONNECTIONS, SHARE),
            scrapes: Scrapes::default(),
        }
    }

    /// Serves a connection, if there is a place for it.
    pub(super) fn admit(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        whose: Whose,
    ) {
        let Some(place) = self.crowd.place(whose.clone()) else {
            return;
        };
        let reader = Reader {
            scrapes: self.scrapes.clone(),
            requester: self.requester.clone(),
            whose,
        };
        let closing = self.open.subscribe();
        tokio::spawn(async move {
            let _place = place;
            converse(stream, reader, closing).await;
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                told = true;
                tracing::error!(%address, %error, "metrics can't be served over TCP: it is tried again every five seconds; the control socket has them");
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

/// Serves a connection until it ends, is old or its listener is gone.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    reader: Reader,
    mut closing: watch::Receiver<()>,
) {
    let service = service_fn(move |request| {
        let reader = reader.clone();
        async move { Ok::<_, Infallible>(reader.answer(request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let stream = TokioIo::new(Impatient::new(stream));
    let mut connection = pin!(server.serve_connection(stream, service));
    // How it ends is the reader's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => {}
        () = sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// Who reads, and what it shares with the others.
#[derive(Clone)]
struct Reader {
    scrapes: Scrapes,
    requester: Requester,
    whose: Whose,
}

impl Reader {
    async fn answer(self, request: Request<Incoming>) -> Response {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let headers = request.headers();
                let scrapes = &self.scrapes;
                scrapes
                    .answer(self.requester, self.whose, headers, PATIENCE)
                    .await
            }
            (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "GET alone"),
            _ => plain(StatusCode::NOT_FOUND, "there is nothing but /metrics here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::runtime::Builder;

    use super::*;
    use crate::api;

    /// A free address of this host's.
    fn address() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    /// From the host's address 127.0.0.`host`.
    async fn connected(to: SocketAddr, host: u8) -> TcpStream {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, host], 0).into()).unwrap();
            match socket.connect(to).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut answer = [0; 1_024];
        let _ = stream.write_all(request).await;
        stream
            .read(&mut answer)
            .await
            .is_ok_and(|length| length > 0)
    }

    #[test]
    fn one_address_leaves_room_for_others_and_a_listener_ends_its_connections() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (requester, _requests) = api::channel().unwrap();
        runtime.block_on(async {
            let address = address();
            requester.measure_at(Some(address));
            tokio::spawn(serve(requester.clone()));
            let mut greedy = Vec::new();
            for _ in 0..SHARE {
                greedy.push(connected(address, 1).await);
                assert!(is_answered(greedy.last_mut().unwrap()).await);
            }
            assert!(!is_answered(&mut connected(address, 1).await).await);
            let mut other = connected(address, 2).await;
            assert!(is_answered(&mut other).await);
            requester.measure_at(None);
            let ended = timeout(Duration::from_secs(5), other.read(&mut [0; 1])).await;
            assert_eq!(ended.unwrap().unwrap(), 0);
        });
    }
}
