/* CSB mode, and the loop that syncs by its tables: options, eventfds, starts and stops. */
#include "client.h"

#include <sys/eventfd.h>

static struct nm_csb_atok atok[2] __attribute__((aligned(64)));
static struct nm_csb_ktoa ktoa[2] __attribute__((aligned(64)));
static struct port looped, b;

static struct nmreq_opt_csb
csb(void)
{
	struct nmreq_opt_csb o;

	memset(&o, 0, sizeof(o));
	o.nro_opt.nro_reqtype = NETMAP_REQ_OPT_CSB;
	o.csb_atok = (uint64_t)(uintptr_t)atok;
	o.csb_ktoa = (uint64_t)(uintptr_t)ktoa;
	return o;
}

/* In that mode from its registration on. */
static void
open_looped(void)
{
	struct nmreq_opt_csb o = csb();

	memset(&looped, 0, sizeof(looped));
	looped.fd = open_device();
	looped.reg.nr_mode = NR_REG_ALL_NIC;
	looped.reg.nr_flags = NR_EXCLUSIVE;
	o.nro_opt.nro_status = 99;
	OK(control(looped.fd, NETMAP_REQ_REGISTER, "valeA:x", &looped.reg, &o));
	CHECK(o.nro_opt.nro_status == 0);
	map_port(&looped);
	b = open_port("valeA:y");
}

static void
close_looped(void)
{
	close_port(&looped);
	close_port(&b);
}

static uint32_t sleep_us = 50;
static void *start_options;

static void *
start(void *arg)
{
	struct nmreq_sync_kloop_start s = { sleep_us, 0 };

	(void)arg;
	return (void *)(intptr_t)(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, start_options) ? errno : 0);
}

static int
stop(void)
{
	return (int)OK(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_STOP, "", NULL, NULL));
}

static int
joined(pthread_t thread)
{
	void *result;

	CHECK(pthread_join(thread, &result) == 0);
	return (int)(intptr_t)result;
}

static pthread_t
started(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, start, NULL) == 0);
	return thread;
}

static void
fill(uint32_t number)
{
	struct netmap_ring *t = tx(&looped, 0);
	uint32_t at = atok[0].head, next = nm_ring_next(t, at);

	make_packet(NETMAP_BUF(t, t->slot[at].buf_idx), 60, number);
	t->slot[at].len = 60;
	nm_sync_kloop_appl_write(&atok[0], next, next);
}

/* Tables with a registration; what they must be. */
static void
registered(void)
{
	struct nmreq_register reg;
	struct nmreq_opt_csb o = csb();
	int fd = open_device();

	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	o.csb_atok = 16;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &o), EFAULT);
	CHECK(o.nro_opt.nro_status == EFAULT && !exists("valeA:x"));
	o = csb();
	o.csb_ktoa = 0;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &o), EINVAL);
	CHECK(o.nro_opt.nro_status == EINVAL);
	o = csb();
	o.csb_ktoa = ~0ull - 70;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &o), EFAULT);
	OK(close(fd));

	open_looped();
	CHECK(atok[0].appl_need_kick == 1 && ktoa[0].kern_need_kick == 1 && ktoa[0].hwtail == tx(&looped, 0)->num_slots - 1);
	FAILS(ioctl(looped.fd, NIOCTXSYNC, NULL), EBUSY);
	o = csb();
	FAILS(control(looped.fd, NETMAP_REQ_CSB_ENABLE, "", NULL, &o), EBUSY);
	CHECK(poll_one(looped.fd, POLLIN, 0) == POLLERR);
	close_looped();
}

/* One loop at a time; a stop ends it, and has ended it when it returns. */
static void
starts_and_stops(void)
{
	struct nmreq_sync_kloop_start s = { 1000001, 0 };
	pthread_t first, second;
	int i, r1, r2;

	open_looped();
	FAILS(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, NULL), EINVAL);
	s.sleep_us = 100;
	FAILS(control(b.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, NULL), EINVAL);
	/* Stopped before it begins, it ends at once; the next one does not. */
	stop();
	CHECK(joined(started()) == 0);
	for (i = 0; i < 20; i++) {
		first = started();
		fill((uint32_t)i);
		receive_one(&b, (uint32_t)i);
		rxsync(&b);
		stop();
		/* Nobody looks at the tables any more. */
		uint32_t tail = ktoa[1].hwtail;
		send_one(&b, 7);
		usleep(500);
		CHECK(ktoa[1].hwtail == tail);
		CHECK(joined(first) == 0);
	}
	/* Of two, one is refused, and the other goes on until it is stopped. */
	first = started();
	fill(90);
	receive_one(&b, 90);
	second = started();
	r2 = joined(second);
	CHECK(r2 == EBUSY);
	fill(91);
	receive_one(&b, 91);
	stop();
	r1 = joined(first);
	CHECK(r1 == 0);
	close_looped();
}

