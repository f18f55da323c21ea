//! Names: a stack that asks, and servers of another stack's endpoints that answer, or don't.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use hickory_proto::op::{Message, ResponseCode};

use super::*;
use crate::{
    dns::{self, Client, Excuse, Failure, Families, Found, answer},
    tcp::{ConnectionId, Listener, Phase},
    udp::{EndpointId, Family, Received},
};

const BOTH: Families = Families { v4: true, v6: true };
const V4: Families = Families {
    v4: true,
    v6: false,
};
const NAME: &str = "peer.example.org";
const SECOND: Duration = Duration::from_secs(1);

/// `a` asks, `b` answers; time passes as both want it.
struct Site {
    a: HostStack,
    b: HostStack,
    server: EndpointId,
    client: Client<u32>,
    now: Instant,
    /// Connections that `b` has.
    calls: Vec<ConnectionId>,
}

type Told = (u32, Result<Found, Failure>);

impl Site {
    fn new(servers: &[&str]) -> Self {
        let mut b = quiet(B, 2);
        let server = b.open_endpoint(Family::Dual).unwrap();
        b.bind(server, None, dns::PORT).unwrap();
        b.listen(vec![Listener {
            port: dns::PORT,
            service: crate::tcp::Service(0),
            allow: vec!["0.0.0.0", "::"]
                .into_iter()
                .map(|all| culvert_wire::fib::Prefix::new(ip(all), 0).unwrap())
                .collect(),
        }]);
        let mut client = Client::new(RandomState::new());
        let servers: Vec<_> = servers.iter().map(|it| ip(it)).collect();
        client.ask_of(&servers);
        Self {
            a: quiet(A, 1),
            b,
            server,
            client,
            now: START + Duration::from_secs(10),
            calls: Vec::new(),
        }
    }

    fn exchange(&mut self) {
        for _ in 0..6 {
            self.client.turn(&mut self.a, self.now);
            self.a.handle_timeout(self.now);
            self.b.handle_timeout(self.now);
            while let Some(frame) = self.a.poll_frame().or_else(|| self.a.poll_segment()) {
                self.b.handle_frame(&frame, self.now);
            }
            while let Some(frame) = self.b.poll_frame().or_else(|| self.b.poll_segment()) {
                self.a.handle_frame(&frame, self.now);
            }
            self.calls.extend(self.b.poll_accepted());
        }
    }

    /// What comes of the questions within a time; a server answers each datagram with some others.
    fn told(&mut self, within: Duration, serve: impl Fn(&Received) -> Vec<Vec<u8>>) -> Vec<Told> {
        let end = self.now + within;
        let mut told = Vec::new();
        while self.now < end {
            self.exchange();
            while let Ok(question) = self.b.receive(self.server) {
                for bytes in serve(&question) {
                    let to = Some(question.from);
                    self.b.send_to(self.server, to, &bytes, self.now).unwrap();
                }
            }
            self.exchange();
            told.extend(std::iter::from_fn(|| self.client.poll_found()));
            if self.client.is_empty() {
                break;
            }
            self.now = self.now + Duration::from_millis(50);
        }
        told
    }

    /// Has the calls answered, whatever they ask, by these bytes.
    fn answer_calls(&mut self, written: impl Fn(&[u8]) -> Vec<u8>) {
        let now = self.now;
        for id in self.calls.drain(..) {
            let mut asked = Vec::new();
            self.b.read(id, now, |bytes| {
                asked.extend_from_slice(bytes);
                bytes.len()
            });
            let bytes = written(asked.get(2..).unwrap_or_default());
            assert_eq!(self.b.write(id, &bytes, now), bytes.len());
        }
    }

    fn ask(&mut self, ticket: u32, families: Families) {
        self.client.look_up(ticket, NAME, families, self.now);
    }

