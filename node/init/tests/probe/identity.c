#include "identity.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "json.h"

static void report_link(const char *directory, const char *name)
{
	char path[PATH_MAX], target[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	ssize_t length = readlink(path, target, sizeof target - 1);
	target[length < 0 ? 0 : length] = '\0';
	json_text(name, target);
}

void report_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	const struct dirent *entry;

	json_begin("descriptors", '{');
	while (directory && (entry = readdir(directory)))
		if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != dirfd(directory))
			report_link("/proc/self/fd", entry->d_name);
	if (directory)
		closedir(directory);
	json_end('}');
}

static void report_status(void)
{
	static const char *const wanted[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"};
	FILE *file = fopen("/proc/self/status", "re");
	char line[4096];

	json_begin("status", '{');
	while (file && fgets(line, sizeof line, file)) {
		char *value = strchr(line, '\t');
		if (!value || value == line)
			continue;
		value[-1] = '\0';
		value[strcspn(value, "\n")] = '\0';
		for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
			if (!strcmp(line, wanted[i]))
				json_text(line, value + 1);
	}
	if (file)
		fclose(file);
	json_end('}');
}

static void report_content(const char *name, const char *path)
{
	char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);

	text[size < 0 ? 0 : size] = '\0';
	text[strcspn(text, "\n")] = '\0';
	json_text(name, text);
	if (fd >= 0)
		close(fd);
}

static void report_lines(const char *name, const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;

	json_begin(name, '[');
	while (file && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		json_text(NULL, line);
	}
	json_end(']');
	free(line);
	if (file)
		fclose(file);
}

static void report_limits(void)
{
	static const struct {
		const char *name;
		__rlimit_resource_t resource;
	} limits[] = {{"core", RLIMIT_CORE}, {"nice", RLIMIT_NICE}, {"rtprio", RLIMIT_RTPRIO}};

	json_begin("limits", '{');
	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
		struct rlimit limit = {0};
		getrlimit(limits[i].resource, &limit);
		json_number(limits[i].name, limit.rlim_max == RLIM_INFINITY ? -1 : (long long)limit.rlim_max);
	}
	json_end('}');
}

static void report_namespaces(void)
{
	static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};

	json_begin("namespaces", '{');
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		report_link("/proc/self/ns", kinds[i]);
	json_end('}');
}

static void report_socket(const char *name, int family, int kind, int protocol)
{
	int fd = socket(family, kind | SOCK_CLOEXEC, protocol);
	json_text(name, fd < 0 ? strerrorname_np(errno) : "opened");
	if (fd >= 0)
		close(fd);
}

void report_identity(void)
{
	report_status();
	report_content("uid_map", "/proc/self/uid_map");
	report_limits();
	report_namespaces();
	report_lines("mounts", "/proc/self/mountinfo");
	report_lines("cgroups", "/proc/self/cgroup");
	json_begin("sockets", '{');
	report_socket("raw IP", AF_INET, SOCK_RAW, 1);
	report_socket("raw frames", AF_PACKET, SOCK_RAW, 0);
	json_end('}');
}
