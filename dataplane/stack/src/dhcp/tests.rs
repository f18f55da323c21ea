//! The client on a virtual clock, beside a server whose words are chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use culvert_wire::parse::{L3, L4, parse_frame};
use dhcproto::{
    Decodable as _,
    v4::{DhcpOption, Message, OptionCode},
};
use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const START: Instant = Instant(1_000_000_000_000);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

fn after(seconds: u64) -> Instant {
    START + Duration::from_secs(seconds)
}

/// A message of a server: the fields, then options as they are given.
fn message(kind: u8, xid: u32, address: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&xid.to_be_bytes());
    bytes[16..20].copy_from_slice(&address.octets());
    bytes[28..34].copy_from_slice(&MAC.0);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    let own: [(u8, &[u8]); 2] = [(53, &[kind]), (54, &SERVER.octets())];
    for (code, value) in own.iter().chain(options) {
        bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
        bytes.extend(*value);
    }
    bytes.push(255);
    bytes
}

fn granting(kind: u8, xid: u32, address: Ipv4Addr, lease: u32) -> Vec<u8> {
    let lease = lease.to_be_bytes();
    let options: [(u8, &[u8]); 3] = [(1, &[255, 255, 255, 0]), (3, &[192, 0, 2, 1]), (51, &lease)];
    message(kind, xid, address, &options)
}

struct Site {
    client: Client,
    now: Instant,
}

impl Site {
    fn new(held: Option<Held>) -> Self {
        let client = Client::new(MAC, RandomState::new(), held, START);
        Self { client, now: START }
    }

    /// Lets time pass; what the client said meanwhile.
    fn run(&mut self, until: Instant) -> Vec<Said> {
        let mut said = self.said();
        for _ in 0..10_000 {
            let due = self.client.poll_timeout();
            if due > until {
                self.now = until;
                return said;
            }
            self.now = self.now.max(due);
            self.client.handle_timeout(self.now);
            said.extend(self.said());
        }
        panic!("timers never rest");
    }

    fn said(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.client.poll_frame())
            .map(|frame| Said::read(&frame))
            .collect()
    }

    fn hear(&mut self, bytes: &[u8]) -> bool {
        self.client
            .handle_message(bytes, SERVER_MAC, self.now)
            .is_ok()
    }

    fn xid(&self) -> u32 {
        self.client.xid
    }

    fn offered(&mut self, address: Ipv4Addr, lease: u32) {
        let offer = granting(OFFER, self.xid(), address, lease);
        assert!(self.hear(&offer));
    }

    fn acked(&mut self, address: Ipv4Addr, lease: u32) {
        let ack = granting(ACK, self.xid(), address, lease);
        assert!(self.hear(&ack));
    }

    fn naked(&mut self) {
        let nak = message(NAK, self.xid(), Ipv4Addr::UNSPECIFIED, &[]);
        assert!(self.hear(&nak));
    }

    /// Takes a lease from the beginning; answers when it was asked for.
    fn bound(lease: u32) -> (Self, Instant) {
        let mut site = Self::new(None);
        site.said();
        site.offered(OURS, lease);
        site.said();
        site.acked(OURS, lease);
        assert_eq!(site.address(), Some(OURS));
        (site, START)
    }

    fn address(&self) -> Option<Ipv4Addr> {
        Some(self.client.lease()?.terms.address)
    }
}

/// A frame of the client's.
#[derive(Debug)]
struct Said {
    to: MacAddr,
    dhcp: Option<(Ipv4Addr, Ipv4Addr, Message)>,
}

impl Said {
    fn read(frame: &[u8]) -> Self {
        let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
        let dhcp = match (headers.l3, headers.l4) {
            (L3::V4(ip), L4::Udp(udp)) => {
                assert_eq!((udp.source_port, udp.destination_port), (68, 67));
                let message = Message::from_bytes(&frame[headers.payload_offset..]).unwrap();
                assert_eq!(message.chaddr(), MAC.0);
                Some((ip.source, ip.destination, message))
            }
            _ => panic!("{headers:?}"),
        };
        let to = headers.ether.destination;
        Self { to, dhcp }
    }

    fn kind(&self) -> Option<MessageType> {
        self.dhcp.as_ref()?.2.opts().msg_type()
    }
}

fn kinds(said: &[Said]) -> Vec<Option<MessageType>> {
    said.iter().map(Said::kind).collect()
}

const DISCOVER: Option<MessageType> = Some(MessageType::Discover);
const REQUEST: Option<MessageType> = Some(MessageType::Request);

