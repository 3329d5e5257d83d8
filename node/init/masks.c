#include "masks.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const unsigned long guard = MS_NOSUID | MS_NODEV | MS_NOEXEC;

// Docker's lists, and the virtual disks: a loop device tells everybody the path of its file on the host; and pressure,
// where everybody may write, to be woken by what happens on the host. What a kernel does not have needs no mask.
static const char *const masked[] = {
	"proc/acpi",        "proc/asound",   "proc/interrupts",  "proc/kcore",
	"proc/keys",        "proc/key-users", "proc/latency_stats", "proc/sched_debug",
	"proc/scsi",        "proc/timer_list", "proc/timer_stats", "sys/devices/virtual/block",
	"sys/devices/virtual/powercap", "sys/firmware", "sys/kernel/debug", "sys/kernel/security", "sys/kernel/tracing",
};

static const char *const read_only[] = {
	"proc/bus", "proc/fs", "proc/irq", "proc/pressure", "proc/sys", "proc/sysrq-trigger",
};

static int bind_read_only(const char *source, const char *target, struct error *error)
{
	if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
		return error_system(error, errno, "binding %s on %s", source, target);
	if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | guard, NULL) < 0)
		return error_system(error, errno, "making %s read-only", target);
	return 0;
}

static int mask(const char *path, const char *empty_dir, struct error *error)
{
	struct stat status;
	if (stat(path, &status) < 0)
		return 0;
	if (S_ISDIR(status.st_mode))
		return bind_read_only(empty_dir, path, error);
	// The host's /dev/null, flags and all: reading it gives nothing, writing it does nothing.
	if (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0)
		return error_system(error, errno, "masking %s", path);
	return 0;
}

int masks_apply(const char *staging, const char *empty_dir, struct error *error)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
		snprintf(path, sizeof path, "%s/%s", staging, masked[i]);
		if (mask(path, empty_dir, error) < 0)
			return -1;
	}
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
		snprintf(path, sizeof path, "%s/%s", staging, read_only[i]);
		if (access(path, F_OK) == 0 && bind_read_only(path, path, error) < 0)
			return -1;
	}
	return 0;
}
