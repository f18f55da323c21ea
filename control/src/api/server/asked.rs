//! What a request says beside its body: its query, the names in its path.
//!
//! In: a request's head. Out: types, or a refusal in words. Never: a refusal of axum's own, which is text: resources
//! take queries and paths by these alone (`clippy.toml`), and bodies by the desk.

#![expect(
    clippy::disallowed_types,
    reason = "here alone axum's extractors are taken, and their refusals put in words"
)]

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::answer::plain;

/// A query.
pub(super) struct Asked<Q>(pub(super) Q);

/// What stands in a path's `{name}`s.
pub(super) struct Named<N>(pub(super) N);

impl<Q: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<Q> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let query = Query::try_from_uri(&parts.uri).map(|Query(query)| Self(query));
        query.map_err(|error| plain(StatusCode::BAD_REQUEST, &format!("the query: {error}")))
    }
}

impl<N: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let names = Path::from_request_parts(parts, state).await;
        let names = names.map(|Path(names)| Self(names));
        names.map_err(|error| plain(error.status(), &format!("the path: {}", error.body_text())))
    }
}
