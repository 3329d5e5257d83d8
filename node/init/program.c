#include "program.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static const char *find_search_path(char *const env[])
{
	for (; *env; env++)
		if (!strncmp(*env, "PATH=", 5))
			return *env + 5;
	return DEFAULT_PATH;
}

static void explain(const char *name, int number, struct error *error)
{
	if (number == ENOENT && access(name, F_OK) == 0)
		error_set(error, ENOENT, "%.500s exists, but the interpreter or loader it asks for does not", name);
	else if (number == ENOENT)
		error_set(error, ENOENT, "there is no %.500s in the container", name);
	else if (number == ENOEXEC)
		error_set(error, ENOEXEC, "%.500s is not a program for this machine; does a script lack its #! line?", name);
	else if (number == E2BIG)
		error_set(error, E2BIG, "the arguments and environment of %.500s are too long", name);
	else
		error_system(error, number, "executing %.500s", name);
}

// True when the search is over: the kernel had something to say about this file that the next cannot answer.
static bool is_final(int number)
{
	return number != ENOENT && number != ENOTDIR && number != EACCES && number != ENAMETOOLONG && number != ELOOP;
}

void program_execute(char *const argv[], char *const env[], struct error *error)
{
	const char *name = argv[0];
	bool forbidden = false;
	char candidate[PATH_MAX];

	if (strchr(name, '/')) {
		execve(name, argv, env);
		explain(name, errno, error);
		return;
	}
	const char *search = find_search_path(env);
	for (const char *part = search; *name && part; ) {
		const char *colon = strchr(part, ':');
		int length = colon ? (int)(colon - part) : (int)strlen(part);
		int size = snprintf(candidate, sizeof candidate, "%.*s%s%s", length, part, length ? "/" : "./", name);
		part = colon ? colon + 1 : NULL;
		if (size < 0 || (size_t)size >= sizeof candidate)
			continue;
		execve(candidate, argv, env);
		int number = errno;
		// Found, but what it needs is missing: no other directory will do better.
		if (is_final(number) || (number == ENOENT && access(candidate, F_OK) == 0)) {
			explain(candidate, number, error);
			return;
		}
		forbidden |= number == EACCES;
	}
	if (forbidden)
		error_set(error, EACCES, "%.300s was found, but may not be executed (PATH is %.300s)", name, search);
	else
		error_set(error, ENOENT, "there is no command %.300s in the container (PATH is %.300s)", name, search);
}
