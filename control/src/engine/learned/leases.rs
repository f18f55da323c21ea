//! Leases that outlive the process.
//!
//! In: the file of an earlier run, once; leases as they come and go. Out: what is left of one for an uplink with the same
//! name and hardware address; changes for the [`Keeper`], which alone writes. Never: a disk that the control core waits
//! for; a lease whose time can't be told, because the clock is behind what it was.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    time::Duration,
};

use culvert_directory::Directory;
use culvert_stack::{Held, Terms};
use culvert_wire::MacAddr;
use culvert_wireguard::Now;
use serde::{Deserialize, Serialize};

use super::super::{
    keeper::{Keeper, Page},
    uplinks::UplinkState,
};
use crate::config::Name;

/// The file's name.
const FILE: &str = "leases.json";

type Routes = Vec<(Ipv4Addr, u8, Ipv4Addr)>;

/// What the file says of one uplink. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    mac: String,
    address: Ipv4Addr,
    prefix_len: u8,
    server: Ipv4Addr,
    routes: Routes,
    mtu: Option<u16>,
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
    /// When this was written.
    written: u64,
    /// When it is over; nothing: never.
    expires: Option<u64>,
}

/// By uplinks' names.
type Table = HashMap<String, Kept>;

/// The file, as the control core knows it.
pub(in crate::engine) struct Leases {
    table: Table,
    /// Without a directory, nothing is kept.
    keeper: Option<Keeper<String, Kept>>,
}

impl Leases {
    /// Reads the file, if there is a readable one.
    pub(in crate::engine) fn open(state_dir: Option<&Directory>) -> Self {
        let table: Table = state_dir
            .and_then(|directory| serde_json::from_slice(&directory.read(FILE).ok()?).ok())
            .unwrap_or_default();
        let keeper = state_dir.and_then(|directory| Keeper::start(directory.clone(), page()));
        if let Some(keeper) = &keeper {
            for (uplink, kept) in &table {
                keeper.change(uplink.clone(), Some(kept.clone()));
            }
        }
        Self { table, keeper }
    }

    /// What an earlier run had at an uplink.
    pub(super) fn before(&self, uplink: &UplinkState, now: Now) -> Option<Held> {
        let kept = self.table.get(uplink.config.name.as_str())?;
        let is_its = mac_text(uplink).is_some_and(|mac| mac == kept.mac);
        kept.held(now).filter(|_| is_its)
    }

    /// Notes what an uplink has now, and uses.
    pub(super) fn note(&mut self, uplink: &UplinkState, now: Now) {
        let name = uplink.config.name.to_string();
        let lease = uplink.taught.lease();
        let kept = lease.zip(mac_text(uplink)).map(|(lease, mac)| {
            let left = lease.expires.map(|end| end.since(now.monotonic));
            Kept::new(mac, &lease.terms, left, now)
        });
        self.put(name, kept);
    }

    /// Whether there is one that another run would find.
    #[cfg(test)]
    pub(in crate::engine) fn has(&self, uplink: &Name) -> bool {
        self.table.contains_key(uplink.as_str())
    }

    /// An uplink has given back what it had, and goes.
    pub(in crate::engine) fn forget(&mut self, uplink: &Name) {
        self.put(uplink.to_string(), None);
    }

    fn put(&mut self, name: String, kept: Option<Kept>) {
        if self.table.get(&name) == kept.as_ref() {
            return;
        }
        match kept.clone() {
            Some(kept) => drop(self.table.insert(name.clone(), kept)),
            None => drop(self.table.remove(&name)),
        }
        if let Some(keeper) = &self.keeper {
            keeper.change(name, kept);
            keeper.begin(false);
        }
    }

    /// Has what is not written yet written, and ends.
    pub(in crate::engine) fn finish(&mut self) {
        self.keeper = None;
    }
}

fn mac_text(uplink: &UplinkState) -> Option<String> {
    uplink.mac().map(|mac| MacAddr(mac).to_string())
}

impl Kept {
    fn new(mac: String, terms: &Terms, left: Option<Duration>, now: Now) -> Self {
        let terms = terms.clone();
        let written = now.unix.as_secs();
        Self {
            mac,
            address: terms.address,
            prefix_len: terms.prefix_len,
            server: terms.server,
            routes: terms.routes,
            mtu: terms.mtu,
            dns: terms.dns,
            domain: terms.domain,
            written,
            expires: left.map(|left| written.saturating_add(left.as_secs())),
        }
    }

    fn held(&self, now: Now) -> Option<Held> {
        let today = now.unix.as_secs();
        let is_ahead = self.written > today;
        let left = |end: u64| Duration::from_secs(end.saturating_sub(today));
        let terms = Terms {
            address: self.address,
            prefix_len: self.prefix_len.min(32),
            server: self.server,
            routes: self.routes.clone(),
            mtu: self.mtu,
            dns: self.dns.clone(),
            domain: self.domain.clone(),
        };
        (!is_ahead).then(|| Held {
            terms,
            expires: self.expires.map(|end| now.monotonic + left(end)),
        })
    }
}

/// The file, as it is written. A lease is on the disk as soon as it can be.
fn page() -> Page<String, Kept> {
    Page {
        file: FILE,
        thread: "leases",
        what: "leases",
        otherwise: "after a restart an uplink asks for its address anew; give the file's directory some room",
        text: |table| serde_json::to_vec_pretty(&table.iter().collect::<BTreeMap<_, _>>()),
        replace: |directory, name, text| directory.replace_durably(name, text),
        pause: Duration::ZERO,
    }
}
