//! Between a worker and the control core: attention, handshake messages and commands.
//!
//! In: from workers, peers that need attention, and handshake messages; from the control core, commands. Out: the same,
//! at the other end. Never: a wait; a full queue drops by name at the producer; a frame for the host stacks
//! (`stack_link`).
//!
//! Threads: one `WorkerEnd` per worker, one `ControlEnd` per worker at the
//! control core, one `Attention` shared by all. Attention is a bitmap, so a
//! full queue loses no signal.

use std::{any::Any, io, net::IpAddr, sync::Arc};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    shared::{
        exception_link::KernelEnd,
        ids::{NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex},
        limits,
        marks::Marks,
        path::Path,
        peer::Origin,
        punt::Punts,
        stack_link::{self, StackCommand, StackEnd},
        wake::Wake,
    },
    uplink::Queue,
};

/// The peers that have signals for the control core, and its doorbell.
///
/// What is urgent rings. The rest is found by the core's sweeps, as long as it makes them; before it ceases to, it
/// asks to be rung for anything, and sweeps once more.
#[derive(Debug)]
pub struct Attention {
    dirty: Marks,
    wake: Wake,
}

impl Attention {
    /// No peer needs attention.
    ///
    /// # Errors
    /// When the doorbell can't be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            dirty: Marks::new(limits::PEER_PLACES),
            wake: Wake::new()?,
        })
    }

    /// Marks `peer`; `urgent` wakes the control core.
    pub fn mark(&self, peer: PeerIndex, urgent: bool) {
        let watched = self.dirty.mark(peer.slot());
        if urgent || watched {
            self.wake.notify();
        }
    }

    /// Control core: whether to ring for marks that are not urgent, too. It has to sweep once more before it relies
    /// on that.
    pub fn watch(&self, any: bool) {
        self.dirty.watch(any);
    }

    /// Control core: whether it is rung for any mark.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.dirty.is_watched()
    }

    /// The control core's doorbell.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Control core: calls `visit` for each marked peer and unmarks it; answers whether there was one.
    pub fn sweep(&self, mut visit: impl FnMut(PeerIndex)) -> bool {
        self.dirty.sweep(|place| visit(PeerIndex::from_slot(place)))
    }
}

/// Bytes of bounded length, stored in place so that a queue needs no heap.
#[derive(Clone, Copy)]
pub struct Inline<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// A copy of `bytes`; `None` if they are too long.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut inline = Self {
            len: u16::try_from(bytes.len()).ok()?,
            bytes: [0; N],
        };
        inline.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(inline)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A handshake message from the wire, not yet looked at.
pub struct HandshakePunt {
    /// The tunnel whose port it came to.
    pub tunnel: TunnelIndex,
    /// Where it came from.
    pub origin: Origin,
    /// The message.
    pub message: Inline<{ limits::HANDSHAKE_MAX }>,
}

/// What a worker's thread does once, and undoes when it ends.
pub type Entry = Arc<dyn Fn() -> Box<dyn Any> + Send + Sync>;

/// Where a tunnel's queues are: on an uplink.
pub type Seat = (UplinkIndex, TunnelIndex);

/// A probe of a peer's path: an echo request for somebody behind the peer, or what nobody answers.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Bytes of the IP packet on the wire.
    pub size: u16,
    /// Our address inside.
    pub source: IpAddr,
    /// Who is to answer.
    pub destination: IpAddr,
    /// The identifier of the peer's probes.
    pub id: u16,
    /// What tells this one from the others.
    pub token: u16,
    /// It is to be answered.
    pub asks: bool,
}

/// What the control core asks of a worker.
pub enum Command {
    /// Send a WireGuard handshake message.
    Handshake {
        /// The tunnel it belongs to.
        tunnel: TunnelIndex,
        /// Whom it is for, unless that is a stranger.
        peer: Option<PeerIndex>,
        /// The way to its endpoint.
        path: Arc<Path>,
        /// The message.
        message: Inline<{ limits::HANDSHAKE_MAX }>,
    },
    /// Send what waits for the peer; if nothing leaves, seal and send an empty packet.
    Keepalive(PeerIndex),
    /// The peer has a key: send what waited for it.
    FlushStaged(PeerIndex),
    /// A next hop became known: send what waits for peers that have a way now.
    FlushAwaited,
    /// Send the peer this, which tells how much its path lets through.
    Probe(PeerIndex, Box<Probe>),
    /// The handshake was given up: drop what waited for it.
    DropStaged(PeerIndex),
    /// The peer was removed, and no snapshot has it any more: drop what still waits for it. The uplink that it would
    /// have left by counts.
    ForgetStaged(PeerIndex, UplinkIndex),
    /// Tell the other ports of its network where the guest of this port is now.
    Announce(PortIndex),
    /// Tell the ports of this network that the gateway has this address, if a peer has it now.
    AnnounceGone(NetworkIndex, IpAddr),
    /// Do this on your thread, and keep what comes of it until you end.
    Enter(Entry),
    /// Share uplinks with the host's kernel from now on, by these rings.
    ShareWithKernel(Box<KernelEnd>),
    /// Own this queue from now on.
    AttachUplink(Box<Queue>),
    /// Give up the queues of a tunnel (UDP) or of a whole uplink (DPDK).
    DetachUplink(UplinkIndex, Option<TunnelIndex>),
    /// The queues of tunnels (UDP) belong to others from now on, or to the same ones on another uplink, all at once:
    /// from, to. What paths still lead out by an uplink that a queue has left takes it, until the queues of that tunnel
    /// on that uplink are given up.
    HandOver(Arc<[(Seat, Seat)]>),
    /// Finish the turn and end.
    Stop,
}

