//! The configuration followed: what changes on the disk is applied, as after a SIGHUP.
//!
//! In: news of the folders in which the file, what it includes, the files of keys and certificates that these name, and
//! the links to them lie; what the API layer names of the key directory. Out: asks for a reload, once for each content.
//! Never: a file applied while it is being written or exchanged, if that takes no longer than [`SETTLED`]; the same
//! content again, whatever became of it; a look into a key: of its file, that it is another, or was written, is all.
//!
//! What is watched are folders, all that a path leads through, and in them the names that it goes by: editors put
//! another file in a name's place, Kubernetes swaps a link further up. What a look finds decides, not the news.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::config::{Texts, followed};

/// Quiet for so long, a change is over: an editor's, or a tool's that removes a file ahead of the next one.
const SETTLED: Duration = Duration::from_millis(300);

/// What never is quiet is looked at after so long.
const RESTLESS: Duration = Duration::from_secs(3);

/// How often a look is taken where the system tells no news.
const UNTOLD: Duration = Duration::from_secs(10);

/// Links that a path may lead through (`MAXSYMLINKS` of the kernel).
const LINKS: usize = 40;

/// A configuration that is followed.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// Without, it is looked at from time to time.
    news: Option<News>,
    is_untold: bool,
    /// The content that was looked at last.
    seen: Option<u64>,
    is_missing: bool,
}

impl Watch {
    /// Begins ahead of the first reading, so that no change after it is missed.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            news: None,
            is_untold: false,
            seen: None,
            is_missing: false,
        };
        watch.look(&BTreeSet::new());
        watch
    }

    /// Starts the thread that asks for a reload by each change. `named` are further files,
    /// of the key directory.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn serve(
        mut self,
        named: impl Fn() -> BTreeSet<PathBuf> + Send + 'static,
        reload: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let run = move || {
            loop {
                self.wait();
                if self.look(&named()) {
                    reload();
                }
            }
        };
        thread::Builder::new().name("watch".into()).spawn(run)?;
        Ok(())
    }

    /// Whether there is another content than at the last look. Folders are watched before they are looked at. What is
    /// named for the first time is another content: it may have changed since it was read.
    fn look(&mut self, named: &BTreeSet<PathBuf>) -> bool {
        let mut texts = Texts::read(&self.path).ok();
        // What is watched follows from what is included; twice is enough unless it changes meanwhile.
        for _ in 0..4 {
            let folders = folders(&self.path, texts.as_ref());
            if self
                .news
                .as_ref()
                .is_some_and(|news| news.folders == folders)
            {
                break;
            }
            self.news = self.news_of(folders);
            texts = Texts::read(&self.path).ok();
        }
        let Some(texts) = texts else {
            if !std::mem::replace(&mut self.is_missing, true) {
                let config = self.path.display();
                tracing::warn!(%config, "the configuration can't be read: what runs stays");
            }
            return false;
        };
        self.is_missing = false;
        let print = print_of(&texts, named);
        self.seen.replace(print) != Some(print)
    }

    fn news_of(&mut self, folders: Folders) -> Option<News> {
        match News::open(folders) {
            Ok(news) => Some(news),
            Err(error) => {
                if !std::mem::replace(&mut self.is_untold, true) {
                    let every = UNTOLD.as_secs();
                    tracing::warn!(%error, "the system tells no news of the configuration: it is looked at every {every} s");
                }
                None
            }
        }
    }

    /// Sleeps until there are news, and then until there are none for a while.
    fn wait(&self) {
        let Some(news) = &self.news else {
            thread::sleep(UNTOLD);
            return;
        };
        while !news.come(None) {}
        let begun = Instant::now();
        while begun.elapsed() < RESTLESS && news.come(Some(SETTLED)) {}
    }
}

/// Tells contents apart, of files of keys and certificates by what the system knows of them.
fn print_of(texts: &Texts, named: &BTreeSet<PathBuf>) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.text.hash(&mut hasher);
    for included in &texts.included {
        included.path.hash(&mut hasher);
        included.hindrance.hash(&mut hasher);
        for file in &included.files {
            (&file.path, &file.text).hash(&mut hasher);
        }
    }
    for path in followed::files(texts).iter().chain(named) {
        let found = std::fs::metadata(path).ok();
        let known = found.map(|it| (it.dev(), it.ino(), it.ctime(), it.ctime_nsec()));
        known.hash(&mut hasher);
    }
    hasher.finish()
}

/// The names in a folder that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    /// Any of them: it is included.
    all: bool,
    some: BTreeSet<OsString>,
    /// Which folder it is, by device and inode: another one may come in its place.
    is: Option<(u64, u64)>,
}

type Folders = BTreeMap<PathBuf, Names>;

/// All folders that the paths of a configuration lead through.
fn folders(path: &Path, texts: Option<&Texts>) -> Folders {
    let mut folders = Folders::new();
    trace(path, &mut folders);
    for included in texts.into_iter().flat_map(|texts| &texts.included) {
        let end = trace(&included.path, &mut folders);
        if end.is_dir() {
            folders.entry(end).or_default().all = true;
        }
        for file in &included.files {
            trace(&file.path, &mut folders);
        }
    }
    if let Some(texts) = texts {
        for path in followed::files(texts) {
            trace(&path, &mut folders);
        }
        // Which of its files the layer names changes without news.
        let keys = trace(&followed::key_directory(texts), &mut folders);
        folders.entry(keys).or_default().all = true;
    }
    for (folder, names) in &mut folders {
        let found = std::fs::metadata(folder).ok();
        names.is = found.map(|it| (it.dev(), it.ino()));
    }
    folders
}

