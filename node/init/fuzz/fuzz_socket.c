// Init's socket: the service loop of PID 1 as it is, on a real socket, with any packets, descriptors and ends of
// processes in any order.
//
// The Makefile renames what would act on the world (fork, kill, _exit, ...); those are here, and so is what the loop asks
// of the parts that mount and write. An input is a list of steps; `poll` takes the next one whenever the loop waits.
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/wait.h>

#include "control.h"

static const struct request *current; // what the loop has received last

static bool receive_and_note(struct request *request, bool wait)
{
	current = request;
	return control_receive(request, wait);
}

int main(int argc, char *argv[]); // renamed, it needs a prototype

#define control_receive receive_and_note
#include "../main.c"
#undef control_receive

#include "../tests/check.h"
#include "devices.h"
#include "fuzz.h"
#include "secret.h"
#include "socket.h"

enum step { STEP_BYTES, STEP_PACKET, STEP_END, STEP_LISTEN, STEPS };
enum { MAX_CHILDREN = 256, FIRST_PID = 1000, SMALL_BUFFER = 2304, MAX_SENT_FDS = 12, MAX_LEAK = 32 };

static const uint8_t *input;
static size_t left;
static int daemon_end = -1, spare = -1;
static jmp_buf over;
static int exit_code;
static bool hung_up;

static struct {
	bool ended, reaped, reported, kept;
	uint32_t id;
} children[MAX_CHILDREN];
static unsigned child_count;

static uint8_t next_byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

// --- the daemon's end

static unsigned find_ended(uint32_t id, bool again)
{
	unsigned i = 0;
	while (i < child_count && (children[i].id != id || !children[i].ended || children[i].reported != again ||
				   (again && !children[i].kept)))
		i++;
	return i;
}

static void check_reply(const struct packet *packet, bool has_fd)
{
	switch (packet->kind) {
	case KIND_STARTED:
	case KIND_DONE:
		CHECK(packet->string_count == 0);
		break;
	case KIND_FAILED:
		CHECK(packet->string_count == 1 && packet->arguments[0] != 0 && !has_fd);
		break;
	case KIND_EXITED: {
		// Of a process that has ended, and once, or again of one that is kept.
		unsigned i = find_ended(packet->id, false);
		if (i == child_count)
			i = find_ended(packet->id, true);
		CHECK(i < child_count && !has_fd);
		children[i].reported = true;
		break;
	}
	case KIND_RUNS: {
		unsigned i = 0;
		while (i < child_count && children[i].id != packet->id)
			i++;
		CHECK(i < child_count && !has_fd && packet->string_count == 0);
		break;
	}
	case KIND_RESYNCED:
	case KIND_LISTED:
		CHECK(!has_fd && packet->string_count == 0);
		break;
	default:
		CHECK(false);
	}
}

static bool hear_one(void)
{
	static char bytes[PACKET_MAX_BYTES];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ancillary;
	struct iovec vector = {bytes, sizeof bytes};
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = ancillary.bytes,
		.msg_controllen = sizeof ancillary.bytes,
	};
	struct packet packet;
	ssize_t size = recvmsg(daemon_end, &message, MSG_DONTWAIT);

	if (size <= 0)
		return false;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header)
		close(*(int *)(void *)CMSG_DATA(header));
	CHECK(!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	CHECK(packet_parse(bytes, (size_t)size, &packet) == 0);
	check_reply(&packet, header != NULL);
	return true;
}

