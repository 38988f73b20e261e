/* Waiting: poll, ppoll, select, pselect and epoll, with netmap's descriptors and ordinary ones side by side. */
#include "pair.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>

/* Nothing but waits syncs: both ways, many packets. */
static void
side_effects(void)
{
	uint32_t sent = 0, got = 0;

	open_two();
	while (got < 3000) {
		while (sent < 3000 && sent - got < 700 && queue(tx(&a, 0), 60, sent))
			sent++;
		/* POLLIN alone sends, too. */
		poll_one(a.fd, POLLIN, 0);
		CHECK(!nm_tx_pending(tx(&a, 0)));
		CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN);
		for (int64_t n; (n = take(rx(&b, 0))) != -1; got++)
			CHECK(n == (int64_t)got);
		poll_one(b.fd, POLLIN, 0); /* gives back what was taken */
	}
	/* Also with no events at all. */
	CHECK(queue(tx(&a, 0), 60, 1));
	CHECK(poll_one(a.fd, 0, 0) == 0);
	rxsync(&b);
	CHECK(take(rx(&b, 0)) == 1);
	close_two();
}

/* There is room, there is a packet, there is neither. */
static void
readiness(void)
{
	uint32_t sent = 0;

	open_two();
	CHECK(poll_one(b.fd, POLLIN, 0) == 0);
	CHECK(poll_one(b.fd, POLLOUT, 0) == POLLOUT);
	CHECK(poll_one(b.fd, POLLIN | POLLOUT, 0) == POLLOUT);
	/* A full ring has room again by the wait itself. */
	while (queue(tx(&a, 0), 60, sent))
		sent++;
	CHECK(sent == tx(&a, 0)->num_slots - 1);
	CHECK(poll_one(a.fd, POLLOUT, NEVER) == POLLOUT && !nm_ring_empty(tx(&a, 0)));
	CHECK(poll_one(b.fd, POLLIN | POLLOUT, NEVER) == (POLLIN | POLLOUT));
	CHECK(nm_ring_space(rx(&b, 0)) == sent);

	/* cur says where waiting begins: all looked at, nothing given back, nothing new. */
	rx(&b, 0)->cur = rx(&b, 0)->tail;
	CHECK(poll_one(b.fd, POLLIN, 0) == 0);
	close_two();
}

static void
no_tx_poll(void)
{
	a = open_wish((struct wish){ .name = "valeA:x", .flags = NR_NO_TX_POLL });
	b = open_port("valeA:y");
	CHECK(queue(tx(&a, 0), 60, 1));
	CHECK(poll_one(a.fd, POLLIN, 0) == 0);
	rxsync(&b);
	CHECK(nm_ring_empty(rx(&b, 0)));
	/* With POLLOUT, or a sync, it goes. */
	CHECK(poll_one(a.fd, POLLOUT, NEVER) == POLLOUT);
	receive_one(&b, 1);
	close_two();
}

static volatile int left_got;

static void *
wait_for_packets(void *flags)
{
	(void)flags;
	left_got = poll_one(a.fd, POLLIN, NEVER);
	return NULL;
}

/*
 * On a switch with backpressure: what NIOCTXSYNC had no room for goes when there is some, while its sender, which has done its part,
 * waits for packets. As QEMU does.
 */
static void
left_behind(void)
{
	static const uint64_t flags[] = { NR_NO_TX_POLL, 0 };
	size_t k;

	for (k = 0; k < 2; k++) {
		uint32_t sent = 0, got = 0, i;
		pthread_t t;

		a = open_wish((struct wish){ .name = "valeA:x", .flags = flags[k] });
		b = open_port("valeA:y");
		for (i = 0; i < 2; i++) {
			while (queue(tx(&a, 0), 60, sent))
				sent++;
			txsync(&a);
		}
		CHECK(sent == 2 * (tx(&a, 0)->num_slots - 1));
		OK(-!!pthread_create(&t, NULL, wait_for_packets, NULL));
		while (got < sent) {
			CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN);
			while (!nm_ring_empty(rx(&b, 0)))
				CHECK(take(rx(&b, 0)) == got++);
		}
		send_one(&b, 7);
		OK(-!!pthread_join(t, NULL));
		CHECK(left_got == POLLIN);
		close_two();
	}
}

