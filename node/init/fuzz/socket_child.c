// The child's side of a request: what PID 1 has let pass as well formed must be so for the process that is forked.
#include "socket.h"

#include "../child.c"
#include "../tests/check.h"

static size_t count_bytes(char *const strings[], size_t count)
{
	size_t total = 0;
	for (size_t i = 0; i < count; i++) {
		CHECK(strings[i]);
		total += strlen(strings[i]) + 1;
	}
	CHECK(!strings[count]);
	return total;
}

void socket_read_as_child(const struct request *request)
{
	struct child child = {0};
	const struct packet *packet = &request->packet;

	read_request(&child, packet);
	CHECK(child.user_spec && child.cwd && child.argc >= 1);
	size_t total = strlen(child.user_spec) + strlen(child.cwd) + 2;
	total += count_bytes(child.argv, (size_t)child.argc) + count_bytes(child.env, packet->arguments[4]);
	CHECK(total == (size_t)(packet->end - packet->strings));
	free(child.argv);
	free(child.env);
}
