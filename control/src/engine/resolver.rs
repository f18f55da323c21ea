//! Names that are asked for, on threads of their own: a dead resolver holds up nobody but those who wait for it.
//!
//! In: names, over a queue that ends. Out: their addresses, or why there are none. Never: a name asked for by the
//! control core, more addresses of a name than are tried.
//!
//! Threads: [`THREADS`] of them, so that one name whose servers are dead does not hold up all others. They are made with
//! the first question; each ends when the engine has.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use culvert_dataplane::shared::control_link::Attention;

/// Names asked for at the same time.
const THREADS: usize = 4;
/// Names that may wait for that.
const QUESTIONS_MAX: usize = 64;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What became of a question.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) name: String,
    /// In the system's order of preference, with port 0.
    pub(super) found: Result<Vec<SocketAddr>, String>,
}

/// The engine's end.
pub(super) struct Resolver {
    attention: Arc<Attention>,
    running: Option<(SyncSender<String>, Receiver<Answer>)>,
}

impl Resolver {
    /// A resolver that rings the control core's doorbell with each answer.
    pub(super) fn new(attention: &Arc<Attention>) -> Self {
        Self {
            attention: Arc::clone(attention),
            running: None,
        }
    }

    /// Asks for a name; `false` if too many are waiting: each answer makes room.
    pub(super) fn ask(&mut self, name: &str) -> bool {
        let attention = &self.attention;
        let (questions, _) = self.running.get_or_insert_with(|| start(attention));
        questions.try_send(name.to_owned()).is_ok()
    }

    /// The next answer that is there.
    pub(super) fn next_answer(&self) -> Option<Answer> {
        self.running.as_ref()?.1.try_recv().ok()
    }
}

fn start(attention: &Arc<Attention>) -> (SyncSender<String>, Receiver<Answer>) {
    let (questions, asked) = sync_channel(QUESTIONS_MAX);
    let (found, answers) = sync_channel(QUESTIONS_MAX);
    let asked = Arc::new(Mutex::new(asked));
    for _ in 0..THREADS {
        let (asked, found, attention) = (asked.clone(), found.clone(), Arc::clone(attention));
        let spawned = thread::Builder::new()
            .name("resolver".into())
            .spawn(move || work(&asked, &found, &attention));
        if let Err(error) = spawned {
            tracing::error!(%error, "can't start a thread for names: endpoints that are names stay unknown");
        }
    }
    (questions, answers)
}

fn work(asked: &Mutex<Receiver<String>>, found: &SyncSender<Answer>, attention: &Attention) {
    loop {
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(name) = next else { return };
        let answer = Answer {
            found: resolve(&name),
            name,
        };
        if found.send(answer).is_err() {
            return;
        }
        attention.wake().notify();
    }
}

/// Asks the system. Of an address with a zone (`fe80::1%eth0`) it finds the interface, in this network namespace.
fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    let found = (name, 0).to_socket_addrs();
    let mut addresses = Vec::new();
    for address in found.map_err(|error| error.to_string())? {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("it has no addresses".into());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl Resolver {
        /// A resolver that says nothing: the test does.
        pub(in crate::engine) fn silent(attention: &Arc<Attention>) -> Self {
            let (questions, asked) = sync_channel(1_024);
            let (found, answers) = sync_channel(0);
            std::mem::forget((asked, found));
            Self {
                attention: Arc::clone(attention),
                running: Some((questions, answers)),
            }
        }
    }

    #[test]
    fn answers_come_by_themselves_and_zones_are_those_of_this_namespace() {
        let attention = Arc::new(Attention::new().unwrap());
        let mut resolver = Resolver::new(&attention);
        assert!(resolver.next_answer().is_none());
        assert!(resolver.ask("fe80::1%lo"));
        assert!(resolver.ask("nobody.invalid"));
        let mut answers: Vec<_> = std::iter::from_fn(|| {
            let (_, answers) = resolver.running.as_ref()?;
            answers.recv_timeout(Duration::from_secs(60)).ok()
        })
        .take(2)
        .collect();
        answers.sort_by(|a, b| a.name.cmp(&b.name));
        let lo = crate::netlink::Netlink::open().unwrap().link("lo").unwrap();
        let SocketAddr::V6(found) = answers[0].found.as_ref().unwrap()[0] else {
            panic!("not IPv6");
        };
        assert_eq!(found.scope_id(), lo.unwrap().index);
        assert!(answers[1].found.is_err());
    }
}
