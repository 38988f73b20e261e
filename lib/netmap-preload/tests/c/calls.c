/* Calls of the C library at their edges: errno, other names, pointers into nowhere, limits. */
#include "pair.h"

#include <setjmp.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/resource.h>

/* A call that succeeds leaves errno alone. */
#define KEEPS(call) (__extension__({ \
	errno = 77; \
	long result_ = (long)(call); \
	int errno_ = errno; \
	if (result_ == -1 || errno_ != 77) \
		fail(__FILE__, __LINE__, #call, errno_); \
	result_; }))

static void
errno_kept(void)
{
	struct nmreq_register answer;
	struct epoll_event e;
	struct pollfd p;
	fd_set in;
	int fd = (int)KEEPS(open(NETMAP_DEVICE_NAME, O_RDWR)), set;

	KEEPS(bind_port(fd, &(struct wish){ .name = "valeA:e" }, &answer));
	KEEPS(ioctl(fd, NIOCTXSYNC, NULL));
	KEEPS(ioctl(fd, NIOCRXSYNC, NULL));
	void *mem = (void *)KEEPS(mmap(NULL, answer.nr_memsize, PROT_READ, MAP_SHARED, fd, 0));
	p = (struct pollfd){ fd, POLLIN, 0 };
	CHECK(KEEPS(poll(&p, 1, 1)) == 0);
	p.events = POLLOUT;
	CHECK(KEEPS(poll(&p, 1, -1)) == 1);
	FD_ZERO(&in);
	FD_SET(fd, &in);
	CHECK(KEEPS(select(fd + 1, NULL, &in, NULL, NULL)) == 1);
	set = (int)OK(epoll_create1(0));
	memset(&e, 0, sizeof(e));
	e.events = EPOLLIN;
	KEEPS(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
	CHECK(KEEPS(epoll_wait(set, &e, 1, 1)) == 0);
	int copy = (int)KEEPS(dup(fd));
	KEEPS(dup2(fd, copy));
	KEEPS(fcntl(fd, F_GETFL));
	KEEPS(munmap(mem, answer.nr_memsize));
	KEEPS(close(set));
	KEEPS(close(copy));
	KEEPS(close(fd));
	/* The end of the list is an error, and the one before a success. */
	CHECK(!exists("valeA:e"));
}

/* What any descriptor can be told is told to netmap's, too; the rest is refused. */
static void
any_descriptors_ioctls(void)
{
	int one = 1, none = 0, bound;

	for (bound = 0; bound < 2; bound++) {
		int fd = open_device();
		struct nmreq_register answer;

		if (bound)
			OK(bind_port(fd, &(struct wish){ .name = "valeA:x" }, &answer));
		OK(ioctl(fd, FIONBIO, &one));
		CHECK(OK(fcntl(fd, F_GETFL)) & O_NONBLOCK);
		OK(ioctl(fd, FIONBIO, &none));
		CHECK(!(OK(fcntl(fd, F_GETFL)) & O_NONBLOCK));
		OK(ioctl(fd, FIOCLEX));
		CHECK(OK(fcntl(fd, F_GETFD)) == FD_CLOEXEC);
		OK(ioctl(fd, FIONCLEX));
		CHECK(OK(fcntl(fd, F_GETFD)) == 0);
		FAILS(ioctl(fd, FIONREAD, &one), EOPNOTSUPP);
		FAILS(ioctl(fd, TCGETS, &one), EOPNOTSUPP);
		FAILS(ioctl(fd, NIOCCONFIG, NULL), EINVAL);
		FAILS(ioctl(fd, NIOCCONFIG, (void *)8), EFAULT);
		OK(close(fd));
	}
}

extern int __open(const char *, int, ...);
extern int __open64(const char *, int, ...);
extern int __openat_2(int, const char *, int);
extern int __openat64_2(int, const char *, int);
extern int __open_2(const char *, int);
extern int __open64_2(const char *, int);
extern int __close(int);
extern int __dup2(int, int);
extern int __fcntl(int, int, ...);
extern int __poll(struct pollfd *, nfds_t, int);
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
extern int __select(int, fd_set *, fd_set *, fd_set *, struct timeval *);

static void
works_at(int fd)
{
	struct nmreq_register answer;

	OK(bind_port(fd, &(struct wish){ .name = "valeA:n" }, &answer));
	OK(ioctl(fd, NIOCTXSYNC, NULL));
	OK(__close(fd));
	CHECK(!exists("valeA:n"));
}

/* Functions by all the names that they have, as compilers and other libraries call them. */
static void
other_names(void)
{
	static const char name[] = NETMAP_DEVICE_NAME;
	struct timespec t = { 0, 0 };
	struct timeval v = { 0, 0 };
	struct pollfd p;
	fd_set out;
	int fd;

	works_at((int)OK(__open(name, O_RDWR)));
	works_at((int)OK(__open64(name, O_RDWR)));
	works_at((int)OK(__open_2(name, O_RDWR)));
	works_at((int)OK(__open64_2(name, O_RDWR)));
	works_at((int)OK(__openat_2(AT_FDCWD, name, O_RDWR)));
	works_at((int)OK(__openat64_2(AT_FDCWD, name, O_RDWR)));
	works_at((int)OK(openat(AT_FDCWD, name, O_RDWR)));
	works_at((int)OK(open64(name, O_RDWR)));
	works_at((int)OK(openat64(AT_FDCWD, name, O_RDWR)));

	open_two();
	p = (struct pollfd){ a.fd, POLLOUT, 0 };
	CHECK(queue(tx(&a, 0), 60, 1));
	CHECK(OK(__poll(&p, 1, 0)) == 1 && p.revents == POLLOUT && !nm_tx_pending(tx(&a, 0)));
	CHECK(queue(tx(&a, 0), 60, 2));
	CHECK(OK(__poll_chk(&p, 1, 0, sizeof(p))) == 1 && !nm_tx_pending(tx(&a, 0)));
	CHECK(queue(tx(&a, 0), 60, 3));
	CHECK(OK(__ppoll_chk(&p, 1, &t, NULL, sizeof(p))) == 1 && !nm_tx_pending(tx(&a, 0)));
	CHECK(queue(tx(&a, 0), 60, 4));
	FD_ZERO(&out);
	FD_SET(a.fd, &out);
	CHECK(OK(__select(a.fd + 1, NULL, &out, NULL, &v)) == 1 && !nm_tx_pending(tx(&a, 0)));
	rxsync(&b);
	for (int i = 1; i <= 4; i++)
		CHECK(take(rx(&b, 0)) == i);
	fd = (int)OK(__dup2(a.fd, 90));
	CHECK(OK(ioctl(fd, NIOCTXSYNC, NULL)) == 0);
	fd = (int)OK(__fcntl(a.fd, F_DUPFD, 100));
	CHECK(OK(ioctl(fd, NIOCTXSYNC, NULL)) == 0);
	OK(__close(90));
	OK(__close(fd));
	close_two();
}

/* The kernel finds nothing there, and says so. */
static void
nowhere(void)
{
	/* As variables, since the compiler would see them through. */
	char *volatile none = (char *)8;
	struct timespec t = { 0, 0 };
	struct timeval v = { 0, 0 };
	volatile int most = INT32_MAX;
	struct epoll_event e;
	struct pollfd p;
	fd_set in;
	int set;

	FAILS(open(none, O_RDWR), EFAULT);
	FAILS(open(none, O_TMPFILE, 0), EINVAL); /* before it looks at the path */
	open_two();
	FAILS(select(b.fd + 1, (fd_set *)none, NULL, NULL, &v), EFAULT);
	FD_ZERO(&in);
	FD_SET(b.fd, &in);
	FAILS(select(b.fd + 1, &in, NULL, (fd_set *)none, &v), EFAULT);
	FAILS(pselect(b.fd + 1, &in, (fd_set *)none, NULL, &t, NULL), EFAULT);
	FAILS(pselect(b.fd + 1, &in, NULL, NULL, &t, (sigset_t *)none), EFAULT);
	p = (struct pollfd){ b.fd, POLLIN, 0 };
	FAILS(ppoll(&p, 1, &t, (sigset_t *)none), EFAULT);
	set = (int)OK(epoll_create1(0));
	FAILS(epoll_ctl(set, EPOLL_CTL_ADD, b.fd, (struct epoll_event *)none), EFAULT);
	memset(&e, 0, sizeof(e));
	e.events = EPOLLIN;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, b.fd, &e));
	send_one(&a, 1);
	FAILS(epoll_wait(set, (struct epoll_event *)none, 1, 0), EFAULT);
	FAILS(epoll_wait(set, &e, most, 0), EINVAL);
	FAILS(epoll_pwait(set, &e, most, 0, NULL), EINVAL);
	OK(epoll_ctl(set, EPOLL_CTL_DEL, b.fd, (struct epoll_event *)none));
	OK(close(set));
	close_two();
}

