//! What the benchmarks of the whole way share: a guest on one side, peers on the other, a worker that is stepped by
//! hand between them.
//!
//! In: how much there is of everything, what the worker's uplink queue is. Out: a worker with its site; packets as guests and
//! as peers make them, and a count of those that arrive. Never: a clock.
//!
//! Guests are 10.0.0.2 and following behind the gateway 10.0.0.1, with all offloads; peer n has the nth /24 from 10.64.0.0
//! on, and, if there are more prefixes than peers, some of those from 32.0.0.0 on, without order.
//! Every frame of a burst that is no super-frame is a flow of its own: what was found for one helps none behind it,
//! and nothing is joined.

#![allow(dead_code, reason = "each benchmark uses its part")]

#[cfg(feature = "dpdk")]
pub(crate) mod null;
#[cfg(feature = "dpdk")]
pub(crate) mod rig;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use culvert_aead::{Engine, Jobs, OpenJob, SealJob, TAG_LEN, TAILROOM};
use culvert_dataplane::{
    shared::{
        clock,
        control_link::{self, Attention, Command, ControlEnd},
        hop::Hop,
        ids::{
            AttachmentIndex, NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex,
            WorkerIndex,
        },
        limits, path,
        peer::Peer,
        sessions::{Session, SessionTable},
        snapshot::{
            Attachment, Guard, Guest, Network, NextHop, Port, Snapshot, SnapshotCell, Tunnel,
        },
        wake::Wake,
    },
    uplink::{Queue, Uplink},
    worker::{Polling, Worker, WorkerStats},
};
use culvert_vhost::{
    self as vhost, PortConfig, PortDrop,
    frontend::{Frontend, FrontendConfig},
};
use culvert_wire::{
    Checksum, MacAddr, VnetHeader,
    ether::VlanId,
    fib::{Fib, Prefix},
};
use culvert_wireguard::{
    Keypair, PeerId, Role,
    message::{DATA_HEADER_LEN, DataHeader, data_len},
};
use tempfile::TempDir;

pub(crate) const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The uplink's own address, and the tunnel's port.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PORT: u16 = 51_820;

pub(crate) const TUNNEL: TunnelIndex = TunnelIndex(0);
pub(crate) const UPLINK: UplinkIndex = UplinkIndex(0);

pub(crate) const MTU: u16 = 1420;
pub(crate) const ETHERNET: usize = 14;
/// IPv4 and TCP without options.
pub(crate) const HEADERS: usize = 40;
pub(crate) const SEGMENT: usize = MTU as usize - HEADERS;
/// Packets that a full super-frame becomes.
pub(crate) const SEGMENTS: usize = 47;

/// Entries of the guest's rings.
const RING: u16 = 1024;

/// What the packets of a burst are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// UDP packets, so many bytes long from the IP header on.
    Packet(u16),
    /// TCP super-frames of 64 KiB, each of which is 47 packets on the wire.
    SuperFrame,
}

impl Size {
    pub(crate) const ALL: [Self; 4] = [
        Self::Packet(64),
        Self::Packet(512),
        Self::Packet(1420),
        Self::SuperFrame,
    ];

    /// As cases are called.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Packet(len) => len.to_string(),
            Self::SuperFrame => "64KiB".into(),
        }
    }

    /// Packets on the wire that one frame of a guest is.
    pub(crate) fn packets(self) -> usize {
        match self {
            Self::Packet(_) => 1,
            Self::SuperFrame => SEGMENTS,
        }
    }

    /// Bytes of each inner packet.
    pub(crate) fn packet_len(self) -> usize {
        match self {
            Self::Packet(len) => len.into(),
            Self::SuperFrame => MTU.into(),
        }
    }
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) peers: usize,
    /// Behind the peers; as many as there are of these, or more.
    pub(crate) prefixes: usize,
    pub(crate) guests: usize,
    /// Of the first guest, which is a trunk then: so many of [`VLANS`], each in a network of its own.
    pub(crate) vlans: usize,
}

/// VLANs that a trunk has.
pub(crate) const VLANS: [u16; 2] = [10, 20];

impl Scale {
    /// Peers with a prefix each, and one guest.
    pub(crate) const fn peers(peers: usize) -> Self {
        Self {
            peers,
            prefixes: peers,
            guests: 1,
            vlans: 0,
        }
    }

