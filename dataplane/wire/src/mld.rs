//! Multicast listener discovery (RFC 3810, RFC 2710): queries, and reports of whole groups.
//!
//! In: an ICMPv6 packet, or groups to report. Out: a query that passed every check of RFC 3810, sections 5.1 and 6.2; or a
//! whole frame. Never: a list of sources: whoever listens here listens to all of them.

use std::{net::Ipv6Addr, time::Duration};

use crate::bytes::array;
use crate::ether::{self, EtherType, MacAddr};
use crate::icmp::checksum_v6;
use crate::ipv6::{self, Ipv6Fields};
use crate::parse::{Headers, L3, L4, PROTOCOL_ICMPV6};

/// The type of a query.
pub const QUERY: u8 = 130;
const REPORT_V1: u8 = 131;
const REPORT_V2: u8 = 143;

/// All routers that listen to reports of version 2 (RFC 3810, section 5.2.14).
const REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

const HOP_BY_HOP: u8 = 0;
/// The hop-by-hop header of all messages: a router alert (RFC 2711), and padding.
const ALERT: [u8; 8] = [PROTOCOL_ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// A valid query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MldQuery {
    /// Who listens to this group? `None`: to any.
    pub group: Option<Ipv6Addr>,
    /// Within this time an answer is to come.
    pub within: Duration,
    /// The querier knows version 1 alone.
    pub is_v1: bool,
}

impl MldQuery {
    /// Checks and reads a query; `frame` is what `headers` was parsed from, and must hold it whole. `None`: it is none.
    pub fn parse(headers: &Headers, frame: &[u8]) -> Option<Self> {
        let (L3::V6(ip), L4::Icmp6(icmp)) = (headers.l3, headers.l4) else {
            return None;
        };
        let end = headers.l3_offset + headers.ip_len;
        let message = frame.get(headers.l4_offset..end)?;
        let is_near = ip.source.is_unicast_link_local() && ip.hop_limit == 1;
        let options = frame.get(headers.l3_offset + ipv6::HEADER_LEN..headers.l4_offset)?;
        if icmp.kind != QUERY || !is_near || !has_alert(options) {
            return None;
        }
        if checksum_v6(ip.source, ip.destination, message) != 0 {
            return None;
        }
        let group = Ipv6Addr::from(*array::<16>(message, 8)?);
        // RFC 3810, section 8.1: the length is what tells versions apart; 25 to 27 bytes are none.
        let is_v1 = match message.len() {
            24 => true,
            28.. => false,
            _ => return None,
        };
        let code = u16::from_be_bytes(*array::<2>(message, 4)?);
        let group = (!group.is_unspecified()).then_some(group);
        if group.is_some_and(|group| !group.is_multicast()) {
            return None;
        }
        Some(Self {
            group,
            within: Duration::from_millis(millis(code, is_v1)),
            is_v1,
        })
    }
}

/// A long time is a mantissa and an exponent (RFC 3810, section 5.1.3).
fn millis(code: u16, is_v1: bool) -> u64 {
    let code = u64::from(code);
    match code & 0x8000 == 0 || is_v1 {
        true => code,
        false => (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3),
    }
}

/// Whether the first header behind the fixed one is a hop-by-hop one with a router alert.
fn has_alert(options: &[u8]) -> bool {
    let mut rest = options.get(2..).unwrap_or_default();
    while let Some((&kind, behind)) = rest.split_first() {
        let len = match kind {
            5 => return true,
            0 => 0,
            _ => behind.first().map_or(0, |&len| usize::from(len) + 1),
        };
        rest = behind.get(len..).unwrap_or_default();
    }
    false
}

/// What a record says of its group (RFC 3810, section 5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It is listened to.
    Listens,
    /// It is from now on.
    Joins,
    /// It isn't any more.
    Leaves,
}

