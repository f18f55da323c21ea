//! A long file that is read again after a part of it was edited.
//!
//! In: a file's text, and the one that was read before. Out: what [`super::parse`] makes of it; of a long file the
//! peers whose lines nobody touched are taken over. Never: a peer with a preshared key taken over: its key file may have
//! changed; nor one with a warning, which is to be told again; a mistake told in another way than by reading the whole
//! file.
//!
//! 1. Lines that both texts begin and end with are the same; between them lies what was edited.
//! 2. The peers that lie wholly outside of it are blanked out, line by line, so that all others stay where they are;
//!    but for one before what was edited, the first one after it, and each tunnel's last.
//! 3. What is left is read. The peer before, whose text may go on in what was edited, is among it. Where the peer
//!    after is found again, as a peer of the same tunnel, a parser is in the same state as it was there the last time:
//!    what follows means the same.
//! 4. The peers that were blanked out come back, and everything is compared with everything.
//!
//! When any of that fails the whole file is read. So it is where an anchor may be: an alias says again, in one place,
//! what stands in lines elsewhere.

mod kept;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::kept::{Kept, Lines, Prints};
use super::draft::{AnyPeer, File, Known, Tunnel};
use super::keyfile::KeyFiles;
use super::report::{Report, Span};
use super::{Config, Name, Texts, include, raw, read};

/// Shorter files are read as a whole: that takes some milliseconds.
const LONG: usize = 1 << 18;

/// The file that was read last, if it is long.
#[derive(Default)]
pub struct Readings {
    last: Option<Reading>,
}

struct Reading {
    /// Relative key files begin there.
    folder: PathBuf,
    prints: Prints,
    tunnels: Vec<Kept>,
    /// Lines with warnings.
    warned: BTreeSet<usize>,
}

impl Reading {
    /// `None`: nothing of such a text can be taken over.
    fn of(
        folder: &Path,
        (lines, prints): (Lines<'_>, Prints),
        (config, file, report): (&Config, &File, &Report),
    ) -> Option<Self> {
        if !report.is_whole() {
            return None;
        }
        let tunnels = file.tunnels.iter().zip(&config.tunnels);
        Some(Self {
            folder: folder.to_owned(),
            prints,
            tunnels: tunnels
                .filter_map(|(draft, model)| Kept::of(draft, &model.peers, &lines))
                .collect(),
            warned: report.mistakes().iter().map(|it| it.span.line).collect(),
        })
    }
}

/// No anchor may be in it, and its lines end with line feeds: others would count otherwise.
fn is_plain(text: &str) -> bool {
    let has = |byte| text.as_bytes().contains(&byte);
    !has(b'&') && !has(b'\r')
}

impl Readings {
    /// Checks a text as [`super::parse`] does.
    ///
    /// # Errors
    ///
    /// Every mistake in it.
    pub fn parse(
        &mut self,
        text: &str,
        path: &Path,
        keys: &dyn KeyFiles,
    ) -> Result<(Config, Report), Report> {
        self.parse_from(LONG, text, path, keys)
    }

    fn parse_from(
        &mut self,
        long: usize,
        text: &str,
        path: &Path,
        keys: &dyn KeyFiles,
    ) -> Result<(Config, Report), Report> {
        // A path that is relative at the start is absolute later.
        let folder = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = folder.parent().unwrap_or(Path::new(""));
        let is_kept = text.len() >= long && is_plain(text);
        let lines = is_kept.then(|| {
            let key = self.last.as_ref().map(|last| last.prints.key());
            Lines::of(text, key.unwrap_or_default())
        });
        let last = (self.last.as_ref()).filter(|last| last.folder == folder);
        let again = last.zip(lines.as_ref());
        let again = again.and_then(|(last, lines)| read_again(last, lines, path, keys));
        let (mut config, file, report) = match again {
            Some(again) => again,
            // What was read before stays: the next text may be the same but for a slip.
            None => super::parse_whole(&Texts::alone(path, text.to_owned()), keys)?,
        };
        if let Some(last) = &self.last {
            kept::share(&last.tunnels, &mut config);
        }
        self.last = lines.and_then(|lines| Reading::of(folder, lines, (&config, &file, &report)));
        Ok((config, report))
    }
}

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readings").finish_non_exhaustive()
    }
}

