"""What a node has runs out: the caller hears what is missing, nobody else notices, and afterwards it goes on by itself.

The disk is in test_full_disk.py; what one container may use up is in test_hostile_containers.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.few_descriptors import few_descriptors
from tests.system.bystanders import another_starts
from tests.system.conftest import IMAGES, RunningNode, import_images, make_node
from tests.system.host_state import unchanged
from tests.system.waiting import PATIENCE, SOON_S
from tfnz import Container, Location
from tfnz.protocol.errors import DiskFull, NoCapacity, QuotaExceeded, StartFailed, TfnzError
from tfnz.protocol.exits import Cause, Exit

POOL = "pool_size = 1\npool_max = 1\n"


@contextlib.contextmanager
def running(node: RunningNode) -> Iterator[RunningNode]:
    """A node that has been started and has the image busybox."""
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.stop()
    finally:
        node.kill()


def find_pid(node: RunningNode) -> int:
    assert node.process is not None
    return node.process.pid


# --- what is counted


@pytest.mark.parametrize(
    ("settings", "count", "error", "words"),
    [
        ("id_count = 3\n", 3, NoCapacity, r"all 3 slots \(id ranges and addresses\) of this node are in use"),
        ('network = "10.231.0.0/29"\n', 5, NoCapacity, "all 5 slots"),
        ("[quota]\ncontainers = 3\n", 3, QuotaExceeded, "3"),
        ('[quota]\nmemory = "200M"\n', 3, QuotaExceeded, "memory"),
    ],
    ids=["ids", "addresses", "containers", "memory"],
)
def test_what_is_counted(
    tmp_path: Path, settings: str, count: int, error: type[TfnzError], words: str
) -> None:
    node = make_node(tmp_path, port=2022, settings='disk = "1G"\n' + POOL + settings)
    with running(node), unchanged(find_pid(node), node.data_dir), node.location() as location:

        def spawn() -> Container:
            return location.node().spawn("busybox", ["true"], memory="64M", sleep=True)

        all_there_are = [spawn() for _ in range(count)]
        for _ in range(3):
            with pytest.raises(error, match=words):
                spawn()
        for container in all_there_are:
            assert container.run("echo fine").stdout == b"fine\n"
        all_there_are.pop().destroy()
        all_there_are.append(spawn())
        with pytest.raises(error, match=words):
            spawn()
        for container in all_there_are:
            container.destroy()
        assert location.node().spawn("busybox", ["true"], memory="64M").wait(SOON_S) == Exit(Cause.EXITED, 0)


# --- what the kernel gives


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node of which something is taken away, and given back."""
    with running(
        make_node(
            tmp_path_factory.mktemp("poor"), port=2023, settings='disk = "1G"\npool_size = 0\npool_max = 0\n'
        )
    ) as node:
        another_starts(node)
        yield node


PIDS = next(path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if path.is_dir())


@contextlib.contextmanager
def few_processes(pid: int, left: int) -> Iterator[None]:
    """A process may start so many others, and threads, and not one beyond."""
    home = next(
        line.split(":")[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] in ("pids", "")
    )
    if (control := PIDS / "cgroup.subtree_control").exists():  # version 2
        control.write_text("+pids")
    group = PIDS / f"few-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        now = int((group / "pids.current").read_text())
        (group / "pids.max").write_text(str(now + left))
        yield
    finally:
        (group / "pids.max").write_text("max")
        for line in (group / "cgroup.procs").read_text().split():
            (PIDS / home.lstrip("/") / "cgroup.procs").write_text(line)
        group.rmdir()


def act_all(location: Location, bystander: Container) -> dict[str, TfnzError]:
    """Everything a program does, one after another: what was refused, and how."""
    refusals = {}

    def spawn() -> None:
        container = location.node().spawn("busybox", ["sleep", "1000"], pre_boot_files={"/f": b"x" * 100_000})
        try:
            container.wait_until_ready()
        finally:
            container.destroy()

    def reboot() -> None:
        container = location.node().spawn("busybox", ["sleep", "1000"])
        try:
            container.wait_until_ready().reboot(reset_filesystem=True)
        finally:
            container.destroy()

    actions: dict[str, Callable[[], object]] = {
        "spawn": spawn,
        "reboot": reboot,
        "terminal": lambda: bystander.spawn("echo fine", pty=True).wait(SOON_S),
        "run": lambda: bystander.run("echo fine", check=True),
        "put": lambda: bystander.put("/file", b"x" * 100_000),
        "fetch": lambda: bystander.fetch("/bin/busybox"),
        "import": lambda: location.import_image(IMAGES / "busybox.tar", "busybox"),
    }
    for name, action in actions.items():
        try:
            action()
        except TfnzError as exc:
            refusals[name] = exc
    return refusals


#: More than anything takes at once.
MANY = 60


