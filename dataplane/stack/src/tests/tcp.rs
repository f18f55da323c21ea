//! Connections: between two stacks, and with those who should have none.

use std::net::SocketAddr;

use culvert_wire::{
    fib::Prefix,
    parse::{L4, Tcp as Segment},
    tcp::flags,
};

use super::*;
use crate::tcp::{ConnectError, ConnectionId, Ends, Listener, Phase, Service};

const PORT: u16 = 9_443;
const SECOND: Duration = Duration::from_secs(1);

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(ip(address), len.parse().unwrap()).unwrap()
}

fn listener(allow: &[&str]) -> Vec<Listener> {
    vec![Listener {
        port: PORT,
        service: Service(0),
        allow: allow.iter().map(|text| prefix(text)).collect(),
    }]
}

/// A link of some delay, whose frames may be lost or overtaken.
struct Link {
    a: HostStack,
    b: HostStack,
    now: Instant,
    /// When each arrives, and at whom.
    under_way: Vec<(Instant, bool, Vec<u8>)>,
    dice: Dice,
    delay: Duration,
    /// Of a hundred.
    lost: u64,
    /// Of a hundred, by a few milliseconds.
    late: u64,
    /// The longest packet that was sent.
    longest: usize,
}

impl Link {
    /// Between 192.0.2.1, which begins, and 192.0.2.2, which listens.
    fn new() -> Self {
        let mut b = quiet(B, 2);
        b.listen(listener(&["192.0.2.0/24", "2001:db8::/32"]));
        Self {
            a: quiet(A, 1),
            b,
            now: START + Duration::from_secs(10),
            under_way: Vec::new(),
            dice: Dice(0x9e37_79b9_7f4a_7c15),
            delay: Duration::from_millis(1),
            lost: 0,
            late: 0,
            longest: 0,
        }
    }

    fn send(&mut self) {
        for to_b in [true, false] {
            let from = if to_b { &mut self.a } else { &mut self.b };
            while let Some(frame) = from.poll_frame().or_else(|| from.poll_segment()) {
                self.longest = self.longest.max(frame.len() - 14);
                if self.dice.throw(100) < self.lost {
                    continue;
                }
                let late = self.dice.throw(100) < self.late;
                let late = Duration::from_millis(if late { 3 } else { 0 });
                let at = self.now + self.delay + late;
                self.under_way.push((at, to_b, frame));
            }
        }
    }

    /// Lets the time pass until something happens, at most until `end`; `false` if nothing does.
    fn step(&mut self, end: Instant) -> bool {
        self.send();
        let arrival = self.under_way.iter().map(|&(at, ..)| at).min();
        let due = [arrival, self.a.poll_timeout(), self.b.poll_timeout()];
        let Some(at) = due.into_iter().flatten().min().filter(|&at| at <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(at);
        let (now, mut arrived) = (self.now, Vec::new());
        self.under_way.retain_mut(|(at, to_b, frame)| {
            let here = *at <= now;
            if here {
                arrived.push((*to_b, std::mem::take(frame)));
            }
            !here
        });
        for (to_b, frame) in arrived {
            let to = if to_b { &mut self.b } else { &mut self.a };
            to.handle_frame(&frame, self.now);
        }
        self.a.handle_timeout(self.now);
        self.b.handle_timeout(self.now);
        true
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(steps < 200_000, "the link never rests");
        }
    }

    /// A connection of a's, at both ends.
    fn open(&mut self, to: &str) -> (ConnectionId, ConnectionId) {
        let to = SocketAddr::new(ip(to), PORT);
        let at_a = self.a.connect(to, self.now).unwrap();
        let end = self.now + 5 * SECOND;
        let at_b = loop {
            assert!(self.step(end), "no connection");
            if let Some(at_b) = self.b.poll_accepted() {
                break at_b;
            }
        };
        self.pass(Duration::from_millis(50));
        assert_eq!(self.a.phase(at_a), Phase::Open);
        (at_a, at_b)
    }
}

fn read_all(stack: &mut HostStack, id: ConnectionId, now: Instant, into: &mut Vec<u8>) {
    while stack.read(id, now, |bytes| {
        into.extend_from_slice(bytes);
        bytes.len()
    }) > 0
    {}
}

/// The bytes that a sends, at b, and how long that took.
fn transfer(link: &mut Link, (from, to): (ConnectionId, ConnectionId), bytes: &[u8]) -> Duration {
    let began = link.now;
    let (mut sent, mut got) = (0, Vec::new());
    let end = link.now + Duration::from_secs(3_600);
    while got.len() < bytes.len() {
        sent += link.a.write(from, &bytes[sent..], link.now);
        assert!(link.step(end), "{} of {} came", got.len(), bytes.len());
        read_all(&mut link.b, to, link.now, &mut got);
    }
    assert!(got == bytes, "what came is not what was sent");
    link.now.since(began)
}

fn noise(len: usize) -> Vec<u8> {
    let mut dice = Dice(77);
    (0..len).map(|_| dice.throw(256).to_le_bytes()[0]).collect()
}

#[test]
fn bytes_come_in_order_and_both_ends_end() {
    for to in ["192.0.2.2", "2001:db8::2"] {
        let mut link = Link::new();
        let (at_a, at_b) = link.open(to);
        let Ends { local, remote } = link.b.connection(at_b).unwrap();
        assert_eq!(local, SocketAddr::new(ip(to), PORT));
        assert!((61_000..).contains(&remote.port()), "{remote}");
        transfer(&mut link, (at_a, at_b), &noise(1 << 20));

        assert_eq!(link.b.write(at_b, b"an answer", link.now), 9);
        link.a.close(at_a);
        link.pass(SECOND);
        let mut got = Vec::new();
        read_all(&mut link.a, at_a, link.now, &mut got);
        assert_eq!(got, b"an answer");
        assert!(link.b.has_ended(at_b) && !link.a.has_ended(at_a));
        link.b.release(at_b, false, link.now);
        link.a.release(at_a, false, link.now);
        link.pass(SECOND);
        assert_eq!(link.b.connections().count(), 0);
        let phases: Vec<_> = link.a.connections().map(|(_, phase)| phase).collect();
        assert_eq!(phases, [Phase::Waiting]);
        link.pass(20 * SECOND);
        assert_eq!(link.a.connections().count(), 0);
        assert_eq!(link.a.connections_due(), None);
    }
}

