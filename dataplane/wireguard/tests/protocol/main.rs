//! The protocol as a whole: endpoints on a virtual clock, over a network that misbehaves as asked.

mod sessions;
mod transcript;
mod world;
