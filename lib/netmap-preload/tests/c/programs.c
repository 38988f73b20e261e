/*
 * Programs that are in use, call by call: QEMU's netmap backend with its main loop, libpcap's module, a bridge and a
 * load balancer, each as it is known to use the interface. QEMU's and libpcap's use the old one, whatever is asked for.
 */
#define NETMAP_WITH_LIBS
#include "client.h"

/* ---- QEMU's backend ---- */

struct backend {
	struct nm_desc *nm;
	struct netmap_ring *t, *r;
	int read_poll, write_poll;
	int header; /* length */
	/* The guest: packets that it has got, and has to answer. */
	uint32_t answers[4096];
	unsigned first, last;
	uint64_t received, answered;
};

static void
backend_open(struct backend *s, const char *name)
{
	struct nmreq req;

	memset(s, 0, sizeof(*s));
	memset(&req, 0, sizeof(req));
	s->nm = nm_open(name, &req, NETMAP_NO_TX_POLL, NULL);
	CHECK(s->nm != NULL);
	s->t = NETMAP_TXRING(s->nm->nifp, 0);
	s->r = NETMAP_RXRING(s->nm->nifp, 0);
	s->read_poll = 1;
}

static int
backend_set_header(struct backend *s, int len)
{
	struct nmreq req;

	memset(&req, 0, sizeof(req));
	memcpy(req.nr_name, s->nm->req.nr_name, sizeof(req.nr_name));
	req.nr_version = NETMAP_API;
	req.nr_cmd = NETMAP_BDG_VNET_HDR;
	req.nr_arg1 = (uint16_t)len;
	return ioctl(s->nm->fd, NIOCREGIF, &req);
}

/* "Can you do this length?": set it, and go back; who cannot go back gives up. */
static int
backend_has_header(struct backend *s, int len)
{
	int previous = s->header;

	if (backend_set_header(s, len))
		return 0;
	OK(backend_set_header(s, previous));
	return 1;
}

/* A packet of the guest; 0: no room, it will be asked for again. */
static int
backend_transmit(struct backend *s, const char *packet, uint32_t len)
{
	struct netmap_ring *ring = s->t;
	uint32_t i;

	if (nm_ring_empty(ring)) {
		s->write_poll = 1;
		return 0;
	}
	i = ring->cur;
	ring->slot[i].len = (uint16_t)len;
	ring->slot[i].flags = 0;
	nm_pkt_copy(packet, NETMAP_BUF(ring, ring->slot[i].buf_idx), (int)len);
	ring->cur = ring->head = nm_ring_next(ring, i);
	OK(ioctl(s->nm->fd, NIOCTXSYNC, NULL));
	return 1;
}

static void
guest_answers(struct backend *s)
{
	static char packet[2048];

	while (s->first != s->last) {
		uint32_t len = (uint32_t)s->header + 60;

		memset(packet, 0, sizeof(packet));
		make_packet(packet + s->header, 60, s->answers[s->first % 4096]);
		if (!backend_transmit(s, packet, len))
			return;
		s->first++;
		s->answered++;
	}
}

/* The ring is readable: nothing but the wait has synced it. */
static void
backend_readable(struct backend *s)
{
	struct netmap_ring *ring = s->r;

	while (!nm_ring_empty(ring) && s->last - s->first < 4096) {
		uint32_t i = ring->cur;
		const char *p = NETMAP_BUF(ring, ring->slot[i].buf_idx);

		ring->cur = ring->head = nm_ring_next(ring, i);
		if (packet_number(p + s->header) < 1000000)
			s->answers[s->last++ % 4096] = packet_number(p + s->header) + 1000000;
		s->received++;
	}
	s->read_poll = s->last - s->first < 4096;
}

