//! Where `wg` finds tunnels: sockets that are opened, tried again and closed on the server's thread.
//!
//! In: which tunnel shall be found under which name. Out: what became of each. Never: the control core's time: a
//! directory that hangs, or another process that makes the same socket, holds up this thread alone, and whoever asks
//! for a new name.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use super::server::{self, Served, Spot};
use crate::config::{Config, Name, Tunnel, Uapi};

/// The pause after a socket could not be had.
const AGAIN: Duration = Duration::from_secs(1);

/// The name under which `wg` shall find a tunnel.
pub(crate) fn wg_name(tunnel: &Tunnel) -> Option<&Name> {
    match &tunnel.uapi {
        Uapi::Off => None,
        Uapi::Name(name) => Some(name),
        Uapi::Auto => Some(&tunnel.name).filter(|name| super::is_name(name.as_str())),
    }
}

/// Whether the names that a configuration asks for, and the one before it did not, can be had. It connects to what is
/// there already, so this is the asker's thread's to do.
pub(crate) fn check_names(before: &Config, new: &Config) -> Result<(), String> {
    let had: HashSet<_> = before.tunnels.iter().filter_map(wg_name).collect();
    for tunnel in &new.tunnels {
        if let Uapi::Name(name) = &tunnel.uapi
            && !had.contains(name)
        {
            server::probe(name.as_str())
                .map_err(|error| format!("tunnel {}: `uapi: {name}`: {error}", tunnel.name))?;
        }
    }
    Ok(())
}

/// What `wg` is to call each tunnel.
pub type Names = BTreeMap<Name, Name>;

/// What has become of a door.
#[derive(Debug)]
pub struct Told {
    /// The tunnel.
    pub tunnel: Name,
    /// What `wg` was to call it.
    pub name: Name,
    /// The socket, or why there is none: it is tried again.
    pub found: Result<PathBuf, String>,
}

/// The control core's end.
#[derive(Debug)]
pub struct Doors {
    orders: watch::Sender<Order>,
    news: Receiver<News>,
    /// News that came while an order was waited for.
    waiting: Vec<Told>,
}

#[derive(Clone, Debug, Default)]
struct Order {
    number: u64,
    names: Arc<Names>,
}

#[derive(Debug)]
enum News {
    Told(Told),
    /// All of this order was tried.
    Tried(u64),
}

/// One tunnel's.
struct Door {
    name: Name,
    /// What was told last.
    found: Option<Result<PathBuf, String>>,
    served: Option<Served>,
}

impl Doors {
    /// Has doors kept where the server is; `ring` is called with each piece of news.
    pub(super) fn keep(spot: Spot, ring: impl Fn() + Send + 'static) -> Self {
        let (orders, ordered) = watch::channel(Order::default());
        let (tell, news) = channel();
        let keeper = Keeper {
            spot: spot.clone(),
            doors: BTreeMap::new(),
            tell,
        };
        spot.spawn(keeper.run(ordered, ring));
        Self {
            orders,
            news,
            waiting: Vec::new(),
        }
    }

    /// Has tunnels found under these names and no other, and those tried at once that are not.
    pub fn order(&mut self, names: Names) {
        self.orders.send_modify(|order| {
            order.number += 1;
            order.names = Arc::new(names);
        });
    }

    /// Waits until all of the last order was tried, at most `patience`.
    pub fn wait(&mut self, patience: Duration) {
        let number = self.orders.borrow().number;
        let end = Instant::now() + patience;
        while let Ok(news) = self
            .news
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            match news {
                News::Told(told) => self.waiting.push(told),
                News::Tried(tried) if tried >= number => return,
                News::Tried(_) => {}
            }
        }
    }

    /// What has become of doors since the last time.
    pub fn news(&mut self) -> Vec<Told> {
        let told = self.news.try_iter().filter_map(|news| match news {
            News::Told(told) => Some(told),
            News::Tried(_) => None,
        });
        self.waiting.extend(told);
        std::mem::take(&mut self.waiting)
    }
}

/// The server's thread's end.
struct Keeper {
    spot: Spot,
    doors: BTreeMap<Name, Door>,
    tell: Sender<News>,
}

impl Keeper {
    async fn run(mut self, mut ordered: watch::Receiver<Order>, ring: impl Fn()) {
        let mut last = 0;
        loop {
            let order = ordered.borrow_and_update().clone();
            self.obey(&order.names, order.number != last);
            last = order.number;
            // Who ordered is gone: so is this task, soon.
            let _ = self.tell.send(News::Tried(order.number));
            ring();
            let closed = self.doors.values().any(|door| door.served.is_none());
            let changed = if closed {
                timeout(AGAIN, ordered.changed()).await.unwrap_or(Ok(()))
            } else {
                ordered.changed().await
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Closes doors that nobody wants, opens those that are closed. All of an order is told anew: who gave it may
    /// have another tunnel of that name by now.
    fn obey(&mut self, names: &Names, is_new: bool) {
        self.doors
            .retain(|tunnel, door| names.get(tunnel) == Some(&door.name));
        for (tunnel, name) in names {
            let door = self.doors.entry(tunnel.clone()).or_insert_with(|| Door {
                name: name.clone(),
                found: None,
                served: None,
            });
            let found = door.open(&self.spot, tunnel);
            if is_new || door.found.as_ref() != Some(&found) {
                door.found = Some(found.clone());
                let (tunnel, name) = (tunnel.clone(), name.clone());
                let told = Told {
                    tunnel,
                    name,
                    found,
                };
                let _ = self.tell.send(News::Told(told));
            }
        }
    }
}

impl Door {
    fn open(&mut self, spot: &Spot, tunnel: &Name) -> Result<PathBuf, String> {
        if self.served.is_none() {
            let socket = server::directory()
                .and_then(|directory| server::open(&directory, self.name.as_str()));
            let socket = socket.map_err(|error| error.to_string())?;
            let served = spot.serve(socket, tunnel.clone());
            self.served = Some(served.map_err(|error| error.to_string())?);
        }
        let served = self.served.as_ref();
        Ok(served.map_or_else(PathBuf::new, |served| served.path().to_owned()))
    }
}
