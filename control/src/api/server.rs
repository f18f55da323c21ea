//! The control socket: HTTP/1.1 over `api.sock` in the run directory, mode 0660.
//!
//! In: `GET /v1/state`, `GET /v1/state/PART`, `GET /v1/config`, `POST /v1/diff`, `POST /v1/apply`. Out:
//! JSON; requests to the engine. Never: the engine's thread: this one has its own, with tokio's single-threaded runtime.
//!
//! Whoever may open the socket may do everything; its mode and the run directory's are the guard.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Json, Path, Query, State as AxumState};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use culvert_directory::{Access, Directory, ListenError, Listener, Place};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{
    Applied, ApplyBody, ApplyError, ConfigQuery, ConfigText, DiffBody, NotApplied, Refusal, Reply,
    Request, Requester, SendError, Side,
};
use crate::config::{self, Config};
use crate::plan::{Diff, Layers};
use crate::state::{Part, State};
use crate::{api, process};

/// The largest body: a configuration of the greatest length as a JSON string, and its path.
const BODY: usize = 80 << 20;

/// How long a state may take: 400 pages of the engine's, of which it serves one a round at least.
const PATIENCE: Duration = Duration::from_secs(30);

/// States that are put together at once; who asks for another waits. Of 100,000 peers one has some 100 MB.
const READERS: usize = 2;

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
    let read = async {
        let turn = Arc::clone(&desk.readers).acquire_owned().await;
        // Texts of many peers must not hold up another client, either.
        spawn_blocking(move || {
            let _turn = turn;
            (desk.read)(part).map(|state| serde_json::to_vec(&state))
        })
        .await
    };
    match timeout(PATIENCE, read).await {
        Ok(Ok(Ok(Ok(text)))) => json(text.into()),
        Ok(Ok(Err(error))) => unavailable(error),
        Ok(_) => failed("the state could not be put together"),
        Err(_) => late(),
    }
}

fn json(text: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

async fn configuration(
    AxumState(Desk { requester, .. }): AxumState<Desk>,
    Query(query): Query<ConfigQuery>,
) -> Response {
    let desired = match desired(&requester).await {
        Ok(desired) => desired,
        Err(refused) => return refused,
    };
    let written = spawn_blocking(move || {
        let path = desired.file().source.clone();
        let text = match query.drift {
            true => config::to_yaml(&desired.merged()),
            false => config::to_yaml(desired.file()),
        };
        ConfigText { path, text }
    });
    match written.await {
        Ok(text) => Json(text).into_response(),
        Err(_) => failed("the configuration could not be written"),
    }
}

async fn diff(
    AxumState(Desk { requester, .. }): AxumState<Desk>,
    Json(body): Json<DiffBody>,
) -> Response {
    let desired = match desired(&requester).await {
        Ok(desired) => desired,
        Err(refused) => return refused,
    };
    let compared = spawn_blocking(move || {
        let from = match body.from {
            Side::Running => desired.clone(),
            Side::File(file) => Layers::new(Arc::new(read(&file)?)),
        };
        let to = match body.to {
            Side::Running => desired.merged(),
            Side::File(file) => read(&file)?,
        };
        Ok::<_, config::Report>(Diff::between(&from, to, body.text))
    });
    match compared.await {
        Ok(Ok(diff)) => Json(diff).into_response(),
        Ok(Err(report)) => mistaken(&report),
        Err(_) => failed("the configurations could not be compared"),
    }
}

fn read(file: &ApplyBody) -> Result<Config, config::Report> {
    config::parse(&file.text, &file.path, &config::Disk).map(|(config, _)| config)
}

/// What the engine desires; or what is to be answered instead.
async fn desired(requester: &Requester) -> Result<Layers, Response> {
    let (reply, answer) = Reply::new();
    requester
        .send(Request::Desired { reply })
        .map_err(unavailable)?;
    match timeout(PATIENCE, answer).await {
        Ok(Ok(desired)) => Ok(desired),
        Ok(Err(_)) => Err(unavailable(SendError::Ended)),
        Err(_) => Err(late()),
    }
}

async fn apply(
    AxumState(Desk { requester, .. }): AxumState<Desk>,
    Json(body): Json<ApplyBody>,
) -> Response {
    // Reading key files and a long text must not hold up another client's `show`.
    let applies = spawn_blocking(move || {
        api::read_and_apply(&requester, |readings| {
            readings.parse(&body.text, &body.path, &config::Disk)
        })
    });
    match timeout(APPLY_PATIENCE, applies).await {
        Ok(Ok(answer)) => applied(answer),
        Ok(Err(_)) => failed("the configuration could not be checked"),
        Err(_) => late(),
    }
}

fn applied(answer: Result<Applied, NotApplied>) -> Response {
    match answer {
        Ok(applied) => Json(applied).into_response(),
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

fn late() -> Response {
    plain(
        StatusCode::GATEWAY_TIMEOUT,
        "the engine did not answer in time",
    )
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
