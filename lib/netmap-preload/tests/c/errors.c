/* What is refused, and with which errno: a table. Each row begins with an unbound descriptor and valeA:x in use. */
#include "client.h"

static struct port used; /* valeA:x */
static struct nmreq_register answer;

/* 0, or the errno of what returned -1. */
static int
outcome(int result)
{
	return result == -1 ? errno : 0;
}

static int
bound(int fd, struct wish w)
{
	return outcome(bind_port(fd, &w, &answer));
}

static int second_register(int fd)
{
	OK(bind_port(fd, &(struct wish){ .name = "valeA:x" }, &answer));
	return bound(fd, (struct wish){ .name = "valeA:y" });
}

static int txsync_unbound(int fd) { return outcome(ioctl(fd, NIOCTXSYNC, NULL)); }
static int rxsync_unbound(int fd) { return outcome(ioctl(fd, NIOCRXSYNC, NULL)); }

static int mapped(int fd, size_t length)
{
	void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? errno : 0;
}

static int mmap_unbound(int fd) { return mapped(fd, 4096); }
static int mmap_beyond(int fd) { (void)fd; return mapped(used.fd, used.reg.nr_memsize + 4096); }

/* A wait on what is not bound is told at once. */
static int poll_unbound(int fd) { return poll_one(fd, POLLIN, NEVER) & POLLERR ? EIO : 0; }

static int exclusive_late(int fd) { return bound(fd, (struct wish){ .name = "valeA:x", .flags = NR_EXCLUSIVE }); }

static int exclusive_early(int fd)
{
	int first = open_device(), result;

	OK(bind_port(first, &(struct wish){ .name = "valeA:alone", .flags = NR_EXCLUSIVE }, &answer));
	result = bound(fd, (struct wish){ .name = "valeA:alone" });
	OK(close(first));
	return result;
}

static int memory_unknown(int fd) { return bound(fd, (struct wish){ .name = "valeA:y", .memory = 54321 }); }
static int memory_other(int fd)
{
	struct port other = open_port("valeB:z");
	int result = bound(fd, (struct wish){ .name = "valeA:x", .memory = other.reg.nr_mem_id });

	/* Where all ports of a root share their memory there is no other. */
	if (other.reg.nr_mem_id == used.reg.nr_mem_id)
		result = EINVAL;
	close_port(&other);
	return result;
}

static int header_set(const char *name, uint32_t len)
{
	struct nmreq_port_hdr h = { len, 0 };
	struct nmreq r = old_request(name);
	int fd = open_device(), result;

	r.nr_cmd = NETMAP_BDG_VNET_HDR;
	r.nr_arg1 = (uint16_t)len;
	result = outcome(legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_PORT_HDR_SET, name, &h, NULL));
	OK(close(fd));
	return result;
}

static int header_length(int fd) { (void)fd; return header_set("valeA:x", 11); }
static int header_missing(int fd) { (void)fd; return header_set("valeA:nobody", 12); }
static int header_no_switch(int fd) { (void)fd; return header_set("valeQ:x", 12); }
static int header_elsewhere(int fd) { (void)fd; return header_set("nosuchnic", 12); }

/* Who says nothing of headers cannot have a port that has them. The old interface has no word for it. */
static int header_unexpected(int fd)
{
	int result;

	CHECK(header_set("valeA:x", 12) == 0);
	result = bound(fd, (struct wish){ .name = "valeA:x" });
	CHECK(header_set("valeA:x", 0) == 0);
	return result;
}

static int ports_all_used(int fd)
{
	int descriptors[300], n, result;

	for (n = 0; n < 300; n++) {
		char name[16];

		snprintf(name, sizeof(name), "valeL:p%d", n);
		descriptors[n] = open_device();
		if (bind_port(descriptors[n], &(struct wish){ .name = name, .slots = 64 }, &answer) == -1)
			break;
	}
	result = n < 300 ? errno : 0;
	CHECK(n >= 250);
	(void)fd;
	for (n = n < 300 ? n : 299; n >= 0; n--)
		OK(close(descriptors[n]));
	return result;
}

static int detach_no_switch(int fd)
{
	struct nmreq_vale_detach d = { 0, 0 };
	struct nmreq r = old_request("valeQ:x");

	r.nr_cmd = NETMAP_BDG_DETACH;
	return outcome(legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_VALE_DETACH, "valeQ:x", &d, NULL));
}

/* A port that somebody has open is no interface that could be attached. */
static int attach_in_use(int fd)
{
	struct nmreq_vale_attach a;
	struct nmreq r = old_request("valeA:x");

	memset(&a, 0, sizeof(a));
	a.reg.nr_mode = NR_REG_ALL_NIC;
	r.nr_cmd = NETMAP_BDG_ATTACH;
	return outcome(legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_VALE_ATTACH, "valeA:x", &a, NULL));
}

