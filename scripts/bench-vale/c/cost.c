/*
 * What a call on an ordinary descriptor costs: read of a byte, poll of one descriptor, close. Prints nanoseconds a
 * call, each the least of many batches: that is what the call costs when nobody disturbs.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 400
#define CALLS 500

static int zero, event;

static double
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void
reads(void)
{
	char byte;
	int i;

	for (i = 0; i < CALLS; i++)
		if (read(zero, &byte, 1) != 1)
			exit(1);
}

static void
polls(void)
{
	struct pollfd p = { event, POLLIN, 0 };
	int i;

	for (i = 0; i < CALLS; i++)
		if (poll(&p, 1, 0) != 0)
			exit(1);
}

static int copies[CALLS];

static double
least(void (*calls)(void))
{
	double best = 1e18;
	int i;

	for (i = 0; i < BATCHES; i++) {
		double start = now_ns();

		calls();
		start = (now_ns() - start) / CALLS;
		if (start < best)
			best = start;
	}
	return best;
}

int
main(void)
{
	double best = 1e18;
	int i, b;

	zero = open("/dev/zero", O_RDONLY);
	event = eventfd(0, 0);
	if (zero < 0 || event < 0)
		return 1;
	for (b = 0; b < BATCHES; b++) {
		double start;

		for (i = 0; i < CALLS; i++)
			if ((copies[i] = dup(zero)) < 0)
				return 1;
		start = now_ns();
		for (i = 0; i < CALLS; i++)
			close(copies[i]);
		start = (now_ns() - start) / CALLS;
		if (start < best)
			best = start;
	}
	printf("{\"read_ns\":%.2f,\"poll_ns\":%.2f,\"close_ns\":%.2f}\n", least(reads), least(polls), best);
	return 0;
}
