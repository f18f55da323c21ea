//! Every metric: its name, kind, labels and meaning.
//!
//! In: nothing. Out: the table that the writers take their names from, and `docs/metrics.md` its text. Never: a name
//! that changes: dashboards and alert rules are made of them.
//!
//! Counters count from the start of the process. `receive` is what Culvert received, from the guest at a port and from
//! the wire at an uplink and a peer; `transmit` what it sent.

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were at most so much.
    Histogram,
}

impl Kind {
    /// Its name in the text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! families {
    ($($name:ident $kind:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $name: Family = Family {
            name: $text,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All metrics, in the order in which they are written.
        pub static ALL: &[&Family] = &[$(&$name),*];
    };
}

families! {
    BUILD Gauge "culvert_build_info" ["version", "node"]
        "The program's version and the machine's name in the configuration; always 1.";
    START Gauge "culvert_start_time_seconds" []
        "When the process started, in seconds since 1970.";
    GENERATION Gauge "culvert_config_generation" []
        "How often a configuration was carried out, the first one included.";
    PENDING Gauge "culvert_config_pending_confirmation" []
        "Whether a configuration was applied that is rolled back unless it is confirmed.";
    DRIFT Gauge "culvert_config_drift" ["tunnel"]
        "How many of a tunnel's settings and peers wg has changed against the file.";
    LOG_LOST Counter "culvert_log_lines_lost_total" []
        "Lines of the log that could not be written: the disk was full, the reader gone or too slow.";
    LOG_LEFT_OUT Counter "culvert_log_lines_left_out_total" []
        "Lines of the log that were left out because one cause had too many.";
    EVENTS Counter "culvert_events_total" ["type"]
        "Events by their type, those that were left out of the stream with them.";
    EVENTS_LEFT_OUT Counter "culvert_events_left_out_total" []
        "Events that were left out of the stream because one cause had too many.";

    CORE_SECONDS Counter "culvert_core_seconds_total" ["core", "state"]
        "How a core spent its time: busy with work, idle (looking for work in vain), asleep.";
    CORE_SLEEPS Counter "culvert_core_sleeps_total" ["core"]
        "How often a core went to sleep.";
    WORKER_TURNS Counter "culvert_worker_turns_total" ["core", "state"]
        "A worker's turns: busy ones found work, idle ones none.";
    WORKER_TURN Histogram "culvert_worker_turn_seconds" ["core"]
        "How long a worker's turns took that found work: one is a burst of each queue at most.";
    WORKER_FRAMES Counter "culvert_worker_guest_frames_total" ["core"]
        "Frames that a worker took from guests.";
    WORKER_DATAGRAMS Counter "culvert_worker_datagrams_total" ["core"]
        "Datagrams that a worker took from uplinks.";
    STRETCH Histogram "culvert_control_stretch_seconds" []
        "How long the control core worked without a look at what else was due.";
    STRETCH_MAX Gauge "culvert_control_longest_stretch_seconds" []
        "The control core's longest time without a look at what else was due, over the last second or so.";

    PORTS Gauge "culvert_ports" ["state"]
        "Ports by state. up: packets can pass. waiting: open, and no guest runs. hindered: the guest is there and can have no link. down: it could not be opened. disabled: it is switched off, and has none of the samples below but what it is.";
    PORT_INFO Gauge "culvert_port_info" ["port", "network", "driver"]
        "What a port is; always 1.";
    PORT_VLAN Gauge "culvert_port_vlan_info" ["port", "vlan", "network"]
        "The network that a port joins by a VLAN; always 1.";
    PORT_UP Gauge "culvert_port_up" ["port"]
        "Whether packets can pass: the guest's driver runs, the interface is up.";
    PORT_CONNECTED Gauge "culvert_port_connected" ["port"]
        "Whether a VMM is on the port's socket, or the interface is there.";
    PORT_QUEUES Gauge "culvert_port_queue_pairs" ["port"]
        "Queue pairs in use.";
    PORT_RX_BYTES Counter "culvert_port_receive_bytes_total" ["port"]
        "Bytes of frames from the guest.";
    PORT_RX_PACKETS Counter "culvert_port_receive_packets_total" ["port"]
        "Frames from the guest, as the guest sees them: a super-frame is one.";
    PORT_TX_BYTES Counter "culvert_port_transmit_bytes_total" ["port"]
        "Bytes of frames to the guest.";
    PORT_TX_PACKETS Counter "culvert_port_transmit_packets_total" ["port"]
        "Frames to the guest, as the guest sees them: a super-frame is one.";

    UPLINK_INFO Gauge "culvert_uplink_info" ["uplink", "driver", "device"]
        "What an uplink is; always 1.";
    UPLINK_UP Gauge "culvert_uplink_up" ["uplink"]
        "Whether the uplink's link is up.";
    UPLINK_BFD Gauge "culvert_uplink_bfd_up" ["uplink"]
        "Whether the uplink's BFD session is up, if it has one.";
    UPLINK_SPEED Gauge "culvert_uplink_speed_bytes" ["uplink"]
        "The link's speed in bytes per second, where the device tells.";
    UPLINK_CONFLICTS Gauge "culvert_uplink_address_conflicts" ["uplink"]
        "Own addresses that another host has, too.";
    UPLINK_RX_BYTES Counter "culvert_uplink_receive_bytes_total" ["uplink"]
        "Bytes from the wire.";
    UPLINK_RX_PACKETS Counter "culvert_uplink_receive_packets_total" ["uplink"]
        "Packets from the wire.";
    UPLINK_TX_BYTES Counter "culvert_uplink_transmit_bytes_total" ["uplink"]
        "Bytes to the wire.";
    UPLINK_TX_PACKETS Counter "culvert_uplink_transmit_packets_total" ["uplink"]
        "Packets to the wire.";

    TUNNEL_INFO Gauge "culvert_tunnel_info" ["tunnel", "uplink", "public_key"]
        "What a tunnel is; always 1.";
    TUNNEL_UPLINK Gauge "culvert_tunnel_uplink_peers" ["tunnel", "uplink"]
        "Peers of the tunnel that are reached by the uplink: of a tunnel with several uplinks the first that works.";
    PEERS Gauge "culvert_peers" ["tunnel", "state"]
        "Peers by state. up: there is a session. calling: handshakes are sent. silent: they are not answered, for half a minute or more. unknown: nobody knows where it is. disabled: it is switched off, and has no samples of its own. idle: none of these.";
    PEER_UP Gauge "culvert_peer_up" ["tunnel", "peer"]
        "Whether there is a session with the peer.";
    PEER_SILENT Gauge "culvert_peer_silent" ["tunnel", "peer"]
        "Whether the peer has answered no handshake for half a minute or more.";
    PEER_UNANSWERED Gauge "culvert_peer_unanswered_handshakes" ["tunnel", "peer"]
        "Handshakes without an answer since the peer was heard last.";
    PEER_HANDSHAKE Gauge "culvert_peer_last_handshake_timestamp_seconds" ["tunnel", "peer"]
        "When the last handshake was complete, in seconds since 1970; absent if there was none.";
    PEER_STAGED Gauge "culvert_peer_staged_packets" ["tunnel", "peer"]
        "Packets that wait for a key.";
    PEER_RX_BYTES Counter "culvert_peer_receive_bytes_total" ["tunnel", "peer"]
        "Bytes of authentic WireGuard messages from the peer.";
    PEER_RX_PACKETS Counter "culvert_peer_receive_packets_total" ["tunnel", "peer"]
        "Authentic WireGuard messages from the peer.";
    PEER_TX_BYTES Counter "culvert_peer_transmit_bytes_total" ["tunnel", "peer"]
        "Bytes of WireGuard messages to the peer.";
    PEER_TX_PACKETS Counter "culvert_peer_transmit_packets_total" ["tunnel", "peer"]
        "WireGuard messages to the peer.";

    DROPPED Counter "culvert_dropped_packets_total" ["scope", "name", "reason"]
        "Lost packets by reason, as `culvert show drops` has them. scope: port, peer or uplink; a peer's name is TUNNEL/PEER.";

    EXPORTER_LEFT_OUT Gauge "culvert_wireguard_exporter_left_out" []
        "Peers that the wireguard_ metrics leave out, all of them, because there are more than the configuration lets have them.";
    WG_SENT Counter "wireguard_sent_bytes_total" ["interface", "public_key", "allowed_ips", "friendly_name"]
        "Bytes sent to the peer. With `wireguard_exporter: true`.";
    WG_RECEIVED Counter "wireguard_received_bytes_total" ["interface", "public_key", "allowed_ips", "friendly_name"]
        "Bytes received from the peer. With `wireguard_exporter: true`.";
    WG_HANDSHAKE Gauge "wireguard_latest_handshake_seconds" ["interface", "public_key", "allowed_ips", "friendly_name"]
        "When the last handshake was complete, in seconds since 1970; 0 if there was none. With `wireguard_exporter: true`.";
}
