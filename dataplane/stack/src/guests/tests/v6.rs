//! DHCP for IPv6 and router advertisements, message by message.

use culvert_wire::nd::ALL_NODES;
use dhcproto::{
    Decodable as _, Encodable as _,
    v6::{DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, Message, MessageType, OptionCode, Status},
};

use super::*;
use crate::link_local;

const OURS: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 0xfe];

fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let address = |&addr| {
        DhcpOption::IAAddr(IAAddr {
            addr,
            preferred_life: 1,
            valid_life: 1,
            opts: DhcpOptions::new(),
        })
    };
    DhcpOption::IANA(IANA {
        id,
        t1: 0,
        t2: 0,
        opts: addresses.iter().map(address).collect(),
    })
}

fn message(kind: MessageType, to_us: bool, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    let own = DhcpOption::ClientId(vec![0, 4, 9, 9, 9, 9]);
    let server = to_us.then(|| DhcpOption::ServerId(OURS.to_vec()));
    for option in options.into_iter().chain([own]).chain(server) {
        message.opts_mut().insert(option);
    }
    udp6(&message.to_vec().unwrap())
}

/// Options whose own length has no room for what they begin with do no harm. Found by the fuzz target `stack_guests`.
#[test]
fn options_that_are_shorter_than_their_beginning_are_passed_over() {
    for code in [11_u16, 13, 16, 17] {
        for len in 0..=12_u8 {
            let head = [11, 1, 2, 3];
            let [high, low] = code.to_be_bytes();
            let option = [vec![high, low, 0, len], vec![0; 12]].concat();
            let frame = udp6(&[&head[..], &option].concat());
            match serve(&provision(), &frame) {
                Ok(Served::Answer(answer)) => assert!(checked(&answer).1.len() > 4),
                other => assert!(other.is_err(), "{code} {len}: {other:?}"),
            }
        }
    }
}

fn told(provision: &Provision, frame: &[u8]) -> Message {
    let frame = answered(provision, frame);
    let (headers, payload) = checked(&frame);
    let L3::V6(ip) = headers.l3 else { panic!() };
    assert_eq!(ip.source, link_local(GATEWAY_MAC));
    assert_eq!(ip.destination, GUEST_LINK_LOCAL);
    assert_eq!(headers.ether.destination, GUEST_MAC);
    let message = Message::from_bytes(payload).unwrap();
    assert_eq!(message.xid(), [1, 2, 3]);
    assert!(message.opts().get(OptionCode::ClientId).is_some());
    message
}

/// An association's number, its addresses with their lifetimes, its state.
type Association = (u32, Vec<(Ipv6Addr, u32)>, Option<Status>);

/// An answer's associations.
fn associations(message: &Message) -> Vec<Association> {
    let all = message.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(it) => Some(it),
        _ => None,
    });
    all.map(|it| {
        let address = |option: &DhcpOption| match option {
            DhcpOption::IAAddr(it) => Some((it.addr, it.valid_life)),
            _ => None,
        };
        (
            it.id,
            it.opts.iter().filter_map(address).collect(),
            status(&it.opts),
        )
    })
    .collect()
}

fn status(opts: &DhcpOptions) -> Option<Status> {
    match opts.get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    }
}

#[test]
fn a_guest_has_the_ports_address_in_two_steps_or_in_one() {
    let solicit = message(MessageType::Solicit, false, vec![association(5, &[])]);
    let advertise = told(&provision(), &solicit);
    assert_eq!(advertise.msg_type(), MessageType::Advertise);
    let own = vec![(5, vec![(OWN_V6, 43_200)], None)];
    assert_eq!(associations(&advertise), own);
    let request = message(MessageType::Request, true, vec![association(5, &[OWN_V6])]);
    let reply = told(&provision(), &request);
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(associations(&reply), own);
    let rapid = vec![association(5, &[]), DhcpOption::RapidCommit];
    let reply = told(&provision(), &message(MessageType::Solicit, false, rapid));
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert!(reply.opts().get(OptionCode::RapidCommit).is_some());
    assert_eq!(associations(&reply), own);
}

#[test]
fn names_are_told_as_they_are_configured() {
    let ask = message(MessageType::InformationRequest, false, Vec::new());
    let reply = told(&provision(), &ask);
    let dns = reply.opts().get(OptionCode::DomainNameServers);
    let quad9 = Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe);
    assert_eq!(dns, Some(&DhcpOption::DomainNameServers(vec![quad9])));
    let Some(DhcpOption::DomainSearchList(domains)) =
        reply.opts().get(OptionCode::DomainSearchList)
    else {
        panic!("no domain")
    };
    assert_eq!(
        domains[0].to_string().trim_end_matches('.'),
        "vm.example.org"
    );
}

#[test]
fn what_is_not_the_ports_any_more_ends_now() {
    for (kind, to_us) in [(MessageType::Renew, true), (MessageType::Rebind, false)] {
        let old = association(5, &[STRANGE_V6]);
        let reply = told(&provision(), &message(kind, to_us, vec![old]));
        let mut all = associations(&reply).remove(0).1;
        all.sort();
        assert_eq!(all, [(OWN_V6, 43_200), (STRANGE_V6, 0)]);
    }
}

