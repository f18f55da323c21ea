//! One site of the tests: two guests behind a worker that is stepped by hand, a UDP
//! uplink, two peers, and a far end with a cipher of its own.
//!
//! Site `s` has the network 10.s.0.0/24 and fd00:s::/64 with the gateway at .1, its
//! guests at .2 and .3. Peer 0 has the other site's addresses, peer 1 has 10.8.0.0/16,
//! fd08::/64 and, to be proxied, 10.s.0.200 and fd00:s::200.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInOut};
use culvert_dataplane::{
    shared::{
        clock,
        control_link::{self, Attention, Command, ControlEnd},
        drops::DropReason,
        hop::Hop,
        ids::{
            AttachmentIndex, NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex,
            WorkerIndex,
        },
        path::Path,
        peer::Peer,
        sessions::{Session, SessionTable},
        snapshot::{
            Attachment, Guard, Guest, Network, NextHop, Port, Services, Snapshot, SnapshotCell,
            Tunnel,
        },
        stack_link::StackEnd,
        wake::Wake,
    },
    uplink::{Queue, Uplink, udp},
    worker::{Polling, Worker, WorkerStats},
};
use culvert_vhost::{
    self as vhost, Offloads, PortConfig, PortDrop, RingOptions,
    frontend::{Frontend, FrontendConfig},
};
use culvert_wire::{
    MacAddr, VnetHeader,
    ether::VlanId,
    fib::{Fib, Prefix},
};
use culvert_wireguard::{Keypair, PeerId, PublicKey, Role, cookie::Mac1};
use tempfile::TempDir;

pub(crate) const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const GUEST: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 1, 0]), MacAddr([2, 0, 0, 0, 1, 1])];

/// How long something that must happen may take: for machines that are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test wants otherwise.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) site: u8,
    pub(crate) mtu: u16,
    pub(crate) guard: Guard,
    pub(crate) offloads: [Offloads; 2],
    /// The longest descriptor of what guests send.
    pub(crate) piece_len: u32,
    /// Guests put their descriptors into indirect tables.
    pub(crate) indirect: bool,
    pub(crate) workers: usize,
    pub(crate) queue_pairs: u16,
    pub(crate) keyed: bool,
    pub(crate) uplink: bool,
    pub(crate) v6: bool,
    /// Seconds ago that the keypairs were made.
    pub(crate) key_age: u64,
    pub(crate) role: Role,
    /// Guests drive packed rings.
    pub(crate) packed: bool,
    /// Guests are attached by tags of these VLANs, which are put in and taken out where they send and receive.
    pub(crate) vlans: [Option<u16>; 2],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            site: 0,
            mtu: 1420,
            guard: Guard::Strict,
            offloads: [Offloads::all(); 2],
            piece_len: 65_536,
            indirect: false,
            workers: 1,
            queue_pairs: 1,
            keyed: true,
            uplink: true,
            v6: false,
            key_age: 0,
            role: Role::Initiator,
            packed: false,
            vlans: [None; 2],
        }
    }
}

pub(crate) struct Site {
    pub(crate) options: Options,
    pub(crate) snapshots: Arc<SnapshotCell>,
    /// Emptied by a test that gives its workers threads.
    pub(crate) workers: Vec<Worker>,
    pub(crate) controls: Vec<ControlEnd>,
    pub(crate) stacks: Vec<StackEnd>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) guests: Vec<Frontend>,
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) peers: Vec<Arc<Peer>>,
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) uplink: Arc<Uplink>,
    /// Where the uplink listens.
    pub(crate) address: SocketAddr,
    pub(crate) far: Far,
    pub(crate) dir: TempDir,
}

/// The far end: a socket and the other site's keys.
pub(crate) struct Far {
    pub(crate) socket: UdpSocket,
    /// The uplink that it sends to, and hears from.
    pub(crate) to: SocketAddr,
    keys: [[u8; 32]; 2],
    /// The receiver index that the worker knows its session by.
    pub(crate) receiver: u32,
    /// The receiver index that the worker must send with.
    pub(crate) expects: u32,
    pub(crate) counter: u64,
    /// Datagrams that went to the uplink.
    pub(crate) sent: Cell<u64>,
    /// Messages that came from it.
    pub(crate) received: u64,
}

