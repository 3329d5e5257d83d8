#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// An alias is a label on lo: an address of its own beside 127.0.0.1.
#define ADDRESS_LABEL "lo:1"

static int open_socket(struct error *error)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		error_system(error, errno, "opening a socket to set up lo");
	return fd;
}

int net_loopback_up(struct error *error)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = open_socket(error);
	int result = 0;

	if (fd < 0)
		return -1;
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		result = error_system(error, errno, "reading the state of lo");
	request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
	if (result == 0 && ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		result = error_system(error, errno, "bringing lo up");
	close(fd);
	return result;
}

static void set_address(struct ifreq *request, in_addr_t address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {address}};
	memcpy(&request->ifr_addr, &in, sizeof in);
}

int net_add_address(const char *address, struct error *error)
{
	struct ifreq request = {.ifr_name = ADDRESS_LABEL};
	struct in_addr in;
	int result = 0;

	if (!*address)
		return 0;
	if (inet_pton(AF_INET, address, &in) != 1)
		return error_set(error, EINVAL, "%s is not an IPv4 address", address);
	int fd = open_socket(error);
	if (fd < 0)
		return -1;
	set_address(&request, in.s_addr);
	if (ioctl(fd, SIOCSIFADDR, &request) < 0)
		result = error_system(error, errno, "adding %s to lo", address);
	set_address(&request, htonl(INADDR_BROADCAST));
	if (result == 0 && ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		result = error_system(error, errno, "setting the mask of %s on lo", address);
	close(fd);
	return result;
}
