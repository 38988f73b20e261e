/* Control: registering in all modes, information, list, persistent ports, header lengths, pools, options. */
#include "client.h"

static void
modes(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .rings = 3, .slots = 256 });
	struct port one, half, none;
	struct nmreq_register answer;
	uint32_t i;
	int fd;

	CHECK(a.reg.nr_tx_rings == 3 && a.reg.nr_rx_rings == 3);
	CHECK(a.reg.nr_tx_slots == 256 && a.reg.nr_rx_slots == 256);
	CHECK(a.reg.nr_mem_id != 0 && a.reg.nr_memsize % 4096 == 0);
	CHECK(strcmp(a.nifp->ni_name, "valeA:x") == 0 && a.nifp->ni_version == NETMAP_API);
	CHECK(a.nifp->ni_tx_rings == 3 && a.nifp->ni_rx_rings == 3 && a.nifp->ni_host_tx_rings == 0);
	for (i = 0; i < 3; i++) {
		CHECK(tx(&a, i)->ringid == i && tx(&a, i)->dir == 0 && tx(&a, i)->num_slots == 256);
		CHECK(rx(&a, i)->ringid == i && rx(&a, i)->dir == 1 && rx(&a, i)->num_slots == 256);
		CHECK(nm_ring_space(tx(&a, i)) == 255 && nm_ring_empty(rx(&a, i)));
		CHECK(tx(&a, i)->slot[0].buf_idx >= 2); /* 0 and 1 are nobody's */
	}

	/* A descriptor of one ring has a netmap_if of its own, and the same rings. */
	one = open_wish((struct wish){ .name = "valeA:x", .mode = NR_REG_ONE_NIC, .ring = 1 });
	CHECK(one.reg.nr_tx_rings == 3 && one.reg.nr_mem_id == a.reg.nr_mem_id);
	CHECK(one.reg.nr_offset != a.reg.nr_offset);
	for (i = 0; i < 3; i++) {
		CHECK((one.nifp->ring_ofs[i] != 0) == (i == 1));
		CHECK((one.nifp->ring_ofs[i + one.nifp->ni_tx_rings] != 0) == (i == 1));
	}
	CHECK((char *)tx(&one, 1) - one.mem == (char *)tx(&a, 1) - a.mem);
	fd = open_device();
	FAILS(bind_port(fd, &(struct wish){ .name = "valeA:x", .mode = NR_REG_ONE_NIC, .ring = 3 }, &answer), EINVAL);

	half = open_wish((struct wish){ .name = "valeA:x", .flags = NR_TX_RINGS_ONLY });
	CHECK(half.nifp->ring_ofs[0] != 0 && half.nifp->ring_ofs[half.nifp->ni_tx_rings] == 0);
	close_port(&half);
	half = open_wish((struct wish){ .name = "valeA:x", .flags = NR_RX_RINGS_ONLY });
	CHECK(half.nifp->ring_ofs[0] == 0 && half.nifp->ring_ofs[half.nifp->ni_tx_rings] != 0);
	close_port(&half);

	/* There is no host behind a switch's ports. */
	FAILS(bind_port(fd, &(struct wish){ .name = "valeA:x", .mode = NR_REG_SW }, &answer), EINVAL);
	FAILS(bind_port(fd, &(struct wish){ .name = "valeA:x", .mode = NR_REG_NIC_SW }, &answer), EINVAL);
	FAILS(bind_port(fd, &(struct wish){ .name = "valeA:x", .mode = NR_REG_ONE_SW }, &answer), EINVAL);

	/* What was refused left the descriptor as it was. */
	OK(bind_port(fd, &(struct wish){ .name = "valeA:x" }, &answer));
	OK(close(fd));

	/* Memory alone. */
	none = open_wish((struct wish){ .name = "n", .mode = NR_REG_NULL, .extra = 3, .memory = a.reg.nr_mem_id });
	CHECK(none.reg.nr_extra_bufs == 3 && none.reg.nr_mem_id == a.reg.nr_mem_id);
	CHECK(none.nifp->ni_bufs_head >= 2);
	close_port(&none);
	close_port(&one);
	close_port(&a);
	CHECK(!exists("valeA:x"));
}

