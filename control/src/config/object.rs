//! One object of a configuration, read by itself.
//!
//! In: its keys with their values, and the configuration that it is to be part of. Out: the object, or every mistake in
//! it, by the same tables and in the same words as a file's. Never: a look at other objects but those that it names:
//! what two objects can't both have is for others to say; a key file opened.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::draft::{self, UplinkKind, Workers};
use super::keyfile::{KeyFile, KeyFileError, KeyFiles};
use super::raw::{self, Node, Value};
use super::read::Reader;
use super::report::{Report, Span};
use super::schema::{self, Table};
use super::section::{At, Section};
use super::texts::Texts;
use super::{Config, IpNet, Name, Network, NetworkRoute, Peer, Port, Tunnel, Uplink, UplinkDriver};
use super::{build, cross, value, write};

/// Keys of an object with their values, as a file has them.
pub type Keys = serde_json::Map<String, Json>;

/// The key that clients give of a peer, and that nobody is told.
pub const PRESHARED_KEY: &str = "preshared_key";

const PRESHARED_KEY_FILE: &str = "preshared_key_file";

/// Whether something is said of a preshared key, that there is none among it.
#[must_use]
pub fn says_secret(keys: &Keys) -> bool {
    [PRESHARED_KEY, PRESHARED_KEY_FILE]
        .iter()
        .any(|key| keys.contains_key(*key))
}

/// The key file that is named among a peer's keys. A path is none: no path is opened that a client names.
#[must_use]
pub fn key_file(keys: &Keys) -> Option<&str> {
    let text = keys.get(PRESHARED_KEY_FILE)?.as_str()?;
    match KeyFile::of(Path::new(text)) {
        KeyFile::Named(name) | KeyFile::Credential(name) => KeyFile::is_name(name).then_some(text),
        KeyFile::Path(_) => None,
    }
}

/// Leaves those that are read as a file's are.
pub fn take_secret(keys: &mut Keys) {
    keys.remove(PRESHARED_KEY);
    if key_file(keys).is_some() {
        keys.remove(PRESHARED_KEY_FILE);
    }
}

/// Reads a text, YAML or JSON, as keys with their values. All single values are texts: what they mean depends on the
/// key.
///
/// # Errors
///
/// When it is no map.
pub fn keys(text: &str, title: &str) -> Result<Keys, Report> {
    // Of what may hold a key no line is shown.
    let shown = if text.contains(PRESHARED_KEY) {
        ""
    } else {
        text
    };
    let mut report = Report::new(Path::new(title), shown);
    let keys = raw::read(text, &mut report).and_then(|node| match node.value {
        Value::Map(entries) => map(entries, &mut report),
        Value::Null if text.trim().is_empty() => Some(Keys::new()),
        other @ (Value::Null | Value::Text(_) | Value::List(_)) => {
            let message = format!("{title} is {}, expected a map", other.form());
            report.error(node.span, message);
            None
        }
    });
    match keys {
        Some(keys) if report.errors() == 0 => Ok(keys),
        _ => Err(report),
    }
}

fn map(entries: Vec<(Node, Node)>, report: &mut Report) -> Option<Keys> {
    let mut keys = Keys::new();
    for (key, value) in entries {
        let Value::Text(name) = key.value else {
            report
                .error(key.span, "expected a word")
                .help("it is a key");
            return None;
        };
        if name == VLANS
            && let Value::Map(vlans) = &value.value
        {
            spell(vlans, report);
        }
        let value = json(value, report)?;
        if keys.insert(name.clone(), value).is_some() {
            report.error(key.span, format!("`{name}` stands twice"));
            return None;
        }
    }
    Some(keys)
}

/// VLANs are laid over others by their keys, so each number has one spelling.
fn spell(vlans: &[(Node, Node)], report: &mut Report) {
    for (key, _) in vlans {
        if let Value::Text(text) = &key.value
            && let Some(number) = value::parse_integer(text)
            && number.to_string() != *text
        {
            let message = format!("VLAN `{text}` is {number} in another spelling");
            let help = format!("write it as it is told: `{number}`");
            report.error(key.span, message).help(help);
        }
    }
}

