//! Services: what an uplink serves by itself, by port.
//!
//! In: what the configuration says of an uplink. Out: the ports that its stack listens on, and for whom; what a
//! connection to one of them is for; the responder's answers. Never: a port that two have.

use std::net::IpAddr;

use culvert_stack::{
    HostStack,
    tcp::{self, ConnectionId, Listener},
};
use culvert_wire::fib::Prefix;
use culvert_wireguard::Instant;
use ipnet::IpNet;

use crate::{
    api::arrivals::Wanted,
    config::{RESPONDER_PORTS, Served},
};

/// What an uplink serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Services(Vec<(Service, Listener)>);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Somebody of the API's thread.
    Reads(Wanted),
    /// The responder.
    Answers(Answer),
}

/// What the responder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The same (RFC 862).
    Echo,
    /// Nothing (RFC 863).
    Discard,
    /// A pattern without end, and how far it is (RFC 864).
    Chargen(usize),
}

impl Services {
    /// What the configuration says.
    pub(crate) fn new(served: &Served) -> Self {
        let door = |wanted, door: &crate::config::Door| {
            let service = Service::Reads(wanted);
            (service, service.listener(door.port, &door.allow))
        };
        let api = served.api.iter().map(|it| door(Wanted::Api, it));
        let metrics = served.metrics.iter().map(|it| door(Wanted::Metrics, it));
        let answers = [Answer::Echo, Answer::Discard, Answer::Chargen(0)];
        let responder = RESPONDER_PORTS.into_iter().zip(answers);
        let responder = responder
            .filter(|_| !served.responder.is_empty())
            .map(|(port, answer)| {
                let service = Service::Answers(answer);
                (service, service.listener(port, &served.responder))
            });
        Self(api.chain(metrics).chain(responder).collect())
    }

    /// What the stack listens on.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        self.0
            .iter()
            .map(|(_, listener)| listener.clone())
            .collect()
    }

    /// TCP ports that are not the kernel's where it shares the uplink.
    pub(crate) fn tcp_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().map(|(_, listener)| listener.port)
    }

    /// The same of UDP.
    pub(crate) fn udp_ports(&self) -> impl Iterator<Item = u16> + '_ {
        let answers = |(service, _): &&(Service, Listener)| matches!(service, Service::Answers(_));
        self.0
            .iter()
            .filter(answers)
            .map(|(_, listener)| listener.port)
    }

    /// What that port is for, and for whom.
    pub(super) fn at(&self, port: u16) -> Option<(Service, &Listener)> {
        let mut services = self.0.iter();
        let found = services.find(|(_, listener)| listener.port == port)?;
        Some((found.0, &found.1))
    }
}

impl Service {
    fn listener(self, port: u16, allow: &[IpNet]) -> Listener {
        let prefix = |net: &IpNet| {
            let address: IpAddr = net.addr();
            Prefix::new(address, net.prefix_len()).unwrap_or(Prefix::host(address))
        };
        Listener {
            port,
            service: self.whose(),
            allow: allow.iter().map(prefix).collect(),
        }
    }

    /// Whose places its connections take: all that the responder answers is one service.
    const fn whose(self) -> tcp::Service {
        tcp::Service(match self {
            Self::Reads(Wanted::Api) => 0,
            Self::Reads(Wanted::Metrics) => 1,
            Self::Answers(_) => 2,
        })
    }
}

impl Answer {
    /// Answers what came, `share` bytes at most.
    pub(super) fn serve(
        &mut self,
        stack: &mut HostStack,
        id: ConnectionId,
        share: usize,
        now: Instant,
    ) {
        match self {
            Self::Echo => echo(stack, id, share, now),
            Self::Discard => discard(stack, id, share, now),
            Self::Chargen(place) => {
                discard(stack, id, share, now);
                let room = stack.room(id).min(share);
                *place = (*place + stack.write(id, &pattern(*place, room), now)) % PERIOD;
            }
        }
    }
}

fn echo(stack: &mut HostStack, id: ConnectionId, share: usize, now: Instant) {
    let room = stack.room(id).min(share);
    let mut bytes = Vec::with_capacity(room);
    while bytes.len() < room {
        let read = stack.read(id, now, |came| {
            let len = came.len().min(room - bytes.len());
            bytes.extend_from_slice(&came[..len]);
            len
        });
        if read == 0 {
            break;
        }
    }
    stack.write(id, &bytes, now);
}

fn discard(stack: &mut HostStack, id: ConnectionId, share: usize, now: Instant) {
    let mut read = 0;
    while read < share {
        match stack.read(id, now, <[u8]>::len) {
            0 => return,
            len => read += len,
        }
    }
}

const PRINTED: usize = 95;
const LINE: usize = 74;
/// After so many bytes the pattern begins anew.
const PERIOD: usize = PRINTED * LINE;

/// `len` bytes of the pattern from a place on: lines of 72 printed characters, each beginning one further.
pub(super) fn pattern(place: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| match (at / LINE, at % LINE) {
        (_, 72) => b'\r',
        (_, 73) => b'\n',
        (line, column) => b' ' + u8::try_from((line + column) % PRINTED).unwrap_or(0),
    };
    (place..place + len).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_rfc_864_s() {
        let text = pattern(0, 3 * LINE);
        let lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
        assert!(
            lines[0].starts_with(b" !\"#$%&'()*+,-./0123456789:;") && lines[0].ends_with(b"efg\r")
        );
        assert!(lines[1].starts_with(b"!\"#$") && lines[2].starts_with(b"\"#$%"));
        assert_eq!(pattern(PERIOD - 5, 10)[5..], pattern(0, 5));
        assert!(
            pattern(0, PERIOD)
                .iter()
                .all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n'))
        );
    }
}
