#include "packet.h"

#include <endian.h>
#include <string.h>

static uint32_t load(const char *bytes)
{
	uint32_t value;
	memcpy(&value, bytes, sizeof value);
	return le32toh(value);
}

static char *store(char *out, uint32_t value)
{
	value = htole32(value);
	memcpy(out, &value, sizeof value);
	return out + sizeof value;
}

static uint32_t count_strings(const char *strings, const char *end)
{
	uint32_t count = 0;
	while (strings < end) {
		const char *nul = memchr(strings, '\0', (size_t)(end - strings));
		if (!nul)
			break;
		count++;
		strings = nul + 1;
	}
	return count;
}

int packet_parse(const void *data, size_t size, struct packet *packet)
{
	const char *bytes = data;

	if (size < PACKET_HEADER_BYTES || size > PACKET_MAX_BYTES || load(bytes) != PACKET_MAGIC)
		return -1;
	packet->kind = load(bytes + 4);
	packet->id = load(bytes + 8);
	for (size_t i = 0; i < PACKET_ARGUMENTS; i++)
		packet->arguments[i] = load(bytes + 12 + 4 * i);
	packet->string_count = load(bytes + 36);
	packet->strings = bytes + PACKET_HEADER_BYTES;
	packet->end = bytes + size;
	if (packet->strings < packet->end && packet->end[-1] != '\0')
		return -1;
	if (count_strings(packet->strings, packet->end) != packet->string_count)
		return -1;
	return 0;
}

const char *packet_next(const struct packet *packet, const char **cursor)
{
	const char *string = *cursor;

	if (string >= packet->end)
		return NULL;
	*cursor = string + strlen(string) + 1;
	return string;
}

size_t packet_build(char *out, size_t size, uint32_t kind, uint32_t id, uint32_t argument, const char *text)
{
	size_t length = text ? strlen(text) : 0;
	char *at = out;

	if (text && length > size - PACKET_HEADER_BYTES - 1)
		length = size - PACKET_HEADER_BYTES - 1;
	at = store(at, PACKET_MAGIC);
	at = store(at, kind);
	at = store(at, id);
	at = store(at, argument);
	for (int i = 1; i < PACKET_ARGUMENTS; i++)
		at = store(at, 0);
	at = store(at, text ? 1 : 0);
	if (text) {
		memcpy(at, text, length);
		at[length] = '\0';
		at += length + 1;
	}
	return (size_t)(at - out);
}