impl Site {
    pub(crate) fn new(options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let s = options.site;
        let ports: Vec<_> = (0..2u8).map(|n| port(&dir, &options, n)).collect();
        let attachments = (0..2u8).map(|n| Some(Arc::new(attachment(&options, n))));
        let guests = (0..2)
            .map(|n| guest(&dir, &options, n, options.offloads[n]))
            .collect();
        let tunnel = TunnelIndex(0);
        let peers: Vec<_> = (0..2)
            .map(|n| Arc::new(Peer::new(PeerIndex(n), tunnel, PeerId(n))))
            .collect();
        let (queues, address) = open(&options, UplinkIndex(0));
        let uplink = Arc::new(Uplink {
            index: UplinkIndex(0),
            name: "loopback".into(),
            addresses: vec![address.ip()],
            tunnels: vec![(address.port(), tunnel)],
            hop: Arc::new(Hop::kernel(UplinkIndex(0))),
            kernel: None,
            counters: Arc::default(),
        });
        let sessions = Arc::new(SessionTable::new(1024));
        let queues_of = |worker: usize| {
            let all =
                (0..2u32).flat_map(|p| (0..options.queue_pairs).map(move |q| (PortIndex(p), q)));
            all.filter(|&(_, q)| usize::from(q) % options.workers == worker)
                .collect()
        };
        let snapshot = Snapshot {
            generation: 1,
            ports: ports.iter().cloned().map(Some).collect(),
            attachments: attachments.collect(),
            networks: [Some(Arc::new(network(s)))].into_iter().collect(),
            tunnels: [Some(Arc::new(Tunnel {
                name: "tunnel".into(),
                mtu: options.mtu,
                mss_clamp: false,
                network: Some(NetworkIndex(0)),
                allowed: Fib::build(peer_prefixes(s)),
                mac1: Some(Mac1::new(&PublicKey::from_bytes([9; 32]))),
                sessions: Arc::clone(&sessions),
            }))]
            .into_iter()
            .collect(),
            peers: peers.iter().cloned().map(Some).collect(),
            uplinks: [Some(Arc::clone(&uplink))].into_iter().collect(),
            workers: (0..options.workers).map(queues_of).map(Arc::new).collect(),
        };
        let snapshots = Arc::new(SnapshotCell::from_pointee(snapshot));
        let attention = Arc::new(Attention::new().unwrap());
        let mut workers = Vec::new();
        let mut controls = Vec::new();
        let mut stacks = Vec::new();
        let bell = Arc::new(Wake::new().unwrap());
        for n in 0..options.workers {
            let link =
                control_link::link(Arc::clone(&attention), Arc::clone(&bell), options.workers);
            let (end, control, stack) = link.unwrap();
            workers.push(Worker::new(
                WorkerIndex::from_slot(n),
                Arc::clone(&snapshots),
                end,
                Polling::Adaptive,
                Arc::new(WorkerStats::default()),
            ));
            controls.push(control);
            stacks.push(stack);
        }
        if options.uplink {
            for (control, queue) in controls.iter_mut().zip(queues) {
                assert!(control.send(Command::AttachUplink(Box::new(queue))));
            }
        }
        let far = Far::new(&options, address);
        let mut site = Self {
            options,
            snapshots,
            workers,
            controls,
            stacks,
            attention,
            guests,
            ports,
            peers,
            sessions,
            uplink,
            address,
            far,
            dir,
        };
        if site.options.keyed {
            site.publish_key();
        }
        let endpoint = site.far.socket.local_addr().unwrap();
        site.path_to(endpoint);
        site.settle();
        site
    }

    /// Gives peer 0 its keypair.
    pub(crate) fn publish_key(&mut self) {
        let s = self.options.site;
        let created = clock::monotonic().as_nanos();
        let created = culvert_wireguard::Instant::from_nanos(
            created.saturating_sub(self.options.key_age * 1_000_000_000),
        );
        let keypair = Arc::new(Keypair::from_parts(
            PeerId(0),
            self.options.role,
            (index(s), index(1 - s)),
            (key(s), key(1 - s)),
            created,
        ));
        self.sessions.publish(Session {
            keypair: Arc::clone(&keypair),
            peer: Arc::clone(&self.peers[0]),
        });
        self.peers[0].publish_keypair(Some(keypair));
    }

