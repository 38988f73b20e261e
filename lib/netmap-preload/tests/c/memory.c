/* Memory between ports: extra buffers, memory ids, zero-copy bridges, pipes, monitors. */
#include "client.h"

/* The buffers of a port's list, in its order; at most `max`. */
static uint32_t
list_buffers(const struct port *p, uint32_t *list, uint32_t max)
{
	/* Any ring knows where buffers are; none of a port without rings, hence p's. */
	uint32_t n = 0, b;

	for (b = p->nifp->ni_bufs_head; b; memcpy(&b, NETMAP_BUF(tx(p, 0), b), sizeof(b))) {
		CHECK(n < max && b >= 2);
		list[n++] = b;
	}
	return n;
}

static void
extra_buffers(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .extra = 20 }), b = open_port("valeA:y");
	struct netmap_ring *t = tx(&a, 0);
	uint32_t list[21], i, j;

	CHECK(a.reg.nr_extra_bufs == 20);
	CHECK(list_buffers(&a, list, 21) == 20);
	for (i = 0; i < 20; i++) {
		for (j = 0; j < i; j++)
			CHECK(list[i] != list[j]);
		for (j = 0; j < t->num_slots; j++)
			CHECK(t->slot[j].buf_idx != list[i] && rx(&a, 0)->slot[j].buf_idx != list[i]);
	}
	/* They are memory, each of a whole buffer, and can be sent by putting them into slots. */
	for (i = 0; i < 20; i++) {
		struct netmap_slot *s = &t->slot[t->head];
		uint32_t old = s->buf_idx;

		memset(NETMAP_BUF(t, list[i]), 0, t->nr_buf_size);
		make_packet(NETMAP_BUF(t, list[i]), 100, i);
		s->buf_idx = list[i];
		s->flags = NS_BUF_CHANGED;
		s->len = 100;
		list[i] = old;
		t->head = t->cur = nm_ring_next(t, t->head);
		txsync(&a);
		receive_one(&b, i);
	}
	/* The list that is handed back at the end: others than it was, in another order. */
	for (i = 0; i < 20; i++) {
		uint32_t next = i < 19 ? list[i + 1] : 0;
		memcpy(NETMAP_BUF(t, list[i]), &next, sizeof(next));
	}
	a.nifp->ni_bufs_head = list[0];
	CHECK(list_buffers(&a, list, 21) == 20);
	close_port(&a);

	/* Nothing leaks, however often: also not when the list is not handed back, or is nonsense. */
	for (i = 0; i < 60; i++) {
		a = open_wish((struct wish){ .name = "valeA:x", .extra = 500 });
		CHECK(a.reg.nr_extra_bufs == 500);
		if (i % 3 == 1)
			a.nifp->ni_bufs_head = 0;
		if (i % 3 == 2)
			a.nifp->ni_bufs_head = 0x7fffffff;
		close_port(&a);
	}
	a = open_port("valeA:x");
	send_one(&a, 1);
	receive_one(&b, 1);
	close_port(&a);
	close_port(&b);
}

/* Two ports with one memory: the second says whose it wants. One mapping shows both. */
static void
memory_ids(void)
{
	struct port a = open_port("valeA:x");
	struct port b = open_wish((struct wish){ .name = "valeB:x", .memory = a.reg.nr_mem_id });
	struct port y = open_port("valeB:y");
	struct netmap_if *there;

	CHECK(b.reg.nr_mem_id == a.reg.nr_mem_id && b.reg.nr_memsize == a.reg.nr_memsize);
	CHECK(b.reg.nr_offset != a.reg.nr_offset);
	there = NETMAP_IF(a.mem, b.reg.nr_offset);
	CHECK(strcmp(there->ni_name, "valeB:x") == 0);
	/* b, through a's mapping alone. */
	OK(munmap(b.mem, b.reg.nr_memsize));
	b.mem = NULL;
	b.nifp = there;
	send_one(&b, 1);
	receive_one(&y, 1);
	send_one(&y, 2);
	receive_one(&b, 2);
	close_port(&b);
	close_port(&a);
	close_port(&y);
}