    /// Nothing of questions is left in the stack.
    fn is_clean(&mut self) -> bool {
        let endpoints: Vec<_> =
            std::iter::from_fn(|| self.a.open_endpoint(Family::V4).ok()).collect();
        let all = endpoints.len() == limits::ENDPOINTS;
        endpoints
            .into_iter()
            .for_each(|id| self.a.close_endpoint(id));
        let open = |(_, phase): &(_, Phase)| matches!(phase, Phase::Open | Phase::Opening);
        all && !self.a.connections().any(|it| open(&it)) && self.client.is_empty()
    }
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

fn good(question: &Received) -> Vec<Vec<u8>> {
    let records = [(NAME, 60, "192.0.2.77"), (NAME, 30, "2001:db8::77")];
    vec![bytes(&answer(&question.bytes, &records))]
}

fn nobody(_: &Received) -> Vec<Vec<u8>> {
    Vec::new()
}

fn failure(told: Vec<Told>) -> Failure {
    assert_eq!(told.len(), 1, "{told:?}");
    told.into_iter().next().unwrap().1.unwrap_err()
}

#[test]
fn both_families_are_asked_and_no_question_has_another_s_port_or_number() {
    let mut site = Site::new(&["192.0.2.2"]);
    let (mut ports, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..50 {
        site.ask(round, BOTH);
        let seen = std::cell::RefCell::new(Vec::new());
        let told = site.told(Duration::from_secs(1), |question| {
            let id = [question.bytes[0], question.bytes[1]];
            seen.borrow_mut().push((question.from.port(), id));
            good(question)
        });
        let expected = Found {
            addresses: vec![ip("2001:db8::77"), ip("192.0.2.77")],
            lifetime: Duration::from_secs(30),
        };
        assert_eq!(told, [(round, Ok(expected))]);
        for (port, id) in seen.into_inner() {
            ports.insert(port);
            ids.insert(id);
        }
    }
    // Of 4,536 ports and 65,536 numbers some come twice.
    assert!(
        ports.len() > 90 && ids.len() > 95,
        "{} {}",
        ports.len(),
        ids.len()
    );
    assert!(ports.iter().all(|port| (61_000..).contains(port)));
    assert!(site.is_clean());
}

#[test]
fn a_server_of_the_other_family_and_one_behind_a_silent_one_are_asked() {
    let mut site = Site::new(&["2001:db8::2"]);
    site.ask(1, V4);
    let told = site.told(Duration::from_secs(1), good);
    assert_eq!(told[0].1.as_ref().unwrap().addresses, [ip("192.0.2.77")]);

    let mut site = Site::new(&["192.0.2.3", "192.0.2.2"]);
    site.ask(1, V4);
    let began = site.now;
    let told = site.told(Duration::from_secs(9), good);
    assert!(told[0].1.is_ok(), "{told:?}");
    let waited = site.now.since(began);
    assert!((1_100..2_000).contains(&waited.as_millis()), "{waited:?}");
    assert!(site.is_clean());
}

#[test]
fn servers_that_are_silent_are_asked_three_times_and_then_told() {
    let mut site = Site::new(&["192.0.2.2", "192.0.2.3"]);
    site.ask(1, BOTH);
    let asked = std::cell::Cell::new(0);
    let began = site.now;
    let told = site.told(Duration::from_secs(60), |_| {
        asked.set(asked.get() + 1);
        Vec::new()
    });
    assert_eq!(asked.get(), 2 * 3);
    assert!(site.now.since(began) <= limits::NAME_LIFE + Duration::from_secs(1));
    let failure = failure(told);
    assert_eq!(
        failure.to_string(),
        "192.0.2.2 does not answer, 192.0.2.3 does not answer"
    );
    assert!(site.is_clean());
}

#[test]
fn nobody_to_ask_and_no_name_are_told_at_once() {
    let mut site = Site::new(&[]);
    site.ask(1, BOTH);
    assert_eq!(failure(site.told(SECOND, good)), Failure::NobodyToAsk);
    let mut site = Site::new(&["192.0.2.2"]);
    site.ask(1, Families::default());
    assert_eq!(failure(site.told(SECOND, good)), Failure::NobodyToAsk);
    let long = "a".repeat(64);
    site.client.look_up(2, &long, BOTH, site.now);
    assert_eq!(failure(site.told(SECOND, good)), Failure::NoName);
    // A server that no route leads to.
    let mut site = Site::new(&["fec0::1"]);
    site.a.reconfigure(
        HostConfig {
            routes: Vec::new(),
            ..config(A, 1)
        },
        site.now,
    );
    site.ask(1, V4);
    let excuses = [(ip("fec0::1"), Excuse::NoRoute)].into();
    assert_eq!(
        failure(site.told(Duration::from_secs(9), good)),
        Failure::Servers(excuses)
    );
}

#[test]
fn what_a_server_says_of_a_name_counts_and_what_it_can_t_say_does_not() {
    let says = |code: ResponseCode| {
        move |question: &Received| {
            let mut message = answer(&question.bytes, &[]);
            message.metadata.response_code = code;
            vec![bytes(&message)]
        }
    };
    let mut site = Site::new(&["192.0.2.2"]);
    site.ask(1, BOTH);
    let told = site.told(SECOND, says(ResponseCode::NXDomain));
    assert_eq!(failure(told), Failure::Unknown);
    site.ask(2, BOTH);
    let told = site.told(SECOND, says(ResponseCode::NoError));
    assert_eq!(failure(told), Failure::NoAddress);
    site.ask(3, BOTH);
    let told = site.told(Duration::from_secs(9), says(ResponseCode::ServFail));
    let text = failure(told).to_string();
    assert!(text.starts_with("192.0.2.2 says: "), "{text}");
    // One family's silence does not hide what the other one has.
    site.ask(4, BOTH);
    let told = site.told(Duration::from_secs(60), |question| {
        let is_v4 = question.bytes.ends_with(&[0, 1, 0, 1]);
        if is_v4 { good(question) } else { Vec::new() }
    });
    assert_eq!(told[0].1.as_ref().unwrap().addresses, [ip("192.0.2.77")]);
    assert!(site.is_clean());
}

#[test]
fn a_server_whose_port_is_closed_is_left_at_once() {
    let mut site = Site::new(&["192.0.2.2"]);
    site.b.close_endpoint(site.server);
    site.ask(1, V4);
    let began = site.now;
    let text = failure(site.told(Duration::from_secs(9), nobody)).to_string();
    assert_eq!(text, "192.0.2.2 can't be reached (port-unreachable)");
    assert!(site.now.since(began) < Duration::from_secs(3));
}

#[test]
fn a_truncated_answer_is_asked_for_by_a_connection() {
    let mut site = Site::new(&["192.0.2.2"]);
    site.ask(1, V4);
    let truncated = |question: &Received| {
        let mut message = answer(&question.bytes, &[]);
        message.metadata.truncation = true;
        vec![bytes(&message)]
    };
    assert!(site.told(Duration::from_millis(100), truncated).is_empty());
    assert_eq!(site.calls.len(), 1);
    site.answer_calls(|question| {
        let names: Vec<_> = (1..=100).map(|n| format!("192.0.2.{n}")).collect();
        let records: Vec<_> = names.iter().map(|it| (NAME, 60, it.as_str())).collect();
        let message = bytes(&answer(question, &records));
        let len = u16::try_from(message.len()).unwrap();
        [&len.to_be_bytes()[..], &message].concat()
    });
    let told = site.told(SECOND, nobody);
    let found = told[0].1.as_ref().unwrap();
    assert_eq!(found.addresses.len(), limits::NAME_ADDRESSES);
    assert!(site.is_clean());

    // One that is told to be endless is not read, and one that never comes is not waited for.
    for answer in [vec![0xff, 0xff, 1], vec![0, 9, 1], Vec::new()] {
        site.ask(2, V4);
        let is_long = answer.starts_with(&[0xff]);
        let before = site.a.dropped(HostDrop::NameTooLong);
        let end = site.now + Duration::from_secs(40);
        let mut told = Vec::new();
        while told.is_empty() && site.now < end {
            told = site.told(Duration::from_millis(100), truncated);
            site.answer_calls(|_| answer.clone());
        }
        let failure = failure(told);
        let excuse = if is_long {
            Excuse::TooLong
        } else {
            Excuse::Silent
        };
        assert_eq!(
            failure,
            Failure::Servers([(ip("192.0.2.2"), excuse)].into())
        );
        let counted = site.a.dropped(HostDrop::NameTooLong) - before;
        assert_eq!(counted, if is_long { 3 } else { 0 });
        assert!(site.is_clean());
    }
}

#[test]
fn answers_that_are_none_are_counted_and_lead_to_a_connection() {
    let mut site = Site::new(&["192.0.2.2"]);
    site.ask(1, V4);
    // By a wrong number, whoever found the port.
    let forged = |question: &Received| {
        let mut all = Vec::new();
        for guess in 1..=100_u8 {
            let mut message = good(question).remove(0);
            message[1] ^= guess;
            all.push(message);
        }
        all
    };
    assert!(site.told(Duration::from_millis(100), forged).is_empty());
    let unasked = site.a.dropped(HostDrop::NameUnasked);
    assert_eq!(unasked, u64::try_from(limits::NAME_STRANGE).unwrap());
    assert_eq!(site.a.dropped(HostDrop::NameSpoofed), 1);
    assert_eq!(site.calls.len(), 1);
    site.answer_calls(|question| {
        let message = bytes(&answer(question, &[(NAME, 60, "192.0.2.7")]));
        let len = u16::try_from(message.len()).unwrap();
        [&len.to_be_bytes()[..], &message].concat()
    });
    let told = site.told(SECOND, nobody);
    assert_eq!(told[0].1.as_ref().unwrap().addresses, [ip("192.0.2.7")]);

    // From another address, or another port of the server's: the endpoint never hears it.
    let mut site = Site::new(&["192.0.2.2"]);
    let other = site.b.open_endpoint(Family::V4).unwrap();
    site.b.bind(other, None, 5_353).unwrap();
    site.ask(1, V4);
    site.exchange();
    let question = site.b.receive(site.server).unwrap();
    let message = good(&question).remove(0);
    site.b
        .send_to(other, Some(question.from), &message, site.now)
        .unwrap();
    let told = site.told(Duration::from_millis(200), nobody);
    assert!(told.is_empty() && site.a.dropped(HostDrop::NameUnasked) == 0);
}

#[test]
fn crowds_of_names_leave_nothing_and_take_no_more_than_their_room() {
    let mut site = Site::new(&["192.0.2.2"]);
    let most = u32::try_from(limits::NAMES).unwrap();
    for ticket in 0..=most {
        site.ask(ticket, BOTH);
    }
    let told = site.told(Duration::from_millis(50), nobody);
    assert_eq!(told, [(most, Err(Failure::Full))]);
    // All of their answers are truncated: few have a connection at a time.
    let truncated = |question: &Received| {
        let mut message = answer(&question.bytes, &[]);
        message.metadata.truncation = true;
        vec![bytes(&message)]
    };
    let told = site.told(Duration::from_secs(8), truncated);
    assert!(told.is_empty() && site.a.connections().count() <= limits::NAME_STREAMS + 8);
    let told = site.told(Duration::from_secs(60), truncated);
    assert_eq!(told.len(), limits::NAMES);
    assert!(site.is_clean());
    // Names that nobody has, again and again.
    for ticket in 0..500 {
        site.ask(ticket, BOTH);
        let told = site.told(SECOND, |question| {
            let mut message = answer(&question.bytes, &[]);
            message.metadata.response_code = ResponseCode::NXDomain;
            vec![bytes(&message)]
        });
        assert_eq!(told, [(ticket, Err(Failure::Unknown))]);
    }
    assert!(site.is_clean());
}

#[test]
fn what_comes_to_another_port_moves_no_question() {
    let mut site = Site::new(&["192.0.2.2"]);
    site.ask(1, V4);
    site.exchange();
    let question = site.b.receive(site.server).unwrap();
    let message = good(&question).remove(0);
    let beside = SocketAddr::new(question.from.ip(), question.from.port() ^ 1);
    for (to, is_told) in [(beside, false), (question.from, true)] {
        site.b
            .send_to(site.server, Some(to), &message, site.now)
            .unwrap();
        let told = site.told(Duration::from_millis(100), nobody);
        assert_eq!(told.len(), usize::from(is_told));
    }
}
