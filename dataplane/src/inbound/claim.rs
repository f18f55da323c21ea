//! Claim: which session each datagram belongs to.
//!
//! In: datagrams as they came. Out: claims, in order; handshake messages for the control core, as far as their flood's
//! share of the worker lasts and their mac1 is right. Never: a look at what is sealed.

use std::sync::{Arc, atomic::Ordering};

use culvert_wireguard::{
    Instant,
    cookie::carries_mac2,
    message::{DataHeader, Kind},
};

use super::{Claim, Claims, Sessions};
use crate::{
    loss::{Lost, lose},
    shared::{
        control_link::{HandshakePunt, Inline},
        drops::DropReason,
        limits,
        peer::Origin,
        sessions::Session,
    },
    uplink::{Datagram, Uplink},
    worker::turn::{Tools, Turn},
};

/// Where handshake messages go.
pub(crate) struct Punt<'a> {
    pub(crate) handshakes: &'a mut rtrb::Producer<HandshakePunt>,
}

impl Punt<'_> {
    fn push(&mut self, uplink: &Uplink, datagram: &Datagram, now: Instant) -> bool {
        let Some(message) = Inline::new(datagram.bytes()) else {
            return false;
        };
        self.handshakes
            .push(HandshakePunt {
                tunnel: datagram.tunnel,
                origin: Origin {
                    source: datagram.source,
                    local: datagram.local,
                    uplink: uplink.index,
                    at: now,
                },
                message,
            })
            .is_ok()
    }
}

/// Step 1.
pub(super) fn claim(
    turn: &Turn<'_>,
    tools: &mut Tools,
    punt: &mut Punt<'_>,
    uplink: &Uplink,
    burst: &[Datagram],
    sessions: &mut Sessions,
    claims: &mut Claims,
) {
    let lost = |reason, datagram: &Datagram| {
        lose(uplink.books(), reason, Lost::Wire(datagram.bytes()));
    };
    let mut punted = false;
    for (index, datagram) in burst.iter().enumerate() {
        let header = match Kind::of(datagram.bytes()) {
            Some(Kind::Data) => DataHeader::parse(datagram.bytes()),
            Some(Kind::Initiation | Kind::Response | Kind::CookieReply) => {
                if !affords(tools, datagram, turn.now) {
                    uplink.counters.crowded.store(true, Ordering::Relaxed);
                    lost(DropReason::HandshakeQueueFull, datagram);
                } else if !admits(turn, datagram) {
                    lost(DropReason::HandshakeMac1Invalid, datagram);
                } else if punt.push(uplink, datagram, turn.now) {
                    punted = true;
                } else {
                    lost(DropReason::HandshakeQueueFull, datagram);
                }
                continue;
            }
            None => None,
        };
        let Some(header) = header else {
            lost(DropReason::DatagramMalformed, datagram);
            continue;
        };
        let known = sessions.last().is_some_and(|last: &Arc<Session>| {
            last.keypair.local_index() == header.receiver && last.peer.tunnel == datagram.tunnel
        });
        if !known {
            let found = turn
                .snapshot
                .tunnel(datagram.tunnel)
                .and_then(|tunnel| tunnel.sessions.find(header.receiver));
            let Some(session) = found.as_deref().and_then(Option::as_ref) else {
                lost(DropReason::ReceiverUnknown, datagram);
                continue;
            };
            if !session.keypair.receivable(turn.now) {
                let lost = Lost::Wire(datagram.bytes());
                lose(session.peer.books(), DropReason::KeypairExpired, lost);
                continue;
            }
            sessions.push(Arc::clone(session));
        }
        claims.push(Claim {
            datagram: index,
            session: sessions.len() - 1,
            counter: header.counter,
        });
    }
    if punted {
        turn.attention.wake().notify();
    }
}

/// Whether another handshake message of this kind may be looked at: a flood of them gets its share of the worker and
/// no more. A flood without cookies takes nothing from those who were given one.
fn affords(tools: &mut Tools, datagram: &Datagram, now: Instant) -> bool {
    let bytes = datagram.bytes();
    let plain = Kind::of(bytes) != Some(Kind::CookieReply) && !carries_mac2(bytes);
    tools.calls[usize::from(plain)].take(limits::CALLS_PER_SECOND_IDLE, now)
}

/// Whether a handshake message is meant for its tunnel at all (whitepaper, section
/// 5.4.4): what isn't costs the control core nothing.
fn admits(turn: &Turn<'_>, datagram: &Datagram) -> bool {
    turn.snapshot
        .tunnel(datagram.tunnel)
        .and_then(|tunnel| tunnel.mac1.as_ref())
        .is_some_and(|mac1| mac1.admits(datagram.bytes()))
}
