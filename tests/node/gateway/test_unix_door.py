"""The way in for users of this machine: who they are, what they may send, and what the end of one costs the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.node.gateway.unix_hall import NOBODY, PATIENCE_S, Hall, effective_user
from tfnz.framing import FRAMES_AT_ONCE, LENGTH
from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.frames import MAX_FRAME, MAX_HELLO, FrameBytes
from tfnz_node.gateway import unix_door as module
from tfnz_node.gateway.sessions import Peer
from tfnz_node.gateway.unix_door import FAREWELL_S, HELLO_TIMEOUT_S, UnixDoor

pytestmark = pytest.mark.asyncio(loop_factories=["real"])
#: For tests about time. All that a loop can do without time passing, it does before any passes.
jumping = pytest.mark.asyncio(loop_factories=["jumping"])

#: So often the loop goes round while there is nothing to do, which takes some milliseconds.
TURNS = 200
#: What a unix socket holds by itself, and more.
KERNEL_BYTES = 1 << 20
#: The first kernel that lets us refuse descriptors.
REFUSES_DESCRIPTORS = (6, 16)


@pytest_asyncio.fixture
async def hall() -> AsyncIterator[Hall]:
    opened = Hall(lambda uid: uid in (0, NOBODY))
    yield opened
    await opened.close()


# --- who it is


async def test_the_kernel_says_which_user_it_is(hall: Hall) -> None:
    caller, peer = await hall.greet()
    assert (peer.socket, peer.account) == (hall.door.endpoint, f"uid:{os.geteuid()}")
    assert peer.account_key == hashlib.sha256(peer.account.encode()).digest()
    hall.door.send(peer, b"small")
    hall.door.send(peer, b"x" * 100_000)
    assert [await caller.hear(), await caller.hear()] == [b"small", b"x" * 100_000]


async def test_every_user_is_an_account_of_its_own(hall: Hall) -> None:
    with effective_user(NOBODY):
        caller = hall.connect()
    await caller.say(b"hello")
    peer, _ = await hall.next_frame()
    assert peer.account == f"uid:{NOBODY}"


async def test_a_user_who_may_not_is_refused(hall: Hall) -> None:
    with effective_user(NOBODY - 1):
        caller = hall.connect()
    await caller.say(b"hello")
    assert await caller.hear_refusal() == "not_authorised"
    assert hall.frames.empty()


async def test_in_doubt_nobody_enters_and_the_next_one_may(caplog: pytest.LogCaptureFixture) -> None:
    def judge(uid: int) -> bool:
        if uid == NOBODY:
            raise OSError("the disk is full")
        return True

    hall = Hall(judge)
    with effective_user(NOBODY):
        caller = hall.connect()
    await caller.say(b"hello")
    assert await caller.hear() is None
    await hall.greet()
    assert "could not be welcomed" in caplog.text
    await hall.close()


async def test_one_connection_is_told_from_another(hall: Hall) -> None:
    (_, one), (_, two) = await hall.greet(), await hall.greet()
    assert one.descriptor != two.descriptor
    assert one.routing_id != two.routing_id


async def test_a_connection_is_open_until_its_end_is_told(hall: Hall) -> None:
    (caller, gone), (_, other) = await hall.greet(), await hall.greet()
    assert not hall.door.is_closed(gone)
    caller.close()
    assert await hall.next_closed() == (hall.door.endpoint, gone.descriptor)
    assert hall.door.is_closed(gone)
    assert not hall.door.is_closed(other)


# --- what arrives


async def test_a_first_frame_that_is_too_large_for_a_hello_ends_the_connection(hall: Hall) -> None:
    small, large = hall.connect(), hall.connect()
    await small.say(b"x" * MAX_HELLO)
    assert len((await hall.next_frame())[1]) == MAX_HELLO
    await large.say_bytes(LENGTH.pack(MAX_HELLO + 1))  # it need not really come
    assert await large.hear_refusal() == "protocol_error"
    assert (await hall.next_closed())[0] == hall.door.endpoint
    assert hall.frames.empty()


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 2**32 - 1])
async def test_a_frame_larger_than_the_protocol_allows_ends_the_connection(hall: Hall, size: int) -> None:
    caller, peer = await hall.greet()
    await caller.say(b"x" * (MAX_HELLO + 1), b"")
    assert [len((await hall.next_frame())[1]) for _ in range(2)] == [MAX_HELLO + 1, 0]
    await caller.say_bytes(LENGTH.pack(size))
    assert await hall.next_closed() == (hall.door.endpoint, peer.descriptor)
    assert await caller.hear_refusal() == "protocol_error"
    assert hall.frames.empty()


async def test_a_frame_that_cannot_be_handled_is_logged_and_the_next_is_heard(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    def choke(peer: Peer, frame: FrameBytes) -> None:
        if frame == b"bad":
            raise ValueError("surprise")

    hall.answer = choke
    caller = hall.connect()
    await caller.say(b"bad", b"good")
    assert [(await hall.next_frame())[1] for _ in range(2)] == [b"bad", b"good"]
    assert "could not be handled" in caplog.text


async def test_half_a_frame_and_then_the_end(hall: Hall) -> None:
    caller, peer = await hall.greet()
    await caller.say_bytes(LENGTH.pack(100) + b"half")
    caller.close()
    assert await hall.next_closed() == (hall.door.endpoint, peer.descriptor)
    assert hall.frames.empty()


@jumping
async def test_who_says_nothing_is_shown_out(hall: Hall) -> None:
    async def wait_for_the_end(words: bytes) -> float:
        began = asyncio.get_running_loop().time()
        caller = hall.connect()
        await caller.say_bytes(words)
        assert await caller.hear() is None
        return asyncio.get_running_loop().time() - began

    assert await wait_for_the_end(b"") == pytest.approx(HELLO_TIMEOUT_S)
    assert await wait_for_the_end(LENGTH.pack(100) + b"half") == pytest.approx(HELLO_TIMEOUT_S)
    caller, peer = await hall.greet()
    await asyncio.sleep(2 * HELLO_TIMEOUT_S)
    await caller.say(b"still here")
    assert await hall.next_frame() == (peer, b"still here")


async def test_a_byte_out_of_band_is_nothing(hall: Hall) -> None:
    caller, _ = await hall.greet()
    caller.socket.send(b"!", socket.MSG_OOB)
    await caller.say(b"one")
    assert (await hall.next_frame())[1] == b"one"


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < REFUSES_DESCRIPTORS,
    reason="this kernel has no SO_PASSRIGHTS",
)
async def test_nobody_can_hand_us_descriptors(hall: Hall) -> None:
    """Closing one can take for ever: a TCP socket that lingers. The node would wait, and everybody with it."""
    for caller in (hall.connect(), (await hall.greet())[0]):  # in the queue, and inside
        with pytest.raises(PermissionError):
            socket.send_fds(caller.socket, [b"x"], [0])


# --- many, and fast


async def test_a_user_has_a_bounded_number_of_connections(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    first, _ = await hall.greet()
    await hall.greet()
    assert await hall.connect().hear_refusal() == "no_capacity"
    with effective_user(NOBODY):
        other = hall.connect()
    await other.say(b"hello")
    assert (await hall.next_frame())[0].account == f"uid:{NOBODY}"
    first.close()
    await hall.next_closed()
    await hall.greet()
    assert await hall.connect().hear_refusal() == "no_capacity"


class _Heard(logging.Handler):
    """Waits for a line of the log, and counts how often it comes."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.event = asyncio.Event()
        self.count = 0
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.count += 1
            self.event.set()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_the_door_waits_until_there_are_some(hall: Hall) -> None:
    await hall.greet()
    heard = _Heard("no connection can be accepted")
    module.log.addHandler(heard)
    try:
        caller = hall.connect()
        await caller.say(b"patient")
        with no_descriptors():
            async with asyncio.timeout(PATIENCE_S):
                await heard.event.wait()
            assert hall.frames.empty()
            # Meanwhile there is nothing to be done, and nothing is.
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert heard.count < TURNS // 10
    finally:
        module.log.removeHandler(heard)
    assert (await hall.next_frame())[1] == b"patient"


