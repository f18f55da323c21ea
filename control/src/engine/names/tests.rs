//! Who is asked for names, and what counts of the answers, as time passes.

use culvert_dataplane::shared::ids::UplinkIndex;

use super::*;

const ONE: By = By::Stack(Scope::Uplink(UplinkIndex(0)));
const TWO: By = By::Stack(Scope::Uplink(UplinkIndex(1)));

fn names() -> Names {
    Names::new(&Arc::new(Attention::new().unwrap()))
}

fn key(n: usize) -> Key {
    (0, format!("p{n:03}.example.org"))
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(1_000_000_000) + Duration::from_secs(seconds)
}

fn found(host: u8, seconds: u64) -> Result<(Vec<SocketAddr>, Duration), String> {
    let address = SocketAddr::from(([192, 0, 2, host], 0));
    Ok((vec![address], Duration::from_secs(seconds)))
}

impl Names {
    /// Asks for the next name; who is asked.
    fn turn(&mut self, all: &[By], now: Instant) -> Option<(By, Question)> {
        let key = self.next(now)?;
        self.begin(key, all, Families::default(), now)
    }

    fn due_in(&self, now: Instant) -> u64 {
        self.poll_timeout().unwrap().since(now).as_secs()
    }
}

#[test]
fn after_each_failure_another_is_asked_and_after_a_success_the_first() {
    let mut names = names();
    assert_eq!(names.want(&key(1), 7, at(0)), []);
    let mut now = at(0);
    for by in [ONE, TWO, By::System, ONE] {
        let (asked, question) = names.turn(&[ONE, TWO, By::System], now).unwrap();
        assert_eq!(asked, by);
        assert!(names.turn(&[ONE], now).is_none(), "it is asked for once");
        question.answer(Err("no".into()));
        assert_eq!(names.next_answered(now), Some(vec![]));
        now = names.poll_timeout().unwrap();
    }
    let (asked, question) = names.turn(&[ONE, TWO, By::System], now).unwrap();
    assert_eq!(asked, TWO);
    question.answer(found(9, 60));
    assert_eq!(names.next_answered(now), Some(vec![7]));
    assert_eq!(names.due_in(now), 60);
    now = names.poll_timeout().unwrap();
    let (asked, question) = names.turn(&[ONE, TWO], now).unwrap();
    assert_eq!(asked, ONE);
    // Whoever lets go of it has answered, too; what is known stays.
    drop(question);
    assert_eq!(names.next_answered(now), Some(vec![]));
    let sight = names.sight(&key(1), now).unwrap();
    assert_eq!(sight.addresses, [IpAddr::from([192, 0, 2, 9])]);
    assert!(sight.error.is_some());
}

#[test]
fn lifetimes_count_between_a_floor_and_a_ceiling() {
    let mut names = names();
    names.want(&key(1), 7, at(0));
    for (lifetime, counts) in [
        (0, 10),
        (9, 10),
        (11, 11),
        (3_599, 3_599),
        (u64::MAX, 3_600),
    ] {
        names.note(&key(1), found(9, lifetime), at(5));
        assert_eq!(names.due_in(at(5)), counts, "{lifetime}");
    }
}

#[test]
fn an_older_question_s_answer_is_none() {
    let mut names = names();
    names.want(&key(1), 7, at(0));
    let (_, older) = names.turn(&[By::System], at(0)).unwrap();
    // The uplink has learned of servers.
    names.renew(&[0].into(), true, at(1));
    let (asked, newer) = names.turn(&[ONE], at(1)).unwrap();
    assert_eq!(asked, ONE);
    newer.answer(found(9, 60));
    assert_eq!(names.next_answered(at(2)), Some(vec![7]));
    older.answer(Err("no resolver".into()));
    assert_eq!(names.next_answered(at(3)), None);
    let sight = names.sight(&key(1), at(3)).unwrap();
    assert_eq!((sight.error, sight.addresses.len()), (None, 1));
    assert!(names.asked.is_empty() && names.under_way.values().all(|&it| it == 0));
}

#[test]
fn who_has_no_room_holds_up_no_other() {
    let mut names = names();
    for n in 0..NAMES + 3 {
        names.want(&key(n), n, at(0));
    }
    let mut asked = Vec::new();
    while let Some(key) = names.next(at(0)) {
        asked.extend(names.begin(key, &[ONE], Families::default(), at(0)));
    }
    assert_eq!(asked.len(), NAMES);
    assert_eq!(names.poll_timeout(), None, "the others wait for room");
    names.want(&(1, "other.example.org".into()), 99, at(0));
    let (by, _other) = names.turn(&[TWO], at(0)).unwrap();
    assert_eq!(by, TWO);
    // One that waits is none any more; each answer makes room for one.
    names.leave(&key(NAMES), NAMES);
    let (_, question) = asked.pop().unwrap();
    question.answer(found(9, 60));
    assert!(names.next_answered(at(1)).is_some());
    assert!(names.turn(&[ONE], at(1)).is_none());
    let (by, question) = names.turn(&[ONE], at(1)).unwrap();
    assert_eq!((by, &question.name), (ONE, &key(NAMES + 1).1));
    assert!(names.turn(&[ONE], at(1)).is_none());
}

#[test]
fn names_that_were_not_found_are_asked_for_when_their_uplink_is_back() {
    let mut names = names();
    let elsewhere = (1, key(1).1);
    for key in [&key(1), &key(2), &elsewhere] {
        names.want(key, 7, at(0));
    }
    names.note(&key(1), Err("silence".into()), at(0));
    names.note(&key(2), found(9, 600), at(0));
    names.note(&elsewhere, Err("silence".into()), at(0));
    names.renew(&[0].into(), false, at(1));
    let due: Vec<_> = names.due.iter().cloned().collect();
    let expected = [(at(1), key(1)), (at(5), elsewhere), (at(600), key(2))];
    assert_eq!(due, expected);
}
