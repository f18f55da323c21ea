//! What ran, and the way back: `/v1/history`, `/v1/confirm`, `/v1/rollback`.
//!
//! In: numbers of revisions. Out: revisions; what a confirmation or a rollback did. Never: a revision's keys.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::answer::{json, plain, refused};
use super::apply::{carried_out, user};
use super::asked::Named;
use super::desk::{Desk, PATIENCE};
use super::routes::{About, Routes};
use crate::api::bodies::{ConfirmBody, Confirmed, PurgeBody, RevisionText, RollbackBody};
use crate::api::{ApplyError, Requester, apply};
use crate::history::revision::Revision;
use crate::history::{self, Order};
use crate::keys::PublicKey;
use crate::state::Applied;

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/history",
            list,
            About::new("What ran, the newest first").answer::<Vec<Revision>>(),
        )
        .get(
            "/v1/history/{number}",
            revision,
            About::new("A revision as a file").answer::<RevisionText>(),
        )
        .post(
            "/v1/history/purge",
            purge,
            About::new("Forgets revisions, their keys, or a key for ever")
                .body::<PurgeBody>()
                .answer::<Vec<Revision>>(),
        )
        .post(
            "/v1/confirm",
            confirm,
            About::new("Keeps the change that waits for its confirmation")
                .body::<ConfirmBody>()
                .answer::<Confirmed>(),
        )
        .post(
            "/v1/rollback",
            roll_back,
            About::new("Brings a revision back, or takes back what waits for its confirmation")
                .body::<RollbackBody>()
                .answer::<Applied>(),
        )
}

async fn list(desk: Desk) -> Response {
    let requester = desk.requester.clone();
    let work = move || match requester.history() {
        Some(history) => json(&history.revisions()),
        None => refused(ApplyError::no_history()),
    };
    desk.in_turn(work).await
}

async fn revision(desk: Desk, Named(number): Named<u64>) -> Response {
    let requester = desk.requester.clone();
    let work = move || match requester.history().map(|it| it.text(number)) {
        Some(Ok((revision, text))) => json(&RevisionText { revision, text }),
        Some(Err(why)) => plain(StatusCode::NOT_FOUND, &why),
        None => refused(ApplyError::no_history()),
    };
    desk.in_turn(work).await
}

async fn confirm(desk: Desk, request: Request) -> Response {
    decided(desk, request, |desk, body: ConfirmBody| {
        let why = format!("confirmed by {}", user(desk.caller.as_ref()));
        match apply::confirm(&desk.requester, body.revision, &why) {
            Ok(revision) => json(&Confirmed { revision }),
            Err(error) => refused(error),
        }
    })
    .await
}

async fn roll_back(desk: Desk, request: Request) -> Response {
    decided(desk, request, |desk, body: RollbackBody| {
        if let Err(why) = history::check_message(&body.message) {
            return refused(ApplyError::Invalid(why));
        }
        let user = user(desk.caller.as_ref());
        let mut why = format!("cancelled by {user}");
        if !body.message.is_empty() {
            why += &format!(": {}", body.message);
        }
        let order = Order {
            message: body.message,
            confirm: body.confirm,
            dry_run: body.dry_run,
            user,
            uplink: desk.caller.as_ref().and_then(|it| it.uplink.clone()),
            ..Order::default()
        };
        super::apply::answered(match body.to {
            Some(number) => apply::roll_back(&desk.requester, &order, number),
            None => apply::cancel(&desk.requester, &order, None, &why),
        })
    })
    .await
}

async fn purge(desk: Desk, request: Request) -> Response {
    let work = |desk: &Desk, body: PurgeBody| purged(&desk.requester, &body);
    decided(desk, request, work).await
}

/// Has something decided about what ran. Its turn is no apply's: those that wait keep nobody from taking one back.
async fn decided<B: DeserializeOwned + Send + 'static>(
    desk: Desk,
    request: Request,
    work: impl FnOnce(&Desk, B) -> Response + Send + 'static,
) -> Response {
    let body = match desk.short(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let end = Instant::now() + PATIENCE;
    let Some(turn) = desk.decisions.turn(desk.whose(), end).await else {
        let error = "others confirm or roll back, and take long: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    carried_out(turn, move || work(&desk, body)).await
}

fn purged(requester: &Requester, body: &PurgeBody) -> Response {
    let _turn = requester.turn();
    let Some(mut history) = requester.history() else {
        return refused(ApplyError::no_history());
    };
    let mut keys = Vec::new();
    for text in &body.revoke {
        let Ok(key) = PublicKey::from_base64(text) else {
            return plain(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!("`{text:.200}` is no public key: 44 characters of base64"),
            );
        };
        keys.push(key);
    }
    let mut numbers = body.revisions.iter();
    // Whoever is refused finds all as it was.
    if let Err(why) = numbers.try_for_each(|&it| history.may_purge(it, body.keys_only)) {
        return plain(StatusCode::CONFLICT, &why);
    }
    for key in &keys {
        if let Err(error) = history.revoke(key) {
            return refused(ApplyError::Unkept(format!(
                "the revocation can't be written: {error}"
            )));
        }
    }
    if let Err(why) = history.purge(&body.revisions, body.keys_only) {
        return plain(StatusCode::CONFLICT, &why);
    }
    json(&history.revisions())
}
