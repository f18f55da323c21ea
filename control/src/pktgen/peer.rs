//! A WireGuard peer in memory: the generator's, on the wire side of a tunnel.
//!
//! In: datagrams that came, frames to seal, the time. Out: datagrams to send; packets that were opened, as frames. Never: a
//! socket, a clock, a counter twice, a look at what is inside.
//!
//! It shakes hands as any peer does, by the same protocol crate as the switch, and checks for replays as a receiver must.
//! A session is good for [`Peer::seals_until`]; who generates for longer calls again in between.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use culvert_aead::{Engine, Jobs, OpenJob, SealJob, TAG_LEN, TAILROOM};
use culvert_wire::{EtherType, MacAddr, ether};
use culvert_wireguard::{
    Config, ConfigError, Device, Event, Handshake, Instant, Keypair, Now, PeerConfig, PeerId,
    PresharedKey, PrivateKey, PublicKey, SendRefusal, Traffic,
    limits::REJECT_AFTER_TIME,
    message::{DATA_HEADER_LEN, DataHeader, Kind, data_len},
    padding::padded_len,
};
use rand_core::UnwrapErr;

/// How many datagrams are opened together.
pub const BURST: usize = 64;

/// Receiver indices: of a handshake and three keypairs, and a few to spare.
const INDEX_SLOTS: u32 = 8;

/// Sessions that packets may still come by: current, next and previous.
const SESSIONS: usize = 3;

/// What became of datagrams that were to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Data packets that were authentic and new.
    pub packets: u64,
    /// Empty ones among those.
    pub keepalives: u64,
    /// Of no session that there is, or shorter than any message.
    pub unknown: u64,
    /// Not authentic.
    pub forged: u64,
    /// Authentic, and seen before.
    pub replayed: u64,
}

/// One peer.
pub struct Peer {
    device: Device,
    far: PeerId,
    engine: Engine,
    mtu: usize,
    current: Option<Arc<Keypair>>,
    /// The newest last.
    sessions: Vec<Arc<Keypair>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer of whoever has the key `far` and is at `endpoint`; packets are padded as on a route of `mtu` bytes.
    ///
    /// # Errors
    /// Both keys are the same.
    pub fn new(
        own: PrivateKey,
        (far, endpoint): (PublicKey, SocketAddr),
        mtu: u16,
        now: Now,
    ) -> Result<Self, ConfigError> {
        let config = Config {
            index_slots: INDEX_SLOTS,
            ..Config::default()
        };
        let random = Box::new(UnwrapErr(getrandom::SysRng));
        let mut device = Device::new(config, Some(own), random);
        let peer = PeerConfig {
            public_key: far,
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some(endpoint),
        };
        Ok(Self {
            far: device.add_peer(peer, now)?,
            device,
            engine: Engine::new(),
            mtu: mtu.into(),
            current: None,
            sessions: Vec::with_capacity(SESSIONS + 1),
            outgoing: VecDeque::new(),
        })
    }

    /// Calls: for a first session, or for a new one beside the one that there is.
    pub fn call(&mut self, now: Now) {
        match self.current {
            Some(_) => self.device.renew(self.far, now),
            None => self.device.initiate(self.far, now),
        }
        self.settle(now);
    }

    /// A message of a handshake came from `from`; whether there is a new session by it, or one is offered to us.
    pub fn hear(&mut self, message: &[u8], from: SocketAddr, now: Now) -> bool {
        let verdict = self.device.handle_handshake(message, from, 0, now);
        self.settle(now);
        matches!(
            verdict,
            Handshake::ResponseAccepted(_) | Handshake::InitiationAccepted(_)
        )
    }

    /// Calls again that were not answered in time, when their time has come.
    pub fn turn(&mut self, now: Now) {
        if self
            .device
            .poll_timeout()
            .is_some_and(|due| due <= now.monotonic)
        {
            self.device.handle_timeout(now);
        }
        self.settle(now);
    }

