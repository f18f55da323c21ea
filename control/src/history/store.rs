//! The history's files.
//!
//! In: configurations with their keys. Out: files in `history` of the state directory, 0600; what they hold. Never: a
//! file written in place; a damaged one removed.
//!
//! Of revision 7: `7.parts`, what its normalized file has that no file of an earlier one had (`texts`); `7.keys`, the
//! keys that it names, if it names some; `7.json`, who applied it and what became of it, with the sums of the other two.
//! The last is written last and makes the revision; others without it were never finished. In format 1 the whole text is
//! `7.yaml.z`, compressed (zlib).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use culvert_directory::Directory;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::journal::{self, Found, JOURNAL, Journal};
use super::keys::{Keys, Revoked};
use super::revision::{Content, FORMAT, Outcome, Revision, sum};
use super::sums::Told;
use super::texts::{self, Texts};
use crate::process::step;

/// Its folder in the state directory.
const FOLDER: &str = "history";
/// Public keys that no rollback brings back.
const REVOKED: &str = "revoked.json";
/// Revisions that are kept.
const KEPT: usize = 50;
/// Bytes that all files together may have; what is needed to go back stays anyway.
const KEPT_BYTES: u64 = 64 << 20;
/// A file of a higher number is none of ours: no machine applies so often, and JSON has no higher ones.
const NUMBER_MAX: u64 = 1 << 53;
/// A configuration's text has no more: a file that says so is damaged.
pub(super) const TEXT_MAX: usize = 128 << 20;

/// A revision's head as it lies in its file.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    #[serde(flatten)]
    revision: Revision,
    /// Bytes of the other files that came with it.
    len: u64,
    /// What became of it is not on the disk yet.
    #[serde(skip)]
    is_unwritten: bool,
    /// Of the line that says where its text lies; in format 1 of the compressed text.
    text_sum: String,
    /// Other revisions whose files its text needs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    needs: BTreeSet<u64>,
    /// Of the keys' file, unless there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys_sum: Option<String>,
}

impl Head {
    fn number(&self) -> u64 {
        self.revision.number
    }

    /// The revisions with whose files its text came.
    fn texts(&self) -> impl Iterator<Item = u64> {
        let own = (self.format > 1).then(|| self.number());
        own.into_iter().chain(self.needs.iter().copied())
    }
}

/// The keys that are revoked in a state directory, as far as they can be read: nothing is made there, or locked.
pub(super) fn revoked_of(state_dir: &Path) -> Revoked {
    let read = || {
        let file = Directory::any(&path(state_dir)).ok()?.look(REVOKED).ok()?;
        let is_file = file.metadata().ok()?.is_file();
        let text = is_file.then(|| io::read_to_string(file))?.ok()?;
        serde_json::from_str(&text).ok()
    };
    read().unwrap_or_default()
}

