//! Host stacks that are served by hand, at the time that a test says, with its own frames from the wire.

use culvert_dataplane::shared::{
    control_link::{WorkerEnd, link},
    ids::Scope,
    punt::PuntClass,
};

use super::*;
use crate::netstack::Server;

/// Instead of the stacks' thread; what the stacks send goes nowhere.
pub(super) struct Wire {
    stacks: Server,
    worker: WorkerEnd,
}

impl Wire {
    pub(super) fn new(engine: &mut Engine) -> Self {
        let attention = Arc::clone(&engine.attention);
        let mut stacks = engine.netstack.serve_by_hand(Arc::clone(&attention));
        let wake = Arc::clone(engine.netstack.wake());
        let (worker, _, end) = link(attention, wake, 1).unwrap();
        stacks.link(vec![end]);
        Self { stacks, worker }
    }

    /// A thread serves them again.
    pub(super) fn leave(self, engine: &mut Engine) {
        engine.netstack.serve_on_thread(self.stacks);
    }

    /// A frame comes from the wire, and the engine hears what the stacks make of it.
    pub(super) fn bring(&mut self, engine: &mut Engine, scope: Scope, frame: &[u8], now: Now) {
        // The stack is there.
        self.settle(engine, now);
        let class = PuntClass::NeighborAnswer;
        let punts = &mut self.worker.punts;
        punts.push(class, scope, frame, now.monotonic).unwrap();
        punts.ring();
        self.settle(engine, now);
    }

    /// The same while the stack, which is new, asks whether anyone has its addresses.
    pub(super) fn bring_at_once(
        &mut self,
        engine: &mut Engine,
        scope: Scope,
        frame: &[u8],
        now: Now,
    ) {
        engine.netstack.publish();
        self.stacks.round(now.monotonic);
        let class = PuntClass::NeighborAnswer;
        let punts = &mut self.worker.punts;
        punts.push(class, scope, frame, now.monotonic).unwrap();
        punts.ring();
        self.stacks.round(now.monotonic);
        engine.hear_neighbors(now);
    }

    pub(super) fn settle(&mut self, engine: &mut Engine, now: Now) {
        engine.netstack.publish();
        // No other host has the stacks' addresses.
        for millis in [0, 250, 500, 750] {
            self.stacks
                .round(now.monotonic + Duration::from_millis(millis));
        }
        engine.hear_neighbors(now);
    }
}
