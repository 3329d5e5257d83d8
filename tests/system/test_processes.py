"""Further processes of real containers: what they are given, what they say, and how they end."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location, Process
from tfnz.protocol.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidArgument,
    NoCapacity,
    ObjectDead,
    ProcessFailed,
    ProcessNotFound,
    StartFailed,
    TimedOut,
    UserNotFound,
    WorkdirUnusable,
)
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@pytest.fixture
def container(location: Location) -> Container:
    return location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()


def arguments_of_processes(container: Container) -> list[bytes]:
    """What runs in it, without the one who looks."""
    return container.run("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done").stdout.splitlines()


# --- run


def test_streams_are_separate_and_binary(container: Container) -> None:
    data = bytes(range(256)) * 100
    result = container.run("cat; echo oops >&2; exit 7", input=data)
    assert result == (data, b"oops\n", 7)


def test_without_input_there_is_the_end_of_it(container: Container) -> None:
    assert container.run("cat; echo end").stdout == b"end\n"


def test_words_are_passed_as_they_are(container: Container) -> None:
    assert (
        container.run(["printf", "%s|", "a b", "$HOME", "", "ü", "'\""]).stdout
        == "a b|$HOME||ü|'\"|".encode()
    )


def test_user_directory_and_environment(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], env={"GIVEN": "1", "BOTH": "container"})
    result = container.run(
        "id -u; id -g; pwd; echo $GIVEN $BOTH $MINE",
        user="12:34",
        cwd="/etc",
        env={"BOTH": "run", "MINE": "a=b"},
    )
    assert result.stdout == b"12\n34\n/etc\n1 run a=b\n"


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("no-such-command", 127)]
)
def test_the_code_is_as_a_shell_would_say(container: Container, command: str, code: int) -> None:
    assert container.run(command).exit_code == code


def test_a_failure_can_be_an_error(container: Container) -> None:
    with pytest.raises(ProcessFailed, match="exited with code 3.*\noops") as caught:
        container.run("echo out; echo oops >&2; exit 3", check=True)
    assert (caught.value.stdout, caught.value.stderr, caught.value.exit_code) == (b"out\n", b"oops\n", 3)


def test_a_command_that_takes_too_long_is_ended_with_its_children(container: Container) -> None:
    with pytest.raises(TimedOut, match=r"ended after 1 s.*\nworking"):
        container.run("echo working >&2; sleep 1001 & sleep 1002", timeout_s=1)
    # They have been killed, and may not have come to die yet.
    wait_for(
        lambda: all(b"100" not in line or b"1000" in line for line in arguments_of_processes(container)),
        SOON_S,
        "children are left",
    )


def test_daemons_that_a_command_leaves_do_not_hold_it_up(container: Container) -> None:
    result = container.run("sleep 1001 & (setsid sleep 1002 &) ; echo started")
    assert result == (b"started\n", b"", 0)
    # It is there, but may not have come to execute its program yet.
    wait_for(lambda: b"sleep 1002 " in arguments_of_processes(container), SOON_S, "nothing was left behind")


def test_ten_megabytes_go_through_a_pipe(container: Container) -> None:
    data = os.urandom(10 << 20)
    assert container.run("cat", input=data).stdout == data


def test_input_that_nobody_reads_does_not_matter(container: Container) -> None:
    assert container.run("exit 4", input=bytes(4 << 20)).exit_code == 4
    assert container.run("head -c 3", input=b"abc" + bytes(4 << 20)).stdout == b"abc"


@pytest.mark.parametrize(
    ("command", "options", "error", "words"),
    [
        (["no-such-command"], {}, CommandNotFound, "no-such-command.*PATH is "),
        (["/no/such/file"], {}, CommandNotFound, "/no/such/file"),
        (["/etc"], {}, CommandNotExecutable, "/etc: Permission denied"),
        (["/etc/passwd"], {}, CommandNotExecutable, "/etc/passwd: Permission denied"),
        (["/no-line"], {}, CommandNotExecutable, "/no-line is not a program .*#! line"),
        (["/no-loader"], {}, CommandNotFound, "/no-loader exists, but the interpreter"),
        ("id", {"user": "stranger"}, UserNotFound, "no user stranger in .*passwd"),
        ("id", {"user": "70000"}, UserNotFound, "70000 is not within"),
        ("id", {"cwd": "/no/such"}, WorkdirUnusable, "/no/such: No such file"),
        ("id", {"cwd": "/etc/passwd"}, WorkdirUnusable, "/etc/passwd: Not a directory"),
    ],
)
def test_what_cannot_be_started_says_why(
    container: Container,
    command: str | list[str],
    options: dict[str, str],
    error: type[StartFailed],
    words: str,
) -> None:
    container.put("/no-line", b"echo x\n", mode=0o755)
    container.put("/no-loader", b"#!/no/such/shell\n", mode=0o755)
    with pytest.raises(error, match=words):
        container.run(command, user=options.get("user", "root"), cwd=options.get("cwd", "/"))
    assert container.run("echo fine").stdout == b"fine\n"
    with pytest.raises(error, match=words):
        container.spawn(command, user=options.get("user", "root"), cwd=options.get("cwd", "/"))
    assert container.all_processes() == []


def test_two_hundred_one_after_another(container: Container) -> None:
    assert {container.run(["echo", str(n)]).stdout for n in range(200)} == {b"%d\n" % n for n in range(200)}


def test_fifty_at_once(container: Container) -> None:
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(number: int) -> None:
        answers.put(container.run("read line; echo $line", input=b"%d\n" % number).stdout)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answers.get_nowait() for _ in threads} == {b"%d\n" % number for number in range(50)}


def test_no_room_for_another_process(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], pids=4)
    processes = [container.spawn(["sleep", "1000"]) for _ in range(2)]
    for start in (container.run, container.spawn):
        with pytest.raises(NoCapacity, match="no room for another process.*Raise pids="):
            start("true")
    with pytest.raises(NoCapacity, match="Raise pids="):
        container.put("/file", b"x")
    container.destroy_process(processes[0])
    assert container.run(["true"]).exit_code == 0


# --- spawn


def read(process: Process) -> Iterator[bytes]:
    """What it says, line by line."""
    rest = b""
    for part in process:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    if rest:
        yield rest


def test_a_conversation(container: Container) -> None:
    process = container.spawn('while read line; do echo "got $line"; done; echo end')
    assert process in container.all_processes()
    answers = read(process)
    for word in (b"one", b"two"):
        process.stdin(word + b"\n")
        assert next(answers) == b"got " + word
    process.close_stdin()
    assert next(answers) == b"end"
    assert process.wait(SOON_S) == Exit(Cause.EXITED, 0)
    assert process not in container.all_processes()
    with pytest.raises(ObjectDead, match=process.uuid):
        process.stdin(b"x")


def test_callbacks_come_in_order_with_the_process(container: Container) -> None:
    events: queue.SimpleQueue[tuple[str, object, object]] = queue.SimpleQueue()

    def note(name: str) -> Callable[[Process, object], None]:
        return lambda process, what: events.put((name, process, what))

    process = container.spawn("echo out; echo err >&2; exit 3", note("data"), note("end"), note("error"))
    seen = [events.get(timeout=SOON_S) for _ in range(3)]
    assert sorted(seen[:2], key=str) == sorted(
        [("data", process, b"out\n"), ("error", process, b"err\n")], key=str
    )
    assert seen[2] == ("end", process, 3)
    assert process.exit == Exit(Cause.EXITED, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_ends_it_and_is_told(container: Container, number: signal.Signals) -> None:
    process = container.spawn(["sleep", "1000"])
    process.signal(number)
    assert process.wait(SOON_S) == Exit(Cause.SIGNALLED, signal=number)
    with pytest.raises(ObjectDead):
        process.signal(number)


def test_a_signal_can_be_caught(container: Container) -> None:
    process = container.spawn("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done")
    lines = read(process)
    assert next(lines) == b"ready"
    process.signal(signal.SIGUSR1)
    assert next(lines) == b"caught"
    assert process.wait(SOON_S) == Exit(Cause.EXITED, 5)


def test_its_time_limit(container: Container) -> None:
    end = container.spawn(["sleep", "1000"], timeout_s=0.1).wait(SOON_S)
    assert (end.cause, end.message, end.returncode) == (Cause.TIMED_OUT, "after 0.1 s", 124)


def test_running_out_of_memory_is_told_and_the_container_goes_on(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], memory="32M")
    end = container.spawn(["tail", "/dev/zero"]).wait(SOON_S)
    assert end.cause is Cause.OUT_OF_MEMORY
    assert container.run("echo fine").stdout == b"fine\n"


def test_a_terminal_and_its_size(container: Container) -> None:
    process = container.spawn(
        "trap 'stty size' WINCH; stty size; tty; while :; do sleep 0.01; done", pty=True, size=(100, 30)
    )
    lines = read(process)
    assert next(lines) == b"30 100\r"
    assert next(lines).startswith(b"/dev/pts/")
    process.resize(120, 40)
    assert next(lines) == b"40 120\r"
    process.stdin(b"\x03")
    assert process.wait(SOON_S) == Exit(Cause.SIGNALLED, signal=signal.SIGINT)


def test_without_a_terminal_there_is_no_size(container: Container) -> None:
    process = container.spawn("tty; cat")
    assert next(read(process)) == b"not a tty"
    with pytest.raises(InvalidArgument, match="without a terminal"):
        process.resize(80, 24)


def test_a_shell(container: Container) -> None:
    shell = container.spawn_shell()
    shell.stdin(b"echo $((6 * 7)) $TERM; tty; exit 9\n")
    seen = b"".join(shell)
    assert b"42 xterm\n" in seen
    assert b"/dev/pts/" in seen
    assert b"echo" not in seen
    assert shell.wait(SOON_S) == Exit(Cause.EXITED, 9)
    echoing = container.spawn_shell(echo=True)
    echoing.stdin(b"exit 0\n")
    assert b"exit 0" in b"".join(echoing)


# --- its end


def test_destroying_takes_its_children_and_calls_back_once(container: Container) -> None:
    ends: list[tuple[Process, int]] = []
    process = container.spawn("sleep 1001 & sleep 1002", termination_callback=lambda *end: ends.append(end))
    container.destroy_process(process)
    assert ends == [(process, 0)]
    assert process.exit == Exit(Cause.DESTROYED)

    def find_left() -> list[bytes]:
        return [
            line
            for line in arguments_of_processes(container)
            if b"sleep 1001" in line or b"sleep 1002" in line
        ]

    # They were all killed at once, and each takes its time to die.
    wait_for(lambda: not find_left(), SOON_S, "its children live on")
    with pytest.raises(ProcessNotFound, match=process.uuid):
        container.destroy_process(process)
    process.destroy()
    assert len(ends) == 1


def test_destroying_what_has_ended_is_harmless(container: Container) -> None:
    process = container.spawn(["true"])
    process.wait(SOON_S)
    container.destroy_process(process)
    assert process.exit == Exit(Cause.EXITED, 0)


def test_processes_are_their_container_s_own(location: Location, container: Container) -> None:
    other = location.node().spawn("busybox", ["sleep", "1000"])
    process = container.spawn(["sleep", "1000"])
    with pytest.raises(ProcessNotFound, match=process.uuid):
        other.destroy_process(process)
    assert not process.dead


def test_processes_end_with_their_container(container: Container) -> None:
    ends: queue.SimpleQueue[tuple[Process, int]] = queue.SimpleQueue()
    processes = [
        container.spawn(["sleep", "1000"], termination_callback=lambda *end: ends.put(end)) for _ in range(3)
    ]
    container.destroy()
    told = {ends.get(timeout=SOON_S) for _ in processes}
    assert told == {(process, 0) for process in processes}
    assert {process.exit for process in processes} == {Exit(Cause.CONTAINER_ENDED)}
    assert ends.empty()


def test_processes_end_with_the_main_process(location: Location) -> None:
    container = location.node().spawn("busybox", "read line; exit 3")
    process = container.spawn(["sleep", "1000"])
    container.stdin(b"\n")
    assert container.wait(SOON_S) == Exit(Cause.EXITED, 3)
    assert process.wait(SOON_S) == Exit(Cause.CONTAINER_ENDED)


# --- floods


def test_a_flood_with_a_slow_reader_holds_up_nobody_else(node: RunningNode, container: Container) -> None:
    assert node.process is not None
    first, let_go = threading.Event(), threading.Event()

    def block(_: Process, data: bytes) -> None:
        first.set()
        assert let_go.wait(SOON_S)

    pids = (node.process.pid, os.getpid())
    before = [resident_bytes(pid) for pid in pids]
    for pid in pids:
        forget_peak(pid)
    flood = container.spawn(["cat", "/dev/zero"], block)
    try:
        assert first.wait(SOON_S)
        unread = container.spawn(["cat", "/dev/zero"])
        assert all(container.run(["echo", "fine"]).stdout == b"fine\n" for _ in range(50))
        assert len(container.run("dd if=/dev/zero bs=1M count=8 2>/dev/null").stdout) == 8 << 20
        grown = [peak_bytes(pid) - held for pid, held in zip(pids, before, strict=True)]
        assert max(grown) < 32 << 20, f"daemon and client have grown by {grown} bytes"
        assert not flood.dead
    finally:
        let_go.set()  # what happens in one container is told in order, so its end would wait for this callback
    for process in (flood, unread):
        container.destroy_process(process)
        assert process.exit == Exit(Cause.DESTROYED)


def test_a_process_whose_output_is_not_read_waits(container: Container) -> None:
    """Its output stands still while nobody takes it, rather than filling somebody's memory."""
    taken, go_on = threading.Event(), threading.Event()

    def take(_: Process, data: bytes) -> None:
        taken.set()
        assert go_on.wait(SOON_S)

    process = container.spawn("dd if=/dev/zero bs=64k count=256 2>/dev/null; echo done >/done", take)
    try:
        assert taken.wait(SOON_S)
        for _ in range(50):
            assert container.run("test -e /done").exit_code == 1
    finally:
        go_on.set()
    assert process.wait(SOON_S) == Exit(Cause.EXITED, 0)
    assert container.fetch("/done") == b"done\n"


def test_output_that_nobody_wants_does_not_stop_a_container(location: Location) -> None:
    container = location.node().spawn("busybox", "dd if=/dev/zero bs=1M count=8 2>/dev/null; exit 3")
    assert container.wait(SOON_S) == Exit(Cause.EXITED, 3)