/* Memory 1 is there for everybody; what has no rings answers with those that were asked for. */
static void
global_memory(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .memory = 1 }), b;
	struct nmreq_register reg;
	int fd = open_device();

	CHECK(a.reg.nr_mem_id == 1);
	b = open_wish((struct wish){ .name = "valeB:y", .memory = 1 });
	CHECK(b.reg.nr_mem_id == 1);
	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_NULL;
	reg.nr_mem_id = 1;
	reg.nr_tx_rings = 10;
	reg.nr_rx_rings = 5;
	reg.nr_tx_slots = 256;
	reg.nr_rx_slots = 100;
	OK(control(fd, NETMAP_REQ_REGISTER, "nobody", &reg, NULL));
	CHECK(reg.nr_mem_id == 1 && reg.nr_memsize == a.reg.nr_memsize);
	CHECK(reg.nr_tx_rings == 10 && reg.nr_rx_rings == 5 && reg.nr_tx_slots == 256 && reg.nr_rx_slots == 100);
	OK(ioctl(fd, NIOCTXSYNC, NULL));
	OK(ioctl(fd, NIOCRXSYNC, NULL));
	OK(close(fd));
	close_port(&a);
	close_port(&b);
}

/* How old programs say which rings: by bits of nr_ringid, nr_flags being 0. */
static void
ringid_bits(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .rings = 2 });
	struct nmreq r = old_request("valeA:x");
	int fd = open_device();
	struct netmap_if *nifp;

	r.nr_ringid = NETMAP_HW_RING | 1;
	OK(ioctl(fd, NIOCREGIF, &r));
	nifp = NETMAP_IF(a.mem, r.nr_offset);
	CHECK(nifp->ring_ofs[0] == 0 && nifp->ring_ofs[1] != 0);
	OK(close(fd));
	fd = open_device();
	r = old_request("valeA:x");
	r.nr_version = 9999; /* any from 14 up */
	OK(ioctl(fd, NIOCREGIF, &r));
	nifp = NETMAP_IF(a.mem, r.nr_offset);
	CHECK(nifp->ring_ofs[0] != 0 && nifp->ring_ofs[1] != 0);
	OK(close(fd));
	fd = open_device();
	r = old_request("valeA:x");
	r.nr_ringid = NETMAP_SW_RING;
	FAILS(ioctl(fd, NIOCREGIF, &r), EINVAL);
	close_port(&a);
}

struct info {
	uint64_t memsize;
	uint32_t tx_slots, rx_slots;
	uint16_t tx_rings, rx_rings, memory;
};

static struct info
info_of(int fd, const char *name)
{
	struct info i;

	if (legacy) {
		struct nmreq r = old_request(name);

		OK(ioctl(fd, NIOCGINFO, &r));
		i = (struct info){ r.nr_memsize, r.nr_tx_slots, r.nr_rx_slots, r.nr_tx_rings, r.nr_rx_rings, r.nr_arg2 };
	} else {
		struct nmreq_port_info_get g;

		memset(&g, 0, sizeof(g));
		OK(control(fd, NETMAP_REQ_PORT_INFO_GET, name, &g, NULL));
		i = (struct info){ g.nr_memsize, g.nr_tx_slots, g.nr_rx_slots, g.nr_tx_rings, g.nr_rx_rings,
			g.nr_mem_id };
	}
	return i;
}

static void
info(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .rings = 2, .slots = 512 });
	int fd = open_device();
	struct info i = info_of(fd, "valeA:x");

	CHECK(i.memsize == a.reg.nr_memsize && i.memory == a.reg.nr_mem_id);
	CHECK(i.tx_rings == 2 && i.rx_rings == 2 && i.tx_slots == 512 && i.rx_slots == 512);
	/* A port that nobody has would be made with the defaults; asking leaves nothing behind. */
	i = info_of(fd, "valeA:new");
	CHECK(i.tx_rings == 1 && i.rx_rings == 1 && i.tx_slots == 1024 && i.rx_slots == 1024 && i.memsize > 0);
	CHECK(!exists("valeA:new"));
	/* The descriptor is still unbound. */
	FAILS(ioctl(fd, NIOCTXSYNC, NULL), ENXIO);
	OK(close(fd));
	close_port(&a);
}

