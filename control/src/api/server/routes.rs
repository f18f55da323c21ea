//! The routes of the API: one table for the router and for its description.
//!
//! In: from each resource, its paths with their handlers, and what they take and answer. Out: an axum router; the
//! routes in the order in which they were told, to describe. Never: a route that is not described: there is no other
//! way into the router; a request that says what the description has not.

use std::fmt;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::asked::Terms;
use super::desk::{Desk, turn_away};

/// How a type describes itself.
type Describe = fn(&mut SchemaGenerator) -> Schema;

/// What one resource adds to the API.
#[derive(Default)]
pub(super) struct Routes(Vec<Route>);

/// A path and a method.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) about: About,
    handler: MethodRouter<Desk>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// What a route takes and answers.
pub(super) struct About {
    /// What it is for, in one line.
    pub(super) summary: &'static str,
    /// The type of its query.
    pub(super) query: Option<Describe>,
    /// The type of its body.
    pub(super) body: Option<Describe>,
    /// There may be none, which says nothing.
    pub(super) may_lack_body: bool,
    /// What it answers if nothing is wrong.
    pub(super) answer: Answer,
}

/// What a route answers if nothing is wrong.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// Nothing: 204.
    Empty,
    /// A type as JSON.
    Json(Describe),
    /// Text of that type of content.
    Text(&'static str),
}

impl About {
    /// A route that takes and answers nothing so far.
    pub(super) const fn new(summary: &'static str) -> Self {
        Self {
            summary,
            query: None,
            body: None,
            may_lack_body: false,
            answer: Answer::Empty,
        }
    }

    /// Its query is a `Q`, whose fields are texts, numbers, words or booleans.
    pub(super) fn query<Q: JsonSchema>(self) -> Self {
        Self {
            query: Some(Q::json_schema),
            ..self
        }
    }

    /// Its body is a `B` as JSON.
    pub(super) fn body<B: JsonSchema>(self) -> Self {
        Self {
            body: Some(SchemaGenerator::subschema_for::<B>),
            ..self
        }
    }

    /// Its body is a map of `B`, which is empty where there is no body.
    pub(super) fn body_or_none<B: JsonSchema>(self) -> Self {
        Self {
            may_lack_body: true,
            ..self.body::<B>()
        }
    }

    /// It answers an `A` as JSON.
    pub(super) fn answer<A: JsonSchema>(self) -> Self {
        Self {
            answer: Answer::Json(SchemaGenerator::subschema_for::<A>),
            ..self
        }
    }

    /// It answers text of that type of content.
    pub(super) fn text(self, content: &'static str) -> Self {
        Self {
            answer: Answer::Text(content),
            ..self
        }
    }
}

impl Routes {
    /// `GET`, of a path such as `/v1/ports/{name}`: a reader may do it, too.
    pub(super) fn get<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        self.add((Method::GET, MethodFilter::GET), path, handler, about)
    }

    /// `POST`: for writers.
    pub(super) fn post<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        self.add((Method::POST, MethodFilter::POST), path, handler, about)
    }

    /// `PUT`: for writers.
    pub(super) fn put<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        self.add((Method::PUT, MethodFilter::PUT), path, handler, about)
    }

    /// `PATCH`: for writers.
    pub(super) fn patch<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        self.add((Method::PATCH, MethodFilter::PATCH), path, handler, about)
    }

    /// `DELETE`: for writers.
    pub(super) fn delete<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        self.add((Method::DELETE, MethodFilter::DELETE), path, handler, about)
    }

    fn add<H, T>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        handler: H,
        about: About,
    ) -> Self
    where
        H: Handler<T, Desk>,
        T: 'static,
    {
        let terms = Terms::of(&about);
        let heed = move |request: Request, next: Next| heed(terms.clone(), request, next);
        self.0.push(Route {
            method,
            path,
            about,
            handler: on(filter, handler).route_layer(from_fn(heed)),
        });
        self
    }

    /// These and another resource's.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// The router. What leads to none of them is refused in words.
    pub(super) fn into_router(self) -> axum::Router<Desk> {
        let add =
            |router: axum::Router<Desk>, route: Route| router.route(route.path, route.handler);
        let router = self.0.into_iter().fold(axum::Router::new(), add);
        router
            .fallback(unknown)
            .method_not_allowed_fallback(other_method)
    }
}

/// Refuses what the route's description has not.
async fn heed(terms: Terms, request: Request, next: Next) -> Response {
    match terms.broken(&request) {
        Some(error) => turn_away(request, StatusCode::BAD_REQUEST, &error).await,
        None => next.run(request).await,
    }
}

async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    let error = format!("there is no {path:.200}: GET /v1/openapi.json tells what there is");
    turn_away(request, StatusCode::NOT_FOUND, &error).await
}

async fn other_method(request: Request) -> Response {
    let path = request.uri().path();
    let error = format!(
        "{path:.200} knows no {:.20}: the header Allow tells what it knows",
        request.method().as_str()
    );
    turn_away(request, StatusCode::METHOD_NOT_ALLOWED, &error).await
}