static void
nothing(int signal)
{
	(void)signal;
}

/* A signal is handled, and the loop goes on. */
static void
interrupted(void)
{
	struct sigaction s;
	pthread_t thread;
	int i;

	memset(&s, 0, sizeof(s));
	s.sa_handler = nothing;
	OK(sigaction(SIGUSR1, &s, NULL));
	open_looped();
	sleep_us = 2000;
	thread = started();
	for (i = 0; i < 20; i++) {
		CHECK(pthread_kill(thread, SIGUSR1) == 0);
		fill((uint32_t)i);
		receive_one(&b, (uint32_t)i);
	}
	stop();
	CHECK(joined(thread) == 0);
	close_looped();
}

static struct {
	struct nmreq_option nro_opt;
	struct {
		int32_t ioeventfd, irqfd;
	} eventfds[2];
} kicks;

static void
make_kicks(void)
{
	int i;

	memset(&kicks, 0, sizeof(kicks));
	kicks.nro_opt.nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS;
	kicks.nro_opt.nro_size = sizeof(kicks);
	kicks.nro_opt.nro_status = 99;
	for (i = 0; i < 2; i++) {
		kicks.eventfds[i].ioeventfd = (int)OK(eventfd(0, 0));
		kicks.eventfds[i].irqfd = (int)OK(eventfd(0, EFD_NONBLOCK));
	}
	start_options = &kicks;
}

static void
close_kicks(void)
{
	int i;

	for (i = 0; i < 2; i++) {
		OK(close(kicks.eventfds[i].ioeventfd));
		OK(close(kicks.eventfds[i].irqfd));
	}
}

/* As programs do: kicked only if the loop says that it has to be. */
static void
kick(int ring)
{
	uint64_t one = 1;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (*(volatile uint32_t *)&ktoa[ring].kern_need_kick)
		OK(write(kicks.eventfds[ring].ioeventfd, &one, 8));
}

/* The loop sleeps, and is woken by the program and by packets; and wakes the program. */
static void
eventfds(void)
{
	struct timespec before, after;
	uint32_t i, tail, cur;
	uint64_t count;
	pthread_t thread;
	clockid_t clock;

	open_looped();
	make_kicks();
	thread = started();
	for (i = 0; i < 300; i++) {
		if (i % 50 == 0)
			usleep(5000); /* so that it sleeps already, most likely */
		fill(i);
		kick(0);
		receive_one(&b, i);
		rxsync(&b);
		/* In the other direction; the program sleeps until it is woken. */
		atok[1].appl_need_kick = 1;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		send_one(&b, i);
		nm_sync_kloop_appl_read(&ktoa[1], &tail, &cur);
		while (tail == atok[1].head) {
			CHECK(poll_one(kicks.eventfds[1].irqfd, POLLIN, NEVER) == POLLIN);
			OK(read(kicks.eventfds[1].irqfd, &count, 8));
			nm_sync_kloop_appl_read(&ktoa[1], &tail, &cur);
		}
		struct netmap_ring *r = rx(&looped, 0);
		CHECK(packet_number(NETMAP_BUF(r, r->slot[atok[1].head].buf_idx)) == i);
		atok[1].appl_need_kick = 0;
		nm_sync_kloop_appl_write(&atok[1], tail, tail);
		kick(1);
	}
	/* With nothing to do it takes next to no time. */
	CHECK(pthread_getcpuclockid(thread, &clock) == 0);
	usleep(20000);
	OK(clock_gettime(clock, &before));
	usleep(300000);
	OK(clock_gettime(clock, &after));
	CHECK((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 100000000);
	stop();
	CHECK(joined(thread) == 0 && kicks.nro_opt.nro_status == 0);
	/* Of room in the TX ring the program was told, too. */
	CHECK(poll_one(kicks.eventfds[0].irqfd, POLLIN, 0) == POLLIN);

	/* A ring without one: the loop goes round, and wakes the program all the same. */
	OK(close(kicks.eventfds[0].ioeventfd));
	kicks.eventfds[0].ioeventfd = -1;
	thread = started();
	fill(7);
	receive_one(&b, 7);
	stop();
	CHECK(joined(thread) == 0);
	kicks.eventfds[0].ioeventfd = (int)OK(eventfd(0, 0));
	close_kicks();
	close_looped();
}

/* As many as rings, and eventfds all of them. */
static void
wrong_eventfds(void)
{
	struct nmreq_opt_sync_kloop_mode mode;
	int saved;

	open_looped();
	make_kicks();
	kicks.nro_opt.nro_size -= 8;
	CHECK(joined(started()) == EINVAL && kicks.nro_opt.nro_status == EINVAL);
	kicks.nro_opt.nro_size += 8;
	saved = kicks.eventfds[1].irqfd;
	kicks.eventfds[1].irqfd = 0; /* /dev/null */
	CHECK(joined(started()) == EINVAL && kicks.nro_opt.nro_status == EINVAL);
	kicks.eventfds[1].irqfd = 900;
	CHECK(joined(started()) == EBADF);
	kicks.eventfds[1].irqfd = saved;

	memset(&mode, 0, sizeof(mode));
	mode.nro_opt.nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_MODE;
	mode.mode = 4;
	start_options = &mode;
	CHECK(joined(started()) == EINVAL && mode.nro_opt.nro_status == EINVAL);
	mode.mode = 3;
	mode.nro_opt.nro_next = (uint64_t)(uintptr_t)&kicks;
	stop();
	CHECK(joined(started()) == 0 && mode.nro_opt.nro_status == 0 && kicks.nro_opt.nro_status == 0);
	close_kicks();
	close_looped();
}

/* A loop in a thread of its own moves what the status blocks say, until somebody stops it. */
static void *
loop(void *arg)
{
	struct nmreq_sync_kloop_start start = { 50, 0 };

	(void)arg;
	OK(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &start, NULL));
	return NULL;
}

