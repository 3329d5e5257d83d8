// The world around init's service loop, as a fuzz target has it: see fuzz_socket.c.
#ifndef TFNZ_FUZZ_SOCKET_H
#define TFNZ_FUZZ_SOCKET_H

#include "control.h"

// What a new process would read of a request, read to the last byte.
void socket_read_as_child(const struct request *request);

#endif
