// Which parts of /proc and /sys the container sees empty, and which it cannot write.
#ifndef TFNZ_MASKS_H
#define TFNZ_MASKS_H

#include "error.h"

// Applies all masks to proc and sysfs mounted at `staging`/proc and `staging`/sys. `empty_dir` is an empty directory.
int masks_apply(const char *staging, const char *empty_dir, struct error *error);

#endif
