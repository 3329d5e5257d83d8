// Paths inside the container: every look-up stays beneath its root, whatever links an image or a process put there.
#ifndef TFNZ_RESOLVE_H
#define TFNZ_RESOLVE_H

#include <limits.h>

#include "error.h"

// openat2 with CLOEXEC added, tried again while renames race with it. -1 and errno as usual.
int resolve_openat2(int dir, const char *path, int flags, unsigned long long resolve);

// Opens `path` inside the root directory `root`, following symbolic links but no magic ones. -1 and errno.
int resolve_open(int root, const char *path, int flags);

// The root directory of this process.
int resolve_root(struct error *error);

// A path cut into where it is and what it is called there.
struct location {
	char parent[PATH_MAX];
	char name[NAME_MAX + 1];
};

// Refuses a path without a last component of its own: "", "/", "a/..".
int resolve_split(const char *path, struct location *location, struct error *error);

// An O_PATH descriptor of the directory `path`; missing ones are created, root-owned 0755.
int resolve_make_directory(int root, const char *path, struct error *error);

#endif