    /// Gives peer 1 a keypair and a far end of its own.
    pub(crate) fn second(&self) -> (Far, Arc<Keypair>) {
        let far = Far {
            socket: Far::socket(self.address),
            to: self.address,
            keys: [key(8), key(7)],
            receiver: index(7),
            expects: index(8),
            counter: 0,
            sent: Cell::new(0),
            received: 0,
        };
        let keypair = Arc::new(Keypair::from_parts(
            PeerId(1),
            Role::Initiator,
            (index(7), index(8)),
            (key(7), key(8)),
            clock::monotonic(),
        ));
        self.peers[1].publish_keypair(Some(Arc::clone(&keypair)));
        self.peers[1].publish_path(Some(Path::new(
            far.socket.local_addr().unwrap(),
            Some(self.address.ip()),
            self.address.port(),
            Arc::clone(&self.uplink.hop),
        )));
        (far, keypair)
    }

    pub(crate) fn path_to(&self, endpoint: SocketAddr) {
        self.path_from(self.address.ip(), endpoint);
    }

    pub(crate) fn path_from(&self, source: IpAddr, endpoint: SocketAddr) {
        let (port, hop) = (self.address.port(), Arc::clone(&self.uplink.hop));
        self.peers[0].publish_path(Some(Path::new(endpoint, Some(source), port, hop)));
    }

    /// Steps all workers until they have all that the far end sent and find no more.
    pub(crate) fn settle(&mut self) {
        self.settle_after(self.far.sent.get());
    }

    /// Steps all workers until the uplink has received so many datagrams, and then until
    /// none finds anything to do.
    pub(crate) fn settle_after(&mut self, received: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut idle = 0;
        while idle < 3 {
            let found = self
                .workers
                .iter_mut()
                .fold(false, |found, w| w.step() | found);
            idle = if found { 0 } else { idle + 1 };
            if self.options.uplink && count(&self.uplink.counters.rx_packets) < received {
                assert!(Instant::now() < deadline, "the datagrams come");
                idle = 0;
            }
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        assert!(self.controls[0].send(command));
    }

    /// Publishes a snapshot in which guest `n` is attached with something else.
    pub(crate) fn change_attachment(&self, n: usize, change: impl FnOnce(&mut Attachment)) {
        self.change(|snapshot| {
            let old = snapshot.attachments.get(n).unwrap();
            let mut attachment = Attachment {
                addresses: old.addresses.clone(),
                link_locals: Arc::clone(&old.link_locals),
                errors: Arc::clone(&old.errors),
                questions: Arc::clone(&old.questions),
                ..**old
            };
            change(&mut attachment);
            snapshot.attachments.set(n, Some(Arc::new(attachment)));
        });
    }

    /// Publishes a changed snapshot.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let old = self.snapshots.load_full();
        let mut new = Snapshot {
            generation: old.generation + 1,
            ..Snapshot::clone(&old)
        };
        *network_of(&mut new) = network(self.options.site);
        tunnel_of(&mut new).allowed = Fib::build(peer_prefixes(self.options.site));
        change(&mut new);
        self.snapshots.store(Arc::new(new));
    }

    /// Steps the workers until they have all that `other` sent.
    pub(crate) fn settle_from(&mut self, other: &Self) {
        self.settle_after(count(&other.uplink.counters.tx_packets));
    }

    /// Puts a frame into a guest's ring.
    pub(crate) fn offer(&mut self, guest: usize, vnet: &VnetHeader, frame: &[u8]) {
        match self.options.vlans[guest] {
            None => self.offer_raw(guest, vnet, frame),
            Some(vlan) => self.offer_raw(guest, &vnet.moved_on(4), &tagged(vlan, frame)),
        }
    }

    /// The same with whatever tag it has.
    pub(crate) fn offer_raw(&mut self, guest: usize, vnet: &VnetHeader, frame: &[u8]) {
        assert!(
            self.guests[guest].send_frame(0, vnet, frame),
            "room in the ring"
        );
    }

    /// Puts a packet for the gateway into a guest's ring.
    pub(crate) fn offer_to_gateway(&mut self, guest: usize, packet: &[u8]) {
        let frame = frame(GUEST[guest], GATEWAY, packet);
        self.offer(guest, &VnetHeader::default(), &frame);
    }

    /// A guest sends a packet through the gateway, and the workers do what is to do.
    pub(crate) fn send(&mut self, guest: usize, vnet: &VnetHeader, packet: &[u8]) {
        self.offer(guest, vnet, &frame(GUEST[guest], GATEWAY, packet));
        self.settle();
    }

