/*
 * The header is byte-exact: sizes, offsets and numbers as netmap's own headers give them on x86-64 Linux. That this
 * compiles is the test; the program says so.
 *
 * As C99, C11 and C++: strict C99 has no static_assert, hence the array type, whose length is negative if it fails.
 */
#define NETMAP_WITH_LIBS
#include <net/netmap_user.h>

#include <stdio.h>

#define PASTE(a, b) a##b
#define NAMED(line) PASTE(assertion_, line)
#define ASSERT(what) typedef char NAMED(__LINE__)[(what) ? 1 : -1] __attribute__((unused))
#define AT(structure, member, offset, size) \
	ASSERT(offsetof(structure, member) == (offset) && sizeof(((structure *)0)->member) == (size))
#define SIZE(structure, size) ASSERT(sizeof(structure) == (size))

/* versions, ioctls */
ASSERT(NETMAP_API == 14 && NETMAP_MIN_API == 14 && NETMAP_MAX_API == 15);
ASSERT(NIOCCTRL == 0xC0586997);
ASSERT(NIOCTXSYNC == 0x6994);
ASSERT(NIOCRXSYNC == 0x6995);
ASSERT(NIOCGINFO == 0xC03C6991);
ASSERT(NIOCREGIF == 0xC03C6992);
ASSERT(NIOCCONFIG == 0xC1106996);

/* struct netmap_slot */
SIZE(struct netmap_slot, 16);
AT(struct netmap_slot, buf_idx, 0, 4);
AT(struct netmap_slot, len, 4, 2);
AT(struct netmap_slot, flags, 6, 2);
AT(struct netmap_slot, ptr, 8, 8);

/* struct netmap_ring */
SIZE(struct netmap_ring, 256);
ASSERT(__alignof__(struct netmap_ring) == 128);
AT(struct netmap_ring, buf_ofs, 0, 8);
AT(struct netmap_ring, num_slots, 8, 4);
AT(struct netmap_ring, nr_buf_size, 12, 4);
AT(struct netmap_ring, ringid, 16, 2);
AT(struct netmap_ring, dir, 18, 2);
AT(struct netmap_ring, head, 20, 4);
AT(struct netmap_ring, cur, 24, 4);
AT(struct netmap_ring, tail, 28, 4);
AT(struct netmap_ring, flags, 32, 4);
AT(struct netmap_ring, ts, 40, 16);
AT(struct netmap_ring, offset_mask, 56, 8);
AT(struct netmap_ring, buf_align, 64, 8);
AT(struct netmap_ring, sem, 128, 128);
ASSERT(offsetof(struct netmap_ring, slot) == 256);

/* struct netmap_if */
SIZE(struct netmap_if, 56);
AT(struct netmap_if, ni_name, 0, 16);
AT(struct netmap_if, ni_version, 16, 4);
AT(struct netmap_if, ni_flags, 20, 4);
AT(struct netmap_if, ni_tx_rings, 24, 4);
AT(struct netmap_if, ni_rx_rings, 28, 4);
AT(struct netmap_if, ni_bufs_head, 32, 4);
AT(struct netmap_if, ni_host_tx_rings, 36, 4);
AT(struct netmap_if, ni_host_rx_rings, 40, 4);
AT(struct netmap_if, ni_spare1, 44, 12);
ASSERT(offsetof(struct netmap_if, ring_ofs) == 56);

/* requests */
SIZE(struct nmreq_header, 88);
AT(struct nmreq_header, nr_version, 0, 2);
AT(struct nmreq_header, nr_reqtype, 2, 2);
AT(struct nmreq_header, nr_reserved, 4, 4);
AT(struct nmreq_header, nr_name, 8, 64);
AT(struct nmreq_header, nr_options, 72, 8);
AT(struct nmreq_header, nr_body, 80, 8);

