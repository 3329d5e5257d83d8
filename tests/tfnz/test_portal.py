"""Blocking calls reach the loop and come back, whatever happens to either side."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tfnz.aio.callbacks import in_callback
from tfnz.aio.worker import run_blocking
from tfnz.portal import Portal
from tfnz.protocol.errors import Disconnected, InternalError

PATIENCE_S = 10


@pytest.fixture
def portal() -> Iterator[Portal]:
    running = Portal(lambda core, portal: core)
    yield running
    running.stop()


async def give(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    raise ZeroDivisionError("as asked")


def test_results_and_errors_come_back(portal: Portal) -> None:
    assert portal.call(give(7)) == 7
    with pytest.raises(ZeroDivisionError, match="as asked"):
        portal.call(fail())


def test_many_threads_call_at_once(portal: Portal) -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda n=n: results.append(portal.call(give(n)))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(results, key=str) == sorted(range(20), key=str)


def test_blocking_work_is_done_by_the_caller(portal: Portal) -> None:
    async def work() -> tuple[int, int]:
        return threading.get_ident(), await run_blocking(threading.get_ident)

    loop, worker = portal.call(work())
    assert worker == threading.get_ident() != loop


def test_an_interrupt_returns_at_once_and_cancels(portal: Portal) -> None:
    cancelled = threading.Event()
    caller = threading.get_ident()

    async def hang() -> None:
        try:
            signal.pthread_kill(caller, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(KeyboardInterrupt):
        portal.call(hang())
    assert cancelled.wait(PATIENCE_S)
    assert portal.call(give(1)) == 1


def test_work_for_a_caller_that_was_interrupted_is_done_elsewhere(portal: Portal) -> None:
    done = threading.Event()
    caller = threading.get_ident()
    adopted = portal.adopt(lambda: done.set())
    assert adopted is not None

    async def interrupt_and_call_back() -> None:
        try:
            signal.pthread_kill(caller, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            await adopted()

    with pytest.raises(KeyboardInterrupt):
        portal.call(interrupt_and_call_back())
    assert done.wait(PATIENCE_S)


def test_an_interrupt_in_a_callback_reaches_the_caller(portal: Portal) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    adopted = portal.adopt(interrupted)
    assert adopted is not None
    with pytest.raises(KeyboardInterrupt):
        portal.call(adopted())  # type: ignore[arg-type]  # it is a coroutine
    assert portal.call(give(1)) == 1


def test_a_callback_that_raises_stop_iteration_is_not_waited_for_in_vain(portal: Portal) -> None:
    adopted = portal.adopt(lambda: next(iter(())))
    assert adopted is not None

    async def call_back() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await adopted()

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        portal.call(call_back())
    assert isinstance(caught.value.__cause__, StopIteration)


def test_callbacks_of_nobody_run_on_their_own_thread_in_order(portal: Portal) -> None:
    told: list[tuple[int, str, bool]] = []
    adopted = portal.adopt(lambda n: told.append((n, threading.current_thread().name, in_callback.get())))
    assert adopted is not None
    done = threading.Event()

    async def background() -> None:
        for n in range(3):
            await adopted(n)
        done.set()

    async def start() -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(background())

    task = portal.call(start())
    assert done.wait(PATIENCE_S) and task is not None
    assert told == [(n, "tfnz callbacks", True) for n in range(3)]


def test_a_callback_that_wants_to_end_the_program_ends_nothing(
    portal: Portal, caplog: pytest.LogCaptureFixture
) -> None:
    def leave() -> None:
        raise SystemExit(3)

    adopted = portal.adopt(leave)
    assert adopted is not None
    done = threading.Event()

    async def background() -> None:
        await adopted()
        done.set()

    async def start() -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(background())

    task = portal.call(start())
    assert done.wait(PATIENCE_S) and task is not None
    portal.stop()
    assert "tried to end the program" in caplog.text


@pytest.fixture
def impatient() -> Iterator[None]:
    """A deadlock of the main thread ends."""

    def give_up(*_: object) -> None:
        raise AssertionError("nothing happens any more")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
def test_a_signal_handler_may_post_while_its_thread_does(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that calls `Location.complete`."""
    told: list[str] = []
    call_soon = portal._loop.call_soon_threadsafe

    def be_interrupted(function: Callable[[], object]) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGUSR1)
        call_soon(function)

    monkeypatch.setattr(portal._loop, "call_soon_threadsafe", be_interrupted)
    before = signal.signal(signal.SIGUSR1, lambda *_: portal.post(lambda: told.append("handler")))
    try:
        portal.post(lambda: told.append("program"))
    finally:
        signal.signal(signal.SIGUSR1, before)
    portal.call(give(1))
    assert told == ["handler", "program"]


def test_a_face_is_the_same_to_all_that_make_it_at_once() -> None:
    class Core:
        _face = None

    core = Core()

    def make_face(one: object, portal: Portal) -> object:
        if core._face is None:
            vars(core)["_face"] = "made meanwhile"
        return object()

    portal = Portal(make_face)
    assert portal.face(core) == portal.face(core) == "made meanwhile"
    portal.stop()


def test_a_call_on_the_loop_itself_is_refused(portal: Portal) -> None:
    async def nested() -> object:
        return portal.call(give(1))

    with pytest.raises(InternalError, match="wait for itself"):
        portal.call(nested())


def test_after_the_end_only_what_need_not_wait_is_done(portal: Portal) -> None:
    async def at_once() -> int:
        return 7

    portal.stop()
    assert portal.call(at_once()) == 7
    with pytest.raises(Disconnected, match="make a new Location"):
        portal.call(give(1))
    portal.post(lambda: None)
    portal.stop()


def test_calls_under_way_at_the_end_are_told(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfnz.portal._STOP_TIMEOUT_S", 0.01)
    begun = threading.Event()
    errors: list[BaseException] = []

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            portal.call(hang())
        except Disconnected as exc:
            errors.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(PATIENCE_S)
    portal.stop()
    thread.join(PATIENCE_S)
    assert len(errors) == 1


def test_the_portal_knows_its_process(portal: Portal) -> None:
    assert portal.is_ours
    child = os.fork()
    if child == 0:  # pragma: no cover
        os._exit(1 if portal.is_ours else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_callback_is_none(portal: Portal) -> None:
    assert portal.adopt(None) is None
