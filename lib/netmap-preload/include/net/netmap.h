/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * net/netmap.h: the binary interface between programs and netmap, API 14, as it lies on x86-64 Linux.
 *
 * A program opens NETMAP_DEVICE_NAME, binds the descriptor to a port by an ioctl (NIOCCTRL here, NIOCREGIF in
 * netmap_legacy.h), maps the memory of the port, and from then on finds there, by offsets:
 *
 *   mapping + nr_offset  -> struct netmap_if      which rings there are
 *   netmap_if + ring_ofs -> struct netmap_ring    a circle of slots
 *   ring + buf_ofs       -> buffer 0              slots name buffers by number
 *
 * net/netmap_user.h has the macros and functions that walk this path.
 *
 * Who writes what: head and cur of a ring, and the slots in [head, tail), are the program's; tail and all other slots
 * are the port's, which changes them only within a sync ioctl or a wait of the program's.
 *
 * Here it is the VALE switch in user space that stands behind these structures, by a library that is preloaded
 * (libnetmap_preload.so, see nm-run). A program that was compiled with this header runs on a kernel with netmap, too,
 * and the other way round: sizes, offsets and numbers are the same.
 */
#ifndef _NET_NETMAP_H_
#define _NET_NETMAP_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/types.h>

#define NETMAP_DEVICE_NAME "/dev/netmap"

/* What nr_version says. Requests with a version outside of these two bounds are refused with EINVAL. */
#define NETMAP_API 14
#define NETMAP_MIN_API 14
#define NETMAP_MAX_API 15

/* Rings, and the part of them that is left to programs, begin at multiples of this. */
#define NM_CACHE_ALIGN 128

/* Members without a fixed length, which C++ knows as an extension only. */
#ifdef __cplusplus
#define NM_TRAILING __extension__
#else
#define NM_TRAILING
#endif

/* ---- slots and rings ---- */

struct netmap_slot {
	uint32_t buf_idx; /* number of the buffer */
	uint16_t len;     /* bytes of the packet in it */
	uint16_t flags;   /* NS_* */
	uint64_t ptr;     /* NS_INDIRECT: address of the data; else the offset of the data, if offsets are in use */
};

#define NS_BUF_CHANGED 0x0001 /* the program has put another number into buf_idx */
#define NS_REPORT 0x0002      /* wake me up when this slot has been sent */
#define NS_FORWARD 0x0004     /* without effect here; netmap: to the other side of the host rings */
#define NS_NO_LEARN 0x0008    /* without effect */
#define NS_INDIRECT 0x0010    /* the data is not in the buffer, but where ptr points to */
#define NS_MOREFRAG 0x0020    /* the packet goes on in the next slot */
#define NS_TXMON 0x0040       /* set for monitors: seen on a TX ring */
#define NS_PORT_SHIFT 8
#define NS_PORT_MASK (0xff << NS_PORT_SHIFT)
/* Slots of the packet that this slot belongs to; a switch writes it to each of them in RX rings. */
#define NS_RFRAGS(slot) (((slot)->flags >> 8) & 0xff)

/* Slots of one packet, at most. */
#define NETMAP_MAX_FRAGS 64

struct netmap_ring {
	const int64_t buf_ofs;      /* from the ring to buffer 0, in bytes */
	const uint32_t num_slots;
	const uint32_t nr_buf_size; /* from one buffer to the next, and bytes that fit into one */
	const uint16_t ringid;
	const uint16_t dir;         /* 0 TX, 1 RX */

	uint32_t head;              /* program: first slot that it still holds */
	uint32_t cur;               /* program: where waiting begins, at or behind head */
	uint32_t tail;              /* port: first slot that the program does not hold */
	uint32_t flags;             /* NR_TIMESTAMP, NR_FORWARD */

	struct timeval ts;          /* port: time of the last sync */

	const uint64_t offset_mask; /* bits of slot.ptr that are an offset; 0: none */
	const uint64_t buf_align;   /* what the address of data must be a multiple of; 0: anything */

	uint8_t sem[128] __attribute__((aligned(NM_CACHE_ALIGN))); /* the program's, for whatever it likes */

