//! Both ends, and a worker's, without a thread: each round is made when the test says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use culvert_dataplane::shared::{
    clock,
    control_link::{Attention, WorkerEnd, link},
    drops::DropReason,
    ids::{AttachmentIndex, UplinkIndex},
    limits::{STACK_COMMANDS, STACK_NEWS, STACK_ORDERS, STACK_ORDERS_RESERVED},
    punt::PuntClass,
    stack_link::StackCommand,
};
use culvert_wire::{
    Checksum,
    arp::{self, ArpPacket},
};

use culvert_stack::dns::Families;

use super::{guests::tests::served, *};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SCOPE: Scope = Scope::Uplink(UplinkIndex(3));

fn neighbor(n: u16) -> (IpAddr, MacAddr) {
    let [a, b] = n.to_be_bytes();
    (IpAddr::from([10, 0, a, b]), MacAddr([2, 1, 0, 0, a, b]))
}

struct Site {
    core: NetStack,
    stacks: Server,
    worker: WorkerEnd,
    counters: Arc<UplinkCounters>,
    /// Of the clock.
    ahead: Duration,
}

impl Site {
    fn new() -> Self {
        let attention = Arc::new(Attention::new().unwrap());
        let (core, mut stacks) = NetStack::new(Arc::clone(&attention)).unwrap();
        let (worker, _, end) = link(attention, Arc::clone(core.wake()), 1).unwrap();
        stacks.link(vec![end]);
        let mut site = Self {
            core,
            stacks,
            worker,
            counters: Arc::default(),
            ahead: Duration::ZERO,
        };
        site.begin(SCOPE);
        site
    }

    /// A stack begins at 10.0.0.1/16.
    fn begin(&mut self, scope: Scope) {
        let config = HostConfig {
            mac: OURS,
            addresses: vec![([10, 0, 0, 1].into(), 16)],
            routes: Vec::new(),
            neighbors: Vec::new(),
            mtu: 1_500,
        };
        let host = Host {
            birth: 0,
            name: Name::new("wan").unwrap(),
            routes: Routes::new(&config),
            config,
            kernel: None,
            bfd: None,
            services: Services::default(),
            nameservers: Vec::new(),
            learns: Learns::default(),
            held: None,
            unusable: None,
            drops: Arc::default(),
            counters: Arc::clone(&self.counters),
        };
        self.core.insert(scope, host);
        self.core.publish();
    }

    fn round(&mut self) {
        self.stacks.round(clock::monotonic() + self.ahead);
    }

    /// Nobody else has the stacks' addresses, so they are used.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.ahead += Duration::from_millis(250);
            self.round();
        }
    }

    /// The frames that the worker is to send, without reports of groups.
    fn sent(&mut self) -> Vec<(Scope, Box<[u8]>)> {
        let commands = std::iter::from_fn(|| self.worker.stack_commands.pop().ok());
        let frame = |command| match command {
            StackCommand::Frame { scope, frame } => Some((scope, frame)),
            StackCommand::Datagram { .. } => None,
        };
        let is_report = |frame: &[u8]| frame.starts_with(&[0x33, 0x33, 0, 0, 0, 0x16]);
        commands
            .filter_map(frame)
            .filter(|(_, frame)| !is_report(frame))
            .collect()
    }

    /// The `n`th neighbor asks for us.
    fn asks(&mut self, scope: Scope, n: u16) {
        let (address, mac) = neighbor(n);
        let IpAddr::V4(address) = address else {
            panic!("it is one of IPv4");
        };
        let packet = ArpPacket::request(mac, address, [10, 0, 0, 1].into());
        let mut frame = [0; arp::FRAME_LEN];
        packet.write_frame(&mut frame);
        let class = PuntClass::NeighborQuestion;
        let punts = &mut self.worker.punts;
        punts
            .push(class, scope, &frame, clock::monotonic())
            .unwrap();
        punts.ring();
    }

    fn news(&mut self) -> Vec<(IpAddr, Option<MacAddr>)> {
        let news = std::iter::from_fn(|| self.core.next_news());
        let neighbor = |news: News| match news.learned {
            Learned::Neighbor { address, mac } => Some((address, mac)),
            Learned::Own { .. } => None,
        };
        news.filter_map(neighbor).collect()
    }
}

