//! Every bound of the data path, by name, with the reason for its value.
//!
//! In: nothing. Out: constants. Never: a bound written as a bare number elsewhere.
//!
//! Who is served before whom with these, and what becomes of the rest, is the table "Overload" of ARCHITECTURE.md.

use std::time::Duration;

/// Frames taken from one guest ring per turn: what one poll may cost others.
pub const GUEST_BURST: usize = 32;

/// Bytes that a guest queue may send per turn: two super-frames. What it overdraws it
/// waits for, so queues share by bytes (deficit round robin). A frame that is flooded
/// costs its bytes once for each copy.
pub const GUEST_QUANTUM: i64 = 128 << 10;

/// Frames by which guests that came are announced per turn, one network of theirs at least: two bursts of an uplink.
pub const ANNOUNCED_PER_TURN: usize = 256;

/// Wire packets sealed, reserved and sent together. A 64 KiB super-frame is cut
/// into about 45; 64 fill the SIMD lanes and one `UDP_SEGMENT` send.
pub const SUB_BATCH: usize = 64;

/// Datagrams taken from an uplink per turn: enough for 64 KiB to come together
/// when a super-frame's segments arrive back to back.
pub const UPLINK_BURST: usize = 128;

/// Bursts that are taken from a queue before it is given up: as much as a socket holds at 100 Gbit/s while a turn lasts, and
/// a few milliseconds at the most.
pub const LAST_BURSTS: usize = 32;

/// Source pieces that one wire packet may be gathered from before it is copied
/// instead: a guest may scatter its payload over one-byte descriptors.
pub const SOURCE_SEGMENTS: usize = 8;

/// The longest inner IP + L4 header: 60 + 60 bytes for IPv4 with all options,
/// or what of an IPv6 chain lies within the private head copy.
pub const INNER_HEADER: usize = 256;

/// The largest guest frame: an Ethernet header and a 64 KiB IP packet.
pub const FRAME_MAX: usize = 65_535 + 14;

/// The largest sealed datagram of a UDP uplink: what fits into one over IPv4
/// (65,535 bytes less the headers). An interface may have an MTU of tens of
/// kilobytes, and the kernel cuts. Memory that no datagram reaches is never touched.
pub const DATAGRAM_MAX: usize = 65_507;

/// What goes around an inner packet, padding aside: the outer IP header, UDP's, the data message's and its tag
/// (whitepaper, section 5.4.6).
pub const OVERHEAD_V4: u16 = 20 + 8 + 16 + 16;
/// The same over IPv6.
pub const OVERHEAD_V6: u16 = 40 + 8 + 16 + 16;

/// The least MTU of IPv6 (RFC 8200, section 5).
pub const IPV6_MTU_MIN: usize = 1280;

/// The largest MTU of a DPDK uplink: a jumbo frame's Ethernet payload, with room to spare.
pub const DEVICE_MTU_MAX: usize = 9_216;

/// Peers over all tunnels.
pub const PEERS: usize = 131_072;

/// Places for them (the attention map is sized by it): a configuration may exchange all at once, and those that
/// leave keep their places until no worker knows them.
pub const PEER_PLACES: usize = 2 * PEERS;

/// Slots in a tunnel's receiver-index table per start: a keypair triple and a
/// handshake for each peer, rounded up, at the least this many.
pub const SESSION_SLOTS_MIN: usize = 1_024;

/// Handshake messages waiting for the control core, over all workers
/// (the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`).
pub const HANDSHAKE_QUEUE: usize = 4_096;

/// Handshake messages of one kind (with a cookie, without) that are taken per second from
/// a tunnel's sockets while there are packets to carry. A processor answers some 4,000
/// handshakes per second, and refuses some 200,000: a flood costs hundredths of one.
pub const CALLS_PER_SECOND: u32 = 4_096;

/// The same while there is little to carry; and what one worker takes from a device, in
/// any case.
pub const CALLS_PER_SECOND_IDLE: u32 = 65_536;

/// How many of them are taken at once after a quiet time.
pub const CALLS_BURST: u32 = 1_024;

/// Handshake messages taken together: what comes due while a worker waits for a processor
/// that others have.
pub const CALLS_PER_TURN: usize = 256;

