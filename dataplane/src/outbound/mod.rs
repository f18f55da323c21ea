//! Outbound: one burst from a guest to where it goes.
//!
//! In: a burst of frames from one guest TX ring (or one frame from our own memory).
//! Out: sealed datagrams on an uplink, frames in other guests' rings, answers to the
//! guest. Never: a wait, an allocation, a decision on a second look at guest memory.
//!
//! 1. `classify` gives each frame its verdict, once.
//! 2. `seal` takes the tunnel's frames in order, in sub-batches of wire packets. A
//!    frame that finds no room stays in the guest's ring, and so does everything
//!    behind it.
//! 3. `settle` serves the rest of the frames that were reached: other ports, answers
//!    to the guest, drops by name.

use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_wire::{
    VnetHeader,
    parse::{Headers, L3, L4, parse_frame},
    scope::is_routable,
    segment::{self, Plan, SegmentError},
};

use crate::{
    egress::seal::{self, Admission, Departure},
    gateway::answer::{self, Question},
    guest::{deliver, frames::Frames},
    shared::{
        drops::DropReason,
        ids::PortIndex,
        limits::GUEST_BURST,
        peer::Peer,
        snapshot::{Network, NextHop, Port},
    },
    switch::guard,
    uplink::Outer,
    worker::turn::{Sending, Tools, Turn},
};

/// What becomes of a frame. Set once.
#[derive(Clone, Copy)]
enum Verdict<'s> {
    /// It leaves through a tunnel.
    Tunnel {
        peer: &'s Arc<Peer>,
        mtu: usize,
        plan: Plan,
        outer: Outer,
        routed: bool,
    },
    /// It waits for the peer's key.
    Stage(&'s Arc<Peer>),
    /// It goes to another port of the network; `routed` if through the gateway.
    Port { port: PortIndex, routed: bool },
    /// It goes to all other ports of the network.
    Flood,
    /// The guest is answered; the frame is lost under a name, unless it was a question.
    Answer(Question, Option<DropReason>),
    /// It is lost.
    Drop(DropReason),
}

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
        port.drops.add(DropReason::NoRoute, frames.count() as u64);
        return frames.count();
    };
    let mut verdicts = ArrayVec::<(Verdict<'_>, Option<Headers>), GUEST_BURST>::new();
    let mut staging = false;
    for frame in 0..frames.count().min(GUEST_BURST) {
        if *credit <= 0 {
            break;
        }
        let (mut verdict, headers) = classify(turn, tools, sending, (port, network), frames, frame);
        // A key that came in the middle of the burst: no frame overtakes those that
        // wait; the control core's word to flush is on its way.
        if staging
            && let Verdict::Tunnel { peer, .. } = verdict
            && verdicts
                .iter()
                .any(|(v, _)| matches!(v, Verdict::Stage(p) if p.index == peer.index))
        {
            verdict = Verdict::Stage(peer);
        }
        staging |= matches!(verdict, Verdict::Stage(_));
        *credit -= cost(network, frames.len(frame), &verdict);
        verdicts.push((verdict, headers));
    }
    let departures = departures(&verdicts);
    let gone = seal::seal(turn, tools, sending, frames, &departures);
    let reached = departures
        .get(gone)
        .map_or(verdicts.len(), |first| first.frame);
    for (frame, (verdict, _)) in verdicts.iter().enumerate().skip(reached) {
        *credit += cost(network, frames.len(frame), verdict);
    }
    settle(turn, tools, port, network, frames, &verdicts[..reached]);
    reached
}

/// What a frame of `len` bytes costs its sender: as much as there are copies made of it.
fn cost(network: &Network, len: usize, verdict: &Verdict<'_>) -> i64 {
    let copies = match verdict {
        Verdict::Flood => network.macs.len().saturating_sub(1).max(1),
        Verdict::Tunnel { .. }
        | Verdict::Stage(_)
        | Verdict::Port { .. }
        | Verdict::Answer(..)
        | Verdict::Drop(_) => 1,
    };
    i64::try_from(len * copies).unwrap_or(i64::MAX)
}

