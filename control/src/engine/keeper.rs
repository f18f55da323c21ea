//! The thread that keeps a file which says the newest of each of many.
//!
//! In: changes, by key. Out: the file, replaced as a whole. Never: a moment in which the control core waits for the disk,
//! but for the last write; more changes that wait than there are keys; a line per failure; a file that lacks what an
//! earlier run left, because who had it had no turn yet.
//!
//! A change that could not be written is written with the next try, later and later. What has changed when it ends is
//! written then.

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use culvert_directory::Directory;

/// The pauses after failures: from the first of one to the longest, doubled each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What a write takes is at most this part of the time.
const SHARE: u32 = 20;
/// How long the last write may take.
const LAST: Duration = Duration::from_secs(5);

/// Of what is kept.
pub(super) struct Page<K, V> {
    pub(super) file: &'static str,
    /// What its thread is called.
    pub(super) thread: &'static str,
    /// What it is called in the log.
    pub(super) what: &'static str,
    /// What it means that it can't be written.
    pub(super) otherwise: &'static str,
    /// Its text.
    pub(super) text: fn(&HashMap<K, V>) -> serde_json::Result<Vec<u8>>,
    /// How it takes the place of the one before.
    pub(super) replace: fn(&Directory, &'static str, &[u8]) -> io::Result<()>,
    /// How long a change waits for others that are written together with it.
    pub(super) pause: Duration,
}

/// The control core's end; when it is dropped, the last changes are written.
pub(super) struct Keeper<K, V> {
    desk: Arc<Desk<K, V>>,
    what: &'static str,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

/// What the two share.
struct Desk<K, V> {
    waiting: Mutex<Waiting<K, V>>,
    news: Condvar,
}

struct Waiting<K, V> {
    /// By key: bounded, however long nobody takes them.
    changes: HashMap<K, Option<V>>,
    /// The changes make a whole: until then nothing is written.
    has_begun: bool,
    /// The file is to be written even if nothing has changed.
    is_asked: bool,
    is_over: bool,
}

impl<K, V> Waiting<K, V> {
    /// Whether there is nothing to write.
    fn is_empty(&self) -> bool {
        !self.has_begun || self.changes.is_empty() && !self.is_asked
    }
}

impl<K, V> Desk<K, V> {
    fn new() -> Self {
        let waiting = Waiting {
            changes: HashMap::new(),
            has_begun: false,
            is_asked: false,
            is_over: false,
        };
        Self {
            waiting: Mutex::new(waiting),
            news: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<K, V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, say: impl FnOnce(&mut Waiting<K, V>)) {
        say(&mut self.lock());
        self.news.notify_one();
    }
}

impl<K, V> Keeper<K, V> {
    /// Starts the thread, where this one runs; `None` is said in the log.
    pub(super) fn start(directory: Directory, page: Page<K, V>) -> Option<Self>
    where
        K: Eq + Hash + Send + 'static,
        V: Send + 'static,
    {
        let desk = Arc::new(Desk::new());
        let (alive, ended) = sync_channel(0);
        let Page { thread, what, .. } = page;
        let mut writer = Writer {
            desk: Arc::clone(&desk),
            directory,
            table: HashMap::new(),
            is_behind: false,
            pause: page.pause,
            page,
        };
        let run = move || {
            writer.run();
            drop(alive);
        };
        match thread::Builder::new().name(thread.into()).spawn(run) {
            Ok(_) => Some(Self { desk, what, ended }),
            Err(error) => {
                tracing::error!(%error, "can't start a thread for {what}: they are not kept");
                None
            }
        }
    }

    /// Has changes written from now on; and the file at once, if it has what is nobody's.
    pub(super) fn begin(&self, renew: bool) {
        self.desk.tell(|waiting| {
            waiting.has_begun = true;
            waiting.is_asked = renew;
        });
    }
}

impl<K: Eq + Hash, V> Keeper<K, V> {
    /// What the file is to say of `key`.
    pub(super) fn change(&self, key: K, value: Option<V>) {
        self.desk.tell(|waiting| {
            waiting.changes.insert(key, value);
        });
    }
}

impl<K, V> Drop for Keeper<K, V> {
    fn drop(&mut self) {
        self.desk.tell(|waiting| waiting.is_over = true);
        if self.ended.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("{} are not written: the disk takes too long", self.what);
        }
    }
}

/// The thread.
struct Writer<K, V> {
    desk: Arc<Desk<K, V>>,
    directory: Directory,
    page: Page<K, V>,
    table: HashMap<K, V>,
    /// The file doesn't say what the table says: the last try has failed.
    is_behind: bool,
    /// Until the next try.
    pause: Duration,
}

impl<K: Eq + Hash, V> Writer<K, V> {
    fn run(&mut self) {
        loop {
            let is_over = self.rest();
            let is_new = self.take();
            if is_new || self.is_behind {
                self.write();
            }
            if is_over {
                return;
            }
        }
    }

