//! Every key of the file: its form, its limits, its default and what it means.
//!
//! In: nothing. Out: the tables that the parser reads values by, that unknown keys are compared
//! with, and that `culvert schema` and `configs/README.md` are made from: one source for all of
//! them. Never: relations between keys; those are in the parser and in [`super::cross`].

mod api;
mod machine;
mod networks;
mod ports;
mod served;
#[cfg(test)]
mod tests;
mod tunnels;
mod uplinks;

pub use self::machine::FILE;
use self::{Form::Integer, api::API, networks::NETWORK, tunnels::TUNNEL, uplinks::UPLINK};
pub(super) use self::{networks::NETWORK_ROUTE, ports::PORT, tunnels::PEER};

/// A map whose keys are fixed.
#[derive(Debug)]
pub struct Table {
    /// What the map is called in messages: "tunnel".
    pub title: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys in the order of the reference.
    pub keys: &'static [Key],
}

impl Table {
    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// One key of a [`Table`].
#[derive(Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// The form of its value.
    pub form: Form,
    /// Whether it may be left out.
    pub presence: Presence,
    /// What it means.
    pub doc: &'static str,
}

/// Whether a key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may not.
    Required,
    /// It may, and then this holds (in words or as it would be written).
    Default(&'static str),
}

/// The form of a value.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Free text of one line.
    Text,
    /// An operator's name.
    Name,
    /// A name of something else in the file.
    Reference(&'static str),
    /// A whole number.
    Integer {
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path.
    Path,
    /// A base64 key.
    Key,
    /// An address with its prefix length; the host bits count.
    Interface,
    /// A prefix; the host bits are cleared.
    Prefix,
    /// A prefix or `default`.
    Destination,
    /// An IP address.
    Address,
    /// `ADDRESS:PORT`, `[ADDRESS]:PORT` or `NAME:PORT`.
    Endpoint,
    /// `ADDRESS:PORT` or `[ADDRESS]:PORT`, of this machine.
    Listen,
    /// A unicast Ethernet address.
    Mac,
    /// Whole seconds as `25`, `25s`, `2m`, `1h`; with a least of none `off`, too.
    Seconds {
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// Three or four octal digits.
    Permissions,
    /// A user's or a group's name or number.
    Account,
    /// A list.
    List(&'static Form),
    /// A list of maps of fixed keys.
    Tables(&'static Table),
    /// A map of fixed keys.
    Table(&'static Table),
    /// A map from operators' names to maps of fixed keys.
    Named(&'static Table),
    /// A map from whole numbers to maps of fixed keys, or to what the first of those would say alone.
    Numbered {
        /// The least number.
        min: u32,
        /// The greatest.
        max: u32,
        /// The maps.
        table: &'static Table,
        /// What stands for one.
        short: &'static Form,
    },
    /// A map from text to one of these words.
    Words(&'static [&'static str]),
    /// A map from keys to texts.
    Labels,
    /// Either of two.
    Either(&'static Form, &'static Form),
}

const fn key(name: &'static str, form: Form, presence: Presence, doc: &'static str) -> Key {
    Key {
        name,
        form,
        presence,
        doc,
    }
}

pub(super) const CPU: Form = Integer { min: 0, max: 1023 };
pub(super) const WORKERS: Form = Integer {
    min: 1,
    max: super::limits::WORKERS,
};
const QUEUES: Form = Integer {
    min: 1,
    max: super::limits::QUEUES,
};
pub(super) const WORKER_INDEX: Form = Integer {
    min: 0,
    max: super::limits::WORKERS - 1,
};
const MTU: Form = Integer {
    min: super::limits::MTU_MIN,
    max: super::limits::MTU_MAX,
};
const DESCRIPTORS: Form = Integer {
    min: 64,
    max: 32768,
};