	NM_TRAILING struct netmap_slot slot[];
};

#define NR_TIMESTAMP 0x0002 /* write ts at each sync */
#define NR_FORWARD 0x0004   /* without effect here; netmap: slots with NS_FORWARD go to the other side of the host rings */

struct netmap_if {
	char ni_name[16];
	const uint32_t ni_version;
	const uint32_t ni_flags;         /* NI_* */
	const uint32_t ni_tx_rings;
	const uint32_t ni_rx_rings;
	uint32_t ni_bufs_head;           /* first of the extra buffers, 0: none; each begins with the number of the next */
	const uint32_t ni_host_tx_rings;
	const uint32_t ni_host_rx_rings;
	uint32_t ni_spare1[3];
	/*
	 * From this structure to each ring, in bytes: the port's TX rings, the host's, the port's RX rings, the host's.
	 * 0: that ring is not bound to this descriptor.
	 */
	NM_TRAILING const ssize_t ring_ofs[];
};

#define NI_PRIV_MEM 0x1 /* the memory is not the global one */

/* ---- requests: NIOCCTRL with a header, which points to a body and to a list of options ---- */

#define NETMAP_REQ_IFNAMSIZ 64

struct nmreq_header {
	uint16_t nr_version;  /* NETMAP_API */
	uint16_t nr_reqtype;  /* NETMAP_REQ_* */
	uint32_t nr_reserved; /* 0 */
	char nr_name[NETMAP_REQ_IFNAMSIZ];
	uint64_t nr_options;  /* address of a struct nmreq_option, or 0 */
	uint64_t nr_body;     /* address of what nr_reqtype wants, or 0 */
};

enum {
	NETMAP_REQ_REGISTER = 1,        /* struct nmreq_register: binds the descriptor to a port */
	NETMAP_REQ_PORT_INFO_GET,       /* struct nmreq_port_info_get */
	NETMAP_REQ_VALE_ATTACH,         /* struct nmreq_vale_attach */
	NETMAP_REQ_VALE_DETACH,         /* struct nmreq_vale_detach */
	NETMAP_REQ_VALE_LIST,           /* struct nmreq_vale_list */
	NETMAP_REQ_PORT_HDR_SET,        /* struct nmreq_port_hdr */
	NETMAP_REQ_PORT_HDR_GET,        /* struct nmreq_port_hdr */
	NETMAP_REQ_VALE_NEWIF,          /* struct nmreq_vale_newif */
	NETMAP_REQ_VALE_DELIF,          /* no body */
	NETMAP_REQ_VALE_POLLING_ENABLE, /* struct nmreq_vale_polling */
	NETMAP_REQ_VALE_POLLING_DISABLE,
	NETMAP_REQ_POOLS_INFO_GET,      /* struct nmreq_pools_info */
	NETMAP_REQ_SYNC_KLOOP_START,    /* struct nmreq_sync_kloop_start: returns when somebody stops it */
	NETMAP_REQ_SYNC_KLOOP_STOP,     /* no body */
	NETMAP_REQ_CSB_ENABLE           /* no body, but NETMAP_REQ_OPT_CSB */
};

struct nmreq_option {
	uint64_t nro_next;    /* address of the next one, or 0 */
	uint32_t nro_reqtype; /* NETMAP_REQ_OPT_* */
	uint32_t nro_status;  /* answer: 0 or an errno */
	uint64_t nro_size;    /* bytes of an option whose length varies */
};

/* Bytes of header, body and options of one request, at most. */
#define NETMAP_REQ_MAXSIZE 4096

enum {
	NETMAP_REQ_OPT_EXTMEM = 1,          /* struct nmreq_opt_extmem */
	NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS, /* struct nmreq_opt_sync_kloop_eventfds */
	NETMAP_REQ_OPT_CSB,                 /* struct nmreq_opt_csb */
	NETMAP_REQ_OPT_SYNC_KLOOP_MODE,     /* struct nmreq_opt_sync_kloop_mode */
	NETMAP_REQ_OPT_OFFSETS,             /* struct nmreq_opt_offsets */
	NETMAP_REQ_OPT_MAX
};

