// tfnz-keeper: holds what must outlive the daemon, descriptors above all, and gives it to the next one.
//
// It serves one daemon at a time on a socket in the data directory. A daemon that dies has had done all that it sent,
// for what it sent is read to its end before the next one is heard. When none comes in time, the keeper ends, and with
// its descriptors everything that hangs on them: every container. As a unit ("stay") it forgets all that instead, and
// waits for the next daemon, for as long as its unit is wanted.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

#define SOCKET_NAME "keeper"

enum { KIND_PUT = 1, KIND_DELETE = 2, KIND_LIST = 3, KIND_END = 4, KIND_RECORD = 101, KIND_LISTED = 102, KIND_REFUSED = 103 };
enum { EXIT_USAGE = 2, EXIT_FAILED = 1 };

// Before the name, which ends with a NUL, and the bytes of a record.
struct header {
	uint32_t kind;
	uint32_t argument; // of LIST: for how many milliseconds to wait for another daemon; of LISTED: our process id
	uint32_t name_size;
};

// The bytes of LISTED: what there is room for, of all records together.
struct capacity {
	uint32_t records, descriptors, bytes;
};

// Of our descriptors, not for records: our own, and those of a record that comes while the one before it is there still.
enum { OWN_DESCRIPTORS = 16 + RECORD_MAX_FDS };

enum { MESSAGE_MAX_BYTES = (int)sizeof(struct header) + NAME_MAX_BYTES + 1 + RECORD_MAX_BYTES };

static char incoming[MESSAGE_MAX_BYTES + 1];
static long takeover_ms;
static bool told_to_end;

static void die(const char *what) __attribute__((noreturn));

static void die(const char *what)
{
	fprintf(stderr, "tfnz-keeper: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILED);
}

static long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool send_message(int to, uint32_t kind, uint32_t argument, const struct record *record, int flags)
{
	union {
		char bytes[CMSG_SPACE(RECORD_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} ancillary = {0};
	struct header header = {kind, argument, record && record->name ? (uint32_t)strlen(record->name) + 1 : 0};
	struct iovec parts[3] = {{&header, sizeof header}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 1};

	if (record) {
		parts[1] = (struct iovec){record->name, header.name_size};
		parts[2] = (struct iovec){record->bytes, record->size};
		message.msg_iovlen = 3;
		if (record->fd_count) {
			size_t size = (size_t)record->fd_count * sizeof(int);
			message.msg_control = ancillary.bytes;
			message.msg_controllen = CMSG_SPACE(size);
			struct cmsghdr *fds = CMSG_FIRSTHDR(&message);
			fds->cmsg_level = SOL_SOCKET;
			fds->cmsg_type = SCM_RIGHTS;
			fds->cmsg_len = CMSG_LEN(size);
			memcpy(CMSG_DATA(fds), record->fds, size);
		}
	}
	ssize_t sent;
	do
		sent = sendmsg(to, &message, MSG_NOSIGNAL | flags);
	while (sent < 0 && errno == EINTR);
	return sent >= 0;
}

static uint32_t count_descriptors(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur <= OWN_DESCRIPTORS)
		return 0;
	return limit.rlim_cur > INT32_MAX ? INT32_MAX : (uint32_t)limit.rlim_cur - OWN_DESCRIPTORS;
}

static bool list_all(int to)
{
	struct capacity capacity = {RECORDS_MAX, count_descriptors(), ALL_RECORDS_MAX_BYTES};
	struct record last = {.bytes = (char *)&capacity, .size = sizeof capacity};

	for (const struct record *record = records_first(); record; record = record->after)
		if (!send_message(to, KIND_RECORD, 0, record, 0))
			return false;
	return send_message(to, KIND_LISTED, (uint32_t)getpid(), &last, 0);
}

static void close_all(const int *fds, int fd_count)
{
	for (int i = 0; i < fd_count; i++)
		close(fds[i]);
}

static int take_fds(struct msghdr *message, int *fds)
{
	int count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t size = c->cmsg_len - CMSG_LEN(0);
		memcpy(fds, CMSG_DATA(c), size);
		count = (int)(size / sizeof(int));
	}
	return count;
}

// A daemon that does not read must not hold us up, or each waits for the other to read. It does not know then what it
// has lost, so nothing of it may be taken over. One that has died needs not be told, and what it had said before that
// is still to be read.
static bool refuse(int daemon, const char *name)
{
	char copy[NAME_MAX_BYTES + 1];
	strcpy(copy, name);
	if (send_message(daemon, KIND_REFUSED, 0, &(struct record){.name = copy, .bytes = copy}, MSG_DONTWAIT))
		return true;
	told_to_end = errno == EAGAIN;
	return errno == EPIPE || errno == ECONNRESET;
}

// Without all of its descriptors, which we may have had no room for, a record is none.
static bool serve_put(int daemon, const char *name, const char *bytes, size_t size, const int *fds, int fd_count,
		      bool complete)
{
	if (complete)
		return records_put(name, bytes, (uint32_t)size, fds, fd_count) || refuse(daemon, name);
	close_all(fds, fd_count);
	records_delete(name);
	return refuse(daemon, name);
}

// One message; false when the daemon has gone, or says what no daemon says.
static bool serve_message(int daemon)
{
	union {
		char bytes[CMSG_SPACE(RECORD_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} ancillary;
	struct iovec vector = {incoming, sizeof incoming};
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = ancillary.bytes,
		.msg_controllen = sizeof ancillary.bytes,
	};
	struct header header;
	int fds[RECORD_MAX_FDS];
	ssize_t size;

	// A daemon that dies and has not read what we said is reported once, before what it had sent (ECONNRESET).
	do
		size = recvmsg(daemon, &message, MSG_CMSG_CLOEXEC);
	while (size < 0 && (errno == EINTR || errno == ECONNRESET));
	if (size <= 0)
		return false;
	int fd_count = take_fds(&message, fds);
	size_t rest = (size_t)size - sizeof header;
	const char *name = incoming + sizeof header;
	bool whole = size >= (ssize_t)sizeof header && !(message.msg_flags & MSG_TRUNC);
	if (whole) {
		memcpy(&header, incoming, sizeof header);
		whole = header.name_size <= rest && header.name_size <= NAME_MAX_BYTES + 1 &&
			(!header.name_size || memchr(name, 0, header.name_size) == name + header.name_size - 1);
	}
	if (whole && header.kind == KIND_PUT && header.name_size > 1)
		return serve_put(daemon, name, name + header.name_size, rest - header.name_size, fds, fd_count,
				 !(message.msg_flags & MSG_CTRUNC));
	close_all(fds, fd_count);
	if (whole && header.kind == KIND_DELETE && header.name_size > 1) {
		records_delete(name);
		return true;
	}
	if (whole && header.kind == KIND_LIST) {
		takeover_ms = header.argument;
		return list_all(daemon);
	}
	if (whole && header.kind == KIND_END) {
		told_to_end = true;
		return false;
	}
	fprintf(stderr, "tfnz-keeper: a message of %zd bytes makes no sense\n", size);
	return false;
}

static bool is_ours(int connection)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

// Everything that hangs on what is held ends with this. Whoever told us to learns from the end of the connection that
// it has been done, and then must not find us if we are about to go.
static void forget_all(int listening, bool stay)
{
	if (!stay)
		close(listening);
	records_clear();
	if (!stay)
		exit(0);
	told_to_end = false;
}

static void serve_forever(int listening, bool stay) __attribute__((noreturn));

static void serve_forever(int listening, bool stay)
{
	long deadline = now_ms() + takeover_ms;

	for (;;) {
		struct pollfd polled = {.fd = listening, .events = POLLIN};
		long rest = deadline - now_ms();
		if (rest <= 0 && (!stay || records_count()))
			forget_all(listening, stay);
		if (rest <= 0 || rest > 60000)
			rest = 60000;
		if (poll(&polled, 1, (int)rest) <= 0)
			continue;
		int daemon = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
		if (daemon < 0)
			continue;
		bool welcome = is_ours(daemon);
		while (welcome && serve_message(daemon))
			;
		if (told_to_end)
			forget_all(listening, stay);
		close(daemon);
		// Whoever may not come in must not keep the containers alive by knocking.
		if (welcome)
			deadline = now_ms() + takeover_ms;
	}
}

// The name of a socket is short, that of a data directory need not be.
static int listen_in(const char *directory)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_NAME};
	int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (listening < 0 || chdir(directory) < 0)
		die(directory);
	umask(0177);
	if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0) {
		int other = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		if (errno != EADDRINUSE || other < 0)
			die(SOCKET_NAME);
		if (connect(other, (struct sockaddr *)&address, sizeof address) == 0 || errno != ECONNREFUSED) {
			errno = EADDRINUSE;
			die("another keeper serves this directory");
		}
		close(other);
		unlink(SOCKET_NAME);
		if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0)
			die(SOCKET_NAME);
	}
	// Whose process id callers are told is decided here.
	if (listen(listening, 8) < 0)
		die("listen");
	if (chdir("/") < 0)
		die("/");
	return listening;
}

