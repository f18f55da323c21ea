//! Programs that a scenario runs.
//!
//! In: a [`Command`]. Out: its output, or a [`Process`] that writes to a log file and ends when dropped.
//! Never: ends anything by name, or waits without a limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long something may take before the scenario fails.
pub type Limit = Duration;

/// Looks again and again until `look` finds something; fails after `limit`, naming what was awaited.
pub fn eventually<T>(
    what: &str,
    limit: Limit,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().with_context(|| format!("while waiting for {what}"))? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("{what} did not happen within {limit:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end and gives its standard output; fails on any other exit than 0.
pub fn run(command: &mut Command, limit: Limit) -> Result<String> {
    let shown = shown(command);
    let output = bounded(command, limit).with_context(|| shown.clone())?;
    if !output.0.success() {
        bail!(
            "`{shown}` ended with {}\n{}{}",
            output.0,
            output.1,
            output.2
        );
    }
    Ok(output.1)
}

/// Status, standard output and standard error of a command that may fail.
pub fn bounded(command: &mut Command, limit: Limit) -> Result<(ExitStatus, String, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start")?;
    let readers = [
        child
            .stdout
            .take()
            .map(|out| thread::spawn(move || read_all(out))),
        child
            .stderr
            .take()
            .map(|err| thread::spawn(move || read_all(err))),
    ];
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut texts = readers.into_iter().map(|reader| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    });
    let (out, err) = (
        texts.next().unwrap_or_default(),
        texts.next().unwrap_or_default(),
    );
    match status {
        Some(status) => Ok((status, out, err)),
        None => bail!("did not end within {limit:?}\n{out}{err}"),
    }
}

fn read_all(mut from: impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is still worth showing.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// `program`, in a namespace if one is named, told by the kernel to end when we do.
pub(crate) fn program(namespace: Option<&str>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, "setpriv"]);
            command
        }
        None => Command::new("setpriv"),
    };
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running program. Both of its outputs go to one log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where its own words begin in the log, in bytes.
    from: usize,
}

impl Process {
    /// Starts `command`, logging to `<folder>/<name>.log` (appending, so that a restart keeps the first life's log).
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let from = usize::try_from(file.metadata()?.len())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("could not start {}", shown(&command)))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            from,
        })
    }

    /// Everything it has said so far; nothing that others of its name said before.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.from..).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}:\n{}",
                self.name,
                tail(&self.log(), 30)
            ),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().try_into()?).context("process id 0")?;
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Limit) -> Result<ExitStatus> {
        let name = format!("the end of {}", self.name);
        eventually(&name, limit, || Ok(self.child.try_wait()?))
    }

    /// SIGKILL, as a crash would end it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
