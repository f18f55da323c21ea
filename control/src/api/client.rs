//! The other end of the control socket: what commands ask.
//!
//! In: a run directory; who may not change anything reads by the readers' socket. Out: answers as types; streams
//! ([`follow`]) and [`lists`]. Never: a terminal.

mod follow;
mod lists;

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::bodies::{
    ApplyBody, ConfigText, ConfirmBody, Confirmed, DiffBody, LogFilter, PurgeBody, Refusal,
    RevisionText, RollbackBody,
};
use crate::history::revision::Revision;
use crate::layer;
use crate::plan::Diff;
use crate::process;
use crate::state::{Applied, Way};

pub use lists::{List, Wanted};

/// Longer than the server waits for its engine.
const PATIENCE: Duration = Duration::from_secs(70);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no culvert runs in {run_dir}: start one with `culvert run`, or name its run directory with --run-dir",
        run_dir = .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket's mode keeps this user out.
    #[error("may not open {socket}: run as root, or as a user of {group}", socket = .socket.display(), group = .group)]
    Forbidden {
        /// The socket.
        socket: PathBuf,
        /// The group that it lets in, in words.
        group: String,
    },
    /// The connection broke.
    #[error("the control socket {socket}: {error}", socket = .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened, in words.
        error: String,
    },
    /// The server said no.
    #[error("{}", .0.error)]
    Refused(Refusal),
}

/// A run directory's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    run_dir: PathBuf,
    socket: PathBuf,
}