/// Bursts of data after which the time is looked at: is it the handshake messages' turn?
pub const CALLS_EVERY: u32 = 8;

/// How long handshake messages may wait while the worker doesn't sleep, and while they are
/// more than are taken: waking it for a few at a time would cost more than they do.
pub const CALLS_PERIOD: Duration = Duration::from_millis(4);

/// The same while there is little to carry.
pub const CALLS_PERIOD_IDLE: Duration = Duration::from_millis(1);

/// Bytes of socket buffer for handshake messages of one kind: about 4,096 of them
/// (the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`), which it counts as 768 each.
pub const CALLS_BUFFER: i32 = 2 << 20;

/// What requests (of the API, of `wg`) may take of the control core's round; one is served at least.
pub const REQUESTS_PER_ROUND: Duration = Duration::from_micros(500);

/// Handshake messages that the control core takes per round, over all workers: about 10 ms of X25519.
pub const HANDSHAKES_PER_ROUND: usize = 64;

/// Handshake messages that may wait for a next hop.
pub const UNROUTED_MAX: usize = 1_024;

/// How long they wait.
pub const UNROUTED_LIFE: Duration = Duration::from_secs(3);

/// Handshakes that the control core begins per round, over all tunnels, after those: a few milliseconds.
pub const INITIATIONS_PER_ROUND: usize = 32;

/// Peers of tunnels with several uplinks for whom the control core chooses one per round: each may take a few system
/// calls, together about a millisecond.
pub const WAYS_PER_ROUND: usize = 64;

/// Peers that the control core gives new paths per round, where what leads there has changed for many: some milliseconds.
pub const PATHS_PER_ROUND: usize = 1_024;

/// The largest handshake message: an initiation (whitepaper section 5.4.2).
pub const HANDSHAKE_MAX: usize = 148;

/// What a class of frames for the host stack may take.
#[derive(Clone, Copy, Debug)]
pub struct PuntBudget {
    /// Frames that a worker hands over per second.
    pub per_second: u32,
    /// Frames that wait for the stacks' thread, per worker; as many come at once after a quiet time.
    pub queued: usize,
    /// Frames that the stacks' thread takes per round, over all workers.
    pub per_round: usize,
}

/// Neighbors that answer what they were asked: a full table (`HOST_NEIGHBORS`) refreshed twice a second.
pub const PUNT_NEIGHBORS_AWAITED: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 256,
    per_round: 128,
};

/// Answers of one neighbor in a second that count as awaited: it is asked three times, and may have some hardware
/// addresses.
pub const AWAITED_PER_SECOND: u32 = 32;

/// Awaited answers of an uplink's neighbors in use in a second, over all workers: a full table (`HOST_NEIGHBORS`) at once.
pub const AWAITED_IN_USE_PER_SECOND: u32 = 1_024;

/// The same of others that are asked, four of each that may say to be a router (`RA_CLAIMS`): half of what may wait, so
/// that nobody in use finds no room.
pub const AWAITED_OTHERS_PER_SECOND: u32 = 128;

/// What routers advertise that are known: of each as many as of a neighbor that is awaited (`AWAITED_PER_SECOND`). A
/// router speaks every three seconds at most, and answers solicitations beside (RFC 4861, section 10).
pub const PUNT_ROUTERS: PuntBudget = PuntBudget {
    per_second: 256,
    queued: 32,
    per_round: 16,
};

/// What others advertise, of each uplink, by whichever worker: fewer come in the time that a claim has for its answer
/// (`RA_CLAIM_GRACE`) than are kept (`RA_CLAIMS`).
pub const STRANGE_ROUTERS_PER_SECOND: u32 = 256;

/// The same, of each worker.
pub const PUNT_ROUTERS_UNKNOWN: PuntBudget = PuntBudget {
    per_second: STRANGE_ROUTERS_PER_SECOND,
    queued: 32,
    per_round: 16,
};

/// Neighbors that answer unasked, or from elsewhere: as many.
pub const PUNT_NEIGHBOR_ANSWERS: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 256,
    per_round: 128,
};

/// Neighbors that ask: twice what is answered (`HOST_REPLIES_PER_SECOND`).
pub const PUNT_NEIGHBOR_QUESTIONS: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 256,
    per_round: 64,
};