fn terms(address: Ipv4Addr) -> Terms {
    Terms {
        address,
        prefix_len: 24,
        server: SERVER,
        routes: vec![(Ipv4Addr::UNSPECIFIED, 0, SERVER)],
        mtu: None,
        dns: Vec::new(),
        domain: None,
    }
}

fn held(seconds: u64) -> Option<Held> {
    Some(Held {
        terms: terms(OURS),
        expires: Some(after(seconds)),
    })
}

#[test]
fn an_offer_is_taken_checked_used_and_renewed() {
    let mut site = Site::new(None);
    let said = site.said();
    assert_eq!(kinds(&said), [DISCOVER]);
    let (from, to, discover) = said[0].dhcp.as_ref().unwrap();
    let everyone = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    assert_eq!((*from, *to), everyone);
    assert_eq!(said[0].to, MacAddr::BROADCAST);
    assert!(
        discover
            .opts()
            .get(OptionCode::ParameterRequestList)
            .is_some()
    );

    site.offered(OURS, 100);
    let said = site.said();
    let (_, _, request) = said[0].dhcp.as_ref().unwrap();
    let wanted = request.opts().get(OptionCode::RequestedIpAddress);
    assert_eq!(wanted, Some(&DhcpOption::RequestedIpAddress(OURS)));
    let server = request.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server, Some(&DhcpOption::ServerIdentifier(SERVER)));

    site.acked(OURS, 100);
    assert_eq!(site.client.lease().unwrap().terms, terms(OURS));

    // Half of the time, then its server again; an answer gives all of it again.
    assert_eq!(kinds(&site.run(after(49))), []);
    let said = site.run(after(50));
    assert_eq!(kinds(&said), [REQUEST]);
    let (from, to, renew) = said[0].dhcp.as_ref().unwrap();
    assert_eq!((*from, *to, renew.ciaddr()), (OURS, SERVER, OURS));
    assert_eq!(said[0].to, SERVER_MAC);
    site.acked(OURS, 100);
    assert_eq!(site.client.lease().unwrap().expires, Some(after(150)));

    // Nobody answers: then any server, then it is over.
    let said = site.run(after(149));
    assert_eq!(kinds(&said), [REQUEST; 2]);
    assert_eq!(said[1].to, MacAddr::BROADCAST);
    assert_eq!(site.address(), Some(OURS));
    assert_eq!(kinds(&site.run(after(150))), [DISCOVER]);
    assert_eq!(site.address(), None);
}

#[test]
fn silence_is_asked_again_ever_later() {
    let mut site = Site::new(None);
    let said = site.run(after(600));
    assert!((12..18).contains(&said.len()), "{}", said.len());
    site.offered(OURS, 100);
    let said = site.run(site.now + Duration::from_secs(70));
    let requests = said.iter().filter(|it| it.kind() == REQUEST).count();
    assert_eq!(requests, 4, "of an offer that nobody stands by");
    assert!(kinds(&said).contains(&DISCOVER));
}

