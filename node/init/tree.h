// A directory tree as a stream of records: reading and writing the format, no file systems.
//
// A record is u8 kind, u32 mode, u16 length of its name (little-endian, packed), the name, then by kind:
//   D directory   nothing
//   F file        chunks of u32 length and bytes; one of length 0 ends it
//   L link        u32 length and the target
//   X error       u32 length and a text: the producer failed at `name`, and nothing follows
//   E end         nothing; the stream is complete
// Names are relative, with '/' between components; a directory comes before what is in it.
#ifndef TFNZ_TREE_H
#define TFNZ_TREE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "error.h"

enum {
	TREE_DIRECTORY = 'D',
	TREE_FILE = 'F',
	TREE_LINK = 'L',
	TREE_ERROR = 'X',
	TREE_END = 'E',
	TREE_MAX_NAME = 4096,
	TREE_MAX_TARGET = 4095,
	TREE_MAX_TEXT = 1024,
	TREE_MAX_CHUNK = 1 << 20,
	TREE_BUFFER_BYTES = 64 * 1024,
};

// read(2) on `source`, or whatever a test puts in its place. 0 is the end, -1 an error with errno.
typedef ssize_t tree_read_function(void *source, void *buffer, size_t size);

struct tree_reader {
	tree_read_function *read;
	void *source;
	uint32_t chunk_left; // of the chunk that tree_read_content is in
	size_t start, end;
	char buffer[TREE_BUFFER_BYTES];
};

struct tree_record {
	char kind;
	uint32_t mode;                // permission bits only
	char name[TREE_MAX_NAME + 1]; // "" for E
	char text[TREE_MAX_NAME + 1]; // target of L, text of X
};

void tree_reader_init(struct tree_reader *reader, tree_read_function *read, void *source);

// The next record, checked. After F, read the content until there is none. -1: the stream is broken, see `error`.
int tree_read_record(struct tree_reader *reader, struct tree_record *record, struct error *error);

// Points `*data` at up to `*size` bytes of a file's content; `*size` is 0 at its end.
int tree_read_content(struct tree_reader *reader, const char **data, size_t *size, struct error *error);

// 0 when `name` is a path that a record may have.
int tree_check_name(const char *name, size_t length);

struct tree_writer {
	int fd;
	size_t used;
	char buffer[TREE_BUFFER_BYTES];
};

// All of these are 0, or -1 and errno when the descriptor refuses.
int tree_write_record(struct tree_writer *writer, char kind, uint32_t mode, const char *name);
int tree_write_text(struct tree_writer *writer, const char *text);
int tree_write_chunk(struct tree_writer *writer, const void *data, uint32_t size);
int tree_flush(struct tree_writer *writer);

#endif