impl Client {
    /// The client of the process that uses that run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            socket: run_dir.join(process::API_SOCKET),
        }
    }

    /// Applies a configuration's text.
    ///
    /// # Errors
    ///
    /// When nobody answers, or the configuration is refused.
    pub fn apply(&self, body: &ApplyBody) -> Result<Applied, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.ask(Method::POST, "/v1/apply", body)
    }

    /// The configuration that runs, as a file; with what `wg` set, if it is to be with drift.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn config(&self, drift: bool) -> Result<ConfigText, ClientError> {
        let path = format!("/v1/config?drift={drift}");
        self.ask(Method::GET, &path, Vec::new())
    }

    /// The file that what runs was read from.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn config_path(&self) -> Result<PathBuf, ClientError> {
        let config = self.ask(Method::GET, "/v1/config?path_only=true", Vec::new());
        config.map(|ConfigText { path, .. }| path)
    }

    /// Where what is for `to` goes from a port, or from each network.
    ///
    /// # Errors
    ///
    /// When nobody answers, or there is no such port.
    pub fn ways(&self, to: IpAddr, from: Option<&str>) -> Result<Vec<Way>, ClientError> {
        let from = from.map_or_else(String::new, |from| {
            format!("&from={}", lists::encoded(from))
        });
        let path = format!("/v1/routes/get?to={to}{from}");
        self.ask(Method::GET, &path, Vec::new())
    }

    /// What is logged.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn log_filter(&self) -> Result<LogFilter, ClientError> {
        self.ask(Method::GET, "/v1/log", Vec::new())
    }

    /// Has something else logged.
    ///
    /// # Errors
    ///
    /// When nobody answers, or these are no directives.
    pub fn set_log_filter(&self, filter: &LogFilter) -> Result<LogFilter, ClientError> {
        let body = serde_json::to_vec(filter).map_err(|error| self.broken(&error))?;
        self.ask(Method::PUT, "/v1/log", body)
    }

    /// Compares two configurations.
    ///
    /// # Errors
    ///
    /// When nobody answers, or one of them has mistakes.
    pub fn diff(&self, body: &DiffBody) -> Result<Diff, ClientError> {
        // Readers may that, too.
        if let (Some(from), Some(to)) = (body.from.name(), body.to.name()) {
            let path = format!("/v1/diff?from={from}&to={to}&text={}", body.text);
            return self.ask(Method::GET, &path, Vec::new());
        }
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.ask(Method::POST, "/v1/diff", body)
    }

    /// Changes one object: `path` says which, and with what of it. The body is its keys.
    ///
    /// # Errors
    ///
    /// When nobody answers, or the change is refused.
    pub fn change(&self, method: Method, path: &str, keys: String) -> Result<Applied, ClientError> {
        self.ask(method, path, keys.into_bytes())
    }

    /// What was laid over the file for single objects.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn layer(&self) -> Result<layer::told::Text, ClientError> {
        self.ask(Method::GET, "/v1/layer", Vec::new())
    }

    /// Keeps what waits for its confirmation; answers its number.
    ///
    /// # Errors
    ///
    /// When nobody answers, or nothing like that waits.
    pub fn confirm(&self, revision: Option<u64>) -> Result<u64, ClientError> {
        let confirmed: Result<Confirmed, _> = self.post("/v1/confirm", &ConfirmBody { revision });
        confirmed.map(|it| it.revision)
    }

    /// Goes back to a revision, or takes back what waits for its confirmation.
    ///
    /// # Errors
    ///
    /// When nobody answers, or it is refused.
    pub fn roll_back(&self, body: &RollbackBody) -> Result<Applied, ClientError> {
        self.post("/v1/rollback", body)
    }

    /// What ran, the newest first.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn history(&self) -> Result<Vec<Revision>, ClientError> {
        self.ask(Method::GET, "/v1/history", Vec::new())
    }

    /// A revision's text.
    ///
    /// # Errors
    ///
    /// When nobody answers, or it is not kept.
    pub fn revision(&self, number: u64) -> Result<RevisionText, ClientError> {
        self.ask(Method::GET, &format!("/v1/history/{number}"), Vec::new())
    }

    /// Forgets revisions or keys; answers what is left.
    ///
    /// # Errors
    ///
    /// When nobody answers, or they are needed.
    pub fn purge(&self, body: &PurgeBody) -> Result<Vec<Revision>, ClientError> {
        self.post("/v1/history/purge", body)
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.ask(Method::POST, path, body)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let exchange = async { self.whole(self.send(method, path, body).await?).await };
        let (status, body) = self.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, exchange).await;
            answer.map_err(|_| self.broken(&"no answer in time"))?
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(&error));
        }
        Err(Self::refused(status, &body))
    }

    fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| self.broken(&error))?;
        runtime.block_on(work)
    }

    fn refused(status: StatusCode, body: &[u8]) -> ClientError {
        let unnamed = |_| Refusal {
            error: format!("{status}: {}", String::from_utf8_lossy(body)),
            ..Refusal::default()
        };
        ClientError::Refused(serde_json::from_slice(body).unwrap_or_else(unnamed))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect(&method).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| self.broken(&error))?;
        // Ends with the runtime; its errors come out of the request as well.
        tokio::spawn(connection);
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "culvert")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await;
        response.map_err(|error| self.broken(&error))
    }

    /// By `api.sock`; who may not open that and wants to read alone, by the readers' socket, if there is one.
    async fn connect(&self, method: &Method) -> Result<UnixStream, ClientError> {
        let error = match UnixStream::connect(&self.socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::PermissionDenied && *method == Method::GET {
            let readers = self.run_dir.join(process::READ_SOCKET);
            if let Ok(stream) = UnixStream::connect(readers).await {
                return Ok(stream);
            }
        }
        Err(self.unconnected(&error))
    }

    /// An answer with all of its body.
    async fn whole(
        &self,
        response: Response<Incoming>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.broken(&error))?;
        Ok((status, body.to_bytes()))
    }

    fn unconnected(&self, error: &io::Error) -> ClientError {
        let kind = error.kind();
        if kind == io::ErrorKind::PermissionDenied {
            ClientError::Forbidden {
                socket: self.socket.clone(),
                group: group_of(&self.socket),
            }
        } else if matches!(
            kind,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        ) {
            ClientError::NotRunning(self.run_dir.clone())
        } else {
            self.broken(error)
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            error: error.to_string(),
        }
    }
}

/// The group that a socket lets in, in words.
fn group_of(socket: &Path) -> String {
    let Ok(status) = socket.metadata() else {
        return "the socket's group".into();
    };
    let group = nix::unistd::Group::from_gid(status.gid().into());
    match group.ok().flatten() {
        Some(group) => format!("the group {}", group.name),
        None => format!("the group {}", status.gid()),
    }
}
