//! Guest ports: opened, watched and closed.
//!
//! In: the configured ports, events of their sessions and interfaces. Out: open
//! vhost-user ports, tun and tap interfaces, the lines that an operator waits for.
//! Never: a packet.

use std::{
    path::Path,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use culvert_dataplane::shared::{
    allowance::Allowance,
    control_link::Attention,
    drops::{DropReason, Drops},
    link_locals::LinkLocals,
    snapshot::Guest,
    wake::Wake,
};
use culvert_vhost::{self as vhost, LinkDown, PortEvent};
use culvert_wire::{MacAddr, ether::VlanId};
use culvert_wireguard::Instant;

use super::{
    interfaces::{Interface, InterfaceEvent, Keeper},
    rings,
    table::Named,
};
use crate::{
    config::{self, PortDriver, SocketMode},
    events::Event,
    process::accounts,
};

/// The least time between two announcements of one guest. QEMU repeats its request after 50 ms
/// at the earliest (`announce-initial`).
const ANNOUNCE_APART: Duration = Duration::from_millis(20);

/// An open port.
pub(super) struct PortState {
    pub(super) config: config::Port,
    pub(super) guest: Guest,
    /// Of a tun or tap port.
    pub(super) interface: Option<Interface>,
    pub(super) drops: Arc<Drops>,
    pub(super) attached: Vec<Attached>,
    pub(super) connected: bool,
    pub(super) link_up: bool,
    pub(super) features: u64,
    pub(super) queues: u16,
    announcements: Announcements,
}

/// What has come of one attachment of a guest's. Without a change of its place it stays as long as the port is open.
#[derive(Clone)]
pub(super) struct Attached {
    vlan: Option<VlanId>,
    network: config::Name,
    pub(super) link_locals: Arc<LinkLocals>,
    pub(super) errors: Arc<Allowance>,
    pub(super) questions: Arc<Allowance>,
}

/// One for each of a port's attachments, in their order, which is that of their VLANs. What a guest came to own in one network says nothing about
/// another; what it may ask and be told is its port's, in however many VLANs.
fn attached(config: &config::Port, before: &[Attached]) -> Vec<Attached> {
    let errors = before.first().map(|it| Arc::clone(&it.errors));
    let questions = before.first().map(|it| Arc::clone(&it.questions));
    let (errors, questions) = (errors.unwrap_or_default(), questions.unwrap_or_default());
    let attached = |it: &config::Attachment| {
        let at = before.binary_search_by_key(&it.vlan, |old| old.vlan);
        let before = at.ok().and_then(|at| before.get(at));
        let before = before.filter(|old| old.network == it.network);
        before.cloned().unwrap_or_else(|| Attached {
            vlan: it.vlan,
            network: it.network.clone(),
            link_locals: Arc::default(),
            errors: Arc::clone(&errors),
            questions: Arc::clone(&questions),
        })
    };
    config.attachments.iter().map(attached).collect()
}

/// A port that can't be opened at present.
pub(super) struct DownPort {
    pub(super) config: config::Port,
    /// Why, as it was told last.
    pub(super) error: String,
}

/// What a port's session thread says, with the port's name.
pub(super) type PortNews = (config::Name, PortEvent);

/// What a session thread needs to make itself heard.
#[derive(Clone)]
pub(super) struct Ears {
    pub(super) news: SyncSender<PortNews>,
    pub(super) attention: Arc<Attention>,
    /// Workers look at a ring anew when it starts.
    pub(super) doorbells: Vec<Arc<Wake>>,
}

impl Named for PortState {
    fn name(&self) -> &config::Name {
        &self.config.name
    }
}

impl PortState {
    pub(super) fn open(
        config: config::Port,
        run_dir: &Path,
        ears: &Ears,
        keeper: Keeper,
    ) -> Result<Self, String> {
        match &config.driver {
            PortDriver::VhostUser(_) => Self::open_vhost(config, run_dir, ears),
            PortDriver::Tun { .. } | PortDriver::Tap { .. } => Self::open_tun(config, keeper),
        }
    }

    fn open_tun(config: config::Port, keeper: Keeper) -> Result<Self, String> {
        let (interface, up) = Interface::open(&config, keeper)
            .map_err(|error| format!("port {}: {error}", config.name))?;
        let tun = &interface.tun;
        tracing::info!(port = %config.name, interface = tun.interface(), mtu = interface.mtu, queues = tun.queues(), up, "interface open");
        Ok(Self {
            guest: Guest::Tun(Arc::clone(tun)),
            drops: Arc::default(),
            attached: attached(&config, &[]),
            connected: true,
            link_up: up,
            features: tun.offloads().bits(),
            queues: config.queues,
            interface: Some(interface),
            announcements: Announcements::default(),
            config,
        })
    }

    fn open_vhost(config: config::Port, run_dir: &Path, ears: &Ears) -> Result<Self, String> {
        let vhost_config = vhost_config(&config, run_dir)?;
        let name = config.name.clone();
        let ears = ears.clone();
        let tell = move |event| {
            // A full queue means that the control core has not listened for long; it
            // sees the port's state in the rings all the same.
            let _ = ears.news.try_send((name.clone(), event));
            ears.attention.wake().notify();
            ears.doorbells.iter().for_each(|wake| wake.notify());
        };
        let guest = vhost::Port::open(vhost_config, tell)
            .map_err(|error| format!("port {}: {error}", config.name))?;
        Ok(Self {
            attached: attached(&config, &[]),
            config,
            guest: Guest::Vhost(Arc::new(guest)),
            interface: None,
            drops: Arc::default(),
            connected: false,
            link_up: false,
            features: 0,
            queues: 0,
            announcements: Announcements::default(),
        })
    }

    /// Goes by a changed configuration.
    pub(super) fn reconfigure(&mut self, new: config::Port) {
        self.attached = attached(&new, &self.attached);
        self.config = new;
    }

    /// What its guest is attached with in a VLAN, or without one: as it is configured, and what has come of it.
    pub(super) fn attached(
        &self,
        vlan: Option<VlanId>,
    ) -> Option<(&config::Attachment, &Attached)> {
        let at = self.config.place(vlan)?;
        self.config.attachments.get(at).zip(self.attached.get(at))
    }

    /// Notes and logs an event; whether the guest is to be announced now.
    pub(super) fn heard(&mut self, event: PortEvent, now: Instant) -> bool {
        self.log(&event);
        match event {
            PortEvent::Connected => self.connected = true,
            PortEvent::LinkUp {
                features,
                queue_pairs,
                ..
            } => {
                self.link_up = true;
                self.features = features;
                self.queues = queue_pairs;
                return self.announcements.came_up(now);
            }
            PortEvent::QueuesChanged { queue_pairs } => self.queues = queue_pairs,
            PortEvent::LinkDown { .. } => {
                self.link_up = false;
                self.queues = 0;
            }
            PortEvent::Announce { mac } if mac.0 != self.config.mac.octets() => {
                // Nobody here has that address: it could only take another's traffic.
                self.drops.add(DropReason::GuardMac, 1);
            }
            PortEvent::Announce { .. } => return self.announcements.wanted(self.link_up, now),
            PortEvent::Disconnected { .. } => {
                self.connected = false;
                self.link_up = false;
                self.queues = 0;
                self.announcements.cancel();
            }
            PortEvent::RingsStarted
            | PortEvent::Hindered { .. }
            | PortEvent::Refused { .. }
            | PortEvent::AnotherWaits
            | PortEvent::RingStopped { .. }
            | PortEvent::MtuSet { .. }
            | _ => {}
        }
        false
    }

    fn log(&self, event: &PortEvent) {
        let port = &self.config.name;
        let named = || port.clone();
        match event {
            PortEvent::Connected => Event::VmmConnected { port: named() }.tell(),
            PortEvent::LinkUp { queue_pairs, .. } => {
                let (port, queues) = (named(), *queue_pairs);
                Event::GuestConnected { port, queues }.tell();
            }
            PortEvent::QueuesChanged { queue_pairs } => {
                tracing::info!(%port, queues = queue_pairs, "guest changed its queues");
            }
            PortEvent::LinkDown {
                reason: LinkDown::Fault(fault),
            } => {
                let (port, fault) = (named(), fault.name().to_owned());
                Event::GuestBroke { port, fault }.tell();
            }
            PortEvent::LinkDown { reason } => {
                let (port, reason) = (named(), format!("{reason:?}").to_lowercase());
                Event::GuestGone { port, reason }.tell();
            }
            PortEvent::RingStopped { ring, fault } => {
                tracing::warn!(%port, ring, ?fault, "a ring of the guest's was stopped");
            }
            PortEvent::Hindered { obstacle } => {
                Event::GuestHindered {
                    port: named(),
                    obstacle: obstacle.name().into(),
                    mending: obstacle.mending().into(),
                }
                .tell();
            }
            PortEvent::Refused { reason } => {
                tracing::warn!(%port, reason, "a message of the VMM's was refused");
            }
            PortEvent::AnotherWaits => {
                let socket = self
                    .guest
                    .vhost()
                    .map(|guest| guest.config().socket.display());
                let socket = socket.map(tracing::field::display);
                tracing::warn!(%port, socket, "another VMM waits on the socket, which has one: give each VM a port and a socket of its own");
            }
            PortEvent::Announce { mac } if mac.0 != self.config.mac.octets() => {
                tracing::debug!(%port, %mac, "the VMM asks to announce an address that is not the port's");
            }
            PortEvent::Announce { mac } => {
                tracing::debug!(%port, %mac, "the VMM asks to announce the guest");
            }
            PortEvent::MtuSet { mtu } => tracing::debug!(%port, mtu, "the VMM set the MTU"),
            PortEvent::Disconnected { reason } => {
                let (port, reason) = (named(), reason.clone());
                Event::VmmGone { port, reason }.tell();
            }
            PortEvent::RingsStarted | _ => {}
        }
    }
}

/// When a guest is announced on its VMM's word: at once if it runs, else when it does.
#[derive(Default)]
struct Announcements {
    last: Option<Instant>,
    is_owed: bool,
}

impl Announcements {
    /// The VMM asks; whether to do it now.
    fn wanted(&mut self, is_up: bool, now: Instant) -> bool {
        self.is_owed = !is_up;
        is_up && self.may(now)
    }

    /// The guest runs; whether to do it now.
    fn came_up(&mut self, now: Instant) -> bool {
        std::mem::take(&mut self.is_owed) && self.may(now)
    }

    /// The VMM is gone.
    fn cancel(&mut self) {
        self.is_owed = false;
    }

    /// A VMM that asks without pause can't flood the network: what it asks for again has just
    /// been sent.
    fn may(&mut self, now: Instant) -> bool {
        let may = self
            .last
            .is_none_or(|last| now.since(last) >= ANNOUNCE_APART);
        if may {
            self.last = Some(now);
        }
        may
    }
}

impl PortState {
    /// Whether its interface was deleted.
    pub(super) fn is_gone(&self) -> bool {
        self.interface
            .as_ref()
            .is_some_and(|at| at.gone || at.tun.is_gone())
    }

    /// Notes and logs what has become of its interface.
    pub(super) fn heard_interface(&mut self, event: InterfaceEvent) {
        let port = &self.config.name;
        let interface = self
            .interface
            .as_ref()
            .map_or("", |interface| interface.tun.interface());
        let names = || (port.clone(), interface.to_owned());
        match event {
            InterfaceEvent::Up => {
                let (port, interface) = names();
                Event::InterfaceUp { port, interface }.tell();
                self.link_up = true;
            }
            InterfaceEvent::Down => {
                let (port, interface) = names();
                Event::InterfaceDown { port, interface }.tell();
                self.link_up = false;
            }
            InterfaceEvent::Mtu(mtu) => {
                tracing::info!(%port, interface, mtu, "the interface's MTU was changed");
            }
            InterfaceEvent::Moved => {
                tracing::info!(%port, interface, "the interface was moved to another network namespace: its link state and MTU are not followed there");
            }
            InterfaceEvent::Back => self.resume_interface(),
            InterfaceEvent::Deleted => {
                let (port, interface) = names();
                Event::InterfaceDeleted { port, interface }.tell();
                self.connected = false;
                self.link_up = false;
                self.queues = 0;
            }
        }
    }
}

impl PortState {
    fn resume_interface(&mut self) {
        let Some(interface) = &mut self.interface else {
            return;
        };
        let port = &self.config.name;
        let name = interface.tun.interface();
        tracing::info!(%port, interface = name, "the interface is back from another network namespace");
        match interface.resume(&self.config) {
            Ok(up) => self.link_up = up,
            Err(error) => {
                tracing::warn!(%port, "{error}");
                self.link_up = false;
            }
        }
    }
}

/// Looks ahead at what opening a port will need, as far as that can be said while another has its place.
pub(super) fn check(config: &config::Port, run_dir: &Path) -> Result<(), String> {
    match &config.driver {
        PortDriver::VhostUser(_) => vhost_config(config, run_dir).map(drop),
        PortDriver::Tun { .. } | PortDriver::Tap { .. } => Ok(()),
    }
}

fn vhost_config(config: &config::Port, run_dir: &Path) -> Result<vhost::PortConfig, String> {
    let PortDriver::VhostUser(driver) = &config.driver else {
        return Err(format!("port {}: it has no socket", config.name));
    };
    let failed = |error: String| format!("port {}: {error}", config.name);
    let socket = driver.socket.resolve(run_dir);
    if socket.strip_prefix(run_dir).is_ok_and(config::is_taken) {
        let name = socket.display();
        return Err(failed(format!(
            "its socket {name} has a name that is taken in the run directory: give it another"
        )));
    }
    let mut vhost =
        vhost::PortConfig::new(config.name.as_str(), socket, MacAddr(config.mac.octets()));
    vhost.socket_mode = match driver.mode {
        SocketMode::Server => vhost::SocketMode::Server,
        SocketMode::Client => vhost::SocketMode::Client,
    };
    vhost.access = vhost::SocketAccess {
        owner: driver
            .owner
            .as_ref()
            .map(accounts::user)
            .transpose()
            .map_err(failed)?,
        group: driver
            .group
            .as_ref()
            .map(accounts::group)
            .transpose()
            .map_err(failed)?,
        mode: driver.permissions,
    };
    vhost.queue_pairs = config.queues;
    vhost.mtu = Some(config.mtu);
    vhost.offloads = offloads(&config.offloads);
    if !config.offloads.mergeable {
        vhost.rings -= vhost::RingOptions::MRG_RXBUF;
    }
    if !config.offloads.packed {
        vhost.rings -= vhost::RingOptions::PACKED;
    }
    vhost.state_file = Some(rings::path(run_dir, &config.name));
    Ok(vhost)
}

pub(super) fn offloads(wanted: &config::Offloads) -> vhost::Offloads {
    use vhost::Offloads as O;
    [
        (wanted.checksum, O::CSUM | O::GUEST_CSUM),
        (wanted.tso4, O::HOST_TSO4 | O::GUEST_TSO4),
        (wanted.tso6, O::HOST_TSO6 | O::GUEST_TSO6),
        (wanted.ecn, O::HOST_ECN | O::GUEST_ECN),
        (wanted.uso, O::HOST_USO | O::GUEST_USO4 | O::GUEST_USO6),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(O::empty(), |all, (_, bits)| all | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_running_guest_is_announced_each_time_but_not_without_pause() {
        let mut announcements = Announcements::default();
        let asked = [0, 1, 19, 20, 25, 70, 170];
        let done = asked.map(|time| announcements.wanted(true, at(time)));
        assert_eq!(done, [true, false, false, true, false, true, true]);
        assert!(!announcements.came_up(at(400)), "nothing is owed");
    }

    #[test]
    fn a_guest_that_is_not_up_is_announced_once_it_is() {
        let mut announcements = Announcements::default();
        assert!(!announcements.wanted(false, at(0)));
        assert!(!announcements.wanted(false, at(50)));
        assert!(announcements.came_up(at(60)));
        assert!(!announcements.came_up(at(500)));
        // A VMM that went away meanwhile may have given the guest to another.
        assert!(!announcements.wanted(false, at(600)));
        announcements.cancel();
        assert!(!announcements.came_up(at(700)));
    }
}
