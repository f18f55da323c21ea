/* See shim.h. Nothing here decides anything: it flattens DPDK's inline functions, macros, thread-locals
 * and version differences into plain calls. */
#define _GNU_SOURCE
/* For rte_dev_event_callback_register(), which is as it was in 18.02. */
#define ALLOW_EXPERIMENTAL_API
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_version.h>

#include "shim.h"

/* ------------------------------------------------------------------ EAL */

static culvert_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *line, size_t len)
{
	(void)cookie;
	log_sink((uint32_t)rte_log_cur_msg_loglevel(), line, len);
	return (ssize_t)len;
}

const char *culvert_version(void)
{
	return rte_version();
}

int culvert_log_redirect(culvert_log_sink sink)
{
	static const cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -errno;
	/* rte_log() flushes after each message; a stray fprintf() at least ends its lines. */
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	return rte_openlog_stream(stream) == 0 ? 0 : -EINVAL;
}

void culvert_log_level(uint32_t level)
{
	rte_log_set_global_level(level);
}

int culvert_eal_init(int argc, char **argv)
{
	if (rte_eal_init(argc, argv) >= 0)
		return 0;
	return rte_errno != 0 ? -rte_errno : -EINVAL;
}

const char *culvert_runtime_dir(void)
{
	return rte_eal_get_runtime_dir();
}

const char *culvert_strerror(int error)
{
	return rte_strerror(error);
}

int culvert_thread_register(void)
{
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void culvert_thread_unregister(void)
{
	rte_thread_unregister();
}

uint32_t culvert_lcore_id(void)
{
	unsigned int lcore = rte_lcore_id();

	return lcore == LCORE_ID_ANY ? UINT32_MAX : lcore;
}

static culvert_departure_sink departure_sink;

static void on_device_event(const char *device, enum rte_dev_event_type event, void *cookie)
{
	(void)cookie;
	if (event == RTE_DEV_EVENT_REMOVE)
		departure_sink(device);
}

int culvert_departures(culvert_departure_sink sink)
{
	departure_sink = sink;
	return rte_dev_event_callback_register(NULL, on_device_event, NULL);
}

/* --------------------------------------------------------------- memory */

/*
 * While EAL takes a page, it has SIGBUS: its action jumps to the stack frame that waits for the page (alloc_seg in
 * eal_memalloc.c). For the whole process that would be wrong: a worker that meets a guest's truncated memory meanwhile
 * would jump into another thread's frame. So EAL's sigaction is ours, by the name that libdpdk looks for first in the
 * program: what a thread that lets DPDK take memory says of SIGBUS counts for that thread alone.
 */
static int (*libc_sigaction)(int, const struct sigaction *, struct sigaction *);
static struct sigaction before;
static __thread unsigned int growing;
static __thread int is_theirs;
static __thread struct sigaction theirs;

__attribute__((constructor)) static void find_sigaction(void)
{
	if (libc_sigaction == NULL)
		*(void **)&libc_sigaction = dlsym(RTLD_NEXT, "sigaction");
}

int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction ours;

	find_sigaction();
	if (number != SIGBUS || growing == 0)
		return libc_sigaction(number, action, old);
	if (libc_sigaction(SIGBUS, NULL, &ours) != 0)
		return -1;
	if (old != NULL)
		*old = is_theirs ? theirs : ours;
	if (action != NULL) {
		theirs = *action;
		is_theirs = action->sa_handler != ours.sa_handler;
	}
	return 0;
}

/* What is not the page that this thread waits for goes to whose action was there before. */
static void on_sigbus(int number, siginfo_t *information, void *context)
{
	struct sigaction none = { .sa_handler = SIG_DFL };

	if (is_theirs && (theirs.sa_flags & SA_SIGINFO))
		theirs.sa_sigaction(number, information, context);
	else if (is_theirs)
		theirs.sa_handler(number);
	else if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(number, information, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(number);
	else
		/* The access repeats and ends the process, as it would have without us. */
		libc_sigaction(number, &none, NULL);
}

static void take_sigbus(void)
{
	struct sigaction ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	libc_sigaction(SIGBUS, NULL, &before);
	libc_sigaction(SIGBUS, &ours, NULL);
}

void culvert_memory_grow(int begin)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	find_sigaction();
	pthread_once(&once, take_sigbus);
	growing += begin ? 1 : -1;
}

static int refuse_growth(int socket, size_t limit, size_t wanted)
{
	static char was_told;

	(void)limit;
	if (growing != 0)
		return 0;
	if (!__atomic_test_and_set(&was_told, __ATOMIC_RELAXED))
		rte_log(RTE_LOG_WARNING, RTE_LOGTYPE_USER1,
			"more memory was asked for on socket %d (%zu MiB in all) and refused: it grows only when "
			"a device is opened. If something fails for it, set memory.megabytes to more\n",
			socket, wanted >> 20);
	return -1;
}

int culvert_memory_freeze(void)
{
	unsigned int index;

	for (index = 0; index < rte_socket_count(); index++) {
		int socket = rte_socket_id_by_idx(index);

		/* ENOTSUP: memory that was taken at once and can't grow. EEXIST: frozen before. */
		if (rte_mem_alloc_validator_register("culvert", refuse_growth, socket, 0) != 0 &&
		    rte_errno != ENOTSUP && rte_errno != EEXIST)
			return -rte_errno;
	}
	return 0;
}