    /// The next datagram to send that is none of a trial: handshakes, keepalives.
    pub fn poll_datagram(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// Until when what is sealed now may be accepted; `None` without a session to seal with.
    #[must_use]
    pub fn seals_until(&self, now: Instant) -> Option<Instant> {
        let session = self.current.as_ref()?;
        let until = session.created().after(REJECT_AFTER_TIME);
        session.sendable(now).ok().map(|()| until)
    }

    /// Bytes of the datagram that a packet becomes.
    #[must_use]
    pub const fn sealed_len(&self, packet_len: usize) -> usize {
        data_len(padded_len(packet_len, self.mtu))
    }

    /// Bytes of buffer that sealing a packet takes.
    #[must_use]
    pub const fn room(&self, packet_len: usize) -> usize {
        self.sealed_len(packet_len) + TAILROOM
    }

    /// Seals IP packets, [`BURST`] at most, each by a counter of its own. A packet lies [`DATA_HEADER_LEN`] behind the start
    /// of its buffer, beside which is its length; the datagram that it becomes, of [`Peer::sealed_len`], lies at the start.
    ///
    /// # Errors
    /// Without a session, or as it refuses.
    ///
    /// # Panics
    /// If there are more, or if a buffer is shorter than [`Peer::room`].
    pub fn seal<'b>(
        &mut self,
        packets: impl ExactSizeIterator<Item = (&'b mut [u8], usize)>,
        now: Instant,
    ) -> Result<(), SendRefusal> {
        let session = self.current.as_ref().ok_or(SendRefusal::Unconfirmed)?;
        let counters = session.reserve(packets.len(), now)?;
        let receiver = session.remote_index();
        let mut jobs = Jobs::<SealJob<'_>, BURST>::new();
        for ((buffer, packet_len), counter) in packets.zip(counters) {
            let padded = padded_len(packet_len, self.mtu);
            let (header, body) = buffer
                .split_first_chunk_mut::<DATA_HEADER_LEN>()
                .expect("room for a header");
            DataHeader { receiver, counter }.write(header);
            body[packet_len..padded].fill(0);
            let job = SealJob::in_place(session.sending_key(), counter, body, padded);
            let pushed = jobs.push(job.expect("room for the packet"));
            assert!(pushed.is_ok(), "a burst at most");
        }
        self.engine.seal(&mut jobs);
        Ok(())
    }

    /// Opens datagrams in place, [`BURST`] at a time, and shows the packets that are new as frames: with an Ethernet header
    /// whose addresses say nothing. A frame has its padding still.
    ///
    /// Messages of other kinds are unknown here: [`Peer::hear`] takes those.
    pub fn open<'d>(
        &mut self,
        datagrams: impl IntoIterator<Item = &'d mut [u8]>,
        now: Now,
        mut frame: impl FnMut(&[u8]),
    ) -> Opened {
        let mut opened = Opened::default();
        let mut datagrams = datagrams.into_iter().peekable();
        while datagrams.peek().is_some() {
            self.open_burst(datagrams.by_ref().take(BURST), now, &mut frame, &mut opened);
        }
        opened
    }

    fn open_burst<'d>(
        &mut self,
        datagrams: impl Iterator<Item = &'d mut [u8]>,
        now: Now,
        frame: &mut impl FnMut(&[u8]),
        opened: &mut Opened,
    ) {
        let mut burst: [Option<(&mut [u8], usize, u64)>; BURST] = [const { None }; BURST];
        let mut places = burst.iter_mut();
        for datagram in datagrams {
            match self.session_of(datagram, now.monotonic) {
                Some((session, counter)) => {
                    if let Some(place) = places.next() {
                        *place = Some((datagram, session, counter));
                    }
                }
                None => opened.unknown += 1,
            }
        }
        let mut jobs = Jobs::<OpenJob<'_>, BURST>::new();
        for (datagram, session, counter) in burst.iter_mut().flatten() {
            let key = self.sessions[*session].receiving_key();
            let job = OpenJob::in_place(key, *counter, &mut datagram[DATA_HEADER_LEN..]);
            // `session_of` has seen to the length, and a burst has no more than there are jobs.
            let _ = job.is_ok_and(|job| jobs.push(job).is_ok());
        }
        self.engine.open(&mut jobs);
        let mut authentic = [false; BURST];
        for (is, job) in authentic.iter_mut().zip(jobs.iter()) {
            *is = job.ok();
        }
        let mut confirmed = None;
        let before = opened.packets - opened.keepalives;
        for ((datagram, session, counter), is_authentic) in
            burst.into_iter().flatten().zip(authentic)
        {
            if !is_authentic {
                opened.forged += 1;
            } else if self.sessions[session].replay().accept(counter) {
                confirmed = self.sessions[session]
                    .confirm()
                    .then_some(session)
                    .or(confirmed);
                note(datagram, frame, opened);
            } else {
                opened.replayed += 1;
            }
        }
        // Who hears and says nothing for ten seconds says that it is there.
        let heard = (opened.packets - opened.keepalives > before).then_some(now.monotonic);
        let traffic = Traffic {
            data_received: heard,
            ..Traffic::default()
        };
        self.device.handle_traffic(self.far, traffic, now);
        // By the first packet of a session the other end shows that it has what it asked for.
        if let Some(session) = confirmed {
            let index = self.sessions[session].local_index();
            self.device.handle_confirmed(self.far, index, now);
            self.settle(now);
        }
    }

    fn session_of(&self, datagram: &[u8], now: Instant) -> Option<(usize, u64)> {
        let header = DataHeader::parse(datagram)?;
        let has_index = |it: &Arc<Keypair>| it.local_index() == header.receiver;
        let place = self.sessions.iter().position(has_index)?;
        let is_open = self.sessions[place].receivable(now);
        is_open.then_some((place, header.counter))
    }

    /// Takes from the protocol what it has to say.
    fn settle(&mut self, now: Now) {
        self.device.handle_calls(&mut Default::default(), 1, now);
        while let Some(event) = self.device.poll_event() {
            self.event(event, now);
        }
        while let Some(message) = self.device.poll_transmit() {
            self.outgoing.push_back(message.bytes().to_vec());
        }
    }

    fn event(&mut self, event: Event, now: Now) {
        match event {
            Event::KeypairAdded { keypair, .. } => {
                self.sessions.push(keypair);
                if self.sessions.len() > SESSIONS {
                    self.sessions.remove(0);
                }
            }
            Event::KeypairRemoved { local_index, .. } => {
                self.sessions.retain(|it| it.local_index() != local_index);
            }
            Event::CurrentKeypair { keypair, .. } => self.current = keypair,
            Event::SendKeepalive { .. } | Event::FlushStaged { .. } => self.keep_alive(now),
            Event::DropStaged { .. }
            | Event::EndpointMoved { .. }
            | Event::SourceStale { .. }
            | Event::HandshakeCompleted { .. }
            | Event::Unanswered { .. }
            | Event::HandshakeGivenUp { .. }
            | Event::PeerRemoved { .. } => {}
        }
    }

    fn keep_alive(&mut self, now: Now) {
        let mut datagram = vec![0; self.room(0)];
        let sealed = self.seal([(&mut datagram[..], 0)].into_iter(), now.monotonic);
        if sealed.is_ok() {
            datagram.truncate(self.sealed_len(0));
            self.outgoing.push_back(datagram);
        }
    }
}