#[test]
fn a_lease_of_an_earlier_run_is_asked_for_and_used_at_once() {
    let mut site = Site::new(held(500));
    let said = site.said();
    let (_, _, request) = said[0].dhcp.as_ref().unwrap();
    assert_eq!(kinds(&said), [REQUEST]);
    assert_eq!(request.ciaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(request.opts().get(OptionCode::ServerIdentifier), None);
    site.acked(OURS, 100);
    assert_eq!(site.address(), Some(OURS));

    // Refused, it begins anew.
    let mut site = Site::new(held(500));
    site.said();
    site.naked();
    assert_eq!(kinds(&site.run(site.now)), [DISCOVER]);
    // Over, it is none.
    assert_eq!(kinds(&Site::new(held(0)).said()), [DISCOVER]);
}

#[test]
fn without_an_answer_it_is_used_until_it_is_over() {
    let mut site = Site::new(held(100));
    assert_eq!(site.address(), None);
    site.run(after(8));
    assert_eq!(site.address(), Some(OURS));
    let said = site.run(after(99));
    assert!(
        said.iter().all(|it| it.to == MacAddr::BROADCAST),
        "{said:?}"
    );
    assert_eq!(site.address(), Some(OURS));
    site.run(after(100));
    assert_eq!(site.address(), None);
}

#[test]
fn refused_it_begins_anew_at_once_and_then_ever_later() {
    let (mut site, _) = Site::bound(100);
    site.run(after(50));
    site.naked();
    assert_eq!(site.address(), None);
    let said = site.run(after(50));
    assert_eq!(kinds(&said), [DISCOVER]);
    // A server that offers and refuses.
    let mut rounds = 0;
    while site.now < after(1_000) {
        site.offered(OTHER, 100);
        site.naked();
        let next = site.client.poll_timeout();
        site.run(next);
        rounds += 1;
    }
    assert!((10..40).contains(&rounds), "{rounds}");
}

#[test]
fn an_address_that_another_has_is_declined() {
    let (mut site, _) = Site::bound(100);
    site.client.handle_duplicate(OTHER, site.now);
    assert!(site.said().is_empty(), "not the address");
    site.client.handle_duplicate(OURS, site.now);
    assert_eq!(site.address(), None);
    let said = site.run(after(9));
    assert_eq!(kinds(&said), [Some(MessageType::Decline)]);
    let (_, _, decline) = said[0].dhcp.as_ref().unwrap();
    let refused = decline.opts().get(OptionCode::RequestedIpAddress);
    assert_eq!(refused, Some(&DhcpOption::RequestedIpAddress(OURS)));
    assert_eq!(kinds(&site.run(after(10))), [DISCOVER]);
}

#[test]
fn what_it_has_is_given_back() {
    let (site, _) = Site::bound(100);
    let said: Vec<_> = site.client.release().map(|it| Said::read(&it)).collect();
    assert_eq!(kinds(&said), [Some(MessageType::Release)]);
    let (from, to, _) = said[0].dhcp.as_ref().unwrap();
    assert_eq!((*from, *to, said[0].to), (OURS, SERVER, SERVER_MAC));
    assert_eq!(Site::new(None).client.release().count(), 1, "a question");
}

fn unusable(address: Ipv4Addr) -> Option<Unusable> {
    let prefix_len = 24;
    Some(Unusable {
        address,
        prefix_len,
    })
}

#[test]
fn what_can_not_be_used_is_given_back_and_another_is_asked_for_ever_later() {
    let (mut site, _) = Site::bound(1_000);
    site.client.refuse(unusable(OTHER), site.now);
    assert_eq!(site.address(), None);
    let said = site.said();
    assert_eq!(kinds(&said), [Some(MessageType::Release)]);
    let (from, to, release) = said[0].dhcp.as_ref().unwrap();
    let given = (*from, *to, release.ciaddr(), said[0].to);
    assert_eq!(given, (OURS, SERVER, OURS, SERVER_MAC));
    assert!(site.run(after(2)).is_empty(), "no rush");
    assert_eq!(kinds(&site.run(after(6))), [DISCOVER]);

    // Offers of that prefix are passed over, by name; asking goes on, ever later.
    let offer = granting(OFFER, site.xid(), OTHER, 100);
    let heard = site.client.handle_message(&offer, SERVER_MAC, site.now);
    assert_eq!(heard, Err(HostDrop::DhcpUnusable));
    let said = site.run(after(606));
    assert!(said.iter().all(|it| it.kind() == DISCOVER));
    assert!((9..16).contains(&said.len()), "{}", said.len());

    // Nothing is in its way any more: at once.
    site.client.refuse(None, site.now);
    let now = site.now;
    assert_eq!(kinds(&site.run(now)), [DISCOVER]);
    site.offered(OURS, 1_000);
    site.acked(OURS, 1_000);
    site.said();
    site.client.refuse(None, site.now);
    assert_eq!(site.address(), Some(OURS), "nothing is refused");
    site.client.refuse(unusable([10, 0, 0, 1].into()), site.now);
    assert_eq!(site.address(), Some(OURS), "another prefix");
    assert!(site.said().is_empty());
}

#[test]
fn servers_that_take_turns_with_what_can_not_be_used_cause_no_rush() {
    let (mut site, _) = Site::bound(1_000);
    let nets = [OURS, Ipv4Addr::new(198, 51, 100, 7)];
    let mut given_back = 0;
    while site.now < after(3_600) {
        let [this, other] = [nets[given_back % 2], nets[(given_back + 1) % 2]];
        assert_eq!(site.address(), Some(this));
        site.client.refuse(unusable(this), site.now);
        assert_eq!(site.address(), None);
        given_back += 1;
        while !kinds(&site.said()).contains(&DISCOVER) {
            site.now = site.client.poll_timeout();
            site.client.handle_timeout(site.now);
        }
        site.offered(other, 1_000);
        site.acked(other, 1_000);
    }
    assert!((50..70).contains(&given_back), "{given_back}");
}

#[test]
fn what_nobody_has_confirmed_is_forgotten_and_told_nobody() {
    let mut site = Site::new(held(100));
    site.run(after(8));
    assert_eq!(site.address(), Some(OURS));
    site.said();
    site.client.refuse(unusable(OURS), site.now);
    assert_eq!(site.address(), None);
    assert!(site.said().is_empty());
}

/// What an offer with these options comes to.
fn terms_of(address: Ipv4Addr, options: &[(u8, &[u8])]) -> Option<Terms> {
    let offer = message(OFFER, 7, address, options);
    match message::read(&offer, MAC, 7)? {
        Reply::Offer(grant) => Some(grant.terms),
        Reply::Ack(_) | Reply::Nak(_) => None,
    }
}

const LEASE: (u8, &[u8]) = (51, &[0, 0, 0, 100]);
const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);

