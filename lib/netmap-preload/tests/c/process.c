/* One descriptor, many processes: dup, fork, vfork and exec, descriptors passed on, death. */
#include "client.h"

#include <sys/prctl.h>
#include <sys/un.h>

/* Copies by all ways there are: each is the port, until the last one is closed. */
static void
copies(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	int fds[5], i;

	fds[0] = (int)OK(dup(a.fd));
	fds[1] = (int)OK(dup2(a.fd, 200));
	fds[2] = (int)OK(dup3(a.fd, 201, O_CLOEXEC));
	fds[3] = (int)OK(fcntl(a.fd, F_DUPFD, 300));
	fds[4] = (int)OK(fcntl(a.fd, F_DUPFD_CLOEXEC, 301));
	CHECK(fds[1] == 200 && fds[2] == 201 && fds[3] >= 300);
	CHECK(fcntl(fds[2], F_GETFD) == FD_CLOEXEC && fcntl(fds[1], F_GETFD) == 0);
	for (i = 0; i < 5; i++) {
		CHECK(queue(tx(&a, 0), 60, (uint32_t)i));
		if (i % 2)
			OK(ioctl(fds[i], NIOCTXSYNC, NULL));
		else
			CHECK(poll_one(fds[i], POLLIN, 0) == 0);
		receive_one(&b, (uint32_t)i);
	}
	/* Any of them can be mapped, and none can be bound again. */
	struct port copy = a;
	copy.fd = fds[3];
	map_port(&copy);
	CHECK(tx(&copy, 0)->head == tx(&a, 0)->head);
	FAILS(bind_port(fds[3], &(struct wish){ .name = "valeA:z" }, &copy.reg), EBUSY);
	OK(close(a.fd));
	for (i = 0; i < 5; i++) {
		CHECK(exists("valeA:x"));
		if (i < 4)
			OK(close(fds[i]));
	}
	copy.fd = fds[4];
	send_one(&copy, 9);
	receive_one(&b, 9);
	/* A dup2 onto the last one closes it. */
	OK(dup2(b.fd, fds[4]));
	CHECK(!exists("valeA:x"));
	OK(close(fds[4]));
	close_port(&b);
}

/* Parent and child use one descriptor, the child after the parent closed it, too. */
static void
forks(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	pid_t child;
	uint32_t i;
	int go[2];
	char c;

	OK(pipe(go));
	for (i = 0; i < 10; i++) {
		child = (pid_t)OK(fork());
		if (child == 0) {
			send_one(&a, i);
			exit(0);
		}
		receive_one(&b, i);
		join_child(child);
	}
	send_one(&a, 50);
	receive_one(&b, 50);

	child = (pid_t)OK(fork());
	if (child == 0) {
		CHECK(read(go[0], &c, 1) == 1);
		/* It waits here, for what the parent sends through another port. */
		CHECK(poll_one(a.fd, POLLIN, NEVER) == POLLIN && take(rx(&a, 0)) == 60);
		send_one(&a, 61);
		exit(0);
	}
	OK(close(a.fd));
	CHECK(exists("valeA:x"));
	OK(write(go[1], "g", 1));
	send_one(&b, 60);
	receive_one(&b, 61);
	join_child(child);
	CHECK(!exists("valeA:x"));

	/* A child's own port. */
	child = (pid_t)OK(fork());
	if (child == 0) {
		struct port c2 = open_port("valeA:child");
		send_one(&c2, 70);
		close_port(&c2);
		exit(0);
	}
	receive_one(&b, 70);
	join_child(child);
	close_port(&b);
}

static volatile int stop;

static void *
busy(void *arg)
{
	struct port *p = arg;

	while (!stop) {
		poll_one(p->fd, POLLIN, 0);
		rxsync(p);
		txsync(p);
	}
	return NULL;
}

