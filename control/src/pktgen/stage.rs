//! A trial: packets leave and arrive at all seats, by one thread and one clock.
//!
//! In: seats, a profile, a load. Out: a [`Trial`], marked with what was not as it should be. Never: a longer trial because
//! the device was slow; an average over a hole.
//!
//! A turn: each seat sends what is due, a burst at most, and takes what came, a burst at most. Now and then, not in each turn,
//! it is looked whether somebody wants an end and whether the device is still there.

use std::time::Instant;

use culvert_pktgen::Profile;
use culvert_pktgen::limits::RESIDUAL_NS;
use culvert_pktgen::receive::Latencies;
use culvert_pktgen::trial::{Around, Irregular, Trial};

use super::cores::{Cores, stolen, waited_ns};
use super::seat::{Away, BURST, Lost, Seat, Work};
use super::stop::Stop;
use super::wire::WireError;

/// How often is looked whether the trial goes on.
const LOOK_NS: u64 = 20_000_000;

/// Stolen time that a trial may have: a hundredth, as measurements of gso have it.
pub(super) const STOLEN_MAX: f64 = 0.01;

/// The share of the time in which bursts leave more behind them, from which the generator is what limits a trial.
const SATURATED: f64 = 0.9;

/// What is told while a trial runs.
pub type Progress<'p> = &'p mut dyn FnMut(Moment);

/// How far a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The trial's number.
    pub trial: u64,
    /// Its load.
    pub packets_per_s: f64,
    /// How long it has sent,
    pub sent_for_ns: u64,
    /// of how long.
    pub duration_ns: u64,
    /// Packets received so far.
    pub received: u64,
}

/// How a trial is run.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Where threads are, for stolen time.
    pub cores: Cores,
    /// Who may end it.
    pub stop: Stop,
    /// How long nothing has to come, after the last was sent, before the rest counts as lost; [`RESIDUAL_NS`] at most.
    pub quiet_ns: u64,
}

/// Seats, and what is sent between them.
#[derive(Debug)]
pub struct Stage {
    /// The seats.
    pub seats: Vec<Seat>,
    /// What is sent. Its duration is that of the next trial.
    pub profile: Profile,
    manner: Manner,
    /// Trials so far.
    number: u64,
}

impl Stage {
    /// Seats that have sent nothing yet.
    #[must_use]
    pub const fn new(seats: Vec<Seat>, profile: Profile, manner: Manner) -> Self {
        Self {
            seats,
            profile,
            manner,
            number: 0,
        }
    }

    /// Runs a trial: `packets_per_s` has a rate for each stream.
    ///
    /// # Errors
    /// A seat can't get ready for it, though its device is there.
    pub fn trial(
        &mut self,
        packets_per_s: &[f64],
        progress: Progress<'_>,
    ) -> Result<Trial, WireError> {
        self.number += 1;
        // Modulo 256, and never that of a trial before.
        let id = u8::try_from(self.number % 256).unwrap_or(0);
        let mut irregular = Vec::new();
        for seat in &mut self.seats {
            match seat.prepare(&self.profile, packets_per_s, id) {
                Ok(()) => {}
                Err(WireError::Lost(_)) => irregular.push(Irregular::LinkLost {
                    seat: seat.name.clone(),
                }),
                Err(error) => return Err(error),
            }
        }
        let load: f64 = packets_per_s.iter().sum();
        let ticks = self.manner.cores.ticks();
        let waited = waited_ns();
        let clock = Clock::start();
        let mut spent = Spent::default();
        let ended_ns = match irregular.is_empty() {
            true => self.send(clock, load, progress, (&mut irregular, &mut spent)),
            false => 0,
        };
        for seat in &mut self.seats {
            seat.close(ended_ns);
        }
        self.settle(clock, &mut irregular);
        let whole_ns = clock.ns();
        let share = stolen(&ticks, &self.manner.cores.ticks());
        if share > STOLEN_MAX {
            irregular.push(Irregular::Steal { share });
        }
        irregular.extend(self.away(waited_ns().saturating_sub(waited)));
        irregular.extend(spent.saturated());
        let left_ns = self.seats.iter().map(Seat::sent_ns).max();
        let halves = || self.seats.iter().map(|seat| &seat.halves);
        let transmits: Vec<_> = halves().map(|it| &it.transmit).collect();
        let receives: Vec<_> = halves().map(|it| &it.receive).collect();
        let around = Around {
            number: self.number,
            packets_per_s: load,
            sent_for_ns: ended_ns.max(left_ns.unwrap_or(0)),
            whole_ns,
            busy_share: spent.busy_share(),
            irregular,
        };
        Ok(Trial::of(&self.profile, &transmits, &receives, around))
    }

