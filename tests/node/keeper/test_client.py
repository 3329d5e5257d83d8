"""The keeper and its client: what was put is there for the next, whatever becomes of whoever put it."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.few_descriptors import few_descriptors
from tfnz_node.init_binary import find_keeper
from tfnz_node.keeper.base import MAX_RECORD_BYTES, MAX_RECORD_FDS, Keeper, KeeperGone, NoKeeper
from tfnz_node.keeper.client import (
    _LIST,
    _LISTED,
    SOCKET,
    KeeperClient,
    KeeperFailed,
    open_keeper,
)

SOON_S = 20.0
LONG_S = 60.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a keeper may be, whose end is seen to."""
    path = tmp_path / ("d" * 120)
    path.mkdir()
    yield path
    try:
        open_keeper(path, find_keeper(), LONG_S).close()
    except KeeperFailed:
        return


def open_one(directory: Path, takeover_s: float = LONG_S) -> KeeperClient:
    return open_keeper(directory, find_keeper(), takeover_s)


def leave(keeper: KeeperClient) -> None:
    """Go as a daemon does that was killed."""
    keeper._socket.close()


def have_read(keeper: KeeperClient, *, takeover_s: float = LONG_S) -> None:
    """Returns when the keeper has read, and opened, what it was told; from now on it waits so long for the next."""
    keeper._send(_LIST, argument=int(takeover_s * 1000))
    while True:
        kind, _, kept = keeper._receive()
        kept.close()
        if kind == _LISTED:
            return


def not_refused(name: str) -> None:
    raise AssertionError(name)


def memory_file(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


@pytest.fixture(params=["kept", "not kept"])
def any_keeper(request: pytest.FixtureRequest, directory: Path) -> Keeper:
    return NoKeeper() if request.param == "not kept" else open_one(directory)


def test_all_keepers_take_the_same(any_keeper: Keeper) -> None:
    any_keeper.put("name", b"record", [0])
    any_keeper.delete("name")
    any_keeper.delete("nobody")
    for name in ("", "n" * 256, "a\0b"):
        with pytest.raises(ValueError, match="name"):
            any_keeper.put(name, b"")
    for record, fds in ((b"x" * (MAX_RECORD_BYTES + 1), []), (b"", [0] * (MAX_RECORD_FDS + 1))):
        with pytest.raises(ValueError, match="too much"):
            any_keeper.put("name", record, fds)
    any_keeper.close()


def test_records_and_descriptors_are_there_for_the_next(directory: Path) -> None:
    first = open_one(directory)
    assert first.found == []
    file = memory_file(b"content")
    first.put("b", b"1" * MAX_RECORD_BYTES, [file] * MAX_RECORD_FDS)
    first.put("a", b"")
    first.put("gone", b"", [file])
    first.delete("gone")
    first.put("a", b"2", [file])
    os.close(file)
    leave(first)
    second = open_one(directory)
    assert second.pid == first.pid
    assert [(kept.name, kept.record[:1], len(kept.fds)) for kept in second.found] == [
        ("b", b"1", 16),
        ("a", b"2", 1),
    ]
    assert os.pread(second.found[1].fds[0], 100, 0) == b"content"
    for kept in second.found:
        kept.close()
    second.close()
    third = open_one(directory)
    assert third.pid != second.pid
    assert third.found == []
    third.close()


PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tfnz_node.init_binary import find_keeper
from tfnz_node.keeper.client import open_keeper
keeper = open_keeper(Path(sys.argv[1]), find_keeper(), 60)
reading, writing = os.pipe()
for number in range(3000):
    keeper.put(str(number), b"x" * 1000, [reading])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_put_in_the_last_moment_is_kept(directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PUT_AND_DIE, str(directory)], check=False, timeout=SOON_S)
    assert done.returncode == -signal.SIGKILL
    keeper = open_one(directory)
    assert [kept.name for kept in keeper.found] == [str(number) for number in range(3000)]
    for kept in keeper.found:
        kept.close()
    keeper.close()