#[test]
fn whoever_asks_is_told_now_or_when_the_neighbor_answers() {
    let mut site = Site::new();
    let (address, mac) = neighbor(9);
    // It is asked before the thread has seen that the stack is there.
    assert!(site.core.ask(SCOPE, address));
    site.round();
    assert_eq!(site.sent().len(), 2, "has anyone its addresses?");
    site.settle();
    // Twice the same, two announcements, of IPv4 and IPv6, and the question.
    assert_eq!((site.sent().len(), site.news()), (4 + 2 + 1, vec![]));
    site.asks(SCOPE, 9);
    site.round();
    assert_eq!(site.news(), [(address, Some(mac))]);
    assert_eq!(site.sent().len(), 1, "the answer");
    assert!(site.core.ask(SCOPE, address));
    site.round();
    assert_eq!(site.news(), [(address, Some(mac))], "known already");
    // What another scope has is nobody's here, though the addresses are the same.
    let other = Scope::Uplink(UplinkIndex(4));
    site.begin(other);
    assert!(site.core.ask(other, address));
    site.round();
    assert_eq!(site.news(), []);
}

#[test]
fn a_question_that_finds_no_room_is_told_so_and_a_reader_finds_some() {
    let mut site = Site::new();
    // What is let go of leaves half of it to questions.
    let told = (0..5_000).filter(|&n| site.core.let_go(SCOPE, neighbor(n).0));
    assert_eq!(told.count(), STACK_ORDERS / 2);
    let asked = (0..5_000).filter(|&n| site.core.ask(SCOPE, neighbor(n).0));
    assert_eq!(asked.count(), STACK_ORDERS / 2 - STACK_ORDERS_RESERVED);
    let (reply, mut answer) = Reply::new();
    site.core.tell_neighbors(reply);
    site.round();
    assert!(!answer.try_recv().unwrap().is_empty());
    assert!(site.core.ask(SCOPE, neighbor(9).0));
}

#[test]
fn news_that_find_no_room_are_told_later() {
    let mut site = Site::new();
    let mut told = std::collections::BTreeSet::new();
    // Of two scopes, since a stack knows 1,024 neighbors.
    let other = Scope::Uplink(UplinkIndex(4));
    site.begin(other);
    site.round();
    site.settle();
    site.news();
    let all = || (2..702).flat_map(|n| [(SCOPE, n), (other, n)]);
    for (scope, n) in all() {
        assert!(site.core.ask(scope, neighbor(n).0));
        site.round();
        site.sent();
        site.asks(scope, n);
        site.round();
        site.sent();
        // As many as workers hand over at once; later ones would be told to come slower.
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut rounds = 0;
    while told.len() < 1_400 && rounds < 3 {
        let before = told.len();
        while let Some(news) = site.core.next_news() {
            if let Learned::Neighbor { address, .. } = news.learned {
                told.insert((news.scope, address));
            }
        }
        assert!(told.len() - before <= STACK_NEWS);
        site.round();
        rounds += 1;
    }
    assert_eq!((told.len(), rounds), (1_400, 2));
}

#[test]
fn a_place_is_anothers_when_the_last_frame_of_its_stack_was_taken() {
    let mut site = Site::new();
    site.round();
    site.core.remove(SCOPE);
    let generation = site.core.generation();
    site.core.publish();
    site.round();
    assert!(
        site.core.adopted() < generation,
        "announcements are under way"
    );
    assert!(site.sent().iter().all(|&(scope, _)| scope == SCOPE));
    site.round();
    assert_eq!(site.core.adopted(), generation);
    // What lies there for the stack before is not the next one's.
    site.asks(SCOPE, 9);
    site.begin(SCOPE);
    site.round();
    assert_eq!(site.sent().len(), 2, "its announcements alone");
}

#[test]
fn a_worker_that_takes_nothing_loses_frames_by_name() {
    let mut site = Site::new();
    let lost = |site: &Site| site.counters.drops.count(DropReason::CommandQueueFull);
    let mut rounds = 0;
    while lost(&site) == 0 {
        site.begin(SCOPE);
        site.round();
        rounds += 1;
        assert!(rounds <= STACK_COMMANDS, "each announces itself");
    }
    let taken = std::iter::from_fn(|| site.worker.stack_commands.pop().ok());
    assert_eq!(taken.count(), STACK_COMMANDS);
    assert_eq!(site.counters.drops.total(), lost(&site));
}

#[test]
fn what_a_stack_before_has_told_is_not_believed() {
    let mut site = Site::new();
    let (address, _) = neighbor(9);
    assert!(site.core.ask(SCOPE, address));
    site.round();
    site.settle();
    site.asks(SCOPE, 9);
    site.round();
    site.begin(SCOPE);
    assert_eq!(site.news(), []);
}

/// A guest looks for its router.
fn solicitation() -> Vec<u8> {
    let source = "fe80::5054:ff:fe00:1".parse().unwrap();
    let routers = "ff02::2".parse().unwrap();
    let mut message = [133, 0, 0, 0, 0, 0, 0, 0];
    let mut sum = Checksum::pseudo_v6(source, routers, 58, 8);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    let macs = [0x33, 0x33, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];
    let header = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255];
    let addresses = [source.octets(), routers.octets()];
    [&macs[..], &header, &addresses.concat(), &message].concat()
}

