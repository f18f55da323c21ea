//! Events as they happen: `GET /v1/events`, server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! In: from which number on. Out: a stream without end: events as JSON, `lost` with a count for who is too slow, a
//! comment when nothing happens. Never: more than [`STREAMS`] of them, or than [`SHARE`] of
//! one caller's; a queue for a client: each reads from the ring
//! when it can take more; a wake-up of the control core's making.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::{Channel, Sender};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::answer::plain;
use super::asked::Asked;
use super::caller::Caller;
use super::crowd::{Crowd, Whose};
use super::routes::{About, Routes};
use crate::events::{Batch, EVENTS, Ring};

/// Streams that are open at once.
const STREAMS: usize = 256;
/// Of them, those of one caller.
const SHARE: usize = 64;
static STREAMING: LazyLock<Crowd> = LazyLock::new(|| Crowd::new(STREAMS, SHARE));

/// How often a stream looks for news. Nobody who tells an event has to wake those who follow.
const LOOK: Duration = Duration::from_millis(200);
/// How often a stream says that it is there, while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long has its stream ended.
const STALLED: Duration = Duration::from_secs(30);
/// Events in a chunk.
const BATCH: usize = 64;

pub(super) fn routes() -> Routes {
    let about = About::new("What happens, as server-sent events; `lost` says how many are missing");
    Routes::default().get(
        "/v1/events",
        events,
        about.query::<EventsQuery>().text("text/event-stream"),
    )
}

/// The query of `GET /v1/events`. Without one, and without the header `Last-Event-ID`, a stream begins with what
/// happens next.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
struct EventsQuery {
    /// Begin behind the event of this number; 0: with all that are kept.
    since: Option<u64>,
    /// Begin with so many of the last ones.
    last: Option<u64>,
}

async fn events(
    Asked(query): Asked<EventsQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let Some(place) = STREAMING.place(Whose::of(&caller)) else {
        let error = format!(
            "{SHARE} streams of events of this user, or {STREAMS} of all, are open: end one of them, or try again"
        );
        return plain(StatusCode::SERVICE_UNAVAILABLE, &error);
    };
    let last_id = headers.get("last-event-id");
    let last_id = last_id.and_then(|value| value.to_str().ok());
    let begin = Begin::of(query, last_id, &EVENTS);
    let (sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let _place = place;
        follow(&EVENTS, begin, HEARTBEAT, sender).await;
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::new(body)).into_response()
}

/// Where a stream begins.
#[derive(Debug, PartialEq, Eq)]
struct Begin {
    /// Behind this number.
    behind: u64,
    /// The client followed another run of the program, which has ended.
    is_anew: bool,
}

impl Begin {
    fn of(query: EventsQuery, last_id: Option<&str>, ring: &Ring) -> Self {
        let known = last_id.and_then(|id| {
            let (run, number) = id.split_once('-')?;
            Some((run.parse::<u64>().ok()?, number.parse::<u64>().ok()?))
        });
        let (behind, is_anew) = match (known, query) {
            (Some((run, number)), _) if run == ring.run() => (number, false),
            (Some(_), _) => (0, true),
            (
                None,
                EventsQuery {
                    since: Some(it), ..
                },
            ) => (it, false),
            (None, EventsQuery { last, .. }) => {
                (ring.last().saturating_sub(last.unwrap_or_default()), false)
            }
        };
        Self { behind, is_anew }
    }
}

