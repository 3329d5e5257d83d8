#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 128 * 1024, SHARE_BYTES = 1 << 30 };

void replace_temporary_name(char *name, size_t size)
{
	uint64_t random = 0;
	if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0)
		random = (uint64_t)getpid();
	snprintf(name, size, ".tfnz-%016" PRIx64, random);
}

static int fail_writing(const char *path, int number, struct error *error)
{
	if (number == ENOSPC)
		return error_set(error, number, "%s: no space is left", path);
	if (number == EDQUOT)
		return error_set(error, number, "%s: the container has used up its disk", path);
	return error_system(error, number, "writing %s", path);
}

bool replace_is_mount_point(int dir, const char *name)
{
	struct statx status;
	return statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &status) == 0 &&
	       (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

static int make_temporary(struct replacement *replacement, int flags)
{
	char name[sizeof replacement->temporary];

	replace_temporary_name(name, sizeof name);
	int fd = openat(replacement->dir, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		strcpy(replacement->temporary, name);
	return fd;
}

// A file without a name until it is whole, so that nothing of it is left when we are killed.
static int open_nameless(struct replacement *replacement)
{
	int fd = openat(replacement->dir, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd >= 0 || errno != EOPNOTSUPP)
		return fd;
	// An overlay before Linux 6.10. One whose name is taken away at once serves as well; it can never have another,
	// so in the end there will be a copy.
	replacement->unlinked = true;
	fd = make_temporary(replacement, O_RDWR);
	if (fd >= 0) {
		unlinkat(replacement->dir, replacement->temporary, 0);
		replacement->temporary[0] = '\0';
	} else if (errno == EACCES || errno == EPERM || errno == ENOENT) {
		errno = EOPNOTSUPP; // Permissions were in order before: here nobody makes files.
	}
	return fd;
}

int replace_begin(struct replacement *replacement, int dir, const char *name, const char *path, struct error *error)
{
	struct stat status;

	*replacement = (struct replacement){.dir = dir, .name = name, .path = path, .fd = -1};
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
		if (S_ISDIR(status.st_mode))
			return error_set(error, EISDIR, "%s is a directory", path);
		if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
			return error_set(error, EINVAL, "%s is a special file, only regular files can be written", path);
		replacement->in_place = replace_is_mount_point(dir, name);
	} else if (errno != ENOENT) {
		return error_system(error, errno, "%s", path);
	}
	if (replacement->in_place) {
		replacement->fd = openat(dir, name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	} else {
		replacement->fd = open_nameless(replacement);
	}
	if (replacement->fd < 0 && errno == EOPNOTSUPP)
		return error_set(error, errno, "%s is where no files can be made, as in /proc", path);
	if (replacement->fd < 0)
		return fail_writing(path, errno, error);
	return 0;
}

int replace_write(struct replacement *replacement, const void *data, size_t size, struct error *error)
{
	const char *at = data;
	while (size > 0) {
		ssize_t written = write(replacement->fd, at, size);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return fail_writing(replacement->path, errno, error);
		at += written;
		size -= (size_t)written;
	}
	return 0;
}

static int copy_all(struct replacement *replacement, int source, size_t size, char *buffer, struct error *error)
{
	while (size > 0) {
		ssize_t got = read(source, buffer, size < COPY_BYTES ? size : COPY_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_system(error, errno, "reading the content of %s", replacement->path);
		if (got == 0)
			return 0;
		if (replace_write(replacement, buffer, (size_t)got, error) < 0)
			return -1;
		size -= (size_t)got;
	}
	return 0;
}

// What ends the content: without it the sender has died, and what has come is not all. It is no part of the content,
// so as much as may be the seal is held back.
enum { SEAL_MARK_BYTES = 8, SEAL_BYTES = SEAL_MARK_BYTES + 8 };
static const char SEAL_MARK[SEAL_MARK_BYTES] = {'t', 'f', 'n', 'z', ':', 'a', 'l', 'l'};

static bool is_seal(const char *held, size_t size, uint64_t written)
{
	uint64_t count = 0;

	if (size != SEAL_BYTES || memcmp(held, SEAL_MARK, SEAL_MARK_BYTES) != 0)
		return false;
	for (int i = SEAL_MARK_BYTES; i < SEAL_BYTES; i++)
		count = count << 8 | (unsigned char)held[i];
	return count == written;
}

static int copy_sealed(struct replacement *replacement, int source, char *buffer, struct error *error)
{
	size_t held = 0;
	uint64_t written = 0;

	for (;;) {
		ssize_t got = read(source, buffer + held, COPY_BYTES - held);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_system(error, errno, "reading the content of %s", replacement->path);
		if (got == 0)
			break;
		held += (size_t)got;
		if (held <= SEAL_BYTES)
			continue;
		size_t size = held - SEAL_BYTES;
		if (replace_write(replacement, buffer, size, error) < 0)
			return -1;
		written += size;
		memmove(buffer, buffer + size, SEAL_BYTES);
		held = SEAL_BYTES;
	}
	if (!is_seal(buffer, held, written))
		return error_set(error, ECANCELED, "%s: the sender has ended before its content", replacement->path);
	return 0;
}

// Mapped, so that PID 1 gives it back: it lives as long as the container.
static char *map_buffer(const struct replacement *replacement, struct error *error)
{
	char *buffer = mmap(NULL, COPY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer != MAP_FAILED)
		return buffer;
	error_system(error, errno, "no memory to write %s", replacement->path);
	return NULL;
}

int replace_copy_sealed(struct replacement *replacement, int source, struct error *error)
{
	char *buffer = map_buffer(replacement, error);
	if (!buffer)
		return -1;
	int result = copy_sealed(replacement, source, buffer, error);
	munmap(buffer, COPY_BYTES);
	return result;
}

int replace_copy(struct replacement *replacement, int source, size_t size, struct error *error)
{
	char *buffer = map_buffer(replacement, error);
	if (!buffer)
		return -1;
	int result = copy_all(replacement, source, size, buffer, error);
	munmap(buffer, COPY_BYTES);
	return result;
}

// A large file shares its blocks with the copy where the file system can do that, lest it need room twice. That waits
// until they are on the disk, so a small one is rather copied in memory.
static int copy_content(int from, int to)
{
	struct stat status;
	off_t at = 0;
	ssize_t copied;

	if (fstat(from, &status) < 0)
		return -1;
	do
		copied = status.st_size > COPY_BYTES ? copy_file_range(from, &at, to, NULL, SHARE_BYTES, 0)
						     : sendfile(to, from, &at, COPY_BYTES);
	while (copied > 0 || (copied < 0 && errno == EINTR));
	return (int)copied;
}

static int copy_to_temporary(struct replacement *replacement)
{
	int nameless = replacement->fd;
	int fd = make_temporary(replacement, O_WRONLY);

	if (fd < 0)
		return -1;
	replacement->fd = fd;
	int result = copy_content(nameless, fd);
	int number = errno;
	close(nameless);
	errno = number;
	return result;
}

// A link cannot replace what is there, but a rename can: a temporary name in between.
static int give_name(struct replacement *replacement)
{
	if (replacement->unlinked)
		return copy_to_temporary(replacement);
	char descriptor[sizeof "/proc/self/fd/" + 3 * sizeof(int)];

	snprintf(descriptor, sizeof descriptor, "/proc/self/fd/%d", replacement->fd);
	replace_temporary_name(replacement->temporary, sizeof replacement->temporary);
	if (linkat(AT_FDCWD, descriptor, replacement->dir, replacement->temporary, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	replacement->temporary[0] = '\0';
	return -1;
}

int replace_commit(struct replacement *replacement, uid_t uid, gid_t gid, mode_t mode, struct error *error)
{
	// The owner before the mode: changing it clears the set-id bits.
	if (!replacement->in_place && give_name(replacement) < 0) {
		fail_writing(replacement->path, errno, error);
	} else if (!replacement->in_place && fchown(replacement->fd, uid, gid) < 0) {
		error_system(error, errno, "giving %s to %u:%u", replacement->path, uid, gid);
	} else if (!replacement->in_place && fchmod(replacement->fd, mode) < 0) {
		error_system(error, errno, "setting the mode of %s", replacement->path);
	} else if (close(replacement->fd) < 0) {
		replacement->fd = -1;
		fail_writing(replacement->path, errno, error);
	} else {
		replacement->fd = -1;
		if (replacement->in_place ||
		    renameat(replacement->dir, replacement->temporary, replacement->dir, replacement->name) == 0)
			return 0;
		fail_writing(replacement->path, errno, error);
	}
	replace_abort(replacement);
	return -1;
}

void replace_abort(struct replacement *replacement)
{
	if (replacement->fd >= 0)
		close(replacement->fd);
	replacement->fd = -1;
	if (replacement->temporary[0])
		unlinkat(replacement->dir, replacement->temporary, 0);
}