/// Counts a packet that was opened, and shows it as a frame.
fn note(datagram: &mut [u8], frame: &mut impl FnMut(&[u8]), opened: &mut Opened) {
    opened.packets += 1;
    let end = datagram.len() - TAG_LEN;
    if end == DATA_HEADER_LEN {
        opened.keepalives += 1;
        return;
    }
    let ether_type = match datagram[DATA_HEADER_LEN] >> 4 {
        6 => EtherType::IPV6,
        _ => EtherType::IPV4,
    };
    let start = DATA_HEADER_LEN - ether::HEADER_LEN;
    let header = ether::header(MacAddr::default(), MacAddr::default(), ether_type);
    datagram[start..DATA_HEADER_LEN].copy_from_slice(&header);
    frame(&datagram[start..end]);
}

/// Whether a datagram is a message of a handshake.
#[must_use]
pub fn is_handshake(datagram: &[u8]) -> bool {
    Kind::of(datagram).is_some_and(|kind| kind != Kind::Data)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    const MTU: u16 = 1420;

    pub(in super::super) fn at(seconds: u64) -> Now {
        Now {
            monotonic: Instant::from_nanos(1_000_000_000 * (1_000 + seconds)),
            unix: Duration::from_secs(1_000 + seconds),
        }
    }

    fn place(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 51_820).into()
    }

    /// Two peers of each other, who have not called yet.
    fn pair() -> [Peer; 2] {
        let keys = [1, 2].map(|n| PrivateKey::from_bytes([n; 32]));
        let [a, b] = [0, 1].map(|n| {
            let far = keys[1 - n].public_key();
            let endpoint = place(if n == 0 { 2 } else { 1 });
            Peer::new(keys[n].clone(), (far, endpoint), MTU, at(0)).unwrap()
        });
        [a, b]
    }

    /// Carries all that both have to say; gives the data messages, which nobody has opened.
    fn talk(peers: &mut [Peer; 2], now: Now) -> Vec<(usize, Vec<u8>)> {
        let mut rest = Vec::new();
        loop {
            let [a, b] = &mut *peers;
            let said: Vec<_> = std::iter::from_fn(|| a.poll_datagram().map(|it| (1, it)))
                .chain(std::iter::from_fn(|| b.poll_datagram().map(|it| (0, it))))
                .collect();
            if said.is_empty() {
                return rest;
            }
            for (to, datagram) in said {
                match is_handshake(&datagram) {
                    true => {
                        peers[to].hear(&datagram, place(if to == 0 { 2 } else { 1 }), now);
                    }
                    false => rest.push((to, datagram)),
                }
            }
        }
    }

    /// Two peers with a session; the first has called.
    pub(in super::super) fn session() -> [Peer; 2] {
        let mut peers = pair();
        peers[0].call(at(0));
        let said = talk(&mut peers, at(0));
        assert_eq!(said.len(), 1, "the caller says that it has understood");
        for (to, mut datagram) in said {
            let opened = peers[to].open([&mut datagram[..]], at(0), |_| {
                panic!("nothing is in it");
            });
            assert_eq!((opened.packets, opened.keepalives), (1, 1));
        }
        peers
    }

    fn sealed(peer: &mut Peer, packet: &[u8], now: Now) -> Vec<u8> {
        let mut buffer = vec![0xaa; peer.room(packet.len())];
        buffer[DATA_HEADER_LEN..][..packet.len()].copy_from_slice(packet);
        let sealed = peer.seal([(&mut buffer[..], packet.len())].into_iter(), now.monotonic);
        sealed.unwrap();
        buffer.truncate(peer.sealed_len(packet.len()));
        buffer
    }

    #[test]
    fn what_one_seals_the_other_opens_once() {
        let mut peers = session();
        for (from, to) in [(0, 1), (1, 0)] {
            let mut packet = vec![0x45; 100];
            packet[0] = 0x45;
            let mut datagrams: Vec<_> = (0..150)
                .map(|_| sealed(&mut peers[from], &packet, at(1)))
                .collect();
            let kept = datagrams[0].clone();
            let mut frames = 0;
            let all = datagrams.iter_mut().map(|it| &mut it[..]);
            let opened = peers[to].open(all, at(1), |frame| {
                frames += 1;
                assert_eq!(frame[12..14], [8, 0]);
                assert_eq!(frame[14..114], packet);
                assert!(frame[114..].iter().all(|it| *it == 0) && frame.len() == 14 + 112);
            });
            assert_eq!((opened.packets, frames), (150, 150));

            let mut again = kept.clone();
            let mut forged = kept.clone();
            *forged.last_mut().unwrap() ^= 1;
            let mut unknown = kept;
            unknown[4] ^= 1;
            let strange = [&mut again[..], &mut forged[..], &mut unknown[..], &mut []];
            let opened = peers[to].open(strange, at(1), |_| panic!("nothing new"));
            let expected = Opened {
                replayed: 1,
                forged: 1,
                unknown: 2,
                ..Opened::default()
            };
            assert_eq!(opened, expected);
        }
    }

    #[test]
    fn a_new_session_takes_over_while_the_old_one_is_still_opened() {
        let mut peers = session();
        let mut old = sealed(&mut peers[0], &[0x45; 40], at(100));
        peers[0].call(at(101));
        for (to, mut datagram) in talk(&mut peers, at(101)) {
            peers[to].open([&mut datagram[..]], at(101), |_| {});
        }
        let mut new = sealed(&mut peers[0], &[0x45; 40], at(101));
        assert_ne!(old[4..8], new[4..8], "another receiver index");
        let both = [&mut new[..], &mut old[..]];
        assert_eq!(peers[1].open(both, at(102), |_| {}).packets, 2);
        let until = peers[0].seals_until(at(102).monotonic).unwrap();
        assert_eq!(until, at(101).monotonic.after(REJECT_AFTER_TIME));
    }

    #[test]
    fn who_hears_and_has_nothing_to_say_says_that_it_is_there() {
        let mut peers = session();
        let mut datagram = sealed(&mut peers[0], &[0x45; 40], at(1));
        peers[1].open([&mut datagram[..]], at(1), |_| {});
        // It has answered that it has a session now.
        while peers[1].poll_datagram().is_some() {}
        peers[1].turn(at(2));
        assert!(peers[1].poll_datagram().is_none());
        peers[1].turn(at(12));
        let mut said = peers[1].poll_datagram().unwrap();
        let opened = peers[0].open([&mut said[..]], at(12), |_| panic!("nothing is in it"));
        assert_eq!(opened.keepalives, 1);
    }

    #[test]
    fn without_a_session_nothing_is_sealed_and_too_old_a_one_seals_no_more() {
        let now = at(0).monotonic;
        let empty = || std::iter::empty();
        assert!(pair()[0].seal(empty(), now).is_err());
        assert!(pair()[0].seals_until(now).is_none());
        let mut peers = session();
        let late = at(181).monotonic;
        assert_eq!(peers[0].seal(empty(), late), Err(SendRefusal::Expired));
        assert!(peers[0].seals_until(late).is_none());
    }
}