/// BFD's packets of sessions: of one with the shortest interval, 20 times what it sends.
pub const PUNT_LIVENESS: PuntBudget = PuntBudget {
    per_second: 1_024,
    queued: 64,
    per_round: 32,
};

/// BFD's packets that may begin a session, of all uplinks (`LIVENESS_BEGINNINGS_PER_SECOND` each).
pub const PUNT_LIVENESS_UNNAMED: PuntBudget = PuntBudget {
    per_second: 128,
    queued: 64,
    per_round: 8,
};

/// The same of one uplink, over all workers: a neighbor whose session begins sends one a second (RFC 5880, section 6.8.3).
pub const LIVENESS_BEGINNINGS_PER_SECOND: u32 = 8;

/// ICMP: twice what is answered.
pub const PUNT_ICMP: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 128,
    per_round: 64,
};

/// TCP of connections: some 90 MB a second, for a twentieth of a processor.
pub const PUNT_SEGMENTS: PuntBudget = PuntBudget {
    per_second: 65_536,
    queued: 512,
    per_round: 128,
};

/// TCP that begins connections: some times those that are begun whom a host lets in; the others are refused.
pub const PUNT_OPENINGS: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 128,
    per_round: 32,
};

/// UDP that is no tunnel's: answers to what the stack asks, and what its senders are told that nobody takes.
pub const PUNT_DATAGRAMS: PuntBudget = PuntBudget {
    per_second: 8_192,
    queued: 128,
    per_round: 64,
};

/// The first questions of each guest in a second: all of a thousand guests that start together, within a few seconds.
pub const PUNT_GUEST: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 256,
    per_round: 32,
};

/// What guests ask beyond: a thousand exchanges of DHCP per second of one that is tried so (`perfdhcp`).
pub const PUNT_GUEST_MORE: PuntBudget = PuntBudget {
    per_second: 4_096,
    queued: 256,
    per_round: 32,
};

/// Questions of one guest in a second that are taken for a client's (DHCP, DHCPv6, router solicitations): as it starts, it
/// asks some ten.
pub const GUEST_QUESTIONS_PER_SECOND: u32 = 32;

/// Fragments: those of 65,536 datagrams on a path that is a little too narrow for them, for a twentieth of a processor.
pub const PUNT_FRAGMENTS: PuntBudget = PuntBudget {
    per_second: 131_072,
    queued: 512,
    per_round: 256,
};

/// What DHCP servers answer: some of them, each of our few questions. What nobody asked for is the rest's.
pub const PUNT_LEASES: PuntBudget = PuntBudget {
    per_second: 128,
    queued: 32,
    per_round: 8,
};

/// The rest, of which its senders are told that nobody takes it.
pub const PUNT_REST: PuntBudget = PuntBudget {
    per_second: 256,
    queued: 32,
    per_round: 16,
};

/// Frames for the host's kernel per second, of each worker: a little more than a gigabit of full ones.
pub const EXCEPTION_PER_SECOND: u32 = 131_072;

/// The same at once, after a quiet time: what a worker brings in a few bursts.
pub const EXCEPTION_AT_ONCE: u32 = 1_024;

/// Bytes of frames for the kernel that wait, of each worker, and bytes of those that it sends: 8 ms of a gigabit.
pub const EXCEPTION_RING: usize = 1 << 20;

/// Frames of the kernel's that a worker sends in a turn: as many as of a guest's.
pub const EXCEPTION_BURST: usize = 32;

/// Frames that the exception path's thread takes from each worker, and from each interface, in a round.
pub const EXCEPTION_PER_ROUND: usize = 64;
/// ICMP errors that the kernel hears: as many as of those that come to an uplink of ours. What comes at once waits in a
/// socket's buffer.
pub const KERNEL_ERRORS: PuntBudget = PuntBudget {
    per_second: 2_048,
    queued: 128,
    per_round: 64,
};

/// Errors about datagrams of ours that wait for the control core.
pub const STACK_HEARD: usize = 256;

/// The largest frame handed to the host stack: what its protocols (ARP, ND,
/// ICMP echo) need; longer ones are dropped by name.
pub const HOST_FRAME_MAX: usize = 2_048;

/// Commands waiting for one worker.
pub const COMMAND_QUEUE: usize = 8_192;