    /// As `send`, without offloads.
    pub(crate) fn send_plain(&mut self, guest: usize, packet: &[u8]) {
        self.send(guest, &VnetHeader::default(), packet);
    }

    /// What came into a guest's ring.
    pub(crate) fn frames(&mut self, guest: usize) -> Vec<(VnetHeader, Vec<u8>)> {
        let frames = self.raw_frames(guest);
        match self.options.vlans[guest] {
            None => frames,
            Some(vlan) => {
                let untag = |(vnet, frame): (VnetHeader, Vec<u8>)| {
                    (vnet.moved_back(4), untagged(vlan, &frame))
                };
                frames.into_iter().map(untag).collect()
            }
        }
    }

    /// The same with their tags.
    pub(crate) fn raw_frames(&mut self, guest: usize) -> Vec<(VnetHeader, Vec<u8>)> {
        (0..self.options.queue_pairs)
            .flat_map(|q| {
                std::iter::from_fn(|| self.guests[guest].receive_frame(q)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// What came into a guest's ring: exactly one frame.
    pub(crate) fn frame(&mut self, guest: usize) -> (VnetHeader, Vec<u8>) {
        let mut frames = self.frames(guest);
        assert_eq!(
            frames.len(),
            1,
            "one frame for guest {guest}: {frames:02x?}"
        );
        frames.remove(0)
    }

    /// What the far end got: all that the uplink sent.
    pub(crate) fn sealed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while self.far.received < count(&self.uplink.counters.tx_packets) {
            assert!(Instant::now() < deadline, "the datagrams come");
            all.extend(self.far.receive());
        }
        all
    }

    pub(crate) fn port_drops(&self, port: usize, expected: &[(DropReason, u64)]) {
        assert_drops(self.ports[port].drops.iter(), expected);
    }

    pub(crate) fn peer_drops(&self, expected: &[(DropReason, u64)]) {
        assert_drops(self.peers[0].drops.iter(), expected);
    }

    pub(crate) fn uplink_drops(&self, expected: &[(DropReason, u64)]) {
        assert_drops(self.uplink.counters.drops.iter(), expected);
    }

    /// Nothing was lost anywhere.
    pub(crate) fn no_drops(&self) {
        for port in 0..2 {
            self.port_drops(port, &[]);
            assert_eq!(self.ring_drops(port), 0);
        }
        self.peer_drops(&[]);
        self.uplink_drops(&[]);
    }

    /// Frames lost at a port's rings, both directions.
    pub(crate) fn ring_drops(&self, port: usize) -> u64 {
        let guest = self.ports[port].guest.vhost().unwrap();
        (0..self.options.queue_pairs)
            .flat_map(|q| [guest.guest_rx(q).counters(), guest.guest_tx(q).counters()])
            .flat_map(|counters| PortDrop::ALL.map(|reason| counters.drops(reason)))
            .sum()
    }

    /// The address of a guest, `.1` the gateway, in this site's network.
    pub(crate) fn v4(&self, host: u8) -> String {
        format!("10.{}.0.{host}", self.options.site)
    }
}

pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(crate) fn assert_drops(
    found: impl Iterator<Item = (DropReason, u64)>,
    expected: &[(DropReason, u64)],
) {
    let mut found: Vec<_> = found.collect();
    let mut expected = expected.to_vec();
    found.sort_by_key(|&(reason, _)| reason.name());
    expected.sort_by_key(|&(reason, _)| reason.name());
    assert_eq!(found, expected);
}

/// A snapshot's network, to be changed.
pub(crate) fn network_of(snapshot: &mut Snapshot) -> &mut Network {
    Arc::make_mut(snapshot.networks.get_mut(0).unwrap())
}

/// A snapshot's tunnel, to be changed.
pub(crate) fn tunnel_of(snapshot: &mut Snapshot) -> &mut Tunnel {
    Arc::make_mut(snapshot.tunnels.get_mut(0).unwrap())
}

pub(crate) fn frame(source: MacAddr, destination: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = destination.0.to_vec();
    frame.extend(source.0);
    frame.extend(match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    });
    frame.extend(packet);
    frame
}

/// A frame with the tag of a VLAN.
pub(crate) fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    let (addresses, rest) = frame.split_at(frame.len().min(12));
    [addresses, &[0x81, 0, high, low], rest].concat()
}

/// Asserts a frame's tag and takes it out.
pub(crate) fn untagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    assert_eq!(frame[12..16], [0x81, 0, high, low], "a tag of VLAN {vlan}");
    [&frame[..12], &frame[16..]].concat()
}