/* The place behind the last one that was told. */
static uint16_t next_bridge;
static uint32_t next_port;

static int
list_next(int fd, char *name)
{
	int result;

	if (legacy) {
		struct nmreq r = old_request("");

		r.nr_cmd = NETMAP_BDG_LIST;
		r.nr_arg1 = next_bridge;
		r.nr_arg2 = (uint16_t)next_port;
		result = ioctl(fd, NIOCGINFO, &r);
		memcpy(name, r.nr_name, sizeof(r.nr_name));
		next_bridge = r.nr_arg1;
		next_port = r.nr_arg2 + 1u;
	} else {
		struct nmreq_vale_list l = { next_bridge, 0, next_port };
		struct nmreq_header h;

		memset(&h, 0, sizeof(h));
		h.nr_version = NETMAP_API;
		h.nr_reqtype = NETMAP_REQ_VALE_LIST;
		h.nr_body = (uint64_t)(uintptr_t)&l;
		result = ioctl(fd, NIOCCTRL, &h);
		memcpy(name, h.nr_name, sizeof(h.nr_name));
		next_bridge = l.nr_bridge_idx;
		next_port = l.nr_port_idx + 1;
	}
	return result;
}

static void
list(void)
{
	static const char *const names[] = { "valeA:x", "valeA:y", "valeB:x" };
	struct port p[3];
	int i, fd = open_device(), seen = 0;
	char name[NETMAP_REQ_IFNAMSIZ];

	FAILS(list_next(fd, name), ENOENT);
	for (i = 0; i < 3; i++)
		p[i] = open_port(names[i]);
	next_bridge = 0;
	next_port = 0;
	while (list_next(fd, name) == 0) {
		for (i = 0; i < 3 && strcmp(name, names[i]); i++)
			;
		CHECK(i < 3 && !(seen & 1 << i));
		seen |= 1 << i;
	}
	CHECK(errno == ENOENT && seen == 7);
	CHECK(exists("valeA:y") && !exists("valeA:z") && !exists("valeC:x"));
	for (i = 0; i < 3; i++)
		close_port(&p[i]);
	CHECK(!exists("valeA:x"));
}

static int
new_port(int fd, const char *name)
{
	if (legacy) {
		struct nmreq r = old_request(name);

		r.nr_cmd = NETMAP_BDG_NEWIF;
		r.nr_tx_rings = r.nr_rx_rings = 2;
		r.nr_tx_slots = r.nr_rx_slots = 128;
		return ioctl(fd, NIOCREGIF, &r);
	}
	struct nmreq_vale_newif n;

	memset(&n, 0, sizeof(n));
	n.nr_tx_rings = n.nr_rx_rings = 2;
	n.nr_tx_slots = n.nr_rx_slots = 128;
	return control(fd, NETMAP_REQ_VALE_NEWIF, name, &n, NULL);
}

static int
delete_port(int fd, const char *name)
{
	struct nmreq r = old_request(name);

	r.nr_cmd = NETMAP_BDG_DELIF;
	return legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_VALE_DELIF, name, NULL, NULL);
}

static int
attach_as(int fd, const char *name, int with_host)
{
	if (legacy) {
		struct nmreq r = old_request(name);

		r.nr_cmd = NETMAP_BDG_ATTACH;
		r.nr_arg1 = with_host ? NETMAP_BDG_HOST : 0;
		return ioctl(fd, NIOCREGIF, &r);
	}
	struct nmreq_vale_attach a;

	memset(&a, 0, sizeof(a));
	a.reg.nr_mode = with_host ? NR_REG_NIC_SW : NR_REG_ALL_NIC;
	int result = control(fd, NETMAP_REQ_VALE_ATTACH, name, &a, NULL);

	/* Which memory it has is told, too. */
	CHECK(result == -1 || a.reg.nr_mem_id > 1);
	return result;
}

static int
attach(int fd, const char *name)
{
	return attach_as(fd, name, 0);
}

static int
detach(int fd, const char *name)
{
	struct nmreq_vale_detach d = { 0, 0 };
	struct nmreq r = old_request(name);

	r.nr_cmd = NETMAP_BDG_DETACH;
	return legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_VALE_DETACH, name, &d, NULL);
}

