#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolve.h"

enum { PASSWD_FIELDS = 7, GROUP_FIELDS = 4 };

static bool refill(struct line_reader *reader)
{
	memmove(reader->buffer, reader->buffer + reader->start, reader->end - reader->start);
	reader->end -= reader->start;
	reader->start = 0;
	size_t room = sizeof reader->buffer - 1 - reader->end;
	if (reader->fd < 0 || room == 0 || reader->total >= USERS_MAX_FILE)
		return false;
	ssize_t got = read(reader->fd, reader->buffer + reader->end, room);
	if (got <= 0)
		return false;
	reader->end += (size_t)got;
	reader->total += (size_t)got;
	return true;
}

char *users_next_line(struct line_reader *reader)
{
	bool overlong = false;
	for (;;) {
		char *line = reader->buffer + reader->start;
		char *newline = memchr(line, '\n', reader->end - reader->start);
		if (newline) {
			*newline = '\0';
			reader->start = (size_t)(newline - reader->buffer) + 1;
			if (!overlong)
				return line;
			overlong = false;
			continue;
		}
		if (refill(reader))
			continue;
		if (reader->end == sizeof reader->buffer - 1) {
			// A whole buffer without a newline: forget it, and the rest of that line when it comes.
			reader->start = reader->end = 0;
			overlong = true;
			continue;
		}
		line = reader->buffer + reader->start;
		if (reader->start == reader->end || overlong)
			return NULL;
		reader->buffer[reader->end] = '\0';
		reader->start = reader->end = 0;
		reader->fd = -1;
		return line;
	}
}

int users_parse_id(const char *text, unsigned *id)
{
	unsigned value = 0;
	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		value = value * 10 + (unsigned)(*text - '0');
		if (value > USERS_MAX_ID)
			return -1;
	}
	*id = value;
	return 0;
}

// Cuts a line at its colons. The last field keeps what is left; missing ones make it false.
static bool split_fields(char *line, char **fields, int count)
{
	for (int i = 0; i < count; i++) {
		fields[i] = line;
		char *colon = strchr(line, ':');
		if (!colon)
			return i == count - 1;
		if (i < count - 1) {
			*colon = '\0';
			line = colon + 1;
		}
	}
	return true;
}

static bool is_number(const char *text)
{
	return *text && text[strspn(text, "0123456789")] == '\0';
}

// The first entry whose name or number is `wanted`, like docker: a name that looks like a number is a name first.
static bool find_passwd(const char *wanted, int fd, struct user *user)
{
	struct line_reader reader = {.fd = fd};
	unsigned number = USERS_MAX_ID + 1;
	if (is_number(wanted) && users_parse_id(wanted, &number) < 0)
		number = USERS_MAX_ID + 1;

	for (char *line; (line = users_next_line(&reader));) {
		char *fields[PASSWD_FIELDS];
		unsigned uid, gid;
		if (!split_fields(line, fields, PASSWD_FIELDS) || users_parse_id(fields[2], &uid) < 0 ||
		    users_parse_id(fields[3], &gid) < 0)
			continue;
		if (strcmp(fields[0], wanted) != 0 && uid != number)
			continue;
		user->uid = uid;
		user->gid = gid;
		if (strlen(fields[0]) < sizeof user->name)
			strcpy(user->name, fields[0]);
		if (strlen(fields[5]) < sizeof user->home)
			strcpy(user->home, fields[5]);
		return true;
	}
	return false;
}

static bool find_group(const char *wanted, int fd, gid_t *found)
{
	struct line_reader reader = {.fd = fd};
	for (char *line; (line = users_next_line(&reader));) {
		char *fields[GROUP_FIELDS];
		unsigned gid;
		if (!split_fields(line, fields, GROUP_FIELDS) || users_parse_id(fields[2], &gid) < 0)
			continue;
		if (strcmp(fields[0], wanted) == 0) {
			*found = gid;
			return true;
		}
	}
	return false;
}

static bool is_member(char *members, const char *name)
{
	char *save = NULL;
	for (char *member = strtok_r(members, ",", &save); member; member = strtok_r(NULL, ",", &save))
		if (strcmp(member, name) == 0)
			return true;
	return false;
}

static int find_supplementary(int fd, struct user *user, struct error *error)
{
	struct line_reader reader = {.fd = fd};
	for (char *line; (line = users_next_line(&reader));) {
		char *fields[GROUP_FIELDS];
		unsigned gid;
		if (!split_fields(line, fields, GROUP_FIELDS) || users_parse_id(fields[2], &gid) < 0 ||
		    !is_member(fields[3], user->name))
			continue;
		if (user->group_count == USERS_MAX_GROUPS)
			return error_set(error, E2BIG, "user %s is in more than %d groups of the container's /etc/group",
					 user->name, USERS_MAX_GROUPS);
		user->groups[user->group_count++] = gid;
	}
	return 0;
}

static int find_numeric(const char *text, const char *what, const char *file, unsigned *id, struct error *error)
{
	if (!is_number(text))
		return error_set(error, ENOENT,
				 "there is no %s %.200s in the container's %s; name one that exists, or give a number",
				 what, text, file);
	if (users_parse_id(text, id) < 0)
		return error_set(error, EINVAL, "%s %.200s is not within 0..%d", what, text, USERS_MAX_ID);
	return 0;
}

int users_find(const char *spec, int passwd_fd, int group_fd, struct user *user, struct error *error)
{
	char name[USERS_NAME_BYTES];
	const char *colon = strchr(spec, ':');
	size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
	const char *group = colon ? colon + 1 : "";
	unsigned id;

	memset(user, 0, sizeof *user);
	if (length >= sizeof name || strlen(group) >= sizeof name)
		return error_set(error, EINVAL, "a user or group name of more than %d bytes", USERS_NAME_BYTES - 1);
	memcpy(name, spec, length);
	name[length] = '\0';
	if (!length)
		strcpy(name, "0");
	if (!find_passwd(name, passwd_fd, user)) {
		// There is a root without a file that says so: an image may lack it, a container spoil it.
		if (strcmp(name, "root") == 0)
			strcpy(name, "0");
		if (find_numeric(name, "user", "/etc/passwd", &id, error) < 0)
			return -1;
		user->uid = id;
	}
	// A group that is named stands alone; supplementary groups come with a user's own group only.
	if (!*group)
		return *user->name ? find_supplementary(group_fd, user, error) : 0;
	if (!find_group(group, group_fd, &user->gid)) {
		if (find_numeric(group, "group", "/etc/group", &id, error) < 0)
			return -1;
		user->gid = id;
	}
	return 0;
}

// A file that is missing counts as empty, and so does whatever is not a regular file: it must not be waited for.
static int open_database(int root, const char *path)
{
	struct stat status;
	int fd = resolve_open(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (fd >= 0 && (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))) {
		close(fd);
		return -1;
	}
	return fd;
}

int users_resolve(int root, const char *spec, struct user *user, struct error *error)
{
	int passwd = open_database(root, "/etc/passwd");
	int group = open_database(root, "/etc/group");
	int result = users_find(spec, passwd, group, user, error);

	if (passwd >= 0)
		close(passwd);
	if (group >= 0)
		close(group);
	return result;
}
