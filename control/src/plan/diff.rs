//! What differs between two configurations, to be read.
//!
//! In: a plan; two configurations. Out: its changes as words, object by object; the lines of two files that differ.
//! Never: a key that is secret.

use std::collections::HashSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::TextDiff;

use super::{Change, Layers};
use crate::config::{self, Config};

/// How long the shortest way between two texts is looked for; then any is good.
const PATIENCE: Duration = Duration::from_secs(5);

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diff {
    /// Object by object.
    pub changes: Vec<Changed>,
    /// The lines that differ of the two as files, as `diff -u` shows them, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What of the API layer rests then, and why; what rests already is not among it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rests: Vec<String>,
}

/// One object that comes, changes or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The object: `port vm1`, `peer wg0/hv-b`.
    pub object: String,
    /// `added`, `changed`, `reopened` or `removed`.
    pub action: String,
    /// What it costs whom it concerns: `none`, `drops session`, `reopens port`, `closes port`, `restarts uplink`,
    /// `needs a restart`.
    pub impact: String,
    /// What differs, key by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyChange>,
}

/// A key of the file whose value differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// What it was.
    pub old: String,
    /// What it becomes.
    pub new: String,
}

impl From<&Change> for Changed {
    fn from(change: &Change) -> Self {
        let differences = change.differences();
        let keys = differences.into_iter().map(|it| KeyChange {
            key: it.key.to_owned(),
            old: it.old,
            new: it.new,
        });
        Self {
            object: change.object(),
            action: change.action().to_owned(),
            impact: change.impact().to_string(),
            keys: keys.collect(),
        }
    }
}

impl Diff {
    /// From what is desired to a file, with the API layer over both; `text`: the lines, too.
    #[must_use]
    pub fn between(old: &Layers, new: Config, text: bool) -> Self {
        let new = old.upon(new);
        let changes = old.way_to(&new);
        Self {
            changes: changes.iter().map(Changed::from).collect(),
            text: text.then(|| lines(&old.merged(), &new.merged())),
            rests: rests(old, &new),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What of the API layer rests with another file, and did not before.
#[must_use]
pub fn rests(old: &Layers, new: &Layers) -> Vec<String> {
    let before: HashSet<_> = old.api().resting().collect();
    let new = new.api().resting().filter(|it| !before.contains(it));
    new.map(|(object, why)| {
        format!("{object} of the API layer rests, the file counts alone: {why}")
    })
    .collect()
}

/// The lines that differ, with three around them.
fn lines(old: &Config, new: &Config) -> String {
    let (from, to) = (config::to_yaml(old), config::to_yaml(new));
    let diff = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&from, &to);
    diff.unified_diff().context_radius(3).to_string()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::config::{Disk, parse};

    fn read(text: &str) -> Config {
        let read = parse(text, Path::new("test.yaml"), &Disk);
        read.map_err(|report| report.render(false)).unwrap().0
    }

    #[test]
    fn words_and_lines() {
        let old = read("version: 1\nnode: hv\nnetworks: {blue: {gateway: [10.0.0.1/24]}}\n");
        let new = read(
            "version: 1\nnode: hv\nnetworks: {blue: {gateway: [10.0.0.1/16]}, red: {gateway: [10.1.0.1/24]}}\n",
        );
        let layers = Layers::new(Arc::new(old.clone()));
        assert!(Diff::between(&layers, old, true).is_empty());
        let diff = Diff::between(&layers, new, true);
        let told: Vec<_> = diff
            .changes
            .iter()
            .map(|it| (&*it.object, &*it.action, &*it.impact))
            .collect();
        assert_eq!(
            told,
            [
                ("network blue", "changed", "none"),
                ("network red", "added", "none")
            ]
        );
        assert_eq!(diff.changes[0].keys[0].old, "[10.0.0.1/24]");
        assert_eq!(
            diff.text.unwrap(),
            "@@ -2,4 +2,6 @@\n node: hv\n networks:\n   blue:\n-    gateway: [10.0.0.1/24]\n\
             +    gateway: [10.0.0.1/16]\n+  red:\n+    gateway: [10.1.0.1/24]\n"
        );
    }
}
