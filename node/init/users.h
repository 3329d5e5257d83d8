// Who a process or a file belongs to: a user spec looked up in the container's own /etc/passwd and /etc/group.
//
// Both files are an attacker's: sizes, lines and numbers are bounded, and nothing but regular files is read.
#ifndef TFNZ_USERS_H
#define TFNZ_USERS_H

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

#include "error.h"

enum { USERS_MAX_GROUPS = 256, USERS_NAME_BYTES = 256, USERS_MAX_ID = 65535, USERS_MAX_FILE = 4 << 20 };

struct user {
	uid_t uid;
	gid_t gid;
	size_t group_count;
	gid_t groups[USERS_MAX_GROUPS];
	char name[USERS_NAME_BYTES]; // "" when passwd has no such user
	char home[PATH_MAX];         // "" likewise
};

// Where lines come from: a descriptor read in pieces. -1 is an empty file.
struct line_reader {
	int fd;
	size_t total;
	size_t start, end;
	char buffer[8192];
};

// The next line without its newline, NULL at the end or after USERS_MAX_FILE bytes. A longer line than the buffer
// is left out.
char *users_next_line(struct line_reader *reader);

// 0 and the number when `text` is a decimal id of at most USERS_MAX_ID; -1 otherwise.
int users_parse_id(const char *text, unsigned *id);

// Fills `user` from `spec`: "" (root), "name", "uid", "name:group" or "uid:gid". Numbers need not be in the files.
int users_find(const char *spec, int passwd_fd, int group_fd, struct user *user, struct error *error);

// The same with the files below `root`.
int users_resolve(int root, const char *spec, struct user *user, struct error *error);

#endif
