"""The daemon's end of the control socket against an init that is slow, gone or broken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import pytest
import pytest_asyncio

from tests.few_descriptors import few_descriptors as only_few_descriptors
from tfnz.protocol.errors import NoCapacity
from tfnz_node.sandbox.control import Control, InitFailed, InitGone
from tfnz_node.sandbox.wire import Kind, Packet, WireError, pack_packet, parse_packet


class FakeInit:
    """Init's end, in the hands of the test."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end

    async def receive(self) -> Packet:
        return parse_packet(await asyncio.get_running_loop().sock_recv(self.end, 1 << 18))

    def send(
        self, kind: Kind, *, id: int = 0, argument: int = 0, text: bytes | None = None, fds: int = 0
    ) -> None:
        data = pack_packet(kind, id=id, arguments=(argument,), strings=() if text is None else (text,))
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(fds)]
        socket.send_fds(self.end, [data], opened)
        for fd in opened:
            os.close(fd)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Control, FakeInit]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control = Control(ours, name="init 7")
    with theirs:
        yield control, FakeInit(theirs)
    control.close()


Pair = tuple[Control, FakeInit]


@pytest_asyncio.fixture
async def adopted() -> AsyncIterator[Pair]:
    """Of a former daemon, to which something is still being said."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    init = FakeInit(theirs)
    init.send(Kind.STARTED, id=99, fds=1)
    init.send(Kind.EXITED, id=99)
    control = Control(ours, name="init 7", adopted=True)
    with theirs:
        yield control, init
    control.close()


@pytest.mark.asyncio
async def test_what_is_adopted_has_its_end_when_init_has_answered(adopted: Pair) -> None:
    control, init = adopted
    listing = control.resync()
    one, other, unknown = control.adopt(1), control.adopt(2), control.adopt(3)
    control.kill_job(2)
    resync = await init.receive()
    assert resync.kind is Kind.RESYNC
    assert (await init.receive()).kind is Kind.SIGNAL
    assert not listing.done() and not one.done()
    for kind, id, argument in (
        (Kind.RESYNCED, resync.id, 0),
        (Kind.RUNS, 2, 0),
        (Kind.EXITED, 1, 5),
        (Kind.LISTED, resync.id, 0),
        (Kind.DONE, 2, 0),
    ):
        init.send(kind, id=id, argument=argument)
    assert await listing == ({2}, {1})
    assert (await one, await unknown, other.done()) == (5, signal.SIGKILL, False)
    init.send(Kind.EXITED, id=2, argument=9)
    assert await other == 9
    assert await control.adopt(1) == 5
    # Its number is free, now that it has ended.
    control.forget(1)
    starting = asyncio.create_task(
        control.start(id=1, arguments=(0, 0, 0, 1, 0), strings=(b"", b"", b"x"), fds=(), timeout_s=5)
    )
    assert [(await init.receive()).kind for _ in range(2)] == [Kind.FORGET, Kind.RUN]
    init.send(Kind.STARTED, id=1, argument=77)
    await starting


@pytest.mark.asyncio
async def test_ends_are_told_in_the_order_of_adoption(adopted: Pair) -> None:
    """A process that has ended before the main process is adopted before it, and keeps its own end."""
    control, init = adopted
    listing = control.resync()
    told: list[int] = []
    for id in (9, 2, 7, 1):
        control.adopt(id).add_done_callback(lambda _, id=id: told.append(id))  # type: ignore[misc]
    nonce = (await init.receive()).id
    init.send(Kind.RESYNCED, id=nonce)
    for id in (1, 2, 7, 9):
        init.send(Kind.EXITED, id=id)
    init.send(Kind.LISTED, id=nonce)
    await listing
    assert told == [9, 2, 7, 1]


@pytest.mark.asyncio
async def test_what_was_said_to_a_former_daemon_is_not_heard_at_the_end(
    adopted: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    control, _ = adopted
    control.drain()
    control.close()
    assert not caplog.records
    assert await control.adopt(99) == signal.SIGKILL
    with pytest.raises(InitGone):
        control.resync()


@pytest.mark.asyncio
async def test_replies_come_in_order(pair: Pair) -> None:
    control, init = pair
    first = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    second = asyncio.create_task(control.ask(Kind.FILE, id=2, timeout_s=5))
    assert [(await init.receive()).kind for _ in range(2)] == [Kind.BOOT, Kind.FILE]
    init.send(Kind.DONE, id=1)
    init.send(Kind.FAILED, id=2, argument=errno.EISDIR, text=b"/x is a directory")
    assert (await first).packet.kind is Kind.DONE
    with pytest.raises(InitFailed, match="^/x is a directory$") as caught:
        await second
    assert caught.value.errno == errno.EISDIR


@pytest.mark.asyncio
async def test_descriptors_that_come_are_not_inherited(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.ask(Kind.CONNECT, id=1, timeout_s=5))
    await init.receive()
    init.send(Kind.DONE, id=1, fds=2)
    fds = (await task).fds
    assert len(fds) == 2 and not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Leaves this process so many descriptors, until the end of the test."""
    with contextlib.ExitStack() as stack:

        def leave(left: int) -> None:
            stack.close()
            stack.enter_context(only_few_descriptors(os.getpid(), left))

        yield leave


