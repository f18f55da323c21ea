//! What guests ask their gateway about themselves: handed over, heard by nobody else, and answered to who asked.

use culvert_dataplane::shared::{
    drops::DropReason,
    ids::{AttachmentIndex, Scope},
    limits,
    punt::PuntClass,
    snapshot::{Guard, Services},
    stack_link::StackCommand,
};
use culvert_wire::MacAddr;

use crate::{
    local::{PLAIN, neighbor},
    packets::ip,
    support::{GATEWAY, GUEST, Options, Site, frame, network_of},
};

const GROUP_DHCP: MacAddr = MacAddr([0x33, 0x33, 0, 1, 0, 2]);
const GROUP_ROUTERS: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
/// Of guest 0, and of the gateway, by their MAC addresses.
const GUEST_LOCAL: &str = "fe80::ff:fe00:100";
const GATEWAY_LOCAL: &str = "fe80::ff:fe00:1";

fn serving(guard: Guard) -> Site {
    let site = Site::new(Options {
        guard,
        ..Options::default()
    });
    site.change(|snapshot| {
        network_of(snapshot).services = Services {
            dhcp: true,
            routers: true,
        };
    });
    site
}

fn offer(site: &mut Site, bytes: &[u8]) {
    site.offer(0, &PLAIN, bytes);
    site.settle();
}

/// DHCP from `source` to `destination`.
fn dhcp(to: MacAddr, source: &str, destination: &str) -> Vec<u8> {
    let six = source.contains(':');
    let ports = if six { (546, 547) } else { (68, 67) };
    frame(
        GUEST[0],
        to,
        &ip(source, destination).udp(ports, &[7; 300], false),
    )
}

fn solicitation(source: &str) -> Vec<u8> {
    let packet = ip(source, "ff02::2").hops(255);
    frame(
        GUEST[0],
        GROUP_ROUTERS,
        &packet.icmp6(vec![133, 0, 0, 0, 0, 0, 0, 0]),
    )
}

fn questions() -> Vec<Vec<u8>> {
    let everyone = MacAddr::BROADCAST;
    vec![
        dhcp(everyone, "0.0.0.0", "255.255.255.255"),
        // It rebinds, it renews.
        dhcp(everyone, "10.0.0.2", "255.255.255.255"),
        dhcp(GATEWAY, "10.0.0.2", "10.0.0.1"),
        // From an address that is its own no more: it has to be told.
        dhcp(everyone, "10.0.0.77", "255.255.255.255"),
        dhcp(GROUP_DHCP, GUEST_LOCAL, "ff02::1:2"),
        dhcp(GATEWAY, GUEST_LOCAL, GATEWAY_LOCAL),
        solicitation("::"),
        solicitation(GUEST_LOCAL),
    ]
}

#[test]
fn questions_are_handed_over_and_nobody_else_hears_them() {
    for guard in [Guard::Strict, Guard::Mac, Guard::Off] {
        let mut site = serving(guard);
        for bytes in questions() {
            offer(&mut site, &bytes);
            let punt = site.stacks[0].punts.pop(PuntClass::Guest).unwrap();
            assert_eq!(punt.scope, Scope::Guest(AttachmentIndex(0)));
            assert_eq!(punt.frame.as_slice(), bytes);
        }
        assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
        site.no_drops();
    }
}

#[test]
fn where_nothing_is_served_guests_hear_each_other() {
    let off = |site: &Site| site.change(|it| network_of(it).services = Services::default());
    let not_this = |site: &Site| site.change_attachment(0, |it| it.is_served = false);
    for switch_off in [&off as &dyn Fn(&Site), &not_this] {
        let mut site = serving(Guard::Strict);
        switch_off(&site);
        for bytes in [
            dhcp(MacAddr::BROADCAST, "0.0.0.0", "255.255.255.255"),
            solicitation("::"),
            dhcp(GROUP_DHCP, GUEST_LOCAL, "ff02::1:2"),
        ] {
            offer(&mut site, &bytes);
            assert_eq!(site.frame(1).1, bytes);
        }
        assert!(site.stacks[0].punts.is_empty());
        site.no_drops();
    }
}

#[test]
fn the_unspecified_address_is_for_dhcp_alone() {
    let mut site = serving(Guard::Strict);
    site.change(|it| network_of(it).services = Services::default());
    for bytes in [
        frame(
            GUEST[0],
            MacAddr::BROADCAST,
            &ip("0.0.0.0", "255.255.255.255").udp((68, 69), b"x", false),
        ),
        frame(
            GUEST[0],
            GUEST[1],
            &ip("0.0.0.0", "10.0.0.3").udp((68, 67), b"x", false),
        ),
        frame(GUEST[0], GUEST[1], &ip("0.0.0.0", "10.0.0.3").echo(b"x")),
        // Not where others would hear it.
        dhcp(MacAddr::BROADCAST, "10.0.0.77", "255.255.255.255"),
    ] {
        offer(&mut site, &bytes);
    }
    site.port_drops(0, &[(DropReason::GuardAddress, 4)]);
    assert!(site.frames(1).is_empty());
}