/* A bridge that moves buffers: packets of one port's ring leave by the other's, and no byte is copied. */
static void
zero_copy_bridge(void)
{
	struct port a = open_port("valeA:bridge");
	struct port b = open_wish((struct wish){ .name = "valeB:bridge", .memory = a.reg.nr_mem_id });
	struct port from = open_port("valeA:x"), to = open_port("valeB:x");
	uint32_t sent = 0, got = 0;

	CHECK(b.reg.nr_mem_id == a.reg.nr_mem_id);
	while (got < 5000) {
		struct netmap_ring *r = rx(&a, 0), *t = tx(&b, 0);

		while (sent < 5000 && sent - got < 500 && queue(tx(&from, 0), 200, sent))
			sent++;
		txsync(&from);
		rxsync(&a);
		while (!nm_ring_empty(r) && !nm_ring_empty(t)) {
			struct netmap_slot *in = &r->slot[r->head], *out = &t->slot[t->head];
			uint32_t free_one = out->buf_idx;

			out->buf_idx = in->buf_idx;
			out->len = in->len;
			out->flags = NS_BUF_CHANGED;
			in->buf_idx = free_one;
			in->flags = NS_BUF_CHANGED;
			r->head = r->cur = nm_ring_next(r, r->head);
			t->head = t->cur = nm_ring_next(t, t->head);
		}
		txsync(&b);
		rxsync(&a);
		rxsync(&to);
		for (int64_t n; (n = take(rx(&to, 0))) != -1; got++)
			CHECK(n == (int64_t)got);
	}
	close_port(&a);
	close_port(&b);
	close_port(&from);
	close_port(&to);
}

/* The two ends of a pipe, as either generation names them. */
static struct port
pipe_end(const char *base, int id, int master, struct wish w)
{
	char name[40];

	if (legacy) {
		w.name = base;
		w.mode = master ? NR_REG_PIPE_MASTER : NR_REG_PIPE_SLAVE;
		w.ring = (uint16_t)id;
	} else {
		snprintf(name, sizeof(name), "%s%c%d", base, master ? '{' : '}', id);
		w.name = name;
	}
	return open_wish(w);
}

/*
 * What pipes are: slot k of the one end's TX ring and of the other's RX ring name the same buffer; nothing is lost,
 * whatever the pace; room returns when the receiver gives slots back.
 */
static void
pipes(void)
{
	struct port a = pipe_end("valeA:x", 1, 1, (struct wish){ 0 });
	struct port b = pipe_end("valeA:x", 1, 0, (struct wish){ 0 });
	struct netmap_ring *t = tx(&a, 0), *r = rx(&b, 0);
	uint32_t i, sent = 0, got = 0;

	CHECK(a.reg.nr_mem_id == b.reg.nr_mem_id && t->num_slots == r->num_slots);
	for (i = 0; i < 10; i++) {
		uint32_t k = t->head;

		CHECK(queue(t, 64, i));
		txsync(&a);
		rxsync(&b);
		CHECK(r->head == k && !nm_ring_empty(r));
		CHECK(r->slot[k].buf_idx == t->slot[k].buf_idx);
		CHECK(take(r) == (int64_t)i);
		rxsync(&b);
		txsync(&a);
	}
	/* The other way round, too. */
	CHECK(queue(tx(&b, 0), 64, 99));
	txsync(&b);
	receive_one(&a, 99);

	/* As fast as it goes into a full ring: the sender is told, and nothing is dropped. */
	while (queue(t, 64, sent))
		sent++;
	CHECK(sent == t->num_slots - 1);
	txsync(&a);
	CHECK(nm_ring_empty(t) && nm_tx_pending(t));
	CHECK(poll_one(a.fd, POLLOUT, 0) == 0);
	CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN && nm_ring_space(r) == sent);
	for (i = 0; i < 10; i++)
		CHECK(take(r) == (int64_t)got++);
	rxsync(&b);
	CHECK(poll_one(a.fd, POLLOUT, NEVER) == POLLOUT && nm_ring_space(t) == 10);

	while (got < 200000) {
		while (sent < 200000 && queue(t, 64, sent))
			sent++;
		txsync(&a);
		rxsync(&b);
		for (int64_t n; (n = take(r)) != -1; got++)
			CHECK(n == (int64_t)got);
	}
	close_port(&b);
	close_port(&a);
	CHECK(!exists("valeA:x"));
}

static struct port pipe_a, pipe_b;

