//! What keeps the API layer over a restart: a file to which each change is appended.
//!
//! In: changes. Out: the file; after a restart, what it says. Never: a change half read: each is a line with its sum; a
//! damaged file that is written over: it is set aside; a start that it prevents.
//!
//! What can't be written at a start, for want of room, is tried again with the next change. A file that can't be read, or
//! that a newer culvert wrote, stays as it is, and takes no change until the process starts again.
//!
//! `culvert layer 1`, then per line the sum (FNV-1a, 64 bits, in hexadecimal) and the change in JSON. The last of an
//! object counts. A last line without its end was never acknowledged. What grows too long is written anew, whole.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use culvert_directory::Directory;
use rustix::fs::{Mode, OFlags, fsync, openat, renameat};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Name, object::Keys},
    keys::PresharedKey,
    plan::{
        Laid,
        api::{Given, Object, Said},
    },
};

/// The file.
pub(super) const FILE: &str = "layer.journal";
const NEW: &str = "layer.journal.new";
const DAMAGED: &str = "layer.journal.damaged";
const HEAD: &str = "culvert layer 1";
/// How one of any format begins.
const ANY_HEAD: &[u8] = b"culvert layer ";
/// Lines that count for nothing any more, beside as many as there are objects.
const IDLE_LINES: usize = 1_024;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    kind: Kind,
    name: String,
    /// What is said from now on; nothing: the object is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<Kept>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Port,
    Peer,
    Route,
    Uplink,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    own: bool,
    keys: Keys,
    /// The number of its preshared key's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preshared_key: Option<u64>,
}

impl Kept {
    /// Without the preshared key itself, which lies elsewhere.
    fn said(self) -> Said {
        let given = |number| Given {
            key: PresharedKey::default(),
            number: Some(number),
        };
        Said {
            own: self.own,
            keys: self.keys,
            preshared_key: self.preshared_key.map(given),
            hindrance: None,
        }
    }
}

impl Record {
    pub(super) fn new(object: &Object, said: Option<&Said>) -> Self {
        let (kind, name) = match object {
            Object::Port(name) => (Kind::Port, name.to_string()),
            Object::Peer(tunnel, name) => (Kind::Peer, format!("{tunnel}/{name}")),
            Object::Route(network, to) => (Kind::Route, format!("{network}/{to}")),
            Object::Uplink(name) => (Kind::Uplink, name.to_string()),
        };
        let said = said.map(|said| Kept {
            own: said.own,
            keys: said.keys.clone(),
            preshared_key: said.preshared_key.as_ref().and_then(|it| it.number),
        });
        Self { kind, name, said }
    }

    fn object(&self) -> Option<Object> {
        match self.kind {
            Kind::Port => Name::new(&self.name).map(Object::Port),
            Kind::Uplink => Name::new(&self.name).map(Object::Uplink),
            Kind::Peer => {
                let (tunnel, name) = self.name.split_once('/')?;
                Some(Object::Peer(Name::new(tunnel)?, Name::new(name)?))
            }
            Kind::Route => {
                let (network, to) = self.name.split_once('/')?;
                Some(Object::Route(Name::new(network)?, to.parse().ok()?))
            }
        }
    }

    fn line(&self) -> io::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{:016x} {text}\n", sum(&text)))
    }

    fn read(line: &str) -> Option<Self> {
        let (sum_of, text) = line.split_once(' ')?;
        let is_whole = u64::from_str_radix(sum_of, 16) == Ok(sum(text));
        is_whole.then(|| serde_json::from_str(text).ok()).flatten()
    }
}

fn sum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A file that could not be read as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where it was set aside.
    pub(super) aside: PathBuf,
    /// The lines that say nothing, from 1.
    pub(super) lines: Vec<usize>,
}

/// Objects in their order, with what is said of them.
pub(super) type Kepts = Vec<(Object, Said)>;

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    directory: Directory,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Open),
    /// What it says is known, and it can't be written, and why.
    Shut(String),
    /// What it says is not known, and why. It stays as it is.
    Unknown(String),
}

/// The file, open.
#[derive(Debug)]
struct Open {
    directory: Directory,
    file: File,
    /// Where the next line begins, and where the last one began.
    end: u64,
    last: u64,
    lines: usize,
    objects: usize,
}

