//! Which peer an inner address belongs to.
//!
//! In: prefixes of peers. Out: the peer of an address by longest prefix, for routing out and for the source check
//! in. Never: one prefix with two peers: inserting it again moves it, as `wg` does.
//!
//! A path-compressed binary trie per address family, in an arena of nodes, with a sorted set of prefixes per peer
//! for listing and removal. A look-up visits at most one node per bit of the address.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use std::collections::{BTreeSet, HashMap};

use crate::PeerId;

/// An address prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why text or numbers aren't a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The address doesn't parse.
    #[error("not an IP address")]
    Address,
    /// The length is no number, or longer than the address.
    #[error("not a prefix length of this address family")]
    Length,
}

impl Prefix {
    /// The prefix of `len` bits that holds this address; host bits are cleared.
    ///
    /// # Errors
    ///
    /// `len` is longer than the address.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let key = Key::of(address);
        if len > key.family.bits() {
            return Err(PrefixError::Length);
        }
        Ok(Self {
            address: key.family.address(key.bits & mask(len)),
            len,
        })
    }

    /// The prefix of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            len: Key::of(address).family.bits(),
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of fixed bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a size")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether the address lies in this prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs) = (Key::of(self.address), Key::of(address));
        ours.family == theirs.family && (ours.bits ^ theirs.bits) & mask(self.len) == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `address/length`, or an address alone as the prefix of that one address.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let Some((address, len)) = text.split_once('/') else {
            return text
                .parse()
                .map(Self::host)
                .map_err(|_| PrefixError::Address);
        };
        let address = address.parse().map_err(|_| PrefixError::Address)?;
        if len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PrefixError::Length);
        }
        Self::new(address, len.parse().map_err(|_| PrefixError::Length)?)
    }
}

/// The allowed IPs of all peers of one device.
#[derive(Clone, Debug, Default)]
pub struct AllowedIps {
    v4: Trie,
    v6: Trie,
    by_peer: HashMap<PeerId, BTreeSet<Prefix>>,
}

impl AllowedIps {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a prefix to a peer; returns the peer that it was taken from.
    pub fn insert(&mut self, prefix: Prefix, peer: PeerId) -> Option<PeerId> {
        let key = Key::of(prefix.address);
        let before = self.trie_mut(key.family).insert(key.bits, prefix.len, peer);
        if before == Some(peer) {
            return None;
        }
        if let Some(before) = before {
            self.forget(prefix, before);
        }
        self.by_peer.entry(peer).or_default().insert(prefix);
        before
    }

    /// Takes a prefix from a peer, if it is that peer's.
    pub fn remove(&mut self, prefix: Prefix, peer: PeerId) -> bool {
        if self.peer_of(prefix) != Some(peer) {
            return false;
        }
        let key = Key::of(prefix.address);
        self.trie_mut(key.family).remove(key.bits, prefix.len);
        self.forget(prefix, peer);
        true
    }

    /// Takes all prefixes from a peer; returns how many there were.
    pub fn remove_by_peer(&mut self, peer: PeerId) -> usize {
        let prefixes = self.by_peer.remove(&peer).unwrap_or_default();
        for prefix in &prefixes {
            let key = Key::of(prefix.address);
            self.trie_mut(key.family).remove(key.bits, prefix.len);
        }
        prefixes.len()
    }

