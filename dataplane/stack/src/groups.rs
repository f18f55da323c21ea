//! Groups that the stack listens to, reported to those who forward to listeners alone (RFC 3810): switches that snoop,
//! routers. They are the solicited-node groups of its addresses, without which nobody beyond such a switch finds it.
//!
//! In: own addresses, queries, the time. Out: reports to send. Never: a report on all nodes; more answers in a second than
//! `HOST_REPORTS_PER_SECOND`. Of IPv4 the stack is in the group of all hosts alone, which nobody reports (RFC 3376,
//! section 5): there is nothing to say in IGMP.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{
    mld::{MldQuery, Record},
    nd::solicited_node,
};
use culvert_wireguard::Instant;

use crate::{input::Budget, limits, random::Random};

/// How often a change is said (RFC 3810, section 9.1: `Robustness Variable`), and how far apart at the most (section
/// 9.11: `Unsolicited Report Interval`).
const SAID: u8 = 2;
const AGAIN_WITHIN: Duration = Duration::from_secs(1);
/// How long a querier of version 1 is taken to be there (RFC 3810, section 9.12: with the defaults of section 9).
const V1_KEPT: Duration = Duration::from_secs(260);

/// A report that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// As version 2 has it.
    Records(Vec<(Record, Ipv6Addr)>),
    /// As version 1 has it.
    V1(Ipv6Addr),
}

struct Group {
    /// Whether it is listened to; else it was.
    listens: bool,
    /// How often its change is still said, and when.
    left: u8,
    change_at: Option<Instant>,
    /// When a query is answered.
    answer_at: Option<Instant>,
}

/// All of them.
pub(crate) struct Groups {
    groups: BTreeMap<Ipv6Addr, Group>,
    v1_until: Option<Instant>,
    budget: Budget,
}

impl Groups {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            groups: BTreeMap::new(),
            v1_until: None,
            budget: Budget::new(limits::HOST_REPORTS_PER_SECOND, now),
        }
    }

    /// Listens to the groups of these addresses, and to no other.
    pub(crate) fn set(&mut self, addresses: impl Iterator<Item = IpAddr>, now: Instant) {
        let mut wanted: Vec<_> = addresses.filter_map(group_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for (address, group) in &mut self.groups {
            if group.listens && wanted.binary_search(address).is_err() {
                group.turn(false, now);
            }
        }
        for address in wanted {
            let group = self.groups.entry(address).or_insert(Group {
                listens: false,
                left: 0,
                change_at: None,
                answer_at: None,
            });
            if !group.listens {
                group.turn(true, now);
            }
        }
    }

    /// Says anew what is listened to: who forwards may be another, or may have heard nobody's word before.
    pub(crate) fn say_again(&mut self, now: Instant) {
        let listened = self.groups.values_mut().filter(|group| group.listens);
        listened.for_each(|group| group.turn(true, now));
    }

    /// Somebody asks who listens; whether that will be answered.
    pub(crate) fn queried(&mut self, query: MldQuery, random: &mut Random, now: Instant) -> bool {
        if query.is_v1 {
            self.v1_until = Some(now + V1_KEPT);
        }
        let at = now + random.between(Duration::ZERO, query.within);
        let asked = |address: Ipv6Addr| query.group.is_none_or(|group| group == address);
        let is_new = |group: &Group| group.answer_at.is_none_or(|before| before > at);
        let mut asked: Vec<_> = (self.groups.iter_mut())
            .filter(|(address, group)| group.listens && asked(**address) && is_new(group))
            .map(|(_, group)| group)
            .collect();
        if asked.is_empty() {
            return true;
        }
        let taken = self.budget.take(now);
        if taken {
            asked
                .iter_mut()
                .for_each(|group| group.answer_at = Some(at));
        }
        taken
    }

    /// What is due, all of one kind in as few reports as it takes.
    pub(crate) fn expire(&mut self, random: &mut Random, now: Instant) -> Vec<Report> {
        let again = now + random.between(Duration::ZERO, AGAIN_WITHIN);
        let is_v1 = self.v1_until.is_some_and(|until| until > now);
        let mut records = Vec::new();
        for (&address, group) in &mut self.groups {
            records.extend(group.due(again, now).map(|record| (record, address)));
        }
        self.groups
            .retain(|_, group| group.listens || group.left > 0);
        if is_v1 {
            let listened = records
                .iter()
                .filter(|(record, _)| *record != Record::Leaves);
            return listened.map(|&(_, group)| Report::V1(group)).collect();
        }
        let reports = records.chunks(limits::GROUPS_OF_REPORT);
        reports
            .map(|records| Report::Records(records.to_vec()))
            .collect()
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.groups.values();
        let due = due.flat_map(|group| [group.change_at, group.answer_at]);
        due.flatten().min()
    }
}

impl Group {
    fn turn(&mut self, listens: bool, now: Instant) {
        (self.listens, self.left, self.change_at) = (listens, SAID, Some(now));
    }

    fn due(&mut self, again: Instant, now: Instant) -> Option<Record> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let answers = is_due(self.answer_at);
        if answers {
            self.answer_at = None;
        }
        if !is_due(self.change_at) {
            return (answers && self.listens).then_some(Record::Listens);
        }
        self.left = self.left.saturating_sub(1);
        self.change_at = (self.left > 0).then_some(again);
        Some(match self.listens {
            true => Record::Joins,
            false => Record::Leaves,
        })
    }
}

fn group_of(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(solicited_node(address)),
    }
}