/* The main loop: ppoll over the backend, an eventfd and a timer. */
static void
backend_run(struct backend *s, uint64_t packets, int extra)
{
	while (s->answered < packets) {
		struct timespec t = { NEVER / 1000, 0 };
		struct pollfd p[2] = { { extra, POLLIN, 0 }, { s->nm->fd, 0, 0 } };

		p[1].events = (short)((s->read_poll ? POLLIN : 0) | (s->write_poll ? POLLOUT : 0));
		CHECK(OK(ppoll(p, 2, &t, NULL)) > 0);
		if (p[1].revents & POLLIN)
			backend_readable(s);
		if (p[1].revents & POLLOUT)
			s->write_poll = 0;
		guest_answers(s);
	}
}

#define EXCHANGED 3000

static void
qemu_with_header(int header)
{
	int pipes[2];
	pid_t child;
	struct port peer = open_port("valeA:peer");
	struct netmap_ring *t = tx(&peer, 0), *r = rx(&peer, 0);
	uint32_t sent = 0, got = 0;
	char c;

	OK(pipe(pipes));
	child = (pid_t)OK(fork());
	if (child == 0) {
		static struct backend s;

		close_port(&peer);
		backend_open(&s, "valeA:vm1");
		if (header) {
			CHECK(backend_has_header(&s, 12) && backend_has_header(&s, 10) && !backend_has_header(&s, 11));
			OK(backend_set_header(&s, header));
			s.header = header;
		}
		OK(write(pipes[1], "r", 1));
		/* The other descriptor of the loop; nobody writes. */
		backend_run(&s, EXCHANGED, pipes[0]);
		CHECK(nm_close(s.nm) == 0);
		exit(0);
	}
	CHECK(read(pipes[0], &c, 1) == 1);
	if (header) {
		struct nmreq req = old_request("valeA:peer");

		req.nr_cmd = NETMAP_BDG_VNET_HDR;
		req.nr_arg1 = (uint16_t)header;
		OK(ioctl(peer.fd, NIOCREGIF, &req));
	}
	while (got < EXCHANGED) {
		while (sent < EXCHANGED && sent - got < 300 && !nm_ring_empty(t)) {
			struct netmap_slot *s = &t->slot[t->head];

			memset(NETMAP_BUF(t, s->buf_idx), 0, (size_t)header);
			make_packet(NETMAP_BUF(t, s->buf_idx) + header, 60, sent++);
			s->len = (uint16_t)(60 + header);
			s->flags = 0;
			t->head = t->cur = nm_ring_next(t, t->head);
		}
		CHECK(poll_one(peer.fd, POLLIN, NEVER) == POLLIN);
		for (; !nm_ring_empty(r); got++) {
			struct netmap_slot *s = &r->slot[r->head];

			CHECK(s->len == 60 + header);
			CHECK(packet_number(NETMAP_BUF(r, s->buf_idx) + header) == got + 1000000);
			r->head = r->cur = nm_ring_next(r, r->head);
		}
	}
	join_child(child);
	close_port(&peer);
	CHECK(!exists("valeA:vm1"));
}

static void qemu(void) { qemu_with_header(0); }
static void qemu_virtio(void) { qemu_with_header(12); }

/* ---- libpcap's module ---- */

static uint32_t pcap_next;

static void
pcap_packet(unsigned char *arg, const struct nm_pkthdr *h, const unsigned char *packet)
{
	CHECK(arg == (unsigned char *)&pcap_next && h->len == h->caplen && h->len == 60 && h->buf == packet);
	CHECK(packet_number((const char *)packet) == pcap_next++);
}

/* Waits, then dispatches; also without waiting, as a loop in non-blocking mode does. */
static int
pcap_dispatch(struct nm_desc *d, int cnt, int timeout)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	int n;

	for (;;) {
		n = nm_dispatch(d, cnt, pcap_packet, (unsigned char *)&pcap_next);
		if (n != 0)
			return n;
		errno = 0;
		n = poll(&p, 1, timeout);
		if (n < 0 && errno == EINTR)
			continue;
		CHECK(n >= 0);
		if (n == 0)
			return 0;
	}
}

