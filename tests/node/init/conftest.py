"""A root file system made of busybox, and containers started from it by the real tfnz-init."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tfnz_node.init_binary import find_init
from tfnz_node.kernel import syscalls
from tfnz_node.sandbox.cgroup_entry import NOWHERE
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.jobs import Job, RunRequest, Terminal
from tfnz_node.sandbox.launch import launch_init
from tfnz_node.sandbox.memory import find_parts, memory_file
from tfnz_node.sandbox.wire import seal

#: Built by `make setup`.
BUSYBOX_IMAGE = Path(__file__).parents[3] / "build" / "images" / "busybox.tar"

ID_BASE = 3_000_000_000
PATH = b"PATH=/usr/bin:/bin"
HOSTNAME = "box"

# One BPF instruction: return SECCOMP_RET_ALLOW. The real filter has tests of its own.
ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n7:x:9:9::/:/bin/sh\n"
GROUP = "root:x:0:\nann:x:1001:\nstaff:x:50:ann,bob\naudio:x:63:bob,ann\n"


def find_binary() -> Path:
    """The tfnz-init under test; TFNZ_INIT names another build, such as the one with sanitizers."""
    return Path(os.environ.get("TFNZ_INIT") or find_init(""))


@dataclass(frozen=True)
class Outcome:
    """What a process did."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def code(self) -> int:
        return os.waitstatus_to_exitcode(self.status)


async def read_all(fd: int) -> bytes:
    """What arrives on a non-blocking descriptor until its end, which for a terminal is EIO."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while True:
        try:
            more = os.read(fd, 65536)
        except BlockingIOError:
            await _wait_for(loop.add_reader, loop.remove_reader, fd)
            continue
        except OSError:
            break
        if not more:
            break
        data += more
    return bytes(data)


async def write_all(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _wait_for(loop.add_writer, loop.remove_writer, fd)


async def _wait_for(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


class Box:
    """A booted container and short ways to use it."""

    def __init__(self, init: InitProcess, root: Path) -> None:
        self.init = init
        self.root = root
        self._next_id = 1000

    async def write_file(
        self, path: bytes, content: bytes, *, mode: int = 0o644, owner: bytes = b"", secret: bool = False
    ) -> None:
        """Has init write a file whose content is in the middle of what it is given."""
        fd = memory_file("test", b"before", content, b"after")
        try:
            _, part, _ = find_parts(fd, [6, len(content), 5])
            await self.init.write_file(path, part, mode=mode, owner=owner, secret=secret)
        finally:
            os.close(fd)

    async def start(
        self,
        *argv: str | bytes,
        user: str = "",
        cwd: str = "/",
        env: tuple[bytes, ...] = (PATH,),
        main: bool = False,
        builtin: bool = False,
        stdin: bool = True,
        terminal: Terminal | None = None,
    ) -> Job:
        self._next_id += 1
        return await self.init.run(
            RunRequest(
                id=self._next_id,
                argv=[os.fsencode(word) for word in argv],
                env=env,
                user=user.encode(),
                cwd=cwd.encode(),
                main=main,
                builtin=builtin,
                stdin=stdin,
                terminal=terminal,
            )
        )

    async def run(
        self,
        *argv: str | bytes,
        input: bytes = b"",
        user: str = "",
        cwd: str = "/",
        env: tuple[bytes, ...] = (PATH,),
        main: bool = False,
        builtin: bool = False,
    ) -> Outcome:
        job = await self.start(*argv, user=user, cwd=cwd, env=env, main=main, builtin=builtin)
        return await self.finish(job, input=input)

    async def finish(self, job: Job, *, input: bytes = b"") -> Outcome:
        """Feeds a process and collects what it wrote until it ends."""

        async def feed() -> None:
            assert job.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                await write_all(job.stdin, input)
            job.close_stdin()

        assert job.stdout is not None and job.stderr is not None
        try:
            stdout, stderr, _ = await asyncio.gather(read_all(job.stdout), read_all(job.stderr), feed())
            return Outcome(await job.wait(), stdout, stderr)
        finally:
            job.close()

    async def shell(self, script: str, *, user: str = "", input: bytes = b"") -> str:
        """The output of a shell script that must succeed."""
        outcome = await self.run("sh", "-c", script, user=user, input=input)
        assert outcome.code == 0, outcome
        return outcome.stdout.decode()

    async def builtin(self, *argv: str | bytes, input: bytes = b"", user: str = "") -> Outcome:
        end = seal(len(input)) if argv[0] == "put" else b""
        return await self.run(*argv, input=input + end, builtin=True, user=user)


LaunchBox = Callable[..., Awaitable[Box]]
MakeRoot = Callable[[], Path]


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small root file system to be copied, owned by the ids 0..."""
    root = tmp_path_factory.mktemp("busybox")
    for name in ("bin", "etc", "tmp", "root", "home/ann", "usr/bin", "var"):
        (root / name).mkdir(parents=True)
    busybox = root / "bin" / "busybox"
    with tarfile.open(BUSYBOX_IMAGE) as image:
        program = image.extractfile(image.getmember("bin/busybox"))
        assert program is not None
        busybox.write_bytes(program.read())
    busybox.chmod(0o755)
    for applet in subprocess.run(
        [busybox, "--list"], capture_output=True, check=True, text=True
    ).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def make_root(busybox_root: Path, tmp_path: Path) -> MakeRoot:
    """Makes a fresh root file system."""
    count = 0

    def make() -> Path:
        nonlocal count
        count += 1
        root = tmp_path / f"root{count}"
        subprocess.run(["cp", "-a", "--reflink=auto", str(busybox_root), str(root)], check=True)
        return root

    return make


def clone_mapped(root: Path, userns_fd: int) -> int:
    """A detached mount of `root` whose ids are those inside the user namespace."""
    mount = syscalls.open_tree(root)
    syscalls.mount_setattr(mount, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    return mount


async def boot(init: InitProcess, root: Path, address: str = "10.9.8.7") -> None:
    """Gives an init its root."""
    mount = clone_mapped(root, init.userns_fd)
    try:
        await init.boot(mount, hostname=HOSTNAME, address=address)
    finally:
        os.close(mount)


async def launch(*, join: tuple[int, int] | None = None, seccomp: bytes = ALLOW_ALL) -> InitProcess:
    """An init without cgroups of its own."""
    return await launch_init(
        find_binary(), seccomp=seccomp, id_base=ID_BASE, enter=lambda pid: NOWHERE, join=join
    )


@pytest_asyncio.fixture
async def launch_box(make_root: MakeRoot) -> AsyncIterator[LaunchBox]:
    """Launches and boots containers, and ends them with the test."""
    boxes: list[Box] = []

    async def launch_one(root: Path | None = None, seccomp: bytes = ALLOW_ALL) -> Box:
        root = root or make_root()
        init = await launch(seccomp=seccomp)
        boxes.append(Box(init, root))
        await boot(init, root)
        return boxes[-1]

    yield launch_one
    for box in boxes:
        box.init.close()
        await box.init.ended()


@pytest_asyncio.fixture
async def box(launch_box: LaunchBox) -> Box:
    """A booted container."""
    return await launch_box()
