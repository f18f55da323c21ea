use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    prefix::{mask_v4, mask_v6},
    routes::{LEAF_MAX, LEAF_MIN},
    *,
};

fn naive(routes: &[(Prefix, u32)], address: IpAddr) -> Option<u32> {
    let mut best: Option<(u8, u32)> = None;
    for (prefix, value) in routes {
        if prefix.contains(address) && best.is_none_or(|(len, _)| prefix.len() >= len) {
            best = Some((prefix.len(), *value));
        }
    }
    best.map(|(_, value)| value)
}

/// Addresses that crowd together, so that prefixes nest and abut.
fn v4() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>(),
        (0u32..64).prop_map(|n| n << 26),
        (0u32..512).prop_map(|n| 0x0a00_0000 | n),
        (0u32..512).prop_map(|n| u32::MAX - n),
    ]
    .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u128>(),
        (0u128..64).prop_map(|n| n << 122),
        (0u128..512).prop_map(|n| (0xfd << 120) | (n << 60)),
        (0u128..512).prop_map(|n| u128::MAX - n),
    ]
    .prop_map(|bits| Ipv6Addr::from_bits(bits).into())
}

fn route() -> impl Strategy<Value = (Prefix, u32)> {
    let prefix = prop_oneof![
        (v4(), 0u8..=32).prop_map(|(a, len)| Prefix::new(a, len).unwrap()),
        (v6(), 0u8..=128).prop_map(|(a, len)| Prefix::new(a, len).unwrap()),
    ];
    (prefix, 0u32..8)
}

