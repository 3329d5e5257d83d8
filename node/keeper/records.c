#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keeper.h"

enum { BUCKETS = RECORDS_MAX };

static struct record *buckets[BUCKETS];
static struct record *first, *last;
static unsigned count;
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

// Where the record of this name hangs, or would.
static struct record **find(const char *name, uint32_t hash)
{
	struct record **link = &buckets[hash % BUCKETS];
	while (*link && ((*link)->hash != hash || strcmp((*link)->name, name)))
		link = &(*link)->chained;
	return link;
}

static bool fill(struct record *record, const char *name, const char *bytes, uint32_t size, const int *fds,
		 int fd_count)
{
	size_t length = strlen(name);

	if (!(record->name = malloc(length + 1 + size)))
		return false;
	memcpy(record->name, name, length + 1);
	record->bytes = record->name + length + 1;
	if (size)
		memcpy(record->bytes, bytes, size);
	if (fd_count)
		memcpy(record->fds, fds, (size_t)fd_count * sizeof *fds);
	record->size = size;
	record->fd_count = fd_count;
	all_bytes += size;
	return true;
}

static void empty(const struct record *record)
{
	all_bytes -= record->size;
	close_all(record->fds, record->fd_count);
	free(record->name);
}

static bool replace(struct record *record, const char *name, const char *bytes, uint32_t size, const int *fds,
		    int fd_count)
{
	struct record old = *record;

	if (!fill(record, name, bytes, size, fds, fd_count)) {
		*record = old;
		return false;
	}
	empty(&old);
	return true;
}

static bool add(struct record **link, uint32_t hash, const char *name, const char *bytes, uint32_t size, const int *fds,
		int fd_count)
{
	struct record *record = calloc(1, sizeof *record);

	if (!record || !fill(record, name, bytes, size, fds, fd_count)) {
		free(record);
		return false;
	}
	record->hash = hash;
	record->before = last;
	*(last ? &last->after : &first) = record;
	last = *link = record;
	count++;
	return true;
}

static void discard(struct record **link)
{
	struct record *record = *link;

	*link = record->chained;
	*(record->before ? &record->before->after : &first) = record->after;
	*(record->after ? &record->after->before : &last) = record->before;
	count--;
	empty(record);
	free(record);
}

bool records_put(const char *name, const char *bytes, uint32_t size, const int *fds, int fd_count)
{
	uint32_t hash = hash_name(name);
	struct record **link = find(name, hash);
	size_t others_bytes = all_bytes - (*link ? (*link)->size : 0);
	bool has_room = fd_count <= RECORD_MAX_FDS && others_bytes + size <= ALL_RECORDS_MAX_BYTES &&
			(*link || count < RECORDS_MAX);

	if (has_room && (*link ? replace(*link, name, bytes, size, fds, fd_count)
			       : add(link, hash, name, bytes, size, fds, fd_count)))
		return true;
	close_all(fds, fd_count);
	if (*link)
		discard(link);
	return false;
}

void records_delete(const char *name)
{
	struct record **link = find(name, hash_name(name));
	if (*link)
		discard(link);
}

void records_clear(void)
{
	while (last)
		discard(find(last->name, last->hash));
}

unsigned records_count(void)
{
	return count;
}

const struct record *records_first(void)
{
	return first;
}