static void
kernel_loop(void)
{
	static struct nm_csb_atok atok[2] __attribute__((aligned(64)));
	static struct nm_csb_ktoa ktoa[2] __attribute__((aligned(64)));
	struct port b = open_port("valeA:y");
	struct nmreq_opt_csb csb;
	struct netmap_ring *t;
	pthread_t thread;
	uint32_t tail, cur, next;
	int64_t end;
	int fd = open_device();

	looped = open_port("valeA:x");
	/* Nobody loops: there is nothing to stop, and that is no error. */
	OK(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_STOP, "", NULL, NULL));
	memset(&csb, 0, sizeof(csb));
	csb.nro_opt.nro_reqtype = NETMAP_REQ_OPT_CSB;
	csb.csb_atok = (uint64_t)(uintptr_t)atok;
	csb.csb_ktoa = (uint64_t)(uintptr_t)ktoa;
	OK(control(looped.fd, NETMAP_REQ_CSB_ENABLE, "", NULL, &csb));
	FAILS(ioctl(looped.fd, NIOCTXSYNC, NULL), EBUSY);
	FAILS(ioctl(looped.fd, NIOCRXSYNC, NULL), EBUSY);
	CHECK(pthread_create(&thread, NULL, loop, NULL) == 0);

	t = tx(&looped, 0);
	make_packet(NETMAP_BUF(t, t->slot[0].buf_idx), 60, 3);
	t->slot[0].len = 60;
	next = nm_ring_next(t, 0);
	nm_sync_kloop_appl_write(&atok[0], next, next);
	receive_one(&b, 3);
	/* What comes in shows in the other block. */
	send_one(&b, 4);
	end = now_us() + NEVER * 1000ll;
	do {
		CHECK(now_us() < end);
		nm_sync_kloop_appl_read(&ktoa[1], &tail, &cur);
	} while (tail == 0);
	t = rx(&looped, 0);
	CHECK(tail == 1 && packet_number(NETMAP_BUF(t, t->slot[0].buf_idx)) == 4);
	OK(control(looped.fd, NETMAP_REQ_SYNC_KLOOP_STOP, "", NULL, NULL));
	CHECK(pthread_join(thread, NULL) == 0);
	OK(close(fd));
	close_port(&looped);
	close_port(&b);
}

/* Memory of the program's own cannot be a port's here: refused, and said where. */
static void
own_memory(void)
{
	struct nmreq_opt_extmem e;
	struct nmreq_register reg;
	int fd = open_device();

	memset(&e, 0, sizeof(e));
	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	e.nro_opt.nro_reqtype = NETMAP_REQ_OPT_EXTMEM;
	e.nro_usrptr = (uint64_t)(uintptr_t)atok;
	FAILS(control(fd, NETMAP_REQ_REGISTER, "valeA:x", &reg, &e), EOPNOTSUPP);
	CHECK(e.nro_opt.nro_status == EOPNOTSUPP && !exists("valeA:x"));
	OK(close(fd));
}

CASES({ "kernel_loop", kernel_loop }, { "registered", registered }, { "starts_and_stops", starts_and_stops }, { "interrupted", interrupted },
    { "eventfds", eventfds }, { "wrong_eventfds", wrong_eventfds }, { "own_memory", own_memory });
