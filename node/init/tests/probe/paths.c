#include "paths.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "json.h"

enum { DESCRIPTORS = 32 };

// The file system of what is walked through.
static dev_t walked;

// Processes: what is in their directories is theirs.
static int is_passed_over(const char *path)
{
	return !strncmp(path, "/proc/", 6) && isdigit((unsigned char)path[6]);
}

static int opens(const char *path, int flags)
{
	int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static int note_writable(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	(void)place;
	if (is_passed_over(path))
		return FTW_SKIP_SUBTREE;
	// A device on a file is a mask: what can be written there is the device.
	if (kind == FTW_F && S_ISREG(status->st_mode) && opens(path, O_WRONLY))
		json_text(NULL, path);
	return FTW_CONTINUE;
}

// What this kernel, or this machine, has nothing to say about is another matter than what is kept from us.
static const char *judge_error(void)
{
	return errno == EACCES || errno == EPERM ? "denied" : "nothing";
}

// An empty directory is a mask when it has been mounted here; there are others.
static const char *judge_directory(const char *path, int is_mounted)
{
	DIR *directory = opendir(path);
	const struct dirent *entry;
	int count = 0;

	if (!directory)
		return judge_error();
	while ((entry = readdir(directory)))
		count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	closedir(directory);
	return count ? "content" : is_mounted ? "masked" : "nothing";
}

static const char *judge_file(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return judge_error();
	ssize_t size = read(fd, &byte, 1);
	const char *verdict = size < 0 ? judge_error() : size ? "content" : "nothing";
	close(fd);
	return verdict;
}

// Deep enough for each place that somebody masks, and not for each device of a machine.
static int is_too_deep(const char *path, int level)
{
	if (!strncmp(path, "/proc", 5))
		return level > 1;
	if (!strncmp(path, "/sys/devices/virtual", 20))
		return level > 3;
	return level > 2 || !strncmp(path, "/sys/module/", 12);
}

static int note_shown(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	if (is_passed_over(path) || is_too_deep(path, place->level))
		return FTW_SKIP_SUBTREE;
	if (place->level == 0)
		return FTW_CONTINUE;
	if (kind == FTW_D || kind == FTW_DNR)
		json_text(path, judge_directory(path, status->st_dev != walked));
	else if (kind == FTW_F && S_ISREG(status->st_mode))
		json_text(path, judge_file(path));
	else if (kind == FTW_F && S_ISCHR(status->st_mode))
		json_text(path, "masked");
	return FTW_CONTINUE;
}

static int note_device(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	char what[64];

	(void)place;
	if (kind != FTW_F || !(S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode)))
		return FTW_CONTINUE;
	snprintf(what, sizeof what, "%c %u:%u%s%s", S_ISCHR(status->st_mode) ? 'c' : 'b', major(status->st_rdev),
		 minor(status->st_rdev), opens(path, O_RDONLY) ? " r" : "", opens(path, O_WRONLY) ? " w" : "");
	json_text(path, what);
	return FTW_CONTINUE;
}

// Whether a node for a device can be made, and what it is good for then.
static void try_device(const char *name, mode_t kind, dev_t device)
{
	static const char path[] = "/probe-device";

	if (mknod(path, kind | 0600, device) < 0) {
		json_text(name, strerrorname_np(errno));
		return;
	}
	json_text(name, opens(path, O_RDONLY) ? "opened" : "made");
	unlink(path);
}

static void walk(const char *top, int (*note)(const char *, const struct stat *, int, struct FTW *))
{
	struct stat status = {0};
	stat(top, &status);
	walked = status.st_dev;
	nftw(top, note, DESCRIPTORS, FTW_PHYS | FTW_ACTIONRETVAL);
}

void report_paths(void)
{
	json_begin("writable", '[');
	walk("/proc", note_writable);
	walk("/sys", note_writable);
	json_end(']');
	json_begin("shown", '{');
	walk("/proc", note_shown);
	walk("/sys", note_shown);
	json_end('}');
	json_begin("devices", '{');
	walk("/dev", note_device);
	json_end('}');
	json_begin("device_nodes", '{');
	try_device("the kernel's memory", S_IFCHR, makedev(1, 1));
	try_device("a disk", S_IFBLK, makedev(7, 0));
	json_end('}');
}
