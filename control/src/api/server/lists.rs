//! What is, as lists: `GET /v1/ports`, `/v1/peers`, `/v1/tunnels`, `/v1/uplinks`, `/v1/routes`, `/v1/neighbors`,
//! `/v1/cores`, `/v1/drops`; one port, tunnel or uplink by its name.
//!
//! In: which items, and which page. Out: a page. Never: more than [`LIMIT`] items at once.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{json, plain, unavailable};
use super::asked::{Asked, Named};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::api::SendError;
use crate::report::called::Called;
use crate::report::lists::{LIMIT, PAGE, Page, Peers, Window};
use crate::state::{Core, Drop, Neighbor, Peer, Port, Route, Tunnel, Uplink};

pub(super) fn routes() -> Routes {
    let list = |summary| About::new(summary).query::<Listed>();
    let one = About::new;
    Routes::default()
        .get(
            "/v1/ports",
            ports,
            About::new("Ports: link, traffic, drops")
                .query::<PortsListed>()
                .answer::<Page<Port>>(),
        )
        .get("/v1/ports/{name}", port, one("A port").answer::<Port>())
        .get(
            "/v1/peers",
            peers,
            About::new("Peers: endpoint, last handshake, traffic")
                .query::<PeersListed>()
                .answer::<Page<Peer>>(),
        )
        .get(
            "/v1/tunnels",
            tunnels,
            list("Tunnels, without their peers").answer::<Page<Tunnel>>(),
        )
        .get(
            "/v1/tunnels/{name}",
            tunnel,
            one("A tunnel").answer::<Tunnel>(),
        )
        .get(
            "/v1/uplinks",
            uplinks,
            list("Uplinks: link, traffic, drops").answer::<Page<Uplink>>(),
        )
        .get(
            "/v1/uplinks/{name}",
            uplink,
            one("An uplink").answer::<Uplink>(),
        )
        .get(
            "/v1/routes",
            routes_of,
            list("Routes of networks and uplinks; `name` is a table's").answer::<Page<Route>>(),
        )
        .get(
            "/v1/neighbors",
            neighbors,
            list("Neighbors of networks and uplinks; `name` is a place's")
                .answer::<Page<Neighbor>>(),
        )
        .get(
            "/v1/cores",
            cores,
            list("Cores: load, bursts, sleeps").answer::<Page<Core>>(),
        )
        .get(
            "/v1/drops",
            drops,
            list("Drop counters that are not zero; `name` is a scope's").answer::<Page<Drop>>(),
        )
}

/// Which part of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Listed {
    /// Only what has this name.
    name: Option<String>,
    /// Only what is called so, `*` standing for any text, as `culvert show` takes names: routes by their prefix or
    /// network, neighbors by address, place or port, drops by the thing's name or the reason.
    like: Option<String>,
    /// Behind this one: `next` of the page before.
    after: Option<String>,
    /// At most so many, up to 10,000; 1,000 without it.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u32>,
}

/// Which ports.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct PortsListed {
    /// Only what has this name.
    name: Option<String>,
    /// Only what is called so, `*` standing for any text: by their name or their network.
    like: Option<String>,
    /// Only what has this label: `KEY=VALUE`.
    #[schemars(extend("pattern" = "="))]
    label: Option<String>,
    /// Behind this one: `next` of the page before.
    after: Option<String>,
    /// At most so many, up to 10,000; 1,000 without it.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u32>,
}

/// How a peer is doing.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum PeerState {
    Up,
    Calling,
    Silent,
    Unknown,
    Idle,
    Disabled,
}

impl PeerState {
    const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Calling => "calling",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
            Self::Idle => "idle",
            Self::Disabled => "disabled",
        }
    }
}

/// Which peers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct PeersListed {
    /// Of this tunnel.
    tunnel: Option<String>,
    /// Of this name.
    name: Option<String>,
    /// Called so, `*` standing for any text: by their name, their tunnel, TUNNEL/NAME or public key.
    like: Option<String>,
    /// In this state. A page may have fewer peers than `limit` then, and a next one.
    state: Option<PeerState>,
    /// With this label: `KEY=VALUE`.
    #[schemars(extend("pattern" = "="))]
    label: Option<String>,
    /// Behind this one: `next` of the page before.
    after: Option<String>,
    /// At most so many, up to 10,000; 1,000 without it.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u32>,
}

fn window(after: Option<String>, limit: Option<u32>) -> Result<Window, String> {
    let limit = limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if (1..=LIMIT).contains(&limit) {
        return Ok(Window { after, limit });
    }
    Err(format!(
        "the query: `limit` is {limit}, expected 1 to {LIMIT}"
    ))
}

/// A label as a query says it.
fn label(said: Option<String>) -> Result<Option<(String, String)>, String> {
    let Some(said) = said else { return Ok(None) };
    match said.split_once('=') {
        Some((key, value)) => Ok(Some((key.to_owned(), value.to_owned()))),
        None => Err(format!(
            "the query: `label` is {said:.200}, expected KEY=VALUE"
        )),
    }
}

