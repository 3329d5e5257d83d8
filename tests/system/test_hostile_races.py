"""Containers that swap what a path means while it is used: nobody is led out, and nobody is held up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.bystanders import undisturbed
from tests.system.sayings import Sayings
from tfnz import Container
from tfnz.protocol.errors import DiskFull, FileError

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: Swaps what is at a path for something else all the time, by rename, so that it is always one or the other.
SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print("swapping", flush=True)
while True:
    # RENAME_EXCHANGE: both are there at every moment, and change places.
    assert libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), 2) == 0, ctypes.get_errno()
"""


def swap(container: Container, one: str, other: str) -> None:
    """Begin to swap two paths of a container."""
    container.put("/swap.py", SWAP)
    sayings = Sayings()
    container.spawn(["python3", "/swap.py", one, other], sayings.hear)
    sayings.wait_for(b"swapping")


#: What a directory on the way is swapped with; {} is a directory of the host.
LURES = [
    "{}",
    "../../../../../../../../../../../../..{}",
    "/proc/1/root{}",
    "/proc/1/cwd",
    "/proc/self/fd",
    "/proc/self/root",
]


@pytest.mark.parametrize("lure", LURES)
def test_a_directory_swapped_for_a_link_leads_nobody_out(
    node: RunningNode, tmp_path: Path, lure: str
) -> None:
    """Files and trees, in both directions: what is the host's is neither read nor written."""
    host, ours = tmp_path / "host", tmp_path / "ours"
    for directory in (host / "sub", ours):
        directory.mkdir(parents=True)
    for path in (host / "file", host / "sub" / "file"):
        path.write_bytes(b"the host's own")
    (ours / "file").write_bytes(b"sent")
    outcomes: set[bool] = set()

    def attempt(act: Callable[[], object]) -> None:
        try:
            got = act()
        except (FileError, DiskFull):
            outcomes.add(False)
        else:
            outcomes.add(True)
            assert got is None or got in (b"inside", b"sent"), got

    with undisturbed(node) as location:
        container = location.node().spawn("python", ["sleep", "1000"])
        container.run(
            [
                "sh",
                "-c",
                'mkdir -p /d/sub; echo -n inside >/d/file; ln -s "$1" /lure',
                "sh",
                lure.format(host),
            ],
            check=True,
        )
        swap(container, "/d", "/lure")
        for number in range(40):
            attempt(lambda: container.put("/d/file", b"sent"))
            attempt(lambda: container.put("/d/sub/file", b"sent"))
            attempt(lambda: container.fetch("/d/file"))
            if number % 4 == 0:
                attempt(lambda: container.put_tree("/d", ours))
                attempt(partial(container.fetch_tree, "/d", tmp_path / f"fetched{number}"))
        container.destroy()
    for path in (host / "file", host / "sub" / "file"):
        assert path.read_bytes() == b"the host's own"
    assert sorted(os.listdir(host)) == ["file", "sub"]
    assert os.listdir(host / "sub") == ["file"]
    for tree in tmp_path.glob("fetched*"):
        for file in tree.rglob("*"):
            assert file.is_symlink() or file.is_dir() or file.read_bytes() in (b"inside", b"sent"), file
    assert True in outcomes


@pytest.mark.parametrize(
    "lure",
    ["ln -s {} /lure", "mkfifo /lure", "mkdir /lure", "ln -s /proc/1/mem /lure", "ln -s /dev/zero /lure"],
)
def test_a_file_swapped_for_something_else_holds_nobody_up(
    node: RunningNode, tmp_path: Path, lure: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"the host's own")
    with undisturbed(node) as location:
        container = location.node().spawn("python", ["sleep", "1000"])
        container.run(f"mkdir /t; echo -n inside >/t/file; {lure.format(canary)}", check=True)
        swap(container, "/t/file", "/lure")
        for number in range(40):
            with contextlib.suppress(FileError):
                assert container.fetch("/t/file") in (b"inside", b"sent")
            if number % 4 == 0:
                with contextlib.suppress(FileError):
                    container.fetch_tree("/t", tmp_path / "fetched")
        container.destroy()
    assert canary.read_bytes() == b"the host's own"
    if (fetched := tmp_path / "fetched" / "file").is_file() and not fetched.is_symlink():
        assert fetched.read_bytes() == b"inside"
