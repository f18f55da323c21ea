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
use culvert_pktgen::trial::{Around, Irregular, Trial};

use super::cores::Cores;
use super::seat::{Lost, Seat};
use super::stop::Stop;

/// How often is looked whether the trial goes on.
const LOOK_NS: u64 = 20_000_000;

/// Stolen time that a trial may have: a hundredth, as measurements of gso have it.
const STOLEN_MAX: f64 = 0.01;

/// Unsent packets that are nobody's word against the generator: those of the first turns and of an interrupt.
const BEHIND_SHARE: f64 = 1e-4;

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
    pub fn trial(&mut self, packets_per_s: &[f64], progress: Progress<'_>) -> Trial {
        self.number += 1;
        // Modulo 256, and never that of a trial before.
        let id = u8::try_from(self.number % 256).unwrap_or(0);
        for seat in &mut self.seats {
            seat.prepare(&self.profile, packets_per_s, id);
        }
        let load: f64 = packets_per_s.iter().sum();
        let ticks = self.manner.cores.ticks();
        let clock = Clock::start();
        let mut irregular = Vec::new();
        let sent_for_ns = self.send(clock, load, progress, &mut irregular);
        for seat in &mut self.seats {
            seat.close(sent_for_ns);
        }
        self.settle(clock, &mut irregular);
        let whole_ns = clock.ns();
        let stolen = self.manner.cores.ticks().stolen_since(ticks);
        if stolen > STOLEN_MAX {
            irregular.push(Irregular::Steal { share: stolen });
        }
        irregular.extend(self.behind());
        let halves = || self.seats.iter().map(|seat| &seat.halves);
        let transmits: Vec<_> = halves().map(|it| &it.transmit).collect();
        let receives: Vec<_> = halves().map(|it| &it.receive).collect();
        let around = Around {
            number: self.number,
            packets_per_s: load,
            sent_for_ns,
            whole_ns,
            irregular,
        };
        Trial::of(&self.profile, &transmits, &receives, around)
    }

    /// The same, of which nothing is kept: not even its number.
    pub fn warm_up(&mut self, packets_per_s: &[f64]) {
        let number = self.number;
        // Its packets are not the next trial's, which has the same number.
        self.number = u64::MAX - 1;
        self.trial(packets_per_s, &mut |_| {});
        self.number = number;
    }

    /// Until the trial's end, or an earlier one; when that was.
    fn send(
        &mut self,
        clock: Clock,
        load: f64,
        progress: Progress<'_>,
        irregular: &mut Vec<Irregular>,
    ) -> u64 {
        let duration_ns = self.profile.duration_ns;
        let mut look_ns = LOOK_NS;
        loop {
            let now_ns = clock.ns();
            if now_ns >= duration_ns && self.is_sent(now_ns) {
                return duration_ns;
            }
            if let Err((seat, _)) = self.turn(clock, now_ns) {
                irregular.push(Irregular::LinkLost { seat });
                return now_ns;
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
    fn turn(&mut self, clock: Clock, now_ns: u64) -> Result<(), (String, Lost)> {
        for seat in &mut self.seats {
            let sent = seat.send(now_ns);
            let turned = sent.and_then(|()| seat.receive(|| clock.ns()));
            turned.map_err(|lost| (seat.name.clone(), lost))?;
        }
        Ok(())
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

    /// Packets whose time passed though no ring was full: the generator was too slow.
    fn behind(&self) -> Option<Irregular> {
        let on_its_own = self.seats.iter().filter(|seat| !seat.pushed_back);
        let (unsent, intended) = on_its_own
            .flat_map(|seat| seat.halves.transmit.sent())
            .fold((0, 0), |sum, (_, sent)| {
                (sum.0 + sent.unsent, sum.1 + sent.intended)
            });
        let is_much = unsent as f64 > intended as f64 * BEHIND_SHARE;
        is_much.then_some(Irregular::Behind { packets: unsent })
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