def test_what_is_forgotten_is_closed(directory: Path) -> None:
    reading, writing = os.pipe()
    keeper = open_one(directory)
    keeper.put("a", b"", [writing])
    os.close(writing)
    assert select.select([reading], [], [], 0)[0] == []
    keeper.put("a", b"")
    assert select.select([reading], [], [], SOON_S)[0] == [reading]
    os.close(reading)
    keeper.close()


def test_it_ends_when_nobody_comes(directory: Path) -> None:
    reading, writing = os.pipe()
    keeper = open_one(directory)
    keeper.put("a", b"", [writing])
    os.close(writing)
    have_read(keeper, takeover_s=0.05)
    leave(keeper)
    assert select.select([reading], [], [], SOON_S)[0] == [reading]
    os.close(reading)
    again = open_one(directory)
    assert again.found == []
    again.close()


def test_its_end_is_noticed(directory: Path) -> None:
    keeper = open_one(directory)
    lost: list[bool] = []
    os.kill(keeper.pid, signal.SIGKILL)
    assert select.select([keeper.fileno()], [], [], SOON_S)[0]
    keeper.listen(lambda: lost.append(True), not_refused)
    assert lost == [True]
    with pytest.raises(KeeperGone):
        keeper.put("a", b"")
    keeper.close()
    keeper.close()


def test_what_is_refused_is_told_and_not_there_in_an_older_form(directory: Path) -> None:
    keeper = open_one(directory)
    keeper.put("a", b"old")
    keeper.put("b", b"kept")
    refused: list[str] = []
    with few_descriptors(keeper.pid, 1):
        keeper.put("a", b"new", [0, 0])
        keeper.put("c", b"", [0])
        assert select.select([keeper.fileno()], [], [], SOON_S)[0]
        keeper.listen(lambda: None, refused.append)
    assert refused == ["a"]
    leave(keeper)
    again = open_one(directory)
    assert [(kept.name, len(kept.fds)) for kept in again.found] == [("b", 0), ("c", 1)]
    for kept in again.found:
        kept.close()
    again.close()


def test_whoever_does_not_read_what_is_refused_is_not_waited_for(directory: Path) -> None:
    """And what it has put is forgotten, since it does not know what is missing."""
    keeper = open_one(directory)
    keeper.put("a", b"kept")
    with few_descriptors(keeper.pid, 0), pytest.raises(KeeperGone) as gone:
        for number in range(100_000):
            keeper.put(str(number), b"", [0])
    assert isinstance(gone.value.__cause__, BrokenPipeError | ConnectionResetError)
    leave(keeper)
    again = open_one(directory)
    assert again.found == []
    again.close()


@pytest.mark.parametrize("when", ["before it dies", "afterwards"])
def test_a_refusal_that_nobody_reads_is_no_reason_not_to_read_on(directory: Path, when: str) -> None:
    """The daemon is killed meanwhile; what it said after that is done all the same."""
    keeper = open_one(directory)
    reading, writing = os.pipe()
    keeper.put("withdrawn", b"", [writing])
    os.close(writing)
    have_read(keeper)
    with few_descriptors(keeper.pid, 0):
        if when == "before it dies":
            keeper.put("refused", b"", [0])
            assert select.select([keeper.fileno()], [], [], SOON_S)[0]
        os.kill(keeper.pid, signal.SIGSTOP)
        if when == "afterwards":
            keeper.put("refused", b"", [0])
        keeper.put("last", b"record")
        keeper.delete("withdrawn")
        leave(keeper)
        os.kill(keeper.pid, signal.SIGCONT)
        assert select.select([reading], [], [], SOON_S)[0] == [reading]
    os.close(reading)
    again = open_one(directory)
    assert [(kept.name, kept.record) for kept in again.found] == [("last", b"record")]
    again.close()


def test_what_cannot_all_be_opened_stays_for_the_next(directory: Path) -> None:
    first = open_one(directory)
    first.put("a", b"", [0])
    first.put("b", b"", [0] * MAX_RECORD_FDS)
    leave(first)
    before = len(os.listdir("/proc/self/fd"))
    with few_descriptors(os.getpid(), 8), pytest.raises(KeeperFailed, match="LimitNOFILE"):
        open_one(directory)
    assert len(os.listdir("/proc/self/fd")) == before
    second = open_one(directory)
    assert [len(kept.fds) for kept in second.found] == [1, MAX_RECORD_FDS]
    for kept in second.found:
        kept.close()
    second.close()