/// A worker's end of its link.
pub struct WorkerEnd {
    /// Commands from the control core.
    pub commands: Consumer<Command>,
    /// Handshake messages to the control core.
    pub handshakes: Producer<HandshakePunt>,
    /// Commands from the host stacks' thread.
    pub stack_commands: Consumer<StackCommand>,
    /// Frames to the host stacks.
    pub punts: Punts,
    /// Peers that need attention.
    pub attention: Arc<Attention>,
    /// The worker's own doorbell.
    pub wake: Arc<Wake>,
}

/// The control core's end of a worker's link.
pub struct ControlEnd {
    /// Commands to the worker; use `send`.
    commands: Producer<Command>,
    /// Handshake messages from the worker.
    pub handshakes: Consumer<HandshakePunt>,
    wake: Arc<Wake>,
}

impl ControlEnd {
    /// Gives the worker a command and wakes it; `false` if the worker is so far behind
    /// that its queue is full, and the command is lost.
    pub fn send(&mut self, command: Command) -> bool {
        let taken = self.commands.push(command).is_ok();
        self.wake.notify();
        taken
    }

    /// Whether the worker's queue takes another command.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.commands.slots() > 0
    }

    /// Whether the worker has taken all commands: it obeys the last one, or has.
    #[must_use]
    pub fn has_taken_all(&self) -> bool {
        self.commands.slots() == limits::COMMAND_QUEUE
    }

    /// The worker's doorbell, for a snapshot or anything else that it looks for.
    #[must_use]
    pub fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }
}

/// The links of one worker of `workers`: with the control core, and with the host stacks' thread, which `stack` wakes.
///
/// # Errors
/// When the worker's doorbell can't be made.
pub fn link(
    attention: Arc<Attention>,
    stack: Arc<Wake>,
    workers: usize,
) -> io::Result<(WorkerEnd, ControlEnd, StackEnd)> {
    let wake = Arc::new(Wake::new()?);
    let (commands_in, commands) = RingBuffer::new(limits::COMMAND_QUEUE);
    let (handshakes, handshakes_out) = RingBuffer::new(limits::HANDSHAKE_QUEUE / workers.max(1));
    let (stack_commands, punts, stack) = stack_link::link(Arc::clone(&wake), stack);
    let worker = WorkerEnd {
        commands,
        handshakes,
        stack_commands,
        punts,
        attention,
        wake: Arc::clone(&wake),
    };
    let control = ControlEnd {
        commands: commands_in,
        handshakes: handshakes_out,
        wake,
    };
    Ok((worker, control, stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(attention: &Attention) -> bool {
        attention.wake().is_rung()
    }

    fn swept(attention: &Attention) -> Option<Vec<usize>> {
        let mut peers = Vec::new();
        let any = attention.sweep(|peer| peers.push(peer.slot()));
        assert_eq!(any, !peers.is_empty());
        any.then_some(peers)
    }

    #[test]
    fn marks_that_are_not_urgent_ring_while_nobody_sweeps() {
        let attention = Attention::new().unwrap();
        let [a, b] = [70, 7].map(PeerIndex::from_slot);
        attention.wake().announce();
        attention.mark(a, false);
        attention.mark(b, false);
        assert!(!rings(&attention));
        assert_eq!(swept(&attention), Some(vec![7, 70]));
        assert_eq!(swept(&attention), None);

        attention.watch(true);
        attention.mark(a, false);
        assert!(rings(&attention));
        assert_eq!(swept(&attention), Some(vec![70]));
        attention.wake().awake();

        attention.watch(false);
        attention.wake().announce();
        attention.mark(b, true);
        assert!(rings(&attention));
    }
}
