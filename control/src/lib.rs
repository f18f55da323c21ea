//! Culvert: configuration, control core, command line.
//!
//! - [`config`]: the YAML file, from text to types, with every mistake named.
//! - [`plan`]: what changes from one desired state to another.
//! - [`engine`]: the control core, which drives tunnels, ports, uplinks and workers.
//! - `netstack`: the host stacks' thread.
//! - `exception`: uplinks that the host's kernel shares.
//! - [`events`]: what happens, told once, to the log and to those who follow.
//! - [`api`]: the control socket, its server and its client; [`state`] is what it tells, [`report`] puts it
//!   together.
//! - [`metrics`]: the same for Prometheus.
//! - [`history`]: what ran, who applied it, and the way back.
//! - [`layer`]: single objects beside the configuration, kept over restarts.
//! - [`uapi`]: the sockets that `wg` speaks to.
//! - [`pktgen`]: where the packet generator meets devices.
//! - [`process`]: run directory, locks, signals, systemd, logging, core dumps.
//! - [`cli`]: the commands of the binary `culvert`.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod engine;
pub mod events;
mod exception;
pub mod history;
pub mod keys;
pub mod layer;
pub mod metrics;
pub mod netlink;
mod netstack;
pub mod pktgen;
pub mod plan;
pub mod process;
pub mod report;
pub mod state;
mod turns;
pub mod uapi;
