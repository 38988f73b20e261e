/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * net/netmap_user.h: how a program finds and moves through what net/netmap.h describes.
 *
 * With NETMAP_WITH_LIBS defined first, there are also nm_open() and its relatives, for programs that want a port by
 * its name and packets one by one:
 *
 *   #define NETMAP_WITH_LIBS
 *   #include <net/netmap_user.h>
 *
 *   struct nm_desc *d = nm_open("valeA:x", NULL, 0, NULL);
 *   struct pollfd p = { .fd = NETMAP_FD(d), .events = POLLIN };
 *   struct nm_pkthdr h;
 *   unsigned char *packet;
 *   while (poll(&p, 1, -1) >= 0)
 *           while ((packet = nm_nextpkt(d, &h)) != NULL)
 *                   use(packet, h.len);
 *
 * Nothing here is called by any library: all of it is inline, and becomes part of the program.
 */
#ifndef _NET_NETMAP_USER_H_
#define _NET_NETMAP_USER_H_

/* Programs get these from here: libpcap its struct ifreq and IFF_PROMISC, for one. */
#include <net/if.h>
#include <sys/socket.h>

#include <net/netmap.h>

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

/* ---- from the mapping to a packet ---- */

#ifdef __cplusplus
#define NM_AT(type, base, ofs) \
	(reinterpret_cast<type>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(ofs)))
#else
#define NM_AT(type, base, ofs) ((type)((uintptr_t)(base) + (uintptr_t)(ofs)))
#endif

#define NETMAP_IF(base, ofs) NM_AT(struct netmap_if *, base, ofs)

/* Rings behind the port's own are the host's. */
#define NETMAP_TXRING(nifp, index) NM_AT(struct netmap_ring *, nifp, (nifp)->ring_ofs[index])
#define NETMAP_RXRING(nifp, index) \
	NM_AT(struct netmap_ring *, nifp, \
	    (nifp)->ring_ofs[(index) + (nifp)->ni_tx_rings + (nifp)->ni_host_tx_rings])

#define NETMAP_BUF(ring, index) \
	NM_AT(char *, ring, (ring)->buf_ofs + (int64_t)(index) * (int64_t)(ring)->nr_buf_size)

/* The number of the buffer that an address is in. */
#define NETMAP_BUF_IDX(ring, buf) \
	((uint32_t)(((uintptr_t)(buf) - (uintptr_t)(ring) - (uintptr_t)(ring)->buf_ofs) / (ring)->nr_buf_size))

/* Where the data of a slot begins, offsets included. */
#define NETMAP_BUF_OFFSET(ring, slot) (NETMAP_BUF(ring, (slot)->buf_idx) + NETMAP_ROFFSET(ring, slot))

/* ---- around a ring ---- */

/* The slot behind i. */
static inline uint32_t
nm_ring_next(const struct netmap_ring *ring, uint32_t i)
{
	return i + 1 == ring->num_slots ? 0 : i + 1;
}

/* Slots from cur to tail: to fill in a TX ring, with packets in an RX ring. */
static inline uint32_t
nm_ring_space(const struct netmap_ring *ring)
{
	uint32_t tail = ring->tail, cur = ring->cur;

	return tail >= cur ? tail - cur : tail + ring->num_slots - cur;
}

/* Nothing is the program's. */
static inline int
nm_ring_empty(const struct netmap_ring *ring)
{
	return ring->head == ring->tail;
}

/* The port still has packets of this TX ring. */
static inline int
nm_tx_pending(const struct netmap_ring *ring)
{
	return nm_ring_next(ring, ring->tail) != ring->head;
}

#ifdef NETMAP_WITH_LIBS

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/*
 * What programs of netmap's kind say things with, unless they have their own: D() to stderr, RD() so many times a second
 * at most, ND() not at all.
 */
