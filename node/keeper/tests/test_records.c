#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "keeper.h"

static int open_one(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void test_a_record_is_replaced_as_a_whole(void)
{
	int first = open_one(), second = open_one();
	CHECK(records_put("a", "old", 3, &first, 1));
	CHECK(records_put("a", "newer", 5, &second, 1));
	CHECK(records_count() == 1);
	CHECK(records_first()->size == 5 && !memcmp(records_first()->bytes, "newer", 5));
	CHECK(!is_open(first) && is_open(second));
	records_delete("a");
	CHECK(!is_open(second) && records_count() == 0);
}

// Whether there are records with these names of one letter, and no others.
static bool are_in_order(const char *names)
{
	const struct record *record = records_first();
	for (; record && record->name[0] == *names; record = record->after)
		names++;
	return !record && !*names;
}

static void test_records_keep_their_order(void)
{
	CHECK(records_put("a", "", 0, NULL, 0) && records_put("b", "", 0, NULL, 0) && records_put("c", "", 0, NULL, 0));
	records_delete("b");
	records_delete("nobody");
	CHECK(records_put("b", "", 0, NULL, 0) && records_put("a", "again", 5, NULL, 0));
	CHECK(are_in_order("acb"));
	records_delete("b");
	CHECK(are_in_order("ac"));
	records_delete("a");
	CHECK(are_in_order("c"));
	records_delete("c");
	CHECK(are_in_order(""));
}

static void test_what_has_no_room_is_closed_and_the_old_with_it(void)
{
	int many[RECORD_MAX_FDS + 1], kept = open_one();
	for (int i = 0; i <= RECORD_MAX_FDS; i++)
		many[i] = open_one();
	CHECK(records_put("a", "old", 3, &kept, 1));
	CHECK(!records_put("a", "new", 3, many, RECORD_MAX_FDS + 1));
	CHECK(!is_open(many[0]) && !is_open(many[RECORD_MAX_FDS]));
	CHECK(!is_open(kept) && records_count() == 0);
}

static void test_there_is_an_end_to_it(void)
{
	char name[16], *bytes = calloc(1, RECORD_MAX_BYTES);
	unsigned kept = 0;
	for (unsigned i = 0; i < RECORDS_MAX; i++) {
		snprintf(name, sizeof name, "%u", i);
		if (!records_put(name, bytes, RECORD_MAX_BYTES, NULL, 0))
			break;
		kept++;
	}
	CHECK(kept == ALL_RECORDS_MAX_BYTES / RECORD_MAX_BYTES);
	// In place of what is there, there is room for as much.
	CHECK(records_put("0", bytes, RECORD_MAX_BYTES, NULL, 0) && records_count() == kept);
	while (records_count()) {
		snprintf(name, sizeof name, "%u", records_count() - 1);
		records_delete(name);
	}
	free(bytes);
	for (unsigned i = 0; i < RECORDS_MAX; i++) {
		snprintf(name, sizeof name, "%u", i);
		CHECK(records_put(name, "", 0, NULL, 0));
	}
	CHECK(!records_put("another", "", 0, NULL, 0) && records_put("0", "", 0, NULL, 0));
	records_clear();
}

static long now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

// What a record costs when there are many is told, for whoever reads it.
static void test_many(void)
{
	enum { MANY = 200000 };
	char name[64];
	long begun = now_us(), put, replaced;

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "permission.%u.%u", i % 1000, i);
		CHECK(records_put(name, "some bytes", 10, NULL, 0));
	}
	put = now_us();
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "permission.%u.%u", i % 1000, i);
		CHECK(records_put(name, "other bytes", 11, NULL, 0));
	}
	replaced = now_us();
	for (unsigned i = 0; i < MANY; i++) {
		unsigned which = (i * 7919u) % MANY; // in no order
		snprintf(name, sizeof name, "permission.%u.%u", which % 1000, which);
		records_delete(name);
	}
	CHECK(records_count() == 0);
	printf("  %d records: %ld ns to put one, %ld to replace it, %ld to delete it\n", MANY, (put - begun) * 1000 / MANY,
	       (replaced - put) * 1000 / MANY, (now_us() - replaced) * 1000 / MANY);
}

static void test_all_are_forgotten_at_once(void)
{
	int fds[3];
	for (int i = 0; i < 3; i++)
		fds[i] = open_one();
	CHECK(records_put("a", "x", 1, &fds[0], 1) && records_put("b", "", 0, &fds[1], 2) && records_put("c", "", 0, NULL, 0));
	records_clear();
	CHECK(records_count() == 0 && !is_open(fds[0]) && !is_open(fds[1]) && !is_open(fds[2]));
	CHECK(records_put("a", "y", 1, NULL, 0) && records_count() == 1);
	records_clear();
	records_clear();
	CHECK(records_count() == 0);
}

int main(void)
{
	test_a_record_is_replaced_as_a_whole();
	test_records_keep_their_order();
	test_what_has_no_room_is_closed_and_the_old_with_it();
	test_there_is_an_end_to_it();
	test_all_are_forgotten_at_once();
	test_many();
	return 0;
}