fn json(node: Node, report: &mut Report) -> Option<Json> {
    Some(match node.value {
        Value::Null => Json::Null,
        Value::Text(text) => Json::String(text),
        Value::List(items) => {
            let items = items.into_iter().map(|item| json(item, report));
            Json::Array(items.collect::<Option<_>>()?)
        }
        Value::Map(entries) => Json::Object(map(entries, report)?),
    })
}

/// Keys that are maps of an operator's own keys, which are laid one by one.
const MAPS: [&str; 2] = ["labels", VLANS];

/// Their keys are numbers.
const VLANS: &str = "vlans";

/// Lays keys over others: those without a value are taken away.
pub fn lay(over: &mut Keys, keys: &Keys) {
    for (key, value) in keys {
        if value.is_null() {
            over.remove(key);
            continue;
        }
        let map = laid_map(key, value).map(|new| {
            let mut all = map_of(over, key);
            lay(&mut all, new);
            Json::Object(all)
        });
        over.insert(key.clone(), map.unwrap_or_else(|| value.clone()));
    }
}

/// Says keys beside others that are to be laid over something: one without a value is said, too.
pub fn say(said: &mut Keys, keys: &Keys) {
    for (key, value) in keys {
        let map = laid_map(key, value).map(|new| {
            let mut all = map_of(said, key);
            all.extend(new.clone());
            Json::Object(all)
        });
        said.insert(key.clone(), map.unwrap_or_else(|| value.clone()));
    }
}

/// A key's value, if it is one of the maps.
fn laid_map<'v>(key: &str, value: &'v Json) -> Option<&'v Keys> {
    let is_one = MAPS.contains(&key);
    value.as_object().filter(|_| is_one)
}

/// The map that a key has, if it has one.
fn map_of(keys: &Keys, key: &str) -> Keys {
    let all = keys.get(key).and_then(Json::as_object);
    all.cloned().unwrap_or_default()
}

/// A text in which each key has a line, for the messages.
fn text(keys: &Keys) -> String {
    keys.iter().fold(String::new(), |mut text, (key, value)| {
        let plain = Name::new(key).is_some();
        let quoted = Json::String(key.clone()).to_string();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}: {value}", if plain { key } else { &quoted });
        text
    })
}

/// Reads one section, and makes of its draft what it is.
fn read<D, T>(
    title: &str,
    name: &Name,
    table: &'static Table,
    keys: &Keys,
    read: impl FnOnce(&mut Reader<'_>, At<Name>, Section<'_>) -> Option<D>,
    check: impl FnOnce(D, &mut Report) -> Option<T>,
) -> Result<(T, Report), Report> {
    let text = text(keys);
    let mut report = Report::new(Path::new(title), &text);
    let made = raw::read(&text, &mut report).and_then(|node| {
        let span = Span::default();
        let shown = format!("{} `{name}`", table.title);
        let section = Section::open(&node, shown, span, table, &mut report)?;
        let mut reader = Reader::new(&mut report, &NoFiles);
        let draft = read(&mut reader, At::new(name.clone(), span), section)?;
        match report.errors() {
            0 => check(draft, &mut report),
            _ => None,
        }
    });
    report.sort();
    match made {
        Some(made) if report.errors() == 0 => Ok((made, report)),
        _ => Err(report),
    }
}

/// The daemon opens no path that somebody else names.
struct NoFiles;

impl KeyFiles for NoFiles {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Err(KeyFileError::Missing)
    }
}

fn at<T>(value: T) -> At<T> {
    At::new(value, Span::default())
}

/// A port that joins networks of a configuration.
///
/// # Errors
///
/// Every mistake in it. The report that comes with it holds warnings only.
pub fn port(config: &Config, name: &Name, keys: &Keys) -> Result<(Port, Report), Report> {
    let title = format!("port {name}");
    let draft = |reader: &mut Reader<'_>, name, section: Section<'_>| reader.port(name, section);
    read(&title, name, &schema::PORT, keys, draft, |draft, report| {
        let named = draft.attachments.iter();
        let named = named.map(|it| config.network(&it.network.as_ref()?.value));
        let found = named.collect::<Option<Vec<_>>>();
        let mut file = draft::File {
            cores: cores(config),
            ports: vec![draft],
            ..draft::File::default()
        };
        // Of the others the names alone, for the message.
        let others = config.networks.iter();
        file.networks = match found {
            Some(found) => found.into_iter().map(network_draft).collect(),
            None => others.map(network_draft).collect(),
        };
        cross::port(&file, report);
        let workers = config.cores.workers.len();
        // Without the others no turn is known: names spread the queues, too, and it is the same one after a restart.
        let mut turn = usize::from(super::MacAddr::derived(name.as_str()).octets()[5]);
        let draft = file.ports.first()?;
        match report.errors() {
            0 => build::port(draft, &file, workers, &mut turn),
            _ => None,
        }
    })
}