/// Commands of the host stacks' thread waiting for one worker: what two stacks let wait (`HOST_OUTPUT`), and as much again,
/// for guests.
pub const STACK_COMMANDS: usize = 1_024;

/// Questions for next hops, and of readers, that wait for the host stacks' thread.
pub const STACK_ORDERS: usize = 1_024;

/// How many of [`STACK_ORDERS`] questions for next hops leave free for readers.
pub const STACK_ORDERS_RESERVED: usize = 64;

/// News of neighbors that wait for the control core; what finds no room is told later.
pub const STACK_NEWS: usize = 1_024;

/// Next hops of strangers alone, who were answered in the last seconds, that the control core remembers.
pub const STRANGERS_HOPS: usize = 1_024;

/// Commands of that thread waiting for one worker beyond which no datagram out of fragments is added: they may have 64 KiB each.
pub const DATAGRAMS_WAITING: usize = 256;

/// How often the control core is asked for a peer's key or next hop while packets want it and nothing changes.
pub const WANTED_AGAIN: Duration = Duration::from_secs(1);

/// Moves of one peer that the control core is rung for in a second; it finds the others at its next sweep.
pub const MOVES_PER_SECOND: u32 = 8;

/// Frames without a key of one sender that one worker holds for one peer (the kernel's
/// `MAX_STAGED_PACKETS`).
pub const STAGED_PER_PEER: usize = 128;

/// Frames without a key that one worker holds, over all peers: those of at most [`STAGED_SMALL`] bytes.
pub const STAGED_SMALL_FRAMES: usize = 1_024;

/// The longest of them: a frame of an ordinary MTU.
pub const STAGED_SMALL: usize = 2_048;

/// Longer frames without a key that one worker holds, over all peers. Either kind takes 2 MiB.
pub const STAGED_LARGE_FRAMES: usize = 32;

/// ICMP errors that one port, or one peer, may be sent per second (RFC 4443, section 2.4(f)).
pub const ICMP_ERRORS_PER_SECOND: u32 = 1_000;

/// Link-local addresses beside the one made of its MAC address that a port may own: one per system that its guest starts
/// with new secrets, or per container behind one MAC address. The oldest makes room.
pub const LINK_LOCALS: usize = 16;

/// How long a port waits between two claims of a link-local address, once it has claimed as many as it may own.
pub const LINK_LOCAL_CLAIM_PERIOD: Duration = Duration::from_millis(10);

/// Datagrams that are sent one by one along a path before it is tried again whether the kernel cuts a message of
/// several: a refused try costs one system call more.
pub const SENT_SINGLY: u32 = 4096;

#[cfg(test)]
mod tests {
    use culvert_stack::limits::{
        CONNECTIONS, ENDPOINT_BUFFER, ENDPOINTS, HOST_ERRORS_PER_SECOND, HOST_ERRORS_TO_ONE,
        HOST_OUTPUT, HOST_OUTPUT_RESERVED, HOST_PROBED, HOST_REPLIES_PER_SECOND,
        HOST_REPORTS_PER_SECOND, HOST_RETURNING, HOST_SEGMENTS, LEARNED_DNS, LEARNED_ROUTES,
        OPENING_GRACE, OPENINGS, RA_CLAIM_GRACE, RA_CLAIMS, RA_PREFIXES, RA_ROUTERS,
        REASSEMBLIES_PER_SOURCE, REASSEMBLY_HIGH, UNROUTED,
    };
    use culvert_wireguard::limits::{FIRST_CALLS_PER_SECOND, SILENT_CALLS_PER_SECOND};

    use super::*;