#[test]
fn loss_and_reordering_cost_time_and_no_byte() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    (link.lost, link.late) = (5, 5);
    let bytes = noise(8 << 20);
    let took = transfer(&mut link, (at_a, at_b), &bytes);
    // Without a second for each loss that nobody tells of.
    assert!(took < Duration::from_secs(60), "{took:?}");
    println!("8 MiB took {took:?} of virtual time");
}

#[test]
fn who_does_not_read_holds_the_sender_and_nothing_else() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    let bytes = noise(2 << 20);
    let mut sent = 0;
    for _ in 0..100 {
        sent += link.a.write(at_a, &bytes[sent..], link.now);
        link.pass(Duration::from_millis(100));
    }
    // What either end keeps, and no more.
    assert!(sent <= 2 * limits::CONNECTION_BUFFER, "{sent}");
    assert_eq!(link.a.room(at_a), 0);
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        sent += link.a.write(at_a, &bytes[sent..], link.now);
        read_all(&mut link.b, at_b, link.now, &mut got);
        link.pass(Duration::from_millis(20));
    }
    assert!(got == bytes);
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let mut link = Link::new();
    for n in 0..1_000 {
        let (at_a, at_b) = link.open("192.0.2.2");
        link.a.write(at_a, b"question", link.now);
        link.pass(Duration::from_millis(5));
        let mut got = Vec::new();
        read_all(&mut link.b, at_b, link.now, &mut got);
        assert_eq!(got, b"question");
        // Either ends first.
        let (first, then) = [(true, false), (false, true)][n % 2];
        for of_a in [first, then] {
            let (stack, id) = [(&mut link.b, at_b), (&mut link.a, at_a)]
                .into_iter()
                .nth(usize::from(of_a))
                .unwrap();
            stack.release(id, false, link.now);
            link.pass(Duration::from_millis(5));
        }
        assert!(link.a.connections().count() <= limits::CONNECTIONS);
        assert!(link.b.connections().count() <= limits::CONNECTIONS);
    }
    link.pass(30 * SECOND);
    for stack in [&link.a, &link.b] {
        assert_eq!(stack.connections().count(), 0);
        assert_eq!(stack.connections_due(), None);
    }
}

/// A segment of a sender whom nobody knows.
fn segment(source: &str, port: u16, flags: u8, acknowledgment: u32) -> Vec<u8> {
    segment_from((source, 40_000), port, flags, acknowledgment)
}

fn renumber(frame: &mut [u8], sequence: u32) {
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
}

fn segment_from(
    (source, source_port): (&str, u16),
    port: u16,
    flags: u8,
    acknowledgment: u32,
) -> Vec<u8> {
    let to = (B, ip("192.0.2.2"), port);
    segment_to(to, (ip(source), source_port), flags, acknowledgment)
}

fn segment_to(
    (mac, destination, port): (MacAddr, IpAddr, u16),
    (source, source_port): (IpAddr, u16),
    flags: u8,
    acknowledgment: u32,
) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        unreachable!("both are IPv4");
    };
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&source_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[4..8].copy_from_slice(&7_u32.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    (tcp[12], tcp[13], tcp[14]) = (0x50, flags, 0x40);
    let mut sum = Checksum::pseudo_v4(source, destination, 6, 20);
    sum.add(&tcp);
    tcp[16..18].copy_from_slice(&sum.complement().to_be_bytes());
    let ip = ipv4::header(&ipv4::Ipv4Fields {
        source,
        destination,
        tos: 0,
        id: 1,
        dont_fragment: true,
        ttl: 64,
        protocol: 6,
        total_len: 40,
    });
    [&ether::header(mac, C, EtherType::IPV4)[..], &ip, &tcp].concat()
}

fn segments(stack: &mut HostStack) -> Vec<Segment> {
    let frames = std::iter::from_fn(|| stack.poll_frame().or_else(|| stack.poll_segment()));
    let parsed = frames.filter_map(|frame| {
        let len = u32::try_from(frame.len()).unwrap();
        let L4::Tcp(tcp) = parse_frame(&frame, len).unwrap().l4 else {
            return None;
        };
        Some(tcp)
    });
    parsed.collect()
}

