//! Names that the system is asked for, on threads of their own: a dead resolver holds up nobody but those who wait for it.
//!
//! In: questions, over a queue. Out: their addresses, or why there are none. Never: a name asked for by the
//! control core, more addresses of a name than are tried.
//!
//! Threads: [`THREADS`] of them, so that one name whose servers are dead does not hold up all others. They are made with
//! the first question; each ends when the engine has. How many questions wait, whoever asks decides.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::netstack::Question;

/// Names asked for at the same time.
const THREADS: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long an answer counts. The system's resolver tells no lifetime of what it finds; five minutes are what names that
/// change mostly have, and whoever answers keeps to the true one.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);

/// The engine's end.
#[derive(Default)]
pub(super) struct Resolver {
    questions: Option<Sender<Question>>,
    /// It says nothing: the test does.
    #[cfg(test)]
    pub(super) silent: Option<Vec<Question>>,
}

impl Resolver {
    /// Asks for a name.
    pub(super) fn ask(&mut self, question: Question) {
        #[cfg(test)]
        if let Some(kept) = &mut self.silent {
            kept.push(question);
            return;
        }
        let questions = self.questions.get_or_insert_with(start);
        // It comes back as an answer if nobody takes it.
        drop(questions.send(question));
    }
}

fn start() -> Sender<Question> {
    let (questions, asked) = channel();
    let asked = Arc::new(Mutex::new(asked));
    for _ in 0..THREADS {
        let asked = Arc::clone(&asked);
        let spawned = thread::Builder::new()
            .name("resolver".into())
            .spawn(move || work(&asked));
        if let Err(error) = spawned {
            tracing::error!(%error, "can't start a thread for names: endpoints that are names stay unknown");
        }
    }
    questions
}

fn work(asked: &Mutex<Receiver<Question>>) {
    loop {
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(question) = next else { return };
        let found = resolve(&question.name);
        question.answer(found.map(|addresses| (addresses, LIFETIME)));
    }
}

/// Asks the system, which has its order of preference. Of an address with a zone (`fe80::1%eth0`) it finds the interface,
/// in this network namespace.
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
    use culvert_dataplane::shared::control_link::Attention;
    use culvert_stack::dns::Families;

    use super::*;
    use crate::netstack::Asker;

    #[test]
    fn answers_come_by_themselves_and_zones_are_those_of_this_namespace() {
        let attention = Arc::new(Attention::new().unwrap());
        let mut asker = Asker::new(&attention);
        let mut resolver = Resolver::default();
        assert!(asker.next_answer().is_none());
        for name in ["fe80::1%lo", "nobody.invalid"] {
            let question = asker.question(name, Families::default());
            resolver.ask(question);
        }
        let mut answers = Vec::new();
        while answers.len() < 2 {
            answers.extend(asker.next_answer());
            thread::sleep(Duration::from_millis(5));
        }
        answers.sort_by_key(|answer| answer.number);
        let lo = crate::netlink::Netlink::open().unwrap().link("lo").unwrap();
        let (found, lifetime) = answers[0].found.as_ref().unwrap();
        let SocketAddr::V6(found) = found[0] else {
            panic!("not IPv6");
        };
        assert_eq!(found.scope_id(), lo.unwrap().index);
        assert_eq!(*lifetime, LIFETIME);
        assert!(answers[1].found.is_err());
    }
}
