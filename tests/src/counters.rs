//! What a kernel counted, in a namespace or in a guest.
//!
//! In: the text of `/proc/net/snmp`, `/proc/net/netstat` and `/proc/net/snmp6`, one behind the other. Out: numbers by
//! name, as nstat calls them (`TcpInCsumErrors`, `IpExtInCEPkts`, `Udp6InCsumErrors`).
//! Never: a counter that is missing and reads as zero.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::network::Namespace;
use crate::process::Limit;

const READ: Limit = Limit::from_secs(10);

/// A kernel's counters.
#[derive(Clone, Debug)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Where they are read.
    pub const COMMAND: &'static str = "cat /proc/net/snmp /proc/net/netstat /proc/net/snmp6";

    /// A namespace's.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let words: Vec<&str> = Self::COMMAND.split(' ').collect();
        Self::parse(&namespace.run(&words, READ)?)
    }

    /// Reads what [`Counters::COMMAND`] printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut counters = BTreeMap::new();
        let lines: Vec<&str> = text.lines().collect();
        // IPv4 and what is common: a line of names, a line of numbers.
        for pair in lines.windows(2) {
            let [names, counts] = pair else { continue };
            let (Some((family, names)), Some((same, counts))) =
                (names.split_once(": "), counts.split_once(": "))
            else {
                continue;
            };
            if family != same {
                continue;
            }
            for (name, count) in names.split(' ').zip(counts.split(' ')) {
                // The one number that may be negative, TCP's MaxConn, is no counter.
                if let Ok(count) = count.trim().parse() {
                    counters.insert(format!("{family}{name}"), count);
                }
            }
        }
        // IPv6: a name and a number.
        for line in lines {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(count), None) = (words.next(), words.next(), words.next())
                && let Ok(count) = count.parse()
            {
                counters.insert(name.to_owned(), count);
            }
        }
        Ok(Self(counters))
    }

    /// One counter.
    pub fn count(&self, name: &str) -> Result<u64> {
        let count = self.0.get(name).copied();
        count.with_context(|| format!("no counter {name} in {:?}", self.0.keys()))
    }

    /// Fails if a checksum was found wrong, by whichever protocol.
    pub fn must_have_right_checksums(&self) -> Result<()> {
        // Nobody may have looked at the wrong ones.
        for name in [
            "IcmpInCsumErrors",
            "TcpInCsumErrors",
            "UdpInCsumErrors",
            "Icmp6InCsumErrors",
            "Udp6InCsumErrors",
        ] {
            self.count(name)?;
        }
        let is_wrong =
            |(name, count): &(&String, &u64)| name.ends_with("InCsumErrors") && **count > 0;
        let wrong: Vec<_> = self.0.iter().filter(is_wrong).collect();
        ensure!(wrong.is_empty(), "wrong checksums: {wrong:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Counters;

    const TEXT: &str = "Icmp: InMsgs InCsumErrors\nIcmp: 3 0\nTcp: MaxConn InCsumErrors\nTcp: -1 0\n\
        Udp: InCsumErrors\nUdp: 2\nIpExt: InCEPkts\nIpExt: 7\nIcmp6InCsumErrors   \t0\nUdp6InCsumErrors \t0\n";

    #[test]
    fn counters_have_the_names_that_nstat_gives_them() {
        let counters = Counters::parse(TEXT).unwrap();
        assert_eq!(counters.count("IpExtInCEPkts").unwrap(), 7);
        assert!(counters.count("TcpMaxConn").is_err());
        assert!(counters.must_have_right_checksums().is_err());
        let right = Counters::parse(&TEXT.replace("Udp: 2", "Udp: 0")).unwrap();
        right.must_have_right_checksums().unwrap();
    }

    #[test]
    fn a_counter_that_is_missing_is_no_zero() {
        let without = TEXT.replace("Udp6InCsumErrors", "Udp6Else");
        let counters = Counters::parse(&without).unwrap();
        assert!(counters.must_have_right_checksums().is_err());
    }
}
