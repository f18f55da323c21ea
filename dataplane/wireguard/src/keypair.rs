//! Keypairs: what workers seal and open data packets with.
//!
//! In: the keys of a finished handshake; from workers, requests for counters, received counters, the time. Out:
//! counter ranges, each counter at most once ever; verdicts on age and replay. Never: packets, the AEAD.
//!
//! Threads: a keypair is shared by `Arc` between the control core and all workers. Counters are one atomic, taken
//! once per sub-batch; the replay window is a lock, taken once per burst; everything else is fixed or a flag.
//!
//! A worker sends with [`Keypair::reserve`]. It receives in this order: [`Keypair::receivable`], open (its own
//! AEAD), [`Keypair::replay`] and `accept` per packet, then [`Keypair::confirm`] once per burst if any packet was
//! accepted. Only a packet that passed all of it moves the endpoint or counts as traffic.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::PeerId;
use crate::limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES};
use crate::replay::{ReplayGuard, ReplayWindow};
use crate::time::Instant;

/// A symmetric key, wiped when dropped.
pub(crate) type SymmetricKey = Zeroizing<[u8; 32]>;

/// Which side of the handshake made this keypair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation: we may send at once, and it is ours to renew the keypair in time.
    Initiator,
    /// We answered: we may send once the first valid packet has arrived.
    Responder,
}

/// Why a keypair gives out no counters. The packets wait until there is another keypair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendRefusal {
    /// Older than REJECT_AFTER_TIME.
    #[error("the keypair is older than {} s", REJECT_AFTER_TIME.as_secs())]
    Expired,
    /// Fewer counters are left than were asked for.
    #[error("the keypair has no counters left")]
    Exhausted,
    /// Sending was ended: our private key changed, its peer is parked, or an earlier refusal.
    #[error("the keypair no longer sends")]
    Invalidated,
    /// A responder's keypair before its first valid packet.
    #[error("the keypair is not confirmed yet")]
    Unconfirmed,
}

/// The keys of one session, both directions, and the state that protects them from misuse.
pub struct Keypair {
    peer: PeerId,
    local_index: u32,
    remote_index: u32,
    role: Role,
    created: Instant,
    sending: SymmetricKey,
    receiving: SymmetricKey,
    sends: Direction,
    receives: Direction,
    confirmed: AtomicBool,
    counter: CacheLine<AtomicU64>,
    window: CacheLine<Mutex<ReplayWindow>>,
}

/// Whether a keypair may be used in one direction.
#[derive(Default)]
struct Direction(AtomicU8);

impl Direction {
    /// For ever.
    const ENDED: u8 = 1;
    /// Until its peer is revived.
    const PARKED: u8 = 1 << 1;

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    fn close(&self, why: u8) {
        self.0.fetch_or(why, Ordering::Release);
    }

    fn is_parked(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::PARKED != 0
    }

    fn unpark(&self) {
        self.0.fetch_and(!Self::PARKED, Ordering::Release);
    }
}

/// Keeps what workers write apart from what all of them only read.
#[repr(align(64))]
struct CacheLine<T>(T);

/// What a handshake hands over to make a keypair.
pub(crate) struct SessionKeys {
    pub(crate) sending: SymmetricKey,
    pub(crate) receiving: SymmetricKey,
    pub(crate) role: Role,
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
}

impl Keypair {
    pub(crate) fn new(peer: PeerId, keys: SessionKeys, created: Instant) -> Self {
        Self {
            peer,
            local_index: keys.local_index,
            remote_index: keys.remote_index,
            role: keys.role,
            created,
            sending: keys.sending,
            receiving: keys.receiving,
            sends: Direction::default(),
            receives: Direction::default(),
            confirmed: AtomicBool::new(keys.role == Role::Initiator),
            counter: CacheLine(AtomicU64::new(0)),
            window: CacheLine(Mutex::new(ReplayWindow::new())),
        }
    }

