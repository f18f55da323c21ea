//! What tells a configuration from others: the sums of its file's parts, and of its keys.
//!
//! In: a configuration, and the one that was told last. Out: sums, a hash of them. Never: the text of a part that is made
//! of the same as one of the last: that is most of a long file, and takes long to write.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::keys::Keys;
use super::revision::{Hashing, Revision, sum};
use crate::config::{self, Config, First, Part};

/// A configuration with the sums of its parts, in their order.
pub(super) struct Summed {
    config: Arc<Config>,
    pub(super) sums: Vec<String>,
}

/// A configuration that comes.
pub(super) struct Told {
    pub(super) summed: Summed,
    pub(super) keys: Keys,
    pub(super) hash: String,
    /// Texts that were written to be summed.
    texts: HashMap<usize, String>,
    /// Its hash in format 1.
    of_text: OnceCell<String>,
}

impl Told {
    pub(super) fn of(config: &Arc<Config>, last: Option<&Summed>) -> Self {
        let mut texts = HashMap::new();
        let sums = {
            let known = Known::of(last);
            let parts = config::parts(config);
            let sums = parts.iter().enumerate().map(|(place, part)| {
                known.sum(part).unwrap_or_else(|| {
                    let text = part.text();
                    let sum = sum(text.as_bytes());
                    texts.insert(place, text);
                    sum
                })
            });
            sums.collect::<Vec<_>>()
        };
        let keys = Keys::of(config);
        let mut hash = Hashing::default();
        sums.iter().for_each(|it| hash.add(it.as_bytes()));
        Self {
            hash: with_keys(hash, &keys),
            summed: Summed {
                config: Arc::clone(config),
                sums,
            },
            keys,
            texts,
            of_text: OnceCell::new(),
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.summed.config
    }

    /// Shows the texts of its parts at these places, in their order.
    pub(super) fn show(&self, places: &[usize], mut see: impl FnMut(usize, &str)) {
        let parts = config::parts(self.config());
        for &place in places {
            match self.texts.get(&place) {
                Some(text) => see(place, text),
                None => see(place, &parts[place].text()),
            }
        }
    }

    /// Whether a revision is this configuration.
    pub(super) fn is(&self, revision: &Revision, format: u32) -> bool {
        revision.hash
            == *match format {
                1 => self.of_text.get_or_init(|| self.hash_of_text()),
                _ => &self.hash,
            }
    }

    /// As format 1 had it: of the text as a whole.
    fn hash_of_text(&self) -> String {
        let mut hash = Hashing::default();
        hash.add(config::to_yaml(self.config()).as_bytes());
        with_keys(hash, &self.keys)
    }
}

/// A key's file may have another content under its name.
fn with_keys(mut hash: Hashing, keys: &Keys) -> String {
    keys.each(|path, key| {
        hash.add([0]);
        hash.add(path.as_os_str().as_encoded_bytes());
        hash.add([0]);
        hash.add(key);
    });
    hash.end()
}

/// Parts whose sums are known.
struct Known<'k>(HashMap<First<'k>, (Part<'k>, &'k String)>);

impl<'k> Known<'k> {
    fn of(last: Option<&'k Summed>) -> Self {
        let all = last.into_iter().flat_map(|last| {
            let parts = config::parts(&last.config).into_iter().zip(&last.sums);
            parts.filter_map(|(part, sum)| Some((part.first()?, (part, sum))))
        });
        Self(all.collect())
    }

    fn sum(&self, part: &Part<'_>) -> Option<String> {
        let (same, sum) = self.0.get(&part.first()?)?;
        (same == part).then(|| (*sum).clone())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{KeyFileError, KeyFiles};

    /// The key of the histories that the tests keep.
    struct OfThen;

    impl KeyFiles for OfThen {
        fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
            Ok(Zeroizing::new("SEhI".repeat(10) + "SEk="))
        }
    }

    fn config(text: &str) -> Arc<Config> {
        let read = config::parse(text, Path::new("/etc/culvert/culvert.yaml"), &OfThen);
        Arc::new(read.map_err(|report| report.render(false)).unwrap().0)
    }

    fn peers(mtu: u16, keepalive: u16) -> String {
        let peer = |number: u8| {
            let key = crate::keys::PublicKey::from_bytes(
                [number % 16, number, 1].repeat(11)[..32]
                    .try_into()
                    .unwrap(),
            );
            let keepalive = match number == 100 {
                true => format!(", persistent_keepalive: {keepalive}s"),
                false => String::new(),
            };
            format!(
                "      p{number}: {{public_key: \"{}\"{keepalive}}}\n",
                key.to_base64()
            )
        };
        format!(
            "version: 1\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n  t:\n    uplink: u\n    \
             mtu: {mtu}\n    listen_port: 1\n    private_key_file: k\n    peers:\n{}networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n",
            (0..200).map(peer).collect::<String>()
        )
    }

    #[test]
    fn what_is_known_of_the_last_changes_no_sum_and_saves_texts() {
        let first = Told::of(&config(&peers(1400, 25)), None);
        assert_eq!(first.texts.len(), first.summed.sums.len());
        for (mtu, keepalive, written) in [(1400, 25, 2), (1400, 26, 3), (1300, 25, 2)] {
            let config = config(&peers(mtu, keepalive));
            let (anew, upon) = (
                Told::of(&config, None),
                Told::of(&config, Some(&first.summed)),
            );
            assert_eq!(anew.summed.sums, upon.summed.sums);
            assert_eq!(anew.hash, upon.hash);
            assert_eq!(anew.hash == first.hash, (mtu, keepalive) == (1400, 25));
            // What stands ahead of the peers and behind them, and the part of the one that changed.
            assert_eq!(upon.texts.len(), written);
        }
    }

    /// What was taken back before another version was installed is known again.
    #[test]
    fn a_revision_of_any_format_is_known_by_its_hash() {
        let head = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/history/1/2.json");
        let revision: Revision = serde_json::from_slice(&fs::read(head).unwrap()).unwrap();
        let config = config(&peers(1400, 25));
        let told = Told::of(&config, None);
        let key = config.tunnels[0].private_key_file.display();
        let key = format!("\0{key}\0{}", "SEhI".repeat(10) + "SEk=");
        let revision = Revision {
            hash: sum((config::to_yaml(&config) + &key).as_bytes()),
            ..revision
        };
        assert!(told.is(&revision, 1));
        assert!(!told.is(&revision, 2));
        let other = Told::of(&self::config(&peers(1400, 26)), None);
        assert!(!other.is(&revision, 1));
        let own = Revision {
            hash: told.hash.clone(),
            ..revision
        };
        assert!(told.is(&own, 2) && !told.is(&own, 1));
    }
}
