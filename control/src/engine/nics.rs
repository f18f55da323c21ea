//! NICs, as a state tells of them.
//!
//! In: an open device. Out: what it is, what is left to it, what it has lost by itself. Never: a question that waits for the
//! device.

use culvert_dataplane::uplink::dpdk::{DpdkUplink, sys::Offloads};

use crate::state::Nic;

/// What there is to tell of an open device.
pub(super) fn told(uplink: &DpdkUplink) -> Nic {
    let device = uplink.device();
    let known = device.capabilities();
    let lost = uplink.stats().unwrap_or_default();
    let [rx_queues, tx_queues] = uplink.queues();
    Nic {
        driver: known.driver.clone(),
        numa_node: known.numa_node,
        rx_queues,
        tx_queues,
        max_rx_queues: known.max_rx_queues,
        max_tx_queues: known.max_tx_queues,
        max_mtu: known.max_mtu,
        rss: known.rss && rx_queues > 1,
        offloads: names(uplink.offloads()),
        capabilities: names(known.offloads),
        received: device.received(),
        missed: lost.rx_missed,
        rx_errors: lost.rx_errors,
        tx_errors: lost.tx_errors,
        no_buffer: lost.rx_no_buffer,
    }
}

fn names(offloads: Offloads) -> Vec<String> {
    let all = [
        ("rx-ipv4", offloads.rx_ipv4),
        ("rx-udp", offloads.rx_udp),
        ("tx-ipv4", offloads.tx_ipv4),
        ("tx-udp", offloads.tx_udp),
    ];
    let on = all.into_iter().filter(|&(_, is_on)| is_on);
    on.map(|(name, _)| name.to_owned()).collect()
}
