//! DHCP for IPv4, message by message.

use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, Flags, Message, MessageType, OptionCode},
};

use super::{messages::raw, *};

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A message of a client's.
fn message(kind: MessageType, ciaddr: Ipv4Addr, options: Vec<DhcpOption>) -> Message {
    let mut message = Message::new_with_id(7, ciaddr, NONE, NONE, NONE, &GUEST_MAC.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

fn sent(source: Ipv4Addr, message: &Message) -> Vec<u8> {
    udp4(source, &message.to_vec().unwrap())
}

/// The answer's message, and the address it went to.
fn told(source: Ipv4Addr, message: &Message) -> (Message, Ipv4Addr) {
    let frame = answered(&provision(), &sent(source, message));
    let (headers, payload) = checked(&frame);
    let L3::V4(ip) = headers.l3 else { panic!() };
    assert_eq!(ip.source, GATEWAY);
    let to = match ip.destination == Ipv4Addr::BROADCAST {
        true => MacAddr::BROADCAST,
        false => GUEST_MAC,
    };
    assert_eq!(headers.ether.destination, to);
    let message = Message::from_bytes(payload).unwrap();
    assert_eq!(message.xid(), 7);
    (message, ip.destination)
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

#[test]
fn who_asks_for_an_address_is_offered_one_of_the_ports() {
    for (wanted, offered) in [(None, OWN), (Some(SECOND), SECOND), (Some(STRANGE), OWN)] {
        let wanted = wanted.map(DhcpOption::RequestedIpAddress);
        let discover = message(MessageType::Discover, NONE, wanted.into_iter().collect());
        let (offer, to) = told(NONE, &discover);
        assert_eq!(
            (kind(&offer), offer.yiaddr()),
            (MessageType::Offer, offered)
        );
        assert_eq!(to, offered, "unicast, for the client can");
    }
}

#[test]
fn who_cant_hear_its_own_address_yet_is_told_by_broadcast() {
    let mut discover = message(MessageType::Discover, NONE, Vec::new());
    discover.set_flags(Flags::default().set_broadcast());
    let (offer, to) = told(NONE, &discover);
    assert!(offer.flags().broadcast());
    assert_eq!(to, Ipv4Addr::BROADCAST);
}

#[test]
fn a_request_is_granted_if_the_address_is_the_ports_and_refused_if_not() {
    let requested = DhcpOption::RequestedIpAddress;
    let server = || DhcpOption::ServerIdentifier(GATEWAY);
    let cases = [
        // After an offer.
        (NONE, NONE, vec![requested(OWN), server()], true),
        (NONE, NONE, vec![requested(STRANGE), server()], false),
        (NONE, NONE, vec![server()], false),
        // After a reboot.
        (NONE, NONE, vec![requested(SECOND)], true),
        (NONE, NONE, vec![requested(STRANGE)], false),
        // It renews and rebinds from the address that it has.
        (OWN, OWN, vec![], true),
        (STRANGE, STRANGE, vec![], false),
    ];
    for (source, ciaddr, options, granted) in cases {
        let request = message(MessageType::Request, ciaddr, options);
        let (answer, to) = told(source, &request);
        let wanted = match granted {
            true => MessageType::Ack,
            false => MessageType::Nak,
        };
        assert_eq!(kind(&answer), wanted, "{request:?}");
        assert_eq!(answer.yiaddr().is_unspecified(), !granted);
        let has_lease = answer.opts().get(OptionCode::AddressLeaseTime).is_some();
        assert_eq!(has_lease, granted);
        if !granted {
            assert_eq!(to, Ipv4Addr::BROADCAST);
        } else if !ciaddr.is_unspecified() {
            assert_eq!(to, ciaddr);
        }
    }
}

#[test]
fn a_request_to_another_server_is_left_to_it() {
    let options = vec![
        DhcpOption::RequestedIpAddress(OWN),
        DhcpOption::ServerIdentifier(STRANGE),
    ];
    let request = sent(NONE, &message(MessageType::Request, NONE, options));
    assert_eq!(serve(&provision(), &request), Err(Unanswered::NotServed));
}

#[test]
fn who_has_an_address_is_told_the_rest_without_one() {
    let inform = message(MessageType::Inform, OWN, Vec::new());
    let (ack, to) = told(OWN, &inform);
    assert_eq!(
        (kind(&ack), ack.yiaddr(), to),
        (MessageType::Ack, NONE, OWN)
    );
    let opts = ack.opts();
    assert!(opts.get(OptionCode::DomainNameServer).is_some());
    for code in [OptionCode::AddressLeaseTime, OptionCode::Renewal] {
        assert_eq!(opts.get(code), None);
    }
}

#[test]
fn a_release_is_heard_and_a_decline_told() {
    let release = sent(OWN, &message(MessageType::Release, OWN, Vec::new()));
    assert_eq!(serve(&provision(), &release), Ok(Served::Silence));
    let decline = sent(NONE, &message(MessageType::Decline, NONE, Vec::new()));
    assert_eq!(serve(&provision(), &decline), Ok(Served::Declined(None)));
}

#[test]
fn the_port_is_who_asks_and_not_what_a_message_says() {
    let mut discover = message(
        MessageType::Discover,
        NONE,
        vec![DhcpOption::ClientIdentifier(vec![0xff; 40])],
    );
    discover.set_chaddr(&[0x66; 6]);
    let (offer, _) = told(NONE, &discover);
    assert_eq!((offer.yiaddr(), offer.chaddr()), (OWN, &[0x66; 6][..]));
    // RFC 6842.
    let own = offer.opts().get(OptionCode::ClientIdentifier);
    assert_eq!(own, Some(&DhcpOption::ClientIdentifier(vec![0xff; 40])));
    discover.set_giaddr(OWN);
    let frame = answered(&provision(), &sent(OWN, &discover));
    let (headers, payload) = checked(&frame);
    let (L3::V4(ip), L4::Udp(udp)) = (headers.l3, headers.l4) else {
        panic!()
    };
    // A relay on the guest itself hears it at a server's port.
    assert_eq!((ip.destination, udp.destination_port), (OWN, 67));
    let offer = Message::from_bytes(payload).unwrap();
    assert_eq!((offer.yiaddr(), offer.giaddr()), (OWN, OWN));
    discover.set_giaddr(STRANGE);
    let relayed = serve(&provision(), &sent(NONE, &discover));
    assert_eq!(relayed, Err(Unanswered::NotServed));
}

#[test]
fn a_guest_gets_what_it_asks_for() {
    let list = vec![OptionCode::SubnetMask, OptionCode::Router];
    let list = DhcpOption::ParameterRequestList(list);
    let (offer, _) = told(NONE, &message(MessageType::Discover, NONE, vec![list]));
    let opts = offer.opts();
    assert!(opts.get(OptionCode::SubnetMask).is_some());
    // An MTU that Windows did not ask for breaks it.
    for code in [OptionCode::InterfaceMtu, OptionCode::ClasslessStaticRoute] {
        assert_eq!(opts.get(code), None, "{code:?}");
    }
}

#[test]
fn a_message_is_as_long_as_its_reader_takes() {
    let mut long = provision();
    let label = "a".repeat(60);
    long.domain = Some([&label[..]; 4].join("."));
    let routes = (0..100).map(|i| ([172, 16, i, 0].into(), 24, [10, 1, 1, 20].into()));
    long.dhcp.as_mut().unwrap().routes = routes.collect();
    for (size, limit) in [(None, 576), (Some(100), 576), (Some(1400), 1400)] {
        let size = size.map(DhcpOption::MaxMessageSize);
        let discover = message(MessageType::Discover, NONE, size.into_iter().collect());
        let frame = answered(&long, &sent(NONE, &discover));
        let (headers, payload) = checked(&frame);
        assert!(headers.ip_len <= limit, "{} of {limit}", headers.ip_len);
        let offer = Message::from_bytes(payload).unwrap();
        assert!(offer.opts().get(OptionCode::Router).is_some());
        let has_routes = offer.opts().get(OptionCode::ClasslessStaticRoute).is_some();
        assert_eq!(has_routes, limit > 576);
    }
}

#[test]
fn nothing_is_served_that_is_off_or_of_bootp() {
    let discover = udp4(NONE, &raw(1, &[]));
    let off = Provision {
        dhcp: None,
        ..provision()
    };
    assert_eq!(serve(&off, &discover), Err(Unanswered::NotServed));
    let mut bootp = raw(1, &[]);
    bootp[240..243].fill(0);
    assert_eq!(
        serve(&provision(), &udp4(NONE, &bootp)),
        Err(Unanswered::NotServed)
    );
    // An offer of a guest's.
    let mut offer = raw(2, &[]);
    offer[0] = 2;
    assert_eq!(
        serve(&provision(), &udp4(NONE, &offer)),
        Err(Unanswered::Malformed)
    );
}
