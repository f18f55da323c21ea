//! The control socket: HTTP/1.1 over `api.sock` in the run directory, mode 0660.
//!
//! In: `GET /v1/state`, `GET /v1/state/PART`, `GET /v1/config`, `POST /v1/diff`, `POST /v1/apply`. Out:
//! JSON; requests to the engine. Never: the engine's thread: this one has its own, with tokio's single-threaded runtime.
//!
//! Whoever may open the socket may do everything; its mode and the run directory's are the guard.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Json, Path, Query, State as AxumState};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use culvert_directory::{Access, Directory, ListenError, Listener, Place};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Applied, ApplyBody, ApplyError, ConfigQuery, ConfigText, DiffBody, NotApplied, Refusal,
    Request, Requester, SendError, Side,
};
use crate::config::{self, Config};
use crate::plan::{Diff, Layers};
use crate::state::{Part, State};
use crate::{api, process};

/// The largest body: a configuration of the greatest length as a JSON string, and its path.
const BODY: usize = 80 << 20;

/// How long an answer may take. A state: 400 pages of the engine's, of which it serves one a round at least.
const PATIENCE: Duration = Duration::from_secs(30);

/// States and configurations that are put together or compared at once; who asks for another waits, and its body is not
/// read before. Of 100,000 peers one has some 100 MB.
const READERS: usize = 2;

/// Configurations to apply: one that is applied, and those that wait, with their texts. The next one is refused.
const APPLIES: usize = 4;

/// Puts a state together, or a part of it; it may wait for the engine.
pub type Read = Arc<dyn Fn(Option<Part>) -> Result<State, SendError> + Send + Sync>;

/// How long an `apply` may take: a DPDK device may come and go meanwhile.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);

/// The control socket of this process; its name is removed when dropped.
#[derive(Debug)]
pub struct Server {
    _place: Place,
}

/// Why the control socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It can't be had.
    #[error("the control socket: {0}")]
    Socket(#[from] ListenError),
    /// The system has no thread or descriptor left.
    #[error("can't serve the control socket: {0}")]
    System(#[from] io::Error),
}

/// Opens the control socket in the run directory and serves it on a thread of its own.
///
/// # Errors
///
/// When the socket can't be made.
pub fn serve(run_dir: &Directory, requester: Requester, read: Read) -> Result<Server, ServeError> {
    let desk = Desk {
        requester,
        read,
        readers: Arc::new(Semaphore::new(READERS)),
        applies: Arc::new(Semaphore::new(APPLIES)),
        patience: PATIENCE,
    };
    let listener = Listener::open(run_dir, process::API_SOCKET, Access::mode(0o660))?;
    let (listener, place) = listener.into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = move || {
        let served = runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            axum::serve(listener, router(desk)).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the control socket has ended");
        }
    };
    thread::Builder::new().name("api".into()).spawn(run)?;
    Ok(Server { _place: place })
}

/// What all clients share.
#[derive(Clone)]
struct Desk {
    requester: Requester,
    read: Read,
    readers: Arc<Semaphore>,
    applies: Arc<Semaphore>,
    /// What readers have.
    patience: Duration,
}

fn router(desk: Desk) -> axum::Router {
    axum::Router::new()
        .route("/v1/state", get(whole))
        .route("/v1/state/{part}", get(part))
        .route("/v1/config", get(configuration))
        .route("/v1/diff", post(diff))
        .route("/v1/apply", post(apply))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(desk)
}

async fn whole(AxumState(desk): AxumState<Desk>) -> Response {
    state(desk, None).await
}

async fn part(AxumState(desk): AxumState<Desk>, Path(name): Path<String>) -> Response {
    match Part::named(&name) {
        Some(part) => state(desk, Some(part)).await,
        None => plain(
            StatusCode::NOT_FOUND,
            &format!("the state has no part {name}"),
        ),
    }
}

async fn state(desk: Desk, part: Option<Part>) -> Response {
    let read = Arc::clone(&desk.read);
    let work = move |_| match read(part) {
        Ok(state) => json(&state),
        Err(error) => unavailable(error),
    };
    in_turn(desk, async { Ok(()) }, work).await
}