    /// The peer whose longest prefix holds this address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        let key = Key::of(address);
        self.trie(key.family).lookup(key.bits)
    }

    /// The peer that has exactly this prefix.
    #[must_use]
    pub fn peer_of(&self, prefix: Prefix) -> Option<PeerId> {
        let key = Key::of(prefix.address);
        self.trie(key.family).get(key.bits, prefix.len)
    }

    /// The prefixes of a peer, in order.
    pub fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = Prefix> + '_ {
        self.by_peer.get(&peer).into_iter().flatten().copied()
    }

    /// All prefixes with their peers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, PeerId)> + '_ {
        self.by_peer
            .iter()
            .flat_map(|(peer, prefixes)| prefixes.iter().map(|prefix| (*prefix, *peer)))
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_peer.values().map(BTreeSet::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_peer.is_empty()
    }

    fn forget(&mut self, prefix: Prefix, peer: PeerId) {
        if let Some(prefixes) = self.by_peer.get_mut(&peer) {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
    }

    const fn trie(&self, family: Family) -> &Trie {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    const fn trie_mut(&mut self, family: Family) -> &mut Trie {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    const fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

/// An address as bits, the first one topmost.
struct Key {
    family: Family,
    bits: u128,
}

impl Key {
    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self {
                family: Family::V4,
                bits: (address.to_bits() as u128) << 96,
            },
            IpAddr::V6(address) => Self {
                family: Family::V6,
                bits: address.to_bits(),
            },
        }
    }
}

const fn mask(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - len)
    }
}

/// The bit at `at`, as the index of a child; beyond the end it is 0.
const fn branch(bits: u128, at: u8) -> usize {
    if at < 128 && bits & (1 << (127 - at)) != 0 {
        1
    } else {
        0
    }
}

fn common_len(a: u128, b: u128, limit: u8) -> u8 {
    let same = u8::try_from((a ^ b).leading_zeros()).expect("at most 128");
    same.min(limit)
}

/// A place in the arena; 0 means none, so that places take four bytes.
type Link = u32;
const NONE: Link = 0;

#[derive(Clone, Debug)]
struct Node {
    bits: u128,
    len: u8,
    peer: Option<PeerId>,
    children: [Link; 2],
}

#[derive(Clone, Debug)]
struct Trie {
    /// Place 0 is the root: the empty prefix, always there, never anyone's child.
    nodes: Vec<Node>,
    free: Vec<Link>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node {
                bits: 0,
                len: 0,
                peer: None,
                children: [NONE; 2],
            }],
            free: Vec::new(),
        }
    }
}

impl Trie {
    fn lookup(&self, bits: u128) -> Option<PeerId> {
        let mut best = None;
        let mut at = self.root();
        loop {
            best = at.peer.or(best);
            let child = at.children[branch(bits, at.len)];
            if child == NONE {
                return best;
            }
            at = self.node(child);
            if (at.bits ^ bits) & mask(at.len) != 0 {
                return best;
            }
        }
    }

    fn get(&self, bits: u128, len: u8) -> Option<PeerId> {
        let mut at = self.root();
        while at.len < len {
            let child = at.children[branch(bits, at.len)];
            if child == NONE {
                return None;
            }
            at = self.node(child);
            if (at.bits ^ bits) & mask(at.len.min(len)) != 0 {
                return None;
            }
        }
        if at.len == len { at.peer } else { None }
    }

    /// Sets the peer of a prefix; returns the one it had.
    fn insert(&mut self, bits: u128, len: u8, peer: PeerId) -> Option<PeerId> {
        let mut at = NONE;
        loop {
            let node = self.node_mut(at);
            if node.len == len {
                return node.peer.replace(peer);
            }
            let side = branch(bits, node.len);
            let child = node.children[side];
            if child == NONE {
                let leaf = self.allocate(Node {
                    bits,
                    len,
                    peer: Some(peer),
                    children: [NONE; 2],
                });
                self.node_mut(at).children[side] = leaf;
                return None;
            }
            let below = self.node(child);
            let common = common_len(below.bits, bits, below.len.min(len));
            if common == below.len {
                at = child;
                continue;
            }
            // The new prefix and the child part ways here: a node between them, or the new prefix itself.
            let below_bits = below.bits;
            let mut children = [NONE; 2];
            children[branch(below_bits, common)] = child;
            let between = if common == len {
                self.allocate(Node {
                    bits,
                    len,
                    peer: Some(peer),
                    children,
                })
            } else {
                let leaf = self.allocate(Node {
                    bits,
                    len,
                    peer: Some(peer),
                    children: [NONE; 2],
                });
                children[branch(bits, common)] = leaf;
                self.allocate(Node {
                    bits: bits & mask(common),
                    len: common,
                    peer: None,
                    children,
                })
            };
            self.node_mut(at).children[side] = between;
            return None;
        }
    }