    /// A keypair from bare keys, for tests and benchmarks of a data path that has no handshake.
    #[must_use]
    pub fn from_parts(
        peer: PeerId,
        role: Role,
        (local_index, remote_index): (u32, u32),
        (sending, receiving): ([u8; 32], [u8; 32]),
        created: Instant,
    ) -> Self {
        let keys = SessionKeys {
            sending: Zeroizing::new(sending),
            receiving: Zeroizing::new(receiving),
            role,
            local_index,
            remote_index,
        };
        Self::new(peer, keys, created)
    }

    /// Reserves `n` consecutive counters: all of them or none.
    ///
    /// # Errors
    ///
    /// A refusal for age or for want of counters is final: from then on the keypair doesn't send.
    pub fn reserve(&self, n: usize, now: Instant) -> Result<NonceRange, SendRefusal> {
        self.sendable(now)?;
        let n = n as u64;
        let claim = |next: u64| {
            next.checked_add(n)
                .filter(|end| *end <= REJECT_AFTER_MESSAGES)
        };
        match self
            .counter
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
        {
            Ok(start) => Ok(NonceRange {
                next: start,
                end: start + n,
            }),
            Err(_) => {
                self.end_sending();
                Err(SendRefusal::Exhausted)
            }
        }
    }

    /// Whether [`Keypair::reserve`] could succeed now.
    ///
    /// # Errors
    ///
    /// The refusal that `reserve` would give, but for a lack of counters that shows only there.
    pub fn sendable(&self, now: Instant) -> Result<(), SendRefusal> {
        if !self.sends.is_open() {
            return Err(SendRefusal::Invalidated);
        }
        if self.created.is_older_than(REJECT_AFTER_TIME, now) {
            self.end_sending();
            return Err(SendRefusal::Expired);
        }
        if !self.is_confirmed() {
            return Err(SendRefusal::Unconfirmed);
        }
        Ok(())
    }

    /// Whether packets on this keypair may be opened: it was not removed and is young enough. (When the counters
    /// have run out, the replay window refuses.)
    #[must_use]
    pub fn receivable(&self, now: Instant) -> bool {
        if !self.receives.is_open() {
            return false;
        }
        if self.created.is_older_than(REJECT_AFTER_TIME, now) {
            self.receives.close(Direction::ENDED);
            return false;
        }
        true
    }

    /// The replay window, locked: take it once per burst, after the burst's tags are verified.
    pub fn replay(&self) -> ReplayGuard<'_> {
        // A window is valid after every step of `accept`, so a panicking holder leaves nothing torn.
        ReplayGuard::new(self.window.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a valid packet arrived. True for the one call that confirmed a responder's keypair: that worker
    /// tells the control core ([`crate::Device::handle_confirmed`]), though any [`crate::Traffic`] report of the
    /// peer has the same effect.
    pub fn confirm(&self) -> bool {
        !self.is_confirmed() && !self.confirmed.swap(true, Ordering::AcqRel)
    }

    /// Whether a valid packet has arrived, or we are the initiator.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// The peer at the other end.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// The receiver index of packets to us.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The receiver index of packets from us.
    #[must_use]
    pub const fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Our part in the handshake.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// When the keys were derived.
    #[must_use]
    pub const fn created(&self) -> Instant {
        self.created
    }

    /// The key that seals. A counter comes from [`Keypair::reserve`] and is used once.
    #[must_use]
    pub fn sending_key(&self) -> &[u8; 32] {
        &self.sending
    }

    /// The key that opens.
    #[must_use]
    pub fn receiving_key(&self) -> &[u8; 32] {
        &self.receiving
    }

    /// Counters given out so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counter.0.load(Ordering::Relaxed)
    }

    /// Whether enough was sent that a new keypair is due.
    pub(crate) fn is_worn(&self) -> bool {
        self.sent() > REKEY_AFTER_MESSAGES
    }

    /// Whether sending was neither ended nor refused.
    pub(crate) fn sends(&self) -> bool {
        self.sends.is_open()
    }

    /// No further counters: our identity changed, or the keypair was removed.
    pub(crate) fn end_sending(&self) {
        self.sends.close(Direction::ENDED);
    }

    /// The keypair was removed: workers that still hold it stop using it.
    pub(crate) fn end(&self) {
        self.end_sending();
        self.receives.close(Direction::ENDED);
    }

