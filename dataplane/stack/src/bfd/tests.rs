//! Two sessions on a virtual clock, with loss; packets that nobody should believe.

use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn config(millis: u64, multiplier: u8) -> Config {
    Config {
        peer: IpAddr::from([192, 0, 2, 2]),
        interval: Duration::from_millis(millis),
        multiplier,
    }
}

/// Two ends and the wire between them.
struct Pair {
    ends: [Session; 2],
    now: Instant,
    /// Packets that each end has sent.
    sent: [Vec<(Instant, Packet)>; 2],
}

impl Pair {
    fn new(one: Config, two: Config) -> Self {
        Self {
            ends: [
                Session::new(one, 0x1111_2222_3333, START),
                Session::new(two, 0x4444_5555_6666, START),
            ],
            now: START,
            sent: [Vec::new(), Vec::new()],
        }
    }

    /// Time goes on; `passes` says what arrives, by its sender.
    fn run(&mut self, time: Duration, passes: impl Fn(usize) -> bool) {
        let end = self.now + time;
        loop {
            let [one, two] = &self.ends;
            let due = one.due().min(two.due());
            if due > end {
                self.now = end;
                return;
            }
            self.now = due.max(self.now);
            for from in 0..2 {
                while let Some(packet) = self.ends[from].poll(self.now) {
                    self.sent[from].push((self.now, Packet::parse(&packet).unwrap()));
                    if passes(from) {
                        self.ends[1 - from].handle(&packet, self.now).unwrap();
                    }
                }
            }
        }
    }

    fn states(&self) -> [State; 2] {
        self.ends.each_ref().map(Session::state)
    }
}

#[test]
fn two_come_up_and_fall_silent_and_come_up_again() {
    let mut pair = Pair::new(config(300, 3), config(300, 3));
    pair.run(Duration::from_secs(4), |_| true);
    assert_eq!(pair.states(), [State::Up; 2]);
    // The faster interval was polled for, and acknowledged.
    for sent in &pair.sent {
        assert!(sent.iter().any(|(_, it)| it.poll) && sent.iter().any(|(_, it)| it.is_final));
        assert!(!sent.last().unwrap().1.poll);
    }
    // 900 ms at the most, and 75 % of an interval at the least.
    pair.run(Duration::from_millis(650), |_| false);
    assert_eq!(pair.states(), [State::Up; 2]);
    pair.run(Duration::from_millis(300), |_| false);
    assert_eq!(pair.states(), [State::Down; 2]);
    assert_eq!(pair.ends.each_ref().map(Session::diagnostic), [1; 2]);
    assert!(!pair.ends[0].passes());
    pair.run(Duration::from_secs(4), |_| true);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert!(pair.ends[0].passes());
}

#[test]
fn what_passes_one_way_only_is_no_path() {
    let mut pair = Pair::new(config(100, 3), config(100, 3));
    pair.run(Duration::from_secs(4), |_| true);
    pair.run(Duration::from_secs(4), |from| from == 0);
    let states = pair.states();
    assert!(states.iter().all(|state| *state != State::Up), "{states:?}");
    let mut pair = Pair::new(config(100, 3), config(100, 3));
    pair.run(Duration::from_secs(20), |from| from == 1);
    assert!(pair.states().iter().all(|state| *state != State::Up));
}

#[test]
fn packets_leave_at_the_slower_end_s_interval_with_jitter() {
    let mut pair = Pair::new(config(50, 3), config(400, 1));
    pair.run(Duration::from_secs(10), |_| true);
    let steady = pair.now;
    pair.run(Duration::from_secs(60), |_| true);
    for (end, most) in [(0, 75..=100), (1, 75..=90)] {
        let times = pair.sent[end]
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at > steady);
        let times: Vec<_> = times.collect();
        let gaps: Vec<_> = times
            .windows(2)
            .map(|two| two[1].since(two[0]).as_millis())
            .collect();
        let share = gaps.iter().map(|gap| gap * 100 / 400);
        assert!(
            share.clone().all(|it| most.contains(&it)),
            "{end}: {gaps:?}"
        );
        assert!(share.clone().max() > share.min());
    }
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn lost_packets_are_missed_by_nobody_below_the_multiplier() {
    let mut pair = Pair::new(config(300, 3), config(300, 3));
    pair.run(Duration::from_secs(4), |_| true);
    for _ in 0..100 {
        // One interval and a half of silence.
        pair.run(Duration::from_millis(450), |_| false);
        pair.run(Duration::from_millis(600), |_| true);
        assert_eq!(pair.states(), [State::Up; 2]);
    }
}

