//! Single objects: `PUT`, `PATCH` and `DELETE` of `/v1/ports/NAME` and `/v1/tunnels/NAME/peers/NAME`, `PUT` and `DELETE` of
//! `/v1/networks/NAME/routes/PREFIX`, and what was laid down so: `GET /v1/layer`, `DELETE` of the same below `/v1/layer`.
//!
//! In: an object's keys, as a file has them, in JSON or YAML. Out: what changed; or why nothing did. Never: more of
//! them at once than wait for the disk; a path that is opened.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use zeroize::{Zeroize as _, Zeroizing};

use super::answer::{failed, json, late, mistaken, plain, refused, unavailable};
use super::apply::user;
use super::asked::{Asked, Named};
use super::desk::{self, Desk};
use super::routes::{About, Routes};
use crate::config::object::{self, Keys};
use crate::config::{IpNet, Name};
use crate::events::Event;
use crate::layer::{self, Act, Refused, Wish, secrets, told};
use crate::plan::api::Object;
use crate::state::Applied;

/// How long a change may take: it waits for those before it, and for a file that is applied.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Routes {
    let one = |summary| {
        About::new(summary)
            .query::<told::Query>()
            .answer::<Applied>()
    };
    Routes::default()
        .get(
            "/v1/layer",
            show,
            About::new("What was laid over the file for single objects").answer::<told::Text>(),
        )
        .delete(
            "/v1/layer/ports/{name}",
            forget_port,
            About::new("Have the file alone count for a port").answer::<Applied>(),
        )
        .put(
            "/v1/ports/{name}",
            put_port,
            one("Have a port be what the keys say, beside the file").body_or_none::<Keys>(),
        )
        .patch(
            "/v1/ports/{name}",
            set_port,
            one("Lay keys over a port; null is the default").body_or_none::<Keys>(),
        )
        .delete(
            "/v1/ports/{name}",
            delete_port,
            one("Remove a port that the file has not"),
        )
        .delete(
            "/v1/layer/tunnels/{tunnel}/peers/{name}",
            forget_peer,
            About::new("Have the file alone count for a peer").answer::<Applied>(),
        )
        .put(
            "/v1/tunnels/{tunnel}/peers/{name}",
            put_peer,
            one("Have a peer be what the keys say, beside the file").body_or_none::<PeerKeys>(),
        )
        .patch(
            "/v1/tunnels/{tunnel}/peers/{name}",
            set_peer,
            one("Lay keys over a peer; null is the default").body_or_none::<PeerKeys>(),
        )
        .delete(
            "/v1/tunnels/{tunnel}/peers/{name}",
            delete_peer,
            one("Remove a peer that the file has not"),
        )
        .delete(
            "/v1/layer/uplinks/{name}",
            forget_uplink,
            About::new("Have the file alone count for an uplink").answer::<Applied>(),
        )
        .patch(
            "/v1/uplinks/{name}",
            set_uplink,
            one("Switch an uplink on or off: `enabled`").body_or_none::<Keys>(),
        )
        .delete(
            "/v1/layer/networks/{network}/routes/{prefix}",
            forget_route,
            About::new("Have the file alone count for a route").answer::<Applied>(),
        )
        .put(
            "/v1/networks/{network}/routes/{prefix}",
            put_route,
            one("Have a route lead where the keys say: `peer`, `via` or `unreachable`")
                .body::<Keys>(),
        )
        .delete(
            "/v1/networks/{network}/routes/{prefix}",
            delete_route,
            one("Remove a route that the file has not"),
        )
}

/// A peer's keys, as a file has them, and one that a file has not.
#[derive(JsonSchema)]
#[schemars(rename = "PeerKeys")]
#[expect(dead_code, reason = "it describes what is read as keys of any kind")]
struct PeerKeys {
    /// A key shared with the peer, in base64. It is kept, and told to nobody: where it would stand there is `(hidden)`,
    /// which stands for the one that is kept.
    #[schemars(extend("writeOnly" = true))]
    preshared_key: Option<String>,
    #[serde(flatten)]
    #[schemars(flatten)]
    keys: Keys,
}

async fn show(desk: Desk) -> Response {
    let requester = desk.requester.clone();
    let work = move || match desk::desired(&requester) {
        Ok(desired) => json(&told::Text::of(desired.api())),
        Err(error) => unavailable(error),
    };
    desk.in_turn(work).await
}

/// How keys are put down.
fn put(query: told::Query) -> Act {
    match (query.may_exist, query.new) {
        (true, _) => Act::Add { may_exist: true },
        (false, true) => Act::Add { may_exist: false },
        (false, false) => Act::Put,
    }
}

fn set(query: told::Query) -> Act {
    Act::Set {
        if_exists: query.if_exists,
    }
}

fn delete(query: told::Query) -> Act {
    Act::Delete {
        if_exists: query.if_exists,
    }
}

async fn put_port(
    desk: Desk,
    Named(name): Named<String>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, port(&name), put(query), request).await
}

async fn set_port(
    desk: Desk,
    Named(name): Named<String>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, port(&name), set(query), request).await
}

async fn delete_port(
    desk: Desk,
    Named(name): Named<String>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, port(&name), delete(query), request).await
}

async fn forget_port(desk: Desk, Named(name): Named<String>, request: Request) -> Response {
    fulfil(desk, port(&name), Act::Forget, request).await
}

async fn set_uplink(
    desk: Desk,
    Named(name): Named<String>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, uplink(&name), set(query), request).await
}