static void
pcap(void)
{
	struct nm_desc *d = nm_open("valeA:cap", NULL, 0, NULL);
	struct port x = open_port("valeA:x");
	char packet[60];
	uint32_t i;
	int got = 0, flags;

	CHECK(d != NULL && IS_NETMAP_DESC(d));
	flags = (int)OK(fcntl(d->fd, F_GETFL));
	CHECK((flags & O_ACCMODE) == O_RDWR);
	OK(fcntl(d->fd, F_SETFL, flags | O_NONBLOCK));
	CHECK(pcap_dispatch(d, -1, 0) == 0);
	for (i = 0; i < 500; i++)
		CHECK(queue(tx(&x, 0), 60, i));
	txsync(&x);
	while (got < 500) {
		int n = pcap_dispatch(d, 64, NEVER);

		CHECK(n > 0 && n <= 64);
		got += n;
	}
	CHECK(pcap_dispatch(d, -1, 10) == 0);
	OK(fcntl(d->fd, F_SETFL, flags));

	/* Injected packets leave with the next wait. */
	for (i = 0; i < 20; i++) {
		make_packet(packet, 60, 700 + i);
		CHECK(nm_inject(d, packet, sizeof(packet)) == 60);
	}
	rxsync(&x);
	CHECK(nm_ring_empty(rx(&x, 0)));
	CHECK(pcap_dispatch(d, -1, 0) == 0);
	for (i = 0; i < 20; i++)
		receive_one(&x, 700 + i);

	/* One by one. */
	{
		struct nm_pkthdr h;
		unsigned char *p;

		send_one(&x, 9);
		CHECK(poll_one(d->fd, POLLIN, NEVER) == POLLIN);
		p = nm_nextpkt(d, &h);
		CHECK(p != NULL && h.len == 60 && packet_number((char *)p) == 9 && nm_nextpkt(d, &h) == NULL);
	}
	CHECK(nm_close(d) == 0);
	close_port(&x);
	CHECK(nm_open("valeA:x^", NULL, 0, NULL) == NULL && errno == EINVAL);
	CHECK(nm_open("nosuchkind", NULL, 0, NULL) == NULL && errno == EINVAL);
}

/* The helper's other ways: rings, memory of a parent, pipes, packets of several slots. */
static void
helpers(void)
{
	struct nmreq wishes;
	struct nm_desc *all, *one, *master, *slave;
	static char packet[9000];
	struct pollfd p;
	struct nm_pkthdr h;

	memset(&wishes, 0, sizeof(wishes));
	wishes.nr_tx_rings = wishes.nr_rx_rings = 2;
	all = nm_open("valeA:x", &wishes, 0, NULL);
	CHECK(all && all->first_tx_ring == 0 && all->last_tx_ring == 1 && all->last_rx_ring == 1);
	one = nm_open("valeA:x-1/T", NULL, NM_OPEN_NO_MMAP, NULL);
	CHECK(one && one->first_tx_ring == 1 && one->last_tx_ring == 1 && one->mem == NULL);
	CHECK(nm_mmap(one, all) == 0 && one->mem == all->mem && !one->done_mmap);
	CHECK(NETMAP_TXRING(one->nifp, 1) == NETMAP_TXRING(all->nifp, 1));
	CHECK((char *)one->buf_start > (char *)one->mem && (char *)one->buf_end == (char *)one->mem + one->memsize);
	CHECK(nm_close(one) == 0);

	master = nm_open("valeA:p{5", NULL, 0, NULL);
	slave = nm_open("valeA:p}5", NULL, 0, NULL);
	CHECK(master && slave);
	make_packet(packet, sizeof(packet), 77);
	CHECK(nm_inject(master, packet, sizeof(packet)) == sizeof(packet));
	OK(ioctl(master->fd, NIOCTXSYNC, NULL));
	p = (struct pollfd){ .fd = slave->fd, .events = POLLIN };
	CHECK(OK(poll(&p, 1, NEVER)) == 1);
	CHECK(nm_nextpkt(slave, &h) != NULL && h.len == sizeof(packet) && h.caplen < h.len);
	CHECK(packet_number((char *)h.buf) == 77 && nm_nextpkt(slave, &h) == NULL);
	CHECK(nm_close(master) == 0 && nm_close(slave) == 0 && nm_close(all) == 0);
}

