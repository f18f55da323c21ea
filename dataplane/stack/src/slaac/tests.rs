//! The client on a virtual clock, beside routers whose words are chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use culvert_wire::parse::parse_frame;
use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const START: Instant = Instant(1_000_000_000_000);
const HIGH: u8 = 0x08;
const LOW: u8 = 0x18;
const ALL_NODES: &str = "ff02::1";

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn after(seconds: u64) -> Instant {
    START + Duration::from_secs(seconds)
}

/// An advertisement's fixed part.
fn head(flags: u8, lifetime: u16) -> Vec<u8> {
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, flags];
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 8]);
    message
}

fn prefix(text: &str, len: u8, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let mut option = vec![3, 4, len, flags];
    option.extend(valid.to_be_bytes());
    option.extend(preferred.to_be_bytes());
    option.extend([0; 4]);
    option.extend(v6(text).octets());
    option
}

fn frame_of(router: &str, message: Vec<u8>) -> Vec<u8> {
    let ends = (v6(router), v6(ALL_NODES));
    frame::icmp6((ROUTER_MAC, MacAddr::BROADCAST), ends, message)
}

/// Whether a router answers; `None`: it may still.
type Answers = fn(IpAddr) -> Option<bool>;

struct Site {
    client: Client,
    now: Instant,
    answers: Answers,
    /// From where routers answer, when they last did, whether they say to be routers.
    mac: MacAddr,
    answered: Instant,
    is_router: bool,
    /// From where they advertise.
    source: MacAddr,
}

impl Site {
    fn new() -> Self {
        Self {
            client: Client::new(MAC, RandomState::new(), START),
            now: START,
            answers: |_| Some(true),
            mac: ROUTER_MAC,
            answered: Instant(u64::MAX),
            is_router: true,
            source: ROUTER_MAC,
        }
    }

    fn hear(&mut self, frame: &[u8]) -> Result<(), HostDrop> {
        let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
        let heard = self.client.handle_advertisement(&headers, frame, self.now);
        heard.and(self.look())
    }

    /// Looks who answers.
    fn look(&mut self) -> Result<(), HostDrop> {
        let (mac, is_router) = (self.mac, self.is_router);
        let just = Duration::from_secs(2);
        let has_since = |since: Instant| !self.answered.is_older_than(just, since);
        let known = |router: Ipv6Addr, since| match (self.answers)(router.into()) {
            Some(true) if has_since(since) => Presence::There(Answered { mac, is_router }),
            Some(true) | None => Presence::Unknown,
            Some(false) => Presence::Silent,
        };
        self.client.look(known, self.now)
    }

    /// What was lost.
    fn lost(&mut self) -> Vec<HostDrop> {
        std::iter::from_fn(|| self.client.poll_lost()).collect()
    }

    /// Who is asked whether it is there.
    fn asked(&mut self) -> Vec<String> {
        let questions = std::iter::from_fn(|| self.client.poll_question());
        questions.map(|it| it.to_string()).collect()
    }

    /// Whether there was room for all of it.
    fn says(&mut self, router: &str, head: Vec<u8>, options: &[Vec<u8>]) -> bool {
        let message = [head, options.concat()].concat();
        let mut frame = frame_of(router, message);
        frame[6..12].copy_from_slice(&self.source.0);
        let heard = self.hear(&frame);
        assert!(matches!(heard, Ok(()) | Err(HostDrop::AdvertisedFull)));
        heard.is_ok()
    }

    /// How often routers are asked for until then.
    fn run(&mut self, until: Instant) -> usize {
        let mut asked = 0;
        for _ in 0..10_000 {
            asked += usize::from(self.client.poll_frame().is_some());
            match self.client.poll_timeout() {
                Some(due) if due <= until => {
                    self.now = self.now.max(due);
                    self.client.handle_timeout(self.now);
                }
                _ => {
                    self.now = until;
                    return asked;
                }
            }
        }
        panic!("timers never rest");
    }

