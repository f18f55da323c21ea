//! Outbound: one burst from a guest to where it goes.
//!
//! In: a burst of frames from one guest TX ring or interface. Out: frames bound for a
//! peer, for the egress; frames in other guests' rings; answers to the guest. Never: a
//! wait, an allocation, a decision on a second look at guest memory.
//!
//! 1. `classify` gives each frame its verdict, once, and sends nothing.
//! 2. `egress::depart` takes the tunnel's frames in order. A frame that finds no room
//!    stays in the guest's ring, and so does everything behind it.
//! 3. `settle` serves the rest of the frames that were reached: other ports, answers
//!    to the guest, drops by name.

use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_wire::{
    icmp::IcmpError,
    parse::{Headers, L3, parse_frame},
    scope::is_routable,
    segment,
};

use crate::{
    egress::{
        self, Note, Notes,
        departure::{Bound, Passage},
    },
    gateway::answer::{self, Question},
    guest::{deliver, frames::Frames},
    loss::{Lost, lose, lose_all},
    shared::{
        drops::DropReason,
        ids::PortIndex,
        limits::GUEST_BURST,
        peer::Peer,
        snapshot::{Network, NextHop, Port},
    },
    switch::guard,
    worker::turn::{Sending, Tools, Turn},
};

/// What becomes of a frame. Set once.
#[derive(Clone, Copy)]
enum Verdict<'s> {
    /// It leaves through a tunnel.
    Tunnel(&'s Arc<Peer>, Passage),
    /// It goes to another port of the network; `routed` if through the gateway.
    Port { port: PortIndex, routed: bool },
    /// It goes to all other ports of the network.
    Flood,
    /// The guest is answered; the frame is lost under a name, unless it was a question.
    Answer(Question, Option<DropReason>),
    /// It is lost.
    Drop(DropReason),
}

/// There is no way to where it goes.
const UNREACHABLE: Verdict<'static> = Verdict::Answer(
    Question::Error(IcmpError::Unreachable),
    Some(DropReason::NoRoute),
);

/// Carries a burst of frames that `port` sent, as far as its credit in bytes lasts;
/// answers how many are done with, from the first on. The last of them may overdraw.
pub(crate) fn outbound<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    port: &Port,
    frames: &F,
    credit: &mut i64,
) -> usize {
    let Some(network) = turn.snapshot.network(port.network) else {
        let lost = (0..frames.count()).map(|frame| Lost::Guest(frames, frame));
        lose_all(port.books(), DropReason::NoRoute, lost);
        return frames.count();
    };
    let mut verdicts = ArrayVec::<(Verdict<'_>, Option<Headers>), GUEST_BURST>::new();
    for frame in 0..frames.count().min(GUEST_BURST) {
        if *credit <= 0 {
            break;
        }
        let (verdict, headers) = classify(turn, (port, network), frames, frame);
        *credit -= cost(network, frames.len(frame), &verdict);
        verdicts.push((verdict, headers));
    }
    let bound =
        verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Tunnel(peer, passage) => Some(Bound {
                    frame,
                    headers: headers.as_ref()?,
                    peer,
                    passage,
                }),
                Verdict::Port { .. } | Verdict::Flood | Verdict::Answer(..) | Verdict::Drop(_) => {
                    None
                }
            });
    let mut notes = Notes::new();
    let rest = egress::depart(turn, tools, sending, frames, bound, &mut notes);
    let reached = rest.unwrap_or(verdicts.len());
    for (frame, (verdict, _)) in verdicts.iter().enumerate().skip(reached) {
        *credit += cost(network, frames.len(frame), verdict);
    }
    settle(
        turn,
        tools,
        (port, network),
        frames,
        &verdicts[..reached],
        &notes,
    );
    reached
}

/// What a frame of `len` bytes costs its sender: as much as there are copies made of it.
fn cost(network: &Network, len: usize, verdict: &Verdict<'_>) -> i64 {
    let copies = match verdict {
        Verdict::Flood => network.macs.len().saturating_sub(1).max(1),
        Verdict::Tunnel(..) | Verdict::Port { .. } | Verdict::Answer(..) | Verdict::Drop(_) => 1,
    };
    i64::try_from(len * copies).unwrap_or(i64::MAX)
}

