/*
 * What programs take from net/netmap_user.h without including it themselves: of interfaces, as libpcap does; of stdio, signals
 * and their kin, with NETMAP_WITH_LIBS; and the words in which programs of netmap's kind talk.
 */
#define NETMAP_WITH_LIBS
#include <net/netmap_user.h>

int
main(void)
{
	struct ifreq request;
	struct sockaddr address;
	struct timeval now;
	int i;

	memset(&request, 0, sizeof(request));
	memset(&address, 0, sizeof(address));
	request.ifr_flags = IFF_PROMISC;
	strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
	if (unlikely(signal(SIGPIPE, SIG_IGN) == SIG_ERR) || !likely(gettimeofday(&now, NULL) == 0))
		exit(1);
	D("%s and %d", request.ifr_name, request.ifr_flags);
	D("alone");
	for (i = 0; i < 1000; i++)
		RD(2, "of %d", i);
	ND("never %d", i);
	fflush(stderr);
	return address.sa_family == AF_UNSPEC ? 0 : EINVAL;
}