/// Asserts a frame's Ethernet header and gives the packet.
pub(crate) fn packet(frame: &[u8], source: MacAddr, destination: MacAddr) -> &[u8] {
    assert_eq!(frame[..6], destination.0);
    assert_eq!(frame[6..12], source.0);
    let v4 = frame[14] >> 4 == 4;
    assert_eq!(frame[12..14], if v4 { [8, 0] } else { [0x86, 0xdd] });
    &frame[14..]
}

fn index(site: u8) -> u32 {
    0xabcd_0000 + u32::from(site)
}

/// The key that a site seals with.
fn key(site: u8) -> [u8; 32] {
    [site + 1; 32]
}

pub(crate) fn prefix(text: &str, len: u8) -> Prefix {
    Prefix::new(text.parse().unwrap(), len).unwrap()
}

pub(crate) fn peer_prefixes(s: u8) -> Vec<(Prefix, PeerIndex)> {
    let other = 1 - s;
    vec![
        (prefix(&format!("10.{other}.0.0"), 16), PeerIndex(0)),
        (prefix(&format!("fd00:{other}::"), 64), PeerIndex(0)),
        (prefix("10.8.0.0", 16), PeerIndex(1)),
        (prefix("fd08::", 64), PeerIndex(1)),
        (prefix(&format!("10.{s}.0.200"), 32), PeerIndex(1)),
        (prefix(&format!("fd00:{s}::200"), 128), PeerIndex(1)),
    ]
}

/// The routes of a site's network.
pub(crate) fn network_routes(s: u8) -> Vec<(Prefix, NextHop)> {
    let mut routes: Vec<_> = peer_prefixes(s)
        .into_iter()
        .map(|(prefix, peer)| (prefix, NextHop::Peer(peer)))
        .collect();
    routes.extend([
        (prefix(&format!("10.{s}.0.0"), 24), NextHop::Unreachable),
        (prefix(&format!("fd00:{s}::"), 64), NextHop::Unreachable),
        (prefix(&format!("10.{s}.0.1"), 32), NextHop::Gateway),
        (prefix(&format!("fd00:{s}::1"), 128), NextHop::Gateway),
    ]);
    for port in 0..2 {
        let hop = NextHop::Guest(AttachmentIndex(port));
        routes.extend([
            (prefix(&format!("10.{s}.0.{}", 2 + port), 32), hop),
            (prefix(&format!("fd00:{s}::{}", 2 + port), 128), hop),
        ]);
    }
    routes
}

fn network(s: u8) -> Network {
    Network {
        name: "network".into(),
        gateway_mac: GATEWAY,
        gateways: vec![
            format!("10.{s}.0.1").parse().unwrap(),
            format!("fd00:{s}::1").parse().unwrap(),
        ],
        prefixes: vec![
            prefix(&format!("10.{s}.0.0"), 24),
            prefix(&format!("fd00:{s}::"), 64),
        ],
        tunnel: Some(TunnelIndex(0)),
        macs: [
            (GUEST[0], AttachmentIndex(0)),
            (GUEST[1], AttachmentIndex(1)),
        ]
        .into(),
        listeners: 2,
        routes: Fib::build(network_routes(s)),
        plain: None,
        services: Services::default(),
    }
}

fn port(dir: &TempDir, options: &Options, n: u8) -> Arc<Port> {
    let mac = GUEST[usize::from(n)];
    let mut config = PortConfig::new(format!("port{n}"), dir.path().join(format!("{n}")), mac);
    config.queue_pairs = options.queue_pairs;
    let vlan = vlan(options, n);
    Arc::new(Port {
        index: PortIndex(n.into()),
        name: config.name.clone(),
        attachment: vlan.is_none().then_some(AttachmentIndex(n.into())),
        vlans: (vlan.into_iter())
            .map(|vlan| (vlan, AttachmentIndex(n.into())))
            .collect(),
        guest: Guest::Vhost(Arc::new(vhost::Port::open(config, |_| {}).unwrap())),
        queues: options.queue_pairs,
        drops: Arc::default(),
    })
}

fn vlan(options: &Options, n: u8) -> Option<VlanId> {
    options.vlans[usize::from(n)].map(|vlan| VlanId::new(vlan).unwrap())
}

