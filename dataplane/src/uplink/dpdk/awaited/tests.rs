use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use culvert_wire::{Checksum, nd, udp};

use super::*;
use crate::{
    shared::{
        awaited::{Asked, Watched},
        hop::Hop,
        ids::UplinkIndex,
        limits::{AWAITED_PER_SECOND, STRANGE_ROUTERS_PER_SECOND},
    },
    uplink::UplinkCounters,
};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const THIEF: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const OUR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NOW: Instant = Instant::from_nanos(5_000_000_000);

fn uplink() -> Uplink {
    Uplink {
        index: UplinkIndex(0),
        name: "wan0".to_owned(),
        addresses: vec![OUR_V4.into(), OUR_V6.into()],
        tunnels: vec![],
        hop: Arc::new(Hop::nowhere(UplinkIndex(0))),
        kernel: None,
        counters: Arc::new(UplinkCounters::default()),
    }
}

fn of(was: PuntClass, frame: &[u8], uplink: &Uplink) -> PuntClass {
    class(was, frame, (uplink, US), NOW).unwrap()
}

/// From here on this neighbor alone is awaited.
fn ask(uplink: &Uplink, address: impl Into<IpAddr>, mac: Option<MacAddr>) {
    let address = address.into();
    let is_in_use = true;
    let asked = Asked {
        address,
        mac,
        is_in_use,
    };
    uplink.counters.awaited.neighbors.set([]);
    uplink.counters.awaited.neighbors.set([asked]);
}

fn answered(frame: &[u8], uplink: &Uplink) -> bool {
    of(PuntClass::NeighborAnswer, frame, uplink) == PuntClass::NeighborAwaited
}

fn arp(from: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; 64];
    let answer = ArpPacket::request(US, OUR_V4, ROUTER_V4).reply(from);
    let len = answer.write_frame(&mut frame);
    frame.truncate(len);
    frame
}

fn advertisement(from: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; 128];
    let len = nd::write_advertisement(OUR_V6, US, ROUTER_V6, from, true, &mut frame);
    frame.truncate(len);
    frame
}

#[test]
fn answers_that_are_waited_for_are_told_from_others() {
    let uplink = uplink();
    for (address, answer) in [
        (IpAddr::from(ROUTER_V4), arp as fn(MacAddr) -> Vec<u8>),
        (ROUTER_V6.into(), advertisement),
    ] {
        uplink.counters.awaited.neighbors.set([]);
        assert!(!answered(&answer(ROUTER), &uplink), "nobody asked");
        ask(&uplink, address, Some(ROUTER));
        assert!(answered(&answer(ROUTER), &uplink));
        assert!(!answered(&answer(THIEF), &uplink), "it is known elsewhere");
        ask(&uplink, address, None);
        assert!(answered(&answer(THIEF), &uplink), "anyone may be it");
        ask(&uplink, OUR_V4, None);
        assert!(!answered(&answer(ROUTER), &uplink), "another was asked");
        // What the stack would pass over takes no room from what it waits for.
        ask(&uplink, address, Some(ROUTER));
        let mut looped = answer(ROUTER);
        looped[6..12].copy_from_slice(&US.0);
        assert!(!answered(&looped, &uplink), "says to be from us");
        ask(&uplink, address, None);
        assert!(!answered(&answer(US), &uplink), "says that we are it");
        for len in 0..answer(ROUTER).len() {
            assert!(!answered(&answer(ROUTER)[..len], &uplink), "{len}");
        }
    }
    neighbors_of_ours_alone(&uplink);
    broken_advertisements(&uplink);
}

fn neighbors_of_ours_alone(uplink: &Uplink) {
    ask(uplink, ROUTER_V4, Some(ROUTER));
    let mut other = arp(ROUTER);
    other[41] ^= 1;
    assert!(!answered(&other, uplink), "to an address that is not ours");
    let mut question = arp(ROUTER);
    question[21] = 1;
    assert!(!answered(&question, uplink));
}

fn broken_advertisements(uplink: &Uplink) {
    ask(uplink, ROUTER_V6, Some(ROUTER));
    for (at, bit) in [(21, 1), (55, 1), (56, 1), (58, 0x40), (79, 1)] {
        let mut bent = advertisement(ROUTER);
        bent[at] ^= bit;
        assert!(!answered(&bent, uplink), "{at}");
    }
}

/// The same without the option that says where the neighbor is.
fn bare(from: MacAddr) -> Vec<u8> {
    const MESSAGE: usize = ether::HEADER_LEN + ipv6::HEADER_LEN;
    let mut frame = advertisement(from);
    frame.truncate(MESSAGE + 24);
    frame[18..20].copy_from_slice(&[0, 24]);
    frame[MESSAGE + 2..MESSAGE + 4].fill(0);
    let mut sum = Checksum::pseudo_v6(ROUTER_V6, OUR_V6, 58, 24);
    sum.add(&frame[MESSAGE..]);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&sum.complement().to_be_bytes());
    frame
}

