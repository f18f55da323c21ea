//! What the kernel's tables say by an interface: routes of FRR's, or set by hand.
//!
//! In: the kernel's news of routes and links. Out: the routes of one table by one interface, whenever they are others.
//! Never: more of them than [`ROUTES_MAX`]; a table read twice in a row without a pause; a change that stays unseen because
//! news of it were lost.
//!
//! News say that something has changed, no more: then the table is read whole. So nothing is lost when the kernel had more
//! news than it could keep, and a route that replaces another needs no rule of its own.
//!
//! Threads: one per table that is followed. The core takes what lies there last.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use culvert_dataplane::shared::{control_link::Attention, wake::Wake};
use ipnet::IpNet;
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use super::tap::PROTOCOL;
use crate::netlink::{Netlink, Route, RouteWatch};

/// Routes that are taken from the kernel for one uplink: those of a network of one's own, not the Internet's. Of more the
/// widest prefixes are taken, so that what is refused has a wider way.
pub(crate) const ROUTES_MAX: usize = 4_096;

/// News that come close together are one.
const SETTLE: Duration = Duration::from_millis(100);
/// At the latest then the table is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The part of its time that the thread reads: one in so many.
const SHARE: u32 = 10;
/// Nobody's who was asked to lead the uplink: the kernel's own, to what is on the link (`RTPROT_KERNEL`), and those of
/// whoever on the link said so, by a redirect (`RTPROT_REDIRECT`) or as a router (`RTPROT_RA`; `accept_ra` is for these).
const UNASKED: [u8; 3] = [1, 2, 9];

/// What a table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// Prefixes, their routers and metrics, the widest first.
    pub(crate) routes: Vec<(IpNet, IpAddr, u32)>,
    /// How many there were beyond the limit.
    pub(crate) refused: usize,
}

/// A table that is followed, until this is dropped.
pub(crate) struct Followed {
    /// The interface's number, the table.
    at: (u32, u32),
    shared: Arc<Shared>,
}

struct Shared {
    last: ArcSwapOption<Learned>,
    ends: AtomicBool,
    wake: Wake,
}

impl Followed {
    /// Follows `table` as far as it leads out by the interface `link`.
    pub(crate) fn begin(link: u32, table: u32, core: Arc<Attention>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            last: ArcSwapOption::empty(),
            ends: AtomicBool::new(false),
            wake: Wake::new()?,
        });
        let follower = Follower {
            link,
            table,
            shared: Arc::clone(&shared),
            core,
            watch: RouteWatch::with_links()?,
            netlink: Netlink::open()?,
        };
        let thread = thread::Builder::new().name("routes".into());
        thread.spawn(move || follower.run())?;
        let at = (link, table);
        Ok(Self { at, shared })
    }

    /// The interface's number and the table.
    pub(crate) fn at(&self) -> (u32, u32) {
        self.at
    }

    /// What it says now, if that was not taken yet.
    pub(crate) fn take(&self) -> Option<Arc<Learned>> {
        // Mostly there is nothing.
        self.shared.last.load().as_ref()?;
        self.shared.last.swap(None)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.shared.wake.notify();
    }
}

struct Follower {
    link: u32,
    table: u32,
    shared: Arc<Shared>,
    core: Arc<Attention>,
    watch: RouteWatch,
    netlink: Netlink,
}

impl Follower {
    fn run(mut self) {
        let mut told = None;
        loop {
            self.shared.wake.announce();
            if self.shared.ends.load(Ordering::Acquire) {
                return;
            }
            let begin = Instant::now();
            // What changes from here on is read once more.
            self.watch.changed();
            // An interface that is gone has no routes; what can't be read now is read again.
            if let Ok(learned) = self.read()
                && told.as_ref() != Some(&learned)
            {
                self.shared.last.store(Some(Arc::new(learned.clone())));
                self.core.wake().notify();
                told = Some(learned);
            }
            let pause = SETTLE.max(begin.elapsed() * (SHARE - 1));
            self.wait(pause, false);
            self.wait(LOOK_AGAIN.max(pause), true);
            self.shared.wake.awake();
        }
    }

    fn read(&mut self) -> io::Result<Learned> {
        let table = self.table;
        let mut found = Found::default();
        self.netlink.routes(self.link, |route| {
            let counts = route.protocol != PROTOCOL && !UNASKED.contains(&route.protocol);
            if route.table == table && counts {
                found.add(&route);
            }
        })?;
        Ok(found.learned())
    }

    /// Waits so long, or until it is to end, or there are news.
    fn wait(&self, longest: Duration, for_news: bool) {
        let mut polled = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if for_news {
            polled.push(PollFd::new(&self.watch, PollFlags::IN));
        }
        let _ = poll(&mut polled, Timespec::try_from(longest).ok().as_ref());
    }
}

/// Routes as they are read.
#[derive(Default)]
struct Found {
    /// By width and prefix: the least metric, whose router.
    best: BTreeMap<(u8, IpNet), (u32, IpAddr)>,
    /// What gave way.
    refused: usize,
}

impl Found {
    fn add(&mut self, route: &Route) {
        let key = (route.to.prefix_len(), route.to);
        let this = (route.metric, route.via);
        let best = self.best.entry(key).or_insert(this);
        // The first of equal ones.
        if this.0 < best.0 {
            *best = this;
        }
        if self.best.len() > ROUTES_MAX {
            self.best.pop_last();
            self.refused += 1;
        }
    }

    fn learned(self) -> Learned {
        let routes = self.best.into_iter();
        Learned {
            routes: routes
                .map(|((_, to), (metric, via))| (to, via, metric))
                .collect(),
            refused: self.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, via: &str, metric: u32) -> Route {
        Route {
            to: to.parse().unwrap(),
            via: via.parse().unwrap(),
            link: 7,
            metric,
            protocol: 186,
            table: 254,
        }
    }

    #[test]
    fn the_least_metric_counts_and_the_first_of_equal_ones() {
        let mut found = Found::default();
        for (via, metric) in [("192.0.2.1", 20), ("192.0.2.2", 10), ("192.0.2.3", 10)] {
            found.add(&route("10.0.0.0/8", via, metric));
        }
        found.add(&route("0.0.0.0/0", "192.0.2.9", 20));
        let learned = found.learned();
        let expected = [
            ("0.0.0.0/0", "192.0.2.9", 20),
            ("10.0.0.0/8", "192.0.2.2", 10),
        ];
        let expected =
            expected.map(|(to, via, metric)| (to.parse().unwrap(), via.parse().unwrap(), metric));
        assert_eq!(learned.routes, expected);
        assert_eq!(learned.refused, 0);
    }

    #[test]
    fn of_a_table_of_the_internet_the_widest_prefixes_are_taken_and_the_rest_is_counted() {
        let mut found = Found::default();
        for n in 0..20_000_u32 {
            let to = IpNet::new(IpAddr::from((0x0b00_0000 + (n << 8)).to_be_bytes()), 24);
            found.add(&Route {
                to: to.unwrap(),
                ..route("10.0.0.0/8", "192.0.2.1", 20)
            });
        }
        found.add(&route("0.0.0.0/0", "192.0.2.9", 20));
        let learned = found.learned();
        assert_eq!(learned.routes.len(), ROUTES_MAX);
        assert_eq!(learned.routes[0].0, "0.0.0.0/0".parse().unwrap());
        assert_eq!(learned.refused, 20_001 - ROUTES_MAX);
    }
}
