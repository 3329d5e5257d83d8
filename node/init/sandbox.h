// From an ordinary process to PID 1 of a sandbox: namespaces, and a mount tree waiting for its root.
#ifndef TFNZ_SANDBOX_H
#define TFNZ_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

enum { USERNS_FD = 4, NETNS_FD = 5 };

// Where the mounts wait. It covers the host's /tmp in our own mount namespace, because every host has that.
#define STAGING "/tmp"

// Leaves for namespaces of our own, as whoever is to be root there: the host's user `id_base`. With `join`, descriptors 4
// and 5 are the user and network namespace to use. Returns a descriptor of the network namespace, which the user namespace
// owns, or -1.
int sandbox_unshare(bool join, uint32_t id_base, struct error *error);

// Becomes root of the user namespace, whose id maps the daemon has written by now.
int sandbox_become_root(struct error *error);

// Builds /dev, /proc and /sys under STAGING, with masks, and brings lo up.
int sandbox_prepare(struct error *error);

// Moves everything into the root file system `root_mount` and makes that the only thing there is.
int sandbox_enter(int root_mount, struct error *error);

#endif
