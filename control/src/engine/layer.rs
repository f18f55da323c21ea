//! Changes of single objects, by the API layer.
//!
//! In: steps that were planned on the asker's thread. Out: what they come to, carried out as those of a file are; or
//! why nothing changed. Never: a look at all objects; a port that loses its socket to one of the layer.

use std::sync::Arc;

use culvert_dataplane::shared::limits::PEERS;
use culvert_wireguard::Now;

use super::{Engine, apply::Goal, ports::DownPort};
use crate::{
    api::ApplyError,
    config::{Name, NetworkRoute, Peer},
    keys::PublicKey,
    layer::Step,
    plan::{Change, Edit, Laid, Layers, PeerChange},
    state::Applied,
};

impl Engine {
    /// Carries a step out.
    pub(super) fn lay(&mut self, step: Step, now: Now) -> Result<Applied, ApplyError> {
        let Step { plan, api } = step;
        let plan = self.settle(plan).map_err(ApplyError::Failed)?;
        self.carry_out(plan, Goal::Api(api), now)
    }

    /// A plan from what is: `wg` may have touched its peers. What belongs to others is refused.
    fn settle(&self, plan: Vec<Change>) -> Result<Vec<Change>, String> {
        let gone = plan.iter().filter_map(|change| match &change.peer()?.edit {
            Edit::Remove(old) => Some(old.public_key),
            Edit::Add(_) | Edit::Change { .. } => None,
        });
        let gone: Vec<_> = gone.collect();
        let peers: Vec<_> = plan.iter().filter_map(Change::peer).cloned().collect();
        let mut settled = Vec::with_capacity(plan.len());
        for change in plan {
            let new = change.port().and_then(Edit::after);
            if let Some(new) = new.filter(|port| port.enabled)
                && let Some(other) = self.occupant(new)
            {
                let name = &new.name;
                return Err(format!(
                    "port {other} has the socket or interface of port {name}"
                ));
            }
            if let Change::Route { network, edit } = &change {
                self.settle_route(network, edit, &peers)?;
            }
            if let Change::Peer(change) = change {
                let change = self.settle_peer(change, &gone)?;
                settled.extend(change.map(Change::Peer));
            } else {
                settled.push(change);
            }
        }
        Ok(settled)
    }

    /// A route does not stand beside the same prefix of a peer that keeps it.
    fn settle_route(
        &self,
        network: &Name,
        edit: &Edit<NetworkRoute>,
        peers: &[PeerChange],
    ) -> Result<(), String> {
        let Edit::Add(NetworkRoute { to, .. }) = edit else {
            return Ok(());
        };
        let network = self.networks.table.named(network);
        let tunnel = network.and_then(|network| network.config.tunnel.as_ref());
        let tunnel = tunnel.and_then(|name| self.tunnels.named(name));
        let owner = tunnel.and_then(|tunnel| Some((tunnel, tunnel.owner(to)?)));
        let peer = owner.and_then(|(tunnel, place)| Some((tunnel, self.peers.get(place)?)));
        let keeps = |peer: &Peer| {
            let is_it = |it: &&PeerChange| it.edit.any().public_key == peer.public_key;
            let then = peers.iter().find(is_it).map(|it| it.edit.after());
            let has = |peer: &Arc<Peer>| peer.enabled && peer.allowed_ips.contains(to);
            then.is_none_or(|then| then.is_some_and(has))
        };
        let peer = peer.filter(|(_, peer)| keeps(&peer.config));
        peer.map_or(Ok(()), |(tunnel, peer)| {
            let (tunnel, peer) = (&tunnel.name, &peer.config.name);
            Err(format!(
                "peer {tunnel}/{peer} has {to} among its allowed_ips"
            ))
        })
    }

    /// The change of a peer from what it is. It takes no key, name or prefix from one that stays.
    fn settle_peer(
        &self,
        change: PeerChange,
        gone: &[PublicKey],
    ) -> Result<Option<PeerChange>, String> {
        let PeerChange {
            tunnel: of,
            edit,
            moves,
        } = change;
        let tunnel = self.tunnels.named(&of);
        let tunnel = tunnel.ok_or_else(|| format!("there is no tunnel {of}"))?;
        let at = |place: usize| self.peers.get(place).map(|peer| &peer.config);
        let key = edit.any().public_key;
        let old = tunnel.place(&key).and_then(at).cloned();
        // What is disabled is not there.
        let disabled = || edit.before().filter(|old| !old.enabled).cloned();
        let old = old.or_else(disabled);
        let new = edit.after().cloned();
        if let Some(new) = &new {
            let stays =
                |peer: &&Arc<Peer>| peer.public_key != key && !gone.contains(&peer.public_key);
            if tunnel.device.public_key() == Some(key) {
                return Err(format!(
                    "peer {of}/{} has the key of the tunnel itself",
                    new.name
                ));
            }
            if let Some(other) = old.as_ref().filter(|old| old.name != new.name)
                && !other.name.as_str().starts_with("wg-")
            {
                return Err(format!("peer {of}/{} has that public key", other.name));
            }
            if tunnel.named(&new.name).and_then(at).filter(stays).is_some() {
                return Err(format!(
                    "there is a peer {of}/{} with another key",
                    new.name
                ));
            }
            for net in new.allowed_ips.iter().filter(|_| new.enabled) {
                if let Some(other) = tunnel.owner(net).and_then(at).filter(stays) {
                    return Err(format!("peer {of}/{} has {net}", other.name));
                }
            }
            let all = self.peers.len() - gone.len().min(self.peers.len());
            if old.is_none() && all >= PEERS {
                return Err(format!("there are {PEERS} peers, as many as can be"));
            }
        }
        let tunnel = of;
        Ok(Edit::between(old, new).map(|edit| PeerChange {
            tunnel,
            edit,
            moves,
        }))
    }

    /// Carries out what was kept of the layer, over the file that runs. Nothing of it hinders the start: what can't be
    /// had is told, and ports are tried again each second.
    pub(super) fn lay_all(&mut self, laid: &Laid, now: Now) {
        let goal = Layers::with_api(Arc::clone(self.desired.file()), laid);
        for (object, why) in goal.api().resting() {
            tracing::error!("{object} of the API layer rests, the file counts alone: {why}");
        }
        let api = goal.api();
        let plan = self.desired.way_to(&goal);
        if self
            .carry_out(plan.clone(), Goal::Api(Arc::clone(api)), now)
            .is_ok()
        {
            return;
        }
        for change in plan {
            let object = change.object();
            let port = change.port().and_then(Edit::after);
            let port = port.filter(|port| port.enabled).cloned();
            let Err(error) = self.carry_out(vec![change], Goal::Api(Arc::clone(api)), now) else {
                continue;
            };
            tracing::error!("{object} of the API layer can't be had: {error}");
            let error = error.to_string();
            self.down
                .extend(port.map(|config| DownPort { config, error }));
        }
    }
}
