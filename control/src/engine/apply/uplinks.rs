//! Uplinks, as a plan has them.
//!
//! In: a plan. Out: uplinks that are opened for it, those that stay with what changed in them; what only old ones knew,
//! closed. Never: a device closed before the last worker has given up its queues; a place given to another uplink while a
//! path leads out by it.
//!
//! An uplink that can't stay as it is is exchanged for another one under its name, and its tunnels move there. The new one
//! is opened beside the old one, unless both have one device.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::{
    shared::{
        clock,
        control_link::{Command, Seat},
        ids::{Scope, UplinkIndex},
    },
    uplink::Queue,
};
use culvert_stack::Learns;
use culvert_wireguard::{Instant, Now};

use super::super::{Engine, uplinks::UplinkState};
use super::{ADOPTION, Prepared};
use crate::{
    config::{self, Config, Name, UplinkDriver},
    events::Event,
    plan::{Change, Edit, restarts},
};

/// What stands for the uplink of those whose uplink is gone: none has this place.
const GONE: UplinkIndex = UplinkIndex(u32::MAX);

/// How long what an uplink says at last may take to leave.
const GIVEN_BACK: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// An uplink that comes.
pub(super) struct Coming {
    pub(super) slot: usize,
    pub(super) config: config::Uplink,
    /// With the queues of its device. One whose device another uplink has is not open yet.
    opened: Option<(UplinkState, Vec<Queue>)>,
}

/// What tunnels and uplinks leave behind: it is closed once no path leads there.
#[derive(Default)]
pub(super) struct Left {
    /// Tunnels that went to other uplinks.
    pub(super) moved: Vec<usize>,
    /// Where their sockets are that nobody inherits.
    pub(super) seats: Vec<Seat>,
    /// Sockets that go along: from, to.
    pub(super) heirs: Vec<(Seat, Seat)>,
    /// Uplinks that go.
    pub(super) uplinks: Vec<usize>,
}

/// The uplinks that a plan changes.
fn uplinks(plan: &[Change]) -> impl Iterator<Item = &Edit<config::Uplink>> {
    plan.iter().filter_map(Change::uplink)
}

/// What is opened for it.
fn comes(edit: &Edit<config::Uplink>) -> Option<&config::Uplink> {
    match edit {
        Edit::Add(new) => Some(new),
        Edit::Change { old, new } => restarts(old, new).then_some(new),
        Edit::Remove(_) => None,
    }
}

/// What is closed.
fn goes(edit: &Edit<config::Uplink>) -> Option<&config::Uplink> {
    match edit {
        Edit::Add(_) => None,
        Edit::Change { old, new } => restarts(old, new).then_some(old),
        Edit::Remove(old) => Some(old),
    }
}

/// Whether two uplinks are open on the same device.
fn share_a_device(one: &config::Uplink, other: &config::Uplink) -> bool {
    let has = |name: &str| devices(other).any(|it| it == name);
    devices(one).any(has)
}

fn devices(uplink: &config::Uplink) -> impl Iterator<Item = &str> {
    let dpdk = match &uplink.driver {
        UplinkDriver::Dpdk(dpdk) if uplink.enabled => Some(dpdk),
        UplinkDriver::Dpdk(_) | UplinkDriver::Udp(_) => None,
    };
    dpdk.into_iter()
        .flat_map(|dpdk| dpdk.devices().map(|it| it.name.as_str()))
}

/// The hardware addresses of the devices of uplinks that come.
pub(super) fn macs(prepared: &Prepared) -> BTreeMap<Name, [u8; 6]> {
    let coming = prepared.uplinks.iter();
    let macs = coming.filter_map(|(name, coming)| {
        let (state, _) = coming.opened.as_ref()?;
        Some((name.clone(), state.mac()?))
    });
    macs.collect()
}

/// What can be opened only once devices are free.
#[derive(Default)]
pub(super) struct Late {
    /// Uplinks that come.
    names: Vec<Name>,
    /// The places of those that have their devices: a bond may take those of several.
    holders: BTreeSet<usize>,
}

