//! A change that waits for its confirmation.
//!
//! In: for how long, and what must go well meanwhile. Out: whether it is kept, or taken back; its end on the disk, however
//! long that takes. Never: the wall's clock, nor one that stands still while the machine sleeps; the control core's time
//! for more than what is checked.

use std::fmt;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::History;
use crate::api::{Request, Requester, apply};
use crate::config::{Config, Name};
use crate::keys::PublicKey;
use crate::process::memory;
use crate::report;
use crate::state;

/// How often is looked after it.
const LOOK: Duration = Duration::from_millis(500);
/// What is checked and goes down for so long is down: a port that is opened anew has its guest back sooner, and a peer whose
/// call was lost is called again meanwhile.
const DOWN: Duration = Duration::from_secs(8);
/// What is checked and is up for so long holds.
const UP: Duration = Duration::from_secs(3);
/// The pause before a rollback that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// The pause before an end that could not be written down is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);
/// How long a confirmation may be waited for.
pub const SECONDS: std::ops::RangeInclusive<u64> = 1..=86_400;

/// What an apply asks for that wants to be confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// How long it waits; then it is taken back.
    #[serde(deserialize_with = "crate::api::whole::one")]
    pub seconds: u64,
    /// What takes it back sooner when it goes down: `peer=NAME`, `peer=TUNNEL/NAME`, `port=NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// It is confirmed by itself when all of them hold.
    #[serde(default)]
    pub auto: bool,
}

/// A thing that must go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    /// It has a session, and answers.
    Peer(Name, Name, PublicKey),
    /// Its link is up.
    Port(Name),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(tunnel, name, _) => write!(f, "peer {tunnel}/{name}"),
            Self::Port(name) => write!(f, "port {name}"),
        }
    }
}

/// What is known of it.
#[derive(Debug)]
struct Check {
    thing: Thing,
    /// It was up once, before the change or since.
    was_up: bool,
    /// What was heard of it when it was looked at first, and whether anything was since.
    before: Option<Option<u64>>,
    is_heard: bool,
    /// How it is, and since when.
    now: Option<(bool, Duration)>,
}

/// A look at it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sight {
    pub(crate) up: bool,
    /// Messages that came from it, if it is one of whom only that says anything.
    pub(crate) heard: Option<u64>,
}

/// A change that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) previous: u64,
    pub(super) user: String,
    /// By the clock that goes on while the machine sleeps.
    deadline: Duration,
    checks: Vec<Check>,
    auto: bool,
    /// It is being taken back: an apply of what ran before is let through.
    pub(super) is_lifted: bool,
}

/// What is to be done with it.
pub(crate) enum Due {
    /// It is gone.
    Nothing,
    /// It is being taken back, or was and that is not written down yet.
    Later,
    /// These are to be looked at.
    Look(Vec<Thing>),
    /// It is to be taken back.
    RollBack(String),
    /// It is to be kept.
    Keep,
}

impl Pending {
    pub(super) fn new(number: u64, previous: u64, user: &str, wanted: &Wanted) -> Self {
        let checks = wanted.things.iter().map(|(thing, was_up)| Check {
            thing: thing.clone(),
            was_up: *was_up,
            before: None,
            is_heard: false,
            now: None,
        });
        Self {
            number,
            previous,
            user: user.to_owned(),
            deadline: boot_time() + wanted.wait,
            checks: checks.collect(),
            auto: wanted.auto,
            is_lifted: false,
        }
    }

    /// It waits that long from now on, with other checks.
    pub(super) fn extend(&mut self, wanted: &Wanted) {
        let user = std::mem::take(&mut self.user);
        *self = Self::new(self.number, self.previous, &user, wanted);
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(boot_time())
    }

    pub(super) fn told(&self) -> state::Pending {
        state::Pending {
            revision: self.number,
            previous: self.previous,
            user: self.user.clone(),
            seconds_left: self
                .left()
                .as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX),
            checks: self.checks.iter().map(|it| it.thing.to_string()).collect(),
            auto: self.auto,
        }
    }

    fn due(&self) -> Due {
        if self.left().is_zero() {
            return Due::RollBack("nobody confirmed it in time".into());
        }
        let now = boot_time();
        let so_long = |check: &Check, up: bool, long: Duration| {
            check
                .now
                .is_some_and(|(is, since)| is == up && now.saturating_sub(since) >= long)
        };
        let down = self
            .checks
            .iter()
            .find(|it| it.was_up && so_long(it, false, DOWN));
        if let Some(down) = down {
            return Due::RollBack(format!("{} went down", down.thing));
        }
        // A session from before says nothing of the way that there is now.
        let holds = |it| so_long(it, true, UP) && it.is_heard;
        match self.auto && self.checks.iter().all(holds) {
            true => Due::Keep,
            false => Due::Look(self.checks.iter().map(|it| it.thing.clone()).collect()),
        }
    }

    /// Takes looks down; whether they were the first ones.
    fn seen(&mut self, sights: &[Sight]) -> bool {
        let now = boot_time();
        let mut is_first = false;
        for (check, sight) in self.checks.iter_mut().zip(sights) {
            check.was_up |= sight.up;
            match check.before {
                None => (check.before, is_first) = (Some(sight.heard), true),
                Some(before) => check.is_heard |= before != sight.heard,
            }
            check.is_heard |= matches!(check.thing, Thing::Port(_));
            match check.now {
                Some((before, _)) if before == sight.up => {}
                _ => check.now = Some((sight.up, now)),
            }
        }
        is_first
    }
}

