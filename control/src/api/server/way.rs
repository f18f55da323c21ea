//! Where a packet would go: `GET /v1/routes/get`.
//!
//! In: an address, a port. Out: the ways to it. Never: a packet.

use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{json, plain, unavailable};
use super::asked::Asked;
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::bodies::WayQuery;
use crate::report::way::{WayError, ways};
use crate::state::Way;

pub(super) fn routes() -> Routes {
    Routes::default().get(
        "/v1/routes/get",
        way,
        About::new("Where a packet for an address would go, and why")
            .query::<WayQuery>()
            .answer::<Vec<Way>>(),
    )
}

async fn way(desk: Desk, Asked(query): Asked<WayQuery>) -> Response {
    let requester = desk.requester.clone();
    let work = move || match ways(&requester, query.to, query.from.as_deref()) {
        Ok(ways) => json(&ways),
        Err(WayError::Unanswered(error)) => unavailable(error),
        Err(error @ (WayError::NoPort(_) | WayError::Uplink(_))) => {
            plain(StatusCode::NOT_FOUND, &error.to_string())
        }
    };
    desk.in_turn(work).await
}
