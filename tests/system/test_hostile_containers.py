"""Containers that do their worst, each in its own way: they harm themselves, and are gone when they are told to go.

While each is at it, and after it, somebody else's container lives on, a new one starts, and in the end the host is as
it was before (`undisturbed`). What they see and may call is in test_confinement.py.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bystanders import another_starts, undisturbed
from tests.system.cgroup_files import count_throttled
from tests.system.host_state import find_descendants
from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tests.system.sayings import Sayings
from tests.system.waiting import PATIENCE, SOON_S, wait_for
from tfnz import Container, Location
from tfnz.protocol.errors import NoCapacity, ObjectDead
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@dataclass
class Attack:
    """What a container does, and the words by which it shows that it has met its limit."""

    program: str
    words: bytes
    limits: dict[str, Any] = field(default_factory=dict)

    def begin(self, location: Location) -> Container:
        sayings = Sayings()
        container = location.node().spawn(
            "python",
            ["python3", "-u", "-c", self.program],
            pty=False,
            stdout_callback=sayings.hear,
            stderr_callback=sayings.hear,
            **self.limits,
        )
        sayings.wait_for(self.words)
        return container


#: Goes on for ever after whatever it is has been refused.
ATTACKS = {
    "forks without end, and so do its children": Attack(
        "import os\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError as error: os.write(1, str(error).encode())",
        b"Resource temporarily unavailable",
        {"pids": 40, "cpus": 0.5},
    ),
    "starts threads without end": Attack(
        "import threading\n"
        "while True:\n"
        "    try: threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "    except RuntimeError as error: print(error)",
        b"can't start new thread",
        {"pids": 40, "cpus": 0.5},
    ),
    "fills its disk with what cannot be compressed": Attack(
        "import os\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    try:\n"
        "        with open(f'/fill{number}', 'wb', 0) as file:\n"
        "            while True: file.write(os.urandom(1 << 20))\n"
        "    except OSError as error: print(error)",
        b"Disk quota exceeded",
        {"disk": "16M", "cpus": 0.5},
    ),
    "fills its disk with files that have no name any more": Attack(
        "import os\n"
        "files = []\n"
        "while True:\n"
        "    try:\n"
        "        files.append(os.open('/fill', os.O_CREAT | os.O_WRONLY))\n"
        "        os.unlink('/fill')\n"
        "        while True: os.write(files[-1], os.urandom(1 << 20))\n"
        "    except OSError as error: print(error)",
        b"Disk quota exceeded",
        {"disk": "16M", "cpus": 0.5},
    ),
    "makes empty files without end": Attack(
        "import os\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    try: os.close(os.open(f'/tmp/{number}', os.O_CREAT))\n"
        "    except OSError as error: print(error)",
        b"Disk quota exceeded",
        {"disk": "2M"},
    ),
    "makes devices' neighbours without end": Attack(
        "import os\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    try: os.close(os.open(f'/dev/{number}', os.O_CREAT))\n"
        "    except OSError as error: print(error)",
        b"No space left on device",
        {"cpus": 0.5},
    ),
    "opens files without end": Attack(
        "import os\n"
        "number = 0\n"
        "while True:\n"
        "    try: number = os.open('/', os.O_RDONLY)\n"
        "    except OSError as error: print(error.strerror, 'soon' if number < 2000 else 'late')",
        b"Too many open files soon",
        {"cpus": 0.5},
    ),
    "makes message queues without end": Attack(
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    if (queue := libc.mq_open(f'/{number}'.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)) < 0:\n"
        "        print('refused', os.strerror(ctypes.get_errno()))\n"
        "    else: libc.mq_close(queue)",
        b"refused Too many open files",
        {"cpus": 0.5},
    ),
    "takes terminals without end": Attack(
        "import os\nwhile True:\n    try: os.openpty()\n    except OSError as error: print(error)",
        b"No space left on device",
        {"cpus": 0.5},
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_refused_at_the_limit_harms_nobody_else(node: RunningNode, name: str) -> None:
    assert node.process is not None
    with undisturbed(node) as location:
        container = ATTACKS[name].begin(location)
        running = Counter(find_descendants(node.process.pid).values())
        assert running["python3"] <= ATTACKS[name].limits.get("pids", 1)
        another_starts(node)
        assert not container.dead
        container.destroy()
        assert container.exit == Exit(Cause.DESTROYED)


#: What the kernel gives each user only so many of.
WATCHFUL = """
import ctypes, os, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
libc = ctypes.CDLL(None, use_errno=True)
while libc.inotify_init() >= 0:
    pass
