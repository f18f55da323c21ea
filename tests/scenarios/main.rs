//! Scenarios with real peers, guests and faults; one test is one process under nextest.

#![forbid(unsafe_code)]

mod api;
mod changes;
mod dhcp;
mod endpoints;
mod exception;
mod failover;
mod fragments;
mod guest;
mod hitless;
mod in_band;
mod in_band_refused;
mod kernel_wireguard;
mod learned;
mod lifecycle;
mod metrics;
mod migration;
mod names;
mod narrow;
mod narrow_told;
mod neighbors;
mod nics;
mod offloads;
mod offloads_none;
mod overload;
mod responder;
mod silent;
mod stack;
mod standins;
mod testpmd;
mod testpmd_layouts;
mod tun;
mod tun_flood;
mod tun_handed;
mod tun_interop;
mod tun_loops;
mod tun_many;
mod tun_offloads;
mod tun_peers;
mod tun_roaming;
mod tun_shown;
mod tun_traffic;
mod uapi;
mod uplinks;
mod wireguard_go;