/* ---- a bridge ---- */

static uint32_t
available(const struct port *p, int receive)
{
	uint32_t i, n = 0, rings = receive ? p->nifp->ni_rx_rings : p->nifp->ni_tx_rings;

	for (i = 0; i < rings; i++)
		n += nm_ring_space(receive ? rx(p, i) : tx(p, i));
	return n;
}

/* From all rings of the one to all of the other; by exchange of buffers where both have one memory. */
static void
move(const struct port *from, const struct port *to)
{
	int swap = from->reg.nr_mem_id == to->reg.nr_mem_id;
	uint32_t i = 0, o = 0;

	while (i < from->nifp->ni_rx_rings && o < to->nifp->ni_tx_rings) {
		struct netmap_ring *r = rx(from, i), *t = tx(to, o);
		struct netmap_slot *in, *out;

		if (nm_ring_empty(r)) {
			i++;
			continue;
		}
		if (nm_ring_empty(t)) {
			o++;
			continue;
		}
		in = &r->slot[r->head];
		out = &t->slot[t->head];
		out->len = in->len;
		if (swap) {
			uint32_t b = out->buf_idx;

			out->buf_idx = in->buf_idx;
			in->buf_idx = b;
			out->flags = (uint16_t)(NS_BUF_CHANGED | (in->flags & NS_MOREFRAG));
			in->flags |= NS_BUF_CHANGED;
		} else {
			nm_pkt_copy(NETMAP_BUF(r, in->buf_idx), NETMAP_BUF(t, out->buf_idx), in->len);
			out->flags = in->flags & NS_MOREFRAG;
		}
		r->head = r->cur = nm_ring_next(r, r->head);
		t->head = t->cur = nm_ring_next(t, t->head);
	}
}

static volatile sig_atomic_t done;

static void
ends(int signal)
{
	(void)signal;
	done = 1;
}

/* Until it is told to end. */
static void
bridge_ports(struct port *a, struct port *b)
{
	struct pollfd p[2] = { { a->fd, 0, 0 }, { b->fd, 0, 0 } };

	while (!done) {
		uint32_t n0 = available(a, 1), n1 = available(b, 1);

		p[0].events = p[1].events = 0;
		if (n0)
			p[1].events |= POLLOUT;
		else
			p[0].events |= POLLIN;
		if (n1)
			p[0].events |= POLLOUT;
		else
			p[1].events |= POLLIN;
		if (poll(p, 2, 2500) <= 0)
			continue;
		CHECK(!((p[0].revents | p[1].revents) & POLLERR));
		if (p[0].revents & POLLOUT) {
			move(b, a);
			txsync(a);
		}
		if (p[1].revents & POLLOUT) {
			move(a, b);
			txsync(b);
		}
	}
}

/* bridge NAME NAME, as a program for the tests to start: says "ready", ends by SIGTERM. */
static void
bridge(void)
{
	struct sigaction s;
	struct port a, b;

	memset(&s, 0, sizeof(s));
	s.sa_handler = ends;
	OK(sigaction(SIGTERM, &s, NULL));
	CHECK(arguments[3] && arguments[4]);
	a = open_port(arguments[3]);
	b = open_wish((struct wish){ .name = arguments[4],
	    .memory = arguments[5] ? a.reg.nr_mem_id : (uint16_t)0 });
	CHECK(!arguments[5] || a.reg.nr_mem_id == b.reg.nr_mem_id);
	if (a.reg.nr_mem_id == b.reg.nr_mem_id) {
		/* One mapping for both. */
		OK(munmap(b.mem, b.reg.nr_memsize));
		b.mem = NULL;
		b.nifp = NETMAP_IF(a.mem, b.reg.nr_offset);
	}
	printf("ready\n");
	fflush(stdout);
	bridge_ports(&a, &b);
	close_port(&b);
	close_port(&a);
}

