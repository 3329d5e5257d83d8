"""Secrets: for the main process's user alone, in memory, and nowhere else."""

from __future__ import annotations

import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz import Location, Secret, UserNotFound

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


def test_only_the_user_of_the_main_process_can_read_it(location: Location) -> None:
    container = location.node().spawn(
        "busybox", ["sleep", "1000"], user="1000", pre_boot_files={"/run/key": Secret(b"hidden")}
    )
    assert container.run("stat -c '%a %u' /run/key").stdout == b"400 1000\n"
    assert container.run("cat /run/key", user="1000").stdout == b"hidden"
    assert container.run("cat /run/key", user="1001").exit_code != 0
    assert b" /run/key tmpfs " in container.run("cat /proc/mounts").stdout


def test_it_is_nowhere_on_disk_and_in_no_log(node: RunningNode, location: Location) -> None:
    """Searched for byte by byte, below the file system; a file that is no secret proves that the search finds."""
    secret, plain = secrets.token_hex(24).encode(), secrets.token_hex(24).encode()
    container = location.node().spawn(
        "busybox", ["sleep", "1000"], pre_boot_files={"/run/key": Secret(secret), "/etc/plain": plain}
    )
    assert container.fetch("/run/key") == secret
    container.reboot()
    assert container.run(["cat", "/run/key"]).stdout == secret
    container.run("sync", check=True)
    assert node.process is not None
    os.sync()
    places = {path: set(found(path, secret, plain)) for path in files_of(node.directory)}
    assert {one for those in places.values() for one in those} == {plain}, places
    assert secret.decode() not in node.log
    assert repr(Secret(secret)) not in node.log


def files_of(directory: Path) -> Iterator[Path]:
    """Every file of a node that is outside of its disk's mount, the file of that disk included."""
    for path in directory.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path


def found(path: Path, *needles: bytes) -> Iterator[bytes]:
    """Those that are in the file, which may be huge and sparse."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for first, last in data_of(file.fileno(), size):
                for needle in needles:
                    if view.find(needle, max(0, first - len(needle)), last) >= 0:
                        yield needle


def data_of(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that are not holes."""
    last = 0
    while last < size:
        try:
            first = os.lseek(fd, last, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        last = os.lseek(fd, first, os.SEEK_HOLE)
        yield first, last


def test_a_secret_for_a_user_who_is_not_there_is_not_blamed_on_its_file(location: Location) -> None:
    container = location.node().spawn(
        "busybox", ["sleep", "1000"], user="stranger", pre_boot_files={"/run/key": Secret(b"hidden")}
    )
    with pytest.raises(UserNotFound, match="there is no user stranger"):
        container.wait_until_ready()