#[test]
fn who_begins_is_answered_where_he_is_and_takes_no_neighbor_s_room() {
    let mut stack = quiet(B, 2);
    stack.listen(listener(&["192.0.0.0/16"]));
    let now = START + 10 * SECOND;
    let answers = |stack: &mut HostStack| {
        let frames = std::iter::from_fn(|| stack.poll_frame().or_else(|| stack.poll_segment()));
        frames.collect::<Vec<_>>()
    };
    for host in 3..=250 {
        let syn = segment(&format!("192.0.2.{host}"), PORT, flags::SYN, 0);
        stack.handle_frame(&syn, now);
        stack.handle_timeout(now);
        let said = answers(&mut stack);
        let [answer] = &said[..] else {
            panic!("an answer and no question: {said:?}");
        };
        assert_eq!((&answer[..6], answer[33]), (&C.0[..], host));
        assert_eq!(answer[47], flags::SYN | flags::ACK);
    }
    assert_eq!(stack.neighbors().count(), 0);
    // What another says of him leads his answers nowhere, nor is he asked there.
    stack.handle_frame(&arp_request(A, "192.0.2.4", "192.0.2.2"), now);
    answers(&mut stack);
    stack.handle_frame(&segment("192.0.2.4", PORT, flags::SYN, 0), now);
    stack.handle_timeout(now);
    let said = answers(&mut stack);
    assert_eq!((said.len(), &said[0][..6]), (1, &C.0[..]));
    // Who has answered from elsewhere has his answer there, and is asked again.
    stack.resolve(ip("192.0.2.9"), now);
    stack.handle_frame(&arp_reply(A, "192.0.2.9", B, "192.0.2.2"), now);
    answers(&mut stack);
    let now = now + 3 * SECOND;
    let syn = segment_from(("192.0.2.9", 50_000), PORT, flags::SYN, 0);
    stack.handle_frame(&syn, now);
    stack.handle_timeout(now);
    let said = answers(&mut stack);
    assert!(
        said.len() == 2 && said.iter().all(|frame| frame[..6] == A.0),
        "{said:?}"
    );
    assert_eq!(state(&stack, "192.0.2.9"), Some(NeighborState::Probing));
    // He is not there: whoever repeats his SYN is answered where that comes from.
    let later = now + 4 * SECOND;
    run(&mut stack, later);
    answers(&mut stack);
    stack.handle_frame(&syn, later);
    stack.handle_timeout(later);
    let said = answers(&mut stack);
    assert_eq!((said.len(), &said[0][..6]), (1, &C.0[..]));
}

#[test]
fn a_stranger_s_segment_is_answered_with_a_reset_and_seldom() {
    let mut stack = quiet(B, 2);
    stack.listen(listener(&["192.0.2.0/28"]));
    let now = START + 10 * SECOND;
    for (source, port, flag, ack, name) in [
        ("192.0.2.7", 22, flags::SYN, 0, "tcp-port-closed"),
        ("198.51.100.7", PORT, flags::SYN, 0, "tcp-not-allowed"),
        ("192.0.2.7", PORT, flags::ACK, 99, "tcp-no-connection"),
        ("192.0.2.7", PORT, flags::FIN, 0, "tcp-no-connection"),
        (
            "192.0.2.7",
            PORT,
            flags::SYN | flags::ACK,
            99,
            "tcp-no-connection",
        ),
    ] {
        stack.handle_frame(&segment(source, port, flag, ack), now);
        let drops: Vec<_> = stack.drops().collect();
        assert!(
            drops.iter().any(|&(it, n)| it == name && n > 0),
            "{drops:?}"
        );
        let answers = segments(&mut stack);
        let [answer] = answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(
            (answer.source_port, answer.destination_port),
            (port, 40_000)
        );
        let had_ack = flag & flags::ACK != 0;
        let expected = match had_ack {
            true => (flags::RST, 99),
            false => (flags::RST | flags::ACK, 0),
        };
        assert_eq!((answer.flags, answer.sequence), expected);
        if !had_ack {
            assert_eq!(answer.acknowledgment, 8);
        }
    }
    stack.handle_frame(&segment("192.0.2.7", PORT, flags::RST, 0), now);
    assert!(segments(&mut stack).is_empty());
    assert_eq!(stack.connections().count(), 0);

    let now = now + 10 * SECOND;
    let mut answers = 0;
    for _ in 0..10_000 {
        stack.handle_frame(&segment("192.0.2.7", 22, flags::SYN, 0), now);
        answers += segments(&mut stack).len();
    }
    assert_eq!(answers, limits::HOST_ERRORS_TO_ONE as usize);
}

#[test]
fn a_flood_leaves_open_connections_alone_and_lets_others_in() {
    let mut link = Link::new();
    link.b.listen(listener(&["192.0.2.0/28"]));
    let (at_a, at_b) = link.open("192.0.2.2");
    let mut dice = Dice(5);
    let mut worst = Duration::ZERO;
    for round in 0..200_u32 {
        // Some 100,000 a second, of those who are not allowed and, fewer, of those who are.
        for _ in 0..100 {
            let n = dice.throw(200);
            let source = match n {
                0..10 => format!("192.0.2.{}", 3 + n),
                _ => format!("198.51.100.{n}"),
            };
            let from = (&*source, 1_000 + u16::try_from(dice.throw(50_000)).unwrap());
            let frame = segment_from(from, PORT, flags::SYN, 0);
            link.b.handle_frame(&frame, link.now);
            // What it says to them is not their affair.
            while link.b.poll_frame().is_some() || link.b.poll_segment().is_some() {}
        }
        assert!(link.b.connections().count() <= 1 + limits::OPENINGS + 1);
        if round % 20 == 0 {
            worst = worst.max(transfer(&mut link, (at_a, at_b), &noise(10_000)));
        }
        link.pass(Duration::from_millis(1));
    }
    assert!(worst < SECOND, "{worst:?}");
    let _also = link.open("192.0.2.2");
    let limited = link.b.dropped(HostDrop::TcpOpeningsFull);
    assert!(limited > 0 && link.b.dropped(HostDrop::TcpNotAllowed) > 0);
    link.pass(30 * SECOND);
    assert_eq!(link.b.connections().count(), 2);
}