    /// Attachments of guests.
    fn places(self) -> impl Iterator<Item = Place> {
        let place = move |at| Place {
            index: AttachmentIndex::from_slot(at),
            guest: if self.vlans > 0 { 0 } else { at },
            network: NetworkIndex::from_slot(if self.vlans > 0 { at } else { 0 }),
            vlan: VLANS[..self.vlans]
                .get(at)
                .and_then(|&vlan| VlanId::new(vlan)),
        };
        (0..self.guests.max(self.vlans)).map(place)
    }

    /// Who has prefix `n`.
    const fn owner(self, n: usize) -> usize {
        n % self.peers
    }

    /// A host of prefix `n`.
    fn host(self, n: usize) -> Ipv4Addr {
        /// An odd factor: no two of a million prefixes are the same, and none is beside the one before it.
        const SCATTER: usize = 0x9E37_79B1;
        let (from, n) = match n < self.peers {
            true => ([10, 64], n),
            false => ([32, 0], n.wrapping_mul(SCATTER) % (1 << 20)),
        };
        let first = u32::from_be_bytes([from[0], from[1], 0, 2]);
        Ipv4Addr::from_bits(first + 256 * u32::try_from(n).unwrap())
    }

    fn behind(self, n: usize) -> Prefix {
        Prefix::new(self.host(n).into(), 24).unwrap()
    }

    /// Frame number `serial` from a guest, to one prefix after the other.
    pub(crate) fn frame(self, size: Size, guest: usize, serial: usize) -> (VnetHeader, Vec<u8>) {
        let to = self.host(serial % self.prefixes);
        let mut frame = GATEWAY.0.to_vec();
        frame.extend(mac(guest).0);
        frame.extend([8, 0]);
        match size {
            Size::Packet(len) => {
                frame.extend(udp(address(guest), to, serial, len.into()));
                (VnetHeader::default(), frame)
            }
            Size::SuperFrame => {
                // As a driver posts it: lengths of the whole, the checksum field seeded.
                let l4_len = u32::try_from(HEADERS - 20 + SEGMENT * SEGMENTS).unwrap();
                let mut packet = tcp(address(guest), to, (0, 0), SEGMENT * SEGMENTS);
                let seed = Checksum::pseudo_v4(address(guest), to, 6, l4_len).value();
                packet[36..38].copy_from_slice(&seed.to_be_bytes());
                frame.extend(packet);
                let small = |len| u16::try_from(len).unwrap();
                let vnet = VnetHeader {
                    flags: VnetHeader::NEEDS_CSUM,
                    gso_type: VnetHeader::GSO_TCPV4,
                    hdr_len: small(ETHERNET + HEADERS),
                    gso_size: small(SEGMENT),
                    csum_start: small(ETHERNET + 20),
                    csum_offset: 16,
                    num_buffers: 0,
                };
                (vnet, frame)
            }
        }
    }

    /// The inner packets of frame number `serial` to the guests, from one prefix after the other. Each guest gets as many
    /// one after the other as an uplink gives at once.
    pub(crate) fn packets(self, size: Size, serial: usize) -> Vec<Vec<u8>> {
        let from = self.host(serial % self.prefixes);
        let to = address(serial / limits::UPLINK_BURST % self.guests);
        match size {
            Size::Packet(len) => vec![udp(from, to, serial, len.into())],
            Size::SuperFrame => (0..SEGMENTS)
                .map(|segment| tcp(from, to, (serial, segment), SEGMENT))
                .collect(),
        }
    }
}

/// Where a guest is attached.
#[derive(Clone, Copy)]
struct Place {
    index: AttachmentIndex,
    guest: usize,
    network: NetworkIndex,
    vlan: Option<VlanId>,
}

/// A worker between guests and peers.
pub(crate) struct Site {
    pub(crate) worker: Worker,
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) uplink: Arc<Uplink>,
    pub(crate) peers: Vec<Arc<Peer>>,
    sessions: Arc<SessionTable>,
    _control: ControlEnd,
    dir: TempDir,
}