/// Step 2.
impl Engine {
    /// Opens new uplinks beside the old ones; answers those whose device an old one has.
    pub(super) fn prepare_uplinks(
        &mut self,
        plan: &[Change],
        file: Option<&Config>,
        prepared: &mut Prepared,
    ) -> Result<Late, String> {
        let mut late = Late::default();
        let going: Vec<_> = uplinks(plan).filter_map(goes).collect();
        for new in uplinks(plan).filter_map(comes) {
            if devices(new).next().is_some() {
                self.start_dpdk(file)?;
            }
            let holders = going.iter().filter(|old| share_a_device(old, new));
            let holders = holders.filter_map(|old| self.uplinks.place(&old.name));
            let holders: Vec<_> = holders.collect();
            let slot = self.uplinks.reserve();
            let coming = Coming {
                slot,
                config: new.clone(),
                opened: None,
            };
            // Noted first: its place is vacated if it can't be opened.
            prepared.uplinks.insert(new.name.clone(), coming);
            match holders.is_empty() {
                false => {
                    late.names.push(new.name.clone());
                    late.holders.extend(holders);
                }
                true => self.open_coming(&new.name, prepared)?,
            }
        }
        Ok(late)
    }

    /// Starts DPDK unless it runs, and has every worker enter it.
    fn start_dpdk(&mut self, file: Option<&Config>) -> Result<(), String> {
        let Some(entry) = file
            .map(|file| self.dpdk.start(file))
            .transpose()?
            .flatten()
        else {
            return Ok(());
        };
        self.desired.note_taken(self.dpdk.memory());
        let enter = || Command::Enter(Arc::clone(&entry));
        for failure in self.insist_all("it will be slow with DPDK", enter) {
            tracing::warn!("{failure}");
        }
        Ok(())
    }

    fn open_coming(&mut self, name: &Name, prepared: &mut Prepared) -> Result<(), String> {
        let Some(coming) = prepared.uplinks.get_mut(name) else {
            return Ok(());
        };
        coming.opened = Some(self.open_uplink(coming.config.clone(), coming.slot)?);
        Ok(())
    }

    fn open_uplink(
        &mut self,
        config: config::Uplink,
        slot: usize,
    ) -> Result<(UplinkState, Vec<Queue>), String> {
        let index = UplinkIndex::from_slot(slot);
        UplinkState::open(config, index, self.workers.count(), &self.dpdk)
    }

    /// The uplink at `slot`, which is open now, has its stack from now on, if it needs one.
    fn begin_stack(&mut self, slot: usize) {
        let uplink = self.uplinks.get_mut(slot);
        let stack = uplink.and_then(|uplink| {
            uplink.rivals.clear();
            Some((uplink.scope()?, uplink.host()?))
        });
        if let Some((scope, host)) = stack {
            self.netstack.insert(scope, host);
            self.hops.forget_neighbors(scope);
        }
    }

    /// Closes devices and opens them for the uplinks that take them.
    pub(super) fn exchange_devices(
        &mut self,
        late: Late,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        for holder in late.holders {
            prepared.shut.push(holder);
            self.shut(holder)?;
        }
        for name in late.names {
            self.open_coming(&name, prepared)?;
        }
        Ok(())
    }

    fn shut(&mut self, slot: usize) -> Result<(), String> {
        let detach = || Command::DetachUplink(UplinkIndex::from_slot(slot), None);
        let failures = self.insist_all("it keeps a device's queue", detach);
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        self.uplinks
            .get_mut(slot)
            .map_or(Ok(()), UplinkState::close)
    }

    /// Undoes all that; answers what could not be undone.
    pub(super) fn restore_uplinks(&mut self, prepared: &mut Prepared) -> Vec<String> {
        for (_, coming) in prepared.uplinks.drain() {
            // A device closes with it: no worker has had its queues.
            drop(coming.opened);
            self.uplinks.vacate(coming.slot);
        }
        let shut = std::mem::take(&mut prepared.shut);
        let left = shut.into_iter().filter_map(|slot| {
            let error = self.open_again(slot).err()?;
            Some(format!("{error}: it is down and tried again each second"))
        });
        left.collect()
    }

