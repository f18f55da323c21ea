//! The API: HTTP/1.1 over `api.sock` in the run directory, and over the other doors that the configuration names.
//!
//! In: HTTP requests. Out: JSON; requests to the engine. Never: the engine's thread: this one has its own, with tokio's
//! single-threaded runtime.
//!
//! Rooms: [`desk`] what resources share, [`answer`] how answers look, [`routes`] the table of all routes, `openapi`
//! what it says to others, and a file per resource, which says its routes.
//!
//! Whoever may open `api.sock` may do everything; its mode and the run directory's are the guard. [`doors`] says by which
//! way who comes in, [`access`] what it may.

mod access;
mod answer;
mod apply;
mod asked;
pub mod caller;
mod config;
mod connection;
mod crowd;
mod desk;
mod diff;
pub(super) mod doors;
mod events;
mod health;
mod history;
mod in_band;
mod layer;
mod lists;
mod log;
mod metrics;
mod openapi;
mod routes;
mod scrape;
mod sent;
mod status;
#[cfg(test)]
mod tests;
mod texts;
mod tls;
mod turns;
mod way;

use std::io;
use std::sync::Arc;
use std::thread;

use axum::middleware::from_fn;
use culvert_directory::{Directory, ListenError};
use tokio::sync::{mpsc::UnboundedReceiver, watch};

use self::desk::Desk;
use self::doors::{Keeper, News, ToRead};
use self::routes::Routes;
pub(crate) use self::tls::check as check_tls;
use super::Requester;
use crate::config::Api;
use crate::report::Source;

/// What resources read.
pub type Read = Arc<dyn Source>;

/// The API of this process; its sockets' names are removed when dropped.
#[derive(Debug)]
pub struct Server {
    requester: Requester,
    /// The one door of what can't be changed here.
    _to_read: Option<ToRead>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.requester.keep_doors(None);
    }
}

/// Why the control socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It can't be had.
    #[error("the control socket: {0}")]
    Socket(#[from] ListenError),
    /// Something that the configuration's `api` names can't be had.
    #[error("{0}")]
    Doors(String),
    /// The system has no thread or descriptor left.
    #[error("can't serve the control socket: {0}")]
    System(#[from] io::Error),
}

/// Opens the control socket in the run directory, and the other doors that the configuration names, and serves them on
/// a thread of its own. An `apply` changes the doors.
///
/// # Errors
///
/// When one of them can't be made.
pub fn serve(
    run_dir: &Directory,
    api: &Api,
    requester: Requester,
    read: Read,
) -> Result<Server, ServeError> {
    let (keeper, news) = Keeper::open(run_dir, api)?;
    start(Desk::new(requester.clone(), read), news)?;
    requester.keep_doors(Some(keeper));
    Ok(Server {
        requester,
        _to_read: None,
    })
}

/// Opens `api.sock` in the directory for readers alone, and serves it on a thread of its own.
///
/// # Errors
///
/// When it can't be made.
pub fn serve_to_read(run_dir: &Directory, requester: Requester) -> Result<Server, ServeError> {
    let (door, news) = Keeper::open_to_read(run_dir)?;
    start(
        Desk::new(requester.clone(), Arc::new(requester.clone())),
        news,
    )?;
    Ok(Server {
        requester,
        _to_read: Some(door),
    })
}

/// Serves the doors that open.
fn start(desk: Desk, news: UnboundedReceiver<News>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = move || {
        let body_max = Arc::clone(&desk.body_max);
        let served = runtime.block_on(async {
            let requester = desk.requester.clone();
            tokio::spawn(scrape::serve(requester.clone()));
            let (keys, tls) = watch::channel(None);
            let router = router(desk);
            if let Some(arrivals) = requester.arrivals().take() {
                tokio::spawn(in_band::serve(arrivals, tls, router.clone(), requester));
            }
            doors::keep(news, router, keys, &body_max).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the API has ended");
        }
    };
    thread::Builder::new().name("api".into()).spawn(run)?;
    Ok(())
}

/// All routes. Every resource is a file that has its own.
fn routes() -> Routes {
    Routes::default()
        .merge(health::routes())
        .merge(lists::routes())
        .merge(status::routes())
        .merge(config::routes())
        .merge(diff::routes())
        .merge(layer::routes())
        .merge(apply::routes())
        .merge(log::routes())
        .merge(way::routes())
        .merge(events::routes())
        .merge(metrics::routes())
        .merge(history::routes())
}

fn router(desk: Desk) -> axum::Router {
    let routes = routes();
    let description = openapi::routes(&routes);
    routes
        .merge(description)
        .into_router()
        .layer(from_fn(access::check))
        .with_state(desk)
}