/* What is refused has closed nothing. */
static void
refused_ranges(void)
{
	open_two();
	FAILS(close_range((unsigned)a.fd, ~0u, 0x80), EINVAL);
	FAILS(close_range((unsigned)b.fd, (unsigned)a.fd, 0), EINVAL);
	send_one(&a, 1);
	receive_one(&b, 1);
	OK(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
	CHECK(OK(fcntl(a.fd, F_GETFD)) == FD_CLOEXEC);
	send_one(&a, 2);
	receive_one(&b, 2);
	close_two();
}

/* select(2) tells of what was asked for: one that has hung up is not ready for something else. */
static void
select_of_the_dead(void)
{
	struct timeval t = { 0, 60000 };
	int64_t began;
	int pipes[2], n;
	fd_set except, out;

	open_two();
	OK(pipe(pipes));
	OK(close(pipes[1]));
	n = (pipes[0] > b.fd ? pipes[0] : b.fd) + 1;
	FD_ZERO(&except);
	FD_SET(pipes[0], &except);
	FD_SET(b.fd, &except);
	began = now_us();
	CHECK(OK(select(n, NULL, NULL, &except, &t)) == 0 && now_us() - began >= 60000);
	CHECK(!FD_ISSET(pipes[0], &except) && !FD_ISSET(b.fd, &except));
	/* And it keeps nobody from being told of others. */
	FD_SET(pipes[0], &except);
	FD_ZERO(&out);
	FD_SET(a.fd, &out);
	CHECK(OK(select(a.fd > n - 1 ? a.fd + 1 : n, NULL, &out, &except, NULL)) == 1 && FD_ISSET(a.fd, &out));
	OK(close(pipes[0]));
	close_two();
}

/* As many descriptors in a poll as a process may have, and not one more. */
static void
many_descriptors(void)
{
	struct rlimit limit;
	struct pollfd p[9];
	int event = (int)OK(eventfd(0, 0)), i;

	open_two();
	for (i = 0; i < 9; i++)
		p[i] = (struct pollfd){ event, POLLIN, 0 };
	p[3].fd = b.fd;
	p[5].fd = a.fd;
	OK(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = 8;
	OK(setrlimit(RLIMIT_NOFILE, &limit));
	CHECK(OK(poll(p, 8, 5)) == 0);
	send_one(&a, 1);
	CHECK(OK(poll(p, 8, NEVER)) == 1 && p[3].revents == POLLIN && take(rx(&b, 0)) == 1);
	FAILS(poll(p, 9, 5), EINVAL);
	OK(close(event));
	close_two();
}

static sigjmp_buf place;
static volatile sig_atomic_t faults;

static void
fault(int signal)
{
	(void)signal;
	faults++;
	siglongjmp(place, 1);
}

/* What a program maps over a port's memory is its own: a fault there is its own fault. */
static void
mapped_over(void)
{
	struct sigaction s;
	char path[256];
	volatile char *file;
	int fd;

	open_two();
	memset(&s, 0, sizeof(s));
	s.sa_handler = fault;
	OK(sigaction(SIGBUS, &s, NULL));
	snprintf(path, sizeof(path), "%s/short", getenv("CLIENT_DIR"));
	fd = (int)OK(open(path, O_RDWR | O_CREAT, 0600));
	file = mmap(a.mem, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(file == a.mem);
	if (sigsetjmp(place, 1) == 0) {
		(void)file[0];
		CHECK(!"it can be read");
	}
	CHECK(faults == 1);
	OK(close(fd));
	close_two();
}

/*
 * Memory that was moved is guarded where it is, and no longer where it was. What a call that fails would have moved is as before.
 */
static void
moved(void)
{
	size_t size;
	char *to;
	struct sigaction s;
	volatile char *file;
	char path[256];
	int fd;

	open_two();
	size = a.reg.nr_memsize;
	CHECK(mremap(a.mem, size, 2 * size, MREMAP_FIXED, NULL) == MAP_FAILED);
	to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(to != MAP_FAILED);
	CHECK(mremap(a.mem, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);

	memset(&s, 0, sizeof(s));
	s.sa_handler = fault;
	OK(sigaction(SIGBUS, &s, NULL));
	snprintf(path, sizeof(path), "%s/short", getenv("CLIENT_DIR"));
	fd = (int)OK(open(path, O_RDWR | O_CREAT, 0600));
	/* By a system call of the program's own, so that nobody is told of it. */
	file = (char *)syscall(SYS_mmap, a.mem, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(file == a.mem);
	if (sigsetjmp(place, 1) == 0) {
		(void)file[0];
		CHECK(!"it can be read");
	}
	CHECK(faults == 1);

	OK(munmap(a.mem, 4096));
	a.nifp = NETMAP_IF(to, a.reg.nr_offset);
	a.mem = to;
	cut(&a);
	CHECK(tx(&a, 0)->num_slots == 0 && faults == 1);
	OK(close(fd));
	OK(close(a.fd));
	OK(close(b.fd));
}

CASES({ "errno_kept", errno_kept }, { "any_descriptors_ioctls", any_descriptors_ioctls },
    { "other_names", other_names }, { "nowhere", nowhere }, { "refused_ranges", refused_ranges },
    { "select_of_the_dead", select_of_the_dead }, { "many_descriptors", many_descriptors },
    { "mapped_over", mapped_over }, { "moved", moved });