/// Follows a path step by step; where it ends.
fn trace(path: &Path, folders: &mut Folders) -> PathBuf {
    let steps = |path: &Path| -> VecDeque<OsString> {
        path.components()
            .map(|it| it.as_os_str().to_owned())
            .collect()
    };
    let mut ahead = steps(path);
    let mut place = PathBuf::from("/");
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        match Path::new(&step).components().next() {
            Some(Component::Normal(_)) => {}
            Some(Component::ParentDir) => {
                place.pop();
                continue;
            }
            Some(Component::RootDir) => {
                place = PathBuf::from("/");
                continue;
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        folders
            .entry(place.clone())
            .or_default()
            .some
            .insert(step.clone());
        let next = place.join(&step);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                let mut target = steps(&target);
                target.append(&mut ahead);
                ahead = target;
            }
            Ok(_) | Err(_) => place = next,
        }
    }
    place
}

/// The system's news of some folders.
#[derive(Debug)]
struct News {
    folders: Folders,
    inotify: OwnedFd,
    watched: BTreeMap<i32, PathBuf>,
}

impl News {
    fn open(folders: Folders) -> rustix::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let mut watched = BTreeMap::new();
        for folder in folders.keys() {
            match inotify::add_watch(&inotify, folder, flags) {
                Ok(number) => {
                    watched.insert(number, folder.clone());
                }
                // The folder above tells when it comes.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            folders,
            inotify,
            watched,
        })
    }

    /// Waits for news that matter, over all others; whether any came in time.
    fn come(&self, patience: Option<Duration>) -> bool {
        let begun = Instant::now();
        loop {
            let left = patience.map(|it| it.saturating_sub(begun.elapsed()));
            match self.come_once(left) {
                Some(false) if left.is_none_or(|it| !it.is_zero()) => {}
                told => return told == Some(true),
            }
        }
    }

    /// `None`: no news at all.
    fn come_once(&self, patience: Option<Duration>) -> Option<bool> {
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut polled = [PollFd::new(&self.inotify, PollFlags::IN)];
        if !matches!(poll(&mut polled, patience.as_ref()), Ok(1..)) {
            return None;
        }
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut room);
        let mut matter = false;
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| OsStr::from_bytes(name.to_bytes()));
            matter |= self.matters(event.wd(), name);
        }
        Some(matter)
    }

    /// News without a name are of a folder itself, or of news that were lost.
    fn matters(&self, folder: i32, name: Option<&OsStr>) -> bool {
        let Some(name) = name else { return true };
        let names = self.watched.get(&folder);
        let names = names.and_then(|folder| self.folders.get(folder));
        names.is_some_and(|names| names.all || names.some.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_followed_through_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("mount/..1")).unwrap();
        fs::write(root.join("mount/..1/c.yaml"), "").unwrap();
        symlink("..1", root.join("mount/..data")).unwrap();
        symlink("..data/c.yaml", root.join("mount/c.yaml")).unwrap();
        symlink(root.join("mount"), root.join("etc")).unwrap();
        symlink("ring", root.join("ring")).unwrap();
        let mut folders = Folders::new();
        let end = trace(&root.join("etc/c.yaml"), &mut folders);
        assert_eq!(end, root.join("mount/..1/c.yaml"));
        let names = |folder: &str| -> Vec<_> {
            let names = folders[&root.join(folder)].some.iter();
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(""), ["etc", "mount"]);
        assert_eq!(names("mount"), ["..1", "..data", "c.yaml"]);
        assert_eq!(names("mount/..1"), ["c.yaml"]);
        trace(&root.join("ring/x"), &mut folders);
        trace(&root.join("none/x"), &mut folders);
        assert!(folders.contains_key(&root.join("none")));
    }

    /// What is there is told apart from what was there before, and nothing else is.
    #[test]
    fn a_look_finds_each_content_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        fs::write(&path, "version: 1\n").unwrap();
        let mut watch = Watch::new(&path);
        let look = |watch: &mut Watch| watch.look(&BTreeSet::new());
        assert!(!look(&mut watch));
        fs::write(&path, "version: 1\ninclude: d\n").unwrap();
        assert!(look(&mut watch) && !look(&mut watch));
        fs::remove_file(&path).unwrap();
        assert!(!look(&mut watch) && watch.is_missing);
        fs::write(&path, "version: 1\ninclude: d\n").unwrap();
        assert!(!look(&mut watch));
        // A folder that comes, and a file in it.
        fs::create_dir(folder.path().join("d")).unwrap();
        assert!(look(&mut watch));
        fs::write(folder.path().join("d/a.yaml"), "").unwrap();
        fs::write(folder.path().join("d/b.txt"), "").unwrap();
        assert!(look(&mut watch) && !look(&mut watch));
        fs::write(folder.path().join("other"), "").unwrap();
        let news = watch.news.as_ref().unwrap();
        assert!(!news.come(Some(SETTLED)));
        // What doesn't matter doesn't end the wait.
        fs::write(folder.path().join("other"), "again").unwrap();
        fs::write(folder.path().join("d/c.yaml"), "").unwrap();
        assert!(news.come(Some(SETTLED)));
        // Another folder with the same files in the place of one.
        assert!(look(&mut watch));
        fs::rename(folder.path().join("d"), folder.path().join("old")).unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        for name in ["a.yaml", "c.yaml"] {
            fs::write(folder.path().join("d").join(name), "").unwrap();
        }
        assert!(!look(&mut watch));
        fs::write(folder.path().join("d/c.yaml"), "version: 1\n").unwrap();
        let news = watch.news.as_ref().unwrap();
        assert!(news.come(Some(SETTLED)));
    }
}