async fn follow(
    ring: &Ring,
    begin: Begin,
    heartbeat: Duration,
    mut sender: Sender<Bytes, Infallible>,
) {
    let mut behind = begin.behind;
    let mut text = match begin.is_anew {
        true => format!("event: restarted\ndata: {{\"run\":{}}}\n\n", ring.run()),
        // Something at once: the client learns that it is heard.
        false => ": events\n\n".to_owned(),
    };
    let mut said = Instant::now();
    loop {
        let batch = ring.behind(behind, BATCH);
        behind = batch.last;
        write(&mut text, &batch, ring.run());
        if text.is_empty() && said.elapsed() >= heartbeat {
            text.push_str(":\n\n");
        }
        if text.is_empty() {
            sleep(LOOK).await;
            continue;
        }
        let chunk = Bytes::from(std::mem::take(&mut text));
        match timeout(STALLED, sender.send_data(chunk)).await {
            Ok(Ok(())) => said = Instant::now(),
            // It has left, or takes nothing.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn write(text: &mut String, batch: &Batch, run: u64) {
    if batch.lost > 0 {
        // Writing to a String can't fail.
        let _ = write!(text, "event: lost\ndata: {{\"lost\":{}}}\n\n", batch.lost);
    }
    for record in &batch.records {
        let number = record.number;
        let _ = write!(text, "id: {run}-{number}\ndata: {}\n\n", record.json());
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::runtime::Builder;

    use super::*;
    use crate::config::Name;
    use crate::events::{Event, KEPT};

    fn tell(ring: &Ring, port: usize) {
        let port = Name::new(&format!("p{port}")).unwrap();
        ring.push(Event::VmmConnected { port });
    }

    async fn next(body: &mut Channel<Bytes, Infallible>) -> String {
        let frame = body.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_stream_goes_on_where_the_last_one_ended() {
        let ring = Ring::default();
        (0..3).for_each(|port| tell(&ring, port));
        let begin = |query, id: Option<String>| Begin::of(query, id.as_deref(), &ring);
        let behind = |behind, is_anew| Begin { behind, is_anew };
        let none = EventsQuery::default();
        assert_eq!(begin(none, None), behind(3, false));
        let since = EventsQuery {
            since: Some(1),
            ..none
        };
        assert_eq!(begin(since, None), behind(1, false));
        let last = EventsQuery {
            last: Some(2),
            ..none
        };
        assert_eq!(begin(last, None), behind(1, false));
        assert_eq!(
            begin(
                EventsQuery {
                    last: Some(9),
                    ..none
                },
                None
            ),
            behind(0, false)
        );
        let id = |run: u64| Some(format!("{run}-2"));
        assert_eq!(begin(since, id(ring.run())), behind(2, false));
        assert_eq!(begin(none, id(7)), behind(0, true));
        assert_eq!(begin(none, Some("nonsense".into())), behind(3, false));
    }

    #[test]
    fn a_client_that_is_too_slow_is_told_how_many_it_has_lost() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let ring: &'static Ring = Box::leak(Box::default());
        runtime.block_on(async {
            let (sender, mut body) = Channel::new(1);
            let begin = Begin {
                behind: 0,
                is_anew: true,
            };
            let stream = tokio::spawn(follow(ring, begin, LOOK, sender));
            let hello = next(&mut body).await;
            assert!(
                hello.starts_with("event: restarted\ndata: {\"run\":"),
                "{hello}"
            );
            tell(ring, 1);
            let first = next(&mut body).await;
            let id = format!("id: {}-1\ndata: {{", ring.run());
            assert!(first.starts_with(&id), "{first}");
            // Nothing happens.
            assert_eq!(next(&mut body).await, ":\n\n");
            // As many causes as are told apart, and some.
            (0..KEPT / 2).for_each(|port| tell(ring, port));
            let mut numbers = Vec::new();
            while numbers.last() != Some(&ring.last()) {
                let text = next(&mut body).await;
                assert!(text.len() < 64 * 300, "{}", text.len());
                let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
                numbers.extend(ids.map(|id| id.split_once('-').unwrap().1.parse::<u64>().unwrap()));
            }
            assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]));
            drop(body);
            stream.await.unwrap();
        });
        let lost = Batch {
            lost: 5,
            records: Vec::new(),
            last: 5,
        };
        let mut text = String::new();
        write(&mut text, &lost, 1);
        assert_eq!(text, "event: lost\ndata: {\"lost\":5}\n\n");
    }
}