/* ---- a load balancer: one port, pipes, spare buffers, a poll of all ---- */

#define PIPES 4
#define SPREAD 4000

static void
balancer(void)
{
	struct port in = open_wish((struct wish){ .name = "valeA:lb", .extra = 128 }), out[PIPES], end[PIPES];
	struct port x = open_port("valeA:x");
	struct pollfd p[PIPES + 1];
	uint32_t sent = 0, got = 0, i, next[PIPES] = { 0 };
	char name[40];

	CHECK(in.reg.nr_extra_bufs == 128);
	for (i = 0; i < PIPES; i++) {
		if (legacy) {
			out[i] = open_wish((struct wish){ .name = "valeA:lb", .mode = NR_REG_PIPE_MASTER, .ring = (uint16_t)i,
			    .memory = in.reg.nr_mem_id, .flags = NR_TX_RINGS_ONLY });
			end[i] = open_wish((struct wish){ .name = "valeA:lb", .mode = NR_REG_PIPE_SLAVE, .ring = (uint16_t)i });
		} else {
			snprintf(name, sizeof(name), "valeA:lb{%u", i);
			out[i] = open_wish((struct wish){ .name = name, .memory = in.reg.nr_mem_id,
			    .flags = NR_TX_RINGS_ONLY });
			snprintf(name, sizeof(name), "valeA:lb}%u", i);
			end[i] = open_wish((struct wish){ .name = name });
		}
		CHECK(out[i].reg.nr_mem_id == in.reg.nr_mem_id);
		/* What it keeps of each ring lies in the ring. */
		memcpy((void *)tx(&out[i], 0)->sem, &i, sizeof(i));
	}
	while (got < SPREAD) {
		while (sent < SPREAD && sent - got < 400 && queue(tx(&x, 0), 60, sent))
			sent++;
		txsync(&x);
		for (i = 0; i < PIPES; i++)
			p[i] = (struct pollfd){ out[i].fd, POLLOUT, 0 };
		p[PIPES] = (struct pollfd){ in.fd, POLLIN, 0 };
		OK(poll(p, PIPES + 1, 10));
		while (!nm_ring_empty(rx(&in, 0))) {
			struct netmap_ring *r = rx(&in, 0), *t;
			struct netmap_slot *from = &r->slot[r->head], *to;
			uint32_t swap, kept;

			i = packet_number(NETMAP_BUF(r, from->buf_idx)) % PIPES;
			t = tx(&out[i], 0);
			memcpy(&kept, (void *)t->sem, sizeof(kept));
			CHECK(kept == i);
			if (nm_ring_empty(t))
				break;
			to = &t->slot[t->head];
			swap = to->buf_idx;
			to->buf_idx = from->buf_idx;
			to->len = from->len;
			to->flags |= NS_BUF_CHANGED;
			from->buf_idx = swap;
			from->flags |= NS_BUF_CHANGED;
			t->head = t->cur = nm_ring_next(t, t->head);
			r->head = r->cur = nm_ring_next(r, r->head);
		}
		OK(ioctl(in.fd, NIOCRXSYNC, NULL));
		for (i = 0; i < PIPES; i++) {
			/* Its waits alone send. */
			poll_one(out[i].fd, POLLOUT, 0);
			poll_one(end[i].fd, POLLIN, 0);
			for (int64_t n; (n = take(rx(&end[i], 0))) != -1; got++, next[i]++)
				CHECK(n == (int64_t)(next[i] * PIPES + i));
		}
	}
	for (i = 0; i < PIPES; i++) {
		close_port(&out[i]);
		close_port(&end[i]);
	}
	close_port(&in);
	close_port(&x);
}

CASES({ "qemu", qemu }, { "qemu_virtio", qemu_virtio }, { "pcap", pcap }, { "helpers", helpers },
    { "bridge", bridge }, { "balancer", balancer });
