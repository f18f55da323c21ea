//! A token bucket per source, for handshakes under load.
//!
//! In: source addresses whose cookie was verified, the time. Out: whether one more message is allowed. Never: more
//! than 65,536 sources; an IPv6 source narrower than its /64, of which a sender may own all addresses.

use core::net::IpAddr;
use std::collections::HashMap;

use crate::limits::{RATE_BURST, RATE_COLLECT_INTERVAL, RATE_MAX_SOURCES, RATE_PACKETS_PER_SECOND};
use crate::time::Instant;

/// Nanoseconds of rest that pay for one message.
const COST: u64 = 1_000_000_000 / RATE_PACKETS_PER_SECOND;
const FULL: u64 = COST * RATE_BURST;

/// An IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6(
                    [a, b, c, d]
                        .into_iter()
                        .fold(0, |bits, segment| bits << 16 | u64::from(segment)),
                )
            }
        }
    }
}

struct Bucket {
    tokens: u64,
    last: Instant,
}

/// All sources seen within the last second or two.
#[derive(Default)]
pub(crate) struct RateLimiter {
    buckets: HashMap<Source, Bucket>,
    collect_at: Option<Instant>,
}

impl RateLimiter {
    /// Whether a message from this address is allowed now; if so, it is paid for.
    pub(crate) fn allow(&mut self, address: IpAddr, now: Instant) -> bool {
        let full = self.buckets.len() >= RATE_MAX_SOURCES;
        let source = Source::of(address);
        if full && !self.buckets.contains_key(&source) {
            return false;
        }
        self.collect_at.get_or_insert(now + RATE_COLLECT_INTERVAL);
        let bucket = self.buckets.entry(source).or_insert(Bucket {
            tokens: FULL,
            last: now,
        });
        let rest = now.as_nanos().saturating_sub(bucket.last.as_nanos());
        bucket.tokens = bucket.tokens.saturating_add(rest).min(FULL);
        bucket.last = now;
        let allowed = bucket.tokens >= COST;
        if allowed {
            bucket.tokens -= COST;
        }
        allowed
    }

    /// When idle sources are to be forgotten.
    pub(crate) const fn collect_at(&self) -> Option<Instant> {
        self.collect_at
    }

    /// Forgets idle sources, if it is time.
    pub(crate) fn collect(&mut self, now: Instant) {
        if self.collect_at.is_none_or(|at| now < at) {
            return;
        }
        self.buckets
            .retain(|_, bucket| now.since(bucket.last) <= RATE_COLLECT_INTERVAL);
        if self.buckets.is_empty() {
            *self = Self::default();
        } else {
            self.collect_at = Some(now + RATE_COLLECT_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::time::Duration;

    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant(0) + Duration::from_millis(ms)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_of_five_then_twenty_a_second() {
        let mut limiter = RateLimiter::default();
        let a = ip("192.0.2.1");
        let burst = (0..10).filter(|_| limiter.allow(a, ms(1_000))).count();
        assert_eq!(burst, 5);
        assert!(!limiter.allow(a, ms(1_049)));
        assert!(limiter.allow(a, ms(1_050)));
        let second = (0..1_000)
            .filter(|n| limiter.allow(a, ms(2_000 + n)))
            .count();
        assert_eq!(second, 5 + 19);
        assert!(
            limiter.allow(ip("192.0.2.2"), ms(1_049)),
            "others are not affected"
        );
    }

    #[test]
    fn ipv6_counts_by_its_64() {
        let mut limiter = RateLimiter::default();
        let allowed = (0..10)
            .filter(|n| limiter.allow(ip(&format!("2001:db8:0:1::{n}")), ms(0)))
            .count();
        assert_eq!(allowed, 5);
        assert!(limiter.allow(ip("2001:db8:0:2::1"), ms(0)));
    }

    #[test]
    fn mapped_addresses_count_as_ipv4() {
        let mut limiter = RateLimiter::default();
        for n in 0..10 {
            assert!(limiter.allow(ip(&format!("::ffff:192.0.2.{n}")), ms(0)));
        }
        let again = (0..10)
            .filter(|_| limiter.allow(ip("192.0.2.1"), ms(0)))
            .count();
        assert_eq!(again, 4);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut limiter = RateLimiter::default();
        let sources = u32::try_from(RATE_MAX_SOURCES).unwrap();
        for n in 0..sources {
            assert!(limiter.allow(IpAddr::V4(Ipv4Addr::from_bits(n)), ms(0)));
        }
        assert!(!limiter.allow(ip("2001:db8::1"), ms(0)), "full");
        assert!(limiter.allow(ip("0.0.0.1"), ms(0)), "known sources go on");
        assert_eq!(limiter.collect_at(), Some(ms(1_000)));
        limiter.collect(ms(999));
        assert_eq!(limiter.buckets.len(), RATE_MAX_SOURCES);
        assert!(limiter.allow(ip("0.0.0.2"), ms(1_500)));
        limiter.collect(ms(1_600));
        assert_eq!(limiter.buckets.len(), 1);
        assert!(limiter.allow(ip("2001:db8::1"), ms(1_600)));
        limiter.collect(ms(9_000));
        assert!(limiter.buckets.is_empty() && limiter.buckets.capacity() == 0);
        assert_eq!(limiter.collect_at(), None);
    }
}
