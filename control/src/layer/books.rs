//! What lies on the desk: what counts, what keeps it, and what hinders a change of it.
//!
//! In: an object, and what is said of it. Out: the typed change, what is kept of it on the disk, or why it can't be.
//! Never: a look at all objects for a change of one, unless others wait for what it leaves.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::journal::{Journal, Record};
use super::secrets::Secrets;
use super::{Refused, Step, Wish, has_secret, read_named};
use crate::{
    api::Requester,
    config::{Config, Name, Peer, Port, Report, Tunnel, object},
    keys::PublicKey,
    plan::{
        self, Change, Edit, Laid, Layers, PeerChange,
        api::{Given, Made, Object, Said},
        claims::Claims,
    },
};

/// Why the layer takes no change. Whoever asks does not wait for a turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Notice(Arc<Mutex<Option<String>>>);

impl Notice {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of peers by their tunnels and keys.
type Keyed = HashMap<(Name, PublicKey), Name>;

/// What lies on it.
#[derive(Debug, Default)]
pub struct Books {
    /// Without one nothing is kept.
    pub(super) journal: Option<Journal>,
    /// Likewise.
    pub(super) secrets: Option<Secrets>,
    /// What the journal said at the start.
    pub(super) laid: Laid,
    /// What ports have, and over which file.
    claims: Option<(Arc<Config>, Claims)>,
    /// The file's peers that are disabled, by their tunnels and keys, and of which file.
    disabled: Option<(Arc<Config>, Keyed)>,
    /// The revision that waited last for its confirmation, and what it touches.
    awaiting: Option<(u64, HashSet<String>)>,
    /// The file that the process was started with.
    pub(super) own_file: Option<PathBuf>,
    /// What is told of the journal.
    pub(super) notice: Notice,
}

impl Books {
    /// A revision waits for its confirmation, which touches these.
    pub(crate) fn await_confirmation(&mut self, revision: u64, touched: HashSet<String>) {
        match &mut self.awaiting {
            // An extension of its time touches nothing anew.
            Some((waiting, all)) if *waiting == revision => all.extend(touched),
            _ => self.awaiting = Some((revision, touched)),
        }
    }

    /// Why an object is to stay as it is for now. A change that waits for its confirmation hinders those that it
    /// touches, and no others.
    pub(super) fn hindrance(&self, requester: &Requester, object: &Object) -> Option<String> {
        let (revision, touched) = self.awaiting.as_ref()?;
        let pending = requester.history()?.told_pending()?;
        let around = match object {
            Object::Route(network, _) => Some(format!("network {network}")),
            Object::Port(_) | Object::Peer(..) | Object::Uplink(_) => None,
        };
        let is_touched = |object: String| touched.contains(&object);
        let is_touched = is_touched(object.to_string()) || around.is_some_and(is_touched);
        let waits = pending.revision == *revision && is_touched;
        waits.then(|| format!("{object} is touched by what waits for its confirmation: {pending}"))
    }

    /// What an object that is said so comes to.
    pub(super) fn plan(
        &mut self,
        now: &Layers,
        object: &Object,
        said: Option<&Said>,
    ) -> Result<(Step, Report), Refused> {
        let file = now.file();
        let made = said.map(|said| self.make(now, object, said)).transpose()?;
        if let (None, Object::Port(name)) = (said, object)
            && let Some(port) = file.port(name)
            && let Some(what) = self.claims(now).denied(file, port)
        {
            let error = format!("{object} can't be as the file has it: {what}");
            return Err(Refused::Conflict(error));
        }
        if let Object::Peer(of, name) = object
            && let Some(peer) = peer_of(file, of, name, made.as_ref())
            && let Some(what) = now.routed(of, peer)
        {
            let error = format!("{object} can't be so: {what}, and a prefix is one's");
            return Err(Refused::Conflict(error));
        }
        let (made, warnings) = made.unzip();
        let mut api = now.api().with(object, said.cloned().zip(made));
        let others_wait = now.api().resting().next().is_some() || now.api().leads_to(file, object);
        // What this one leaves may be theirs, and they may lead to it. Where `wg` has removed a peer, what that had is its
        // own as long as it is laid.
        let tunnel = match object {
            Object::Peer(of, _) => Some(of),
            Object::Route(network, _) => file.network(network).and_then(|it| it.tunnel.as_ref()),
            Object::Port(_) | Object::Uplink(_) => None,
        };
        if others_wait || tunnel.is_some_and(|tunnel| now.is_touched(tunnel)) {
            api = api.again(file);
        }
        if let Some(why) = api.rests(object) {
            return Err(Refused::Conflict(format!("{object} can't be so: {why}")));
        }
        let api = Arc::new(api);
        let mut then = now.clone();
        then.lay(Arc::clone(&api), &[]);
        let plan = match others_wait {
            true => now.without_wg().way_to(&then.without_wg()),
            false => changes(object, now, &then),
        };
        Ok((Step { plan, api }, warnings.unwrap_or_default()))
    }

