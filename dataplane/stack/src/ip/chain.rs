//! Chain: what lies between a packet's fixed header and what it carries.
//!
//! In: a packet that was parsed. Out: where the chain of headers ends, or what hinders a receiver to go by it. Never: a
//! header behind a fragment's: that is not this packet's.

use super::Refused;
use crate::HostDrop;

const V6_HEADER: usize = 40;

/// Protocol numbers of extension headers (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Headers that are walked.
const HEADERS_MAX: usize = 8;

/// Codes of parameter problems (RFC 4443, section 3.4).
const FIELD: u8 = 0;
const NEXT_HEADER: u8 = 1;
const OPTION: u8 = 2;

/// Where a chain ends; offsets are from the packet's start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At what the packet carries; `link` is the byte that names it.
    Upper { protocol: u8, link: usize },
    /// At a fragment header.
    Fragment { offset: usize, link: usize },
}

/// Walks the chain of an IPv6 packet.
pub(super) fn walk(packet: &[u8]) -> Result<End, Refused> {
    let malformed = Refused::silently(HostDrop::Malformed);
    let (mut link, mut offset) = (6, V6_HEADER);
    for place in 0..HEADERS_MAX {
        let protocol = *packet.get(link).ok_or(malformed)?;
        match protocol {
            FRAGMENT => return Ok(End::Fragment { offset, link }),
            HOP_BY_HOP if place > 0 => {
                return Err(Refused::parameter(HostDrop::Malformed, NEXT_HEADER, link));
            }
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            _ => return Ok(End::Upper { protocol, link }),
        }
        let header = packet.get(offset..).unwrap_or_default();
        let len = (usize::from(*header.get(1).ok_or(malformed)?) + 1) * 8;
        let header = header.get(..len).ok_or(malformed)?;
        match protocol {
            // Whatever the kind: none is known, and kind 0 is forbidden (RFC 5095).
            ROUTING if header[3] != 0 => {
                return Err(Refused::parameter(
                    HostDrop::SourceRouted,
                    FIELD,
                    offset + 2,
                ));
            }
            ROUTING => {}
            _ => options_v6(header, offset)?,
        }
        link = offset;
        offset += len;
    }
    Err(malformed)
}

/// An option that nobody knows says itself what becomes of its packet (RFC 8200, section 4.2).
fn options_v6(header: &[u8], offset: usize) -> Result<(), Refused> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let mut at = 2;
    while let Some(&kind) = header.get(at) {
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let end = header.get(at + 1).map(|&len| at + 2 + usize::from(len));
        let Some(end) = end.filter(|&end| end <= header.len()) else {
            return Err(Refused::silently(HostDrop::Malformed));
        };
        match (kind, kind >> 6) {
            (PADN | ROUTER_ALERT, _) | (_, 0) => {}
            (_, 1) => return Err(Refused::silently(HostDrop::OptionRefused)),
            _ => {
                return Err(Refused::parameter(
                    HostDrop::OptionRefused,
                    OPTION,
                    offset + at,
                ));
            }
        }
        at = end;
    }
    Ok(())
}

/// Looks at the options of an IPv4 header. Unknown ones are no hindrance (RFC 1122, section 3.2.1.8); that the sender
/// chose the way is (RFC 7126, sections 4.3, 4.4).
pub(super) fn options_v4(header: &[u8]) -> Result<(), Refused> {
    const FIXED: usize = 20;
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    let mut at = FIXED;
    while let Some(&kind) = header.get(at) {
        at += match kind {
            END => return Ok(()),
            NOTHING => 1,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(Refused::silently(HostDrop::SourceRouted)),
            _ => match header.get(at + 1) {
                Some(&len) if len >= 2 && at + usize::from(len) <= header.len() => usize::from(len),
                _ => return Err(Refused::parameter(HostDrop::Malformed, FIELD, at)),
            },
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use culvert_wire::icmp::IcmpError;

    use super::*;

    fn chain(first: u8, headers: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; V6_HEADER];
        packet[6] = first;
        packet.extend(headers.concat());
        packet
    }

    fn told(code: u8, pointer: u32) -> Option<IcmpError> {
        Some(IcmpError::ParameterProblem { code, pointer })
    }

    #[test]
    fn a_chain_is_walked_to_what_the_packet_carries() {
        let pads = [60, 0, 1, 4, 0, 0, 0, 0];
        let known = [44, 0, 5, 2, 0, 0, 0, 0];
        let routed = [17, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            walk(&chain(17, &[])),
            Ok(End::Upper {
                protocol: 17,
                link: 6
            })
        );
        assert_eq!(
            walk(&chain(0, &[&pads, &known])),
            Ok(End::Fragment {
                offset: 56,
                link: 48
            })
        );
        assert_eq!(
            walk(&chain(43, &[&routed])),
            Ok(End::Upper {
                protocol: 17,
                link: 40
            })
        );
    }

    #[test]
    fn what_hinders_a_receiver_is_named_with_its_place() {
        let refused = |first, headers: &[&[u8]]| walk(&chain(first, headers)).unwrap_err();
        let pads = [0, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(refused(0, &[&pads, &pads]).tell, told(NEXT_HEADER, 40));
        let routed = [17, 0, 0, 1, 0, 0, 0, 0];
        let it = refused(43, &[&routed]);
        assert_eq!(
            (it.reason, it.tell),
            (HostDrop::SourceRouted, told(FIELD, 42))
        );
        for (kind, tell) in [(0x41, None), (0x81, told(2, 43)), (0xc2, told(2, 43))] {
            let it = refused(0, &[&[17, 0, 0, kind, 3, 0, 0, 0]]);
            assert_eq!((it.reason, it.tell), (HostDrop::OptionRefused, tell));
        }
        // Cut short, or longer than it says.
        for headers in [
            &[17_u8][..],
            &[17, 1, 1, 4, 0, 0, 0, 0],
            &[17, 0, 1, 9, 0, 0, 0, 0],
        ] {
            assert_eq!(refused(60, &[headers]).reason, HostDrop::Malformed);
        }
        let onward = [60, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(refused(60, &[&onward[..]; 9]).reason, HostDrop::Malformed);
    }

    #[test]
    fn options_of_ipv4_are_whole_and_choose_no_way() {
        let with = |options: &[u8]| options_v4(&[&[0x46; 20][..], options].concat());
        assert_eq!(with(&[1, 148, 2, 0]), Ok(()));
        assert_eq!(with(&[148, 4, 0, 0, 0, 9, 9, 9]), Ok(()));
        for route in [131, 137] {
            let it = with(&[1, route, 3, 4]).unwrap_err();
            assert_eq!((it.reason, it.tell), (HostDrop::SourceRouted, None));
        }
        for short in [&[148, 1, 0, 0][..], &[148, 5, 0, 0], &[1, 1, 1, 148]] {
            let it = with(short).unwrap_err();
            assert_eq!(it.reason, HostDrop::Malformed);
            assert!(it.tell.is_some());
        }
    }
}