    /// Forgets a prefix, and the nodes that only it needed.
    fn remove(&mut self, bits: u128, len: u8) {
        let (mut grandparent, mut parent, mut at) = (NONE, NONE, NONE);
        while self.node(at).len < len {
            let child = self.node(at).children[branch(bits, self.node(at).len)];
            if child == NONE
                || (self.node(child).bits ^ bits) & mask(self.node(child).len.min(len)) != 0
            {
                return;
            }
            (grandparent, parent, at) = (parent, at, child);
        }
        if self.node(at).len != len {
            return;
        }
        self.node_mut(at).peer = None;
        if at != NONE && self.splice(parent, at) && parent != NONE {
            self.splice(grandparent, parent);
        }
    }

    /// Takes a node without a peer out of the tree if it has at most one child. True if it went.
    fn splice(&mut self, parent: Link, at: Link) -> bool {
        let node = self.node(at);
        let (None, [NONE, heir] | [heir, NONE]) = (node.peer, node.children) else {
            return false;
        };
        let parent = self.node_mut(parent);
        let side = usize::from(parent.children[1] == at);
        parent.children[side] = heir;
        self.free.push(at);
        true
    }

    fn allocate(&mut self, node: Node) -> Link {
        if let Some(link) = self.free.pop() {
            *self.node_mut(link) = node;
            return link;
        }
        let link =
            Link::try_from(self.nodes.len()).expect("fewer than 2^32 prefixes fit in memory");
        self.nodes.push(node);
        link
    }

    fn root(&self) -> &Node {
        &self.nodes[0]
    }

    fn node(&self, link: Link) -> &Node {
        &self.nodes[link as usize]
    }