static void *
pipe_sender(void *arg)
{
	uint32_t i = 0;

	(void)arg;
	while (i < 100000) {
		while (i < 100000 && queue(tx(&pipe_a, 0), 64, i))
			i++;
		CHECK(poll_one(pipe_a.fd, POLLOUT, NEVER) == POLLOUT);
	}
	txsync(&pipe_a);
	return NULL;
}

/* Both ends asleep in turns, by waits alone. */
static void
pipe_waits(void)
{
	pthread_t thread;
	uint32_t got = 0;

	pipe_a = pipe_end("valeA:x", 7, 1, (struct wish){ 0 });
	pipe_b = pipe_end("valeA:x", 7, 0, (struct wish){ 0 });
	CHECK(pthread_create(&thread, NULL, pipe_sender, NULL) == 0);
	while (got < 100000) {
		CHECK(poll_one(pipe_b.fd, POLLIN, NEVER) == POLLIN);
		for (int64_t n; (n = take(rx(&pipe_b, 0))) != -1; got++)
			CHECK(n == (int64_t)got);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	/* What is in the pipe stays readable when the sender goes; then the room is nobody's. */
	CHECK(queue(tx(&pipe_a, 0), 64, got));
	txsync(&pipe_a);
	close_port(&pipe_a);
	rxsync(&pipe_b);
	CHECK(take(rx(&pipe_b, 0)) == (int64_t)got);
	close_port(&pipe_b);
}

/* Buffers that come from elsewhere: only with NS_BUF_CHANGED a number moves through the pipe. */
static void
pipe_buffers(void)
{
	struct port a = pipe_end("valeA:x", 1, 1, (struct wish){ .extra = 1 });
	struct port b = pipe_end("valeA:x", 1, 0, (struct wish){ 0 });
	struct netmap_ring *t = tx(&a, 0), *r = rx(&b, 0);
	uint32_t k = t->head, old = t->slot[k].buf_idx, extra = a.nifp->ni_bufs_head;

	CHECK(a.reg.nr_extra_bufs == 1 && extra >= 2);
	make_packet(NETMAP_BUF(t, extra), 64, 5);
	t->slot[k].buf_idx = extra;
	t->slot[k].flags = NS_BUF_CHANGED;
	t->slot[k].len = 64;
	t->head = t->cur = nm_ring_next(t, k);
	a.nifp->ni_bufs_head = old;
	memset(NETMAP_BUF(t, old), 0, 4);
	txsync(&a);
	rxsync(&b);
	CHECK(r->slot[k].buf_idx == extra && take(r) == 5);
	rxsync(&b);
	close_port(&a);
	close_port(&b);
}

/* A pipe of a port that is there: it has the port's memory, as programs that spread packets over pipes want it. */
static void
spread_over_pipes(void)
{
	struct port base = open_wish((struct wish){ .name = "valeA:lb", .extra = 64 }), x = open_port("valeA:x");
	struct port out[2], in[2];
	uint32_t i, n, got[2] = { 0, 0 };

	for (i = 0; i < 2; i++) {
		out[i] = pipe_end("valeA:lb", (int)i, 1,
		    (struct wish){ .memory = base.reg.nr_mem_id, .flags = NR_TX_RINGS_ONLY });
		in[i] = pipe_end("valeA:lb", (int)i, 0, (struct wish){ .memory = base.reg.nr_mem_id });
		CHECK(out[i].reg.nr_mem_id == base.reg.nr_mem_id && in[i].reg.nr_mem_id == base.reg.nr_mem_id);
	}
	for (n = 0; n < 2000; n++) {
		struct netmap_ring *r = rx(&base, 0), *t;
		struct netmap_slot *from, *to;
		uint32_t swap;

		send_one(&x, n);
		rxsync(&base);
		CHECK(!nm_ring_empty(r));
		from = &r->slot[r->head];
		i = packet_number(NETMAP_BUF(r, from->buf_idx)) % 2;
		t = tx(&out[i], 0);
		CHECK(!nm_ring_empty(t));
		to = &t->slot[t->head];
		swap = to->buf_idx;
		to->buf_idx = from->buf_idx;
		to->len = from->len;
		to->flags = from->flags = NS_BUF_CHANGED;
		from->buf_idx = swap;
		r->head = r->cur = nm_ring_next(r, r->head);
		t->head = t->cur = nm_ring_next(t, t->head);
		txsync(&out[i]);
		rxsync(&in[i]);
		CHECK(take(rx(&in[i], 0)) == (int64_t)n);
		got[i]++;
		rxsync(&in[i]);
		txsync(&out[i]);
	}
	CHECK(got[0] == 1000 && got[1] == 1000);
	for (i = 0; i < 2; i++) {
		close_port(&out[i]);
		close_port(&in[i]);
	}
	close_port(&base);
	close_port(&x);
}

/* A copy monitor of what a port sends, of what it receives, of both. */
static void
monitors(void)
{
	struct port x = open_port("valeA:x"), y = open_port("valeA:y");
	struct port t = open_wish((struct wish){ .name = "valeA:x", .flags = NR_MONITOR_TX });
	struct port r = open_wish((struct wish){ .name = "valeA:x", .flags = NR_MONITOR_RX });
	struct port both = open_wish((struct wish){ .name = "valeA:x", .flags = NR_MONITOR_TX | NR_MONITOR_RX });
	struct netmap_ring *ring;
	uint16_t flags;

	send_one(&x, 1);
	receive_one(&y, 1);
	rxsync(&t);
	ring = rx(&t, 0);
	CHECK(!nm_ring_empty(ring));
	flags = ring->slot[ring->head].flags;
	CHECK((flags & NS_TXMON) && take(ring) == 1);
	send_one(&y, 2);
	receive_one(&x, 2);
	/* What was received is seen when its reader has synced. */
	rxsync(&x);
	CHECK(poll_one(r.fd, POLLIN, NEVER) == POLLIN);
	CHECK(!(rx(&r, 0)->slot[rx(&r, 0)->head].flags & NS_TXMON) && take(rx(&r, 0)) == 2);
	rxsync(&t);
	CHECK(nm_ring_empty(rx(&t, 0)));
	rxsync(&both);
	CHECK(take(rx(&both, 0)) == 1 && take(rx(&both, 0)) == 2);

	/* A slow one loses, and holds nobody up. */
	for (uint32_t i = 0; i < 5000; i++) {
		send_one(&x, i);
		rxsync(&y);
		CHECK(take(rx(&y, 0)) == (int64_t)i);
	}
	close_port(&t);
	send_one(&x, 8);
	receive_one(&y, 8);
	close_port(&both);
	close_port(&r);
	close_port(&x);
	close_port(&y);
}

static void
zero_copy_monitors(void)
{
	struct port x = open_port("valeA:x"), y = open_port("valeA:y");
	struct port z = open_wish((struct wish){ .name = "valeA:x",
	    .flags = NR_MONITOR_TX | NR_MONITOR_RX | NR_ZCOPY_MON, .memory = x.reg.nr_mem_id });
	struct netmap_ring *r = rx(&z, 0);
	uint32_t i;

	CHECK(z.reg.nr_mem_id == x.reg.nr_mem_id);
	for (i = 0; i < 3000; i++) {
		send_one(&x, i);
		receive_one(&y, i);
		txsync(&x); /* seen once it has been consumed */
		CHECK(poll_one(z.fd, POLLIN, NEVER) == POLLIN);
		CHECK((r->slot[r->head].flags & NS_TXMON) && take(r) == (int64_t)i);
	}
	for (i = 0; i < 100; i++) {
		send_one(&y, i);
		receive_one(&x, i);
		rxsync(&x);
		CHECK(poll_one(z.fd, POLLIN, NEVER) == POLLIN);
		CHECK(!(r->slot[r->head].flags & NS_TXMON) && take(r) == (int64_t)i);
	}
	close_port(&z);
	send_one(&x, 8);
	receive_one(&y, 8);
	close_port(&x);
	close_port(&y);
}

/*
 * 1000 packets of random sizes up to 10000 bytes through a port, a bridge of two ports, and a pipe; what is lost is
 * known to a packet: a ring that is full takes no packet, and takes none in part.
 */
static uint32_t seed = 12345;

static uint32_t
random_below(uint32_t n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 8) % n;
}

