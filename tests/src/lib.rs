//! What the scenarios and the demo are made of: namespaces, processes, guests, real peers, captures.
//!
//! In: the built `culvert`, Debian's programs (QEMU, wireguard-go, dpdk-testpmd, tcpdump, tshark) and root.
//! Out: values that stand for something running on this machine and end with it: dropping a [`Process`] ends
//! that process, dropping a [`Namespace`] removes it.
//! Never: traffic outside loopback and the namespaces made here; a signal to a process not started here.
//!
//! Nothing here knows Culvert from inside: it reads what an operator can read (exit codes, `show --json`, logs).

#![deny(unsafe_code)]

mod bridge;
mod capture;
mod changing;
mod counters;
mod culvert;
mod flood;
mod flows;
mod guest;
mod handed;
mod iperf;
mod median;
mod needs;
mod network;
mod nics;
mod process;
mod scenario;
mod testpmd;
mod topology;
mod trains;
mod transfer;
mod tunnel;
mod wireguard_go;

pub use bridge::Bridge;
pub use capture::{Capture, Crossing};
pub use changing::{Changing, Kind, Seen, WINDOW};
pub use counters::Counters;
pub use culvert::{Culvert, Keys, PortCounts, culvert_binary, names};
pub use flood::{Flood, Siege};
pub use flows::{Numbered, Outcome, Pace};
pub use guest::{Addressing, Guest, GuestSpec, Image, Migrated, Nic, PING};
pub use handed::{TunFlags, hand_over, make_tun};
pub use iperf::{Flow, Iperf};
pub use median::median;
pub use needs::{Part, schemathesis};
pub use network::{Namespace, Veth, sweep};
pub use nics::{Model, machine, offered};
pub use process::{Limit, Process, bounded, eventually, run};
pub use scenario::Scenario;
pub use testpmd::{Counted, Testpmd, TestpmdSpec};
pub use topology::{
    Far, GUEST_MTU, Host, HostSpec, Outer, PORT, PeerSpec, PortSpec, SocketMode, TwoHosts, Uplink,
};
pub use trains::{Trains, trains};
pub use transfer::{Moved, tcp_transfer, udp_exchange};
pub use tunnel::{End, Pair, Program, Tunnel, inside, key_file, key_text, outside, ping, socket};
pub use wireguard_go::WireguardGo;
