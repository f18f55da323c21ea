//! A host on an Ethernet wire with nobody else on it but the device under test, and on that host a [`Peer`].
//!
//! In: frames that came, the time. Out: frames to send that are none of a trial: questions, answers, handshakes; packets that
//! were opened. Never: a route: whoever sends here is the device.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use culvert_wire::arp::{self, ArpPacket};
use culvert_wire::{MacAddr, nd};
use culvert_wireguard::Now;

use super::outer::{Came, Outer, look};
use super::peer::{BURST, Opened, Peer, is_handshake};

/// What is said at a time: nobody's questions fill the memory.
const FRAMES_MAX: usize = 64;

/// The host.
#[derive(Debug)]
pub struct Host {
    near: (MacAddr, SocketAddr),
    far: SocketAddr,
    far_mac: Option<MacAddr>,
    /// On it.
    pub peer: Peer,
    frames: VecDeque<Vec<u8>>,
}

impl Host {
    /// At an address; the device has the other one.
    #[must_use]
    pub const fn new(near: (MacAddr, SocketAddr), far: SocketAddr, peer: Peer) -> Self {
        Self {
            near,
            far,
            far_mac: None,
            peer,
            frames: VecDeque::new(),
        }
    }

    /// What is around datagrams to the device, once it has said where it is.
    #[must_use]
    pub fn outer(&self) -> Option<Outer> {
        Some(Outer {
            near: self.near,
            far: (self.far_mac?, self.far),
        })
    }

    /// Asks where the device is.
    pub fn ask(&mut self) {
        let (mac, near) = self.near;
        let mut frame = vec![0; nd::FRAME_LEN.max(arp::FRAME_LEN)];
        let len = match (near.ip(), self.far.ip()) {
            (IpAddr::V4(near), IpAddr::V4(far)) => {
                ArpPacket::request(mac, near, far).write_frame(&mut frame)
            }
            (IpAddr::V6(near), IpAddr::V6(far)) => {
                nd::write_solicitation(mac, near, far, &mut frame)
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => return,
        };
        frame.truncate(len);
        self.say(frame);
    }

    /// Hears a burst of frames, [`BURST`] at most; `frame` is shown those that were sealed in them.
    pub fn hear<'f>(
        &mut self,
        frames: impl Iterator<Item = &'f mut [u8]>,
        now: Now,
        frame: impl FnMut(&[u8]),
    ) -> Opened {
        let mut sealed = [const { None }; BURST];
        let mut places = sealed.iter_mut();
        for came in frames {
            self.learn(came);
            match look(came, self.near.0) {
                Came::Asked(target, answer) if target == self.near.1.ip() => self.say(answer),
                Came::Datagram {
                    source,
                    destination,
                    payload,
                } if destination == self.near.1 => match is_handshake(payload) {
                    true => {
                        self.peer.hear(payload, source, now);
                    }
                    false => {
                        if let Some(place) = places.next() {
                            *place = Some(payload);
                        }
                    }
                },
                Came::Asked(..) | Came::Datagram { .. } | Came::Other => {}
            }
        }
        self.peer.open(sealed.into_iter().flatten(), now, frame)
    }

    /// Looks at the peer's timers, unless packets that were sealed ahead have yet to leave: a keepalive would have a counter
    /// above theirs, and the device would drop what is left of them as replayed. It hears from us by them.
    pub fn turn(&mut self, is_sealed_left: bool, now: Now) {
        if !is_sealed_left {
            self.peer.turn(now);
        }
    }

    fn learn(&mut self, frame: &[u8]) {
        let source = frame.get(6..12).and_then(|it| it.first_chunk());
        let source = source.map(|it| MacAddr(*it));
        self.far_mac = source.filter(|it| it.is_unicast()).or(self.far_mac);
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.frames.pop_front() {
            return Some(frame);
        }
        // Before it is known where the device is, datagrams wait.
        let outer = self.outer()?;
        let mut frame = vec![0; outer.headers_len()];
        frame.extend(self.peer.poll_datagram()?);
        outer.write(&mut frame);
        Some(frame)
    }

    fn say(&mut self, frame: Vec<u8>) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push_back(frame);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use culvert_wireguard::PrivateKey;

    use super::super::peer::tests::at;
    use super::*;

    /// Two hosts on a wire, at addresses of a version.
    pub(in super::super) fn hosts(addresses: [&str; 2]) -> [Host; 2] {
        let keys = [1, 2].map(|n| PrivateKey::from_bytes([n; 32]));
        let places = addresses.map(|it| it.parse().unwrap());
        [0, 1].map(|n| {
            let far = places[1 - n];
            let whose = (keys[1 - n].public_key(), far);
            let peer = Peer::new(keys[n].clone(), whose, 1420, at(0)).unwrap();
            let mac = MacAddr([2, 0, 0, 0, 0, u8::try_from(n).unwrap() + 1]);
            Host::new((mac, places[n]), far, peer)
        })
    }

    /// Carries what both have to say.
    pub(in super::super) fn talk(hosts: &mut [Host; 2], now: Now) {
        loop {
            let mut is_quiet = true;
            for from in [0, 1] {
                while let Some(mut frame) = hosts[from].poll_frame() {
                    is_quiet = false;
                    let to = &mut hosts[1 - from];
                    to.hear(std::iter::once(&mut frame[..]), now, |_| {});
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    #[test]
    fn hosts_find_each_other_and_shake_hands() {
        for addresses in [
            ["192.0.2.1:1", "192.0.2.2:2"],
            ["[2001:db8::1]:1", "[2001:db8::2]:2"],
        ] {
            let mut hosts = hosts(addresses);
            hosts[0].peer.call(at(0));
            talk(&mut hosts, at(0));
            assert_eq!(hosts[0].outer(), None, "nobody knows anybody yet");
            hosts[0].ask();
            talk(&mut hosts, at(1));
            for host in &hosts {
                assert!(host.outer().is_some());
                assert!(host.peer.seals_until(at(1).monotonic).is_some());
            }
        }
    }

    #[test]
    fn nothing_is_sealed_between_packets_that_were_sealed_ahead() {
        let mut hosts = hosts(["192.0.2.1:1", "192.0.2.2:2"]);
        hosts[0].ask();
        hosts[0].peer.call(at(0));
        talk(&mut hosts, at(0));
        // It hears a packet, and after ten seconds would say that it is there.
        let [near, far] = &mut hosts;
        let mut datagram = vec![0x45; far.peer.room(40)];
        let packets = [(&mut datagram[..], 40)].into_iter();
        far.peer.seal(packets, at(1).monotonic).unwrap();
        let len = far.peer.sealed_len(40);
        near.peer.open([&mut datagram[..len]], at(1), |_| {});
        near.turn(true, at(12));
        assert_eq!(near.poll_frame(), None);
        near.turn(false, at(13));
        assert!(near.poll_frame().is_some());
    }

    #[test]
    fn a_flood_of_questions_fills_no_memory() {
        let mut hosts = hosts(["192.0.2.1:1", "192.0.2.2:2"]);
        for _ in 0..1000 {
            hosts[0].ask();
            let mut frame = hosts[0].poll_frame().unwrap();
            hosts[1].hear(std::iter::once(&mut frame[..]), at(0), |_| {});
        }
        let answers = std::iter::from_fn(|| hosts[1].poll_frame()).count();
        assert_eq!(answers, FRAMES_MAX);
    }
}