#define POOL(p) ((struct rte_mempool *)(p))
#define MBUFS(m) ((struct rte_mbuf **)(m))

struct culvert_mempool *culvert_mempool_create(const char *name, uint32_t count, uint32_t cache,
					       uint16_t data_room, int socket, int *error)
{
	struct rte_mempool *pool = rte_pktmbuf_pool_create(name, count, cache, 0, data_room, socket);

	*error = pool == NULL ? -rte_errno : 0;
	return (struct culvert_mempool *)pool;
}

void culvert_mempool_free(struct culvert_mempool *pool)
{
	rte_mempool_free(POOL(pool));
}

uint32_t culvert_mempool_available(const struct culvert_mempool *pool)
{
	return rte_mempool_avail_count((const struct rte_mempool *)pool);
}

uint32_t culvert_mempool_in_use(const struct culvert_mempool *pool)
{
	return rte_mempool_in_use_count((const struct rte_mempool *)pool);
}

int culvert_mbuf_alloc_bulk(struct culvert_mempool *pool, struct culvert_mbuf **mbufs, uint32_t count)
{
	return rte_pktmbuf_alloc_bulk(POOL(pool), MBUFS(mbufs), count);
}

void culvert_mbuf_free_bulk(struct culvert_mbuf **mbufs, uint32_t count)
{
	rte_pktmbuf_free_bulk(MBUFS(mbufs), count);
}

void culvert_mbuf_free(struct culvert_mbuf *mbuf)
{
	rte_pktmbuf_free((struct rte_mbuf *)mbuf);
}

/* -------------------------------------------------------------- devices */

int culvert_device_plug(const char *devargs)
{
	return rte_dev_probe(devargs);
}

const char *culvert_bond_member_key(void)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 11, 0, 0)
	return "member";
#else
	return "slave";
#endif
}

int culvert_bond_gather(uint16_t port)
{
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	return rte_eth_dev_configure(port, 1, 1, &conf);
}

int culvert_device_unplug(uint16_t port)
{
	struct rte_eth_dev_info info;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	/* Removing the device closes its port where the driver does not share one device among several. */
	return rte_dev_remove(info.device);
}

int culvert_bond_unplug(uint16_t port)
{
	struct rte_eth_dev_info info;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	/* Closing lets go of them; removing a bond that has some is refused. */
	ret = rte_eth_dev_close(port);
	if (ret != 0)
		return ret;
	return rte_dev_remove(info.device);
}

int culvert_port_by_name(const char *name, uint16_t *port)
{
	uint16_t candidate;

	if (rte_eth_dev_get_port_by_name(name, port) == 0)
		return 0;
	/* Some drivers name the port otherwise than its device: ask every port for its device. */
	RTE_ETH_FOREACH_DEV(candidate)
	{
		struct rte_eth_dev_info info;

		if (rte_eth_dev_info_get(candidate, &info) != 0 || info.device == NULL)
			continue;
		if (strcmp(rte_dev_name(info.device), name) == 0) {
			*port = candidate;
			return 0;
		}
	}
	return -ENODEV;
}

int culvert_port_info(uint16_t port, struct culvert_device_info *out)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(out, 0, sizeof(*out));
	ret = rte_eth_macaddr_get(port, &mac);
	if (ret == 0)
		memcpy(out->mac, mac.addr_bytes, 6);
	if (info.driver_name != NULL)
		snprintf(out->driver, sizeof(out->driver), "%s", info.driver_name);
	if (info.device != NULL)
		snprintf(out->bus_name, sizeof(out->bus_name), "%s", rte_dev_name(info.device));
	out->max_rx_queues = info.max_rx_queues;
	out->max_tx_queues = info.max_tx_queues;
	out->min_mtu = info.min_mtu;
	out->max_mtu = info.max_mtu;
	out->rx_descriptors_default = info.default_rxportconf.ring_size;
	out->rx_descriptors_min = info.rx_desc_lim.nb_min;
	out->rx_descriptors_max = info.rx_desc_lim.nb_max;
	out->rx_descriptors_align = info.rx_desc_lim.nb_align;
	out->tx_descriptors_default = info.default_txportconf.ring_size;
	out->tx_descriptors_min = info.tx_desc_lim.nb_min;
	out->tx_descriptors_max = info.tx_desc_lim.nb_max;
	out->tx_descriptors_align = info.tx_desc_lim.nb_align;
	out->reta_size = info.reta_size;
	out->if_index = info.if_index;
	out->max_frame = info.max_rx_pktlen;
	out->min_rx_buffer = info.min_rx_bufsize;
	out->socket = rte_eth_dev_socket_id(port);
	out->rx_offloads = info.rx_offload_capa;
	out->tx_offloads = info.tx_offload_capa;
	out->rss_types = info.flow_type_rss_offloads;
	return 0;
}

