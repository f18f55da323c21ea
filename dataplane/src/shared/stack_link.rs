//! Between a worker and the host stacks' thread.
//!
//! In: from workers, frames that are the stacks' (`punt`); from that thread, what workers are to send for it, and
//! datagrams that they are to take. Out: the
//! same, at the other end. Never: a wait; the control core: what floods this link takes no room and no time from it.
//!
//! Threads: one [`StackEnd`] per worker, all of them at the stacks' thread; the other ends are in the worker's
//! `WorkerEnd`. All workers ring one doorbell.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::shared::{
    clock,
    ids::Scope,
    limits,
    punt::{self, Punted, Punts},
    wake::Wake,
};

/// What the stacks' thread asks of a worker.
pub enum StackCommand {
    /// Send an Ethernet frame made by a host stack, or deliver one to a guest.
    Frame {
        /// The stack's: where to send it, or whom to give it to.
        scope: Scope,
        /// The frame.
        frame: Box<[u8]>,
    },
    /// Take a datagram that came to an uplink in fragments, as the frame that it would have been.
    Datagram {
        /// The uplink's.
        scope: Scope,
        /// The frame.
        frame: Box<[u8]>,
    },
}

/// The stacks' end of a worker's link.
pub struct StackEnd {
    /// Frames for the stacks.
    pub punts: Punted,
    commands: Producer<StackCommand>,
    worker: Arc<Wake>,
}

impl StackEnd {
    /// Gives the worker a command and wakes it; `false` if the worker is so far behind that its queue is full, and the
    /// command is lost.
    pub fn send(&mut self, command: StackCommand) -> bool {
        let taken = self.commands.push(command).is_ok();
        self.worker.notify();
        taken
    }

    /// Whether others than connections find room, too, when one of their packets is added.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.commands.slots() > limits::STACK_COMMANDS / 2
    }

    /// Gives the worker a datagram that came in fragments. They are long: a worker that is behind with more than
    /// a few commands is given none.
    pub fn send_datagram(&mut self, scope: Scope, frame: Box<[u8]>) -> bool {
        let waiting = limits::STACK_COMMANDS - self.commands.slots();
        waiting < limits::DATAGRAMS_WAITING && self.send(StackCommand::Datagram { scope, frame })
    }

    /// Whether the worker has taken all that it was given.
    #[must_use]
    pub fn has_taken_all(&self) -> bool {
        self.commands.slots() == limits::STACK_COMMANDS
    }
}

/// The link of the worker that is woken by `worker`; `stack` wakes the stacks' thread.
pub(super) fn link(
    worker: Arc<Wake>,
    stack: Arc<Wake>,
) -> (Consumer<StackCommand>, Punts, StackEnd) {
    let (commands, taken) = RingBuffer::new(limits::STACK_COMMANDS);
    let (punts, punted) = punt::rings(stack, clock::monotonic());
    let end = StackEnd {
        punts: punted,
        commands,
        worker,
    };
    (taken, punts, end)
}