async fn peers(desk: Desk, Asked(asked): Asked<PeersListed>) -> Response {
    let window = match window(asked.after, asked.limit) {
        Ok(window) => window,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
    };
    let label = match label(asked.label) {
        Ok(label) => label,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
    };
    let which = Peers {
        label,
        tunnel: asked.tunnel,
        name: asked.name,
        like: asked.like,
        state: asked.state.map(|state| state.word().to_owned()),
    };
    let read = Arc::clone(&desk.read);
    let work = move || told(read.peers(&which, &window));
    desk.in_turn(work).await
}

fn told(answer: Result<impl Serialize, SendError>) -> Response {
    match answer {
        Ok(answer) => json(&answer),
        Err(error) => unavailable(error),
    }
}

/// All items of a kind.
type All<T> = fn(&Desk) -> Result<Vec<T>, SendError>;

/// A page of those of them that have the name that is asked for.
async fn page<T: Called + Serialize + 'static>(
    desk: Desk,
    asked: Listed,
    all: impl FnOnce(&Desk) -> Result<Vec<T>, SendError> + Send + 'static,
    name: fn(&T) -> &str,
    key: fn(&T) -> String,
) -> Response {
    let window = match window(asked.after, asked.limit) {
        Ok(window) => window,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
    };
    let reader = desk.clone();
    let work = move || {
        let page = all(&reader).map(|mut items| {
            items.retain(|item| {
                let is_named = asked.name.as_ref().is_none_or(|it| it == name(item));
                is_named && asked.like.as_ref().is_none_or(|it| item.is_called(it))
            });
            Page::of(items, &window, key)
        });
        told(page)
    };
    desk.in_turn(work).await
}

/// The one of that name.
async fn one<T: Serialize + 'static>(
    desk: Desk,
    wanted: String,
    kind: &'static str,
    all: All<T>,
    name: fn(&T) -> &str,
) -> Response {
    let reader = desk.clone();
    let work = move || match all(&reader) {
        Ok(items) => match items.iter().find(|item| name(item) == wanted) {
            Some(item) => json(item),
            None => plain(
                StatusCode::NOT_FOUND,
                &format!("there is no {kind} {wanted:.200}"),
            ),
        },
        Err(error) => unavailable(error),
    };
    desk.in_turn(work).await
}

fn all_ports(desk: &Desk) -> Result<Vec<Port>, SendError> {
    desk.read.ports()
}

fn all_uplinks(desk: &Desk) -> Result<Vec<Uplink>, SendError> {
    desk.read.uplinks()
}

fn all_tunnels(desk: &Desk) -> Result<Vec<Tunnel>, SendError> {
    desk.read.tunnels()
}

async fn ports(desk: Desk, Asked(asked): Asked<PortsListed>) -> Response {
    let PortsListed {
        name,
        like,
        label: said,
        after,
        limit,
    } = asked;
    let wanted = match label(said) {
        Ok(wanted) => wanted,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
    };
    let has = move |port: &Port| {
        let has = |(key, value): &(String, String)| port.labels.get(key) == Some(value);
        wanted.as_ref().is_none_or(has)
    };
    let all = |desk: &Desk| {
        let mut ports = all_ports(desk)?;
        ports.retain(has);
        Ok(ports)
    };
    let asked = Listed {
        name,
        like,
        after,
        limit,
    };
    page(desk, asked, all, |it| &it.name, |it| it.name.clone()).await
}

async fn port(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "port", all_ports, |it| &it.name).await
}

async fn tunnels(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(
        desk,
        asked,
        all_tunnels,
        |it| &it.name,
        |it| it.name.clone(),
    )
    .await
}

async fn tunnel(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "tunnel", all_tunnels, |it| &it.name).await
}

async fn uplinks(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(
        desk,
        asked,
        all_uplinks,
        |it| &it.name,
        |it| it.name.clone(),
    )
    .await
}

async fn uplink(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "uplink", all_uplinks, |it| &it.name).await
}

async fn routes_of(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    let all: All<Route> = |desk| desk.read.routes();
    let key = |it: &Route| format!("{} {} {} {}", it.table, it.to, it.source, it.next_hop);
    page(desk, asked, all, |it| &it.table, key).await
}

async fn neighbors(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    let all: All<Neighbor> = |desk| desk.read.neighbors();
    let key = |it: &Neighbor| format!("{} {}", it.place, it.address);
    page(desk, asked, all, |it| &it.place, key).await
}

async fn cores(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    let all: All<Core> = |desk| desk.read.cores();
    page(desk, asked, all, |it| &it.name, |it| it.name.clone()).await
}

async fn drops(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    let all: All<Drop> = |desk| desk.read.drops();
    let key = |it: &Drop| format!("{} {}", it.scope, it.reason);
    page(desk, asked, all, |it| &it.scope, key).await
}