SIZE(struct nmreq_register, 56);
AT(struct nmreq_register, nr_offset, 0, 8);
AT(struct nmreq_register, nr_memsize, 8, 8);
AT(struct nmreq_register, nr_tx_slots, 16, 4);
AT(struct nmreq_register, nr_rx_slots, 20, 4);
AT(struct nmreq_register, nr_tx_rings, 24, 2);
AT(struct nmreq_register, nr_rx_rings, 26, 2);
AT(struct nmreq_register, nr_host_tx_rings, 28, 2);
AT(struct nmreq_register, nr_host_rx_rings, 30, 2);
AT(struct nmreq_register, nr_mem_id, 32, 2);
AT(struct nmreq_register, nr_ringid, 34, 2);
AT(struct nmreq_register, nr_mode, 36, 4);
AT(struct nmreq_register, nr_extra_bufs, 40, 4);
AT(struct nmreq_register, nr_flags, 48, 8);

SIZE(struct nmreq_port_info_get, 32);
AT(struct nmreq_port_info_get, nr_memsize, 0, 8);
AT(struct nmreq_port_info_get, nr_tx_slots, 8, 4);
AT(struct nmreq_port_info_get, nr_rx_slots, 12, 4);
AT(struct nmreq_port_info_get, nr_tx_rings, 16, 2);
AT(struct nmreq_port_info_get, nr_rx_rings, 18, 2);
AT(struct nmreq_port_info_get, nr_host_tx_rings, 20, 2);
AT(struct nmreq_port_info_get, nr_host_rx_rings, 22, 2);
AT(struct nmreq_port_info_get, nr_mem_id, 24, 2);

SIZE(struct nmreq_vale_attach, 64);
AT(struct nmreq_vale_attach, reg, 0, 56);
AT(struct nmreq_vale_attach, port_index, 56, 4);
SIZE(struct nmreq_vale_detach, 8);
AT(struct nmreq_vale_detach, port_index, 0, 4);
SIZE(struct nmreq_vale_list, 8);
AT(struct nmreq_vale_list, nr_bridge_idx, 0, 2);
AT(struct nmreq_vale_list, nr_port_idx, 4, 4);
SIZE(struct nmreq_port_hdr, 8);
AT(struct nmreq_port_hdr, nr_hdr_len, 0, 4);
SIZE(struct nmreq_vale_newif, 16);
AT(struct nmreq_vale_newif, nr_tx_slots, 0, 4);
AT(struct nmreq_vale_newif, nr_rx_slots, 4, 4);
AT(struct nmreq_vale_newif, nr_tx_rings, 8, 2);
AT(struct nmreq_vale_newif, nr_rx_rings, 10, 2);
AT(struct nmreq_vale_newif, nr_mem_id, 12, 2);
SIZE(struct nmreq_vale_polling, 16);
AT(struct nmreq_vale_polling, nr_mode, 0, 4);
AT(struct nmreq_vale_polling, nr_first_cpu_id, 4, 4);
AT(struct nmreq_vale_polling, nr_num_polling_cpus, 8, 4);
ASSERT(NETMAP_POLLING_MODE_SINGLE_CPU == 1 && NETMAP_POLLING_MODE_MULTI_CPU == 2);

SIZE(struct nmreq_pools_info, 64);
AT(struct nmreq_pools_info, nr_memsize, 0, 8);
AT(struct nmreq_pools_info, nr_mem_id, 8, 2);
AT(struct nmreq_pools_info, nr_if_pool_offset, 16, 8);
AT(struct nmreq_pools_info, nr_if_pool_objtotal, 24, 4);
AT(struct nmreq_pools_info, nr_if_pool_objsize, 28, 4);
AT(struct nmreq_pools_info, nr_ring_pool_offset, 32, 8);
AT(struct nmreq_pools_info, nr_ring_pool_objtotal, 40, 4);
AT(struct nmreq_pools_info, nr_ring_pool_objsize, 44, 4);
AT(struct nmreq_pools_info, nr_buf_pool_offset, 48, 8);
AT(struct nmreq_pools_info, nr_buf_pool_objtotal, 56, 4);
AT(struct nmreq_pools_info, nr_buf_pool_objsize, 60, 4);

SIZE(struct nmreq_sync_kloop_start, 8);
AT(struct nmreq_sync_kloop_start, sleep_us, 0, 4);
SIZE(struct nm_csb_atok, 64);
AT(struct nm_csb_atok, head, 0, 4);
AT(struct nm_csb_atok, cur, 4, 4);
AT(struct nm_csb_atok, appl_need_kick, 8, 4);
AT(struct nm_csb_atok, sync_flags, 12, 4);
SIZE(struct nm_csb_ktoa, 64);
AT(struct nm_csb_ktoa, hwcur, 0, 4);
AT(struct nm_csb_ktoa, hwtail, 4, 4);
AT(struct nm_csb_ktoa, kern_need_kick, 8, 4);

