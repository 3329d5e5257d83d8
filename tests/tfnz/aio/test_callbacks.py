"""Callbacks run one at a time, in order, and those that somebody takes run there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tfnz.aio.callbacks import Callbacks, Line, in_callback

pytestmark = pytest.mark.asyncio
errors: list[Exception] = []


@pytest_asyncio.fixture
async def callbacks() -> AsyncIterator[Callbacks]:
    errors.clear()
    running = Callbacks(errors.append)
    running.start()
    yield running
    running.stop()


async def drain(callbacks: Callbacks, line: Line) -> None:
    done = asyncio.Event()
    callbacks.post(line, done.set)
    async with asyncio.timeout(10):
        await done.wait()


async def test_calls_run_in_order_over_all_lines(callbacks: Callbacks) -> None:
    told: list[int] = []
    one, two = Line(), Line()
    for n in range(10):
        callbacks.post(one if n % 3 else two, told.append, n)
    await drain(callbacks, one)
    assert told == list(range(10))


async def test_one_at_a_time_also_when_they_are_coroutines(callbacks: Callbacks) -> None:
    running: list[int] = []
    most: list[int] = []

    async def slow(n: int) -> None:
        running.append(n)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(n)

    line = Line()
    for n in range(5):
        callbacks.post(Line(), slow, n)
    callbacks.post(line, slow, 9)
    await drain(callbacks, line)
    assert most == [1] * 6


async def test_a_callback_that_meets_a_cancelled_task_has_failed_like_others(callbacks: Callbacks) -> None:
    async def meet() -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    line = Line()
    callbacks.post(line, meet)
    await drain(callbacks, line)
    assert [str(error) for error in errors] == ["a callback awaited something that was cancelled"]


async def test_what_escapes_is_reported_and_the_rest_goes_on(callbacks: Callbacks) -> None:
    told: list[str] = []
    line = Line()
    callbacks.post(line, lambda: 1 / 0, then=lambda: told.append("then"))
    callbacks.post(line, told.append, "next")
    await drain(callbacks, line)
    assert told == ["then", "next"] and isinstance(errors[0], ZeroDivisionError)


async def test_a_taker_runs_what_waits_and_what_comes(callbacks: Callbacks) -> None:
    told: list[tuple[int, object]] = []
    line = Line()
    me = asyncio.current_task()
    until = asyncio.get_running_loop().create_future()

    def tell(n: int) -> None:
        told.append((n, asyncio.current_task() is me))

    callbacks.post(line, tell, 1)
    asyncio.get_running_loop().call_soon(callbacks.post, line, tell, 2)
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(until.set_result, None))
    await callbacks.take(line, until)
    assert told == [(1, True), (2, True)]
    callbacks.post(line, tell, 3)
    await drain(callbacks, line)
    assert told[2] == (3, False)


async def test_a_taker_inside_a_callback_does_not_wait_for_itself(callbacks: Callbacks) -> None:
    told: list[str] = []
    one, two = Line(), Line()

    async def outer() -> None:
        assert in_callback.get()
        callbacks.post(two, told.append, "inner")
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        await callbacks.take(two, done)
        told.append("outer")

    callbacks.post(one, outer)
    await drain(callbacks, one)
    assert told == ["inner", "outer"]
    assert not in_callback.get()


class Slow:
    """A call that has begun, and does not end before it may."""

    def __init__(self, told: list[str]) -> None:
        self._told = told
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.begun.set()
        await self.go_on.wait()
        self._told.append("first")


async def test_a_taker_keeps_the_order_when_a_call_has_begun(callbacks: Callbacks) -> None:
    told: list[str] = []
    line, slow = Line(), Slow(told)
    callbacks.post(line, slow)
    callbacks.post(line, told.append, "second")
    await slow.begun.wait()
    until = asyncio.get_running_loop().create_future()
    takers = [
        asyncio.create_task(callbacks.take(line, until)),
        asyncio.create_task(callbacks.take_all(until)),
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == []
    slow.go_on.set()
    callbacks.post(line, until.set_result, None)
    async with asyncio.timeout(10):
        await asyncio.gather(*takers)
    assert told == ["first", "second"]


@pytest.mark.parametrize("all_lines", [False, True])
async def test_a_taker_does_not_wait_for_who_may_wait_for_it(callbacks: Callbacks, all_lines: bool) -> None:
    """What is urgent is told at once; the rest comes in its order, ends of others too."""
    told: list[str] = []
    line, slow = Line(), Slow(told)
    callbacks.post(line, slow)
    callbacks.post(line, told.append, "second")
    callbacks.post(line, told.append, "end of another")
    callbacks.post(line, told.append, "end", urgent=True)
    await slow.begun.wait()
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    async with asyncio.timeout(10):
        await (callbacks.take_all(done) if all_lines else callbacks.take(line, done))
    assert told == ["end"]
    slow.go_on.set()
    await drain(callbacks, line)
    assert told == ["end", "first", "second", "end of another"]


async def test_a_taker_that_gives_up_leaves_calls_to_the_background(callbacks: Callbacks) -> None:
    told: list[int] = []
    line = Line()
    never = asyncio.get_running_loop().create_future()
    taker = asyncio.create_task(callbacks.take(line, never))
    await asyncio.sleep(0)
    taker.cancel()
    callbacks.post(line, told.append, 1)
    await asyncio.gather(taker, return_exceptions=True)
    await drain(callbacks, line)
    assert told == [1]


async def test_all_can_be_taken_in_order(callbacks: Callbacks) -> None:
    told: list[int] = []
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    for n in range(5):
        callbacks.post(Line(), told.append, n)
    await callbacks.take_all(done)
    assert told == [0, 1, 2, 3, 4]


async def test_what_takers_leave_is_kept_once_and_in_its_order(callbacks: Callbacks) -> None:
    """However many of them come and go meanwhile."""
    told: list[str] = []
    line, other, slow = Line(), Line(), Slow(told)
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    callbacks.post(line, slow)
    await slow.begun.wait()
    for n in range(10):
        callbacks.post(other if n % 3 == 0 else line, told.append, str(n))
    async with asyncio.timeout(10):
        for _ in range(10):
            await callbacks.take(line, done)
    assert len(callbacks._ready) == 2
    slow.go_on.set()
    await drain(callbacks, line)
    assert told == ["first", *map(str, range(10))]
    assert not callbacks._ready


async def test_a_line_that_was_taken_has_no_turn_before_its_time(callbacks: Callbacks) -> None:
    told: list[int] = []
    one, two = Line(), Line()
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    callbacks.post(one, told.append, 1)
    callbacks.post(two, told.append, 2)
    await callbacks.take(one, done)
    callbacks.post(one, told.append, 3)
    await drain(callbacks, one)
    assert told == [1, 2, 3]


async def test_the_end_comes_when_nothing_waits(callbacks: Callbacks) -> None:
    """Nothing that has begun is cut short, and what takers leave after it is called too."""
    told: list[str] = []
    line, other, slow = Line(), Line(), Slow(told)
    callbacks.post(line, slow)
    callbacks.post(line, told.append, "second")
    callbacks.post(other, told.append, "other")
    await slow.begun.wait()
    taker = asyncio.create_task(callbacks.take(other, asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    callbacks.stop()
    slow.go_on.set()
    await drain(callbacks, line)
    assert told == ["other", "first", "second"]
    assert callbacks.rest is not None and not callbacks.rest.done()
    taker.cancel()
    callbacks.post(other, told.append, "left")
    async with asyncio.timeout(10):
        await callbacks.rest
    assert told == ["other", "first", "second", "left"]
