//! What ran, and the way back: `/v1/history`, `/v1/confirm`, `/v1/rollback`.
//!
//! In: numbers of revisions. Out: revisions; what a confirmation or a rollback did. Never: a revision's keys.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{json, plain, refused, unread};
use super::apply::{carried_out, user};
use super::asked::Named;
use super::desk::Desk;
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

async fn list(State(desk): State<Desk>) -> Response {
    let requester = desk.requester.clone();
    let work = move |()| match requester.history() {
        Some(history) => json(&history.revisions()),
        None => refused(ApplyError::no_history()),
    };
    desk.in_turn(async { Ok(()) }, work).await
}

async fn revision(State(desk): State<Desk>, Named(number): Named<u64>) -> Response {
    let requester = desk.requester.clone();
    let work = move |()| match requester.history().map(|it| it.text(number)) {
        Some(Ok((revision, text))) => json(&RevisionText { revision, text }),
        Some(Err(why)) => plain(StatusCode::NOT_FOUND, &why),
        None => refused(ApplyError::no_history()),
    };
    desk.in_turn(async { Ok(()) }, work).await
}

async fn confirm(State(desk): State<Desk>, request: Request) -> Response {
    let requester = desk.requester.clone();
    carried_out(desk, request, move |text, caller| {
        let user = user(caller);
        let body: ConfirmBody = match serde_json::from_slice(text) {
            Ok(body) => body,
            Err(error) => return unread(&error),
        };
        match apply::confirm(&requester, body.revision, &format!("confirmed by {user}")) {
            Ok(revision) => json(&Confirmed { revision }),
            Err(error) => refused(error),
        }
    })
    .await
}

async fn roll_back(State(desk): State<Desk>, request: Request) -> Response {
    let requester = desk.requester.clone();
    carried_out(desk, request, move |text, caller| {
        let user = user(caller);
        let body: RollbackBody = match serde_json::from_slice(text) {
            Ok(body) => body,
            Err(error) => return unread(&error),
        };
        if let Err(why) = history::check_message(&body.message) {
            return refused(ApplyError::Invalid(why));
        }
        let mut why = format!("cancelled by {user}");
        if !body.message.is_empty() {
            why += &format!(": {}", body.message);
        }
        let order = Order {
            message: body.message,
            confirm: body.confirm,
            dry_run: body.dry_run,
            user,
            ..Order::default()
        };
        super::apply::answered(match body.to {
            Some(number) => apply::roll_back(&requester, &order, number),
            None => apply::cancel(&requester, &order, None, &why),
        })
    })
    .await
}

async fn purge(State(desk): State<Desk>, request: Request) -> Response {
    let requester = desk.requester.clone();
    carried_out(desk, request, move |text, _| {
        match serde_json::from_slice(text) {
            Ok(body) => purged(&requester, &body),
            Err(error) => unread(&error),
        }
    })
    .await
}

fn purged(requester: &Requester, body: &PurgeBody) -> Response {
    let _turn = requester.turn();
    let Some(mut history) = requester.history() else {
        return refused(ApplyError::no_history());
    };
    for text in &body.revoke {
        let Ok(key) = PublicKey::from_base64(text) else {
            return plain(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!("`{text:.200}` is no public key: 44 characters of base64"),
            );
        };
        if let Err(error) = history.revoke(&key) {
            return refused(ApplyError::Unkept(format!(
                "the revocation can't be written: {error}"
            )));
        }
    }
    for &number in &body.revisions {
        if let Err(why) = history.purge(number, body.keys_only) {
            return plain(StatusCode::CONFLICT, &why);
        }
    }
    json(&history.revisions())
}