/// The keys that make a port of a configuration.
#[must_use]
pub fn port_keys(config: &Config, port: &Port) -> Keys {
    write::port_keys(port, config.is_plain(port))
}

/// A peer of a tunnel of a configuration. It has no preshared key: that is given beside these keys.
///
/// # Errors
///
/// Every mistake in it. The report that comes with it holds warnings only.
pub fn peer(
    config: &Config,
    tunnel: &Tunnel,
    name: &Name,
    keys: &Keys,
) -> Result<(Arc<Peer>, Report), Report> {
    let title = format!("peer {}/{name}", tunnel.name);
    if keys.contains_key(PRESHARED_KEY_FILE) {
        let mut report = Report::new(Path::new(&title), "");
        report
            .error(
                Span::default(),
                "`preshared_key_file` is no name: no path is opened that a client names",
            )
            .help("name a file of the key directory, `key:NAME`, or a credential, `credential:NAME`")
            .help("or give the key itself: `preshared_key`, or `culvert peer add … --preshared-key-file FILE`; nobody is told it");
        return Err(report);
    }
    let draft = |reader: &mut Reader<'_>, name, section: Section<'_>| {
        Some(reader.peer(name, Some(section)))
    };
    read(&title, name, &schema::PEER, keys, draft, |draft, report| {
        let network = config.network_of_tunnel(&tunnel.name);
        let mut around = draft::Tunnel::named(at(tunnel.name.clone()));
        around.uplink = Some(at(tunnel.uplink.clone()));
        around.backups = tunnel.backups.iter().cloned().map(at).collect();
        around.listen_port = Some(at(tunnel.listen_port));
        around.mtu = Some(at(tunnel.mtu.into()));
        around.private_key.clone_from(&tunnel.private_key);
        around.peers = vec![draft].into();
        let file = draft::File {
            uplinks: config.uplinks_of(tunnel).map(uplink_draft).collect(),
            tunnels: vec![around],
            networks: network.into_iter().map(network_draft).collect(),
            ..draft::File::default()
        };
        cross::peer(&file, report);
        let peer = file.tunnels.first()?.peers.get(0)?;
        match report.errors() {
            0 => peer.model(),
            _ => None,
        }
    })
}

/// A route of a network of a configuration. Whether the peer that it leads to is there is for others to say.
///
/// # Errors
///
/// Every mistake in it.
pub fn route(
    config: &Config,
    network: &Network,
    to: &IpNet,
    keys: &Keys,
) -> Result<NetworkRoute, Report> {
    let title = format!("route {}/{to}", network.name);
    let mut keys = keys.clone();
    keys.insert("to".into(), to.to_string().into());
    let draft = |reader: &mut Reader<'_>, _, section: Section<'_>| reader.network_route(&section);
    let name = &network.name;
    let route = read(
        &title,
        name,
        &schema::NETWORK_ROUTE,
        &keys,
        draft,
        |draft, report| {
            let tunnel = network.tunnel.as_ref().and_then(|name| config.tunnel(name));
            let tunnel = tunnel.map(|tunnel| {
                let mut around = draft::Tunnel::named(at(tunnel.name.clone()));
                if let draft::NextHop::Peer(peer) = &draft.next_hop {
                    around.peers = vec![draft::Peer::named(peer.clone())].into();
                }
                around
            });
            let mut around = network_draft(network);
            around.routes = vec![draft];
            let file = draft::File {
                tunnels: tunnel.into_iter().collect(),
                networks: vec![around],
                ..draft::File::default()
            };
            cross::route(&file, report);
            let draft = file.networks.first()?.routes.first()?;
            match report.errors() {
                0 => build::network_route(draft),
                _ => None,
            }
        },
    );
    route.map(|(route, _)| route)
}