/* options */
SIZE(struct nmreq_option, 24);
AT(struct nmreq_option, nro_next, 0, 8);
AT(struct nmreq_option, nro_reqtype, 8, 4);
AT(struct nmreq_option, nro_status, 12, 4);
AT(struct nmreq_option, nro_size, 16, 8);
SIZE(struct nmreq_opt_sync_kloop_eventfds, 24);
ASSERT(offsetof(struct nmreq_opt_sync_kloop_eventfds, eventfds) == 24);
ASSERT(sizeof(((struct nmreq_opt_sync_kloop_eventfds *)0)->eventfds[0]) == 8);
SIZE(struct nmreq_opt_sync_kloop_mode, 32);
AT(struct nmreq_opt_sync_kloop_mode, mode, 24, 4);
ASSERT(NM_OPT_SYNC_KLOOP_DIRECT_TX == 1 && NM_OPT_SYNC_KLOOP_DIRECT_RX == 2);
SIZE(struct nmreq_opt_extmem, 96);
AT(struct nmreq_opt_extmem, nro_usrptr, 24, 8);
AT(struct nmreq_opt_extmem, nro_info, 32, 64);
SIZE(struct nmreq_opt_csb, 40);
AT(struct nmreq_opt_csb, csb_atok, 24, 8);
AT(struct nmreq_opt_csb, csb_ktoa, 32, 8);
SIZE(struct nmreq_opt_offsets, 56);
AT(struct nmreq_opt_offsets, nro_max_offset, 24, 8);
AT(struct nmreq_opt_offsets, nro_initial_offset, 32, 8);
AT(struct nmreq_opt_offsets, nro_offset_bits, 40, 4);
AT(struct nmreq_opt_offsets, nro_tx_align, 44, 4);
AT(struct nmreq_opt_offsets, nro_min_gap, 48, 8);

/* the legacy structure */
SIZE(struct nmreq, 60);
AT(struct nmreq, nr_name, 0, 16);
AT(struct nmreq, nr_version, 16, 4);
AT(struct nmreq, nr_offset, 20, 4);
AT(struct nmreq, nr_memsize, 24, 4);
AT(struct nmreq, nr_tx_slots, 28, 4);
AT(struct nmreq, nr_rx_slots, 32, 4);
AT(struct nmreq, nr_tx_rings, 36, 2);
AT(struct nmreq, nr_rx_rings, 38, 2);
AT(struct nmreq, nr_ringid, 40, 2);
AT(struct nmreq, nr_cmd, 42, 2);
AT(struct nmreq, nr_arg1, 44, 2);
AT(struct nmreq, nr_arg2, 46, 2);
AT(struct nmreq, nr_arg3, 48, 4);
AT(struct nmreq, nr_flags, 52, 4);
AT(struct nmreq, spare2, 56, 4);
SIZE(struct nm_ifreq, 272);