static int
queue_long(struct netmap_ring *t, uint32_t len, uint32_t number)
{
	static char whole[10000];
	uint32_t at, size = t->nr_buf_size;

	if (nm_ring_space(t) < (len + size - 1) / size)
		return 0;
	make_packet(whole, len, number);
	for (at = 0; at < len; at += size) {
		struct netmap_slot *s = &t->slot[t->head];
		uint32_t piece = len - at < size ? len - at : size;

		memcpy(NETMAP_BUF(t, s->buf_idx), whole + at, piece);
		s->len = (uint16_t)piece;
		s->flags = at + piece < len ? NS_MOREFRAG : 0;
		t->head = t->cur = nm_ring_next(t, t->head);
	}
	return 1;
}

/* The number of the next packet, whole, or -1. */
static int64_t
take_long(struct netmap_ring *r, uint32_t *len)
{
	uint32_t at = 0, number = 0;
	uint16_t flags;

	if (nm_ring_empty(r))
		return -1;
	do {
		struct netmap_slot *s = &r->slot[r->head];
		const char *p = NETMAP_BUF(r, s->buf_idx);

		CHECK(!nm_ring_empty(r));
		if (at == 0)
			number = packet_number(p);
		CHECK(is_packet(p, at, s->len, number));
		at += s->len;
		flags = s->flags;
		r->head = r->cur = nm_ring_next(r, r->head);
	} while (flags & NS_MOREFRAG);
	*len = at;
	return number;
}

