//! Keys that are revoked, in a file that is to run.
//!
//! In: a configuration, and what was told of its file. Out: mistakes, with their lines; at a start, peers that are
//! disabled. Never: a key that came back because a file names it still.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Report};

use super::keys::Revoked;
use super::{History, store};

const NEW_KEY: &str = "give it a new key, or take it out: a revoked key runs no more";
const MISTAKEN: &str = "if it was revoked by mistake: end culvert, take the key out of `history/revoked.json` in its \
                        state directory, and start it again";

/// Tells of what has a key that is revoked in a state directory, if the caller may read it: a process that runs there is
/// left alone.
pub(crate) fn refuse_revoked_of(state_dir: &Path, config: &Config, report: &mut Report) {
    store::revoked_of(state_dir).refuse(config, report);
}

impl Revoked {
    fn refuse(&self, config: &Config, report: &mut Report) {
        for tunnel in &config.tunnels {
            let own = tunnel.private_key.as_ref();
            if own.is_some_and(|key| self.has(&key.public_key())) {
                let file = tunnel.private_key_file.file_name().unwrap_or_default();
                let message = format!("the private key of tunnel `{}` is revoked", tunnel.name);
                let span = report.find(&file.to_string_lossy());
                report.error(span, message).help(NEW_KEY).help(MISTAKEN);
            }
            let peers = tunnel.peers.iter().filter(|it| it.enabled);
            for peer in peers.filter(|it| self.has(&it.public_key)) {
                let message = format!("the key of peer `{}/{}` is revoked", tunnel.name, peer.name);
                let span = report.find(&peer.public_key.to_base64());
                report.error(span, message).help(NEW_KEY).help(MISTAKEN);
            }
        }
    }
}

impl History {
    /// Tells of what has a revoked key as of mistakes.
    pub(crate) fn refuse_revoked(&self, config: &Config, report: &mut Report) {
        self.store.revoked.refuse(config, report);
    }

    /// Disables peers with revoked keys; answers which.
    pub(crate) fn disable_revoked(&self, config: &mut Config) -> Vec<String> {
        let mut disabled = Vec::new();
        for tunnel in &mut config.tunnels {
            let peers = tunnel.peers.iter_mut().filter(|it| it.enabled);
            for peer in peers.filter(|it| self.is_revoked(&it.public_key)) {
                disabled.push(format!("{}/{}", tunnel.name, peer.name));
                Arc::make_mut(peer).enabled = false;
            }
        }
        disabled
    }
}
