#include "resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RACE_RETRIES = 64, MAX_MISSING_DIRECTORIES = 128 };

int resolve_openat2(int dir, const char *path, int flags, unsigned long long resolve)
{
	struct open_how how = {.flags = (unsigned)flags | O_CLOEXEC, .resolve = resolve};
	for (int i = 0;; i++) {
		int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
		// EAGAIN: the kernel could not be sure that ".." stayed inside, because something was renamed.
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || i >= RACE_RETRIES)
			return fd;
	}
}

int resolve_open(int root, const char *path, int flags)
{
	return resolve_openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

int resolve_root(struct error *error)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		error_system(error, errno, "opening the root directory");
	return root;
}

int resolve_split(const char *path, struct location *location, struct error *error)
{
	size_t length = strlen(path);
	if (length >= PATH_MAX)
		return error_set(error, ENAMETOOLONG, "a path of %zu bytes is too long, at most %d are possible", length,
				 PATH_MAX - 1);
	while (length > 0 && path[length - 1] == '/')
		length--;
	size_t start = length;
	while (start > 0 && path[start - 1] != '/')
		start--;
	size_t name_length = length - start;
	if (name_length > NAME_MAX)
		return error_set(error, ENAMETOOLONG, "the last name of %s is longer than %d bytes", path, NAME_MAX);
	memcpy(location->name, path + start, name_length);
	location->name[name_length] = '\0';
	if (name_length == 0 || !strcmp(location->name, ".") || !strcmp(location->name, ".."))
		return error_set(error, EISDIR, "%s is a directory", path[0] ? path : "the empty path");
	memcpy(location->parent, path, start);
	location->parent[start] = '\0';
	if (start == 0)
		strcpy(location->parent, "/");
	return 0;
}

static int refuse_component(int dir, const char *name, const char *path, int number, struct error *error)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(dir, name, target, sizeof target - 1);
	if (length >= 0) {
		target[length] = '\0';
		return error_set_link(error, path, target);
	}
	return error_system(error, number, "%s: %s", path, name);
}

// Creates and enters one directory. What is there already can only be what somebody put there a moment ago, or a
// link that leads nowhere, so it is not followed.
static int enter_new(int dir, const char *name, const char *path, struct error *error)
{
	if (!strcmp(name, ".."))
		return error_set(error, EINVAL, "%s goes up (..) from a directory that does not exist", path);
	if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
		return refuse_component(dir, name, path, errno, error);
	int next = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return refuse_component(dir, name, path, errno, error);
	return next;
}

static int enter_all_new(int dir, char *rest, const char *path, struct error *error)
{
	char *save = NULL;
	int created = 0;

	for (char *name = strtok_r(rest, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		if (!strcmp(name, "."))
			continue;
		int next = -1;
		if (created++ >= MAX_MISSING_DIRECTORIES)
			error_set(error, ENAMETOOLONG, "%s would need more than %d new directories", path,
				  MAX_MISSING_DIRECTORIES);
		else
			next = enter_new(dir, name, path, error);
		close(dir);
		if (next < 0)
			return -1;
		dir = next;
	}
	return dir;
}

int resolve_make_directory(int root, const char *path, struct error *error)
{
	char prefix[PATH_MAX];
	size_t length = strlen(path);

	if (length >= sizeof prefix)
		return error_set(error, ENAMETOOLONG, "a path of %zu bytes is too long, at most %d are possible", length,
				 PATH_MAX - 1);
	memcpy(prefix, path, length + 1);
	// The longest part that exists, found from its end; what is cut off stays in `path` behind `length`.
	for (int cuts = 0;; cuts++) {
		int dir = resolve_open(root, length ? prefix : "/", O_PATH | O_DIRECTORY);
		if (dir >= 0) {
			memcpy(prefix, path, strlen(path) + 1);
			return enter_all_new(dir, prefix + length, path, error);
		}
		if (errno == ELOOP)
			return error_set(error, ELOOP, "%s leads through a loop of symbolic links or a magic link", path);
		if (errno != ENOENT || cuts > 2 * MAX_MISSING_DIRECTORIES)
			return error_system(error, errno, "%s", path);
		while (length > 0 && prefix[length - 1] == '/')
			length--;
		while (length > 0 && prefix[length - 1] != '/')
			length--;
		prefix[length] = '\0';
	}
}
