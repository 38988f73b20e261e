/*
 * What the test clients share: checks, ports in both generations of the interface, packets that can be told apart.
 *
 * A client is `PROGRAM CASE new|old [ARGUMENT...]`: it ends with 0 if all was as it should be, else it says what was
 * not. Nothing in here knows of the library behind /dev/netmap: all of it would run on a kernel with netmap.
 */
#ifndef CLIENT_H
#define CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <net/netmap_user.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* Which generation: NIOCREGIF and NIOCGINFO, or NIOCCTRL. */
static int legacy;
static char **arguments;

/* Longest that anything may take before it counts as never happening, in milliseconds. */
#define NEVER 20000

static void UNUSED
fail(const char *file, int line, const char *what, int error)
{
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, error ? strerror(error) : "is not so");
	exit(1);
}

#define CHECK(what) ((what) ? (void)0 : fail(__FILE__, __LINE__, #what, 0))
/* A call that must not return -1; the check's value is the call's. */
#define OK(call) (__extension__({ \
	long result_ = (long)(call); \
	if (result_ == -1) \
		fail(__FILE__, __LINE__, #call, errno); \
	result_; }))
/* A call that must fail with this errno. */
#define FAILS(call, error) do { \
	errno = 0; \
	long result_ = (long)(call); \
	int errno_ = errno; \
	if (result_ != -1 || errno_ != (error)) { \
		fprintf(stderr, "expected %s, got %ld, ", strerror(error), result_); \
		fail(__FILE__, __LINE__, #call, errno_); \
	} } while (0)

/* What is asked for when binding; zeros are what nobody asks for. */
struct wish {
	const char *name;
	uint32_t mode; /* 0: all rings */
	uint16_t ring;
	uint64_t flags;
	uint32_t extra;
	uint16_t memory;
	uint16_t rings;
	uint32_t slots;
};

struct port {
	int fd;
	struct nmreq_register reg; /* as answered, in either generation */
	char *mem;
	struct netmap_if *nifp;
};

/* A NIOCCTRL. */
static int UNUSED
control(int fd, int type, const char *name, void *body, void *options)
{
	struct nmreq_header h;

	memset(&h, 0, sizeof(h));
	h.nr_version = NETMAP_API;
	h.nr_reqtype = (uint16_t)type;
	strncpy(h.nr_name, name ? name : "", sizeof(h.nr_name) - 1);
	h.nr_body = (uint64_t)(uintptr_t)body;
	h.nr_options = (uint64_t)(uintptr_t)options;
	return ioctl(fd, NIOCCTRL, &h);
}

/* A structure of the old interface with this name. */
static struct nmreq UNUSED
old_request(const char *name)
{
	struct nmreq r;

	memset(&r, 0, sizeof(r));
	r.nr_version = NETMAP_API;
	strncpy(r.nr_name, name, sizeof(r.nr_name) - 1);
	return r;
}