fn classify<'s, F: Frames>(
    turn: &Turn<'s>,
    (port, network): (&Port, &Network),
    frames: &F,
    frame: usize,
) -> (Verdict<'s>, Option<Headers>) {
    let head = frames.head(frame);
    let len = u32::try_from(frames.len(frame)).unwrap_or(u32::MAX);
    let Ok(headers) = parse_frame(head, len) else {
        return (Verdict::Drop(DropReason::FrameMalformed), None);
    };
    if let Err(reason) = guard::check(turn, (port, network), &headers, head) {
        return (Verdict::Drop(reason), None);
    }
    if network.plain.is_some() {
        return (plain(turn, network, &headers), Some(headers));
    }
    let verdict = match &headers.l3 {
        L3::Arp => {
            let question = answer::arp(port, network, &headers, head);
            asked(port, network, &headers, question)
        }
        L3::V6(_) if guard::is_neighbor_discovery(&headers) => {
            let question = answer::neighbor(port, network, &headers, head);
            asked(port, network, &headers, question)
        }
        L3::V4(_) | L3::V6(_) if headers.ether.destination == network.gateway_mac => {
            route(turn, network, &headers)
        }
        L3::V4(_) | L3::V6(_) | L3::Other => switch(port, network, &headers),
    };
    let passes_on = matches!(verdict, Verdict::Port { .. } | Verdict::Flood);
    if passes_on && segment::forwardable(frames.vnet(frame), &headers, head).is_err() {
        return (Verdict::Drop(DropReason::OffloadInvalid), None);
    }
    (verdict, Some(headers))
}

/// What becomes of an ARP or neighbor discovery message: what the gateway can't answer
/// concerns the ports that it is addressed to.
fn asked<'s>(
    port: &Port,
    network: &Network,
    headers: &Headers,
    question: Result<Option<Question>, DropReason>,
) -> Verdict<'s> {
    match question {
        Ok(Some(question)) => Verdict::Answer(question, None),
        Ok(None) if headers.ether.destination == network.gateway_mac => {
            Verdict::Drop(DropReason::GatewayNotServed)
        }
        Ok(None) => switch(port, network, headers),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Layer 2: by MAC address, within the network.
fn switch<'s>(port: &Port, network: &Network, headers: &Headers) -> Verdict<'s> {
    let destination = headers.ether.destination;
    if destination.is_multicast() {
        return Verdict::Flood;
    }
    match network.port_by_mac(destination) {
        Some(index) if index != port.index => Verdict::Port {
            port: index,
            routed: false,
        },
        Some(_) | None if destination == network.gateway_mac => {
            Verdict::Drop(DropReason::EtherTypeUnknown)
        }
        Some(_) | None => Verdict::Drop(DropReason::MacUnknown),
    }
}

/// Layer 3: through the gateway.
fn route<'s>(turn: &Turn<'s>, network: &Network, headers: &Headers) -> Verdict<'s> {
    let Some((source, destination)) = headers.addresses() else {
        return Verdict::Drop(DropReason::FrameMalformed);
    };
    if destination.is_multicast() {
        return Verdict::Drop(DropReason::NoListener);
    }
    let hop_limit = match &headers.l3 {
        L3::V4(ip) if !ip.checksum_ok => return Verdict::Drop(DropReason::FrameMalformed),
        L3::V4(ip) => ip.ttl,
        L3::V6(ip) => ip.hop_limit,
        L3::Arp | L3::Other => return Verdict::Drop(DropReason::EtherTypeUnknown),
    };
    let next_hop = network.routes.lookup(destination);
    if next_hop == Some(NextHop::Gateway) {
        return match answer::is_echo_request(headers) {
            true => Verdict::Answer(Question::Echo, None),
            false => Verdict::Drop(DropReason::GatewayNotServed),
        };
    }
    if !is_routable(source) {
        return Verdict::Drop(DropReason::AddressUnroutable);
    }
    if !is_routable(destination) {
        return Verdict::Answer(
            Question::Error(IcmpError::Unreachable),
            Some(DropReason::AddressUnroutable),
        );
    }
    if hop_limit <= 1 {
        return Verdict::Answer(
            Question::Error(IcmpError::TimeExceeded),
            Some(DropReason::TtlExceeded),
        );
    }
    match next_hop {
        Some(NextHop::Peer(peer)) => match turn.snapshot.peer(peer) {
            Some(peer) => Verdict::Tunnel(peer, Passage::Routed),
            None => UNREACHABLE,
        },
        Some(NextHop::Port(port)) => Verdict::Port { port, routed: true },
        Some(NextHop::Unreachable | NextHop::Gateway) | None => UNREACHABLE,
    }
}