/* numbers */
ASSERT(NETMAP_REQ_REGISTER == 1 && NETMAP_REQ_PORT_INFO_GET == 2 && NETMAP_REQ_VALE_ATTACH == 3);
ASSERT(NETMAP_REQ_VALE_DETACH == 4 && NETMAP_REQ_VALE_LIST == 5 && NETMAP_REQ_PORT_HDR_SET == 6);
ASSERT(NETMAP_REQ_PORT_HDR_GET == 7 && NETMAP_REQ_VALE_NEWIF == 8 && NETMAP_REQ_VALE_DELIF == 9);
ASSERT(NETMAP_REQ_VALE_POLLING_ENABLE == 10 && NETMAP_REQ_VALE_POLLING_DISABLE == 11);
ASSERT(NETMAP_REQ_POOLS_INFO_GET == 12 && NETMAP_REQ_SYNC_KLOOP_START == 13);
ASSERT(NETMAP_REQ_SYNC_KLOOP_STOP == 14 && NETMAP_REQ_CSB_ENABLE == 15);
ASSERT(NETMAP_REQ_OPT_EXTMEM == 1 && NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS == 2 && NETMAP_REQ_OPT_CSB == 3);
ASSERT(NETMAP_REQ_OPT_SYNC_KLOOP_MODE == 4 && NETMAP_REQ_OPT_OFFSETS == 5);
ASSERT(NR_REG_DEFAULT == 0 && NR_REG_ALL_NIC == 1 && NR_REG_SW == 2 && NR_REG_NIC_SW == 3);
ASSERT(NR_REG_ONE_NIC == 4 && NR_REG_PIPE_MASTER == 5 && NR_REG_PIPE_SLAVE == 6);
ASSERT(NR_REG_NULL == 7 && NR_REG_ONE_SW == 8 && NR_REG_MASK == 0xF);
ASSERT(NR_MONITOR_TX == 0x100 && NR_MONITOR_RX == 0x200 && NR_ZCOPY_MON == 0x400 && NR_EXCLUSIVE == 0x800);
ASSERT(NR_RX_RINGS_ONLY == 0x2000 && NR_TX_RINGS_ONLY == 0x4000 && NR_ACCEPT_VNET_HDR == 0x8000);
ASSERT(NR_DO_RX_POLL == 0x10000 && NR_NO_TX_POLL == 0x20000);
ASSERT(NETMAP_BDG_ATTACH == 1 && NETMAP_BDG_DETACH == 2 && NETMAP_BDG_REGOPS == 3 && NETMAP_BDG_LIST == 4);
ASSERT(NETMAP_BDG_VNET_HDR == 5 && NETMAP_BDG_NEWIF == 6 && NETMAP_BDG_DELIF == 7);
ASSERT(NETMAP_PT_HOST_CREATE == 8 && NETMAP_PT_HOST_DELETE == 9 && NETMAP_BDG_POLLING_ON == 10);
ASSERT(NETMAP_BDG_POLLING_OFF == 11 && NETMAP_VNET_HDR_GET == 12);
ASSERT(NETMAP_NO_TX_POLL == 0x1000 && NETMAP_SW_RING == 0x2000 && NETMAP_HW_RING == 0x4000);
ASSERT(NETMAP_DO_RX_POLL == 0x8000 && NETMAP_RING_MASK == 0x0FFF);
ASSERT(NS_BUF_CHANGED == 1 && NS_REPORT == 2 && NS_FORWARD == 4 && NS_NO_LEARN == 8 && NS_INDIRECT == 0x10);
ASSERT(NS_MOREFRAG == 0x20 && NS_TXMON == 0x40 && NETMAP_MAX_FRAGS == 64);
ASSERT(NR_TIMESTAMP == 2 && NR_FORWARD == 4 && NI_PRIV_MEM == 1 && NETMAP_REQ_MAXSIZE == 4096);

/* A ring of four slots and eight buffers of 64 bytes behind it, which is all that the macros want. */
static struct {
	int64_t buf_ofs;
	uint32_t num_slots, nr_buf_size;
	uint16_t ringid, dir;
	uint32_t head, cur, tail, flags;
	unsigned char rest[256 - 36];
	struct netmap_slot slot[4];
	char buffers[8][64];
} place __attribute__((aligned(128)));

int
main(void)
{
	struct netmap_ring *ring = NM_AT(struct netmap_ring *, &place, 0);
	int wrong = 0;

	place.buf_ofs = 256 + 64;
	place.num_slots = 4;
	place.nr_buf_size = 64;
	wrong += NETMAP_BUF(ring, 3) != place.buffers[3];
	wrong += NETMAP_BUF_IDX(ring, place.buffers[5] + 7) != 5;
	wrong += nm_ring_next(ring, 2) != 3 || nm_ring_next(ring, 3) != 0;
	ring->head = ring->cur = 3;
	ring->tail = 2;
	wrong += nm_ring_space(ring) != 3 || nm_ring_empty(ring) || nm_tx_pending(ring);
	ring->tail = 3;
	wrong += nm_ring_space(ring) != 0 || !nm_ring_empty(ring) || !nm_tx_pending(ring);
	ring->slot[1].flags = (5 << NS_PORT_SHIFT) | NS_MOREFRAG;
	wrong += NS_RFRAGS(&ring->slot[1]) != 5;
	printf("%s\n", wrong ? "the macros are wrong" : "as it should be");
	return wrong != 0;
}
