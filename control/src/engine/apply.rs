//! Changes: a plan is carried out, or nothing is changed.
//!
//! In: plans. Out: the new state of things; or an error, and things as they were. Never: a session interrupted that
//! the plan does not concern; a failure that is not told.
//!
//! 1. What is fixed while the process runs refuses the plan.
//! 2. What can fail is done beside the old things, or so that it can be undone: sockets and ports are opened,
//!    interfaces adjusted, packets marked. Last of it, ports close whose socket or interface another one takes.
//!    When one step fails, those before it are undone.
//! 3. Nothing fails from here on: peers, tunnels and ports are exchanged, a snapshot is published, workers adopt it
//!    at their next burst.
//! 4. When all workers have, the old things are closed. The places of removed peers wait for that beside the engine's
//!    rounds.
//!
//! A port that can't even be opened again as it was is down: [`Engine::retry_ports`] tries it until it opens, and
//! `show` says why.

mod backups;
mod labels;
mod peers;
mod ports;
mod sockets;
mod tunnels;
mod uplinks;

use std::{collections::HashMap, sync::Arc, time::Duration};

use culvert_dataplane::shared::{
    control_link::Command,
    ids::{PeerIndex, UplinkIndex},
    limits::PEER_PLACES,
    peer::Peer as Cell,
};
use culvert_wireguard::Now;

pub(super) use self::ports::Place;
use self::{
    ports::Displaced,
    sockets::Sockets,
    uplinks::{Coming, Left},
};
use super::{
    Engine,
    ports::{DownPort, PortState},
};
use crate::{
    api::ApplyError,
    config::{self, Config, Name},
    exception::Tap,
    plan::{Change, Edit, Laid, Layers, Proposal},
    process::step,
    state::Applied,
};

/// How long workers may take to adopt a snapshot: they do at their next burst.
const ADOPTION: Duration = Duration::from_secs(1);
/// Places of removed peers that are vacated in one round: commands of other kinds need room in the workers' queues.
const VACATED_PER_ROUND: usize = 512;

/// What a plan leads to.
pub(super) enum Goal {
    /// A whole file, and the API layer over it: what `wg` set is taken back.
    File(Layers),
    /// A change of the API layer, which is this one then.
    Api(Arc<Laid>),
    /// What `wg` asked for, over the file: only what it says is done. New peers are not called, and where they were
    /// heard last doesn't count.
    Wg,
}

/// A removed peer.
pub(super) struct Leaving {
    pub(super) place: usize,
    cell: Arc<Cell>,
    /// The uplink that it was reached by.
    uplink: UplinkIndex,
    /// The first snapshot that has it not.
    since: u64,
}

/// What was done before anything was changed for good.
#[derive(Default)]
struct Prepared {
    /// New uplinks, and those that are opened anew.
    uplinks: HashMap<Name, Coming>,
    /// Uplinks whose devices closed for these.
    shut: Vec<usize>,
    /// Of new tunnels, and of tunnels that move to another port or uplink.
    sockets: HashMap<Name, Sockets>,
    /// The uplinks of these tunnels.
    seats: HashMap<Name, usize>,
    /// Tunnels whose sockets closed for these.
    unseated: Vec<usize>,
    /// Of tunnels with further uplinks.
    backups: HashMap<Name, backups::Opened>,
    /// Places that were set aside for new tunnels.
    places: HashMap<Name, usize>,
    /// Tunnels whose sockets mark packets in another way already.
    marked: Vec<usize>,
    /// Interfaces that were adjusted: their ports' places, what they were, what they are.
    adjusted: Vec<(usize, config::Port, config::Port)>,
    /// New ports.
    opened: Vec<PortState>,
    /// Those of them whose rings had no file before.
    rings: Vec<Name>,
    /// Ports that closed for one of these.
    displaced: Vec<Displaced>,
    /// Interfaces by which the kernel is to share uplinks, with their names.
    taps: Vec<(String, Tap)>,
    /// Ports that were down before, and stay so.
    still_down: Vec<DownPort>,
}

