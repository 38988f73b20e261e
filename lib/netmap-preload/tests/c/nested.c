/* epoll sets within epoll sets, and netmap descriptors in the innermost. */
#include "pair.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>

#define DEPTH 4

static int sets[DEPTH]; /* each has the one before, the first has b */

static void
add(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e;

	memset(&e, 0, sizeof(e));
	e.events = events;
	e.data.u64 = data;
	OK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
}

static int
told(int set, int timeout, struct epoll_event *e)
{
	return (int)OK(epoll_wait(set, e, 4, timeout));
}

static void
open_sets(int netmap_first)
{
	int i;

	open_two();
	for (i = 0; i < DEPTH; i++)
		sets[i] = (int)OK(epoll_create1(EPOLL_CLOEXEC));
	if (netmap_first)
		add(sets[0], b.fd, EPOLLIN, 100);
	for (i = 1; i < DEPTH; i++)
		add(sets[i], sets[i - 1], EPOLLIN, (uint64_t)i);
	if (!netmap_first)
		add(sets[0], b.fd, EPOLLIN, 100);
}

static void
close_sets(void)
{
	int i;

	for (i = 0; i < DEPTH; i++)
		OK(close(sets[i]));
	close_two();
	CHECK(!exists("valeA:x"));
}

/* From every depth, by every wait; in whichever order they were put together. */
static void
depths(void)
{
	struct epoll_event e[4];
	struct timeval v;
	pthread_t late;
	fd_set in;
	int i, first;

	for (first = 0; first < 2; first++) {
		open_sets(first);
		for (i = 0; i < DEPTH; i++) {
			CHECK(told(sets[i], 0, e) == 0 && poll_one(sets[i], POLLIN, 0) == 0);
			late = send_late((uint32_t)i);
			CHECK(told(sets[i], NEVER, e) == 1 && e[0].events == EPOLLIN);
			CHECK(e[0].data.u64 == (uint64_t)(i ? i : 100));
			/* As long as there is something. */
			CHECK(told(sets[i], 0, e) == 1 && poll_one(sets[i], POLLIN, 0) == POLLIN);
			CHECK(take(rx(&b, 0)) == i);
			CHECK(told(sets[i], 0, e) == 0);
			join(late);

			late = send_late(50);
			CHECK(poll_one(sets[i], POLLIN, NEVER) == POLLIN && take(rx(&b, 0)) == 50);
			join(late);
			late = send_late(51);
			FD_ZERO(&in);
			FD_SET(sets[i], &in);
			v = (struct timeval){ NEVER / 1000, 0 };
			CHECK(OK(select(sets[i] + 1, &in, NULL, NULL, &v)) == 1 && take(rx(&b, 0)) == 51);
			join(late);
		}
		/* A wait sends for whom nobody else does. */
		add(sets[1], a.fd, EPOLLIN, 7);
		CHECK(queue(tx(&a, 0), 60, 60));
		CHECK(told(sets[DEPTH - 1], NEVER, e) == 1 && take(rx(&b, 0)) == 60);
		close_sets();
	}
}

/* Ordinary descriptors beside and below: each set is told of once. */
static void
mixed(void)
{
	struct epoll_event e[4];
	uint64_t one = 1;
	int event = (int)OK(eventfd(0, EFD_NONBLOCK)), other = (int)OK(eventfd(0, EFD_NONBLOCK));

	open_sets(1);
	add(sets[0], event, EPOLLIN, 101);
	add(sets[2], other, EPOLLIN, 102);
	OK(write(event, &one, 8));
	CHECK(told(sets[2], NEVER, e) == 1 && e[0].data.u64 == 2);
	send_one(&a, 1);
	CHECK(told(sets[2], NEVER, e) == 1 && e[0].data.u64 == 2 && e[0].events == EPOLLIN);
	CHECK(told(sets[0], NEVER, e) == 2);
	OK(write(other, &one, 8));
	CHECK(told(sets[2], NEVER, e) == 2 && told(sets[3], NEVER, e) == 1);
	OK(read(event, &one, 8));
	CHECK(told(sets[2], NEVER, e) == 2);
	CHECK(take(rx(&b, 0)) == 1);
	CHECK(told(sets[2], NEVER, e) == 1 && e[0].data.u64 == 102);
	OK(read(other, &one, 8));
	CHECK(told(sets[3], 0, e) == 0);
	OK(close(event));
	OK(close(other));
	close_sets();
}

