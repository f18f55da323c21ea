//! Messages to systemd (`Type=notify` with `ReloadSignal`, sd_notify(3)).
//!
//! In: `NOTIFY_SOCKET` of the environment. Out: datagrams to it. Never: a failure of the caller: a
//! service manager that can't be reached changes nothing here; `READY=1` before everything is open, or after the end
//! has begun, whatever reloads are under way.

use std::sync::{Arc, Mutex, PoisonError};

use sd_notify::NotifyState;

/// The way to systemd, or to nobody. Clones tell of the same process.
#[derive(Clone, Debug, Default)]
pub struct Notify(Arc<Mutex<Phase>>);

/// What systemd believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Ready,
    Reloading,
    Stopping,
}

impl Notify {
    /// The start is complete.
    pub fn ready(&self) {
        self.step(Phase::Starting, Phase::Ready);
    }

    /// A configuration is being applied; `reloaded` ends it.
    pub fn reloading(&self) {
        self.step(Phase::Ready, Phase::Reloading);
    }

    /// A reload is complete.
    pub fn reloaded(&self) {
        self.step(Phase::Reloading, Phase::Ready);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = Phase::Stopping;
        self.tell(Phase::Stopping);
    }

    /// Goes on from one phase alone, and tells so. The lock keeps messages in the phases' order.
    fn step(&self, from: Phase, to: Phase) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == from {
            *phase = to;
            self.tell(to);
        }
    }

    fn tell(&self, phase: Phase) {
        match (phase, NotifyState::monotonic_usec_now()) {
            (Phase::Starting, _) => {}
            (Phase::Ready, _) => self.send(&[NotifyState::Ready]),
            // `Type=notify-reload` wants the time beside it; `Type=notify` ignores it.
            (Phase::Reloading, Ok(now)) => self.send(&[NotifyState::Reloading, now]),
            (Phase::Reloading, Err(_)) => self.send(&[NotifyState::Reloading]),
            (Phase::Stopping, _) => self.send(&[NotifyState::Stopping]),
        }
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&[NotifyState::Status(line)]);
    }

    /// Tells the watchdog that the control core turns; see [`Notify::watchdog`].
    pub fn alive(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// How often [`Notify::alive`] should be called: half of what the unit allows. `None`: nobody
    /// waits for it.
    pub fn watchdog(&self) -> Option<std::time::Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }

    fn send(&self, state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "systemd can't be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_during_the_start_or_the_end_is_not_told() {
        let notify = Notify::default();
        let phase = || *notify.0.lock().unwrap();
        // A file with mistakes is refused while the engine still opens its devices.
        notify.reloading();
        notify.reloaded();
        assert_eq!(phase(), Phase::Starting);
        notify.ready();
        assert_eq!(phase(), Phase::Ready);
        notify.reloading();
        assert_eq!(phase(), Phase::Reloading);
        notify.reloaded();
        assert_eq!(phase(), Phase::Ready);
        notify.reloading();
        notify.stopping();
        notify.reloaded();
        notify.ready();
        assert_eq!(phase(), Phase::Stopping);
    }
}
