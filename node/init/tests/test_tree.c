// The tree stream: what is written can be read in pieces of any size, and hostile bytes are survived.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "tree.h"

struct source {
	const char *data;
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

static struct tree_reader reader;
static struct tree_record record;
static struct error error;

static size_t read_file(char *out, size_t size)
{
	size_t total = 0;
	for (;;) {
		const char *data;
		size_t part;
		CHECK(tree_read_content(&reader, &data, &part, &error) == 0);
		if (part == 0)
			return total;
		CHECK(total + part <= size);
		memcpy(out + total, data, part);
		total += part;
	}
}

static void what_is_written_can_be_read(void)
{
	static struct tree_writer writer;
	static char bytes[400000], content[200000], copy[200000];
	writer.fd = memfd_create("tree", MFD_CLOEXEC);
	memset(content, 'c', sizeof content);
	CHECK(tree_write_record(&writer, TREE_DIRECTORY, 0100755, "d") == 0);
	CHECK(tree_write_record(&writer, TREE_FILE, 0100640, "d/f") == 0);
	CHECK(tree_write_chunk(&writer, content, sizeof content) == 0 && tree_write_chunk(&writer, "end", 3) == 0);
	CHECK(tree_write_chunk(&writer, "", 0) == 0);
	CHECK(tree_write_record(&writer, TREE_LINK, 0777, "l") == 0 && tree_write_text(&writer, "target") == 0);
	CHECK(tree_write_record(&writer, TREE_END, 0, "") == 0 && tree_flush(&writer) == 0);
	ssize_t size = pread(writer.fd, bytes, sizeof bytes, 0);
	close(writer.fd);

	static const size_t pieces[] = {1, 7, 4096, sizeof bytes};
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		struct source source = {bytes, (size_t)size, 0, pieces[i]};
		tree_reader_init(&reader, read_source, &source);
		CHECK(tree_read_record(&reader, &record, &error) == 0);
		CHECK(record.kind == 'D' && record.mode == 0755 && !strcmp(record.name, "d"));
		CHECK(tree_read_record(&reader, &record, &error) == 0);
		CHECK(record.kind == 'F' && record.mode == 0640 && !strcmp(record.name, "d/f"));
		memset(copy, 0, sizeof copy);
		char whole[sizeof content + 3];
		CHECK(read_file(whole, sizeof whole) == sizeof whole);
		CHECK(!memcmp(whole, content, sizeof content) && !memcmp(whole + sizeof content, "end", 3));
		CHECK(tree_read_record(&reader, &record, &error) == 0);
		CHECK(record.kind == 'L' && !strcmp(record.name, "l") && !strcmp(record.text, "target"));
		CHECK(tree_read_record(&reader, &record, &error) == 0 && record.kind == 'E');
		CHECK(tree_read_record(&reader, &record, &error) < 0 && error.number == EPROTO);
	}
}

static void names_are_checked(void)
{
	static const char *const good[] = {"a", "a/b", "...", ".a", "a..", "..a/b.", "a b\n"};
	static const char *const bad[] = {"", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/.", "a/../b", "../a", "a/.."};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		CHECK(tree_check_name(good[i], strlen(good[i])) == 0);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK(tree_check_name(bad[i], strlen(bad[i])) < 0);
	CHECK(tree_check_name("a\0b", 3) < 0 && tree_check_name("a\0", 2) < 0);
	char name[TREE_MAX_NAME + 1];
	memset(name, 'n', sizeof name);
	CHECK(tree_check_name(name, 255) == 0 && tree_check_name(name, 256) < 0);
	for (size_t i = 1; i < sizeof name; i += 2)
		name[i] = '/';
	CHECK(tree_check_name(name, TREE_MAX_NAME - 1) == 0 && tree_check_name(name, TREE_MAX_NAME + 1) < 0);
}

// Walks a stream of any bytes to its end; nothing that comes out of the reader may break its own rules.
static void walk(const char *data, size_t size, size_t piece)
{
	struct source source = {data, size, 0, piece};
	tree_reader_init(&reader, read_source, &source);
	while (tree_read_record(&reader, &record, &error) == 0) {
		if (record.kind == TREE_END || record.kind == TREE_ERROR)
			return;
		CHECK(tree_check_name(record.name, strlen(record.name)) == 0);
		CHECK(record.mode <= 07777 && strlen(record.text) <= TREE_MAX_TARGET);
		const char *content;
		size_t part = record.kind == TREE_FILE;
		while (part > 0)
			if (tree_read_content(&reader, &content, &part, &error) < 0)
				return;
	}
}

static void any_bytes_are_survived(void)
{
	static const char kinds[] = "DFLXE?";
	uint64_t state = 3;
	for (int round = 0; round < 100000; round++) {
		char data[256] = {0};
		size_t size = 0;
		while (size + 32 < sizeof data && next_random(&state) % 8) {
			size_t length = next_random(&state) % 6;
			data[size++] = kinds[next_random(&state) % (sizeof kinds - 1)];
			size += 4;
			data[size] = (char)length;
			size += 2;
			for (size_t i = 0; i < length; i++)
				data[size++] = "ab/.c"[next_random(&state) % 5];
			data[size] = (char)(next_random(&state) % 5);
			size += 4 + (size_t)data[size];
			size += 4 * (next_random(&state) % 2);
		}
		// And one byte that is anything.
		if (size && round % 2)
			data[next_random(&state) % size] = (char)next_random(&state);
		walk(data, size, 1 + next_random(&state) % 64);
	}
}

int main(void)
{
	what_is_written_can_be_read();
	names_are_checked();
	any_bytes_are_survived();
	return 0;
}