#[test]
fn who_switches_off_says_nothing_of_the_path() {
    let mut pair = Pair::new(config(300, 3), config(300, 3));
    pair.run(Duration::from_secs(4), |_| true);
    let discriminator = pair.sent[1].last().unwrap().1.my_discriminator;
    let off = Packet {
        state: State::AdminDown,
        diagnostic: 7,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: discriminator,
        your_discriminator: pair.sent[0][0].1.my_discriminator,
        desired_tx: Duration::from_secs(1),
        min_rx: Duration::from_secs(1),
    };
    let [one, _] = &mut pair.ends;
    one.handle(&off.bytes(), pair.now).unwrap();
    assert_eq!((one.state(), one.diagnostic()), (State::Down, 3));
    assert!(one.passes());
    // But silence does.
    pair.run(Duration::from_secs(10), |_| false);
    assert!(!pair.ends[0].passes());
}

#[test]
fn one_that_was_never_up_is_relied_on_for_a_while() {
    let mut session = Session::new(config(300, 3), 7, START);
    let mut now = START;
    let mut packets = 0;
    while now < START + Duration::from_secs(9) {
        now = session.due();
        packets += usize::from(session.poll(now).is_some());
        assert!(now >= START + Duration::from_secs(9) || session.passes());
    }
    // One a second, whatever it is to be later.
    assert!((9..=13).contains(&packets), "{packets}");
    let over = START + Duration::from_secs(10);
    while session.due() < over {
        session.poll(session.due());
    }
    assert_eq!(session.due(), over);
    session.poll(over);
    assert!(!session.passes());
    assert!(session.due() > over);
}

#[test]
fn what_names_another_session_is_not_believed() {
    let mut pair = Pair::new(config(300, 3), config(300, 3));
    pair.run(Duration::from_secs(4), |_| true);
    let (_, packet) = *pair.sent[1].last().unwrap();
    let [one, _] = &mut pair.ends;
    for (your_discriminator, state, refused) in [
        (1, State::Up, Refused::OtherSession),
        (9, State::Down, Refused::OtherSession),
        // Whoever knows no more than who the neighbor is.
        (0, State::Up, Refused::NoSession),
        (0, State::Init, Refused::NoSession),
        (0, State::Down, Refused::NoSession),
        (0, State::AdminDown, Refused::NoSession),
    ] {
        let forged = Packet {
            your_discriminator,
            state,
            ..packet
        };
        assert_eq!(one.handle(&forged.bytes(), pair.now), Err(refused));
        assert_eq!(one.state(), State::Up);
    }
}

/// The other end has started anew, and names no session: it is missed, and heard then.
#[test]
fn who_begins_anew_is_up_again_after_a_detection_time() {
    let mut pair = Pair::new(config(300, 3), config(300, 3));
    pair.run(Duration::from_secs(4), |_| true);
    assert_eq!(pair.states(), [State::Up; 2]);
    let mut anew = Session::new(config(300, 3), 0x7777_8888_9999, pair.now);
    let (began, mut was_down) = (pair.now, false);
    let one = &mut pair.ends[0];
    while [one.state(), anew.state()] != [State::Up; 2] {
        let now = one.due().min(anew.due());
        assert!(now < began + Duration::from_secs(6));
        // Either refuses what is for a session that it has forgotten.
        if let Some(packet) = anew.poll(now) {
            let _ = one.handle(&packet, now);
        }
        if let Some(packet) = one.poll(now) {
            let _ = anew.handle(&packet, now);
        }
        was_down |= one.state() == State::Down;
        assert!(was_down || now <= began + Duration::from_millis(900));
    }
    assert!(was_down);
}

#[test]
fn who_wants_none_gets_none_but_answers() {
    let mut session = Session::new(config(300, 3), 7, START);
    session.poll(START);
    let quiet = Packet {
        state: State::Down,
        diagnostic: 0,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 200,
        my_discriminator: 5,
        your_discriminator: 0,
        desired_tx: Duration::from_secs(1),
        min_rx: Duration::ZERO,
    };
    session.handle(&quiet.bytes(), START).unwrap();
    let mut now = START;
    for _ in 0..20 {
        now = session.due();
        assert_eq!(session.poll(now), None);
    }
    let asks = Packet {
        poll: true,
        ..quiet
    };
    session.handle(&asks.bytes(), now).unwrap();
    let answer = Packet::parse(&session.poll(now).unwrap()).unwrap();
    assert!(answer.is_final && !answer.poll);
}

/// Any bytes at any time leave it with something to do later, and no more packets than one for each of theirs.
#[test]
fn whatever_comes_it_neither_hurries_nor_stops() {
    let mut session = Session::new(config(300, 3), 7, START);
    let (mut now, mut random, mut sent) = (START, 88_172_645_463_325_252_u64, 0);
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut bytes = [0; packet::LEN];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::try_from(random.rotate_left(u32::try_from(place * 5).unwrap()) & 0xff).unwrap();
        }
        (bytes[0], bytes[3]) = (0x20, 24);
        if random & 0x1000 != 0 {
            bytes[8..12].copy_from_slice(&session.discriminator.to_be_bytes());
        }
        let _ = session.handle(&bytes, now);
        now = now + Duration::from_millis(random % 50);
        while session.due() <= now {
            sent += usize::from(session.poll(now).is_some());
        }
        assert!(session.due() > now);
    }
    assert!(sent < 20_000, "{sent}");
}
