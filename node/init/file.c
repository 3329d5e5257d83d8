#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "replace.h"
#include "resolve.h"
#include "secret.h"
#include "users.h"

// The kernel's own file systems are settings, not storage.
static int refuse_kernel_files(int dir, const char *path, struct error *error)
{
	struct statfs status;
	if (fstatfs(dir, &status) < 0)
		return error_system(error, errno, "%s", path);
	if (status.f_type == PROC_SUPER_MAGIC || status.f_type == SYSFS_MAGIC || status.f_type == DEVPTS_SUPER_MAGIC)
		return error_set(error, EPERM, "%s is in /proc, /sys or /dev/pts, where no files can be written", path);
	return 0;
}

static int write_plain(int dir, const char *name, const struct file_request *request, const struct user *user,
		       struct error *error)
{
	struct replacement replacement;
	if (replace_begin(&replacement, dir, name, request->path, error) < 0)
		return -1;
	if (replace_copy(&replacement, request->content, request->size, error) < 0) {
		replace_abort(&replacement);
		return -1;
	}
	return replace_commit(&replacement, user->uid, user->gid, request->mode, error);
}

static int write_in_root(int root, const struct file_request *request, struct error *error)
{
	struct location location;
	struct user user;

	if (resolve_split(request->path, &location, error) < 0)
		return -1;
	if (users_resolve(root, request->owner, &user, error) < 0) {
		// The file is not to blame, whatever number it was.
		error->number = ESRCH;
		return -1;
	}
	int dir = resolve_make_directory(root, location.parent, error);
	if (dir < 0)
		return -1;
	int result = refuse_kernel_files(dir, request->path, error);
	if (result == 0 && request->secret)
		result = secret_write(dir, location.name, request, &user, error);
	else if (result == 0)
		result = write_plain(dir, location.name, request, &user, error);
	close(dir);
	return result;
}

int file_write(const struct file_request *request, struct error *error)
{
	int root = resolve_root(error);
	if (root < 0)
		return -1;
	if (lseek(request->content, request->offset, SEEK_SET) < 0) {
		close(root);
		return error_system(error, errno, "reading the content of %s", request->path);
	}
	int result = write_in_root(root, request, error);
	close(root);
	return result;
}
