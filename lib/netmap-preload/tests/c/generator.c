/*
 * A generator and a sink as netmap programs are written: one descriptor a thread, rings filled in bursts, buffers
 * written once. The tests let it meet the project's own tools, and scripts/bench compares the two.
 *
 *   generator tx|rx PORT [-l BYTES] [-n COUNT] [-t MILLISECONDS] [-b BURST] [-s] [-p THREADS] [-c CPU] [-r]
 *
 * Sends, or receives and looks at each packet, until COUNT packets or MILLISECONDS; a sink also ends when nothing came
 * for a second behind the first packet. Poll does all syncing; -s: sync ioctls do, and the loop never sleeps. -r says
 * "ready" and waits for a line before it begins. Prints one JSON object.
 */
#include "client.h"

#include <sched.h>

static const char *port_name;
static uint32_t size = 60, burst = 512, threads = 1, milliseconds;
static uint64_t count;
static int sending, by_sync, cpu = -1, wait_for_line;

struct work {
	struct port port;
	uint32_t ring;
	uint64_t packets, bytes, sum;
	int64_t begin, end;
};

static void
generate(struct work *w)
{
	struct netmap_ring *t = tx(&w->port, w->ring);
	int64_t deadline = milliseconds ? now_us() + milliseconds * 1000ll : 0;
	uint32_t i;

	for (i = 0; i < t->num_slots; i++)
		make_packet(NETMAP_BUF(t, t->slot[i].buf_idx), size, i);
	w->begin = now_us();
	while (!count || w->packets < count) {
		uint32_t n, head = t->head;

		if (by_sync)
			txsync(&w->port);
		else if (!(poll_one(w->port.fd, POLLOUT, 2000) & POLLOUT))
			continue;
		n = nm_ring_space(t);
		if (n > burst)
			n = burst;
		if (count && n > count - w->packets)
			n = (uint32_t)(count - w->packets);
		for (i = 0; i < n; i++) {
			struct netmap_slot *s = &t->slot[head];

			s->len = (uint16_t)size;
			s->flags = 0;
			head = nm_ring_next(t, head);
		}
		t->head = t->cur = head;
		w->packets += n;
		if (deadline && now_us() > deadline)
			break;
	}
	do
		txsync(&w->port);
	while (nm_tx_pending(t));
	w->end = now_us();
	w->bytes = w->packets * size;
}

/* Takes what there is in a ring, one word of each packet at least. */
static uint64_t
drain(struct work *w, struct netmap_ring *r)
{
	uint32_t head = r->head, n = nm_ring_space(r), i;

	for (i = 0; i < n; i++) {
		struct netmap_slot *s = &r->slot[head];

		w->sum += packet_number(NETMAP_BUF(r, s->buf_idx));
		w->bytes += s->len;
		head = nm_ring_next(r, head);
	}
	r->head = r->cur = head;
	w->packets += n;
	return n;
}

static void
sink(struct work *w)
{
	struct netmap_ring *r = rx(&w->port, w->ring);
	int64_t idle = now_us(), now;

	while (!count || w->packets < count) {
		if (by_sync)
			rxsync(&w->port);
		else
			poll_one(w->port.fd, POLLIN, 100);
		now = now_us();
		if (!nm_ring_empty(r)) {
			if (!w->packets)
				w->begin = now;
			drain(w, r);
			idle = w->end = now;
		} else if (now - idle > (w->packets ? 1000000 : NEVER * 1000ll)) {
			break;
		}
		if (milliseconds && w->packets && now - w->begin > milliseconds * 1000ll)
			break;
	}
}

static void *
run(void *arg)
{
	struct work *w = arg;
	cpu_set_t set;

	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		/* With fewer processors the figures are worse, not wrong. */
		sched_setaffinity(0, sizeof(set), &set);
	}
	if (sending)
		generate(w);
	else
		sink(w);
	return NULL;
}

int
main(int argc, char **argv)
{
	static struct work work[16];
	pthread_t ids[16];
	uint64_t packets = 0, bytes = 0;
	int64_t begin = 0, end = 0;
	uint32_t i;
	int c;

	if (argc < 3 || (strcmp(argv[1], "tx") && strcmp(argv[1], "rx"))) {
		fprintf(stderr, "usage: %s tx|rx PORT [OPTION...]\n", argv[0]);
		return 2;
	}
	sending = argv[1][0] == 't';
	port_name = argv[2];
	optind = 3;
	while ((c = getopt(argc, argv, "l:n:t:b:sp:c:r")) != -1) {
		switch (c) {
		case 'l': size = (uint32_t)atoi(optarg); break;
		case 'n': count = strtoull(optarg, NULL, 0); break;
		case 't': milliseconds = (uint32_t)atoi(optarg); break;
		case 'b': burst = (uint32_t)atoi(optarg); break;
		case 's': by_sync = 1; break;
		case 'p': threads = (uint32_t)atoi(optarg); break;
		case 'c': cpu = atoi(optarg); break;
		case 'r': wait_for_line = 1; break;
		default: return 2;
		}
	}
	CHECK(threads >= 1 && threads <= 16 && size >= 18 && size <= 2048 && burst >= 1);
	for (i = 0; i < threads; i++) {
		work[i].ring = i;
		work[i].port = open_wish((struct wish){ .name = port_name, .rings = i ? 0 : (uint16_t)threads,
		    .mode = threads > 1 ? NR_REG_ONE_NIC : NR_REG_ALL_NIC, .ring = (uint16_t)i,
		    .flags = sending ? 0 : NR_NO_TX_POLL });
	}
	if (wait_for_line) {
		char line[16];

		printf("ready\n");
		fflush(stdout);
		CHECK(fgets(line, sizeof(line), stdin) != NULL);
	}
	for (i = 0; i < threads; i++)
		CHECK(pthread_create(&ids[i], NULL, run, &work[i]) == 0);
	for (i = 0; i < threads; i++) {
		CHECK(pthread_join(ids[i], NULL) == 0);
		packets += work[i].packets;
		bytes += work[i].bytes;
		if (work[i].begin && (!begin || work[i].begin < begin))
			begin = work[i].begin;
		if (work[i].end > end)
			end = work[i].end;
	}
	printf("{\"packets\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"pps\":%.1f}\n", (unsigned long long)packets,
	    (unsigned long long)bytes, (double)(end - begin) / 1e6,
	    end > begin ? (double)packets * 1e6 / (double)(end - begin) : 0.0);
	for (i = 0; i < threads; i++)
		close_port(&work[i].port);
	return 0;
}
