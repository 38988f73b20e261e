/* Rings and memory: syncs, long packets, indirect data, what programs do to rings and mappings besides. */
#include "client.h"

#include <sys/resource.h>

/* By the sync ioctls alone, through more packets than a ring holds, each looked at. */
static void
sync_only(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	uint32_t sent = 0, got = 0;

	while (got < 5000) {
		while (sent < 5000 && sent - got < 900 && queue(tx(&a, 0), 60 + sent % 1400, sent))
			sent++;
		txsync(&a);
		/* All that was sent has gone: the whole ring is free again. */
		CHECK(nm_ring_space(tx(&a, 0)) == tx(&a, 0)->num_slots - 1 && !nm_tx_pending(tx(&a, 0)));
		rxsync(&b);
		for (int64_t n; (n = take(rx(&b, 0))) != -1; got++)
			CHECK(n == (int64_t)got);
		rxsync(&b); /* gives back what was taken */
	}
	close_port(&a);
	close_port(&b);
}

/* Packets of up to 10000 bytes over several slots. */
static void
fragments(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct netmap_ring *t = tx(&a, 0), *r = rx(&b, 0);
	uint32_t part, number, n, at;

	for (number = 0; number < 200; number++) {
		static char whole[10000];
		uint32_t len = 60 + number * 49 % 9900;

		make_packet(whole, len, number);
		/* Parts of several sizes, also such as are no multiple of anything. */
		part = number % 3 == 0 ? 2048 : number % 3 == 1 ? 1000 : 333;
		CHECK(nm_ring_space(t) > len / part + 1);
		for (at = 0; at < len; at += part) {
			struct netmap_slot *s = &t->slot[t->head];
			uint32_t piece = len - at < part ? len - at : part;

			memcpy(NETMAP_BUF(t, s->buf_idx), whole + at, piece);
			s->len = (uint16_t)piece;
			s->flags = at + piece < len ? NS_MOREFRAG : 0;
			t->head = t->cur = nm_ring_next(t, t->head);
		}
		txsync(&a);
		rxsync(&b);
		CHECK(!nm_ring_empty(r));
		n = NS_RFRAGS(&r->slot[r->head]);
		for (at = 0; ; n--) {
			struct netmap_slot *s = &r->slot[r->head];
			const char *p = NETMAP_BUF(r, s->buf_idx);

			CHECK(at > 0 || packet_number(p) == number);
			CHECK(is_packet(p, at, s->len, number));
			at += s->len;
			r->head = r->cur = nm_ring_next(r, r->head);
			if (!(s->flags & NS_MOREFRAG))
				break;
			CHECK(!nm_ring_empty(r));
		}
		/* Each slot says of how many the packet consists. */
		CHECK(at == len && n == 1);
	}
	rxsync(&b);
	close_port(&a);
	close_port(&b);
}

/* Data outside of the ring's buffers; an address where nothing is loses its packet, and only that. */
static void
indirect(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct netmap_ring *t = tx(&a, 0);
	static char packets[3][100];
	uint32_t i;

	for (i = 0; i < 3; i++) {
		struct netmap_slot *s = &t->slot[t->head];

		make_packet(packets[i], 100, 40 + i);
		s->len = 100;
		s->flags = NS_INDIRECT;
		s->ptr = i == 1 ? 64 : (uint64_t)(uintptr_t)packets[i];
		t->head = t->cur = nm_ring_next(t, t->head);
	}
	txsync(&a);
	/* The data was taken by the sync. */
	memset(packets, 0, sizeof(packets));
	receive_one(&b, 40);
	receive_one(&b, 42);
	rxsync(&b);
	CHECK(nm_ring_empty(rx(&b, 0)));
	for (i = 0; i < t->num_slots; i++)
		t->slot[i].flags = 0;
	send_one(&a, 43);
	receive_one(&b, 43);
	close_port(&a);
	close_port(&b);
}

/* ts is the time of a sync. */
static void
timestamps(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct timeval before, after, tick = { 0, 10000 };
	struct netmap_ring *r = rx(&b, 0);

	r->flags |= NR_TIMESTAMP;
	gettimeofday(&before, NULL);
	send_one(&a, 1);
	rxsync(&b);
	gettimeofday(&after, NULL);
	CHECK(!nm_ring_empty(r));
	/* As fine as a tick of the kernel, which is 10 ms at most. */
	timersub(&before, &tick, &before);
	CHECK(!timercmp(&r->ts, &before, <) && !timercmp(&r->ts, &after, >));
	CHECK(take(r) == 1);
	/* A wait, too. */
	before = r->ts;
	usleep(20000);
	send_one(&a, 2);
	receive_one(&b, 2);
	CHECK(timercmp(&r->ts, &before, >));
	close_port(&a);
	close_port(&b);
}

