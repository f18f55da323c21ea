//! The files of packed rings: they go with their ports. What killed processes left of theirs.
//!
//! In: ports that were removed, or never came to be. Out: their files removed from the run directory. Never: a file of a
//! port that is open, or that the configuration or the API layer has; another kind of file, but for a socket where nobody
//! listens.
//!
//! A VMM that is at a port when that is removed may come back with the same rings, as when a change is taken back: its
//! file waits for that for [`KEPT`].

use std::{
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_directory::Directory;
use culvert_wireguard::Instant;

use super::Engine;
use crate::config::{Name, Port, PortDriver, SocketMode, SocketPath};

/// How long a file waits for its port.
const KEPT: Duration = Duration::from_secs(3600);

/// Files that wait; the oldest one goes first.
const KEPT_MAX: usize = 1024;

/// What the name of such a file ends with.
const END: &str = ".rings";

/// Files that wait for their ports, and until when.
#[derive(Default)]
pub(super) struct LeftRings(VecDeque<(Instant, Name)>);

/// Where a port's file is.
pub(super) fn path(run_dir: &Path, port: &Name) -> PathBuf {
    run_dir.join(file_name(port))
}

fn file_name(port: &Name) -> String {
    format!("{port}{END}")
}

/// The socket of a port that connects to its VMM.
fn vmm_socket(port: &Port) -> Option<&Path> {
    let PortDriver::VhostUser(at) = &port.driver else {
        return None;
    };
    let (SocketPath::Absolute(path) | SocketPath::InRunDir(path)) = &at.socket;
    (at.mode == SocketMode::Client).then_some(path)
}

impl Engine {
    pub(super) fn has_rings(&self, port: &Name) -> bool {
        path(&self.run_dir, port).symlink_metadata().is_ok()
    }

    /// Removes a port's file, if there is one.
    pub(super) fn remove_rings(&self, port: &Name) {
        self.remove_file(&file_name(port));
    }

    fn remove_file(&self, name: &str) {
        if !self.run_dir.join(name).is_file() {
            return;
        }
        let removed = Directory::there(&self.run_dir)
            .map_err(|error| error.to_string())
            .and_then(|it| it.remove(name).map_err(|error| error.to_string()));
        if let Err(error) = removed {
            tracing::warn!(name, error, "can't remove the file of a port's rings");
        }
    }

    /// Ports are gone; whether a VMM was at each.
    pub(super) fn leave_rings(&mut self, ports: Vec<(Name, bool)>, now: Instant) {
        for (port, is_used) in ports {
            if is_used {
                self.left_rings.0.push_back((now + KEPT, port));
            } else {
                self.remove_rings(&port);
            }
        }
        self.forget_rings(now);
    }

    /// Removes what has waited for long enough.
    pub(super) fn forget_rings(&mut self, now: Instant) {
        while let Some((until, port)) = self.left_rings.0.front()
            && (*until <= now || self.left_rings.0.len() > KEPT_MAX)
        {
            let waits_again = self.left_rings.0.iter().skip(1).any(|it| it.1 == *port);
            if !waits_again && self.desired.port(port).is_none() {
                self.remove_rings(port);
            }
            self.left_rings.0.pop_front();
        }
    }

    /// Removes what earlier processes left of ports that there are no more: files of rings, and sockets, if they were
    /// killed. A VMM's socket is the VMM's, whether it listens there already or not.
    pub(super) fn sweep_left(&self) {
        let Ok(directory) = Directory::there(&self.run_dir) else {
            return;
        };
        let Ok(names) = directory.names() else {
            return;
        };
        let of_vmms: HashSet<_> = self.desired.ports().filter_map(vmm_socket).collect();
        for name in &names {
            let is_vmms = of_vmms
                .iter()
                .any(|path| self.run_dir.join(path) == self.run_dir.join(name));
            if name.as_encoded_bytes().ends_with(b".sock") && !is_vmms {
                culvert_directory::sweep(&directory, name);
            }
        }
        let ports: HashSet<_> = self
            .desired
            .ports()
            .map(|port| port.name.as_str())
            .collect();
        for name in &names {
            let Some(name) = name.to_str() else { continue };
            let port = name.strip_suffix(END);
            if port.is_some_and(|port| !ports.contains(port)) {
                self.remove_file(name);
            }
        }
    }
}
