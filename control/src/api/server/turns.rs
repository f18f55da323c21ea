//! Turns at what only so many may do at once.
//!
//! In: who asks. Out: a [`Turn`], which passes to the next one when dropped. Never: a user who waits for all that another
//! has asked for: users take turns, each with what it asked for first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::crowd::Whose;

/// So many turns, and who waits for one.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Mutex<Queue>>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Turns);

#[derive(Debug)]
struct Queue {
    /// Some are free only when nobody waits.
    free: usize,
    waiting: VecDeque<(Whose, Line)>,
}

/// What waits of one user.
type Line = VecDeque<oneshot::Sender<Turn>>;

impl Turns {
    pub(super) fn new(all: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: all,
            waiting: VecDeque::new(),
        })))
    }

    /// A turn, if there is one until `end`.
    pub(super) async fn turn(&self, whose: Whose, end: Instant) -> Option<Turn> {
        let comes = {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                return Some(Turn(self.clone()));
            }
            queue.add(whose)
        };
        timeout_at(end, comes).await.ok()?.ok()
    }

    /// Those that nobody has.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.queue().free
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn add(&mut self, whose: Whose) -> oneshot::Receiver<Turn> {
        let (sender, comes) = oneshot::channel();
        match self.waiting.iter_mut().find(|(known, _)| *known == whose) {
            Some((_, line)) => {
                line.retain(|it| !it.is_closed());
                line.push_back(sender);
            }
            None => self.waiting.push_back((whose, [sender].into())),
        }
        comes
    }

    /// Who waits still and is the next one; without any a turn is free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some((whose, mut line)) = self.waiting.pop_front() {
            line.retain(|it| !it.is_closed());
            let next = line.pop_front();
            if !line.is_empty() {
                self.waiting.push_back((whose, line));
            }
            if next.is_some() {
                return next;
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.queue().next();
        if let Some(next) = next {
            // Of whom has left meanwhile it is dropped, and so passes on.
            let _ = next.send(Self(self.0.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn users_take_turns_whatever_one_of_them_asks_for() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let end = Instant::now() + Duration::from_secs(600);
            let turns = Turns::new(1);
            let first = turns.turn(Whose::User(7), end).await.unwrap();
            let order = Arc::new(Mutex::new(Vec::new()));
            let ask = |user: u32| {
                let (turns, order) = (turns.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    let turn = turns.turn(Whose::User(user), end).await;
                    order.lock().unwrap().push(user);
                    turn.is_some()
                })
            };
            let mut asks = Vec::new();
            for user in [7, 7, 7, 7, 0, 8, 0] {
                asks.push(ask(user));
                yield_now().await;
            }
            // Who gives up is passed over.
            asks.remove(1).abort();
            yield_now().await;
            assert_eq!(turns.free(), 0);
            drop(first);
            for ask in asks {
                assert!(ask.await.unwrap());
            }
            assert_eq!(*order.lock().unwrap(), [7, 0, 8, 7, 0, 7]);
            assert_eq!(turns.free(), 1);
        });
    }

    #[test]
    fn who_waits_too_long_has_none_and_keeps_none() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let turns = Turns::new(1);
            let first = turns.turn(Whose::User(7), Instant::now()).await;
            assert!(turns.turn(Whose::User(0), Instant::now()).await.is_none());
            drop(first);
            assert_eq!(turns.free(), 1);
        });
    }
}
