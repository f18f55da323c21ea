//! What the packet generator is made of where it meets devices: `culvert_pktgen` knows none.
//!
//! In: profiles, the time. Out: packets at their seats. Never: an allocation, a lock or a system call for each of them.

pub mod ahead;
pub mod outer;
pub mod peer;