/* Binds a descriptor; -1 and errno as the ioctl gives it. */
static int UNUSED
bind_port(int fd, const struct wish *w, struct nmreq_register *answer)
{
	struct nmreq_register reg;
	struct nmreq r;

	memset(&reg, 0, sizeof(reg));
	if (!legacy) {
		reg.nr_mode = w->mode ? w->mode : NR_REG_ALL_NIC;
		reg.nr_ringid = w->ring;
		reg.nr_flags = w->flags;
		reg.nr_extra_bufs = w->extra;
		reg.nr_mem_id = w->memory;
		reg.nr_tx_rings = reg.nr_rx_rings = w->rings;
		reg.nr_tx_slots = reg.nr_rx_slots = w->slots;
		int result = control(fd, NETMAP_REQ_REGISTER, w->name, &reg, NULL);
		*answer = reg;
		return result;
	}
	r = old_request(w->name);
	r.nr_flags = (w->mode ? w->mode : NR_REG_ALL_NIC);
	r.nr_ringid = w->ring;
	/* These two are bits of the ring's number there. */
	if (w->flags & NR_NO_TX_POLL)
		r.nr_ringid |= NETMAP_NO_TX_POLL;
	if (w->flags & NR_DO_RX_POLL)
		r.nr_ringid |= NETMAP_DO_RX_POLL;
	r.nr_flags |= (uint32_t)w->flags & ~(uint32_t)(NR_NO_TX_POLL | NR_DO_RX_POLL);
	r.nr_arg3 = w->extra;
	r.nr_arg2 = w->memory;
	r.nr_tx_rings = r.nr_rx_rings = w->rings;
	r.nr_tx_slots = r.nr_rx_slots = w->slots;
	int result = ioctl(fd, NIOCREGIF, &r);
	reg.nr_offset = r.nr_offset;
	reg.nr_memsize = r.nr_memsize;
	reg.nr_tx_rings = r.nr_tx_rings;
	reg.nr_rx_rings = r.nr_rx_rings;
	reg.nr_tx_slots = r.nr_tx_slots;
	reg.nr_rx_slots = r.nr_rx_slots;
	reg.nr_mem_id = r.nr_arg2;
	reg.nr_extra_bufs = r.nr_arg3;
	*answer = reg;
	return result;
}

static int UNUSED
open_device(void)
{
	return (int)OK(open(NETMAP_DEVICE_NAME, O_RDWR));
}

static void UNUSED
map_port(struct port *p)
{
	void *mem = mmap(NULL, p->reg.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);

	if (mem == MAP_FAILED)
		fail(__FILE__, __LINE__, "mmap", errno);
	p->mem = mem;
	CHECK(p->reg.nr_offset < p->reg.nr_memsize);
	p->nifp = NETMAP_IF(mem, p->reg.nr_offset);
}

static struct port UNUSED
open_wish(struct wish w)
{
	struct port p;

	memset(&p, 0, sizeof(p));
	p.fd = open_device();
	OK(bind_port(p.fd, &w, &p.reg));
	map_port(&p);
	return p;
}

static struct port UNUSED
open_port(const char *name)
{
	struct wish w;

	memset(&w, 0, sizeof(w));
	w.name = name;
	return open_wish(w);
}

static void UNUSED
close_port(struct port *p)
{
	if (p->mem)
		OK(munmap(p->mem, p->reg.nr_memsize));
	OK(close(p->fd));
	memset(p, 0, sizeof(*p));
	p->fd = -1;
}

static struct netmap_ring *UNUSED
tx(const struct port *p, uint32_t i)
{
	return NETMAP_TXRING(p->nifp, i);
}

static struct netmap_ring *UNUSED
rx(const struct port *p, uint32_t i)
{
	return NETMAP_RXRING(p->nifp, i);
}

static void UNUSED
txsync(const struct port *p)
{
	OK(ioctl(p->fd, NIOCTXSYNC, NULL));
}

static void UNUSED
rxsync(const struct port *p)
{
	OK(ioctl(p->fd, NIOCRXSYNC, NULL));
}

/* ---- packets: broadcast, numbered, the rest made of the number ---- */

static unsigned char UNUSED
pattern(uint32_t number, uint32_t at)
{
	return (unsigned char)(number * 31 + at * 7 + (at >> 8));
}

static void UNUSED
make_packet(char *p, uint32_t len, uint32_t number)
{
	static const unsigned char head[14] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5 };
	uint32_t i;

	for (i = 18; i < len; i++)
		p[i] = (char)pattern(number, i);
	memcpy(p, head, sizeof(head));
	memcpy(p + 14, &number, 4);
}

static uint32_t UNUSED
packet_number(const char *p)
{
	uint32_t number;

	memcpy(&number, p + 14, 4);
	return number;
}

/* Whether these are the bytes from `from` on of packet `number`; the head is not looked at. */
static int UNUSED
is_packet(const char *p, uint32_t from, uint32_t len, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		if (from + i >= 18 && (unsigned char)p[i] != pattern(number, from + i))
			return 0;
	return 1;
}

