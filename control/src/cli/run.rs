//! `culvert run`: the order of a start and of an end.
//!
//! In: a file. Out: the process's whole life. Never: packets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::args::{DEFAULT_FILE, Place, StateArgs};
use super::{Failure, check, wants_color};
use crate::config::{Config, Readings, Report};
use crate::history::{self, Beginning, History, pending};
use crate::process::signals::{self, Cause};
use crate::process::{self, Notify, RunDir, StateDir, Watch};
use crate::{api, engine, layer};

/// `culvert run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = DEFAULT_FILE,
        short_alias = 'c',
        alias = "config"
    )]
    file: PathBuf,
    /// Apply it whenever it, or what it includes, or a file of a key or certificate, changes on the disk
    #[arg(short, long)]
    watch: bool,
    /// End when the process that started this one, of this number, ends, however it does
    #[arg(long, hide = true, value_name = "PID")]
    with_parent: Option<i32>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    place: Place,
}

/// 1. Nothing secret is in memory yet: shut the process's memory off.
/// 2. Signals are blocked before the first thread.
/// 3. The whole configuration is checked before anything is touched.
/// 4. Run and state directory are locked; only then may stale sockets be replaced.
/// 5. The control socket and signals are served; the engine takes the calling thread.
/// 6. The engine has drained: the control socket goes, the locks after it.
pub(super) fn run(args: Run) -> Result<(), Failure> {
    process::harden()?;
    signals::block()?;
    if let Some(parent) = args.with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        // It may have ended before that, and then no signal comes.
        if rustix::process::getppid() != rustix::process::Pid::from_raw(parent) {
            let line = format!("process {parent}, which started this one, has ended");
            return Err(Failure::Line(line));
        }
    }
    process::memory::keep_little();
    process::log::init();
    // Relative paths, those of key files with them, would change their meaning with the working directory.
    let config = std::path::absolute(&args.file)?;
    let run_dir = std::path::absolute(&args.place.run_dir)?;
    let watch = args.watch.then(|| Watch::new(&config));
    let mut readings = Readings::default();
    let loaded = check::load(&config, &mut readings);
    // Ahead of what lives as long as the process: it would be laid into pages that are there for nothing.
    process::memory::give_back();
    let state_dir = args.state.path(&run_dir);
    // What was tried and not confirmed is taken back, whatever the file says.
    let loaded = match history::is_interrupted(&state_dir) {
        true => loaded,
        false => Ok(loaded?),
    };
    let run_dir = RunDir::open(&run_dir)?;
    let state_dir = StateDir::open(&state_dir)?;
    let notify = Notify::default();
    let (requester, requests) = api::channel()?;
    let (history, beginning) = begin(&state_dir, loaded, &config)?;
    let (loaded, undone, number) = beginning.into_parts();
    let requester = requester.keeping(state_dir.directory()).recording(history);
    requester.remember(readings);
    open_layer(&requester, &state_dir, &loaded.api.key_directory);
    requester.desk().look_into(&config);
    let server = api::server::serve(
        run_dir.directory(),
        &loaded.api,
        requester.clone(),
        Arc::new(requester.clone()),
    )?;
    let reload = signals::serve(Some(config.clone()), requester.clone(), notify.clone())?;
    if let (Some(watch), Some(reload)) = (watch, reload) {
        let asker = requester.clone();
        let named = move || layer::named_keys(&asker);
        watch.serve(named, move || {
            // One that waits already will read what the file says by then.
            let _ = reload.try_send(Cause::Watch);
        })?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %loaded.node,
        config = %config.display(),
        run_dir = %run_dir.path().display(),
        state_dir = %state_dir.path().display(),
        "starting"
    );
    let (begun, recorder) = (std::cell::Cell::new(false), requester.clone());
    let ended = engine::run(
        loaded,
        engine::Surroundings {
            run_dir: Some(&run_dir),
            requester,
            requests,
            notify: &notify,
            ready: Box::new(|| {
                begun.set(true);
                process::memory::give_back();
                if let Some(mut history) = recorder.history() {
                    history.begun(undone, number);
                }
                pending::watch_owed(&recorder);
            }),
            lone: None,
        },
    );
    if let Some(mut history) = recorder.history().filter(|_| !begun.get()) {
        history.not_begun(number);
    }
    notify.stopping();
    drop(server);
    ended.map_err(|error| Failure::Line(error.to_string()))?;
    tracing::info!("ended");
    Ok(())
}

/// What the process starts with: the file, or what ran before a change that nobody confirmed.
fn begin(
    state_dir: &StateDir,
    file: Result<Config, Failure>,
    path: &Path,
) -> Result<(History, Beginning), Failure> {
    let history = History::open(state_dir.directory());
    let mut history = history.map_err(|error| Failure::Line(format!("the history: {error}")))?;
    let file = file.and_then(|config| refuse_revoked(&history, config, path));
    let beginning = history.begin(file)?;
    Ok((history, beginning))
}

/// A start leaves peers out whose keys are revoked: all others are reached. What else has a revoked key refuses the file;
/// it is read once more then, for the lines.
fn refuse_revoked(history: &History, mut config: Config, path: &Path) -> Result<Config, Failure> {
    for peer in history.disable_revoked(&mut config) {
        tracing::error!(%peer, "its key is revoked: it is left out, as if the file had `enabled: false`");
    }
    let mut report = Report::new(path, "");
    history.refuse_revoked(&config, &mut report);
    if report.errors() == 0 {
        return Ok(config);
    }
    if let Ok((config, again)) = Readings::default().load(path) {
        report = again;
        history.refuse_revoked(&config, &mut report);
    }
    Err(Failure::Report(report.render(wants_color(&io::stderr()))))
}

/// Reads what was laid over the file for single objects.
fn open_layer(requester: &api::Requester, state_dir: &StateDir, key_directory: &Path) {
    let history = requester.history();
    let is_revoked = |key: &_| history.as_ref().is_some_and(|it| it.is_revoked(key));
    let desk = requester.desk();
    desk.open(state_dir.directory(), key_directory, is_revoked);
}