/// The frame of a report of version 2.
pub fn report(mac: MacAddr, source: Ipv6Addr, records: &[(Record, Ipv6Addr)]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    let mut message = vec![REPORT_V2, 0, 0, 0, 0, 0];
    message.extend(count.to_be_bytes());
    for &(record, group) in records.iter().take(count.into()) {
        let kind = match record {
            Record::Listens => 2,
            Record::Leaves => 3,
            Record::Joins => 4,
        };
        message.extend([kind, 0, 0, 0]);
        message.extend(group.octets());
    }
    packet((mac, source), REPORTS, message)
}

/// The frame of a report of version 1 on one group.
pub fn report_v1(mac: MacAddr, source: Ipv6Addr, group: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![REPORT_V1, 0, 0, 0, 0, 0, 0, 0];
    message.extend(group.octets());
    packet((mac, source), group, message)
}

fn packet((mac, source): (MacAddr, Ipv6Addr), to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum_v6(source, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = ALERT.len() + message.len();
    let header = ipv6::header(&Ipv6Fields {
        source,
        destination: to,
        traffic_class: 0,
        hop_limit: 1,
        next_header: HOP_BY_HOP,
        payload_len: u16::try_from(len).unwrap_or(u16::MAX),
    });
    let group = MacAddr::from_ipv6_multicast(to);
    let ethernet = ether::header(group, mac, EtherType::IPV6);
    [&ethernet[..], &header, &ALERT, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_frame;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const NEAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

    fn query(source: Ipv6Addr, code: u16, group: Ipv6Addr, len: usize) -> Vec<u8> {
        let mut message = vec![QUERY, 0, 0, 0];
        message.extend(code.to_be_bytes());
        message.extend([0, 0]);
        message.extend(group.octets());
        message.resize(len, 0);
        packet((MAC, source), ALL, message)
    }

    fn read(frame: &[u8]) -> Option<MldQuery> {
        let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
        MldQuery::parse(&headers, frame)
    }

    #[test]
    fn queries_of_both_versions_are_read() {
        for (code, len, expected) in [
            (10_000, 28, 10_000),
            (10_000, 24, 10_000),
            (0x8000, 28, 32_768),
            (0xffff, 28, 8_387_584),
            (0x8000, 24, 32_768),
        ] {
            for group in [None, Some(GROUP)] {
                let frame = query(NEAR, code, group.unwrap_or(Ipv6Addr::UNSPECIFIED), len);
                let within = Duration::from_millis(expected);
                let is_v1 = len == 24;
                let query = MldQuery {
                    group,
                    within,
                    is_v1,
                };
                assert_eq!(read(&frame), Some(query));
            }
        }
    }

    #[test]
    fn what_may_come_from_afar_is_no_query() {
        let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        assert_eq!(read(&query(far, 1, GROUP, 28)), None);
        assert_eq!(read(&query(NEAR, 1, far, 28)), None);
        for len in [20, 25, 27] {
            assert_eq!(read(&query(NEAR, 1, GROUP, len)), None);
        }
        let good = query(NEAR, 1, GROUP, 28);
        for (at, value) in [(21, 64), (56, 1), (62, 131), (70, 9)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(read(&bad), None, "{at}");
        }
        assert_eq!(read(&report(MAC, NEAR, &[(Record::Listens, GROUP)])), None);
    }

    #[test]
    fn reports_are_as_they_were_captured() {
        // Linux 6.1 on joining a solicited-node group, from a link-local address.
        let frame = report(MAC, NEAR, &[(Record::Joins, GROUP)]);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 0x16]);
        assert_eq!(frame[18..22], [0, 36, 0, 1]);
        assert_eq!(frame[54..62], [58, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(frame[62..64], [143, 0]);
        assert_eq!(frame[66..74], [0, 0, 0, 1, 4, 0, 0, 0]);
        assert_eq!(frame[74..], GROUP.octets());
        assert_eq!(checksum_v6(NEAR, REPORTS, &frame[62..]), 0);
        let old = report_v1(MAC, NEAR, GROUP);
        assert_eq!(old[38..54], GROUP.octets());
        assert_eq!(checksum_v6(NEAR, GROUP, &old[62..]), 0);
    }
}
