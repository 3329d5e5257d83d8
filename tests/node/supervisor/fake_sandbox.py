"""A sandbox without a kernel: its init keeps a record of what it is asked, and its processes are held by the test."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from tests.node.supervisor.fake_jobs import FakeProcess
from tfnz.protocol.messages import (
    ContainerEnded,
    ContainerRunning,
    Event,
    ProcessEnded,
)
from tfnz_node.core.slots import Slot
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.links.base import NoLinks
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.jobs import Job, RunRequest
from tfnz_node.sandbox.memory import Content
from tfnz_node.sandbox.pool import Pool, Sandbox
from tfnz_node.sandbox.roots import ReadyRoot, RootKind
from tfnz_node.storage.base import Storage
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.network import Network
from tfnz_node.supervisor.spec import Host

T = TypeVar("T")

KILLED = 9
LIMITS = CgroupLimits(memory_bytes=64 << 20, pids=32, cpus=1.0)


Answer: TypeAlias = asyncio.Future[None]


class FakeInit:
    """Runs `FakeProcess`es. `refusal` is raised at the next request to run something."""

    userns_fd = -1
    pid = 0
    alive = True

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.running: dict[int, FakeProcess] = {}
        self.files: dict[bytes, tuple[bytes, int, bytes, bool]] = {}
        self.hostname = ""
        self.signals: list[tuple[int, int]] = []
        self.refusal: Exception | None = None
        #: How a file, or "boot", is answered.
        self.failures: dict[str, Exception] = {}
        #: Who listens, by address or path and port: what is given to whoever connects, or raised.
        self.services: dict[tuple[str, int], Callable[[], socket.socket]] = {}
        self.kills = 0
        self._started = asyncio.Event()
        self._ended = asyncio.Event()

    def boot(self, root_fd: int, *, hostname: str, address: str = "") -> Answer:
        self._check_alive()
        self.hostname = hostname
        return self._answer("boot")

    def write_file(
        self, path: bytes, content: Content, *, mode: int = 0o644, owner: bytes = b"", secret: bool = False
    ) -> Answer:
        self._check_alive()
        self.files[path] = (os.pread(content.fd, content.size, content.offset), mode, owner, secret)
        return self._answer(path.decode())

    def _answer(self, what: str) -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        if (failure := self.failures.get(what)) is None:
            answer.set_result(None)
        else:
            answer.set_exception(failure)
            answer.exception()  # nobody has to ask
        return answer

    async def run(self, request: RunRequest) -> Job:
        job = await self.begin(request)
        job.exec_failure()  # there is none: it has become its program
        return job

    async def begin(self, request: RunRequest) -> Job:
        self._check_alive()
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal
        self.requests.append(request)
        process = FakeProcess(number=request.id, terminal=request.terminal is not None)
        self.running[request.id] = process
        self._started.set()
        return process.job

    async def connect(self, name: bytes, port: int = 0) -> socket.socket:
        self._check_alive()
        service = self.services.get((name.decode(), port))
        if service is None:
            raise InitFailed(errno.ECONNREFUSED, f"{name.decode()}: connection refused")
        return service()

    def serve(self, name: str, port: int = 0) -> socket.socket:
        """The service's end of the connection that is made next."""
        ours, theirs = socket.socketpair()
        self.services[name, port] = lambda: ours
        theirs.setblocking(False)
        return theirs

    async def process(self, number: int) -> FakeProcess:
        """Wait until a process of this number runs."""
        while number not in self.running:
            self._started.clear()
            await self._started.wait()
        return self.running[number]

    async def signal(self, number: int, signum: int, *, group: bool = False) -> None:
        self._check_alive()
        if number not in self.running or self.running[number].ended:
            raise InitFailed(errno.ESRCH, "no such process")
        self.signals.append((number, signum))

    def kill_job(self, number: int) -> None:
        if number in self.running and not self.running[number].ended:
            self.running[number].end(KILLED)

    def forget(self, number: int) -> None:
        """Init keeps nothing."""

    def kill(self) -> None:
        self.kills += 1
        self.alive = False
        for number in self.running:
            self.kill_job(number)
        self._ended.set()

    async def ended(self) -> int:
        await self._ended.wait()
        return KILLED

    def close(self) -> None:
        """Nothing is held."""

    def fds(self) -> dict[str, int]:
        return {}

    def _check_alive(self) -> None:
        if not self.alive:
            raise InitGone("init ended")