/* A fork while other threads are within the library. */
static void
forks_of_threads(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	pthread_t threads[3];
	int i;

	for (i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, busy, &a) == 0);
	for (i = 0; i < 20; i++) {
		pid_t child = (pid_t)OK(fork());

		if (child == 0) {
			struct port own = open_port("valeA:own");

			txsync(&a);
			poll_one(a.fd, POLLIN, 0);
			send_one(&own, 5);
			close_port(&own);
			OK(close(a.fd));
			exit(0);
		}
		receive_one(&b, 5);
		join_child(child);
		stop = i == 19;
		CHECK(exists("valeA:x"));
		/* The busy threads take what was flooded to their port, too. */
		while (take(rx(&a, 0)) != -1)
			;
	}
	for (i = 0; i < 3; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	send_one(&a, 6);
	receive_one(&b, 6);
	close_port(&a);
	close_port(&b);
}

/* What `execs` starts: it has a descriptor by number, and where its structures are. */
static void
inherited(void)
{
	struct port p;

	memset(&p, 0, sizeof(p));
	p.fd = atoi(arguments[3]);
	p.reg.nr_offset = strtoull(arguments[4], NULL, 0);
	p.reg.nr_memsize = strtoull(arguments[5], NULL, 0);
	/* A wait may be the first that it does with it. */
	CHECK(poll_one(p.fd, POLLOUT, NEVER) == POLLOUT);
	map_port(&p);
	send_one(&p, 80);
	CHECK(poll_one(p.fd, POLLIN, NEVER) == POLLIN && take(rx(&p, 0)) == 81);
	send_one(&p, 82);
	close_port(&p);
}

/* Starts this program again, in place of a child, with a copy of p. */
#define EXEC(p) \
	execl("/proc/self/exe", "inherited", "inherited", legacy ? "old" : "new", number(0, (uint64_t)(p).fd), \
	    number(1, (p).reg.nr_offset), number(2, (p).reg.nr_memsize), (char *)0)

static char *
number(int which, uint64_t n)
{
	static char text[3][30];

	snprintf(text[which], sizeof(text[which]), "%llu", (unsigned long long)n);
	return text[which];
}

static void
with_inherited(struct port *a, struct port *b, pid_t child)
{
	OK(child);
	receive_one(b, 80);
	send_one(b, 81);
	receive_one(b, 82);
	join_child(child);
	CHECK(exists("valeA:x"));
	send_one(a, 83);
	receive_one(b, 83);
}

static void
execs(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	pid_t child = fork();

	if (child == 0) {
		close(b.fd);
		EXEC(a);
		_exit(9);
	}
	with_inherited(&a, &b, child);
	close_port(&a);
	close_port(&b);
}

/* A vfork child shares all memory: its close must not make the parent forget. */
static void
vforks(void)
{
	struct port a = open_port("valeA:x"), b = open_port("valeA:y");
	pid_t child = vfork();

	if (child == 0) {
		close(b.fd);
		EXEC(a);
		_exit(9);
	}
	with_inherited(&a, &b, child);
	/* A child that fails to exec. */
	child = vfork();
	if (child == 0) {
		close(a.fd);
		close(b.fd);
		execl("/nonexistent", "x", (char *)0);
		_exit(0);
	}
	join_child(child);
	send_one(&a, 83);
	receive_one(&b, 83);
	close_port(&a);
	close_port(&b);
}

/* Close-on-exec is the program's to say: with it the child has nothing. */
static void
close_on_exec(void)
{
	struct port a;
	pid_t child;
	struct nmreq_register answer;

	memset(&a, 0, sizeof(a));
	a.fd = (int)OK(open(NETMAP_DEVICE_NAME, O_RDWR | O_CLOEXEC));
	CHECK(OK(fcntl(a.fd, F_GETFD)) == FD_CLOEXEC);
	OK(bind_port(a.fd, &(struct wish){ .name = "valeA:x" }, &answer));
	CHECK(OK(fcntl(a.fd, F_GETFD)) == FD_CLOEXEC);
	child = (pid_t)OK(fork());
	if (child == 0) {
		OK(close(0));
		execl("/bin/sleep", "sleep", "30", (char *)0);
		_exit(9);
	}
	/* Its exec is awaited by what closes with it. */
	OK(close(a.fd));
	int64_t end = now_us() + NEVER * 1000ll;
	while (exists("valeA:x")) {
		CHECK(now_us() < end);
		usleep(1000);
	}
	OK(kill(child, SIGKILL));
	OK(waitpid(child, NULL, 0));
	a.fd = open_device();
	CHECK(OK(fcntl(a.fd, F_GETFD)) == 0);
	OK(close(a.fd));
}