/// A network without a router: whatever it is, it goes to the peer whose address it is,
/// as it is.
fn plain<'s>(turn: &Turn<'s>, network: &Network, headers: &Headers) -> Verdict<'s> {
    let Some((_, destination)) = headers.addresses() else {
        return Verdict::Drop(DropReason::EtherTypeUnknown);
    };
    match network.routes.lookup(destination) {
        Some(NextHop::Peer(peer)) if let Some(peer) = turn.snapshot.peer(peer) => {
            Verdict::Tunnel(peer, Passage::Plain)
        }
        _ => UNREACHABLE,
    }
}

/// Step 3: everything that does not leave through a tunnel.
fn settle<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    (port, network): (&Port, &Network),
    frames: &F,
    verdicts: &[(Verdict<'_>, Option<Headers>)],
    notes: &[Note],
) {
    let mut targets = ArrayVec::<PortIndex, GUEST_BURST>::new();
    let mut floods = false;
    let mut answers = false;
    for (frame, (verdict, _)) in verdicts.iter().enumerate() {
        match *verdict {
            Verdict::Tunnel(..) => {}
            Verdict::Port { port, .. } => {
                if !targets.contains(&port) {
                    targets.push(port);
                }
            }
            Verdict::Flood => floods = true,
            Verdict::Answer(_, reason) => {
                answers = true;
                if let Some(reason) = reason {
                    lose(port.books(), reason, Lost::Guest(frames, frame));
                }
            }
            Verdict::Drop(reason) => lose(port.books(), reason, Lost::Guest(frames, frame)),
        }
    }
    for target in targets {
        let chosen = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Port { port, routed } if port == target => {
                    Some((frame, headers.as_ref()?, routed))
                }
                Verdict::Tunnel(..)
                | Verdict::Port { .. }
                | Verdict::Flood
                | Verdict::Answer(..)
                | Verdict::Drop(_) => None,
            });
        deliver::switched(turn, tools, (port, network), target, frames, chosen);
    }
    if floods {
        flood(turn, tools, port, network, frames, verdicts);
    }
    for note in notes {
        if let Some(reason) = note.lost {
            lose(port.books(), reason, Lost::Guest(frames, note.frame));
        }
    }
    if answers || !notes.is_empty() {
        let asked = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Answer(question, _) => Some((frame, headers.as_ref()?, question)),
                Verdict::Tunnel(..) | Verdict::Port { .. } | Verdict::Flood | Verdict::Drop(_) => {
                    None
                }
            });
        let told = notes.iter().filter_map(|note| {
            let (_, headers) = verdicts.get(note.frame)?;
            Some((note.frame, headers.as_ref()?, Question::Error(note.tell?)))
        });
        answer::answer(turn, tools, port, network, frames, asked.chain(told));
    }
}

/// Broadcast and multicast: a copy to each other port of the network.
fn flood<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    port: &Port,
    network: &Network,
    frames: &F,
    verdicts: &[(Verdict<'_>, Option<Headers>)],
) {
    let flooded = || {
        verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Flood => Some((frame, headers.as_ref()?, false)),
                Verdict::Tunnel(..)
                | Verdict::Port { .. }
                | Verdict::Answer(..)
                | Verdict::Drop(_) => None,
            })
    };
    let mut heard = false;
    // An interface that speaks IP alone has no neighbors, and hears no broadcast.
    let hears = |index: PortIndex| {
        let other = turn.snapshot.port(index);
        index != port.index && other.is_none_or(|other| !other.guest.is_ip_only())
    };
    for &(_, other) in network.macs.iter().filter(|&&(_, other)| hears(other)) {
        heard = true;
        deliver::switched(turn, tools, (port, network), other, frames, flooded());
    }
    if !heard {
        let lost = flooded().map(|(frame, ..)| Lost::Guest(frames, frame));
        lose_all(port.books(), DropReason::NoListener, lost);
    }
}
