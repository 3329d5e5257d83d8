// The processes that the daemon asked for, from their start until the daemon has been told of their end.
#ifndef TFNZ_JOBS_H
#define TFNZ_JOBS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { JOBS_MAX = 1024 };

bool jobs_are_full(void);
bool jobs_has(uint32_t id);

// A kept job stays after the daemon has been told of its end, until it is forgotten.
void jobs_add(uint32_t id, pid_t pid, bool is_kept);

// The process of a job that has not been reaped, 0 when there is none.
pid_t jobs_find(uint32_t id);

// Reaps everything that has ended, orphans included.
void jobs_reap(void);

// Tells the daemon of ends, as far as the socket has room. True when some remain.
bool jobs_report(void);

// Has everything told again, what runs included, to a daemon that knows the number `nonce`.
void jobs_resync(uint32_t nonce);

// The daemon has written down the end of a kept job. Of one that runs or is not known, nothing.
void jobs_forget(uint32_t id);

#endif
