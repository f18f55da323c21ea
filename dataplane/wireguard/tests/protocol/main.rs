//! The protocol as a whole: endpoints on a virtual clock, over a network that misbehaves as asked.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod load;
mod parking;
mod properties;
mod sessions;
mod timers;
mod transcript;
mod world;
