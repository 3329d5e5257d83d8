// The built-in `get-tree`: a directory becomes a stream of records on standard output.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "builtin.h"
#include "resolve.h"
#include "tree.h"

enum { MAX_DEPTH = 256, COPY_BYTES = 64 * 1024 };

// One directory on the way down from the root of the tree; `name_length` is that of its own name in `name`.
struct level {
	DIR *dir;
	size_t name_length;
};

static struct tree_writer writer = {.fd = STDOUT_FILENO};
static struct level levels[MAX_DEPTH];
static int depth;
static char name[TREE_MAX_NAME + 1];

static int fail_sending(struct error *error)
{
	return error_system(error, errno, "sending the tree");
}

// What the kernel makes up has no end and no size: its directories are sent, their content is not.
static bool is_made_up(int fd)
{
	struct statfs status;
	if (fstatfs(fd, &status) < 0)
		return false;
	switch ((unsigned long)status.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case DEVPTS_SUPER_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case 0x19800202: // mqueue has no name in <linux/magic.h>
		return true;
	default:
		return false;
	}
}

static int push(int fd, struct error *error)
{
	if (depth == MAX_DEPTH) {
		close(fd);
		return error_set(error, ENAMETOOLONG, "%.500s is deeper than %d directories", name, MAX_DEPTH);
	}
	DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return error_system(error, errno, "reading the directory %.500s", name);
	}
	levels[depth++] = (struct level){dir, strlen(name)};
	return 0;
}

static int send_content(int fd, struct error *error)
{
	static char buffer[COPY_BYTES];
	for (;;) {
		ssize_t got = read(fd, buffer, sizeof buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_system(error, errno, "reading %.500s", name);
		if (tree_write_chunk(&writer, buffer, (uint32_t)got) < 0)
			return fail_sending(error);
		if (got == 0)
			return 0;
	}
}

static int send_file(int dir, const char *last, struct error *error)
{
	struct stat status;
	int fd = openat(dir, last, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	// Gone or replaced since it was listed: then it is not part of the tree.
	if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO))
		return 0;
	if (fd < 0)
		return error_system(error, errno, "opening %.500s", name);
	int result = 0;
	if (fstat(fd, &status) < 0)
		result = error_system(error, errno, "%.500s", name);
	else if (S_ISREG(status.st_mode)) {
		if (tree_write_record(&writer, TREE_FILE, status.st_mode, name) < 0)
			result = fail_sending(error);
		else
			result = send_content(fd, error);
	}
	close(fd);
	return result;
}

static int send_link(int dir, const char *last, struct error *error)
{
	char target[TREE_MAX_TARGET + 1];
	ssize_t length = readlinkat(dir, last, target, sizeof target - 1);
	if (length <= 0)
		return 0;
	target[length] = '\0';
	if (tree_write_record(&writer, TREE_LINK, 0777, name) < 0 || tree_write_text(&writer, target) < 0)
		return fail_sending(error);
	return 0;
}

static int send_directory(int dir, const char *last, struct error *error)
{
	struct stat status;
	int fd = openat(dir, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENOTDIR))
		return 0;
	if (fd < 0 || fstat(fd, &status) < 0)
		return error_system(error, errno, "opening the directory %.500s", name);
	if (tree_write_record(&writer, TREE_DIRECTORY, status.st_mode, name) < 0) {
		close(fd);
		return fail_sending(error);
	}
	if (is_made_up(fd)) {
		close(fd);
		return 0;
	}
	return push(fd, error);
}

static int send_entry(const struct dirent *entry, struct error *error)
{
	struct level *level = &levels[depth - 1];
	int dir = dirfd(level->dir);
	size_t prefix = level->name_length ? level->name_length + 1 : 0;
	struct stat status;

	if (prefix + strlen(entry->d_name) > TREE_MAX_NAME)
		return error_set(error, ENAMETOOLONG, "a path below %.500s is longer than %d bytes", name, TREE_MAX_NAME);
	if (prefix)
		name[prefix - 1] = '/';
	strcpy(name + prefix, entry->d_name);
	if (fstatat(dir, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_system(error, errno, "%.500s", name);
	if (S_ISDIR(status.st_mode))
		return send_directory(dir, entry->d_name, error);
	if (S_ISREG(status.st_mode))
		return send_file(dir, entry->d_name, error);
	if (S_ISLNK(status.st_mode))
		return send_link(dir, entry->d_name, error);
	return 0;
}

static int send_all(struct error *error)
{
	while (depth > 0) {
		struct level *level = &levels[depth - 1];
		errno = 0;
		struct dirent *entry = readdir(level->dir);
		name[level->name_length] = '\0';
		if (!entry && errno)
			return error_system(error, errno, "reading the directory %.500s", name);
		if (!entry) {
			closedir(level->dir);
			depth--;
			continue;
		}
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (send_entry(entry, error) < 0)
			return -1;
	}
	return 0;
}

static void send_failure(const struct error *error)
{
	char where[TREE_MAX_NAME + 1];
	strcpy(where, name);
	error_clean(where, strlen(where));
	if (tree_write_record(&writer, TREE_ERROR, 0, where) == 0 && tree_write_text(&writer, error->text) == 0)
		tree_flush(&writer);
}

int builtin_get_tree(int root, const char *path, struct error *error)
{
	int fd = resolve_open(root, path, O_RDONLY | O_DIRECTORY);

	if (fd < 0 && errno == ELOOP)
		return error_set(error, ELOOP, "%s leads through a loop of symbolic links or a magic link", path);
	if (fd < 0)
		return error_system(error, errno, "%s", path);
	if (push(fd, error) < 0)
		return -1;
	if (send_all(error) < 0) {
		send_failure(error);
		return -1;
	}
	if (tree_write_record(&writer, TREE_END, 0, "") < 0 || tree_flush(&writer) < 0)
		return fail_sending(error);
	return 0;
}