static void
do_rx_poll(void)
{
	a = open_port("valeA:x");
	b = open_wish((struct wish){ .name = "valeA:y", .flags = NR_DO_RX_POLL });
	send_one(&a, 1);
	CHECK(poll_one(b.fd, POLLOUT, NEVER) == POLLOUT);
	CHECK(!nm_ring_empty(rx(&b, 0)) && take(rx(&b, 0)) == 1);
	close_two();
	/* Without it, who does not ask for packets does not get them. */
	open_two();
	send_one(&a, 1);
	CHECK(poll_one(b.fd, POLLOUT, NEVER) == POLLOUT);
	CHECK(nm_ring_empty(rx(&b, 0)));
	rxsync(&b);
	CHECK(take(rx(&b, 0)) == 1);
	close_two();
}

static void
poll_sleeps(void)
{
	pthread_t t;
	int i;

	open_two();
	for (i = 0; i < 5; i++) {
		t = send_late(7);
		CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN);
		CHECK(take(rx(&b, 0)) == 7);
		join(t);
	}
	close_two();
}

/* Whether a wait of `ms` took that long; it may take longer on a busy machine, and never less. */
static int64_t started;
#define BEGIN() (started = now_us())
#define LASTED(ms) (now_us() - started >= (ms) * 1000 && now_us() - started < NEVER * 1000ll)

static void
timeouts(void)
{
	struct timespec t = { 0, 70000000 };
	struct timeval v = { 0, 70000 };
	struct epoll_event e = { EPOLLIN, { 0 } };
	struct pollfd p;
	fd_set set;
	int fd;

	open_two();
	p = (struct pollfd){ b.fd, POLLIN, 0 };
	BEGIN();
	CHECK(OK(poll(&p, 1, 70)) == 0 && LASTED(70));
	CHECK(p.revents == 0);
	BEGIN();
	CHECK(OK(ppoll(&p, 1, &t, NULL)) == 0 && LASTED(70));
	CHECK(t.tv_nsec == 70000000); /* glibc hands in a copy */
	FD_ZERO(&set);
	FD_SET(b.fd, &set);
	BEGIN();
	CHECK(OK(select(b.fd + 1, &set, NULL, NULL, &v)) == 0 && LASTED(70));
	CHECK(!FD_ISSET(b.fd, &set) && v.tv_sec == 0 && v.tv_usec == 0);
	FD_SET(b.fd, &set);
	BEGIN();
	CHECK(OK(pselect(b.fd + 1, &set, NULL, NULL, &t, NULL)) == 0 && LASTED(70));
	fd = (int)OK(epoll_create1(0));
	OK(epoll_ctl(fd, EPOLL_CTL_ADD, b.fd, &e));
	BEGIN();
	CHECK(OK(epoll_wait(fd, &e, 1, 70)) == 0 && LASTED(70));
	BEGIN();
	CHECK(OK(epoll_pwait(fd, &e, 1, 70, NULL)) == 0 && LASTED(70));
	/* Waits without a netmap descriptor, and with none at all. */
	BEGIN();
	CHECK(OK(poll(NULL, 0, 30)) == 0 && LASTED(30));
	v.tv_usec = 30000;
	BEGIN();
	CHECK(OK(select(0, NULL, NULL, NULL, &v)) == 0 && LASTED(30));
	OK(close(fd));
	close_two();
}