/// Nobody has more than one, and none is old: each is answered within the time that a round trip takes.
#[test]
fn a_flood_of_many_sources_keeps_nobody_out() {
    let mut link = Link::new();
    link.b.listen(listener(&["0.0.0.0/0"]));
    // They are neighbors from here on.
    let (at_a, at_b) = link.open("192.0.2.2");
    link.a.release(at_a, true, link.now);
    link.b.release(at_b, true, link.now);
    let mut dice = Dice(7);
    let mut flood = |link: &mut Link, n: u32| {
        for _ in 0..n {
            let source = format!("192.0.{}.{}", 3 + dice.throw(200), dice.throw(250));
            let port = 1_000 + u16::try_from(dice.throw(50_000)).unwrap();
            let frame = segment_from((&source, port), PORT, flags::SYN, 0);
            link.b.handle_frame(&frame, link.now);
            // Half of them acknowledge, what they can't know.
            let frame = segment_from((&source, port), PORT, flags::ACK, 77);
            link.b.handle_frame(&frame, link.now);
            while link.b.poll_frame().is_some() || link.b.poll_segment().is_some() {}
        }
    };
    // 2,000 a second, which is what a worker lets through.
    for _ in 0..300 {
        flood(&mut link, 2);
        link.pass(Duration::from_millis(1));
    }
    let to = SocketAddr::new(ip("192.0.2.2"), PORT);
    for _ in 0..3 {
        let at_a = link.a.connect(to, link.now).unwrap();
        for _ in 0..100 {
            flood(&mut link, 2);
            link.pass(Duration::from_millis(1));
        }
        assert_eq!(link.a.phase(at_a), Phase::Open);
        let at_b = link.b.poll_accepted().unwrap();
        link.a.release(at_a, true, link.now);
        link.b.release(at_b, true, link.now);
    }
    let most = limits::CONNECTIONS + limits::OPENINGS;
    assert!(link.b.connections().count() <= most);
    link.pass(30 * SECOND);
    assert_eq!(link.b.connections().count(), 0);
}

#[test]
fn what_is_not_open_costs_a_syn_and_is_given_up_by_whoever_sent_it() {
    let mut link = Link::new();
    link.b.listen(listener(&["192.0.2.0/28"]));
    let says = |link: &mut Link, flag, sequence: u32, ack| {
        let mut frame = segment_from(("192.0.2.7", 4_000), PORT, flag, ack);
        renumber(&mut frame, sequence);
        link.b.handle_frame(&frame, link.now);
    };
    says(&mut link, flags::SYN, 100, 0);
    assert_eq!(link.b.connections().count(), 1);
    // Who doesn't know the numbers moves nothing.
    says(&mut link, flags::ACK, 101, 5);
    says(&mut link, flags::RST, 7, 0);
    says(&mut link, flags::SYN, 200, 0);
    link.pass(Duration::from_millis(1));
    assert_eq!(link.b.connections().count(), 1);
    assert!(link.b.poll_accepted().is_none());
    says(&mut link, flags::RST, 101, 0);
    link.pass(SECOND);
    assert_eq!(link.b.connections().count(), 0);
}

/// Who begins a connection to b and acknowledges its answer: it is open, whoever he is.
fn opened(link: &mut Link, (source, source_port): (&str, u16), port: u16) -> Option<ConnectionId> {
    let from = (source, source_port);
    link.b.resolve(ip(source), link.now);
    link.b
        .handle_frame(&arp_reply(C, source, B, "192.0.2.2"), link.now);
    link.b
        .handle_frame(&segment_from(from, port, flags::SYN, 0), link.now);
    link.b.handle_timeout(link.now);
    let answers = segments(&mut link.b);
    let answer = answers.iter().find(|it| it.flags & flags::SYN != 0)?;
    let mut frame = segment_from(from, port, flags::ACK, answer.sequence.wrapping_add(1));
    renumber(&mut frame, 8);
    link.b.handle_frame(&frame, link.now);
    link.b.handle_timeout(link.now);
    link.b.poll_accepted()
}

#[test]
fn what_is_open_makes_no_room_and_what_is_over_does() {
    let mut link = Link::new();
    // One service, and what begins here: half of all places are its, and half of these one source's.
    let of_one = limits::CONNECTIONS / 4;
    let mut open = Vec::new();
    for _ in 0..of_one {
        link.pass(SECOND);
        open.push(link.open("192.0.2.2"));
    }
    let from_a = |port| ("192.0.2.1", port);
    assert_eq!(opened(&mut link, from_a(999), PORT), None);
    assert_eq!(link.b.dropped(HostDrop::TcpSourceFull), 1);
    // Another's places are his.
    for n in 0..2 {
        assert!(opened(&mut link, ("192.0.2.7", 1_000 + n), PORT).is_some());
    }
    // What b has ended waits, and holds no place from another of his; once all are taken it makes room.
    for (at_a, at_b) in open.drain(..2) {
        link.b.release(at_b, false, link.now);
        link.pass(Duration::from_millis(10));
        link.a.release(at_a, false, link.now);
        link.pass(Duration::from_millis(10));
    }
    link.open("192.0.2.2");
    assert_eq!(link.b.connections().count(), of_one + 3);
    assert_eq!(link.b.dropped(HostDrop::TcpSourceFull), 1);
    for n in 0..500 {
        let source = format!("192.0.2.{}", 8 + n % 20);
        opened(&mut link, (&source, 1_000 + n), PORT);
    }
    let phases: Vec<_> = link.b.connections().map(|(_, phase)| phase).collect();
    assert_eq!(phases, [Phase::Open].repeat(2 * of_one));
    // Who listens on nothing has all places for those that it begins.
    let to = SocketAddr::new(ip("192.0.2.99"), PORT);
    let began = (0..).take_while(|_| link.a.connect(to, link.now).is_ok());
    assert!(began.count() >= limits::CONNECTIONS - of_one - 2);
    assert_eq!(link.a.connect(to, link.now), Err(ConnectError::Full));
}

/// A host has two sources, and who comes later finds places, the fewer the more have come.
#[test]
fn a_host_of_both_families_leaves_places_to_others() {
    let mut link = Link::new();
    let places = limits::CONNECTIONS / 2;
    let mut fill = |to: &str| {
        let to = SocketAddr::new(ip(to), PORT);
        for _ in 0..places {
            let _ = link.a.connect(to, link.now);
            link.pass(Duration::from_millis(50));
        }
        while link.b.poll_accepted().is_some() {}
        let open = link.b.connections().filter(|(_, it)| *it == Phase::Open);
        let open = open.count();
        link.pass(Duration::from_secs(12));
        open
    };
    assert_eq!(fill("192.0.2.2"), places / 2);
    assert_eq!(fill("2001:db8::2"), places / 4 * 3);
    assert_eq!(link.b.dropped(HostDrop::TcpServiceFull), 0);
    let others = (0..20).filter(|n| opened(&mut link, ("192.0.2.9", 999 + n), PORT).is_some());
    assert_eq!(others.count(), places / 8);
}

