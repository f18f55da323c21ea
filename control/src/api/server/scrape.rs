//! `/metrics` on TCP, where the configuration wants it.
//!
//! In: the address, whenever it changes. Out: metrics, and nothing else, in HTTP/1.1. Never: more connections than
//! [`CONNECTIONS`], or one that says nothing for longer than [`IDLE`].
//!
//! An address that can't be had is tried again, and said once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answer::plain;
use super::desk::PATIENCE;
use super::metrics;
use crate::api::Requester;

/// Some readers, each with a connection that it keeps.
const CONNECTIONS: usize = 32;
/// A reader that comes once a minute keeps its connection.
const IDLE: Duration = Duration::from_secs(75);
/// No request takes longer with its answer.
const LIFE: Duration = Duration::from_secs(600);
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
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&free).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left, for instance.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let requester = requester.clone();
        tokio::spawn(async move {
            let _place = place;
            // A reader that went away, or took too long.
            let _ = timeout(LIFE, converse(stream, requester)).await;
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

async fn converse(stream: TcpStream, requester: Requester) -> Result<(), hyper::Error> {
    let service = service_fn(|request| {
        let requester = requester.clone();
        async move { Ok::<_, Infallible>(answer(requester, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn answer(requester: Requester, request: Request<Incoming>) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => metrics::scrape(requester, request.headers(), PATIENCE).await,
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "GET alone"),
        _ => plain(StatusCode::NOT_FOUND, "there is nothing but /metrics here"),
    }
}