/// Steps 1 to 4.
fn read_again(
    last: &Reading,
    (lines, prints): &(Lines<'_>, Prints),
    path: &Path,
    keys: &dyn KeyFiles,
) -> Option<(Config, File, Report)> {
    let edited = Edited::between(&last.prints, prints);
    let untouched: Vec<_> = (last.tunnels.iter())
        .map(|tunnel| Untouched::take(tunnel, &edited, &last.warned))
        .collect();
    let blanked = blank(lines, &untouched)?;
    let mut report = Report::new(path, lines.whole());
    let root = raw::read(&blanked, &mut report)?;
    if include::any(&root) {
        return None;
    }
    let taken = untouched.iter().flat_map(Untouched::peers);
    if !raw::may_be_read(lines.whole(), &root, taken) {
        return None;
    }
    let mut file = read::Reader::new(&mut report, keys).file(&root)?;
    drop(root);
    // It says something of all peers.
    if file
        .tunnels
        .iter()
        .any(|it| it.preshared_keys_file.is_some())
    {
        return None;
    }
    let places: HashMap<Name, usize> = (file.tunnels.iter().enumerate())
        .map(|(place, tunnel)| (tunnel.name.value.clone(), place))
        .collect();
    for untouched in untouched {
        let place = *places.get(&untouched.tunnel)?;
        untouched.put_back(file.tunnels.get_mut(place)?)?;
    }
    let config = super::compare_and_build(&file, path, &mut report)?;
    report.sort();
    (report.errors() == 0).then_some((config, file, report))
}

/// What was edited, in whole lines, from 1.
struct Edited {
    old: Range<usize>,
    new: Range<usize>,
}

impl Edited {
    fn between(old: &Prints, new: &Prints) -> Self {
        let (ahead, behind) = old.common(new);
        let lines = |count: usize| ahead + 1..count - behind + 1;
        Self {
            old: lines(old.count()),
            new: lines(new.count()),
        }
    }

    /// How many lines further down than in the old text something stands in the new one that is behind what was edited.
    fn down(&self) -> isize {
        self.new.end.cast_signed() - self.old.end.cast_signed()
    }
}

/// The peers of a tunnel that nobody touched.
struct Untouched {
    tunnel: Name,
    known: Arc<Known>,
    /// Some in a row, and how far they have moved down.
    runs: Vec<(Range<usize>, isize)>,
    /// The name of the first peer behind what was edited, and its place in the new text.
    behind: Option<(Name, Span)>,
}

impl Untouched {
    fn take(tunnel: &Kept, edited: &Edited, warned: &BTreeSet<usize>) -> Self {
        let known = &tunnel.peers;
        // The last one before what was edited may go on there.
        let before = known.ahead_of(edited.old.start).saturating_sub(1);
        let behind = known.ahead_of(edited.old.end);
        let down = |place| if place < behind { 0 } else { edited.down() };
        let named = known.at(behind, edited.down()).map(AnyPeer::name);
        let mut taken = Self {
            tunnel: tunnel.tunnel.clone(),
            known: Arc::clone(known),
            runs: Vec::new(),
            behind: named.map(|at| (at.value.clone(), at.span)),
        };
        for (place, model) in known.models().enumerate() {
            // Where the last one ends is not known.
            let (Some(own), Some(next)) = (known.span(place), known.span(place + 1)) else {
                break;
            };
            let mut warned = warned.range(own.line..next.line);
            let untouched = place < before || place > behind;
            if untouched && warned.next().is_none() && model.preshared_key.is_none() {
                taken.push(place, down(place));
            }
        }
        taken
    }

    fn push(&mut self, place: usize, down: isize) {
        match self.runs.last_mut() {
            Some((run, moved)) if run.end == place && *moved == down => run.end += 1,
            _ => self.runs.push((place..place + 1, down)),
        }
    }

    fn peers(&self) -> impl Iterator<Item = AnyPeer<'_>> {
        let runs = self.runs.iter();
        runs.flat_map(|(run, down)| run.clone().filter_map(|place| self.known.at(place, *down)))
    }

    /// Their lines in the new text: each ends where the next one begins, which is never the last.
    fn lines(&self) -> impl Iterator<Item = Range<usize>> {
        let line = |place, down| Some(self.known.at(place, down)?.name().span.line);
        let runs = self.runs.iter();
        runs.filter_map(move |(run, down)| Some(line(run.start, *down)?..line(run.end, *down)?))
    }

    /// Gives them to the tunnel that was read without them; `None` if that is not what it was.
    fn put_back(self, tunnel: &mut Tunnel) -> Option<()> {
        let read = tunnel.peers.read();
        if let Some((name, span)) = &self.behind {
            let found = read.iter().find(|peer| peer.name.value == *name)?;
            if found.name.span != *span {
                return None;
            }
        }
        let read: HashSet<_> = read.iter().map(|peer| &peer.name.value).collect();
        if self.peers().any(|peer| read.contains(peer.name().value)) {
            return None;
        }
        tunnel.peers.lay_among(self.known, self.runs)
    }
}

