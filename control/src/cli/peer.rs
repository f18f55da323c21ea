//! `culvert peer list|add|set|del`.
//!
//! In: the names of a tunnel and a peer, and its keys. Out: what changed. Never: a meaning of keys: the running culvert
//! reads them as it reads a file's.

use super::Failure;
use super::layer::{Object, segment};
use super::show::list;

pub(super) fn run(command: Object) -> Result<(), Failure> {
    command.run(|name| Ok(format!("/v1/{}", path(name)?)), list::peers)
}

/// `TUNNEL/PEER` as the API has it.
pub(super) fn path(name: &str) -> Result<String, Failure> {
    let Some((tunnel, peer)) = name.split_once('/') else {
        let error = format!("`{name}` is no peer: expected TUNNEL/PEER, as in `wg0/hv-b`");
        return Err(Failure::Line(error));
    };
    Ok(format!(
        "tunnels/{}/peers/{}",
        segment(tunnel)?,
        segment(peer)?
    ))
}
