"""A btrfs, a staging directory and user namespaces with maps, all of the tests' own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tfnz_node.storage.base import Storage
from tfnz_node.storage.btrfs import BtrfsStorage, open_btrfs
from tfnz_node.storage.directory import open_directory

MakeUserNamespace = Callable[[int], int]


@pytest.fixture(params=["btrfs", "directory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    opened: Storage = (
        open_btrfs(tmp_path, 256 << 20) if request.param == "btrfs" else open_directory(tmp_path)
    )
    yield opened
    opened.close()


@pytest.fixture
def btrfs_storage(tmp_path: Path) -> Iterator[BtrfsStorage]:
    opened = open_btrfs(tmp_path, 256 << 20)
    yield opened
    opened.close()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging, with: odd characters"
    path.mkdir()
    return path


@pytest.fixture
def make_userns() -> Iterator[MakeUserNamespace]:
    """A descriptor of a new user namespace in which 0..65535 are the 65536 ids from the given one on."""
    with ExitStack() as stack:

        def make(id_base: int) -> int:
            fd = _make_userns(id_base)
            stack.callback(os.close, fd)
            return fd

        yield make


def _make_userns(id_base: int) -> int:
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {id_base} 65536\n")
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