    /// What an object is that is said so.
    fn make(
        &mut self,
        now: &Layers,
        object: &Object,
        said: &Said,
    ) -> Result<(Made, Report), Refused> {
        let file = now.file();
        match object {
            Object::Port(name) => {
                let (port, warnings) = plan::api::port(file, name, said)?;
                if let Some(what) = self.claims(now).denied(file, &port) {
                    return Err(Refused::Conflict(format!("{object} can't be so: {what}")));
                }
                Ok((Made::Port(Arc::new(port)), warnings))
            }
            // What belongs to one peer alone, the control core knows, of those that are enabled.
            Object::Peer(of, name) => {
                let missing = || Refused::Missing(format!("there is no tunnel {of}"));
                let tunnel = file.tunnel(of).ok_or_else(missing)?;
                let (peer, warnings) = plan::api::peer(file, tunnel, name, said)?;
                if let Some(other) = self.disabled(now, of, &peer) {
                    return Err(Refused::Conflict(format!(
                        "peer {of}/{other}, which is disabled, has that public key"
                    )));
                }
                Ok((Made::Peer(peer), warnings))
            }
            Object::Route(network, to) => {
                if file.network(network).is_none() {
                    return Err(Refused::Missing(format!("there is no network {network}")));
                }
                let route = plan::api::route(file, now.api(), network, to, said)?;
                Ok((Made::Route(Arc::new(route)), Report::default()))
            }
            Object::Uplink(name) => {
                let uplink = plan::api::uplink(file, name, said)?;
                Ok((Made::Uplink(Arc::new(uplink)), Report::default()))
            }
        }
    }

    /// Another peer of a tunnel that is disabled and has the key of this one.
    fn disabled(&mut self, now: &Layers, tunnel: &Name, peer: &Peer) -> Option<Name> {
        let file = now.file();
        let is_known = (self.disabled.as_ref()).is_some_and(|(of, _)| Arc::ptr_eq(of, file));
        if !is_known {
            let peers = |of: &Tunnel| {
                let disabled = of.peers.iter().filter(|peer| !peer.enabled);
                let keyed = disabled.map(|it| ((of.name.clone(), it.public_key), it.name.clone()));
                keyed.collect::<Vec<_>>()
            };
            let all = file.tunnels.iter().flat_map(peers).collect();
            self.disabled = Some((Arc::clone(file), all));
        }
        let key = (tunnel.clone(), peer.public_key);
        let of_file = self.disabled.as_ref().and_then(|(_, all)| all.get(&key));
        let of_layer = now.disabled_of_layer(tunnel, &peer.public_key);
        let mut others = of_file.into_iter().chain(of_layer.map(|it| &it.name));
        others.find(|name| **name != peer.name).cloned()
    }

    /// What ports have.
    fn claims(&mut self, now: &Layers) -> &Claims {
        let file = now.file();
        let is_known = self
            .claims
            .as_ref()
            .is_some_and(|(of, _)| Arc::ptr_eq(of, file));
        if !is_known {
            let claims = Claims::of(file, now.ports());
            self.claims = Some((Arc::clone(file), claims));
        }
        self.claims
            .as_ref()
            .map(|(_, claims)| claims)
            .expect("they were put there")
    }

    /// Gives an object the preshared key that is wished for it, or leaves it the one that it has.
    pub(super) fn give(
        &mut self,
        now: &Layers,
        wish: &Wish,
        said: &mut Said,
    ) -> Result<(), Refused> {
        let object = &wish.object;
        match (object::key_file(&said.keys), has_secret(said)) {
            (Some(_), true) => {
                let error = format!(
                    "{object} would have a `preshared_key` and a `preshared_key_file`: say of one that there is none"
                );
                return Err(Refused::Conflict(error));
            }
            (Some(file), false) => {
                let directory = &now.file().api.key_directory;
                let given = read_named(directory, file).map_err(Refused::Conflict)?;
                said.preshared_key = Some(given);
                return Ok(());
            }
            (None, false) => return Ok(()),
            (None, true) => {}
        }
        let laid = now.api().said(object);
        let kept = laid.and_then(|said| said.preshared_key.as_ref());
        said.preshared_key = match (&wish.preshared_key, kept) {
            (None, None) => {
                let error = format!(
                    "{object} has no preshared key that could be kept: give one, or say that it has none"
                );
                return Err(Refused::Conflict(error));
            }
            (Some(key), kept) if kept.is_none_or(|kept| kept.key != *key) => Some(Given {
                key: key.clone(),
                number: Some(self.secrets.as_mut().map_or(0, Secrets::next)),
            }),
            (_, kept) => kept.cloned(),
        };
        Ok(())
    }

