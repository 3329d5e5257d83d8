// Trees: any bytes give the same records in pieces of whatever size they come, and none that breaks the rules.
#include <errno.h>
#include <string.h>

#include "../tests/check.h"
#include "fuzz.h"
#include "tree.h"

struct source {
	const uint8_t *data;
	size_t size, at, piece;
};

static ssize_t read_source(void *opaque, void *buffer, size_t size)
{
	struct source *source = opaque;
	size_t left = source->size - source->at;

	if (size > source->piece)
		size = source->piece;
	if (size > left)
		size = left;
	memcpy(buffer, source->data + source->at, size);
	source->at += size;
	return (ssize_t)size;
}

// FNV-1a over all that the reader gives.
static uint64_t add(uint64_t digest, const void *data, size_t size)
{
	const unsigned char *bytes = data;
	for (size_t i = 0; i < size; i++)
		digest = (digest ^ bytes[i]) * 1099511628211u;
	return digest;
}

static uint64_t walk(const uint8_t *data, size_t size, size_t piece)
{
	static struct tree_reader reader;
	static struct tree_record record;
	static struct error error;
	struct source source = {data, size, 0, piece};
	uint64_t digest = 14695981039346656037u;

	tree_reader_init(&reader, read_source, &source);
	while (tree_read_record(&reader, &record, &error) == 0) {
		digest = add(digest, &record.kind, 1);
		digest = add(digest, &record.mode, sizeof record.mode);
		digest = add(digest, record.name, strlen(record.name));
		digest = add(digest, record.text, strlen(record.text));
		if (record.kind == TREE_END || record.kind == TREE_ERROR)
			return digest;
		CHECK(tree_check_name(record.name, strlen(record.name)) == 0);
		CHECK(record.mode <= 07777 && strlen(record.text) <= TREE_MAX_TARGET);
		const char *content;
		size_t part = record.kind == TREE_FILE;
		while (part > 0) {
			if (tree_read_content(&reader, &content, &part, &error) < 0)
				return digest;
			digest = add(digest, content, part);
		}
	}
	CHECK(error.number == EPROTO);
	return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 0)
		CHECK(walk(data + 1, size - 1, 1 + data[0]) == walk(data + 1, size - 1, size));
	return 0;
}
