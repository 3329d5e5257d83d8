// tfnz-init: PID 1 of every container. The daemon starts it, asks over descriptor 3, and ends it by closing that.
//
// Two processes run this file. The first enters its cgroups and makes the namespaces; then it forks PID 1, which has
// them, and exits. PID 1 mounts, waits for its root file system, and from then on starts processes, reaps them and reports their ends.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "connect.h"
#include "control.h"
#include "file.h"
#include "jobs.h"
#include "net.h"
#include "run.h"
#include "sandbox.h"

enum { KERNEL_SIGNALS = 64 };

static bool booted, started;
// A file that belongs to the container before it runs could not be written.
static bool incomplete;

static void serve_boot(struct request *request)
{
	struct error error;
	const struct packet *packet = &request->packet;
	const char *cursor = packet->strings;

	control_require(request, KIND_BOOT, 2, 1);
	const char *hostname = packet_next(packet, &cursor);
	const char *address = packet_next(packet, &cursor);
	if (booted)
		error_set(&error, EBUSY, "the container has booted already");
	else if (sethostname(hostname, strlen(hostname)) < 0)
		error_system(&error, errno, "setting the host name %s", hostname);
	else if (net_add_address(address, &error) == 0 && sandbox_enter(request->fds[0], &error) == 0) {
		booted = true;
		control_done(packet->id);
		return;
	}
	control_failed(packet->id, &error);
}

static void serve_file(struct request *request)
{
	struct error error;
	const struct packet *packet = &request->packet;
	const char *cursor = packet->strings;

	control_require(request, KIND_FILE, 2, 1);
	struct file_request file = {
		.path = packet_next(packet, &cursor),
		.owner = packet_next(packet, &cursor),
		.mode = packet->arguments[0],
		.secret = (packet->arguments[1] & FILE_SECRET) != 0,
		.content = request->fds[0],
		.offset = packet->arguments[2],
		.size = packet->arguments[3],
	};
	if (!booted || started)
		error_set(&error, EBUSY, "%s: files are written between boot and the first process", file.path);
	else if (packet->arguments[0] > 07777 || packet->arguments[1] & ~(uint32_t)FILE_FLAGS)
		error_set(&error, EINVAL, "%s: mode %o or flags %u are unknown", file.path, packet->arguments[0],
			  packet->arguments[1]);
	else if (file_write(&file, &error) == 0) {
		control_done(packet->id);
		return;
	}
	incomplete = true;
	control_failed(packet->id, &error);
}

// The daemon need not wait for an answer before it sends what comes next, so what comes next must not be done when
// it makes no sense any more.
static void serve_run(struct request *request)
{
	struct error error;
	if (!booted) {
		error_set(&error, EPROTO, "no process can be started before the container has booted");
		control_failed(request->packet.id, &error);
		return;
	}
	if (incomplete && request->packet.arguments[0] & RUN_MAIN) {
		error_set(&error, ECANCELED, "the main process is not started: a file that it needs could not be written");
		control_failed(request->packet.id, &error);
		return;
	}
	started = true;
	run_start(request);
}

static void serve_signal(struct request *request)
{
	struct error error;
	const struct packet *packet = &request->packet;
	int number = (int)packet->arguments[0];

	control_require(request, KIND_SIGNAL, 0, 0);
	pid_t pid = jobs_find(packet->id);
	if (number < 1 || number > SIGRTMAX) {
		error_set(&error, EINVAL, "there is no signal %d", number);
	} else if (pid <= 0) {
		error_set(&error, ESRCH, "process %u has ended", packet->id);
	} else if ((packet->arguments[1] && kill(-pid, number) == 0) || kill(pid, number) == 0) {
		// Its process group, or itself when it has not made one yet.
		control_done(packet->id);
		return;
	} else {
		error_system(&error, errno, "signalling process %u", packet->id);
	}
	control_failed(packet->id, &error);
}

static void serve_connect(struct request *request)
{
	struct error error;
	if (booted) {
		connect_start(request);
		return;
	}
	error_set(&error, EPROTO, "nothing can be connected to before the container has booted");
	control_failed(request->packet.id, &error);
}

// Another daemon has this end of the socket now. What was told to the one before it, and what was on its way, may be lost;
// RESYNCED says where that ends.
static void serve_resync(struct request *request)
{
	control_require(request, KIND_RESYNC, 0, 0);
	control_reply(KIND_RESYNCED, request->packet.id, 0, NULL, -1);
	jobs_resync(request->packet.id);
}

static void serve_forget(struct request *request)
{
	control_require(request, KIND_FORGET, 0, 0);
	jobs_forget(request->packet.id);
}