#[test]
fn a_guest_that_has_moved_is_told_whether_its_address_is_good() {
    let cases = [(OWN_V6, Status::Success), (STRANGE_V6, Status::NotOnLink)];
    for (address, expected) in cases {
        let confirm = message(
            MessageType::Confirm,
            false,
            vec![association(5, &[address])],
        );
        assert_eq!(status(told(&provision(), &confirm).opts()), Some(expected));
    }
    let nothing = message(MessageType::Confirm, false, vec![association(5, &[])]);
    assert_eq!(serve(&provision(), &nothing), Ok(Served::Silence));
}

#[test]
fn only_one_association_has_addresses_and_prefixes_there_are_none() {
    let prefix = DhcpOption::IAPD(IAPD {
        id: 9,
        t1: 0,
        t2: 0,
        opts: DhcpOptions::new(),
    });
    let asked = vec![association(1, &[]), association(2, &[]), prefix];
    let advertise = told(&provision(), &message(MessageType::Solicit, false, asked));
    let mut all = associations(&advertise);
    all.sort_by_key(|it| it.1.len());
    assert_eq!(all[0].2, Some(Status::NoAddrsAvail));
    assert_eq!(all[1].1, [(OWN_V6, 43_200)]);
    let Some(DhcpOption::IAPD(none)) = advertise.opts().get(OptionCode::IAPD) else {
        panic!("no word on prefixes")
    };
    assert_eq!(status(&none.opts), Some(Status::NoPrefixAvail));
}

#[test]
fn releases_and_declines_are_confirmed() {
    let release = message(MessageType::Release, true, vec![association(5, &[OWN_V6])]);
    let reply = told(&provision(), &release);
    assert_eq!(status(reply.opts()), Some(Status::Success));
    let decline = message(MessageType::Decline, true, vec![association(5, &[OWN_V6])]);
    let served = serve(&provision(), &decline);
    assert!(
        matches!(served, Ok(Served::Declined(Some(_)))),
        "{served:?}"
    );
}

#[test]
fn what_is_for_another_or_none_of_a_clients_has_no_answer() {
    let mut other = Message::new_with_id(MessageType::Request, [1, 2, 3]);
    other.opts_mut().insert(DhcpOption::ClientId(vec![1]));
    other.opts_mut().insert(DhcpOption::ServerId(vec![9; 10]));
    let other = udp6(&other.to_vec().unwrap());
    let nobodys = udp6(&[1, 1, 2, 3]);
    let relayed = message(MessageType::RelayForw, false, Vec::new());
    let reply = message(MessageType::Reply, true, Vec::new());
    for frame in [other, nobodys, relayed, reply] {
        assert_eq!(serve(&provision(), &frame), Err(Unanswered::NotServed));
    }
    let mut without = provision();
    without.dhcp.as_mut().unwrap().v6.clear();
    let solicit = message(MessageType::Solicit, false, vec![association(5, &[])]);
    assert_eq!(serve(&without, &solicit), Err(Unanswered::NotServed));
}

/// A router solicitation of the guest's.
fn solicitation(source: Ipv6Addr) -> Vec<u8> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    frame::icmp6(
        (GUEST_MAC, GATEWAY_MAC),
        (source, group),
        vec![133, 0, 0, 0, 0, 0, 0, 0],
    )
}

#[test]
fn a_solicitation_is_answered_to_who_asked() {
    let cases = [
        (GUEST_LINK_LOCAL, GUEST_LINK_LOCAL, GUEST_MAC),
        (
            Ipv6Addr::UNSPECIFIED,
            ALL_NODES,
            MacAddr::from_ipv6_multicast(ALL_NODES),
        ),
    ];
    for (source, to, mac) in cases {
        let frame = answered(&provision(), &solicitation(source));
        let (headers, _) = checked(&frame);
        let L3::V6(ip) = headers.l3 else { panic!() };
        assert_eq!((ip.source, ip.hop_limit), (link_local(GATEWAY_MAC), 255));
        assert_eq!((ip.destination, headers.ether.destination), (to, mac));
    }
    let mut afar = solicitation(GUEST_LINK_LOCAL);
    afar[21] = 64;
    assert_eq!(serve(&provision(), &afar), Err(Unanswered::Malformed));
    let none = Provision {
        router: None,
        ..provision()
    };
    let asked = solicitation(GUEST_LINK_LOCAL);
    assert_eq!(serve(&none, &asked), Err(Unanswered::NotServed));
    assert_eq!(advertise(&none), None);
}

#[test]
fn flags_say_where_addresses_come_from() {
    let flags = |autonomous, has_dhcp| {
        let mut provision = provision();
        provision.router.as_mut().unwrap().autonomous = autonomous;
        provision.dhcp = provision.dhcp.filter(|_| has_dhcp);
        let frame = advertise(&provision).unwrap();
        let message = &frame[54..];
        // Of the message; of the prefix, which stands behind two options of eight bytes.
        (message[5], message[32 + 3])
    };
    assert_eq!(flags(false, true), (0xc0, 0x80));
    assert_eq!(flags(true, true), (0x40, 0xc0));
    assert_eq!(flags(true, false), (0, 0xc0));
}