fn departures<'s>(
    verdicts: &[(Verdict<'s>, Option<Headers>)],
) -> ArrayVec<Departure<'s>, GUEST_BURST> {
    let departure = |(frame, (verdict, _)): (usize, &(Verdict<'s>, _))| match *verdict {
        Verdict::Tunnel {
            peer,
            mtu,
            plan,
            outer,
            routed,
        } => Some(Departure {
            frame,
            peer,
            plan,
            mtu,
            outer,
            routed,
        }),
        Verdict::Stage(_)
        | Verdict::Port { .. }
        | Verdict::Flood
        | Verdict::Answer(..)
        | Verdict::Drop(_) => None,
    };
    verdicts.iter().enumerate().filter_map(departure).collect()
}

fn classify<'s, F: Frames>(
    turn: &Turn<'s>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    (port, network): (&Port, &'s Network),
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
        let verdict = plain(turn, tools, sending, network, frames, frame, &headers);
        return (verdict, Some(headers));
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
            route(turn, tools, sending, network, frames, frame, &headers)
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
fn route<'s, F: Frames>(
    turn: &Turn<'s>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    network: &'s Network,
    frames: &F,
    frame: usize,
    headers: &Headers,
) -> Verdict<'s> {
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
        return Verdict::Answer(Question::Unreachable, Some(DropReason::AddressUnroutable));
    }
    if hop_limit <= 1 {
        return Verdict::Answer(Question::HopLimit, Some(DropReason::TtlExceeded));
    }
    match next_hop {
        Some(NextHop::Peer(peer)) => {
            let Some(peer) = turn.snapshot.peer(peer) else {
                return Verdict::Answer(Question::Unreachable, Some(DropReason::NoRoute));
            };
            to_peer(turn, tools, sending, (frames, frame), headers, peer, true)
        }
        Some(NextHop::Port(port)) => Verdict::Port { port, routed: true },
        Some(NextHop::Unreachable | NextHop::Gateway) | None => {
            Verdict::Answer(Question::Unreachable, Some(DropReason::NoRoute))
        }
    }
}

/// A network without a router: whatever it is, it goes to the peer whose address it is,
/// as it is.
fn plain<'s, F: Frames>(
    turn: &Turn<'s>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    network: &'s Network,
    frames: &F,
    frame: usize,
    headers: &Headers,
) -> Verdict<'s> {
    let Some((_, destination)) = headers.addresses() else {
        return Verdict::Drop(DropReason::EtherTypeUnknown);
    };
    match network.routes.lookup(destination) {
        Some(NextHop::Peer(peer)) if let Some(peer) = turn.snapshot.peer(peer) => {
            to_peer(turn, tools, sending, (frames, frame), headers, peer, false)
        }
        _ => Verdict::Answer(Question::Unreachable, Some(DropReason::NoRoute)),
    }
}

fn to_peer<'s, F: Frames>(
    turn: &Turn<'s>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    (frames, frame): (&F, usize),
    headers: &Headers,
    peer: &'s Arc<Peer>,
    routed: bool,
) -> Verdict<'s> {
    let Some(tunnel) = turn.snapshot.tunnel(peer.tunnel) else {
        return Verdict::Drop(DropReason::NoRoute);
    };
    let mut mtu = usize::from(tunnel.mtu);
    if !routed && frames.vnet(frame).gso_type == VnetHeader::GSO_NONE {
        // The interface let it pass: its MTU has just changed, and the news is on its way.
        mtu = mtu.max(headers.ip_len);
    }
    let plan = match Plan::recut(frames.vnet(frame), headers, frames.head(frame), mtu) {
        Ok(plan) => plan,
        Err(SegmentError::TooBig { .. }) => {
            return Verdict::Answer(
                Question::TooBig { mtu: tunnel.mtu },
                Some(DropReason::TooBig),
            );
        }
        Err(_) => return Verdict::Drop(DropReason::OffloadInvalid),
    };
    match seal::admission(turn, peer) {
        Admission::Ready => {
            if !tools.staged.is_empty() && tools.staged.holds(peer.index) {
                flush_staged(turn, tools, sending, peer);
            }
            let Some(outer) = outer(headers, frames.head(frame), routed) else {
                return Verdict::Drop(DropReason::TtlExceeded);
            };
            Verdict::Tunnel {
                peer,
                mtu,
                plan,
                outer,
                routed,
            }
        }
        Admission::KeyWanted => Verdict::Stage(peer),
        Admission::Refused(DropReason::NoEndpoint) => {
            Verdict::Answer(Question::Unreachable, Some(DropReason::NoEndpoint))
        }
        Admission::Refused(reason) => Verdict::Drop(reason),
    }
}

/// What the outer IP header takes from the inner one: its ECN field (RFC 6040, section
/// 4.1). `None` if the packet has been through too many tunnels.
///
/// What is not routed keeps its hop limit. So two tunnels whose endpoints lie behind
/// each other would carry a packet round for ever, larger each time, and cut to ever
/// more pieces. Therefore a packet that may itself come out of a tunnel hands its hop
/// limit, less one, on to the packet around it.
fn outer(headers: &Headers, head: &[u8], routed: bool) -> Option<Outer> {
    let tos = headers.traffic_class().unwrap_or(0) & 3;
    if routed || !may_be_sealed(headers, head) {
        return Some(Outer::from(tos));
    }
    let hop_limit = match &headers.l3 {
        L3::V4(ip) => ip.ttl,
        L3::V6(ip) => ip.hop_limit,
        L3::Arp | L3::Other => return Some(Outer::from(tos)),
    };
    let hops = hop_limit.checked_sub(1).filter(|&hops| hops > 0)?;
    Some(Outer { tos, hops })
}

