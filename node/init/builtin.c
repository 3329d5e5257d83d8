#include "builtin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolve.h"

static int parse_mode(const char *text, unsigned *mode)
{
	unsigned value = 0;
	if (!*text || strlen(text) > 5)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '7')
			return -1;
		value = value * 8 + (unsigned)(*text - '0');
	}
	*mode = value;
	return value <= 07777 ? 0 : -1;
}

static int dispatch(int root, int argc, char *const argv[], struct error *error)
{
	unsigned mode;

	if (argc == 3 && !strcmp(argv[0], "put")) {
		if (parse_mode(argv[2], &mode) < 0)
			return error_set(error, EINVAL, "the mode %.20s is not an octal number up to 7777", argv[2]);
		return builtin_put(root, argv[1], mode, error);
	}
	if (argc == 2 && !strcmp(argv[0], "get"))
		return builtin_get(root, argv[1], error);
	if (argc == 2 && !strcmp(argv[0], "put-tree"))
		return builtin_put_tree(root, argv[1], error);
	if (argc == 2 && !strcmp(argv[0], "get-tree"))
		return builtin_get_tree(root, argv[1], error);
	return error_set(error, EINVAL, "tfnz-init has no operation %.40s with %d arguments", argv[0], argc - 1);
}

int builtin_main(int argc, char *const argv[])
{
	struct error error;
	int root = resolve_root(&error);

	// Modes are given, not to be narrowed; directories that we make along the way are 0755 by themselves.
	umask(0);
	if (root >= 0 && dispatch(root, argc, argv, &error) == 0)
		return 0;
	dprintf(STDERR_FILENO, "%s %s\n", error.name, error.text);
	return 1;
}