#[test]
fn a_guest_is_answered_as_its_port_is_now_and_hears_its_router() {
    let mut site = Site::new();
    let (guest, scope) = (AttachmentIndex(5), Scope::Guest(AttachmentIndex(5)));
    let asks = |site: &mut Site| {
        let punts = &mut site.worker.punts;
        let asked = punts.push(PuntClass::Guest, scope, &solicitation(), clock::monotonic());
        asked.unwrap();
        punts.ring();
        site.round();
        site.sent()
    };
    site.round();
    site.sent();
    assert!(asks(&mut site).is_empty(), "nobody is behind that port");

    let (port, told) = served("", "");
    let drops = Arc::clone(&port.drops);
    assert!(site.core.tell(0, told));
    site.core.attach(guest.slot(), Some(port));
    site.core.publish();
    site.round();
    let answers = asks(&mut site);
    assert!(matches!(&answers[..], [(to, frame)] if *to == scope && frame[54] == 134));
    site.core.advertise(vec![AttachmentIndex(4), guest]);
    site.round();
    let heard = site.sent();
    assert!(matches!(&heard[..], [(to, frame)] if *to == scope && frame[54] == 134));
    assert!(!site.core.tell(0, served("", "").1), "it tells nothing new");
    assert_eq!(drops.total(), 0);

    // It is served no more, by a network that says something else.
    assert!(site.core.tell(0, served(", ra: off", "").1));
    site.core.publish();
    site.round();
    assert!(asks(&mut site).is_empty());
    assert_eq!(drops.count(DropReason::ServiceRefused), 1);

    // The worker that polls it is none.
    let (port, told) = served(", mtu: 1400", "");
    let drops = Arc::clone(&port.drops);
    site.core.tell(0, told);
    site.core
        .attach(guest.slot(), Some(Guest { worker: 7, ..port }));
    site.core.publish();
    site.round();
    assert!(asks(&mut site).is_empty());
    assert_eq!(drops.count(DropReason::CommandQueueFull), 1);
}

