//! What others call ports and peers.
//!
//! In: a plan. Out: things with their new labels, events that have them. Never: a worker that hears of it.

use super::Engine;
use crate::{
    config::Labels,
    events::EVENTS,
    plan::{Change, Edit, PeerChange},
};

/// Has events about the things of a plan tell what others call these.
pub(super) fn tell(plan: &[Change]) {
    let labels = |change: &Change| -> [Option<(String, Labels)>; 2] {
        if let Some(edit) = change.port() {
            let sides = [edit.before(), edit.after()];
            return sides.map(|it| it.map(|it| (format!("port {}", it.name), it.labels.clone())));
        }
        let Some(PeerChange { tunnel, edit, .. }) = change.peer() else {
            return [None, None];
        };
        let sides = [edit.before(), edit.after()];
        sides.map(|it| it.map(|it| (format!("peer {tunnel}/{}", it.name), it.labels.clone())))
    };
    for [old, new] in plan.iter().filter(|it| has_labels(it)).map(labels) {
        if let Some((object, _)) = old {
            EVENTS.label(object, &Labels::default());
        }
        if let Some((object, labels)) = new {
            EVENTS.label(object, &labels);
        }
    }
}

/// Whether it is of a thing with labels: most have none.
fn has_labels(change: &Change) -> bool {
    let port = change.port();
    let ports = [port.and_then(Edit::before), port.and_then(Edit::after)];
    let peer = change.peer().map(|change| &change.edit);
    let peers = [peer.and_then(Edit::before), peer.and_then(Edit::after)];
    let of_ports = ports.into_iter().flatten().map(|it| &it.labels);
    let of_peers = peers.into_iter().flatten().map(|it| &it.labels);
    of_ports.chain(of_peers).any(|labels| !labels.is_empty())
}

impl Engine {
    /// Carries out a plan that is of labels alone.
    pub(super) fn relabel(&mut self, plan: &[Change]) {
        for new in plan.iter().filter_map(|it| it.port()?.after()) {
            let place = self.ports.place(&new.name);
            if let Some(port) = place.and_then(|place| self.ports.untouched(place)) {
                port.config.labels = new.labels.clone();
            }
            let mut down = self.down.iter_mut();
            if let Some(down) = down.find(|down| down.config.name == new.name) {
                down.config.labels = new.labels.clone();
            }
        }
        for PeerChange { tunnel, edit, .. } in plan.iter().filter_map(Change::peer) {
            let Some(new) = edit.after() else { continue };
            let place = self.peer_place(tunnel, &new.public_key);
            if let Some(peer) = place.and_then(|place| self.peers.get_mut(place)) {
                peer.config = new.clone();
            }
        }
    }
}
