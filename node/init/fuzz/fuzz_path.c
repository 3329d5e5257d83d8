// Paths: cut where they end, or refused; and what an error says of them is one clean line.
#include <string.h>

#include "../tests/check.h"
#include "error.h"
#include "fuzz.h"
#include "resolve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char path[2 * PATH_MAX];
	static struct location location;
	static struct error error;

	if (size >= sizeof path)
		return 0;
	memcpy(path, data, size);
	path[size] = '\0';
	if (resolve_split(path, &location, &error) == 0) {
		CHECK(*location.name && !strchr(location.name, '/'));
		CHECK(strcmp(location.name, ".") != 0 && strcmp(location.name, "..") != 0);
		CHECK(strlen(location.parent) + strlen(location.name) <= strlen(path) + 1);
	} else {
		CHECK(error.number != 0);
	}
	error_set_link(&error, path, path);
	CHECK(strlen(error.text) < ERROR_TEXT_BYTES && !strpbrk(error.text, "\n\r\x1b\x7f"));
	return 0;
}
