//! The history's files.
//!
//! In: configurations with their keys. Out: files in `history` of the state directory, 0600; what they hold. Never: a
//! file written in place; a damaged one removed.
//!
//! Of revision 7: `7.yaml.z`, the normalized file, compressed (zlib); `7.keys`, the keys that it names, if it names some;
//! `7.json`, who applied it and what became of it, with the sums of the other two. The last is written last and makes
//! the revision; others without it were never finished.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use culvert_directory::Directory;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::journal::{Found, JOURNAL, Journal};
use super::keys::{Keys, Revoked};
use super::revision::{Content, FORMAT, Outcome, Revision, sum};
use crate::process::step;

/// Its folder in the state directory.
const FOLDER: &str = "history";
/// Public keys that no rollback brings back.
const REVOKED: &str = "revoked.json";
/// Revisions that are kept.
const KEPT: usize = 50;
/// Bytes that all files together may have; what is needed to go back stays anyway.
const KEPT_BYTES: u64 = 64 << 20;
/// A configuration's text has no more: a file that says so is damaged.
const TEXT_MAX: usize = 128 << 20;
/// Fast, and as small as keys can be made.
const LEVEL: u8 = 4;

/// A revision's head as it lies in its file.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    #[serde(flatten)]
    revision: Revision,
    /// Bytes of the other files.
    len: u64,
    /// What became of it is not on the disk yet.
    #[serde(skip)]
    is_unwritten: bool,
    /// Of the compressed text.
    text_sum: String,
    /// Of the keys' file, unless there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys_sum: Option<String>,
}

/// All that is kept.
pub(super) struct Store {
    directory: Directory,
    heads: Vec<Head>,
    next: u64,
    pub(super) revoked: Revoked,
    /// Why those are not known, which keeps every revision from coming back.
    pub(super) revoked_unknown: Option<String>,
    /// What was found damaged, in words.
    pub(super) set_aside: Vec<String>,
}