static void
persistent(void)
{
	int fd = open_device();
	struct port p, y;

	OK(new_port(fd, "v0"));
	FAILS(new_port(fd, "v0"), EEXIST);
	FAILS(new_port(fd, "vale0"), EINVAL);
	if (!legacy)
		FAILS(new_port(fd, "v123456789abcdef"), EINVAL);
	FAILS(delete_port(fd, "v1"), ENXIO);

	OK(attach(fd, "valeA:v0"));
	FAILS(attach(fd, "valeA:v0"), EBUSY);
	FAILS(delete_port(fd, "v0"), EBUSY);
	CHECK(exists("valeA:v0"));

	/* It has what it was made with, and carries packets as any other. */
	p = open_port("valeA:v0");
	CHECK(p.reg.nr_tx_rings == 2 && p.reg.nr_tx_slots == 128);
	y = open_port("valeA:y");
	send_one(&y, 7);
	receive_one(&p, 7);
	FAILS(detach(fd, "valeA:v0"), EBUSY);
	close_port(&y);
	close_port(&p);

	/* Closing does not take it away; detaching takes it off the switch, and deleting away. */
	CHECK(exists("valeA:v0"));
	OK(detach(fd, "valeA:v0"));
	CHECK(!exists("valeA:v0"));
	OK(delete_port(fd, "v0"));
	FAILS(delete_port(fd, "v0"), ENXIO);
	OK(close(fd));
}

static int
set_header(int fd, const char *name, uint32_t len)
{
	if (legacy) {
		struct nmreq r = old_request(name);

		r.nr_cmd = NETMAP_BDG_VNET_HDR;
		r.nr_arg1 = (uint16_t)len;
		return ioctl(fd, NIOCREGIF, &r);
	}
	struct nmreq_port_hdr h = { len, 0 };
	return control(fd, NETMAP_REQ_PORT_HDR_SET, name, &h, NULL);
}

static uint32_t
header(int fd, const char *name)
{
	if (legacy) {
		struct nmreq r = old_request(name);

		r.nr_cmd = NETMAP_VNET_HDR_GET;
		OK(ioctl(fd, NIOCGINFO, &r));
		return r.nr_arg1;
	}
	struct nmreq_port_hdr h = { 99, 0 };
	OK(control(fd, NETMAP_REQ_PORT_HDR_GET, name, &h, NULL));
	return h.nr_hdr_len;
}

static void
header_length(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct netmap_ring *t = tx(&a, 0), *r = rx(&b, 0);
	int fd = open_device();
	char *p;

	CHECK(header(fd, "valeA:x") == 0);
	OK(set_header(fd, "valeA:x", 12));
	CHECK(header(fd, "valeA:x") == 12 && header(fd, "valeA:y") == 0);
	FAILS(set_header(fd, "valeA:x", 11), EINVAL);
	FAILS(set_header(fd, "valeA:nobody", 12), ENXIO);
	OK(set_header(fd, "valeA:y", 12));

	/* The frame begins behind the header, which arrives as it was sent. */
	p = NETMAP_BUF(t, t->slot[t->head].buf_idx);
	memset(p, 0, 12);
	make_packet(p + 12, 60, 5);
	t->slot[t->head].len = 72;
	t->head = t->cur = nm_ring_next(t, t->head);
	txsync(&a);
	CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN);
	p = NETMAP_BUF(r, r->slot[r->head].buf_idx);
	CHECK(r->slot[r->head].len == 72 && packet_number(p + 12) == 5);

	OK(set_header(fd, "valeA:x", 10));
	OK(set_header(fd, "valeA:x", 0));
	CHECK(header(fd, "valeA:x") == 0);
	OK(close(fd));
	close_port(&b);
	close_port(&a);
}