/* Bits of nr_flags that have no meaning, and the bytes of a ring that are the program's. */
static void
liberties(void)
{
	struct port a = open_wish((struct wish){ .name = "valeA:x", .flags = 0x1000 });
	struct port b = open_wish((struct wish){ .name = "valeA:y", .flags = 0x1000 });
	uint32_t i;

	memset(tx(&a, 0)->sem, 0xa5, sizeof(tx(&a, 0)->sem));
	memset(rx(&b, 0)->sem, 0x5a, sizeof(rx(&b, 0)->sem));
	for (i = 0; i < 3000; i++) {
		send_one(&a, i);
		receive_one(&b, i);
	}
	for (i = 0; i < 128; i++)
		CHECK(tx(&a, 0)->sem[i] == 0xa5 && rx(&b, 0)->sem[i] == 0x5a);
	close_port(&a);
	close_port(&b);
}

/* A program that wants no page fault later: what it maps is in memory, all of it, or the mapping fails. */
static void
locked(void)
{
	struct port a;

	if (mlockall(MCL_CURRENT | MCL_FUTURE) == -1) {
		CHECK(errno == EPERM || errno == ENOMEM);
		printf("SKIP: mlockall: %s\n", strerror(errno));
		return;
	}
	a = open_port("valeA:x");
	/* It has to be bearable: nothing larger than the region is mapped, and the region is no giant. */
	CHECK(a.reg.nr_memsize <= 256u << 20);
	struct port b = open_port("valeA:y");
	send_one(&a, 1);
	receive_one(&b, 1);
	close_port(&b);
	close_port(&a);
}

/* mmap at any time, as often as one likes, in part, privately not; a mapping outlives its descriptor. */
static void
mappings(void)
{
	struct port a = open_port("valeA:x"), b, again;
	struct nmreq_register answer;
	struct netmap_ring *r;
	char *part;

	/* Registered long ago, mapped now. */
	b.fd = open_device();
	OK(bind_port(b.fd, &(struct wish){ .name = "valeA:y" }, &b.reg));
	send_one(&a, 1);
	rxsync(&b);
	map_port(&b);
	CHECK(take(rx(&b, 0)) == 1);
	again = b;
	map_port(&again);
	CHECK(again.mem != b.mem);
	send_one(&a, 2);
	rxsync(&b);
	CHECK(rx(&again, 0)->tail == rx(&b, 0)->tail && take(rx(&again, 0)) == 2);
	OK(munmap(again.mem, again.reg.nr_memsize));

	/* The first page alone, and where the program wants it. */
	part = mmap(NULL, 4096, PROT_READ, MAP_SHARED, b.fd, 0);
	CHECK(part != MAP_FAILED);
	part = mmap(part, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, b.fd, 0);
	CHECK(part != MAP_FAILED);
	OK(munmap(part, 4096));

	/* Unmapped and mapped again, it is what it was. */
	OK(munmap(b.mem, b.reg.nr_memsize));
	map_port(&b);
	r = rx(&b, 0);
	send_one(&a, 3);
	receive_one(&b, 3);

	/* The port is gone, its mapping is not: reading it does no harm. */
	OK(close(b.fd));
	CHECK(r->num_slots > 0 && r->nr_buf_size > 0);
	OK(munmap(b.mem, b.reg.nr_memsize));
	/* And the name is free. */
	b.fd = open_device();
	OK(bind_port(b.fd, &(struct wish){ .name = "valeA:y", .flags = NR_EXCLUSIVE }, &answer));
	OK(close(b.fd));
	close_port(&a);
}

/* A program that writes nonsense to its rings gets them back in order, and the syncs succeed. */
static void
nonsense(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct netmap_ring *t = tx(&a, 0), *r = rx(&b, 0);

	t->tail = 4242; /* not the program's to write: repaired without a word */
	send_one(&a, 1);
	receive_one(&b, 1);
	rxsync(&b); /* given back: what is not comes again when the ring is put in order */

	t->head = t->cur = 1u << 30;
	txsync(&a);
	CHECK(t->head < t->num_slots && t->cur < t->num_slots && t->tail < t->num_slots);
	r->head = 0xffffffff;
	rxsync(&b);
	CHECK(r->head < r->num_slots && r->cur < r->num_slots && r->tail < r->num_slots);
	send_one(&a, 2);
	receive_one(&b, 2);

	/* Lengths and buffers that there are not. */
	t->slot[t->head].len = 65535;
	t->slot[t->head].buf_idx = 0xfffffff0;
	t->slot[t->head].flags = NS_BUF_CHANGED;
	t->head = t->cur = nm_ring_next(t, t->head);
	txsync(&a);
	rxsync(&b);
	CHECK(nm_ring_empty(r) || r->slot[r->head].len <= r->nr_buf_size);
	close_port(&a);
	close_port(&b);
}