static void
selects(void)
{
	fd_set in, out, except;
	struct timespec t = { NEVER / 1000, 0 };
	struct timeval v = { NEVER / 1000, 0 };
	pthread_t late;
	int n;

	open_two();
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&except);
	FD_SET(b.fd, &in);
	FD_SET(a.fd, &out);
	FD_SET(a.fd, &except);
	n = (a.fd > b.fd ? a.fd : b.fd) + 1;
	CHECK(OK(select(n, &in, &out, &except, &v)) == 1);
	CHECK(!FD_ISSET(b.fd, &in) && FD_ISSET(a.fd, &out) && !FD_ISSET(a.fd, &except));
	late = send_late(3);
	FD_SET(b.fd, &in);
	v = (struct timeval){ NEVER / 1000, 0 };
	CHECK(OK(select(n, &in, NULL, NULL, &v)) == 1 && FD_ISSET(b.fd, &in));
	CHECK(take(rx(&b, 0)) == 3);
	join(late);
	/* What is left of the time is told. */
	CHECK(v.tv_sec < NEVER / 1000);
	/* It sends by itself. */
	CHECK(queue(tx(&a, 0), 60, 4));
	FD_ZERO(&in);
	FD_SET(a.fd, &in);
	FD_SET(b.fd, &in);
	CHECK(OK(pselect(n, &in, NULL, NULL, &t, NULL)) == 1);
	CHECK(FD_ISSET(b.fd, &in) && !FD_ISSET(a.fd, &in) && take(rx(&b, 0)) == 4);
	close_two();
}

/* Ordinary descriptors among netmap's, in one poll. */
static void
mixed(void)
{
	uint64_t one = 1;
	int event = (int)OK(eventfd(0, EFD_NONBLOCK)), pipes[2];
	pthread_t late;

	open_two();
	OK(pipe(pipes));
	struct pollfd p[5] = {
		{ event, POLLIN, 0 }, { b.fd, POLLIN, 0 }, { -1, POLLIN, 0x55 }, { pipes[0], POLLIN, 0 },
		{ a.fd, POLLIN, 0 },
	};
	CHECK(OK(poll(p, 5, 0)) == 0 && p[2].revents == 0);
	OK(write(event, &one, 8));
	CHECK(OK(poll(p, 5, NEVER)) == 1 && p[0].revents == POLLIN && p[1].revents == 0);
	send_one(&a, 1);
	CHECK(OK(poll(p, 5, NEVER)) == 2 && p[0].revents == POLLIN && p[1].revents == POLLIN);
	OK(read(event, &one, 8));
	CHECK(take(rx(&b, 0)) == 1);
	late = send_late(2);
	CHECK(OK(poll(p, 5, NEVER)) == 1 && p[1].revents == POLLIN && p[0].revents == 0);
	CHECK(take(rx(&b, 0)) == 2);
	join(late);
	/* Ended and closed ones are told as ever. */
	OK(close(pipes[1]));
	CHECK(OK(poll(p, 5, NEVER)) == 1 && (p[3].revents & POLLHUP));
	OK(close(pipes[0]));
	CHECK(OK(poll(p, 5, NEVER)) == 1 && p[3].revents == POLLNVAL);
	/* The same descriptor twice. */
	send_one(&a, 3);
	p[0].fd = b.fd;
	p[3].fd = -1;
	CHECK(OK(poll(p, 5, NEVER)) == 2 && p[0].revents == POLLIN && p[1].revents == POLLIN);
	OK(close(event));
	close_two();
}

static int
epoll_with(uint32_t events, int fd)
{
	int set = (int)OK(epoll_create1(EPOLL_CLOEXEC));
	struct epoll_event e;

	memset(&e, 0, sizeof(e));
	e.events = events;
	e.data.u64 = 0x1234567890abcdefull;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
	return set;
}

