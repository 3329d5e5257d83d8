#include "run.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "devices.h"
#include "jobs.h"
#include "secret.h"

static struct sock_filter *filter;
static unsigned short filter_length;

int run_load_filter(int fd, struct error *error)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_system(error, errno, "reading the seccomp filter");
	size_t size = (size_t)status.st_size;
	if (status.st_size <= 0 || size % sizeof *filter || size / sizeof *filter > BPF_MAXINSNS)
		return error_set(error, EINVAL, "a seccomp filter of %zu bytes, expected 1..%d instructions of %zu", size,
				 BPF_MAXINSNS, sizeof *filter);
	filter = malloc(size);
	if (!filter || pread(fd, filter, size, 0) != (ssize_t)size)
		return error_set(error, EIO, "the seccomp filter could not be read");
	filter_length = (unsigned short)(size / sizeof *filter);
	return 0;
}

static void require_well_formed(const struct request *request)
{
	const struct packet *packet = &request->packet;
	uint32_t flags = packet->arguments[0], argc = packet->arguments[3], envc = packet->arguments[4];
	int fds = flags & RUN_PTY ? 1 : 4;

	if (flags & ~(uint32_t)RUN_FLAGS || argc < 1 || argc > packet->string_count || envc > packet->string_count ||
	    argc + envc + 2 != packet->string_count || request->fd_count != fds)
		control_die(EXIT_PROTOCOL, "a RUN packet with flags %u, %u arguments, %u variables, %u strings, %d fds",
			    flags, argc, envc, packet->string_count, request->fd_count);
	if (jobs_has(packet->id))
		control_die(EXIT_PROTOCOL, "a RUN packet for process %u, which exists already", packet->id);
}

static int fork_child(struct request *request, const struct terminal *terminal, struct error *error)
{
	pid_t pid = fork();
	if (pid == 0)
		child_main(request, terminal, &(struct sock_fprog){.len = filter_length, .filter = filter});
	if (pid < 0)
		return error_system(error, errno,
				    "no process could be made; is the container at its limit of processes?");
	return pid;
}

void run_start(struct request *request)
{
	const uint32_t *arguments = request->packet.arguments;
	struct terminal terminal = {-1, -1};
	struct error error;
	int pid = -1;

	require_well_formed(request);
	if (jobs_are_full())
		error_set(&error, EAGAIN, "the container has %d processes started from outside, its limit", JOBS_MAX);
	else if (secret_hide(&error) < 0)
		;
	else if (arguments[0] & RUN_PTY &&
		 devices_open_terminal(arguments[1], arguments[2], arguments[0] & RUN_RAW, &terminal, &error) < 0)
		;
	else
		pid = fork_child(request, &terminal, &error);
	if (terminal.slave >= 0)
		close(terminal.slave);
	if (pid < 0) {
		if (terminal.master >= 0)
			close(terminal.master);
		control_failed(request->packet.id, &error);
		return;
	}
	jobs_add(request->packet.id, pid, arguments[0] & RUN_KEPT);
	control_reply(KIND_STARTED, request->packet.id, (uint32_t)pid, NULL, terminal.master);
}
