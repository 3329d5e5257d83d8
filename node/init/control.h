// The control socket, descriptor 3: one packet in, one packet out, never waiting on the daemon.
#ifndef TFNZ_CONTROL_H
#define TFNZ_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "packet.h"

enum { CONTROL_FD = 3, EXIT_PROTOCOL = 70, EXIT_SETUP = 71 };

struct request {
	struct packet packet;
	int fds[PACKET_MAX_FDS];
	int fd_count;
};

// Receives one request, whose strings stay valid until control_release. Does not return when the daemon has
// closed the socket (exit 0) or sent something malformed (exit 70). false: nothing has arrived.
bool control_receive(struct request *request, bool wait);

// Closes the descriptors that nobody took (a taken one is set to -1) and forgets the bytes, which may be secret.
void control_release(struct request *request);

// What a request must look like; anything else is a broken daemon and ends init with 70.
void control_require(const struct request *request, uint32_t kind, uint32_t strings, int fds);

// Sends a reply, or keeps it until the socket has room. Only one may be kept: requests wait until it is gone.
void control_reply(uint32_t kind, uint32_t id, uint32_t argument, const char *text, int fd);
void control_done(uint32_t id);
void control_failed(uint32_t id, const struct error *error);

// Sends what nobody has asked for. false: the socket is full or a reply is waiting, try later.
bool control_report(uint32_t kind, uint32_t id, uint32_t argument);

// True while a reply waits for room; control_flush tries again.
bool control_is_full(void);
void control_flush(void);

// Says why on standard error and exits.
void control_die(int code, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
