//! What this process is, and what it runs: `GET /v1/status`.
//!
//! In: nothing. Out: what a reader of lists has to know beside them. Never: what grows with what is configured.

use std::sync::Arc;

use axum::response::Response;

use super::answer::{json, unavailable};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::state::Status;

pub(super) fn routes() -> Routes {
    Routes::default().get(
        "/v1/status",
        status,
        About::new(
            "The process, its configuration, and the change that waits for its confirmation",
        )
        .answer::<Status>(),
    )
}

async fn status(desk: Desk) -> Response {
    let read = Arc::clone(&desk.read);
    let work = move || match read.status() {
        Ok(status) => json(&status),
        Err(error) => unavailable(error),
    };
    desk.in_turn(work).await
}
