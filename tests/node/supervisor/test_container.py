"""The life of a container in every order in which things may end, with nothing real but the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from tests.node.supervisor.fake_jobs import FakeProcess, HeldSink, HeldSource, settle
from tests.node.supervisor.fake_sandbox import LIMITS, FakeInit, FakeSandbox, FakeStorage, Told, make_host
from tfnz.protocol.errors import (
    CommandNotFound,
    DiskFull,
    InvalidArgument,
    ObjectDead,
    StartFailed,
    TfnzError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ContainerEnded, ContainerRunning, PreBootFile, ProcessEnded, Size
from tfnz_node.core.lifecycle import State
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.sandbox.control import InitFailed
from tfnz_node.sandbox.jobs import RunFailed, Terminal
from tfnz_node.sandbox.launch import LaunchFailed
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.roots import ReadyRoot
from tfnz_node.sandbox.wire import Stage
from tfnz_node.storage.base import RESERVE_BYTES
from tfnz_node.supervisor import boot as boot_module
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.process import ProcessStreams
from tfnz_node.supervisor.processes import MAIN_NUMBER
from tfnz_node.supervisor.spec import Spec

pytestmark = pytest.mark.asyncio

KILLED = 9
SPEC = Spec(
    id="c",
    account="uid:0",
    session="s",
    image_digest="sha256:0",
    layers=[],
    main=ProcessPlan(("serve",), ("A=1",), "web", "/srv"),
    files=[PreBootFile("/etc/motd", b"hello"), PreBootFile("/run/key", b"terces", secret=True)],
    limits=LIMITS,
    disk_bytes=1 << 20,
    stop_signal=signal.SIGQUIT,
    pty=False,
)
PROCESS = ProcessPlan(("ls",), (), "root", "/")
NOT_FOUND = RunFailed(Stage.EXEC, errno.ENOENT, "serve: not found")


class World:
    """One container, all that it touches, and what its owner hears."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.storage = FakeStorage(directory)
        self.sandbox = FakeSandbox()
        self.told = Told()
        self.out, self.err = HeldSink(), HeldSink()
        self.stdin: HeldSource | None = None
        self.released = 0
        self.host = make_host(self.storage, executor)
        self.life: asyncio.Task[None] | None = None

    def create(self, **changes: Any) -> Container:
        self.container = Container(
            dataclasses.replace(SPEC, **changes),
            self.host,
            cast(Sandbox, self.sandbox),
            tell=self.told,
            streams=ProcessStreams(self.stdin, self.out, self.err),
        )
        self.life = asyncio.create_task(self.container.live(released=self._release))
        return self.container

    async def spawn(self, **changes: Any) -> Container:
        """A container that runs, or sleeps."""
        container = self.create(**changes)
        await self.told.running()
        return container

    def _release(self) -> None:
        # Its tag is free before its owner can know that it has ended.
        assert not any(isinstance(event, ContainerEnded) for event in self.told.events)
        self.released += 1

    @property
    def init(self) -> FakeInit:
        return self.sandbox.init

    @property
    def main(self) -> FakeProcess:
        return self.init.running[MAIN_NUMBER]

    async def run(self, process_id: str = "p", streams: ProcessStreams | None = None) -> None:
        await self.container.start_process(
            process_id, PROCESS, streams or ProcessStreams(), terminal=None, timeout_s=None
        )

    async def gone(self) -> ContainerEnded:
        """Wait for the end, and see that nothing is left."""
        await self.container.gone.wait()
        assert self.life is not None
        await self.life
        ended = self.told.events[-1]
        assert isinstance(ended, ContainerEnded)
        assert self.container.state is State.ENDED
        assert self.sandbox.closed
        assert self.storage.scratches == {}
        assert (self.out.ends, self.err.ends) == ([None], [None])
        assert self.released == 1
        return ended


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(boot_module, "build_rootfs", lambda *_: os.open("/dev/null", os.O_RDONLY))
    with ThreadPoolExecutor(2) as executor:
        world = World(tmp_path, executor)
        yield world
        if world.life is not None:
            world.storage.failure = None
            world.sandbox.may_renew.set()
            await world.container.end(Cause.DESTROYED)


