//! Datagrams: the responder's answers over UDP.
//!
//! In: datagrams to its ports, of those whom it is for. Out: the same, nothing, or a pattern of as many bytes: nobody is
//! sent more than he sent. Never: an answer to a port of a responder's: two would answer each other for ever.

use culvert_dataplane::shared::ids::Scope;
use culvert_stack::{
    HostStack, Stacks,
    udp::{EndpointId, Family},
};
use culvert_wireguard::Instant;

use super::{
    Hosts,
    services::{Answer, Service, Services, pattern},
};
use crate::config::RESPONDER_PORTS;

/// Datagrams of one port that are answered in a round.
const SHARE: usize = 32;

/// The responders' endpoints.
#[derive(Default)]
pub(super) struct Datagrams(Vec<(Scope, u16, EndpointId)>);

impl Datagrams {
    /// A stack serves these from now on.
    pub(super) fn serve_by(&mut self, scope: Scope, stack: &mut HostStack, services: &Services) {
        self.0.retain(|&(of, _, id)| {
            let stays = of != scope;
            if !stays {
                stack.close_endpoint(id);
            }
            stays
        });
        for port in RESPONDER_PORTS {
            if !matches!(services.at(port), Some((Service::Answers(_), _))) {
                continue;
            }
            let Ok(id) = stack.open_endpoint(Family::Dual) else {
                continue;
            };
            match stack.bind(id, None, port) {
                Ok(_) => self.0.push((scope, port, id)),
                Err(_) => stack.close_endpoint(id),
            }
        }
    }

    /// Answers what came.
    pub(super) fn serve(&self, stacks: &mut Stacks<Scope>, hosts: &Hosts, now: Instant) {
        for &(scope, port, id) in &self.0 {
            let host = hosts.stacks.get(&scope);
            let service = host.and_then(|host| host.services.at(port));
            let (Some((Service::Answers(answer), listener)), Some(stack)) =
                (service, stacks.get_mut(scope))
            else {
                continue;
            };
            for _ in 0..SHARE {
                let Ok(came) = stack.receive(id) else { break };
                let sender = came.from.ip().to_canonical();
                let is_for = listener.allow.iter().any(|it| it.contains(sender));
                if !is_for || RESPONDER_PORTS.contains(&came.from.port()) {
                    continue;
                }
                let bytes = match answer {
                    Answer::Echo => came.bytes,
                    Answer::Discard => continue,
                    Answer::Chargen(_) => pattern(0, came.bytes.len()),
                };
                // Who can't be answered hears nothing.
                let _ = stack.answer(id, (came.from, came.mac), &bytes, now);
            }
        }
    }
}
