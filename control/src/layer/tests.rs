//! Objects, files and `wg` in any order come to what is planned from scratch.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{
    config::{self, IpNet, KeyFileError, KeyFiles, Name, NetworkRoute, Peer, Port},
    keys::{PrivateKey, PublicKey},
    plan::{Edit, PeerChange},
};

struct Keyring;

impl KeyFiles for Keyring {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let key = PrivateKey::from_bytes([7; 32]);
        Ok(Zeroizing::new(key.to_base64().to_string()))
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(number: u8) -> String {
    PrivateKey::from_bytes([number + 1; 32])
        .public_key()
        .to_base64()
}

/// Ports with their MAC addresses, peers with their keepalives; which of them are enabled; routes with the
/// peers that they lead to.
type Text = (Vec<(u8, u8, bool)>, Vec<(u8, u8, bool)>, Vec<(u8, u8)>);

fn file((ports, peers, routes): &Text) -> Config {
    let is_there = |peer: &u8| peers.iter().any(|(there, ..)| there == peer);
    let routes: BTreeMap<_, _> = routes.iter().copied().collect();
    let routes = routes.iter().map(|(to, peer)| match is_there(peer) {
        true => format!("{{to: 10.7.{to}.0/24, peer: p{peer}}}, "),
        false => format!("{{to: 10.7.{to}.0/24, unreachable: true}}, "),
    });
    let mut text = format!(
        "version: 1\nnode: a\nuplinks: {{u: {{driver: udp}}}}\n\
         networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t, routes: [{}]}}}}\n\
         tunnels: {{t: {{uplink: u, listen_port: 1, private_key_file: k, peers: {{",
        routes.collect::<String>()
    );
    let peers: BTreeMap<_, _> = peers
        .iter()
        .map(|(peer, it, on)| (peer, (it, on)))
        .collect();
    for (peer, (keepalive, enabled)) in peers {
        let key = key(*peer);
        text += &format!(
            "p{peer}: {{public_key: \"{key}\", persistent_keepalive: {}s, enabled: {enabled}}}, ",
            keepalive + 1
        );
    }
    text += "}}}\nports: {";
    // Of those that are enabled each has its own.
    let ports: BTreeMap<_, _> = ports
        .iter()
        .map(|(port, mac, on)| (port, (mac, on)))
        .collect();
    let mut macs = HashSet::new();
    for (port, (mac, enabled)) in ports {
        let enabled = *enabled && macs.insert(mac);
        text += &format!(
            "v{port}: {{network: n, mac: \"52:54:00:00:00:0{mac}\", enabled: {enabled}}}, "
        );
    }
    text += "}\n";
    let read = config::parse(&text, Path::new("t.yaml"), &Keyring);
    read.map_err(|report| report.render(false)).unwrap().0
}

#[derive(Clone, Debug)]
enum Deed {
    Port(u8, Act, Option<u8>, bool, Option<bool>),
    /// The last is a prefix that routes lead to, too.
    Peer(u8, Act, Option<u8>, Option<bool>, Option<u8>),
    /// A route leads to a peer, or nowhere.
    Route(u8, Act, Option<u8>),
    /// A port or a peer goes up or down, and nothing else of it.
    Switch(bool, u8, bool),
    File(Text),
    /// `wg` gives a peer another keepalive, or removes it.
    Wg(u8, Option<u8>),
}

/// What runs.
#[derive(Default)]
struct Running {
    ports: BTreeMap<Name, Port>,
    peers: BTreeMap<PublicKey, Arc<Peer>>,
    routes: BTreeMap<IpNet, NetworkRoute>,
}

impl Running {
    fn carry_out(&mut self, plan: &[Change]) {
        for edit in plan.iter().filter_map(Change::port) {
            let _ = edit.before().map(|old| self.ports.remove(&old.name));
            let _ = edit
                .after()
                .map(|new| self.ports.insert(new.name.clone(), new.clone()));
        }
        for change in plan {
            if let Change::Network(edit) = change {
                let routes = edit.after().into_iter().flat_map(|it| &it.routes);
                self.routes = routes.map(|it| (it.to, it.clone())).collect();
            }
            if let Change::Route { edit, .. } = change {
                let _ = edit.before().map(|old| self.routes.remove(&old.to));
                let _ = edit
                    .after()
                    .map(|new| self.routes.insert(new.to, new.clone()));
            }
        }
        for PeerChange { edit, .. } in plan.iter().filter_map(Change::peer) {
            let _ = edit.before().map(|old| self.peers.remove(&old.public_key));
            let _ = edit
                .after()
                .map(|new| self.peers.insert(new.public_key, Arc::clone(new)));
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<bool>().prop_map(|may_exist| Act::Add { may_exist }),
        Just(Act::Put),
        any::<bool>().prop_map(|if_exists| Act::Set { if_exists }),
        any::<bool>().prop_map(|if_exists| Act::Delete { if_exists }),
        Just(Act::Forget),
    ]
}

fn text() -> impl Strategy<Value = Text> {
    let pairs = || prop::collection::vec((0..4_u8, 0..4_u8, prop::bool::weighted(0.7)), 0..4);
    let routes = prop::collection::vec((0..3_u8, 0..4_u8), 0..3);
    (pairs(), pairs(), routes)
}

fn deed() -> impl Strategy<Value = Deed> {
    let some = || prop::option::weighted(0.9, 0..4_u8);
    let switch = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        4 => (0..4_u8, act(), some(), any::<bool>(), switch()).prop_map(|(a, b, c, d, e)| Deed::Port(a, b, c, d, e)),
        3 => (0..4_u8, act(), some(), switch(), prop::option::weighted(0.4, 0..3_u8))
            .prop_map(|(a, b, c, d, e)| Deed::Peer(a, b, c, d, e)),
        3 => (0..4_u8, act(), some()).prop_map(|(a, b, c)| Deed::Route(a, b, c)),
        2 => (any::<bool>(), 0..4_u8, any::<bool>()).prop_map(|(a, b, c)| Deed::Switch(a, b, c)),
        2 => text().prop_map(Deed::File),
        1 => (0..4_u8, some()).prop_map(|(a, b)| Deed::Wg(a, b)),
    ]
}

fn wish(deed: &Deed) -> Option<Wish> {
    let keys = |text: String| {
        object::keys(&text, "t")
            .map_err(|report| report.render(false))
            .unwrap()
    };
    let switch = |enabled: Option<bool>| {
        enabled.map_or_else(String::new, |enabled| format!("enabled: {enabled}\n"))
    };
    Some(match deed {
        Deed::Route(to, act, peer) => Wish {
            object: Object::Route(name("n"), format!("10.7.{to}.0/24").parse().unwrap()),
            act: *act,
            keys: keys(match peer {
                Some(peer) => format!("peer: p{peer}\n"),
                None => "unreachable: true\n".into(),
            }),
            preshared_key: None,
            uplink: None,
        },
        Deed::Switch(is_port, number, enabled) => Wish {
            object: match is_port {
                true => Object::Port(name(&format!("v{number}"))),
                false => Object::Peer(name("t"), name(&format!("p{number}"))),
            },
            act: Act::Set { if_exists: true },
            keys: keys(format!("enabled: {enabled}\n")),
            preshared_key: None,
            uplink: None,
        },
        Deed::Port(port, act, mac, guards, enabled) => {
            let mac = mac.map(|mac| format!("mac: 52:54:00:00:00:0{mac}\n"));
            let guard = if *guards { "guard: mac\n" } else { "" };
            Wish {
                object: Object::Port(name(&format!("v{port}"))),
                act: *act,
                keys: keys(format!(
                    "network: n\n{guard}{}{}",
                    mac.unwrap_or_default(),
                    switch(*enabled)
                )),
                preshared_key: None,
                uplink: None,
            }
        }
        Deed::Peer(peer, act, keepalive, enabled, net) => {
            let nets = net.map(|net| format!("allowed_ips: [10.7.{net}.0/24]\n"));
            let keepalive = keepalive.map_or("null".into(), |it| format!("{}s", it + 1));
            Wish {
                object: Object::Peer(name("t"), name(&format!("p{peer}"))),
                act: *act,
                keys: keys(format!(
                    "public_key: \"{}\"\npersistent_keepalive: {keepalive}\n{}{}",
                    key(*peer),
                    switch(*enabled),
                    nets.unwrap_or_default()
                )),
                preshared_key: None,
                uplink: None,
            }
        }
        Deed::File(_) | Deed::Wg(..) => return None,
    })
}

/// What `wg` makes of a peer.
fn by_wg(running: &Running, peer: u8, keepalive: Option<u8>) -> Option<Change> {
    let key = PrivateKey::from_bytes([peer + 1; 32]).public_key();
    let old = Arc::clone(running.peers.get(&key)?);
    let edit = match keepalive {
        // For `wg` it is not there.
        None if !old.enabled => return None,
        Some(keepalive) if !old.enabled => {
            let mut new = Peer::clone(&old);
            new.name = name(&format!("wg-{peer}"));
            new.persistent_keepalive = Some(100 + u16::from(keepalive));
            new.enabled = true;
            new.allowed_ips.clear();
            Edit::Add(Arc::new(new))
        }
        None => Edit::Remove(old),
        Some(keepalive) => {
            let mut new = Peer::clone(&old);
            new.persistent_keepalive = Some(100 + u16::from(keepalive));
            Edit::Change {
                old,
                new: Arc::new(new),
            }
        }
    };
    Some(Change::Peer(PeerChange {
        tunnel: name("t"),
        edit,
        moves: false,
    }))
}

/// As the control core does it: a prefix that a peer keeps is not another's.
fn is_refused(running: &Running, plan: &[Change]) -> bool {
    let edits: Vec<_> = plan.iter().filter_map(Change::peer).collect();
    let then = |peer: &Arc<Peer>| {
        let is_it = |it: &&&PeerChange| it.edit.any().public_key == peer.public_key;
        let edit = edits.iter().find(is_it).map(|it| it.edit.after());
        edit.map_or(Some(Arc::clone(peer)), |after| after.cloned())
    };
    let is_kept = |net: &IpNet, but: Option<&PublicKey>| {
        let others = running.peers.values();
        let others = others.filter(|it| but != Some(&it.public_key));
        let has = |it: &Arc<Peer>| it.enabled && it.allowed_ips.contains(net);
        let mut kept = others.filter(|it| has(it)).filter_map(then);
        kept.any(|it| has(&it))
    };
    plan.iter().any(|change| {
        if let Change::Route {
            edit: Edit::Add(route),
            ..
        } = change
        {
            return is_kept(&route.to, None);
        }
        let new = change.peer().and_then(|it| it.edit.after());
        new.filter(|new| new.enabled).is_some_and(|new| {
            let mut nets = new.allowed_ips.iter();
            nets.any(|net| is_kept(net, Some(&new.public_key)))
        })
    })
}

/// As the control core does it: from what is.
fn settle(running: &Running, plan: Vec<Change>) -> Vec<Change> {
    let settle = |change| {
        let Change::Peer(PeerChange {
            tunnel,
            edit,
            moves,
        }) = change
        else {
            return Some(change);
        };
        let old = running.peers.get(&edit.any().public_key).cloned();
        let disabled = || edit.before().filter(|old| !old.enabled).cloned();
        let old = old.or_else(disabled);
        let edit = Edit::between(old, edit.after().cloned())?;
        Some(Change::Peer(PeerChange {
            tunnel,
            edit,
            moves,
        }))
    };
    plan.into_iter().filter_map(settle).collect()
}

/// Step by step it is what is planned from scratch.
fn walk(first: Text, deeds: Vec<Deed>) -> Result<(), TestCaseError> {
    let mut desired = Layers::new(Arc::new(file(&Text::default())));
    let (mut running, mut books) = (Running::default(), Books::default());
    for deed in [Deed::File(first)].into_iter().chain(deeds) {
        if let Some(wish) = wish(&deed) {
            let Ok(Some(said)) = said(&desired, &wish, None) else {
                continue;
            };
            let Ok((step, _)) = books.plan(&desired, &wish.object, said.as_ref()) else {
                continue;
            };
            if is_refused(&running, &step.plan) {
                continue;
            }
            let edits: Vec<_> = step.plan.iter().filter_map(Change::port).cloned().collect();
            let plan = settle(&running, step.plan);
            running.carry_out(&plan);
            books.carried_out(&edits, &step.api);
            desired.lay(step.api, &plan);
        }
        match deed {
            Deed::File(text) => {
                let goal = desired.upon(file(&text));
                running.carry_out(&desired.way_to(&goal));
                desired = goal;
            }
            Deed::Wg(peer, keepalive) => {
                let change = by_wg(&running, peer, keepalive);
                running.carry_out(change.as_slice());
                change.iter().for_each(|change| desired.overlay(change));
                // What `wg` had added one in the place of is disabled again.
                let tunnel = name("t");
                let there = desired.peers(&tunnel).filter(|it| !it.enabled);
                let there = there.map(|it| (it.public_key, Arc::clone(it)));
                running.peers.extend(there);
            }
            Deed::Port(..) | Deed::Peer(..) | Deed::Route(..) | Deed::Switch(..) => {}
        }
        let ports: BTreeMap<_, _> = desired
            .ports()
            .map(|it| (it.name.clone(), it.clone()))
            .collect();
        prop_assert_eq!(&running.ports, &ports);
        let tunnel = name("t");
        let peers: BTreeMap<_, _> = desired
            .peers(&tunnel)
            .map(|it| (it.public_key, Arc::clone(it)))
            .collect();
        prop_assert_eq!(&running.peers, &peers);
        let network = desired.file().network(&name("n")).unwrap();
        let routes = |layers: &Layers| -> BTreeMap<_, _> {
            layers
                .routes(network)
                .into_iter()
                .map(|(it, _)| (it.to, it.clone()))
                .collect()
        };
        prop_assert_eq!(&running.routes, &routes(&desired));
        // As after a restart.
        let laid: Vec<_> = desired
            .api()
            .told()
            .into_iter()
            .map(|it| (it.object, Said::clone(&it.said)))
            .collect();
        let again = Layers::with_api(Arc::clone(desired.file()), &Laid::new(laid));
        let ports: Vec<_> = desired.ports().collect();
        prop_assert_eq!(ports, again.ports().collect::<Vec<_>>());
        prop_assert_eq!(routes(&desired), routes(&again));
        let rest = |layers: &Layers| -> Vec<_> {
            layers
                .api()
                .told()
                .into_iter()
                .map(|it| (it.object, it.rests))
                .collect()
        };
        prop_assert_eq!(rest(&desired), rest(&again));
        let desired = desired.without_wg();
        let peers: Vec<_> = desired.peers(&tunnel).collect();
        prop_assert_eq!(peers, again.peers(&tunnel).collect::<Vec<_>>());
    }
    Ok(())
}

/// What a peer had that `wg` has removed is its own as long as it is laid: it is back after a restart.
#[test]
fn who_is_removed_by_wg_alone_keeps_his_prefix() {
    let add = |n| Deed::Peer(n, Act::Add { may_exist: false }, None, None, Some(2));
    walk(Text::default(), vec![add(1), Deed::Wg(1, None), add(2)]).unwrap();
    let route = Deed::Route(2, Act::Add { may_exist: false }, None);
    walk(Text::default(), vec![add(1), Deed::Wg(1, None), route]).unwrap();
}

proptest! {
    #[test]
    fn incremental_is_planned_from_scratch(
        first in text(),
        deeds in prop::collection::vec(deed(), 1..24),
    ) {
        walk(first, deeds)?;
    }
}

/// It has the key of a peer that the file has since, and that is switched off.
#[test]
fn a_peer_that_rests_hinders_nobody() {
    let file = |peers: &str| {
        let text = format!(
            "version: 1\nnode: a\nuplinks: {{u: {{driver: udp}}}}\n\
             networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n\
             tunnels: {{t: {{uplink: u, listen_port: 1, private_key_file: k, peers: {{{peers}}}}}}}\n"
        );
        let read = config::parse(&text, Path::new("t.yaml"), &Keyring);
        read.map_err(|report| report.render(false)).unwrap().0
    };
    let wish = |peer: &str, act, keys: String| Wish {
        object: Object::Peer(name("t"), name(peer)),
        act,
        keys: object::keys(&keys, "t").ok().unwrap(),
        preshared_key: None,
        uplink: None,
    };
    let mut books = Books::default();
    let mut carry_out = |desired: &mut Layers, wish: &Wish| {
        let said = said(desired, wish, None).ok().unwrap().unwrap();
        let (step, _) = books.plan(desired, &wish.object, said.as_ref())?;
        desired.lay(step.api, &step.plan);
        Ok::<_, Refused>(step.plan.len())
    };
    let (put, set) = (Act::Put, Act::Set { if_exists: false });
    let add = wish("x", put, format!("public_key: \"{}\"\n", key(1)));
    let down = wish("other", set, "enabled: false\n".into());
    let mut desired = Layers::new(Arc::new(file("")));
    assert_eq!(carry_out(&mut desired, &add).ok(), Some(1));
    desired = desired.upon(file(&format!("other: {{public_key: \"{}\"}}", key(1))));
    assert_eq!(carry_out(&mut desired, &down).ok(), Some(1));
    assert_eq!(desired.api().rests(&down.object), None);
    assert!(desired.api().rests(&add.object).is_some());
    // What would not come about is refused.
    let again = wish("x", set, "persistent_keepalive: 5s\n".into());
    let refused = carry_out(&mut desired, &again);
    assert!(matches!(refused, Err(Refused::Conflict(_))), "{refused:?}");
}