/// Who begins a connection and doesn't hear us takes no place, not even one that is over.
#[test]
fn who_guesses_what_opens_a_connection_moves_nobody() {
    let mut link = Link::new();
    let waiting = |link: &Link| {
        let phases = link.b.connections().map(|(_, phase)| phase);
        phases.filter(|it| *it == Phase::Waiting).count()
    };
    let of_one = limits::CONNECTIONS / 4;
    while waiting(&link) < of_one {
        let (at_a, at_b) = link.open("192.0.2.2");
        link.b.release(at_b, false, link.now);
        link.pass(Duration::from_millis(10));
        link.a.release(at_a, false, link.now);
        link.pass(Duration::from_millis(10));
    }
    let from_a = |flag, ack| segment_from(("192.0.2.1", 999), PORT, flag, ack);
    link.b.handle_frame(&from_a(flags::SYN, 0), link.now);
    for guess in 0..100 {
        link.b.handle_frame(&from_a(flags::ACK, guess), link.now);
    }
    assert_eq!(waiting(&link), of_one);
}

/// Whoever is let in by one service, and holds all that he can get of it, keeps nobody from the others.
#[test]
fn who_fills_a_service_fills_no_other_nor_what_begins_here() {
    const OTHER: u16 = 7;
    let mut link = Link::new();
    let listeners = [(PORT, 0), (OTHER, 2), (9, 2), (19, 2)].map(|(port, service)| Listener {
        port,
        service: Service(service),
        allow: vec![prefix("192.0.2.0/24"), prefix("2001:db8::/32")],
    });
    link.b.listen(listeners.to_vec());
    let places = limits::CONNECTIONS / 3;
    // By all ports of the service.
    let mut filled = 0;
    for host in 3..9 {
        let source = format!("192.0.2.{host}");
        for n in 0..limits::CONNECTIONS {
            let port = [OTHER, 9, 19][n % 3];
            let source_port = 2_000 + u16::try_from(n).unwrap();
            filled += usize::from(opened(&mut link, (&source, source_port), port).is_some());
        }
    }
    assert_eq!(filled, places);
    assert!(link.b.dropped(HostDrop::TcpSourceFull) > 0);
    assert!(link.b.dropped(HostDrop::TcpServiceFull) > 0);
    assert_eq!(link.b.dropped(HostDrop::TcpConnectionsFull), 0);
    // Even who has filled it gets a place of another, and all others do.
    assert!(opened(&mut link, ("192.0.2.3", 999), PORT).is_some());
    link.open("192.0.2.2");
    link.open("2001:db8::2");
    let to = SocketAddr::new(ip("192.0.2.99"), PORT);
    let own = (0..limits::CONNECTIONS).take_while(|_| link.b.connect(to, link.now).is_ok());
    assert_eq!(own.count(), places);
}

/// Who sends as much as goes through keeps nobody from sending: neither a younger connection nor another service.
#[test]
fn each_service_has_its_share_of_what_is_sent_and_each_connection_of_that() {
    const OTHER: u16 = 7;
    let mut link = Link::new();
    let listeners = [(PORT, 0), (OTHER, 1)].map(|(port, service)| Listener {
        port,
        service: Service(service),
        allow: vec![prefix("192.0.2.0/24")],
    });
    link.b.listen(listeners.to_vec());
    let mut open = |port| {
        let to = SocketAddr::new(ip("192.0.2.2"), port);
        let at_a = link.a.connect(to, link.now).unwrap();
        link.pass(2 * SECOND);
        (at_a, link.b.poll_accepted().unwrap())
    };
    let mut ends: Vec<_> = (0..8).map(|_| open(PORT)).collect();
    ends.push(open(OTHER));
    let bytes = noise(limits::CONNECTION_BUFFER);
    let mut got = [0; 9];
    for round in 0..150 {
        // Until then they find out how much they may send, all as fast as they can.
        if round == 75 {
            got = [0; 9];
        }
        for (got, &(at_a, at_b)) in got.iter_mut().zip(&ends) {
            link.b.write(at_b, &bytes, link.now);
            let mut came = Vec::new();
            read_all(&mut link.a, at_a, link.now, &mut came);
            *got += came.len();
        }
        // A round's room, and all that comes back.
        link.b.handle_timeout(link.now);
        for _ in 0..limits::HOST_SEGMENTS {
            let frame = link.b.poll_frame().or_else(|| link.b.poll_segment());
            frame
                .into_iter()
                .for_each(|frame| link.a.handle_frame(&frame, link.now));
        }
        link.a.handle_timeout(link.now);
        while let Some(frame) = link.a.poll_frame().or_else(|| link.a.poll_segment()) {
            link.b.handle_frame(&frame, link.now);
        }
        link.now = link.now + Duration::from_millis(1);
    }
    let all: usize = got.iter().sum();
    let (other, service) = got.split_last().unwrap();
    assert!(*other > all / 3, "{got:?}");
    let least = service.iter().min().unwrap();
    assert!(*least > all / 32, "{got:?}");
}

