"""Further processes through the blocking face."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import pytest

from tfnz import Cause, CommandNotFound, Container, Exit, Location, ObjectDead, Process, TimedOut
from tfnz.aio import process as process_module
from tfnz.protocol.messages import DestroyProcess, ResizeProcess, SignalProcess, StartProcess

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


@pytest.fixture
def container(location: Location) -> Container:
    return location.node().spawn("busybox")


def test_a_process_knows_who_it_is(container: Container) -> None:
    process = container.spawn("sleep")
    assert process.parent() is container
    assert container.all_processes() == [process] and container.processes == {process.uuid: process}
    assert [process.dead, process.exit, process.bail_if_dead()] == [False, None, False]
    process.destroy()
    assert [process.dead, process.bail_if_dead(), container.all_processes()] == [True, True, []]
    with pytest.raises(ObjectDead, match="has ended: destroyed"):
        process.ensure_alive()


def test_output_by_loop(scripted: ScriptedNode, container: Container) -> None:
    process = container.spawn("cat")
    process.stdin(b"x" * 700_000)
    process.close_stdin()
    assert b"".join(process) == b"x" * 700_000
    assert process.wait() == Exit(Cause.EXITED, 0)
    assert list(process) == []


def test_callbacks_get_the_object_that_spawn_returned(scripted: ScriptedNode, container: Container) -> None:
    told: queue.SimpleQueue[tuple[object, object]] = queue.SimpleQueue()

    def tell(one: Process, what: object) -> None:
        told.put((one, what))

    process = container.spawn_process("sleep", tell, tell, tell)
    streams = scripted.processes[process.uuid][1]
    scripted.do(lambda: scripted.write(streams.stdout, b"out"))
    scripted.do(lambda: scripted.write(streams.stderr, b"err"))
    scripted.do(lambda: scripted.end_process(process.uuid, Exit(Cause.EXITED, 3)))
    assert [told.get(timeout=10) for _ in range(3)] == [(process, b"out"), (process, b"err"), (process, 3)]
    assert [process.data_callback, process.stderr_callback, process.termination_callback] == [tell] * 3
    process.data_callback = process.stderr_callback = process.termination_callback = None
    container.destroy_process(process)
    assert told.empty()


def test_what_cannot_be_started_is_said(container: Container) -> None:
    with pytest.raises(CommandNotFound):
        container.spawn(["nonsense"])
    assert container.all_processes() == []


def test_signals_sizes_and_shells(scripted: ScriptedNode, container: Container) -> None:
    shell = container.spawn_shell(echo=True, size=(100, 40))
    request = scripted.find(StartProcess)[0]
    assert request.login_shell and request.pty and request.interactive and request.streams.stderr == 0
    assert (request.size.columns, request.env) == (100, [("TERM", "xterm")])
    shell.signal(15)
    shell.resize(10, 20)
    assert scripted.find(SignalProcess)[0].number == 15
    assert scripted.find(ResizeProcess)[0].size.rows == 20


def test_a_destroyed_process_tells_on_the_calling_thread(container: Container) -> None:
    ends: list[tuple[object, int, int]] = []
    process = container.spawn(
        "sleep", termination_callback=lambda one, code: ends.append((one, code, threading.get_ident()))
    )
    container.destroy_process(process)
    assert ends == [(process, 0, threading.get_ident())]
    with pytest.raises(ValueError, match="has ended"):
        process.stdin(b"x")


def test_a_first_destroy_after_the_end_is_harmless(scripted: ScriptedNode, container: Container) -> None:
    process = container.spawn("sleep")
    scripted.do(lambda: scripted.end_process(process.uuid, Exit(Cause.EXITED, 0)))
    process.wait(10)
    container.destroy_process(process)
    assert scripted.find(DestroyProcess) == []


def test_empty_input_closes_and_then_ends(
    scripted: ScriptedNode, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    cat = container.spawn("cat")
    cat.stdin(b"")
    assert cat.wait(10) == Exit(Cause.EXITED, 0)
    monkeypatch.setattr(process_module, "_EMPTY_INPUT_GRACE_S", 0.01)
    monkeypatch.setattr(scripted, "end_process", lambda *_: None)
    stubborn = container.spawn("cat")
    stubborn.stdin(b"")
    assert stubborn.wait(10).cause is Cause.DESTROYED
    assert scripted.find(DestroyProcess)[0].process == stubborn.uuid


def test_input_that_nobody_reads(scripted: ScriptedNode, container: Container) -> None:
    process = container.spawn("sleep")
    scripted.grant = False
    with pytest.raises(TimedOut, match="did not read"):
        process.stdin(b"x" * 700_000, timeout_s=0.01)
    with pytest.raises(TimeoutError, match="has not ended"):
        process.wait(0.01)
    process.close_stdin()


def test_a_callback_that_comes_late_gets_what_has_waited(
    scripted: ScriptedNode, container: Container
) -> None:
    """Less than would be thrown away, and too much for the rest of what the node may send to be used up."""
    process = container.spawn("sleep")
    streams = scripted.processes[process.uuid][1]
    content = bytes(range(256)) * 800 + b"x" * 700_000
    scripted.do(lambda: scripted.write(streams.stdout, content[: 256 * 800]))
    container.run("true")  # it has all come
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    process.data_callback = lambda one, data: told.put(data)
    scripted.do(lambda: scripted.write(streams.stdout, content[256 * 800 :]))
    received = b""
    while len(received) < len(content):
        received += told.get(timeout=10)
    assert received == content


def test_output_without_a_reader_does_not_stop_the_others(
    scripted: ScriptedNode, container: Container
) -> None:
    process = container.spawn("sleep")
    scripted.do(lambda: scripted.write(scripted.processes[process.uuid][1].stdout, b"x" * 10_000_000))
    assert container.run("true").exit_code == 0
    container.destroy()
    assert process.wait().cause is Cause.CONTAINER_ENDED
