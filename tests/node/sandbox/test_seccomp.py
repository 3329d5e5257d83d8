"""The system call filter, judged by a real kernel: children install it and try."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.kernel import syscalls as sc
from tfnz_node.sandbox import syscall_policy as policy
from tfnz_node.sandbox.seccomp import REFUSED_IOCTLS, compile_filter, complement

# Installs the filter it is given (if any), then makes system calls or becomes another program.
_CHILD = """
import ctypes, errno, json, os, pty, sys
job = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
program = os.read(int(sys.argv[2]), 1 << 20)
terminal = pty.openpty()[1]
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
os.close(int(sys.argv[2]))
if program:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    fprog = Fprog(len(program) // 8, program)
    assert libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0, os.strerror(ctypes.get_errno())
if "exec" in job:
    os.execvp(job["exec"][0], job["exec"])
results = []
for number, arguments in job["calls"]:
    arguments = [terminal if a == "terminal" else a for a in arguments]
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    results.append(ctypes.get_errno() if done == -1 else 0)
print(json.dumps(results))
"""


class Call(NamedTuple):
    """A call that would do no harm where nothing refuses it."""

    name: str
    number: int
    arguments: tuple[int | str, ...] = ()
    expected: int = errno.EPERM

    def __str__(self) -> str:
        return f"{self.name}{self.arguments}"


_BAD = -1  # neither a pointer nor a descriptor
_SOCK_STREAM = 1
_SOCK_RAW = 3

REFUSED = (
    Call("mount", 165, (0, 0, 0, 0, 0)),
    Call("umount2", 166, (_BAD, 0)),
    Call("pivot_root", 155, (_BAD, _BAD)),
    Call("open_tree", 428, (_BAD, _BAD, 0)),
    Call("move_mount", 429, (_BAD, _BAD, _BAD, _BAD, 0)),
    Call("fsopen", 430, (_BAD, 0)),
    Call("fsconfig", 431, (_BAD, 0, 0, 0, 0)),
    Call("fsmount", 432, (_BAD, 0, 0)),
    Call("fspick", 433, (_BAD, _BAD, 0)),
    Call("mount_setattr", 442, (_BAD, _BAD, 0, 0, 0)),
    Call("quotactl", 179, (_BAD, 0, 0, 0)),
    Call("swapon", 167, (_BAD, 0)),
    Call("setns", 308, (_BAD, 0)),
    Call("unshare of nothing new", 272, (sc.CLONE_FS,)),
    *(
        Call("unshare", 272, (flag,))
        for flag in (
            sc.CLONE_NEWNS,
            sc.CLONE_NEWCGROUP,
            sc.CLONE_NEWUTS,
            sc.CLONE_NEWIPC,
            sc.CLONE_NEWPID,
            sc.CLONE_NEWNET,
            sc.CLONE_NEWTIME,
        )
    ),
    # CLONE_SIGHAND without CLONE_VM, so that an unfiltered kernel answers EINVAL instead of forking.
    Call("clone into a user namespace", 56, (0x800 | sc.CLONE_NEWUSER, 0, 0, 0, 0)),
    Call("clone into a network namespace", 56, (0x800 | sc.CLONE_NEWNET, 0, 0, 0, 0)),
    Call("clone with high bits", 56, (1 << 40 | 0x800 | sc.CLONE_NEWNS, 0, 0, 0, 0)),
    Call("init_module", 175, (_BAD, 1, _BAD)),
    Call("finit_module", 313, (_BAD, _BAD, 0)),
    Call("delete_module", 176, (_BAD, 0)),
    Call("kexec_load", 246, (0, 1 << 40, 0, 0)),
    Call("reboot", 169, (0, 0, 0, 0)),
    Call("bpf", 321, (_BAD, 0, 0)),
    Call("perf_event_open", 298, (_BAD, 0, 0, 0, 0)),
    Call("userfaultfd", 323, (1 << 20,)),
    Call("io_uring_setup", 425, (1, _BAD)),
    Call("io_uring_enter", 426, (_BAD, 0, 0, 0, 0, 0)),
    Call("io_uring_register", 427, (_BAD, 0, 0, 0)),
    Call("modify_ldt", 154, (99, 0, 0)),
    Call("iopl", 172, (99,)),
    Call("syslog", 103, (99, 0, 0)),
    Call("sethostname", 170, (0, -1)),
    Call("settimeofday", 164, (_BAD, 0)),
    Call("clock_settime", 227, (99, _BAD)),
    Call("add_key", 248, (_BAD, 0, 0, 0, 0)),
    Call("request_key", 249, (_BAD, 0, 0, 0)),
    Call("keyctl", 250, (0, -1, 0, 0, 0)),
    Call("open_by_handle_at", 304, (_BAD, _BAD, 0)),
    Call("fanotify_init", 300, (1 << 30, 0)),
    Call("pidfd_getfd", 438, (_BAD, 0, 0)),
    Call("process_vm_readv", 310, (_BAD, 0, 0, 0, 0, 0)),
    Call("process_vm_writev", 311, (_BAD, 0, 0, 0, 0, 0)),
    Call("process_madvise", 440, (_BAD, 0, 0, 0, 0)),
    Call("kcmp", 312, (_BAD, _BAD, 0, 0, 0)),
    Call("name_to_handle_at", 303, (_BAD, 0, 0, 0, 0)),
    Call("mbind", 237, (_BAD, 1, 0, 0, 0, 0)),
    Call("packet socket", 41, (17, _SOCK_RAW, 0)),
    Call("vsock socket", 41, (40, _SOCK_STREAM, 0)),
    Call("alg socket", 41, (38, 5, 0)),
    Call("netfilter socket", 41, (16, _SOCK_RAW, 12)),
    Call("netlink of no known protocol", 41, (16, _SOCK_RAW, 99)),
    Call("family beside a high bit", 41, (1 << 32 | 17, _SOCK_RAW, 0)),
    Call("tipc socketpair", 53, (30, _SOCK_STREAM, 0, _BAD)),
    Call("TIOCSTI", 16, ("terminal", 0x5412, _BAD)),
    Call("TIOCSTI beside a high bit", 16, ("terminal", 1 << 32 | 0x5412, _BAD)),
    Call("TIOCLINUX", 16, ("terminal", 0x541C, _BAD)),
    Call("TIOCSETD", 16, ("terminal", 0x5423, _BAD)),
    Call("personality", 135, (0x0040000,)),
    Call("getpid of x32", 0x40000000 | 39),
)
UNKNOWN = (
    Call("clone3", 435, (0, 0), errno.ENOSYS),
    Call("pkey_alloc", 330, (0, 0), errno.ENOSYS),
    Call("fchmodat2", 452, (_BAD, 0, 0, 0), errno.ENOSYS),
    Call("mseal", 462, (0, 0, 0), errno.ENOSYS),
    Call("listmount", 458, (_BAD, 0, 0, 0), errno.ENOSYS),
    Call("the first call after our list", policy.NEWEST + 1, (), errno.ENOSYS),
)
ALLOWED = (
    Call("getpid", 39, (), 0),
    Call("unix socket", 41, (1, _SOCK_STREAM, 0), 0),
    Call("inet socket", 41, (2, _SOCK_STREAM, 0), 0),
    Call("inet6 socket", 41, (10, _SOCK_STREAM, 0), 0),
    Call("route socket", 41, (16, _SOCK_RAW, 0), 0),
    Call("TIOCGWINSZ reaches the kernel", 16, ("terminal", 0x5413, _BAD), errno.EFAULT),
    Call("TCGETS reaches the kernel", 16, ("terminal", 0x5401, _BAD), errno.EFAULT),
    Call("FIONREAD reaches the kernel", 16, ("terminal", 0x541B, _BAD), errno.EFAULT),
    Call("personality query", 135, (0xFFFFFFFF,), 0),
    Call("mknod reaches the kernel", 133, (_BAD, 0o010000, 0), errno.EFAULT),
    Call("ptrace reaches the kernel", 101, (16, 0, 0, 0), errno.ESRCH),
)


def _run(job: object, program: bytes, *, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    fd = os.memfd_create("program")
    os.write(fd, program)
    os.lseek(fd, 0, os.SEEK_SET)
    argv = [sys.executable, "-c", _CHILD, json.dumps(job), str(fd)]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, pass_fds=[fd])
    finally:
        os.close(fd)


def _results(calls: Sequence[Call], program: bytes) -> dict[str, int]:
    done = _run({"calls": [(call.number, call.arguments) for call in calls]}, program)
    assert done.returncode == 0, done.stderr
    return dict(zip(map(str, calls), json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def program() -> bytes:
    return compile_filter()


@pytest.fixture(scope="module")
def filtered(program: bytes) -> dict[str, int]:
    return _results((*REFUSED, *UNKNOWN, *ALLOWED), program)


@pytest.fixture(scope="module")
def unfiltered() -> dict[str, int]:
    return _results(REFUSED, b"")


@pytest.mark.parametrize("call", REFUSED, ids=str)
def test_refused_by_the_filter_and_by_nothing_else(
    call: Call, filtered: dict[str, int], unfiltered: dict[str, int]
) -> None:
    assert filtered[str(call)] == errno.EPERM
    assert unfiltered[str(call)] != errno.EPERM


@pytest.mark.parametrize("call", UNKNOWN, ids=str)
def test_unknown_calls_make_libc_fall_back(call: Call, filtered: dict[str, int]) -> None:
    assert filtered[str(call)] == errno.ENOSYS


@pytest.mark.parametrize("call", ALLOWED, ids=str)
def test_allowed(call: Call, filtered: dict[str, int]) -> None:
    assert filtered[str(call)] == call.expected


def test_a_shell_runs(program: bytes) -> None:
    done = _run(
        {"exec": ["sh", "-c", "for i in 1 2 3; do echo $i; done | sort -r | head -1; (exit 7)"]}, program
    )
    assert (done.stdout, done.returncode) == ("3\n", 7)


_THREADS_AND_SOCKETS = """
import asyncio, socket, subprocess, sys, tempfile, threading
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    connection, _ = listener.accept()
    with connection:
        connection.sendall(connection.recv(100).upper())
thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(listener.getsockname()) as connection:
    connection.sendall(b"hello")
    assert connection.recv(100) == b"HELLO"
thread.join()
async def main():
    process = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
    return (await process.communicate())[0]
assert asyncio.run(main()) == b"child\\n"
with tempfile.TemporaryDirectory() as directory:
    open(directory + "/file", "w").write("x")
socket.if_nameindex()
print("fine")
"""


def test_python_with_threads_sockets_children_and_files_runs(program: bytes) -> None:
    done = _run({"exec": [sys.executable, "-c", _THREADS_AND_SOCKETS]}, program)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_the_filter_is_the_same_every_time_and_small(program: bytes) -> None:
    assert compile_filter() == program
    assert len(program) % 8 == 0
    assert len(program) // 8 < 1000  # the kernel takes 4096 instructions; every process pays for them


def test_every_call_has_exactly_one_verdict() -> None:
    tables = [
        policy.names(policy.ALLOWED),
        list(policy.CONDITIONAL),
        policy.names(policy.REFUSED),
        policy.names(policy.UNKNOWN),
    ]
    verdicts = [name for table in tables for name in table]
    assert len(verdicts) == len(set(verdicts))
    assert set(_known_calls()) <= set(verdicts)


def _known_calls() -> list[str]:
    import pyseccomp  # type: ignore[import-untyped]  # it ships none

    known = []
    for number in range(policy.NEWEST + 1):
        try:
            known.append(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, number).decode())
        except ValueError:
            continue
    return known


@given(st.sets(st.integers(0, 255), max_size=5), st.integers(0, 255))
def test_complement_matches_each_other_number_exactly_once(values: set[int], number: int) -> None:
    matches = [pair for pair in complement(values, bits=8) if number & pair[0] == pair[1]]
    if values:
        assert len(matches) == (0 if number in values else 1)


def test_complement_of_the_ioctls_lets_their_neighbours_through() -> None:
    pairs = complement(REFUSED_IOCTLS)
    for value in REFUSED_IOCTLS:
        assert not any(value & mask == match for mask, match in pairs)
        assert any((value + 1) & mask == match for mask, match in pairs)