@pytest.mark.asyncio
@pytest.mark.parametrize("left", [0, 1])
async def test_descriptors_that_we_may_not_have_fail_their_request_alone(
    pair: Pair, few_descriptors: Callable[[int], None], left: int
) -> None:
    """The kernel closes what we have no number for; a process whose terminal is lost so is ended."""
    control, init = pair
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    asking = asyncio.create_task(control.ask(Kind.CONNECT, id=1, timeout_s=5))
    starting = asyncio.create_task(control.start(id=5, arguments=(), strings=(), fds=(), timeout_s=5))
    await init.receive()
    await init.receive()
    before = len(os.listdir("/proc/self/fd"))
    few_descriptors(left)
    for kind, id in ((Kind.DONE, 1), (Kind.STARTED, 5)):
        socket.send_fds(init.end, [pack_packet(kind, id=id, arguments=(42,))], opened)
    for task in (asking, starting):
        with pytest.raises(OSError, match="Too many open files"):
            await task
    few_descriptors(5)
    packet = await init.receive()
    assert (packet.kind, packet.id, packet.arguments[:2]) == (Kind.SIGNAL, 5, (signal.SIGKILL, 1))
    assert len(os.listdir("/proc/self/fd")) == before
    init.send(Kind.DONE, id=5)  # it has been killed
    init.send(Kind.EXITED, id=5, argument=9)
    later = asyncio.create_task(control.ask(Kind.BOOT, id=6, timeout_s=5))
    await init.receive()
    init.send(Kind.DONE, id=6)
    assert (await later).packet.id == 6
    for fd in opened:
        os.close(fd)


@pytest.mark.asyncio
async def test_an_exit_may_come_before_anybody_waits(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.start(id=5, arguments=(), strings=(), fds=(), timeout_s=5))
    await init.receive()
    init.send(Kind.STARTED, id=5, argument=42)
    init.send(Kind.EXITED, id=5, argument=0x700)
    reply, ended = await task
    assert reply.packet.arguments[0] == 42
    assert await ended == 0x700


@pytest.mark.asyncio
async def test_a_process_started_for_nobody_is_killed(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.start(id=5, arguments=(), strings=(), fds=(), timeout_s=5))
    await init.receive()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = len(os.listdir("/proc/self/fd"))
    init.send(Kind.STARTED, id=5, argument=42, fds=1)
    packet = await init.receive()
    assert (packet.kind, packet.id, packet.arguments[:2]) == (Kind.SIGNAL, 5, (signal.SIGKILL, 1))
    assert len(os.listdir("/proc/self/fd")) == before
    init.send(Kind.EXITED, id=5, argument=9)
    init.send(Kind.FAILED, id=5, argument=errno.ESRCH, text=b"ended")
    later = asyncio.create_task(control.ask(Kind.BOOT, id=6, timeout_s=5))
    await init.receive()
    init.send(Kind.DONE, id=6)
    assert (await later).packet.id == 6


@pytest.mark.asyncio
@pytest.mark.parametrize("late", [False, True])
async def test_the_end_of_a_kept_process_that_nobody_wants_is_forgotten(pair: Pair, late: bool) -> None:
    """Whether its start was told before its caller was cancelled, or after; init would keep its end for ever."""
    control, init = pair
    task = asyncio.create_task(control.start(id=5, arguments=(), strings=(), fds=(), kept=True, timeout_s=5))
    await init.receive()
    if late:
        task.cancel()
        await asyncio.wait([task])
    init.send(Kind.STARTED, id=5, argument=42)
    init.send(Kind.EXITED, id=5, argument=9)
    control.drain()
    task.cancel()
    await asyncio.wait([task])
    packets = [await init.receive()]
    if packets[0].kind is Kind.SIGNAL:
        packets.append(await init.receive())
    assert (packets[-1].kind, packets[-1].id) == (Kind.FORGET, 5)


