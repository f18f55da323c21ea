//! Where peers were heard last, kept across restarts.
//!
//! In: the file of an earlier run, once; endpoints as they move. Out: what is remembered of a peer; changes for the
//! [`Keeper`], which alone writes. Never: a disk that the control core waits for; a key that is secret; a failure that
//! stops anything: without the file, peers are met where the configuration says.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use culvert_directory::Directory;
use serde::{Deserialize, Serialize};

use super::keeper::{Keeper, Page};

/// The file's name.
const FILE: &str = "endpoints.json";

/// A remembered endpoint, valid while the configuration says the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    endpoint: SocketAddr,
    configured: Option<String>,
    /// The addresses that the configuration stood for then.
    #[serde(default)]
    answer: Vec<SocketAddr>,
}

/// What the file says of one peer: by tunnel and public key, where it was heard.
#[derive(Debug)]
pub(super) struct Kept {
    key: String,
    remembered: Remembered,
}

impl Kept {
    /// Where the peer was last, if the configuration has not changed its mind since.
    pub(super) fn last(&self, configured: Option<&str>) -> Option<SocketAddr> {
        let remembered = &self.remembered;
        (remembered.configured.as_deref() == configured).then_some(remembered.endpoint)
    }

    /// Whether the configuration stood for these addresses when the peer was heard last.
    pub(super) fn had_answer(&self, answer: &[SocketAddr]) -> bool {
        let before = &self.remembered.answer;
        before.len() == answer.len() && answer.iter().all(|address| before.contains(address))
    }
}

/// The file, as the control core knows it: each peer has its own part.
pub(super) struct Endpoints {
    /// What an earlier run left, until the peers that there are have taken theirs.
    before: BTreeMap<String, Remembered>,
    has_begun: bool,
    /// Without a directory, nothing is kept.
    keeper: Option<Keeper<usize, Arc<Kept>>>,
}

impl Endpoints {
    /// Reads the file, if there is a readable one. The thread that writes it is made here, and runs where this one does.
    pub(super) fn open(run_dir: Option<&Directory>) -> Self {
        let before = run_dir
            .and_then(|run_dir| serde_json::from_slice(&run_dir.read(FILE).ok()?).ok())
            .unwrap_or_default();
        Self {
            before,
            has_begun: false,
            keeper: run_dir.and_then(|run_dir| Keeper::start(run_dir.clone(), page())),
        }
    }

    /// Where an earlier run heard a peer last, if the configuration has not changed its mind since.
    pub(super) fn before(&self, key: &str, configured: Option<&str>) -> Option<SocketAddr> {
        let remembered = self.before.get(key)?;
        (remembered.configured.as_deref() == configured).then_some(remembered.endpoint)
    }

    /// What an earlier run left of the peer at `place`.
    pub(super) fn adopt(&mut self, place: usize, key: String) -> Option<Arc<Kept>> {
        let remembered = self.before.remove(&key)?;
        self.keep(place, Kept { key, remembered })
    }

    /// All peers of the first configuration have what was left of them; what is left of others is forgotten. Nothing is
    /// written ahead of it: the file is replaced as a whole.
    pub(super) fn begun(&mut self) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let left = std::mem::take(&mut self.before);
        if let Some(keeper) = &self.keeper {
            keeper.begin(!left.is_empty());
        }
    }

    /// Notes where the peer at `place` was heard.
    pub(super) fn note(
        &mut self,
        place: usize,
        key: String,
        configured: Option<String>,
        answer: Vec<SocketAddr>,
        endpoint: SocketAddr,
    ) -> Option<Arc<Kept>> {
        let remembered = Remembered {
            endpoint,
            configured,
            answer,
        };
        self.keep(place, Kept { key, remembered })
    }

    fn keep(&self, place: usize, kept: Kept) -> Option<Arc<Kept>> {
        let keeper = self.keeper.as_ref()?;
        let kept = Arc::new(kept);
        keeper.change(place, Some(Arc::clone(&kept)));
        Some(kept)
    }

    /// Forgets the peer at `place`.
    pub(super) fn forget(&self, place: usize) {
        if let Some(keeper) = &self.keeper {
            keeper.change(place, None);
        }
    }

    /// Has what is not written yet written, and ends.
    pub(super) fn finish(&mut self) {
        self.keeper = None;
    }
}