# --- coming up


async def test_a_container_runs_and_ends_with_its_main_process(world: World) -> None:
    container = await world.spawn(limits=CgroupLimits(memory_bytes=1 << 30, pids=9, cpus=2.0))
    assert container.state is State.RUNNING
    assert container.started_s is not None
    assert world.sandbox.limits.memory_bytes == 1 << 30
    assert world.storage.scratches == {"c": 1 << 20}
    assert {b"/etc/motd", b"/run/key"} <= set(world.init.files)
    [request] = world.init.requests
    assert (request.argv, request.user, request.cwd, request.main) == ([b"serve"], b"web", b"/srv", True)
    assert (container.ip, container.memory_bytes()) == ("10.200.0.7", 1234)
    world.main.say(b"output")
    world.main.end(3 << 8)
    assert await world.gone() == ContainerEnded("c", Exit(Cause.EXITED, 3))
    assert world.out.data == b"output"
    assert container.memory_bytes() == 0


async def test_all_output_and_its_end_come_before_the_end(world: World) -> None:
    world.out = HeldSink(credit=1)
    await world.spawn()
    world.main.say(b"output")
    world.main.end()
    await world.out.has(1)
    await settle()
    assert not any(isinstance(event, ContainerEnded) for event in world.told.events)
    world.out.grant(100)
    await world.told.ended()
    assert (world.out.data, world.out.ends) == (b"output", [None])


def furnish(world: World) -> int:
    """Give the sandbox a root in advance; its descriptor."""
    scratch = world.storage.create_scratch("ready", SPEC.disk_bytes)
    fd = os.open("/dev/null", os.O_RDONLY)
    world.sandbox.root = ReadyRoot(SPEC.root_kind, scratch, fd)
    return fd


async def test_a_root_that_is_ready_is_used_reset_and_removed(world: World) -> None:
    furnish(world)
    container = await world.spawn()
    assert list(world.storage.scratches) == ["ready"]
    await container.reboot(reset_filesystem=True)
    assert (world.storage.resets, list(world.storage.scratches)) == (1, ["ready"])
    await container.end(Cause.DESTROYED)
    await world.gone()


async def test_on_a_full_disk_a_root_that_is_ready_does_not_hide_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = furnish(world)
    monkeypatch.setattr(world.storage, "free_bytes", lambda: RESERVE_BYTES - 1)
    world.storage.failure = DiskFull("no room")
    world.create()
    assert world.told is not None
    await world.container.gone.wait()
    ended = world.told.events[-1]
    assert isinstance(ended, ContainerEnded)
    assert ended.exit == Exit(Cause.FAILED_TO_START, message="no room")
    assert world.sandbox.root is not None  # goes with the sandbox
    os.close(fd)


async def test_a_sleeping_container_is_usable_and_wakes_once(world: World) -> None:
    container = await world.spawn(sleep=True)
    assert container.state.value == "sleeping"
    assert world.init.requests == []
    await world.run()
    with pytest.raises(ObjectDead, match="sleeps: it has no main process"):
        await container.signal(None)
    await asyncio.gather(container.start(), container.start())
    assert container.state.value == "running"
    assert [request.main for request in world.init.requests] == [False, True]


async def test_a_command_that_is_not_there_is_its_error(world: World) -> None:
    world.init.refusal = NOT_FOUND
    world.create()
    ended = await world.gone()
    assert ended.exit == Exit(Cause.FAILED_TO_START, message="serve: not found")
    assert ended.error is not None
    assert ended.error.code == "command_not_found"
    assert not any(isinstance(event, ContainerRunning) for event in world.told.events)


async def test_a_file_that_cannot_be_written_is_its_error_and_not_the_main_process_that_needs_it(
    world: World,
) -> None:
    world.init.failures["/etc/motd"] = InitFailed(errno.EISDIR, "/etc/motd is a directory")
    world.init.refusal = InitFailed(errno.ECANCELED, "the main process is not started")
    world.create()
    ended = await world.gone()
    assert ended.error is not None
    assert ended.error.code == "path_is_directory"
    assert not any(isinstance(event, ContainerRunning) for event in world.told.events)


