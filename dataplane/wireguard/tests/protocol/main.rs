//! The protocol as a whole: endpoints on a virtual clock, over a network that misbehaves as asked.

mod load;
mod properties;
mod sessions;
mod timers;
mod transcript;
mod world;