impl Site {
    /// A site of this scale, all of its peers over `hop`.
    pub(crate) fn new(scale: Scale, queue: Queue, hop: Hop, engine: Engine) -> Self {
        let hop = Arc::new(hop);
        let dir = TempDir::new().unwrap();
        let ports: Vec<_> = (0..scale.guests)
            .map(|n| port(n, scale, dir.path()))
            .collect();
        let uplink = Arc::new(Uplink {
            index: UPLINK,
            name: "uplink".into(),
            addresses: vec![ADDRESS.into()],
            tunnels: vec![(PORT, TUNNEL)],
            hop: Arc::clone(&hop),
            kernel: None,
            counters: Arc::default(),
        });
        let peers: Vec<_> = (0..scale.peers)
            .map(|n| peer(n, Arc::clone(&hop)))
            .collect();
        let allowed = (0..scale.prefixes).map(|n| (scale.behind(n), index(scale.owner(n))));
        let sessions = Arc::new(SessionTable::new(4 * peers.len()));
        let snapshot = Snapshot {
            generation: 1,
            ports: ports.iter().cloned().map(Some).collect(),
            attachments: scale.places().map(attachment).map(Some).collect(),
            networks: (0..scale.vlans.max(1))
                .map(|at| Some(Arc::new(network(scale, NetworkIndex::from_slot(at)))))
                .collect(),
            tunnels: [Some(Arc::new(Tunnel {
                name: "tunnel".into(),
                mtu: MTU,
                mss_clamp: false,
                network: Some(NetworkIndex(0)),
                allowed: Fib::build(allowed),
                mac1: None,
                sessions: Arc::clone(&sessions),
            }))]
            .into_iter()
            .collect(),
            peers: peers.iter().cloned().map(Some).collect(),
            uplinks: [Some(Arc::clone(&uplink))].into_iter().collect(),
            workers: vec![Arc::new(
                (0..scale.guests).map(|n| (port_index(n), 0)).collect(),
            )],
        };
        let attention = Arc::new(Attention::new().unwrap());
        let stack = Arc::new(Wake::new().unwrap());
        let (end, mut control, _stack) = control_link::link(attention, stack, 1).unwrap();
        let worker = Worker::new(
            WorkerIndex::from_slot(0),
            Arc::new(SnapshotCell::from_pointee(snapshot)),
            end,
            Polling::Busy,
            Arc::new(WorkerStats::default()),
        )
        .with_engine(engine);
        assert!(control.send(Command::AttachUplink(Box::new(queue))));
        let mut site = Self {
            worker,
            ports,
            uplink,
            peers,
            sessions,
            _control: control,
            dir,
        };
        site.renew_keys();
        while site.worker.step() {}
        site
    }

    /// The guests' drivers.
    pub(crate) fn guests(&self) -> Vec<Frontend> {
        let config = FrontendConfig {
            ring_size: RING,
            ..FrontendConfig::default()
        };
        let socket = |port: &Arc<Port>| self.dir.path().join(&port.name);
        let connect = |port| Frontend::connect(&socket(port), config.clone()).unwrap();
        self.ports.iter().map(connect).collect()
    }

    /// A new key for every peer, with all counters fresh: none is used for longer than a figure takes.
    pub(crate) fn renew_keys(&mut self) {
        let now = clock::monotonic();
        for (n, peer) in self.peers.iter().enumerate() {
            let keypair = Arc::new(Keypair::from_parts(
                peer.id,
                Role::Initiator,
                (session(n), session(n)),
                (key(n, Way::Out), key(n, Way::In)),
                now,
            ));
            self.sessions.publish(Session {
                keypair: Arc::clone(&keypair),
                peer: Arc::clone(peer),
            });
            peer.publish_keypair(Some(keypair));
        }
    }

    /// Datagrams that left.
    pub(crate) fn sent(&self) -> u64 {
        load(&self.uplink.counters.tx_packets)
    }

    /// Datagrams that came and were authentic.
    pub(crate) fn accepted(&self) -> u64 {
        let accepted = |peer: &Arc<Peer>| load(&peer.traffic.rx_packets);
        self.peers.iter().map(accepted).sum()
    }

    /// What was lost under a name, whatever the name.
    pub(crate) fn dropped(&self) -> u64 {
        let at_ports = self.ports.iter().map(dropped);
        let at_peers = self.peers.iter().map(|peer| peer.drops.total());
        at_ports.chain(at_peers).sum::<u64>() + self.uplink.counters.drops.total()
    }
}

/// What a port and its rings lost.
fn dropped(port: &Arc<Port>) -> u64 {
    let Guest::Vhost(guest) = &port.guest else {
        return 0;
    };
    let rings = [guest.guest_rx(0).counters(), guest.guest_tx(0).counters()];
    let at_rings = |reason| rings.iter().map(|ring| ring.drops(reason)).sum::<u64>();
    PortDrop::ALL.map(at_rings).iter().sum::<u64>() + port.drops.total()
}

pub(crate) fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Which way a key seals.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Out = 1,
    In = 2,
}

