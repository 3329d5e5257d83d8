// Cutting paths, and looking them up in a directory that stands for a root.
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "error.h"
#include "resolve.h"

static struct error error;

static void paths_are_cut(void)
{
	static const char *const cases[][3] = {
		{"/a", "/", "a"},	{"a", "/", "a"},       {"/a/b", "/a/", "b"}, {"/a/b///", "/a/", "b"},
		{"a/../b", "a/../", "b"}, {"//x", "//", "x"}, {"/a/...", "/a/", "..."},
	};
	static const char *const refused[] = {"", "/", "///", ".", "..", "/a/..", "/a/.", "a/../"};
	struct location location;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		CHECK(resolve_split(cases[i][0], &location, &error) == 0);
		CHECK(!strcmp(location.parent, cases[i][1]) && !strcmp(location.name, cases[i][2]));
	}
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		CHECK(resolve_split(refused[i], &location, &error) < 0 && error.number == EISDIR);
	char path[PATH_MAX + 1];
	memset(path, 'p', sizeof path);
	path[PATH_MAX] = '\0';
	CHECK(resolve_split(path, &location, &error) < 0 && error.number == ENAMETOOLONG);
	path[NAME_MAX + 1] = '\0';
	CHECK(resolve_split(path, &location, &error) < 0 && error.number == ENAMETOOLONG);
	path[NAME_MAX] = '\0';
	CHECK(resolve_split(path, &location, &error) == 0);
}

static bool makes(int root, const char *path)
{
	int fd = resolve_make_directory(root, path, &error);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static bool is_directory(int root, const char *path)
{
	struct stat status;
	return fstatat(root, path, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

static void directories_stay_inside(int root)
{
	CHECK(symlinkat("/real", root, "absolute") == 0 && symlinkat("../../../real", root, "upward") == 0);
	CHECK(symlinkat("/missing", root, "dangling") == 0 && symlinkat("loop", root, "loop") == 0);
	CHECK(mkdirat(root, "real", 0755) == 0);
	CHECK(makes(root, "/") && makes(root, "") && makes(root, "/real") && makes(root, "real/x/y/z///"));
	CHECK(is_directory(root, "real/x/y/z"));
	CHECK(makes(root, "/absolute/one") && is_directory(root, "real/one"));
	CHECK(makes(root, "upward/./two") && is_directory(root, "real/two"));
	CHECK(makes(root, "/../../../three") && is_directory(root, "three"));
	CHECK(!makes(root, "/dangling/x") && !strcmp(error.name, "ELINK") && error.number == ENOENT);
	CHECK(!makes(root, "/loop/x") && error.number == ELOOP);
	CHECK(!makes(root, "/new/../x") && error.number == EINVAL);
	close(openat(root, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	CHECK(!makes(root, "/file/x") && error.number == ENOTDIR && !makes(root, "file"));
	CHECK(!is_directory(root, "missing"));
}

static void errors_are_one_clean_line(void)
{
	char text[3 * ERROR_TEXT_BYTES];
	memset(text, '\n', sizeof text);
	text[sizeof text - 1] = '\0';
	CHECK(error_set(&error, ENOENT, "%s", text) == -1 && error.number == ENOENT && !strcmp(error.name, "ENOENT"));
	CHECK(strlen(error.text) == ERROR_TEXT_BYTES - 1 && strspn(error.text, "?") == ERROR_TEXT_BYTES - 1);
	error_system(&error, EACCES, "opening %s", "x\x7fy");
	CHECK(!strcmp(error.text, "opening x?y: Permission denied"));
	error_set(&error, 99999, "x");
	CHECK(!strcmp(error.name, "EUNKNOWN"));
	error_system(&error, ENOENT, "%s", text);
	CHECK(strlen(error.text) == ERROR_TEXT_BYTES - 1);
}

int main(void)
{
	char directory[] = "/tmp/tfnz-init-test-XXXXXX";
	umask(022);
	paths_are_cut();
	errors_are_one_clean_line();
	CHECK(mkdtemp(directory));
	int root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CHECK(root >= 0);
	directories_stay_inside(root);
	close(root);
	static const char *const leftovers[] = {"absolute", "upward", "dangling", "loop", "file"};
	static const char *const directories[] = {"real/x/y/z", "real/x/y", "real/x", "real/one", "real/two", "real", "three"};
	root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < sizeof leftovers / sizeof *leftovers; i++)
		CHECK(unlinkat(root, leftovers[i], 0) == 0);
	unlinkat(root, "new", AT_REMOVEDIR);
	for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
		CHECK(unlinkat(root, directories[i], AT_REMOVEDIR) == 0);
	close(root);
	CHECK(rmdir(directory) == 0);
	return 0;
}
