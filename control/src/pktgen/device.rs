//! The device under test, if it is a Culvert that is started for it.
//!
//! In: a configuration. Out: a process of this very program with a folder of its own, what it counts. Never: a process or a
//! folder that outlives this one: the kernel ends the process even if this one is killed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use culvert_pktgen::trial::Clue;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::cores::Waited;
use super::far;
use super::stop::Stop;
use crate::api::bodies::ApplyBody;
use crate::api::client::{Client, ClientError};
use crate::state::{Part, State};

/// EAL takes its time.
const START: Duration = Duration::from_secs(30);
/// It drains what guests have sent.
const END: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// Of its log, when it did not start.
const LINES: usize = 12;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The system.
    #[error("the device under test: {0}")]
    System(#[from] io::Error),
    /// It said why.
    #[error("the device under test did not start:\n{0}")]
    NotStarted(String),
    /// It is there, and something that it needs is not.
    #[error("the device under test has no {0} after {START:?}")]
    NotReady(String),
    /// It does not take what it is to be.
    #[error("the device under test: {0}")]
    Refused(String),
    /// Ctrl-C.
    #[error("ended before the device under test had started")]
    Interrupted,
}

/// The device.
#[derive(Debug)]
pub struct Device {
    child: Child,
    folder: tempfile::TempDir,
    client: Client,
    /// Where it may run: where this process might, before the generator took a processor for itself.
    affinity: CpuSet,
}

