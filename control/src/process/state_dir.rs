//! The state directory: what outlives the machine's restart.
//!
//! In: a path. Out: a directory that this process alone uses, until it ends in whatever way; files in it are this user's
//! alone (0600). Never: a directory that others may write to, or another name for one.

use std::path::{Path, PathBuf};

use culvert_directory::Directory;

use super::DEFAULT_RUN_DIR;
use super::own_dir::{OwnDir, OwnDirError, Purpose};

/// Where it is for the run directory of that kind, unless `--state-dir` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/culvert";

/// Its name in a run directory that is not the default one.
const IN_RUN_DIR: &str = "state";

const PURPOSE: Purpose = Purpose {
    name: "state directory",
    option: "--state-dir",
    mode: 0o700,
};

/// A state directory that this process alone uses.
#[derive(Debug)]
pub struct StateDir(OwnDir);

impl StateDir {
    /// Makes the directory (mode 0700) unless it is there, and locks it.
    ///
    /// # Errors
    ///
    /// When another process has it, or it can't be trusted.
    pub fn open(path: &Path) -> Result<Self, OwnDirError> {
        OwnDir::open(path, &PURPOSE).map(Self)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.directory().path()
    }

    /// The directory itself.
    pub fn directory(&self) -> &Directory {
        self.0.directory()
    }
}

/// Where the state of a Culvert with that run directory is kept. Several on a machine have a run directory each, and
/// share nothing without another word.
#[must_use]
pub fn state_path(named: Option<PathBuf>, run_dir: &Path) -> PathBuf {
    named.unwrap_or_else(|| match run_dir == Path::new(DEFAULT_RUN_DIR) {
        true => DEFAULT_STATE_DIR.into(),
        false => run_dir.join(IN_RUN_DIR),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn each_run_directory_has_a_state_of_its_own() {
        let of =
            |named: Option<&str>, run_dir| state_path(named.map(PathBuf::from), Path::new(run_dir));
        assert_eq!(of(None, "/run/culvert"), Path::new("/var/lib/culvert"));
        assert_eq!(of(None, "/run/culvert/"), Path::new("/var/lib/culvert"));
        assert_eq!(of(None, "/run/b"), Path::new("/run/b/state"));
        assert_eq!(of(Some("/x"), "/run/culvert"), Path::new("/x"));
        assert_eq!(of(Some("/x"), "/run/b"), Path::new("/x"));
    }

    #[test]
    fn it_is_made_for_one_and_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("uses the state directory"), "{error}");
        assert!(error.contains("--state-dir"), "{error}");
        drop(state);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        let error = StateDir::open(&link).unwrap_err().to_string();
        assert!(error.contains("a link to one"), "{error}");
    }
}