/// The keys that make a peer of a configuration, but for its preshared key.
#[must_use]
pub fn peer_keys(peer: &Peer) -> Keys {
    write::peer_keys(peer)
}

fn uplink_draft(uplink: &Uplink) -> draft::Uplink {
    let routes = uplink.routes.iter().map(|route| draft::UplinkRoute {
        to: at(Some(route.to)),
        via: at(route.via),
        metric: route.metric,
        from: route.from.map(at),
    });
    draft::Uplink {
        name: at(uplink.name.clone()),
        kind: Some(match uplink.driver {
            UplinkDriver::Dpdk(_) => UplinkKind::Dpdk,
            UplinkDriver::Udp(_) => UplinkKind::Udp,
        }),
        device: None,
        members: Vec::new(),
        interface: None,
        addresses: uplink.addresses.iter().copied().map(at).collect(),
        dhcp4: uplink.dhcp4,
        accept_ra: uplink.accept_ra,
        routes: routes.collect(),
        neighbors: Vec::new(),
        nameservers: (uplink.nameservers.as_ref()).map(|all| all.iter().copied().map(at).collect()),
        mtu: Some(at(uplink.mtu.into())),
        queues: None,
        queue_workers: None,
        serves: draft::Served::default(),
        rx_descriptors: None,
        tx_descriptors: None,
        fwmark: None,
        exception: None,
        routes_from: None,
        bfd: None,
        enabled: uplink.enabled,
    }
}

fn cores(config: &Config) -> draft::Cores {
    let count = u16::try_from(config.cores.workers.len()).unwrap_or(u16::MAX);
    draft::Cores {
        workers: Some(Workers::Count(count)),
        ..draft::Cores::default()
    }
}

fn network_draft(network: &Network) -> draft::Network {
    draft::Network {
        name: at(network.name.clone()),
        plain: network.is_plain(),
        gateways: network.gateways.iter().copied().map(at).collect(),
        gateway_mac: (!network.is_plain()).then(|| at(network.gateway_mac)),
        tunnel: network.tunnel.clone().map(at),
        routes: Vec::new(),
        mtu: Some(at(network.mtu.into())),
        mss_clamp: Some(at(network.mss_clamp)),
        dhcp: network.dhcp.is_none().then(|| at(None)),
        ra: Some(at(network.ra)),
    }
}

/// Where a key stands, found by the keys above it: in a file as it is on the disk, or in one that it includes.
#[must_use]
pub fn place(path: &Path, keys: &[&str]) -> Option<(PathBuf, usize)> {
    let Texts {
        path,
        text,
        included,
    } = Texts::read(path).ok()?;
    let included = included.into_iter().flat_map(|it| it.files);
    let included = included.map(|file| (file.path, file.text));
    let mut all = [(path, text)].into_iter().chain(included);
    all.find_map(|(path, text)| Some((path, line(&text, keys)?)))
}

fn line(text: &str, keys: &[&str]) -> Option<usize> {
    let mut node = raw::read(text, &mut Report::default())?;
    let mut line = None;
    for key in keys {
        let Value::Map(entries) = node.value else {
            return None;
        };
        let is_it =
            |(name, _): &(Node, Node)| matches!(&name.value, Value::Text(name) if name == key);
        let (name, below) = entries.into_iter().find(is_it)?;
        line = Some(name.span.line);
        node = below;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_has_one_spelling_by_which_it_is_laid_over_the_same() {
        let read = |text: &str| keys(text, "port fw").map_err(|report| report.render(false));
        let mut over = read("vlans: {30: green, 40: blue}").unwrap();
        lay(&mut over, &read("vlans: {30: }").unwrap());
        assert_eq!(over, read("vlans: {40: blue}").unwrap());
        for spelling in ["0x1e", "030", "0x1E"] {
            let told = read(&format!("vlans: {{{spelling}: }}")).unwrap_err();
            assert!(told.contains(spelling) && told.contains("`30`"), "{told}");
        }
        // What is no number is for others to say.
        assert!(read("vlans: {green: }").is_ok());
    }
}