#[test]
fn silence_ends_a_connection_and_so_does_a_lost_address() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    // Asked whether they are there, they say so.
    link.pass(limits::CONNECTION_SILENCE * 3);
    assert_eq!(
        (link.a.phase(at_a), link.b.phase(at_b)),
        (Phase::Open, Phase::Open)
    );
    link.lost = 100;
    link.pass(limits::CONNECTION_SILENCE * 2);
    assert_eq!(
        (link.a.phase(at_a), link.b.phase(at_b)),
        (Phase::Closed, Phase::Closed)
    );

    link.lost = 0;
    let (at_a, at_b) = link.open("192.0.2.2");
    // Who holds one for nothing keeps others out.
    link.pass(limits::CONNECTION_IDLE + SECOND);
    assert_eq!(
        (link.a.phase(at_a), link.b.phase(at_b)),
        (Phase::Closed, Phase::Closed)
    );

    let (_, at_b) = link.open("192.0.2.2");
    let mut changed = config(B, 2);
    changed.addresses[0] = (ip("192.0.2.77"), 24);
    link.b.reconfigure(changed, link.now);
    assert_eq!(
        (link.b.phase(at_b), link.b.connection(at_b)),
        (Phase::Closed, None)
    );

    let (at_a, at_b) = link.open("2001:db8::2");
    link.b.listen(listener(&["192.0.2.0/24"]));
    link.pass(SECOND);
    assert_eq!(
        (link.a.phase(at_a), link.b.phase(at_b)),
        (Phase::Closed, Phase::Closed)
    );
}

#[test]
fn a_connection_that_nobody_answers_is_given_up() {
    let mut link = Link::new();
    for to in ["192.0.2.2:80", "192.0.2.99:80"] {
        let id = link.a.connect(to.parse().unwrap(), link.now).unwrap();
        link.pass(limits::OPENING_LIFE + SECOND);
        assert_eq!(link.a.phase(id), Phase::Closed, "{to}");
        link.a.release(id, true, link.now);
        link.pass(limits::CONNECTION_LINGER * 3);
        assert_eq!(link.a.connections().count(), 0, "{to}");
    }
    let refused = link.a.connect("10.0.0.1:0".parse().unwrap(), link.now);
    assert_eq!(refused, Err(ConnectError::NoPort));
    let nowhere = link.a.connect("224.0.0.1:80".parse().unwrap(), link.now);
    assert_eq!(nowhere, Err(ConnectError::NoRoute));
}

/// Who knows where a connection is begun to, and guesses from where, moves it no more than who is there (RFC 9293, section
/// 3.10.7.3).
#[test]
fn nobody_s_segment_without_our_number_disturbs_a_connection_that_begins() {
    let mut link = Link::new();
    link.open("192.0.2.2");
    for flag in [flags::SYN, flags::RST, flags::FIN, flags::SYN | flags::FIN] {
        let at_a = link
            .a
            .connect(SocketAddr::new(ip("192.0.2.2"), PORT), link.now);
        let at_a = at_a.unwrap();
        link.a.handle_timeout(link.now);
        link.send();
        let port = link.a.connection(at_a).unwrap().local.port();
        let mut frame = segment_to((A, ip("192.0.2.1"), port), (ip("192.0.2.2"), PORT), flag, 0);
        renumber(&mut frame, 77);
        link.a.handle_frame(&frame, link.now);
        link.pass(SECOND);
        assert_eq!(link.a.phase(at_a), Phase::Open, "{flag}");
        let at_b = link.b.poll_accepted().unwrap();
        transfer(&mut link, (at_a, at_b), &noise(1_000));
    }
}

#[test]
fn the_first_numbers_of_connections_tell_nothing_of_others() {
    let mut stack = quiet(B, 2);
    stack.listen(listener(&["0.0.0.0/0"]));
    stack.resolve(ip("192.0.2.7"), START);
    let mut known = quiet(C, 7);
    known.resolve(ip("192.0.2.2"), START);
    for frame in frames(&mut known) {
        stack.handle_frame(&frame, START + 10 * SECOND);
    }
    let mut numbers = std::collections::BTreeSet::new();
    for n in 0..64 {
        let now = START + 10 * SECOND;
        let from = ("192.0.2.7", 1_000 + n);
        stack.handle_frame(&segment_from(from, PORT, flags::SYN, 0), now);
        stack.handle_timeout(now);
        let answers = segments(&mut stack);
        let [answer] = answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(answer.flags, flags::SYN | flags::ACK);
        numbers.insert(answer.sequence >> 16);
    }
    assert!(numbers.len() > 60, "{numbers:?}");
}

/// The error of a router that its link takes no packet of ours longer than that, which has this number.
fn too_big(link: &Link, (ends, sequence): (Ends, u32), mtu: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.local.ip(), ends.remote.ip()) else {
        unreachable!("both are IPv4");
    };
    let ip = |source, destination, protocol, len| {
        ipv4::header(&ipv4::Ipv4Fields {
            source,
            destination,
            tos: 0,
            id: 1,
            dont_fragment: true,
            ttl: 64,
            protocol,
            total_len: len,
        })
    };
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(ip(source, destination, 6, 1_500));
    message.extend(ends.local.port().to_be_bytes());
    message.extend(ends.remote.port().to_be_bytes());
    message.extend(sequence.to_be_bytes());
    let sum = Checksum::of(&message).complement();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = u16::try_from(20 + message.len()).unwrap();
    let router = Ipv4Addr::new(192, 0, 2, 200);
    let header = ether::header(link.a.mac(), C, EtherType::IPV4);
    [&header[..], &ip(router, source, 1, len), &message].concat()
}