impl Engine {
    /// Applies a whole configuration. What it removes on trial comes back with the one that takes it back, which is the
    /// next that is not.
    pub(super) fn apply(
        &mut self,
        proposal: Proposal,
        on_trial: bool,
        now: Now,
    ) -> Result<Applied, ApplyError> {
        let goal = proposal.goal().clone();
        let mut plan = proposal.changes(&self.desired);
        self.mend(&goal, &mut plan);
        if on_trial {
            self.parking.open(now.monotonic);
        }
        let applied = self.carry_out(plan, Goal::File(goal), now);
        self.parking.close();
        if applied.is_ok() && !on_trial {
            self.wipe_parked();
        }
        applied
    }

    /// Steps 1 to 4.
    pub(super) fn carry_out(
        &mut self,
        plan: Vec<Change>,
        goal: Goal,
        now: Now,
    ) -> Result<Applied, ApplyError> {
        let fixed: Vec<_> = plan.iter().flat_map(Change::fixed).collect();
        if !fixed.is_empty() {
            return Err(ApplyError::NeedsRestart(fixed));
        }
        let (changes, failures);
        if plan.is_empty() && self.generation > 0 {
            // What failed before is no success the second time; that is a file's affair alone.
            failures = match &goal {
                Goal::File(_) => self.serve_wg(),
                Goal::Api(_) | Goal::Wg => Vec::new(),
            };
            self.desire(&plan, goal);
            changes = Vec::new();
        } else if self.generation > 0 && plan.iter().all(Change::is_of_labels) {
            failures = match &goal {
                Goal::File(_) => self.serve_wg(),
                Goal::Api(_) | Goal::Wg => Vec::new(),
            };
            self.relabel(&plan);
            changes = plan.iter().map(Change::line).collect();
            self.desire(&plan, goal);
        } else {
            let mut prepared = Prepared::default();
            let file = match &goal {
                Goal::File(goal) => Some(Arc::clone(goal.file())),
                // It may switch on the first device.
                Goal::Api(_) => Some(Arc::clone(self.desired.file())),
                Goal::Wg => None,
            };
            if let Err(error) = self.prepare(&plan, file.as_deref(), &mut prepared) {
                let left = self
                    .undo(prepared)
                    .into_iter()
                    .map(|left| format!("; {left}"));
                return Err(ApplyError::Failed(error + &left.collect::<String>()));
            }
            step("between what can fail and what changes");
            (changes, failures) = self.commit(plan, prepared, goal, now);
        }
        Ok(Applied {
            generation: self.generation,
            changes,
            failures,
            ..Applied::default()
        })
    }

    /// Step 2. What was done when it fails is in `prepared`.
    fn prepare(
        &mut self,
        plan: &[Change],
        file: Option<&Config>,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        self.check_places(plan)?;
        let devices = self.prepare_uplinks(plan, file, prepared)?;
        let sockets = self.prepare_tunnels(plan, prepared)?;
        self.prepare_backups(plan, prepared)?;
        self.mark_packets(plan, prepared)?;
        let ports = self.prepare_ports(plan, prepared)?;
        self.displace_sockets(sockets, prepared)?;
        self.exchange_devices(devices, prepared)?;
        self.prepare_exceptions(plan, &uplinks::macs(prepared), &mut prepared.taps)?;
        self.displace(ports, prepared)
    }

    /// Whether all new peers have a place.
    fn check_places(&self, plan: &[Change]) -> Result<(), String> {
        let added = peers::peers(plan).filter(|(_, edit)| matches!(edit, Edit::Add(_)));
        let added = added.count();
        if self.peers.in_use() + added > PEER_PLACES {
            return Err(
                "the peers of an earlier change are leaving still: try again in a second".into(),
            );
        }
        Ok(())
    }

    /// Undoes step 2, the last thing first; answers what could not be undone.
    fn undo(&mut self, mut prepared: Prepared) -> Vec<String> {
        prepared.opened.clear();
        prepared
            .rings
            .iter()
            .for_each(|port| self.remove_rings(port));
        // Then workers were shown what is undone here.
        let was_published = !prepared.displaced.is_empty() || !prepared.shut.is_empty();
        let mut left = self.restore(std::mem::take(&mut prepared.displaced));
        left.extend(self.restore_uplinks(&mut prepared));
        left.extend(self.restore_sockets(&mut prepared));
        for (slot, old, new) in prepared.adjusted.into_iter().rev() {
            let port = self.ports.change(slot);
            let interface = port.and_then(|port| port.interface.as_mut());
            let undone = interface.map_or(Ok(()), |interface| interface.adjust(&new, &old));
            left.extend(
                undone
                    .err()
                    .map(|error| format!("port {}: {error}", old.name)),
            );
        }
        left.extend(self.unmark_packets(&prepared.marked));
        for (name, slot) in prepared.places {
            if self.parking.place(&name) != Some(slot) {
                self.tunnels.vacate(slot);
            }
        }
        if was_published {
            self.publish();
        }
        left
    }