static void
pools(void)
{
	struct port a = open_port("valeA:x");
	struct nmreq_pools_info i;
	int fd = open_device();

	/* There is no old request for this. */
	memset(&i, 0, sizeof(i));
	OK(control(fd, NETMAP_REQ_POOLS_INFO_GET, "valeA:x", &i, NULL));
	CHECK(i.nr_memsize == a.reg.nr_memsize && i.nr_mem_id == a.reg.nr_mem_id);
	CHECK(i.nr_buf_pool_objsize == tx(&a, 0)->nr_buf_size);
	CHECK(i.nr_buf_pool_objtotal > 2048 && i.nr_if_pool_objtotal >= 1 && i.nr_ring_pool_objtotal >= 2);
	CHECK(i.nr_if_pool_objsize >= 56 && i.nr_ring_pool_objsize >= 256 + 1024 * 16);
	CHECK(i.nr_buf_pool_offset + (uint64_t)i.nr_buf_pool_objtotal * i.nr_buf_pool_objsize <= i.nr_memsize);
	OK(close(fd));
	close_port(&a);
}

static void
options(void)
{
	int fd = open_device();
	struct nmreq_register reg;
	struct nmreq_option unknown, loop, second;

	/* An option that nobody knows is refused, and which one it was is said. */
	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	memset(&unknown, 0, sizeof(unknown));
	unknown.nro_reqtype = 4711;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &unknown), EOPNOTSUPP);
	CHECK(unknown.nro_status == EOPNOTSUPP);

	/* A list that has no end is longer than any request may be. */
	memset(&loop, 0, sizeof(loop));
	loop.nro_reqtype = NETMAP_REQ_OPT_CSB;
	loop.nro_next = (uint64_t)(uintptr_t)&loop;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &loop), EMSGSIZE);

	memset(&second, 0, sizeof(second));
	second.nro_reqtype = 4711;
	unknown.nro_next = (uint64_t)(uintptr_t)&second;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &unknown), EOPNOTSUPP);
	/* Where no option at all can be. */
	unknown.nro_next = 16;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &unknown), EFAULT);
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, (void *)16), EFAULT);

	/* The descriptor can still be bound. */
	OK(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, NULL));
	OK(close(fd));
}

