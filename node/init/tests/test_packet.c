// Packets: what is built can be parsed, and nothing else can.
#include <string.h>

#include "check.h"
#include "packet.h"

static size_t build(char *out, uint32_t count, const char *strings, size_t size)
{
	packet_build(out, PACKET_HEADER_BYTES, KIND_RUN, 7, 9, NULL);
	memcpy(out + 36, &count, sizeof count);
	memcpy(out + PACKET_HEADER_BYTES, strings, size);
	return PACKET_HEADER_BYTES + size;
}

static void what_is_built_can_be_parsed(void)
{
	char bytes[256];
	struct packet packet;
	size_t size = packet_build(bytes, sizeof bytes, KIND_FAILED, 0xfffffffe, 13, "text");

	CHECK(size == PACKET_HEADER_BYTES + 5);
	CHECK(packet_parse(bytes, size, &packet) == 0);
	CHECK(packet.kind == KIND_FAILED && packet.id == 0xfffffffe && packet.arguments[0] == 13);
	const char *cursor = packet.strings;
	CHECK(!strcmp(packet_next(&packet, &cursor), "text"));
	CHECK(packet_next(&packet, &cursor) == NULL);
}

static void a_text_that_is_too_long_is_cut(void)
{
	char bytes[PACKET_HEADER_BYTES + 4];
	struct packet packet;

	CHECK(packet_build(bytes, sizeof bytes, KIND_FAILED, 1, 2, "longer") == sizeof bytes);
	CHECK(packet_parse(bytes, sizeof bytes, &packet) == 0 && !strcmp(packet.strings, "lon"));
}

static void strings_are_counted(void)
{
	char bytes[256];
	struct packet packet;

	CHECK(packet_parse(bytes, build(bytes, 0, "", 0), &packet) == 0);
	CHECK(packet_parse(bytes, build(bytes, 3, "a\0\0bc\0", 6), &packet) == 0);
	const char *cursor = packet.strings;
	CHECK(!strcmp(packet_next(&packet, &cursor), "a"));
	CHECK(!strcmp(packet_next(&packet, &cursor), ""));
	CHECK(!strcmp(packet_next(&packet, &cursor), "bc"));
	CHECK(!packet_next(&packet, &cursor));
	CHECK(packet_parse(bytes, build(bytes, 2, "a\0\0bc\0", 6), &packet) < 0);
	CHECK(packet_parse(bytes, build(bytes, 4, "a\0\0bc\0", 6), &packet) < 0);
	CHECK(packet_parse(bytes, build(bytes, 1, "abc", 3), &packet) < 0);
	CHECK(packet_parse(bytes, build(bytes, 1, "a\0b", 3), &packet) < 0);
	CHECK(packet_parse(bytes, build(bytes, 1, "", 0), &packet) < 0);
}

static void sizes_and_magic_are_checked(void)
{
	static char bytes[PACKET_MAX_BYTES + 1];
	struct packet packet;

	build(bytes, 0, "", 0);
	for (size_t size = 0; size < PACKET_HEADER_BYTES; size++)
		CHECK(packet_parse(bytes, size, &packet) < 0);
	CHECK(packet_parse(bytes, PACKET_HEADER_BYTES, &packet) == 0);
	uint32_t count = PACKET_MAX_BYTES - PACKET_HEADER_BYTES;
	memcpy(bytes + 36, &count, sizeof count);
	CHECK(packet_parse(bytes, PACKET_MAX_BYTES, &packet) == 0);
	CHECK(packet_parse(bytes, PACKET_MAX_BYTES + 1, &packet) < 0);
	bytes[0] ^= 1;
	CHECK(packet_parse(bytes, PACKET_MAX_BYTES, &packet) < 0);
}

// Whatever the bytes are, what the parser accepts can be walked without leaving them.
static void any_bytes_are_survived(void)
{
	uint64_t state = 1;
	for (int round = 0; round < 200000; round++) {
		size_t size = next_random(&state) % 96;
		char *bytes = malloc(size + 1); // exactly as large as it is said to be, for the address sanitizer
		struct packet packet;
		for (size_t i = 0; i < size; i++)
			bytes[i] = (char)(next_random(&state) % 4 ? 0 : next_random(&state));
		if (size >= PACKET_HEADER_BYTES && round % 2) {
			packet_build(bytes, PACKET_HEADER_BYTES, KIND_RUN, 1, 2, NULL);
			bytes[36] = (char)(next_random(&state) % (size - PACKET_HEADER_BYTES + 2));
		}
		if (packet_parse(bytes, size, &packet) == 0) {
			uint32_t count = 0;
			for (const char *cursor = packet.strings; packet_next(&packet, &cursor);)
				count++;
			CHECK(count == packet.string_count);
		}
		free(bytes);
	}
}

int main(void)
{
	what_is_built_can_be_parsed();
	a_text_that_is_too_long_is_cut();
	strings_are_counted();
	sizes_and_magic_are_checked();
	any_bytes_are_survived();
	return 0;
}
