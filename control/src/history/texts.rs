//! The texts of revisions: parts, each of which lies there once.
//!
//! In: the sums of a revision's parts, and the texts of those that lie nowhere yet. Out: one file per revision; a text as
//! it was. Never: a part taken over from a file that is not as it was written, as far as its length tells; a text that is
//! not the one that was summed.
//!
//! Of revision 7, `7.parts`: a line of JSON, a list of its parts in their order, for each its sum, the revision in whose
//! file it lies, where behind that file's first line, and in how many bytes. Behind the line: parts that came with it, each
//! compressed by itself (zlib). A file stays as long as a revision needs it, with its own revision gone, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;

use culvert_directory::Directory;
use serde::{Deserialize, Serialize};

use super::revision::sum;
use super::store::{TEXT_MAX, file};
use super::sums::Told;

/// How the file's name ends.
pub(super) const END: &str = "parts";
/// Fast, and as small as keys can be made.
const LEVEL: u8 = 4;
/// What the files that a revision needs may have beside twice its own parts. With more it is written whole.
const SLACK: u64 = 1 << 20;

/// Where a part lies.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    sum: String,
    /// The revision with whose file it came.
    file: u64,
    /// Bytes behind that file's first line.
    at: u64,
    len: u64,
}

/// What is to be remembered of a text that was written.
#[derive(Debug)]
pub(super) struct Written {
    /// The bytes of its file.
    pub(super) len: u64,
    /// The sum of the file's first line.
    pub(super) sum: String,
    /// Other revisions whose files it needs.
    pub(super) needs: BTreeSet<u64>,
}

/// The files.
pub(super) struct Texts {
    directory: Directory,
    /// Their lengths, by their revisions.
    files: BTreeMap<u64, u64>,
    /// The parts of the revision that was written last.
    known: HashMap<String, Place>,
}

impl Texts {
    pub(super) fn open(directory: &Directory, names: &[OsString]) -> Self {
        let numbers = names.iter().filter_map(|name| {
            let number = name.to_str()?.strip_suffix(END)?.strip_suffix('.')?;
            number.parse::<u64>().ok()
        });
        let files = numbers.map(|number| (number, directory.size(file(number, END)).unwrap_or(0)));
        Self {
            directory: directory.clone(),
            files: files.collect(),
            known: HashMap::new(),
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.files.contains_key(&number)
    }

    /// The bytes of the files of none of these revisions.
    pub(super) fn left(&self, revisions: &BTreeSet<u64>) -> u64 {
        let left = self.files.iter();
        let left = left.filter(|(number, _)| !revisions.contains(number));
        left.map(|(_, len)| len).sum()
    }

    /// The parts of that revision are those that the next one will have most of.
    pub(super) fn know(&mut self, number: u64, told: &str) {
        if let Ok((places, _)) = self.table(number, told) {
            self.known = by_sum(places);
        }
    }

    /// Has a revision's text be on the disk when it returns.
    pub(super) fn write(&mut self, number: u64, told: &Told) -> io::Result<Written> {
        let known = self.as_they_were();
        let mut parts = Parts::compose(number, told, &known);
        let needed: u64 = parts
            .needs()
            .iter()
            .filter_map(|it| self.files.get(it))
            .sum();
        if needed > 2 * parts.len() + SLACK {
            parts = Parts::compose(number, told, &HashMap::new());
        }
        let mut bytes = serde_json::to_vec(&parts.places)?;
        let written = Written {
            len: (bytes.len() + 1 + parts.data.len()) as u64,
            sum: sum(&bytes),
            needs: parts.needs(),
        };
        bytes.push(b'\n');
        bytes.append(&mut parts.data);
        self.directory.replace_durably(file(number, END), &bytes)?;
        self.files.insert(number, written.len);
        self.known = by_sum(parts.places);
        Ok(written)
    }

    /// Known parts, but for those in files that somebody made shorter or removed.
    fn as_they_were(&self) -> HashMap<String, Place> {
        let files: BTreeSet<_> = self.known.values().map(|it| it.file).collect();
        let same = |number: &u64| {
            let now = self.directory.size(file(*number, END)).ok();
            now.is_some() && now.as_ref() == self.files.get(number)
        };
        let same: BTreeSet<_> = files.into_iter().filter(same).collect();
        let known = self.known.iter().filter(|(_, it)| same.contains(&it.file));
        known.map(|(sum, it)| (sum.clone(), it.clone())).collect()
    }

    /// A revision's text, if all of it is as it was written.
    pub(super) fn read(&self, number: u64, told: &str) -> Result<String, ()> {
        let (places, own) = self.table(number, told)?;
        let mut files = HashMap::from([(number, own)]);
        let mut whole = String::new();
        for place in places {
            let data = match files.entry(place.file) {
                std::collections::hash_map::Entry::Occupied(it) => it.into_mut(),
                std::collections::hash_map::Entry::Vacant(it) => {
                    it.insert(self.split(place.file)?.1)
                }
            };
            let packed = range(&place).and_then(|range| data.get(range)).ok_or(())?;
            let room = TEXT_MAX.saturating_sub(whole.len());
            let text = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, room);
            let text = text.map_err(drop)?;
            if sum(&text) != place.sum {
                return Err(());
            }
            whole += str::from_utf8(&text).map_err(drop)?;
        }
        Ok(whole)
    }