async def test_one_that_cannot_be_woken_ends(world: World) -> None:
    container = await world.spawn(sleep=True)
    world.init.refusal = NOT_FOUND
    with pytest.raises(CommandNotFound):
        await container.start()
    assert (await world.gone()).exit.cause is Cause.FAILED_TO_START


async def test_a_full_disk_is_its_error(world: World) -> None:
    world.storage.failure = DiskFull("no room")
    world.create()
    ended = await world.told.ended()
    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == ("disk_full", "no room")


async def test_a_fault_of_ours_ends_it_and_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.storage.failure = ZeroDivisionError("a secret of the host")
    world.create()
    ended = await world.told.ended()
    assert ended.error is not None
    assert ended.error.code == "internal_error"
    assert "secret" not in ended.error.message
    assert "container c could not be brought up" in caplog.text


async def test_what_cannot_be_removed_is_logged_and_holds_nobody_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    container = await world.spawn()
    world.storage.failure = OSError("busy")
    await container.end(Cause.DESTROYED)
    assert "its disk could not be removed" in caplog.text
    assert container.state is State.ENDED


# --- causes


async def test_the_main_process_may_be_killed_at_the_memory_limit(world: World) -> None:
    await world.spawn()
    world.sandbox.oom += 1
    world.main.end(KILLED)
    assert (await world.gone()).exit.cause is Cause.OUT_OF_MEMORY


async def test_without_a_descriptor_to_ask_for_the_memory_limit_it_ends_all_the_same(world: World) -> None:
    await world.spawn()
    world.sandbox.oom_failure = OSError(errno.EMFILE, "Too many open files")
    world.main.end(KILLED)
    async with asyncio.timeout(10):
        assert (await world.gone()).exit == Exit(Cause.SIGNALLED, signal=KILLED)


async def test_a_container_that_takes_too_long_is_ended(world: World) -> None:
    await world.spawn(timeout_s=0.01)
    assert (await world.gone()).exit == Exit(Cause.TIMED_OUT, message="after 0.01 s")


async def test_one_that_is_in_time_is_not(world: World) -> None:
    await world.spawn(timeout_s=60.0)
    world.main.end()
    assert (await world.gone()).exit.ok


async def test_a_sleeping_container_ends_with_its_init(world: World) -> None:
    await world.spawn(sleep=True)
    world.init.kill()
    assert (await world.gone()).exit.signal == signal.SIGKILL


@pytest.mark.parametrize("cause", [Cause.DESTROYED, Cause.SESSION_GONE])
async def test_when_its_owner_ends_it_nothing_is_left_and_no_output_is_waited_for(
    world: World, cause: Cause
) -> None:
    world.out = HeldSink(credit=0)
    container = await world.spawn()
    await world.run(streams=ProcessStreams(stdout=HeldSink(credit=0)))
    for process in world.init.running.values():
        process.say(b"nobody reads this")
    await container.end(cause)
    assert (await world.gone()).exit == Exit(cause)
    assert world.told.events[-2:] == [
        ProcessEnded("c", "p", Exit(Cause.CONTAINER_ENDED)),
        ContainerEnded("c", Exit(cause)),
    ]


@pytest.mark.parametrize("cause", [Cause.DESTROYED, Cause.SESSION_GONE])
async def test_an_owner_who_ends_it_need_not_read_its_last_words(world: World, cause: Cause) -> None:
    world.out = HeldSink(credit=0)
    container = await world.spawn()
    world.main.say(b"last words")
    world.main.end()
    await settle()
    await container.end(cause)
    assert (await world.gone()).exit.ok


async def test_the_first_cause_counts(world: World) -> None:
    container = await world.spawn()
    await asyncio.gather(container.end(Cause.DESTROYED), container.end(Cause.SESSION_GONE))
    assert (await world.gone()).exit.cause is Cause.DESTROYED
    await container.end(Cause.SESSION_GONE)


async def test_it_may_be_ended_while_it_is_made(world: World) -> None:
    may_go_on, making = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        loop.call_soon_threadsafe(making.set)
        may_go_on.wait()

    world.storage.before_create = wait
    container = world.create()
    await making.wait()
    ending = asyncio.create_task(container.end(Cause.SESSION_GONE))
    await settle()
    assert not ending.done()
    may_go_on.set()
    await ending
    assert (await world.gone()).exit.cause is Cause.SESSION_GONE
    assert world.init.requests == []


