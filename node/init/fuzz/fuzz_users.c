// Users: a spec, a passwd and a group file, divided by NUL bytes; whoever is found is within the container's ids.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tests/check.h"
#include "fuzz.h"
#include "users.h"

enum { MAX_SPEC = 600 };

static void fill(int fd, const void *data, size_t size)
{
	CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
}

// The part before the next NUL byte, which is skipped.
static size_t cut(const uint8_t **data, size_t *size, const uint8_t **part)
{
	const uint8_t *nul = *size ? memchr(*data, '\0', *size) : NULL;
	size_t length = nul ? (size_t)(nul - *data) : *size;

	*part = *data;
	*data += length + (nul ? 1 : 0);
	*size -= length + (nul ? 1 : 0);
	return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int passwd = -1, group = -1;
	static struct user user;
	static struct error error;
	const uint8_t *part;

	if (passwd < 0) {
		passwd = memfd_create("passwd", MFD_CLOEXEC);
		group = memfd_create("group", MFD_CLOEXEC);
		CHECK(passwd >= 0 && group >= 0);
	}
	size_t length = cut(&data, &size, &part);
	char spec[MAX_SPEC];
	if (length >= sizeof spec)
		length = sizeof spec - 1;
	memcpy(spec, part, length);
	spec[length] = '\0';
	length = cut(&data, &size, &part);
	fill(passwd, part, length);
	fill(group, data, size);
	error.number = 0;
	if (users_find(spec, passwd, group, &user, &error) < 0) {
		CHECK(error.number != 0 && strlen(error.text) < ERROR_TEXT_BYTES);
		return 0;
	}
	CHECK(user.uid <= USERS_MAX_ID && user.gid <= USERS_MAX_ID && user.group_count <= USERS_MAX_GROUPS);
	for (size_t i = 0; i < user.group_count; i++)
		CHECK(user.groups[i] <= USERS_MAX_ID);
	CHECK(strlen(user.name) < USERS_NAME_BYTES && strlen(user.home) < PATH_MAX);
	return 0;
}
