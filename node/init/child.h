// Between fork and exec: a copy of PID 1 turns itself into a confined process of the container.
#ifndef TFNZ_CHILD_H
#define TFNZ_CHILD_H

#include <linux/filter.h>

#include "control.h"
#include "devices.h"

// Never returns: becomes the program, or writes what went wrong to the status pipe and exits 126 or 127.
void child_main(struct request *request, const struct terminal *terminal, const struct sock_fprog *filter)
	__attribute__((noreturn));

#endif