class FormerInit(FakeInit):
    """Answers what there is of old when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.listing: asyncio.Future[tuple[set[int], set[int]]] = asyncio.get_running_loop().create_future()
        self.forgotten: list[int] = []

    def resync(self) -> asyncio.Future[tuple[set[int], set[int]]]:
        return self.listing

    def adopt_job(self, number: int, fds: Mapping[str, int]) -> Job:
        process = self.running.setdefault(number, FakeProcess(number=number))
        if fds:
            process.job.close()
            process.job.adopt(fds)
        return process.job

    def kill_and_forget(self, number: int) -> None:
        self.kill_job(number)
        self.forgotten.append(number)

    def kill(self) -> None:
        super().kill()
        if not self.listing.done():
            self.listing.set_exception(InitGone("it was killed"))
            self.listing.exception()  # nobody has to ask


class FakeSandbox:
    """A slot with a `FakeInit` in it."""

    def __init__(self) -> None:
        self.slot = Slot(7, 1_000_000, "10.200.0.7")
        self.init = FakeInit()
        self.limits = LIMITS
        self.root: ReadyRoot | None = None
        self.oom = 0
        self.oom_failure: OSError | None = None
        self.closed = False
        self.renewal: Exception | None = None
        self.may_renew = asyncio.Event()
        self.may_renew.set()
        self.renewed = asyncio.Event()

    def hand_over_root(self) -> ReadyRoot | None:
        root, self.root = self.root, None
        return root

    def limit(self, limits: CgroupLimits) -> None:
        self.limits = limits

    def oom_kills(self) -> int:
        if self.oom_failure is not None:
            raise self.oom_failure
        return self.oom

    def ran_out_of_memory(self, kills_before: int) -> bool:
        return Sandbox.ran_out_of_memory(cast(Sandbox, self), kills_before)

    def memory_bytes(self) -> int:
        if self.closed:
            raise FileNotFoundError("memory.current")
        return 1234

    async def renew(self) -> None:
        self.init.kill()
        self.renewed.set()
        await self.may_renew.wait()
        if self.renewal is not None:
            raise self.renewal
        self.init = FakeInit()

    async def close(self, finish: Callable[[], None] | None = None) -> None:
        self.init.kill()
        self.closed = True
        if finish is not None:
            finish()


class FakeStorage:
    """Scratches by name."""

    kind = "directory"
    has_quotas = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratches: dict[str, int] = {}
        self.resets = 0
        self.failure: Exception | None = None
        self.before_create: Callable[[], object] = lambda: None

    def create_scratch(self, name: str, quota_bytes: int) -> Path:
        self.before_create()
        if self.failure is not None:
            raise self.failure
        self.scratches[name] = quota_bytes
        return self.root / name

    def reset_scratch(self, name: str) -> Path:
        if self.failure is not None:
            raise self.failure
        self.resets += 1
        return self.root / name

    def delete_scratch(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.scratches.pop(name, None)

    def list_scratch(self) -> list[str]:
        return list(self.scratches)

    def free_bytes(self) -> int:
        return 1 << 30

    def sweep(self) -> None:
        """Nothing is left over."""

    def close(self) -> None:
        """Nothing is mounted."""


class FakePool:
    """Hands out fake sandboxes, and remembers them."""

    ready = 3

    def __init__(self, network: Network | None = None) -> None:
        self.taken: list[FakeSandbox] = []
        self.forgotten: list[str] = []
        self.failure: Exception | None = None
        self._network = network

    async def take(self, kind: RootKind) -> Sandbox:
        if self.failure is not None:
            raise self.failure
        sandbox = FakeSandbox()
        if self._network is not None:
            number = len(self.taken) + 1
            sandbox.slot = self.find_slot(number)
            self._network.connect(sandbox.slot, -1)
        self.taken.append(sandbox)
        return cast(Sandbox, self.taken[-1])

    def adopt(self, number: int, limits: CgroupLimits, fds: Mapping[str, int], *, pid: int) -> Sandbox:
        if self.failure is not None:
            raise self.failure
        for name in ("control", "pid", "user", "net"):  # an init that is none needs none of them
            os.close(fds[name])
        sandbox = FakeSandbox()
        sandbox.slot, sandbox.init, sandbox.limits = self.find_slot(number), FormerInit(), limits
        self.taken.append(sandbox)
        return cast(Sandbox, sandbox)

    def find_slot(self, number: int) -> Slot:
        return Slot(number, 1_000_000, f"10.200.0.{number}")

    async def work(self, function: Callable[..., T], *args: object) -> T:
        return function(*args)

    async def forget(self, image: str) -> None:
        self.forgotten.append(image)


def make_host(
    storage: FakeStorage,
    executor: Executor,
    pool: FakePool | None = None,
    network: Network | None = None,
    ledger: Ledger | None = None,
) -> Host:
    """A host of which nothing is real but its threads; a sealed secret is its content backwards."""
    return Host(
        cast(Pool, pool or FakePool()),
        cast(Storage, storage),
        storage.root / "staging",
        executor,
        lambda box: box[::-1],
        network or Network(None, NoLinks(), MemoryFirewall(), executor, ledger=ledger),
        ledger=ledger or Ledger(),
    )


class Told:
    """The events that an owner was told of, in order, and a way to wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Event, then: Callable[[], None] | None = None) -> None:
        self.events.append(event)
        self._changed.set()
        if then is not None:
            then()

    async def _wait_for(self, kind: type[Event]) -> Event:
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            self._changed.clear()
            await self._changed.wait()

    async def running(self) -> ContainerRunning:
        event = await self._wait_for(ContainerRunning)
        assert isinstance(event, ContainerRunning)
        return event

    async def ended(self) -> ContainerEnded:
        event = await self._wait_for(ContainerEnded)
        assert isinstance(event, ContainerEnded)
        return event

    async def process_ended(self) -> ProcessEnded:
        event = await self._wait_for(ProcessEnded)
        assert isinstance(event, ProcessEnded)
        return event