/* Queues packet `number`; 0 if there is no room. It goes with the next sync. */
static int UNUSED
queue(struct netmap_ring *r, uint32_t len, uint32_t number)
{
	struct netmap_slot *s = &r->slot[r->head];

	if (nm_ring_empty(r))
		return 0;
	make_packet(NETMAP_BUF(r, s->buf_idx), len, number);
	s->len = (uint16_t)len;
	s->flags = 0;
	r->head = r->cur = nm_ring_next(r, r->head);
	return 1;
}

/* Takes a packet of one slot off a ring, checks it, and returns its number, or -1 if there is none. */
static int64_t UNUSED
take(struct netmap_ring *r)
{
	struct netmap_slot *s = &r->slot[r->head];
	const char *p = NETMAP_BUF(r, s->buf_idx);
	uint32_t number;

	if (nm_ring_empty(r))
		return -1;
	number = packet_number(p);
	CHECK(is_packet(p, 0, s->len, number));
	r->head = r->cur = nm_ring_next(r, r->head);
	return number;
}

static int UNUSED
poll_one(int fd, short events, int timeout)
{
	struct pollfd p = { fd, events, 0 };
	int n = (int)OK(poll(&p, 1, timeout));

	return n ? p.revents : 0;
}

/* Sends one packet by a sync. */
static void UNUSED
send_one(const struct port *p, uint32_t number)
{
	CHECK(queue(tx(p, 0), 60, number));
	txsync(p);
}

/* Waits by poll for a packet, and checks its number. */
static void UNUSED
receive_one(const struct port *p, uint32_t number)
{
	if (nm_ring_empty(rx(p, 0)))
		CHECK(poll_one(p->fd, POLLIN, NEVER) == POLLIN);
	CHECK(take(rx(p, 0)) == (int64_t)number);
}

static int64_t UNUSED
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Waits for a child and checks that it ended with 0. */
static void UNUSED
join_child(pid_t pid)
{
	int status;

	OK(waitpid(pid, &status, 0));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "child: wait status %#x\n", (unsigned)status);
		exit(1);
	}
}

/* Cuts the file that is mapped where the port's memory is. */
static void UNUSED
cut(const struct port *p)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], *path = NULL;
	unsigned long start, end;

	CHECK(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start == (uintptr_t)p->mem) {
			path = strchr(line, '/');
			break;
		}
	fclose(maps);
	CHECK(path != NULL);
	path[strcspn(path, "\n")] = '\0';
	OK(truncate(path, 0));
}

/* Whether there is a port with this name, by the list. */
static int UNUSED
exists(const char *name)
{
	int fd = open_device(), result;

	if (legacy) {
		struct nmreq r = old_request(name);

		r.nr_cmd = NETMAP_BDG_LIST;
		result = ioctl(fd, NIOCGINFO, &r);
	} else {
		struct nmreq_vale_list l;

		memset(&l, 0, sizeof(l));
		result = control(fd, NETMAP_REQ_VALE_LIST, name, &l, NULL);
	}
	if (result == -1)
		CHECK(errno == ENOENT);
	OK(close(fd));
	return result == 0;
}

struct test_case {
	const char *name;
	void (*run)(void);
};

static int UNUSED
run_case(int argc, char **argv, const struct test_case *cases, size_t n)
{
	size_t i;

	if (argc < 3 || (strcmp(argv[2], "new") && strcmp(argv[2], "old"))) {
		fprintf(stderr, "usage: %s CASE new|old [ARGUMENT...]\n", argv[0]);
		return 2;
	}
	legacy = argv[2][0] == 'o';
	arguments = argv;
	for (i = 0; i < n; i++)
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			return 0;
		}
	fprintf(stderr, "%s: there is no case %s\n", argv[0], argv[1]);
	return 2;
}

#define CASES(...) \
	int main(int argc, char **argv) \
	{ \
		static const struct test_case cases[] = { __VA_ARGS__ }; \
		return run_case(argc, argv, cases, sizeof(cases) / sizeof(cases[0])); \
	} \
	extern int one_main_is_enough

#endif /* CLIENT_H */