static void
offsets(void)
{
	struct port a, b = open_port("valeA:y");
	struct nmreq_opt_offsets o;
	struct netmap_ring *t;
	struct netmap_slot *s;

	memset(&a, 0, sizeof(a));
	a.fd = open_device();
	a.reg.nr_mode = NR_REG_ALL_NIC;
	memset(&o, 0, sizeof(o));
	o.nro_opt.nro_reqtype = NETMAP_REQ_OPT_OFFSETS;
	o.nro_max_offset = 256;
	o.nro_initial_offset = 128;
	OK(control(a.fd, NETMAP_REQ_REGISTER, "valeA:x", &a.reg, &o));
	CHECK(o.nro_opt.nro_status == 0);
	map_port(&a);
	t = tx(&a, 0);
	CHECK(t->offset_mask != 0);
	s = &t->slot[t->head];
	CHECK(NETMAP_ROFFSET(t, s) == 128);
	NETMAP_WOFFSET(t, s, 200);
	make_packet(NETMAP_BUF_OFFSET(t, s), 60, 9);
	s->len = 60;
	t->head = t->cur = nm_ring_next(t, t->head);
	txsync(&a);
	receive_one(&b, 9);

	/* And into a port that has them: the packet is where its slot says. */
	send_one(&b, 10);
	t = rx(&a, 0);
	CHECK(poll_one(a.fd, POLLIN, NEVER) == POLLIN);
	s = &t->slot[t->head];
	CHECK(NETMAP_ROFFSET(t, s) == 128 && packet_number(NETMAP_BUF_OFFSET(t, s)) == 10);

	/* Offsets that cannot be, and where there are none. */
	int fd = open_device();
	struct nmreq_register reg;
	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x{1", &reg, &o), EOPNOTSUPP);
	CHECK(o.nro_opt.nro_status == EOPNOTSUPP);
	o.nro_initial_offset = 257;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:z", &reg, &o), EINVAL);
	CHECK(o.nro_opt.nro_status == EINVAL && !exists("valeA:z"));
	OK(close(fd));
	close_port(&a);
	close_port(&b);
}

/* Exclusive: nobody before, and nobody behind. */
static void
exclusive(void)
{
	struct port a = open_port("valeA:x"), one;
	struct nmreq_register answer;
	int fd = open_device();

	FAILS(bind_port(fd, &(struct wish){ .name = "valeA:x", .flags = NR_EXCLUSIVE }, &answer), EBUSY);
	close_port(&a);
	OK(bind_port(fd, &(struct wish){ .name = "valeA:x", .flags = NR_EXCLUSIVE }, &answer));
	int other = open_device();
	FAILS(bind_port(other, &(struct wish){ .name = "valeA:x" }, &answer), EBUSY);
	OK(close(fd));
	OK(bind_port(other, &(struct wish){ .name = "valeA:x" }, &answer));
	OK(close(other));

	/* It is the rings that are exclusive, each. */
	one = open_wish((struct wish){ .name = "valeB:x", .rings = 2, .mode = NR_REG_ONE_NIC, .ring = 0,
	    .flags = NR_EXCLUSIVE });
	fd = open_device();
	FAILS(bind_port(fd, &(struct wish){ .name = "valeB:x", .mode = NR_REG_ONE_NIC, .ring = 0 }, &answer), EBUSY);
	OK(bind_port(fd, &(struct wish){ .name = "valeB:x", .mode = NR_REG_ONE_NIC, .ring = 1 }, &answer));
	OK(close(fd));
	close_port(&one);
}

static int
polling(int fd, const char *name, int on)
{
	struct nmreq_vale_polling p = { NETMAP_POLLING_MODE_SINGLE_CPU, 0, 1, 0 };
	struct nmreq r = old_request(name);

	r.nr_cmd = on ? NETMAP_BDG_POLLING_ON : NETMAP_BDG_POLLING_OFF;
	r.nr_flags = NETMAP_POLLING_MODE_SINGLE_CPU;
	r.nr_tx_rings = 1;
	if (legacy)
		return ioctl(fd, NIOCREGIF, &r);
	return control(fd, on ? NETMAP_REQ_VALE_POLLING_ENABLE : NETMAP_REQ_VALE_POLLING_DISABLE, name, &p, NULL);
}

static volatile sig_atomic_t children;

static void
child_ended(int signal)
{
	(void)signal;
	children++;
}

/* A tap on a switch: it is there without the program, which has got no child by it, and no word of one. */
static void
tap(void)
{
	struct sigaction s;
	int fd = open_device();

	memset(&s, 0, sizeof(s));
	s.sa_handler = child_ended;
	OK(sigaction(SIGCHLD, &s, NULL));
	OK(attach(fd, "valeA:tap7"));
	CHECK(exists("valeA:tap7"));
	FAILS(attach(fd, "valeA:tap7"), EBUSY);
	OK(polling(fd, "valeA:tap7", 1));
	CHECK(exists("valeA:tap7"));
	OK(polling(fd, "valeA:tap7", 0));
	OK(detach(fd, "valeA:tap7"));
	CHECK(!exists("valeA:tap7"));
	FAILS(waitpid(-1, NULL, WNOHANG), ECHILD);
	CHECK(children == 0);
	/* A program that ignores the ends of its children's. */
	CHECK(signal(SIGCHLD, SIG_IGN) == child_ended);
	OK(attach(fd, "valeA:tap7"));
	CHECK(exists("valeA:tap7"));
	OK(detach(fd, "valeA:tap7"));
	OK(close(fd));
}

/* A NIC on a switch, alone and with its host, which has a port of its own. */
static void
nic(void)
{
	int fd = open_device();

	for (int with_host = 0; with_host < 2; with_host++) {
		OK(attach_as(fd, "valeA:v1", with_host));
		CHECK(exists("valeA:v1"));
		CHECK(exists("valeA:v1_host") == with_host);
		FAILS(attach_as(fd, "valeA:v1", with_host), EBUSY);
		OK(detach(fd, "valeA:v1"));
		CHECK(!exists("valeA:v1") && !exists("valeA:v1_host"));
	}
	OK(close(fd));
}

CASES({ "tap", tap }, { "nic", nic }, { "modes", modes }, { "global_memory", global_memory }, { "ringid_bits", ringid_bits }, { "info", info }, { "list", list },
    { "persistent", persistent }, { "header_length", header_length }, { "pools", pools }, { "options", options },
    { "offsets", offsets }, { "exclusive", exclusive });