#[test]
fn a_path_that_takes_less_is_sent_less_and_nobody_makes_it_nothing() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    let ends = link.a.connection(at_a).unwrap();
    for (told, longest) in [(1_400, 1_400), (9_000, 1_400), (1_200, 1_200), (0, 552)] {
        link.a.write(at_a, b"!", link.now);
        link.a.handle_timeout(link.now);
        let frame = link.a.poll_segment().unwrap();
        let L4::Tcp(Segment { sequence, .. }) = parse_frame(&frame, 55).unwrap().l4 else {
            panic!("no segment");
        };
        // Who quotes another's, or guesses on the number, is nobody on the path (RFC 5927, section 7.2).
        let mut other = ends;
        other.remote.set_port(1);
        let before = link.a.dropped(HostDrop::ErrorUnmatched);
        for about in [
            (other, sequence),
            (ends, 0),
            (ends, sequence.wrapping_sub(1)),
            (ends, sequence.wrapping_add(1)),
        ] {
            link.a.handle_frame(&too_big(&link, about, 600), link.now);
        }
        assert_eq!(link.a.dropped(HostDrop::ErrorUnmatched), before + 4);
        let error = too_big(&link, (ends, sequence), told);
        link.a.handle_frame(&error, link.now);
        link.b.handle_frame(&frame, link.now);
        read_all(&mut link.b, at_b, link.now, &mut Vec::new());
        link.longest = 0;
        transfer(&mut link, (at_a, at_b), &noise(100_000));
        assert_eq!(link.longest, longest, "told {told}");
        link.pass(SECOND);
    }
}

/// The numbers of b's connection with a: what b expects next, and what it has sent.
fn numbers(link: &mut Link, (at_a, at_b): (ConnectionId, ConnectionId)) -> (u16, u32, u32) {
    let port = link.b.connection(at_b).unwrap().remote.port();
    link.a.write(at_a, b"?", link.now);
    link.a.handle_timeout(link.now);
    let frame = link.a.poll_segment().unwrap();
    let L4::Tcp(tcp) = parse_frame(&frame, 55).unwrap().l4 else {
        panic!("no segment");
    };
    link.b.handle_frame(&frame, link.now);
    link.pass(Duration::from_millis(100));
    (port, tcp.sequence.wrapping_add(1), tcp.acknowledgment)
}

/// A segment that says to be a's.
fn forged(port: u16, flag: u8, sequence: u32, acknowledgment: u32) -> Vec<u8> {
    let mut frame = segment_from(("192.0.2.1", port), PORT, flag, acknowledgment);
    renumber(&mut frame, sequence);
    frame
}

/// Who knows the ends of a connection and guesses on its numbers neither ends nor disturbs it (RFC 5961).
#[test]
fn no_guess_within_the_window_ends_a_connection() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    let mut sent = 0;
    let mut next = numbers(&mut link, (at_a, at_b));
    for read in [false, true] {
        if read {
            read_all(&mut link.b, at_b, link.now, &mut Vec::new());
        }
        let (port, sequence, acknowledgment) = next;
        let doubts = [
            (flags::RST, 1, 0, HostDrop::TcpResetDoubtful),
            (
                flags::RST | flags::ACK,
                60_000,
                0,
                HostDrop::TcpResetDoubtful,
            ),
            (flags::RST, 1 << 30, 0, HostDrop::TcpResetDoubtful),
            (flags::RST, u32::MAX, 0, HostDrop::TcpResetDoubtful),
            (flags::SYN, 0, 0, HostDrop::TcpSynDoubtful),
            (flags::SYN, 5_000, 0, HostDrop::TcpSynDoubtful),
            (flags::SYN | flags::ACK, 77_777, 0, HostDrop::TcpSynDoubtful),
            (flags::ACK, 0, 1, HostDrop::TcpAckDoubtful),
            (flags::ACK | flags::FIN, 0, 9_000, HostDrop::TcpAckDoubtful),
        ];
        for (flag, ahead, ahead_of_ours, reason) in doubts {
            link.pass(SECOND);
            let frame = forged(
                port,
                flag,
                sequence.wrapping_add(ahead),
                acknowledgment.wrapping_add(ahead_of_ours),
            );
            let before = link.b.dropped(reason);
            link.b.handle_frame(&frame, link.now);
            link.b.handle_timeout(link.now);
            assert_eq!(link.b.dropped(reason), before + 1, "{flag} {ahead}");
            assert_eq!(link.b.phase(at_b), Phase::Open, "{flag} {ahead}");
            let answers = segments(&mut link.b);
            let is_asked = ahead < 1 << 20;
            assert_eq!(answers.len(), usize::from(is_asked), "{flag} {ahead}");
            for answer in answers {
                assert_eq!(answer.flags, flags::ACK);
                assert_eq!(
                    (answer.sequence, answer.acknowledgment),
                    (acknowledgment, sequence)
                );
            }
        }
        // Questions are seldom.
        for _ in 0..1_000 {
            let frame = forged(port, flags::RST, sequence.wrapping_add(7), 0);
            link.b.handle_frame(&frame, link.now);
            link.b.handle_timeout(link.now);
            sent += segments(&mut link.b).len();
        }
        assert!(sent <= 2, "{sent}");
        read_all(&mut link.b, at_b, link.now, &mut Vec::new());
        transfer(&mut link, (at_a, at_b), &noise(10_000));
        next = numbers(&mut link, (at_a, at_b));
    }
    // Who knows the number means it.
    let (port, sequence, _) = next;
    link.b
        .handle_frame(&forged(port, flags::RST, sequence, 0), link.now);
    assert_eq!(link.b.phase(at_b), Phase::Closed);
}

/// A window is told in steps of eight bytes: who has filled it, and sent the few that the next one left out, acknowledges
/// from behind it.
#[test]
fn what_is_acknowledged_behind_a_closed_window_is_not_sent_again() {
    const LEFT: usize = 4;
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    let (port, mut sequence, acknowledgment) = numbers(&mut link, (at_a, at_b));
    let bytes = noise(limits::CONNECTION_BUFFER - 1 - LEFT);
    let mut sent = 0;
    while sent < bytes.len() {
        sent += link.a.write(at_a, &bytes[sent..], link.now);
        link.pass(Duration::from_millis(100));
    }
    sequence = sequence.wrapping_add(u32::try_from(bytes.len() + LEFT).unwrap());
    link.lost = 100;
    link.b.write(at_b, b"lost on its way", link.now);
    link.b.handle_timeout(link.now);
    assert_eq!(segments(&mut link.b).len(), 1);
    let has_come = forged(port, flags::ACK, sequence, acknowledgment.wrapping_add(15));
    link.b.handle_frame(&has_come, link.now);
    link.b.handle_timeout(link.now);
    segments(&mut link.b);
    for _ in 0..100 {
        link.now = link.now + Duration::from_millis(100);
        link.b.handle_timeout(link.now);
        let again = std::iter::from_fn(|| link.b.poll_segment());
        assert!(
            again.into_iter().all(|frame| frame.len() <= 14 + 40),
            "sent again"
        );
    }
}

