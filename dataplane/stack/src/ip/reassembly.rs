//! Reassembly: packets out of fragments.
//!
//! In: fragments in any order, the time. Out: whole packets as frames; what was given up. Never: memory above
//! [`limits::REASSEMBLY_HIGH`], a byte of a fragment kept that was not admitted, work that grows with more than the
//! logarithm of what is held.
//!
//! A packet has 30 s over IPv4 (RFC 1122, section 3.3.2; the kernel's `ipfrag_time`) and 60 s over IPv6 (RFC 8200,
//! section 4.5) from its first fragment on. Where room is short the oldest goes, whose source ever: what a path carries
//! comes together at once, so a flood of parts that belong to nothing makes room of itself.

use std::collections::BTreeMap;

use culvert_wireguard::Instant;

use super::{
    datagram::{Added, DATAGRAM_COST, Datagram, PIECE_COST, make_whole},
    fragment::{Fragment, Key},
};
use crate::{HostDrop, limits};

const _: () = assert!(limits::REASSEMBLY_LOW < limits::REASSEMBLY_HIGH);

/// When a datagram's time is over, and how many began before it.
type Age = (Instant, u64);

struct Slot {
    age: Age,
    datagram: Box<Datagram>,
}

/// The packets of which not all has come.
#[derive(Default)]
pub struct Reassembly {
    datagrams: BTreeMap<Key, Slot>,
    /// By age: IPv4's, IPv6's.
    ages: [BTreeMap<Age, Key>; 2],
    begun: u64,
    memory: usize,
}

/// A packet whose time is over.
#[derive(Debug)]
pub enum Expired {
    /// Not all of it came.
    Incomplete {
        /// The frame of its first fragment, if that came: then its sender is told.
        first: Option<Vec<u8>>,
    },
    /// It was refused before.
    Refused,
}

impl Reassembly {
    /// Takes a fragment; answers the frame of the packet of which it was the last part. What is given up for it is told
    /// `lost`, a name for each packet.
    ///
    /// # Errors
    /// Why it, and mostly its whole packet, is not taken.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        now: Instant,
        mut lost: impl FnMut(HostDrop),
    ) -> Result<Option<Vec<u8>>, HostDrop> {
        if fragment.is_atomic() {
            return Ok(Some(atomic(fragment)));
        }
        // 1. Room for it and for a packet that it may begin.
        let cost = DATAGRAM_COST + fragment.head.len() + fragment.bytes.len() + 2 * PIECE_COST;
        if self.memory + cost > limits::REASSEMBLY_HIGH {
            while self.memory + cost > limits::REASSEMBLY_LOW && self.give_up_oldest() {
                lost(HostDrop::ReassemblyFull);
            }
        }

        // 2. Its packet.
        if !self.datagrams.contains_key(&fragment.key) {
            self.begin(fragment, now, &mut lost);
        }
        let Some(slot) = self.datagrams.get_mut(&fragment.key) else {
            return Err(HostDrop::ReassemblyFull);
        };

        // 3. What it makes of it.
        let before = slot.datagram.cost();
        let added = slot.datagram.add(fragment);
        self.memory = self.memory + slot.datagram.cost() - before;
        match added? {
            Added::Waiting => Ok(None),
            Added::Complete => Ok(self.remove(fragment.key).and_then(|it| it.frame())),
        }
    }

    fn begin(&mut self, fragment: &Fragment<'_>, now: Instant, lost: &mut impl FnMut(HostDrop)) {
        let [least, greatest] = fragment.key.of_source();
        let mut of_source = self.datagrams.range(least..=greatest);
        if of_source.clone().count() >= limits::REASSEMBLIES_PER_SOURCE {
            let oldest = of_source.by_ref().min_by_key(|(_, slot)| slot.age.1);
            if let Some(key) = oldest.map(|(&key, _)| key) {
                self.remove(key);
                lost(HostDrop::ReassemblySourceFull);
            }
        }
        let life = match fragment.is_v6() {
            false => limits::REASSEMBLY_LIFE_V4,
            true => limits::REASSEMBLY_LIFE_V6,
        };
        self.begun += 1;
        let age = (now + life, self.begun);
        self.ages[usize::from(fragment.is_v6())].insert(age, fragment.key);
        let datagram = Box::<Datagram>::default();
        self.memory += datagram.cost();
        self.datagrams.insert(fragment.key, Slot { age, datagram });
    }

    fn remove(&mut self, key: Key) -> Option<Datagram> {
        let Slot { age, datagram } = self.datagrams.remove(&key)?;
        self.ages[usize::from(key.is_v6())].remove(&age);
        self.memory -= datagram.cost();
        Some(*datagram)
    }

    /// The one that began first, of either family; whether there was one.
    fn give_up_oldest(&mut self) -> bool {
        let firsts = self.ages.iter().filter_map(BTreeMap::first_key_value);
        let oldest = firsts.min_by_key(|(age, _)| age.1).map(|(_, &key)| key);
        oldest.and_then(|key| self.remove(key)).is_some()
    }

    /// A packet whose time is over; to be called until there is none.
    pub fn expire(&mut self, now: Instant) -> Option<Expired> {
        let (&(due, _), &key) = self.next()?;
        if due > now {
            return None;
        }
        let datagram = self.remove(key)?;
        Some(match datagram.is_refused() {
            true => Expired::Refused,
            false => Expired::Incomplete {
                first: datagram.first(key.id()),
            },
        })
    }

    /// When the time of one will be over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next().map(|(age, _)| age.0)
    }

    fn next(&self) -> Option<(&Age, &Key)> {
        let firsts = self.ages.iter().filter_map(BTreeMap::first_key_value);
        firsts.min_by_key(|(age, _)| age.0)
    }

    /// What it takes, in bytes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// How many packets wait for fragments.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.datagrams.len()
    }
}

fn atomic(fragment: &Fragment<'_>) -> Vec<u8> {
    let mut frame = [fragment.head, fragment.bytes].concat();
    make_whole(&mut frame, fragment.head.len(), fragment.next, false);
    frame
}