/// What an apply asks for, checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) wait: Duration,
    /// Things, and whether they were up before.
    pub(crate) things: Vec<(Thing, bool)>,
    pub(crate) auto: bool,
}

impl Wanted {
    /// Finds what is to be checked in the configuration that comes.
    pub(crate) fn new(confirm: &Confirm, config: &Config) -> Result<Self, String> {
        if !SECONDS.contains(&confirm.seconds) {
            let (least, most) = (SECONDS.start(), SECONDS.end());
            return Err(format!(
                "a confirmation is waited for from {least} to {most} seconds, not {}",
                confirm.seconds
            ));
        }
        if confirm.auto && confirm.checks.is_empty() {
            return Err(
                "what confirms by itself needs something to check: --check peer=NAME,port=NAME"
                    .into(),
            );
        }
        let things = confirm
            .checks
            .iter()
            .map(|it| Ok((thing(it, config)?, false)));
        Ok(Self {
            wait: Duration::from_secs(confirm.seconds),
            things: things.collect::<Result<_, String>>()?,
            auto: confirm.auto,
        })
    }

    /// Notes what is up before anything changes.
    pub(crate) fn look(&mut self, requester: &Requester) {
        let things: Vec<_> = self.things.iter().map(|(thing, _)| thing.clone()).collect();
        let sights = report::look_at(requester, &things);
        for ((_, was_up), sight) in self.things.iter_mut().zip(sights) {
            *was_up = sight.up;
        }
    }
}

fn thing(text: &str, config: &Config) -> Result<Thing, String> {
    let unknown = || format!("a check is peer=NAME, peer=TUNNEL/NAME or port=NAME, not `{text}`");
    let (kind, name) = text.split_once('=').ok_or_else(unknown)?;
    match kind {
        "port" => {
            let port = config.ports.iter().find(|port| port.name.as_str() == name);
            let port = port.ok_or_else(|| format!("there is no port `{name}` to check"))?;
            Ok(Thing::Port(port.name.clone()))
        }
        "peer" => peer(name, config),
        _ => Err(unknown()),
    }
}

fn peer(text: &str, config: &Config) -> Result<Thing, String> {
    let (wanted, name) = match text.split_once('/') {
        Some((tunnel, name)) => (Some(tunnel), name),
        None => (None, text),
    };
    let tunnels = config.tunnels.iter();
    let tunnels = tunnels.filter(|it| wanted.is_none_or(|wanted| it.name.as_str() == wanted));
    let found: Vec<_> = tunnels
        .flat_map(|tunnel| {
            let peers = tunnel.peers.iter().filter(|it| it.name.as_str() == name);
            peers.map(|it| Thing::Peer(tunnel.name.clone(), it.name.clone(), it.public_key))
        })
        .collect();
    match &found[..] {
        [] => Err(format!("there is no peer `{text}` to check")),
        [one] => Ok(one.clone()),
        _ => Err(format!(
            "several tunnels have a peer `{text}`: name one, as peer=TUNNEL/{name}"
        )),
    }
}

impl History {
    /// What is to be done with that revision; what is owed of its end is written down.
    pub(crate) fn due(&mut self, number: u64) -> Due {
        match &self.pending {
            Some(pending) if pending.is_lifted => Due::Later,
            Some(pending) if pending.number == number => pending.due(),
            Some(_) => Due::Nothing,
            None => match self.settle_owed() {
                Ok(()) => Due::Nothing,
                Err(_) => Due::Later,
            },
        }
    }
}

/// Looks after a change until it is kept or taken back, and that is written down.
pub(crate) fn watch(requester: Requester, number: u64) -> std::io::Result<()> {
    let run = move || {
        let mut told = None;
        while let Some(pause) = attend(&requester, number, &mut told) {
            thread::sleep(pause);
        }
    };
    thread::Builder::new()
        .name("confirm".into())
        .spawn(run)
        .map(drop)
}

