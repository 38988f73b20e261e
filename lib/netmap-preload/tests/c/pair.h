/* Two ports of one switch, and a packet from the one to the other that comes while somebody sleeps. */
#ifndef PAIR_H
#define PAIR_H

#include "client.h"

static struct port a, b;

static void UNUSED
open_two(void)
{
	a = open_port("valeA:x");
	b = open_port("valeA:y");
}

static void UNUSED
close_two(void)
{
	close_port(&a);
	close_port(&b);
}

static uint32_t late_number;

static void *
late_sender(void *arg)
{
	(void)arg;
	usleep(50000); /* so that the receiver sleeps already, most likely; right it must be either way */
	send_one(&a, late_number);
	return NULL;
}

/* Sends from a thread of its own, after the main thread has had time to sleep. */
static pthread_t UNUSED
send_late(uint32_t number)
{
	pthread_t thread;

	late_number = number;
	CHECK(pthread_create(&thread, NULL, late_sender, NULL) == 0);
	return thread;
}

static void UNUSED
join(pthread_t thread)
{
	CHECK(pthread_join(thread, NULL) == 0);
}

#endif
