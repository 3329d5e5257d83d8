// Files written into the container before its first process runs.
#ifndef TFNZ_FILE_H
#define TFNZ_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "error.h"

struct file_request {
	const char *path;
	const char *owner; // a user spec
	mode_t mode;
	int content; // a memory file that holds it, and where in it
	off_t offset;
	size_t size;
	bool secret;
};

// Writes the file as root of the container. Only safe while no process of the container runs.
int file_write(const struct file_request *request, struct error *error);

#endif
