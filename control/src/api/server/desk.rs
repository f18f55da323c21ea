//! What resources share: the ways to the engine and to the reader, and whose turn it is.
//!
//! In: bodies, work. Out: the work done, on a thread where it holds up no client. Never: more of it at once than there
//! are turns.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::{BodyExt as _, Collected, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::Read;
use super::answer::{failed, late, plain, slow, unread};
use super::sent::Shelf;
use crate::api::{self, Requester, SendError};
use crate::plan::Layers;
use crate::process::memory;

/// How long an answer may take. A state: 800 pages of the engine's, of which it serves one a round at least.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// States and configurations that are put together or compared at once; who asks for another waits, and its body is not
/// read before. Of 100,000 peers one has some 100 MB; its turn ends when it is on its way ([`super::sent`]).
pub(super) const READERS: usize = 2;

/// Configurations to apply: one that is applied, and those that wait, with their texts. The next one is refused.
pub(super) const APPLIES: usize = 4;

/// A body of some lines, in bytes: it is read without a turn.
const SHORT: usize = 64 << 10;

/// Changes of single objects that are read and wait for their turn at the disk.
const CHANGES: usize = 16;

/// What all clients share.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) requester: Requester,
    pub(super) read: Read,
    pub(super) readers: Arc<Semaphore>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) applies: Arc<Semaphore>,
    /// The largest body, in bytes.
    pub(super) body_max: Arc<AtomicUsize>,
    pub(super) changes: Arc<Semaphore>,
    /// What readers have.
    pub(super) patience: Duration,
}

impl Desk {
    pub(super) fn new(requester: Requester, read: Read) -> Self {
        Self {
            requester,
            read,
            readers: Arc::new(Semaphore::new(READERS)),
            shelf: Arc::default(),
            applies: Arc::new(Semaphore::new(APPLIES)),
            body_max: Arc::new(AtomicUsize::new(64 << 20)),
            changes: Arc::new(Semaphore::new(CHANGES)),
            patience: PATIENCE,
        }
    }

    /// A request's body, whole.
    pub(super) fn body(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Bytes, Response>> + use<> {
        body(request, self.body_max.load(Ordering::Relaxed))
    }

    /// A body of some lines, as JSON.
    pub(super) async fn short<T: DeserializeOwned>(&self, request: Request) -> Result<T, Response> {
        let max = self.body_max.load(Ordering::Relaxed).min(SHORT);
        let body = timeout(self.patience, body(request, max));
        let body = body.await.map_err(|_| slow())??;
        serde_json::from_slice(&body).map_err(|error| unread(&error))
    }

    /// Has a reader's work done when its turn comes, on a thread where it holds up no other client: texts of many peers
    /// take long. What it needs of the client is read then, too.
    pub(super) async fn in_turn<B: Send + 'static>(
        self,
        body: impl Future<Output = Result<B, Response>>,
        work: impl FnOnce(B) -> Response + Send + 'static,
    ) -> Response {
        let end = Instant::now() + self.patience;
        let Ok(Ok(turn)) = timeout_at(end, self.readers.acquire_owned()).await else {
            let error = "others are answered, and take long: try again";
            return plain(StatusCode::SERVICE_UNAVAILABLE, error);
        };
        let body = match timeout_at(end, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(refused)) => return refused,
            Err(_) => return slow(),
        };
        // Whoever gave up waiting has a turn as long as its thread works.
        let working = spawn_blocking(move || {
            let answer = work(body);
            let len = answer.body().size_hint().lower();
            memory::give_back_after(usize::try_from(len).unwrap_or(usize::MAX));
            (answer, turn)
        });
        match timeout_at(end, working).await {
            Ok(Ok((response, turn))) => self.shelf.send(response, turn, end).await,
            Ok(Err(_)) => failed("the answer could not be put together"),
            Err(_) => late("the engine did not answer in time: try again"),
        }
    }
}

async fn body(request: Request, max: usize) -> Result<Bytes, Response> {
    let announced = request.body().size_hint().lower();
    if announced > u64::try_from(max).unwrap_or(u64::MAX) {
        spill(request.into_body()).await;
        return Err(too_long(max));
    }
    let mut body = Limited::new(request.into_body(), max);
    let whole = (&mut body).collect().await;
    whole
        .map(Collected::to_bytes)
        .map_err(|error| match error.is::<LengthLimitError>() {
            true => too_long(max),
            false => plain(StatusCode::BAD_REQUEST, "the body breaks off"),
        })
}

fn too_long(max: usize) -> Response {
    let more = match max {
        SHORT => "",
        _ => ": `body_megabytes` of `api` allows more",
    };
    let error = format!("the body has more than {max} bytes{more}");
    plain(StatusCode::PAYLOAD_TOO_LARGE, &error)
}

/// What is desired, from the engine.
pub(super) fn desired(requester: &Requester) -> Result<Layers, SendError> {
    api::ask(requester, |reply| api::Request::Desired { reply })
}

/// Refuses a request whose body is not read.
pub(super) async fn turn_away(request: Request, status: StatusCode, error: &str) -> Response {
    let _ = timeout(PATIENCE, spill(request.into_body())).await;
    plain(status, error)
}

/// Reads a body that nobody wants: a client that can't send all of it doesn't come to read the answer.
async fn spill(mut body: Body) {
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
}