/// Whether this looks like a WireGuard message (whitepaper, section 5.4), or is a
/// fragment, which may be a piece of one.
fn may_be_sealed(headers: &Headers, head: &[u8]) -> bool {
    match headers.l4 {
        L4::Fragment => true,
        L4::Udp(_) => {
            let payload = head.get(headers.payload_offset..);
            payload.is_some_and(|payload| matches!(payload, [1..=4, 0, 0, 0, ..]))
        }
        L4::Tcp(_) | L4::Icmp4(_) | L4::Icmp6(_) | L4::Malformed | L4::Other => false,
    }
}

/// Step 3: everything that does not leave through a tunnel.
fn settle<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    port: &Port,
    network: &Network,
    frames: &F,
    verdicts: &[(Verdict<'_>, Option<Headers>)],
) {
    let mut targets = ArrayVec::<PortIndex, GUEST_BURST>::new();
    let mut floods = false;
    let mut answers = false;
    for (frame, (verdict, _)) in verdicts.iter().enumerate() {
        match *verdict {
            Verdict::Tunnel { plan, .. } => answers |= plan.is_recut(),
            Verdict::Stage(peer) => stage(turn, tools, frames, frame, peer),
            Verdict::Port { port, .. } => {
                if !targets.contains(&port) {
                    targets.push(port);
                }
            }
            Verdict::Flood => floods = true,
            Verdict::Answer(_, reason) => {
                answers = true;
                if let Some(reason) = reason {
                    port.drops.add(reason, 1);
                }
            }
            Verdict::Drop(reason) => port.drops.add(reason, 1),
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
                Verdict::Tunnel { .. }
                | Verdict::Stage(_)
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
    if answers {
        let questions = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Answer(question, _) => Some((frame, headers.as_ref()?, question)),
                // It went out in smaller pieces; its sender should know why.
                Verdict::Tunnel { plan, mtu, .. } if plan.is_recut() => {
                    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                    Some((frame, headers.as_ref()?, Question::TooBig { mtu }))
                }
                Verdict::Tunnel { .. }
                | Verdict::Stage(_)
                | Verdict::Port { .. }
                | Verdict::Flood
                | Verdict::Drop(_) => None,
            });
        answer::answer(turn, tools, port, network, frames, questions);
    }
}

fn stage<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    frames: &F,
    frame: usize,
    peer: &Arc<Peer>,
) {
    let overflow = |index| {
        if let Some(peer) = turn.snapshot.peer(index) {
            peer.note_unstaged(1);
            peer.drops.add(DropReason::StagedOverflow, 1);
        }
    };
    if tools.staged.push(peer.index, frames, frame, overflow) {
        peer.note_staged();
    } else {
        peer.drops.add(DropReason::FrameTooLarge, 1);
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
                Verdict::Tunnel { .. }
                | Verdict::Stage(_)
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
        port.drops
            .add(DropReason::NoListener, flooded().count() as u64);
    }
}

/// Sends what waited for `peer`, oldest first.
pub(crate) fn flush_staged(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
) {
    let Some(tunnel) = turn.snapshot.tunnel(peer.tunnel) else {
        return;
    };
    let mtu = usize::from(tunnel.mtu);
    let network = tunnel.network.and_then(|n| turn.snapshot.network(n));
    let routed = network.is_none_or(|network| network.plain.is_none());
    // With nothing to send, no key is wanted.
    while tools.staged.holds(peer.index)
        && let Admission::Ready = seal::admission(turn, peer)
    {
        let mut scratch = std::mem::take(&mut tools.scratch);
        let Some((vnet, bytes)) = tools.staged.take(peer.index) else {
            tools.scratch = scratch;
            return;
        };
        peer.note_unstaged(1);
        let len = bytes.len();
        scratch[..len].copy_from_slice(bytes);
        let frame = crate::guest::frames::OwnFrame {
            vnet,
            bytes: &scratch[..len],
        };
        send_own(turn, tools, sending, peer, (mtu, routed), &frame);
        tools.scratch = scratch;
    }
}

/// Sends one frame from our own memory to a peer that is ready.
fn send_own(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
    (mtu, routed): (usize, bool),
    frame: &crate::guest::frames::OwnFrame<'_>,
) {
    let head = frame.head(0);
    let len = u32::try_from(frame.len(0)).unwrap_or(u32::MAX);
    let Ok(headers) = parse_frame(head, len) else {
        peer.drops.add(DropReason::FrameMalformed, 1);
        return;
    };
    match Plan::recut(frame.vnet(0), &headers, head, mtu) {
        Ok(plan) => {
            let Some(outer) = outer(&headers, head, routed) else {
                peer.drops.add(DropReason::TtlExceeded, 1);
                return;
            };
            let departure = Departure {
                frame: 0,
                peer,
                plan,
                mtu,
                outer,
                routed,
            };
            if seal::seal(turn, tools, sending, frame, &[departure]) == 0 {
                peer.drops.add(DropReason::UplinkFull, plan.count() as u64);
            }
        }
        Err(_) => peer.drops.add(DropReason::TooBig, 1),
    }
}