/// The text without these peers.
fn blank(lines: &Lines<'_>, untouched: &[Untouched]) -> Option<String> {
    let mut gone: Vec<_> = untouched.iter().flat_map(Untouched::lines).collect();
    gone.sort_unstable_by_key(|lines| lines.start);
    let mut blanked = String::new();
    let mut next = 1;
    for range in gone {
        blanked.push_str(lines.text(&(next..range.start))?);
        blanked.extend(range.clone().map(|_| '\n'));
        next = range.end;
    }
    blanked.push_str(lines.text(&(next..lines.end()))?);
    Some(blanked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{KeyFileError, Mistake};
    use crate::keys::PublicKey;

    struct Keys;

    impl KeyFiles for Keys {
        fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
            let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
            Ok(Zeroizing::new(key.into()))
        }
    }

    fn peer(number: u8) -> String {
        let key = PublicKey::from_bytes([number; 32]).to_base64();
        match number % 4 {
            0 => format!(
                "      p{number}:\n        public_key: \"{key}\"\n        allowed_ips:\n          - 10.{number}.0.0/16\n"
            ),
            1 => format!("      p{number}: {{public_key: \"{key}\", preshared_key_file: psk}}\n"),
            _ => format!(
                "      p{number}: {{public_key: \"{key}\", endpoint: \"10.0.0.{number}:5\", labels: {{n: {number}}}}}\n"
            ),
        }
    }

    /// Two tunnels, with things ahead of, between and behind them.
    fn file() -> String {
        let peers = |numbers: Range<u8>| numbers.map(peer).collect::<String>();
        let tunnel = |name: &str, port: u16, peers: String| {
            format!(
                "  {name}:\n    uplink: u\n    listen_port: {port}\n    private_key_file: k\n    peers:\n{peers}"
            )
        };
        format!(
            "version: 1\nnode: n\nuplinks: {{u: {{driver: udp}}}}\ntunnels:\n{}    mtu: 1400\n{}networks: {{}}\n",
            tunnel("a", 1, peers(1..12)),
            tunnel("b", 2, peers(20..32)),
        )
    }

    /// A configuration with what it is warned of.
    fn told(read: Result<(Config, Report), Report>) -> Result<(Config, Vec<Mistake>), Report> {
        read.map(|(config, report)| (config, report.mistakes().to_vec()))
    }

    /// Reads one after the other, each with what is known of the one before.
    fn assert_read_as_whole(texts: &[String]) {
        let mut readings = Readings::default();
        let path = Path::new("/etc/culvert/t.yaml");
        for text in texts {
            let again = told(readings.parse_from(0, text, path, &Keys));
            let whole = told(super::super::parse(text, path, &Keys));
            assert_eq!(again, whole, "{text}");
        }
    }

    fn read_first(text: &str, path: &Path) -> Reading {
        let mut readings = Readings::default();
        readings.parse_from(0, text, path, &Keys).unwrap();
        readings.last.unwrap()
    }

    /// How many peers of a second text are taken over from the first.
    fn taken_over(old: &str, new: &str) -> usize {
        let path = Path::new("/etc/culvert/t.yaml");
        let last = read_first(old, path);
        let (_, prints) = Lines::of(new, last.prints.key());
        let edited = Edited::between(&last.prints, &prints);
        let untouched = last.tunnels.iter();
        let untouched = untouched.map(|it| Untouched::take(it, &edited, &last.warned));
        untouched.map(|it| it.peers().count()).sum()
    }

    #[test]
    fn peers_that_nobody_touched_are_taken_over() {
        let old = file();
        let new = old.replace("10.0.0.6:5", "10.0.0.6:6");
        // Not of a: p6, which was edited, p5 and p7 beside it, p11 as the last one, p1 and p9 for their preshared keys;
        // not of b: the first and the last one, p21, p25 and p29.
        assert_eq!(taken_over(&old, &new), 5 + 7);
        let path = Path::new("/etc/culvert/t.yaml");
        let last = read_first(&old, path);
        let lines = Lines::of(&new, last.prints.key());
        let (config, _, _) = read_again(&last, &lines, path, &Keys).unwrap();
        let whole = super::super::parse(&new, path, &Keys).unwrap();
        assert_eq!(config, whole.0);
        assert_read_as_whole(&[old.clone(), new.clone(), old, new]);
    }

    #[test]
    fn peers_that_were_read_and_that_are_known_are_told_by_their_numbers() {
        let old = file();
        let new = peer(6).replace("0.6:5", "0.6:6") + &peer(66);
        let new = old.replace(&peer(6), &new);
        let path = Path::new("/etc/culvert/t.yaml");
        let last = read_first(&old, path);
        let lines = Lines::of(&new, last.prints.key());
        let (_, file, _) = read_again(&last, &lines, path, &Keys).unwrap();
        let numbers: Vec<_> = file.tunnels.iter().map(|it| it.peers.len()).collect();
        assert_eq!(numbers, [12, 12]);
        let texts: Vec<_> = new.split('\n').collect();
        for peers in file.tunnels.iter().map(|it| &it.peers) {
            assert_eq!(peers.iter().count(), peers.len());
            assert!(peers.get(peers.len()).is_none());
            for (number, peer) in peers.iter().enumerate() {
                let name = peer.name();
                assert_eq!(peers.get(number).map(|it| it.name().span), Some(name.span));
                // Each at its place in the new text.
                let line = &texts[name.span.line - 1][name.span.column - 1..];
                assert!(line.starts_with(&format!("{}:", name.value)), "{line}");
            }
        }
    }

    /// What is kept and what runs would be two of everything else, and ever more with each file.
    #[test]
    fn peers_that_did_not_change_are_kept_once() {
        let path = Path::new("/etc/culvert/t.yaml");
        let mut readings = Readings::default();
        let mut read = |text: &str| readings.parse_from(0, text, path, &Keys).unwrap().0;
        let peers = |config: &Config| {
            let peers = config.tunnels.iter().flat_map(|tunnel| &tunnel.peers);
            peers.cloned().collect::<Vec<_>>()
        };
        let old = file();
        let first = peers(&read(&old));
        for text in [old.replace("10.0.0.6:5", "10.0.0.6:6"), old.clone()] {
            let now = peers(&read(&text));
            let same = now.iter().zip(&first).filter(|(a, b)| Arc::ptr_eq(a, b));
            assert!(same.count() >= first.len() - 1);
        }
        assert_eq!(
            first.iter().map(Arc::strong_count).max(),
            Some(2),
            "here and in what is kept"
        );
    }

    #[test]
    fn a_file_is_the_same_by_its_relative_path() {
        let absolute = std::path::absolute("t.yaml").unwrap();
        let mut readings = Readings::default();
        for path in [Path::new("t.yaml"), &absolute] {
            readings.parse_from(0, &file(), path, &Keys).unwrap();
            let folder = readings.last.as_ref().map(|last| last.folder.as_path());
            assert_eq!(folder, absolute.parent());
        }
    }

    #[test]
    fn what_changes_the_meaning_of_lines_behind_it_is_found() {
        let old = file();
        let p5 = peer(5);
        for edit in [
            "      p5: {public_key: \"\n",
            "      p5: {\n",
            "      p5: |\n",
            "      p5: &a\n",
            "      p5: ? \n",
            "# nothing\n",
            "---\n",
            "  c:\n    uplink: u\n    listen_port: 7\n    private_key_file: k\n    peers:\n",
            "    mtu: 1300\n  c:\n    uplink: u\n    listen_port: 7\n    private_key_file: k\n    peers:\n",
            "networks:\n  p5: {gateway: 10.1.1.1/24}\n",
            "        p5: {}\n",
            "\t\n",
            "",
        ] {
            let new = old.replace(&p5, edit);
            assert_ne!(new, old);
            assert_read_as_whole(&[old.clone(), new.clone(), old.clone()]);
            assert_read_as_whole(&[new, old.clone()]);
        }
        // A name, a key and a prefix that a peer has which is taken over.
        for edit in [
            peer(5).replace("p5", "p9"),
            peer(9).replace("p9", "p5"),
            peer(8).replace("p8", "p5"),
            peer(30).replace("p30", "p5"),
        ] {
            assert_read_as_whole(&[old.clone(), old.replace(&p5, &edit), old.clone()]);
        }
    }

    /// What an anchor stands for is read again wherever an alias is, all of it in the alias's place.
    #[test]
    fn a_file_with_an_anchor_is_read_whole() {
        let peers: String = (1..12).map(peer).collect();
        let head = "    uplink: u\n    listen_port:";
        let top = "version: 1\nnode: n\nuplinks: {u: {driver: udp}}\nnetworks: {}\ntunnels:\n";
        let own = "    private_key_file: k\n    peers:";
        let alias = format!(
            "{top}  a:\n{head} 1\n{own} &all\n{peers}  b:\n{head} 2\n{own} *all\n    mtu: 1400\n"
        );
        let merged = format!(
            "{top}  a: &base\n{head} 1\n{own}\n{peers}  b:\n    <<: *base\n    listen_port: 2\n    mtu: 1400\n"
        );
        for old in [alias, merged] {
            let new = old.replace("mtu: 1400", "mtu: 1300");
            let (config, _) =
                super::super::parse(&new, Path::new("/etc/culvert/t.yaml"), &Keys).unwrap();
            let peers = config.tunnels.iter().map(|tunnel| tunnel.peers.len());
            assert_eq!(peers.collect::<Vec<_>>(), [11, 11], "{new}");
            assert_read_as_whole(&[old.clone(), new.clone(), old, new]);
        }
        let old = file();
        let new = old.replace("10.0.0.6:5", "10.0.0.6:6 # &");
        assert_read_as_whole(&[old.clone(), new, old]);
    }

    #[test]
    fn warnings_are_told_each_time() {
        let old = file().replace("10.8.0.0/16", "10.8.0.1/16");
        let new = old.replace("10.0.0.2:5", "10.0.0.2:6");
        let path = Path::new("/etc/culvert/t.yaml");
        let (_, report) = super::super::parse(&new, path, &Keys).unwrap();
        assert!(report.warnings() > 0);
        assert_read_as_whole(&[old.clone(), new.clone(), old, new]);
    }

    /// A slip does not make the file slow to read once it is corrected.
    #[test]
    fn a_mistake_leaves_what_was_read_before_it() {
        let path = Path::new("/etc/culvert/t.yaml");
        let old = file();
        let mut readings = Readings::default();
        readings.parse_from(0, &old, path, &Keys).unwrap();
        let wrong = old.replace("10.0.0.6:5", "10.0.0.6:five");
        assert!(readings.parse_from(0, &wrong, path, &Keys).is_err());
        let last = &readings.last.as_ref().unwrap().prints;
        let (_, prints) = Lines::of(&old, last.key());
        assert_eq!(last.common(&prints), (old.split('\n').count(), 0));
        let mended = old.replace("10.0.0.6:5", "10.0.0.6:6");
        let again = told(readings.parse_from(0, &mended, path, &Keys));
        assert_eq!(again, told(super::super::parse(&mended, path, &Keys)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_edited_file_is_read_as_the_whole_is(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, any::<prop::sample::Index>(), 0..120_usize), 1..4),
        ) {
            let mut texts = vec![file()];
            for (at, gone, from, come) in edits {
                let text = texts.last().unwrap();
                let at = at.index(text.len());
                let from = from.index(text.len());
                let come = &text[from..text.len().min(from + come)];
                let new = format!("{}{come}{}", &text[..at], &text[text.len().min(at + gone)..]);
                texts.push(new);
                // A good one again, from which the next begins.
                texts.push(file());
            }
            assert_read_as_whole(&texts);
        }

        #[test]
        fn a_file_with_other_lines_is_read_as_the_whole_is(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, any::<prop::sample::Index>(), 0..3_usize), 1..4),
        ) {
            let mut texts = vec![file()];
            for (at, gone, from, come) in edits {
                let text = texts.last().unwrap().clone();
                let lines: Vec<_> = text.split_inclusive('\n').collect();
                let (at, from) = (at.index(lines.len()), from.index(lines.len()));
                let end = lines.len();
                let new = [&lines[..at], &lines[from..end.min(from + come)], &lines[end.min(at + gone)..]];
                texts.push(new.concat().concat());
            }
            assert_read_as_whole(&texts);
        }
    }
}