static void
epoll_level(void)
{
	struct epoll_event e[4];
	pthread_t late;
	int set, i;

	open_two();
	set = epoll_with(EPOLLIN, b.fd);
	CHECK(OK(epoll_wait(set, e, 4, 0)) == 0);
	for (i = 0; i < 3; i++) {
		late = send_late(9);
		CHECK(OK(epoll_wait(set, e, 4, NEVER)) == 1);
		CHECK(e[0].events == EPOLLIN && e[0].data.u64 == 0x1234567890abcdefull);
		/* As long as there is something, it is told. */
		CHECK(OK(epoll_wait(set, e, 4, 0)) == 1);
		CHECK(take(rx(&b, 0)) == 9);
		CHECK(OK(epoll_wait(set, e, 4, 0)) == 0);
		join(late);
	}
	/* A wait sends, for whom nobody else does; and there is room. */
	e[0].events = EPOLLIN | EPOLLOUT;
	e[0].data.u32 = 5;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, a.fd, &e[0]));
	CHECK(queue(tx(&a, 0), 60, 10));
	CHECK(OK(epoll_wait(set, e, 4, NEVER)) >= 1);
	CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN && take(rx(&b, 0)) == 10);
	CHECK(OK(epoll_wait(set, e, 4, NEVER)) == 1 && e[0].data.u32 == 5 && e[0].events == EPOLLOUT);
	/* Modified and removed. */
	e[0].events = EPOLLIN;
	OK(epoll_ctl(set, EPOLL_CTL_MOD, a.fd, &e[0]));
	CHECK(OK(epoll_wait(set, e, 4, 0)) == 0);
	FAILS(epoll_ctl(set, EPOLL_CTL_ADD, a.fd, &e[0]), EEXIST);
	OK(epoll_ctl(set, EPOLL_CTL_DEL, b.fd, NULL));
	FAILS(epoll_ctl(set, EPOLL_CTL_DEL, b.fd, NULL), ENOENT);
	send_one(&a, 11);
	CHECK(OK(epoll_wait(set, e, 4, 0)) == 0);
	OK(close(set));
	close_two();
}

static void
epoll_edge(void)
{
	struct epoll_event e;
	pthread_t late;
	int set, i;

	open_two();
	set = epoll_with(EPOLLIN | EPOLLET, b.fd);
	for (i = 0; i < 3; i++) {
		late = send_late(9);
		CHECK(OK(epoll_wait(set, &e, 1, NEVER)) == 1 && e.events == EPOLLIN);
		join(late);
		/* All is taken at an edge. */
		while (take(rx(&b, 0)) != -1)
			;
		CHECK(OK(epoll_wait(set, &e, 1, 0)) == 0);
	}
	OK(close(set));
	set = epoll_with(EPOLLIN | EPOLLONESHOT, b.fd);
	send_one(&a, 1);
	CHECK(OK(epoll_wait(set, &e, 1, NEVER)) == 1);
	CHECK(OK(epoll_wait(set, &e, 1, 0)) == 0);
	e.events = EPOLLIN | EPOLLONESHOT;
	OK(epoll_ctl(set, EPOLL_CTL_MOD, b.fd, &e));
	CHECK(OK(epoll_wait(set, &e, 1, NEVER)) == 1 && take(rx(&b, 0)) == 1);
	OK(close(set));
	close_two();
}

/* As main loops do it: netmap, a timer and an eventfd in one set, which itself is polled. */
static void
epoll_mixed(void)
{
	struct itimerspec in_30_ms = { { 0, 0 }, { 0, 30000000 } };
	struct epoll_event e[3];
	uint64_t count = 1;
	int set, event = (int)OK(eventfd(0, EFD_NONBLOCK)), timer = (int)OK(timerfd_create(CLOCK_MONOTONIC, 0));
	pthread_t late;

	open_two();
	set = epoll_with(EPOLLIN, b.fd);
	e[0].events = EPOLLIN;
	e[0].data.u64 = 1;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, event, &e[0]));
	e[0].data.u64 = 2;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, timer, &e[0]));
	OK(timerfd_settime(timer, 0, &in_30_ms, NULL));
	CHECK(OK(epoll_wait(set, e, 3, NEVER)) == 1 && e[0].data.u64 == 2);
	OK(read(timer, &count, 8));
	OK(write(event, &count, 8));
	send_one(&a, 1);
	CHECK(OK(epoll_wait(set, e, 3, NEVER)) == 2);
	CHECK(take(rx(&b, 0)) == 1);
	OK(read(event, &count, 8));
	CHECK(OK(epoll_wait(set, e, 3, 0)) == 0);
	/* The set is a descriptor like any other: who polls it waits for what is in it. */
	CHECK(poll_one(set, POLLIN, 0) == 0);
	late = send_late(2);
	CHECK(poll_one(set, POLLIN, NEVER) == POLLIN);
	CHECK(OK(epoll_wait(set, e, 3, NEVER)) == 1 && take(rx(&b, 0)) == 2);
	join(late);
	OK(close(event));
	OK(close(timer));
	OK(close(set));
	close_two();
}

