//! The keys of a revision: what the files held that it names.
//!
//! In: a configuration. Out: a file of their own, 0600; the keys again, when a revision is read. Never: a key in a text,
//! a message or a hash that is shown with less beside it; a key that was revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{Config, Disk, KeyFileError, KeyFiles};
use crate::keys::{KEY_TEXT_LEN, PrivateKey, PublicKey};

/// The format of their file.
const FORMAT: u32 = 1;

/// Keys by the paths of their files.
#[derive(Default)]
pub(super) struct Keys(BTreeMap<PathBuf, Zeroizing<String>>);

/// As they lie in a file.
#[derive(Serialize, Deserialize)]
struct Written<K> {
    format: u32,
    keys: BTreeMap<PathBuf, K>,
}

impl Keys {
    pub(super) fn of(config: &Config) -> Self {
        let mut keys = BTreeMap::new();
        let mut put = |path: &Path, text: Zeroizing<String>| {
            if path != Path::new("") {
                keys.insert(path.to_owned(), text);
            }
        };
        for tunnel in &config.tunnels {
            if let Some(key) = &tunnel.private_key {
                put(&tunnel.private_key_file, key.to_base64());
            }
            let many = tunnel.preshared_keys_file.as_deref();
            for peer in &tunnel.peers {
                let path = peer.preshared_key_file.as_deref();
                if let Some((path, key)) = path.zip(peer.preshared_key.as_ref())
                    && Some(path) != many
                {
                    put(path, key.to_base64());
                }
            }
        }
        for tunnel in &config.tunnels {
            if let Some(path) = &tunnel.preshared_keys_file {
                keys.entry(path.clone())
                    .or_insert_with(|| lines(config, path));
            }
        }
        Self(keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn each(&self, mut see: impl FnMut(&Path, &str)) {
        self.0.iter().for_each(|(path, key)| see(path, key));
    }

    pub(super) fn to_bytes(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        let keys = self.0.iter().map(|(path, key)| (path.clone(), &***key));
        // Of its final size: one that grows leaves copies of keys behind.
        let lens = self.0.iter();
        let lens = lens.map(|(path, text)| path.as_os_str().len() * 6 + text.len() * 2 + 8);
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 + lens.sum::<usize>()));
        let written = Written {
            format: FORMAT,
            keys: keys.collect(),
        };
        serde_json::to_writer(&mut *bytes, &written)?;
        Ok(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> serde_json::Result<Self> {
        let written: Written<Zeroizing<String>> = serde_json::from_slice(bytes)?;
        Ok(Self(written.keys))
    }

    /// Forgets private keys that belong to these public ones; whether it had one.
    pub(super) fn forget(&mut self, revoked: &Revoked) -> bool {
        let before = self.0.len();
        self.0.retain(|_, key| !revoked.has_private(key));
        self.0.len() != before
    }
}

/// A file of the preshared keys of many peers, as `wg show INTERFACE preshared-keys` prints them.
fn lines(config: &Config, path: &Path) -> Zeroizing<String> {
    let tunnels = config.tunnels.iter();
    let tunnels = tunnels.filter(|it| it.preshared_keys_file.as_deref() == Some(path));
    let peers: Vec<_> = tunnels
        .flat_map(|it| &it.peers)
        .filter(|it| it.preshared_key_file.as_deref() == Some(path))
        .collect();
    // Of its final size: one that grows leaves copies of keys behind.
    let mut text = String::with_capacity(peers.len() * (2 * KEY_TEXT_LEN + 2));
    let mut written = BTreeSet::new();
    for peer in peers {
        // Tunnels that share a file may share peers, which have one line then.
        let Some(key) = peer
            .preshared_key
            .as_ref()
            .filter(|_| written.insert(peer.public_key.to_base64()))
        else {
            continue;
        };
        text += &peer.public_key.to_base64();
        text.push('\t');
        text += &key.to_base64();
        text.push('\n');
    }
    Zeroizing::new(text)
}

/// Where a revision's keys are read from: itself; what it has not any more, from the files of now.
pub(super) struct KeysOfThen<'k> {
    pub(super) keys: &'k Keys,
    pub(super) revoked: &'k Revoked,
    /// What was read from the files of now.
    pub(super) of_now: std::cell::RefCell<Vec<PathBuf>>,
}

impl KeyFiles for KeysOfThen<'_> {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        self.read_in(Path::new(""), path)
    }

    fn read_in(&self, directory: &Path, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let kept = self.keys.0.get(path);
        if let Some(key) = kept.filter(|key| !self.revoked.has_private(key)) {
            return Ok(key.clone());
        }
        self.of_now.borrow_mut().push(path.to_owned());
        Disk.read_in(directory, path)
    }

    fn read_many_in(
        &self,
        directory: &Path,
        path: &Path,
    ) -> Result<Zeroizing<String>, KeyFileError> {
        if let Some(keys) = self.keys.0.get(path) {
            return Ok(keys.clone());
        }
        self.of_now.borrow_mut().push(path.to_owned());
        Disk.read_many_in(directory, path)
    }
}

