#include "tree.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "stream.h"

enum { HEADER_BYTES = 7 };

void tree_reader_init(struct tree_reader *reader, tree_read_function *read, void *source)
{
	reader->read = read;
	reader->source = source;
	reader->chunk_left = 0;
	reader->start = reader->end = 0;
}

// At least one byte in the buffer, or -1.
static int refill(struct tree_reader *reader, struct error *error)
{
	if (reader->start < reader->end)
		return 0;
	for (;;) {
		ssize_t got = reader->read(reader->source, reader->buffer, sizeof reader->buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_system(error, errno, "reading the tree");
		if (got == 0)
			return error_set(error, EPROTO, "the tree ends before its end record");
		reader->start = 0;
		reader->end = (size_t)got;
		return 0;
	}
}

static int read_bytes(struct tree_reader *reader, void *out, size_t size, struct error *error)
{
	char *at = out;
	while (size > 0) {
		if (refill(reader, error) < 0)
			return -1;
		size_t part = reader->end - reader->start;
		if (part > size)
			part = size;
		memcpy(at, reader->buffer + reader->start, part);
		reader->start += part;
		at += part;
		size -= part;
	}
	return 0;
}

static int read_u32(struct tree_reader *reader, uint32_t *value, struct error *error)
{
	if (read_bytes(reader, value, sizeof *value, error) < 0)
		return -1;
	*value = le32toh(*value);
	return 0;
}

int tree_check_name(const char *name, size_t length)
{
	size_t start = 0;

	if (length == 0 || length > TREE_MAX_NAME)
		return -1;
	for (size_t i = 0; i <= length; i++) {
		if (i < length && name[i] == '\0')
			return -1;
		if (i < length && name[i] != '/')
			continue;
		size_t size = i - start;
		if (size == 0 || size > NAME_MAX || (size == 1 && name[start] == '.') ||
		    (size == 2 && name[start] == '.' && name[start + 1] == '.'))
			return -1;
		start = i + 1;
	}
	return 0;
}

static int read_text(struct tree_reader *reader, struct tree_record *record, uint32_t limit, struct error *error)
{
	uint32_t size;
	if (read_u32(reader, &size, error) < 0)
		return -1;
	if (size > limit || (size == 0 && record->kind == TREE_LINK))
		return error_set(error, EPROTO, "%.500s in the tree has a text of %u bytes, expected 1..%u", record->name,
				 size, limit);
	if (read_bytes(reader, record->text, size, error) < 0)
		return -1;
	record->text[size] = '\0';
	if (memchr(record->text, '\0', size))
		return error_set(error, EPROTO, "%.500s in the tree has a text with a NUL byte", record->name);
	return 0;
}

static int read_name(struct tree_reader *reader, struct tree_record *record, uint16_t size, struct error *error)
{
	if (size > TREE_MAX_NAME)
		return error_set(error, EPROTO, "a name of %u bytes in the tree, at most %d are possible", size,
				 TREE_MAX_NAME);
	if (read_bytes(reader, record->name, size, error) < 0)
		return -1;
	record->name[size] = '\0';
	if (record->kind == TREE_END && size == 0)
		return 0;
	// An error may concern the root of the tree, which has no name.
	if (record->kind == TREE_ERROR && size == 0)
		return 0;
	if (record->kind == TREE_END || tree_check_name(record->name, size) < 0)
		return error_set(error, EPROTO,
				 "the name \"%.500s\" in the tree is not a relative path without empty parts, . and ..",
				 record->name);
	return 0;
}

int tree_read_record(struct tree_reader *reader, struct tree_record *record, struct error *error)
{
	char header[HEADER_BYTES];
	uint32_t mode;
	uint16_t size;

	if (read_bytes(reader, header, sizeof header, error) < 0)
		return -1;
	memcpy(&mode, header + 1, sizeof mode);
	memcpy(&size, header + 5, sizeof size);
	record->kind = header[0];
	record->mode = le32toh(mode) & 07777;
	record->text[0] = '\0';
	if (!record->kind || !strchr("DFLXE", record->kind))
		return error_set(error, EPROTO, "a record of unknown kind %d in the tree", record->kind);
	if (read_name(reader, record, le16toh(size), error) < 0)
		return -1;
	if (record->kind == TREE_FILE)
		reader->chunk_left = 0;
	if (record->kind == TREE_LINK)
		return read_text(reader, record, TREE_MAX_TARGET, error);
	if (record->kind == TREE_ERROR)
		return read_text(reader, record, TREE_MAX_TEXT, error);
	return 0;
}

int tree_read_content(struct tree_reader *reader, const char **data, size_t *size, struct error *error)
{
	if (reader->chunk_left == 0) {
		if (read_u32(reader, &reader->chunk_left, error) < 0)
			return -1;
		if (reader->chunk_left > TREE_MAX_CHUNK)
			return error_set(error, EPROTO, "a chunk of %u bytes in the tree, at most %d are possible",
					 reader->chunk_left, TREE_MAX_CHUNK);
		if (reader->chunk_left == 0) {
			*size = 0;
			return 0;
		}
	}
	if (refill(reader, error) < 0)
		return -1;
	*size = reader->end - reader->start;
	if (*size > reader->chunk_left)
		*size = reader->chunk_left;
	*data = reader->buffer + reader->start;
	reader->start += *size;
	reader->chunk_left -= (uint32_t)*size;
	return 0;
}

int tree_flush(struct tree_writer *writer)
{
	size_t used = writer->used;
	writer->used = 0;
	return stream_write_all(writer->fd, writer->buffer, used);
}

static int write_bytes(struct tree_writer *writer, const void *data, size_t size)
{
	if (size > sizeof writer->buffer - writer->used && tree_flush(writer) < 0)
		return -1;
	if (size > sizeof writer->buffer)
		return stream_write_all(writer->fd, data, size);
	memcpy(writer->buffer + writer->used, data, size);
	writer->used += size;
	return 0;
}

static int write_u32(struct tree_writer *writer, uint32_t value)
{
	value = htole32(value);
	return write_bytes(writer, &value, sizeof value);
}

int tree_write_record(struct tree_writer *writer, char kind, uint32_t mode, const char *name)
{
	char header[HEADER_BYTES];
	size_t length = strlen(name);
	uint16_t size = htole16((uint16_t)length);

	mode = htole32(mode & 07777);
	header[0] = kind;
	memcpy(header + 1, &mode, sizeof mode);
	memcpy(header + 5, &size, sizeof size);
	if (write_bytes(writer, header, sizeof header) < 0)
		return -1;
	return write_bytes(writer, name, length);
}

int tree_write_text(struct tree_writer *writer, const char *text)
{
	size_t length = strlen(text);
	if (write_u32(writer, (uint32_t)length) < 0)
		return -1;
	return write_bytes(writer, text, length);
}

int tree_write_chunk(struct tree_writer *writer, const void *data, uint32_t size)
{
	if (write_u32(writer, size) < 0)
		return -1;
	return write_bytes(writer, data, size);
}
