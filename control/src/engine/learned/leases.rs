//! Leases that outlive the process.
//!
//! In: the file of an earlier run, once; leases as they come and go. Out: what is left of one for an uplink with the same
//! name and hardware address; the file, replaced as a whole by a thread. Never: a disk that the control core waits for, but
//! at its end; a lease whose time can't be told, because the clock is behind what it was.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use culvert_directory::Directory;
use culvert_stack::{Held, Terms};
use culvert_wire::MacAddr;
use culvert_wireguard::Now;
use serde::{Deserialize, Serialize};

use super::UplinkState;

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

type Table = BTreeMap<String, Kept>;

/// The file, as the control core knows it.
pub(in crate::engine) struct Leases {
    table: Table,
    /// Without a directory, nothing is kept.
    directory: Option<Directory>,
    keeper: Option<Keeper>,
}

impl Leases {
    /// Reads the file, if there is a readable one.
    pub(in crate::engine) fn open(state_dir: Option<&Directory>) -> Self {
        let table = state_dir
            .and_then(|directory| serde_json::from_slice(&directory.read(FILE).ok()?).ok())
            .unwrap_or_default();
        Self {
            table,
            directory: state_dir.cloned(),
            keeper: None,
        }
    }

    /// What an earlier run had at an uplink.
    pub(super) fn before(&self, uplink: &UplinkState, now: Now) -> Option<Held> {
        let kept = self.table.get(uplink.config.name.as_str())?;
        let is_its = mac_text(uplink).is_some_and(|mac| mac == kept.mac);
        kept.held(now).filter(|_| is_its)
    }

    /// Notes what an uplink has now.
    pub(super) fn note(&mut self, uplink: &UplinkState, now: Now) {
        let name = uplink.config.name.to_string();
        let lease = uplink.taught.told.lease.as_ref();
        let kept = lease.zip(mac_text(uplink)).map(|(lease, mac)| {
            let left = lease.expires.map(|end| end.since(now.monotonic));
            Kept::new(mac, &lease.terms, left, now)
        });
        let has_changed = match kept {
            Some(kept) => {
                self.table.get(&name) != Some(&kept) && {
                    self.table.insert(name, kept);
                    true
                }
            }
            None => self.table.remove(&name).is_some(),
        };
        if has_changed && let Some(directory) = &self.directory {
            let keeper = self
                .keeper
                .get_or_insert_with(|| Keeper::start(directory.clone()));
            keeper.give(self.table.clone());
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

/// The thread that writes it; when this is dropped, the last table is written.
struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    table: Option<Table>,
    is_over: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest table, when there is one; `None` at the end.
    fn next(&self) -> Option<Table> {
        let idle = |waiting: &mut Waiting| waiting.table.is_none() && !waiting.is_over;
        let waiting = self.news.wait_while(self.lock(), idle);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.table.take()
    }
}

impl Keeper {
    fn start(directory: Directory) -> Self {
        let desk = Arc::<Desk>::default();
        let work = Arc::clone(&desk);
        let run = move || {
            while let Some(table) = work.next() {
                write(&directory, &table);
            }
        };
        let thread = thread::Builder::new().name("leases".into()).spawn(run);
        let thread = thread.inspect_err(
            |error| tracing::error!(%error, "can't start a thread for leases: they are not kept"),
        );
        let thread = thread.ok();
        Self { desk, thread }
    }

    fn give(&self, table: Table) {
        self.desk.lock().table = Some(table);
        self.desk.news.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.desk.lock().is_over = true;
        self.desk.news.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What can't be written is written with the next lease, or asked for anew after a restart.
fn write(directory: &Directory, table: &Table) {
    let written = serde_json::to_vec_pretty(table)
        .map_err(Into::into)
        .and_then(|text| directory.replace_durably(FILE, &text));
    if let Err(error) = written {
        let path = directory.path().join(FILE);
        tracing::warn!(path = %path.display(), %error, "can't keep leases over a restart: give the file's directory some room");
    }
}