fn attachment(options: &Options, n: u8) -> Attachment {
    let (s, host) = (options.site, n + 2);
    Attachment {
        index: AttachmentIndex(n.into()),
        port: PortIndex(n.into()),
        vlan: vlan(options, n),
        network: NetworkIndex(0),
        mac: GUEST[usize::from(n)],
        addresses: vec![
            format!("10.{s}.0.{host}").parse().unwrap(),
            format!("fd00:{s}::{host}").parse().unwrap(),
        ],
        link_locals: Arc::default(),
        errors: Arc::default(),
        questions: Arc::default(),
        is_served: true,
        guard: options.guard,
    }
}

/// A guest's driver on port `n`.
pub(crate) fn guest(dir: &TempDir, options: &Options, n: usize, offloads: Offloads) -> Frontend {
    let config = FrontendConfig {
        queue_pairs: options.queue_pairs,
        offloads,
        piece_len: options.piece_len,
        indirect: options.indirect,
        rings: match options.packed {
            true => RingOptions::all(),
            false => RingOptions::all() - RingOptions::PACKED,
        },
        memory: 64 << 20,
        ..FrontendConfig::default()
    };
    Frontend::connect(&dir.path().join(n.to_string()), config).unwrap()
}

/// Opens an uplink on a port that is free.
pub(crate) fn open(options: &Options, uplink: UplinkIndex) -> (Vec<Queue>, SocketAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let ip: IpAddr = if options.v6 { "::1" } else { "127.0.0.1" }
        .parse()
        .unwrap();
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    for _ in 0..1000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let opened = udp::open(
            uplink,
            TunnelIndex(0),
            &[ip],
            port,
            options.workers,
            udp::Options::default(),
        );
        if let Ok(queues) = opened {
            return (queues, SocketAddr::new(ip, port));
        }
    }
    panic!("no free port");
}

impl Far {
    fn new(options: &Options, to: SocketAddr) -> Self {
        let s = options.site;
        let socket = Self::socket(to);
        Self {
            socket,
            to,
            keys: [key(1 - s), key(s)],
            receiver: index(s),
            expects: index(1 - s),
            counter: 0,
            sent: Cell::new(0),
            received: 0,
        }
    }

    /// Another socket on the far end's address.
    pub(crate) fn socket(near: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind((near.ip(), 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        socket
    }

    /// A data message with the next counter.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let counter = self.counter;
        self.counter += 1;
        self.seal_as(counter, plaintext)
    }

    pub(crate) fn seal_as(&self, counter: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut body = plaintext.to_vec();
        body.resize(plaintext.len().next_multiple_of(16), 0);
        let tag = ChaCha20Poly1305::new(&self.keys[0].into())
            .encrypt_inout_detached(&nonce(counter).into(), &[], body.as_mut_slice().into())
            .unwrap();
        let mut message = vec![4, 0, 0, 0];
        message.extend(self.receiver.to_le_bytes());
        message.extend(counter.to_le_bytes());
        message.extend(body);
        message.extend(tag);
        message
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        self.send_from(&self.socket, datagram);
    }

    pub(crate) fn send_from(&self, socket: &UdpSocket, datagram: &[u8]) {
        socket.send_to(datagram, self.to).unwrap();
        self.sent.set(self.sent.get() + 1);
    }

    /// Seals packets and sends them.
    pub(crate) fn send_packets(&mut self, packets: &[Vec<u8>]) {
        for packet in packets {
            let message = self.seal(packet);
            self.send(&message);
        }
    }

    /// Opens a data message: its counter and plaintext.
    pub(crate) fn open(&self, message: &[u8]) -> (u64, Vec<u8>) {
        assert_eq!(message[..4], [4, 0, 0, 0]);
        assert_eq!(message[4..8], self.expects.to_le_bytes());
        let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
        let (body, tag) = message[16..].split_at(message.len() - 32);
        let tag: [u8; 16] = tag.try_into().unwrap();
        let mut body = body.to_vec();
        ChaCha20Poly1305::new(&self.keys[1].into())
            .decrypt_inout_detached(
                &nonce(counter).into(),
                &[],
                body.as_mut_slice().into(),
                &tag.into(),
            )
            .expect("a valid tag");
        (counter, body)
    }

    /// The next message that is there, opened.
    pub(crate) fn receive(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut buffer = [0; 16_384];
        let (len, from) = self.socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from, self.to);
        self.received += 1;
        Some(self.open(&buffer[..len]))
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