    /// Has what is said of an object be on the disk, its new key first.
    pub(super) fn keep(
        &mut self,
        object: &Object,
        said: Option<&Said>,
        key: Option<&Given>,
    ) -> Result<(), Refused> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        let key = self.secrets.as_ref().zip(key);
        let kept = key.map_or(Ok(()), |(secrets, key)| secrets.keep(object, key));
        let kept = kept.and_then(|()| journal.append(&Record::new(object, said)));
        kept.map_err(|error| {
            if let Some((secrets, key)) = key {
                secrets.forget(object, key);
            }
            let path = journal.path();
            Refused::NotKept(format!(
                "it can't be kept in {}: {error}: nothing has changed",
                path.display()
            ))
        })?;
        if self.notice.lock().is_some() {
            self.look_at_journal();
        }
        Ok(())
    }

    /// Tells whether the journal takes changes.
    pub(super) fn look_at_journal(&self) {
        let notice = self.journal.as_ref().and_then(|journal| {
            let why = journal.hindrance()?;
            let path = journal.path().display().to_string();
            let told = match journal.is_unknown() {
                true => format!(
                    "what {path} says of the API layer is not known, and it takes no change: {why}; mend that, and restart"
                ),
                false => format!(
                    "the API layer takes no change until {path} can be written: {why}"
                ),
            };
            tracing::error!("{told}");
            Some(told)
        });
        *self.notice.lock() = notice;
    }

    pub(super) fn forget(&self, object: &Object, key: Option<&Given>) {
        if let Some((secrets, key)) = self.secrets.as_ref().zip(key) {
            secrets.forget(object, key);
        }
    }

    pub(super) fn take_back(&mut self) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.take_back()
        {
            let path = journal.path().display().to_string();
            tracing::error!(path, %error, "what was refused can't be taken off the journal: it is tried again at the next start");
        }
    }

    /// A step is what is desired from now on.
    pub(super) fn carried_out(&mut self, edits: &[Edit<Port>], layer: &Laid) {
        if let Some((file, claims)) = &mut self.claims {
            // What one leaves another may have taken: first all leave.
            for port in edits.iter().filter_map(Edit::before) {
                claims.revoke(file, port);
            }
            for port in edits.iter().filter_map(Edit::after) {
                claims.grant(file, port);
            }
        }
        if let Some(journal) = &mut self.journal
            && journal.is_long()
            && let Err(error) = journal.rewrite(layer)
        {
            let path = journal.path().display().to_string();
            tracing::warn!(path, %error, "the API layer's journal can't be written anew: it grows on");
        }
    }
}

/// The peer that is to be: as it was made, or as the file has it.
fn peer_of<'p>(
    file: &'p Config,
    tunnel: &Name,
    name: &Name,
    made: Option<&'p (Made, Report)>,
) -> Option<&'p Arc<Peer>> {
    match made {
        Some((Made::Peer(peer), _)) => Some(peer),
        Some((Made::Port(_) | Made::Route(_) | Made::Uplink(_), _)) => None,
        None => file.peer(tunnel, name),
    }
}

/// From what an object is to what it becomes.
fn changes(object: &Object, now: &Layers, then: &Layers) -> Vec<Change> {
    match object {
        Object::Port(name) => {
            let edit = Edit::between(now.port(name).cloned(), then.port(name).cloned());
            let change = edit.map(|edit| Change::Port { edit, anew: false });
            change.into_iter().collect()
        }
        Object::Peer(tunnel, name) => {
            let [old, new] = [now, then].map(|it| it.laid_peer(tunnel, name).cloned());
            let is_another =
                |(old, new): (&Arc<Peer>, &Arc<Peer>)| old.public_key != new.public_key;
            let edits = match old.as_ref().zip(new.as_ref()).is_some_and(is_another) {
                true => [old.map(Edit::Remove), new.map(Edit::Add)],
                false => [None, Edit::between(old, new)],
            };
            let change = |edit: Edit<Arc<Peer>>| {
                let moves =
                    matches!(&edit, Edit::Change { old, new } if old.endpoint != new.endpoint);
                let tunnel = tunnel.clone();
                Change::Peer(PeerChange {
                    tunnel,
                    edit,
                    moves,
                })
            };
            edits.into_iter().flatten().map(change).collect()
        }
        Object::Route(network, to) => {
            let [old, new] = [now, then].map(|it| it.route(network, to).cloned());
            let change = Edit::between(old, new).map(|edit| Change::Route {
                network: network.clone(),
                edit,
            });
            change.into_iter().collect()
        }
        Object::Uplink(name) => {
            let [old, new] = [now, then].map(|it| it.uplink(name).cloned());
            Edit::between(old, new)
                .map(Change::Uplink)
                .into_iter()
                .collect()
        }
    }
}
