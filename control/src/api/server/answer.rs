//! How answers look.
//!
//! In: what a resource found, or what is wrong. Out: JSON, with the status that says what kind of answer it is.
//! Never: text without a type: whatever is no answer is a [`Refusal`].

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::bodies::Refusal;
use crate::api::{ApplyError, SendError};
use crate::config;

pub(super) fn json(answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(text) => written(text),
        Err(_) => failed("the answer could not be written"),
    }
}

/// An answer that is written already.
pub(super) fn written(text: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn refused(error: ApplyError) -> Response {
    match error {
        ApplyError::NeedsRestart(what) => {
            let error = ApplyError::NeedsRestart(what.clone()).to_string();
            refuse(
                StatusCode::CONFLICT,
                Refusal {
                    error,
                    needs_restart: what,
                    ..Refusal::default()
                },
            )
        }
        ApplyError::Pending(pending) => refuse(
            StatusCode::CONFLICT,
            Refusal {
                error: pending.to_string(),
                pending: Some(pending),
                ..Refusal::default()
            },
        ),
        ApplyError::Conflict(error) => plain(StatusCode::CONFLICT, &error),
        ApplyError::Unkept(error) => plain(StatusCode::INSUFFICIENT_STORAGE, &error),
        ApplyError::Invalid(error) => plain(StatusCode::UNPROCESSABLE_ENTITY, &error),
        ApplyError::Unknown(error) => plain(StatusCode::NOT_FOUND, &error),
        ApplyError::Failed(error) => failed(&error),
        ApplyError::Unanswered(error) => unavailable(error),
    }
}

pub(super) fn mistaken(report: &config::Report) -> Response {
    let error = report.summary();
    let report = report.render(false);
    refuse(
        StatusCode::UNPROCESSABLE_ENTITY,
        Refusal {
            error,
            report,
            ..Refusal::default()
        },
    )
}

pub(super) fn failed(error: &str) -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, error)
}

pub(super) fn unavailable(error: SendError) -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

pub(super) fn unread(error: &serde_json::Error) -> Response {
    plain(StatusCode::BAD_REQUEST, &format!("the body: {error}"))
}

pub(super) fn late(error: &str) -> Response {
    plain(StatusCode::GATEWAY_TIMEOUT, error)
}

pub(super) fn slow() -> Response {
    let error = "the request's body takes too long";
    plain(StatusCode::REQUEST_TIMEOUT, error)
}

pub(super) fn plain(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    refuse(
        status,
        Refusal {
            error,
            ..Refusal::default()
        },
    )
}

pub(super) fn refuse(status: StatusCode, refusal: Refusal) -> Response {
    let text = serde_json::to_vec(&refusal).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}
