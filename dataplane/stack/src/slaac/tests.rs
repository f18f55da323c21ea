//! The client on a virtual clock, beside routers whose words are chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use culvert_wire::parse::parse_frame;
use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
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
}

impl Site {
    fn new() -> Self {
        Self {
            client: Client::new(MAC, RandomState::new(), START),
            now: START,
            answers: |_| Some(true),
        }
    }

    fn hear(&mut self, frame: &[u8]) -> Result<(), HostDrop> {
        let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
        let heard = self.client.handle_advertisement(&headers, frame, self.now);
        heard.and(self.look())
    }

    /// Looks who answers.
    fn look(&mut self) -> Result<(), HostDrop> {
        self.client.look(self.answers, self.now)
    }

    /// Who is asked whether it is there.
    fn asked(&mut self) -> Vec<String> {
        let questions = std::iter::from_fn(|| self.client.poll_question());
        questions.map(|it| it.to_string()).collect()
    }

    /// Whether there was room for all of it.
    fn says(&mut self, router: &str, head: Vec<u8>, options: &[Vec<u8>]) -> bool {
        let message = [head, options.concat()].concat();
        let heard = self.hear(&frame_of(router, message));
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
    let end = |had: u32, said: u32| {
        let mut site = Site::new();
        site.says(
            "fe80::1",
            head(0, 9_000),
            &[prefix("2001:db8::", 64, BOTH, had, 0)],
        );
        site.says(
            "fe80::2",
            head(0, 9_000),
            &[prefix("2001:db8::", 64, BOTH, said, 0)],
        );
        site.client.own[0]
            .valid
            .map(|end| end.since(START).as_secs())
    };
    assert_eq!(end(36_000, 0), Some(2 * HOUR));
    assert_eq!(end(u32::MAX, 10), Some(2 * HOUR));
    assert_eq!(end(600, 0), Some(600));
    assert_eq!(end(600, 700), Some(700));
    assert_eq!(end(36_000, 8_000), Some(8_000));
    assert_eq!(end(600, u32::MAX), None);
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
    for n in 0..1_000 {
        let router = format!("fe80::{n:x}");
        let many: Vec<_> = (0..20)
            .map(|m| prefix(&format!("2001:db8:{n:x}:{m}::"), 64, BOTH, 600, 600))
            .collect();
        site.says(&router, head(HIGH, 600), &many);
    }
    assert_eq!(site.client.routers.len(), limits::RA_ROUTERS);
    assert_eq!(site.client.own.len(), limits::RA_PREFIXES);
    assert_eq!(site.client.on_link.len(), limits::RA_PREFIXES);
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
        assert_eq!(site.client.take_unanswered(), 1);
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
            prop_assert!(site.client.own.len() <= limits::RA_PREFIXES);
            prop_assert!(site.client.on_link.len() <= limits::RA_PREFIXES);
            prop_assert!(site.client.own.iter().all(|own| !is_over(own.valid, site.now)));
            prop_assert!(site.client.routers.iter().all(|it| it.end > site.now));
            prop_assert!(site.client.on_link.iter().all(|it| !is_over(it.end, site.now)));
        }
    }

    #[test]
    fn any_options_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut site = Site::new();
        let message = [head(0, 600), bytes].concat();
        let _ = site.hear(&frame_of("fe80::1", message));
        prop_assert!(site.client.own.len() <= limits::RA_PREFIXES);
    }
}
