// File operations of our own, run as ordinary confined processes: put, get, put-tree, get-tree.
#ifndef TFNZ_BUILTIN_H
#define TFNZ_BUILTIN_H

#include "error.h"

// Runs argv[0] on standard input and output. 0, or 1 after one line "ERRNAME text" on standard error.
int builtin_main(int argc, char *const argv[]);

int builtin_put(int root, const char *path, unsigned mode, struct error *error);
int builtin_get(int root, const char *path, struct error *error);
int builtin_put_tree(int root, const char *path, struct error *error);
int builtin_get_tree(int root, const char *path, struct error *error);

#endif
