/* What the library does not see coming: system calls of the program's own, handlers that sweep or jump, cancelled threads. */
#include "pair.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Numbers that were closed by system calls of the program's own, and used again: what is there now counts. */
static void
numbers_used_again(void)
{
	struct nmreq_register answer;
	struct pollfd p;
	int fd = open_device(), pipes[2], other;

	OK(bind_port(fd, &(struct wish){ .name = "valeA:x" }, &answer));
	OK(syscall(SYS_close, fd));
	CHECK(!exists("valeA:x"));
	/* A file of the same number is a file. */
	other = (int)OK(open("/dev/null", O_RDWR));
	CHECK(other == fd);
	FAILS(ioctl(other, NIOCTXSYNC, NULL), ENOTTY);
	CHECK(OK(write(other, "x", 1)) == 1);
	p = (struct pollfd){ other, POLLIN | POLLOUT, 0 };
	CHECK(OK(poll(&p, 1, 0)) == 1 && p.revents == (POLLIN | POLLOUT));
	OK(close(other));

	fd = open_device();
	OK(bind_port(fd, &(struct wish){ .name = "valeA:x" }, &answer));
	OK(syscall(SYS_close, fd));
	OK(pipe(pipes));
	CHECK(pipes[0] == fd);
	/* Known at the next request, at the latest. */
	CHECK(!exists("valeA:x"));
	p = (struct pollfd){ pipes[0], POLLIN, 0 };
	CHECK(OK(poll(&p, 1, 0)) == 0);
	OK(write(pipes[1], "x", 1));
	CHECK(OK(poll(&p, 1, NEVER)) == 1 && p.revents == POLLIN);
	OK(close(pipes[0]));
	OK(close(pipes[1]));
	open_two();
	send_one(&a, 3);
	receive_one(&b, 3);
	close_two();
}

/* All that is open is closed behind everybody's back, and its numbers are used: none of them is touched. */
static void
raw_sweep(void)
{
	static int files[1024];
	char path[256], text[8];
	int i, n;

	open_two();
	send_one(&a, 1);
	receive_one(&b, 1);
	OK(syscall(SYS_close_range, 3, ~0u, 0));
	snprintf(path, sizeof(path), "%s/file", getenv("CLIENT_DIR"));
	files[0] = (int)OK(open(path, O_RDWR | O_CREAT, 0600));
	for (n = 1; n < 1024; n++) {
		files[n] = (int)syscall(SYS_fcntl, files[0], F_DUPFD, n < 512 ? 3 : 64000);
		if (files[n] == -1)
			break;
	}
	CHECK(n > 100);
	/* The program's ports are gone; new ones are as ever. */
	OK(munmap(a.mem, a.reg.nr_memsize));
	OK(munmap(b.mem, b.reg.nr_memsize));
	for (i = 0; i < 3; i++) {
		open_two();
		CHECK(poll_one(b.fd, POLLIN, 1) == 0);
		send_one(&a, 2);
		receive_one(&b, 2);
		close_two();
		CHECK(!exists("valeA:x"));
	}
	for (i = 0; i < n; i++) {
		CHECK(pwrite(files[i], "mine", 4, 0) == 4 && pread(files[i], text, 8, 0) == 4);
		OK(close(files[i]));
		FAILS(fcntl(files[i], F_GETFD), EBADF);
	}
	open_two();
	send_one(&a, 4);
	receive_one(&b, 4);
	close_two();
}

/* The library's own descriptors alone are lost: a port that the program has goes on. */
static void
raw_sweep_of_high_numbers(void)
{
	int i;

	open_two();
	CHECK(poll_one(b.fd, POLLIN, 1) == 0);
	OK(syscall(SYS_close_range, (a.fd > b.fd ? a.fd : b.fd) + 1, ~0u, 0));
	for (i = 0; i < 600; i++)
		OK(open("/dev/null", O_RDONLY));
	for (i = 0; i < 50; i++) {
		pid_t child = (pid_t)OK(fork());

		/* The sender is another process: who waits is woken by the bell, or by nobody. */
		if (child == 0) {
			usleep(1000);
			send_one(&a, (uint32_t)i);
			_exit(0);
		}
		receive_one(&b, (uint32_t)i);
		join_child(child);
	}
	closefrom(b.fd + 1 > a.fd + 1 ? b.fd + 1 : a.fd + 1);
	send_one(&a, 90);
	receive_one(&b, 90);
	close_two();
	CHECK(!exists("valeA:x"));
}

static volatile sig_atomic_t swept;
static int highest;