#define RINGS 4
#define PER_RING 3000

static void *
ring_thread(void *arg)
{
	int ring = (int)(intptr_t)arg;
	/* A descriptor of its own for each. */
	struct port a = open_wish((struct wish){ .name = "valeA:x", .mode = NR_REG_ONE_NIC, .ring = (uint16_t)ring });
	uint32_t i;

	for (i = 0; i < PER_RING; ) {
		if (queue(tx(&a, (uint32_t)ring), 60, (uint32_t)ring << 16 | i))
			i++;
		else
			txsync(&a);
		if (i % 64 == 0)
			txsync(&a);
	}
	txsync(&a);
	CHECK(!nm_tx_pending(tx(&a, (uint32_t)ring)));
	close_port(&a);
	return NULL;
}

/* Four threads, each with a ring and a descriptor of it, and a receiver of all that comes. */
static void
ring_each(void)
{
	struct port keep = open_wish((struct wish){ .name = "valeA:x", .rings = RINGS });
	struct port b = open_wish((struct wish){ .name = "valeA:y", .rings = RINGS });
	pthread_t threads[RINGS];
	uint32_t next[RINGS] = { 0 }, got = 0, i;
	int running = RINGS;

	for (i = 0; i < RINGS; i++)
		CHECK(pthread_create(&threads[i], NULL, ring_thread, (void *)(intptr_t)i) == 0);
	while (running) {
		poll_one(b.fd, POLLIN, 1);
		for (i = 0; i < RINGS; i++)
			for (int64_t n; (n = take(rx(&b, i))) != -1; got++) {
				/* Some may be lost, none comes twice or out of turn. */
				CHECK((uint32_t)(n & 0xffff) >= next[n >> 16]);
				next[n >> 16] = (uint32_t)(n & 0xffff) + 1;
			}
		while (running && pthread_tryjoin_np(threads[running - 1], NULL) == 0)
			running--;
	}
	CHECK(got > 0);
	close_port(&b);
	close_port(&keep);
}

#define SYNCS 2000
static struct port shared;

static void *
sync_thread(void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < SYNCS; i++)
		txsync(&shared);
	return NULL;
}

/* NIOCTXSYNC of one descriptor from several threads while one of them fills the ring: each packet goes once. */
static void
syncs_at_once(void)
{
	struct port b = open_port("valeA:y");
	pthread_t threads[3];
	uint32_t i, sent = 0, got = 0;

	shared = open_port("valeA:x");
	for (i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, sync_thread, NULL) == 0);
	while (sent < SYNCS) {
		if (sent - got < 900 && queue(tx(&shared, 0), 60, sent))
			sent++;
		txsync(&shared);
		rxsync(&b);
		for (int64_t n; (n = take(rx(&b, 0))) != -1; got++)
			CHECK(n == (int64_t)got);
		rxsync(&b);
	}
	for (i = 0; i < 3; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	txsync(&shared);
	rxsync(&b);
	for (int64_t n; (n = take(rx(&b, 0))) != -1; got++)
		CHECK(n == (int64_t)got);
	CHECK(got == sent);
	close_port(&shared);
	close_port(&b);
}

/* Directions apart: who binds the receiving rings alone sends nothing, and the other way round. */
static void
directions(void)
{
	struct port both = open_port("valeA:x"), y = open_port("valeA:y");
	struct port in = open_wish((struct wish){ .name = "valeA:x", .flags = NR_RX_RINGS_ONLY });
	struct port out = open_wish((struct wish){ .name = "valeA:x", .flags = NR_TX_RINGS_ONLY });

	CHECK(in.nifp->ring_ofs[0] == 0 && out.nifp->ring_ofs[out.nifp->ni_tx_rings] == 0);
	send_one(&out, 1);
	receive_one(&y, 1);
	send_one(&y, 2);
	receive_one(&in, 2);
	OK(ioctl(in.fd, NIOCTXSYNC, NULL));
	OK(ioctl(out.fd, NIOCRXSYNC, NULL));
	close_port(&in);
	close_port(&out);
	close_port(&both);
	close_port(&y);
}

CASES({ "sync_only", sync_only }, { "fragments", fragments }, { "indirect", indirect },
    { "timestamps", timestamps }, { "liberties", liberties }, { "locked", locked }, { "mappings", mappings },
    { "nonsense", nonsense }, { "ring_each", ring_each }, { "syncs_at_once", syncs_at_once },
    { "directions", directions });
