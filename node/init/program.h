// Becoming the program asked for.
#ifndef TFNZ_PROGRAM_H
#define TFNZ_PROGRAM_H

#include "error.h"

// Executes argv[0], looked up in the PATH of `env` unless it has a slash. Returns only to report a failure.
void program_execute(char *const argv[], char *const env[], struct error *error);

#endif