/// The file, as it is written; peers by their places.
fn page() -> Page<usize, Arc<Kept>> {
    Page {
        file: FILE,
        thread: "endpoints",
        what: "the peers' endpoints",
        otherwise: "after a restart peers are met where they were when it last succeeded",
        text,
        replace: |run_dir, name, text| run_dir.replace(name, text),
        pause: Duration::from_secs(1),
    }
}

fn text(table: &HashMap<usize, Arc<Kept>>) -> serde_json::Result<Vec<u8>> {
    let kept = table.values();
    let all: BTreeMap<&str, &Remembered> =
        kept.map(|kept| (&*kept.key, &kept.remembered)).collect();
    serde_json::to_vec_pretty(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn endpoints_survive_unless_the_configuration_changes() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = Directory::own(folder.path(), 0o750).unwrap();
        let (heard, configured) = (place("192.0.2.7:51820"), "192.0.2.1:1");
        let mut endpoints = Endpoints::open(Some(&run_dir));
        for (at, key) in ["wg0/key", "wg0/gone"].into_iter().enumerate() {
            let answer = vec![place(configured)];
            endpoints.note(at, key.into(), Some(configured.into()), answer, heard);
        }
        endpoints.begun();
        endpoints.finish();

        let mut endpoints = Endpoints::open(Some(&run_dir));
        assert_eq!(endpoints.before("wg0/key", Some(configured)), Some(heard));
        assert_eq!(endpoints.before("wg0/key", Some("192.0.2.2:1")), None);
        assert_eq!(endpoints.before("wg0/other", None), None);
        let kept = endpoints.adopt(5, "wg0/key".into()).unwrap();
        assert_eq!(kept.last(Some(configured)), Some(heard));
        assert_eq!(kept.last(None), None);
        assert!(kept.had_answer(&[place(configured)]) && !kept.had_answer(&[heard]));
        assert!(endpoints.adopt(6, "wg0/other".into()).is_none());
        endpoints.begun();
        endpoints.finish();

        // The peer that nobody has is gone from the file.
        let mut endpoints = Endpoints::open(Some(&run_dir));
        let keys: Vec<_> = endpoints.before.keys().cloned().collect();
        assert_eq!(keys, ["wg0/key"]);
        endpoints.adopt(5, "wg0/key".into());
        endpoints.forget(5);
        endpoints.begun();
        endpoints.finish();
        assert!(Endpoints::open(Some(&run_dir)).before.is_empty());
    }

    #[test]
    fn a_run_that_never_began_leaves_the_file_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = Directory::own(folder.path(), 0o750).unwrap();
        let text = r#"{"wg0/key": {"endpoint": "192.0.2.7:1", "configured": null}}"#;
        run_dir.replace(FILE, text.as_bytes()).unwrap();
        Endpoints::open(Some(&run_dir)).finish();
        assert_eq!(run_dir.read(FILE).unwrap(), text.as_bytes());
        // Nor one that ends before all peers have what was left of them.
        let mut endpoints = Endpoints::open(Some(&run_dir));
        let heard = place("192.0.2.8:1");
        endpoints.note(0, "wg0/other".into(), None, vec![], heard);
        endpoints.finish();
        assert_eq!(run_dir.read(FILE).unwrap(), text.as_bytes());
    }

    /// Whoever could once write to the directory has left links under the file's names.
    #[test]
    fn a_planted_link_is_replaced_and_not_followed() {
        for planted in [FILE, "endpoints.json.new"] {
            let folder = tempfile::tempdir().unwrap();
            let victim = folder.path().join("victim");
            std::fs::write(&victim, "precious").unwrap();
            let path = folder.path().join("run");
            let run_dir = Directory::own(&path, 0o750).unwrap();
            std::os::unix::fs::symlink(&victim, path.join(planted)).unwrap();
            let mut endpoints = Endpoints::open(Some(&run_dir));
            let heard = place("192.0.2.7:51820");
            endpoints.note(0, "wg0/key".into(), None, vec![], heard);
            endpoints.begun();
            endpoints.finish();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
            assert!(!path.join(FILE).is_symlink(), "{planted}");
            let kept = Endpoints::open(Some(&run_dir));
            assert_eq!(kept.before("wg0/key", None), Some(heard), "{planted}");
        }
    }
}
