//! A file to run instead: `POST /v1/apply`.
//!
//! In: the file's text. Out: what changed, or why nothing did. Never: more texts than may wait.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answer::{failed, json, late, mistaken, plain, refused, unread};
use super::caller::Caller;
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::bodies::ApplyBody;
use crate::api::keys::May;
use crate::api::{self, ApplyError, NotApplied, Requester, object};
use crate::config;
use crate::history::revision::Origin;
use crate::history::{self, Order};
use crate::process::memory;
use crate::state::Applied;

/// How long an `apply` may take: a DPDK device may come and go meanwhile.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Routes {
    Routes::default().post(
        "/v1/apply",
        apply,
        About::new("Applies a file")
            .body::<ApplyBody>()
            .answer::<Applied>(),
    )
}

pub(super) async fn apply(desk: Desk, request: Request) -> Response {
    let text = match desk.text(request).await {
        Ok(text) => text,
        Err(refused) => return refused,
    };
    let Ok(place) = Arc::clone(&desk.applies).try_acquire_owned() else {
        let error = "another apply is under way, and more wait: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let Desk {
        requester, caller, ..
    } = desk;
    carried_out(place, move || match object::read(&text.bytes) {
        Ok(body) => {
            drop(text);
            apply_body(&requester, caller.as_ref(), body)
        }
        Err(error) => unread(&error),
    })
    .await
}

/// Has what changes things done in its turn, beside this thread: reading key files and a long text, or looking up a
/// user's name, must not hold up another client's `show`.
pub(super) async fn carried_out(
    turn: impl Send + 'static,
    work: impl FnOnce() -> Response + Send + 'static,
) -> Response {
    let (answer, answered) = oneshot::channel();
    spawn_blocking(move || {
        let _turn = turn;
        // Whoever asked may be gone.
        let _ = answer.send(work());
        memory::give_back();
    });
    match timeout(APPLY_PATIENCE, answered).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the configuration could not be checked"),
        Err(_) => late("the apply takes long, and goes on: the log will say what became of it"),
    }
}

/// The name of who asks; see [`Caller::user`].
pub(super) fn user(caller: Option<&Caller>) -> String {
    caller.map_or_else(|| "unknown".into(), Caller::user)
}

fn apply_body(requester: &Requester, caller: Option<&Caller>, mut body: ApplyBody) -> Response {
    if let Err(why) = history::check_message(&body.message) {
        return refused(ApplyError::Invalid(why));
    }
    let order = Order {
        origin: match body.cli {
            true => Origin::Cli,
            false => Origin::Api,
        },
        message: std::mem::take(&mut body.message),
        confirm: body.confirm.take(),
        dry_run: body.dry_run,
        user: user(caller),
        uplink: caller.and_then(|caller| caller.uplink.clone()),
        ..Order::default()
    };
    let texts = body.into_texts();
    let may = match May::of(requester, caller) {
        Ok(may) => may,
        Err(error) => return refused(error.into()),
    };
    answered(api::read_and_apply(requester, &order, |readings| {
        may.read(&texts, |texts, keys| readings.parse_texts(texts, keys))
    }))
}

/// What was done, with what it is warned of.
pub(super) fn answered(answer: Result<(Applied, config::Report), NotApplied>) -> Response {
    match answer {
        Ok((applied, report)) => json(&Applied {
            warnings: report.render(false) + &applied.warnings,
            ..applied
        }),
        Err(NotApplied::Mistakes(report)) => mistaken(&report),
        Err(NotApplied::Refused(error)) => refused(error),
    }
}
