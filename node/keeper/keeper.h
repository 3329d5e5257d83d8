// What the keeper keeps: records by name, each with bytes and descriptors. No input or output but closing.
#ifndef TFNZ_KEEPER_H
#define TFNZ_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	NAME_MAX_BYTES = 255,
	RECORD_MAX_BYTES = 60 * 1024,
	RECORD_MAX_FDS = 16,
	RECORDS_MAX = 262144,
	ALL_RECORDS_MAX_BYTES = 256 * 1024 * 1024,
};

struct record {
	struct record *before, *after; // in the order in which they came: what is built on another comes after it
	struct record *chained;
	char *name; // NUL-terminated, with the bytes behind it in one piece of memory
	char *bytes;
	uint32_t hash, size;
	int fd_count;
	int fds[RECORD_MAX_FDS];
};

// Takes the descriptors over, also when it refuses; what was there under this name is closed once the new is there.
// False when there is no room: then nothing has the name any more, for what was there is out of date.
bool records_put(const char *name, const char *bytes, uint32_t size, const int *fds, int fd_count);

// Forgets a record and closes its descriptors; of one that is not there, nothing.
void records_delete(const char *name);

// Forgets all of them.
void records_clear(void);

unsigned records_count(void);

// The first in the order of coming, whose `after` leads to the others; NULL when there is none.
const struct record *records_first(void);

#endif
