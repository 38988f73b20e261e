/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * net/netmap_legacy.h: netmap's first control interface, one structure for all requests. netmap.h includes it.
 *
 * New programs use NIOCCTRL. Here nr_version may be any from 14 up, and nr_offset and nr_memsize have 32 bits, so it
 * is for regions below 4 GiB.
 */
#ifndef _NET_NETMAP_LEGACY_H_
#define _NET_NETMAP_LEGACY_H_

#include <net/netmap.h>

/* IFNAMSIZ, which <net/if.h> does not define for strict C99. */
#define NETMAP_LEGACY_IFNAMSIZ 16

struct nmreq {
	char nr_name[NETMAP_LEGACY_IFNAMSIZ];
	uint32_t nr_version;
	uint32_t nr_offset;   /* answer: from the start of the mapping to struct netmap_if */
	uint32_t nr_memsize;  /* answer: bytes to map */
	uint32_t nr_tx_slots; /* wishes and answers, as in struct nmreq_register */
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_ringid;   /* a number, and the bits below */
	uint16_t nr_cmd;      /* NETMAP_BDG_*, or 0 */
	uint16_t nr_arg1;     /* of nr_cmd; a length for NETMAP_BDG_VNET_HDR */
	uint16_t nr_arg2;     /* memory: 0 or a wish; answer: whose it is */
	uint32_t nr_arg3;     /* extra buffers: wish; answer: how many there are */
	uint32_t nr_flags;    /* NR_REG_* in the low bits, NR_* above */
	uint32_t spare2[1];
};

/* nr_ringid */
#define NETMAP_HW_RING 0x4000    /* NR_REG_DEFAULT: the pair whose number is in the low bits */
#define NETMAP_SW_RING 0x2000    /* NR_REG_DEFAULT: the host's rings */
#define NETMAP_RING_MASK 0x0fff  /* the number */
#define NETMAP_NO_TX_POLL 0x1000 /* as NR_NO_TX_POLL */
#define NETMAP_DO_RX_POLL 0x8000 /* as NR_DO_RX_POLL */

/* nr_flags */
#define NR_REG_MASK 0xf

/* nr_cmd, for NIOCREGIF; NETMAP_BDG_LIST and NETMAP_VNET_HDR_GET for NIOCGINFO */
#define NETMAP_BDG_ATTACH 1
#define NETMAP_BDG_DETACH 2
#define NETMAP_BDG_REGOPS 3
#define NETMAP_BDG_LIST 4
#define NETMAP_BDG_VNET_HDR 5
#define NETMAP_BDG_OFFSET NETMAP_BDG_VNET_HDR
#define NETMAP_BDG_NEWIF 6
#define NETMAP_BDG_DELIF 7
#define NETMAP_PT_HOST_CREATE 8
#define NETMAP_PT_HOST_DELETE 9
#define NETMAP_BDG_POLLING_ON 10
#define NETMAP_BDG_POLLING_OFF 11
#define NETMAP_VNET_HDR_GET 12

/* nr_arg1 of NETMAP_BDG_ATTACH: with the host's rings */
#define NETMAP_BDG_HOST 1

/* What NIOCCONFIG takes. */
#define NM_IFRDATA_LEN 256

struct nm_ifreq {
	char nifr_name[NETMAP_LEGACY_IFNAMSIZ];
	char data[NM_IFRDATA_LEN];
};

#define NIOCGINFO _IOWR('i', 145, struct nmreq)
#define NIOCREGIF _IOWR('i', 146, struct nmreq)
#define NIOCCONFIG _IOWR('i', 150, struct nm_ifreq)

#endif /* _NET_NETMAP_LEGACY_H_ */
