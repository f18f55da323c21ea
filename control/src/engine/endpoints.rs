//! Where peers were heard last, kept across restarts.
//!
//! In: endpoints as they move. Out: a small JSON file in the run directory, replaced
//! as a whole. Never: a key that is secret, a failure that stops anything: without the
//! file, peers are met where the configuration says.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A remembered endpoint, valid while the configuration says the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    endpoint: SocketAddr,
    configured: Option<String>,
}

/// The file and its contents, by tunnel and public key.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Without one, nothing is kept.
    path: Option<PathBuf>,
    known: BTreeMap<String, Remembered>,
    changed: bool,
}

impl Endpoints {
    /// Reads the file, if there is a readable one.
    pub(super) fn open(run_dir: Option<&Path>) -> Self {
        let path = run_dir.map(|run_dir| run_dir.join("endpoints.json"));
        let known = path
            .as_ref()
            .and_then(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .unwrap_or_default();
        Self {
            path,
            known,
            changed: false,
        }
    }

    /// Where a peer was last, if the configuration has not changed its mind since.
    pub(super) fn last(&self, key: &str, configured: Option<&str>) -> Option<SocketAddr> {
        let remembered = self.known.get(key)?;
        (remembered.configured.as_deref() == configured).then_some(remembered.endpoint)
    }

    /// Notes where a peer is.
    pub(super) fn note(&mut self, key: String, configured: Option<String>, endpoint: SocketAddr) {
        let remembered = Remembered {
            endpoint,
            configured,
        };
        if self.known.get(&key) != Some(&remembered) {
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
        let Some(path) = &self.path else { return };
        let write = || -> std::io::Result<()> {
            let new = path.with_extension("json.new");
            let mut file = fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(&self.known)?)?;
            fs::rename(&new, path)
        };
        if let Err(error) = write() {
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
        let place: SocketAddr = "192.0.2.7:51820".parse().unwrap();
        let mut endpoints = Endpoints::open(Some(folder.path()));
        endpoints.note("wg0/key".into(), Some("192.0.2.1:1".into()), place);
        endpoints.save();
        let mut endpoints = Endpoints::open(Some(folder.path()));
        assert_eq!(endpoints.last("wg0/key", Some("192.0.2.1:1")), Some(place));
        assert_eq!(endpoints.last("wg0/key", Some("192.0.2.2:1")), None);
        assert_eq!(endpoints.last("wg0/other", None), None);
        endpoints.forget("wg0/key");
        endpoints.save();
        assert!(Endpoints::open(Some(folder.path())).known.is_empty());
    }
}
