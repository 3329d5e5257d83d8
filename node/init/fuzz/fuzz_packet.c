// Packets: any bytes are one packet or none, and what is one can be walked, and built again.
#include <string.h>

#include "../tests/check.h"
#include "fuzz.h"
#include "packet.h"

static void build_again(const struct packet *packet, const char *text)
{
	static char bytes[PACKET_MAX_BYTES];
	struct packet again;
	size_t size = packet_build(bytes, sizeof bytes, packet->kind, packet->id, packet->arguments[0], text);

	CHECK(packet_parse(bytes, size, &again) == 0);
	CHECK(again.kind == packet->kind && again.id == packet->id && again.arguments[0] == packet->arguments[0]);
	CHECK(again.string_count == (text ? 1 : 0) && (!text || !strcmp(again.strings, text)));
	// Where there is little room, a text is cut.
	char little[PACKET_HEADER_BYTES + 4];
	size = packet_build(little, sizeof little, packet->kind, packet->id, 0, text);
	CHECK(size <= sizeof little && packet_parse(little, size, &again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct packet packet;

	if (packet_parse(data, size, &packet) < 0)
		return 0;
	uint32_t count = 0;
	const char *first = NULL;
	for (const char *cursor = packet.strings, *string; (string = packet_next(&packet, &cursor)); count++)
		if (!first)
			first = string;
	CHECK(count == packet.string_count);
	build_again(&packet, first);
	return 0;
}