async def test_main_has_its_grace_to_end_by_itself(world: World) -> None:
    container = await world.spawn()
    ending = asyncio.create_task(container.end(Cause.DESTROYED, grace_s=60))
    await settle()
    assert world.init.signals == [(MAIN_NUMBER, signal.SIGQUIT)]
    world.main.end()
    await ending
    assert (await world.gone()).exit.ok


async def test_after_its_grace_it_is_killed(world: World) -> None:
    container = await world.spawn()
    await container.end(Cause.DESTROYED, grace_s=0.01)
    assert (await world.gone()).exit.cause is Cause.DESTROYED


# --- reboots


async def test_a_reboot_begins_again_in_the_same_place(world: World) -> None:
    world.stdin = HeldSource(over=False)
    container = await world.spawn()
    before = world.init
    world.main.say(b"first ")
    await world.run()
    await container.reboot(reset_filesystem=False)
    assert world.init is not before
    assert container.state is State.RUNNING
    assert world.told.events[1:] == [ProcessEnded("c", "p", Exit(Cause.CONTAINER_ENDED))]
    assert (world.storage.resets, set(world.init.files)) == (0, {b"/run/key"})
    world.main.say(b"second")
    world.main.end()
    assert (await world.gone()).exit.ok
    assert world.out.data == b"first second"


async def test_with_a_reset_the_files_are_as_at_first(world: World) -> None:
    container = await world.spawn()
    await container.reboot(reset_filesystem=True)
    assert world.storage.resets == 1
    assert {b"/etc/motd", b"/etc/hosts", b"/run/key"} <= set(world.init.files)


async def test_a_sleeping_container_sleeps_again(world: World) -> None:
    container = await world.spawn(sleep=True)
    await container.reboot(reset_filesystem=False)
    assert container.state is State.SLEEPING
    assert world.init.requests == []


async def test_processes_of_after_a_reboot_end_for_their_own_reasons(world: World) -> None:
    container = await world.spawn()
    await container.reboot(reset_filesystem=False)
    await world.run()
    [number] = set(world.init.running) - {MAIN_NUMBER}
    world.init.running[number].end(5 << 8)
    assert (await world.told.process_ended()).exit == Exit(Cause.EXITED, 5)


async def test_two_reboots_are_one_after_the_other(world: World) -> None:
    container = await world.spawn()
    await asyncio.gather(*(container.reboot(reset_filesystem=False) for _ in range(2)))
    assert container.state is State.RUNNING
    assert len(world.init.requests) == 1


async def test_what_is_asked_during_a_reboot_waits_for_it(world: World) -> None:
    container = await world.spawn()
    world.sandbox.may_renew.clear()
    rebooting = asyncio.create_task(container.reboot(reset_filesystem=False))
    await world.sandbox.renewed.wait()
    running = asyncio.create_task(world.run())
    await settle()
    assert not running.done()
    world.sandbox.may_renew.set()
    await asyncio.gather(rebooting, running)
    assert [request.main for request in world.init.requests] == [True, False]


@pytest.mark.parametrize("failure", [LaunchFailed("no"), OSError(errno.ENOMEM, "no memory")])
async def test_a_container_that_cannot_begin_again_ends(world: World, failure: Exception) -> None:
    container = await world.spawn()
    world.sandbox.renewal = failure
    with pytest.raises(StartFailed, match="could not be started again"):
        await container.reboot(reset_filesystem=False)
    ended = await world.gone()
    assert ended.exit.cause is Cause.FAILED_TO_START
    assert ended.error is not None
    assert ended.error.code == "start_failed"


