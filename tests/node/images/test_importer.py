"""Tests of importing through the worker process: streaming, refusal, cancelling, and a daemon that dies."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import lzma
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from tests.node.images.archives import Tar, docker_files, pack, sha256
from tests.node.images.storage import InPieces, Storage
from tfnz.protocol.errors import ImageInvalid, InternalError, InvalidArgument
from tfnz_node.images import trash as trash_module
from tfnz_node.images.archive import spool
from tfnz_node.images.confinement import MAX_MEMORY_BYTES
from tfnz_node.images.importer import start_import
from tfnz_node.images.limits import Budget, ImportLimits
from tfnz_node.images.trash import Trash
from tfnz_node.images.worker import Arguments, ImportResult
from tfnz_node.kernel.remove_tree import remove_tree

LAYER = Tar().file("large", bytes(range(256)) * 8192).file("small", b"x").bytes()


async def pieces(archive: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(archive), size):
        yield archive[start : start + size]


async def import_image(
    pieces: AsyncIterable[bytes], *, root: Path, name: str | None, limits: ImportLimits | None = None
) -> ImportResult:
    """Import an archive that arrives as pieces, and delete what is left of it."""
    trash = Trash()
    running = await start_import(root, name, trash=trash, limits=limits)
    try:
        async for piece in pieces:
            await running.write(piece)
        return await running.finish()
    except BaseException:
        await running.cancel()
        raise
    finally:
        await trash.close()


def left_over(storage: Storage) -> list[Path]:
    return list((storage.root / "tmp").iterdir())


@pytest.mark.asyncio
async def test_an_archive_in_pieces(storage: Storage) -> None:
    archive = pack(docker_files([LAYER], tags=["app:1"]))
    result = await import_image(pieces(archive), root=storage.root, name=None)
    assert [image.names for image in result.images] == [["app:1"]]
    assert storage.layers() == [sha256(LAYER).removeprefix("sha256:")]
    assert left_over(storage) == []


@pytest.mark.asyncio
async def test_concurrent_imports_of_one_layer(storage: Storage) -> None:
    names = [f"app:{number}" for number in range(4)]
    results = await asyncio.gather(
        *(import_image(pieces(LAYER), root=storage.root, name=name) for name in names)
    )
    assert [result.images[0].names for result in results] == [[name] for name in names]
    assert len({result.images[0].digest for result in results}) == 1
    assert len(storage.layers()) == 1
    assert left_over(storage) == []


@pytest.mark.asyncio
async def test_a_bad_name_is_refused_before_anything_starts(storage: Storage) -> None:
    with pytest.raises(InvalidArgument, match="'A B' is not an image name"):
        await start_import(storage.root, "A B", trash=Trash())


@pytest.mark.asyncio
async def test_a_truncated_archive_is_refused(storage: Storage) -> None:
    with pytest.raises(ImageInvalid, match="truncated"):
        await import_image(pieces(LAYER[:300_000]), root=storage.root, name="app")
    assert (storage.layers(), left_over(storage)) == ([], [])


@pytest.mark.asyncio
async def test_the_writer_hears_of_a_refusal_while_it_writes(storage: Storage) -> None:
    running = await start_import(storage.root, "app", trash=Trash(), limits=ImportLimits(archive_bytes=1000))
    with pytest.raises(ImageInvalid, match="the limit archive_bytes is 1000"):
        while True:
            await running.write(LAYER)
    assert left_over(storage) == []


@pytest.mark.asyncio
async def test_a_stopped_worker_stops_the_writer(storage: Storage) -> None:
    """What has been written and not read is bounded by the pipe and one buffer."""
    trash = Trash()
    running = await start_import(storage.root, "app", trash=trash)
    os.kill(running._process.pid, signal.SIGSTOP)
    written = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await running.write(bytes(65536))
                written += 65536
    assert written < 1 << 20
    await running.cancel()
    await trash.close()
    assert left_over(storage) == []


@pytest.mark.asyncio
async def test_a_cancelled_import_leaves_nothing(storage: Storage) -> None:
    trash = Trash()
    running = await start_import(storage.root, "app", trash=trash)
    await running.write(LAYER[:500_000])
    await running.cancel()
    with pytest.raises(InternalError, match=r"ended without an answer \(exit code -9\)"):
        await running.result()
    await trash.close()
    assert (storage.layers(), left_over(storage)) == ([], [])


@pytest.mark.asyncio
async def test_who_cancels_does_not_wait_for_the_deletion(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else that a client has left waits for that, such as its containers."""
    gate = threading.Event()

    def delete(path: Path) -> None:
        gate.wait()
        remove_tree(path)

    monkeypatch.setattr(trash_module, "remove_tree", delete)
    trash = Trash()
    running = await start_import(storage.root, "app", trash=trash)
    while not left_over(storage):
        await running.write(LAYER[:100_000])
    await asyncio.wait_for(running.cancel(), 20)
    assert len(left_over(storage)) == 1
    gate.set()
    await trash.close()
    assert left_over(storage) == []