static void
accounting(void)
{
	struct port x = open_port("valeA:x");
	struct port y = open_wish((struct wish){ .name = "valeA:y", .slots = 256 });
	struct port out = pipe_end("valeA:p", 1, 1, (struct wish){ 0 });
	struct port in = pipe_end("valeA:p", 1, 0, (struct wish){ 0 });
	static uint32_t lens[1000];
	uint32_t i, len, sent = 0, got = 0, lost = 0, through = 0, expected = 0;
	int64_t n;

	for (i = 0; i < 1000; i++)
		lens[i] = 60 + random_below(9941);
	while (sent < 1000) {
		/* A burst that may be more than y's ring holds, read only now and then. */
		uint32_t burst = 1 + random_below(120), room = y.reg.nr_rx_slots - 1, first = sent;
		int full = 0;
		static int dropped[1000];

		/* The ring is empty: what has room is what fits before the first packet that does not. */
		for (; sent < 1000 && sent < first + burst; sent++) {
			uint32_t slots = (lens[sent] + tx(&x, 0)->nr_buf_size - 1) / tx(&x, 0)->nr_buf_size;

			if (!queue_long(tx(&x, 0), lens[sent], sent))
				break;
			full |= slots > room;
			dropped[sent] = full;
			if (!dropped[sent])
				room -= slots;
		}
		txsync(&x);
		rxsync(&y);
		for (i = first; i < sent; i++) {
			if (dropped[i]) {
				lost++;
				continue;
			}
			n = take_long(rx(&y, 0), &len);
			CHECK(n == (int64_t)i && len == lens[i]);
			got++;
			/* And on through the pipe, where nothing may be lost. */
			while (!queue_long(tx(&out, 0), len, i)) {
				txsync(&out);
				rxsync(&in);
				while ((n = take_long(rx(&in, 0), &len)) != -1) {
					CHECK(n >= (int64_t)expected && len == lens[n]);
					expected = (uint32_t)n + 1;
					through++;
				}
				rxsync(&in);
				txsync(&out);
				len = lens[i];
			}
		}
		CHECK(nm_ring_empty(rx(&y, 0)));
		rxsync(&y);
	}
	txsync(&out);
	rxsync(&in);
	while ((n = take_long(rx(&in, 0), &len)) != -1) {
		CHECK(n >= (int64_t)expected && len == lens[n]);
		expected = (uint32_t)n + 1;
		through++;
	}
	CHECK(sent == 1000 && got + lost == sent && through == got);
	CHECK(lost > 0 && got > 500); /* else this has tested little */
	close_port(&x);
	close_port(&y);
	close_port(&out);
	close_port(&in);
}

CASES({ "extra_buffers", extra_buffers }, { "memory_ids", memory_ids }, { "zero_copy_bridge", zero_copy_bridge },
    { "pipes", pipes }, { "pipe_waits", pipe_waits }, { "pipe_buffers", pipe_buffers },
    { "spread_over_pipes", spread_over_pipes }, { "monitors", monitors },
    { "zero_copy_monitors", zero_copy_monitors }, { "accounting", accounting });
