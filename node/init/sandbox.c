#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices.h"
#include "masks.h"
#include "net.h"

static const unsigned long guard = MS_NOSUID | MS_NODEV | MS_NOEXEC;

// Some things that each user gets only so many of (inotify instances, bytes in message queues, pending signals) are counted
// for the owner of a user namespace besides, who is the effective user that makes it. So that is the container's own root:
// all containers of the host's root would share them, with each other and with the host. The capabilities stay, for kernels
// that let nobody else make one, and end with that; so does the real user, who may be signalled by nobody of that id, and
// has no limit of processes.
static int become_owner(uint32_t id_base, struct error *error)
{
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0 ||
	    setresgid((gid_t)-1, id_base, (gid_t)-1) < 0 || setresuid((uid_t)-1, id_base, (uid_t)-1) < 0)
		return error_system(error, errno, "becoming the owner of the user namespace");
	return 0;
}

int sandbox_unshare(bool join, uint32_t id_base, struct error *error)
{
	int flags = CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWPID;

	if (become_owner(id_base, error) < 0)
		return -1;
	if (join) {
		if (setns(USERNS_FD, CLONE_NEWUSER) < 0)
			return error_system(error, errno, "joining the user namespace");
		if (setns(NETNS_FD, CLONE_NEWNET) < 0)
			return error_system(error, errno, "joining the network namespace");
		close(USERNS_FD);
		close(NETNS_FD);
	} else {
		// In one step, so that the user namespace owns the network namespace: sysfs asks for that.
		flags |= CLONE_NEWUSER | CLONE_NEWNET;
	}
	if (unshare(flags) < 0)
		return error_system(error, errno, "making namespaces");
	int network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (network < 0)
		return error_system(error, errno, "opening the network namespace");
	return network;
}

int sandbox_become_root(struct error *error)
{
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || setgroups(0, NULL) < 0)
		return error_system(error, errno, "becoming root of the user namespace; are its id maps written?");
	return 0;
}

static int make_mount(const char *type, const char *target, unsigned long flags, const char *options,
		      struct error *error)
{
	if (mkdir(target, 0755) < 0 && errno != EEXIST)
		return error_system(error, errno, "making %s", target);
	if (mount(type, target, type, flags, options) < 0)
		return error_system(error, errno, "mounting %s on %s", type, target);
	return 0;
}

// Settings of our own network namespace, while /proc/sys can still be written: ping without privileges, and
// ports below 1024 for images that run as somebody else than root, as under docker.
static int open_up_network(struct error *error)
{
	static const char *const settings[][2] = {
		{STAGING "/proc/sys/net/ipv4/ping_group_range", "0 65535"},
		{STAGING "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
	};
	for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
		int fd = open(settings[i][0], O_WRONLY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		ssize_t size = (ssize_t)strlen(settings[i][1]);
		if (fd < 0 || write(fd, settings[i][1], (size_t)size) != size)
			return error_system(error, errno, "writing %s", settings[i][0] + strlen(STAGING));
		close(fd);
	}
	return 0;
}

int sandbox_prepare(struct error *error)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_system(error, errno, "making the mount tree private");
	if (mount("staging", STAGING, "tmpfs", guard, "mode=0755,size=64k,nr_inodes=64") < 0)
		return error_system(error, errno, "mounting a tmpfs on " STAGING);
	if (mkdir(STAGING "/root", 0755) < 0 || mkdir(STAGING "/empty", 0555) < 0)
		return error_system(error, errno, "making directories in " STAGING);
	if (devices_prepare(STAGING "/dev", error) < 0)
		return -1;
	if (make_mount("proc", STAGING "/proc", guard, NULL, error) < 0 ||
	    make_mount("sysfs", STAGING "/sys", guard | MS_RDONLY, NULL, error) < 0)
		return -1;
	if (net_loopback_up(error) < 0 || open_up_network(error) < 0)
		return -1;
	return masks_apply(STAGING, STAGING "/empty", error);
}

// A mount point in the root of a hostile image: whatever is not a directory is replaced, and no link is followed.
static int open_mount_point(int root, const char *name, struct error *error)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		int fd = openat(root, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if ((errno == ENOTDIR || errno == ELOOP) && unlinkat(root, name, 0) < 0)
			return error_system(error, errno, "removing /%s, which is not a directory", name);
		if (mkdirat(root, name, 0755) < 0)
			return error_system(error, errno, "making /%s", name);
	}
	return error_set(error, ENOTDIR, "/%s is not a directory", name);
}

static int move_into(int root, const char *name, struct error *error)
{
	char source[64];
	snprintf(source, sizeof source, STAGING "/%s", name);
	int target = open_mount_point(root, name, error);
	if (target < 0)
		return -1;
	int result = 0;
	if (move_mount(AT_FDCWD, source, target, "", MOVE_MOUNT_T_EMPTY_PATH) < 0)
		result = error_system(error, errno, "moving %s into the container", name);
	close(target);
	return result;
}

static int move_all_into_root(int root_mount, struct error *error)
{
	static const char *const names[] = {"dev", "proc", "sys"};
	struct mount_attr attributes = {
		.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
		.propagation = MS_PRIVATE,
	};

	if (move_mount(root_mount, "", AT_FDCWD, STAGING "/root", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return error_system(error, errno, "attaching the root file system");
	// Whatever an image contains, its device nodes and set-id bits are dead.
	if (mount_setattr(root_mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
		return error_system(error, errno, "setting nosuid and nodev on the root file system");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (move_into(root_mount, names[i], error) < 0)
			return -1;
	return 0;
}

int sandbox_enter(int root_mount, struct error *error)
{
	if (move_all_into_root(root_mount, error) < 0)
		return -1;
	if (chdir(STAGING "/root") < 0)
		return error_system(error, errno, "entering the root file system");
	// The old root lands on top of the new one, where one detach takes it away.
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return error_system(error, errno, "changing the root");
	if (umount2(".", MNT_DETACH) < 0)
		return error_system(error, errno, "detaching the host's mounts");
	if (chdir("/") < 0)
		return error_system(error, errno, "entering the new root");
	return 0;
}
