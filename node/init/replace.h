// Writing a file so that others see the old content or the new, never half of it.
#ifndef TFNZ_REPLACE_H
#define TFNZ_REPLACE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "error.h"

struct replacement {
	int dir;                   // where the file is; borrowed
	const char *name;          // what it is called there; borrowed
	const char *path;          // what people call it; borrowed
	int fd;                    // write the content here
	bool in_place;             // the target is a mount point, which nothing can be renamed over
	bool unlinked;             // its name was taken away, so it cannot get another
	char temporary[NAME_MAX + 1]; // its name before it has its own; empty while it has none
};

// True when something is mounted on `name`, so that nothing can be renamed over it.
bool replace_is_mount_point(int dir, const char *name);

// Prepares to replace the file, symbolic link or nothing at `name`. Directories and special files are refused.
int replace_begin(struct replacement *replacement, int dir, const char *name, const char *path, struct error *error);

// Copies what is left of `source` into the new file, but for the seal at its end. What comes from a daemon that dies has
// an end, too: without a seal it is refused.
int replace_copy_sealed(struct replacement *replacement, int source, struct error *error);

// Copies the next `size` bytes of `source` into the new file, or what there is.
int replace_copy(struct replacement *replacement, int source, size_t size, struct error *error);

// Writes all of `data`.
int replace_write(struct replacement *replacement, const void *data, size_t size, struct error *error);

// Sets owner and mode and puts the new file in place. Closes and cleans up, whatever the outcome.
int replace_commit(struct replacement *replacement, uid_t uid, gid_t gid, mode_t mode, struct error *error);

// Gives up: the old file stays, the new one goes.
void replace_abort(struct replacement *replacement);

// A name for a temporary file beside another; not to be guessed in advance.
void replace_temporary_name(char *name, size_t size);

#endif
