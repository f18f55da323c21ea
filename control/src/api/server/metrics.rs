//! Metrics for Prometheus: `GET /metrics`, on the control socket and, if configured, on TCP.
//!
//! In: what a reader accepts. Out: the text in chunks, as fast as the reader takes them. Never: more than [`SCRAPES`] looks
//! at the engine at once, or more than [`TEXTS`] on their way; a text that ends early and looks whole.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::{Channel, Sender};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::answer::{failed, late, plain, unavailable};
use super::desk::{Desk, PATIENCE};
use super::routes::{About, Routes};
use crate::api::Requester;
use crate::metrics::{self, Form, Gone};
use crate::report::Survey;

/// The engine is looked at so often at once.
const AT_ONCE: usize = 2;
static SCRAPES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Of 100,000 peers each holds some 10 MB, until its reader has it: more than one TCP address has connections.
static TEXTS: Semaphore = Semaphore::const_new(16);

/// A reader that takes nothing for so long is cut off.
const UNREAD: Duration = Duration::from_secs(5);

/// Chunks of some KiB that wait for a slow reader.
const CHUNKS: usize = 2;

pub(super) fn routes() -> Routes {
    let about = About::new("Metrics, for Prometheus; as OpenMetrics for those who accept that");
    Routes::default().get("/metrics", of_desk, about.text("text/plain"))
}

async fn of_desk(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    scrape(desk.requester, &headers, desk.patience).await
}

pub(super) async fn scrape(
    requester: Requester,
    headers: &HeaderMap,
    patience: Duration,
) -> Response {
    let end = Instant::now() + patience;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let form = Form::accepted(accept.unwrap_or_default());
    let turn = async { Some((TEXTS.acquire().await.ok()?, SCRAPES.acquire().await.ok()?)) };
    let Ok(Some((place, turn))) = timeout_at(end, turn).await else {
        let error = "others are answered, and take long: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    // Whoever gave up waiting has a turn as long as its thread waits.
    let taking = spawn_blocking(move || {
        let _turn = turn;
        (place, Survey::take(&requester))
    });
    let (place, survey) = match timeout_at(end, taking).await {
        Ok(Ok((place, Ok(survey)))) => (place, survey),
        Ok(Ok((_, Err(error)))) => return unavailable(error),
        Ok(Err(_)) => return failed("the metrics could not be read"),
        Err(_) => return late("the engine did not answer in time: try again"),
    };
    let (sender, body) = Channel::<Bytes, io::Error>::new(CHUNKS);
    spawn_blocking(move || {
        let _place = place;
        send(&survey, form, sender, Instant::now() + PATIENCE);
    });
    ([(CONTENT_TYPE, form.content_type())], Body::new(body)).into_response()
}

/// Writes the text as it is taken. A reader that is too slow is cut off, and told so by the missing end of the body.
fn send(survey: &Survey, form: Form, mut sender: Sender<Bytes, io::Error>, end: Instant) {
    let runtime = Handle::current();
    let mut put = |chunk: String| {
        let end = end.min(Instant::now() + UNREAD);
        let sent = timeout_at(end, sender.send_data(chunk.into()));
        match runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    };
    if metrics::write(survey, form, &mut put).is_err() {
        sender.abort(io::ErrorKind::TimedOut.into());
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::runtime::Builder;

    use super::*;
    use crate::api;

    #[test]
    fn who_asks_an_engine_that_does_not_answer_is_told_so_and_takes_a_turn_meanwhile() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (requester, requests) = api::channel().unwrap();
        runtime.block_on(async {
            let none = HeaderMap::new();
            let patience = Duration::from_millis(5);
            for _ in 0..AT_ONCE {
                let response = scrape(requester.clone(), &none, patience).await;
                assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
            }
            let response = scrape(requester.clone(), &none, patience).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            let text = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            assert!(text.starts_with(b"{\"error\":\"others are answered"));
            // The threads that wait end with the engine.
            drop(requests);
            let response = scrape(requester.clone(), &none, PATIENCE).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        });
    }
}
