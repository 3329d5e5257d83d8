"""Containers through the blocking face."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING

import pytest

from tfnz import (
    CommandNotFound,
    Container,
    Disconnected,
    ImageNotFound,
    Location,
    ObjectDead,
    PathNotFound,
    PathRefused,
    ProcessFailed,
    ProcessNotFound,
    Result,
    TimedOut,
)
from tfnz.protocol.errors import describe_error
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    Cancel,
    DestroyContainer,
    DestroyProcess,
    RebootContainer,
    ResizeContainer,
    SignalContainer,
    SpawnContainer,
    StartContainer,
    StartProcess,
)

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


def test_a_container_knows_who_it_is(location: Location) -> None:
    container = location.node().spawn("busybox", env={"A": "b"}, tag="Web")
    assert container.wait_until_ready() is container
    assert (container.ip, container.private_ip(), container.image) == ("10.200.0.7", "10.200.0.7", "busybox")
    assert (container.tag, container.env, container.docker_config) == ("web", [("A", "b")], {"Cmd": ["x"]})
    assert container.parent() is container.node() is location.node()
    assert container.location() is location
    assert location.node().all_containers() == [container]
    assert location.node().containers == {container.uuid: container}
    assert not container.dead and not container.bail_if_dead() and container.is_ready()


def test_run_gives_output_errors_and_code(location: Location) -> None:
    container = location.node().spawn("busybox")
    assert container.run("true") == Result(b"", b"", 0)
    assert container.run(["cat"], input=b"x" * 700_000).stdout == b"x" * 700_000
    assert container.run_process("fail") == (b"", b"bad luck\n", 3)
    with pytest.raises(ProcessFailed, match=r"(?s)exited with code 3.*bad luck") as caught:
        container.run("fail", check=True)
    assert (caught.value.exit_code, caught.value.stderr) == (3, b"bad luck\n")
    with pytest.raises(CommandNotFound, match="nonsense"):
        container.run("nonsense")


def test_callbacks_of_run_come_once_at_the_end_on_the_calling_thread(location: Location) -> None:
    seen: list[tuple[object, bytes, int]] = []

    def see(container: Container, data: bytes) -> None:
        seen.append((container, data, threading.get_ident()))

    container = location.node().spawn("busybox")
    container.run_process("fail", data_callback=see, stderr_callback=see, nolog=True)
    assert seen == [(container, b"bad luck\n", threading.get_ident())]


def test_a_failed_start_says_why_every_time(scripted: ScriptedNode, location: Location) -> None:
    def fail(id: int, body: SpawnContainer) -> None:
        name = scripted.spawn(id, body, running=False)
        error = describe_error(CommandNotFound("no 'httpd' in the image"))
        scripted.end_container(name, Exit(Cause.FAILED_TO_START), error)

    scripted.on(SpawnContainer, fail)
    container = location.node().spawn("busybox", "httpd")
    for _ in range(2):
        with pytest.raises(CommandNotFound, match="httpd"):
            container.wait_until_ready()
    with pytest.raises(CommandNotFound, match="httpd"):
        container.run("true")
    assert container.wait().cause is Cause.FAILED_TO_START
    scripted.refuse(SpawnContainer, ImageNotFound("no image 'nope'"))
    with pytest.raises(ImageNotFound, match="nope"):
        location.node().spawn("nope")
    assert location.node().all_containers() == []


def test_destroy_calls_back_on_the_calling_thread_before_it_returns(location: Location) -> None:
    ends: list[tuple[object, int, int]] = []
    node = location.node()
    container = node.spawn(
        "busybox", termination_callback=lambda one, code: ends.append((one, code, threading.get_ident()))
    )
    process = container.spawn(
        "sleep", termination_callback=lambda one, code: ends.append((one, code, threading.get_ident()))
    )
    node.destroy_container(container)
    assert ends == [(process, 0, threading.get_ident()), (container, 0, threading.get_ident())]
    assert container.dead and container.exit == Exit(Cause.DESTROYED) and node.all_containers() == []
    assert process.dead
    with pytest.raises(ObjectDead, match="has ended: destroyed"):
        node.destroy_container(container)
    with pytest.raises(ValueError, match="has ended"):
        container.put("/x", b"")


def test_to_destroy_what_is_gone_is_quiet(scripted: ScriptedNode, location: Location) -> None:
    ends: list[int] = []
    container = location.node().spawn("busybox", termination_callback=lambda _, code: ends.append(code))
    process = container.spawn("sleep")
    for _ in range(2):
        process.destroy()
    for _ in range(2):
        container.destroy()
    process.destroy()
    location.disconnect()
    container.destroy()
    assert ends == [0]
    assert len(scripted.find(DestroyContainer)) == len(scripted.find(DestroyProcess)) == 1


def test_an_exit_is_told_once_after_all_output(scripted: ScriptedNode, location: Location) -> None:
    told: list[object] = []
    container = location.node().spawn(
        "busybox",
        stdout_callback=lambda one, data: told.append(data),
        termination_callback=lambda one, code: told.append((one.exit, code)),
    )

    def end() -> None:
        body = scripted.containers[container.uuid]
        for n in range(100):
            scripted.write(body.streams.stdout, b"%d" % n)
        scripted.end_container(container.uuid, Exit(Cause.SIGNALLED, signal=9))

    scripted.do(end)
    assert container.wait(timeout_s=10) == Exit(Cause.SIGNALLED, signal=9)
    assert told == [*(b"%d" % n for n in range(100)), (Exit(Cause.SIGNALLED, signal=9), 137)]


def test_callbacks_can_be_changed_and_make_blocking_calls(scripted: ScriptedNode, location: Location) -> None:
    results: list[object] = []
    done = threading.Event()
    container = location.node().spawn("busybox")

    def on_output(one: Container, data: bytes) -> None:
        other = location.node().spawn("busybox", termination_callback=lambda two, code: results.append(two))
        results.append(one.run("true").exit_code)
        other.destroy()
        results.append(other)
        done.set()

    container.stdout_callback = on_output
    assert container.stdout_callback is on_output
    scripted.do(lambda: scripted.write(scripted.containers[container.uuid].streams.stdout, b"go"))
    assert done.wait(10)
    assert results[0] == 0 and results[1] is results[2]


def test_a_callback_can_wait_for_another_container_whose_output_has_callbacks(
    scripted: ScriptedNode, location: Location
) -> None:
    amount = 700_000  # more than the node may send before callbacks have taken it
    told: list[int] = []
    done = threading.Event()
    first = location.node().spawn("busybox")
    second = location.node().spawn("busybox", stdout_callback=lambda one, data: told.append(len(data)))

    def wait_in_callback(one: Container, data: bytes) -> None:
        second.wait(timeout_s=10)
        told.append(0)
        done.set()

    first.stdout_callback = wait_in_callback

    def go() -> None:
        scripted.write(scripted.containers[first.uuid].streams.stdout, b"go")
        stream = scripted.containers[second.uuid].streams.stdout
        scripted.write(stream, b"x" * amount)
        scripted._downloads[stream].finish = lambda: scripted.end_container(
            second.uuid, Exit(Cause.EXITED, 0)
        )

    scripted.do(go)
    assert done.wait(10)
    assert sum(told) == amount and told[-1] == 0


def test_what_escapes_a_callback_is_raised_by_run_and_ends_nothing_else(
    scripted: ScriptedNode, location: Location
) -> None:
    seen = threading.Event()

    def fail(container: Container, data: bytes) -> None:
        if data == b"2":
            seen.set()
            return
        raise ZeroDivisionError("in a callback")

    container = location.node().spawn("busybox", stdout_callback=fail)
    stream = scripted.containers[container.uuid].streams.stdout
    scripted.do(lambda: scripted.write(stream, b"1"))
    scripted.do(lambda: scripted.write(stream, b"2"))
    assert seen.wait(10)
    assert container.run("true").exit_code == 0
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        location.run()


def test_files_go_in_and_out(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox")
    large = bytes(range(256)) * 4096
    container.put("etc/x", "text")
    container.put("/large", io.BytesIO(large), mode=0o600)
    assert container.fetch("/etc/x") == b"text"
    into = io.BytesIO()
    assert container.fetch("large", into) == b""
    assert into.getvalue() == large
    with pytest.raises(PathNotFound, match="/nope"):
        container.fetch("/nope")
    with pytest.raises(PathRefused):
        container.put("../x", b"")
    with pytest.raises(ValueError, match="binary mode"):
        container.put("/x", io.StringIO("text"))  # type: ignore[arg-type]  # what a user may do


def test_a_file_that_cannot_be_read_changes_nothing(scripted: ScriptedNode, location: Location) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the disk is broken")

    container = location.node().spawn("busybox")
    with pytest.raises(OSError, match="disk is broken"):
        container.put("/x", Broken())
    assert "/x" not in scripted.files
    assert container.run("true").exit_code == 0


def test_sleep_start_reboot_signal_and_resize(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox", sleep=True)
    container.start()
    container.start()
    container.reboot()
    container.reboot(reset_filesystem=True)
    container.signal()
    container.signal(1)
    container.resize(100, 40)
    assert len(scripted.find(StartContainer)) == 1
    assert [one.reset_filesystem for one in scripted.find(RebootContainer)] == [False, True]
    assert [one.number for one in scripted.find(SignalContainer)] == [None, 1]
    assert scripted.find(ResizeContainer)[0].size.columns == 100
    with pytest.raises(ValueError, match="signal"):
        container.signal(99)


def test_input_reaches_the_main_process_and_ends(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox")
    container.stdin(b"a" * 600_000)
    container.stdin("b")
    container.close_stdin()
    container.close_stdin()
    container.run("true")
    assert scripted.files[f"{container.uuid} stdin"] == b"a" * 600_000 + b"b"
    with pytest.raises(ObjectDead, match="no more input"):
        container.stdin(b"c")


def test_a_wait_that_is_over_leaves_nothing(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox")
    with pytest.raises(TimeoutError, match="has not ended"):
        container.wait(timeout_s=0.01)
    scripted.ignore(RebootContainer)
    with pytest.raises(TimedOut, match="reboot container"):
        container.reboot(timeout_s=0.01)
    assert scripted.wait_for(Cancel)
    scripted.grant = False
    with pytest.raises(TimedOut, match="did not read"):
        container.stdin(b"a" * 600_000, timeout_s=0.01)
    assert container.run("true").exit_code == 0


def test_a_container_that_nobody_waited_for_is_ended(scripted: ScriptedNode, location: Location) -> None:
    asked: list[tuple[int, SpawnContainer]] = []
    scripted.on(SpawnContainer, lambda id, body: asked.append((id, body)))
    errors: list[BaseException] = []

    def spawn() -> None:
        try:
            location.node().spawn("busybox")
        except Disconnected as exc:
            errors.append(exc)

    thread = threading.Thread(target=spawn)
    thread.start()
    scripted.wait_for(SpawnContainer)
    scripted.do(cancel_calls)
    thread.join(10)
    assert len(errors) == 1
    scripted.wait_for(Cancel)
    scripted.do(lambda: scripted.spawn(*asked[0]))
    assert scripted.wait_for(DestroyContainer)[0].container == "container1"
    assert location.node().all_containers() == []


def cancel_calls() -> None:
    for task in asyncio.all_tasks():
        if "Portal._do" in repr(task):
            task.cancel()


def test_a_process_of_another_container_is_not_ours_to_destroy(
    scripted: ScriptedNode, location: Location
) -> None:
    one, two = location.node().spawn("busybox"), location.node().spawn("busybox")
    process = one.spawn("sleep")
    with pytest.raises(ProcessNotFound):
        two.destroy_process(process)
    one.destroy_process(process)
    with pytest.raises(ValueError, match="destroyed before"):
        one.destroy_process(process)
    assert scripted.find(StartProcess)[0].shell


def test_trees_go_in_and_out(tmp_path_factory: pytest.TempPathFactory, location: Location) -> None:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    (here / "sub").mkdir()
    (here / "sub" / "file").write_bytes(b"x" * 200_000)
    (here / "link").symlink_to("sub/file")
    container = location.node().spawn("busybox")
    container.put_tree("/tree", here)
    container.fetch_tree("/tree", there)
    assert (there / "link").read_bytes() == b"x" * 200_000
    with pytest.raises(PathNotFound, match="no directory"):
        container.put_tree("/tree", here / "nope")
