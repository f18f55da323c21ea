//! Guest ports, as they are shown.
//!
//! In: their sessions, rings and interfaces. Out: links, traffic, losses. Never: a look at a frame.

use std::collections::{BTreeMap, HashMap};

use culvert_dataplane::shared::snapshot::Guest;
use culvert_vhost::{Obstacle, PortDrop, PortStatus, RingCounters};
use culvert_wire::ether::VlanId;

use super::Engine;
use crate::{
    config::{self, Name, PortDriver},
    engine::ports::{DownPort, PortState},
    report::{look::Asked, named},
    state::{Port, PortVlan, Traffic},
};

/// Virtio feature bits worth showing (virtio 1.2, sections 5.1.3 and 6).
const FEATURES: [(u32, &str); 20] = [
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (3, "MTU"),
    (5, "MAC"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (9, "GUEST_ECN"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
    (13, "HOST_ECN"),
    (15, "MRG_RXBUF"),
    (16, "STATUS"),
    (17, "CTRL_VQ"),
    (22, "MQ"),
    (28, "INDIRECT_DESC"),
    (29, "EVENT_IDX"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (54, "GUEST_USO4"),
    (56, "HOST_USO"),
];

impl Engine {
    /// Tells of these ports, as far as they are there.
    pub(super) fn tell_ports(&self, asked: &mut Asked<Name, Port>) {
        let down: HashMap<_, _> = self
            .down
            .iter()
            .map(|down| (&down.config.name, down))
            .collect();
        let tell = |name: &Name| match down.get(name) {
            Some(down) => Some(self.tell_down(down)),
            None => self
                .ports
                .named(name)
                .map(|port| self.tell_port(port))
                .or_else(|| self.tell_disabled(name)),
        };
        super::fill(asked, tell);
    }

    /// Ports that are not open: they can't be had, or their interface was deleted.
    pub(in crate::engine) fn shut_ports(&self) -> Vec<Name> {
        let down = self.down.iter().map(|it| &it.config.name);
        let ports = self.ports.iter().map(|(_, port)| port);
        let gone = ports.filter(|port| port.is_gone());
        down.chain(gone.map(|port| &port.config.name))
            .cloned()
            .collect()
    }

    fn tell_disabled(&self, name: &Name) -> Option<Port> {
        let port = self.desired.port(name).filter(|port| !port.enabled)?;
        Some(Port {
            disabled: true,
            ..self.configured(port)
        })
    }

    fn tell_down(&self, down: &DownPort) -> Port {
        Port {
            hindrance: Some(format!("not open: {}", down.error)),
            ..self.configured(&down.config)
        }
    }

    /// What a port's configuration says.
    fn configured(&self, config: &config::Port) -> Port {
        let (socket, driver) = match &config.driver {
            PortDriver::VhostUser(vhost) => (
                vhost.socket.resolve(&self.run_dir).display().to_string(),
                "vhost-user",
            ),
            PortDriver::Tun { interface } => (interface.clone(), "tun"),
            PortDriver::Tap { interface } => (interface.clone(), "tap"),
        };
        Port {
            name: config.name.to_string(),
            network: (config.native()).map_or_else(String::new, |it| it.network.to_string()),
            vlans: config.vlans().map(vlan).collect(),
            driver: driver.into(),
            socket,
            mac: config.mac.to_string(),
            mtu: config.mtu,
            queues_max: config.queues,
            labels: config.labels.to_map(),
            ..Port::default()
        }
    }

    fn tell_port(&self, port: &PortState) -> Port {
        let config = &port.config;
        let (rx, tx) = traffic(port);
        // What the session says itself: news of it may have been lost.
        let status = port.guest.vhost().map(|guest| guest.status());
        let (connected, link_up, features, queues) = match &status {
            Some(vhost) => (
                vhost.is_connected,
                vhost.queue_pairs > 0,
                vhost.features,
                vhost.queue_pairs,
            ),
            None => (port.connected, port.link_up, port.features, port.queues),
        };
        Port {
            connected,
            link_up,
            hindrance: match port.is_gone() {
                true => Some(
                    "not open: its interface was deleted: `culvert apply` makes it anew".into(),
                ),
                false => status.and_then(hindrance),
            },
            features: FEATURES
                .iter()
                .filter(|(bit, _)| link_up && features >> bit & 1 == 1)
                .map(|&(_, name)| name.to_owned())
                .collect(),
            queues,
            mtu: port.interface.as_ref().map_or(config.mtu, |interface| {
                u16::try_from(interface.mtu).unwrap_or(u16::MAX)
            }),
            rx,
            tx,
            drops: losses(port),
            ..self.configured(config)
        }
    }
}

fn vlan((number, it): (VlanId, &config::Attachment)) -> PortVlan {
    PortVlan {
        vlan: number.number(),
        network: it.network.to_string(),
    }
}

/// From a port's guest and to it.
fn traffic(port: &PortState) -> (Traffic, Traffic) {
    let queues = || 0..port.config.queues;
    match &port.guest {
        Guest::Vhost(guest) => (
            ring_traffic(queues().map(|q| guest.guest_tx(q).counters())),
            ring_traffic(queues().map(|q| guest.guest_rx(q).counters())),
        ),
        Guest::Tun(tun) => {
            let (mut rx, mut tx) = (Traffic::default(), Traffic::default());
            for (from, to) in queues().filter_map(|q| tun.traffic(q)) {
                for (sum, part) in [(&mut rx, from), (&mut tx, to)] {
                    sum.packets += part.frames();
                    sum.bytes += part.bytes();
                }
            }
            (rx, tx)
        }
    }
}

pub(in crate::engine) fn losses(port: &PortState) -> BTreeMap<String, u64> {
    let mut drops = named(port.drops.iter());
    if let Guest::Vhost(guest) = &port.guest {
        for queue in 0..port.config.queues {
            add_ring_drops(&mut drops, guest.guest_tx(queue).counters());
            add_ring_drops(&mut drops, guest.guest_rx(queue).counters());
        }
    }
    drops
}

/// What stands in the way of a guest, or of another, in a few words.
fn hindrance(status: PortStatus) -> Option<String> {
    let obstacle = status.obstacle.map(|obstacle| match obstacle {
        Obstacle::Broken(fault) => format!("{}: {}", obstacle.name(), fault.name()),
        Obstacle::MemoryNotShared | Obstacle::LegacyDriver => obstacle.name().to_owned(),
    });
    let another = status.another_waits.then(|| "another VMM waits".to_owned());
    match (obstacle, another) {
        (Some(obstacle), Some(another)) => Some(format!("{obstacle}; {another}")),
        (obstacle, another) => obstacle.or(another),
    }
}

fn add_ring_drops(drops: &mut BTreeMap<String, u64>, counters: &RingCounters) {
    for reason in PortDrop::ALL {
        let count = counters.drops(reason);
        if count > 0 {
            *drops.entry(reason.name().replace('_', "-")).or_default() += count;
        }
    }
}

fn ring_traffic<'c>(rings: impl Iterator<Item = &'c RingCounters>) -> Traffic {
    rings.fold(Traffic::default(), |sum, ring| Traffic {
        packets: sum.packets + ring.frames(),
        bytes: sum.bytes + ring.bytes(),
    })
}