    /// Those of the last trial, all streams together.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        for seat in &self.seats {
            let received = seat.halves.receive.received();
            received.for_each(|(_, latencies)| all.add(latencies));
        }
        all
    }

    /// The same, of which nothing is kept: not even its number.
    ///
    /// # Errors
    /// As [`Stage::trial`].
    pub fn warm_up(&mut self, packets_per_s: &[f64]) -> Result<(), WireError> {
        let number = self.number;
        // Its packets are not the next trial's, which has the same number.
        self.number = u64::MAX - 1;
        let warmed = self.trial(packets_per_s, &mut |_| {});
        self.number = number;
        warmed.map(drop)
    }

    /// Until the trial's end, or an earlier one; when that was.
    fn send(
        &mut self,
        clock: Clock,
        load: f64,
        progress: Progress<'_>,
        (irregular, spent): (&mut Vec<Irregular>, &mut Spent),
    ) -> u64 {
        let duration_ns = self.profile.duration_ns;
        let mut look_ns = LOOK_NS;
        loop {
            let now_ns = clock.ns();
            if now_ns >= duration_ns && self.is_sent(now_ns) {
                return duration_ns;
            }
            match self.turn(clock, now_ns) {
                Ok(work) => spent.note(now_ns, work),
                Err((seat, _)) => {
                    irregular.push(Irregular::LinkLost { seat });
                    return now_ns;
                }
            }
            if now_ns < look_ns {
                continue;
            }
            look_ns = now_ns + LOOK_NS;
            if let Some(mark) = self.ended() {
                irregular.push(mark);
                return now_ns;
            }
            progress(Moment {
                trial: self.number,
                packets_per_s: load,
                sent_for_ns: now_ns,
                duration_ns,
                received: self.received(),
            });
        }
    }

    /// At the end: whether nothing is left that is late, and not too late.
    fn is_sent(&self, now_ns: u64) -> bool {
        let latest_ns = self.profile.duration_ns + self.profile.catch_up_ns;
        let mut seats = self.seats.iter();
        now_ns >= latest_ns || seats.all(|seat| seat.due_ns().is_none())
    }

    #[inline]
    fn turn(&mut self, clock: Clock, now_ns: u64) -> Result<Work, (String, Lost)> {
        let mut work = Work::None;
        for seat in &mut self.seats {
            seat.visit(now_ns);
            let sent = seat.send(now_ns);
            let turned = sent.and_then(|sent| {
                let received = match seat.receive(|| clock.ns())? {
                    0 => Work::None,
                    BURST.. => Work::More,
                    _ => Work::Some,
                };
                Ok(sent.max(received))
            });
            work = work.max(turned.map_err(|lost| (seat.name.clone(), lost))?);
        }
        Ok(work)
    }

    /// Waits for what is under way.
    fn settle(&mut self, clock: Clock, irregular: &mut Vec<Irregular>) {
        let sent: u64 = self
            .seats
            .iter()
            .flat_map(|seat| seat.halves.transmit.sent())
            .map(|(_, sent)| sent.sent)
            .sum();
        let begun_ns = clock.ns();
        let mut last_ns = begun_ns;
        loop {
            let now_ns = clock.ns();
            let mut came = 0;
            for seat in &mut self.seats {
                seat.visit(now_ns);
                match seat.receive(|| clock.ns()) {
                    Ok(frames) => came += frames,
                    Err(_) if irregular.iter().any(is_link) => {}
                    Err(_) => irregular.push(Irregular::LinkLost {
                        seat: seat.name.clone(),
                    }),
                }
            }
            if came > 0 {
                last_ns = now_ns;
            }
            let is_quiet = now_ns - last_ns > self.manner.quiet_ns;
            let all = came == 0 && self.received() >= sent;
            let is_lost = irregular.iter().any(is_link);
            if all || is_quiet || now_ns - begun_ns > RESIDUAL_NS || is_lost {
                return;
            }
        }
    }

    fn received(&self) -> u64 {
        let halves = self.seats.iter().map(|seat| &seat.halves);
        let received = halves.flat_map(|it| it.receive.received());
        received.map(|(received, _)| received.received).sum()
    }

    /// Why the trial can't go on.
    fn ended(&self) -> Option<Irregular> {
        if self.manner.stop.is_asked() {
            return Some(Irregular::Interrupted);
        }
        let gone = self.seats.iter().find(|seat| !seat.is_connected())?;
        Some(Irregular::LinkLost {
            seat: gone.name.clone(),
        })
    }

    /// Whether it was away from a seat for too long. One thread looks at all of them, so the worst stands for all.
    fn away(&self, waited_ns: u64) -> Option<Irregular> {
        let aways = self.seats.iter().map(Seat::away);
        let worst = aways.reduce(|one, other| Away {
            times: one.times.max(other.times),
            total_ns: one.total_ns.max(other.total_ns),
            longest_ns: one.longest_ns.max(other.longest_ns),
        });
        let Away {
            times,
            total_ns,
            longest_ns,
        } = worst.unwrap_or_default();
        (times > 0).then_some(Irregular::Away {
            times,
            total_ns,
            longest_ns,
            waited_ns,
        })
    }
}