struct nmreq_register {
	uint64_t nr_offset;         /* answer: from the start of the mapping to struct netmap_if */
	uint64_t nr_memsize;        /* answer: bytes to map */
	uint32_t nr_tx_slots;       /* wish, and answer; 0: the default */
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id;         /* wish, 0: none; answer: whose memory it is */
	uint16_t nr_ringid;         /* which ring, with NR_REG_ONE_* */
	uint32_t nr_mode;           /* NR_REG_* */
	uint32_t nr_extra_bufs;     /* wish; answer: how many there are */
	uint64_t nr_flags;          /* NR_* */
};

enum {
	NR_REG_DEFAULT = 0,     /* in struct nmreq only: nr_ringid says what is meant */
	NR_REG_ALL_NIC = 1,     /* all rings of the port */
	NR_REG_SW = 2,          /* the rings of the host's stack */
	NR_REG_NIC_SW = 3,      /* both */
	NR_REG_ONE_NIC = 4,     /* the pair nr_ringid */
	NR_REG_PIPE_MASTER = 5, /* in struct nmreq only: nr_ringid is the pipe's number */
	NR_REG_PIPE_SLAVE = 6,
	NR_REG_NULL = 7,        /* none, but memory */
	NR_REG_ONE_SW = 8       /* the host's pair nr_ringid */
};

#define NR_MONITOR_TX 0x100      /* see what others send on the port's TX rings */
#define NR_MONITOR_RX 0x200      /* and what they receive */
#define NR_ZCOPY_MON 0x400       /* by its buffers, not by copies */
#define NR_EXCLUSIVE 0x800       /* nobody else may have these rings */
#define NR_RX_RINGS_ONLY 0x2000
#define NR_TX_RINGS_ONLY 0x4000
#define NR_ACCEPT_VNET_HDR 0x8000 /* I know of virtio-net headers in front of packets */
#define NR_DO_RX_POLL 0x10000    /* waiting for anything syncs RX rings, too */
#define NR_NO_TX_POLL 0x20000    /* waiting does not send, unless it is for POLLOUT */

struct nmreq_port_info_get {
	uint64_t nr_memsize;
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id;
	uint16_t pad[3];
};

#define NM_BDG_NAME "vale" /* names of switches begin with it */

struct nmreq_vale_attach {
	struct nmreq_register reg;
	uint32_t port_index; /* answer */
	uint32_t pad1;
};

struct nmreq_vale_detach {
	uint32_t port_index; /* answer */
	uint32_t pad1;
};

/* With a name: where it is. Without one: the first port at or behind this place; ENOENT ends the list. */
struct nmreq_vale_list {
	uint16_t nr_bridge_idx;
	uint16_t pad1;
	uint32_t nr_port_idx;
};

struct nmreq_port_hdr {
	uint32_t nr_hdr_len; /* 0, 10 or 12 bytes */
	uint32_t pad1;
};

struct nmreq_vale_newif {
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_mem_id;
	uint16_t pad1;
};

#define NETMAP_POLLING_MODE_SINGLE_CPU 1
#define NETMAP_POLLING_MODE_MULTI_CPU 2

struct nmreq_vale_polling {
	uint32_t nr_mode;
	uint32_t nr_first_cpu_id;
	uint32_t nr_num_polling_cpus;
	uint32_t pad1;
};

struct nmreq_pools_info {
	uint64_t nr_memsize;
	uint16_t nr_mem_id;
	uint16_t pad1[3];
	uint64_t nr_if_pool_offset;
	uint32_t nr_if_pool_objtotal;
	uint32_t nr_if_pool_objsize;
	uint64_t nr_ring_pool_offset;
	uint32_t nr_ring_pool_objtotal;
	uint32_t nr_ring_pool_objsize;
	uint64_t nr_buf_pool_offset;
	uint32_t nr_buf_pool_objtotal;
	uint32_t nr_buf_pool_objsize;
};