    /// A revision's parts, and what lies behind the line that says so.
    fn table(&self, number: u64, told: &str) -> Result<(Vec<Place>, Vec<u8>), ()> {
        let (line, data) = self.split(number)?;
        if sum(&line) != told {
            return Err(());
        }
        Ok((serde_json::from_slice(&line).map_err(drop)?, data))
    }

    fn split(&self, number: u64) -> Result<(Vec<u8>, Vec<u8>), ()> {
        let mut line = self.directory.read(file(number, END)).map_err(drop)?;
        let end = line.iter().position(|byte| *byte == b'\n').ok_or(())?;
        let data = line.split_off(end + 1);
        line.pop();
        Ok((line, data))
    }

    /// Removes the files that nobody needs.
    pub(super) fn sweep(&mut self, needed: &BTreeSet<u64>) {
        let directory = &self.directory;
        self.files.retain(|number, _| {
            needed.contains(number) || {
                let removed = directory.remove(file(*number, END));
                if let Err(error) = &removed {
                    tracing::error!(revision = number, %error, "the text of a revision can't be removed");
                }
                removed.is_err()
            }
        });
        self.known.retain(|_, it| needed.contains(&it.file));
    }

    /// It was given another name.
    pub(super) fn forget(&mut self, number: u64) {
        self.files.remove(&number);
        self.known.retain(|_, it| it.file != number);
    }
}

fn by_sum(places: Vec<Place>) -> HashMap<String, Place> {
    let places = places.into_iter();
    places.map(|it| (it.sum.clone(), it)).collect()
}

fn range(place: &Place) -> Option<std::ops::Range<usize>> {
    let at = usize::try_from(place.at).ok()?;
    let end = at.checked_add(usize::try_from(place.len).ok()?)?;
    Some(at..end)
}

/// A text to be written.
struct Parts {
    number: u64,
    places: Vec<Place>,
    /// Those that lie nowhere yet.
    data: Vec<u8>,
}

impl Parts {
    fn compose(number: u64, told: &Told, known: &HashMap<String, Place>) -> Self {
        let sums = &told.summed.sums;
        let missing = (0..sums.len()).filter(|&place| !known.contains_key(&sums[place]));
        let missing: Vec<_> = missing.collect();
        let mut fresh = HashMap::new();
        let mut data = Vec::new();
        told.show(&missing, |place, text| {
            let sum = &sums[place];
            // Two parts may say the same.
            fresh.entry(sum).or_insert_with(|| {
                let packed = miniz_oxide::deflate::compress_to_vec_zlib(text.as_bytes(), LEVEL);
                let at = data.len() as u64;
                data.extend_from_slice(&packed);
                Place {
                    sum: sum.clone(),
                    file: number,
                    at,
                    len: packed.len() as u64,
                }
            });
        });
        let place = |sum| known.get(sum).or_else(|| fresh.get(sum)).cloned();
        Self {
            number,
            places: sums.iter().filter_map(place).collect(),
            data,
        }
    }

    /// Other revisions whose files it needs.
    fn needs(&self) -> BTreeSet<u64> {
        let others = self.places.iter().map(|it| it.file);
        others.filter(|file| *file != self.number).collect()
    }

    fn len(&self) -> u64 {
        self.places.iter().map(|it| it.len).sum()
    }
}