@pytest.mark.parametrize(
    "pack_up",
    [
        bytes,
        gzip.compress,
        lambda data: gzip.compress(data) + bytes(512),
        bz2.compress,
        lzma.compress,
        zstandard.ZstdCompressor().compress,
    ],
    ids=["plain", "gzip", "padded", "bzip2", "xz", "zstd"],
)
def test_an_archive_is_read_to_its_end_before_anything_else(
    storage: Storage, pack_up: Callable[[bytes], bytes]
) -> None:
    """Or the worker would count on layers that are stored while the daemon does not know yet."""
    ended = False
    source = InPieces(pack_up(LAYER))

    class Watched:
        def read(self, size: int, /) -> bytes:
            nonlocal ended
            data = source.read(size)
            ended = not data
            return data

    spool(Watched(), storage.root / "archive", Budget(ImportLimits()))
    assert ended


@pytest.mark.asyncio
async def test_the_end_of_a_worker_is_told(storage: Storage) -> None:
    """Who sends slowly, or nothing more, hears of a refusal all the same."""
    running = await start_import(storage.root, "app", trash=Trash())
    ended = asyncio.Event()
    running.call_when_ended(ended.set)
    await running.write(b"no archive" * 100)
    await ended.wait()
    assert running.has_ended
    with pytest.raises(ImageInvalid, match="this is not an image archive"):
        await running.finish()


@pytest.mark.asyncio
async def test_a_worker_that_has_ended_is_not_killed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then its number may be that of another process, and of its group."""
    running = await start_import(storage.root, "app", trash=Trash())
    await running.write(b"no archive" * 100)
    with pytest.raises(ImageInvalid):
        await running.result()
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda group, signum: killed.append((group, signum)))
    await running.cancel()
    assert killed == []


@pytest.mark.asyncio
async def test_a_source_that_fails_ends_the_import(storage: Storage) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield LAYER[:100_000]
        raise ConnectionResetError("the client has gone")

    with pytest.raises(ConnectionResetError, match="the client has gone"):
        await import_image(failing(), root=storage.root, name="app")
    assert (storage.layers(), left_over(storage)) == ([], [])


def test_a_worker_dies_with_the_daemon(storage: Storage) -> None:
    """A process in the daemon's place starts a worker and is killed; the worker's output then comes to its end."""
    scratch = storage.root / "tmp" / "import"
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from tfnz_node.images.importer import start_import\n"
        "from tfnz_node.images.trash import Trash\n"
        "async def main():\n"
        "    running = await start_import(Path(sys.argv[1]), None, trash=Trash())\n"
        "    await running.write(bytes(10))\n"
        "    print(running._process.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-c", program, str(storage.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as daemon:
        assert daemon.stdout is not None
        worker = os.pidfd_open(int(daemon.stdout.readline()))
        try:
            daemon.kill()
            ended, _, _ = select.select([worker], [], [], 20)
            assert ended
        finally:
            os.close(worker)
    assert not scratch.exists()


@pytest.mark.asyncio
async def test_a_worker_has_bounded_memory(storage: Storage) -> None:
    """Whatever in an archive may want more: the limits of what we know of come before, and are tests of their own."""
    trash = Trash()
    running = await start_import(storage.root, None, trash=trash)
    try:
        await running.write(LAYER[: 1 << 20])  # more than may lie between: the worker reads
        bounds = resource.prlimit(running._process.pid, resource.RLIMIT_AS)
        assert all(0 < bound <= MAX_MEMORY_BYTES for bound in bounds)
    finally:
        await running.cancel()
        await trash.close()


def test_a_worker_whose_daemon_is_gone_does_not_begin(storage: Storage) -> None:
    scratch = storage.root / "tmp" / "import"
    arguments = Arguments(str(storage.root), str(scratch), 1 << 22, None, ImportLimits())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-m", "tfnz_node.images.worker", msgspec.json.encode(arguments).decode()]
    done = subprocess.run(argv, input=LAYER, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, b"")
    assert storage.layers() == []