static int polling_missing(int fd)
{
	struct nmreq_vale_polling p;
	struct nmreq r = old_request("valeA:nobody");

	memset(&p, 0, sizeof(p));
	p.nr_mode = NETMAP_POLLING_MODE_SINGLE_CPU;
	p.nr_num_polling_cpus = 1;
	r.nr_cmd = NETMAP_BDG_POLLING_ON;
	r.nr_arg1 = 1;
	return outcome(legacy ? ioctl(fd, NIOCREGIF, &r) :
	    control(fd, NETMAP_REQ_VALE_POLLING_ENABLE, "valeA:nobody", &p, NULL));
}

static int delete_ephemeral(int fd)
{
	struct nmreq r = old_request("valeA:x");

	r.nr_cmd = NETMAP_BDG_DELIF;
	return outcome(legacy ? ioctl(fd, NIOCREGIF, &r) : control(fd, NETMAP_REQ_VALE_DELIF, "valeA:x", NULL, NULL));
}

static int pipe_mode(int fd) { return bound(fd, (struct wish){ .name = "valeA:x{1", .mode = NR_REG_SW }); }
static int pipe_nameless(int fd) { return bound(fd, (struct wish){ .name = "valeA:x{" }); }
static int host_rings(int fd) { return bound(fd, (struct wish){ .name = "valeA:x", .mode = NR_REG_SW }); }
static int host_and_rings(int fd) { return bound(fd, (struct wish){ .name = "valeA:x", .mode = NR_REG_NIC_SW }); }
static int ring_too_high(int fd)
{
	return bound(fd, (struct wish){ .name = "valeA:x", .mode = NR_REG_ONE_NIC, .ring = 1 });
}
static int both_directions(int fd)
{
	return bound(fd, (struct wish){ .name = "valeA:x", .flags = NR_RX_RINGS_ONLY | NR_TX_RINGS_ONLY });
}
static int no_such_nic(int fd) { return bound(fd, (struct wish){ .name = "nosuchnic" }); }

static int list_of(const char *name, uint16_t bridge)
{
	struct nmreq_vale_list l = { bridge, 0, 0 };
	struct nmreq r = old_request(name);
	int fd = open_device(), result;

	r.nr_cmd = NETMAP_BDG_LIST;
	r.nr_arg1 = bridge;
	result = outcome(legacy ? ioctl(fd, NIOCGINFO, &r) : control(fd, NETMAP_REQ_VALE_LIST, name, &l, NULL));
	OK(close(fd));
	return result;
}

static int list_end(int fd) { (void)fd; return list_of("", 200); }
static int list_missing(int fd) { (void)fd; return list_of("valeA:nobody", 0); }

#define REQUEST (legacy ? NIOCREGIF : NIOCCTRL)
static int null_request(int fd) { return outcome(ioctl(fd, REQUEST, NULL)); }
static int bad_request(int fd) { return outcome(ioctl(fd, REQUEST, (void *)8)); }
static int null_info(int fd) { return outcome(ioctl(fd, legacy ? NIOCGINFO : NIOCCTRL, NULL)); }

/* The last bytes of a request lie beyond what is mapped. */
static int half_request(int fd)
{
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int result;

	CHECK(pages != MAP_FAILED);
	OK(mprotect(pages + 4096, 4096, PROT_NONE));
	*(uint16_t *)(void *)(pages + 4096 - 40) = NETMAP_API;
	result = outcome(ioctl(fd, REQUEST, pages + 4096 - 40));
	OK(munmap(pages, 8192));
	return result;
}

static int null_body(int fd) { return outcome(control(fd, NETMAP_REQ_REGISTER, "valeA:y", NULL, NULL)); }
static int bad_body(int fd) { return outcome(control(fd, NETMAP_REQ_REGISTER, "valeA:y", (void *)8, NULL)); }
static int unknown_type(int fd) { return outcome(control(fd, 99, "valeA:y", NULL, NULL)); }

static int with_version(int fd, uint16_t version)
{
	struct nmreq_register reg;
	struct nmreq_header h;
	struct nmreq r = old_request("valeA:v");

	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	memset(&h, 0, sizeof(h));
	h.nr_version = version;
	h.nr_reqtype = NETMAP_REQ_REGISTER;
	strcpy(h.nr_name, "valeA:v");
	h.nr_body = (uint64_t)(uintptr_t)&reg;
	r.nr_version = version;
	return outcome(legacy ? ioctl(fd, NIOCREGIF, &r) : ioctl(fd, NIOCCTRL, &h));
}

static int version_11(int fd) { return with_version(fd, 11); }
static int version_13(int fd) { return with_version(fd, 13); }
static int version_16(int fd) { return with_version(fd, 16); }
static int unknown_ioctl(int fd) { return outcome(ioctl(fd, _IO('i', 200), NULL)); }

static int unknown_command(int fd)
{
	struct nmreq r = old_request("valeA:y");

	r.nr_cmd = 77;
	return outcome(ioctl(fd, NIOCREGIF, &r));
}

static int option_endless(int fd)
{
	struct nmreq_register reg;
	struct nmreq_option o;

	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	memset(&o, 0, sizeof(o));
	o.nro_reqtype = NETMAP_REQ_OPT_CSB;
	o.nro_next = (uint64_t)(uintptr_t)&o;
	return outcome(control(fd, NETMAP_REQ_REGISTER, "valeA:y", &reg, &o));
}

