//! What goes over the control socket about the API layer.
//!
//! In: the layer. Out: its objects, and their text as a part of a file. Never: an object that the file alone has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Name;
use crate::config::object::{self, Keys};
use crate::plan::Laid;
use crate::plan::api::{Object, Said, Told};

/// The query of `PUT`, `PATCH` and `DELETE` of an object of the API layer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Query {
    /// One that is there and another is refused.
    #[serde(default)]
    pub new: bool,
    /// One that is there is given the keys.
    #[serde(default)]
    pub may_exist: bool,
    /// One that is not there is removed, or as it should be, already.
    #[serde(default)]
    pub if_exists: bool,
}

/// The answer to `GET /v1/layer`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Text {
    /// In the order in which they came.
    pub objects: Vec<LaidObject>,
    /// The same as a part of a file. What lies over the file's, or rests, stands there as a comment: the file has it, or
    /// something that it gives way to.
    pub text: String,
}

/// An object of the API layer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct LaidObject {
    /// `port vm1`, `peer wg0/hv-b`, `route blue/10.2.0.0/16`.
    pub object: String,
    /// The file has it not; else these keys lie over the file's.
    pub own: bool,
    /// Its keys; without a value: the default counts.
    pub keys: Keys,
    /// Why the file counts alone, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests: Option<String>,
}

impl Text {
    /// What a layer says.
    #[must_use]
    pub fn of(api: &Laid) -> Self {
        let told = api.told();
        let objects = told.iter().map(|it| LaidObject {
            object: it.object.to_string(),
            own: it.said.own,
            keys: it.said.keys.clone(),
            rests: it.rests.as_deref().map(str::to_owned),
        });
        Self {
            objects: objects.collect(),
            text: to_yaml(&told),
        }
    }
}

/// A part of a file.
fn to_yaml(told: &[Told]) -> String {
    let (counting, others): (Vec<_>, Vec<_>) =
        (told.iter()).partition(|it| it.said.own && it.rests.is_none());
    let mut text = to_part(counting);
    for line in to_part(others).lines() {
        text += &format!("# {line}\n");
    }
    text
}

fn to_part(told: Vec<&Told>) -> String {
    let mut file = Keys::new();
    for Told { object, said, .. } in told {
        lay(&mut file, object, said);
    }
    match file.is_empty() {
        true => String::new(),
        false => serde_saphyr::to_string(&file)
            .expect("maps of texts are written to memory: nothing of that fails"),
    }
}

fn lay(file: &mut Keys, object: &Object, said: &Said) {
    let mut keys = said.keys.clone();
    // Of a key that is there, a file would name another file.
    keys.retain(|key, value| !value.is_null() && key != object::PRESHARED_KEY);
    keys.iter_mut().for_each(|(key, value)| unquote(key, value));
    match object {
        Object::Port(name) => put(section(file, "ports"), name, keys),
        Object::Uplink(name) => put(section(file, "uplinks"), name, keys),
        Object::Peer(tunnel, name) => {
            let tunnel = section(section(file, "tunnels"), tunnel.as_str());
            put(section(tunnel, "peers"), name, keys);
        }
        Object::Route(network, to) => {
            let mut route = Keys::new();
            route.insert("to".into(), to.to_string().into());
            route.extend(keys);
            let network = section(section(file, "networks"), network.as_str());
            let routes = network
                .entry("routes")
                .or_insert_with(|| Vec::<Keys>::new().into());
            let routes = routes.as_array_mut().expect("routes are a list");
            routes.push(route.into());
        }
    }
}

/// What a file has without quotes: words that switch, and numbers.
fn unquote(key: &str, value: &mut serde_json::Value) {
    if !matches!(
        key,
        "enabled" | "persistent_keepalive" | "mtu" | "queues" | "pmtu" | "mss_clamp"
    ) {
        return;
    }
    let word = value.as_str().unwrap_or_default();
    let plain = match word {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        number => number.parse::<u32>().ok().map(Into::into),
    };
    if let Some(plain) = plain {
        *value = plain;
    }
}

fn put(section: &mut Keys, name: &Name, keys: Keys) {
    section.insert(name.to_string(), keys.into());
}

fn section<'k>(keys: &'k mut Keys, name: &str) -> &'k mut Keys {
    let empty = || serde_json::Value::Object(Keys::new());
    let section = keys.entry(name).or_insert_with(empty);
    section.as_object_mut().expect("sections are maps")
}
