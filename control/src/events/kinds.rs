//! Every kind of event: its word, its level in the log, what it is about, its text, its fields.
//!
//! In: fields. Out: the line of the log; what a record is made of. Never: an event that has another text in the log.
//!
//! Words and fields are an interface: they stay. A field of that name says what an event is about, so that the log's
//! limit tells its causes apart (`process/log/limit.rs`).

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tracing::Level;

use crate::config::Name;

/// A kind of event, for who explains it.
#[derive(Debug)]
pub struct Kind {
    /// Its stable name.
    pub word: &'static str,
    /// Its level in the log.
    pub level: Level,
    /// What it says.
    pub text: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The names of its fields.
    pub fields: &'static [&'static str],
}

macro_rules! events {
    ($(
        #[doc = $doc:literal]
        $word:literal $level:ident $kind:ident { $($(#[doc = $of:literal])* $field:ident: $type:ty),* $(,)? }
        $object:literal $text:literal
    )*) => {
        /// Something that happened.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $(#[doc = $doc] $kind { $($(#[doc = $of])* $field: $type),* }),*
        }

        /// All kinds.
        pub const KINDS: &[Kind] = &[$(Kind {
            word: $word,
            level: Level::$level,
            text: $text,
            meaning: $doc,
            fields: &[$(stringify!($field)),*],
        }),*];

        #[allow(unused_variables, reason = "not every event is about its fields")]
        impl Event {
            /// Its place among [`KINDS`].
            pub fn index(&self) -> usize {
                #[repr(usize)]
                enum Index { $($kind),* }
                match self { $(Self::$kind { .. } => Index::$kind as usize),* }
            }

            /// What it is about: `port vm1`, `peer wg0/hv-b`, `configuration`.
            pub fn object(&self) -> String {
                match self { $(Self::$kind { $($field),* } => format!($object)),* }
            }

            /// Writes its line of the log.
            pub(super) fn log(&self) {
                match self { $(Self::$kind { $($field),* } => tracing::event!(
                    target: concat!("culvert::event::", $word),
                    Level::$level,
                    { $($field = %$field),* },
                    $text
                )),* }
            }
        }
    };
}

events! {
    /// A VMM has opened the port's socket.
    "vmm-connected" INFO VmmConnected {
        /// The port.
        port: Name,
    } "port {port}" "VMM connected"

    /// The VMM has closed the port's socket, or broke its protocol.
    "vmm-gone" INFO VmmGone {
        /// The port.
        port: Name,
        /// Why.
        reason: String,
    } "port {port}" "VMM disconnected"

    /// The guest's driver runs: packets can pass.
    "guest-connected" INFO GuestConnected {
        /// The port.
        port: Name,
        /// Queue pairs in use.
        queues: u16,
    } "port {port}" "guest connected"

    /// The guest's driver has stopped, or its VMM has ended.
    "guest-gone" INFO GuestGone {
        /// The port.
        port: Name,
        /// Why.
        reason: String,
    } "port {port}" "guest gone"

    /// The guest's rings are not as they must be, so the port has let go of them.
    "guest-broke" WARN GuestBroke {
        /// The port.
        port: Name,
        /// What is wrong with them.
        fault: String,
    } "port {port}" "guest gone: it broke its rings"

    /// The guest is there and can have no link.
    "guest-hindered" WARN GuestHindered {
        /// The port.
        port: Name,
        /// What is in the way.
        obstacle: String,
        /// What mends it.
        mending: String,
    } "port {port}" "the guest has no link"

    /// The interface of a tun or tap port is up.
    "interface-up" INFO InterfaceUp {
        /// The port.
        port: Name,
        /// Its interface.
        interface: String,
    } "port {port}" "interface up"

    /// The interface of a tun or tap port is down.
    "interface-down" INFO InterfaceDown {
        /// The port.
        port: Name,
        /// Its interface.
        interface: String,
    } "port {port}" "interface down"

    /// The interface of a tun or tap port was deleted.
    "interface-deleted" ERROR InterfaceDeleted {
        /// The port.
        port: Name,
        /// Its interface.
        interface: String,
    } "port {port}" "the interface was deleted: the port is gone; `culvert apply` makes it anew"

    /// A port could not be opened; it is tried again each second.
    "port-down" ERROR PortDown {
        /// The port.
        port: Name,
        /// Why.
        error: String,
    } "port {port}" "the port is down"

    /// A port that was down is open.
    "port-open" INFO PortOpen {
        /// The port.
        port: Name,
    } "port {port}" "the port is open again"

    /// The first handshake with a peer since Culvert has it.
    "peer-up" INFO PeerUp {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
        /// Where it is.
        endpoint: SocketAddr,
    } "peer {tunnel}/{peer}" "peer is up: first handshake"

    /// Handshakes with the peer were not answered for half a minute or more.
    "peer-silent" WARN PeerSilent {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
        /// Handshakes without an answer.
        calls: u32,
        /// The places that were tried.
        tried: String,
    } "peer {tunnel}/{peer}" "peer is silent: it answers no handshake. Does it run, may UDP pass both ways, has each side the other's public key and the same preshared key?"

    /// A handshake with a peer that was silent.
    "peer-heard" INFO PeerHeard {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
        /// Where it is.
        endpoint: SocketAddr,
    } "peer {tunnel}/{peer}" "peer is heard again"

    /// Probes have found how much the path to the peer lets through.
    "path-mtu-found" INFO PathMtuFound {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
        /// The longest IP packet that passes whole.
        mtu: u16,
    } "peer {tunnel}/{peer}" "path MTU found"

    /// How much the path to the peer lets through is not known any more: it leads elsewhere, or nobody answers.
    "path-mtu-unknown" INFO PathMtuUnknown {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
    } "peer {tunnel}/{peer}" "path MTU not known any more"

    /// Authentic packets of the peer come from another place.
    "peer-moved" DEBUG PeerMoved {
        /// Its tunnel.
        tunnel: Name,
        /// The peer.
        peer: Name,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    } "peer {tunnel}/{peer}" "peer moved"

    /// The uplink's link is up.
    "uplink-up" INFO UplinkUp {
        /// The uplink.
        uplink: Name,
    } "uplink {uplink}" "link up"

    /// The uplink's link is down.
    "uplink-down" WARN UplinkDown {
        /// The uplink.
        uplink: Name,
    } "uplink {uplink}" "link down"

    /// The kernel's tables have other routes for the uplink; of those that are too many the widest are taken.
    "uplink-routes" INFO UplinkRoutes {
        /// The uplink.
        uplink: Name,
        /// How many are taken.
        learned: usize,
        /// How many are too many.
        refused: usize,
    } "uplink {uplink}" "routes of the kernel's"

    /// Another host has an address of the uplink's: it is not used until nobody has it any more.
    "address-duplicate" ERROR AddressDuplicate {
        /// The uplink.
        uplink: Name,
        /// The address.
        address: IpAddr,
        /// Who has it.
        mac: String,
    } "uplink {uplink}" "another host has the address: it is not used"

    /// Another host says to have an address of the uplink's that is in use: it is kept and defended.
    "address-contested" WARN AddressContested {
        /// The uplink.
        uplink: Name,
        /// The address.
        address: IpAddr,
        /// Who says to have it.
        mac: String,
    } "uplink {uplink}" "another host says to have the address"

    /// No other host has the address any more: it is the uplink's alone.
    "address-regained" INFO AddressRegained {
        /// The uplink.
        uplink: Name,
        /// The address.
        address: IpAddr,
    } "uplink {uplink}" "no other host has the address any more"
    /// The BFD session of an uplink is up: its neighbor hears us, and we it.
    "bfd-up" INFO BfdUp {
        /// The uplink.
        uplink: Name,
        /// The neighbor.
        peer: IpAddr,
    } "uplink {uplink}" "the BFD session is up"

    /// The BFD session of an uplink is down: its neighbor is silent, or does not hear us.
    "bfd-down" WARN BfdDown {
        /// The uplink.
        uplink: Name,
        /// The neighbor.
        peer: IpAddr,
    } "uplink {uplink}" "the BFD session is down"

    /// Peers of a tunnel are reached by another of its uplinks.
    "uplink-changed" WARN UplinkChanged {
        /// The tunnel.
        tunnel: Name,
        /// The uplink that they are not reached by any more.
        from: Name,
        /// The one that they are reached by.
        to: Name,
        /// How many they are.
        peers: usize,
        /// Why the first of them has moved.
        reason: String,
    } "tunnel {tunnel}" "peers are reached by another uplink"
    /// The uplink has learned an address, and uses it.
    "uplink-address" INFO UplinkAddress {
        /// The uplink.
        uplink: Name,
        /// The address, with its prefix's length.
        address: String,
        /// Who says so: `dhcp` or `ra`.
        teacher: &'static str,
    } "uplink {uplink}" "an address was learned"

    /// An address that the uplink had learned is its own no more: its time is over, or a server or router has said so.
    "uplink-address-lost" WARN UplinkAddressLost {
        /// The uplink.
        uplink: Name,
        /// The address, with its prefix's length.
        address: String,
        /// Who had said so: `dhcp` or `ra`.
        teacher: &'static str,
    } "uplink {uplink}" "a learned address is lost"

    /// The uplink has learned an address that it can't use beside what is configured.
    "uplink-address-refused" WARN UplinkAddressRefused {
        /// The uplink.
        uplink: Name,
        /// The address, with its prefix's length.
        address: String,
        /// What it overlaps.
        reason: String,
    } "uplink {uplink}" "a learned address is not used"

    /// The uplink has learned a route that is not used beside what is configured, or not given to the host's kernel.
    "uplink-route-refused" WARN UplinkRouteRefused {
        /// The uplink.
        uplink: Name,
        /// The prefix, and the router, if it has one.
        route: String,
        /// Who does not use it: `uplink` (nobody does) or `kernel` (the exception path's interface has it not).
        by: &'static str,
        /// What it overlaps.
        reason: String,
    } "uplink {uplink}" "a learned route is not used"

    /// The interface that the uplink is bound to is gone.
    "uplink-gone" WARN UplinkGone {
        /// The uplink.
        uplink: Name,
        /// The interface.
        device: String,
    } "uplink {uplink}" "the interface is gone: nothing passes until it is there again"

    /// The uplink is bound to its interface again.
    "uplink-back" INFO UplinkBack {
        /// The uplink.
        uplink: Name,
        /// The interface.
        device: String,
    } "uplink {uplink}" "the interface is there again: bound to it anew"

    /// The host wants the uplink's device back (it was unbound from its driver, or pulled out): it is closed.
    "uplink-released" WARN UplinkReleased {
        /// The uplink.
        uplink: Name,
        /// The device.
        device: String,
    } "uplink {uplink}" "the host wants the device back: it is closed, and nothing passes until it is bound again"

    /// The uplink's device, which was closed, is open again.
    "uplink-opened" INFO UplinkOpened {
        /// The uplink.
        uplink: Name,
        /// The device.
        device: String,
    } "uplink {uplink}" "the device is open again"

    /// The uplink can't be bound to its interface.
    "uplink-unbound" ERROR UplinkUnbound {
        /// The uplink.
        uplink: Name,
        /// The interface.
        device: String,
        /// Why.
        error: String,
    } "uplink {uplink}" "can't bind to the interface anew: not all tunnels pass; it is tried again every second"

    /// A configuration runs that differs from the one before.
    "config-applied" INFO ConfigApplied {
        /// Its number.
        generation: u64,
        /// What changed.
        changes: usize,
        /// What of it could not be done.
        failures: usize,
    } "configuration" "configuration applied"

    /// A configuration was applied that is the one that runs.
    "config-unchanged" INFO ConfigUnchanged {
        /// Its number.
        generation: u64,
    } "configuration" "configuration applied: nothing changed"

    /// A configuration was refused; nothing has changed.
    "config-refused" ERROR ConfigRefused {
        /// Why.
        error: String,
    } "configuration" "the configuration was not applied: nothing was changed"

    /// A configuration runs, and is taken back unless it is confirmed.
    "config-pending" WARN ConfigPending {
        /// Its revision.
        revision: u64,
        /// So long.
        seconds: u64,
    } "configuration" "the configuration waits for its confirmation"

    /// A configuration that waited is kept.
    "config-confirmed" INFO ConfigConfirmed {
        /// Its revision.
        revision: u64,
        /// By whom or what.
        reason: String,
    } "configuration" "the configuration was confirmed"

    /// An earlier configuration runs again.
    "config-rolled-back" WARN ConfigRolledBack {
        /// Why.
        reason: String,
    } "configuration" "the configuration was rolled back"

    /// A single object was changed beside the file.
    "layer-changed" INFO LayerChanged {
        /// Which: `port vm1`, `peer wg0/hv-b`, `route blue/10.2.0.0/16`.
        object: String,
        /// What was asked: `added`, `put`, `set`, `up`, `down`, `deleted`, `forgotten`.
        act: &'static str,
        /// By whom.
        user: String,
    } "{object}" "changed beside the file"

    /// `wg` has changed a tunnel against the file.
    "drift" DEBUG Drift {
        /// The tunnel.
        tunnel: Name,
        /// How many changes.
        changes: usize,
        /// The first of them.
        first: String,
    } "tunnel {tunnel}" "wg changed what the file says"

    /// Packets are being lost for this reason: ten a second or more.
    "drops-began" DEBUG DropsBegan {
        /// Where, as in `show drops`.
        scope: String,
        /// The reason's name.
        reason: String,
        /// Packets a second.
        rate: u64,
    } "{scope}" "packets are lost"

    /// Hardly any packet was lost for this reason for ten seconds.
    "drops-ended" DEBUG DropsEnded {
        /// Where, as in `show drops`.
        scope: String,
        /// The reason's name.
        reason: String,
        /// Packets that were lost since it began.
        packets: u64,
    } "{scope}" "no more packets are lost"
}

impl Event {
    /// Its kind.
    pub fn kind(&self) -> &'static Kind {
        &KINDS[self.index()]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique_and_an_event_finds_its_own() {
        let words: HashSet<_> = KINDS.iter().map(|kind| kind.word).collect();
        assert_eq!(words.len(), KINDS.len());
        let port = Name::new("vm1").unwrap();
        let event = Event::GuestConnected { port, queues: 2 };
        assert_eq!(event.kind().word, "guest-connected");
        assert_eq!(event.object(), "port vm1");
        let fields = serde_json::to_value(&event).unwrap();
        assert_eq!(fields, serde_json::json!({"port": "vm1", "queues": 2}));
    }
}