static void
sweeping(int signal)
{
	int fd;

	(void)signal;
	/* The highest that there are, and low ones. */
	for (fd = highest; fd > highest - 600; fd--) {
		close(fd);
		dup2(0, fd);
	}
	for (fd = 100; fd > (a.fd > b.fd ? a.fd : b.fd); fd--) {
		close(fd);
		dup2(0, fd);
	}
	closefrom((a.fd > b.fd ? a.fd : b.fd) + 1);
	swept++;
}

/* A handler that closes all that it does not know, wherever the program is: in a sync, in a wait, in a request. */
static void
sweeps_in_handlers(void)
{
	struct rlimit limit;
	struct sigaction s;
	int i;

	OK(getrlimit(RLIMIT_NOFILE, &limit));
	highest = limit.rlim_cur < 65536 ? (int)limit.rlim_cur - 1 : 65535;
	open_two();
	memset(&s, 0, sizeof(s));
	s.sa_handler = sweeping;
	s.sa_flags = SA_RESTART;
	OK(sigaction(SIGALRM, &s, NULL));
	for (i = 0; i < 60; i++) {
		struct itimerval soon = { { 0, 0 }, { 0, 100 + i * 37 % 900 } };
		int before = swept;
		int64_t end = now_us() + NEVER * 1000ll;

		OK(setitimer(ITIMER_REAL, &soon, NULL));
		while (swept == before) {
			struct pollfd p = { b.fd, POLLIN, 0 };

			CHECK(now_us() < end);
			queue(tx(&a, 0), 60, 1);
			if (ioctl(a.fd, NIOCTXSYNC, NULL) == -1)
				CHECK(errno == EINTR);
			if (poll(&p, 1, i % 3) == -1)
				CHECK(errno == EINTR);
			while (take(rx(&b, 0)) != -1)
				;
		}
	}
	rxsync(&b);
	while (take(rx(&b, 0)) != -1)
		rxsync(&b);
	send_one(&a, 5);
	receive_one(&b, 5);
	close_two();
	CHECK(!exists("valeA:x"));
}

/* ---- cancellation ---- */

static pthread_barrier_t together;
static int cleaned, epoll_set;

static void
cleaning(void *arg)
{
	(void)arg;
	__atomic_add_fetch(&cleaned, 1, __ATOMIC_SEQ_CST);
}

static void *
cancelled_in(void *arg)
{
	int way = (int)(intptr_t)arg;
	struct pollfd p = { b.fd, POLLIN, 0 };
	struct epoll_event e;
	struct timespec t = { NEVER / 1000, 0 };
	fd_set in;
	int pipes[2] = { -1, -1 };

	pthread_cleanup_push(cleaning, NULL);
	pthread_barrier_wait(&together);
	for (;;) {
		FD_ZERO(&in);
		FD_SET(b.fd, &in);
		switch (way) {
		case 0: poll(&p, 1, -1); break;
		case 1: ppoll(&p, 1, &t, NULL); break;
		case 2: select(b.fd + 1, &in, NULL, NULL, NULL); break;
		case 3: pselect(b.fd + 1, &in, NULL, NULL, &t, NULL); break;
		case 4: epoll_wait(epoll_set, &e, 1, -1); break;
		case 5: poll(&p, 1, 0); break;
		case 6: /* an ordinary one */
			if (pipes[0] == -1)
				OK(pipe(pipes));
			p.fd = pipes[0];
			poll(&p, 1, -1);
			break;
		case 7: /* and a call that is none of ours */
			if (pipes[0] == -1)
				OK(pipe(pipes));
			CHECK(read(pipes[0], &in, 1) == 1);
			break;
		case 8: { /* in none of ours, and behind one of them */
			ioctl(b.fd, NIOCRXSYNC, NULL);
			pthread_testcancel();
			break;
		}
		}
	}
	pthread_cleanup_pop(1);
	return NULL;
}

static void *
never_cancelled(void *arg)
{
	struct pollfd p = { b.fd, POLLIN, 0 };
	int state;

	(void)arg;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	CHECK(state == PTHREAD_CANCEL_ENABLE);
	pthread_barrier_wait(&together);
	CHECK(OK(poll(&p, 1, 150)) == 0);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
	CHECK(state == PTHREAD_CANCEL_DISABLE);
	return NULL;
}

