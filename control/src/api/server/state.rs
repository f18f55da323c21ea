//! What a running Culvert tells about itself: `GET /v1/state` and `GET /v1/state/PART`.
//!
//! In: the part's name. Out: what the reader put together. Never: the reader's work on this thread.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{json, plain, unavailable};
use super::asked::Named;
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::state::{self, Part};

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/state",
            whole,
            About::new("Everything").answer::<state::State>(),
        )
        .get(
            "/v1/state/{part}",
            part,
            About::new("A part of everything").answer::<state::State>(),
        )
}

async fn whole(State(desk): State<Desk>) -> Response {
    told(desk, None).await
}

async fn part(State(desk): State<Desk>, Named(name): Named<String>) -> Response {
    match Part::named(&name) {
        Some(part) => told(desk, Some(part)).await,
        None => plain(
            StatusCode::NOT_FOUND,
            &format!("the state has no part {name:.200}"),
        ),
    }
}

async fn told(desk: Desk, part: Option<Part>) -> Response {
    let read = Arc::clone(&desk.read);
    let work = move |_| match read(part) {
        Ok(state) => json(&state),
        Err(error) => unavailable(error),
    };
    desk.in_turn(async { Ok(()) }, work).await
}