/* A set in a child that was made in its parent. */
static void
epoll_forked(void)
{
	struct epoll_event e;
	pid_t child;
	int set;

	open_two();
	set = epoll_with(EPOLLIN, b.fd);
	child = (pid_t)OK(fork());
	if (child == 0) {
		CHECK(OK(epoll_wait(set, &e, 1, NEVER)) == 1 && e.data.u64 == 0x1234567890abcdefull);
		CHECK(take(rx(&b, 0)) == 6);
		exit(0);
	}
	send_one(&a, 6);
	join_child(child);
	OK(close(set));
	close_two();
}

static volatile sig_atomic_t handled;

static void
handler(int signal)
{
	(void)signal;
	handled++;
}

/* A signal ends a wait, with a handler that restarts or not; a mask holds it off until it is left. */
static void
signals(void)
{
	struct sigaction s;
	struct itimerval soon = { { 0, 0 }, { 0, 50000 } };
	struct timespec t = { NEVER / 1000, 0 };
	struct timespec none = { 0, 0 };
	struct pollfd p;
	struct epoll_event e;
	sigset_t alarm, empty, old;
	fd_set in;
	int set;

	open_two();
	memset(&s, 0, sizeof(s));
	s.sa_handler = handler;
	s.sa_flags = SA_RESTART;
	OK(sigaction(SIGALRM, &s, NULL));
	p = (struct pollfd){ b.fd, POLLIN, 0 };
	OK(setitimer(ITIMER_REAL, &soon, NULL));
	FAILS(poll(&p, 1, NEVER), EINTR);
	CHECK(handled == 1);
	set = epoll_with(EPOLLIN, b.fd);
	OK(setitimer(ITIMER_REAL, &soon, NULL));
	FAILS(epoll_wait(set, &e, 1, NEVER), EINTR);
	CHECK(handled == 2);
	FD_ZERO(&in);
	FD_SET(b.fd, &in);
	OK(setitimer(ITIMER_REAL, &soon, NULL));
	FAILS(select(b.fd + 1, &in, NULL, NULL, NULL), EINTR);
	CHECK(handled == 3);

	/* Blocked, and let in by the wait's mask alone. */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigemptyset(&empty);
	OK(sigprocmask(SIG_BLOCK, &alarm, &old));
	OK(raise(SIGALRM));
	CHECK(OK(poll(&p, 1, 30)) == 0 && handled == 3);
	FAILS(ppoll(&p, 1, &t, &empty), EINTR);
	CHECK(handled == 4);
	OK(raise(SIGALRM));
	FD_SET(b.fd, &in);
	FAILS(pselect(b.fd + 1, &in, NULL, NULL, &t, &empty), EINTR);
	CHECK(handled == 5);
	OK(raise(SIGALRM));
	FAILS(epoll_pwait(set, &e, 1, NEVER, &empty), EINTR);
	CHECK(handled == 6);
	/* The old mask is back. */
	OK(sigprocmask(SIG_BLOCK, NULL, &empty));
	CHECK(sigismember(&empty, SIGALRM) == 1);
	OK(sigprocmask(SIG_SETMASK, &old, NULL));
	/* What is ready is told. */
	send_one(&a, 1);
	CHECK(OK(ppoll(&p, 1, &none, &alarm)) == 1 && take(rx(&b, 0)) == 1);
	OK(close(set));
	close_two();
}