    /// The document and the code are one table.
    #[test]
    fn the_table_of_overload_has_these_numbers() {
        let document = include_str!("../../../ARCHITECTURE.md");
        let (_, table) = document.split_once("\n## Overload\n").expect("the table");
        let (table, _) = table.split_once("\n## ").expect("its end");
        let punt = |budget: PuntBudget| {
            let PuntBudget {
                per_second,
                queued,
                per_round,
            } = budget;
            format!("{per_round}; {per_second}/s; {queued} wait")
        };
        let numbers = [
            ("COMMAND_QUEUE", COMMAND_QUEUE.to_string()),
            ("ANNOUNCED_PER_TURN", ANNOUNCED_PER_TURN.to_string()),
            ("UPLINK_BURST", UPLINK_BURST.to_string()),
            ("CALLS_PER_SECOND", format!("{CALLS_PER_SECOND}/s")),
            (
                "CALLS_PER_SECOND_IDLE",
                format!("{CALLS_PER_SECOND_IDLE}/s"),
            ),
            ("CALLS_PER_TURN", CALLS_PER_TURN.to_string()),
            ("GUEST_BURST", GUEST_BURST.to_string()),
            ("GUEST_QUANTUM", format!("{} KiB", GUEST_QUANTUM >> 10)),
            ("STAGED_PER_PEER", STAGED_PER_PEER.to_string()),
            ("STAGED_SMALL_FRAMES", STAGED_SMALL_FRAMES.to_string()),
            ("STAGED_LARGE_FRAMES", STAGED_LARGE_FRAMES.to_string()),
            ("WANTED_AGAIN", format!("{} s", WANTED_AGAIN.as_secs())),
            ("MOVES_PER_SECOND", format!("{MOVES_PER_SECOND}/s")),
            (
                "ICMP_ERRORS_PER_SECOND",
                format!("{ICMP_ERRORS_PER_SECOND}/s"),
            ),
            (
                "REQUESTS_PER_ROUND",
                format!("{} µs", REQUESTS_PER_ROUND.as_micros()),
            ),
            ("HANDSHAKES_PER_ROUND", HANDSHAKES_PER_ROUND.to_string()),
            ("HANDSHAKE_QUEUE", format!("{HANDSHAKE_QUEUE} wait")),
            ("WAYS_PER_ROUND", WAYS_PER_ROUND.to_string()),
            ("PATHS_PER_ROUND", PATHS_PER_ROUND.to_string()),
            ("INITIATIONS_PER_ROUND", INITIATIONS_PER_ROUND.to_string()),
            (
                "FIRST_CALLS_PER_SECOND",
                format!("{FIRST_CALLS_PER_SECOND}/s"),
            ),
            (
                "SILENT_CALLS_PER_SECOND",
                format!("{SILENT_CALLS_PER_SECOND}/s"),
            ),
            ("PUNT_NEIGHBORS_AWAITED", punt(PUNT_NEIGHBORS_AWAITED)),
            ("AWAITED_PER_SECOND", format!("{AWAITED_PER_SECOND}/s")),
            (
                "AWAITED_IN_USE_PER_SECOND",
                format!("{AWAITED_IN_USE_PER_SECOND}/s"),
            ),
            (
                "AWAITED_OTHERS_PER_SECOND",
                format!("{AWAITED_OTHERS_PER_SECOND}/s"),
            ),
            ("PUNT_ROUTERS", punt(PUNT_ROUTERS)),
            (
                "STRANGE_ROUTERS_PER_SECOND",
                format!("{STRANGE_ROUTERS_PER_SECOND}/s"),
            ),
            ("PUNT_ROUTERS_UNKNOWN", punt(PUNT_ROUTERS_UNKNOWN)),
            ("PUNT_LIVENESS", punt(PUNT_LIVENESS)),
            ("PUNT_NEIGHBOR_ANSWERS", punt(PUNT_NEIGHBOR_ANSWERS)),
            ("PUNT_LIVENESS_UNNAMED", punt(PUNT_LIVENESS_UNNAMED)),
            (
                "LIVENESS_BEGINNINGS_PER_SECOND",
                format!("{LIVENESS_BEGINNINGS_PER_SECOND}/s"),
            ),
            ("PUNT_NEIGHBOR_QUESTIONS", punt(PUNT_NEIGHBOR_QUESTIONS)),
            ("PUNT_ICMP", punt(PUNT_ICMP)),
            ("PUNT_SEGMENTS", punt(PUNT_SEGMENTS)),
            ("PUNT_OPENINGS", punt(PUNT_OPENINGS)),
            ("PUNT_DATAGRAMS", punt(PUNT_DATAGRAMS)),
            ("PUNT_GUEST", punt(PUNT_GUEST)),
            ("PUNT_GUEST_MORE", punt(PUNT_GUEST_MORE)),
            (
                "GUEST_QUESTIONS_PER_SECOND",
                format!("{GUEST_QUESTIONS_PER_SECOND}/s"),
            ),
            ("PUNT_FRAGMENTS", punt(PUNT_FRAGMENTS)),
            ("PUNT_LEASES", punt(PUNT_LEASES)),
            ("PUNT_REST", punt(PUNT_REST)),
            ("EXCEPTION_PER_SECOND", format!("{EXCEPTION_PER_SECOND}/s")),
            ("EXCEPTION_AT_ONCE", EXCEPTION_AT_ONCE.to_string()),
            ("EXCEPTION_RING", format!("{} MiB", EXCEPTION_RING >> 20)),
            ("EXCEPTION_BURST", EXCEPTION_BURST.to_string()),
            ("EXCEPTION_PER_ROUND", EXCEPTION_PER_ROUND.to_string()),
            ("KERNEL_ERRORS", punt(KERNEL_ERRORS)),
            ("STACK_HEARD", STACK_HEARD.to_string()),
            (
                "HOST_REPORTS_PER_SECOND",
                format!("{HOST_REPORTS_PER_SECOND}/s"),
            ),
            ("HOST_RETURNING", HOST_RETURNING.to_string()),
            (
                "HOST_REPLIES_PER_SECOND",
                format!("{HOST_REPLIES_PER_SECOND}/s"),
            ),
            (
                "HOST_ERRORS_PER_SECOND",
                format!("{HOST_ERRORS_PER_SECOND}/s"),
            ),
            ("HOST_ERRORS_TO_ONE", format!("{HOST_ERRORS_TO_ONE}/s")),
            ("OPENING_GRACE", format!("{} ms", OPENING_GRACE.as_millis())),
            ("CONNECTIONS", CONNECTIONS.to_string()),
            ("OPENINGS", OPENINGS.to_string()),
            ("ENDPOINTS", ENDPOINTS.to_string()),
            ("ENDPOINT_BUFFER", format!("{} KiB", ENDPOINT_BUFFER >> 10)),
            ("UNROUTED", format!("{UNROUTED} wait")),
            ("HOST_SEGMENTS", HOST_SEGMENTS.to_string()),
            ("HOST_PROBED", HOST_PROBED.to_string()),
            ("RA_CLAIMS", RA_CLAIMS.to_string()),
            (
                "RA_CLAIM_GRACE",
                format!("{} ms", RA_CLAIM_GRACE.as_millis()),
            ),
            ("RA_PREFIXES", RA_PREFIXES.to_string()),
            ("RA_ROUTERS", RA_ROUTERS.to_string()),
            ("LEARNED_ROUTES", LEARNED_ROUTES.to_string()),
            ("LEARNED_DNS", LEARNED_DNS.to_string()),
            ("REASSEMBLY_HIGH", format!("{} MiB", REASSEMBLY_HIGH >> 20)),
            (
                "REASSEMBLIES_PER_SOURCE",
                REASSEMBLIES_PER_SOURCE.to_string(),
            ),
            ("DATAGRAMS_WAITING", format!("{DATAGRAMS_WAITING} commands")),
            ("HOST_OUTPUT", HOST_OUTPUT.to_string()),
            ("HOST_OUTPUT_RESERVED", HOST_OUTPUT_RESERVED.to_string()),
            ("STACK_COMMANDS", STACK_COMMANDS.to_string()),
            ("STACK_ORDERS", STACK_ORDERS.to_string()),
            ("STACK_ORDERS_RESERVED", STACK_ORDERS_RESERVED.to_string()),
            ("STACK_NEWS", STACK_NEWS.to_string()),
            ("STRANGERS_HOPS", STRANGERS_HOPS.to_string()),
            ("UNROUTED_MAX", format!("{UNROUTED_MAX} wait")),
            ("UNROUTED_LIFE", format!("{} s", UNROUTED_LIFE.as_secs())),
        ];
        for (name, value) in &numbers {
            let cell = format!("`{name}` {value}");
            assert!(table.contains(&cell), "the table lacks: {cell}");
        }
        // And no others.
        let is_limit = |word: &&str| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        for word in table.split('`').filter(is_limit) {
            let known = numbers.iter().any(|(name, _)| *name == word);
            assert!(known, "no number to compare with: {word}");
        }
    }
}
