#include "cgroup.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

// "0" is the thread that writes, and only that one may move without waiting for all processes of the machine to be out
// of fork and exit. We are a single thread.
static int enter_by_tasks(const struct request *request, struct error *error)
{
	for (int i = 0; i < request->fd_count; i++)
		if (write(request->fds[i], "0", 1) != 1)
			return error_system(error, errno, "entering a cgroup");
	return 0;
}

static int be_born_in(int group, struct error *error)
{
	struct clone_args arguments = {
		// Also the daemon's own child. It tells the daemon of its end as we would.
		.flags = CLONE_INTO_CGROUP | CLONE_PARENT,
		.cgroup = (unsigned)group,
	};
	long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (pid < 0)
		return error_system(error, errno, "making a process in its cgroup");
	if (pid > 0) {
		control_reply(KIND_FORKED, 0, (uint32_t)pid, NULL, -1);
		_exit(0);
	}
	return 0;
}

int cgroup_enter(const struct request *request, struct error *error)
{
	uint32_t entrance = request->packet.arguments[0];

	// One `tasks` file for each hierarchy, of which there may be several; one directory; or nothing.
	int fds = entrance == ENTRANCE_TASKS ? request->fd_count : entrance == ENTRANCE_BIRTH;

	control_require(request, KIND_UNSHARE, 0, fds);
	switch (entrance) {
	case ENTRANCE_STAY:
		return 0;
	case ENTRANCE_TASKS:
		return enter_by_tasks(request, error);
	case ENTRANCE_BIRTH:
		return be_born_in(request->fds[0], error);
	default:
		return error_set(error, EINVAL, "an entrance of kind %u", entrance);
	}
}
