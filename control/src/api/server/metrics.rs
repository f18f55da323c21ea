//! Metrics for Prometheus: `GET /metrics`, on the control socket and, if configured, on TCP.
//!
//! In: what a reader accepts. Out: the text in chunks, as fast as the reader takes them. Never: more than [`AT_ONCE`] looks
//! at the engine at once, or more than [`TEXTS`] on their way, by one kind of [`Scrapes`]; a kind that waits for another's;
//! a text that ends early and looks whole.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::{Channel, Sender};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::answer::{failed, late, plain, unavailable};
use super::crowd::{Crowd, Place, Whose};
use super::desk::{Desk, PATIENCE};
use super::routes::{About, Routes};
use super::turns::{Turn, Turns};
use crate::api::{Audience, Requester};
use crate::metrics::{self, Form, Gone};
use crate::report::Survey;

/// The engine is looked at so often at once.
const AT_ONCE: usize = 2;

/// Of 100,000 peers each holds some 10 MB, until its reader has it.
const TEXTS: usize = 16;

/// Of them, those of one user or address.
const SHARE: usize = TEXTS / 2;

/// Who reads metrics by one way in: over TCP, or as one of a role. Each has its own, so that none is refused for what
/// others fill.
#[derive(Clone, Debug)]
pub(super) struct Scrapes {
    turns: Turns,
    texts: Crowd,
}

impl Default for Scrapes {
    fn default() -> Self {
        Self {
            turns: Turns::new(AT_ONCE),
            texts: Crowd::new(TEXTS, SHARE),
        }
    }
}

/// A reader that takes nothing for so long is cut off.
const UNREAD: Duration = Duration::from_secs(5);

/// Chunks of some KiB that wait for a slow reader.
const CHUNKS: usize = 2;

pub(super) fn routes() -> Routes {
    let about = About::new("Metrics, for Prometheus; as OpenMetrics for those who accept that");
    Routes::default().get("/metrics", of_desk, about.text("text/plain"))
}

async fn of_desk(desk: Desk, headers: HeaderMap) -> Response {
    let (scrapes, whose) = (&desk.reading().scrapes, desk.whose());
    scrapes
        .answer(desk.requester.clone(), whose, &headers, desk.patience)
        .await
}

impl Scrapes {
    /// Reads and writes metrics, when there is room and the turn has come.
    pub(super) async fn answer(
        &self,
        requester: Requester,
        whose: Whose,
        headers: &HeaderMap,
        patience: Duration,
    ) -> Response {
        let end = Instant::now() + patience;
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        let form = Form::accepted(accept.unwrap_or_default());
        let Some(place) = self.texts.place(whose.clone()) else {
            let error =
                "too many metrics of this reader, or of all, are on their way: read them first";
            return plain(StatusCode::SERVICE_UNAVAILABLE, error);
        };
        let Some(turn) = self.turns.turn(whose, end).await else {
            let error = "others are answered, and take long: try again";
            return plain(StatusCode::SERVICE_UNAVAILABLE, error);
        };
        taken(requester, form, (place, turn), end).await
    }
}

/// Reads metrics; for a client that leaves meanwhile no more is read.
async fn taken(
    requester: Requester,
    form: Form,
    (place, turn): (Place, Turn),
    end: Instant,
) -> Response {
    let audience = Audience::default();
    let _seat = audience.seat();
    let requester = requester.for_audience(&audience);
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
    use crate::api::{self, SendError};

    #[test]
    fn who_asks_an_engine_that_does_not_answer_is_told_so_and_takes_a_turn_meanwhile() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (requester, requests) = api::channel().unwrap();
        runtime.block_on(async {
            let none = HeaderMap::new();
            let patience = Duration::from_millis(5);
            let (scrapes, others) = (Scrapes::default(), Scrapes::default());
            let scrape = async |scrapes: &Scrapes, user, patience| {
                let whose = Whose::User(user);
                let answer = scrapes.answer(requester.clone(), whose, &none, patience);
                let response = answer.await;
                let status = response.status();
                let text = to_bytes(response.into_body(), 1 << 20).await.unwrap();
                (status, String::from_utf8(text.into()).unwrap())
            };
            for _ in 0..AT_ONCE {
                let (status, _) = scrape(&scrapes, 7, patience).await;
                assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
            }
            let (status, text) = scrape(&scrapes, 7, patience).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(
                text.starts_with("{\"error\":\"others are answered"),
                "{text}"
            );
            // Who comes by another way has its turn.
            let (status, _) = scrape(&others, 7, patience).await;
            assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
            // The threads that wait end with the engine.
            drop(requests);
            let (status, _) = scrape(&scrapes, 7, PATIENCE).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        });
    }

    #[test]
    fn who_does_not_read_what_it_asked_for_keeps_no_other_from_asking() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (requester, requests) = api::channel().unwrap();
        drop(requests);
        runtime.block_on(async {
            let (none, scrapes) = (HeaderMap::new(), Scrapes::default());
            let held: Vec<_> = (0..TEXTS)
                .map_while(|_| scrapes.texts.place(Whose::User(7)))
                .collect();
            assert_eq!(held.len(), SHARE);
            let error = async |user| {
                let whose = Whose::User(user);
                let answer = scrapes.answer(requester.clone(), whose, &none, PATIENCE);
                let text = to_bytes(answer.await.into_body(), 1 << 20).await.unwrap();
                String::from_utf8(text.into()).unwrap()
            };
            assert!(error(7).await.contains("too many metrics of this reader"));
            assert!(error(0).await.contains(&SendError::Ended.to_string()));
        });
    }
}
