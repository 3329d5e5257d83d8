#include "connect.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "resolve.h"

enum { MAX_PORT = 65535 };

static int open_socket(int family, struct error *error)
{
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		error_system(error, errno, "making a socket");
	return fd;
}

// Takes over `fd`: the socket, or -1.
static int begin(int fd, const void *address, socklen_t size, const char *name, struct error *error)
{
	if (fd < 0)
		return -1;
	if (connect(fd, address, size) == 0 || errno == EINPROGRESS)
		return fd;
	error_system(error, errno, "%s", name);
	close(fd);
	return -1;
}

static int connect_address(const char *address, uint32_t port, struct error *error)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};

	if (inet_pton(AF_INET, address, &in.sin_addr) == 1)
		return begin(open_socket(AF_INET, error), &in, sizeof in, address, error);
	if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
		return begin(open_socket(AF_INET6, error), &in6, sizeof in6, address, error);
	return error_set(error, EINVAL, "%s is not an address", address);
}

// The path is looked up beneath the root, without magic links; what was found is then named by our descriptor of it,
// which may be as long as it likes and cannot become something else meanwhile.
static int connect_path(const char *path, struct error *error)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int root = resolve_root(error);

	if (root < 0)
		return -1;
	int found = resolve_open(root, path, O_PATH);
	int number = errno;
	close(root);
	if (found < 0)
		return error_system(error, number, "%s", path);
	snprintf(un.sun_path, sizeof un.sun_path, "/proc/self/fd/%d", found);
	int fd = begin(open_socket(AF_UNIX, error), &un, sizeof un, path, error);
	close(found);
	return fd;
}

void connect_start(struct request *request)
{
	const struct packet *packet = &request->packet;
	const char *cursor = packet->strings;
	uint32_t port = packet->arguments[0];
	struct error error;

	control_require(request, KIND_CONNECT, 1, 0);
	if (port > MAX_PORT)
		control_die(EXIT_PROTOCOL, "the daemon asked for port %u", port);
	const char *name = packet_next(packet, &cursor);
	int fd = port ? connect_address(name, port, &error) : connect_path(name, &error);
	if (fd < 0)
		control_failed(packet->id, &error);
	else
		control_reply(KIND_DONE, packet->id, 0, NULL, fd);
}
