"""The daemon is killed at any moment, and any number of times: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import queue
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.gateway.conftest import JumpingLoop
from tests.node.gateway.restarting_node import PATIENCE_S, Host
from tfnz import Cause, Exit, Location, NodeRestarted, aio

#: Longer than any pause of a client that wants to come back.
LONG_S = 5.0

_STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 12)),
    st.tuples(st.just("kill"), st.integers(0, 1)),
    st.tuples(st.just("break"), st.just(0)),
    st.tuples(st.just("write"), st.integers(1, 100_000)),
    st.tuples(st.just("input"), st.integers(1, 100_000)),
    st.tuples(st.just("take"), st.just(0)),
    st.tuples(st.just("spawn"), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 3)),
)


@given(st.lists(_STEPS, max_size=40))
@settings(deadline=None, max_examples=60)
def test_whenever_it_is_killed_nothing_is_lost_or_doubled(steps: list[tuple[str, int]]) -> None:
    loop = JumpingLoop()
    try:
        loop.run_until_complete(_go_through(steps))
    finally:
        loop.close()


async def _go_through(steps: list[tuple[str, int]]) -> None:
    host = Host()
    host.start()
    heard = bytearray()
    ends: list[object] = []
    async with aio.Location.over(host.connector) as location:
        container = await location.node().spawn("x")
        process = await container.spawn("cat", lambda one, data: heard.extend(data))
        program = host.rooms[container.uuid].programs[process.uuid]
        program.reads = False
        given = b""
        writing: list[asyncio.Task[None]] = []
        spawning: list[asyncio.Task[aio.Container]] = []
        for number, (step, count) in enumerate(steps):
            match step:
                case "wait":
                    for _ in range(count):
                        await asyncio.sleep(0)
                case "kill":
                    host.kill()
                    for _ in range(count):
                        await asyncio.sleep(0.1)
                    host.start()
                case "break":
                    assert host.daemon is not None
                    host.daemon.break_links()
                case "write":
                    program.write(number.to_bytes(2, "big") * count)
                case "input":
                    content = number.to_bytes(2, "big") * count
                    given += content
                    writing.append(asyncio.create_task(process.stdin(content, timeout_s=None)))
                case "take":
                    program.take()
                case "spawn":
                    spawn = location.node().spawn(
                        "x", termination_callback=lambda one, code: ends.append(one)
                    )
                    spawning.append(asyncio.create_task(spawn))
                case _:
                    rooms = [room for room in host.rooms.values() if room.id != container.uuid]
                    if rooms:
                        rooms[count % len(rooms)].main.end(Exit(Cause.EXITED, 0))
        program.reads = True
        for _ in range(10):
            program.take()
            await asyncio.sleep(0.2)
        await asyncio.gather(*writing)
        spawned = await asyncio.gather(*spawning, return_exceptions=True)
        await asyncio.sleep(LONG_S)
        assert heard == program.output
        assert program.input == given
        made = [one for one in spawned if isinstance(one, aio.Container)]
        assert all(isinstance(one, aio.Container | NodeRestarted) for one in spawned)
        assert set(host.rooms) == {container.uuid, *(one.uuid for one in made if not one.dead)}
        assert len(ends) == len(set(ends)) == len([one for one in made if one.dead])
        assert all(one.exit == Exit(Cause.EXITED, 0) for one in made if one.dead)
    host.kill()


def test_a_blocking_program_goes_on_and_hears_of_what_failed() -> None:
    host = Host()
    host.start()
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    ends: list[int] = []
    with Location.over(host.connector) as location:
        container = location.node().spawn(
            "x",
            stdout_callback=lambda one, data: heard.put(data),
            termination_callback=lambda one, code: ends.append(code),
        )
        container.wait_until_ready()
        main = host.rooms[container.uuid].main

        def hold_up() -> None:
            assert host.daemon is not None
            host.daemon.gate.clear()

        def restart_during_a_command() -> None:
            host.kill()
            main.write(b"meanwhile")
            host.start()

        host.do(hold_up)
        failed: queue.SimpleQueue[Exception] = queue.SimpleQueue()

        def run() -> None:
            try:
                container.run("true")
            except NodeRestarted as exc:
                failed.put(exc)

        running = threading.Thread(target=run)
        running.start()
        host.wait_for("RunProcess")
        host.do(restart_during_a_command)
        assert "may have been done" in str(failed.get(timeout=PATIENCE_S))
        running.join()
        assert heard.get(timeout=PATIENCE_S) == b"meanwhile"
        container.stdin(b"input")
        assert container.run("true").exit_code == 0
        host.do(lambda: main.end(Exit(Cause.EXITED, 3)))
        assert container.wait(PATIENCE_S).code == 3
        assert (bytes(main.input), ends) == (b"input", [3])
    host.kill()