@pytest.mark.timeout(300 * PATIENCE)
@pytest.mark.parametrize("scarce", [few_descriptors, few_processes])
def test_what_the_kernel_gives(
    poor: RunningNode, scarce: Callable[[int, int], contextlib.AbstractContextManager[None]]
) -> None:
    """With one more each time, so that each step of everything is once the one for which there is no more."""
    pid = find_pid(poor)
    with unchanged(pid, poor.data_dir):
        for left in range(MANY):
            with poor.location() as location:
                bystander = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
                with scarce(pid, left):
                    refusals = act_all(location, bystander)
                # A reboot says that it was the reboot, too: the container is gone then.
                strange = [
                    (name, error)
                    for name, error in refusals.items()
                    if not (
                        isinstance(error, NoCapacity) or (name == "reboot" and isinstance(error, StartFailed))
                    )
                    or not re.search("Too many open files|Resource temporarily unavailable", str(error))
                ]
                assert not strange, f"with {left} more: {strange}"
                assert bystander.run("echo fine").stdout == b"fine\n"
                another_starts(poor)
            if not refusals:
                break
    assert 0 < left < MANY - 1


def test_a_node_that_has_never_worked_needs_no_threads(tmp_path: Path) -> None:
    """All it will ever have were there when it started: work that finds no thread would be done later, for nobody."""
    node = make_node(tmp_path, port=2024, settings='disk = "1G"\npool_size = 0\npool_max = 0\n')
    with running(node), node.location() as location, unchanged(find_pid(node), node.data_dir):
        with (
            few_processes(find_pid(node), 0),
            pytest.raises(NoCapacity, match="Resource temporarily unavailable"),
        ):
            location.node().spawn("busybox", ["true"])
        assert location.node().spawn("busybox", ["true"]).wait(SOON_S) == Exit(Cause.EXITED, 0)


# --- the host's own disk, beneath the node's


@contextlib.contextmanager
def mounted(place: Path, *words: str | Path) -> Iterator[Path]:
    """A file system, at a new directory."""
    place.mkdir()
    subprocess.run(["mount", *words, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A small one."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=640m", "small") as place:
        yield place


@pytest.fixture
def of_few_files(tmp_path: Path) -> Iterator[Path]:
    """One with room for a thousand files. It is not in memory, for Linux 6.1 maps no ids there."""
    disk = tmp_path / "disk"
    subprocess.run(["mkfs.ext4", "-q", "-N", "1000", "-O", "^has_journal", disk, "1G"], check=True)
    with mounted(tmp_path / "few", "-o", "loop", disk) as place:
        yield place


def test_a_disk_that_is_promised_more_than_the_host_has(small: Path) -> None:
    """One container writes until nothing is left; everybody else hears of a full disk, and not of a broken one."""
    node = make_node(small, port=2025, settings='disk = "8G"\n' + POOL)
    with running(node), node.location() as location, unchanged(find_pid(node), node.data_dir):
        bystander = location.node().spawn("busybox", ["sleep", "1000"])
        bystander.put("/kept", b"kept")
        hog = location.node().spawn("busybox", ["sleep", "1000"], disk="4G")
        with pytest.raises(DiskFull, match="bytes are free, .* are needed"):
            for number in itertools.count():  # what was kept for metadata and was not needed is given, too
                hog.run(f"dd if=/dev/zero of=/fill{number} bs=1M; sync")
                another_starts(node)
        assert bystander.run("cat /kept; rm /kept; echo fine").stdout == b"keptfine\n"
        hog.destroy()
        another_starts(node)
        bystander.put("/given", bytes(1 << 20))
        bystander.destroy()


def test_a_disk_without_inodes(of_few_files: Path) -> None:
    node = make_node(of_few_files, port=2026, settings='storage = "directory"\n' + POOL)
    with running(node), node.location() as location, unchanged(find_pid(node), node.data_dir):
        bystander = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        hog = location.node().spawn("busybox", ["sleep", "1000"])
        hog.run("mkdir /x; for i in $(seq 3000); do : >/x/$i || break; done")
        with pytest.raises(DiskFull, match="no inodes are left|no space is left|No space left"):
            location.node().spawn("busybox", ["true"]).wait_until_ready()
        with pytest.raises(DiskFull, match="/given.*: no space is left"):
            for number in itertools.count():  # what it has given back, and goes on giving back
                bystander.run(f"for i in $(seq 3000); do : >/x{number}-$i || break; done")
                bystander.put(f"/given{number}", b"given")
        with pytest.raises(DiskFull, match="disk is full"):
            location.import_image(IMAGES / "nginx-oci.tar", "nginx")
        assert bystander.run("echo fine").stdout == b"fine\n"
        hog.destroy()
        another_starts(node)
        bystander.put("/given", b"given")
        bystander.destroy()
