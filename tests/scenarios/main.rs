//! Scenarios with real peers, guests and faults; one test is one process under nextest.

#![forbid(unsafe_code)]

mod guest;
mod kernel_wireguard;
mod lifecycle;
mod standins;
mod testpmd;
mod tun;
mod wireguard_go;
