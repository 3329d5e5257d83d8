#include "control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, REPLY_BYTES = PACKET_HEADER_BYTES + ERROR_TEXT_BYTES };

// One byte more than a packet may have, so that an oversized one is seen and not cut to fit.
static char incoming[PACKET_MAX_BYTES + PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static size_t incoming_size;

static struct {
	char bytes[REPLY_BYTES];
	size_t size; // 0: no reply is waiting
	int fd;
} waiting;

void control_die(int code, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("tfnz-init: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	_exit(code);
}

static void take_fds(struct msghdr *message, struct request *request)
{
	request->fd_count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t bytes = c->cmsg_len - CMSG_LEN(0);
		request->fd_count = (int)(bytes / sizeof(int));
		memcpy(request->fds, CMSG_DATA(c), bytes);
	}
}

bool control_receive(struct request *request, bool wait)
{
	union {
		char bytes[CMSG_SPACE(PACKET_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} ancillary;
	struct iovec vector = {incoming, PACKET_MAX_BYTES + 1};
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = ancillary.bytes,
		.msg_controllen = sizeof ancillary.bytes,
	};
	ssize_t size;

	do
		size = recvmsg(CONTROL_FD, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
	while (size < 0 && errno == EINTR);
	if (size < 0 && errno == EAGAIN)
		return false;
	// A daemon that is gone takes the container with it, as agreed.
	if (size == 0 || (size < 0 && errno == ECONNRESET))
		_exit(0);
	if (size < 0)
		control_die(EXIT_PROTOCOL, "receiving from the daemon: %s", strerror(errno));
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		control_die(EXIT_PROTOCOL, "a packet from the daemon, or its descriptors, were cut off");
	take_fds(&message, request);
	incoming_size = (size_t)size;
	if (packet_parse(incoming, incoming_size, &request->packet) < 0)
		control_die(EXIT_PROTOCOL, "a packet of %zd bytes from the daemon is malformed", size);
	return true;
}

void control_release(struct request *request)
{
	for (int i = 0; i < request->fd_count; i++)
		if (request->fds[i] >= 0)
			close(request->fds[i]);
	request->fd_count = 0;
	explicit_bzero(incoming, incoming_size < PAGE_BYTES ? incoming_size : PAGE_BYTES);
	// Give large buffers back: hundreds of idle inits share a machine.
	if (incoming_size > PAGE_BYTES)
		madvise(incoming + PAGE_BYTES, PACKET_MAX_BYTES, MADV_DONTNEED);
	incoming_size = 0;
}

void control_require(const struct request *request, uint32_t kind, uint32_t strings, int fds)
{
	const struct packet *packet = &request->packet;
	if (packet->kind != kind)
		control_die(EXIT_PROTOCOL, "the daemon sent packet kind %u, expected %u", packet->kind, kind);
	if (packet->string_count != strings || request->fd_count != fds)
		control_die(EXIT_PROTOCOL, "packet kind %u has %u strings and %d descriptors, expected %u and %d", kind,
			    packet->string_count, request->fd_count, strings, fds);
}

static bool send_packet(const char *bytes, size_t size, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ancillary = {0};
	struct iovec vector = {(void *)(uintptr_t)bytes, size};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = ancillary.bytes;
		message.msg_controllen = sizeof ancillary.bytes;
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(header), &fd, sizeof fd);
	}
	for (;;) {
		if (sendmsg(CONTROL_FD, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return true;
		if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS)
			return false;
		if (errno == EPIPE || errno == ECONNRESET)
			_exit(0);
		if (errno != EINTR)
			control_die(EXIT_PROTOCOL, "sending to the daemon: %s", strerror(errno));
	}
}

void control_flush(void)
{
	if (!waiting.size || !send_packet(waiting.bytes, waiting.size, waiting.fd))
		return;
	waiting.size = 0;
	if (waiting.fd >= 0)
		close(waiting.fd);
}

bool control_is_full(void)
{
	return waiting.size > 0;
}

void control_reply(uint32_t kind, uint32_t id, uint32_t argument, const char *text, int fd)
{
	waiting.size = packet_build(waiting.bytes, sizeof waiting.bytes, kind, id, argument, text);
	waiting.fd = fd;
	control_flush();
}

void control_done(uint32_t id)
{
	control_reply(KIND_DONE, id, 0, NULL, -1);
}

void control_failed(uint32_t id, const struct error *error)
{
	control_reply(KIND_FAILED, id, (uint32_t)error->number, error->text, -1);
}

bool control_report(uint32_t kind, uint32_t id, uint32_t argument)
{
	char bytes[PACKET_HEADER_BYTES];
	if (waiting.size)
		return false;
	return send_packet(bytes, packet_build(bytes, sizeof bytes, kind, id, argument, NULL), -1);
}