proptest! {
    #[test]
    fn agrees_with_a_scan(
        routes in vec(route(), 0..300),
        probes in vec(prop_oneof![v4(), v6()], 100),
    ) {
        let fib = Fib::build(routes.iter().copied());
        let edges = routes.iter().flat_map(|(prefix, _)| match prefix.address() {
            IpAddr::V4(a) => {
                let last = a.to_bits() | !mask_v4(prefix.len());
                [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                    .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
            }
            IpAddr::V6(a) => {
                let last = a.to_bits() | !mask_v6(prefix.len());
                [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                    .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
            }
        });
        for address in edges.chain(probes) {
            prop_assert_eq!(fib.lookup(address), naive(&routes, address), "{}", address);
        }
    }
}

/// Prefixes that crowd together, of two ranks.
fn change() -> impl Strategy<Value = (bool, Prefix, u8, u32)> {
    (any::<bool>(), route(), 0u8..2)
        .prop_map(|(comes, (prefix, value), rank)| (comes, prefix, rank, value % 3))
}

proptest! {
    #[test]
    fn changes_come_to_what_a_build_does(
        begin in vec(route(), 0..40),
        changes in vec(change(), 1..80),
        probes in vec(prop_oneof![v4(), v6()], 20),
    ) {
        let mut model: BTreeMap<(Prefix, u8), u32> = begin.iter().map(|(p, v)| ((*p, 0), *v)).collect();
        let mut routes = Routes::build(begin.iter().map(|(prefix, value)| (*prefix, 0, *value)));
        let old = routes.fib();
        for (comes, prefix, rank, value) in changes {
            if comes {
                model.insert((prefix, rank), value);
                routes.set(prefix, rank, value);
            } else if model.get(&(prefix, rank)) == Some(&value) {
                model.remove(&(prefix, rank));
                routes.unset(prefix, rank, value);
            } else {
                routes.unset(prefix, rank, value);
            }
        }
        let fib = routes.fib();
        let all: Vec<_> = model.iter().map(|((prefix, _), value)| (*prefix, *value)).collect();
        let edges = all.iter().chain(&begin).flat_map(|(prefix, _)| match prefix.address() {
            IpAddr::V4(a) => {
                let last = a.to_bits() | !mask_v4(prefix.len());
                [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                    .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
            }
            IpAddr::V6(a) => {
                let last = a.to_bits() | !mask_v6(prefix.len());
                [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                    .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
            }
        });
        for address in edges.chain(probes) {
            prop_assert_eq!(fib.lookup(address), naive(&all, address), "{}", address);
            prop_assert_eq!(old.lookup(address), naive(&begin, address), "{}", address);
        }
    }
}

#[test]
fn a_change_among_many_shares_all_leaves_but_one() {
    let prefix = |n: u32| Prefix::new(Ipv4Addr::from_bits(n << 8).into(), 24).unwrap();
    let mut routes = Routes::build((0..100_000).map(|n| (prefix(n), 0, n)));
    let before = routes.fib();
    routes.set(prefix(50_000), 0, 7);
    let after = routes.fib();
    let old = before.v4.leaves.iter();
    let shared = old.filter(|old| after.v4.leaves.iter().any(|new| Arc::ptr_eq(old, new)));
    assert_eq!(shared.count(), before.v4.leaves.len() - 1);
    assert_eq!(after.lookup(prefix(50_000).address()), Some(7));
    assert_eq!(before.lookup(prefix(50_000).address()), Some(50_000));
}

#[test]
fn leaves_that_grow_are_cut_and_those_that_shrink_joined() {
    let prefix = |n: u32| Prefix::new(Ipv4Addr::from_bits(n).into(), 32).unwrap();
    let mut routes = Routes::default();
    (0..10_000).for_each(|n| routes.set(prefix(2 * n), 0, n));
    let full = routes.fib().v4.leaves.len();
    assert!(
        (20_000 / LEAF_MAX..=20_000 / LEAF_MIN).contains(&full),
        "{full}"
    );
    (0..9_990).for_each(|n| routes.unset(prefix(2 * n), 0, n));
    let left = routes.fib().v4.leaves.len();
    assert!(left <= 2, "{left}");
    assert_eq!(
        routes.fib().lookup_v4(Ipv4Addr::from_bits(2 * 9_995)),
        Some(9_995)
    );
}

#[test]
fn an_empty_table_knows_nothing() {
    let fib = Fib::<u32>::default();
    assert_eq!(fib.lookup("255.255.255.255".parse().unwrap()), None);
    assert_eq!(fib.lookup("::".parse().unwrap()), None);
}

#[test]
fn a_hundred_thousand_prefixes_stay_compact_and_right() {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(state >> 32).unwrap()
    };
    let mut routes = Vec::new();
    for value in 0..50_000u32 {
        let len = 8 + u8::try_from(next() % 25).unwrap();
        let v4 = Ipv4Addr::from_bits(next());
        routes.push((Prefix::new(v4.into(), len).unwrap(), value));
        let v6 = u128::from(next()) << 96 | u128::from(next()) << 64;
        let v6 = Ipv6Addr::from_bits(v6);
        routes.push((Prefix::new(v6.into(), 4 * len).unwrap(), value));
    }
    let fib = Fib::build(routes.iter().copied());
    // At most 2n + 1 ranges of each family, the trees' upper levels below a fifth.
    assert!(fib.heap_bytes() < 50_000 * 2 * (13 + 25) * 4 / 3);
    for (prefix, _) in routes.iter().step_by(997) {
        let address = prefix.address();
        assert_eq!(fib.lookup(address), naive(&routes, address));
    }
}

proptest! {
    #[test]
    fn what_overlaps_is_found(all in vec(route(), 0..40), (with, _) in route()) {
        let routes = Routes::build(all.iter().map(|(prefix, value)| (*prefix, 0, *value)));
        let overlaps = |prefix: &Prefix| {
            prefix.len() >= 2 && (prefix.contains(with.address()) || with.contains(prefix.address()))
        };
        let found = routes.overlap(with, 2);
        prop_assert_eq!(found.is_some(), all.iter().any(|(prefix, _)| overlaps(prefix)), "{:?}", found);
        prop_assert!(found.is_none_or(|found| overlaps(&found)));
    }
}