print("refused", os.strerror(ctypes.get_errno()), flush=True)
signal.pause()
"""


def test_inotify_instances_are_each_containers_own(node: RunningNode) -> None:
    with undisturbed(node) as location:
        greedy = Attack(WATCHFUL, b"refused Too many open files").begin(location)
        one = "import ctypes, sys; sys.exit(ctypes.CDLL(None).inotify_init() < 0)"
        assert location.node().spawn("python", ["python3", "-c", one]).wait(SOON_S) == Exit(Cause.EXITED, 0)
        assert subprocess.run([sys.executable, "-c", one]).returncode == 0
        greedy.destroy()


#: How memory is used up, by more than what a process asks for: all of it counts as the container's.
HOGS = {
    "what it asks for": "held = []\nwhile True: held.append(b'x' * (1 << 20))",
    "many small ones": (
        "import os, signal, sys\n"
        "for _ in range(20):\n"
        "    if not os.fork():\n"
        "        held = b'x' * (4 << 20)\n"
        "        signal.pause()\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    ),
    "pipes": (
        "import os\n"
        "while True:\n"
        "    for _ in range(400):\n"
        "        taken, given = os.pipe()\n"
        "        os.write(given, bytes(65536))\n"
        "    os.fork()"
    ),
    "sockets": (
        "import os, socket\n"
        "while True:\n"
        "    for _ in range(400):\n"
        "        a, b = socket.socketpair()\n"
        "        a.setblocking(False)\n"
        "        try:\n"
        "            while True: a.send(bytes(4096))\n"
        "        except BlockingIOError: globals().setdefault('held', []).append((a, b))\n"
        "    os.fork()"
    ),
    "nameless files": (
        "import os\nwhile True:\n    file = os.memfd_create('x')\n    os.write(file, bytes(1 << 20))"
    ),
}


@pytest.mark.parametrize("what", HOGS)
def test_memory_without_end(node: RunningNode, what: str) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn(
            "python", ["python3", "-c", HOGS[what]], memory="32M", pids=64, cpus=0.5, pty=False
        )
        end = container.wait(SOON_S)
        assert end.cause is Cause.OUT_OF_MEMORY or "killed at the memory limit" in end.message, end


#: Connections within the container that nobody reads, filled until no more fits: how many MiB lie there?
UNREAD = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
queued, held = 0, []
for _ in range(100):
    held.append(socket.create_connection(listener.getsockname()))
    held.append(listener.accept()[0])
    held[-2].setblocking(False)
    try:
        while True:
            queued += held[-2].send(bytes(65536))
    except BlockingIOError:
        pass
print(queued >> 20)
"""


def test_tcp_connections_that_nobody_reads(node: RunningNode) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn("python", ["sleep", "1000"], memory="32M", pty=False)
        queued = container.run(["python3", "-c", UNREAD])
        # Where what is queued counts as memory, as in control groups of version 2, the limit may end it before.
        if queued.exit_code != 128 + signal.SIGKILL:
            # The kernel refuses no connection its first part.
            assert int(queued.stdout) < 32 + 100 * 65536 / (1 << 20) + 1
        container.destroy()


def test_processors_without_end(node: RunningNode) -> None:
    assert node.process is not None
    daemon = node.process.pid
    with undisturbed(node) as location:
        spin = "for n in 1 2 3 4 5 6 7; do while :; do :; done & done; while :; do :; done"
        # Less than it would get anyway of a machine that is busy.
        container = location.node().spawn("busybox", spin, cpus=0.02)
        base = int(container.run(["cat", "/proc/self/uid_map"]).stdout.split()[1])
        wait_for(lambda: count_throttled(daemon, base) > 2, SOON_S, "it has all the processors it wants")
        another_starts(node)
        container.destroy()


@pytest.mark.parametrize("pty", [False, True])
def test_output_without_end_that_nobody_takes(node: RunningNode, pty: bool) -> None:
    """It stands still, on both outputs, and holds nobody's memory; the end comes all the same."""
    assert node.process is not None
    began, let_go = threading.Event(), threading.Event()

    def block(_: object, data: bytes) -> None:
        began.set()
        assert let_go.wait(SOON_S)

    pid = node.process.pid
    before = resident_bytes(pid)
    forget_peak(pid)
    with undisturbed(node) as location:
        container = location.node().spawn(
            "busybox",
            "cat /dev/zero >&2 & exec cat /dev/zero",
            pty=pty,
            stdout_callback=block,
            stderr_callback=block,
        )
        try:
            assert began.wait(SOON_S)
            another_starts(node)
        finally:
            let_go.set()
        container.destroy()
        assert container.exit == Exit(Cause.DESTROYED)
    assert peak_bytes(pid) - before < 64 << 20


#: A parent that lives and does not wait makes ten thousand, and as many orphans fall to process 1.
MANY = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
made = 0
while made < 10_000:
    try:
        child = os.fork()
    except BlockingIOError:
        continue
    if not child:
        if made % 2:
            try:
                os.fork()
            except BlockingIOError:
                pass
        os._exit(0)
    made += 1
