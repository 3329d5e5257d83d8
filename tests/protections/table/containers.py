"""Against what runs in a container: without end, deaf, racing, or loud."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Edit, Input, Removal, taken_away

V1: Final = "node/tfnz_node/sandbox/cgroups_v1.py"
INIT: Final = "node/init"
HOSTILE: Final = "tests/system/test_hostile_containers.py"
CGROUPS: Final = "tests/node/sandbox/test_cgroups.py"
PUMPS: Final = "tests/node/supervisor/test_pumps.py"

# Not here: the limits of message queues and of locked memory. They are the kernel's defaults, and only who may raise
# their own (CAP_SYS_RESOURCE, which root has not everywhere) can see that a container has them by itself.

_containers = partial(taken_away, input=Input.CONTAINERS)

REMOVALS: Final[tuple[Removal, ...]] = (
    _containers(
        "limit-of-processes",
        stops="A fork bomb stops at the limit of processes (and here, without it, a little later).",
        file=V1,
        old='"pids.max", str(limits.pids))',
        new='"pids.max", str(limits.pids + 100))',
        tests=(f"{CGROUPS}::test_a_fork_bomb_stops_at_the_limit",),
    ),
    _containers(
        "limit-of-memory",
        stops="A process that takes more memory than the limit is ended (and here, without it, much later).",
        file=V1,
        old="                self._tree.write(group, file, str(memory_bytes))",
        new="                self._tree.write(group, file, str(memory_bytes + (1 << 30)))",
        tests=(f"{CGROUPS}::test_memory_beyond_the_limit_ends_the_process_and_is_counted",),
    ),
    _containers(
        "limit-of-memory-in-tcp",
        stops="What lies unread in TCP connections is bounded, too.",
        file=V1,
        old='            files.append("memory.kmem.tcp.limit_in_bytes")',
        new="            pass",
        tests=(f"{HOSTILE}::test_tcp_connections_that_nobody_reads",),
    ),
    _containers(
        "limit-of-processor-time",
        stops="A container that spins has no more processor time than its limit.",
        file=V1,
        old='        self._tree.write(cpu, "cpu.cfs_quota_us", str(limits.cpu_quota_us))\n',
        new="",
        tests=(f"{HOSTILE}::test_processors_without_end",),
    ),
    _containers(
        "quota-of-a-disk",
        stops="A container that fills its disk stops at its quota.",
        file="node/tfnz_node/storage/btrfs.py",
        old="            btrfs.set_quota(scratch, quota_bytes)",
        new="            btrfs.set_quota(scratch, quota_bytes * 64)",
        tests=(
            "tests/node/storage/test_btrfs.py::test_writing_beyond_the_quota_fails_with_edquot_and_deleting_helps",
        ),
    ),
    _containers(
        "files-in-dev",
        stops="Memory of the host is not filled by way of /dev.",
        file=f"{INIT}/devices.c",
        old='"mode=0755,size=64k,nr_inodes=1k"',
        new='"mode=0755,size=64k,nr_inodes=0"',
        tests=(
            f"{HOSTILE}::test_what_is_refused_at_the_limit_harms_nobody_else[makes devices' neighbours without end]",
        ),
    ),
    _containers(
        "terminals",
        stops="A container has a part of the kernel's terminals, and not all.",
        file=f"{INIT}/devices.c",
        old='#define TERMINALS "256"',
        new='#define TERMINALS "2048"',
        tests=(
            f"{HOSTILE}::test_what_is_refused_at_the_limit_harms_nobody_else[takes terminals without end]",
        ),
    ),
    _containers(
        "open-files",
        stops="A process has no more files open than programs expect, whatever the daemon may.",
        file=f"{INIT}/rlimits.c",
        old="\t{RLIMIT_NOFILE, 1024, 524288},\n",
        new="",
        tests=("tests/node/init/test_confinement.py::test_resource_limits_are_the_containers_own",),
    ),
    _containers(
        "oom-score",
        stops="Where memory is short, a process of the container goes and not its process 1.",
        file=f"{INIT}/child.c",
        old='#define OOM_SCORE "200"',
        new='#define OOM_SCORE "000"',
        tests=("tests/node/init/test_confinement.py::test_processes_go_before_init_when_memory_is_short",),
    ),
    _containers(
        "output-credit",
        stops="Output that nobody takes is not read, and fills nobody's memory.",
        file="node/tfnz_node/gateway/streams.py",
        old="        return min(self._credit.available, MAX_CHUNK)",
        new="        return MAX_CHUNK",
        tests=("tests/node/gateway/test_streams.py::test_without_credit_the_writer_waits_for_some",),
    ),
    _containers(
        "output-without-room",
        stops="A pipe is not read while its client has granted nothing.",
        file="node/tfnz_node/supervisor/pumps.py",
        old="            if not room:\n                return self._wait_for_room()\n",
        new="            room = room or 1\n",
        tests=(f"{PUMPS}::test_without_room_nothing_is_read",),
    ),
    _containers(
        "output-in-turns",
        stops="Output without end does not keep the daemon from the others.",
        file="node/tfnz_node/supervisor/pumps.py",
        old="        for _ in range(READS_AT_ONCE):\n            if self.ended.done():",
        new="        while True:\n            if self.ended.done():",
        tests=(f"{PUMPS}::test_output_without_end_does_not_keep_the_others",),
    ),
    _containers(
        "output-of-descendants",
        stops="Who holds the output of a process that has ended, and writes on, does not keep it going.",
        file="node/tfnz_node/supervisor/pumps.py",
        old="            if self._left is not None:\n                room",
        new="            if False:\n                room",
        tests=(f"{PUMPS}::test_after_the_end_of_the_process_nobody_else_keeps_it_going",),
    ),
    _containers(
        "short-processes",
        stops="Ten thousand processes that end do not stay as dead ones in the table.",
        file=f"{INIT}/jobs.c",
        old="\tfor (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)\n\t\tnote_end(pid, status);\n",
        new=(
            "\tfor (unsigned i = 0; i < top; i++)\n"
            "\t\tif (jobs[i].used && jobs[i].pid > 0 && waitpid(jobs[i].pid, &status, WNOHANG) > 0)\n"
            "\t\t\tnote_end(jobs[i].pid, status);\n"
        ),
        tests=(
            "tests/node/init/test_run.py::test_orphans_are_reaped",
            f"{HOSTILE}::test_ten_thousand_short_processes",
        ),
    ),
    _containers(
        "processes-from-outside",
        stops="So many processes are started from outside, and no table grows without end.",
        file=f"{INIT}/run.c",
        old="\tif (jobs_are_full())\n",
        new="\tif (jobs_are_full() && jobs_has(0))\n",
        tests=("tests/node/init/test_run.py::test_the_table_of_processes_is_bounded",),
    ),
    _containers(
        "deaf-main-process",
        stops="A main process that does not end in its grace is killed.",
        file="node/tfnz_node/supervisor/container.py",
        old="        self._conclude(Exit(cause))\n        if cause in",
        new="        if not grace_s:\n            self._conclude(Exit(cause))\n        if cause in",
        tests=("tests/node/supervisor/test_container.py::test_after_its_grace_it_is_killed",),
    ),
    _containers(
        "deaf-container",
        stops="A container ends by SIGKILL to its process 1, whatever ignores signals inside.",
        file="node/tfnz_node/sandbox/init_process.py",
        old="                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)",
        new="                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)",
        tests=("tests/node/init/test_lifecycle.py::test_everything_inside_ends_with_it[kill]",),
    ),
    _containers(
        "time-limit",
        stops="A container that takes too long is ended.",
        file="node/tfnz_node/supervisor/container.py",
        old="call_later(max(0.0, rest_s), self._conclude, end)",
        new="call_later(max(1e6, rest_s), self._conclude, end)",
        tests=("tests/node/supervisor/test_container.py::test_a_container_that_takes_too_long_is_ended",),
    ),
    _containers(
        "init-killed",
        stops="When process 1 is killed its container is told to have ended.",
        file="node/tfnz_node/supervisor/container.py",
        old="        if self._sandbox.init is init and self.state is State.SLEEPING:",
        new="        if False:",
        tests=("tests/node/supervisor/test_container.py::test_a_sleeping_container_ends_with_its_init",),
    ),
    Removal(
        "ends-with-the-socket",
        Input.CONTAINERS,
        "A container does not outlive who holds its process 1's socket: two places look, either is enough.",
        (
            Edit(
                f"{INIT}/main.c",
                "(POLLHUP | POLLERR | POLLNVAL))\n\t\t\t_exit(0);",
                "POLLNVAL)\n\t\t\t_exit(0);",
            ),
            Edit(
                f"{INIT}/control.c",
                "errno == ECONNRESET))\n\t\t_exit(0);",
                "errno == ECONNRESET))\n\t\treturn false;",
            ),
        ),
        ("tests/node/init/test_lifecycle.py::test_everything_inside_ends_with_it[close]",),
    ),
    _containers(
        "put-onto-special-files",
        stops="A file that is put onto a device or a pipe is neither written nor waited for.",
        file=f"{INIT}/replace.c",
        old="\t\tif (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))",
        new="\t\tif (0)",
        tests=("tests/node/init/test_put_get.py::test_put_refuses",),
    ),
    _containers(
        "get-of-pipes",
        stops="A pipe in the place of a file that is fetched holds nobody up.",
        file=f"{INIT}/get.c",
        old="O_RDONLY | O_NONBLOCK | O_NOCTTY",
        new="O_RDONLY | O_NOCTTY",
        tests=("tests/node/init/test_put_get.py::test_get_refuses",),
    ),
    _containers(
        "get-of-special-files",
        stops="A device is not read without end when it is fetched.",
        file=f"{INIT}/get.c",
        old="\telse if (!S_ISREG(status.st_mode))",
        new="\telse if (0)",
        tests=("tests/node/init/test_put_get.py::test_get_refuses",),
    ),
    _containers(
        "files-with-the-users-rights",
        stops="Work on files has the rights of the container's user, and no more.",
        file=f"{INIT}/child.c",
        old="\tbecome_user(&child.user);\n",
        new="\tif (!(child.flags & RUN_BUILTIN))\n\t\tbecome_user(&child.user);\n",
        tests=("tests/node/init/test_put_get.py::test_as_another_user_only_what_that_user_may",),
    ),
    _containers(
        "files-of-the-kernel",
        stops="A pre-boot file for /proc or /sys is refused before anything is tried, in words that say why.",
        file=f"{INIT}/file.c",
        old="\tint result = refuse_kernel_files(dir, request->path, error);",
        new="\tint result = 0;\n\t(void)refuse_kernel_files;",
        tests=("tests/node/init/test_files.py::test_what_cannot_be_written_is_refused",),
    ),
    _containers(
        "passwd-that-is-a-pipe",
        stops="A passwd file that is a pipe is not waited for.",
        file=f"{INIT}/users.c",
        old="O_RDONLY | O_NONBLOCK | O_NOCTTY",
        new="O_RDONLY | O_NOCTTY",
        tests=("tests/node/init/test_run.py::test_a_hostile_passwd_file_is_not_waited_for",),
    ),
    _containers(
        "fetched-tree-links",
        stops="A tree that is fetched is not written through a link on the client's side.",
        file="tfnz/aio/local_trees.py",
        old="os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        new="os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        tests=("tests/tfnz/aio/test_local_trees.py::test_nothing_is_written_through_a_link",),
    ),
    _containers(
        "fetched-tree-modes",
        stops="Set-id bits do not come out with a tree.",
        file="tfnz/aio/local_trees.py",
        old="            os.fchmod(self._file, mode & 0o777)",
        new="            os.fchmod(self._file, mode)",
        tests=("tests/tfnz/aio/test_local_trees.py::test_modes_lose_what_is_dangerous",),
    ),
    _containers(
        "connections-unread",
        stops="A service that does not answer is given up.",
        file="node/tfnz_node/supervisor/connections.py",
        old="            async with asyncio.timeout(timeout_s):\n                if isinstance(target, str):",
        new="            async with asyncio.timeout(None):\n                if isinstance(target, str):",
        tests=("tests/node/supervisor/test_connections.py::test_a_service_that_does_not_answer_is_given_up",),
    ),
    _containers(
        "connection-to-itself",
        stops="A connection that the kernel has made to itself is not taken for a service.",
        file="node/tfnz_node/sandbox/connecting.py",
        old="    if connection.family in _INTERNET and connection.getsockname() == connection.getpeername():",
        new="    if False:",
        tests=("tests/node/init/test_connect.py::test_a_connection_to_itself_is_none",),
    ),
    _containers(
        "words-of-a-container",
        stops="Control characters in names do not reach the terminal of whoever reads a message.",
        file=f"{INIT}/error.c",
        old="\t\tif (c < 0x20 || c == 0x7f)",
        new="\t\tif (c == 0x7f)",
        tests=("tests/node/init/test_files.py::test_control_characters_do_not_reach_the_text",),
    ),
)