#[test]
fn what_is_lent_is_read() {
    let router = (3, &[192, 0, 2, 9, 192, 0, 2, 10][..]);
    let told = terms_of(OURS, &[LEASE, MASK, router]).unwrap();
    assert_eq!(told.routes, [([0; 4].into(), 0, [192, 0, 2, 9].into())]);
    // Classless routes stand in the router's place (RFC 3442), in pieces if need be (RFC 3396).
    let pieces: [(u8, &[u8]); 2] = [(121, &[8, 10, 192, 0]), (121, &[2, 3, 0, 0, 0, 0, 0])];
    let told = terms_of(OURS, &[LEASE, MASK, router, pieces[0], pieces[1]]).unwrap();
    assert_eq!(
        told.routes,
        [
            ([10, 0, 0, 0].into(), 8, [192, 0, 2, 3].into()),
            ([0; 4].into(), 0, Ipv4Addr::UNSPECIFIED),
        ]
    );
    let rest: [(u8, &[u8]); 3] = [(26, &[5, 0]), (6, &[9, 9, 9, 9]), (15, b"example.org")];
    let told = terms_of(OURS, &[LEASE, rest[0], rest[1], rest[2]]).unwrap();
    assert_eq!((told.prefix_len, told.mtu), (32, Some(1280)));
    for (mtu, believed) in [(576_u16, Some(576)), (575, None), (68, None)] {
        let told = terms_of(OURS, &[LEASE, (26, &mtu.to_be_bytes())]).unwrap();
        assert_eq!(told.mtu, believed);
    }
    assert_eq!(told.dns, [Ipv4Addr::new(9, 9, 9, 9)]);
    assert_eq!(told.domain.as_deref(), Some("example.org"));

    // Options in the place of a file's name (RFC 2132, section 9.3).
    let mut offer = message(OFFER, 7, OURS, &[LEASE, (52, &[1])]);
    offer[108..115].copy_from_slice(&[1, 4, 255, 255, 0, 0, 255]);
    let Some(Reply::Offer(grant)) = message::read(&offer, MAC, 7) else {
        panic!("an offer");
    };
    assert_eq!(grant.terms.prefix_len, 16);
}

#[test]
fn what_no_host_can_have_is_no_offer() {
    let with = |address: [u8; 4], options: &[(u8, &[u8])]| terms_of(address.into(), options);
    assert!(with([192, 0, 2, 77], &[LEASE, MASK]).is_some());
    for address in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255; 4],
        [192, 0, 2, 0],
        [192, 0, 2, 255],
    ] {
        assert!(with(address, &[LEASE, MASK]).is_none(), "{address:?}");
    }
    assert!(with([192, 0, 2, 77], &[MASK]).is_none(), "for no time");
    let short = (51, &[0, 0, 0, 9][..]);
    assert!(with([192, 0, 2, 77], &[short, MASK]).is_none());
    let holes = (1, &[255, 0, 255, 0][..]);
    assert!(with([192, 0, 2, 77], &[LEASE, holes]).is_none());
    // Many of a list are some.
    let many = [10, 0, 0, 1].repeat(60);
    let told = with([192, 0, 2, 77], &[LEASE, (6, &many)]).unwrap();
    assert_eq!(told.dns.len(), limits::LEARNED_DNS);
    let many = [8, 10, 192, 0, 2, 3].repeat(42);
    let told = with([192, 0, 2, 77], &[LEASE, (121, &many), (121, &many)]).unwrap();
    assert_eq!(told.routes.len(), limits::LEARNED_ROUTES);
    // A name that is none says nothing.
    let told = with([192, 0, 2, 77], &[LEASE, (15, b"a b\x1b[31m")]).unwrap();
    assert_eq!(told.domain, None);
}

