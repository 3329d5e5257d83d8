// User specs against passwd and group files of every kind.
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "users.h"

static int file_of(const char *content, size_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, content, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

static struct user user;
static struct error error;

static int find(const char *spec, const char *passwd, const char *group)
{
	int passwd_fd = file_of(passwd, strlen(passwd)), group_fd = file_of(group, strlen(group));
	int result = users_find(spec, passwd_fd, group_fd, &user, &error);
	close(passwd_fd);
	close(group_fd);
	return result;
}

#define PASSWD "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nann:x:5:5::/second:\n"
#define GROUP "root:x:0:\nstaff:x:50:bob,ann\naudio:x:63:annie\nnone:x:7:,,\n"

static void names_and_numbers(void)
{
	CHECK(find("", PASSWD, GROUP) == 0 && user.uid == 0 && user.gid == 0 && !strcmp(user.home, "/root"));
	CHECK(find("root", "spoilt", GROUP) == 0 && user.uid == 0 && user.gid == 0 && !*user.home);
	CHECK(find("root", "root:x:7:8::/h:/s\n", GROUP) == 0 && user.uid == 7 && user.gid == 8);
	CHECK(find("ann", PASSWD, GROUP) == 0 && user.uid == 1000 && user.gid == 1001);
	CHECK(user.group_count == 1 && user.groups[0] == 50 && !strcmp(user.home, "/home/ann"));
	CHECK(find("1000:audio", PASSWD, GROUP) == 0 && user.uid == 1000 && user.gid == 63 && user.group_count == 0);
	CHECK(find("77:88", PASSWD, GROUP) == 0 && user.uid == 77 && user.gid == 88 && !*user.home);
	CHECK(find("77", "", "") == 0 && user.uid == 77 && user.gid == 0);
	CHECK(find(":50", PASSWD, GROUP) == 0 && user.uid == 0 && user.gid == 50);
	CHECK(find("ann:", PASSWD, GROUP) == 0 && user.gid == 1001 && user.group_count == 1);
	CHECK(find("65536", PASSWD, GROUP) < 0 && find("0:65536", PASSWD, GROUP) < 0);
	CHECK(find("+5", PASSWD, GROUP) < 0 && find("-1", PASSWD, GROUP) < 0 && find("an", PASSWD, GROUP) < 0);
	CHECK(find(" ann", PASSWD, GROUP) < 0 && find("ann::", PASSWD, GROUP) < 0);
}

static void broken_lines_are_left_out(void)
{
	CHECK(find("a", "a\na:x\na:x:1\na:x:1:2:::\n", "") == 0 && user.uid == 1 && user.gid == 2);
	CHECK(find("a", "a:x:99999999999:0:::\na:x:-1:0:::\na:x::0:::\na:x:1x:0:::\na:x:3:4:::", "") == 0 && user.uid == 3);
	CHECK(find("a", ":::::::::\n\n\n\na:x:1:2::/h", "") < 0);
	CHECK(find("a", "a:x:1:2::/h:", "a:x") == 0 && user.uid == 1);
}

static void files_are_bounded(void)
{
	static char content[USERS_MAX_FILE + 65536];
	memset(content, 'x', 20000);
	strcpy(content + 20000, "\na:x:1:2::/h:/s\n");
	int fd = file_of(content, strlen(content));
	CHECK(users_find("a", fd, -1, &user, &error) == 0 && user.uid == 1);
	close(fd);

	memset(content, '\n', sizeof content);
	memcpy(content + sizeof content - 20, "\na:x:1:2::/h:/s\n", 16);
	fd = file_of(content, sizeof content);
	CHECK(users_find("a", fd, -1, &user, &error) < 0);
	close(fd);

	char *at = content;
	for (int i = 0; i < USERS_MAX_GROUPS + 1; i++)
		at += sprintf(at, "g%d:x:%d:a\n", i, i);
	fd = file_of(content, (size_t)(at - content));
	int passwd = file_of("a:x:1:2::/h:/s\n", 15);
	CHECK(users_find("a", passwd, fd, &user, &error) < 0 && strstr(error.text, "more than 256 groups"));
	close(fd);
	close(passwd);
	CHECK(users_find("a", -1, -1, &user, &error) < 0 && users_find("", -1, -1, &user, &error) == 0);
}

static void any_bytes_are_survived(void)
{
	static const char alphabet[] = "a:0,\n\n::x1:/9";
	uint64_t state = 7;
	char content[600];
	for (int round = 0; round < 20000; round++) {
		size_t size = next_random(&state) % sizeof content;
		for (size_t i = 0; i < size; i++)
			content[i] = alphabet[next_random(&state) % sizeof alphabet];
		int passwd = file_of(content, size), group = file_of(content, size);
		if (users_find(round % 2 ? "a" : "a:a", passwd, group, &user, &error) == 0)
			CHECK(user.uid <= USERS_MAX_ID && user.gid <= USERS_MAX_ID && user.group_count <= USERS_MAX_GROUPS);
		close(passwd);
		close(group);
	}
}

int main(void)
{
	names_and_numbers();
	broken_lines_are_left_out();
	files_are_bounded();
	any_bytes_are_survived();
	return 0;
}
