/* Programs that are rough with descriptors: sweeps, descriptor 2, handlers that close, threads, start-up and exit. */
#include "client.h"

#include <setjmp.h>
#include <sys/resource.h>

static void
works(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	struct epoll_event e;
	int set;

	send_one(&a, 1);
	receive_one(&b, 1);
	set = (int)OK(epoll_create1(0));
	e.events = EPOLLIN;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, b.fd, &e));
	send_one(&a, 2);
	CHECK(OK(epoll_wait(set, &e, 1, NEVER)) == 1 && take(rx(&b, 0)) == 2);
	OK(close(set));
	close_port(&a);
	close_port(&b);
}

/* As daemons begin: everything is closed that may be open. What is found out is written to a file. */
static void
sweep(void)
{
	int fd, i;

	/* Before the first use, in the midst of it, and again; in three ways. */
	for (i = 0; i < 3; i++) {
		for (fd = 20000; fd > 2; fd--)
			close(fd);
		works();
	}
	struct port a = open_port("valeA:x");
	for (fd = 20000; fd > 2; fd--)
		close(fd);
	FAILS(ioctl(a.fd, NIOCTXSYNC, NULL), EBADF);
	CHECK(!exists("valeA:x"));
	OK(munmap(a.mem, a.reg.nr_memsize));
	works();

	a = open_port("valeA:x");
	closefrom(3);
	FAILS(ioctl(a.fd, NIOCTXSYNC, NULL), EBADF);
	CHECK(!exists("valeA:x"));
	works();

	a = open_port("valeA:x");
	OK(close_range(3, ~0u, 0));
	FAILS(ioctl(a.fd, NIOCTXSYNC, NULL), EBADF);
	CHECK(!exists("valeA:x"));
	works();
}

/* The sweep goes down to 0 and a port opened thereafter has a low number. */
static void
sweep_all(void)
{
	struct port a, b;
	int fd;

	for (fd = 20000; fd >= 0; fd--)
		close(fd);
	a = open_port("valeA:x");
	b = open_port("valeA:y");
	if (a.fd != 0 || b.fd != 1)
		_exit(3);
	send_one(&a, 1);
	receive_one(&b, 1);
	works();
	close_port(&a);
	close_port(&b);
}

/* The program's stderr is closed, and its port is descriptor 2: nobody may write there. */
static void
descriptor_two(void)
{
	struct port a, b;
	struct stat s;
	uint32_t i;

	OK(close(2));
	a = open_port("valeA:x");
	if (a.fd != 2)
		_exit(3);
	b = open_port("valeA:y");
	for (i = 0; i < 2000; i++) {
		if (!queue(tx(&a, 0), 60, i))
			_exit(4);
		if (ioctl(2, NIOCTXSYNC, NULL) || poll_one(b.fd, POLLIN, NEVER) != POLLIN || take(rx(&b, 0)) != i)
			_exit(5);
	}
	/* Things that go wrong are told by errno, and never by words. */
	FAILS(mmap(NULL, a.reg.nr_memsize + 4096, PROT_READ, MAP_SHARED, 2, 0) == MAP_FAILED ? -1 : 0, EINVAL);
	if (ioctl(2, _IO('i', 200), NULL) != -1 || fstat(2, &s) == -1)
		_exit(6);
	tx(&a, 0)->head = tx(&a, 0)->cur = 1u << 30;
	txsync(&a);
	if (poll_one(2, POLLIN, 0) & POLLIN)
		_exit(7);
	close_port(&a);
	close_port(&b);
}

static struct port in_handler;
static volatile sig_atomic_t closed;

static void
closing(int signal)
{
	(void)signal;
	if (in_handler.fd >= 0 && close(in_handler.fd) == 0)
		closed++;
	in_handler.fd = -1;
}

/* A handler that closes, while the program is anywhere: in a sync, in a wait, in malloc. */
static void
close_in_handler(void)
{
	struct sigaction s;
	struct port a = open_port("valeA:a"), b = open_port("valeA:b");
	int i;

	memset(&s, 0, sizeof(s));
	s.sa_handler = closing;
	OK(sigaction(SIGALRM, &s, NULL));
	for (i = 0; i < 100; i++) {
		struct itimerval soon = { { 0, 0 }, { 0, 200 + i * 37 % 900 } };
		int64_t end = now_us() + NEVER * 1000ll;

		in_handler = open_port("valeA:h");
		OK(setitimer(ITIMER_REAL, &soon, NULL));
		while (closed == i) {
			struct pollfd p[2] = { { a.fd, POLLIN, 0 }, { in_handler.fd, POLLIN, 0 } };

			CHECK(now_us() < end);
			free(malloc(1000));
			queue(tx(&a, 0), 60, 1);
			if (ioctl(a.fd, NIOCTXSYNC, NULL) == -1)
				CHECK(errno == EINTR);
			if (poll(p, 2, 1) == -1)
				CHECK(errno == EINTR);
			rxsync(&b);
			while (take(rx(&b, 0)) != -1)
				;
		}
		CHECK(!exists("valeA:h"));
		OK(munmap(in_handler.mem, in_handler.reg.nr_memsize));
	}
	close_port(&a);
	close_port(&b);
}

