// A filter's answer EPERM or ENOSYS looks like the kernel's own, and what no filter stops may do anything. So no call
// is let through: a child puts a last filter before all others, which asks us about each call that it tries. We are only
// asked about what the others allow (of all filters' answers the strictest counts, and to refuse is stricter than to
// ask), and we give an answer of our own in the kernel's place.
#include "calls.h"

#include <errno.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "json.h"

// Their last argument tells calls that are tried from those that the child makes; it is our answer, too.
#define MARK 0x20f7ca11
#define X32 0x40000000L

enum { NUMBERS = 512, X32_NUMBERS = 548, FAMILIES = 46, NETLINKS = 23, PARTICULAR = 128, ARGUMENTS = 5 };

enum architecture { X86_64, X86 };

struct attempt {
	enum architecture architecture;
	long number;
	long arguments[ARGUMENTS];
	// UNTRIED, TRYING, MARK when it came through, what a filter answered, or the signal that ended the child.
	volatile long answer;
	volatile int signal;
};

enum { UNTRIED = INT_MIN, TRYING = INT_MIN + 1 };

static struct attempt *attempts;
static int attempt_count;
static char names[PARTICULAR][64];

static struct attempt *add(enum architecture architecture, long number)
{
	struct attempt *attempt = attempts + attempt_count++;
	*attempt = (struct attempt){.architecture = architecture, .number = number, .answer = UNTRIED};
	return attempt;
}

static long call_x86_64(const struct attempt *attempt)
{
	long result = attempt->number;
	const long *a = attempt->arguments;
	register long fourth __asm__("r10") = a[3], fifth __asm__("r8") = a[4], last __asm__("r9") = MARK;

	// The mark must not stay behind for the next call that the child makes for itself.
	__asm__ volatile("syscall\n\txorl %%r9d, %%r9d"
			 : "+a"(result), "+r"(last)
			 : "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return result;
}

static long call_x86(const struct attempt *attempt)
{
	int result = (int)attempt->number;
	const long *a = attempt->arguments;

	__asm__ volatile("movq %%rbp, %%r12\n\tmovl %[mark], %%ebp\n\tint $0x80\n\tmovq %%r12, %%rbp"
			 : "+a"(result)
			 : "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]), [mark] "i"(MARK)
			 : "r8", "r9", "r10", "r11", "r12", "memory");
	return result;
}

static int ask_about_marked_calls(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof program / sizeof *program, program};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
}

static void try_all(int said) __attribute__((noreturn));

static void try_all(int said)
{
	int listener = ask_about_marked_calls();

	if (write(said, &listener, sizeof listener) != sizeof listener || listener < 0)
		_exit(1);
	for (int i = 0; i < attempt_count; i++) {
		struct attempt *attempt = attempts + i;
		if (attempt->answer != UNTRIED)
			continue;
		attempt->answer = TRYING;
		attempt->answer = attempt->architecture == X86 ? call_x86(attempt) : call_x86_64(attempt);
	}
	_exit(0);
}

static void fail(const char *what) __attribute__((noreturn));