static void
cancelled(void)
{
	struct epoll_event e;
	pthread_t thread;
	void *result;
	int way, i, runs = 0;

	open_two();
	epoll_set = (int)OK(epoll_create1(0));
	memset(&e, 0, sizeof(e));
	e.events = EPOLLIN;
	OK(epoll_ctl(epoll_set, EPOLL_CTL_ADD, b.fd, &e));
	CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
	for (way = 0; way < 9; way++)
		for (i = 0; i < 4; i++) {
			CHECK(pthread_create(&thread, NULL, cancelled_in, (void *)(intptr_t)way) == 0);
			pthread_barrier_wait(&together);
			if (i)
				usleep((useconds_t)(i % 4) * 4000 + (useconds_t)i * 7);
			CHECK(pthread_cancel(thread) == 0);
			CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
			CHECK(cleaned == ++runs);
			/* The port is as it was, and who sleeps on it sleeps. */
			CHECK(poll_one(b.fd, POLLIN, 2) == 0);
			send_one(&a, (uint32_t)way);
			receive_one(&b, (uint32_t)way);
			rxsync(&b);
		}
	/* Who will not be, is not; nor is anybody else. */
	CHECK(pthread_create(&thread, NULL, never_cancelled, NULL) == 0);
	pthread_barrier_wait(&together);
	CHECK(pthread_cancel(thread) == 0);
	CHECK(poll_one(b.fd, POLLIN, 200) == 0);
	CHECK(pthread_join(thread, &result) == 0);
	OK(close(epoll_set));
	close_two();
}

/* ---- handlers that do not return ---- */

static sigjmp_buf place;

static void
jumping(int signal)
{
	(void)signal;
	siglongjmp(place, 1);
}

/* As timeouts were made once: an alarm, and a jump out of the wait. */
static void
jumps(void)
{
	struct itimerval soon = { { 0, 0 }, { 0, 3000 } };
	struct epoll_event e;
	struct sigaction s;
	volatile int i, set;

	open_two();
	set = (int)OK(epoll_create1(0));
	memset(&e, 0, sizeof(e));
	e.events = EPOLLIN;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, b.fd, &e));
	memset(&s, 0, sizeof(s));
	s.sa_handler = jumping;
	OK(sigaction(SIGALRM, &s, NULL));
	for (i = 0; i < 40; i++) {
		if (sigsetjmp(place, 1) == 0) {
			struct pollfd p = { b.fd, POLLIN, 0 };

			OK(setitimer(ITIMER_REAL, &soon, NULL));
			if (i % 2)
				OK(poll(&p, 1, NEVER));
			else
				OK(epoll_wait(set, &e, 1, NEVER));
			CHECK(!"nothing came");
		}
		send_one(&a, (uint32_t)i);
		receive_one(&b, (uint32_t)i);
		rxsync(&b);
	}
	/* A wait is a sleep still: it takes no time of the processor's. */
	struct timespec before, after;
	OK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before));
	CHECK(poll_one(b.fd, POLLIN, 300) == 0);
	OK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after));
	CHECK((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 100000000);
	/* And what is the library's is the library's. */
	for (i = 70000; i > (a.fd > b.fd ? a.fd : b.fd); i--)
		if (i != set)
			close(i);
	send_one(&a, 50);
	receive_one(&b, 50);
	OK(close(set));
	close_two();
	CHECK(!exists("valeA:x"));
}

/* Who has jumped once may jump at any time, out of syncs and waits: they are system calls, which are done or not begun. */
static void
jumps_anywhere(void)
{
	struct itimerval soon = { { 0, 0 }, { 0, 3000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction s;
	volatile int i;
	struct pollfd p;

	open_two();
	p.fd = a.fd;
	p.events = POLLIN;
	memset(&s, 0, sizeof(s));
	s.sa_handler = jumping;
	OK(sigaction(SIGALRM, &s, NULL));
	for (i = 0; i < 2000; i++) {
		if (sigsetjmp(place, 1) == 0) {
			OK(setitimer(ITIMER_REAL, &soon, NULL));
			/* The first one out of a sleep. */
			OK(poll(&p, 1, i ? 0 : NEVER));
			for (;;) {
				queue(tx(&a, 0), 60, 1);
				if (i % 2)
					txsync(&a);
				else
					OK(poll(&p, 1, 0));
				OK(poll(&(struct pollfd){ b.fd, POLLIN, 0 }, 1, 0));
				rx(&b, 0)->head = rx(&b, 0)->cur = rx(&b, 0)->tail;
			}
		}
		soon.it_value.tv_usec = 20 + i % 50;
	}
	OK(setitimer(ITIMER_REAL, &never, NULL));
	txsync(&a);
	do {
		rx(&b, 0)->head = rx(&b, 0)->cur = rx(&b, 0)->tail;
		rxsync(&b);
	} while (!nm_ring_empty(rx(&b, 0)));
	send_one(&a, 50);
	receive_one(&b, 50);
	rxsync(&b);
	send_one(&b, 51);
	receive_one(&a, 51);
	close_two();
	CHECK(!exists("valeA:x"));
}

CASES({ "numbers_used_again", numbers_used_again }, { "raw_sweep", raw_sweep },
    { "raw_sweep_of_high_numbers", raw_sweep_of_high_numbers }, { "sweeps_in_handlers", sweeps_in_handlers },
    { "cancelled", cancelled }, { "jumps", jumps }, { "jumps_anywhere", jumps_anywhere });
