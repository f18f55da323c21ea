//! The control socket: HTTP/1.1 over `api.sock` in the run directory, mode 0660.
//!
//! In: HTTP requests. Out: JSON; requests to the engine. Never: the engine's thread: this one has its own, with tokio's
//! single-threaded runtime.
//!
//! Rooms: [`desk`] what resources share, [`answer`] how answers look, [`routes`] the table of all routes, `openapi`
//! what it says to others, and a file per resource, which says its routes.
//!
//! Whoever may open the socket may do everything; its mode and the run directory's are the guard.

mod answer;
mod apply;
mod config;
mod desk;
mod diff;
mod events;
mod log;
mod metrics;
mod openapi;
mod routes;
mod scrape;
mod state;
#[cfg(test)]
mod tests;
mod way;

use std::io;
use std::sync::Arc;
use std::thread;

use axum::extract::DefaultBodyLimit;
use culvert_directory::{Access, Directory, ListenError, Listener, Place};

use self::desk::Desk;
use self::routes::Routes;
use super::{Requester, SendError};
use crate::process;
use crate::state::{Part, State};

/// The largest body: a configuration of the greatest length as a JSON string, and its path.
const BODY: usize = 80 << 20;

/// Puts a state together, or a part of it; it may wait for the engine.
pub type Read = Arc<dyn Fn(Option<Part>) -> Result<State, SendError> + Send + Sync>;

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
    let desk = Desk::new(requester, read);
    let listener = Listener::open(run_dir, process::API_SOCKET, Access::mode(0o660))?;
    let (listener, place) = listener.into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = move || {
        let served = runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            tokio::spawn(scrape::serve(desk.requester.clone()));
            axum::serve(listener, router(desk)).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the control socket has ended");
        }
    };
    thread::Builder::new().name("api".into()).spawn(run)?;
    Ok(Server { _place: place })
}

/// All routes. Every resource is a file that has its own.
fn routes() -> Routes {
    Routes::default()
        .merge(state::routes())
        .merge(config::routes())
        .merge(diff::routes())
        .merge(apply::routes())
        .merge(log::routes())
        .merge(way::routes())
        .merge(events::routes())
        .merge(metrics::routes())
}

fn router(desk: Desk) -> axum::Router {
    let routes = routes();
    let description = openapi::routes(&routes);
    routes
        .merge(description)
        .into_router()
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(desk)
}