    /// Steps 3 and 4; answers in words what was done, and what failed of it.
    fn commit(
        &mut self,
        mut plan: Vec<Change>,
        mut prepared: Prepared,
        goal: Goal,
        now: Now,
    ) -> (Vec<String>, Vec<String>) {
        let (by_wg, of_file) = (matches!(goal, Goal::Wg), matches!(goal, Goal::File(_)));
        // What the protocol wants of peers that stay is not lost with those that go.
        self.drain_tunnels(now);
        self.networks.carry_out(&plan);
        let (uplinks, mut failures) = self.commit_uplinks(&plan, &mut prepared, now);
        failures.extend(self.commit_exceptions(std::mem::take(&mut prepared.taps), &uplinks));
        let mut left = Left {
            uplinks,
            ..Left::default()
        };
        let (lost, failed) = self.commit_tunnels(&mut plan, &mut prepared, &mut left);
        failures.extend(failed);
        failures.extend(self.commit_peers(&plan, by_wg, now));
        let moved = self.moves(&plan, &goal);
        let closing = self.commit_ports(&plan, prepared);
        failures.extend(self.still_down(&mut plan));
        self.desire(&plan, goal);
        self.publish();
        for command in moved {
            self.workers.send(0, command);
        }
        if lost || !closing.is_empty() {
            self.await_adoption();
        }
        let left_rings = ports::left_rings(&plan, &closing);
        drop(closing);
        self.leave_rings(left_rings, now.monotonic);
        failures.extend(self.leave(left, now));
        self.judge_anew(now);
        if of_file {
            failures.extend(self.serve_wg());
        }
        (plan.iter().map(Change::line).collect(), failures)
    }

    /// What was planned is what is desired from now on.
    fn desire(&mut self, plan: &[Change], goal: Goal) {
        labels::tell(plan);
        match goal {
            Goal::File(goal) => {
                self.requester.measure_at(goal.file().metrics.listen);
                self.desired = goal;
                self.desired.note_taken(self.dpdk.memory());
            }
            Goal::Api(api) => self.desired.lay(api, plan),
            Goal::Wg => plan.iter().for_each(|change| self.desired.overlay(change)),
        }
    }

    /// Publishes a snapshot of the present state of things.
    pub(super) fn publish(&mut self) {
        self.generation += 1;
        self.share_ports();
        let new = self.compile(self.generation);
        let old = self.snapshots.swap(Arc::new(new));
        self.workers.wake_all();
        self.retired.push(old);
        self.free_snapshots();
    }

    /// Waits until all workers go by the last snapshot, so that what only older ones knew can be closed.
    pub(super) fn await_adoption(&mut self) {
        if !self.workers.await_generation(self.generation, ADOPTION) {
            tracing::warn!("a worker is slow to adopt the new configuration");
        }
        self.free_snapshots();
    }

    /// Frees the old snapshots that no worker holds any more.
    pub(super) fn free_snapshots(&mut self) {
        self.retired
            .retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Lets new peers have the places of removed ones, once no worker can stage a frame for those any more, and none
    /// is left: a frame for one peer is never sent to another that got its place. Whether more can be done at once.
    pub(super) fn vacate_peers(&mut self) -> bool {
        let adopted = self.workers.adopted();
        for _ in 0..VACATED_PER_ROUND {
            let Some(&Leaving {
                place,
                uplink,
                since,
                ..
            }) = self.leaving.front()
            else {
                return false;
            };
            let forget = || Command::ForgetStaged(PeerIndex::from_slot(place), uplink);
            if since > adopted || !self.tell_all(forget) {
                return false;
            }
            if let Some(Leaving { cell, .. }) = self.leaving.pop_front() {
                // Its last questions were for nobody.
                cell.publish_path(None);
            }
            if !self.parking.has_place(place) {
                self.peers.vacate(place);
            }
        }
        !self.leaving.is_empty()
    }
}