/// Has an end that is owed written down, if one is.
pub(crate) fn watch_owed(requester: &Requester) {
    let owed = requester.history().and_then(|mut it| it.attend_owed());
    if let Some(number) = owed
        && let Err(error) = watch(requester.clone(), number)
    {
        tracing::error!(revision = number, %error, "nothing looks after its end: the next apply tries to write it down");
    }
}

/// One look; how long until the next one. Why it could not be ended is told once.
fn attend(requester: &Requester, number: u64, told: &mut Option<String>) -> Option<Duration> {
    let due = requester.history()?.due(number);
    match due {
        Due::Nothing => return None,
        Due::Look(things) if things.is_empty() => {}
        Due::Look(things) => {
            let sights = report::look_at(requester, &things);
            let mut history = requester.history()?;
            let pending = history.pending.as_mut().filter(|it| it.number == number);
            let is_first = pending.is_some_and(|pending| pending.seen(&sights));
            drop(history);
            if is_first {
                call(requester, things);
            }
        }
        Due::Later => return Some(WRITE_AGAIN),
        // What is due is asked again in its turn: an operator may have been faster.
        Due::RollBack(_) | Due::Keep => {
            if let Err(error) = apply::end_pending(requester, number) {
                let now = Some(error.to_string());
                if *told != now {
                    tracing::error!(revision = number, %error, "can't be ended, and is tried again");
                    *told = now;
                }
                return Some(AGAIN);
            }
            // The file that was read for it, and the one that ran.
            memory::give_back();
        }
    }
    Some(LOOK)
}

/// Has peers called, so that there is something to hear of them: their sessions go on meanwhile.
fn call(requester: &Requester, things: Vec<Thing>) {
    for thing in things {
        if let Thing::Peer(tunnel, _, key) = thing {
            // An engine that has ended calls nobody.
            let _ = requester.send_patiently(Request::Call { tunnel, key });
        }
    }
}

/// Since the machine's start, its sleep included.
fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(auto: bool) -> Pending {
        let name = Name::new("vm1").unwrap();
        let wanted = Wanted {
            wait: Duration::from_secs(600),
            things: vec![(Thing::Port(name), false)],
            auto,
        };
        Pending::new(2, 1, "root", &wanted)
    }

    /// As if it had been so for that long.
    fn since(pending: &mut Pending, up: bool, ago: Duration) {
        let heard = None;
        pending.seen(&[Sight { up, heard }]);
        pending.checks[0].now = Some((up, boot_time().saturating_sub(ago)));
    }

    #[test]
    fn what_goes_down_takes_it_back_and_what_never_was_up_waits() {
        let mut pending = pending(true);
        since(&mut pending, false, 2 * DOWN);
        assert!(matches!(pending.due(), Due::Look(_)));
        since(&mut pending, true, Duration::ZERO);
        assert!(matches!(pending.due(), Due::Look(_)));
        since(&mut pending, false, Duration::ZERO);
        assert!(matches!(pending.due(), Due::Look(_)));
        since(&mut pending, false, 2 * DOWN);
        assert!(matches!(pending.due(), Due::RollBack(why) if why == "port vm1 went down"));
    }

    #[test]
    fn what_holds_confirms_if_that_was_asked_for() {
        for auto in [true, false] {
            let mut pending = pending(auto);
            since(&mut pending, true, 2 * UP);
            assert_eq!(matches!(pending.due(), Due::Keep), auto);
        }
    }

    #[test]
    fn a_peer_holds_once_it_was_heard_since() {
        let mut pending = pending(true);
        let [tunnel, name] = ["wg0", "hv-b"].map(|it| Name::new(it).unwrap());
        let key = crate::keys::PrivateKey::from_bytes([7; 32]).public_key();
        pending.checks[0].thing = Thing::Peer(tunnel, name, key);
        let mut look = |heard| {
            let (up, heard) = (true, Some(heard));
            let is_first = pending.seen(&[Sight { up, heard }]);
            pending.checks[0].now = Some((true, boot_time().saturating_sub(2 * UP)));
            (is_first, matches!(pending.due(), Due::Keep))
        };
        assert_eq!(look(70), (true, false));
        assert_eq!(look(70), (false, false));
        assert_eq!(look(71), (false, true));
        assert_eq!(look(71), (false, true));
    }

    #[test]
    fn time_that_is_over_takes_it_back() {
        let mut pending = pending(false);
        pending.deadline = boot_time();
        assert!(matches!(pending.due(), Due::RollBack(_)));
        assert_eq!(pending.told().seconds_left, 0);
    }
}