static void send_bytes(const void *bytes, size_t size, int fds)
{
	union {
		char bytes[CMSG_SPACE(MAX_SENT_FDS * sizeof(int))];
		struct cmsghdr align;
	} ancillary = {0};
	struct iovec vector = {(void *)(uintptr_t)bytes, size};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

	if (fds > 0) {
		message.msg_control = ancillary.bytes;
		message.msg_controllen = CMSG_SPACE((size_t)fds * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN((size_t)fds * sizeof(int));
		for (int i = 0; i < fds; i++)
			memcpy(CMSG_DATA(header) + (size_t)i * sizeof(int), &spare, sizeof spare);
	}
	CHECK(sendmsg(daemon_end, &message, MSG_NOSIGNAL) == (ssize_t)size);
}

// Any bytes at all.
static void send_raw(void)
{
	int fds = next_byte() % (MAX_SENT_FDS + 1);
	size_t size = next_byte();

	size |= (size_t)next_byte() << 8;
	if (size > left)
		size = left;
	send_bytes(input, size, fds);
	input += size;
	left -= size;
}

// A packet whose header is right: kind, id, arguments and as many strings as there are in the bytes that follow.
static void send_formed(void)
{
	static char bytes[PACKET_HEADER_BYTES + 65536];
	uint32_t header[10] = {PACKET_MAGIC};
	int fds = next_byte() % (MAX_SENT_FDS + 1);

	for (int i = 1; i < 9; i++)
		header[i] = next_byte();
	header[3 + next_byte() % PACKET_ARGUMENTS] |= (uint32_t)next_byte() << 24;
	size_t size = next_byte();
	if (size > left)
		size = left;
	memcpy(bytes + PACKET_HEADER_BYTES, input, size);
	input += size;
	left -= size;
	if (size && bytes[PACKET_HEADER_BYTES + size - 1] != '\0')
		bytes[PACKET_HEADER_BYTES + size++] = '\0';
	for (size_t i = 0; i < size; i++)
		header[9] += bytes[PACKET_HEADER_BYTES + i] == '\0';
	memcpy(bytes, header, sizeof header);
	send_bytes(bytes, PACKET_HEADER_BYTES + size, fds);
}

// --- what is renamed

int poll(struct pollfd *polled, nfds_t count, int timeout)
{
	CHECK(count == 2 && timeout == -1 && polled[0].fd == CONTROL_FD);
	polled[0].revents = polled[1].revents = 0;
	if (polled[0].events & POLLOUT) {
		// Init says that it has no room, and will take nothing on before it has.
		while (hear_one())
			;
		polled[0].revents = POLLOUT;
		return 1;
	}
	while (left) {
		switch (next_byte() % STEPS) {
		case STEP_BYTES:
			send_raw();
			polled[0].revents = POLLIN;
			return 1;
		case STEP_PACKET:
			send_formed();
			polled[0].revents = POLLIN;
			return 1;
		case STEP_END: {
			unsigned which = next_byte();
			if (which < child_count && !children[which].reported)
				children[which].ended = true;
			polled[1].revents = POLLIN;
			return 1;
		}
		case STEP_LISTEN:
			while (hear_one())
				;
		}
	}
	hung_up = true;
	polled[0].revents = POLLHUP;
	return 1;
}

void _exit(int code)
{
	exit_code = code;
	longjmp(over, 1);
}

pid_t fork(void)
{
	if (child_count == MAX_CHILDREN || next_byte() == 0xff) {
		errno = EAGAIN;
		return -1;
	}
	socket_read_as_child(current);
	for (unsigned i = 0; i < child_count; i++)
		CHECK(children[i].ended || children[i].id != current->packet.id); // or nobody could tell them apart
	children[child_count].id = current->packet.id;
	children[child_count].kept = current->packet.arguments[0] & RUN_KEPT;
	return FIRST_PID + (pid_t)child_count++;
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	CHECK(pid == -1 && options == WNOHANG);
	for (unsigned i = 0; i < child_count; i++)
		if (children[i].ended && !children[i].reaped) {
			children[i].reaped = true;
			*status = 0;
			return FIRST_PID + (pid_t)i;
		}
	return 0;
}

int kill(pid_t pid, int number)
{
	pid_t child = pid < 0 ? -pid : pid;
	CHECK(child >= FIRST_PID && child < FIRST_PID + (pid_t)child_count); // never 1, and never everybody
	CHECK(!children[child - FIRST_PID].reaped);                             // its number may be another's by now
	CHECK(number >= 1 && number <= SIGRTMAX);
	if (pid < 0 && next_byte() % 2) {
		errno = ESRCH;
		return -1;
	}
	return 0;
}

int sethostname(const char *name, size_t size)
{
	CHECK(strlen(name) == size);
	if (size <= 64)
		return 0;
	errno = EINVAL;
	return -1;
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	CHECK(fd >= 0 && size >= sizeof(struct sockaddr_in) && address->sa_family != AF_UNSPEC);
	static const int numbers[] = {0, EINPROGRESS, ECONNREFUSED, EAGAIN};
	errno = numbers[next_byte() % 4];
	return errno ? -1 : 0;
}

int vfprintf(FILE *stream, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

int vfprintf(FILE *stream, const char *format, va_list arguments)
{
	static char text[4096];
	CHECK(stream == stderr);
	return vsnprintf(text, sizeof text, format, arguments);
}

int fputs(const char *text, FILE *stream)
{
	CHECK(*text && stream == stderr);
	return 0;
}

int fputc(int character, FILE *stream)
{
	CHECK(character == '\n' && stream == stderr);
	return 0;
}

// --- the parts of init that mount, write and make

static int succeed_or_not(struct error *error)
{
	return next_byte() % 4 ? 0 : error_system(error, EIO, "as the input has it");
}

int net_add_address(const char *address, struct error *error)
{
	CHECK(strlen(address) < PACKET_MAX_BYTES);
	return succeed_or_not(error);
}

int sandbox_enter(int root_mount, struct error *error)
{
	CHECK(!booted && fcntl(root_mount, F_GETFD) == FD_CLOEXEC);
	return succeed_or_not(error);
}

int file_write(const struct file_request *request, struct error *error)
{
	CHECK(booted && !started && request->mode <= 07777);
	CHECK(strlen(request->path) + strlen(request->owner) < PACKET_MAX_BYTES);
	CHECK(fcntl(request->content, F_GETFD) == FD_CLOEXEC);
	return succeed_or_not(error);
}

int secret_hide(struct error *error)
{
	CHECK(booted);
	return succeed_or_not(error);
}

int devices_open_terminal(uint32_t rows, uint32_t columns, int raw, struct terminal *terminal, struct error *error)
{
	(void)rows, (void)columns, (void)raw;
	if (succeed_or_not(error) < 0)
		return -1;
	terminal->master = dup(spare);
	terminal->slave = dup(spare);
	CHECK(terminal->master >= 0 && terminal->slave >= 0);
	return 0;
}

int cgroup_enter(const struct request *request, struct error *error)
{
	(void)request;
	return error_set(error, EIO, "not here");
}

int net_loopback_up(struct error *error)
{
	return error_set(error, EIO, "not here");
}

int sandbox_unshare(bool join, uint32_t id_base, struct error *error)
{
	(void)join;
	(void)id_base;
	return error_set(error, EIO, "not here");
}

int sandbox_become_root(struct error *error)
{
	return error_set(error, EIO, "not here");
}

int sandbox_prepare(struct error *error)
{
	return error_set(error, EIO, "not here");
}

// --- one run

static void set_up(void)
{
	int pair[2];
	int size = SMALL_BUFFER;

	CHECK(fcntl(CONTROL_FD, F_GETFD) < 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	// High enough that neither is in the way of number 3.
	daemon_end = fcntl(pair[0], F_DUPFD_CLOEXEC, CONTROL_FD + 1);
	int init_end = fcntl(pair[1], F_DUPFD_CLOEXEC, CONTROL_FD + 1);
	close(pair[0]);
	close(pair[1]);
	CHECK(daemon_end >= 0 && dup2(init_end, CONTROL_FD) == CONTROL_FD);
	close(init_end);
	// So that replies find no room, now and then.
	CHECK(setsockopt(CONTROL_FD, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
	spare = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK(spare >= 0);
}

// The number that the next descriptor will have: the same before and after, when nothing has leaked.
static int find_free(void)
{
	int fd = dup(spare);
	CHECK(fd >= 0);
	close(fd);
	return fd;
}

// All that was sent along was a copy of `spare`.
static void close_copies(int from)
{
	struct stat ours, other;
	CHECK(fstat(spare, &ours) == 0);
	for (int fd = from; fd < from + MAX_LEAK; fd++)
		if (fd != spare && fstat(fd, &other) == 0 && other.st_dev == ours.st_dev && other.st_ino == ours.st_ino)
			close(fd);
}

// Every process ends, and all that is owed is told; so the next run finds init as the first one did.
static void tidy_up(void)
{
	bool owed = true;

	for (unsigned i = 0; i < child_count; i++)
		children[i].ended = true;
	jobs_reap();
	while (owed) {
		while (hear_one())
			;
		control_flush();
		owed = control_is_full() || jobs_report();
	}
	while (hear_one())
		;
	for (unsigned i = 0; i < child_count; i++) {
		jobs_forget(children[i].id);
		CHECK(children[i].reported && !jobs_has(children[i].id));
	}
	memset(children, 0, sizeof children);
	child_count = 0;
	booted = started = incomplete = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (daemon_end < 0)
		set_up();
	int before = find_free();
	input = data;
	left = size;
	hung_up = false;
	if (!setjmp(over))
		serve_forever(-1);
	CHECK(exit_code == 0 || exit_code == EXIT_PROTOCOL);
	// With 0 it has seen the other side's end: a hang-up, or a packet without bytes, which looks the same.
	left = 0;
	tidy_up();
	// Who ends in the midst of a request need not close anything first. Who goes on to the end of the input must.
	if (!hung_up)
		close_copies(before);
	CHECK(find_free() == before);
	return 0;
}
