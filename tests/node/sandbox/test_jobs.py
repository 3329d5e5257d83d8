"""A job's end, and in which order those who wait for it hear of it."""

from __future__ import annotations

import asyncio

import pytest

from tfnz_node.sandbox.jobs import Job

KILLED = 9


@pytest.mark.asyncio
async def test_who_waits_for_a_process_hears_after_those_whom_another_end_calls() -> None:
    """An init that is killed takes all with it at once, and only the end of the main process says that it is over."""
    loop = asyncio.get_running_loop()
    ends = [loop.create_future(), loop.create_future()]
    main, other = (Job(number, 0, ended) for number, ended in enumerate(ends, 1))
    heard: list[str] = []
    main.call_when_ended(lambda _: heard.append("main"))

    async def wait_for_other() -> None:
        assert await other.wait() == KILLED
        heard.append("other")

    # It is about to wait, and does so in the turn in which the ends have come.
    waiting = asyncio.create_task(wait_for_other())
    for ended in ends:
        ended.set_result(KILLED)
    await waiting
    assert heard == ["main", "other"]