async fn forget_uplink(desk: Desk, Named(name): Named<String>, request: Request) -> Response {
    fulfil(desk, uplink(&name), Act::Forget, request).await
}

async fn put_peer(
    desk: Desk,
    Named(names): Named<(String, String)>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, peer(&names), put(query), request).await
}

async fn set_peer(
    desk: Desk,
    Named(names): Named<(String, String)>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, peer(&names), set(query), request).await
}

async fn delete_peer(
    desk: Desk,
    Named(names): Named<(String, String)>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, peer(&names), delete(query), request).await
}

async fn forget_peer(
    desk: Desk,
    Named(names): Named<(String, String)>,
    request: Request,
) -> Response {
    fulfil(desk, peer(&names), Act::Forget, request).await
}

async fn put_route(
    desk: Desk,
    Named(names): Named<(String, String)>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, route(&names), put(query), request).await
}

async fn delete_route(
    desk: Desk,
    Named(names): Named<(String, String)>,
    Asked(query): Asked<told::Query>,
    request: Request,
) -> Response {
    fulfil(desk, route(&names), delete(query), request).await
}

async fn forget_route(
    desk: Desk,
    Named(names): Named<(String, String)>,
    request: Request,
) -> Response {
    fulfil(desk, route(&names), Act::Forget, request).await
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).ok_or_else(|| {
        format!(
            "no name: expected 1 to {} letters, digits, `.`, `_` or `-`, beginning with a letter, a digit or `_`",
            Name::MAX_LEN
        )
    })
}

fn port(text: &str) -> Result<Object, String> {
    name(text).map(Object::Port)
}

fn uplink(text: &str) -> Result<Object, String> {
    name(text).map(Object::Uplink)
}

fn peer((tunnel, peer): &(String, String)) -> Result<Object, String> {
    Ok(Object::Peer(name(tunnel)?, name(peer)?))
}

fn route((network, to): &(String, String)) -> Result<Object, String> {
    let alone = || to.parse::<IpAddr>().map(IpNet::from);
    let net = to.parse::<IpNet>().or_else(|_| alone());
    let net = net.map_err(|_| format!("{to:.80} is no prefix: expected one as in 10.2.0.0/16"))?;
    Ok(Object::Route(name(network)?, net.trunc()))
}

async fn fulfil(
    desk: Desk,
    object: Result<Object, String>,
    act: Act,
    request: Request,
) -> Response {
    let object = match object {
        Ok(object) => object,
        Err(error) => return plain(StatusCode::UNPROCESSABLE_ENTITY, &error),
    };
    let body = match desk.lines(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let end = Instant::now() + PATIENCE;
    let Some(turn) = desk.changes.turn(desk.whose(), end).await else {
        let error = "other changes are under way, and take long: try again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let working = spawn_blocking(move || {
        let _turn = turn;
        answer(&desk, object, act, body)
    });
    match timeout_at(end, working).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the change could not be made"),
        Err(_) => late("the change takes long, and goes on"),
    }
}

fn answer(desk: &Desk, object: Object, act: Act, body: Bytes) -> Response {
    // Parts of a text are copied as it is read, and keys have one place: they are taken out first.
    let mut text = Zeroizing::new(body.to_vec());
    wipe(body);
    let taken = secrets::take(&mut text);
    let Ok(text) = str::from_utf8(&text) else {
        return plain(StatusCode::BAD_REQUEST, "the body is no text");
    };
    let keys = object::keys(text, &object.to_string()).and_then(|mut keys| {
        let preshared_key = secrets::given(&mut keys, taken, &object)?;
        Ok((keys, preshared_key))
    });
    let (keys, preshared_key) = match keys {
        Ok(keys) => keys,
        Err(report) => return mistaken(&report),
    };
    let wish = Wish {
        object,
        act,
        keys,
        preshared_key,
        uplink: desk.caller.as_ref().and_then(|it| it.uplink.clone()),
    };
    match layer::fulfil(&desk.requester, &wish) {
        Ok(applied) => {
            tell(desk, &wish, &applied);
            json(&applied)
        }
        Err(Refused::Mistakes(report)) => mistaken(&report),
        Err(Refused::Missing(error)) => plain(StatusCode::NOT_FOUND, &error),
        Err(Refused::Conflict(error)) => plain(StatusCode::CONFLICT, &error),
        Err(Refused::NotKept(error)) => plain(StatusCode::INSUFFICIENT_STORAGE, &error),
        Err(Refused::Engine(error)) => refused(error),
    }
}

/// Tells of a change, once it is carried out and kept.
fn tell(desk: &Desk, wish: &Wish, applied: &Applied) {
    // Nothing was to be done.
    if *applied == Applied::default() {
        return;
    }
    let event = Event::LayerChanged {
        object: wish.object.to_string(),
        act: word(wish),
        user: user(desk.caller.as_ref()),
    };
    event.tell();
}

fn word(wish: &Wish) -> &'static str {
    let enabled = wish.keys.get("enabled").filter(|_| wish.keys.len() == 1);
    match wish.act {
        Act::Add { .. } => "added",
        Act::Put => "put",
        Act::Set { .. } => {
            match enabled.map(|it| it.as_str().map_or(*it == true, |it| it == "true")) {
                None => "set",
                Some(true) => "up",
                Some(false) => "down",
            }
        }
        Act::Delete { .. } => "deleted",
        Act::Forget => "forgotten",
    }
}

/// What nobody else holds is wiped; what lies in a buffer with more of its connection is written over by that.
fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        body.zeroize();
    }
}
