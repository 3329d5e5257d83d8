// The container's /dev, and its terminals.
#ifndef TFNZ_DEVICES_H
#define TFNZ_DEVICES_H

#include <stdint.h>

#include "error.h"

// Mounts a small /dev at `path`: the six harmless devices, pts, shm, mqueue and the customary links.
int devices_prepare(const char *path, struct error *error);

struct terminal {
	int master;
	int slave;
};

// A new terminal of the container. `raw` neither echoes nor turns newlines into CR LF.
int devices_open_terminal(uint32_t rows, uint32_t columns, int raw, struct terminal *terminal, struct error *error);

#endif