/// Public keys that no rollback brings back: of peers, and of tunnels, whose private keys they tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revoked(pub(super) BTreeSet<String>);

impl Revoked {
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        !self.0.is_empty() && self.0.contains(&key.to_base64())
    }

    /// Preshared keys have no public one; as a private one theirs is nobody's.
    fn has_private(&self, key: &str) -> bool {
        let private = || PrivateKey::from_base64(key).ok();
        !self.0.is_empty() && private().is_some_and(|key| self.has(&key.public_key()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    /// The keys that a configuration names, without a disk.
    struct Given;

    impl KeyFiles for Given {
        fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
            Ok(PrivateKey::from_bytes([7; 32]).to_base64())
        }

        fn read_many(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
            Ok(Zeroizing::new(format!("{PEER}\t{PEER}\n")))
        }
    }

    const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

    #[test]
    fn a_peer_of_two_tunnels_that_share_a_file_has_one_line() {
        let tunnel = |name: &str, port: u8| {
            format!(
                "  {name}:\n    uplink: u\n    listen_port: {port}\n    private_key_file: /none/{name}.key\n    \
                 preshared_keys_file: /none/psk\n    peers: {{p: {{public_key: \"{PEER}\"}}}}\n"
            )
        };
        let text = format!(
            "version: 1\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n{}{}\
             networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n",
            tunnel("t", 1),
            tunnel("v", 2)
        );
        let (config, _) = parse(&text, Path::new("/none/c.yaml"), &Given)
            .map_err(|report| report.render(false))
            .unwrap();
        let keys = Keys::of(&config);
        assert_eq!(
            keys.0[Path::new("/none/psk")].as_str(),
            format!("{PEER}\t{PEER}\n")
        );
    }

    #[test]
    fn keys_of_all_kinds_of_files_come_back_without_those_files() {
        let text = format!(
            "version: 1\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n  t:\n    uplink: u\n    \
             listen_port: 1\n    private_key_file: /none/t.key\n    preshared_keys_file: /none/psk\n    peers: {{p: {{public_key: \"{PEER}\"}}}}\n\
             networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n"
        );
        let read = |keys: &dyn KeyFiles| {
            let read = parse(&text, Path::new("/none/c.yaml"), keys);
            read.map_err(|report| report.render(false)).unwrap().0
        };
        let config = read(&Given);
        let keys = Keys::of(&config);
        let keys = Keys::from_bytes(&keys.to_bytes().unwrap()).unwrap();
        let then = KeysOfThen {
            keys: &keys,
            revoked: &Revoked::default(),
            of_now: std::cell::RefCell::default(),
        };
        assert_eq!(read(&then), config);
        assert!(then.of_now.borrow().is_empty());
        assert!(config.tunnels[0].peers[0].preshared_key.is_some());

        let own = PrivateKey::from_bytes([7; 32]).public_key();
        let revoked = Revoked([own.to_base64()].into());
        let mut keys = keys;
        assert!(keys.forget(&revoked));
        assert!(!keys.forget(&revoked));
        assert!(keys.0.contains_key(Path::new("/none/psk")));
    }
}