/* Changed, removed, told of once, told of at edges. */
static void
changes(void)
{
	struct epoll_event e[4], set;
	uint64_t one = 1;
	int event = (int)OK(eventfd(0, EFD_NONBLOCK));

	open_sets(1);
	add(sets[0], event, EPOLLIN, 101);
	memset(&set, 0, sizeof(set));
	set.events = EPOLLIN | EPOLLONESHOT;
	set.data.u64 = 9;
	OK(epoll_ctl(sets[1], EPOLL_CTL_MOD, sets[0], &set));
	send_one(&a, 1);
	CHECK(told(sets[1], NEVER, e) == 1 && e[0].data.u64 == 9);
	OK(write(event, &one, 8));
	CHECK(told(sets[1], 0, e) == 0 && told(sets[3], 0, e) == 0);
	/* By the other half first. */
	CHECK(take(rx(&b, 0)) == 1);
	OK(epoll_ctl(sets[1], EPOLL_CTL_MOD, sets[0], &set));
	CHECK(told(sets[1], NEVER, e) == 1);
	send_one(&a, 2);
	CHECK(told(sets[1], 0, e) == 0);
	OK(read(event, &one, 8));

	set.events = EPOLLIN | EPOLLET;
	OK(epoll_ctl(sets[1], EPOLL_CTL_MOD, sets[0], &set));
	CHECK(told(sets[1], NEVER, e) == 1 && told(sets[1], 0, e) == 0);
	send_one(&a, 3);
	CHECK(told(sets[1], NEVER, e) == 1 && told(sets[1], 0, e) == 0);
	CHECK(take(rx(&b, 0)) == 2 && take(rx(&b, 0)) == 3);

	OK(epoll_ctl(sets[1], EPOLL_CTL_DEL, sets[0], NULL));
	FAILS(epoll_ctl(sets[1], EPOLL_CTL_DEL, sets[0], NULL), ENOENT);
	send_one(&a, 4);
	CHECK(told(sets[1], 0, e) == 0 && told(sets[0], NEVER, e) == 1);
	FAILS(epoll_ctl(sets[1], EPOLL_CTL_ADD, sets[1], &set), EINVAL);
	/* A member that was closed is none any more. */
	set.events = EPOLLIN;
	OK(epoll_ctl(sets[1], EPOLL_CTL_ADD, sets[0], &set));
	CHECK(told(sets[1], NEVER, e) == 1);
	OK(close(sets[0]));
	CHECK(told(sets[1], 0, e) == 0);
	sets[0] = (int)OK(epoll_create1(0));
	OK(close(event));
	close_sets();
}

/* A descriptor that comes from elsewhere: it may be in a set before anybody knows what it is. */
static void
known_later(void)
{
	struct epoll_event e[4];
	struct port copy;
	pthread_t late;

	open_sets(0);
	copy = b;
	copy.fd = (int)OK(syscall(SYS_dup, b.fd));
	OK(epoll_ctl(sets[0], EPOLL_CTL_DEL, b.fd, NULL));
	add(sets[0], copy.fd, EPOLLIN, 200);
	map_port(&copy);
	late = send_late(5);
	CHECK(told(sets[3], NEVER, e) == 1 && e[0].data.u64 == 3);
	CHECK(told(sets[0], NEVER, e) == 1 && e[0].data.u64 == 200 && e[0].events == EPOLLIN);
	CHECK(take(rx(&b, 0)) == 5);
	CHECK(told(sets[0], 0, e) == 0 && told(sets[3], 0, e) == 0);
	join(late);
	OK(close(copy.fd));
	OK(munmap(copy.mem, copy.reg.nr_memsize));
	close_sets();
}

/* What `kept` starts: it has sets by number. */
static void
inherited(void)
{
	struct epoll_event e[4];
	int set = atoi(arguments[3]), fd = atoi(arguments[4]);

	CHECK(told(set, NEVER, e) == 1 && e[0].data.u64 == DEPTH - 1);
	OK(ioctl(fd, NIOCRXSYNC, NULL));
}

/* Sets are kept across exec, with what is in them. */
static void
kept(void)
{
	char set[12], fd[12];
	pid_t child;
	int i;

	open_sets(1);
	for (i = 0; i < DEPTH; i++)
		OK(fcntl(sets[i], F_SETFD, 0));
	child = (pid_t)OK(fork());
	if (child == 0) {
		snprintf(set, sizeof(set), "%d", sets[DEPTH - 1]);
		snprintf(fd, sizeof(fd), "%d", b.fd);
		execl("/proc/self/exe", "inherited", "inherited", legacy ? "old" : "new", set, fd, (char *)0);
		_exit(9);
	}
	usleep(50000);
	send_one(&a, 6);
	join_child(child);
	CHECK(take(rx(&b, 0)) == 6);
	close_sets();
}

CASES({ "depths", depths }, { "mixed", mixed }, { "changes", changes }, { "known_later", known_later },
    { "inherited", inherited }, { "kept", kept });
