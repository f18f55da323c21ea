//! What the packet generator is made of where it meets devices: `culvert_pktgen` knows none.
//!
//! In: profiles, the time. Out: packets at their seats, trials, results. Never: an allocation, a lock or a system call for
//! each of them; a process or a file that is left behind.
//!
//! A [`topology`] says what the device under test has to be; a [`device`] is a Culvert that is started so; a [`rig`] is all
//! that belongs together. At each of a device's ends is a [`seat`]: a guest's place ([`guest`], with its [`rings`]), a loop
//! in memory ([`memory`]), by which the generator is measured alone ([`own`]). A [`stage`] runs trials over seats; a
//! [`campaign`] asks for as many as its searches want. [`cores`] says where threads run, [`machine`] what it all ran on. A
//! [`peer`] is the far end of a tunnel; [`sealed`] has one shake hands. On a NIC's [`wire`] it is at a [`host`], with
//! [`outer`] headers around what it sends, and sends what it has sealed [`ahead`]; [`far`] says where.
//!
//! One thread generates and receives, so that both ends have one clock.

pub mod ahead;
pub mod campaign;
pub mod cores;
pub mod device;
pub mod far;
pub mod file;
pub mod guest;
pub mod host;
pub mod machine;
pub mod memory;
pub mod outer;
pub mod own;
pub mod peer;
pub mod rig;
pub mod rings;
pub mod sealed;
pub mod seat;
pub mod session;
pub mod stage;
pub mod stop;
pub mod topology;
pub mod wire;