/// All that is kept.
pub(super) struct Store {
    directory: Directory,
    texts: Texts,
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
        let names = directory.names()?;
        let mut store = Self {
            texts: Texts::open(&directory, &names),
            directory,
            heads: Vec::new(),
            next: 1,
            revoked: Revoked::default(),
            revoked_unknown: None,
            set_aside: Vec::new(),
        };
        store.load(&names.into_iter().collect())?;
        Ok(store)
    }

    fn load(&mut self, names: &BTreeSet<OsString>) -> io::Result<()> {
        let numbers: BTreeSet<u64> = names.iter().filter_map(number_of).collect();
        let mut damaged = Vec::new();
        for &number in &numbers {
            self.next = self.next.max(number + 1);
            let has = |end| names.contains(OsStr::new(&file(number, end)));
            if !has("json") {
                // A write that was not finished.
                self.remove_files(number);
                continue;
            }
            match self.head(number, has("yaml.z")) {
                Ok(mut head) => {
                    // A purge that was cut short: the keys go first.
                    head.keys_sum = head.keys_sum.filter(|_| has("keys"));
                    self.heads.push(head);
                }
                Err(why) => damaged.push((number, why)),
            }
        }
        for (number, why) in damaged {
            self.put_revision_aside(number, &why);
        }
        self.sweep();
        if let Some(newest) = self.heads.last().filter(|it| it.format > 1) {
            self.texts.know(newest.number(), &newest.text_sum);
        }
        for left in names
            .iter()
            .filter(|name| name.as_encoded_bytes().ends_with(b".new"))
        {
            // In nobody's way where nothing can be written.
            let _ = self.directory.remove(left);
        }
        if names.contains(OsStr::new(REVOKED)) {
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

    /// Without a look at what the other files hold: that is compared when they are read.
    fn head(&self, number: u64, has_whole_text: bool) -> Result<Head, String> {
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
        let has_text = match head.format {
            1 => has_whole_text,
            _ => head.texts().all(|it| self.texts.has(it)),
        };
        match has_text {
            true => Ok(head),
            false => Err("has no text".into()),
        }
    }

    fn read_json<T: for<'d> Deserialize<'d>>(&self, name: &str) -> Result<T, String> {
        let bytes = self
            .directory
            .read(name)
            .map_err(|error| format!("can't be read: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("is damaged: {error}"))
    }

    /// What others need of it stays.
    fn put_revision_aside(&mut self, number: u64, why: &str) {
        let mut names = ["json", "yaml.z", "keys"]
            .map(|end| file(number, end))
            .to_vec();
        if !self.needed().contains(&number) {
            names.push(file(number, texts::END));
            self.texts.forget(number);
        }
        self.put_aside(&names, why);
    }

    /// Keeps them under another name, for whoever wants to look.
    fn put_aside(&mut self, names: &[String], why: &str) {
        let aside = |name: &String| self.directory.rename(name, format!("{name}.damaged"));
        let failed = names.iter().filter_map(|name| aside(name).err());
        let failed = failed.filter(|error| error.kind() != io::ErrorKind::NotFound);
        let failed: Vec<_> = failed.collect();
        let told = match failed.first() {
            None => "set aside".into(),
            Some(error) => format!("it can't be set aside: {error}"),
        };
        let path = self.directory.path().join(&names[0]);
        self.set_aside
            .push(format!("{} {why}: {told}", path.display()));
    }

    /// The revisions, the newest last.
    pub(super) fn revisions(&self) -> impl DoubleEndedIterator<Item = &Revision> {
        self.heads.iter().map(|head| &head.revision)
    }

    pub(super) fn revision(&self, number: u64) -> Option<&Revision> {
        self.revisions().find(|revision| revision.number == number)
    }

    /// Whether a revision is that configuration.
    pub(super) fn is(&self, number: u64, told: &Told) -> bool {
        let mut heads = self.heads.iter();
        let head = heads.find(|it| it.number() == number);
        head.is_some_and(|it| told.is(&it.revision, it.format))
    }

    /// The newest revision that is that configuration.
    pub(super) fn newest(&self, told: &Told) -> Option<&Revision> {
        let mut newest = self.heads.iter().rev();
        let head = newest.find(|it| told.is(&it.revision, it.format));
        head.map(|it| &it.revision)
    }

    /// The revisions whose files are needed.
    fn needed(&self) -> BTreeSet<u64> {
        self.heads.iter().flat_map(Head::texts).collect()
    }

    fn sweep(&mut self) {
        let needed = self.needed();
        self.texts.sweep(&needed);
    }

    /// The number that the next one has.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Writes a revision; it is on the disk then. When that can't be done, nothing of it is left.
    pub(super) fn add(&mut self, revision: Revision, told: &Told) -> io::Result<()> {
        let number = revision.number;
        match self.write(revision, told) {
            Ok(head) => {
                self.next = number + 1;
                self.heads.push(head);
                Ok(())
            }
            Err(error) => {
                self.remove_files(number);
                self.sweep();
                Err(error)
            }
        }
    }

    fn write(&mut self, revision: Revision, told: &Told) -> io::Result<Head> {
        let number = revision.number;
        let mut head = Head {
            format: FORMAT,
            revision,
            len: 0,
            is_unwritten: false,
            text_sum: String::new(),
            needs: BTreeSet::new(),
            keys_sum: None,
        };
        if !told.keys.is_empty() {
            let keys = told.keys.to_bytes()?;
            head.len = keys.len() as u64;
            head.keys_sum = Some(sum(&keys));
            step("before the keys of a revision");
            self.directory
                .replace_durably(file(number, "keys"), &keys)?;
        }
        step("before the text of a revision");
        let text = self.texts.write(number, told)?;
        head.len += text.len;
        head.text_sum = text.sum;
        head.needs = text.needs;
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

    /// Writes down what became of a revision; what can't be written is told.
    pub(super) fn mark(&mut self, number: u64, outcome: Outcome, why: &str) -> io::Result<()> {
        self.try_mark(number, outcome, why).inspect_err(|error| {
            tracing::error!(revision = number, %error, "what became of a revision can't be written down");
        })
    }

    /// The same without a word; it is on the disk then. What can't be written holds as long as the process, and can be
    /// written again.
    pub(super) fn try_mark(&mut self, number: u64, outcome: Outcome, why: &str) -> io::Result<()> {
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
        written
    }

    /// Forgets a revision, keys and all.
    pub(super) fn remove(&mut self, number: u64) {
        self.heads.retain(|head| head.number() != number);
        self.remove_files(number);
        self.sweep();
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
            if self.heads.len() <= KEPT && self.bytes() <= KEPT_BYTES {
                return;
            }
            let numbers: Vec<_> = self.revisions().map(|it| it.number).collect();
            let Some(oldest) = numbers.into_iter().find(|it| !needed.contains(it)) else {
                return;
            };
            self.remove(oldest);
        }
    }

    fn bytes(&self) -> u64 {
        let heads: u64 = self.heads.iter().map(|head| head.len).sum();
        let left = self
            .texts
            .left(&self.heads.iter().map(Head::number).collect());
        heads + left
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
        let text = match head.format {
            1 => self.whole_text(head),
            _ => self.texts.read(number, &head.text_sum).ok(),
        };
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

    /// As format 1 has it.
    fn whole_text(&self, head: &Head) -> Option<String> {
        let packed = self.directory.read(file(head.number(), "yaml.z")).ok()?;
        (sum(&packed) == head.text_sum).then_some(())?;
        let text = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&packed, TEXT_MAX);
        String::from_utf8(text.ok()?).ok()
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
        let heads = self.heads.iter();
        let sums = heads.filter_map(|it| Some((it.number(), it.keys_sum.clone()?)));
        for (number, sum) in sums.collect::<Vec<_>>() {
            let Some(mut keys) = self.keys(number, &sum) else {
                continue;
            };
            if keys.forget(&self.revoked) {
                self.exchange_keys(number, &keys)?;
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
                _ if journal.format > journal::FORMAT => Err("is of a newer culvert".to_owned()),
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
        removed.and_then(|()| self.directory.sync())?;
        step("after the journal's end");
        Ok(())
    }
}

/// Where it lies.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

pub(super) fn file(number: u64, end: &str) -> String {
    format!("{number}.{end}")
}

/// The revision that a file belongs to.
fn number_of(name: &OsString) -> Option<u64> {
    let (number, end) = name.to_str()?.split_once('.')?;
    let known = ["json", "keys", "yaml.z", texts::END].contains(&end) || end.ends_with(".damaged");
    let number = number.parse().ok()?;
    (known && number < NUMBER_MAX).then_some(number)
}

#[cfg(test)]
mod tests;
