#include "secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replace.h"

// /dev is a tmpfs that we made, so this path cannot have been prepared by an image. It is an ordinary mount while
// files are being written, because Linux before 6.15 cannot clone from a detached one.
#define STORE "/dev/.tfnz-secrets"

static bool store_is_mounted;
static unsigned next_number;

static int mount_store(struct error *error)
{
	if (store_is_mounted)
		return 0;
	if (mkdir(STORE, 0700) < 0 && errno != EEXIST)
		return error_system(error, errno, "making a place for secrets");
	if (mount("secrets", STORE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=16m,nr_inodes=4k") < 0)
		return error_system(error, errno, "mounting a file system for secrets");
	store_is_mounted = true;
	return 0;
}

// The stored file as a mount of its own, attached nowhere.
static int store(const struct file_request *request, const struct user *user, struct error *error)
{
	char path[sizeof STORE + 16];
	snprintf(path, sizeof path, STORE "/%u", next_number++);
	int dir = open(STORE, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct replacement replacement;
	int result = -1;

	if (dir < 0)
		return error_system(error, errno, "opening the file system for secrets");
	if (replace_begin(&replacement, dir, path + sizeof STORE, request->path, error) == 0) {
		if (replace_copy(&replacement, request->content, request->size, error) < 0)
			replace_abort(&replacement);
		else
			result = replace_commit(&replacement, user->uid, user->gid, request->mode, error);
	}
	close(dir);
	if (result < 0)
		return -1;
	int clone = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (clone < 0)
		return error_system(error, errno, "%s: making a mount of the secret", request->path);
	return clone;
}

static int make_placeholder(int dir, const char *name, const struct file_request *request, struct error *error)
{
	struct replacement placeholder;
	if (replace_is_mount_point(dir, name))
		return error_set(error, EBUSY, "%s is a mount point already; was it given twice?", request->path);
	if (replace_begin(&placeholder, dir, name, request->path, error) < 0)
		return -1;
	return replace_commit(&placeholder, 0, 0, 0600, error);
}

int secret_write(int dir, const char *name, const struct file_request *request, const struct user *user,
		 struct error *error)
{
	if (mount_store(error) < 0 || make_placeholder(dir, name, request, error) < 0)
		return -1;
	int clone = store(request, user, error);
	if (clone < 0)
		return -1;
	int result = 0;
	int placeholder = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (placeholder < 0 ||
	    move_mount(clone, "", placeholder, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		result = error_system(error, errno, "mounting the secret on %s", request->path);
	if (placeholder >= 0)
		close(placeholder);
	close(clone);
	return result;
}

int secret_hide(struct error *error)
{
	if (!store_is_mounted)
		return 0;
	if (umount2(STORE, MNT_DETACH) < 0 || rmdir(STORE) < 0)
		return error_system(error, errno, "hiding the secrets' file system");
	store_is_mounted = false;
	return 0;
}