def test_what_is_out_of_date_is_not_taken_over(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that could not be sent is missing, so all are forgotten, and whoever listens hears of it."""
    keeper = open_one(directory)
    keeper.put("a", b"old")
    lost: list[bool] = []
    send_fds = socket.send_fds

    def send_no_fds(own: socket.socket, message: list[bytes], fds: list[int], flags: int) -> int:
        if fds:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return send_fds(own, message, fds, flags)

    monkeypatch.setattr("socket.send_fds", send_no_fds)
    with pytest.raises(KeeperGone):
        keeper.put("a", b"new", [0])
    assert select.select([keeper.fileno()], [], [], SOON_S)[0]
    keeper.listen(lambda: lost.append(True), not_refused)
    assert lost == [True]
    leave(keeper)
    again = open_one(directory)
    assert again.found == []
    again.close()


@pytest.mark.parametrize("size", [0, 1000], ids=["of which nothing fits", "of which the end fits"])
def test_a_keeper_that_does_not_read_keeps_nothing(directory: Path, size: int) -> None:
    keeper = open_one(directory)
    keeper.put("a", b"old")
    ended = os.pidfd_open(keeper.pid)
    os.kill(keeper.pid, signal.SIGSTOP)
    keeper._socket.settimeout(0.05)
    with pytest.raises(KeeperGone):
        for number in range(100_000):
            keeper.put(f"{number:06}", b"x" * size)
    signal.pidfd_send_signal(ended, signal.SIGCONT)
    assert select.select([ended], [], [], SOON_S)[0]
    os.close(ended)
    leave(keeper)
    again = open_one(directory)
    assert again.found == []
    again.close()


def test_it_says_what_it_has_room_for(directory: Path) -> None:
    """As long as that is kept to nothing is refused."""
    keeper = open_one(directory)
    fd_limit, _ = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
    assert keeper.capacity.records == 262_144
    assert keeper.capacity.size_bytes == 256 << 20
    assert fd_limit - 40 < keeper.capacity.descriptors < fd_limit
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (200, fd_limit))
    leave(keeper)
    again = open_one(directory)
    assert again.capacity.descriptors < 200
    count, rest = divmod(again.capacity.descriptors, MAX_RECORD_FDS)
    for number in range(count):
        again.put(str(number), b"", [0] * MAX_RECORD_FDS)
    again.put("rest", b"", [0] * rest)
    again.put("0", b"", [0] * MAX_RECORD_FDS)
    leave(again)
    last = open_one(directory)
    assert sum(len(kept.fds) for kept in last.found) == again.capacity.descriptors
    for kept in last.found:
        kept.close()
    last.close()


def test_others_are_not_served(directory: Path) -> None:
    """Whoever has not its user id is sent away, also when the file's mode would let them in."""
    keeper = open_one(directory)
    assert (directory / SOCKET).stat().st_mode & 0o777 == 0o600
    keeper.put("a", b"secret")
    leave(keeper)
    (directory / SOCKET).chmod(0o666)
    for path in (directory, *directory.parents):
        if path == Path("/tmp"):
            break
        path.chmod(path.stat().st_mode | 0o055)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(directory)
            os.setresuid(1000, 1000, 1000)
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as stranger:
                stranger.connect(SOCKET)
                stranger.settimeout(SOON_S)
                stranger.send(struct.pack("<III", 3, 1000, 0))
                code = 0 if stranger.recv(1000) == b"" else 2
        except (BrokenPipeError, ConnectionResetError):
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    open_one(directory).close()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"abc",
        struct.pack("<III", 99, 0, 0),
        struct.pack("<III", 1, 0, 100),
        struct.pack("<III", 1, 0, 2) + b"ab",
    ],
)
def test_nonsense_ends_the_connection_and_nothing_else(directory: Path, message: bytes) -> None:
    keeper = open_one(directory)
    keeper.put("a", b"kept")
    keeper._socket.send(message)
    assert keeper._socket.recv(100) == b""
    leave(keeper)
    again = open_one(directory)
    assert [kept.record for kept in again.found] == [b"kept"]
    again.close()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeeperFailed, match="/no/such/keeper"):
        open_keeper(tmp_path, Path("/no/such/keeper"), 1)