impl Journal {
    /// Opens the file, makes it if need be; answers what it says, in the objects' order.
    pub(super) fn open(directory: &Directory) -> (Self, Kepts, Option<Damage>) {
        let journal = |state| Self {
            directory: directory.clone(),
            state,
        };
        let text = match text(directory) {
            Ok(text) => text,
            Err(why) => return (journal(State::Unknown(why)), Vec::new(), None),
        };
        let (said, lines) = read(&text);
        match Open::of(directory, &text, &said, lines) {
            Ok((open, damage)) => (journal(State::Open(open)), said, damage),
            Err(error) => (journal(State::Shut(error.to_string())), said, None),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join(FILE)
    }

    /// Why it takes no change, if so.
    pub(super) fn hindrance(&self) -> Option<&str> {
        match &self.state {
            State::Open(_) => None,
            State::Shut(why) | State::Unknown(why) => Some(why),
        }
    }

    /// Whether what it says is not known.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.state, State::Unknown(_))
    }

    /// Has a change be on the disk when it returns, or nothing of it.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        self.writable()?.append(record)
    }

    /// Tries again what could not be done at the start.
    fn writable(&mut self) -> io::Result<&mut Open> {
        if let State::Shut(_) = self.state {
            let text = text(&self.directory).map_err(io::Error::other)?;
            let (said, lines) = read(&text);
            let (open, _) = Open::of(&self.directory, &text, &said, lines)?;
            let path = self.path().display().to_string();
            tracing::info!(path, "the API layer's journal can be written again");
            self.state = State::Open(open);
        }
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Shut(why) | State::Unknown(why) => Err(io::Error::other(why.clone())),
        }
    }

    /// Forgets the last change.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        self.writable()?.take_back()
    }

    /// Whether most of it counts for nothing.
    pub(super) fn is_long(&self) -> bool {
        match &self.state {
            State::Open(open) => open.lines > 2 * open.objects + IDLE_LINES,
            State::Shut(_) | State::Unknown(_) => false,
        }
    }

    /// Writes it anew.
    pub(super) fn rewrite(&mut self, layer: &Laid) -> io::Result<()> {
        let open = self.writable()?;
        // Not again at once if it fails.
        open.objects = open.lines;
        let told = layer.told();
        let all = told.iter().map(|told| (&told.object, &*told.said));
        *open = Open::write(&open.directory, all)?;
        Ok(())
    }
}

/// The file's text; or why what it says is not known.
fn text(directory: &Directory) -> Result<Vec<u8>, String> {
    let text = match directory.read(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    let line = text.split(|byte| *byte == b'\n').next();
    match line.and_then(|line| line.strip_prefix(ANY_HEAD)) {
        Some(format) if is_newer(format) => Err("a newer culvert wrote it: start that".into()),
        _ => Ok(text),
    }
}

fn is_newer(format: &[u8]) -> bool {
    let format = str::from_utf8(format).ok();
    format
        .and_then(|it| it.parse().ok())
        .is_some_and(|it: u32| it > 1)
}

impl Open {
    /// A file that is whole is gone on with: that takes no room on the disk.
    fn of(
        directory: &Directory,
        text: &[u8],
        said: &Kepts,
        lines: Vec<usize>,
    ) -> io::Result<(Self, Option<Damage>)> {
        let damage = match lines.is_empty() {
            true => None,
            false => {
                directory.replace(DAMAGED, text)?;
                let aside = directory.path().join(DAMAGED);
                tracing::error!(
                    ?lines,
                    "the API layer's journal was damaged: it is set aside as {}, and what these lines said is not there",
                    aside.display()
                );
                Some(Damage { aside, lines })
            }
        };
        let whole = damage.is_none().then(|| whole_lines(text)).flatten();
        let open = match whole {
            Some(end) => {
                if end < text.len() {
                    let path = directory.path().join(FILE).display().to_string();
                    tracing::warn!(
                        path,
                        "the API layer's journal ends within a line, which is left out: a change that was never acknowledged, unless somebody has cut the file"
                    );
                }
                Self::go_on(directory, &text[..end], said.len())?
            }
            None => Self::write(directory, said.iter().map(|(object, said)| (object, said)))?,
        };
        Ok((open, damage))
    }

    /// The file that there is, of which so much counts.
    fn go_on(directory: &Directory, text: &[u8], objects: usize) -> io::Result<Self> {
        let file = directory.file(FILE)?;
        let end = text.len() as u64;
        file.set_len(end)?;
        let lines = text.iter().filter(|byte| **byte == b'\n').count() - 1;
        Ok(Self {
            directory: directory.clone(),
            file,
            end,
            last: end,
            lines,
            objects,
        })
    }

    /// Writes a whole file in the place of what is there.
    fn write<'s>(
        directory: &Directory,
        all: impl Iterator<Item = (&'s Object, &'s Said)>,
    ) -> io::Result<Self> {
        let mut text = format!("{HEAD}\n");
        let mut objects = 0;
        for (object, said) in all {
            text += &Record::new(object, Some(said)).line()?;
            objects += 1;
        }
        directory.remove(NEW)?;
        let written = || {
            let file = directory.file(NEW)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync_all()?;
            renameat(directory, NEW, directory, FILE)?;
            Ok(file)
        };
        let file = written().inspect_err(|_: &io::Error| drop(directory.remove(NEW)))?;
        // The directory's own descriptor is but a path to it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fsync(openat(directory, ".", flags, Mode::empty())?)?;
        let end = text.len() as u64;
        Ok(Self {
            directory: directory.clone(),
            file,
            end,
            last: end,
            lines: objects,
            objects,
        })
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let line = record.line()?;
        let written = self.file.write_all_at(line.as_bytes(), self.end);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // What is there of it is no whole line, or is written over by the next one.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.last = self.end;
        self.end += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.last)?;
        self.end = self.last;
        self.lines -= 1;
        self.file.sync_data()
    }
}

