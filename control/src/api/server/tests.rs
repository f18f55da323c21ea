//! Whose turn it is, with an engine that answers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::unavailable;
use super::apply::{apply, carried_out};
use super::asked::Asked;
use super::caller::Caller;
use super::config::configuration;
use super::connection;
use super::desk::{APPLIES, Desk, PATIENCE, READERS, desired};
use super::router;
use super::routes::{About, Routes};
use crate::api::bodies::{ApplyBody, ConfigQuery, Refusal};
use crate::api::{self, Requests, SendError};
use crate::config::{self, Role};
use crate::plan::Layers;

/// With so much patience, and an engine that answers nothing.
fn desk(patience: Duration) -> (Desk, Requests) {
    let (requester, requests) = api::channel().unwrap();
    let desk = Desk {
        patience,
        ..Desk::new(requester.clone(), Arc::new(requester))
    };
    (desk, requests)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

async fn told(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let text = body::to_bytes(response.into_body(), usize::MAX).await;
    let refusal: Refusal = serde_json::from_slice(&text.unwrap()).unwrap();
    (status, refusal.error)
}

fn configured(desk: &Desk) -> impl Future<Output = Response> + use<> {
    configuration(desk.for_client(), Asked(ConfigQuery::default()))
}

#[test]
fn who_waits_for_a_turn_is_told_so() {
    let (desk, requests) = desk(Duration::from_millis(5));
    runtime().block_on(async {
        let mut turns = Vec::new();
        for _ in 0..READERS {
            turns.push(desk.readers.turns.turn(desk.whose(), Instant::now()).await);
        }
        let (status, error) = told(configured(&desk).await).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(error.starts_with("others are answered"), "{error}");
        drop(turns);
        let (status, error) = told(configured(&desk).await).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert!(error.starts_with("the engine did not answer"), "{error}");
        // Its thread waits still, and so has its turn.
        assert_eq!(desk.readers.turns.free(), READERS - 1);
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
        apply(desk.clone(), request)
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
        // Behind its answer each gives memory back first.
        while desk.applies.available_permits() < APPLIES {
            tokio::task::yield_now().await;
        }
    });
}

async fn asked(desk: &Desk, method: &str, path: &str, role: Option<Role>) -> Response {
    let caller = role.map(|role| Caller::local(0, None, role));
    let request = Request::builder().method(method).uri(path);
    let request = match caller {
        Some(caller) => request.extension(caller),
        None => request,
    };
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
    let writer = Some(Role::Write);
    runtime().block_on(async {
        let (status, error) = told(asked(&desk, "GET", "/v2/x", writer).await).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(error.starts_with("there is no /v2/x"), "{error}");
        let response = asked(&desk, "DELETE", "/v1/config", writer).await;
        let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
        assert_eq!(allowed, "GET,HEAD");
        let (status, error) = told(response).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(error.starts_with("/v1/config knows no DELETE"), "{error}");
    });
}

/// Whatever a client sends: it reads JSON.
#[test]
fn rubbish_is_refused_in_words_on_every_route() {
    let (desk, requests) = desk(PATIENCE);
    drop(requests);
    let rubbish = [
        ("%ff", "?since=x&limit=x&drift=x&to=x&new=x&state=x", "{"),
        ("x", "?%ff=%ff&=&&limit", "\u{1}"),
        ("-1", "?last=-1", "{\"filter\": 7}"),
    ];
    runtime().block_on(async {
        for (name, query, body) in rubbish {
            for route in super::routes().iter() {
                let mut path = route.path.to_owned();
                while let Some((before, rest)) = path.split_once('{') {
                    path = format!("{before}{name}{}", rest.split_once('}').unwrap().1);
                }
                let request = Request::builder().method(&route.method);
                let request = request.uri(format!("{path}{query}"));
                let request = request.extension(Caller::local(0, None, Role::Write));
                let mut router = router(desk.clone());
                let request = request.body(Body::from(body)).unwrap();
                let response = tower_service::Service::call(&mut router, request).await;
                let response = response.unwrap();
                if !response.status().is_success() {
                    let (_, error) = told(response).await;
                    assert!(!error.is_empty(), "{route:?}");
                }
                if name == "%ff" && route.path.contains('{') {
                    let response = asked(&desk, route.method.as_str(), &path, Some(Role::Write));
                    let (status, _) = told(response.await).await;
                    assert_eq!(status, StatusCode::BAD_REQUEST, "{route:?}");
                }
            }
        }
    });
}

/// A misspelled word is said, not passed over: on every route, by the description.
#[test]
fn a_request_says_what_its_route_describes_and_nothing_else() {
    let (desk, requests) = desk(PATIENCE);
    drop(requests);
    let refused = async |method: &str, path: &str, body: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.extension(Caller::local(0, None, Role::Write));
        let mut router = router(desk.clone());
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = tower_service::Service::call(&mut router, request).await;
        let (status, error) = told(response.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {path}: {error}");
        error
    };
    runtime().block_on(async {
        for route in super::routes().iter() {
            let path = route.path.replace(['{', '}'], "");
            let method = route.method.as_str();
            let error = refused(method, &format!("{path}?nonesuch=1"), "").await;
            assert!(
                error.contains("`nonesuch` is unknown"),
                "{route:?}: {error}"
            );
            if route.about.body.is_none() {
                let error = refused(method, &path, "{}").await;
                assert_eq!(error, "the body: none is expected here", "{route:?}");
            }
        }
        let error = refused("GET", "/v1/config?drift=true&drfit=true", "").await;
        let expected = "the query: `drfit` is unknown: expected `drift` or `path_only`";
        assert_eq!(error, expected);
        let error = refused("GET", "/v1/ports?limit=1&limit=2", "").await;
        assert_eq!(error, "the query: `limit` stands there more than once");
        let error = refused("GET", "/v1/ports?limit=ten", "").await;
        assert_eq!(error, "the query: limit: invalid digit found in string");
        let error = refused("GET", "/v1/routes/get?to=nowhere", "").await;
        assert!(error.contains("invalid IP address"), "{error}");
        let error = refused("GET", "/v1/log?x", "").await;
        assert_eq!(error, "the query: `x` is unknown: no key is expected here");
        let error = refused("PUT", "/v1/log", "{\"filter\": \"info\", \"level\": 1}").await;
        assert!(
            error.contains("unknown field `level`, expected `filter`"),
            "{error}"
        );
        let error = refused(
            "PUT",
            "/v1/log",
            "{\"filter\": \"info\", \"filter\": \"warn\"}",
        )
        .await;
        assert!(error.contains("duplicate field `filter`"), "{error}");
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

#[test]
fn a_reader_changes_nothing() {
    let (desk, requests) = desk(PATIENCE);
    drop(requests);
    runtime().block_on(async {
        for path in ["/v1/apply", "/v1/diff", "/v1/nothing"] {
            let (status, error) = told(asked(&desk, "POST", path, Some(Role::Read)).await).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
            assert!(
                error.contains("by this socket nothing can be changed"),
                "{error}"
            );
        }
        for (sides, status) in [("from=1&to=2", 503), ("from=1&to=x.yaml", 400)] {
            let path = format!("/v1/diff?{sides}");
            let answer = asked(&desk, "GET", &path, Some(Role::Read)).await;
            assert_eq!(answer.status(), status, "{sides}");
        }
        let reads = asked(&desk, "GET", "/v1/openapi.json", Some(Role::Read)).await;
        assert_eq!(reads.status(), StatusCode::OK);
        let (status, _) = told(asked(&desk, "GET", "/v1/openapi.json", None).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "nobody knows who asks");
    });
}

/// Readers who have all of their turns, and bodies that don't end, hold up no writer.
#[test]
fn nobody_waits_for_readers_or_for_slow_bodies() {
    async fn short(desk: Desk) -> Response {
        desk.in_turn(|| Response::new(Body::from("read"))).await
    }
    let (desk, requests) = desk(PATIENCE);
    drop(requests);
    let routes = Routes::default().get("/short", short, About::new("Something short"));
    let router = super::routes().merge(routes).into_router();
    let router = router.with_state(desk.clone());
    runtime().block_on(async {
        let mut turns = Vec::new();
        for _ in 0..READERS {
            turns.push(desk.readers.turns.turn(desk.whose(), Instant::now()).await);
        }
        let ask = |method: &str, path: &str, body: Body| {
            let request = Request::builder().method(method).uri(path);
            let request = request.extension(Caller::local(0, None, Role::Write));
            tower_service::Service::call(&mut router.clone(), request.body(body).unwrap())
        };
        let reads = ask("GET", "/short", Body::empty()).await.unwrap();
        assert_eq!(reads.status(), StatusCode::OK);
        let mut slow = Vec::new();
        for path in ["/v1/apply", "/v1/diff", "/v1/confirm", "/v1/ports/a"] {
            let method = if path.ends_with('a') { "PUT" } else { "POST" };
            for _ in 0..50 {
                slow.push(tokio::spawn(ask(method, path, Body::new(Endless))));
            }
        }
        tokio::task::yield_now().await;
        for (method, path, body) in [
            ("POST", "/v1/confirm", "{}"),
            ("PUT", "/v1/ports/a", ""),
            ("POST", "/v1/diff", "{"),
        ] {
            let answer = ask(method, path, Body::from(body)).await.unwrap();
            let (status, error) = told(answer).await;
            assert!(!error.contains("try again"), "{path}: {status} {error}");
        }
        assert_eq!(desk.applies.available_permits(), APPLIES);
        assert!(slow.iter().all(|it| !it.is_finished()));
    });
}

/// What is read for a client stops when it leaves; what changes something goes on.
#[test]
fn who_leaves_stops_what_is_read_and_nothing_else() {
    static CHANGED: AtomicBool = AtomicBool::new(false);
    async fn read(desk: Desk) -> Response {
        let requester = desk.requester.clone();
        let work = move || {
            loop {
                if let Err(error) = desired(&requester) {
                    return unavailable(error);
                }
            }
        };
        desk.in_turn(work).await
    }
    async fn change(desk: Desk) -> Response {
        carried_out((), move || {
            for _ in 0..1_000 {
                desired(&desk.requester).unwrap();
            }
            CHANGED.store(true, Ordering::Relaxed);
            Response::default()
        })
        .await
    }
    let (desk, requests) = desk(PATIENCE);
    let read = Routes::default().get("/read", read, About::new("Something without an end"));
    let routes = read.get("/change", change, About::new("A change"));
    let router = routes.into_router().with_state(desk.clone());
    let layers = Layers::new(Arc::new(
        config::parse(
            "version: 1\nnetworks: {}\n",
            "c.yaml".as_ref(),
            &config::Disk,
        )
        .unwrap()
        .0,
    ));
    let answers = Arc::new(AtomicUsize::new(0));
    let answered = Arc::clone(&answers);
    let engine = std::thread::spawn(move || {
        while let Some(api::Request::Desired { reply }) = requests.wait(None) {
            answered.fetch_add(1, Ordering::Relaxed);
            reply.send(layers.clone());
        }
    });
    runtime().block_on(async {
        let (_open, closing) = watch::channel(());
        let pause = || tokio::time::sleep(Duration::from_millis(1));
        for path in ["/read", "/change"] {
            let before = answers.load(Ordering::Relaxed);
            let (mut client, stream) = UnixStream::pair().unwrap();
            let caller = Caller::local(0, None, Role::Read);
            let serving = connection::serve(stream, caller, router.clone(), closing.clone());
            let serving = tokio::spawn(serving);
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            while answers.load(Ordering::Relaxed) == before {
                pause().await;
            }
            drop(client);
            serving.await.unwrap();
            while desk.readers.turns.free() < READERS {
                pause().await;
            }
        }
        while !CHANGED.load(Ordering::Relaxed) {
            pause().await;
        }
    });
    desk.requester.send(api::Request::Drain).unwrap();
    engine.join().unwrap();
}

/// More clients than there are turns ask for everything, of which two have no room at once, and read nothing of it.
#[test]
fn who_reads_nothing_keeps_nobody_waiting() {
    const LONG: usize = 33 << 20;
    async fn long(desk: Desk) -> Response {
        let work = || Response::new(Body::from(vec![b'x'; LONG]));
        desk.in_turn(work).await
    }
    let (desk, _requests) = desk(PATIENCE);
    let routes = Routes::default().get("/long", long, About::new("Something long"));
    let router = routes.into_router().with_state(desk);
    runtime().block_on(async {
        let (_open, closing) = watch::channel(());
        let ask = async || {
            let (mut client, stream) = UnixStream::pair().unwrap();
            let caller = Caller::local(0, None, Role::Read);
            let (router, closing) = (router.clone(), closing.clone());
            tokio::spawn(connection::serve(stream, caller, router, closing));
            let request = b"GET /long HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            client.write_all(request).await.unwrap();
            client
        };
        let mut slow = Vec::new();
        for _ in 0..=READERS {
            slow.push(ask().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut text = Vec::new();
        ask().await.read_to_end(&mut text).await.unwrap();
        let head = String::from_utf8_lossy(&text[..200]).into_owned();
        assert!(
            text.len() >= LONG && head.starts_with("HTTP/1.1 200 "),
            "{head}"
        );
        // Those that were thrown away are not whole.
        let mut first = Vec::new();
        let _ = slow.remove(0).read_to_end(&mut first).await;
        assert!(first.len() < LONG, "{}", first.len());
    });
}

/// A text is refused by its announced length, and by what comes without one.
#[test]
fn a_body_has_a_limit_that_is_said() {
    let (desk, _requests) = desk(PATIENCE);
    desk.body_max.store(100, Ordering::Relaxed);
    runtime().block_on(async {
        for body in [Body::from(vec![b' '; 101]), unannounced(101)] {
            let (status, error) = told(apply(desk.clone(), Request::new(body)).await).await;
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
            assert!(
                error.contains("more than 100 bytes: `body_megabytes` of `api`"),
                "{error}"
            );
        }
        let (status, error) = told(apply(desk.clone(), Request::new(unannounced(60))).await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error.starts_with("the body: EOF"), "{error}");
    });
}

/// A body whose length nobody knows before.
fn unannounced(len: usize) -> Body {
    let whole = http_body_util::Full::new(body::Bytes::from(vec![b' '; len]));
    Body::new(http_body_util::BodyExt::boxed_unsync(Unannounced(whole)))
}

/// A body of which nothing comes.
struct Endless;

impl body::HttpBody for Endless {
    type Data = body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

struct Unannounced(http_body_util::Full<body::Bytes>);

impl body::HttpBody for Unannounced {
    type Data = body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}
