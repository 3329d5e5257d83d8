#include "devices.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};

// All instances share the kernel's few thousand.
#define TERMINALS "256"

static const struct {
	const char *name, *type, *options;
	unsigned long flags;
} mounts[] = {
	{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5,max=" TERMINALS, MS_NOSUID | MS_NOEXEC},
	{"shm", "tmpfs", "mode=1777,size=64m", MS_NOSUID | MS_NODEV | MS_NOEXEC},
	{"mqueue", "mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
};

static const char *const links[][2] = {
	{"ptmx", "pts/ptmx"},        {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
};

// The instance's own directory, held open: what a container's root does to /dev cannot redirect it.
static int pts_dir = -1;

static int bind_node(const char *dev, const char *name, struct error *error)
{
	char source[64], target[PATH_MAX];
	snprintf(source, sizeof source, "/dev/%s", name);
	snprintf(target, sizeof target, "%s/%s", dev, name);
	int fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
	if (fd < 0)
		return error_system(error, errno, "making %s", target);
	close(fd);
	if (mount(source, target, NULL, MS_BIND, NULL) < 0)
		return error_system(error, errno, "binding %s", source);
	return 0;
}

static int fill(const char *dev, struct error *error)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		if (bind_node(dev, nodes[i], error) < 0)
			return -1;
	for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
		snprintf(path, sizeof path, "%s/%s", dev, mounts[i].name);
		if (mkdir(path, 0755) < 0)
			return error_system(error, errno, "making %s", path);
		if (mount(mounts[i].type, path, mounts[i].type, mounts[i].flags, mounts[i].options) < 0)
			return error_system(error, errno, "mounting %s on %s", mounts[i].type, path);
	}
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
		snprintf(path, sizeof path, "%s/%s", dev, links[i][0]);
		if (symlink(links[i][1], path) < 0)
			return error_system(error, errno, "making %s", path);
	}
	return 0;
}

int devices_prepare(const char *dev, struct error *error)
{
	char path[PATH_MAX];

	if (mkdir(dev, 0755) < 0)
		return error_system(error, errno, "making %s", dev);
	if (mount("dev", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k,nr_inodes=1k") < 0)
		return error_system(error, errno, "mounting a tmpfs on %s", dev);
	if (fill(dev, error) < 0)
		return -1;
	snprintf(path, sizeof path, "%s/pts", dev);
	pts_dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pts_dir < 0)
		return error_system(error, errno, "opening %s", path);
	return 0;
}

static void configure(int slave, uint32_t rows, uint32_t columns, int raw)
{
	struct winsize size = {
		.ws_row = (unsigned short)(rows > USHRT_MAX ? USHRT_MAX : rows),
		.ws_col = (unsigned short)(columns > USHRT_MAX ? USHRT_MAX : columns),
	};
	struct termios mode;

	ioctl(slave, TIOCSWINSZ, &size);
	if (tcgetattr(slave, &mode) < 0)
		return;
	mode.c_iflag |= IUTF8;
	if (raw) {
		mode.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL | ECHOCTL | ECHOKE);
		mode.c_oflag &= ~(tcflag_t)OPOST;
	}
	tcsetattr(slave, TCSANOW, &mode);
}

int devices_open_terminal(uint32_t rows, uint32_t columns, int raw, struct terminal *terminal, struct error *error)
{
	int unlock = 0;

	terminal->master = openat(pts_dir, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (terminal->master < 0)
		return error_system(error, errno, "opening a terminal");
	if (ioctl(terminal->master, TIOCSPTLCK, &unlock) < 0 ||
	    (terminal->slave = ioctl(terminal->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		error_system(error, errno, "opening a terminal's other side");
		close(terminal->master);
		return -1;
	}
	configure(terminal->slave, rows, columns, raw);
	return 0;
}
