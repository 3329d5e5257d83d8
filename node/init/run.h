// Starting a process in the container.
#ifndef TFNZ_RUN_H
#define TFNZ_RUN_H

#include <linux/filter.h>

#include "control.h"

// What a new process writes to its status pipe when it cannot become the program asked for.
enum run_stage { STAGE_SETUP = 1, STAGE_USER = 2, STAGE_CWD = 3, STAGE_EXEC = 4 };

// Reads the seccomp filter that every process will run under.
int run_load_filter(int fd, struct error *error);

// Serves one RUN request and replies to it.
void run_start(struct request *request);

#endif
