// The built-in `put`: standard input, up to the seal that says that it is all, becomes a file at once or not at all.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builtin.h"
#include "replace.h"
#include "resolve.h"

enum { MAX_LINKS = 40 };

// Where the last component's link points: an absolute target as it is, a relative one beneath the link's directory.
static int follow(const struct location *at, const char *target, char *next, size_t size, struct error *error)
{
	size_t prefix = target[0] == '/' ? 0 : strlen(at->parent);
	if (prefix + strlen(target) >= size)
		return error_set(error, ENAMETOOLONG, "the link %s leads to a path that is too long", at->name);
	memcpy(next, at->parent, prefix); // it ends with a slash
	strcpy(next + prefix, target);
	return 0;
}

// Finds the directory and the name that `path` really means, following links in the last component too. The
// directory is created when it is missing, unless a link led there.
static int find_target(int root, const char *path, struct location *location, struct error *error)
{
	char current[PATH_MAX], next[PATH_MAX], target[PATH_MAX];

	if (strlen(path) >= sizeof current)
		return error_set(error, ENAMETOOLONG, "a path of %zu bytes is too long", strlen(path));
	strcpy(current, path);
	for (int links = 0; links <= MAX_LINKS; links++) {
		if (resolve_split(current, location, error) < 0)
			return -1;
		int dir = links ? resolve_open(root, location->parent, O_PATH | O_DIRECTORY)
				: resolve_make_directory(root, location->parent, error);
		if (dir < 0)
			return links ? error_set_link(error, path, current) : -1;
		ssize_t length = readlinkat(dir, location->name, target, sizeof target - 1);
		if (length < 0) {
			if (links && faccessat(dir, location->name, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
				close(dir);
				return error_set_link(error, path, current);
			}
			return dir;
		}
		close(dir);
		target[length] = '\0';
		if (follow(location, target, next, sizeof next, error) < 0)
			return -1;
		strcpy(current, next);
	}
	return error_set(error, ELOOP, "%s leads through a loop of symbolic links", path);
}

// The kernel knows a magic link when it meets one; by its text it looks like any other.
static int refuse_magic_link(int root, const char *path, struct error *error)
{
	int fd = resolve_open(root, path, O_PATH);
	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (errno == ELOOP)
		return error_set(error, ELOOP, "%s leads through a loop of symbolic links or a magic link", path);
	return 0;
}

int builtin_put(int root, const char *path, unsigned mode, struct error *error)
{
	struct location location;
	struct replacement replacement;

	if (refuse_magic_link(root, path, error) < 0)
		return -1;
	int dir = find_target(root, path, &location, error);
	if (dir < 0)
		return -1;
	int result = replace_begin(&replacement, dir, location.name, path, error);
	if (result == 0) {
		result = replace_copy_sealed(&replacement, STDIN_FILENO, error);
		if (result < 0)
			replace_abort(&replacement);
		else
			result = replace_commit(&replacement, geteuid(), getegid(), mode, error);
	}
	close(dir);
	return result;
}
