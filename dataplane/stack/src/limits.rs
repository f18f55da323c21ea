//! Every bound of the stack, and where it comes from.

use std::time::Duration;

/// Neighbors that a host stack knows: a /22 full of them (Linux's `gc_thresh3`).
pub const HOST_NEIGHBORS: usize = 1_024;

/// Of these, those that are asked only because somebody says to be a router, and are nowhere yet: one for each such claim
/// ([`RA_CLAIMS`]) and each router that is known ([`RA_ROUTERS`]). The oldest makes room.
pub const HOST_PROBED: usize = RA_CLAIMS + RA_ROUTERS;

/// Frames of a host stack that wait to be sent.
pub const HOST_OUTPUT: usize = 256;

/// How many of [`HOST_OUTPUT`] answers to others leave free for our own questions.
pub const HOST_OUTPUT_RESERVED: usize = 64;

/// Answers of a host stack per second to who asks for listeners: a querier asks each two minutes.
pub const HOST_REPORTS_PER_SECOND: u32 = 10;

/// Groups of one report: it fits into the least packet that every link takes.
pub const GROUPS_OF_REPORT: usize = 60;

/// Frames of a host stack to itself that wait to be taken.
pub const HOST_RETURNING: usize = 64;

/// Answers of a host stack per second, of each kind (neighbors, echo).
pub const HOST_REPLIES_PER_SECOND: u32 = 1_000;

/// Probes of paths per second, to all peers together: 100,000 peers whose paths are known take 1,667 a second if all of
/// them are sent to, and wait a little longer then.
pub const PROBES_PER_SECOND: u64 = 1_000;

/// Bytes that parts of packets may take, of one stack (the kernel's `ipfrag_high_thresh`).
pub const REASSEMBLY_HIGH: usize = 4 << 20;

/// Down to which the oldest go once there is no more room (the kernel's `ipfrag_low_thresh`, formerly).
pub const REASSEMBLY_LOW: usize = 3 << 20;

/// How long an IPv4 packet may take to come together (the kernel's `ipfrag_time`).
pub const REASSEMBLY_LIFE_V4: Duration = Duration::from_secs(30);

/// The same over IPv6 (RFC 8200, section 4.5).
pub const REASSEMBLY_LIFE_V6: Duration = Duration::from_secs(60);

/// Packets of one source that wait for fragments (the kernel's `ipfrag_max_dist`).
pub const REASSEMBLIES_PER_SOURCE: usize = 64;

/// Fragments of one packet: the longest over the least that every host takes (576 bytes) has 119.
pub const FRAGMENTS_PER_DATAGRAM: usize = 128;

/// Bytes ahead of a fragment's own, Ethernet included: what a parser looks at.
pub const FRAGMENT_HEAD: usize = culvert_wire::parse::HEAD_LEN;

/// Packets whose time is over that are given up at once; the others wait for the next round.
pub const EXPIRED_AT_ONCE: usize = 64;

/// ICMP errors of a host stack per second (the kernel's `icmp_msgs_per_sec`).
pub const HOST_ERRORS_PER_SECOND: u32 = 1_000;

/// The same to one host: as many probes as a traceroute has on their way.
pub const HOST_ERRORS_TO_ONE: u32 = 32;

/// Errors about packets of ours that wait to be heard.
pub const ERRORS_HEARD: usize = 64;

/// Frames for the host's kernel that wait for who takes them: what comes between two looks.
pub const KERNEL_FRAMES: usize = 128;

/// Datagrams out of fragments that wait for who takes them: of as many fragments as come between two looks.
pub const DATAGRAMS: usize = 128;

/// Routes over other guests that one is told of: with the default route, each of at most nine bytes, they fit into an
/// option of one piece (RFC 3442).
pub const GUEST_ROUTES: usize = 24;

/// Associations of a guest's DHCPv6 message that are answered, and addresses of one: clients send one of a kind.
pub const GUEST_ASSOCIATIONS: usize = 8;

/// For how many seconds guests take the gateway for a router (RFC 4861, section 6.2.1: `AdvDefaultLifetime`).
pub const ROUTER_LIFETIME: u16 = 1_800;

/// For how many seconds a prefix is on the link, and addresses of it are good (RFC 4861, section 6.2.1, has 30 days, which
/// no guest would forget in time).
pub const PREFIX_VALID: u32 = 86_400;

/// For how many seconds new connections are made from addresses of it.
pub const PREFIX_PREFERRED: u32 = 14_400;

/// TCP connections of a stack: an API's clients, some exporters' and the host's own, of each as many. A source (over IPv6 a
/// /64) takes another of a service's as long as more are free than it has (`tcp/table/room.rs`).
pub const CONNECTIONS: usize = 64;

/// Beside them, those that others began and that are not open yet, of which there is a SYN and little more: a worker's
/// SYNs (`PUNT_OPENINGS`) of a quarter of a second. The oldest of who has most makes room.
pub const OPENINGS: usize = 512;

