// The loopback interface and the container's address on it.
#ifndef TFNZ_NET_H
#define TFNZ_NET_H

#include "error.h"

// Brings lo up, which gives it 127.0.0.1/8.
int net_loopback_up(struct error *error);

// Adds `address` (dotted IPv4) with a /32 mask to lo, replacing the one added before. "" adds nothing.
int net_add_address(const char *address, struct error *error);

#endif
