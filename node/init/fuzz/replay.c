// Calls a fuzz target once with each file in the directories that are named, and says how many there were. It needs no
// fuzzer: any compiler will do.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tests/check.h"
#include "fuzz.h"

static void replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	CHECK(file && fseek(file, 0, SEEK_END) == 0);
	long end = ftell(file);
	CHECK(end >= 0);
	rewind(file);
	size_t size = (size_t)end;
	uint8_t *data = malloc(size + !size); // exactly as large as it is, for the address sanitizer
	CHECK(data && fread(data, 1, size, file) == size);
	fclose(file);
	fprintf(stderr, "%s\n", path); // the last one that is named is the one that crashed
	LLVMFuzzerTestOneInput(data, size);
	free(data);
}

static int is_input(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static unsigned replay_directory(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, is_input, alphasort);
	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		char name[4096];
		CHECK(snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name) < (int)sizeof name);
		replay_file(name);
		free(entries[i]);
	}
	free(entries);
	return (unsigned)count;
}

int main(int argc, char *argv[])
{
	unsigned count = 0;
	for (int i = 1; i < argc; i++)
		count += replay_directory(argv[i]);
	printf("%u\n", count);
	return 0;
}