    fn node_mut(&mut self, link: Link) -> &mut Node {
        &mut self.nodes[link as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const A: PeerId = PeerId(0);
    const B: PeerId = PeerId(1);

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = AllowedIps::new();
        for (text, peer) in [
            ("0.0.0.0/0", A),
            ("10.0.0.0/8", B),
            ("10.1.0.0/16", A),
            ("10.1.2.3", B),
            ("::/0", B),
        ] {
            assert_eq!(table.insert(prefix(text), peer), None);
        }
        assert_eq!(table.lookup(ip("192.0.2.1")), Some(A));
        assert_eq!(table.lookup(ip("10.2.0.1")), Some(B));
        assert_eq!(table.lookup(ip("10.1.2.4")), Some(A));
        assert_eq!(table.lookup(ip("10.1.2.3")), Some(B));
        assert_eq!(table.lookup(ip("2001:db8::1")), Some(B));
        assert_eq!(table.len(), 5);
    }

    #[test]
    fn families_are_apart() {
        let mut table = AllowedIps::new();
        table.insert(prefix("::/0"), A);
        assert_eq!(table.lookup(ip("10.0.0.1")), None);
        table.insert(prefix("0.0.0.0/0"), B);
        assert_eq!(table.lookup(ip("::ffff:10.0.0.1")), Some(A));
    }

    #[test]
    fn a_prefix_moves_between_peers() {
        let mut table = AllowedIps::new();
        table.insert(prefix("10.0.0.0/24"), A);
        assert_eq!(table.insert(prefix("10.0.0.77/24"), B), Some(A));
        assert_eq!(table.of_peer(A).count(), 0);
        assert_eq!(
            table.of_peer(B).collect::<Vec<_>>(),
            [prefix("10.0.0.0/24")]
        );
        assert!(!table.remove(prefix("10.0.0.0/24"), A));
        assert!(table.remove(prefix("10.0.0.0/24"), B));
        assert!(table.is_empty());
        assert_eq!(table.lookup(ip("10.0.0.1")), None);
    }

    #[test]
    fn a_peer_leaves_with_all_its_prefixes_and_their_nodes() {
        let mut table = AllowedIps::new();
        for host in 0..=255 {
            table.insert(
                Prefix::host(IpAddr::from([10, 0, 0, host])),
                if host % 2 == 0 { A } else { B },
            );
        }
        assert_eq!(table.remove_by_peer(A), 128);
        assert_eq!(table.lookup(ip("10.0.0.2")), None);
        assert_eq!(table.lookup(ip("10.0.0.3")), Some(B));
        assert_eq!(table.remove_by_peer(B), 128);
        assert_eq!(table.remove_by_peer(B), 0);
        assert_eq!(
            table.v4.nodes.len() - table.v4.free.len(),
            1,
            "only the root is left"
        );
    }

    #[test]
    fn prefixes_parse_as_wg_writes_them() {
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::1/128");
        assert_eq!(prefix("255.255.255.255/0").to_string(), "0.0.0.0/0");
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/+8",
            "::/256",
            "10.0.0.0/8/8",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn containment() {
        assert!(prefix("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!prefix("10.0.0.0/8").contains(ip("11.0.0.0")));
        assert!(!prefix("::/0").contains(ip("11.0.0.0")));
        assert!(prefix("::/0").contains(ip("ff::")));
    }

    /// Addresses that share long prefixes, so that the trie branches everywhere.
    fn crowded() -> impl Strategy<Value = IpAddr> + Clone {
        prop_oneof![
            prop::array::uniform4(prop_oneof![Just(0_u8), Just(1), Just(128), Just(255)])
                .prop_map(IpAddr::from),
            (any::<u8>(), any::<u8>()).prop_map(|(a, b)| {
                let mut bytes = [0; 16];
                (bytes[0], bytes[15]) = (a & 0x81, b & 0x83);
                IpAddr::from(bytes)
            }),
        ]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Prefix, PeerId),
        Remove(Prefix, PeerId),
        RemovePeer(PeerId),
    }

    fn step() -> impl Strategy<Value = Step> {
        let prefix = (crowded(), any::<u8>()).prop_map(|(address, len)| {
            let bits = Key::of(address).family.bits();
            Prefix::new(address, len % (bits + 1)).unwrap()
        });
        let peer = (0_u32..4).prop_map(PeerId);
        prop_oneof![
            12 => (prefix.clone(), peer.clone()).prop_map(|(prefix, peer)| Step::Insert(prefix, peer)),
            6 => (prefix, peer.clone()).prop_map(|(prefix, peer)| Step::Remove(prefix, peer)),
            1 => peer.prop_map(Step::RemovePeer),
        ]
    }

    proptest! {
        /// Against a map that is searched from end to end.
        #[test]
        fn agrees_with_a_linear_search(
            steps in prop::collection::vec(step(), 1..120),
            addresses in prop::collection::vec(crowded(), 1..40),
        ) {
            let mut table = AllowedIps::new();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(prefix, peer) => {
                        let before = model.insert(prefix, peer).filter(|before| *before != peer);
                        prop_assert_eq!(table.insert(prefix, peer), before);
                    }
                    Step::Remove(prefix, peer) => {
                        let there = model.get(&prefix) == Some(&peer);
                        if there {
                            model.remove(&prefix);
                        }
                        prop_assert_eq!(table.remove(prefix, peer), there);
                    }
                    Step::RemovePeer(peer) => {
                        let before = model.len();
                        model.retain(|_, owner| *owner != peer);
                        prop_assert_eq!(table.remove_by_peer(peer), before - model.len());
                    }
                }
                let live: usize = [&table.v4, &table.v6].iter().map(|t| t.nodes.len() - t.free.len()).sum();
                prop_assert!(live <= 2 + 2 * model.len(), "nodes leak: {live} for {}", model.len());
            }
            let mut listed: Vec<_> = table.iter().collect();
            listed.sort_unstable();
            prop_assert!(listed.into_iter().eq(model.iter().map(|(prefix, peer)| (*prefix, *peer))));
            for address in addresses {
                let longest = model.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(p, _)| p.len());
                prop_assert_eq!(table.lookup(address), longest.map(|(_, peer)| *peer));
            }
        }
    }
}
