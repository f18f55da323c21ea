//! What a request says beside its body: its query, the names in its path.
//!
//! In: a request's head. Out: types, or a refusal in words. Never: a refusal of axum's own, which is text: resources
//! take queries and paths by these alone (`clippy.toml`), and bodies by the desk; a key that the description of the route
//! does not have, or has once ([`Terms`]).

#![expect(
    clippy::disallowed_types,
    reason = "here alone axum's extractors are taken, and their refusals put in words"
)]

use std::error::Error as _;
use std::sync::Arc;

use axum::body::HttpBody as _;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use schemars::SchemaGenerator;
use serde::de::DeserializeOwned;

use super::answer::plain;
use super::routes::About;

/// A query.
pub(super) struct Asked<Q>(pub(super) Q);

/// What stands in a path's `{name}`s.
pub(super) struct Named<N>(pub(super) N);

impl<Q: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<Q> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let query = Query::try_from_uri(&parts.uri).map(|Query(query)| Self(query));
        // Above it stands that a query could not be read.
        let words = |error: QueryRejection| match error.source() {
            Some(why) => format!("the query: {why}"),
            None => format!("the query: {error}"),
        };
        query.map_err(|error| plain(StatusCode::BAD_REQUEST, &words(error)))
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

/// What a route lets a request say: the keys of its query, each once, and whether there is a body.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    keys: Arc<[String]>,
    takes_body: bool,
}

impl Terms {
    /// Those of the route's description.
    pub(super) fn of(about: &About) -> Self {
        let query = about
            .query
            .map(|query| query(&mut SchemaGenerator::default()));
        let fields = query
            .as_ref()
            .and_then(|it| it.get("properties")?.as_object());
        Self {
            keys: fields
                .into_iter()
                .flat_map(|it| it.keys().cloned())
                .collect(),
            takes_body: about.body.is_some(),
        }
    }

    /// What is wrong with a request, in words.
    pub(super) fn broken(&self, request: &Request) -> Option<String> {
        let query = self.misspoken(request.uri());
        let unwanted = || !self.takes_body && !request.body().is_end_stream();
        query.or_else(|| unwanted().then(|| "the body: none is expected here".to_owned()))
    }

    fn misspoken(&self, uri: &Uri) -> Option<String> {
        // What can't be taken apart at all is refused when it is read.
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
        let is_unknown = |(key, _): &&(String, String)| !self.keys.contains(key);
        if let Some((key, _)) = pairs.iter().find(is_unknown) {
            let expected = self.expected();
            return Some(format!("the query: `{key:.200}` is unknown: {expected}"));
        }
        let keys = pairs.iter().map(|(key, _)| key);
        let twice = self
            .keys
            .iter()
            .find(|&it| keys.clone().filter(|&key| key == it).count() > 1);
        twice.map(|key| format!("the query: `{key}` stands there more than once"))
    }

    fn expected(&self) -> String {
        let quoted: Vec<_> = self.keys.iter().map(|key| format!("`{key}`")).collect();
        match quoted.as_slice() {
            [] => "no key is expected here".to_owned(),
            [one] => format!("expected {one}"),
            [first @ .., last] => format!("expected {} or {last}", first.join(", ")),
        }
    }
}