#[test]
fn who_does_not_say_where_it_is_is_awaited_from_where_it_is_known_to_be_alone() {
    let uplink = uplink();
    ask(&uplink, ROUTER_V6, None);
    // The stack would pass it over (RFC 4861, section 7.2.5), and it settles nothing, however often it comes.
    for _ in 0..=AWAITED_PER_SECOND {
        assert!(!answered(&bare(THIEF), &uplink));
    }
    assert!(
        answered(&advertisement(ROUTER), &uplink),
        "nothing was taken from it"
    );
    ask(&uplink, ROUTER_V6, Some(ROUTER));
    assert!(answered(&bare(ROUTER), &uplink));
    assert!(!answered(&bare(THIEF), &uplink));
}

/// What the router `fe80::host` says, from `mac`.
fn says(host: u16, mac: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; 14 + 40 + 16];
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host);
    frame[22..38].copy_from_slice(&router.octets());
    frame
}

#[test]
fn no_flood_of_strangers_costs_a_known_router_its_place() {
    let uplink = uplink();
    let of = |frame: &[u8]| class(PuntClass::RouterUnknown, frame, (&uplink, US), NOW);
    let (known, unknown) = (Ok(PuntClass::Router), Ok(PuntClass::RouterUnknown));
    assert_eq!(of(&says(1, ROUTER)), unknown);
    uplink.counters.awaited.routers.set([Asked {
        address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        mac: Some(ROUTER),
        is_in_use: true,
    }]);
    assert_eq!(of(&says(1, ROUTER)), known);
    // Strangers of all kinds, many in its name.
    let full = Err(DropReason::RouterUnknownQueueFull);
    let mut heard = 1;
    for n in 0..10_000_u16 {
        let frame = [says(1, THIEF), says(2 + n, ROUTER)];
        for class in frame.map(|frame| of(&frame)) {
            assert!(class == unknown || class == full, "{class:?}");
            heard += u32::from(class == unknown);
        }
    }
    assert_eq!(heard, STRANGE_ROUTERS_PER_SECOND);
    assert_eq!(of(&says(1, ROUTER)), known);
    for len in 0..38 {
        assert_ne!(of(&says(1, ROUTER)[..len]), known);
    }
}

#[test]
fn packets_of_bfd_name_our_session_or_come_from_its_neighbor_or_go_with_the_rest() {
    let uplink = uplink();
    let session = &uplink.counters.awaited.session;
    let watch = |neighbor: IpAddr, mac| {
        let number = 7;
        session.set(Some(Watched {
            neighbor,
            mac,
            number,
        }));
    };
    let frames = |source: MacAddr, yours: u32| {
        let mut bfd = [0; udp::HEADER_LEN + 24];
        bfd[16..20].copy_from_slice(&yours.to_be_bytes());
        let mut v4 = [0; 34];
        v4[14] = 0x45;
        v4[26..30].copy_from_slice(&ROUTER_V4.octets());
        let mut v6 = [0; 54];
        v6[14] = 0x60;
        v6[22..38].copy_from_slice(&ROUTER_V6.octets());
        v4[6..12].copy_from_slice(&source.0);
        v6[6..12].copy_from_slice(&source.0);
        [[&v4[..], &bfd].concat(), [&v6[..], &bfd].concat()]
    };
    let classes =
        |source, yours| frames(source, yours).map(|it| of(PuntClass::Liveness, &it, &uplink));
    let (known, begins, rest) = (
        PuntClass::Liveness,
        PuntClass::LivenessUnnamed,
        PuntClass::Rest,
    );
    assert_eq!(classes(ROUTER, 7), [rest; 2], "nobody is watched");
    watch(ROUTER_V4.into(), None);
    assert_eq!(classes(ROUTER, 7), [known, rest]);
    assert_eq!(classes(ROUTER, 0), [rest; 2], "its neighbor is nowhere yet");
    watch(ROUTER_V6.into(), Some(ROUTER));
    assert_eq!(classes(ROUTER, 7), [rest, known]);
    assert_eq!(classes(ROUTER, 0), [rest, begins]);
    for _ in 0..100 {
        assert_eq!(classes(THIEF, 0), [rest; 2]);
    }
    assert_eq!(
        classes(ROUTER, 0),
        [rest, begins],
        "nothing was taken from it"
    );
    for frame in frames(ROUTER, 7) {
        for len in 14..frame.len() - 12 {
            assert_eq!(of(PuntClass::Liveness, &frame[..len], &uplink), rest);
        }
    }
}

#[test]
fn what_dhcp_servers_say_belongs_to_an_exchange_of_ours_or_goes_with_the_rest() {
    let uplink = uplink();
    let mut frame = vec![0; 14 + 20 + udp::HEADER_LEN + 8];
    frame[14] = 0x45;
    frame[46..50].copy_from_slice(&[9, 8, 7, 6]);
    let lease = |frame: &[u8]| of(PuntClass::Lease, frame, &uplink);
    assert_eq!(lease(&frame), PuntClass::Rest);
    uplink.counters.awaited.lease.set(Some(0x0908_0706));
    assert_eq!(lease(&frame), PuntClass::Lease);
    assert_eq!(lease(&frame[..frame.len() - 1]), PuntClass::Rest);
    uplink.counters.awaited.lease.set(Some(0x0908_0707));
    assert_eq!(lease(&frame), PuntClass::Rest);
}