/// What a server and a router say.
fn of_servers() -> [(Vec<u8>, DropReason); 6] {
    let to_guest = |packet: &[u8]| frame(GUEST[0], GUEST[1], packet);
    let mut fragment = ip("10.0.0.2", "10.0.0.3").udp((67, 68), &[2; 300], false);
    fragment[6] |= 0x20;
    let header = ip("10.0.0.2", "10.0.0.3").udp((67, 68), &[2; 300], false);
    let mut lies = header.clone();
    lies[24..26].copy_from_slice(&2000_u16.to_be_bytes());
    let mut advertisement = vec![0; 16];
    advertisement[0] = 134;
    let advertisement = ip(GUEST_LOCAL, "ff02::1").hops(255).icmp6(advertisement);
    let from_elsewhere = ip("10.0.0.2", "10.0.0.3").udp((9, 68), &[2; 300], false);
    let v6 = ip(GUEST_LOCAL, "fe80::99").udp((547, 546), &[7; 60], false);
    [
        (to_guest(&header), DropReason::GuardDhcp),
        (to_guest(&from_elsewhere), DropReason::GuardDhcp),
        (to_guest(&fragment), DropReason::GuardDhcp),
        (to_guest(&lies), DropReason::GuardDhcp),
        (to_guest(&v6), DropReason::GuardDhcp),
        (
            frame(GUEST[0], MacAddr([0x33, 0x33, 0, 0, 0, 1]), &advertisement),
            DropReason::GuardRouter,
        ),
    ]
}

#[test]
fn a_strict_port_has_no_server_and_no_router() {
    for (bytes, reason) in of_servers() {
        let mut site = serving(Guard::Strict);
        offer(&mut site, &bytes);
        site.port_drops(0, &[(reason, 1)]);
        assert!(site.frames(1).is_empty());
    }
}

#[test]
fn a_port_whose_guard_allows_it_may_have_either() {
    let mut site = serving(Guard::Mac);
    for (bytes, _) in of_servers() {
        offer(&mut site, &bytes);
        assert_eq!(site.frame(1).1, bytes);
    }
    site.no_drops();
}

#[test]
fn a_flood_of_one_guest_leaves_another_its_questions() {
    let mut site = serving(Guard::Strict);
    let question = dhcp(MacAddr::BROADCAST, "0.0.0.0", "255.255.255.255");
    let sent = 3 * limits::PUNT_GUEST_MORE.queued as u64;
    for _ in 0..sent {
        offer(&mut site, &question);
    }
    let mut other = question;
    other[6..12].copy_from_slice(&GUEST[1].0);
    site.offer(1, &PLAIN, &other);
    site.settle();
    let punts = &mut site.stacks[0].punts;
    let first: Vec<_> = std::iter::from_fn(|| punts.pop(PuntClass::Guest)).collect();
    let more = std::iter::from_fn(|| punts.pop(PuntClass::GuestMore)).count();
    let others = first
        .iter()
        .filter(|punt| punt.scope == Scope::Guest(AttachmentIndex(1)));
    assert_eq!(others.count(), 1);
    let lost = site.ports[0].drops.count(DropReason::ServiceQueueFull);
    assert!(lost > 0);
    // Each is somewhere.
    assert_eq!((first.len() - 1 + more) as u64 + lost, sent);
    assert_eq!(site.ports[1].drops.total(), 0);
}

#[test]
fn a_question_that_is_too_long_is_lost_by_name() {
    let mut site = serving(Guard::Strict);
    let packet = ip("0.0.0.0", "255.255.255.255").udp((68, 67), &[0; 2_048], false);
    offer(&mut site, &frame(GUEST[0], MacAddr::BROADCAST, &packet));
    site.port_drops(0, &[(DropReason::ServiceMalformed, 1)]);
    assert!(site.stacks[0].punts.is_empty());
}

#[test]
fn an_answer_is_for_one_guest() {
    let mut site = serving(Guard::Strict);
    let answer = frame(
        GATEWAY,
        MacAddr::BROADCAST,
        &ip("10.0.0.1", "255.255.255.255").udp((67, 68), &[2; 300], false),
    );
    let deliver = |guest| StackCommand::Frame {
        scope: Scope::Guest(AttachmentIndex(guest)),
        frame: answer.clone().into_boxed_slice(),
    };
    assert!(site.stacks[0].send(deliver(0)));
    // Who is gone needs none.
    assert!(site.stacks[0].send(deliver(77)));
    site.settle();
    assert_eq!(site.frame(0).1, answer);
    assert!(site.frames(1).is_empty());
    site.no_drops();
}

#[test]
fn the_router_is_found_at_the_address_that_it_speaks_from() {
    let mut site = serving(Guard::Strict);
    offer(
        &mut site,
        &neighbor(135, GUEST_LOCAL, GATEWAY_LOCAL, Some(GUEST[0])),
    );
    let (_, answer) = site.frame(0);
    assert_eq!((&answer[6..12], answer[54]), (&GATEWAY.0[..], 136));
    assert_eq!(answer[58] & 0x80, 0x80, "a router");
    let ping = ip(GUEST_LOCAL, GATEWAY_LOCAL).echo(b"x");
    offer(&mut site, &frame(GUEST[0], GATEWAY, &ping));
    let (_, answer) = site.frame(0);
    assert_eq!(answer[54], 129);
    assert!(site.frames(1).is_empty());
    site.no_drops();
}
