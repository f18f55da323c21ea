//! What resources share: the ways to the engine and to the reader, and whose turn it is.
//!
//! In: bodies, work. Out: the work done, on a thread where it holds up no client. Never: more of it at once than there
//! are turns.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::{BodyExt as _, Collected, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::Read;
use super::answer::{failed, late, plain, slow, unavailable, unread};
use super::caller::Caller;
use super::crowd::Whose;
use super::metrics::Scrapes;
use super::sent::Shelf;
use super::texts::{Room, Text};
use super::turns::Turns;
use crate::api::{self, Audience, Requester, SendError, object};
use crate::config::Role;
use crate::plan::Layers;
use crate::process::memory;

/// How long an answer may take. A state: 800 pages of the engine's, of which it serves one a round at least.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// States and configurations that are put together or compared at once, for writers, and as many for readers; who asks
/// for another waits. Of 100,000 peers one has some 100 MB; its turn ends when it is on its way ([`super::sent`]).
pub(super) const READERS: usize = 2;

/// Configurations to apply: one that is applied, and those that wait, with their texts, which are whole. The next one is
/// refused.
pub(super) const APPLIES: usize = 4;

/// What confirms, takes back or purges, and waits for an apply: these have turns of their own.
const DECISIONS: usize = 4;

/// A body of some lines, in bytes.
const SHORT: usize = 64 << 10;

/// Changes of single objects that are read and wait for their turn at the disk.
const CHANGES: usize = 16;

/// What all clients share, and who asks.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) requester: Requester,
    pub(super) read: Read,
    /// Of those who may change things: no reader keeps them waiting.
    pub(super) writers: Reading,
    pub(super) readers: Reading,
    pub(super) applies: Arc<Semaphore>,
    pub(super) decisions: Turns,
    /// The largest body, in bytes.
    pub(super) body_max: Arc<AtomicUsize>,
    pub(super) texts: Room,
    pub(super) changes: Turns,
    /// What readers have, and bodies.
    pub(super) patience: Duration,
    /// Who asks, in a request's handler.
    pub(super) caller: Option<Caller>,
    /// Whether that client is there still.
    pub(super) audience: Audience,
}

/// What those of one role share.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) turns: Turns,
    shelf: Arc<Shelf>,
    pub(super) scrapes: Scrapes,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            turns: Turns::new(READERS),
            shelf: Arc::default(),
            scrapes: Scrapes::default(),
        }
    }
}

impl FromRequestParts<Self> for Desk {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, desk: &Self) -> Result<Self, Infallible> {
        Ok(Self {
            caller: parts.extensions.get().cloned(),
            ..desk.for_client()
        })
    }
}

impl Desk {
    pub(super) fn new(requester: Requester, read: Read) -> Self {
        Self {
            requester,
            read,
            writers: Reading::default(),
            readers: Reading::default(),
            applies: Arc::new(Semaphore::new(APPLIES)),
            decisions: Turns::new(DECISIONS),
            body_max: Arc::new(AtomicUsize::new(64 << 20)),
            texts: Room::default(),
            changes: Turns::new(CHANGES),
            patience: PATIENCE,
            caller: None,
            audience: Audience::default(),
        }
    }

    /// For one request: once its client has left, nothing more is read for it.
    pub(super) fn for_client(&self) -> Self {
        let audience = Audience::default();
        let read = self.read.for_audience(&audience);
        Self {
            requester: self.requester.for_audience(&audience),
            read: read.unwrap_or_else(|| Arc::clone(&self.read)),
            audience,
            ..self.clone()
        }
    }

    pub(super) fn whose(&self) -> Whose {
        let unknown = || Whose::Name(String::new());
        self.caller.as_ref().map_or_else(unknown, Whose::of)
    }

    /// Of those who ask as this one may.
    pub(super) fn reading(&self) -> &Reading {
        let writes = self.caller.as_ref().and_then(|it| it.role) == Some(Role::Write);
        if writes { &self.writers } else { &self.readers }
    }

    /// A long body, whole. Nobody waits for it meanwhile.
    pub(super) async fn text(&self, request: Request) -> Result<Text, Response> {
        let max = self.body_max.load(Ordering::Relaxed);
        let read = async {
            let body = fitting(request, max).await?;
            self.texts.text(body, self.whose(), &self.body_max).await
        };
        timeout(self.patience, read).await.map_err(|_| slow())?
    }

    /// A body of some lines.
    pub(super) async fn lines(&self, request: Request) -> Result<Bytes, Response> {
        let max = self.body_max.load(Ordering::Relaxed).min(SHORT);
        let read = async {
            let body = fitting(request, max).await?;
            let whole = Limited::new(body, max).collect().await;
            whole
                .map(Collected::to_bytes)
                .map_err(|error| broken_off(&*error, max))
        };
        timeout(self.patience, read).await.map_err(|_| slow())?
    }

    /// A body of some lines, as JSON.
    pub(super) async fn short<T: DeserializeOwned>(&self, request: Request) -> Result<T, Response> {
        let body = self.lines(request).await?;
        object::read(&body).map_err(|error| unread(&error))
    }

    /// Has a reader's work done when its turn comes, on a thread where it holds up no other client: texts of many peers
    /// take long. It stops at the next question to the engine once the client has left, or gave up waiting: what waits
    /// here is dropped then.
    pub(super) async fn in_turn(
        self,
        work: impl FnOnce() -> Response + Send + 'static,
    ) -> Response {
        let end = Instant::now() + self.patience;
        let reading = self.reading();
        let Some(turn) = reading.turns.turn(self.whose(), end).await else {
            let error = "others are answered, and take long: try again";
            return plain(StatusCode::SERVICE_UNAVAILABLE, error);
        };
        let (audience, _seat) = (self.audience.clone(), self.audience.seat());
        // Whoever gave up waiting has a turn as long as its thread works.
        let working = spawn_blocking(move || {
            if audience.has_left() {
                return (unavailable(SendError::Left), turn);
            }
            let len = |it: &Response| usize::try_from(it.body().size_hint().lower());
            let answer = memory::keeping_flat(work, |it| len(it).unwrap_or(usize::MAX));
            (answer, turn)
        });
        match timeout_at(end, working).await {
            Ok(Ok((response, turn))) => reading.shelf.send(response, turn, end).await,
            Ok(Err(_)) => failed("the answer could not be put together"),
            Err(_) => late("the engine did not answer in time: try again"),
        }
    }
}

/// A request's body, unless what it announces is too long.
async fn fitting(request: Request, max: usize) -> Result<Body, Response> {
    let announced = request.body().size_hint().lower();
    if announced > u64::try_from(max).unwrap_or(u64::MAX) {
        refuse_body(request).await;
        return Err(too_long(max));
    }
    Ok(request.into_body())
}

/// Why a body of at most `max` bytes did not come.
pub(super) fn broken_off(error: &(dyn Error + 'static), max: usize) -> Response {
    match error.is::<LengthLimitError>() {
        true => too_long(max),
        false => plain(StatusCode::BAD_REQUEST, "the body breaks off"),
    }
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
    let _ = timeout(PATIENCE, refuse_body(request)).await;
    plain(status, error)
}

/// Who asks whether to send a body (RFC 9110 section 10.1.1) is told by the answer alone.
async fn refuse_body(request: Request) {
    if !request.headers().contains_key(EXPECT) {
        spill(request.into_body()).await;
    }
}

/// Reads a body that nobody wants: a client that can't send all of it doesn't come to read the answer.
pub(super) async fn spill(mut body: Body) {
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
}