async def test_connections_that_end_leave_no_descriptor(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    caller, _ = await hall.greet()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        refused = hall.connect()
        await refused.hear_refusal()
        refused.close()
        caller.close()
        await hall.next_closed()
        caller, _ = await hall.greet()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_who_talks_without_end_lets_others_have_their_turn(hall: Hall) -> None:
    loud, loud_peer = await hall.greet()
    quiet, quiet_peer = await hall.greet()
    flood = LENGTH.pack(0) * 16_000
    assert loud.socket.send(flood) == len(flood)
    await quiet.say(b"excuse me")
    turn = 0
    while (heard := await hall.next_frame())[0] == loud_peer:
        turn += 1
    assert heard == (quiet_peer, b"excuse me")
    assert turn <= 4 * FRAMES_AT_ONCE
    for _ in range(16_000 - turn):
        assert await hall.next_frame() == (loud_peer, b"")


@jumping
async def test_who_asks_without_reading_is_not_listened_to_until_it_reads(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_ABOVE_BYTES", 100_000)
    answer = b"x" * 50_000
    hall.answer = lambda peer, frame: hall.door.send(peer, answer)
    caller = hall.connect()
    await caller.say(*[b"?"] * 500)
    await asyncio.sleep(1)  # by then all has been done that can be
    assert hall.frames.qsize() * len(answer) < KERNEL_BYTES
    for _ in range(500):
        assert await caller.hear() == answer
    await caller.say(b"?")
    assert await caller.hear() == answer


@jumping
async def test_the_end_of_who_is_not_listened_to_is_noticed(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_ABOVE_BYTES", 100_000)
    hall.answer = lambda peer, frame: hall.door.send(peer, b"x" * 50_000)
    caller = hall.connect()
    await caller.say(*[b"?"] * 500)
    await asyncio.sleep(1)
    heard = hall.frames.qsize()
    assert heard < 500
    caller.close()
    await hall.next_closed()


async def test_who_reads_nothing_loses_the_connection_when_too_much_waits(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 1_000_000)
    caller, peer = await hall.greet()
    for _ in range(100):
        hall.door.send(peer, b"x" * 50_000)
    assert await hall.next_closed() == (hall.door.endpoint, peer.descriptor)
    received = 0
    while (frame := await caller.hear()) is not None:
        received += len(frame)
    assert received < 1_000_000
    assert hall.closed.empty()


# --- the end


CHILD = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect("\\0" + sys.argv[1])
client.sendall(b"\\0\\0\\0\\5hello")
sys.stdin.read()
"""


async def test_the_death_of_a_client_is_heard_of_at_once(hall: Hall) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, hall.door.endpoint.removeprefix("unix:@")),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        peer, _ = await hall.next_frame()
        assert hall.closed.empty()
        child.send_signal(signal.SIGKILL)
        assert await hall.next_closed() == (hall.door.endpoint, peer.descriptor)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()
    hall.door.send(peer, b"to nobody, which is no error")
    hall.door.hang_up(peer)


async def test_what_was_sent_last_leaves_before_the_door_closes(hall: Hall) -> None:
    caller, peer = await hall.greet()
    for _ in range(500):
        hall.door.send(peer, b"word")
    hall.door.send(peer, b"the node is shutting down")
    await hall.close_door()
    assert [await caller.hear() for _ in range(500)] == [b"word"] * 500
    assert await caller.hear() == b"the node is shutting down"
    assert await caller.hear() is None
    hall.door.close()


async def test_after_the_last_words_nothing_is_heard(hall: Hall) -> None:
    caller, peer = await hall.greet()
    words = [b"x" * 1_000_000] * 5
    for word in words:
        hall.door.send(peer, word)
    hall.door.hang_up(peer)
    hall.door.send(peer, b"too late")
    await caller.say(b"too late")
    assert [await caller.hear() for _ in words] == words
    assert await caller.hear() is None
    assert await hall.next_closed() == (hall.door.endpoint, peer.descriptor)
    assert hall.frames.empty()


@jumping
async def test_who_does_not_read_the_last_words_has_had_its_time(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    _, peer = await hall.greet()
    began = asyncio.get_running_loop().time()
    hall.door.send(peer, b"x" * 5_000_000)
    hall.door.hang_up(peer)
    assert await hall.connect().hear_refusal() == "no_capacity"  # so long it counts
    await hall.next_closed()
    assert asyncio.get_running_loop().time() - began == pytest.approx(FAREWELL_S)
    await hall.greet()


async def test_a_name_that_cannot_be_had_is_named(hall: Hall) -> None:
    name = hall.door.endpoint.removeprefix("unix:")
    another = UnixDoor(name, allowed=lambda uid: True)
    with pytest.raises(NoCapacity, match=rf"cannot listen on {name}: .* Set `socket` in node.toml"):
        another.bind()
    await hall.greet()


@pytest.mark.parametrize("kernel", ["of today", "of Debian 12"])
async def test_the_kernel_says_which_process_it_is(
    hall: Hall, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "of Debian 12":
        monkeypatch.setattr(module, "_SO_PEERPIDFD", 9999)
    caller, peer = await hall.greet()
    process = hall.door.find_process(peer)
    assert process is not None
    try:
        assert find_pid(process) == os.getpid()
    finally:
        os.close(process)
    caller.close()
    await hall.next_closed()
    assert hall.door.find_process(peer) is None


def find_pid(process: int) -> int:
    """The number of the process that a descriptor stands for."""
    with open(f"/proc/self/fdinfo/{process}") as info:
        [line] = [line for line in info if line.startswith("Pid:")]
    return int(line.removeprefix("Pid:"))
