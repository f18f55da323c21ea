//! What differs between two configurations: `POST /v1/diff`, and of those that are there `GET`, for readers, too.
//!
//! In: files as text, or what runs. Out: the differences. Never: a change.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{json, mistaken, plain, unavailable, unread};
use super::asked::Asked;
use super::caller::Caller;
use super::desk::{self, Desk};
use super::routes::{About, Routes};
use crate::api::bodies::{ApplyBody, DiffBody, DiffQuery, Side};
use crate::api::keys::May;
use crate::api::{Requester, object};
use crate::config::{self, Config};
use crate::history::NotRestored;
use crate::plan::{Diff, Layers};

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/diff",
            diff_known,
            About::new("What differs between two of the history and what runs")
                .query::<DiffQuery>()
                .answer::<Diff>(),
        )
        .post(
            "/v1/diff",
            diff,
            About::new("What differs between two configurations")
                .body::<DiffBody>()
                .answer::<Diff>(),
        )
}

async fn diff_known(desk: Desk, Asked(query): Asked<DiffQuery>) -> Response {
    let DiffQuery { from, to, text } = query;
    let (Some(from), Some(to)) = (Side::named(&from), Side::named(&to)) else {
        let error = "the query: expected `running` or a revision's number as `from` and as `to`";
        return plain(StatusCode::BAD_REQUEST, error);
    };
    let requester = desk.requester.clone();
    let caller = desk.caller.clone();
    let body = DiffBody { from, to, text };
    let work = move || compared(&requester, caller.as_ref(), body);
    desk.in_turn(work).await
}

async fn diff(desk: Desk, request: Request) -> Response {
    let requester = desk.requester.clone();
    let caller = desk.caller.clone();
    let text = match desk.text(request).await {
        Ok(text) => text,
        Err(refused) => return refused,
    };
    let work = move || match object::read(&text.bytes) {
        Ok(body) => {
            drop(text);
            compared(&requester, caller.as_ref(), body)
        }
        Err(error) => unread(&error),
    };
    desk.in_turn(work).await
}

fn compared(requester: &Requester, caller: Option<&Caller>, body: DiffBody) -> Response {
    let desired = match desk::desired(requester) {
        Ok(desired) => desired,
        Err(error) => return unavailable(error),
    };
    let may = match May::of(requester, caller) {
        Ok(may) => may,
        Err(error) => return unavailable(error),
    };
    match difference(requester, &may, desired, body) {
        Ok(diff) => json(&diff),
        Err(Unread::Mistakes(report)) => mistaken(&report),
        Err(Unread::Missing(why)) => plain(StatusCode::NOT_FOUND, &why),
    }
}

/// Why a side can't be had.
enum Unread {
    Mistakes(config::Report),
    Missing(String),
}

fn difference(
    requester: &Requester,
    may: &May,
    desired: Layers,
    body: DiffBody,
) -> Result<Diff, Unread> {
    let read = |file: ApplyBody| {
        let read = may.read(&file.into_texts(), config::parse_texts);
        let (config, mut report) = read.map_err(Unread::Mistakes)?;
        if let Some(history) = requester.history() {
            history.refuse_revoked(&config, &mut report);
        }
        match report.errors() {
            0 => Ok(config),
            _ => Err(Unread::Mistakes(report)),
        }
    };
    let from = match body.from {
        Side::Running => desired.clone(),
        Side::File(file) => Layers::new(Arc::new(read(file)?)),
        Side::Revision(number) => Layers::new(Arc::new(revision(requester, number)?)),
    };
    let to = match body.to {
        Side::Running => desired.merged(),
        Side::File(file) => read(file)?,
        Side::Revision(number) => revision(requester, number)?,
    };
    Ok(Diff::between(&from, to, body.text))
}

fn revision(requester: &Requester, number: u64) -> Result<Config, Unread> {
    let history = requester.history();
    let history = history.ok_or_else(|| Unread::Missing("this process keeps no history".into()))?;
    let restored = history.restore(number).map_err(|why| match why {
        NotRestored::Missing(why) => Unread::Missing(why),
        NotRestored::Mistakes(report) => Unread::Mistakes(report),
    })?;
    Ok(restored.config)
}