    /// Waits for something to write, and then for its time; or for the end, and whether that has come.
    fn rest(&self) -> bool {
        let Desk { waiting, news } = &*self.desk;
        let is_idle =
            |waiting: &mut Waiting<K, V>| !waiting.is_over && !self.is_behind && waiting.is_empty();
        let guard = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = news.wait_while(guard, is_idle);
        let guard = guard.unwrap_or_else(PoisonError::into_inner);
        let rested = news.wait_timeout_while(guard, self.pause, |waiting| !waiting.is_over);
        let (guard, _) = rested.unwrap_or_else(PoisonError::into_inner);
        guard.is_over
    }

    /// Takes changes over; whether there are any.
    fn take(&mut self) -> bool {
        let mut waiting = self.desk.lock();
        if waiting.is_empty() {
            return false;
        }
        waiting.is_asked = false;
        let changes = std::mem::take(&mut waiting.changes);
        drop(waiting);
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.table.insert(key, value)),
                None => drop(self.table.remove(&key)),
            }
        }
        true
    }

    fn write(&mut self) {
        let begin = Instant::now();
        let written = self.replace();
        let was_behind = std::mem::replace(&mut self.is_behind, written.is_err());
        let Page {
            what, otherwise, ..
        } = self.page;
        let path = self.directory.path().join(self.page.file);
        match written {
            Ok(()) => {
                self.pause = self.page.pause.max(begin.elapsed() * SHARE);
                if was_behind {
                    tracing::info!(path = %path.display(), "{what} are kept again");
                }
            }
            Err(error) => {
                let (first, longest) = PAUSES;
                self.pause = (self.pause * 2).clamp(first, longest);
                if !was_behind {
                    tracing::warn!(path = %path.display(), %error, "can't keep {what}: it is tried again; {otherwise}");
                }
            }
        }
    }

    fn replace(&self) -> io::Result<()> {
        let text = (self.page.text)(&self.table)?;
        (self.page.replace)(&self.directory, self.page.file, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "letters.json";
    const STEP: Duration = Duration::from_millis(10);

    fn letters(pause: Duration) -> Page<u8, char> {
        Page {
            file: FILE,
            thread: "letters",
            what: "letters",
            otherwise: "they are forgotten",
            text: |table| {
                let mut letters: Vec<_> = table.values().collect();
                letters.sort();
                serde_json::to_vec(&letters)
            },
            replace: |directory, name, text| directory.replace(name, text),
            pause,
        }
    }

    fn read(directory: &Directory) -> Option<String> {
        let text = directory.read(FILE).ok()?;
        let letters: Vec<char> = serde_json::from_slice(&text).unwrap();
        Some(letters.into_iter().collect())
    }

    fn keeper(folder: &tempfile::TempDir, pause: Duration) -> (Directory, Keeper<u8, char>) {
        let directory = Directory::own(folder.path(), 0o750).unwrap();
        let keeper = Keeper::start(directory.clone(), letters(pause)).unwrap();
        (directory, keeper)
    }

    /// Nothing else changes meanwhile: it is the same change that is tried again.
    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let obstacle = folder.path().join(FILE);
        std::fs::create_dir(&obstacle).unwrap();
        let (directory, keeper) = keeper(&folder, Duration::ZERO);
        keeper.begin(false);
        keeper.change(1, Some('a'));
        // Taken over, so that the first try has begun before there is no obstacle.
        while !keeper.desk.lock().is_empty() {
            thread::sleep(STEP);
        }
        thread::sleep(STEP * 5);
        std::fs::remove_dir(&obstacle).unwrap();
        let tried = (0..1_000).find_map(|_| {
            thread::sleep(STEP);
            read(&directory)
        });
        assert_eq!(tried.unwrap(), "a");
    }

    #[test]
    fn the_last_changes_are_written_at_the_end_without_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, keeper) = keeper(&folder, Duration::from_secs(3_600));
        keeper.begin(false);
        keeper.change(1, Some('a'));
        keeper.change(2, Some('b'));
        keeper.change(1, None);
        keeper.change(3, Some('c'));
        assert_eq!(keeper.desk.lock().changes.len(), 3);
        drop(keeper);
        assert_eq!(read(&directory).unwrap(), "bc");
    }
}
