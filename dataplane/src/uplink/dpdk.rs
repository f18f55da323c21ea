//! DPDK uplinks (placeholder until the queue lands).
