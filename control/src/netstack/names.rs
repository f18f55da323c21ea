//! Names: endpoints' names, asked for through the uplinks that know servers.
//!
//! In: questions of the control core, what servers say. Out: an answer to each question, by whatever way it is lost.
//! Never: a question of one uplink asked by another: two may know different names.

use std::{
    collections::BTreeMap,
    hash::RandomState,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use culvert_dataplane::shared::{control_link::Attention, ids::Scope};
use culvert_stack::{
    Stacks,
    dns::{Client, Families},
};
use culvert_wireguard::Instant;

use super::Host;
use crate::config::Name;

/// Addresses, those that are tried first at first, with port 0, and for how long that holds.
pub(crate) type Places = (Vec<SocketAddr>, Duration);

/// What became of a question.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The question's number.
    pub(crate) number: u64,
    /// Where the name is, or why nobody knows.
    pub(crate) found: Result<Places, String>,
}

/// Who asks, and hears the answers.
pub(crate) struct Asker {
    attention: Arc<Attention>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    asked: u64,
}

impl Asker {
    /// One whose doorbell each answer rings.
    pub(crate) fn new(attention: &Arc<Attention>) -> Self {
        let (sender, answers) = channel();
        Self {
            attention: Arc::clone(attention),
            sender,
            answers,
            asked: 0,
        }
    }

    /// A question, with a number of its own. There are no more answers than questions.
    pub(crate) fn question(&mut self, name: &str, families: Families) -> Question {
        self.asked += 1;
        Question {
            number: self.asked,
            name: name.to_owned(),
            families,
            answers: Some((self.sender.clone(), Arc::clone(&self.attention))),
        }
    }

    /// The next answer that is there.
    pub(crate) fn next_answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

/// A question. Whoever lets go of it without an answer says that there is none.
pub(crate) struct Question {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) families: Families,
    answers: Option<(Sender<Answer>, Arc<Attention>)>,
}

impl Question {
    /// Answers; nothing happens if the asker has left.
    pub(crate) fn answer(mut self, found: Result<Places, String>) {
        self.send(found);
    }

    fn send(&mut self, found: Result<Places, String>) {
        let Some((answers, attention)) = self.answers.take() else {
            return;
        };
        let number = self.number;
        if answers.send(Answer { number, found }).is_ok() {
            attention.wake().notify();
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.send(Err("nobody was there to ask".into()));
    }
}

/// Those of all stacks.
#[derive(Default)]
pub(super) struct Names(BTreeMap<Scope, Asking>);

struct Asking {
    birth: u64,
    uplink: Name,
    client: Client<Question>,
}

impl Names {
    /// The scope's stack is this one from now on.
    pub(super) fn serve_by(&mut self, scope: Scope, host: &Host) {
        let is_it = |asking: &Asking| asking.birth == host.birth;
        if !self.0.get(&scope).is_some_and(is_it) {
            let asking = Asking {
                birth: host.birth,
                uplink: host.name.clone(),
                client: Client::new(RandomState::new()),
            };
            self.0.insert(scope, asking);
        }
        if let Some(asking) = self.0.get_mut(&scope) {
            asking.client.ask_of(&host.nameservers);
        }
    }

    /// The scope has no stack any more.
    pub(super) fn remove(&mut self, scope: Scope) {
        self.0.remove(&scope);
    }

    /// Asks the scope's servers.
    pub(super) fn ask(&mut self, scope: Scope, question: Question, now: Instant) {
        if let Some(asking) = self.0.get_mut(&scope) {
            let (name, families) = (question.name.clone(), question.families);
            asking.client.look_up(question, &name, families, now);
        }
    }

    /// Hears what came, and asks what is due.
    pub(super) fn serve(&mut self, stacks: &mut Stacks<Scope>, now: Instant) {
        for (&scope, asking) in &mut self.0 {
            let Some(stack) = stacks.get_mut(scope).filter(|_| !asking.client.is_empty()) else {
                continue;
            };
            asking.client.turn(stack, now);
            while let Some((question, found)) = asking.client.poll_found() {
                let found = found.map(|found| {
                    let addresses = found.addresses.into_iter();
                    let addresses = addresses.map(|it| SocketAddr::new(it, 0)).collect();
                    (addresses, found.lifetime)
                });
                let uplink = &asking.uplink;
                question.answer(found.map_err(|why| format!("{why} (asked by uplink {uplink})")));
            }
        }
    }

    /// When something is due though nothing comes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.0.values();
        due.filter_map(|asking| asking.client.poll_timeout()).min()
    }
}
