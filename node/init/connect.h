// Connections from the daemon to what listens in the container.
#ifndef TFNZ_CONNECT_H
#define TFNZ_CONNECT_H

#include "control.h"

// Serves one CONNECT request: the reply has a stream socket that is connected, or is about to be; the daemon waits for
// that, so that nothing in the container can keep PID 1. A port of 0 means that the string is the path of a unix
// socket, and else it is an address of the container's.
void connect_start(struct request *request);

#endif