@pytest.mark.parametrize("cause", [Cause.DESTROYED, Cause.SESSION_GONE])
async def test_it_may_be_ended_while_it_reboots(world: World, cause: Cause) -> None:
    container = await world.spawn()
    world.sandbox.may_renew.clear()
    rebooting = asyncio.create_task(container.reboot(reset_filesystem=True))
    await world.sandbox.renewed.wait()
    waiting = asyncio.create_task(world.run())
    ending = asyncio.create_task(container.end(cause))
    await settle()
    world.sandbox.may_renew.set()
    with pytest.raises(ObjectDead):
        await rebooting
    with pytest.raises(ObjectDead):
        await waiting
    await ending
    assert (await world.gone()).exit.cause is cause


async def test_it_may_be_destroyed_while_its_reboot_waits_for_its_last_words_to_be_read(world: World) -> None:
    world.out = HeldSink(credit=0)
    container = await world.spawn()
    world.main.say(b"nobody reads this")
    rebooting = asyncio.create_task(container.reboot(reset_filesystem=False))
    await world.sandbox.renewed.wait()
    await settle()
    assert not rebooting.done()
    await container.end(Cause.DESTROYED)
    with pytest.raises(ObjectDead):
        await rebooting
    assert (await world.gone()).exit.cause is Cause.DESTROYED


async def test_a_reboot_goes_on_without_those_who_do_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz_node.supervisor.container.LAST_WORDS_S", 0.01)
    world.out = HeldSink(credit=0)
    container = await world.spawn()
    world.main.say(b"nobody reads this")
    await world.run()
    await container.reboot(reset_filesystem=False)
    assert container.state is State.RUNNING
    assert world.told.events[1:] == [ProcessEnded("c", "p", Exit(Cause.CONTAINER_ENDED))]
    await container.end(Cause.DESTROYED)


async def test_it_may_be_ended_at_any_step_of_its_life(world: World) -> None:
    """However far a reboot has come when it is ended, it ends once, for that reason, and leaves nothing."""
    container = await world.spawn()
    rebooting = asyncio.create_task(container.reboot(reset_filesystem=True))
    for _ in range(3):
        await asyncio.sleep(0)
    await container.end(Cause.DESTROYED)
    with contextlib.suppress(ObjectDead):
        await rebooting
    assert (await world.gone()).exit.cause is Cause.DESTROYED


# --- what its owner may ask


async def test_signals_reach_the_main_process(world: World) -> None:
    container = await world.spawn()
    await container.signal(None)
    await container.signal(signal.SIGHUP)
    assert world.init.signals == [(MAIN_NUMBER, signal.SIGQUIT), (MAIN_NUMBER, signal.SIGHUP)]


async def test_signals_reach_a_further_process(world: World) -> None:
    container = await world.spawn()
    await world.run()
    await container.signal_process("p", signal.SIGHUP)
    [(number, signum)] = world.init.signals
    assert (number != MAIN_NUMBER, signum) == (True, signal.SIGHUP)
    world.init.running[number].end()
    with pytest.raises(ObjectDead, match="the process has ended"):
        await container.signal_process("p", signal.SIGHUP)


async def test_a_terminal_keeps_its_size_through_a_reboot(world: World) -> None:
    container = await world.spawn(pty=True, size=Size(80, 24))
    assert world.init.requests[0].terminal == Terminal(rows=24, columns=80, raw=True)
    await container.resize(Size(132, 50))
    assert os.get_terminal_size(world.main.fd("terminal")) == (132, 50)
    await container.reboot(reset_filesystem=False)
    assert world.init.requests[0].terminal == Terminal(rows=50, columns=132, raw=True)


async def test_without_a_terminal_there_is_nothing_to_resize(world: World) -> None:
    container = await world.spawn()
    with pytest.raises(InvalidArgument, match="without a terminal"):
        await container.resize(Size(1, 1))


async def test_of_one_that_has_ended_nothing_can_be_asked(world: World) -> None:
    container = await world.spawn()
    world.main.end()
    await world.gone()
    for request in (
        container.start(),
        container.reboot(reset_filesystem=False),
        container.signal(None),
        container.run_builtin([b"get", b"/x"]),
        world.run(),
    ):
        with pytest.raises(ObjectDead, match="container c has ended"):
            await request


async def test_whoever_waits_for_it_to_come_up_hears_that_it_cannot(world: World) -> None:
    world.storage.failure = DiskFull("no room")
    container = world.create()
    with pytest.raises(TfnzError):
        await container.signal(None)
