// The built-in `put-tree`: a stream of records on standard input becomes a directory.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builtin.h"
#include "replace.h"
#include "resolve.h"
#include "tree.h"

static struct tree_reader reader;
static struct tree_record record;

static ssize_t read_stdin(void *source, void *buffer, size_t size)
{
	(void)source;
	return read(STDIN_FILENO, buffer, size);
}

// The directory that a record's last component goes to. No link inside the tree is followed: neither one that was
// there before, nor one that the stream itself has brought.
static int open_parent(int base, const char *name, const char **last, struct error *error)
{
	char parent[TREE_MAX_NAME + 1];
	const char *slash = strrchr(name, '/');
	size_t length = slash ? (size_t)(slash - name) : 0;

	*last = slash ? slash + 1 : name;
	if (slash) {
		memcpy(parent, name, length);
		parent[length] = '\0';
	} else {
		strcpy(parent, ".");
	}
	int dir = resolve_openat2(base, parent, O_PATH | O_DIRECTORY,
				  RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	if (dir < 0 && errno == ELOOP)
		return error_set(error, ELOOP, "%.500s would be written through a symbolic link", name);
	if (dir < 0)
		return error_system(error, errno, "the directory of %.500s", name);
	return dir;
}

static int put_directory(int dir, const char *last, struct error *error)
{
	if (mkdirat(dir, last, 0700) < 0 && errno != EEXIST)
		return error_system(error, errno, "making the directory %.500s", record.name);
	int made = openat(dir, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (made < 0 && (errno == ENOTDIR || errno == ELOOP))
		return error_set(error, ENOTDIR, "%.500s exists and is not a directory", record.name);
	if (made < 0)
		return error_system(error, errno, "opening the directory %.500s", record.name);
	int result = 0;
	if (fchmod(made, record.mode) < 0)
		result = error_system(error, errno, "setting the mode of %.500s", record.name);
	close(made);
	return result;
}

static int copy_content(struct replacement *replacement, struct error *error)
{
	for (;;) {
		const char *data;
		size_t size;
		if (tree_read_content(&reader, &data, &size, error) < 0)
			return -1;
		if (size == 0)
			return 0;
		if (replace_write(replacement, data, size, error) < 0)
			return -1;
	}
}

static int put_file(int dir, const char *last, struct error *error)
{
	struct replacement replacement;

	if (replace_begin(&replacement, dir, last, record.name, error) < 0)
		return -1;
	if (copy_content(&replacement, error) < 0) {
		replace_abort(&replacement);
		return -1;
	}
	return replace_commit(&replacement, geteuid(), getegid(), record.mode, error);
}

static int put_link(int dir, const char *last, struct error *error)
{
	char temporary[NAME_MAX + 1];
	struct stat status;

	if (fstatat(dir, last, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode))
		return error_set(error, EISDIR, "%.500s is a directory, where the tree has a symbolic link", record.name);
	replace_temporary_name(temporary, sizeof temporary);
	if (symlinkat(record.text, dir, temporary) < 0)
		return error_system(error, errno, "making the symbolic link %.500s", record.name);
	if (renameat(dir, temporary, dir, last) == 0)
		return 0;
	error_system(error, errno, "making the symbolic link %.500s", record.name);
	unlinkat(dir, temporary, 0);
	return -1;
}

static int put_record(int base, struct error *error)
{
	const char *last;
	int dir = open_parent(base, record.name, &last, error);
	if (dir < 0)
		return -1;
	int result = record.kind == TREE_DIRECTORY ? put_directory(dir, last, error)
		     : record.kind == TREE_FILE	   ? put_file(dir, last, error)
						   : put_link(dir, last, error);
	close(dir);
	return result;
}

int builtin_put_tree(int root, const char *path, struct error *error)
{
	int result = 0;
	int base = resolve_make_directory(root, path, error);

	if (base < 0)
		return -1;
	tree_reader_init(&reader, read_stdin, NULL);
	while (result == 0) {
		result = tree_read_record(&reader, &record, error);
		if (result < 0 || record.kind == TREE_END)
			break;
		if (record.kind == TREE_ERROR)
			result = error_set(error, ECANCELED, "the sender stopped at %.400s: %.400s", record.name,
					   record.text);
		else
			result = put_record(base, error);
	}
	close(base);
	return result;
}
