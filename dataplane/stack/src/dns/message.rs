//! Messages: a question for a server of names, and what it answers (RFC 1035, section 4).
//!
//! In: a name, bytes of a server's. Out: a question's bytes; an answer that is to the question as it was asked, with what
//! it says of the name, by way of the names that it stands for. Never: what nobody asked; a record that is not needed;
//! more of them than the limits say.
//!
//! The format is `hickory-proto`'s, whose names end however they point at each other. Of a message the header, the
//! question and the answers are read: what a server has beside them may be wrong without harm.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder},
};

use crate::{HostDrop, limits};

/// An address's kind: each is asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    V4,
    V6,
}

impl Kind {
    const fn record(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Where the name is, and for how long that holds.
    Found(Vec<IpAddr>, Duration),
    /// There is no such name.
    NoName,
    /// The name has no address of that kind.
    NoAddress,
    /// It is too long for a datagram.
    Truncated,
    /// The server does not know, and says why.
    Failed(ResponseCode),
}

/// A name as it is asked for; `None` if it can't be one.
pub(super) fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The question for addresses of a kind, for one who asks others if he doesn't know.
pub(super) fn question(id: u16, name: &Name, kind: Kind) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind.record()));
    message.to_vec().ok()
}

/// What an answer says.
///
/// # Errors
/// Under which name it is lost: it is to another question, or can't be read.
pub(super) fn read(bytes: &[u8], id: u16, name: &Name, kind: Kind) -> Result<Answer, HostDrop> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).map_err(|_| HostDrop::NameMalformed)?;
    let Header { metadata, counts } = header;
    let is_answer =
        metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    if metadata.id != id || !is_answer || counts.queries != 1 {
        return Err(HostDrop::NameUnasked);
    }
    let asked = Message::read_queries(&mut decoder, 1).map_err(|_| HostDrop::NameMalformed)?;
    let is_ours = |it: &Query| {
        it.name == *name && it.query_type == kind.record() && it.query_class == DNSClass::IN
    };
    if !asked.iter().all(is_ours) {
        return Err(HostDrop::NameUnasked);
    }
    let code = metadata.response_code;
    if metadata.truncation {
        return Ok(Answer::Truncated);
    } else if code == ResponseCode::NXDomain {
        return Ok(Answer::NoName);
    } else if code != ResponseCode::NoError {
        return Ok(Answer::Failed(code));
    }
    let count = usize::from(counts.answers).min(limits::NAME_RECORDS);
    let records = Message::read_records(&mut decoder, count, false, OpCode::Query);
    let (records, ..) = records.map_err(|_| HostDrop::NameMalformed)?;
    Ok(found(&records, name, kind))
}

/// Where records say that a name is: it may stand for another one (RFC 1034, section 3.6.2).
fn found(records: &[Record], name: &Name, kind: Kind) -> Answer {
    let (mut name, mut lifetime) = (name, u32::MAX);
    for _ in 0..=limits::NAME_ALIASES {
        let of_name = || {
            let records = records.iter();
            records.filter(|it| it.dns_class == DNSClass::IN && it.name == *name)
        };
        let mut addresses = Vec::new();
        for (record, address) in of_name().filter_map(|it| Some((it, address(it, kind)?))) {
            if !addresses.contains(&address) && addresses.len() < limits::NAME_ADDRESSES {
                addresses.push(address);
                lifetime = lifetime.min(ttl(record));
            }
        }
        if !addresses.is_empty() {
            return Answer::Found(addresses, Duration::from_secs(lifetime.into()));
        }
        let alias = of_name().find_map(|it| {
            let RData::CNAME(alias) = &it.data else {
                return None;
            };
            Some((it, &alias.0))
        });
        let Some((record, stands_for)) = alias else {
            break;
        };
        lifetime = lifetime.min(ttl(record));
        name = stands_for;
    }
    Answer::NoAddress
}

/// What was never a lifetime is none (RFC 2181, section 8).
fn ttl(record: &Record) -> u32 {
    if record.ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        record.ttl
    }
}

/// A host's address of that kind.
fn address(record: &Record, kind: Kind) -> Option<IpAddr> {
    let address = record.data.ip_addr()?;
    let is_kind = address.is_ipv4() == (kind == Kind::V4);
    (is_kind && crate::routes::is_host(address)).then_some(address)
}