impl Way {
    /// As cases are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// The key of peer `n`.
pub(crate) fn key(n: usize, way: Way) -> [u8; 32] {
    let mut key = [way as u8; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key
}

fn index(n: usize) -> PeerIndex {
    PeerIndex::from_slot(n)
}

/// The index of peer `n`'s session, at either end.
fn session(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

fn peer(n: usize, hop: Arc<Hop>) -> Arc<Peer> {
    let peer = Peer::new(index(n), TUNNEL, PeerId(session(n)));
    let path = path::Path::new(endpoint(n), Some(ADDRESS.into()), PORT, hop);
    peer.publish_path(Some(path));
    Arc::new(peer)
}

/// Where peer `n` is.
pub(crate) fn endpoint(n: usize) -> SocketAddr {
    let first = Ipv4Addr::new(198, 18, 0, 0).to_bits();
    let address = Ipv4Addr::from_bits(first + u32::try_from(n).unwrap());
    SocketAddr::new(address.into(), PORT)
}

fn port_index(guest: usize) -> PortIndex {
    PortIndex::from_slot(guest)
}

fn mac(guest: usize) -> MacAddr {
    let [.., high, low] = guest.to_be_bytes();
    MacAddr([2, 0, 0, 0, 1 + high, low])
}

fn address(guest: usize) -> Ipv4Addr {
    let [.., low] = guest.to_be_bytes();
    Ipv4Addr::new(10, 0, 0, 2 + low)
}

fn port(guest: usize, scale: Scale, dir: &Path) -> Arc<Port> {
    let name = format!("guest{guest}");
    let config = PortConfig::new(&name, dir.join(&name), mac(guest));
    let places = || scale.places().filter(|place| place.guest == guest);
    Arc::new(Port {
        index: port_index(guest),
        name,
        attachment: (places().find(|place| place.vlan.is_none())).map(|place| place.index),
        vlans: (places().filter_map(|place| Some((place.vlan?, place.index)))).collect(),
        guest: Guest::Vhost(Arc::new(vhost::Port::open(config, |_| {}).unwrap())),
        queues: 1,
        drops: Arc::default(),
    })
}

fn attachment(place: Place) -> Arc<Attachment> {
    let Place {
        index,
        guest,
        network,
        vlan,
    } = place;
    Arc::new(Attachment {
        index,
        port: port_index(guest),
        vlan,
        network,
        mac: mac(guest),
        addresses: vec![address(guest).into()],
        link_locals: Arc::default(),
        errors: Arc::default(),
        questions: Arc::default(),
        is_served: true,
        guard: Guard::Strict,
    })
}

fn network(scale: Scale, index: NetworkIndex) -> Network {
    let own = |address: Ipv4Addr, len| Prefix::new(address.into(), len).unwrap();
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    let near = [
        (own(gateway, 24), NextHop::Unreachable),
        (own(gateway, 32), NextHop::Gateway),
    ];
    let places = || scale.places().filter(|place| place.network == index);
    let guests = places().map(|it| (own(address(it.guest), 32), NextHop::Guest(it.index)));
    let peer = |n| NextHop::Peer(self::index(scale.owner(n)));
    let far = (0..scale.prefixes).map(|n| (scale.behind(n), peer(n)));
    Network {
        name: "network".into(),
        gateway_mac: GATEWAY,
        gateways: vec![gateway.into()],
        prefixes: vec![own(gateway, 24)],
        tunnel: Some(TUNNEL),
        macs: places().map(|it| (mac(it.guest), it.index)).collect(),
        listeners: places().count(),
        routes: Fib::build(near.into_iter().chain(guests).chain(far)),
        plain: None,
        services: Default::default(),
    }
}

/// Puts a frame into a VLAN.
pub(crate) fn tag(frame: &mut Vec<u8>, vlan: u16) {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
}

/// An IPv4 header without options.
fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, id: usize, len: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(u16::try_from(len).unwrap().to_be_bytes());
    header.extend(&id.to_be_bytes()[6..]);
    header.extend([0x40, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = Checksum::of(&header).complement();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// A UDP packet of a flow that no packet near to it belongs to.
fn udp(from: Ipv4Addr, to: Ipv4Addr, serial: usize, len: usize) -> Vec<u8> {
    let l4_len = u16::try_from(len - 20).unwrap();
    let mut packet = ipv4(from, to, 17, serial, len);
    packet.extend(u16::try_from(1024 + serial % 4096).unwrap().to_be_bytes());
    packet.extend([0x13, 0x88]);
    packet.extend(l4_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend((28..len).map(|at| (at + serial).to_le_bytes()[0]));
    let mut sum = Checksum::pseudo_v4(from, to, 17, l4_len.into());
    sum.add(&packet[20..]);
    packet[26..28].copy_from_slice(&sum.complement_udp().to_be_bytes());
    packet
}

/// A TCP segment of frame number `serial`, one flow per frame.
fn tcp(from: Ipv4Addr, to: Ipv4Addr, (serial, segment): (usize, usize), payload: usize) -> Vec<u8> {
    let len = HEADERS + payload;
    let mut packet = ipv4(from, to, 6, serial * SEGMENTS + segment, len);
    packet.extend(u16::try_from(1024 + serial % 4096).unwrap().to_be_bytes());
    packet.extend([0x13, 0x89]);
    let sequence = u32::try_from(segment * SEGMENT).unwrap();
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend((HEADERS..len).map(|at| (at + serial).to_le_bytes()[0]));
    let l4_len = u32::try_from(len - 20).unwrap();
    let mut sum = Checksum::pseudo_v4(from, to, 6, l4_len);
    sum.add(&packet[20..]);
    packet[36..38].copy_from_slice(&sum.complement().to_be_bytes());
    packet
}

/// All peers in one: they seal what is for the guests, each counter once, and open what came from them.
pub(crate) struct Peers {
    engine: Engine,
    scale: Scale,
    counters: Vec<u64>,
    serial: usize,
}

impl Peers {
    pub(crate) fn new(scale: Scale) -> Self {
        Self {
            engine: Engine::new(),
            scale,
            counters: vec![0; scale.peers],
            serial: 0,
        }
    }

    /// They have new keys, too.
    pub(crate) fn renew_keys(&mut self) {
        self.counters.fill(0);
    }

    /// The datagrams of so many frames for the guests, with where they come from.
    pub(crate) fn seal(&mut self, size: Size, frames: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sealed = Vec::with_capacity(frames * size.packets());
        for _ in 0..frames {
            let peer = self.scale.owner(self.serial % self.scale.prefixes);
            for packet in self.scale.packets(size, self.serial) {
                sealed.push((endpoint(peer), self.seal_one(peer, &packet)));
            }
            self.serial += 1;
        }
        sealed
    }

    fn seal_one(&mut self, peer: usize, packet: &[u8]) -> Vec<u8> {
        let counter = self.counters[peer];
        self.counters[peer] += 1;
        let len = padded(packet.len());
        let mut datagram = vec![0; data_len(len) + TAILROOM];
        let (header, body) = datagram.split_first_chunk_mut::<DATA_HEADER_LEN>().unwrap();
        DataHeader {
            receiver: session(peer),
            counter,
        }
        .write(header);
        body[..packet.len()].copy_from_slice(packet);
        let key = key(peer, Way::In);
        let job = SealJob::in_place(&key, counter, body, len).unwrap();
        self.engine.seal(&mut [job]);
        datagram.truncate(data_len(len));
        datagram
    }

    /// Asserts that a datagram from the guest is authentic and holds an IPv4 packet for the peer whose session it
    /// names.
    pub(crate) fn open(&mut self, to: SocketAddr, datagram: &[u8]) {
        let header = DataHeader::parse(datagram).expect("a data message");
        let peer = usize::try_from(header.receiver).unwrap();
        assert_eq!(to, endpoint(peer));
        let mut sealed = datagram[DATA_HEADER_LEN..].to_vec();
        let key = key(peer, Way::Out);
        let mut jobs = Jobs::<OpenJob<'_>, 1>::new();
        let job = OpenJob::in_place(&key, header.counter, &mut sealed).unwrap();
        assert!(jobs.push(job).is_ok());
        self.engine.open(&mut jobs);
        assert!(jobs[0].ok(), "an authentic datagram");
        assert_eq!(sealed[0], 0x45);
        assert_eq!(sealed[16..20], self.scale.host(peer).octets());
    }
}

/// The length of an inner packet with its padding.
pub(crate) fn padded(len: usize) -> usize {
    culvert_wireguard::padding::padded_len(len, MTU.into())
}

/// Bytes of the longest datagram.
pub(crate) const LONGEST: usize = DATA_HEADER_LEN + MTU as usize + TAG_LEN;

/// Takes what came into a guest's ring: so many packets, before they were joined.
pub(crate) fn collect(guest: &mut Frontend) -> u64 {
    let mut packets = 0;
    while let Some((vnet, frame)) = guest.receive_frame(0) {
        packets += match vnet.gso_type {
            VnetHeader::GSO_NONE => 1,
            _ => (frame.len() - usize::from(vnet.hdr_len)).div_ceil(vnet.gso_size.into()) as u64,
        };
    }
    packets
}
