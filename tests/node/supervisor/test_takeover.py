"""A container of a former daemon: what becomes of it, whenever its init answers and its client comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from tests.node.supervisor.fake_jobs import FakeProcess, settle
from tests.node.supervisor.fake_sandbox import (
    Answer,
    FakeInit,
    FakeSandbox,
    FakeStorage,
    FormerInit,
    Told,
    make_host,
)
from tests.node.supervisor.test_container import PROCESS, SPEC
from tfnz.protocol.errors import ObjectDead
from tfnz.protocol.exits import Cause
from tfnz.protocol.messages import ContainerRunning, ContainerView, Streams, StreamsView
from tfnz_node.core.lifecycle import State
from tfnz_node.sandbox.control import InitGone
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.spool import Spools
from tfnz_node.supervisor import boot as boot_module
from tfnz_node.supervisor import takeover as module
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.joining import Rejoined
from tfnz_node.supervisor.process import ProcessStreams
from tfnz_node.supervisor.processes import MAIN_NUMBER
from tfnz_node.supervisor.records import ContainerRecord, Stage
from tfnz_node.supervisor.takeover import LeftContainer

pytestmark = pytest.mark.asyncio


class Rest:
    """What is left of a container, and what its client hears."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.sandbox = FakeSandbox()
        self.init = self.sandbox.init = FormerInit()
        self.told = Told()
        self.host = make_host(FakeStorage(directory), executor)
        self.lives: list[tuple[LeftContainer, asyncio.Task[None]]] = []

    def take_over(self, stage: Stage) -> LeftContainer:
        record = ContainerRecord(
            id="c",
            session="s",
            slot=7,
            pid=1,
            stage=stage,
            fds=(),
            ready=stage != "creating",
            scratch="" if stage == "creating" else "c",
        )
        container = LeftContainer(
            SPEC,
            self.host,
            cast(Sandbox, self.sandbox),
            tell=self.told,
            record=record,
            spools=Spools(),
            fds={},
        )
        container.take_over([])
        self.lives.append((container, asyncio.create_task(container.live(released=lambda: None))))
        return container


@pytest_asyncio.fixture
async def rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rest]:
    monkeypatch.setattr(boot_module, "build_rootfs", lambda *_: os.open("/dev/null", os.O_RDONLY))
    with ThreadPoolExecutor(2) as executor:
        rest = Rest(tmp_path, executor)
        yield rest
        for container, life in rest.lives:
            await container.end(Cause.DESTROYED)
            await life


def join(container: Container, *, ready: bool) -> None:
    """The client comes back; it wants nothing of what is said."""
    session = cast(Rejoined, None)
    container.join(session, ContainerView(container.id, ready, StreamsView(Streams())))


async def test_what_is_asked_of_it_waits_for_its_init_alone(rest: Rest) -> None:
    container = rest.take_over("running")
    join(container, ready=True)
    asked = asyncio.create_task(
        container.start_process("p", PROCESS, ProcessStreams(), terminal=None, timeout_s=None)
    )
    await settle()
    assert rest.init.requests == []
    old, ended = FakeProcess(number=9), FakeProcess(number=8)
    rest.init.running |= {9: old, 8: ended}
    ended.end()
    rest.init.listing.set_result(({MAIN_NUMBER, 9}, {8}))
    await asked
    [request] = rest.init.requests
    assert request.id == 10, "a number that is in use was given again"
    assert sorted(rest.init.forgotten) == [8, 9] and old.ended
    assert not rest.init.running[MAIN_NUMBER].ended


async def test_one_whose_init_does_not_answer_ends(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.01)
    container = rest.take_over("running")
    join(container, ready=True)
    ended = await rest.told.ended()
    assert ended.exit.cause is Cause.NODE_LOST
    assert "did not answer" in ended.exit.message
    assert rest.init.kills


async def test_it_can_be_destroyed_before_its_init_has_answered(rest: Rest) -> None:
    container = rest.take_over("sleeping")
    join(container, ready=True)
    starting = asyncio.create_task(container.start())
    await settle()
    await container.end(Cause.DESTROYED)
    assert (await rest.told.ended()).exit.cause is Cause.DESTROYED
    with pytest.raises(ObjectDead):
        await starting


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_start_of_which_nobody_was_told_is_undone(rest: Rest, has_ended: bool) -> None:
    container = rest.take_over("starting")
    join(container, ready=True)
    main = rest.init.running[MAIN_NUMBER] = FakeProcess(number=MAIN_NUMBER)
    if has_ended:
        main.end(3 << 8)
    starting = asyncio.create_task(container.start())
    await settle()
    numbers = {MAIN_NUMBER}
    rest.init.listing.set_result((set(), numbers) if has_ended else (numbers, set()))
    await starting
    assert main.ended and rest.init.forgotten == [MAIN_NUMBER]
    assert [request.id for request in rest.init.requests] == [MAIN_NUMBER]
    assert container.state is State.RUNNING


class HeldInit(FakeInit):
    """Answers that it has booted when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.booted: Answer = asyncio.get_running_loop().create_future()

    def boot(self, root_fd: int, *, hostname: str, address: str = "") -> Answer:
        return self.booted

    def kill(self) -> None:
        super().kill()
        if not self.booted.done():
            self.booted.set_exception(InitGone("it was killed"))


class HeldSandbox(FakeSandbox):
    def __init__(self, init: FakeInit) -> None:
        super().__init__()
        self.init = init
        self.next: asyncio.Future[HeldInit] = asyncio.get_running_loop().create_future()

    async def renew(self) -> None:
        await super().renew()
        init = self.init = HeldInit()
        self.next.set_result(init)


@pytest.mark.parametrize("moment", ["before its boot", "before it runs", "before it is up", "when it is up"])
async def test_that_it_runs_is_told_once(rest: Rest, moment: str) -> None:
    """Of one that was being created: whenever its client comes back."""
    rest.sandbox = sandbox = HeldSandbox(rest.init)
    sandbox.may_renew.clear()
    container = rest.take_over("creating")
    if moment == "before its boot":
        join(container, ready=False)
    await sandbox.renewed.wait()
    if moment == "before it runs":
        join(container, ready=False)
    sandbox.may_renew.set()
    init = await sandbox.next
    await init.process(MAIN_NUMBER)
    await settle()
    assert container.state is State.RUNNING
    if moment == "before it is up":
        join(container, ready=False)
    assert rest.told.events == []
    init.booted.set_result(None)
    await settle()
    if moment == "when it is up":
        assert rest.told.events == []
        join(container, ready=False)
    await settle()
    assert [type(event) for event in rest.told.events] == [ContainerRunning]


async def test_what_its_client_has_heard_is_not_told_again(rest: Rest) -> None:
    container = rest.take_over("running")
    join(container, ready=True)
    assert rest.told.events == []