/// Has a reader's work done when its turn comes, on a thread where it holds up no other client: texts of many peers
/// take long. What it needs of the client is read then, too.
async fn in_turn<B: Send + 'static>(
    desk: Desk,
    body: impl Future<Output = Result<B, Response>>,
    work: impl FnOnce(B) -> Response + Send + 'static,
) -> Response {
    let end = Instant::now() + desk.patience;
    let Ok(turn) = timeout_at(end, desk.readers.acquire_owned()).await else {
        let error = "others are answered, and take long: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let body = match timeout_at(end, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(refused)) => return refused,
        Err(_) => return slow(),
    };
    let working = spawn_blocking(move || {
        let _turn = turn;
        work(body)
    });
    match timeout_at(end, working).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the answer could not be put together"),
        Err(_) => late("the engine did not answer in time: try again"),
    }
}

fn json(answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => failed("the answer could not be written"),
    }
}

async fn configuration(
    AxumState(desk): AxumState<Desk>,
    Query(query): Query<ConfigQuery>,
) -> Response {
    let requester = desk.requester.clone();
    let work = move |()| match desired(&requester) {
        Ok(desired) => json(&written(&desired, query)),
        Err(error) => unavailable(error),
    };
    in_turn(desk, async { Ok(()) }, work).await
}

fn written(desired: &Layers, query: ConfigQuery) -> ConfigText {
    let path = desired.file().source.clone();
    let text = match query {
        ConfigQuery {
            path_only: true, ..
        } => String::new(),
        ConfigQuery { drift: true, .. } => config::to_yaml(&desired.merged()),
        ConfigQuery { .. } => config::to_yaml(desired.file()),
    };
    ConfigText { path, text }
}

async fn diff(AxumState(desk): AxumState<Desk>, request: axum::extract::Request) -> Response {
    let requester = desk.requester.clone();
    let work = move |text: Bytes| match serde_json::from_slice(&text) {
        Ok(body) => compared(&requester, body),
        Err(error) => unread(&error),
    };
    in_turn(desk, body(request), work).await
}

fn compared(requester: &Requester, body: DiffBody) -> Response {
    let desired = match desired(requester) {
        Ok(desired) => desired,
        Err(error) => return unavailable(error),
    };
    match difference(desired, body) {
        Ok(diff) => json(&diff),
        Err(report) => mistaken(&report),
    }
}

fn difference(desired: Layers, body: DiffBody) -> Result<Diff, config::Report> {
    let from = match body.from {
        Side::Running => desired.clone(),
        Side::File(file) => Layers::new(Arc::new(read(&file)?)),
    };
    let to = match body.to {
        Side::Running => desired.merged(),
        Side::File(file) => read(&file)?,
    };
    Ok(Diff::between(&from, to, body.text))
}

/// A request's body, whole.
async fn body(request: axum::extract::Request) -> Result<Bytes, Response> {
    let body = Bytes::from_request(request, &()).await;
    body.map_err(IntoResponse::into_response)
}

fn read(file: &ApplyBody) -> Result<Config, config::Report> {
    config::parse(&file.text, &file.path, &config::Disk).map(|(config, _)| config)
}

fn desired(requester: &Requester) -> Result<Layers, SendError> {
    api::ask(requester, |reply| Request::Desired { reply })
}

async fn apply(AxumState(desk): AxumState<Desk>, request: axum::extract::Request) -> Response {
    let Ok(place) = desk.applies.try_acquire_owned() else {
        let _ = timeout(PATIENCE, spill(request.into_body())).await;
        let error = "another apply is under way, and more wait: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let text = match timeout(PATIENCE, body(request)).await {
        Ok(Ok(text)) => text,
        Ok(Err(refused)) => return refused,
        Err(_) => return slow(),
    };
    // Reading key files and a long text must not hold up another client's `show`.
    let applies = spawn_blocking(move || {
        let _place = place;
        match serde_json::from_slice(&text) {
            Ok(body) => {
                drop(text);
                apply_body(&desk.requester, body)
            }
            Err(error) => unread(&error),
        }
    });
    match timeout(APPLY_PATIENCE, applies).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the configuration could not be checked"),
        Err(_) => late("the apply takes long, and goes on: the log will say what became of it"),
    }
}

/// Reads a body that nobody wants: a client that can't send all of it doesn't come to read the answer.
async fn spill(mut body: Body) {
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
}

fn apply_body(requester: &Requester, body: ApplyBody) -> Response {
    let answer = api::read_and_apply(requester, |readings| {
        readings.parse(&body.text, &body.path, &config::Disk)
    });
    applied(answer.map(|(applied, report)| Applied {
        warnings: report.render(false),
        ..applied
    }))
}