/// How much of a file is lines with their ends; `None`: it does not begin as one of ours.
fn whole_lines(text: &[u8]) -> Option<usize> {
    let behind = text.strip_prefix(HEAD.as_bytes())?;
    behind.starts_with(b"\n").then_some(())?;
    let last = text.iter().rposition(|byte| *byte == b'\n')?;
    Some(last + 1)
}

/// What a file says, and its lines that say nothing.
fn read(text: &[u8]) -> (Kepts, Vec<usize>) {
    let mut said: HashMap<Object, (usize, Said)> = HashMap::new();
    let mut damaged = Vec::new();
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    // Behind the last line's end there is nothing, or what was never acknowledged.
    let behind = lines.pop().unwrap_or_default();
    // The head was written with its end, or not at all.
    if lines.is_empty() && !behind.is_empty() {
        damaged.push(1);
    }
    for (number, line) in lines.iter().enumerate() {
        let line = str::from_utf8(line).ok();
        if number == 0 && line == Some(HEAD) {
            continue;
        }
        let record = line.and_then(Record::read);
        let Some((object, record)) = record.and_then(|it| Some((it.object()?, it))) else {
            damaged.push(number + 1);
            continue;
        };
        match record.said {
            Some(kept) => {
                // It keeps its place among the others.
                let turn = said.get(&object).map_or(number, |(turn, _)| *turn);
                said.insert(object, (turn, kept.said()));
            }
            None => drop(said.remove(&object)),
        }
    }
    let mut said: Vec<_> = said.into_iter().collect();
    said.sort_unstable_by_key(|(_, (turn, _))| *turn);
    let said = said.into_iter().map(|(object, (_, said))| (object, said));
    (said.collect(), damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> Object {
        Object::Port(Name::new(name).unwrap())
    }

    fn said(mac: &str) -> Said {
        let keys = [("mac".to_owned(), mac.into())];
        Said {
            own: true,
            keys: keys.into_iter().collect(),
            preshared_key: None,
            hindrance: None,
        }
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::own(folder.path(), 0o700).unwrap();
        (folder, directory)
    }

    #[test]
    fn what_was_appended_is_there_again_in_its_order() {
        let (_folder, directory) = directory();
        let (mut journal, nothing, damage) = Journal::open(&directory);
        assert!(nothing.is_empty() && damage.is_none());
        for (name, mac) in [("b", "1"), ("a", "2"), ("c", "3"), ("b", "4")] {
            journal
                .append(&Record::new(&port(name), Some(&said(mac))))
                .unwrap();
        }
        journal.append(&Record::new(&port("c"), None)).unwrap();
        journal.append(&Record::new(&port("d"), None)).unwrap();
        journal.take_back().unwrap();
        let (_, again, damage) = Journal::open(&directory);
        assert_eq!(again, [(port("b"), said("4")), (port("a"), said("2"))]);
        assert_eq!(damage, None);
    }

    /// Killed while it writes: at each byte.
    #[test]
    fn a_line_without_its_end_was_never_acknowledged() {
        let (_folder, directory) = directory();
        let (mut journal, ..) = Journal::open(&directory);
        journal
            .append(&Record::new(&port("a"), Some(&said("1"))))
            .unwrap();
        let one = directory.read(FILE).unwrap();
        journal
            .append(&Record::new(&port("b"), Some(&said("2"))))
            .unwrap();
        let two = directory.read(FILE).unwrap();
        for end in one.len()..two.len() {
            directory.replace(FILE, &two[..end]).unwrap();
            let (_, again, damage) = Journal::open(&directory);
            assert_eq!(again, [(port("a"), said("1"))]);
            assert_eq!(damage, None, "{end}");
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_what_is_whole_counts() {
        let (_folder, directory) = directory();
        let (mut journal, ..) = Journal::open(&directory);
        for name in ["a", "b", "c"] {
            journal
                .append(&Record::new(&port(name), Some(&said("1"))))
                .unwrap();
        }
        let mut text = directory.read(FILE).unwrap();
        let at = text.windows(3).position(|it| it == b"\"b\"").unwrap();
        text[at + 1] = b'x';
        directory.replace(FILE, &text).unwrap();
        let (_, again, damage) = Journal::open(&directory);
        assert_eq!(again, [(port("a"), said("1")), (port("c"), said("1"))]);
        let damage = damage.unwrap();
        assert_eq!(damage.lines, [3]);
        assert_eq!(directory.read(DAMAGED).unwrap(), text);
        assert_eq!(damage.aside, directory.path().join(DAMAGED));
        // It is whole now.
        let (.., damage) = Journal::open(&directory);
        assert_eq!(damage, None);
        // No line of it ends.
        directory.replace(FILE, b"what is this").unwrap();
        let (_, again, damage) = Journal::open(&directory);
        assert_eq!((again, damage.unwrap().lines), (Vec::new(), vec![1]));
        assert_eq!(directory.read(DAMAGED).unwrap(), b"what is this");
    }

    #[test]
    fn what_counts_for_nothing_is_left_out_in_time() {
        let (_folder, directory) = directory();
        let (mut journal, ..) = Journal::open(&directory);
        let mut rounds = 0;
        while !journal.is_long() {
            journal
                .append(&Record::new(&port("a"), Some(&said("1"))))
                .unwrap();
            rounds += 1;
        }
        assert_eq!(rounds, IDLE_LINES + 1);
        journal
            .rewrite(&Laid::new(vec![(port("a"), said("1"))]))
            .unwrap();
        assert_eq!(
            directory
                .read(FILE)
                .unwrap()
                .split(|it| *it == b'\n')
                .count(),
            3
        );
        journal
            .append(&Record::new(&port("b"), Some(&said("2"))))
            .unwrap();
        let (_, again, _) = Journal::open(&directory);
        assert_eq!(again, [(port("a"), said("1")), (port("b"), said("2"))]);
    }

    /// Links, what others may write to, what a newer culvert wrote: none of it is touched, and none keeps from starting.
    #[test]
    fn a_file_that_is_not_understood_stays_and_takes_no_change() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let (folder, directory) = directory();
        let path = folder.path().join(FILE);
        let record = Record::new(&port("a"), Some(&said("1")));
        let refused = || {
            let (mut journal, said, damage) = Journal::open(&directory);
            assert!(said.is_empty() && damage.is_none() && journal.is_unknown());
            let why = journal.append(&record).unwrap_err().to_string();
            assert_eq!(Some(&*why), journal.hindrance());
            why
        };
        let newer = "culvert layer 9\nwhat it says\n";
        directory.replace(FILE, newer.as_bytes()).unwrap();
        assert!(refused().contains("newer"), "{}", refused());
        assert_eq!(directory.read(FILE).unwrap(), newer.as_bytes());
        directory.replace(FILE, b"culvert layer 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(refused().contains("chmod 600"), "{}", refused());
        std::fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(refused().contains("symbolic link"), "{}", refused());
    }

    /// Something that can't be removed stands where the new file is written, in the place of a full disk.
    #[test]
    fn what_can_not_be_written_at_the_start_is_tried_again() {
        let (folder, directory) = directory();
        let new = folder.path().join(NEW);
        std::fs::create_dir(&new).unwrap();
        let (mut journal, nothing, _) = Journal::open(&directory);
        assert!(nothing.is_empty() && journal.hindrance().is_some() && !journal.is_unknown());
        let record = Record::new(&port("a"), Some(&said("1")));
        journal.append(&record).unwrap_err();
        std::fs::remove_dir(&new).unwrap();
        journal.append(&record).unwrap();
        assert_eq!(journal.hindrance(), None);
        let (_, again, _) = Journal::open(&directory);
        assert_eq!(again, [(port("a"), said("1"))]);
    }
}