static int option_unknown(int fd)
{
	struct nmreq_register reg;
	struct nmreq_option o;
	int result;

	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	memset(&o, 0, sizeof(o));
	o.nro_reqtype = 4711;
	result = outcome(control(fd, NETMAP_REQ_REGISTER, "valeA:y", &reg, &o));
	CHECK(o.nro_status == EOPNOTSUPP);
	return result;
}

static int csb_unbound(int fd) { return outcome(control(fd, NETMAP_REQ_CSB_ENABLE, "", NULL, NULL)); }

enum { NEW = 1, OLD = 2, BOTH = 3 };

static const struct {
	const char *what;
	int (*run)(int fd);
	int error;
	int generations;
} rows[] = {
	{ "a second REGISTER", second_register, EBUSY, BOTH },
	{ "NIOCTXSYNC before REGISTER", txsync_unbound, ENXIO, BOTH },
	{ "NIOCRXSYNC before REGISTER", rxsync_unbound, ENXIO, BOTH },
	{ "mmap before REGISTER", mmap_unbound, EINVAL, BOTH },
	{ "mmap of more than nr_memsize", mmap_beyond, EINVAL, BOTH },
	{ "poll before REGISTER: POLLERR", poll_unbound, EIO, BOTH },
	{ "exclusive where somebody is", exclusive_late, EBUSY, BOTH },
	{ "where somebody is exclusive", exclusive_early, EBUSY, BOTH },
	{ "memory that there is not", memory_unknown, EINVAL, BOTH },
	{ "memory that is not the port's", memory_other, EINVAL, BOTH },
	{ "a header of 11 bytes", header_length, EINVAL, BOTH },
	{ "a header for no port", header_missing, ENXIO, BOTH },
	{ "a header for a port of no switch", header_no_switch, ENXIO, BOTH },
	{ "a header for what is on no switch", header_elsewhere, ENXIO, BOTH },
	{ "headers that are not expected", header_unexpected, EIO, NEW },
	{ "one port more than there may be", ports_all_used, ENOMEM, BOTH },
	{ "DETACH from no switch", detach_no_switch, ENXIO, BOTH },
	{ "ATTACH of a port in use", attach_in_use, EBUSY, BOTH },
	{ "polling of no port", polling_missing, ENXIO, BOTH },
	{ "DELIF of a switch's port", delete_ephemeral, EINVAL, BOTH },
	{ "a pipe with a mode that it has not", pipe_mode, EINVAL, NEW },
	{ "a pipe without a name", pipe_nameless, EINVAL, NEW },
	{ "host rings", host_rings, EINVAL, BOTH },
	{ "rings and host rings", host_and_rings, EINVAL, BOTH },
	{ "a ring that there is not", ring_too_high, EINVAL, BOTH },
	{ "neither direction", both_directions, EINVAL, BOTH },
	{ "an interface that there is not", no_such_nic, ENXIO, BOTH },
	{ "the end of the list", list_end, ENOENT, BOTH },
	{ "LIST of no port", list_missing, ENOENT, BOTH },
	{ "no request", null_request, EINVAL, BOTH },
	{ "no request for information", null_info, EINVAL, BOTH },
	{ "a request that is nowhere", bad_request, EFAULT, BOTH },
	{ "a request that is half there", half_request, EFAULT, BOTH },
	{ "no body", null_body, EINVAL, NEW },
	{ "a body that is nowhere", bad_body, EFAULT, NEW },
	{ "an unknown request", unknown_type, EINVAL, NEW },
	{ "an unknown command", unknown_command, EINVAL, OLD },
	{ "version 11", version_11, EINVAL, BOTH },
	{ "version 13", version_13, EINVAL, BOTH },
	{ "version 16", version_16, EINVAL, NEW },
	{ "version 16 in the old way", version_16, 0, OLD },
	{ "an unknown ioctl", unknown_ioctl, EOPNOTSUPP, BOTH },
	{ "options without end", option_endless, EMSGSIZE, NEW },
	{ "an unknown option", option_unknown, EOPNOTSUPP, NEW },
	{ "CSB_ENABLE before REGISTER", csb_unbound, ENXIO, NEW },
};

/* All rows are looked at, also when one is wrong. */
static void
table(void)
{
	size_t i;
	int wrong = 0, done = 0;

	used = open_port("valeA:x");
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd, error;

		if (!(rows[i].generations & (legacy ? OLD : NEW)))
			continue;
		fd = open_device();
		error = rows[i].run(fd);
		if (error != rows[i].error) {
			fprintf(stderr, "%s: expected %s, got %s\n", rows[i].what,
			    rows[i].error ? strerrorname_np(rows[i].error) : "success",
			    error ? strerrorname_np(error) : "success");
			wrong++;
		}
		OK(close(fd));
		done++;
	}
	CHECK(done > 20);
	CHECK(wrong == 0);
	/* The port that was there all the time is as it was. */
	send_one(&used, 1);
	close_port(&used);
}

CASES({ "table", table });