@pytest.mark.asyncio
async def test_a_process_whose_start_is_told_while_nobody_waits_any_more_is_killed(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.start(id=5, arguments=(), strings=(), fds=(), timeout_s=5))
    await init.receive()
    before = len(os.listdir("/proc/self/fd"))
    init.send(Kind.STARTED, id=5, argument=42, fds=1)
    control.drain()  # the reply is there, and the task that waits for it has not gone on yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    packet = await init.receive()
    assert (packet.kind, packet.id, packet.arguments[:2]) == (Kind.SIGNAL, 5, (signal.SIGKILL, 1))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
async def test_an_init_that_is_killed_with_requests_unread_has_broken_no_rule(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    control, init = pair
    task = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    await asyncio.sleep(0)
    init.end.close()  # with something unread: the kernel tells the other end of a reset
    with pytest.raises(InitGone, match="init 7 ended before it answered BOOT"):
        await task
    assert not caplog.records


@pytest.mark.asyncio
async def test_silence_ends_in_a_timeout_and_the_late_reply_is_dropped(pair: Pair) -> None:
    control, init = pair
    with pytest.raises(TimeoutError, match=r"init 7 did not answer BOOT within 0.01 s"):
        await control.ask(Kind.BOOT, id=1, timeout_s=0.01)
    task = asyncio.create_task(control.ask(Kind.BOOT, id=2, timeout_s=5))
    init.send(Kind.DONE, id=1)
    init.send(Kind.DONE, id=2)
    assert (await task).packet.id == 2


@pytest.mark.asyncio
async def test_the_end_fails_what_is_outstanding_and_what_follows(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    _, ended = await _start(control, init, id=5)
    init.end.close()
    with pytest.raises(InitGone, match="init 7 ended before it answered BOOT"):
        await task
    with pytest.raises(InitGone, match="init 7 has ended, FILE cannot be asked of it"):
        await control.ask(Kind.FILE, timeout_s=5)
    # Processes have ended only when the supervisor says so.
    assert not ended.done()
    control.settle_exits(9)
    assert await ended == 9


@pytest.mark.asyncio
async def test_of_all_that_ends_with_the_container_its_main_process_is_told_of_first(pair: Pair) -> None:
    """Also when it was taken over last."""
    control, _ = pair
    control.resync()
    order: list[int] = []
    for id in (7, 1, 5):
        control.adopt(id)
        control.call_at_exit(id, partial(order.append, id))
    control.settle_exits(9)
    await asyncio.sleep(0)
    assert order == [1, 5, 7]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("kind", "id", "fds"),
    [
        (Kind.DONE, 2, 0),
        (Kind.EXITED, 99, 0),
        (Kind.EXITED, 1, 1),
        (Kind.READY, 1, 0),
        (Kind.RUN, 1, 2),
    ],
)
async def test_an_init_that_breaks_the_protocol_is_given_up(
    pair: Pair, caplog: pytest.LogCaptureFixture, kind: Kind, id: int, fds: int
) -> None:
    control, init = pair
    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    await init.receive()
    with caplog.at_level(logging.ERROR):
        init.send(kind, id=id, fds=fds)
        with pytest.raises(InitGone):
            await task
    assert "init 7 broke the protocol and is closed" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.asyncio
async def test_bytes_that_are_no_packet_are_given_up(pair: Pair) -> None:
    control, init = pair
    task = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    await init.receive()
    init.end.send(b"rubbish")
    with pytest.raises(InitGone):
        await task


@pytest.mark.asyncio
async def test_a_slow_init_gets_everything_in_order(pair: Pair) -> None:
    control, init = pair
    filler = b"x" * 100_000
    readable, writable = os.pipe()
    tasks = []
    for number in range(20):
        tasks.append(
            asyncio.create_task(
                control.ask(Kind.FILE, id=number, strings=(filler,), fds=(readable,), timeout_s=5)
            )
        )
    await asyncio.sleep(0)
    for number in range(20):
        assert (await init.receive()).id == number
        init.send(Kind.DONE, id=number)
    assert [(await task).packet.id for task in tasks] == list(range(20))
    os.close(readable)
    os.close(writable)


@pytest.mark.asyncio
async def test_closing_forgets_what_was_not_sent(pair: Pair) -> None:
    control, _ = pair
    readable, writable = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    tasks = [
        asyncio.create_task(
            control.ask(Kind.FILE, id=number, strings=(b"x" * 100_000,), fds=(readable,), timeout_s=5)
        )
        for number in range(20)
    ]
    await asyncio.sleep(0)
    control.close()
    assert all(
        isinstance(result, InitGone) for result in await asyncio.gather(*tasks, return_exceptions=True)
    )
    assert len(os.listdir("/proc/self/fd")) == before - 1
    os.close(readable)
    os.close(writable)


async def _fill(control: Control, fds: Sequence[int] = (), *, count: int = 20) -> list[asyncio.Task[object]]:
    """Ask for so many processes that most of them wait until init reads."""

    async def start(number: int) -> object:
        return await control.start(id=number, arguments=(), strings=(b"x" * 100_000,), fds=fds, timeout_s=5)

    tasks = [asyncio.create_task(start(number)) for number in range(1, count + 1)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.asyncio
async def test_what_is_given_up_before_init_could_read_it_is_never_sent(pair: Pair) -> None:
    control, init = pair
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        tasks = await _fill(control, (0, 1))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(os.listdir("/proc/self/fd")) == before
        ended: list[int] = []
        control.call_at_exit(20, partial(ended.append, 20))
        assert ended == [20]  # there is none
        read = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = parse_packet(init.end.recv(1 << 18))
                read += 1
                init.send(Kind.FAILED, id=packet.id, argument=errno.EAGAIN, text=b"no room")
        assert 0 < read < 10
        control.drain()
    later = asyncio.create_task(control.ask(Kind.BOOT, id=1, timeout_s=5))
    assert (await init.receive()).kind is Kind.BOOT
    init.send(Kind.DONE, id=1)
    assert (await later).packet.id == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("limit", "value"), [("MAX_UNANSWERED", 20), ("MAX_UNSENT_BYTES", 200_000)])
async def test_what_is_asked_of_an_init_that_does_not_answer_is_bounded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    control, init = pair
    tasks = await _fill(control)
    monkeypatch.setattr(f"tfnz_node.sandbox.control.{limit}", value)
    with pytest.raises(NoCapacity, match="init 7 has 20 requests to answer"):
        await control.ask(Kind.CONNECT, id=30, strings=(b"x" * 100_000,), timeout_s=5)
    for number in range(1, 21):
        assert (await init.receive()).id == number
        init.send(Kind.STARTED, id=number)
    await asyncio.gather(*tasks)
    later = asyncio.create_task(control.ask(Kind.CONNECT, id=30, strings=(b"x" * 100_000,), timeout_s=5))
    assert (await init.receive()).kind is Kind.CONNECT
    init.send(Kind.DONE, id=30)
    await later


@pytest.mark.asyncio
async def test_a_process_is_killed_once_at_a_time(pair: Pair) -> None:
    control, init = pair
    await _start(control, init, id=5)
    for _ in range(2):
        for _ in range(3):
            control.kill_job(5)
        assert (await init.receive()).kind is Kind.SIGNAL
        with pytest.raises(BlockingIOError):
            init.end.recv(1 << 18)
        init.send(Kind.STARTED, id=5)
        init.send(Kind.DONE, id=5)
        control.drain()
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_without_descriptors_nothing_waits_to_be_sent(
    pair: Pair, few_descriptors: Callable[[int], None]
) -> None:
    control, _ = pair
    await _fill(control)
    before = len(os.listdir("/proc/self/fd"))
    few_descriptors(2)
    with pytest.raises(OSError, match="Too many open files"):
        await control.ask(Kind.FILE, id=30, fds=(0, 1, 2), timeout_s=5)
    few_descriptors(5)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
async def test_too_many_descriptors_are_refused(pair: Pair) -> None:
    control, _ = pair
    with pytest.raises(WireError, match="FILE was given 9 descriptors, at most 8"):
        await control.ask(Kind.FILE, fds=(0,) * 9, timeout_s=5)


async def _start(control: Control, init: FakeInit, *, id: int) -> tuple[Packet, asyncio.Future[int]]:
    task = asyncio.create_task(control.start(id=id, arguments=(), strings=(), fds=(), timeout_s=5))
    # What was asked before is left unanswered: this process's reply would be taken for it.
    while (await init.receive()).kind is not Kind.RUN:
        pass
    future = control._exits[id]
    task.cancel()
    return Packet(Kind.STARTED, id, (), ()), future