impl Store {
    /// Opens it, and sets aside what can't be read.
    pub(super) fn open(state_dir: &Directory) -> io::Result<Self> {
        let directory = state_dir.within(FOLDER, 0o700);
        let directory = directory.map_err(|error| io::Error::other(error.to_string()))?;
        let mut store = Self {
            directory,
            heads: Vec::new(),
            next: 1,
            revoked: Revoked::default(),
            revoked_unknown: None,
            set_aside: Vec::new(),
        };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> io::Result<()> {
        let names = self.directory.names()?;
        let numbers: BTreeSet<u64> = names.iter().filter_map(number_of).collect();
        for &number in &numbers {
            self.next = self.next.max(number + 1);
            let has = |end| names.contains(&file(number, end).into());
            match has("json") {
                true => self.load_one(number, has("keys")),
                // A write that was not finished.
                false => self.remove_files(number),
            }
        }
        for left in names
            .iter()
            .filter(|name| name.as_encoded_bytes().ends_with(b".new"))
        {
            self.directory.remove(left)?;
        }
        if names.contains(&REVOKED.into()) {
            match self.read_json(REVOKED) {
                Ok(revoked) => self.revoked = revoked,
                Err(why) => {
                    let path = self.directory.path().join(REVOKED);
                    let why = format!(
                        "{} {why}: nothing is restored, as nobody knows which keys may not come back; put a good copy in \
                         its place, or remove it and revoke them again, and restart",
                        path.display()
                    );
                    self.set_aside.push(why.clone());
                    self.revoked_unknown = Some(why);
                }
            }
        }
        Ok(())
    }

    fn load_one(&mut self, number: u64, has_keys: bool) {
        match self.head(number) {
            Ok(mut head) => {
                // A purge that was cut short: the keys go first.
                if !has_keys {
                    head.keys_sum = None;
                }
                self.heads.push(head);
            }
            Err(why) => {
                let names = ["json", "yaml.z", "keys"].map(|end| file(number, end));
                self.put_aside(&names, &why);
            }
        }
    }

    /// Without a look at what the other files hold: that is compared when they are read.
    fn head(&self, number: u64) -> Result<Head, String> {
        let head: Head = self.read_json(&file(number, "json"))?;
        if head.format > FORMAT {
            return Err(format!(
                "is of format {}, which a newer culvert wrote",
                head.format
            ));
        }
        if head.revision.number != number {
            return Err(format!("says that it is revision {}", head.revision.number));
        }
        let names = self.directory.names().map_err(|error| error.to_string())?;
        if !names.contains(&file(number, "yaml.z").into()) {
            return Err("has no text".into());
        }
        Ok(head)
    }

    fn read_json<T: for<'d> Deserialize<'d>>(&self, name: &str) -> Result<T, String> {
        let bytes = self
            .directory
            .read(name)
            .map_err(|error| format!("can't be read: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("is damaged: {error}"))
    }

    /// Keeps them under another name, for whoever wants to look.
    fn put_aside(&mut self, names: &[String], why: &str) {
        for name in names {
            let _ = self.directory.rename(name, format!("{name}.damaged"));
        }
        let path = self.directory.path().join(&names[0]);
        self.set_aside
            .push(format!("{} {why}: set aside", path.display()));
    }

    /// The revisions, the newest last.
    pub(super) fn revisions(&self) -> impl DoubleEndedIterator<Item = &Revision> {
        self.heads.iter().map(|head| &head.revision)
    }

    pub(super) fn revision(&self, number: u64) -> Option<&Revision> {
        self.revisions().find(|revision| revision.number == number)
    }

    /// The number that the next one has.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Writes a revision; it is on the disk then. When that can't be done, nothing of it is left.
    pub(super) fn add(&mut self, revision: Revision, content: &Content) -> io::Result<()> {
        let number = revision.number;
        let written = self.write(revision, content);
        match written {
            Ok(head) => {
                self.next = number + 1;
                self.heads.push(head);
                Ok(())
            }
            Err(error) => {
                self.remove_files(number);
                Err(error)
            }
        }
    }

    fn write(&self, revision: Revision, content: &Content) -> io::Result<Head> {
        let number = revision.number;
        let text = miniz_oxide::deflate::compress_to_vec_zlib(content.text.as_bytes(), LEVEL);
        let mut head = Head {
            format: FORMAT,
            revision,
            len: text.len() as u64,
            is_unwritten: false,
            text_sum: sum(&text),
            keys_sum: None,
        };
        if !content.keys.is_empty() {
            let keys = content.keys.to_bytes()?;
            head.len += keys.len() as u64;
            head.keys_sum = Some(sum(&keys));
            step("before the keys of a revision");
            self.directory
                .replace_durably(file(number, "keys"), &keys)?;
        }
        step("before the text of a revision");
        self.directory
            .replace_durably(file(number, "yaml.z"), &text)?;
        step("before the head of a revision");
        self.write_head(&head)?;
        step("after the head of a revision");
        Ok(head)
    }

    fn write_head(&self, head: &Head) -> io::Result<()> {
        let name = file(head.revision.number, "json");
        self.directory
            .replace_durably(name, &serde_json::to_vec(head)?)
    }

    /// Writes down what became of a revision; it is on the disk then. What can't be written holds as long as the process,
    /// and can be written again.
    pub(super) fn mark(&mut self, number: u64, outcome: Outcome, why: &str) -> io::Result<()> {
        let mut heads = self.heads.iter();
        let Some(place) = heads.position(|it| it.revision.number == number) else {
            return Ok(());
        };
        let head = &mut self.heads[place];
        let same = head.revision.outcome == outcome && head.revision.why == why;
        if same && !head.is_unwritten {
            return Ok(());
        }
        head.revision.outcome = outcome;
        head.revision.why = why.to_owned();
        let written = self.write_head(&self.heads[place]);
        self.heads[place].is_unwritten = written.is_err();
        written.inspect_err(|error| {
            tracing::error!(revision = number, %error, "what became of a revision can't be written down");
        })
    }

    /// Forgets a revision, keys and all.
    pub(super) fn remove(&mut self, number: u64) {
        self.heads.retain(|head| head.revision.number != number);
        self.remove_files(number);
    }

    fn remove_files(&self, number: u64) {
        // The head first: what is left of a revision without one is removed at the next start.
        for end in ["json", "keys", "yaml.z"] {
            if let Err(error) = self.directory.remove(file(number, end)) {
                tracing::error!(revision = number, %error, "a revision can't be removed");
            }
        }
    }

    /// Lets old ones go until the rest is few and small enough; none of those.
    pub(super) fn expire(&mut self, needed: &[u64]) {
        loop {
            let bytes: u64 = self.heads.iter().map(|head| head.len).sum();
            if self.heads.len() <= KEPT && bytes <= KEPT_BYTES {
                return;
            }
            let numbers: Vec<_> = self.revisions().map(|it| it.number).collect();
            let Some(oldest) = numbers.into_iter().find(|it| !needed.contains(it)) else {
                return;
            };
            self.remove(oldest);
        }
    }

    /// A revision's text and keys, if they are as they were written.
    pub(super) fn content(&self, number: u64) -> Result<Content, String> {
        let head = self
            .heads
            .iter()
            .find(|head| head.revision.number == number);
        let head = head.ok_or_else(|| format!("there is no revision {number}"))?;
        let damaged =
            |what: &str| format!("the {what} of revision {number} can't be read: it is damaged");
        let packed = self
            .directory
            .read(file(number, "yaml.z"))
            .map_err(|_| damaged("text"))?;
        if sum(&packed) != head.text_sum {
            return Err(damaged("text"));
        }
        let text = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&packed, TEXT_MAX);
        let text = text.ok().and_then(|text| String::from_utf8(text).ok());
        let keys = match &head.keys_sum {
            None => Keys::default(),
            Some(sum) => self.keys(number, sum).ok_or_else(|| damaged("keys"))?,
        };
        Ok(Content {
            text: text.ok_or_else(|| damaged("text"))?,
            keys,
            path: head.revision.path.clone(),
        })
    }

    fn keys(&self, number: u64, told: &str) -> Option<Keys> {
        let bytes = Zeroizing::new(self.directory.read(file(number, "keys")).ok()?);
        (sum(&bytes) == told).then_some(())?;
        Keys::from_bytes(&bytes).ok()
    }

    /// Forgets the keys of a revision.
    pub(super) fn purge_keys(&mut self, number: u64) -> io::Result<()> {
        self.exchange_keys(number, &Keys::default())
    }

    fn exchange_keys(&mut self, number: u64, keys: &Keys) -> io::Result<()> {
        let place = self
            .heads
            .iter()
            .position(|head| head.revision.number == number);
        let Some(place) = place.filter(|&place| self.heads[place].keys_sum.is_some()) else {
            return Ok(());
        };
        // With a head that names other keys, those that lie there are damaged: so they go first.
        self.directory.remove(file(number, "keys"))?;
        let bytes = match keys.is_empty() {
            true => None,
            false => Some(keys.to_bytes()?),
        };
        self.heads[place].keys_sum = bytes.as_ref().map(|bytes| sum(bytes));
        self.write_head(&self.heads[place])?;
        match bytes {
            Some(bytes) => self.directory.replace_durably(file(number, "keys"), &bytes),
            None => self.directory.sync(),
        }
    }

    /// No rollback brings that key back; what is kept of it goes.
    pub(super) fn revoke(&mut self, key: &crate::keys::PublicKey) -> io::Result<()> {
        if let Some(why) = &self.revoked_unknown {
            return Err(io::Error::other(why.clone()));
        }
        self.revoked.0.insert(key.to_base64());
        let revoked = serde_json::to_vec(&self.revoked)?;
        self.directory.replace_durably(REVOKED, &revoked)?;
        let numbers: Vec<_> = self.revisions().map(|it| it.number).collect();
        for number in numbers {
            let Ok(mut content) = self.content(number) else {
                continue;
            };
            if content.keys.forget(&self.revoked) {
                self.exchange_keys(number, &content.keys)?;
            }
        }
        Ok(())
    }

    /// What waits for its confirmation, if the process before left something so.
    pub(super) fn journal(&self) -> Found {
        match self.directory.names() {
            Ok(names) if !names.contains(&JOURNAL.into()) => return Found::Nothing,
            Ok(_) => {}
            Err(error) => return Found::Unreadable(format!("can't be looked for: {error}")),
        }
        let read = self.read_json(JOURNAL).and_then(|journal: Journal| {
            let missing = [journal.previous, journal.pending];
            let missing = missing.into_iter().find(|&it| self.revision(it).is_none());
            match missing {
                _ if journal.format > FORMAT => Err("is of a newer culvert".to_owned()),
                Some(number) => Err(format!("names revision {number}, which can't be read")),
                None => Ok(journal),
            }
        });
        read.map_or_else(Found::Unreadable, Found::Waits)
    }

    /// What can't be read is in nobody's way any more.
    pub(super) fn put_journal_aside(&mut self, why: &str) {
        self.put_aside(&[JOURNAL.into()], why);
    }

    pub(super) fn write_journal(&self, journal: &Journal) -> io::Result<()> {
        step("before the journal");
        self.directory
            .replace_durably(JOURNAL, &serde_json::to_vec(journal)?)?;
        step("after the journal");
        Ok(())
    }

    /// The change is kept, or was taken back: a start takes the file again, unless this fails.
    pub(super) fn end_journal(&self) -> io::Result<()> {
        step("before the journal's end");
        let removed = self.directory.remove(JOURNAL);
        let ended = removed.and_then(|()| self.directory.sync());
        ended.inspect_err(
            |error| tracing::error!(%error, "the journal of the history can't be removed"),
        )?;
        step("after the journal's end");
        Ok(())
    }
}

/// Where it lies.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

fn file(number: u64, end: &str) -> String {
    format!("{number}.{end}")
}

/// The revision that a file belongs to.
fn number_of(name: &OsString) -> Option<u64> {
    let (number, end) = name.to_str()?.split_once('.')?;
    let known = ["json", "keys", "yaml.z"].contains(&end) || end.ends_with(".damaged");
    number.parse().ok().filter(|_| known)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::history::revision::Origin;

    fn revision(number: u64) -> Revision {
        Revision {
            number,
            hash: number.to_string(),
            unix: number,
            user: "root".into(),
            origin: Origin::Cli,
            message: String::new(),
            outcome: Outcome::Applied,
            why: String::new(),
            path: "/etc/culvert/culvert.yaml".into(),
            restores: None,
        }
    }

    fn content(text: &str) -> Content {
        Content {
            text: text.into(),
            keys: Keys::default(),
            path: "/etc/culvert/culvert.yaml".into(),
        }
    }

    fn folder() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::own(folder.path(), 0o700).unwrap();
        (folder, directory)
    }

    #[test]
    fn old_ones_expire_and_what_is_needed_stays() {
        let (folder, directory) = folder();
        let mut store = Store::open(&directory).unwrap();
        for number in 1..=KEPT as u64 + 5 {
            assert_eq!(store.next(), number);
            store
                .add(revision(number), &content("version: 1\n"))
                .unwrap();
            store.expire(&[2, number]);
        }
        let kept: Vec<_> = store.revisions().map(|it| it.number).collect();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[..3], [2, 7, 8]);
        let files = fs::read_dir(folder.path().join(FOLDER)).unwrap();
        assert_eq!(files.count(), 2 * KEPT);
        let again = Store::open(&directory).unwrap();
        assert_eq!(again.next(), KEPT as u64 + 6);
        assert!(again.revisions().eq(store.revisions()));
        assert_eq!(again.content(2).unwrap().text, "version: 1\n");
    }

    /// As a process leaves it that ends while it writes.
    #[test]
    fn what_was_not_finished_is_gone_at_the_next_start() {
        let (folder, directory) = folder();
        let mut store = Store::open(&directory).unwrap();
        store.add(revision(1), &content("version: 1\n")).unwrap();
        let path = folder.path().join(FOLDER);
        for name in ["2.yaml.z", "2.keys", "3.json.new", "journal.new"] {
            fs::write(path.join(name), "x").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(path.join(name), mode).unwrap();
        }
        let store = Store::open(&directory).unwrap();
        assert!(store.set_aside.is_empty(), "{:?}", store.set_aside);
        assert_eq!(store.journal(), Found::Nothing);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        store.write_journal(&Journal::new(1, 1, 7)).unwrap();
        assert_eq!(store.journal(), Found::Waits(Journal::new(1, 1, 7)));
        store.end_journal().unwrap();
        assert_eq!(store.journal(), Found::Nothing);
    }
}