#[test]
fn what_was_not_asked_for_is_not_heard() {
    let mut site = Site::new(None);
    let xid = site.xid();
    let strange = [
        granting(OFFER, xid ^ 1, OURS, 100),
        granting(ACK, xid, OURS, 100),
        message(NAK, xid, OURS, &[]),
        {
            let mut another = granting(OFFER, xid, OURS, 100);
            another[30] ^= 1;
            another
        },
        Vec::new(),
    ];
    for message in &strange {
        assert!(!site.hear(message));
    }
    site.offered(OURS, 100);
    let other = granting(ACK, site.xid(), OTHER, 100);
    assert!(!site.hear(&other), "another address than the offered one");
    site.acked(OURS, 100);
    let again = granting(ACK, site.xid(), OURS, 1_000_000);
    assert!(!site.hear(&again), "nobody asked");
}

#[test]
fn times_that_are_out_of_order_are_made_up() {
    let times = |renew: u32, rebind: u32| {
        let mut site = Site::new(None);
        site.offered(OURS, 100);
        let (renew, rebind) = (renew.to_be_bytes(), rebind.to_be_bytes());
        let options: [(u8, &[u8]); 4] = [LEASE, MASK, (58, &renew), (59, &rebind)];
        let ack = message(ACK, site.xid(), OURS, &options);
        assert!(site.hear(&ack));
        site.run(after(7));
        let lease = site.client.lease().unwrap();
        [lease.renew_at, lease.rebind_at].map(|at| at.since(START).as_secs())
    };
    assert_eq!(times(20, 30), [20, 30]);
    for (renew, rebind) in [(30, 20), (20, 100), (1, 30), (0, 0), (200, 300)] {
        assert_eq!(times(renew, rebind), [50, 88], "{renew} {rebind}");
    }
}

/// Something that happens to a client.
#[derive(Clone, Debug)]
enum Event {
    Passes(u64),
    Hears {
        kind: u8,
        host: u8,
        lease: u32,
        xid_is_right: bool,
    },
    Bytes(Vec<u8>),
    Taken(u8),
    Refused(Option<u8>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let hears = (1..8_u8, 0..4_u8, 0..400_u32, prop::bool::weighted(0.9));
    let event = prop_oneof![
        3 => (0..120_000_u64).prop_map(Event::Passes),
        6 => hears.prop_map(|(kind, host, lease, xid_is_right)| Event::Hears { kind, host, lease, xid_is_right }),
        1 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Event::Bytes),
        1 => (0..4_u8).prop_map(Event::Taken),
        1 => prop::option::of(0..4_u8).prop_map(Event::Refused),
    ];
    prop::collection::vec(event, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is said, whenever: it is bounded, does not rush, and has no address beyond its time.
    #[test]
    fn no_server_leads_it_astray(events in events(), had in prop::option::of(0..1_000_u64)) {
        let mut site = Site::new(had.and_then(held));
        let mut sent = 0;
        for event in events {
            match event {
                Event::Passes(millis) => {
                    let until = site.now + Duration::from_millis(millis);
                    sent = site.run(until).len();
                    prop_assert!(sent <= 4 + usize::try_from(millis / 900).unwrap(), "{sent} in {millis}");
                }
                Event::Hears { kind, host, lease, xid_is_right } => {
                    let xid = site.xid() ^ u32::from(!xid_is_right);
                    let address = Ipv4Addr::new(192, 0, 2, 76 + host);
                    let message = granting(kind, xid, address, lease);
                    let had = site.client.lease().is_some();
                    let heard = site.hear(&message);
                    prop_assert!(!heard || xid_is_right);
                    if lease < 10 && !had {
                        prop_assert!(site.client.lease().is_none());
                    }
                }
                Event::Bytes(bytes) => prop_assert!(!site.hear(&bytes)),
                Event::Taken(host) => {
                    let address = Ipv4Addr::new(192, 0, 2, 76 + host);
                    site.client.handle_duplicate(address, site.now);
                }
                Event::Refused(host) => {
                    let unusable = host.and_then(|host| unusable([192, 0, 2 + host % 2, 0].into()));
                    site.client.refuse(unusable, site.now);
                    let usable = site.client.lease().is_none_or(|it| !site.client.refuses(&it.terms));
                    prop_assert!(usable);
                }
            }
            prop_assert!(site.client.output.len() <= limits::DHCP_OUTPUT);
            site.client.handle_timeout(site.now);
            let ends = site.client.lease().and_then(|lease| lease.expires);
            prop_assert!(ends.is_none_or(|end| end > site.now && end.since(site.now).as_secs() <= 1_000));
        }
        let _ = sent;
    }
}
