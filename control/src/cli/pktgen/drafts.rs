//! Files for results: begun before anything is measured, in place when all of it is written.
//!
//! In: paths, results. Out: files, whole or not at all. Never: hours of measuring before somebody learns that a folder can't
//! be written; an older file that is gone before the new one is whole; one file that is missing because another failed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use culvert_pktgen::report::Results;
use tempfile::{Builder, NamedTempFile};

/// What a file has of results.
pub(super) type Text = fn(&Results) -> String;

/// Files that were begun.
#[derive(Debug, Default)]
pub(super) struct Drafts(Vec<Draft>);

#[derive(Debug)]
struct Draft {
    path: PathBuf,
    text: Text,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Beside the file that it becomes.
    Beside(NamedTempFile),
    /// In what is no ordinary file: a pipe, a terminal.
    There(File),
}

impl Drafts {
    /// Begins files.
    ///
    /// # Errors
    /// One can't be written: which, and why.
    pub(super) fn begin<'p>(
        files: impl IntoIterator<Item = (Option<&'p PathBuf>, Text)>,
    ) -> Result<Self, String> {
        let wanted = files
            .into_iter()
            .filter_map(|(path, text)| Some((path?, text)));
        let drafts = wanted.map(|(path, text)| {
            let place = Place::of(path).map_err(|error| cant(path, &error))?;
            Ok(Draft {
                path: path.clone(),
                text,
                place,
            })
        });
        Ok(Self(drafts.collect::<Result<_, String>>()?))
    }

    /// Writes all of them, whatever becomes of one.
    ///
    /// # Errors
    /// Those that can't be written, each in a line.
    pub(super) fn finish(self, results: &Results) -> Result<(), String> {
        let written = self.0.into_iter().map(|draft| {
            let text = (draft.text)(results);
            let finished = draft.place.finish(&draft.path, text.as_bytes());
            finished.map_err(|error| cant(&draft.path, &error))
        });
        let failed: Vec<String> = written.filter_map(Result::err).collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("\n")),
        }
    }
}

fn cant(path: &Path, error: &io::Error) -> String {
    format!("can't write {}: {error}", path.display())
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        // A link stays, and what it leads to is replaced.
        let (path, mode) = match fs::metadata(path) {
            Ok(it) if !it.is_file() => {
                return Ok(Self::There(OpenOptions::new().write(true).open(path)?));
            }
            Ok(it) => (fs::canonicalize(path)?, it.permissions()),
            // As much as the process's mask leaves.
            Err(_) => (std::path::absolute(path)?, Permissions::from_mode(0o666)),
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut builder = Builder::new();
        let draft = builder.prefix(".culvert-").permissions(mode);
        Ok(Self::Beside(draft.tempfile_in(folder)?))
    }

    fn finish(self, path: &Path, text: &[u8]) -> io::Result<()> {
        match self {
            Self::There(mut file) => file.write_all(text),
            Self::Beside(mut draft) => {
                draft.write_all(text)?;
                draft.as_file().sync_all()?;
                let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                draft.persist(path).map_err(|error| error.error)?;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(results: &Results) -> String {
        results.title.clone()
    }

    #[test]
    fn a_file_that_can_t_be_written_is_known_before_anything_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/report.html");
        let told = Drafts::begin([(Some(&path), text as Text)]).unwrap_err();
        assert!(
            told.contains("can't write") && told.contains("none/report.html"),
            "{told}"
        );
        assert!(Drafts::begin([(None, text as Text)]).unwrap().0.is_empty());
    }

    #[test]
    fn older_results_stay_until_the_new_ones_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.csv"), folder.path().join("link.csv"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        drop(Drafts::begin([(Some(&link), text as Text)]).unwrap());
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), names()),
            ("old", 2)
        );

        let drafts = Drafts::begin([(Some(&link), text as Text)]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let results = Results {
            title: "new".into(),
            ..Results::default()
        };
        drafts.finish(&results).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), names()),
            ("new", 2)
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_full_disk_takes_one_file_and_not_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (full, path) = (PathBuf::from("/dev/full"), folder.path().join("a.csv"));
        let drafts = Drafts::begin([(Some(&full), text as Text), (Some(&path), text as Text)]);
        let results = Results {
            title: "all of it".into(),
            ..Results::default()
        };
        let told = drafts.unwrap().finish(&results).unwrap_err();
        assert!(
            told.starts_with("can't write /dev/full: No space left"),
            "{told}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "all of it");
    }
}
