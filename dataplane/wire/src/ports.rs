//! The ports at an uplink's addresses that are Culvert's, where a kernel shares the addresses.
//!
//! In: what listens there. Out: whose a port is. Never: a connection, a socket; a port that is either's by turns.

use std::ops::RangeInclusive;

use crate::udp;

/// Ports that Culvert's own connections begin at. The kernel's begin below
/// (`ip_local_port_range`: 32768 to 60999).
pub const EPHEMERAL: RangeInclusive<u16> = 61_000..=65_535;

const PROTOCOL_TCP: u8 = 6;

/// The ports of Culvert's. All others are the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPorts {
    udp: Vec<u16>,
    tcp: Vec<u16>,
}

impl OwnPorts {
    /// These, and those of [`EPHEMERAL`].
    #[must_use]
    pub fn new(udp: impl IntoIterator<Item = u16>, tcp: impl IntoIterator<Item = u16>) -> Self {
        let [udp, tcp] = [Vec::from_iter(udp), Vec::from_iter(tcp)].map(|mut ports| {
            ports.sort_unstable();
            ports.dedup();
            ports
        });
        Self { udp, tcp }
    }

    /// Whether `port` of `protocol` is Culvert's; a protocol without ports has none.
    #[must_use]
    pub fn has(&self, protocol: u8, port: u16) -> bool {
        let listening = match protocol {
            udp::PROTOCOL => &self.udp,
            PROTOCOL_TCP => &self.tcp,
            _ => return false,
        };
        EPHEMERAL.contains(&port) || listening.binary_search(&port).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_and_what_calls_is_ours_and_the_rest_the_kernels() {
        let ports = OwnPorts::new([51_820, 500, 500], [9_443]);
        for (protocol, port, ours) in [
            (17, 51_820, true),
            (17, 500, true),
            (17, 9_443, false),
            (6, 9_443, true),
            (6, 51_820, false),
            (6, 22, false),
            (6, 60_999, false),
            (6, 61_000, true),
            (17, 65_535, true),
            // No protocol with ports that are known here.
            (132, 51_820, false),
            (89, 61_000, false),
        ] {
            assert_eq!(ports.has(protocol, port), ours, "{protocol}/{port}");
        }
        assert!(!OwnPorts::default().has(17, 51_820));
    }
}
