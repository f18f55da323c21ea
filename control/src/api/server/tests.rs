//! Whose turn it is, with an engine that answers nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::{self, Query, Request};
use axum::http::StatusCode;
use axum::response::Response;

use super::apply::apply;
use super::config::configuration;
use super::desk::{APPLIES, Desk, PATIENCE, READERS};
use super::routes::{About, Routes};
use super::{BODY, router};
use crate::api::bodies::{ApplyBody, ConfigQuery, Refusal};
use crate::api::{self, Requests, SendError};
use crate::state::State;

/// With so much patience, and an engine that answers nothing.
fn desk(patience: Duration) -> (Desk, Requests) {
    let (requester, requests) = api::channel().unwrap();
    let desk = Desk {
        patience,
        ..Desk::new(requester, Arc::new(|_| Ok(State::default())))
    };
    (desk, requests)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

async fn told(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let text = body::to_bytes(response.into_body(), BODY).await;
    let refusal: Refusal = serde_json::from_slice(&text.unwrap()).unwrap();
    (status, refusal.error)
}

fn config(desk: &Desk) -> impl Future<Output = Response> + use<> {
    configuration(extract::State(desk.clone()), Query(ConfigQuery::default()))
}

#[test]
fn who_waits_for_a_turn_is_told_so() {
    let (desk, requests) = desk(Duration::from_millis(5));
    runtime().block_on(async {
        let readers = u32::try_from(READERS).unwrap();
        let turns = Arc::clone(&desk.readers).acquire_many_owned(readers).await;
        let (status, error) = told(config(&desk).await).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(error.starts_with("others are answered"), "{error}");
        drop(turns);
        let (status, error) = told(config(&desk).await).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert!(error.starts_with("the engine did not answer"), "{error}");
        // Its thread waits still, and so has its turn.
        assert_eq!(desk.readers.available_permits(), READERS - 1);
        drop(requests);
    });
}

/// Each holds a text, and the wait for the engine.
#[test]
fn so_many_applies_wait_and_no_more() {
    let (desk, requests) = desk(PATIENCE);
    let small = ApplyBody {
        path: "test.yaml".into(),
        text: "version: 1\nnetworks: {}\n".into(),
        ..ApplyBody::default()
    };
    let small = serde_json::to_vec(&small).unwrap();
    let ask = |body: Vec<u8>| {
        let request = Request::new(Body::from(body));
        apply(extract::State(desk.clone()), request)
    };
    runtime().block_on(async {
        let waiting: Vec<_> = (0..APPLIES)
            .map(|_| tokio::spawn(ask(small.clone())))
            .collect();
        while desk.applies.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let (status, error) = told(ask(vec![b'x'; 1 << 20]).await).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(error.starts_with("another apply is under way"), "{error}");
        drop(requests);
        for apply in waiting {
            let (_, error) = told(apply.await.unwrap()).await;
            assert_eq!(error, SendError::Ended.to_string());
        }
        assert_eq!(desk.applies.available_permits(), APPLIES);
    });
}

async fn asked(desk: &Desk, method: &str, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path);
    let mut router = router(desk.clone());
    let request = request.body(Body::empty()).unwrap();
    tower_service::Service::call(&mut router, request)
        .await
        .unwrap()
}

/// A client that reads JSON reads every refusal.
#[test]
fn what_is_no_route_is_refused_in_words() {
    let (desk, _requests) = desk(PATIENCE);
    runtime().block_on(async {
        let (status, error) = told(asked(&desk, "GET", "/v2/x").await).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(error.starts_with("there is no /v2/x"), "{error}");
        let response = asked(&desk, "DELETE", "/v1/config").await;
        let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
        assert_eq!(allowed, "GET,HEAD");
        let (status, error) = told(response).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(error.starts_with("/v1/config knows no DELETE"), "{error}");
    });
}

/// Two resources may have one path and a method each.
#[test]
fn methods_of_one_path_may_come_from_two_files() {
    async fn nothing() {}
    let one = Routes::default().get("/x/{name}", nothing, About::new("One"));
    let two = Routes::default().delete("/x/{name}", nothing, About::new("Two"));
    let _ = one.merge(two).into_router();
}
