"""The daemon is killed and another begins: what the SDK and the gateway make of that, together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.node.gateway.restarting_node import Host
from tfnz import Cause, Exit, NodeRestarted, SessionLost, aio
from tfnz.connection import EAGER_S, RETRY_S
from tfnz.protocol.errors import NotServing
from tfnz.protocol.streams import INITIAL_CREDIT

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])

#: Longer than any pause of a client that wants to come back.
LONG_S = 5.0


@pytest.fixture
def host() -> Host:
    return Host()


@pytest_asyncio.fixture
async def location(host: Host) -> AsyncIterator[aio.Location]:
    host.start()
    async with aio.Location.over(host.connector) as location:
        yield location
    host.kill()


async def settle() -> None:
    """Let everybody come as far as possible; time passes by itself while all wait."""
    await asyncio.sleep(LONG_S)


def restart(host: Host) -> None:
    host.kill()
    host.start()


# --- what goes on


async def test_output_goes_on_where_it_was(host: Host, location: aio.Location) -> None:
    heard = bytearray()
    container = await location.node().spawn("x", stdout_callback=lambda one, data: heard.extend(data))
    main = host.rooms[container.uuid].main
    main.write(b"before ")
    await settle()
    main.write(b"lost in transit ")
    host.kill()
    main.write(b"meanwhile ")
    host.start()
    await settle()
    main.write(b"after")
    await settle()
    assert heard == main.output == b"before lost in transit meanwhile after"
    assert not container.dead


async def test_input_goes_on_where_it_was(host: Host, location: aio.Location) -> None:
    container = await location.node().spawn("x")
    main = host.rooms[container.uuid].main
    await container.stdin(b"before ")
    await settle()
    await container.stdin(b"lost in transit ")
    host.kill()
    writing = asyncio.create_task(container.stdin(b"meanwhile "))
    host.start()
    await settle()
    assert writing.done()
    await container.stdin(b"after")
    container.close_stdin()
    await settle()
    assert main.input == b"before lost in transit meanwhile after"
    assert main.input_over


async def test_what_the_daemon_had_and_its_keeper_had_not_is_sent_again(
    host: Host, location: aio.Location
) -> None:
    """It was acknowledged when it arrived, and not yet in safety."""
    container = await location.node().spawn("x")
    main = host.rooms[container.uuid].main
    await container.stdin(b"first ")
    await settle()
    assert main.input == b"first "
    # As if it had died with this in its memory.
    del main.input[3:]
    main.taken = 3
    restart(host)
    await settle()
    assert main.input == b"first "


async def test_the_end_of_the_input_is_told_again(host: Host, location: aio.Location) -> None:
    container = await location.node().spawn("x")
    process = await container.spawn("cat")
    program = host.rooms[container.uuid].programs[process.uuid]
    await process.stdin(b"all")
    process.close_stdin()
    restart(host)
    await settle()
    assert (bytes(program.input), program.input_over) == (b"all", True)
    restart(host)
    await settle()
    assert (bytes(program.input), program.input_over) == (b"all", True)
    assert not process.dead


async def test_input_that_nobody_reads_holds_up_its_writer_after_restarts_too(
    host: Host, location: aio.Location
) -> None:
    container = await location.node().spawn("x")
    main = host.rooms[container.uuid].main
    main.reads = False
    content = bytes(range(256)) * 4096
    writing = asyncio.create_task(container.stdin(content, timeout_s=None))
    for _ in range(4):
        await settle()
        assert len(main.input) == INITIAL_CREDIT, "no more than was granted, however often"
        restart(host)
    await settle()
    assert not writing.done()
    main.reads = True
    main.take()
    await asyncio.wait_for(writing, LONG_S)
    await settle()
    assert main.input == content


async def test_a_slow_reader_holds_up_the_output_after_restarts_too(
    host: Host, location: aio.Location
) -> None:
    release = asyncio.Event()
    heard = bytearray()

    async def listen(one: object, data: bytes) -> None:
        await release.wait()
        heard.extend(data)

    container = await location.node().spawn("x", stdout_callback=listen)
    main = host.rooms[container.uuid].main
    main.write(bytes(range(256)) * 4096)
    for _ in range(3):
        await settle()
        [view] = host.daemon.resyncs[-1].containers if host.daemon and host.daemon.resyncs else [None]
        if view is not None:
            assert view.streams.stdout is not None
            assert (view.streams.stdout.received, view.streams.stdout.credit) == (INITIAL_CREDIT, 0)
        restart(host)
    release.set()
    await settle()
    assert heard == main.output


async def test_an_end_is_told_once_whenever_it_came(host: Host, location: aio.Location) -> None:
    ends: list[tuple[str, int]] = []
    containers = [
        await location.node().spawn("x", termination_callback=lambda one, code: ends.append((one.uuid, code)))
        for _ in range(4)
    ]
    mains = [host.rooms[one.uuid].main for one in containers]
    mains[0].end(Exit(Cause.EXITED, 0))
    await settle()
    mains[1].end(Exit(Cause.EXITED, 1))  # told, and lost on its way
    host.kill()
    mains[2].end(Exit(Cause.EXITED, 2))
    host.start()
    await settle()
    mains[3].end(Exit(Cause.EXITED, 3))
    await settle()
    restart(host)
    await settle()
    assert ends == [(one.uuid, code) for code, one in enumerate(containers)]
    assert host.rooms == {}, "who has heard of an end has the node forget it"


async def test_a_process_goes_on_and_its_end_is_told_once(host: Host, location: aio.Location) -> None:
    heard = bytearray()
    ends: list[int] = []
    container = await location.node().spawn("x")
    process = await container.spawn(
        "cat", lambda one, data: heard.extend(data), lambda one, code: ends.append(code)
    )
    program = host.rooms[container.uuid].programs[process.uuid]
    host.kill()
    program.write(b"meanwhile")
    program.end(Exit(Cause.EXITED, 7))
    host.start()
    assert (await process.wait(LONG_S)).code == 7
    restart(host)
    await settle()
    assert (bytes(heard), ends) == (b"meanwhile", [7])


async def test_whoever_waits_goes_on_waiting(host: Host, location: aio.Location) -> None:
    container = await location.node().spawn("x")
    waiting = asyncio.create_task(container.wait())
    running = asyncio.create_task(location.run())
    for _ in range(3):
        restart(host)
        await settle()
    assert not waiting.done() and not running.done()
    host.rooms[container.uuid].main.end(Exit(Cause.EXITED, 5))
    assert (await asyncio.wait_for(waiting, LONG_S)).code == 5
    location.complete()
    await running


async def test_one_that_was_not_ready_becomes_so(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    host.daemon.boots.clear()
    container = await location.node().spawn("x")
    await settle()
    assert not container.is_ready()
    restart(host)
    await container.wait_until_ready(LONG_S)
    await settle()
    restart(host)
    await settle()
    assert host.daemon is not None
    assert [one.ready for one in host.daemon.resyncs[0].containers] == [True]


async def test_what_the_next_daemon_does_not_know_is_lost(host: Host, location: aio.Location) -> None:
    ends: list[object] = []
    container = await location.node().spawn("x", termination_callback=lambda one, code: ends.append(one))
    other = await location.node().spawn("x")
    process = await other.spawn("cat", None, lambda one, code: ends.append(one))
    await settle()
    host.kill()
    del host.rooms[container.uuid]
    del host.rooms[other.uuid].programs[process.uuid]
    host.start()
    await settle()
    for one in (container, process):
        assert one.exit is not None
        assert (one.exit.cause, "restarted" in one.exit.message) == (Cause.NODE_LOST, True)
    assert set(ends) == {container, process} and len(ends) == 2
    assert not other.dead


async def test_what_was_to_be_destroyed_and_is_not_known_any_more_was_destroyed(
    host: Host, location: aio.Location
) -> None:
    """As when the daemon is killed between the end and the answer."""
    container = await location.node().spawn("x")
    other = await location.node().spawn("x")
    process = await other.spawn("cat")
    await settle()
    host.kill()
    endings = [asyncio.create_task(one.destroy()) for one in (container, process)]
    await settle()
    del host.rooms[container.uuid]
    del host.rooms[other.uuid].programs[process.uuid]
    host.start()
    await asyncio.gather(*endings)
    assert container.exit == process.exit == Exit(Cause.DESTROYED)


async def test_a_session_that_the_next_daemon_does_not_know_is_lost(
    host: Host, location: aio.Location
) -> None:
    container = await location.node().spawn("x")
    host.kill()
    for entry in host.book.entries():
        host.book.delete(entry.record.id)
    host.start()
    assert (await container.wait(LONG_S)).cause is Cause.SESSION_GONE
    with pytest.raises(SessionLost):
        await location.run()


async def test_the_next_daemon_is_found_at_once_and_not_looked_for_without_end(
    host: Host, location: aio.Location
) -> None:
    pause, longest = RETRY_S
    host.kill()
    await asyncio.sleep(EAGER_S)
    assert EAGER_S / pause * 0.9 < host.refused <= EAGER_S / pause + 1
    host.refused = 0
    await asyncio.sleep(20 * longest)
    assert 20 <= host.refused < 40
    host.start()
    await location.containers()


# --- calls that are under way


async def test_a_command_under_way_fails_and_says_why(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    container = await location.node().spawn("x")
    await container.wait_until_ready()
    host.daemon.gate.clear()
    running = asyncio.create_task(container.run("true", input=b"some"))
    await settle()
    assert "RunProcess" in host.served
    restart(host)
    with pytest.raises(NodeRestarted, match=f"command in container {container.uuid}.*may have been done"):
        await running
    assert (await container.run("true")).exit_code == 0
    assert host.served.count("RunProcess") == 2


async def test_a_spawn_under_way_fails_and_is_undone(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    other = await location.node().spawn("x")
    await other.wait_until_ready()
    host.daemon.gate.clear()
    spawning = [
        asyncio.create_task(location.node().spawn("x")),
        asyncio.create_task(other.spawn("cat")),
    ]
    await settle()
    assert len(host.rooms) == 2 and host.rooms[other.uuid].programs
    restart(host)
    for task in spawning:
        with pytest.raises(NodeRestarted):
            await task
    await settle()
    assert list(host.rooms) == [other.uuid]
    assert host.rooms[other.uuid].programs == {}
    assert location.node().all_containers() == [other]


async def test_a_file_under_way_fails(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    container = await location.node().spawn("x")
    host.daemon.gate.clear()
    putting = asyncio.create_task(container.put("/x", b"x" * 3 * INITIAL_CREDIT))
    await settle()
    assert "PutFile" in host.served
    restart(host)
    with pytest.raises(NodeRestarted):
        await putting
    await container.put("/x", b"y" * 3 * INITIAL_CREDIT)
    assert host.files["/x"] == b"y" * 3 * INITIAL_CREDIT


async def test_what_may_be_asked_twice_is_asked_again(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    container = await location.node().spawn("x")
    ended = await location.node().spawn("x")
    await ended.wait_until_ready()
    host.daemon.gate.clear()
    listing = asyncio.create_task(location.containers())
    ending = asyncio.create_task(ended.destroy())
    await settle()
    assert {"ListContainers", "DestroyContainer"} <= set(host.served)
    restart(host)
    await ending
    assert ended.exit == Exit(Cause.DESTROYED)
    assert container.uuid in [one.container for one in await listing]


async def test_what_is_asked_while_there_is_no_daemon_waits_for_the_next(
    host: Host, location: aio.Location
) -> None:
    container = await location.node().spawn("x")
    await container.wait_until_ready()
    host.kill()
    await settle()
    heard = bytearray()
    spawn = location.node().spawn("x", stdout_callback=lambda one, data: heard.extend(data))
    spawning = asyncio.create_task(spawn)
    running = asyncio.create_task(container.run("true", input=b"some"))
    putting = asyncio.create_task(container.put("/x", b"content"))
    await settle()
    host.start()
    spawned = await spawning
    await spawned.wait_until_ready()
    assert (await running).exit_code == 0
    await putting
    assert host.files["/x"] == b"content"
    assert host.served.count("SpawnContainer") == 2
    main = host.rooms[spawned.uuid].main
    main.write(b"out")
    await spawned.stdin(b"in")
    await settle()
    assert (bytes(heard), bytes(main.input)) == (b"out", b"in")


async def test_what_is_asked_while_both_find_out_waits_through_a_further_restart(
    host: Host, location: aio.Location
) -> None:
    container = await location.node().spawn("x")
    await container.wait_until_ready()
    host.kill()
    host.start().gate.clear()
    await settle()
    assert host.daemon and host.daemon.resyncs
    putting = asyncio.create_task(container.put("/x", b"content"))
    await container.stdin(b"")
    writing = asyncio.create_task(container.stdin(b"input"))
    await settle()
    assert "PutFile" not in host.served
    restart(host)
    await putting
    await writing
    await settle()
    assert host.files["/x"] == b"content"
    assert host.rooms[container.uuid].main.input == b"input"


async def test_a_request_given_up_while_there_is_no_daemon_is_undone(
    host: Host, location: aio.Location
) -> None:
    host.kill()
    await settle()
    spawning = asyncio.create_task(location.node().spawn("x"))
    await settle()
    spawning.cancel()
    await asyncio.gather(spawning, return_exceptions=True)
    host.start()
    await settle()
    assert host.rooms == {} or all(room.main.exit is not None for room in host.rooms.values())


# --- tunnels and what belongs to other sessions


async def test_a_connection_is_cut_off_and_its_tunnel_goes_on(host: Host, location: aio.Location) -> None:
    container = await location.node().spawn("x")
    await container.wait_until_ready()
    inflow, outflow = await container._connect(80)
    heard: list[object] = []
    inflow.attach(heard.append, heard.append)
    outflow.write(b"hello")
    await settle()
    assert heard == [b"hello"]
    restart(host)
    await settle()
    assert len(heard) == 2 and heard[1] is not None, "an end with an error"
    assert outflow.ended
    await container.wait_tcp(80)


async def test_a_connection_that_is_being_made_is_made_anew(host: Host, location: aio.Location) -> None:
    assert host.daemon is not None
    container = await location.node().spawn("x")
    await container.wait_until_ready()
    host.daemon.gate.clear()
    waiting = asyncio.create_task(container.wait_tcp(80, timeout_s=30))
    await settle()
    assert "OpenConnection" in host.served
    restart(host)
    await waiting
    host.daemon.gate.clear()
    with pytest.raises(NotServing):
        await container.wait_tcp(80, timeout_s=1)


async def test_the_ends_of_others_are_told_to_who_has_asked(host: Host, location: aio.Location) -> None:
    async with aio.Location.over(host.connector) as other:
        watched = await other.node().spawn("x")
        lost = await other.node().spawn("x")
        external = await location.external_container(watched.uuid)
        gone = await location.external_container(lost.uuid)
        assert external is not gone
        host.kill()
        del host.rooms[lost.uuid]
        host.start()
        await settle()
        assert not external.dead
        assert gone.exit is not None and gone.exit.cause is Cause.NODE_LOST
        assert host.daemon is not None
        assert [one.watching for one in host.daemon.resyncs if one.watching] == [[watched.uuid, lost.uuid]]
