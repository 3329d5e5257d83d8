// What a process can see, reach and change, as JSON on standard output. It is run in containers, ours and others', to
// compare them; it changes nothing.
#include <stdio.h>

#include "calls.h"
#include "identity.h"
#include "json.h"
#include "paths.h"

int main(void)
{
	json_begin(NULL, '{');
	report_descriptors();
	report_identity();
	report_paths();
	// The children must not have a part of it to write.
	fflush(stdout);
	report_calls();
	json_end('}');
	putchar('\n');
	return fflush(stdout) == 0 ? 0 : 1;
}
