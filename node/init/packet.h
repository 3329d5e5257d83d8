// The packets of the control socket: parsing and building, no input or output.
//
// A fixed header of ten little-endian u32 (magic, kind, id, six arguments, number of strings), then that many
// NUL-terminated strings and nothing else. The other half is node/tfnz_node/sandbox/wire.py.
#ifndef TFNZ_PACKET_H
#define TFNZ_PACKET_H

#include <stddef.h>
#include <stdint.h>

#define PACKET_MAGIC 0x74667831u

enum { PACKET_MAX_BYTES = 128 * 1024, PACKET_HEADER_BYTES = 40, PACKET_ARGUMENTS = 6, PACKET_MAX_FDS = 8 };

enum packet_kind {
	KIND_UNSHARE = 1,
	KIND_PREPARE = 2,
	KIND_BOOT = 3,
	KIND_FILE = 4,
	KIND_RUN = 5,
	KIND_SIGNAL = 6,
	KIND_CONNECT = 7,
	KIND_RESYNC = 8,
	KIND_FORGET = 9,
	KIND_UNSHARED = 101,
	KIND_FORKED = 102,
	KIND_READY = 103,
	KIND_DONE = 104,
	KIND_FAILED = 105,
	KIND_STARTED = 106,
	KIND_EXITED = 107,
	KIND_RESYNCED = 108,
	KIND_RUNS = 109,
	KIND_LISTED = 110,
};

// Arguments 0 and 1 of UNSHARE: one of these, and the host's user and group id that is to be root inside.
enum entrance { ENTRANCE_STAY = 0, ENTRANCE_TASKS = 1, ENTRANCE_BIRTH = 2 };
enum run_flag { RUN_PTY = 1, RUN_MAIN = 2, RUN_BUILTIN = 4, RUN_RAW = 8, RUN_KEPT = 16, RUN_FLAGS = 31 };
enum file_flag { FILE_SECRET = 1, FILE_FLAGS = 1 };

struct packet {
	uint32_t kind;
	uint32_t id;
	uint32_t arguments[PACKET_ARGUMENTS];
	uint32_t string_count;
	const char *strings; // the first one; the rest follow it, packet_next finds them
	const char *end;
};

// 0, or -1 when `data` is not exactly one packet. The strings stay in `data`.
int packet_parse(const void *data, size_t size, struct packet *packet);

// The string at `*cursor`, which moves on to the next; NULL at the end. Start with packet->strings.
const char *packet_next(const struct packet *packet, const char **cursor);

// Writes a packet with one string, or none when `text` is NULL, and returns its size; `out` has `size` bytes.
// A text that does not fit is cut.
size_t packet_build(char *out, size_t size, uint32_t kind, uint32_t id, uint32_t argument, const char *text);

#endif