struct nmreq_sync_kloop_start {
	uint32_t sleep_us; /* pause between rounds, where nobody is told to kick */
	uint32_t pad1;
};

/* ---- options ---- */

/* The memory lies in the program, and is to be used as netmap's. */
struct nmreq_opt_extmem {
	struct nmreq_option nro_opt;
	uint64_t nro_usrptr;
	struct nmreq_pools_info nro_info;
};

/* An eventfd by which the program kicks, and one by which it is interrupted, for each bound ring. */
struct nmreq_opt_sync_kloop_eventfds {
	struct nmreq_option nro_opt;
	NM_TRAILING struct {
		int32_t ioeventfd;
		int32_t irqfd;
	} eventfds[];
};

#define NM_OPT_SYNC_KLOOP_DIRECT_TX 1
#define NM_OPT_SYNC_KLOOP_DIRECT_RX 2

struct nmreq_opt_sync_kloop_mode {
	struct nmreq_option nro_opt;
	uint32_t mode;
	uint32_t pad1;
};

/* Addresses of one nm_csb_atok and one nm_csb_ktoa for each bound ring. */
struct nmreq_opt_csb {
	struct nmreq_option nro_opt;
	uint64_t csb_atok;
	uint64_t csb_ktoa;
};

/* Data may begin elsewhere than at the start of its buffer; slot.ptr says where. */
struct nmreq_opt_offsets {
	struct nmreq_option nro_opt;
	uint64_t nro_max_offset;
	uint64_t nro_initial_offset;
	uint32_t nro_offset_bits; /* 0: as many as there are */
	uint32_t nro_tx_align;
	uint64_t nro_min_gap;
};

/* Read and write the offset of a slot, without touching the other bits of ptr. */
#define NETMAP_ROFFSET(ring, slot) ((slot)->ptr & (ring)->offset_mask)
#define NETMAP_WOFFSET(ring, slot, offset) \
	((slot)->ptr = ((slot)->ptr & ~(ring)->offset_mask) | ((uint64_t)(offset) & (ring)->offset_mask))

/* ---- the status blocks by which a program and a loop (SYNC_KLOOP_START) tell each other their indices ---- */

/* Written by the program. */
struct nm_csb_atok {
	uint32_t head;
	uint32_t cur;
	uint32_t appl_need_kick; /* wake me up */
	uint32_t sync_flags;
	uint32_t pad[12];
};

/* Written by the loop. */
struct nm_csb_ktoa {
	uint32_t hwcur;
	uint32_t hwtail;
	uint32_t kern_need_kick; /* wake me up */
	uint32_t pad[13];
};

/* Stores before it are seen before stores behind it; the same for loads. */
#define nm_stst_barrier() __atomic_thread_fence(__ATOMIC_RELEASE)
#define nm_ldld_barrier() __atomic_thread_fence(__ATOMIC_ACQUIRE)

/* cur first: the loop, which reads head first, must not see a head beyond its cur. */
static inline void
nm_sync_kloop_appl_write(struct nm_csb_atok *atok, uint32_t cur, uint32_t head)
{
	__atomic_store_n(&atok->cur, cur, __ATOMIC_RELAXED);
	nm_stst_barrier();
	__atomic_store_n(&atok->head, head, __ATOMIC_RELAXED);
}

/* hwtail first: hwcur must not be older than the tail that is believed. */
static inline void
nm_sync_kloop_appl_read(const struct nm_csb_ktoa *ktoa, uint32_t *hwtail, uint32_t *hwcur)
{
	*hwtail = __atomic_load_n(&ktoa->hwtail, __ATOMIC_RELAXED);
	nm_ldld_barrier();
	*hwcur = __atomic_load_n(&ktoa->hwcur, __ATOMIC_RELAXED);
}

/* ---- ioctls ---- */

#define NIOCTXSYNC _IO('i', 148) /* send what was queued, and take back what has been sent */
#define NIOCRXSYNC _IO('i', 149) /* give back what was read, and see what has come */
#define NIOCCTRL _IOWR('i', 151, struct nmreq_header)

#include <net/netmap_legacy.h>

#endif /* _NET_NETMAP_H_ */
