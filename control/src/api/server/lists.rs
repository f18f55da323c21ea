//! What is, as lists: `GET /v1/ports`, `/v1/peers`, `/v1/tunnels`, `/v1/uplinks`, `/v1/routes`, `/v1/neighbors`,
//! `/v1/cores`, `/v1/drops`; one port, tunnel or uplink by its name.
//!
//! In: which items, and which page. Out: a page. Never: more than [`LIMIT`] items at once.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{failed, json, plain, unavailable, written};
use super::asked::{Asked, Named};
use super::desk::Desk;
use super::routes::{About, Routes};
use crate::report::Source;
use crate::report::lists::{LIMIT, PAGE, Page, Put, Told, Which, Window};
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

/// A page of a list.
async fn page<T: Serialize + 'static>(
    desk: Desk,
    asked: Result<(Which, Window), String>,
    list: List<T>,
) -> Response {
    let (which, window) = match asked {
        Ok(asked) => asked,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
    };
    let read = Arc::clone(&desk.read);
    let work = move || {
        let mut text = Text::new();
        let told = list(&*read, &which, &window, &mut |item| text.put(&item));
        told.map_or_else(unavailable, |next| text.end(next.as_deref()))
    };
    desk.in_turn(work).await
}

/// A list of the source's.
type List<T> = fn(&(dyn Source + 'static), &Which, &Window, Put<'_, T>) -> Told;

/// A [`Page`], written item by item: so none of them is kept, however many there are.
struct Text {
    bytes: Vec<u8>,
    is_whole: bool,
}

impl Text {
    const BEGIN: &'static [u8] = b"{\"items\":[";

    fn new() -> Self {
        Self {
            bytes: Self::BEGIN.to_vec(),
            is_whole: true,
        }
    }

    fn put(&mut self, item: &impl Serialize) {
        if self.bytes.len() > Self::BEGIN.len() {
            self.bytes.push(b',');
        }
        self.write(item);
    }

    fn write(&mut self, value: &impl Serialize) {
        self.is_whole &= serde_json::to_writer(&mut self.bytes, value).is_ok();
    }

    fn end(mut self, next: Option<&str>) -> Response {
        self.bytes.push(b']');
        if let Some(next) = next {
            self.bytes.extend_from_slice(b",\"next\":");
            self.write(&next);
        }
        self.bytes.push(b'}');
        match self.is_whole {
            true => written(self.bytes),
            false => failed("the answer could not be written"),
        }
    }
}

/// The one of that name.
async fn one<T: Serialize + 'static>(
    desk: Desk,
    wanted: String,
    kind: &'static str,
    list: List<T>,
) -> Response {
    let read = Arc::clone(&desk.read);
    let work = move || {
        let (name, window) = (
            Some(wanted.clone()),
            Window {
                after: None,
                limit: 1,
            },
        );
        let which = Which {
            name,
            ..Which::default()
        };
        let mut found = None;
        match list(&*read, &which, &window, &mut |item| {
            found = Some(json(&item))
        }) {
            Ok(_) => found.unwrap_or_else(|| {
                let error = format!("there is no {kind} {wanted:.200}");
                plain(StatusCode::NOT_FOUND, &error)
            }),
            Err(error) => unavailable(error),
        }
    };
    desk.in_turn(work).await
}

impl Listed {
    fn part(self) -> Result<(Which, Window), String> {
        let which = Which {
            name: self.name,
            like: self.like,
            ..Which::default()
        };
        Ok((which, window(self.after, self.limit)?))
    }
}

impl PortsListed {
    fn part(self) -> Result<(Which, Window), String> {
        let which = Which {
            name: self.name,
            like: self.like,
            label: label(self.label)?,
            ..Which::default()
        };
        Ok((which, window(self.after, self.limit)?))
    }
}

impl PeersListed {
    fn part(self) -> Result<(Which, Window), String> {
        let which = Which {
            name: self.name,
            like: self.like,
            tunnel: self.tunnel,
            state: self.state.map(|state| state.word().to_owned()),
            label: label(self.label)?,
        };
        Ok((which, window(self.after, self.limit)?))
    }
}

async fn ports(desk: Desk, Asked(asked): Asked<PortsListed>) -> Response {
    page(desk, asked.part(), <dyn Source>::ports).await
}

async fn port(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "port", <dyn Source>::ports).await
}

async fn peers(desk: Desk, Asked(asked): Asked<PeersListed>) -> Response {
    page(desk, asked.part(), <dyn Source>::peers).await
}

async fn tunnels(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::tunnels).await
}

async fn tunnel(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "tunnel", <dyn Source>::tunnels).await
}

async fn uplinks(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::uplinks).await
}

async fn uplink(desk: Desk, Named(name): Named<String>) -> Response {
    one(desk, name, "uplink", <dyn Source>::uplinks).await
}

async fn routes_of(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::routes).await
}

async fn neighbors(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::neighbors).await
}

async fn cores(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::cores).await
}

async fn drops(desk: Desk, Asked(asked): Asked<Listed>) -> Response {
    page(desk, asked.part(), <dyn Source>::drops).await
}