/// A host that has a connection of ours and moves is asked where it is, once it says what only it knows.
#[test]
fn who_moves_in_mid_connection_is_found_again() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    let (port, sequence, acknowledgment) = numbers(&mut link, (at_a, at_b));
    let goes_to = |link: &mut Link| {
        link.b.write(at_b, b"!", link.now);
        link.b.handle_timeout(link.now);
        let frames = std::iter::from_fn(|| link.b.poll_frame().or_else(|| link.b.poll_segment()));
        frames.last().map(|frame| frame[..6].to_vec())
    };
    // Whoever guesses is believed nothing.
    for ahead in [1 << 30, u32::MAX - 5_000] {
        let sequence = sequence.wrapping_add(ahead);
        let guess = forged(port, flags::ACK, sequence, acknowledgment);
        link.b.handle_frame(&guess, link.now);
        assert_eq!(goes_to(&mut link), Some(A.0.to_vec()));
    }
    link.a.reconfigure(config(C, 1), link.now);
    link.pass(5 * SECOND);
    link.a.write(at_a, b"here", link.now);
    link.pass(5 * SECOND);
    assert_eq!(goes_to(&mut link), Some(C.0.to_vec()));
    link.pass(5 * SECOND);
    let mut got = Vec::new();
    read_all(&mut link.a, at_a, link.now, &mut got);
    assert_eq!(got, b"!!!");
}

/// What a guesser acknowledges in segments that lie in no window was not acknowledged: it is sent again.
#[test]
fn what_lies_in_no_window_acknowledges_nothing() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    transfer(&mut link, (at_a, at_b), &noise(20_000));
    let Ends { local, .. } = link.a.connection(at_a).unwrap();
    link.lost = 100;
    let bytes = noise(5_000);
    assert_eq!(link.a.write(at_a, &bytes, link.now), bytes.len());
    link.a.handle_timeout(link.now);
    let first = link.a.poll_segment().unwrap();
    let L4::Tcp(first) = parse_frame(&first, 1_514).unwrap().l4 else {
        panic!("no segment");
    };
    // Silence has what was sent looked after; then every acknowledgment has the next byte sent again.
    link.pass(Duration::from_millis(300));
    for n in 1..100 {
        for ahead in [1 << 30, u32::MAX - 5_000] {
            let acknowledgment = first.sequence.wrapping_add(n * 50);
            let to = (A, local.ip(), local.port());
            let from_b = (ip("192.0.2.2"), PORT);
            let mut frame = segment_to(to, from_b, flags::ACK, acknowledgment);
            renumber(&mut frame, first.acknowledgment.wrapping_add(ahead));
            link.a.handle_frame(&frame, link.now);
            link.pass(Duration::from_millis(1));
        }
    }
    link.lost = 0;
    link.pass(5 * SECOND);
    let mut got = Vec::new();
    read_all(&mut link.b, at_b, link.now, &mut got);
    assert!(got == bytes, "{} of {} came", got.len(), bytes.len());
}

/// Who has lost a connection, and begins it anew, answers the question about that with the number that ends it.
#[test]
fn who_begins_anew_from_the_same_port_is_let_in_after_a_question() {
    let mut link = Link::new();
    let (at_a, at_b) = link.open("192.0.2.2");
    transfer(&mut link, (at_a, at_b), &noise(1_000));
    let (port, ..) = numbers(&mut link, (at_a, at_b));
    // It has started anew, and knows nothing.
    link.a.reconfigure(config(A, 1), link.now);
    link.a.release(at_a, true, link.now);
    while link.a.poll_segment().is_some() || link.a.poll_frame().is_some() {}
    link.pass(limits::CONNECTION_LINGER / 2);
    let frame = forged(port, flags::SYN, 123, 0);
    link.b.handle_frame(&frame, link.now);
    link.b.handle_timeout(link.now);
    // What it has forgotten it resets.
    link.pass(SECOND);
    assert_eq!(link.b.phase(at_b), Phase::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes, nothing panics, and what is kept is bounded.
    #[test]
    fn any_segments_leave_the_stack_standing(
        bytes in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u8>(), any::<[u8; 24]>()), 1..60),
    ) {
        let mut link = Link::new();
        let (_, at_b) = link.open("192.0.2.2");
        let Ends { remote, .. } = link.b.connection(at_b).unwrap();
        for (flag, ack, host, options) in bytes {
            let source = format!("192.0.2.{}", if host < 128 { 1 } else { 3 + host % 8 });
            let mut frame = segment(&source, PORT, flag, ack);
            if host < 128 {
                frame[34..36].copy_from_slice(&remote.port().to_be_bytes());
            }
            frame[46] = 0xb0;
            frame[38..42].copy_from_slice(&options[20..]);
            frame.extend(options);
            let len = u16::try_from(frame.len() - 14).unwrap();
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[24..26].fill(0);
            let sum = Checksum::of(&frame[14..34]).complement();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            link.b.handle_frame(&frame, link.now);
            link.pass(Duration::from_millis(3));
            let most = limits::CONNECTIONS + limits::OPENINGS;
            prop_assert!(link.b.connections().count() <= most);
        }
    }
}