static void fail(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

// The child itself is watched: on Linux 6.1 a filter, and so its listener, lives until who had it has been waited for.
static void answer_until_end(int listener, pid_t child)
{
	struct pollfd polled[] = {{.fd = listener, .events = POLLIN},
				  {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN}};

	if (polled[1].fd < 0)
		fail("watching a child");
	while (poll(polled, 2, -1) > 0 && !polled[1].revents) {
		struct seccomp_notif asked = {0};
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
			continue;
		struct seccomp_notif_resp answer = {.id = asked.id, .val = MARK};
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	close(polled[1].fd);
}

// A child that shares our descriptors, so that we have the listener that it makes. A call that ends the child is noted,
// and the next child goes on after it.
static void try_in_children(void)
{
	for (int status = -1; status != 0;) {
		int said[2], listener = -1;
		if (pipe(said) < 0)
			fail("making a pipe");
		pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0);
		if (child < 0)
			fail("making a child");
		if (child == 0)
			try_all(said[1]);
		if (read(said[0], &listener, sizeof listener) != sizeof listener || listener < 0)
			fail("a child cannot install a filter");
		answer_until_end(listener, child);
		if (waitpid(child, &status, 0) < 0)
			fail("waiting for a child");
		close(listener);
		close(said[0]);
		close(said[1]);
		for (int i = 0; i < attempt_count; i++)
			if (attempts[i].answer == TRYING) {
				attempts[i].answer = 0;
				attempts[i].signal = WTERMSIG(status);
			}
	}
}

static const char *judge(const struct attempt *attempt)
{
	if (attempt->signal == SIGSYS)
		return "SIGSYS";
	// No way into this kernel for 32-bit programs.
	if (attempt->signal == SIGSEGV && attempt->architecture == X86)
		return "absent";
	// Some (uretprobe) pass by every filter, and the kernel ends whoever calls them from the wrong place.
	if (attempt->signal || attempt->answer == MARK)
		return "allowed";
	return strerrorname_np((int)-attempt->answer);
}

static void add_particular(const char *what, const char *of, long number, long first, long second, long third)
{
	struct attempt *attempt = add(X86_64, number);
	int count = 0;
	while (names[count][0])
		count++;
	snprintf(names[count], sizeof *names, "%s%s%s", what, *of ? " " : "", of);
	memcpy(attempt->arguments, (long[]){first, second, third, 0, 0}, sizeof attempt->arguments);
}

static void add_namespaces(void)
{
	static const struct {
		const char *name;
		long flag;
	} kinds[] = {
		{"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"mnt", CLONE_NEWNS},   {"net", CLONE_NEWNET},
		{"pid", CLONE_NEWPID},	     {"time", 0x80},	    {"user", CLONE_NEWUSER}, {"uts", CLONE_NEWUTS},
	};
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		// Of clone these bits are the signal's: a time namespace is made by unshare alone.
		if (kinds[i].flag != 0x80)
			add_particular("clone", kinds[i].name, SYS_clone, kinds[i].flag | SIGCHLD, 0, 0);
		add_particular("unshare", kinds[i].name, SYS_unshare, kinds[i].flag, 0, 0);
	}
	add_particular("clone", "user, beside a high bit", SYS_clone, CLONE_NEWUSER | SIGCHLD | 1L << 40, 0, 0);
}

static void add_sockets(void)
{
	char name[16];
	for (int family = 1; family < FAMILIES; family++) {
		snprintf(name, sizeof name, "%d", family);
		if (family != AF_NETLINK)
			add_particular("socket", name, SYS_socket, family, SOCK_RAW, 0);
	}
	for (int protocol = 0; protocol < NETLINKS; protocol++) {
		snprintf(name, sizeof name, "%d", protocol);
		add_particular("netlink", name, SYS_socket, AF_NETLINK, SOCK_RAW, protocol);
	}
	add_particular("socketpair", "1", SYS_socketpair, AF_UNIX, SOCK_STREAM, 0);
	add_particular("socketpair", "30", SYS_socketpair, AF_TIPC, SOCK_STREAM, 0);
	add_particular("socket", "40, beside a high bit", SYS_socket, 40 | 1L << 32, SOCK_RAW, 0);
}

static void add_others(void)
{
	add_particular("ioctl", "TIOCSTI", SYS_ioctl, 0, 0x5412, 0);
	add_particular("ioctl", "TIOCSTI, beside a high bit", SYS_ioctl, 0, 0x5412 | 1L << 32, 0);
	add_particular("ioctl", "TIOCLINUX", SYS_ioctl, 0, 0x541C, 0);
	add_particular("ioctl", "TIOCSETD", SYS_ioctl, 0, 0x5423, 0);
	add_particular("personality", "PER_LINUX", SYS_personality, 0, 0, 0);
	add_particular("personality", "ADDR_NO_RANDOMIZE", SYS_personality, 0x0040000, 0, 0);
	add_particular("personality", "READ_IMPLIES_EXEC", SYS_personality, 0x0400000, 0, 0);
}

static void report_architecture(const char *name, const struct attempt *first, int count)
{
	char number[16];
	json_begin(name, '{');
	for (int i = 0; i < count; i++) {
		snprintf(number, sizeof number, "%d", i);
		json_text(number, judge(first + i));
	}
	json_end('}');
}

void report_calls(void)
{
	size_t size = (2 * NUMBERS + X32_NUMBERS + PARTICULAR) * sizeof *attempts;
	attempts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (attempts == MAP_FAILED)
		fail("memory to share");
	for (long number = 0; number < NUMBERS; number++)
		add(X86_64, number);
	for (long number = 0; number < X32_NUMBERS; number++)
		add(X86_64, number | X32);
	for (long number = 0; number < NUMBERS; number++)
		add(X86, number);
	const struct attempt *particular = attempts + attempt_count;
	add_namespaces();
	add_sockets();
	add_others();
	try_in_children();

	json_begin("calls", '{');
	report_architecture("x86_64", attempts, NUMBERS);
	report_architecture("x32", attempts + NUMBERS, X32_NUMBERS);
	report_architecture("x86", attempts + NUMBERS + X32_NUMBERS, NUMBERS);
	json_end('}');
	json_begin("particular_calls", '{');
	for (int i = 0; i < PARTICULAR && names[i][0]; i++)
		json_text(names[i], judge(particular + i));
	json_end('}');
}