/* ---- a server that registers, and clients that do nothing but map and sync ---- */

static void
send_descriptor(int socket, int fd, const struct nmreq_register *reg)
{
	struct iovec io = { (void *)(uintptr_t)reg, sizeof(*reg) };
	char control[CMSG_SPACE(sizeof(int))];
	struct msghdr m;
	struct cmsghdr *c;

	memset(&m, 0, sizeof(m));
	memset(control, 0, sizeof(control));
	m.msg_iov = &io;
	m.msg_iovlen = 1;
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	CHECK(OK(sendmsg(socket, &m, 0)) == (long)sizeof(*reg));
}

static struct port
receive_descriptor(int socket)
{
	struct port p;
	struct iovec io = { &p.reg, sizeof(p.reg) };
	char control[CMSG_SPACE(sizeof(int))];
	struct msghdr m;

	memset(&p, 0, sizeof(p));
	memset(&m, 0, sizeof(m));
	m.msg_iov = &io;
	m.msg_iovlen = 1;
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	CHECK(OK(recvmsg(socket, &m, 0)) == (long)sizeof(p.reg));
	CHECK(CMSG_FIRSTHDR(&m) != NULL && CMSG_FIRSTHDR(&m)->cmsg_type == SCM_RIGHTS);
	memcpy(&p.fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return p;
}

#define SERVED 24

static int
serve(int listener)
{
	struct port ports[SERVED];
	int i;
	char name[16];

	for (i = 0; i < SERVED; i++) {
		snprintf(name, sizeof(name), "valeA:p%d", i);
		ports[i].fd = open_device();
		OK(bind_port(ports[i].fd, &(struct wish){ .name = name, .slots = 128 }, &ports[i].reg));
	}
	for (;;) {
		int client = (int)OK(accept(listener, NULL, NULL));
		unsigned char which;

		if (read(client, &which, 1) == 1) {
			/* 255: it ends as it is, with all its descriptors open. */
			if (which == 255)
				exit(0);
			send_descriptor(client, ports[which].fd, &ports[which].reg);
		}
		OK(close(client));
	}
}

static struct sockaddr_un address = { .sun_family = AF_UNIX };

static struct port
ask(unsigned char which)
{
	int s = (int)OK(socket(AF_UNIX, SOCK_STREAM, 0));
	struct port p;

	OK(connect(s, (struct sockaddr *)&address, sizeof(address)));
	OK(write(s, &which, 1));
	p = receive_descriptor(s);
	OK(close(s));
	return p;
}

/* A program that was started for it: it never opens the device. */
static void
served_client(void)
{
	struct port p, q;

	strncpy(address.sun_path, arguments[3], sizeof(address.sun_path) - 1);
	p = ask((unsigned char)atoi(arguments[4]));
	map_port(&p);
	send_one(&p, (uint32_t)atoi(arguments[5]));
	if (strcmp(arguments[6], "stay") == 0) {
		/* Until it is killed, with a packet queued. */
		CHECK(queue(tx(&p, 0), 60, 1));
		for (;;)
			pause();
	}
	/* Another of the server's, in the same process. */
	q = ask((unsigned char)(atoi(arguments[4]) + 1));
	map_port(&q);
	rxsync(&q);
	txsync(&q);
	close_port(&q);
	close_port(&p);
}

static pid_t
start_client(int which, int number, const char *what)
{
	pid_t child = (pid_t)OK(fork());
	char w[12], n[12];

	if (child)
		return child;
	snprintf(w, sizeof(w), "%d", which);
	snprintf(n, sizeof(n), "%d", number);
	execl("/proc/self/exe", "client", "served_client", legacy ? "old" : "new", address.sun_path, w, n, what, (char *)0);
	_exit(9);
}

static void
descriptor_server(void)
{
	struct port here, all;
	pid_t server, client;
	int listener = (int)OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), i;
	unsigned char end = 255;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/server", getenv("CLIENT_DIR"));
	OK(bind(listener, (struct sockaddr *)&address, sizeof(address)));
	OK(listen(listener, 8));
	server = (pid_t)OK(fork());
	if (server == 0) {
		/* A test that fails leaves nobody behind who keeps its output open. */
		OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
		serve(listener);
	}
	OK(close(listener));
	here = ask(0);
	map_port(&here);
	all = open_port("valeA:all");

	for (i = 0; i < 30; i++) {
		client = start_client(i % (SERVED - 1), 1000 + i, "go");
		receive_one(&all, 1000u + (uint32_t)i);
		join_child(client);
		if (i % 5 == 0) {
			client = start_client(3, 2000 + i, "stay");
			receive_one(&all, 2000u + (uint32_t)i);
			OK(kill(client, SIGKILL));
			OK(waitpid(client, NULL, 0));
			/* What it may have queued is sent by whoever syncs that port next. */
			struct port next = ask(3);

			map_port(&next);
			txsync(&next);
			close_port(&next);
			rxsync(&all);
			while (take(rx(&all, 0)) != -1)
				;
		}
		/* A client's end is no port's end. */
		CHECK(exists("valeA:p3") && exists("valeA:p0"));
	}
	rxsync(&here);
	CHECK(!nm_ring_empty(rx(&here, 0)));

	/* The server goes; what somebody holds stays, and works. */
	i = (int)OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(connect(i, (struct sockaddr *)&address, sizeof(address)));
	OK(write(i, &end, 1));
	join_child(server);
	OK(close(i));
	CHECK(exists("valeA:p0") && !exists("valeA:p3"));
	send_one(&here, 9);
	receive_one(&all, 9);
	close_port(&here);
	CHECK(!exists("valeA:p0"));
	close_port(&all);
}

