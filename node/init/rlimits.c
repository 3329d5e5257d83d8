// The daemon's own limits are generous, because it serves many; a container's processes start from these instead.
//
//   core          no dumps: the host's core_pattern may be a program that runs outside of every container
//   nofile        1024 at first, as programs that use select() and close all descriptors expect; half a million at most
//   memlock       8 MiB, the kernel's default: locked pages cannot be reclaimed
//   msgqueue      the kernel's default; queues are kernel memory
//   nice, rtprio  no better than others
#include "rlimits.h"

#include <sys/resource.h>

#define MIB (1024 * 1024)

static const struct {
	__rlimit_resource_t resource;
	rlim_t soft, hard;
} table[] = {
	{RLIMIT_CORE, 0, 0},
	{RLIMIT_NOFILE, 1024, 524288},
	{RLIMIT_MEMLOCK, 8 * MIB, 8 * MIB},
	{RLIMIT_MSGQUEUE, 819200, 819200},
	{RLIMIT_NICE, 0, 0},
	{RLIMIT_RTPRIO, 0, 0},
};

static rlim_t lower(rlim_t one, rlim_t other)
{
	return one < other ? one : other; // RLIM_INFINITY is the highest number
}

int rlimits_clamp(void)
{
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
		struct rlimit limit;
		if (getrlimit(table[i].resource, &limit) < 0)
			return -1;
		limit.rlim_max = lower(limit.rlim_max, table[i].hard);
		limit.rlim_cur = lower(limit.rlim_max, table[i].soft);
		if (setrlimit(table[i].resource, &limit) < 0)
			return -1;
	}
	return 0;
}
