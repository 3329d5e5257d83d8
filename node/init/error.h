// One error as a value: the kernel's number, its name, and a line of text for people.
#ifndef TFNZ_ERROR_H
#define TFNZ_ERROR_H

#include <stddef.h>

enum { ERROR_TEXT_BYTES = 1024 };

struct error {
	int number;
	const char *name;
	char text[ERROR_TEXT_BYTES];
};

// Fills `error` and returns -1, so that a caller can `return error_set(...)`. A formatted path may be hostile:
// control characters in the result become '?', and it stays one line.
int error_set(struct error *error, int number, const char *format, ...) __attribute__((format(printf, 3, 4)));

// The same with ": " and the system's words for `number` appended.
int error_system(struct error *error, int number, const char *format, ...) __attribute__((format(printf, 3, 4)));

// A link that leads nowhere is not an errno of its own; its name is ELINK and its number ENOENT.
int error_set_link(struct error *error, const char *path, const char *target);

// Replaces control characters by '?', in place.
void error_clean(char *text, size_t size);

#endif