fn applied(answer: Result<Applied, NotApplied>) -> Response {
    match answer {
        Ok(applied) => json(&applied),
        Err(NotApplied::Mistakes(report)) => mistaken(&report),
        Err(NotApplied::Refused(error)) => refused(error),
    }
}

fn refused(error: ApplyError) -> Response {
    match error {
        ApplyError::NeedsRestart(what) => {
            let error = ApplyError::NeedsRestart(what.clone()).to_string();
            refuse(
                StatusCode::CONFLICT,
                Refusal {
                    error,
                    report: String::new(),
                    needs_restart: what,
                },
            )
        }
        ApplyError::Failed(error) => failed(&error),
        ApplyError::Unanswered(error) => unavailable(error),
    }
}

fn mistaken(report: &config::Report) -> Response {
    let error = match report.errors() {
        1 => "the configuration has a mistake".into(),
        errors => format!("the configuration has {errors} mistakes"),
    };
    let report = report.render(false);
    refuse(
        StatusCode::UNPROCESSABLE_ENTITY,
        Refusal {
            error,
            report,
            needs_restart: Vec::new(),
        },
    )
}

fn failed(error: &str) -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn unavailable(error: SendError) -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

fn unread(error: &serde_json::Error) -> Response {
    plain(StatusCode::BAD_REQUEST, &format!("the body: {error}"))
}

fn late(error: &str) -> Response {
    plain(StatusCode::GATEWAY_TIMEOUT, error)
}

fn slow() -> Response {
    let error = "the request's body takes too long";
    plain(StatusCode::REQUEST_TIMEOUT, error)
}

fn plain(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    refuse(
        status,
        Refusal {
            error,
            report: String::new(),
            needs_restart: Vec::new(),
        },
    )
}

fn refuse(status: StatusCode, refusal: Refusal) -> Response {
    (status, Json(refusal)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Requests;

    /// With so much patience, and an engine that answers nothing.
    fn desk(patience: Duration) -> (Desk, Requests) {
        let (requester, requests) = api::channel().unwrap();
        let desk = Desk {
            requester,
            read: Arc::new(|_| Ok(State::default())),
            readers: Arc::new(Semaphore::new(READERS)),
            applies: Arc::new(Semaphore::new(APPLIES)),
            patience,
        };
        (desk, requests)
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    async fn told(response: Response) -> (StatusCode, String) {
        let status = response.status();
        let text = axum::body::to_bytes(response.into_body(), BODY).await;
        let refusal: Refusal = serde_json::from_slice(&text.unwrap()).unwrap();
        (status, refusal.error)
    }

    fn config(desk: &Desk) -> impl Future<Output = Response> + use<> {
        configuration(AxumState(desk.clone()), Query(ConfigQuery::default()))
    }

    #[test]
    fn who_waits_for_a_turn_is_told_so() {
        let (desk, requests) = desk(Duration::from_millis(5));
        runtime().block_on(async {
            let readers = u32::try_from(READERS).unwrap();
            let turns = Arc::clone(&desk.readers).acquire_many_owned(readers).await;
            let (status, error) = told(config(&desk).await).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(error.starts_with("others are answered"), "{error}");
            drop(turns);
            let (status, error) = told(config(&desk).await).await;
            assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
            assert!(error.starts_with("the engine did not answer"), "{error}");
            // Its thread waits still, and so has its turn.
            assert_eq!(desk.readers.available_permits(), READERS - 1);
            drop(requests);
        });
    }

    /// Each holds a text, and the wait for the engine.
    #[test]
    fn so_many_applies_wait_and_no_more() {
        let (desk, requests) = desk(PATIENCE);
        let small = ApplyBody {
            path: "test.yaml".into(),
            text: "version: 1\nnetworks: {}\n".into(),
        };
        let small = serde_json::to_vec(&small).unwrap();
        let ask = |body: Vec<u8>| {
            let request = axum::extract::Request::new(Body::from(body));
            apply(AxumState(desk.clone()), request)
        };
        runtime().block_on(async {
            let waiting: Vec<_> = (0..APPLIES)
                .map(|_| tokio::spawn(ask(small.clone())))
                .collect();
            while desk.applies.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let (status, error) = told(ask(vec![b'x'; 1 << 20]).await).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(error.starts_with("another apply is under way"), "{error}");
            drop(requests);
            for apply in waiting {
                let (_, error) = told(apply.await.unwrap()).await;
                assert_eq!(error, SendError::Ended.to_string());
            }
            assert_eq!(desk.applies.available_permits(), APPLIES);
        });
    }
}
