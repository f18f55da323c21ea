//! Configurations of then.
//!
//! In: a revision's number. Out: its text; or its configuration, with the keys of then, and in words where it is not as it
//! was. Never: a key that is revoked.

use std::cell::RefCell;
use std::path::Path;

use super::History;
use super::keys::KeysOfThen;
use super::revision::Revision;
use crate::config::{self, Config, NextHop, Report};

/// A configuration of then.
pub(crate) struct Restored {
    pub(crate) config: Config,
    pub(crate) report: Report,
    /// Where it is not as it was, in words.
    pub(crate) notes: Vec<String>,
}

/// Why a revision can't be had.
#[derive(Debug)]
pub(crate) enum NotRestored {
    /// It is not there, or damaged, or its keys may not come back.
    Missing(String),
    /// It is refused by now: a key file is gone.
    Mistakes(Report),
}

impl std::fmt::Display for NotRestored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(why) => f.write_str(why),
            Self::Mistakes(report) => f.write_str(report.render(false).trim_end()),
        }
    }
}

impl History {
    /// A configuration of then.
    pub(crate) fn restore(&self, number: u64) -> Result<Restored, NotRestored> {
        if let Some(why) = &self.store.revoked_unknown {
            return Err(NotRestored::Missing(why.clone()));
        }
        let content = self.store.content(number).map_err(NotRestored::Missing)?;
        let keys = KeysOfThen {
            keys: &content.keys,
            revoked: &self.store.revoked,
            of_now: RefCell::default(),
        };
        let shown = format!("revision {number}");
        let read = config::parse(&content.text, Path::new(&shown), &keys);
        let (mut config, report) = read.map_err(NotRestored::Mistakes)?;
        config.source = content.path;
        let of_now = keys.of_now.into_inner();
        let mut notes: Vec<_> = of_now
            .iter()
            .map(|path| {
                format!(
                    "the key of then is not kept any more; what {} holds now is taken",
                    path.display()
                )
            })
            .collect();
        notes.extend(self.leave_out(&mut config).map_err(NotRestored::Missing)?);
        Ok(Restored {
            config,
            report,
            notes,
        })
    }

    /// Leaves peers out whose keys are revoked, with the routes through them.
    fn leave_out(&self, config: &mut Config) -> Result<Vec<String>, String> {
        let revoked = &self.store.revoked;
        let mut notes = Vec::new();
        for tunnel in &mut config.tunnels {
            let own = tunnel.private_key.as_ref();
            if own.is_some_and(|key| revoked.has(&key.public_key())) {
                return Err(format!(
                    "the private key of tunnel {} is revoked, and {} holds no other one",
                    tunnel.name,
                    tunnel.private_key_file.display()
                ));
            }
            let gone: Vec<_> = tunnel
                .peers
                .iter()
                .filter(|it| revoked.has(&it.public_key))
                .cloned()
                .collect();
            tunnel.peers.retain(|peer| !revoked.has(&peer.public_key));
            for peer in gone {
                notes.push(format!(
                    "peer {}/{} is left out: its key is revoked",
                    tunnel.name, peer.name
                ));
                let networks = config.networks.iter_mut();
                for network in networks.filter(|it| it.tunnel.as_ref() == Some(&tunnel.name)) {
                    network
                        .routes
                        .retain(|route| route.next_hop != NextHop::Peer(peer.name.clone()));
                }
            }
        }
        Ok(notes)
    }

    /// A revision's text.
    pub(crate) fn text(&self, number: u64) -> Result<(Revision, String), String> {
        let content = self.store.content(number)?;
        let revision = self.store.revision(number).cloned();
        Ok((
            revision.ok_or_else(|| format!("there is no revision {number}"))?,
            content.text,
        ))
    }
}
