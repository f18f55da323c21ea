//! Whether this process lives, and whether it does its work: `GET /healthz`, `GET /readyz`.
//!
//! In: nothing. Out: yes, or what is missing. Never: a wait of a reader's length: who asks decides by the answer.
//!
//! It lives as long as the API's thread answers. It is ready when the control core answers, too, a configuration is
//! applied, and every port of it is open.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use super::answer::{json, plain};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::{Reply, Request};
use crate::config::Name;
use crate::report::look::{Head, Look};

/// The control core answers within a round.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ports that are named.
const NAMED: usize = 8;

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/healthz",
            healthz,
            About::new("Whether the process lives").answer::<Health>(),
        )
        .get(
            "/readyz",
            readyz,
            About::new("Whether all that is configured works").answer::<Health>(),
        )
}

/// That all is well.
#[derive(Debug, Serialize, JsonSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

async fn healthz() -> Response {
    json(&Health { status: "ok" })
}

async fn readyz(State(desk): State<Desk>) -> Response {
    let (reply, head) = Reply::new();
    let missing = match desk.requester.send(Request::Look(Look::Head(reply))) {
        Err(error) => Some(error.to_string()),
        Ok(()) => match timeout(PATIENCE, head).await {
            Ok(Ok(head)) => missing(&head),
            Ok(Err(_)) => Some("the engine has ended".into()),
            Err(_) => Some("the engine does not answer".into()),
        },
    };
    match missing {
        None => json(&Health { status: "ok" }),
        Some(error) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("not ready: {error}"),
        ),
    }
}

fn missing(head: &Head) -> Option<String> {
    if head.generation == 0 {
        return Some("no configuration is applied yet".into());
    }
    let down = &head.down;
    let named: Vec<_> = down.iter().take(NAMED).map(Name::as_str).collect();
    let more = down.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    (!down.is_empty()).then(|| format!("ports that are not open: {}{more}", named.join(", ")))
}