print("made", flush=True)
signal.pause()
"""


@pytest.mark.timeout(300 * PATIENCE)  # so many take minutes on a busy machine
def test_ten_thousand_short_processes(node: RunningNode) -> None:
    assert node.process is not None
    with undisturbed(node) as location:
        container = location.node().spawn("busybox", ["sleep", "1000"])
        crowded = location.node().spawn("python", ["python3", "-c", MANY], pids=64)
        sayings = Sayings()
        crowded.stdout_callback = sayings.hear
        another_starts(node)
        sayings.wait_for(b"made", 240.0 * PATIENCE)
        listed = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '"

        def all_are_gone() -> bool:
            try:
                return crowded.run(listed).stdout == b"0\n"
            except NoCapacity:  # there are still as many as there may be
                return False

        wait_for(all_are_gone, SOON_S, "the dead are not taken care of")
        for number in range(300):
            assert container.run(["echo", str(number)]).stdout == b"%d\n" % number
        crowded.destroy()


#: Every way not to hear: what can be ignored is, a child is stopped, and another is held by a debugger.
DEAF = """
import ctypes, os, signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
stopped = os.fork()
if not stopped:
    os.kill(os.getpid(), signal.SIGSTOP)
traced = os.fork()
if not traced:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(stopped, os.WUNTRACED)
os.waitpid(traced, os.WUNTRACED)
print("deaf", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("grace_s", [0.0, 0.3])
def test_a_process_that_ignores_every_signal(node: RunningNode, grace_s: float) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn("busybox", ["sleep", "1000"])
        deaf = Attack(DEAF, b"deaf").begin(location)
        for number in (1, 2, 3, 15):
            deaf.signal(number)
        sayings = Sayings()
        deaf.put("/deaf.py", DEAF)
        process = deaf.spawn(["python3", "/deaf.py"], sayings.hear)
        sayings.wait_for(b"deaf")
        process.signal(15)
        another_starts(node)
        process.destroy()
        assert not deaf.dead
        deaf.destroy(grace_s=grace_s)
        assert deaf.exit == Exit(Cause.DESTROYED)
        assert container.run("echo fine").stdout == b"fine\n"


def test_a_process_that_is_deaf_runs_out_of_time(node: RunningNode) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn("python", ["python3", "-c", DEAF], timeout_s=1)
        assert container.wait(SOON_S).cause is Cause.TIMED_OUT


def test_streams_that_are_closed_from_inside(node: RunningNode) -> None:
    """A main process without input and outputs lives, can be spoken to, and ends when it likes."""
    with undisturbed(node) as location:
        container = location.node().spawn(
            "busybox", "mkfifo /told; exec <&- >&- 2>&-; read word </told; exit 7", pty=False
        )
        with pytest.raises(ObjectDead, match="takes no more input"):
            while True:  # until the first of it has met nobody
                container.stdin(bytes(1 << 16))
        another_starts(node)
        assert not container.dead
        container.spawn("echo end >/told")
        assert container.wait(SOON_S) == Exit(Cause.EXITED, 7)


def test_streams_that_are_handed_on_and_held(node: RunningNode) -> None:
    """A process ends and leaves its outputs to a child that goes on for ever: both end all the same."""
    with undisturbed(node) as location:
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        process = container.spawn("sleep 1000 & echo held")
        assert process.wait(SOON_S) == Exit(Cause.EXITED, 0)
        assert container.run("sleep 1000 & echo held").exit_code == 0
        container.destroy()


#: Sequences by which a terminal is asked to answer, to lock up, to change its title and its mind.
CONTROL = (
    b"\x1b[c\x1b[5n\x1b[6n\x1b[21t\x1b]0;title\x07\x1b]52;c;aG9zdGlsZQ==\x07\x1bP$qm\x1b\\\x1b[?1049h\x1b[?25l\x1b[2J\x1b#8"
    b"\x13\x11\x0e\x0f\x90\x9b31m\x9c\x9d\xff\x00\x05\x07\x08\x1b[1000000000;1000000000H\x1b[20h\x1b(0\x1bc"
)


def test_a_terminal_flooded_with_control_sequences(node: RunningNode) -> None:
    """They are bytes to everybody in between: they arrive as they are, in bounded memory, and in no log."""
    assert node.process is not None
    pid = node.process.pid
    log_before = len(node.log)
    before = resident_bytes(pid)
    forget_peak(pid)
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with undisturbed(node) as location:
        flood = (
            f"import os, tty\ntty.setraw(1)\nos.write(1, b'<')\nwhile True: os.write(1, {CONTROL!r} * 100)"
        )
        container = location.node().spawn(
            "python",
            ["python3", "-c", flood],
            pty=True,
            interactive=True,
            stdout_callback=lambda _, data: heard.put(data),
        )
        said = b""
        while len(said) < len(CONTROL) * 500:
            said += heard.get(timeout=SOON_S)
        _, _, said = said.partition(b"<")
        assert (CONTROL * (len(said) // len(CONTROL) + 1)).startswith(said)
        for number in range(1, 100):
            container.resize(number, 1000 - number)
        another_starts(node)
        container.destroy()
        assert container.exit == Exit(Cause.DESTROYED)
        named = location.node().spawn("busybox", [os.fsdecode(b"\x1b[2J\x1b]0;title\x07")])
        assert named.wait(SOON_S).cause is Cause.FAILED_TO_START
    assert peak_bytes(pid) - before < 64 << 20
    assert not set(node.log[log_before:]) & set("\x1b\x07\x9b\x90")