struct culvert_start_result culvert_port_start(uint16_t port, const struct culvert_port_config *config)
{
	struct culvert_start_result result = { .error = 0,
					       .step = CULVERT_STEP_CONFIGURE,
					       .rx_descriptors = config->rx_descriptors,
					       .tx_descriptors = config->tx_descriptors };
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	struct rte_eth_rxconf rx;
	struct rte_eth_txconf tx;
	unsigned int socket;
	uint16_t queue;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		goto out;

	/* The MTU goes in by the configuration alone: rte_eth_dev_set_mtu() would change a kernel
	 * device (net_af_packet, net_tap) for good. */
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = config->mtu;
	conf.rxmode.offloads = config->rx_offloads & info.rx_offload_capa;
	conf.txmode.offloads = config->tx_offloads & info.tx_offload_capa;
	if (config->rss && config->rx_queues > 1 && info.flow_type_rss_offloads != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP) & info.flow_type_rss_offloads;
	}
	ret = rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, &conf);
	if (ret != 0)
		goto out;

	result.step = CULVERT_STEP_DESCRIPTORS;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port, &result.rx_descriptors, &result.tx_descriptors);
	if (ret != 0)
		goto out;

	socket = (unsigned int)rte_eth_dev_socket_id(port);
	rx = info.default_rxconf;
	rx.offloads = conf.rxmode.offloads;
	result.step = CULVERT_STEP_RX_QUEUE;
	for (queue = 0; queue < config->rx_queues; queue++) {
		ret = rte_eth_rx_queue_setup(port, queue, result.rx_descriptors, socket, &rx,
					     POOL(config->rx_pools[queue]));
		if (ret == -ENOMEM)
			ret = rte_eth_rx_queue_setup(port, queue, result.rx_descriptors, (unsigned int)SOCKET_ID_ANY,
						     &rx, POOL(config->rx_pools[queue]));
		if (ret != 0)
			goto out;
	}

	tx = info.default_txconf;
	tx.offloads = conf.txmode.offloads;
	result.step = CULVERT_STEP_TX_QUEUE;
	for (queue = 0; queue < config->tx_queues; queue++) {
		ret = rte_eth_tx_queue_setup(port, queue, result.tx_descriptors, socket, &tx);
		if (ret == -ENOMEM)
			ret = rte_eth_tx_queue_setup(port, queue, result.tx_descriptors, (unsigned int)SOCKET_ID_ANY, &tx);
		if (ret != 0)
			goto out;
	}

	result.step = CULVERT_STEP_START;
	ret = rte_eth_dev_start(port);
out:
	result.error = ret;
	return result;
}

int culvert_port_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

int culvert_port_close(uint16_t port)
{
	return rte_eth_dev_close(port);
}

int culvert_port_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr address;
	int ret = rte_eth_macaddr_get(port, &address);

	if (ret == 0)
		memcpy(mac, address.addr_bytes, 6);
	return ret;
}

int culvert_port_mtu(uint16_t port, uint16_t *mtu)
{
	return rte_eth_dev_get_mtu(port, mtu);
}

int culvert_port_link(uint16_t port, struct culvert_link *out)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port, &link);
	out->speed_mbps = link.link_speed;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	return ret;
}

int culvert_port_stats(uint16_t port, struct culvert_stats *out)
{
	struct rte_eth_stats stats;
	int ret;

	memset(&stats, 0, sizeof(stats));
	ret = rte_eth_stats_get(port, &stats);
	out->rx_packets = stats.ipackets;
	out->tx_packets = stats.opackets;
	out->rx_bytes = stats.ibytes;
	out->tx_bytes = stats.obytes;
	out->rx_missed = stats.imissed;
	out->rx_errors = stats.ierrors;
	out->tx_errors = stats.oerrors;
	out->rx_no_buffer = stats.rx_nombuf;
	return ret;
}

int culvert_port_promiscuous(uint16_t port, int on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int culvert_port_allmulticast(uint16_t port, int on)
{
	return on ? rte_eth_allmulticast_enable(port) : rte_eth_allmulticast_disable(port);
}

int culvert_port_multicast_list(uint16_t port, const uint8_t (*macs)[6], uint32_t count)
{
	/* The driver copies the list; its type is six bytes without padding, like ours. */
	return rte_eth_dev_set_mc_addr_list(port, (struct rte_ether_addr *)(uintptr_t)macs, count);
}

/* ------------------------------------------------------------- hot path */

uint16_t culvert_rx_burst(uint16_t port, uint16_t queue, struct culvert_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, MBUFS(mbufs), count);
}

uint16_t culvert_tx_burst(uint16_t port, uint16_t queue, struct culvert_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, MBUFS(mbufs), count);
}

int culvert_tx_room(uint16_t port, uint16_t queue, uint16_t count, uint16_t descriptors)
{
	int status;

	if (count == 0)
		return 1;
	if (count > descriptors)
		return 0;
	/* The descriptor that the last of `count` packets would take. (rte_eth_tx_queue_count() of later
	 * releases is not part of the stable interface.) */
	status = rte_eth_tx_descriptor_status(port, queue, count - 1);
	if (status < 0)
		return status;
	return status == RTE_ETH_TX_DESC_DONE;
}