    fn learned(&self) -> Learned {
        let mut learned = Learned::default();
        self.client.tells(&mut learned);
        learned
    }

    fn addresses(&self) -> Vec<(String, u8)> {
        let learned = self.learned();
        let addresses = learned.addresses.iter();
        addresses
            .map(|it| (it.address.to_string(), it.prefix_len))
            .collect()
    }

    fn routers(&self) -> Vec<String> {
        let learned = self.learned();
        let default = learned.routes.iter().filter(|(_, len, _)| *len == 0);
        default.map(|(_, _, via)| via.to_string()).collect()
    }
}

fn own(text: &str, len: u8) -> (String, u8) {
    (text.into(), len)
}

const BOTH: u8 = 0xc0;
const AUTO: u8 = 0x40;
const LINK: u8 = 0x80;

#[test]
fn routers_are_asked_for_until_one_answers_ever_later() {
    let mut site = Site::new();
    assert_eq!(site.run(after(1)), 1);
    assert!((3..6).contains(&site.run(after(100))));
    assert!(site.run(after(10_000)) < 12);
    site.says("fe80::1", head(0, 600), &[]);
    assert_eq!(site.run(after(10_599)), 0);
    assert_eq!(site.routers(), ["fe80::1"]);
    // Its time is over.
    assert_eq!(site.run(after(10_605)), 1);
    assert_eq!(site.routers(), Vec::<String>::new());
}

#[test]
fn addresses_prefixes_and_routers_are_learned_and_forgotten_in_time() {
    let mut site = Site::new();
    let options = [
        prefix("2001:db8:1::", 64, BOTH, 4_000, 1_000),
        prefix("2001:db8:2::", 64, AUTO, u32::MAX, u32::MAX),
        prefix("2001:db8:3::", 48, LINK, 2_000, 2_000),
        vec![5, 1, 0, 0, 0, 0, 0x05, 0x78],
        [
            vec![25, 3, 0, 0],
            600_u32.to_be_bytes().to_vec(),
            v6("2001:db8::53").octets().to_vec(),
        ]
        .concat(),
    ];
    site.says("fe80::2", head(0, 1_800), &options);
    let [one, two] = [
        own("2001:db8:1::ff:fe00:a", 64),
        own("2001:db8:2::ff:fe00:a", 128),
    ];
    assert_eq!(site.addresses(), [one.clone(), two.clone()]);
    let learned = site.learned();
    assert_eq!((learned.mtu, learned.dns.len()), (Some(1_400), 1));
    let on_link = (v6("2001:db8:3::").into(), 48, v6("::").into());
    assert!(learned.routes.contains(&on_link));
    // Better and worse ones.
    site.says("fe80::3", head(LOW, 1_800), &[]);
    site.says("fe80::1", head(HIGH, 1_800), &[]);
    assert_eq!(site.routers(), ["fe80::1", "fe80::2", "fe80::3"]);
    site.says("fe80::1", head(HIGH, 0), &[]);
    assert_eq!(site.routers(), ["fe80::2", "fe80::3"]);
    site.run(after(601));
    assert!(site.learned().dns.is_empty());
    // No new connections from what is no longer preferred.
    site.run(after(1_000));
    assert_eq!(site.addresses(), [two.clone(), one]);
    site.run(after(1_800));
    assert!(site.routers().is_empty());
    site.run(after(4_000));
    assert_eq!(site.addresses(), [two]);
}

