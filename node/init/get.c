// The built-in `get`: a regular file goes to standard output.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builtin.h"
#include "resolve.h"
#include "stream.h"

enum { COPY_BYTES = 128 * 1024 };

static int copy_out(int fd, const char *path, struct error *error)
{
	static char buffer[COPY_BYTES];
	for (;;) {
		ssize_t got = read(fd, buffer, sizeof buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_system(error, errno, "reading %s", path);
		if (got == 0)
			return 0;
		if (stream_write_all(STDOUT_FILENO, buffer, (size_t)got) < 0)
			return error_system(error, errno, "sending %s", path);
	}
}

int builtin_get(int root, const char *path, struct error *error)
{
	struct stat status;
	// Non-blocking, or a FIFO would wait for its writer.
	int fd = resolve_open(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 && errno == ELOOP)
		return error_set(error, ELOOP, "%s leads through a loop of symbolic links or a magic link", path);
	if (fd < 0 && (errno == ENXIO || errno == ENODEV))
		return error_set(error, EINVAL, "%s is a special file, only regular files can be fetched", path);
	if (fd < 0)
		return error_system(error, errno, "%s", path);
	int result = 0;
	if (fstat(fd, &status) < 0)
		result = error_system(error, errno, "%s", path);
	else if (S_ISDIR(status.st_mode))
		result = error_set(error, EISDIR, "%s is a directory", path);
	else if (!S_ISREG(status.st_mode))
		result = error_set(error, EINVAL, "%s is a special file, only regular files can be fetched", path);
	else
		result = copy_out(fd, path, error);
	close(fd);
	return result;
}
