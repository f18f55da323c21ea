//! Deliver: opened packets into guest RX rings and interfaces.
//!
//! In: arrivals for ports. Out: frames, of each flow's packets joined as far as the guest takes it. Never: a packet held
//! for a later burst.

use arrayvec::ArrayVec;
use culvert_wire::{EtherType, VnetHeader, coalesce::Accept, ether, parse::L3};

use super::{Arrival, Destination, plaintext};
use crate::{
    guest::deliver::{ETHERNET, Outlet, PARTS_MAX, accept},
    shared::{ids::AttachmentIndex, limits::UPLINK_BURST},
    uplink::Datagram,
    worker::turn::{Tools, Turn},
};

/// Step 7, ring by ring.
pub(super) fn deliver(
    turn: &Turn<'_>,
    tools: &mut Tools,
    burst: &[Datagram],
    arrivals: &[Arrival],
) {
    let mut done = ArrayVec::<(AttachmentIndex, u16), UPLINK_BURST>::new();
    for arrival in arrivals {
        let Destination::Ring(guest, queue) = arrival.to else {
            continue;
        };
        if done.contains(&(guest, queue)) {
            continue;
        }
        done.push((guest, queue));
        deliver_to(turn, tools, burst, arrivals, guest, queue);
    }
}

fn deliver_to(
    turn: &Turn<'_>,
    tools: &mut Tools,
    burst: &[Datagram],
    arrivals: &[Arrival],
    guest: AttachmentIndex,
    queue: u16,
) {
    let to = Destination::Ring(guest, queue);
    let Some(guest) = turn.snapshot.attached(guest) else {
        return;
    };
    let here = || arrivals.iter().filter(|a| a.to == to);
    let Some(mut outlet) = Outlet::open(guest, queue, || here().count()) else {
        return;
    };
    let accept = accept(outlet.offloads());
    let ethernet = |v4: bool| {
        let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
        ether::header(guest.attachment.mac, guest.network.gateway_mac, ether_type)
    };
    if here().nth(1).is_none() || accept == Accept::NONE {
        // Nothing to join.
        for arrival in here() {
            let packet = &plaintext(&burst[arrival.datagram])[..arrival.headers.ip_len];
            let header = ethernet(matches!(arrival.headers.l3, L3::V4(_)));
            outlet.deliver(&VnetHeader::default(), &[&header, packet]);
        }
        return;
    }
    tools.coalescer.begin(accept, ETHERNET);
    for arrival in here() {
        let packet = plaintext(&burst[arrival.datagram]);
        let index = u32::try_from(arrival.datagram).unwrap_or(0);
        // It was made for a whole burst.
        let _ = tools.coalescer.push(index, &arrival.headers, packet);
    }
    for group in tools.coalescer.groups() {
        let first = group.members().next();
        let lead = first.map_or(&[][..], |m| plaintext(&burst[m.index as usize]));
        let header = ethernet(lead.first().is_some_and(|first| first >> 4 == 4));
        let mut parts = ArrayVec::<&[u8], PARTS_MAX>::new();
        parts.push(&header);
        if !group.header.is_empty() {
            parts.push(group.header);
        }
        for member in group.members() {
            parts.push(&plaintext(&burst[member.index as usize])[member.range()]);
        }
        outlet.deliver(&group.vnet, &parts);
    }
}