impl Device {
    /// Starts it, and waits until it answers. Relative sockets are in its run directory, `secrets` are files beside its
    /// configuration.
    ///
    /// # Errors
    /// It does not start: its last words.
    pub fn start(
        config: &str,
        secrets: &[(&str, String)],
        stop: &Stop,
    ) -> Result<Self, DeviceError> {
        let folder = tempfile::Builder::new()
            .prefix("culvert-pktgen-")
            .tempdir()?;
        fs::write(folder.path().join("culvert.yaml"), config)?;
        for (name, secret) in secrets {
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600);
            file.open(folder.path().join(name))?
                .write_all(secret.as_bytes())?;
        }
        let mut device = Self {
            child: launch(folder.path())?,
            affinity: sched_getaffinity(None).map_err(io::Error::from)?,
            client: Client::new(&folder.path().join("run")),
            folder,
        };
        device.wait_until("answer", stop, |client| client.status().is_ok())?;
        Ok(device)
    }

    /// Starts it again, if it has ended: with the same configuration.
    ///
    /// # Errors
    /// It does not start.
    pub fn revive(&mut self, stop: &Stop) -> Result<bool, DeviceError> {
        // Its socket is closed a moment before it can be waited for.
        let until = Instant::now() + Duration::from_secs(1);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
        let folder = self.folder.path();
        // DPDK binds no socket whose file is there still.
        let _ = fs::remove_file(folder.join(far::SOCKET));
        self.child = elsewhere(&self.affinity, || launch(folder))?;
        self.wait_until("answer", stop, |client| client.status().is_ok())?;
        Ok(true)
    }

    /// Waits until its client says that something is there.
    ///
    /// # Errors
    /// It isn't in time, the process has ended, or nobody wants to wait any more.
    pub fn wait_until(
        &mut self,
        what: &str,
        stop: &Stop,
        mut is_there: impl FnMut(&Client) -> bool,
    ) -> Result<(), DeviceError> {
        let until = Instant::now() + START;
        while !is_there(&self.client) {
            if self.child.try_wait()?.is_some() {
                return Err(DeviceError::NotStarted(self.last_words()));
            }
            if stop.is_asked() {
                return Err(DeviceError::Interrupted);
            }
            if Instant::now() > until {
                return Err(DeviceError::NotReady(what.into()));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Makes it something else, and keeps its file with it: so it would be started again.
    ///
    /// # Errors
    /// It refuses.
    pub fn apply(&self, config: &str) -> Result<(), DeviceError> {
        let path = self.folder.path().join("culvert.yaml");
        fs::write(&path, config)?;
        let body = ApplyBody {
            path,
            text: config.into(),
            ..ApplyBody::default()
        };
        let applied = self.client.apply(&body);
        let applied = applied.map_err(|error| match error {
            ClientError::Refused(refusal) => {
                DeviceError::Refused(format!("{}\n{}", refusal.error, refusal.report))
            }
            other @ (ClientError::NotRunning(_)
            | ClientError::Forbidden { .. }
            | ClientError::Broken { .. }) => DeviceError::Refused(other.to_string()),
        })?;
        match applied.failures.is_empty() {
            true => Ok(()),
            false => Err(DeviceError::Refused(applied.failures.join("; "))),
        }
    }

    /// Waits until guests at all ports have their links.
    ///
    /// # Errors
    /// As [`Device::wait_until`].
    pub fn wait_for_guests(&mut self, stop: &Stop) -> Result<(), DeviceError> {
        self.wait_until("link to its guests", stop, |client| {
            let state = client.state(Some(Part::Ports));
            state.is_ok_and(|state| state.ports.iter().all(|port| port.link_up))
        })
    }

    /// The socket of its NIC, if it has one that is at a wire of ours.
    #[must_use]
    pub fn wire_socket(&self) -> PathBuf {
        self.folder.path().join(far::SOCKET)
    }

    /// A socket in its run directory.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    /// What it tells of itself, or of a part; `None`: it does not answer.
    #[must_use]
    pub fn state(&self, part: Part) -> Option<State> {
        self.client.state(Some(part)).ok()
    }

    /// How long its workers were kept from their processors so far.
    #[must_use]
    pub fn waited(&self) -> Waited {
        Waited::of(self.child.id(), "worker-")
    }

    /// All that it lost so far, by place and reason.
    #[must_use]
    pub fn drops(&self) -> Vec<Clue> {
        let drops = self.state(Part::Drops).map(|state| state.drops);
        let clue = |drop: crate::state::Drop| Clue {
            scope: drop.scope,
            reason: drop.reason,
            packets: drop.packets,
        };
        drops.into_iter().flatten().map(clue).collect()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// What was lost since an earlier look.
#[must_use]
pub fn since(earlier: &[Clue], now: Vec<Clue>) -> Vec<Clue> {
    let before = |clue: &Clue| {
        let same = |it: &&Clue| it.scope == clue.scope && it.reason == clue.reason;
        earlier.iter().find(same).map_or(0, |it| it.packets)
    };
    let grown = now.into_iter().map(|clue| Clue {
        packets: clue.packets.saturating_sub(before(&clue)),
        ..clue
    });
    grown.filter(|clue| clue.packets > 0).collect()
}

/// What it starts may run where `affinity` says, and not on the generator's processor alone, on which this thread is.
fn elsewhere<T>(affinity: &CpuSet, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let here = sched_getaffinity(None)?;
    sched_setaffinity(None, affinity)?;
    let started = start();
    sched_setaffinity(None, &here)?;
    started
}

/// In a process group of its own: Ctrl-C is for us, and we end it. Its log goes on where an earlier one ended.
fn launch(folder: &Path) -> io::Result<Child> {
    let run_dir = folder.join("run");
    let mut log = fs::OpenOptions::new();
    let log = log.create(true).append(true).open(folder.join("log"))?;
    Command::new("/proc/self/exe")
        .arg0("culvert")
        .args(["run", "--with-parent", &std::process::id().to_string()])
        .arg("--file")
        .arg(folder.join("culvert.yaml"))
        .arg("--run-dir")
        .arg(&run_dir)
        .arg("--state-dir")
        .arg(folder.join("state"))
        // Sockets of DPDK's devices are relative to it.
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

impl Drop for Device {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        // What has ended by itself has no pid any more that could be another's: it was not waited for yet.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let until = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_does_not_share_the_generator_s_processor_alone() {
        let all = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..1024).find(|&cpu| all.is_set(cpu)).unwrap());
        sched_setaffinity(None, &one).unwrap();
        let seen = elsewhere(&all, || Ok(sched_getaffinity(None)?)).unwrap();
        assert_eq!((seen, sched_getaffinity(None).unwrap()), (all, one));
        sched_setaffinity(None, &all).unwrap();
    }

    #[test]
    fn what_was_lost_since_a_look_is_what_has_grown() {
        let clue = |scope: &str, packets| Clue {
            scope: scope.into(),
            reason: "guard-mac".into(),
            packets,
        };
        let now = vec![clue("port a", 7), clue("port b", 3), clue("port c", 2)];
        let since = since(&[clue("port a", 5), clue("port b", 3)], now);
        assert_eq!(since, [clue("port a", 2), clue("port c", 2)]);
    }
}
