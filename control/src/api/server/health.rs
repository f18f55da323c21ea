//! Whether this process lives, and whether it does its work: `GET /healthz`, `GET /readyz`.
//!
//! In: nothing. Out: yes, or what is missing. Never: a wait of a reader's length: who asks decides by the answer.
//!
//! It lives as long as the API's thread answers. It is ready when the control core answers, too, a configuration is
//! applied, every port of it is open, every tunnel has its UDP port, and every uplink its link; one that is shut has none.
//! It does not say whether peers answer, or whether `wg` finds a tunnel: `/v1/peers` and `/v1/tunnels` do.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::answer::{json, plain};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::{Reply, Request};
use crate::config::Name;
use crate::report::look::{Head, Look};

/// The control core answers within a round.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions that wait for the control core at once: whoever asks without pause does not fill its queue.
static ASKING: Semaphore = Semaphore::const_new(4);

/// Ports that are named, tunnels, and uplinks.
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
    let asking = timeout(PATIENCE, ASKING.acquire()).await;
    let missing = match asking {
        Ok(Ok(turn)) => ask(&desk, turn).await,
        Ok(Err(_)) | Err(_) => Some("the engine does not answer".into()),
    };
    match missing {
        None => json(&Health { status: "ok" }),
        Some(error) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("not ready: {error}"),
        ),
    }
}

/// What is missing. A question that is given up has its turn until it is answered.
async fn ask(desk: &Desk, turn: SemaphorePermit<'static>) -> Option<String> {
    let (reply, head) = Reply::new();
    if let Err(error) = desk.requester.send(Request::Look(Look::Head(reply))) {
        return Some(error.to_string());
    }
    let waiting = tokio::spawn(async move {
        let _turn = turn;
        head.await
    });
    match timeout(PATIENCE, waiting).await {
        Ok(Ok(Ok(head))) => missing(&head).or_else(|| desk.requester.desk().notice()),
        Ok(_) => Some("the engine has ended".into()),
        Err(_) => Some("the engine does not answer".into()),
    }
}

fn missing(head: &Head) -> Option<String> {
    if head.generation == 0 {
        return Some("no configuration is applied yet".into());
    }
    let ports: Vec<_> = head.down.iter().map(Name::as_str).collect();
    let tunnels: Vec<_> = head.deaf.iter().map(Name::as_str).collect();
    let uplinks = head.uplinks.iter().filter(|it| !it.link_up && !it.disabled);
    let uplinks: Vec<_> = uplinks.map(|it| it.name.as_str()).collect();
    let missing = [
        named("ports that are not open", &ports),
        named("tunnels without their UDP port", &tunnels),
        named("uplinks without a link", &uplinks),
    ];
    let missing: Vec<_> = missing.into_iter().flatten().collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

fn named(what: &str, names: &[&str]) -> Option<String> {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first = &names[..names.len().min(NAMED)];
    (!first.is_empty()).then(|| format!("{what}: {}{more}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_so_many_and_no_more() {
        assert_eq!(named("ports", &[]), None);
        assert_eq!(named("ports", &["a", "b"]).unwrap(), "ports: a, b");
        let told = named("ports", &["x"; NAMED + 2]).unwrap();
        assert!(told.ends_with(", x and 2 more"), "{told}");
    }
}
