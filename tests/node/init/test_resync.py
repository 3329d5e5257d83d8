"""A second daemon on the same socket: it hears what the first one may have missed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tfnz_node.sandbox.control import InitGone
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.jobs import RunRequest

if TYPE_CHECKING:
    from tests.node.init.conftest import Box

pytestmark = pytest.mark.asyncio
PATH = b"PATH=/usr/bin:/bin"


def succeed(init: InitProcess) -> InitProcess:
    """The first daemon is gone, and another has what the keeper held."""
    fds = {name: os.dup(fd) for name, fd in init.fds().items()}
    # As the kernel closes a dead daemon's: nothing is said.
    asyncio.get_running_loop().remove_reader(init.pidfd)
    os.close(init.pidfd)
    init.pidfd = -1
    init.close()
    # For whoever made it, and waits for it.
    init._ended.set_result(signal.SIGKILL)
    return InitProcess.adopt(fds, pid=init.pid, id_base=init.id_base)


async def end(init: InitProcess) -> None:
    init.kill()
    await init.ended()
    init.close()


def words(*argv: str, number: int, kept: bool = True) -> RunRequest:
    return RunRequest(id=number, argv=[word.encode() for word in argv], env=(PATH,), kept=kept)


async def test_what_runs_and_what_has_ended_is_told(box: Box) -> None:
    first = box.init
    long = await first.run(words("sleep", "1000", number=11))
    short = await first.run(words("sh", "-c", "exit 7", number=12))
    loose = await first.run(words("true", number=13, kept=False))
    assert os.waitstatus_to_exitcode(await short.wait()) == 7
    await loose.wait()
    second = succeed(first)
    assert await second.resync() == ({11}, {12})
    assert os.waitstatus_to_exitcode(await second.adopt_job(12, {}).wait()) == 7
    # It was not said to be forgotten, so the next hears of it again.
    third = succeed(second)
    assert await third.resync() == ({11}, {12})
    third.forget(12)
    fourth = succeed(third)
    assert await fourth.resync() == ({11}, set())
    fourth.kill_and_forget(11)
    assert os.WTERMSIG(await fourth.adopt_job(11, {}).wait()) == signal.SIGKILL
    fifth = succeed(fourth)
    assert await fifth.resync() == (set(), set())
    for job in (long, short, loose):
        job.close()
    await end(fifth)


async def test_what_was_on_its_way_to_the_first_is_dropped(box: Box) -> None:
    """Answers with descriptors and ends, in a socket that nobody has read."""
    first = box.init
    asyncio.get_running_loop().remove_reader(first.fds()["control"])
    asked = [asyncio.create_task(first.begin(words("sh", "-c", "exit 3", number=n))) for n in range(20, 30)]
    await asyncio.sleep(0)
    second = succeed(first)
    await asyncio.gather(*asked, return_exceptions=True)
    ends = set()
    running, ended = await second.resync()
    assert running | ended == set(range(20, 30))
    for number in range(20, 30):
        ends.add(os.waitstatus_to_exitcode(await second.adopt_job(number, {}).wait()))
    assert ends == {3}
    job = await second.run(words("true", number=31))
    assert os.waitstatus_to_exitcode(await job.wait()) == 0
    job.close()
    await end(second)


async def test_hundreds_of_ends_wait_for_a_daemon(box: Box) -> None:
    first = box.init
    jobs = [await first.begin(words("sleep", "0.2", number=n)) for n in range(100, 400)]
    second = succeed(first)
    third = succeed(second)
    for job in jobs:
        job.close()
    running, ended = await third.resync()
    assert running | ended == set(range(100, 400))
    for number in range(100, 400):
        assert await third.adopt_job(number, {}).wait() == 0
    await end(third)


async def test_a_process_that_init_does_not_know_has_ended_with_its_container(box: Box) -> None:
    second = succeed(box.init)
    await second.resync()
    assert await second.adopt_job(77, {}).wait() == signal.SIGKILL
    await end(second)


async def test_an_init_that_is_dead_is_found_to_be(box: Box) -> None:
    first = box.init
    os.kill(first.pid, signal.SIGKILL)
    second = succeed(first)
    with pytest.raises(InitGone):
        await second.resync()
    await second.ended()
    assert not second.alive
    second.close()


async def test_of_an_init_that_ends_nothing_is_handed_on(box: Box) -> None:
    """Its descriptors are closed by then, or another's: the keeper would refuse them, or hold what is not its own."""
    init = box.init
    assert init.fds()
    init.close()
    assert init.alive, "that it has ended is not known yet"
    assert init.fds() == {}
    await init.ended()
    assert init.fds() == {}


async def test_the_number_of_one_that_has_ended_is_free_once_it_is_forgotten(box: Box) -> None:
    """A main process has the same number each time that it is started."""
    first = box.init
    job = await first.run(words("sh", "-c", "exit 7", number=1))
    assert os.waitstatus_to_exitcode(await job.wait()) == 7
    job.close()
    second = succeed(first)
    assert await second.resync() == (set(), {1})
    second.forget(1)
    again = await second.run(words("sh", "-c", "exit 8", number=1))
    assert os.waitstatus_to_exitcode(await again.wait()) == 8
    again.close()
    third = succeed(second)
    assert await third.resync() == (set(), {1})
    await end(third)