#[test]
fn what_a_stack_learns_reaches_the_core_and_that_of_one_before_it_does_not() {
    let mut site = Site::new();
    let counters = Arc::<UplinkCounters>::default();
    let learning = |held: Option<Held>| Host {
        birth: 0,
        name: Name::new("wan").unwrap(),
        routes: Routes::new(&bare()),
        config: bare(),
        learns: Learns {
            dhcp4: true,
            accept_ra: false,
        },
        held,
        unusable: None,
        kernel: None,
        bfd: None,
        services: Services::default(),
        nameservers: Vec::new(),
        drops: Arc::default(),
        counters: Arc::clone(&counters),
    };
    let terms = culvert_stack::Terms {
        address: [192, 0, 2, 7].into(),
        prefix_len: 24,
        server: [192, 0, 2, 1].into(),
        routes: Vec::new(),
        mtu: None,
        dns: Vec::new(),
        domain: None,
    };
    let now = clock::monotonic();
    // Nobody answers: a lease of an earlier run is used.
    let expires = Some(now + Duration::from_secs(900));
    site.core
        .insert(SCOPE, learning(Some(Held { terms, expires })));
    site.core.publish();
    site.stacks.round(now);
    assert!(!site.core.take_taught());
    // Workers know what it asks for: of Ethernet, IPv4 and UDP, the message's second word.
    let questions = site.sent();
    let question = questions.iter().find(|(_, frame)| frame[12..14] == [8, 0]);
    let exchange = question.and_then(|(_, frame)| frame.get(46..50)?.first_chunk());
    assert!(
        counters
            .awaited
            .lease
            .is(u32::from_be_bytes(*exchange.unwrap()))
    );
    for seconds in 1..20 {
        site.stacks.round(now + Duration::from_secs(seconds));
    }
    assert!(site.core.take_taught() && !site.core.take_taught());
    let learned = site.core.taught(SCOPE).unwrap();
    assert_eq!(learned.addresses[0].address, IpAddr::from([192, 0, 2, 7]));
    // Another stack in its place has learned nothing yet.
    site.core.insert(SCOPE, learning(None));
    assert!(site.core.taught(SCOPE).is_none());
}

#[test]
fn every_question_for_a_name_is_answered_however_it_is_lost() {
    let mut site = Site::new();
    site.settle();
    site.sent();
    let attention = Arc::new(Attention::new().unwrap());
    let mut asker = Asker::new(&attention);
    let families = Families {
        v4: true,
        v6: false,
    };
    let said = |asker: &Asker| asker.next_answer().map(|it| it.found.unwrap_err());
    let mut ask = |site: &mut Site, scope| {
        let question = asker.question("peer.example.org", families);
        site.core.look_up(scope, question);
        site.round();
        said(&asker)
    };
    // A scope without a stack, then a stack that knows no servers.
    let nobody = ask(&mut site, Scope::Uplink(UplinkIndex(9))).unwrap();
    assert_eq!(nobody, "nobody was there to ask");
    let none = ask(&mut site, SCOPE).unwrap();
    assert_eq!(none, "there is nobody to ask (asked by uplink wan)");
    let servers = |site: &mut Site, last: u8| {
        let config = HostConfig {
            addresses: vec![([10, 0, 0, 1].into(), 16)],
            neighbors: vec![neighbor(2)],
            ..bare()
        };
        let host = Host {
            nameservers: vec![[10, 0, 0, last].into()],
            ..learns_nothing(config)
        };
        site.core.change(SCOPE, host);
        site.core.publish();
        site.core.take_renamed()
    };
    let IpAddr::V4(server) = neighbor(2).0 else {
        panic!("it is one of IPv4");
    };
    assert_eq!(servers(&mut site, server.octets()[3]), [SCOPE].into());
    assert!(
        servers(&mut site, server.octets()[3]).is_empty(),
        "they are the same"
    );
    // It is asked on the wire, and the answer is still to come when the stack ends.
    assert_eq!(ask(&mut site, SCOPE), None);
    site.settle();
    let asked = site.sent();
    let is_question = |frame: &[u8]| frame.get(36..38) == Some(&[0, 53]);
    assert!(asked.iter().any(|(_, it)| is_question(it)), "{asked:?}");
    site.core.remove(SCOPE);
    site.core.publish();
    site.round();
    assert_eq!(said(&asker).unwrap(), "nobody was there to ask");
}

fn learns_nothing(config: HostConfig) -> Host {
    Host {
        birth: 0,
        name: Name::new("wan").unwrap(),
        routes: Routes::new(&config),
        config,
        learns: Learns::default(),
        held: None,
        unusable: None,
        kernel: None,
        bfd: None,
        services: Services::default(),
        nameservers: Vec::new(),
        drops: Arc::default(),
        counters: Arc::default(),
    }
}

fn bare() -> HostConfig {
    HostConfig {
        mac: OURS,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbors: Vec::new(),
        mtu: 1_500,
    }
}