#define THREADS 8

static void *
opens(void *arg)
{
	int i, me = (int)(intptr_t)arg;
	char name[16];

	snprintf(name, sizeof(name), "valeT:p%d", me);
	for (i = 0; i < 15; i++) {
		struct port p = open_wish((struct wish){ .name = name, .slots = 128 });
		int copy = (int)OK(dup(p.fd));

		send_one(&p, (uint32_t)i);
		poll_one(copy, POLLIN, 0);
		while (take(rx(&p, 0)) != -1)
			;
		OK(close(copy));
		close_port(&p);
		CHECK(!exists(name));
	}
	return NULL;
}

static void
many_threads(void)
{
	pthread_t threads[THREADS];
	int i;

	for (i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, opens, (void *)(intptr_t)i) == 0);
	for (i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	works();
}

/* The calls of a program before its main, and behind its end. */
static struct port early;

__attribute__((constructor)) static void
before_main(void)
{
	if (getenv("CLIENT_EARLY"))
		early = open_port("valeA:early");
}

__attribute__((destructor)) static void
behind_main(void)
{
	if (getenv("CLIENT_EARLY") && early.nifp) {
		struct port late = open_port("valeA:late");

		rxsync(&early); /* what main has sent, which was flooded to all */
		while (take(rx(&early, 0)) != -1)
			;
		send_one(&late, 5);
		receive_one(&early, 5);
		close_port(&late);
		close_port(&early);
		if (exists("valeA:early"))
			_exit(9);
	}
}

static void
late_work(void)
{
	txsync(&early);
}

static void
start_and_exit(void)
{
	CHECK(early.nifp != NULL);
	CHECK(atexit(late_work) == 0);
	works();
}

/* The program has no descriptor left: opening is refused, what is open works on. */
static void
no_descriptors(void)
{
	struct rlimit limit;
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	int fds[64], n = 0;

	OK(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = 40;
	OK(setrlimit(RLIMIT_NOFILE, &limit));
	while (n < 64 && (fds[n] = open("/dev/null", O_RDONLY)) != -1)
		n++;
	CHECK(n < 64 && errno == EMFILE);
	FAILS(open(NETMAP_DEVICE_NAME, O_RDWR), EMFILE);
	send_one(&a, 1);
	receive_one(&b, 1);
	while (n)
		OK(close(fds[--n]));
	works();
	close_port(&a);
	close_port(&b);
}

/* What a signal handler of the program's own gets: its own faults, and not those of the rings. */
static volatile sig_atomic_t faults;
static sigjmp_buf place;

static void
fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	faults++;
	siglongjmp(place, 1);
}

static void
own_faults(void)
{
	struct sigaction s, old;
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	char path[256];
	volatile char *file;
	int fd, status;
	pid_t child;

	memset(&s, 0, sizeof(s));
	s.sa_sigaction = fault;
	s.sa_flags = SA_SIGINFO;
	OK(sigaction(SIGBUS, &s, NULL));
	OK(sigaction(SIGBUS, NULL, &old));
	CHECK(old.sa_sigaction == fault && (old.sa_flags & SA_SIGINFO));
	snprintf(path, sizeof(path), "%s/short", getenv("CLIENT_DIR"));
	fd = (int)OK(open(path, O_RDWR | O_CREAT, 0600));
	OK(ftruncate(fd, 4096));
	file = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(file != MAP_FAILED);
	OK(ftruncate(fd, 0));
	if (sigsetjmp(place, 1) == 0) {
		(void)file[0];
		CHECK(!"it can be read");
	}
	CHECK(faults == 1);
	/* The same by signal(2), and what ends the program without a handler still does. */
	CHECK(signal(SIGBUS, SIG_IGN) == (void (*)(int))(uintptr_t)fault);
	OK(raise(SIGBUS));
	CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN);
	child = (pid_t)OK(fork());
	if (child == 0) {
		(void)file[0];
		_exit(9);
	}
	CHECK(OK(waitpid(child, &status, 0)) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	s.sa_flags = SA_SIGINFO | SA_RESETHAND;
	OK(sigaction(SIGBUS, &s, &old));
	CHECK(old.sa_handler == SIG_DFL);
	if (sigsetjmp(place, 1) == 0)
		OK(raise(SIGBUS));
	CHECK(faults == 2);
	OK(sigaction(SIGBUS, NULL, &old));
	CHECK(old.sa_handler == SIG_DFL);
	/* The region behind the program's mapping is cut by somebody: no signal comes, and it reads as zeros. */
	cut(&a);
	CHECK(*(volatile const uint32_t *)&tx(&a, 0)->num_slots == 0 && faults == 2);
	OK(close(fd));
	OK(munmap((void *)(uintptr_t)file, 4096));
	OK(close(a.fd));
	OK(close(b.fd));
}

CASES({ "sweep", sweep }, { "sweep_all", sweep_all }, { "descriptor_two", descriptor_two },
    { "close_in_handler", close_in_handler }, { "many_threads", many_threads },
    { "start_and_exit", start_and_exit }, { "no_descriptors", no_descriptors }, { "own_faults", own_faults });