static void serve(struct request *request)
{
	switch (request->packet.kind) {
	case KIND_BOOT:
		serve_boot(request);
		break;
	case KIND_FILE:
		serve_file(request);
		break;
	case KIND_RUN:
		serve_run(request);
		break;
	case KIND_SIGNAL:
		serve_signal(request);
		break;
	case KIND_CONNECT:
		serve_connect(request);
		break;
	case KIND_RESYNC:
		serve_resync(request);
		break;
	case KIND_FORGET:
		serve_forget(request);
		break;
	default:
		control_die(EXIT_PROTOCOL, "the daemon sent packet kind %u", request->packet.kind);
	}
}

static int watch_children(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void serve_forever(int children)
{
	struct pollfd polled[2] = {{.fd = CONTROL_FD}, {.fd = children, .events = POLLIN}};
	struct signalfd_siginfo ignored;
	struct request request;
	bool exits_wait = false;

	for (;;) {
		// While something could not be sent, nothing more is taken on.
		polled[0].events = control_is_full() || exits_wait ? POLLOUT : POLLIN;
		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			control_die(EXIT_PROTOCOL, "waiting: %s", strerror(errno));
		if (polled[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			_exit(0);
		control_flush();
		if (polled[1].revents) {
			while (read(children, &ignored, sizeof ignored) > 0)
				;
			jobs_reap();
		}
		exits_wait = jobs_report();
		if (!control_is_full() && !exits_wait && control_receive(&request, false)) {
			serve(&request);
			control_release(&request);
			exits_wait = jobs_report();
		}
	}
}

static void fail(const struct error *error) __attribute__((noreturn));

static void fail(const struct error *error)
{
	control_failed(0, error);
	control_die(EXIT_SETUP, "%s", error->text);
}

static void be_pid_one(struct request *request) __attribute__((noreturn));

static void be_pid_one(struct request *request)
{
	struct error error;

	// Nobody in the container may look into this process or trace it.
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	setsid();
	umask(0);
	if (sandbox_prepare(&error) < 0 || run_load_filter(request->fds[0], &error) < 0)
		fail(&error);
	umask(022);
	control_release(request);
	int children = watch_children();
	if (children < 0) {
		error_system(&error, errno, "watching for the ends of processes");
		fail(&error);
	}
	control_reply(KIND_READY, 0, 0, NULL, -1);
	serve_forever(children);
	_exit(0);
}

// As the daemon's own child, so that the daemon can wait for it although its parent is gone.
static pid_t fork_sibling(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0);
}

// Whatever the daemon ignores or blocks, and whatever it has open, is not ours.
static void start_clean(bool join)
{
	sigset_t none;
	// By the bare system call, whose structure is all zeros for SIG_DFL: glibc keeps two signals to itself, and a
	// parent may well ignore these too.
	char defaults[64] = {0};
	for (int number = 1; number <= KERNEL_SIGNALS; number++)
		syscall(SYS_rt_sigaction, number, defaults, NULL, KERNEL_SIGNALS / 8);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int fd = 0; fd < CONTROL_FD; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", O_RDWR);
	fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
	close_range(join ? NETNS_FD + 1 : CONTROL_FD + 1, ~0u, 0);
}

// The daemon may be kept from the OOM killer, and nothing in a container is. Whoever has the capability to lower a score
// sets with it the lowest that can be asked for later, also for all that is forked; no container can change that.
static void give_up_protection(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		// Refused when ours is higher and may not be lowered: just as good.
		ssize_t ignored = write(fd, "0", 1);
		(void)ignored;
		close(fd);
	}
}

int main(int argc, char *argv[])
{
	struct request request;
	struct error error;
	bool join = argc == 2 && !strcmp(argv[1], "join");

	if (argc > 2 || (argc == 2 && !join))
		control_die(EXIT_PROTOCOL, "started with \"%s\", expected nothing or \"join\"; it is run by tfnz-node",
			    argv[1]);
	start_clean(join);
	prctl(PR_SET_NAME, "tfnz-init", 0, 0, 0);
	give_up_protection();
	control_receive(&request, true);
	if (cgroup_enter(&request, &error) < 0)
		fail(&error);
	control_release(&request);
	int network = sandbox_unshare(join, request.packet.arguments[1], &error);
	if (network < 0)
		fail(&error);
	// The daemon could open it by our process id only if it might trace us, whose ids are not its own any more.
	control_reply(KIND_UNSHARED, 0, 0, NULL, network);
	control_receive(&request, true);
	control_require(&request, KIND_PREPARE, 0, 1);
	if (sandbox_become_root(&error) < 0)
		fail(&error);
	pid_t pid = fork_sibling();
	if (pid < 0) {
		error_system(&error, errno, "making PID 1");
		fail(&error);
	}
	if (pid == 0)
		be_pid_one(&request);
	control_reply(KIND_FORKED, 0, (uint32_t)pid, NULL, -1);
	return 0;
}