#[cfg(test)]
pub(crate) mod tests {
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    /// An answer to a question, as a server writes it: names, lifetimes and what they are.
    pub(crate) fn answer(question: &[u8], records: &[(&str, u32, &str)]) -> Message {
        let asked = Message::from_vec(question).unwrap();
        let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        message.add_queries(asked.queries);
        for &(owner, ttl, is) in records {
            let data = match is.parse() {
                Ok(IpAddr::V4(address)) => RData::A(A(address)),
                Ok(IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
                Err(_) => RData::CNAME(CNAME(name(is).unwrap())),
            };
            message.add_answer(Record::from_rdata(name(owner).unwrap(), ttl, data));
        }
        message
    }

    fn asked(kind: Kind) -> (Name, Vec<u8>) {
        let name = name("Peer.example.org").unwrap();
        let question = question(7, &name, kind).unwrap();
        (name, question)
    }

    fn says(records: &[(&str, u32, &str)], kind: Kind) -> Answer {
        let (name, question) = asked(kind);
        let bytes = answer(&question, records).to_vec().unwrap();
        read(&bytes, 7, &name, kind).unwrap()
    }

    fn addresses(texts: &[&str], seconds: u64) -> Answer {
        let texts = texts.iter().map(|text| text.parse().unwrap());
        Answer::Found(texts.collect(), Duration::from_secs(seconds))
    }

    #[test]
    fn addresses_are_found_behind_aliases_for_the_shortest_of_their_lifetimes() {
        let chain = [
            ("relay.example.net", 90, "192.0.2.7"),
            ("peer.EXAMPLE.org", 300, "a.example.net"),
            ("a.example.net", 60, "relay.example.net"),
            ("relay.example.net", 90, "192.0.2.8"),
            ("relay.example.net", 90, "2001:db8::8"),
            ("stranger.example.net", 1, "192.0.2.66"),
        ];
        let found = addresses(&["192.0.2.7", "192.0.2.8"], 60);
        assert_eq!(says(&chain, Kind::V4), found);
        assert_eq!(says(&chain, Kind::V6), addresses(&["2001:db8::8"], 60));
        assert_eq!(says(&chain[1..3], Kind::V4), Answer::NoAddress);
        assert_eq!(says(&[], Kind::V4), Answer::NoAddress);
        // What no host has is no place of a peer.
        let nobody = [
            ("peer.example.org", 60, "127.0.0.1"),
            ("peer.example.org", 60, "0.0.0.0"),
            ("peer.example.org", 60, "224.0.0.1"),
        ];
        assert_eq!(says(&nobody, Kind::V4), Answer::NoAddress);
        let forever = [("peer.example.org", 0x8000_0001, "192.0.2.7")];
        assert_eq!(says(&forever, Kind::V4), addresses(&["192.0.2.7"], 0));
    }

    #[test]
    fn names_that_stand_for_each_other_and_crowds_come_to_an_end() {
        let round = [
            ("peer.example.org", 9, "a.example.org"),
            ("a.example.org", 9, "peer.example.org"),
        ];
        assert_eq!(says(&round, Kind::V4), Answer::NoAddress);
        let crowd: Vec<_> = (1..=200).map(|n| format!("192.0.2.{n}")).collect();
        let crowd = crowd.iter().map(|it| ("peer.example.org", 9, it.as_str()));
        let Answer::Found(found, _) = says(&crowd.collect::<Vec<_>>(), Kind::V4) else {
            panic!("nothing is found");
        };
        assert_eq!(found.len(), limits::NAME_ADDRESSES);
    }

    #[test]
    fn what_nobody_asked_is_no_answer() {
        let (name, question) = asked(Kind::V4);
        let good = answer(&question, &[("peer.example.org", 9, "192.0.2.7")]);
        let bytes = |message: &Message| message.to_vec().unwrap();
        let lost = |bytes: &[u8]| read(bytes, 7, &name, Kind::V4).unwrap_err();
        assert!(read(&bytes(&good), 7, &name, Kind::V4).is_ok());
        assert_eq!(lost(&question), HostDrop::NameUnasked);
        let read_as = |id, name, kind| read(&bytes(&good), id, name, kind).unwrap_err();
        assert_eq!(read_as(8, &name, Kind::V4), HostDrop::NameUnasked);
        assert_eq!(read_as(7, &name, Kind::V6), HostDrop::NameUnasked);
        let other = super::name("peer.example.com").unwrap();
        assert_eq!(read_as(7, &other, Kind::V4), HostDrop::NameUnasked);
        let mut none = good.clone();
        none.queries.clear();
        assert_eq!(lost(&bytes(&none)), HostDrop::NameUnasked);
        let whole = bytes(&good);
        for len in 0..whole.len() {
            let lost = lost(&whole[..len]);
            assert_eq!(lost, HostDrop::NameMalformed, "{len} bytes");
        }
    }

    #[test]
    fn names_that_point_at_themselves_are_malformed() {
        let (name, question) = asked(Kind::V4);
        for pointer in [12_u16, 28, 30, 31, 200, 0x3fff] {
            let mut bytes = question.clone();
            (bytes[2], bytes[7]) = (0x81, 1);
            let at = u16::try_from(bytes.len()).unwrap();
            let pointer = if pointer == 31 { at } else { pointer };
            bytes.extend((0xc000 | pointer).to_be_bytes());
            bytes.extend([0, 5, 0, 1, 0, 0, 0, 9, 0, 2]);
            bytes.extend((0xc000 | (at + 12)).to_be_bytes());
            assert_eq!(
                read(&bytes, 7, &name, Kind::V4),
                Err(HostDrop::NameMalformed),
                "{pointer}"
            );
        }
    }

    #[test]
    fn refusals_and_what_is_too_long_are_told() {
        let (name, question) = asked(Kind::V4);
        let mut message = answer(&question, &[]);
        let mut says = |code, truncation| {
            message.metadata.response_code = code;
            message.metadata.truncation = truncation;
            read(&message.to_vec().unwrap(), 7, &name, Kind::V4).unwrap()
        };
        assert_eq!(says(ResponseCode::NXDomain, false), Answer::NoName);
        let refused = ResponseCode::Refused;
        assert_eq!(says(refused, false), Answer::Failed(refused));
        assert_eq!(says(ResponseCode::NoError, true), Answer::Truncated);
    }
}
