//! The host stacks of a process, one per scope.
//!
//! In: punts, questions, the time. Out: frames and events, each with its scope. Never: what one scope says looked up
//! in another's tables.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_wireguard::Instant;

use crate::{Datagram, Heard, HostEvent, HostStack, Learned, Resolution, tcp::ConnectionId};

/// The stacks: whatever goes in or comes out begins with its scope. Two scopes may have the same addresses and the
/// same neighbors; they are not the same. What scopes are is the owner's to say.
pub struct Stacks<Scope>(BTreeMap<Scope, HostStack>);

impl<Scope> Default for Stacks<Scope> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<Scope: Copy + Ord> Stacks<Scope> {
    /// Adds a stack, in the place of the one that the scope had.
    pub fn insert(&mut self, scope: Scope, stack: HostStack) {
        self.0.insert(scope, stack);
        self.introduce();
    }

    /// Removes the scope's stack.
    pub fn remove(&mut self, scope: Scope) -> Option<HostStack> {
        let removed = self.0.remove(&scope);
        self.introduce();
        removed
    }

    /// Two that are on one link, as while one takes the other's place, are no strangers to each other.
    fn introduce(&mut self) {
        let macs: Vec<_> = self.0.values().map(HostStack::mac).collect();
        for stack in self.0.values_mut() {
            stack.know_kin(&macs);
        }
    }

    /// The scope's stack.
    #[must_use]
    pub fn get(&self, scope: Scope) -> Option<&HostStack> {
        self.0.get(&scope)
    }

    /// The scope's stack.
    pub fn get_mut(&mut self, scope: Scope) -> Option<&mut HostStack> {
        self.0.get_mut(&scope)
    }

    /// Takes a frame that came to `scope`; a scope without a stack has nobody to answer, and the frame is nobody's.
    pub fn handle_frame(&mut self, scope: Scope, frame: &[u8], now: Instant) {
        if let Some(stack) = self.0.get_mut(&scope) {
            stack.handle_frame(frame, now);
        }
    }

    /// The way to `destination` from `scope`; asks the next hop if it isn't known.
    pub fn resolve(&mut self, scope: Scope, destination: IpAddr, now: Instant) -> Resolution {
        self.0
            .get_mut(&scope)
            .map_or(Resolution::NoRoute, |stack| stack.resolve(destination, now))
    }

    /// `scope` wants to be told where a next hop of its is ([`HostStack::ask`]).
    pub fn ask(&mut self, scope: Scope, next_hop: IpAddr, now: Instant) {
        if let Some(stack) = self.0.get_mut(&scope) {
            stack.ask(next_hop, now);
        }
    }

    /// `scope` sends nothing to a next hop of its any more ([`HostStack::let_go`]).
    pub fn let_go(&mut self, scope: Scope, next_hop: IpAddr) {
        if let Some(stack) = self.0.get_mut(&scope) {
            stack.let_go(next_hop);
        }
    }

    /// `scope` wants to know whether a next hop of its is still there ([`HostStack::verify`]).
    pub fn verify(&mut self, scope: Scope, next_hop: IpAddr, now: Instant) {
        if let Some(stack) = self.0.get_mut(&scope) {
            stack.verify(next_hop, now);
        }
    }

    /// The next frame to send, and where.
    pub fn poll_frame(&mut self) -> Option<(Scope, Vec<u8>)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_frame()?)))
    }

    /// The next frame of a connection to send, and where.
    pub fn poll_segment(&mut self) -> Option<(Scope, Vec<u8>)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_segment()?)))
    }

    /// The next connection that others began and that is open, and where.
    pub fn poll_accepted(&mut self) -> Option<(Scope, ConnectionId)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_accepted()?)))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<(Scope, HostEvent)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_event()?)))
    }

    /// The next datagram that came in fragments, and where to.
    pub fn poll_datagram(&mut self) -> Option<(Scope, Datagram)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_datagram()?)))
    }

    /// The next error about a datagram, and where it was heard.
    pub fn poll_heard(&mut self) -> Option<(Scope, Heard)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_heard()?)))
    }

    /// The next frame for the host's kernel, and where it came.
    pub fn poll_for_kernel(&mut self) -> Option<(Scope, Vec<u8>)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_for_kernel()?)))
    }

    /// What was learned anew, and where.
    pub fn poll_learned(&mut self, now: Instant) -> Option<(Scope, Learned)> {
        self.0
            .iter_mut()
            .find_map(|(&scope, stack)| Some((scope, stack.poll_learned(now)?)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for stack in self.0.values_mut() {
            if stack.poll_timeout().is_some_and(|due| due <= now) {
                stack.handle_timeout(now);
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(HostStack::poll_timeout).min()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Scope, &mut HostStack)> {
        self.0.iter_mut().map(|(&scope, stack)| (scope, stack))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Scope, &HostStack)> {
        self.0.iter().map(|(&scope, stack)| (scope, stack))
    }
}
