//! The thread that writes the endpoints' file.
//!
//! In: changes, by the peers' places. Out: the file, replaced as a whole. Never: a moment in which the control core
//! waits for it, but for its end; more changes that wait than there are places; a line per failure; a file that lacks
//! what an earlier run left, because its peers had no turn yet.
//!
//! A change that could not be written is written with the next try, later and later. What has changed when it ends is
//! written then.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use culvert_directory::Directory;

use super::{FILE, Kept, Remembered};

/// The least time between two tries: changes of that time are written together.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure; it doubles each time.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What a write takes is at most this part of the time.
const SHARE: u32 = 20;
/// How long the last write may take.
const LAST: Duration = Duration::from_secs(5);

/// The control core's end; when it is dropped, the last changes are written.
pub(super) struct Keeper {
    desk: Arc<Desk>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

/// What the two share.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// By the peers' places: bounded, however long nobody takes them.
    changes: HashMap<usize, Option<Arc<Kept>>>,
    /// The changes and the file's peers make a whole: until then nothing is written.
    has_begun: bool,
    /// The file is to be written even if nothing has changed.
    is_asked: bool,
    is_over: bool,
}

impl Waiting {
    /// Whether there is nothing to write.
    fn is_empty(&self) -> bool {
        !self.has_begun || self.changes.is_empty() && !self.is_asked
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, say: impl FnOnce(&mut Waiting)) {
        say(&mut self.lock());
        self.news.notify_one();
    }
}

impl Keeper {
    pub(super) fn start(run_dir: Directory) -> Option<Self> {
        Self::start_with(run_dir, PAUSE)
    }

    fn start_with(run_dir: Directory, pause: Duration) -> Option<Self> {
        let desk = Arc::<Desk>::default();
        let (alive, ended) = sync_channel(0);
        let mut writer = Writer {
            desk: Arc::clone(&desk),
            run_dir,
            table: HashMap::new(),
            is_behind: false,
            pause,
            shortest: pause,
        };
        let run = move || {
            writer.run();
            drop(alive);
        };
        match thread::Builder::new().name("keeper".into()).spawn(run) {
            Ok(_) => Some(Self { desk, ended }),
            Err(error) => {
                tracing::error!(%error, "can't start a thread for the peers' endpoints: they are not kept");
                None
            }
        }
    }

    /// What the file is to say of the peer at `place`.
    pub(super) fn change(&self, place: usize, kept: Option<Arc<Kept>>) {
        self.desk.tell(|waiting| {
            waiting.changes.insert(place, kept);
        });
    }

    /// Has changes written from now on; and the file at once, if it has what is nobody's.
    pub(super) fn begin(&self, renew: bool) {
        self.desk.tell(|waiting| {
            waiting.has_begun = true;
            waiting.is_asked = renew;
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.desk.tell(|waiting| waiting.is_over = true);
        if self.ended.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the peers' endpoints are not written: the disk takes too long");
        }
    }
}

/// The thread.
struct Writer {
    desk: Arc<Desk>,
    run_dir: Directory,
    table: HashMap<usize, Arc<Kept>>,
    /// The file doesn't say what the table says: the last try has failed.
    is_behind: bool,
    /// Until the next try.
    pause: Duration,
    shortest: Duration,
}

impl Writer {
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
            |waiting: &mut Waiting| !waiting.is_over && !self.is_behind && waiting.is_empty();
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
        for (place, kept) in changes {
            match kept {
                Some(kept) => drop(self.table.insert(place, kept)),
                None => drop(self.table.remove(&place)),
            }
        }
        true
    }

    fn write(&mut self) {
        let begin = Instant::now();
        let written = self.replace();
        let was_behind = std::mem::replace(&mut self.is_behind, written.is_err());
        let path = self.run_dir.path().join(FILE);
        match written {
            Ok(()) => {
                self.pause = self.shortest.max(begin.elapsed() * SHARE);
                if was_behind {
                    tracing::info!(path = %path.display(), "the peers' endpoints are kept again");
                }
            }
            Err(error) => {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                if !was_behind {
                    tracing::warn!(path = %path.display(), %error, "can't keep the peers' endpoints: it is tried again; after a restart peers are met where they were when it last succeeded");
                }
            }
        }
    }

    fn replace(&self) -> io::Result<()> {
        let kept = self.table.values();
        let all: BTreeMap<&str, &Remembered> =
            kept.map(|kept| (&*kept.key, &kept.remembered)).collect();
        self.run_dir
            .replace(FILE, &serde_json::to_vec_pretty(&all)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn kept(key: &str) -> Option<Arc<Kept>> {
        let remembered = Remembered {
            endpoint: "192.0.2.7:51820".parse().unwrap(),
            configured: None,
            answer: Vec::new(),
        };
        let key = key.into();
        Some(Arc::new(Kept { key, remembered }))
    }

    fn keys(run_dir: &Directory) -> Option<Vec<String>> {
        let text = run_dir.read(FILE).ok()?;
        let all: BTreeMap<String, Remembered> = serde_json::from_slice(&text).unwrap();
        Some(all.into_keys().collect())
    }

    /// Nothing else changes meanwhile: it is the same change that is tried again.
    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = Directory::own(folder.path(), 0o750).unwrap();
        let obstacle = folder.path().join(FILE);
        std::fs::create_dir(&obstacle).unwrap();
        let keeper = Keeper::start_with(run_dir.clone(), STEP).unwrap();
        keeper.begin(false);
        keeper.change(1, kept("wg0/one"));
        // Taken over, so that the first try has begun before there is no obstacle.
        while !keeper.desk.lock().is_empty() {
            thread::sleep(STEP);
        }
        thread::sleep(STEP * 5);
        std::fs::remove_dir(&obstacle).unwrap();
        let tried = (0..1_000).find_map(|_| {
            thread::sleep(STEP);
            keys(&run_dir)
        });
        assert_eq!(tried.unwrap(), ["wg0/one"]);
    }

    #[test]
    fn the_last_changes_are_written_at_the_end_without_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = Directory::own(folder.path(), 0o750).unwrap();
        let keeper = Keeper::start_with(run_dir.clone(), Duration::from_secs(3_600)).unwrap();
        keeper.begin(false);
        keeper.change(1, kept("wg0/one"));
        keeper.change(2, kept("wg0/two"));
        keeper.change(1, None);
        keeper.change(3, kept("wg0/three"));
        assert_eq!(keeper.desk.lock().changes.len(), 3);
        drop(keeper);
        assert_eq!(keys(&run_dir).unwrap(), ["wg0/three", "wg0/two"]);
    }
}