@pytest.fixture
def unit(directory: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A keeper as systemd starts it; it says that it is ready where the parameter says, abstract or a file."""
    name = f"@test-{secrets.token_hex(8)}" if request.param == "abstract" else f"/tmp/{secrets.token_hex(8)}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.settimeout(SOON_S)
        manager.bind(name.replace("@", "\0"))
        process = subprocess.Popen(
            [str(find_keeper()), str(directory), str(int(LONG_S * 1000)), "stay"], env={"NOTIFY_SOCKET": name}
        )
        try:
            assert manager.recv(100) == b"READY=1"
            if request.param == "file":
                Path(name).unlink()
            yield process
        finally:
            process.kill()
            process.wait()


in_a_file = pytest.mark.parametrize("unit", ["file"], indirect=True)


@pytest.mark.parametrize("unit", ["file", "abstract"], indirect=True)
def test_a_unit_is_found_as_soon_as_it_is_ready(unit: subprocess.Popen[bytes], directory: Path) -> None:
    keeper = open_one(directory)
    assert keeper.pid == unit.pid
    keeper.close()


def test_nobody_is_told_who_is_not_there(directory: Path) -> None:
    words = [str(find_keeper()), str(directory), "1000", "stay"]
    for name in ("/no/such/socket", "/" + "n" * 200):
        done = subprocess.run(words, env={"NOTIFY_SOCKET": name}, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "NOTIFY_SOCKET" in done.stderr


@in_a_file
def test_a_unit_forgets_everything_and_stays(unit: subprocess.Popen[bytes], directory: Path) -> None:
    """Or the next daemon, started at once, would find none, and have one of its own within its own unit."""
    for _ in range(3):
        keeper = open_one(directory)
        assert (keeper.pid, keeper.found) == (unit.pid, [])
        reading, writing = os.pipe()
        keeper.put("a", b"1", [writing])
        keeper.put("b", b"2")
        os.close(writing)
        keeper.close()
        # Not only soon: whoever ends a daemon finds everything ended.
        assert select.select([reading], [], [], 0)[0] == [reading]
        os.close(reading)
    assert unit.poll() is None


@in_a_file
def test_a_unit_lets_go_when_nobody_comes_and_stays(unit: subprocess.Popen[bytes], directory: Path) -> None:
    reading, writing = os.pipe()
    keeper = open_one(directory, takeover_s=0.05)
    keeper.put("a", b"", [writing])
    os.close(writing)
    leave(keeper)
    assert select.select([reading], [], [], SOON_S)[0] == [reading]
    os.close(reading)
    again = open_one(directory)
    assert (again.pid, again.found) == (unit.pid, [])
    again.close()


def test_one_that_ends_is_not_found_any_more(directory: Path) -> None:
    """Whoever comes right after the end of all starts another."""
    pids = set()
    for _ in range(20):
        keeper = open_one(directory)
        pids.add(keeper.pid)
        keeper.close()
    assert len(pids) == 20


def test_a_second_keeper_does_not_begin(directory: Path) -> None:
    keeper = open_one(directory)
    words = [str(find_keeper()), str(directory), "1000", "stay"]
    second = subprocess.run(words, capture_output=True, text=True, timeout=SOON_S, check=False)
    assert second.returncode == 1
    assert "another keeper" in second.stderr
    ending = os.pidfd_open(keeper.pid)
    keeper.close()
    assert select.select([ending], [], [], SOON_S)[0] == [ending]
    os.close(ending)


def test_a_descriptor_that_is_not_open_is_no_end_of_the_keeper(directory: Path) -> None:
    first = open_one(directory)
    closed = memory_file(b"")
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        first.put("name", b"", [closed])
    assert not isinstance(raised.value, KeeperGone)
    first.put("name", b"record")
    first.put("other", b"old")
    with pytest.raises(OSError, match="Bad file descriptor"):
        first.put("other", b"new", [closed])
    leave(first)
    with pytest.raises(KeeperGone):
        first.put("name", b"")
    second = open_one(directory)
    assert [(kept.name, kept.record) for kept in second.found] == [("name", b"record")]
    second.close()
