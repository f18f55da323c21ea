//! Where peers were heard last, kept across restarts.
//!
//! In: endpoints as they move. Out: a small JSON file in the run directory, replaced
//! as a whole. Never: a key that is secret, a failure that stops anything: without the
//! file, peers are met where the configuration says.

use std::{collections::BTreeMap, net::SocketAddr};

use culvert_directory::Directory;
use serde::{Deserialize, Serialize};

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

/// The file and its contents, by tunnel and public key.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Without a directory, nothing is kept.
    run_dir: Option<Directory>,
    known: BTreeMap<String, Remembered>,
    changed: bool,
}

impl Endpoints {
    /// Reads the file, if there is a readable one.
    pub(super) fn open(run_dir: Option<&Directory>) -> Self {
        let known = run_dir
            .and_then(|run_dir| serde_json::from_slice(&run_dir.read(FILE).ok()?).ok())
            .unwrap_or_default();
        Self {
            run_dir: run_dir.cloned(),
            known,
            changed: false,
        }
    }

    /// Where a peer was last, if the configuration has not changed its mind since.
    pub(super) fn last(&self, key: &str, configured: Option<&str>) -> Option<SocketAddr> {
        let remembered = self.known.get(key)?;
        (remembered.configured.as_deref() == configured).then_some(remembered.endpoint)
    }

    /// Whether the configuration stood for these addresses when the peer was heard last.
    pub(super) fn had_answer(&self, key: &str, answer: &[SocketAddr]) -> bool {
        self.known.get(key).is_some_and(|remembered| {
            let before = &remembered.answer;
            before.len() == answer.len() && answer.iter().all(|address| before.contains(address))
        })
    }

    /// Notes where a peer was heard.
    pub(super) fn note(
        &mut self,
        key: String,
        configured: Option<String>,
        answer: Vec<SocketAddr>,
        endpoint: SocketAddr,
    ) {
        let remembered = Remembered {
            endpoint,
            configured,
            answer,
        };
        if self.run_dir.is_some() && self.known.get(&key) != Some(&remembered) {
            self.known.insert(key, remembered);
            self.changed = true;
        }
    }

    /// Forgets a peer.
    pub(super) fn forget(&mut self, key: &str) {
        self.changed |= self.known.remove(key).is_some();
    }

    /// Writes the file if anything changed.
    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let Some(run_dir) = &self.run_dir else { return };
        let text = serde_json::to_vec_pretty(&self.known).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| run_dir.replace(FILE, &text)) {
            let path = run_dir.path().join(FILE);
            tracing::warn!(path = %path.display(), %error, "can't keep the peers' endpoints");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_unless_the_configuration_changes() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = Directory::own(folder.path(), 0o750).unwrap();
        let place: SocketAddr = "192.0.2.7:51820".parse().unwrap();
        let configured = "192.0.2.1:1";
        let answer = vec![configured.parse().unwrap()];
        let mut endpoints = Endpoints::open(Some(&run_dir));
        endpoints.note("wg0/key".into(), Some(configured.into()), answer, place);
        endpoints.save();
        let mut endpoints = Endpoints::open(Some(&run_dir));
        assert_eq!(endpoints.last("wg0/key", Some("192.0.2.1:1")), Some(place));
        assert_eq!(endpoints.last("wg0/key", Some("192.0.2.2:1")), None);
        assert_eq!(endpoints.last("wg0/other", None), None);
        assert!(endpoints.had_answer("wg0/key", &["192.0.2.1:1".parse().unwrap()]));
        assert!(!endpoints.had_answer("wg0/key", &[place]));
        endpoints.forget("wg0/key");
        endpoints.save();
        assert!(Endpoints::open(Some(&run_dir)).known.is_empty());
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
            let place: SocketAddr = "192.0.2.7:51820".parse().unwrap();
            endpoints.note("wg0/key".into(), None, vec![], place);
            endpoints.save();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
            assert!(!path.join(FILE).is_symlink(), "{planted}");
            let kept = Endpoints::open(Some(&run_dir));
            assert_eq!(kept.last("wg0/key", None), Some(place), "{planted}");
        }
    }
}