/* Arguments that no wait takes. */
static void
refused(void)
{
	struct epoll_event e[1];
	struct timespec bad = { 0, -5 };
	struct timeval negative = { -1, 0 };
	struct pollfd p;
	/* As variables, since the compiler would see them through. */
	struct pollfd *volatile nowhere = (struct pollfd *)8;
	volatile int minus_one = -1;
	fd_set in;
	int set;

	open_two();
	p = (struct pollfd){ b.fd, POLLIN, 0 };
	FAILS(ppoll(&p, 1, &bad, NULL), EINVAL);
	FAILS(poll(nowhere, 1, 0), EFAULT);
	FD_ZERO(&in);
	FD_SET(b.fd, &in);
	FAILS(select(b.fd + 1, &in, NULL, NULL, &negative), EINVAL);
	FAILS(select(minus_one, NULL, NULL, NULL, &negative), EINVAL);
	set = epoll_with(EPOLLIN, b.fd);
	FAILS(epoll_wait(set, e, 0, 0), EINVAL);
	FAILS(epoll_wait(set, e, minus_one, 0), EINVAL);
	FAILS(epoll_wait(b.fd, e, 1, 0), EINVAL);
	OK(close(set));
	FAILS(epoll_wait(set, e, 1, 0), EBADF);
	/* A closed one among those of a poll. */
	int copy = (int)OK(dup(b.fd));
	OK(close(copy));
	p.fd = copy;
	CHECK(OK(poll(&p, 1, NEVER)) == 1 && p.revents == POLLNVAL);
	FD_ZERO(&in);
	FD_SET(b.fd, &in);
	FD_SET(copy, &in);
	FAILS(select((copy > b.fd ? copy : b.fd) + 1, &in, NULL, NULL, NULL), EBADF);
	close_two();
}

/* F_SETFL clears O_NONBLOCK, and nothing blocks that should not. */
static void
blocking_flag(void)
{
	open_two();
	OK(fcntl(b.fd, F_SETFL, 0));
	OK(fcntl(a.fd, F_SETFL, O_NONBLOCK));
	CHECK(poll_one(b.fd, POLLIN, 0) == 0);
	for (uint32_t i = 0; i < 100; i++) {
		send_one(&a, i);
		receive_one(&b, i);
		CHECK(poll_one(b.fd, POLLIN, 0) == 0);
	}
	rxsync(&b);
	OK(fcntl(b.fd, F_SETFL, O_NONBLOCK));
	send_one(&a, 1);
	receive_one(&b, 1);
	close_two();
}

/* Two threads wait for one port; what is there is told to both, or taken by one. */
static void *
waiting_thread(void *arg)
{
	int *got = arg;

	CHECK(poll_one(b.fd, POLLIN, NEVER) == POLLIN);
	__atomic_add_fetch(got, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void
two_waiters(void)
{
	pthread_t threads[2];
	int i, got = 0;

	open_two();
	for (i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, waiting_thread, &got) == 0);
	usleep(50000);
	send_one(&a, 1);
	for (i = 0; i < 2; i++)
		join(threads[i]);
	CHECK(got == 2);
	close_two();
}

CASES({ "side_effects", side_effects }, { "readiness", readiness }, { "no_tx_poll", no_tx_poll }, { "left_behind", left_behind },
    { "do_rx_poll", do_rx_poll }, { "poll_sleeps", poll_sleeps }, { "timeouts", timeouts }, { "selects", selects },
    { "mixed", mixed }, { "epoll_level", epoll_level }, { "epoll_edge", epoll_edge },
    { "epoll_mixed", epoll_mixed }, { "epoll_forked", epoll_forked }, { "signals", signals },
    { "refused", refused }, { "blocking_flag", blocking_flag }, { "two_waiters", two_waiters });