#[test]
fn nobody_on_the_link_ends_an_address_at_once() {
    const HOUR: u64 = 3_600;
    let ends = |had: u32, said: u32, at: u64| {
        let mut site = Site::new();
        for valid in [had, said] {
            let option = prefix("2001:db8::", 64, BOTH, valid, 0);
            site.says("fe80::1", head(0, 9_000), &[option]);
        }
        site.run(after(at - 1));
        let is_there = !site.addresses().is_empty();
        site.run(after(at));
        is_there && site.addresses().is_empty()
    };
    assert!(ends(36_000, 0, 2 * HOUR));
    assert!(ends(u32::MAX, 10, 2 * HOUR));
    assert!(ends(600, 0, 600));
    assert!(ends(600, 700, 700));
    assert!(ends(36_000, 8_000, 8_000));
    assert!(!ends(600, u32::MAX, 1_000_000));
}

#[test]
fn what_is_none_of_it_is_not_heard() {
    const MALFORMED: Result<(), HostDrop> = Err(HostDrop::Malformed);
    let mut site = Site::new();
    let good = frame_of("fe80::1", head(0, 600));
    let change = |at: usize, to: u8| {
        let mut frame = good.clone();
        frame[at] = to;
        frame
    };
    assert_eq!(
        site.hear(&change(21, 254)),
        MALFORMED,
        "it may have been routed"
    );
    assert_eq!(site.hear(&change(58, 1)), MALFORMED, "another sum");
    let global = frame_of("2001:db8::1", head(0, 600));
    assert_eq!(site.hear(&global), MALFORMED, "no router says so");
    let cut = [head(0, 600), vec![3, 4, 64]].concat();
    assert_eq!(site.hear(&frame_of("fe80::1", cut)), MALFORMED);
    let endless = [head(0, 600), vec![1, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(site.hear(&frame_of("fe80::1", endless)), MALFORMED);
    assert!(site.routers().is_empty());
    assert_eq!(site.hear(&good), Ok(()));
    // Prefixes of which nobody makes addresses.
    let options = [
        prefix("fe80::", 64, BOTH, 600, 600),
        prefix("2001:db8::", 60, AUTO, 600, 600),
        prefix("2001:db8:1::", 64, AUTO, 600, 601),
        prefix("2001:db8:2::", 64, AUTO, 0, 0),
        prefix("ff02::", 64, BOTH, 600, 600),
        prefix("::", 0, LINK, 600, 600),
    ];
    site.says("fe80::1", head(0, 600), &options);
    assert!(site.addresses().is_empty());
    assert_eq!(site.learned().routes.len(), 1);
}

#[test]
fn a_flood_of_routers_and_prefixes_takes_no_room_of_those_known() {
    let mut site = Site::new();
    site.says(
        "fe80::1:0",
        head(0, 600),
        &[prefix("2001:db8::", 64, BOTH, 600, 600)],
    );
    for n in 1..1_000 {
        let router = format!("fe80::{n:x}");
        let many: Vec<_> = (0..20)
            .map(|m| prefix(&format!("2001:db8:{n:x}:{m}::"), 64, BOTH, 600, 600))
            .collect();
        site.says(&router, head(HIGH, 600), &many);
    }
    assert_eq!(site.client.routers.len(), limits::RA_ROUTERS);
    let others = limits::RA_ROUTERS - 1;
    assert_eq!(site.addresses().len(), 1 + others * limits::RA_PREFIXES);
    assert!(site.routers().contains(&"fe80::1:0".to_owned()));
    assert_eq!(site.addresses()[0], own("2001:db8::ff:fe00:a", 64));
}

#[test]
fn what_a_router_says_counts_once_it_answers() {
    let mut site = Site::new();
    site.answers = |_| None;
    let prefix = prefix("2001:db8::", 64, BOTH, 600, 600);
    site.says("fe80::1", head(0, 600), std::slice::from_ref(&prefix));
    assert_eq!(site.learned(), Learned::default());
    assert_eq!(site.asked(), ["fe80::1"]);
    site.run(after(3));
    site.answers = |_| Some(true);
    site.look().unwrap();
    assert_eq!(site.routers(), ["fe80::1"]);
    assert_eq!(site.addresses().len(), 1);
    // Its time began when it spoke.
    site.run(after(599));
    assert_eq!(site.routers().len(), 1);
    site.run(after(600));
    assert!(site.routers().is_empty() && site.addresses().is_empty());

    // Who does not answer is counted, whether that is known or he is silent for long.
    for answers in [Some(Some(false)), None] {
        let mut site = Site::new();
        site.answers = |_| None;
        site.says("fe80::1", head(0, 600), std::slice::from_ref(&prefix));
        if answers.is_some() {
            site.answers = |_| Some(false);
            site.look().unwrap();
        }
        site.run(after(10));
        assert_eq!(site.lost(), [HostDrop::AdvertisedUnanswered]);
        assert_eq!(site.learned(), Learned::default());
    }
}

#[test]
fn a_flood_of_routers_that_do_not_answer_keeps_none_out_that_does() {
    let mut site = Site::new();
    site.answers = |_| None;
    // 256 a second, which is what workers let through of them, for a minute.
    let forge = |site: &mut Site, n: u64| {
        site.run(START + Duration::from_micros(3_907 * n));
        let nonsense = prefix(&format!("2001:db8:{n:x}::"), 64, BOTH, 600, 600);
        assert!(!site.says(&format!("fe80::{n:x}"), head(HIGH, 600), &[nonsense]) || n <= 32);
        assert!(site.asked().len() <= limits::RA_CLAIMS);
        assert!(site.learned().routes.is_empty());
    };
    (1..15_000).for_each(|n| forge(&mut site, n));
    // A router that takes most of a tenth of a second to answer.
    site.run(site.now + Duration::from_millis(2));
    let real = prefix("2001:db8:ffff::", 64, BOTH, 600, 600);
    site.says("fe80::1:0", head(0, 600), &[real]);
    assert_eq!(site.asked(), ["fe80::1:0"]);
    (15_001..15_024).for_each(|n| forge(&mut site, n));
    site.answers = |it| (it == IpAddr::V6(v6("fe80::1:0"))).then_some(true);
    site.look().unwrap();
    assert_eq!(site.routers(), ["fe80::1:0"]);
    assert_eq!(site.addresses(), [own("2001:db8:ffff::ff:fe00:a", 64)]);
    assert_eq!(site.learned().routes.len(), 1);
}

#[test]
fn of_routers_those_that_answer_come_first_and_silent_ones_take_turns() {
    let mut site = Site::new();
    site.says("fe80::1", head(HIGH, 9_000), &[]);
    site.says("fe80::2", head(0, 9_000), &[]);
    site.says("fe80::3", head(LOW, 9_000), &[]);
    assert_eq!(site.routers(), ["fe80::1", "fe80::2", "fe80::3"]);
    site.asked();
    site.answers = |it| Some(it != IpAddr::V6(v6("fe80::1")));
    site.look().unwrap();
    assert_eq!(site.routers(), ["fe80::2", "fe80::3", "fe80::1"]);
    assert_eq!(site.run(after(100)), 0, "one answers");
    assert!(site.asked().is_empty());
    // It says that it is there, and is asked.
    site.says("fe80::1", head(HIGH, 9_000), &[]);
    assert_eq!(site.asked(), ["fe80::1"]);
    assert_eq!(site.routers()[0], "fe80::2");

    // None answers: each is tried, and others are looked for.
    site.answers = |_| Some(false);
    site.look().unwrap();
    let mut first = Vec::new();
    let mut solicited = 0;
    for n in 0..6 {
        first.push((site.routers()[0].clone(), site.asked()));
        solicited += site.run(after(110 + 10 * n));
    }
    let turn = |n: usize| {
        let router = format!("fe80::{n}");
        (router.clone(), vec![router])
    };
    assert_eq!(first, [1, 2, 3, 1, 2, 3].map(turn));
    assert!((2..8).contains(&solicited), "{solicited}");
    // One is there again.
    site.answers = |it| Some(it == IpAddr::V6(v6("fe80::3")));
    site.look().unwrap();
    assert_eq!(site.routers()[0], "fe80::3");
    assert_eq!(site.client.turn, None);
}

#[test]
fn a_silent_router_makes_room_for_one_that_answers() {
    let mut site = Site::new();
    for n in 1..=limits::RA_ROUTERS {
        assert!(site.says(&format!("fe80::{n:x}"), head(HIGH, 600), &[]));
    }
    assert!(!site.says("fe80::1:0", head(0, 600), &[]));
    assert!(!site.routers().contains(&"fe80::1:0".to_owned()));
    site.answers = |it| Some(it != IpAddr::V6(v6("fe80::2")));
    site.look().unwrap();
    assert!(site.says("fe80::1:0", head(0, 600), &[]));
    let routers = site.routers();
    assert!(routers.contains(&"fe80::1:0".to_owned()));
    assert!(!routers.contains(&"fe80::2".to_owned()));
}

#[test]
fn an_mtu_goes_with_its_router() {
    let of = |bytes: u16| [vec![5, 1, 0, 0, 0, 0], bytes.to_be_bytes().to_vec()].concat();
    let mut site = Site::new();
    site.says("fe80::1", head(0, 100), &[of(1_400)]);
    site.says("fe80::2", head(0, 200), &[of(1_300)]);
    assert_eq!(site.learned().mtu, Some(1_300));
    // Its next advertisement says otherwise, or nothing.
    site.says("fe80::2", head(0, 200), &[of(1_480)]);
    assert_eq!(site.learned().mtu, Some(1_400));
    site.run(after(100));
    assert_eq!(site.learned().mtu, Some(1_480));
    site.says("fe80::2", head(0, 200), &[]);
    assert_eq!(site.learned().mtu, None);
    site.says("fe80::2", head(0, 200), &[of(1_280)]);
    site.says("fe80::2", head(0, 0), &[of(1_280)]);
    assert_eq!(site.learned().mtu, None, "it is no router any more");
}

#[test]
fn what_is_said_in_a_routers_name_from_elsewhere_changes_nothing_while_the_router_answers() {
    let site = || {
        let mut site = Site::new();
        let real = prefix("2001:db8::", 64, BOTH, 9_000, 9_000);
        site.says(
            "fe80::1",
            head(0, 1_800),
            &[real, server("2001:db8::53", 1_800)],
        );
        site.asked();
        let known = site.learned();
        (site, known)
    };
    let mtu = || vec![5, 1, 0, 0, 0, 0, 0x05, 0];
    let lies: [(u16, &[Vec<u8>]); 4] = [
        (0, &[]),
        (
            1_800,
            &[
                prefix("2001:db8::", 64, BOTH, 0, 0),
                server("2001:db8::53", 0),
            ],
        ),
        (1_800, &[mtu(), server("2001:db8::bad", 1_800)]),
        (
            1_800,
            &[prefix("2001:db8:bad::", 64, BOTH, u32::MAX, u32::MAX)],
        ),
    ];
    for (lifetime, options) in lies {
        let (mut site, known) = site();
        site.answered = site.now;
        site.run(after(3));
        site.source = OTHER_MAC;
        site.says("fe80::1", head(HIGH, lifetime), options);
        assert_eq!(site.learned(), known);
        assert_eq!(site.asked(), ["fe80::1"], "the router, whether it is there");
        assert!(site.lost().is_empty());
        site.answered = after(4);
        site.run(after(4));
        site.look().unwrap();
        assert_eq!(site.lost(), [HostDrop::AdvertisedDoubtful]);
        assert_eq!(site.learned(), known);
        // Who has answered just before is asked soon after.
        site.says("fe80::1", head(HIGH, lifetime), options);
        site.asked();
        site.run(after(8));
        assert_eq!(
            (site.asked().as_slice(), site.learned()),
            (&["fe80::1".to_owned()][..], known)
        );
    }
}

fn server(address: &str, seconds: u32) -> Vec<u8> {
    let head = [vec![25, 3, 0, 0], seconds.to_be_bytes().to_vec()];
    [head.concat(), v6(address).octets().to_vec()].concat()
}

#[test]
fn a_router_that_was_replaced_is_followed_and_its_words_are_forgotten() {
    let mut site = Site::new();
    let [old, new] = ["2001:db8:1::", "2001:db8:2::"].map(|it| prefix(it, 64, BOTH, 9_000, 9_000));
    site.says(
        "fe80::1",
        head(0, 1_800),
        &[old, server("2001:db8::53", 1_800)],
    );
    site.answered = site.now;
    site.run(after(5));
    // Another speaks in its place, and is there when everyone is asked.
    site.source = OTHER_MAC;
    site.says("fe80::1", head(0, 900), std::slice::from_ref(&new));
    assert_eq!(site.addresses(), [own("2001:db8:1::ff:fe00:a", 64)]);
    (site.mac, site.answered) = (OTHER_MAC, after(9));
    site.run(after(9));
    site.look().unwrap();
    assert_eq!(site.routers(), ["fe80::1"]);
    assert_eq!(site.addresses(), [own("2001:db8:2::ff:fe00:a", 64)]);
    assert!(site.learned().dns.is_empty());
    assert_eq!(
        site.client.routers().next().map(|(_, mac)| mac),
        Some(OTHER_MAC)
    );
    assert_eq!(site.run(after(10)), 0);

    // One that has not spoken yet is asked what it has to say.
    (site.mac, site.answered) = (ROUTER_MAC, after(20));
    site.run(after(20));
    site.look().unwrap();
    assert!(site.routers().is_empty() && site.addresses().is_empty());
    assert_eq!(site.run(after(20)), 1);
}

#[test]
fn an_answer_counts_that_came_since_and_from_a_router() {
    let mut site = Site::new();
    // It has answered, long before.
    site.answered = site.now;
    site.run(after(60));
    site.says("fe80::1", head(0, 600), &[]);
    assert!(site.routers().is_empty());
    // It answers from elsewhere than it speaks.
    (site.mac, site.answered) = (OTHER_MAC, after(61));
    site.run(after(61));
    site.look().unwrap();
    assert_eq!(site.lost(), [HostDrop::AdvertisedDoubtful]);
    // As no router.
    (site.mac, site.is_router) = (ROUTER_MAC, false);
    site.says("fe80::1", head(0, 600), &[]);
    site.answered = after(62);
    site.run(after(62));
    site.look().unwrap();
    assert_eq!(site.lost(), [HostDrop::AdvertisedDoubtful]);
    assert!(site.routers().is_empty());
    // As one; and then no more.
    site.is_router = true;
    let option = prefix("2001:db8::", 64, BOTH, 600, 600);
    site.says("fe80::1", head(0, 600), &[option]);
    assert_eq!(site.routers(), ["fe80::1"]);
    site.is_router = false;
    site.look().unwrap();
    assert!(site.routers().is_empty());
    assert_eq!(site.addresses().len(), 1, "it is still on the link");
}

#[test]
fn claims_of_two_places_are_two() {
    let mut site = Site::new();
    site.answers = |_| None;
    site.says("fe80::1", head(0, 600), &[]);
    site.source = OTHER_MAC;
    site.says("fe80::1", head(0, 0), &[]);
    site.answers = |_| Some(true);
    site.answered = after(1);
    site.run(after(1));
    site.look().unwrap();
    assert_eq!(site.routers(), ["fe80::1"]);
    assert_eq!(site.lost(), [HostDrop::AdvertisedDoubtful]);
}

#[test]
fn what_routers_say_is_their_own_and_lives_as_long_as_one_says_it() {
    let of = |n: u16, valid: u32, preferred: u32| {
        prefix(&format!("2001:db8:{n:x}::"), 64, BOTH, valid, preferred)
    };
    let mut site = Site::new();
    // More than its share, of which another loses nothing.
    let many: Vec<_> = (1..30).map(|n| of(n, 9_000, 9_000)).collect();
    for some in many.chunks(limits::RA_PREFIXES) {
        site.says("fe80::1", head(0, 1_800), some);
    }
    let servers: Vec<_> = (1..9)
        .map(|n| server(&format!("2001:db8::{n}"), 1_800))
        .collect();
    site.says("fe80::1", head(0, 1_800), &servers);
    assert_eq!(site.addresses().len(), limits::RA_PREFIXES);
    assert!(site.says(
        "fe80::2",
        head(0, 1_800),
        &[of(0xff, 9_000, 9_000), of(1, 300, 300)]
    ));
    assert_eq!(site.addresses().len(), limits::RA_PREFIXES + 1);
    assert_eq!(site.learned().dns.len(), limits::LEARNED_DNS);
    // One of two that say so says it no more, or another life.
    site.run(after(301));
    assert_eq!(site.addresses().len(), limits::RA_PREFIXES + 1);
    site.says("fe80::2", head(0, 1_800), &[of(1, 9_000, 0)]);
    assert_eq!(
        site.addresses()[0],
        own("2001:db8:1::ff:fe00:a", 64),
        "preferred still"
    );
    // While the first is silent the other's word counts alone.
    site.answers = |it| Some(it != IpAddr::V6(v6("fe80::1")));
    site.look().unwrap();
    assert_eq!(
        site.addresses().last(),
        Some(&own("2001:db8:1::ff:fe00:a", 64))
    );
    assert_eq!(
        site.addresses().len(),
        limits::RA_PREFIXES + 1,
        "its others are good"
    );
    // Neither is a router for everything any more, and what they said has its time.
    site.answers = |_| Some(true);
    for router in ["fe80::1", "fe80::2"] {
        site.says(router, head(0, 0), &[]);
    }
    assert!(site.routers().is_empty());
    assert_eq!(site.addresses().len(), limits::RA_PREFIXES + 1);
    site.run(after(9_301));
    assert!(site.addresses().is_empty() && site.client.routers.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever routers say, whenever: it is bounded, does not rush, and nothing outlives its time.
    #[test]
    fn no_router_leads_it_astray(
        says in prop::collection::vec(
            (0..20_000_u64, 0..12_u8, any::<u8>(), 0..400_u16, 0..24_u8, any::<u8>(), 0..9_000_u32, 0..9_000_u32),
            1..80,
        ),
    ) {
        let mut site = Site::new();
        for (passes, router, flags, lifetime, net, kind, valid, preferred) in says {
            let until = site.now + Duration::from_millis(passes);
            let asked = site.run(until);
            prop_assert!(asked <= 2 + usize::try_from(passes / 3_600).unwrap());
            let option = prefix(&format!("2001:db8:{net:x}::"), 64, kind, valid, preferred);
            site.says(&format!("fe80::{router:x}"), head(flags, lifetime), &[option]);
            prop_assert!(site.client.routers.len() <= limits::RA_ROUTERS);
            let learned = site.learned();
            let most = limits::RA_ROUTERS * limits::RA_PREFIXES;
            prop_assert!(learned.addresses.len() <= most);
            prop_assert!(learned.routes.len() <= limits::RA_ROUTERS + most);
            prop_assert!(site.client.routers.iter().all(|it| it.end.is_none_or(|end| end > site.now)));
            prop_assert!(site.client.words.poll_timeout().is_none_or(|end| end > site.now));
        }
    }

    #[test]
    fn any_options_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut site = Site::new();
        let message = [head(0, 600), bytes].concat();
        let _ = site.hear(&frame_of("fe80::1", message));
        prop_assert!(site.addresses().len() <= limits::RA_PREFIXES);
    }
}
