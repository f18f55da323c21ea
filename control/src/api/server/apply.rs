//! A file to run instead: `POST /v1/apply`.
//!
//! In: the file's text. Out: what changed, or why nothing did. Never: more texts than may wait.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answer::{failed, json, late, mistaken, refused, slow, unread};
use super::caller::Caller;
use super::desk::{Desk, PATIENCE, turn_away};
use super::routes::{About, Routes};
use crate::api::bodies::ApplyBody;
use crate::api::keys::May;
use crate::api::{self, ApplyError, NotApplied, Requester};
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

pub(super) async fn apply(State(desk): State<Desk>, request: Request) -> Response {
    let requester = desk.requester.clone();
    carried_out(
        desk,
        request,
        move |text, caller| match serde_json::from_slice(text) {
            Ok(body) => apply_body(&requester, caller, body),
            Err(error) => unread(&error),
        },
    )
    .await
}

/// Has what changes things done in its turn, beside this thread, where its user's name may be looked up.
pub(super) async fn carried_out(
    desk: Desk,
    request: Request,
    work: impl FnOnce(&[u8], Option<&Caller>) -> Response + Send + 'static,
) -> Response {
    let Ok(place) = Arc::clone(&desk.applies).try_acquire_owned() else {
        let error = "another apply is under way, and more wait: try again";
        return turn_away(request, StatusCode::SERVICE_UNAVAILABLE, error).await;
    };
    let caller = request.extensions().get::<Caller>().cloned();
    let text = match timeout(PATIENCE, desk.body(request)).await {
        Ok(Ok(text)) => text,
        Ok(Err(refused)) => return refused,
        Err(_) => return slow(),
    };
    // Reading key files and a long text must not hold up another client's `show`.
    let applies = spawn_blocking(move || {
        let _place = place;
        let response = work(&text, caller.as_ref());
        drop(text);
        memory::give_back();
        response
    });
    match timeout(APPLY_PATIENCE, applies).await {
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