    /// Opens an uplink whose device was closed as it was, unpublished.
    fn open_again(&mut self, slot: usize) -> Result<(), String> {
        let Some(uplink) = self.uplinks.get_mut(slot) else {
            return Ok(());
        };
        uplink.note_shut();
        let (config, counters) = (uplink.config.clone(), uplink.counters.clone());
        let (host_drops, lost) = (Arc::clone(&uplink.host_drops), uplink.lost.clone());
        let learned = Arc::clone(&uplink.learned);
        let taught = uplink.taught.again();
        let owners = config.queue_workers.clone();
        // A worker may have been slow to give it up.
        uplink.close()?;
        let (mut state, queues) = self.open_uplink(config, slot)?;
        (state.counters, state.host_drops, state.lost) = (counters, host_drops, lost);
        state.learned = learned;
        state.taught = taught;
        self.uplinks.put(slot, state);
        self.begin_stack(slot);
        self.outdate_paths_by(slot);
        let failures = self.attach(&owners, queues);
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures.join("; ")),
        }
    }

    /// Closes devices that the kernel wants back: it waits for that, and so does whoever unbinds them.
    pub(in crate::engine) fn give_devices_back(&mut self) {
        let wanted = self.uplinks.iter().filter(|(_, it)| it.is_wanted_back());
        let wanted: Vec<_> = wanted.map(|(slot, _)| slot).collect();
        for slot in wanted {
            let closed = self.shut(slot);
            let Some(uplink) = self.uplinks.get_mut(slot) else {
                continue;
            };
            uplink.note_shut();
            let (uplink, device) = (uplink.config.name.clone(), uplink.devargs());
            match closed {
                Ok(()) => Event::UplinkReleased { uplink, device }.tell(),
                Err(error) => {
                    tracing::error!(%uplink, %error, "can't close the device, which the host wants back")
                }
            }
        }
    }

    /// Tries uplinks again that are down, if their devices are there.
    pub(in crate::engine) fn retry_uplinks(&mut self) {
        let shut = self.uplinks.iter();
        let shut = shut.filter(|(_, uplink)| uplink.is_shut && uplink.is_back());
        let shut: Vec<_> = shut.map(|(slot, _)| slot).collect();
        for slot in shut {
            if self.open_again(slot).is_ok() {
                if let Some(uplink) = self.uplinks.get(slot) {
                    let (uplink, device) = (uplink.config.name.clone(), uplink.devargs());
                    Event::UplinkOpened { uplink, device }.tell();
                }
                self.publish();
            }
        }
    }
}

/// Steps 3 and 4.
impl Engine {
    /// Puts new uplinks in their places and changes those that stay; answers those that go, and what failed.
    pub(super) fn commit_uplinks(
        &mut self,
        plan: &[Change],
        prepared: &mut Prepared,
        now: Now,
    ) -> (Vec<usize>, Vec<String>) {
        let going = uplinks(plan).filter_map(goes);
        let going: Vec<_> = going
            .filter_map(|old| self.uplinks.place(&old.name))
            .collect();
        for edit in uplinks(plan) {
            if let Edit::Change { old, new } = edit
                && !restarts(old, new)
                && let Some(slot) = self.uplinks.place(&new.name)
                && let Some(uplink) = self.uplinks.change(slot)
            {
                uplink.reconfigure(new.clone(), &mut self.netstack);
                self.outdate_paths_by(slot);
            }
        }
        let mut failures = Vec::new();
        for (name, coming) in prepared.uplinks.drain() {
            let Some((mut state, queues)) = coming.opened else {
                continue;
            };
            if let Some(before) = self.uplinks.named(&name) {
                // What it counts goes on.
                state.counters = before.counters.clone();
                state.host_drops = Arc::clone(&before.host_drops);
                state.lost = before.lost.clone();
                state.learned = Arc::clone(&before.learned);
                state.taught = before.taught.again();
            }
            self.hold_lease(&mut state, now);
            let owners = state.config.queue_workers.clone();
            self.uplinks.put(coming.slot, state);
            self.begin_stack(coming.slot);
            failures.extend(self.attach(&owners, queues));
        }
        (going, failures)
    }

    /// Peers that are reached by an uplink are to be given new paths, from addresses that it has.
    pub(in crate::engine) fn outdate_paths_by(&mut self, slot: usize) {
        for (_, peer) in self.peers.iter_mut() {
            if peer.uplink == slot {
                peer.local = None;
                peer.outdate_path();
            }
        }
    }

    /// Once workers know the new places: leads peers there, and closes what tunnels and uplinks have left. Answers what
    /// failed.
    pub(super) fn leave(&mut self, left: Left, now: Now) -> Vec<String> {
        if left.moved.is_empty() && left.uplinks.is_empty() && left.seats.is_empty() {
            return Vec::new();
        }
        self.await_adoption();
        let heirs: Arc<[_]> = left.heirs.into();
        let mut failures = Vec::new();
        if !heirs.is_empty() {
            let hand_over = || Command::HandOver(Arc::clone(&heirs));
            let lost = "UDP ports stay on the uplinks that they were on";
            failures.extend(self.insist_all(lost, hand_over));
        }
        self.rebuild_paths(now.monotonic);
        self.tell_moved(&left.moved);
        self.give_back(&left.uplinks);
        let inherited = heirs.iter().map(|(from, _)| *from);
        let seats = left.seats.iter().copied().chain(inherited);
        let seats = seats.map(|(uplink, tunnel)| (uplink, Some(tunnel)));
        let uplinks = left
            .uplinks
            .iter()
            .map(|&slot| (UplinkIndex::from_slot(slot), None));
        for (uplink, tunnel) in seats.chain(uplinks) {
            let detach = || Command::DetachUplink(uplink, tunnel);
            failures.extend(self.insist_all("it keeps queues of an uplink that was left", detach));
        }
        // What those hold is worked off by a snapshot that knows them.
        self.workers.await_taken(ADOPTION);
        failures.extend(self.close_uplinks(&left.uplinks, &left.moved, now));
        failures
    }