/// What a trial's time went into: turns by what there was to do in them.
#[derive(Debug, Default)]
struct Spent {
    begun_ns: u64,
    work: Work,
    all_ns: u64,
    busy_ns: u64,
    more_ns: u64,
}

impl Spent {
    /// A turn that began at a time; the one before it ended then.
    #[inline]
    fn note(&mut self, begun_ns: u64, work: Work) {
        let ns = begun_ns - self.begun_ns;
        self.all_ns += ns;
        self.busy_ns += if self.work == Work::None { 0 } else { ns };
        self.more_ns += if self.work == Work::More { ns } else { 0 };
        (self.begun_ns, self.work) = (begun_ns, work);
    }

    fn busy_share(&self) -> f64 {
        self.busy_ns as f64 / self.all_ns.max(1) as f64
    }

    fn saturated(&self) -> Option<Irregular> {
        let share = self.more_ns as f64 / self.all_ns.max(1) as f64;
        (share > SATURATED).then_some(Irregular::Saturated { share })
    }
}

const fn is_link(mark: &Irregular) -> bool {
    matches!(mark, Irregular::LinkLost { .. })
}

/// Nanoseconds since a trial's beginning.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    #[inline]
    fn ns(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use culvert_pktgen::tree::Node;

    use super::super::memory::Memory;
    use super::super::seat::Place;
    use super::*;

    fn stage(flags: &[(&str, &str)]) -> (Stage, Vec<f64>) {
        let profile = Profile::read(&Node::of_flags(flags.iter().copied())).unwrap();
        let rates = profile.packets_per_s(None).unwrap();
        let seat = Seat::new("", Place::Memory(Memory::new(60)), &profile);
        let manner = Manner {
            cores: Cores {
                generator: 0,
                workers: vec![0],
            },
            stop: Stop::default(),
            quiet_ns: 1_000_000,
        };
        (Stage::new(vec![seat], profile, manner), rates)
    }

    #[test]
    fn a_generator_that_has_more_to_do_than_it_can_says_so() {
        let (mut stage, rates) = stage(&[("rate", "1000mpps"), ("duration", "50ms")]);
        let trial = stage.trial(&rates, &mut |_| {}).unwrap();
        let saturated =
            |it: &Irregular| matches!(it, Irregular::Saturated { share } if *share > 0.9);
        assert!(
            trial.irregular.iter().any(saturated),
            "{:?}",
            trial.irregular
        );
        assert!(trial.busy_share > 0.9, "{}", trial.busy_share);
        let sent = trial.total.sent;
        assert!(
            sent.own_unsent > 0 && sent.own_unsent == sent.unsent,
            "{sent:?}"
        );
        assert!(trial.counts() && !trial.is_regular());
    }

    #[test]
    fn time_is_told_by_what_there_was_to_do_in_it() {
        let mut spent = Spent::default();
        for (begun_ns, work) in [
            (0, Work::Some),
            (10, Work::None),
            (30, Work::More),
            (100, Work::None),
        ] {
            spent.note(begun_ns, work);
        }
        assert!((spent.busy_share() - 0.8).abs() < 1e-9);
        assert_eq!((spent.more_ns, spent.saturated()), (70, None));
        spent.note(1_000, Work::More);
        spent.note(100_000, Work::None);
        assert!(matches!(
            spent.saturated(),
            Some(Irregular::Saturated { .. })
        ));
    }

    #[test]
    fn packets_that_leave_behind_the_end_lower_the_rate() {
        let flags = [
            ("rate", "1mpps"),
            ("duration", "1ms"),
            ("catch_up", "10s"),
            ("late", "60s"),
        ];
        let (mut stage, _) = stage(&flags);
        // A hundred times as many as the length has time for, wherever this runs.
        let trial = stage.trial(&[1e9], &mut |_| {}).unwrap();
        let sent = trial.total.sent;
        assert_eq!((sent.intended, sent.unsent), (1_000_000, 0));
        assert!(trial.sent_for_ns > 2 * trial.duration_ns, "{trial:?}");
        let rate = sent.sent as f64 * 1e9 / trial.sent_for_ns as f64;
        assert!((trial.forwarded_per_s() / rate - 1.0).abs() < 0.01);
        assert!(trial.outcome().is_some_and(|it| it.loss_ratio > 0.5));
    }
}