    /// Out of force: workers that still hold it stop using it, until it is unparked.
    pub(crate) fn park(&self) {
        self.sends.close(Direction::PARKED);
        self.receives.close(Direction::PARKED);
    }

    /// Whether workers were told that it is gone.
    pub(crate) fn is_parked(&self) -> bool {
        self.sends.is_parked()
    }

    /// In force again, as far as it was not ended meanwhile.
    pub(crate) fn unpark(&self) {
        self.sends.unpark();
        self.receives.unpark();
    }

    /// Lets a test start near a limit.
    #[doc(hidden)]
    pub fn skip_counters(&self, next: u64) {
        self.counter.0.store(next, Ordering::Relaxed);
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("peer", &self.peer)
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("role", &self.role)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

/// Counters that belong to the holder: an iterator that yields each once. Dropping it loses the rest, which is safe.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "counters that aren't used are lost"]
pub struct NonceRange {
    next: u64,
    end: u64,
}

impl Iterator for NonceRange {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.next == self.end {
            return None;
        }
        let counter = self.next;
        self.next += 1;
        Some(counter)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for NonceRange {}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const BORN: Instant = Instant(1_000);

    fn keypair(role: Role) -> Keypair {
        Keypair::from_parts(PeerId(3), role, (7, 9), ([1; 32], [2; 32]), BORN)
    }

    #[test]
    fn ranges_are_consecutive_and_disjoint() {
        let keypair = keypair(Role::Initiator);
        let first = keypair.reserve(3, BORN).unwrap();
        assert_eq!(first.len(), 3);
        assert_eq!(first.collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(keypair.reserve(0, BORN).unwrap().next(), None);
        assert_eq!(keypair.reserve(1, BORN).unwrap().next(), Some(3));
    }

    #[test]
    fn threads_never_share_a_counter() {
        let keypair = keypair(Role::Initiator);
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let work = || {
                (0..500)
                    .flat_map(|n| keypair.reserve(n % 5, BORN).unwrap())
                    .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..3_000));
    }

    #[test]
    fn the_last_counters_go_out_whole_or_not_at_all() {
        let keypair = keypair(Role::Initiator);
        keypair.skip_counters(REJECT_AFTER_MESSAGES - 4);
        assert_eq!(
            keypair.reserve(3, BORN).unwrap().last(),
            Some(REJECT_AFTER_MESSAGES - 2)
        );
        assert_eq!(keypair.reserve(2, BORN), Err(SendRefusal::Exhausted));
        assert_eq!(keypair.reserve(1, BORN), Err(SendRefusal::Invalidated));
        assert_eq!(keypair.sent(), REJECT_AFTER_MESSAGES - 1);
    }

    #[test]
    fn age_ends_both_directions() {
        let keypair = keypair(Role::Initiator);
        let last = Instant((BORN + REJECT_AFTER_TIME).0 - 1);
        assert!(keypair.reserve(1, last).is_ok());
        assert!(keypair.receivable(last));
        let end = last + Duration::from_nanos(1);
        assert_eq!(keypair.reserve(1, end), Err(SendRefusal::Expired));
        assert!(!keypair.receivable(end));
        // A worker whose clock lags doesn't revive it.
        assert_eq!(keypair.reserve(1, last), Err(SendRefusal::Invalidated));
        assert!(!keypair.receivable(last));
    }

    #[test]
    fn a_responder_waits_for_confirmation() {
        let keypair = keypair(Role::Responder);
        assert_eq!(keypair.reserve(1, BORN), Err(SendRefusal::Unconfirmed));
        assert!(keypair.receivable(BORN));
        assert!(keypair.confirm());
        assert!(!keypair.confirm());
        assert_eq!(keypair.reserve(1, BORN).unwrap().next(), Some(0));
    }

    #[test]
    fn an_initiator_needs_no_confirmation() {
        let keypair = keypair(Role::Initiator);
        assert!(keypair.is_confirmed());
        assert!(!keypair.confirm());
    }

    #[test]
    fn debug_output_holds_no_key() {
        let text = format!("{:?}", keypair(Role::Initiator));
        assert!(
            !text.contains("sending") && !text.contains("[1, 1"),
            "{text}"
        );
    }
}