/// How long one that is its source's only one has at least to become open: a round trip around the earth.
pub const OPENING_GRACE: Duration = Duration::from_millis(250);

/// How long a connection may take to become open: a SYN and three that are sent again (RFC 6298, section 2.1).
pub const OPENING_LIFE: Duration = Duration::from_secs(10);

/// Bytes that came or are to be sent, each, of a connection: 100 Mbit/s over 20 ms. Pages that are not written to are
/// none.
pub const CONNECTION_BUFFER: usize = 256 << 10;

/// How often the other is asked whether it is there, while nothing comes.
pub const CONNECTION_KEEPALIVE: Duration = Duration::from_secs(20);

/// How long nothing may come from the other: a few such questions.
pub const CONNECTION_SILENCE: Duration = Duration::from_secs(60);

/// How long no bytes may come or go, either way.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(600);

/// How long what was written may take to be sent, and the end to be answered, once nobody holds it (the kernel's
/// `tcp_fin_timeout`).
pub const CONNECTION_LINGER: Duration = Duration::from_secs(60);

/// Packets of a connection that wait for the way to it to be known.
pub const ANSWERS_HELD: usize = 16;

/// Packets of connections that wait to be sent: what else there is is not written yet.
pub const HOST_SEGMENTS: usize = 128;

/// The longest packet of a connection: with its link header, what workers hand over (`HOST_FRAME_MAX`).
pub const CONNECTION_MTU: u16 = 2_000;

/// Below this no one can say that a packet is too long (RFC 1191, section 3, has 68, with which a megabyte would be
/// twenty thousand packets; the kernel's `min_pmtu`).
pub const PATH_MTU_MIN_V4: u16 = 552;

/// The same over IPv6 (RFC 8200, section 5).
pub const PATH_MTU_MIN_V6: u16 = 1_280;
/// The shortest lease of an address, in seconds, that is taken: a shorter one is no more than work.
pub const DHCP_LEASE_MIN: u32 = 10;

/// Frames of a DHCP client that wait to be sent.
pub const DHCP_OUTPUT: usize = 8;

/// Routes that a DHCP server may tell: as many as guests are told by ours, and some more.
pub const LEARNED_ROUTES: usize = 32;

/// Servers of names that are learned, of a DHCP server and of routers each (resolv.conf takes three), and that one router
/// may tell.
pub const LEARNED_DNS: usize = 4;

/// Prefixes of each kind (on the link, for addresses of ours) that a router may advertise: all of them together some times
/// as many as Linux takes (`max_addresses`, 16), so that none has another's.
pub const RA_PREFIXES: usize = 8;

/// Who says to be a router, and is asked whether it is there, at a time: each takes a place of a neighbor's.
pub const RA_CLAIMS: usize = 32;

/// After which the oldest of them makes room: a router on the link has long answered.
pub const RA_CLAIM_GRACE: Duration = Duration::from_millis(100);

/// Routers that are known at a time, and others that announce prefixes (RFC 4861, section 6.3.4, asks for two at least).
pub const RA_ROUTERS: usize = 8;

/// UDP endpoints of a stack.
pub const ENDPOINTS: usize = 64;

/// Bytes that came and wait for an endpoint's owner (gVisor's and lwIP's default for datagrams).
pub const ENDPOINT_BUFFER: usize = 32 << 10;

/// Groups of one endpoint (the kernel's `igmp_max_memberships`).
pub const ENDPOINT_GROUPS: usize = 20;

/// Datagrams of ours that wait for their next hop (the kernel's `unres_qlen` in packets of those days).
pub const UNROUTED: usize = 16;

/// How long they wait: three questions, a second apart.
pub const UNROUTED_LIFE: Duration = Duration::from_secs(3);

/// Names that are asked for at a time: each takes two endpoints of [`ENDPOINTS`].
pub const NAMES: usize = 24;

/// Servers of names that are asked: as many as a DHCP server and routers tell ([`LEARNED_DNS`] each).
pub const NAME_SERVERS: usize = 8;

/// How long a name is asked for: each of two servers three times.
pub const NAME_LIFE: Duration = Duration::from_secs(30);

/// Questions for names that are asked by connections at a time: of [`CONNECTIONS`], which others want, too.
pub const NAME_STREAMS: usize = 4;

/// Answers to one question that are none, after which it is asked by a connection: so many guesses of 65,536 has who has
/// found the port.
pub const NAME_STRANGE: usize = 8;

/// The longest answer by a connection: of datagrams none is longer than 512 bytes (RFC 1035, section 4.2.1).
pub const NAME_ANSWER: usize = 16 << 10;

/// Records of an answer that are read.
pub const NAME_RECORDS: usize = 256;

/// Names that stand for others, one after the other, until an address has to come (BIND's `max-recursion-depth` is 7,
/// Unbound's `MAX_RESTART_COUNT` is 11).
pub const NAME_ALIASES: usize = 16;

/// Addresses of a name that are told, of each family.
pub const NAME_ADDRESSES: usize = 8;