#ifndef ND
#define ND(format, ...) do { } while (0)
#define D(format, ...) \
	do { \
		struct timeval nm_now; \
		gettimeofday(&nm_now, NULL); \
		fprintf(stderr, "%03d.%06d %s [%d] " format "\n", (int)(nm_now.tv_sec % 1000), \
		    (int)nm_now.tv_usec, __func__, __LINE__, ##__VA_ARGS__); \
	} while (0)
#define RD(times, format, ...) \
	do { \
		static time_t nm_second; \
		static int nm_told; \
		time_t nm_this = time(NULL); \
		if (nm_second != nm_this) { \
			nm_second = nm_this; \
			nm_told = 0; \
		} \
		if (nm_told++ < (times)) \
			D(format, ##__VA_ARGS__); \
	} while (0)
#endif

#define NM_ERRBUF_SIZE 512

/* A packet, as nm_dispatch() and nm_nextpkt() tell of it. It may be kept no longer than until the next of them. */
struct nm_pkthdr {
	struct timeval ts;
	uint32_t caplen;          /* bytes at buf */
	uint32_t len;             /* bytes of the packet; more, if it goes on in further slots */
	uint64_t flags;           /* NM_MORE_PKTS */
	struct nm_desc *d;
	struct netmap_slot *slot; /* its first */
	uint8_t *buf;
};

/* More packets come in this nm_dispatch(). */
#define NM_MORE_PKTS 1

struct nm_stat {
	unsigned int ps_recv;
	unsigned int ps_drop;
	unsigned int ps_ifdrop;
};

struct nm_desc {
	struct nm_desc *self;       /* itself, so that it can be told from anything else */
	int fd;
	void *mem;
	uint64_t memsize;
	int done_mmap;              /* mem is to be unmapped by nm_close() */
	struct netmap_if *nifp;
	uint16_t first_tx_ring, last_tx_ring, cur_tx_ring;
	uint16_t first_rx_ring, last_rx_ring, cur_rx_ring;
	struct nmreq req;           /* as answered */
	struct nm_pkthdr hdr;

	/* any of the rings, and the bounds of the buffers: to test whether an address is in netmap's memory */
	struct netmap_ring *some_ring;
	void *buf_start;
	void *buf_end;

	/* for a caller's use, as libpcap's */
	int snaplen;
	int promisc;
	int to_ms;
	char *errbuf;
	uint32_t if_flags;
	uint32_t if_reqcap;
	uint32_t if_curcap;
	struct nm_stat st;
	char msg[NM_ERRBUF_SIZE];
};

#define P2NMD(p) NM_AT(struct nm_desc *, p, 0)
#define IS_NETMAP_DESC(d) ((d) && P2NMD(d)->self == P2NMD(d))
#define NETMAP_FD(d) (P2NMD(d)->fd)

/* A packet's bytes; both places must be able to hold them. */
static inline void
nm_pkt_copy(const void *from, void *to, int len)
{
	memcpy(to, from, (size_t)len);
}

typedef void (*nm_cb_t)(unsigned char *arg, const struct nm_pkthdr *hdr, const unsigned char *packet);

/* Flags of nm_open(), above those that go to the port. */
enum {
	NM_OPEN_NO_MMAP = 0x040000,  /* maps nothing; nm_mmap() does */
	NM_OPEN_IFNAME = 0x080000,   /* name, ring and nr_flags are the parent's, and not read from a name */
	NM_OPEN_ARG1 = 0x100000,     /* the parent's nr_arg1 */
	NM_OPEN_ARG2 = 0x200000,     /* the parent's memory */
	NM_OPEN_ARG3 = 0x400000,     /* as many extra buffers as the parent */
	NM_OPEN_RING_CFG = 0x800000  /* numbers and sizes of rings as the parent's */
};

/* Decimal digits at *s as a number up to max, or -1; *s is then behind them. */
static inline long
nm_parse_number(const char **s, long max)
{
	long n = 0;
	const char *p = *s;

	if (*p < '0' || *p > '9')
		return -1;
	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (*p - '0');
		if (n > max)
			return -1;
	}
	*s = p;
	return n;
}

static inline int
nm_parse_fail(char *err, const char *why)
{
	strncpy(err, why, NM_ERRBUF_SIZE - 1);
	err[NM_ERRBUF_SIZE - 1] = '\0';
	errno = EINVAL;
	return -1;
}

/*
 * A port's name into d->req: netmap:NAME or valeS:P, then at most one of
 *   *  port and host rings    ^  host rings    -N  one pair    {N  }N  the ends of pipe N
 * then @N (memory), then / and letters of x z t r R T. Returns 0, or -1 with errno and a reason in err, which has
 * NM_ERRBUF_SIZE bytes.
 */
static inline int
nm_parse(const char *ifname, struct nm_desc *d, char *err)
{
	const char *name = ifname, *p;
	uint32_t mode = NR_REG_ALL_NIC, flags = 0;
	long ring = 0, memory = 0;
	size_t len;

	if (strncmp(name, "netmap:", 7) == 0)
		name += 7;
	else if (strncmp(name, NM_BDG_NAME, 4) != 0 || strchr(name, ':') == NULL)
		return nm_parse_fail(err, "the name of a port begins with netmap: or valeS:");
	len = strcspn(name, "*^-{}@/");
	p = name + len;
	if (len == 0)
		return nm_parse_fail(err, "the name of a port is missing");
	if (len >= sizeof(d->req.nr_name))
		return nm_parse_fail(err, "the name of the port is too long");
	switch (*p) {
	case '*':
		mode = NR_REG_NIC_SW;
		p++;
		break;
	case '^':
		mode = NR_REG_SW;
		if (*++p >= '0' && *p <= '9') {
			mode = NR_REG_ONE_SW;
			ring = nm_parse_number(&p, NETMAP_RING_MASK - 1);
		}
		break;
	case '-':
	case '{':
	case '}':
		mode = *p == '-' ? NR_REG_ONE_NIC : *p == '{' ? NR_REG_PIPE_MASTER : NR_REG_PIPE_SLAVE;
		p++;
		ring = nm_parse_number(&p, NETMAP_RING_MASK - 1);
		break;
	default:
		break;
	}
	if (ring < 0)
		return nm_parse_fail(err, "the number of the ring or pipe is missing or too large");
	if (*p == '@') {
		p++;
		memory = nm_parse_number(&p, 0xffff);
		if (memory < 0)
			return nm_parse_fail(err, "the number behind @ is missing or too large");
	}
	if (*p == '/') {
		for (p++; *p; p++) {
			switch (*p) {
			case 'x':
				flags |= NR_EXCLUSIVE;
				break;
			case 'z':
				flags |= NR_ZCOPY_MON;
				break;
			case 't':
				flags |= NR_MONITOR_TX;
				break;
			case 'r':
				flags |= NR_MONITOR_RX;
				break;
			case 'R':
				flags |= NR_RX_RINGS_ONLY;
				break;
			case 'T':
				flags |= NR_TX_RINGS_ONLY;
				break;
			default:
				return nm_parse_fail(err, "an unknown letter behind /");
			}
		}
	}
	if (*p)
		return nm_parse_fail(err, "the name of the port goes on where it should end");
	memset(d->req.nr_name, 0, sizeof(d->req.nr_name));
	memcpy(d->req.nr_name, name, len);
	d->req.nr_ringid = (uint16_t)ring;
	d->req.nr_flags = (d->req.nr_flags & ~(uint32_t)NR_REG_MASK) | mode | flags;
	if (memory)
		d->req.nr_arg2 = (uint16_t)memory;
	return 0;
}

/* Which rings a descriptor has, by what was asked for and the numbers that were answered. */
static inline void
nm_ring_range(struct nm_desc *d)
{
	uint16_t tx = d->req.nr_tx_rings, rx = d->req.nr_rx_rings;
	uint16_t ring = d->req.nr_ringid & NETMAP_RING_MASK;

	d->first_tx_ring = d->first_rx_ring = 0;
	d->last_tx_ring = (uint16_t)(tx ? tx - 1 : 0);
	d->last_rx_ring = (uint16_t)(rx ? rx - 1 : 0);
	switch (d->req.nr_flags & NR_REG_MASK) {
	case NR_REG_SW:
		d->first_tx_ring = d->last_tx_ring = tx;
		d->first_rx_ring = d->last_rx_ring = rx;
		break;
	case NR_REG_NIC_SW:
		d->last_tx_ring = tx;
		d->last_rx_ring = rx;
		break;
	case NR_REG_ONE_NIC:
		d->first_tx_ring = d->last_tx_ring = ring;
		d->first_rx_ring = d->last_rx_ring = ring;
		break;
	case NR_REG_ONE_SW:
		d->first_tx_ring = d->last_tx_ring = (uint16_t)(tx + ring);
		d->first_rx_ring = d->last_rx_ring = (uint16_t)(rx + ring);
		break;
	default:
		break;
	}
	d->cur_tx_ring = d->first_tx_ring;
	d->cur_rx_ring = d->first_rx_ring;
}

/* Maps the memory, or takes the parent's mapping, if it is the same memory. Returns 0, or -1 with errno. */
static inline int
nm_mmap(struct nm_desc *d, const struct nm_desc *parent)
{
	const struct netmap_if *nifp;
	uint32_t i, rings;

	if (d->mem)
		return 0;
	if (IS_NETMAP_DESC(parent) && parent->mem && parent->req.nr_arg2 == d->req.nr_arg2) {
		d->mem = parent->mem;
		d->memsize = parent->memsize;
	} else {
		void *mem = mmap(NULL, d->req.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);

		if (mem == MAP_FAILED)
			return -1;
		d->mem = mem;
		d->memsize = d->req.nr_memsize;
		d->done_mmap = 1;
	}
	nifp = d->nifp = NETMAP_IF(d->mem, d->req.nr_offset);
	rings = nifp->ni_tx_rings + nifp->ni_host_tx_rings + nifp->ni_rx_rings + nifp->ni_host_rx_rings;
	for (i = 0; i < rings && nifp->ring_ofs[i] == 0; i++)
		;
	if (i < rings) {
		d->some_ring = NETMAP_TXRING(d->nifp, i);
		d->buf_start = NETMAP_BUF(d->some_ring, 0);
		d->buf_end = NM_AT(void *, d->mem, d->memsize);
	}
	return 0;
}

/* Gives the port back. Returns 0, or EINVAL for what nm_open() has not made. */
static inline int
nm_close(struct nm_desc *d)
{
	if (!IS_NETMAP_DESC(d))
		return EINVAL;
	if (d->done_mmap)
		munmap(d->mem, d->memsize);
	if (d->fd != -1)
		close(d->fd);
	memset(d, 0, sizeof(*d));
	free(d);
	return 0;
}

/*
 * Opens the port with this name (see nm_parse). req: wishes, or NULL. flags: NM_OPEN_*, and NETMAP_NO_TX_POLL and
 * NETMAP_DO_RX_POLL. parent: a descriptor whose memory and, by flags, settings are used, or NULL. Returns NULL with
 * errno if that fails.
 */
static inline struct nm_desc *
nm_open(const char *ifname, const struct nmreq *req, uint64_t flags, const struct nm_desc *parent)
{
	struct nm_desc *d = P2NMD(calloc(1, sizeof(struct nm_desc)));
	char why[NM_ERRBUF_SIZE];
	int error;

	if (d == NULL)
		return NULL;
	d->self = d;
	d->fd = -1;
	if (req)
		d->req = *req;
	if (!(flags & NM_OPEN_IFNAME) && nm_parse(ifname, d, why) < 0)
		goto fail;
	if (IS_NETMAP_DESC(parent)) {
		if (flags & NM_OPEN_IFNAME) {
			memcpy(d->req.nr_name, parent->req.nr_name, sizeof(d->req.nr_name));
			d->req.nr_ringid = parent->req.nr_ringid;
			d->req.nr_flags = parent->req.nr_flags;
		}
		if (flags & NM_OPEN_ARG1)
			d->req.nr_arg1 = parent->req.nr_arg1;
		if (flags & NM_OPEN_ARG2)
			d->req.nr_arg2 = parent->req.nr_arg2;
		if (flags & NM_OPEN_ARG3)
			d->req.nr_arg3 = parent->req.nr_arg3;
		if (flags & NM_OPEN_RING_CFG) {
			d->req.nr_tx_slots = parent->req.nr_tx_slots;
			d->req.nr_rx_slots = parent->req.nr_rx_slots;
			d->req.nr_tx_rings = parent->req.nr_tx_rings;
			d->req.nr_rx_rings = parent->req.nr_rx_rings;
		}
	}
	d->req.nr_version = NETMAP_API;
	d->req.nr_ringid &= NETMAP_RING_MASK;
	d->req.nr_ringid |= (uint16_t)(flags & (NETMAP_NO_TX_POLL | NETMAP_DO_RX_POLL));
	d->fd = open(NETMAP_DEVICE_NAME, O_RDWR);
	if (d->fd < 0 || ioctl(d->fd, NIOCREGIF, &d->req) < 0)
		goto fail;
	nm_ring_range(d);
	if (!(flags & NM_OPEN_NO_MMAP) && nm_mmap(d, parent) < 0)
		goto fail;
	return d;

fail:
	error = errno;
	nm_close(d);
	errno = error;
	return NULL;
}

/*
 * Queues a packet in the first of the TX rings that has room for it. It leaves with the next NIOCTXSYNC or wait.
 * Returns its length, or 0 if no ring had room.
 */
static inline int
nm_inject(struct nm_desc *d, const void *packet, size_t len)
{
	uint32_t n, rings = (uint32_t)(d->last_tx_ring - d->first_tx_ring + 1), r = d->cur_tx_ring;

	for (n = 0; n < rings; n++, r = r == d->last_tx_ring ? d->first_tx_ring : r + 1) {
		struct netmap_ring *ring = NETMAP_TXRING(d->nifp, r);
		const char *from = NM_AT(const char *, packet, 0);
		size_t left = len, size = ring->nr_buf_size;
		uint32_t i = ring->head;

		if (nm_ring_space(ring) < (len ? (len + size - 1) / size : 1))
			continue;
		do {
			struct netmap_slot *slot = &ring->slot[i];
			size_t part = left < size ? left : size;

			memcpy(NETMAP_BUF(ring, slot->buf_idx), from, part);
			slot->len = (uint16_t)part;
			slot->flags = (uint16_t)(left > part ? NS_MOREFRAG : 0);
			from += part;
			left -= part;
			i = nm_ring_next(ring, i);
		} while (left);
		ring->head = ring->cur = i;
		d->cur_tx_ring = (uint16_t)r;
		return (int)len;
	}
	return 0;
}

/* Takes the next packet off a ring into hdr, and returns the slot behind it. */
static inline uint32_t
nm_take(struct nm_desc *d, struct netmap_ring *ring, uint32_t i, struct nm_pkthdr *hdr)
{
	struct netmap_slot *slot = &ring->slot[i];

	hdr->ts = ring->ts;
	hdr->d = d;
	hdr->slot = slot;
	hdr->buf = NM_AT(uint8_t *, NETMAP_BUF(ring, slot->buf_idx), 0);
	hdr->len = hdr->caplen = slot->len;
	for (i = nm_ring_next(ring, i); (slot->flags & NS_MOREFRAG) && i != ring->tail; i = nm_ring_next(ring, i)) {
		slot = &ring->slot[i];
		hdr->len += slot->len;
	}
	return i;
}

/*
 * Calls cb for packets that are in the RX rings, for cnt of them at most if cnt is above 0. Returns how many. It does
 * not sync: a wait or NIOCRXSYNC does.
 */
static inline int
nm_dispatch(struct nm_desc *d, int cnt, nm_cb_t cb, unsigned char *arg)
{
	uint32_t n, rings = (uint32_t)(d->last_rx_ring - d->first_rx_ring + 1), r = d->cur_rx_ring;
	int got = 0;

	/* The last one is told without NM_MORE_PKTS, so each is told when the next one is known. */
	d->hdr.buf = NULL;
	for (n = 0; n < rings; n++, r = r == d->last_rx_ring ? d->first_rx_ring : r + 1) {
		struct netmap_ring *ring = NETMAP_RXRING(d->nifp, r);

		while (!nm_ring_empty(ring) && (cnt <= 0 || got < cnt)) {
			if (d->hdr.buf) {
				d->hdr.flags = NM_MORE_PKTS;
				cb(arg, &d->hdr, d->hdr.buf);
			}
			ring->head = ring->cur = nm_take(d, ring, ring->head, &d->hdr);
			d->cur_rx_ring = (uint16_t)r;
			got++;
		}
		if (cnt > 0 && got == cnt)
			break;
	}
	if (d->hdr.buf) {
		d->hdr.flags = 0;
		cb(arg, &d->hdr, d->hdr.buf);
	}
	return got;
}

/* The next packet in the RX rings, or NULL. It does not sync. */
static inline unsigned char *
nm_nextpkt(struct nm_desc *d, struct nm_pkthdr *hdr)
{
	uint32_t n, rings = (uint32_t)(d->last_rx_ring - d->first_rx_ring + 1), r = d->cur_rx_ring;

	for (n = 0; n < rings; n++, r = r == d->last_rx_ring ? d->first_rx_ring : r + 1) {
		struct netmap_ring *ring = NETMAP_RXRING(d->nifp, r);

		if (nm_ring_empty(ring))
			continue;
		hdr->flags = 0;
		ring->head = ring->cur = nm_take(d, ring, ring->head, hdr);
		d->cur_rx_ring = (uint16_t)r;
		return hdr->buf;
	}
	return NULL;
}

#endif /* NETMAP_WITH_LIBS */

#endif /* _NET_NETMAP_USER_H_ */
