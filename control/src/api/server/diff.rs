//! What differs between two configurations: `POST /v1/diff`.
//!
//! In: files as text, or what runs. Out: the differences. Never: a change.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{json, mistaken, unavailable, unread};
use super::desk::{self, Desk};
use super::routes::{About, Routes};
use crate::api::Requester;
use crate::api::bodies::{ApplyBody, DiffBody, Side};
use crate::config::{self, Config};
use crate::plan::{Diff, Layers};

pub(super) fn routes() -> Routes {
    Routes::default().post(
        "/v1/diff",
        diff,
        About::new("What differs between two configurations")
            .body::<DiffBody>()
            .answer::<Diff>(),
    )
}

async fn diff(State(desk): State<Desk>, request: Request) -> Response {
    let requester = desk.requester.clone();
    let work = move |text: Bytes| match serde_json::from_slice(&text) {
        Ok(body) => compared(&requester, body),
        Err(error) => unread(&error),
    };
    let body = desk.body(request);
    desk.in_turn(body, work).await
}

fn compared(requester: &Requester, body: DiffBody) -> Response {
    let desired = match desk::desired(requester) {
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
        Side::File(file) => Layers::new(Arc::new(read(file)?)),
    };
    let to = match body.to {
        Side::Running => desired.merged(),
        Side::File(file) => read(file)?,
    };
    Ok(Diff::between(&from, to, body.text))
}

fn read(file: ApplyBody) -> Result<Config, config::Report> {
    config::parse_texts(&file.into_texts(), &config::Disk).map(|(config, _)| config)
}
