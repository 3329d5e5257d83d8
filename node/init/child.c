#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builtin.h"
#include "caps.h"
#include "program.h"
#include "resolve.h"
#include "rlimits.h"
#include "run.h"
#include "users.h"

enum { STATUS_FD = 3, EXIT_CANNOT = 126, EXIT_NOT_FOUND = 127, OOM_SCORE_BYTES = 3 };

// Well above init's, so that a container short of memory loses a process and not everything.
#define OOM_SCORE "200"
#define OOM_SCORE_BUILTIN "999"

struct child {
	uint32_t flags;
	const char *user_spec;
	const char *cwd;
	char **argv;
	int argc;
	char **env;
	struct user user;
};

static void fail(enum run_stage stage, const struct error *error) __attribute__((noreturn));

static void fail(enum run_stage stage, const struct error *error)
{
	struct {
		uint32_t stage;
		int32_t number;
		char text[ERROR_TEXT_BYTES];
	} report = {.stage = (uint32_t)stage, .number = error->number};
	size_t length = strlen(error->text);

	memcpy(report.text, error->text, length);
	// At most PIPE_BUF bytes into an empty pipe: one write does it or nobody is listening.
	ssize_t ignored = write(STATUS_FD, &report, offsetof(typeof(report), text) + length);
	(void)ignored;
	_exit(stage == STAGE_EXEC && error->number == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT);
}

static void fail_setup(const char *what) __attribute__((noreturn));

static void fail_setup(const char *what)
{
	struct error error;
	error_system(&error, errno, "%s", what);
	fail(STAGE_SETUP, &error);
}

// Descriptors 0-2 as asked, the status pipe at 3 and nothing else. Control's own number 3 is given up by this.
static void arrange_descriptors(const struct request *request, const struct terminal *terminal)
{
	int wanted[4] = {terminal->slave, terminal->slave, terminal->slave, request->fds[0]};

	if (terminal->slave < 0)
		memcpy(wanted, request->fds + 1, 3 * sizeof *wanted);
	// Received descriptors have higher numbers than these, because 0-3 are always open in init.
	if (dup3(wanted[3], STATUS_FD, O_CLOEXEC) < 0)
		_exit(EXIT_CANNOT);
	for (int fd = 0; fd < 3; fd++)
		if (dup2(wanted[fd], fd) < 0)
			fail_setup("arranging standard input, output and error");
	if (close_range(STATUS_FD + 1, ~0u, 0) < 0)
		fail_setup("closing inherited descriptors");
}

static void start_session(bool has_terminal)
{
	sigset_t none;

	if (setsid() < 0)
		fail_setup("starting a session");
	if (has_terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		fail_setup("taking the terminal");
	sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		fail_setup("unblocking signals");
}

// So that the kernel, short of memory, ends these processes rather than PID 1. A file in /proc/self belongs to us
// only while we are dumpable; every capability we still have keeps the container's root from tracing us meanwhile.
// Work on files goes first: what waits for the disk counts as the container's memory, and its own processes are not to
// pay for that.
static void offer_to_oom_killer(bool is_builtin)
{
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		// Refused when ours is higher and may not be lowered: just as good.
		ssize_t ignored = write(fd, is_builtin ? OOM_SCORE_BUILTIN : OOM_SCORE, OOM_SCORE_BYTES);
		(void)ignored;
		close(fd);
	}
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void confine_capabilities(void)
{
	if (caps_confine() < 0)
		fail_setup("giving up capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail_setup("setting no_new_privs");
}

static void enter_directory(const struct child *child, int root)
{
	struct error error;
	int dir = resolve_open(root, child->cwd, O_PATH | O_DIRECTORY);

	if (dir < 0 && errno == ENOENT && child->flags & RUN_MAIN) {
		dir = resolve_make_directory(root, child->cwd, &error);
		if (dir < 0)
			fail(STAGE_CWD, &error);
	}
	if (dir < 0 || fchdir(dir) < 0) {
		error_system(&error, errno, "the working directory %s", child->cwd);
		fail(STAGE_CWD, &error);
	}
	close(dir);
}

// Lets the process open /dev/stdin and its like by name, as whoever it becomes. Only what the container's root owns,
// that is, what the daemon made for this process; others refuse, and it does not matter.
static void give_away_standard_streams(const struct user *user)
{
	for (int fd = 0; fd < 3; fd++) {
		struct stat status;
		if (fstat(fd, &status) < 0 || status.st_uid != 0)
			continue;
		gid_t group = S_ISCHR(status.st_mode) ? (gid_t)-1 : user->gid;
		if (S_ISFIFO(status.st_mode) || isatty(fd)) {
			int ignored = fchown(fd, user->uid, group);
			(void)ignored;
		}
	}
}

static void become_user(const struct user *user)
{
	if (setgroups(user->group_count, user->groups) < 0)
		fail_setup("setting the supplementary groups");
	if (setresgid(user->gid, user->gid, user->gid) < 0 || setresuid(user->uid, user->uid, user->uid) < 0)
		fail_setup("becoming the user");
}

static void add_home(struct child *child, size_t env_count)
{
	for (size_t i = 0; i < env_count; i++)
		if (!strncmp(child->env[i], "HOME=", 5))
			return;
	static char home[sizeof "HOME=" + PATH_MAX] = "HOME=";
	strcat(home, *child->user.home ? child->user.home : "/");
	child->env[env_count] = home;
	child->env[env_count + 1] = NULL;
}

static void read_request(struct child *child, const struct packet *packet)
{
	const char *cursor = packet->strings;
	size_t argc = packet->arguments[3], envc = packet->arguments[4];

	child->flags = packet->arguments[0];
	child->user_spec = packet_next(packet, &cursor);
	child->cwd = packet_next(packet, &cursor);
	child->argc = (int)argc;
	child->argv = calloc(argc + 1, sizeof *child->argv);
	child->env = calloc(envc + 2, sizeof *child->env);
	if (!child->argv || !child->env)
		fail_setup("no memory for arguments and environment");
	for (size_t i = 0; i < argc; i++)
		child->argv[i] = (char *)(uintptr_t)packet_next(packet, &cursor);
	for (size_t i = 0; i < envc; i++)
		child->env[i] = (char *)(uintptr_t)packet_next(packet, &cursor);
}

void child_main(struct request *request, const struct terminal *terminal, const struct sock_fprog *filter)
{
	struct child child = {0};
	struct error error;

	arrange_descriptors(request, terminal);
	start_session(terminal->slave >= 0);
	offer_to_oom_killer((request->packet.arguments[0] & RUN_BUILTIN) != 0);
	if (rlimits_clamp() < 0)
		fail_setup("setting resource limits");
	// From here on we read what the container wrote, with no more rights than its own processes have.
	confine_capabilities();
	read_request(&child, &request->packet);
	int root = resolve_root(&error);
	if (root < 0)
		fail(STAGE_SETUP, &error);
	if (users_resolve(root, child.user_spec, &child.user, &error) < 0)
		fail(STAGE_USER, &error);
	add_home(&child, request->packet.arguments[4]);
	enter_directory(&child, root);
	close(root);
	give_away_standard_streams(&child.user);
	become_user(&child.user);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0) < 0)
		fail_setup("installing the seccomp filter");
	if (child.flags & RUN_BUILTIN) {
		close(STATUS_FD);
		_exit(builtin_main(child.argc, child.argv));
	}
	program_execute(child.argv, child.env, &error);
	fail(STAGE_EXEC, &error);
}