// Whoever starts units does not start the daemon before it can find us (sd_notify(3)). Where nobody asked, to nobody.
static void tell_ready(void)
{
	static const char ready[] = "READY=1";
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = path ? strlen(path) : 0;

	if (!length)
		return;
	if (length >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		die("NOTIFY_SOCKET");
	}
	memcpy(address.sun_path, path, length);
	// An abstract address begins with a NUL, and ends where its length says.
	if (path[0] == '@')
		address.sun_path[0] = 0;
	int notifying = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (notifying < 0 || sendto(notifying, ready, sizeof ready - 1, MSG_NOSIGNAL, (struct sockaddr *)&address,
				    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		die("NOTIFY_SOCKET");
	close(notifying);
	unsetenv("NOTIFY_SOCKET");
}

// The parent returns to the daemon when the child serves.
static int leave_parent(const char *directory)
{
	int ready[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		die("pipe");
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid > 0) {
		close(ready[1]);
		exit(read(ready[0], &byte, 1) == 1 ? 0 : EXIT_FAILED);
	}
	close(ready[0]);
	setsid();
	int listening = listen_in(directory);
	if (write(ready[1], "", 1) != 1)
		die("pipe");
	close(ready[1]);
	// Whoever reads what the daemon says must not wait for us.
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	return listening;
}

int main(int argc, char *argv[])
{
	bool stay = argc == 4 && !strcmp(argv[3], "stay");
	char *end;
	struct rlimit limit;

	if (argc < 3 || (argc == 4 && !stay) || argc > 4 || (takeover_ms = strtol(argv[2], &end, 10)) <= 0 || *end) {
		fprintf(stderr, "usage: tfnz-keeper DATA_DIRECTORY MILLISECONDS [stay]\n"
				"Started by tfnz-node, or as a unit with \"stay\".\n");
		return EXIT_USAGE;
	}
	close_range(3, ~0u, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NAME, "tfnz-keeper", 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, stay ? SIG_DFL : SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	int listening = stay ? listen_in(argv[1]) : leave_parent(argv[1]);
	if (stay)
		tell_ready();
	serve_forever(listening, stay);
}