    /// Peers hear from where they are reached now: they answer to where they heard us last.
    fn tell_moved(&mut self, tunnels: &[usize]) {
        let moved: HashSet<_> = tunnels.iter().copied().collect();
        let peers = self.peers.iter();
        let reached =
            peers.filter(|(_, peer)| moved.contains(&peer.tunnel) && peer.cell.keypair().is_some());
        let reached: Vec<_> = reached.map(|(place, _)| place).collect();
        reached.into_iter().for_each(|place| self.keep_alive(place));
    }

    /// Uplinks that go for good give back what was lent to them, as long as their devices send. One that is exchanged keeps
    /// it for the one under its name.
    fn give_back(&mut self, gone: &[usize]) {
        let mut any = false;
        for &slot in gone {
            let Some(uplink) = self.uplinks.get(slot) else {
                continue;
            };
            let is_lent =
                uplink.config.dhcp4 && self.uplinks.place(&uplink.config.name) == Some(slot);
            if is_lent && let (Some(scope), Some(mut host)) = (uplink.scope(), uplink.host()) {
                self.leases.forget(&uplink.config.name);
                host.learns = Learns::default();
                self.netstack.change(scope, host);
                any = true;
            }
        }
        if any {
            self.netstack.publish();
            let begun = clock::monotonic();
            while self.netstack.adopted() < self.netstack.generation()
                && !begun.is_older_than(GIVEN_BACK, clock::monotonic())
            {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    fn close_uplinks(&mut self, gone: &[usize], moved: &[usize], now: Now) -> Vec<String> {
        let taken = gone.iter().filter_map(|&slot| {
            self.netstack
                .remove(Scope::Uplink(UplinkIndex::from_slot(slot)));
            self.uplinks.take(slot)
        });
        let closing: Vec<_> = taken.collect();
        self.publish();
        self.await_adoption();
        self.lead_back(gone, moved, now.monotonic);
        let failures = closing
            .into_iter()
            .filter_map(|mut uplink| uplink.close().err())
            .collect();
        for &slot in gone {
            self.hops
                .forget(Scope::Uplink(UplinkIndex::from_slot(slot)));
            self.leaving_uplinks
                .push_back((self.netstack.generation(), slot));
        }
        self.vacate_uplinks();
        failures
    }

    /// Places are another's once no frame of the stacks that were there is on its way.
    pub(in crate::engine) fn vacate_uplinks(&mut self) {
        let adopted = self.netstack.adopted();
        while let Some(&(generation, slot)) = self.leaving_uplinks.front()
            && generation <= adopted
        {
            self.leaving_uplinks.pop_front();
            self.uplinks.vacate(slot);
        }
    }

    /// What workers have learned on the old ways meanwhile is not gone by: peers that moved are led by the new ones.
    fn lead_back(&mut self, gone: &[usize], moved: &[usize], now: Instant) {
        for &slot in moved {
            if let Some(tunnel) = self.tunnels.get_mut(slot) {
                tunnel.moved = clock::monotonic();
            }
        }
        let moved: HashSet<_> = moved.iter().copied().collect();
        for (_, peer) in self.peers.iter_mut() {
            let path = peer.cell.path();
            let by = path.as_ref().map(|path| path.uplink().slot());
            if moved.contains(&peer.tunnel) && by.is_some_and(|by| by != peer.uplink) {
                peer.outdate_path();
            }
        }
        self.rebuild_paths(now);
        for (_, _, outgoing) in &mut self.unrouted {
            outgoing.came = outgoing.came.filter(|(by, _)| !gone.contains(by));
        }
        for peer in &mut self.leaving {
            if gone.contains(&peer.uplink.slot()) {
                peer.uplink = GONE;
            }
        }
    }
}
