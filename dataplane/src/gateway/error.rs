//! Error: what a peer is told of a packet that can't go on.
//!
//! In: a peer's packet and what hinders it. Out: an ICMP error for the tunnel that it came by, as a frame. Never: an
//! error about an error, to a group, or beyond the rate limit.

use culvert_wire::{
    EtherType, MacAddr, ether,
    icmp::{self, IcmpError},
    parse::{HEAD_LEN, Headers, L3},
};

use crate::{
    guest::deliver::ETHERNET,
    loss::{Lost, lose},
    shared::{drops::DropReason, limits::ICMP_ERRORS_PER_SECOND, peer::Peer},
    worker::turn::Turn,
};

/// Room for one error.
pub(crate) const ERROR_MAX: usize = ETHERNET + icmp::ANSWER_LEN_MAX;

/// Writes what `sender` is told of `packet`, which `headers` were parsed from; nothing if it may not be told.
pub(crate) fn write<'o>(
    turn: &Turn<'_>,
    sender: &Peer,
    (headers, packet): (&Headers, &[u8]),
    error: IcmpError,
    out: &'o mut [u8; ERROR_MAX],
) -> Option<&'o [u8]> {
    let network = turn.snapshot.tunnel(sender.tunnel)?.network;
    let network = turn.snapshot.network(network?)?;
    let v4 = matches!(headers.l3, L3::V4(_));
    let source = network.gateways.iter().find(|g| g.is_ipv4() == v4)?;
    let (ethernet, room) = out.split_at_mut(ETHERNET);
    let head = &packet[..packet.len().min(HEAD_LEN)];
    let len = icmp::write_error(error, headers, head, *source, room).ok()?;
    if !sender.errors.take(ICMP_ERRORS_PER_SECOND, turn.now) {
        lose(sender.books(), DropReason::IcmpLimited, Lost::Count(1));
        return None;
    }
    let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let nobody = MacAddr::ZERO;
    ethernet.copy_from_slice(&ether::header(nobody, nobody, ether_type));
    Some(&out[..ETHERNET + len])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use culvert_wire::{
        fib::Fib,
        ipv4::{self, Ipv4Fields},
        parse::parse_ip,
    };
    use culvert_wireguard::{Instant, PeerId};

    use super::*;
    use crate::shared::{
        control_link::Attention,
        ids::{NetworkIndex, PeerIndex, TunnelIndex},
        sessions::SessionTable,
        snapshot::{Network, Snapshot, Tunnel},
    };

    fn snapshot() -> Snapshot {
        let network = Network {
            name: "network".into(),
            gateway_mac: MacAddr::ZERO,
            gateways: vec!["10.0.0.1".parse().unwrap()],
            prefixes: Vec::new(),
            tunnel: Some(TunnelIndex(0)),
            macs: Default::default(),
            listeners: 0,
            routes: Fib::default(),
            plain: None,
            services: Default::default(),
        };
        let tunnel = Tunnel {
            name: "tunnel".into(),
            mtu: 1420,
            mss_clamp: false,
            network: Some(NetworkIndex(0)),
            allowed: Fib::default(),
            mac1: None,
            sessions: Arc::new(SessionTable::new(16)),
        };
        Snapshot {
            networks: [Some(Arc::new(network))].into_iter().collect(),
            tunnels: [Some(Arc::new(tunnel))].into_iter().collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn one_peers_errors_take_nothing_from_anothers() {
        let snapshot = snapshot();
        let attention = Attention::new().unwrap();
        let packet = ipv4::header(&Ipv4Fields {
            source: [10, 8, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            tos: 0,
            id: 1,
            dont_fragment: true,
            ttl: 1,
            protocol: 59,
            total_len: 20,
        });
        let headers = parse_ip(&packet).unwrap();
        let told = |peer: &Peer, seconds: u64, packets: usize| {
            let turn = Turn {
                snapshot: &snapshot,
                now: Instant::from_nanos(seconds * 1_000_000_000),
                attention: &attention,
                worker: 0,
            };
            let mut room = [0; ERROR_MAX];
            let about = (&headers, &packet[..]);
            let tell =
                |_: &usize| write(&turn, peer, about, IcmpError::TimeExceeded, &mut room).is_some();
            (0..packets).filter(tell).count()
        };
        let peers = [0, 1].map(|n| Peer::new(PeerIndex(n), TunnelIndex(0), PeerId(n)));
        let limit = ICMP_ERRORS_PER_SECOND as usize;
        assert_eq!(told(&peers[0], 100, limit + 500), limit);
        assert_eq!(told(&peers[1], 100, limit), limit);
        assert_eq!(told(&peers[0], 101, limit + 7), limit);
        assert_eq!(peers[0].drops.count(DropReason::IcmpLimited), 507);
        assert_eq!(peers[1].drops.count(DropReason::IcmpLimited), 0);
    }
}
