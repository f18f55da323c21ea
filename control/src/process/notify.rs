//! Messages to systemd (`Type=notify` with `ReloadSignal`, sd_notify(3)).
//!
//! In: `NOTIFY_SOCKET` of the environment. Out: datagrams to it. Never: a failure of the caller: a
//! service manager that can't be reached changes nothing here.

use sd_notify::NotifyState;

/// The way to systemd, or to nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notify;

impl Notify {
    /// The start, or a reload, is complete.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// A configuration is being applied; `ready` ends it.
    pub fn reloading(&self) {
        // `Type=notify-reload` wants the time beside it; `Type=notify` ignores it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
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

    fn send(self, state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "systemd can't be told");
        }
    }
}
