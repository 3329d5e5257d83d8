"""A private node is started, heard, watched and ended; the node here is a few lines of Python."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from tfnz import ConnectionFailed, NoCapacity, TimedOut, embedded
from tfnz.embedded import start_embedded

pytestmark = pytest.mark.asyncio

SERVES = """
import json, sys
assert sys.argv[1:4] == ["serve", "--embedded", "--data-dir"], sys.argv
print(json.dumps({"socket": "unix:@20ft-test"}), flush=True)
print("ready", file=sys.stderr, flush=True)
sys.stdin.read()
print("asked to end", file=sys.stderr, flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "deep"


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    """Have `python -m tfnz_node` run a program of the test's."""
    package = tmp_path / "path" / "tfnz_node"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))


async def test_it_starts_and_ends_when_asked(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, SERVES)
    node = await start_embedded(directory)
    assert node.endpoint == "unix:@20ft-test"
    await node.stop()
    await node.stop()
    assert await node.wait() == 0
    assert (directory / "node.log").read_text() == "ready\nasked to end\n"
    # Its images may have set-id programs, which are nothing for the host's users.
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_one_that_does_not_end_is_killed(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.01)
    pretend(monkeypatch, tmp_path, SERVES + "\nimport signal\nwhile True: signal.pause()\n")
    node = await start_embedded(directory)
    await node.stop()
    assert await node.wait() == -signal.SIGKILL


async def test_one_that_does_not_end_is_killed_also_after_an_interrupt(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.01)
    pretend(monkeypatch, tmp_path, SERVES + "\nimport signal\nwhile True: signal.pause()\n")
    node = await start_embedded(directory)
    begun = asyncio.Event()

    async def use() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await node.stop()

    using = asyncio.create_task(use())
    await begun.wait()
    using.cancel()
    try:
        async with asyncio.timeout(10):
            await asyncio.wait({using})
        assert node._process.returncode == -signal.SIGKILL
    finally:
        await node.stop()


async def test_it_says_itself_why_it_cannot_run(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = '{"error": {"code": "no_capacity", "message": "another node uses this directory"}}'
    pretend(monkeypatch, tmp_path, f"print({says!r})\nraise SystemExit(1)")
    with pytest.raises(NoCapacity, match="another node uses this directory"):
        await start_embedded(directory)


@pytest.mark.parametrize(
    "program",
    ["", "print('nonsense')", "print([])"],
)
async def test_one_that_just_ends_is_said(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    pretend(monkeypatch, tmp_path, f"{program}\nraise SystemExit(3)")
    with pytest.raises(ConnectionFailed, match=r"ended with code 3.*node\.log.*doctor"):
        await start_embedded(directory)


async def test_one_that_is_never_ready_is_ended(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "READY_TIMEOUT_S", 0.01)
    pretend(monkeypatch, tmp_path, "import sys\nsys.stdin.read()")
    with pytest.raises(TimedOut, match="not ready"):
        await start_embedded(directory)


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionFailed, match="data_dir"):
        await start_embedded(tmp_path / "file" / "data")
    assert os.listdir(tmp_path) == ["file"]
