/* The only DPDK that Rust sees: names of our own, structs of our own, plain integers.
 *
 * Everything that differs between DPDK 22.11 and later releases, everything inline, every macro and
 * every thread-local is settled behind this header, so that one Rust source fits them all. */
#ifndef CULVERT_SHIM_H
#define CULVERT_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>

/* Where the hot fields of an mbuf lie: Rust reads and writes them in place. */
enum culvert_mbuf_offset {
	CULVERT_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	CULVERT_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	CULVERT_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	CULVERT_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	CULVERT_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	CULVERT_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	CULVERT_MBUF_RSS_HASH = offsetof(struct rte_mbuf, hash),
	CULVERT_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	CULVERT_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};

enum culvert_limit {
	CULVERT_HEADROOM = RTE_PKTMBUF_HEADROOM,
	CULVERT_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	CULVERT_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	CULVERT_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
	CULVERT_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
	CULVERT_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	CULVERT_MEMPOOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1,
	CULVERT_LCORES_MAX = RTE_MAX_LCORE,
};

/* Macros over 1ULL << n vanish in bindgen; constants do not. */
static const uint64_t CULVERT_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t CULVERT_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t CULVERT_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t CULVERT_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t CULVERT_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t CULVERT_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t CULVERT_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t CULVERT_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t CULVERT_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t CULVERT_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;

static const uint64_t CULVERT_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t CULVERT_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t CULVERT_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t CULVERT_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t CULVERT_TX_OFFLOAD_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

/* Opaque to Rust. */
struct culvert_mbuf;
struct culvert_mempool;

struct culvert_device_info {
	char driver[64];
	char bus_name[64];
	uint8_t mac[6];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t rx_descriptors_default;
	uint16_t rx_descriptors_min;
	uint16_t rx_descriptors_max;
	uint16_t rx_descriptors_align;
	uint16_t tx_descriptors_default;
	uint16_t tx_descriptors_min;
	uint16_t tx_descriptors_max;
	uint16_t tx_descriptors_align;
	uint16_t reta_size;
	uint32_t if_index;
	uint32_t max_frame;
	uint32_t min_rx_buffer;
	int32_t socket;
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	uint64_t rss_types;
};

struct culvert_port_config {
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu;
	uint8_t rss;
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	struct culvert_mempool *const *rx_pools; /* one per RX queue */
};

/* Which step of culvert_port_start() failed. */
enum culvert_start_step {
	CULVERT_STEP_CONFIGURE = 1,
	CULVERT_STEP_DESCRIPTORS = 2,
	CULVERT_STEP_RX_QUEUE = 3,
	CULVERT_STEP_TX_QUEUE = 4,
	CULVERT_STEP_START = 5,
};

struct culvert_start_result {
	int32_t error; /* negative errno, 0 when started */
	uint32_t step;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
};

struct culvert_link {
	uint32_t speed_mbps; /* UINT32_MAX: unknown */
	uint8_t full_duplex;
	uint8_t up;
};

struct culvert_stats {
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_bytes;
	uint64_t tx_bytes;
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t tx_errors;
	uint64_t rx_no_buffer;
};

/* Log lines arrive whole, on the thread that wrote them. */
typedef void (*culvert_log_sink)(uint32_t level, const char *line, size_t len);

/* EAL. All return 0 or a negative errno unless said otherwise. */
const char *culvert_version(void);
int culvert_log_redirect(culvert_log_sink sink);

/* Receives the name of a device that the kernel wants back, on EAL's interrupt thread. */
typedef void (*culvert_departure_sink)(const char *device);
int culvert_departures(culvert_departure_sink sink);
void culvert_log_level(uint32_t level);
int culvert_eal_init(int argc, char **argv);
const char *culvert_runtime_dir(void);
const char *culvert_strerror(int error);
int culvert_thread_register(void);
void culvert_thread_unregister(void);
uint32_t culvert_lcore_id(void); /* UINT32_MAX: this thread is not registered */

/* Memory. */
int culvert_memory_freeze(void); /* no page is taken but by threads that grow it; 0 too where none can be */
void culvert_memory_grow(int begin); /* until the matching 0 this thread may have pages taken */
struct culvert_mempool *culvert_mempool_create(const char *name, uint32_t count, uint32_t cache,
					       uint16_t data_room, int socket, int *error);
void culvert_mempool_free(struct culvert_mempool *pool);
uint32_t culvert_mempool_available(const struct culvert_mempool *pool);
uint32_t culvert_mempool_in_use(const struct culvert_mempool *pool);
int culvert_mbuf_alloc_bulk(struct culvert_mempool *pool, struct culvert_mbuf **mbufs, uint32_t count);
void culvert_mbuf_free_bulk(struct culvert_mbuf **mbufs, uint32_t count);
void culvert_mbuf_free(struct culvert_mbuf *mbuf);

/* Devices. */
int culvert_device_plug(const char *devargs);
int culvert_device_unplug(uint16_t port);
/* What a bond's devargs call a member. */
const char *culvert_bond_member_key(void);
/* Has a bond, stopped, take the members that its devargs name: until then it knows none of their properties. */
int culvert_bond_gather(uint16_t port);
/* Unplugs a bond, which lets go of its members. */
int culvert_bond_unplug(uint16_t port);
int culvert_port_by_name(const char *name, uint16_t *port);
int culvert_port_info(uint16_t port, struct culvert_device_info *out);
struct culvert_start_result culvert_port_start(uint16_t port, const struct culvert_port_config *config);
int culvert_port_stop(uint16_t port);
int culvert_port_close(uint16_t port);
int culvert_port_mac(uint16_t port, uint8_t mac[6]);
int culvert_port_mtu(uint16_t port, uint16_t *mtu);
int culvert_port_link(uint16_t port, struct culvert_link *out);
int culvert_port_stats(uint16_t port, struct culvert_stats *out);
int culvert_port_promiscuous(uint16_t port, int on);
int culvert_port_allmulticast(uint16_t port, int on);
int culvert_port_multicast_list(uint16_t port, const uint8_t (*macs)[6], uint32_t count);

/* The two calls that count, and a hint. */
uint16_t culvert_rx_burst(uint16_t port, uint16_t queue, struct culvert_mbuf **mbufs, uint16_t count);
uint16_t culvert_tx_burst(uint16_t port, uint16_t queue, struct culvert_mbuf **mbufs, uint16_t count);
/* 1: room for `count` more packets; 0: not now; negative: the driver can't tell. */
int culvert_tx_room(uint16_t port, uint16_t queue, uint16_t count, uint16_t descriptors);

#endif
