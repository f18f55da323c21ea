//! One scenario: its scratch folder, its name, its logs when it fails.
//!
//! In: a name, the parts that it needs, a body. Out: the body's result; on failure every log in the scratch folder.
//! Never: leaves the folder behind, unless `CULVERT_KEEP` is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::needs::{self, Part};
use crate::network;
use crate::process::tail;

/// What a scenario's body is handed.
#[derive(Debug)]
pub struct Scenario {
    name: String,
    scratch: PathBuf,
    started: Instant,
    succeeded: bool,
}

impl Scenario {
    /// Runs `body` with a fresh scratch folder, after making sure that the machine has every part.
    pub fn run(name: &str, parts: &[Part], body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        if !needs::check(name, parts)? {
            return Ok(());
        }
        network::sweep();
        let mut scenario = Self::open(name)?;
        let outcome = body(&scenario);
        scenario.succeeded = outcome.is_ok();
        outcome
    }

    fn open(name: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // Short: a Unix socket's path has at most 107 bytes.
        let scratch = std::env::temp_dir().join(format!("cv-{}-{serial}", std::process::id()));
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        Ok(Self {
            name: name.to_owned(),
            scratch,
            started: Instant::now(),
            succeeded: false,
        })
    }

    /// Its scratch folder.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A path in its scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// One line of progress, with the time since the scenario's start.
    pub fn say(&self, text: impl AsRef<str>) {
        eprintln!(
            "[{:7.3} s] {}",
            self.started.elapsed().as_secs_f64(),
            text.as_ref()
        );
    }

    fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(&self.scratch) else {
            return;
        };
        let mut logs: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            eprintln!("---- {}: {} (the last lines)", self.name, log.display());
            eprintln!("{}", tail(&text, 60));
        }
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if !self.succeeded {
            self.print_logs();
        }
        if std::env::var_os("CULVERT_KEEP").is_some() {
            eprintln!("kept: {}", self.scratch.display());
        } else {
            // Nothing more can be done about a folder that does not go away.
            let _ = fs::remove_dir_all(&self.scratch);
        }
    }
}