/* Who may not enter the root can do nothing with a descriptor of it. */
static void
stranger(void)
{
	struct port a;
	pid_t child;
	int pair[2];

	if (geteuid() != 0) {
		printf("SKIP: it needs root, to become somebody else\n");
		return;
	}
	a = open_port("valeA:x");
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	child = (pid_t)OK(fork());
	if (child == 0) {
		struct port p;

		OK(close(a.fd));
		OK(setgid(65534));
		OK(setuid(65534));
		p = receive_descriptor(pair[1]);
		FAILS(ioctl(p.fd, NIOCTXSYNC, NULL), EACCES);
		errno = 0;
		CHECK(mmap(NULL, p.reg.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, p.fd, 0) == MAP_FAILED);
		CHECK(errno == EACCES);
		exit(0);
	}
	send_descriptor(pair[0], a.fd, &a.reg);
	join_child(child);
	send_one(&a, 1);
	close_port(&a);
}

/* Killed at any time, a program leaves no port, and the name is free. */
static void
killed(void)
{
	struct port b = open_port("valeA:y");
	int i;

	for (i = 0; i < 15; i++) {
		int ready[2];
		pid_t child;
		char c;

		OK(pipe(ready));
		child = (pid_t)OK(fork());
		if (child == 0) {
			struct port a = open_wish((struct wish){ .name = "valeA:x", .flags = NR_EXCLUSIVE, .extra = 5 });
			uint32_t n = 0;

			OK(write(ready[1], "r", 1));
			for (;;) {
				while (queue(tx(&a, 0), 60, n))
					n++;
				poll_one(a.fd, POLLOUT, 0);
			}
		}
		OK(close(ready[1]));
		CHECK(read(ready[0], &c, 1) == 1);
		usleep((useconds_t)(i * 300));
		OK(kill(child, SIGKILL));
		OK(waitpid(child, NULL, 0));
		OK(close(ready[0]));
		CHECK(!exists("valeA:x"));
		rxsync(&b);
		while (take(rx(&b, 0)) != -1)
			;
	}
	rxsync(&b);
	while (take(rx(&b, 0)) != -1)
		rxsync(&b);
	struct port a = open_port("valeA:x");
	send_one(&a, 3);
	receive_one(&b, 3);
	close_port(&a);
	close_port(&b);
}

CASES({ "copies", copies }, { "forks", forks }, { "forks_of_threads", forks_of_threads }, { "execs", execs },
    { "vforks", vforks }, { "inherited", inherited }, { "close_on_exec", close_on_exec },
    { "descriptor_server", descriptor_server }, { "served_client", served_client }, { "stranger", stranger },
    { "killed", killed });
