//! The configuration that runs, as a file: `GET /v1/config`.
//!
//! In: whether with drift. Out: its text, from what is desired. Never: the text that was applied.

use axum::response::Response;

use super::answer::{json, unavailable};
use super::asked::Asked;
use super::desk::{self, Desk};
use super::routes::{About, Routes};
use crate::api::bodies::{ConfigQuery, ConfigText};
use crate::config;
use crate::plan::Layers;

pub(super) fn routes() -> Routes {
    Routes::default().get(
        "/v1/config",
        configuration,
        About::new("The configuration that runs, as a file")
            .query::<ConfigQuery>()
            .answer::<ConfigText>(),
    )
}

pub(super) async fn configuration(desk: Desk, Asked(query): Asked<ConfigQuery>) -> Response {
    let requester = desk.requester.clone();
    let work = move || match desk::desired(&requester) {
        Ok(desired) => json(&written(&desired, query)),
        Err(error) => unavailable(error),
    };
    desk.in_turn(work).await
}

fn written(desired: &Layers, query: ConfigQuery) -> ConfigText {
    let path = desired.file().source.clone();
    let text = match query {
        ConfigQuery {
            path_only: true, ..
        } => String::new(),
        ConfigQuery { drift: true, .. } => config::to_yaml(&desired.merged()),
        ConfigQuery { .. } => config::to_yaml(desired.file()),
    };
    ConfigText { path, text }
}
