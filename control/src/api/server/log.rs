//! What is logged: `GET /v1/log`, `PUT /v1/log`.
//!
//! In: tracing's directives. Out: those that hold. Never: a line of the log.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{json, plain};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::bodies::LogFilter;
use crate::process::log;

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/log",
            filter,
            About::new("What is logged").answer::<LogFilter>(),
        )
        .put(
            "/v1/log",
            set,
            About::new("Have something else logged until the process ends")
                .body::<LogFilter>()
                .answer::<LogFilter>(),
        )
}

async fn filter() -> Response {
    let filter = log::filter().unwrap_or_default();
    json(&LogFilter { filter })
}

async fn set(State(desk): State<Desk>, request: Request) -> Response {
    let wanted: LogFilter = match desk.short(request).await {
        Ok(wanted) => wanted,
        Err(refused) => return refused,
    };
    match log::set_filter(&wanted.filter) {
        Ok(()) => filter().await,
        Err(error) => plain(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}
