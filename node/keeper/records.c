#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keeper.h"

static struct record *records;
static unsigned count, room;
static size_t all_bytes;

static uint32_t hash_name(const char *name)
{
	uint32_t hash = 2166136261u;
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	return hash;
}

static void close_all(const int *fds, int fd_count)
{
	for (int i = 0; i < fd_count; i++)
		close(fds[i]);
}

static struct record *find(const char *name, uint32_t hash)
{
	for (unsigned i = 0; i < count; i++)
		if (records[i].hash == hash && !strcmp(records[i].name, name))
			return &records[i];
	return NULL;
}

static bool make_room(void)
{
	if (count < room)
		return true;
	unsigned wanted = room ? 2 * room : 64;
	struct record *more = reallocarray(records, wanted, sizeof *records);
	if (!more)
		return false;
	records = more;
	room = wanted;
	return true;
}

bool records_put(const char *name, const char *bytes, uint32_t size, const int *fds, int fd_count)
{
	uint32_t hash = hash_name(name);
	struct record *old = find(name, hash);
	size_t length = strlen(name);
	struct record new = {.hash = hash, .size = size, .fd_count = fd_count};
	size_t others_bytes = all_bytes - (old ? old->size : 0);

	if (fd_count > RECORD_MAX_FDS || others_bytes + size > ALL_RECORDS_MAX_BYTES || (!old && count == RECORDS_MAX) ||
	    (!old && !make_room()) || !(new.name = malloc(length + 1 + size))) {
		close_all(fds, fd_count);
		records_delete(name);
		return false;
	}
	memcpy(new.name, name, length + 1);
	new.bytes = new.name + length + 1;
	if (size)
		memcpy(new.bytes, bytes, size);
	if (fd_count)
		memcpy(new.fds, fds, (size_t)fd_count * sizeof *fds);
	all_bytes += size;
	if (!old) {
		records[count++] = new;
		return true;
	}
	struct record before = *old;
	*old = new;
	all_bytes -= before.size;
	close_all(before.fds, before.fd_count);
	free(before.name);
	return true;
}

void records_delete(const char *name)
{
	struct record *old = find(name, hash_name(name));
	if (!old)
		return;
	struct record before = *old;
	// The order of the others is that in which they came: what is built on another comes after it.
	memmove(old, old + 1, (size_t)(records + count - old - 1) * sizeof *old);
	count--;
	all_bytes -= before.size;
	close_all(before.fds, before.fd_count);
	free(before.name);
}

void records_clear(void)
{
	while (count) {
		struct record *last = &records[--count];
		all_bytes -= last->size;
		close_all(last->fds, last->fd_count);
		free(last->name);
	}
}

unsigned records_count(void)
{
	return count;
}

const struct record *records_at(unsigned index)
{
	return &records[index];
}
