// How the first process gets into its cgroups.
#ifndef TFNZ_CGROUP_H
#define TFNZ_CGROUP_H

#include "control.h"
#include "error.h"

// As the UNSHARE packet says: stay, move by the `tasks` files that came along (v1), or be born in the directory that
// came along (v2). In the last case a child goes on in our place, and this process has reported it and exited.
int cgroup_enter(const struct request *request, struct error *error);

#endif
