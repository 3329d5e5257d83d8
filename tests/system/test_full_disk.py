"""A node whose disk is full: it refuses what it cannot keep, and goes on when there is room again."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import IMAGES, RunningNode, import_images, make_node
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location
from tfnz.protocol.errors import DiskFull
from tfnz.protocol.exits import Cause, Exit


@pytest.fixture(scope="module")
def full_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a small disk."""
    running = make_node(
        tmp_path_factory.mktemp("full"), port=2021, settings='disk = "300M"\npool_size = 2\npool_max = 2\n'
    )
    try:
        running.start()
        import_images(running, "busybox")
        yield running
        running.stop()
    finally:
        running.kill()


@pytest.fixture
def full(full_node: RunningNode) -> Iterator[Location]:
    with full_node.location() as session:
        yield session


def fill(location: Location) -> Container:
    """A container that has written until nothing was left."""
    container = location.node().spawn("busybox", ["sleep", "1000"], disk="1G")

    def is_full() -> bool:
        # What the disk only now gives back of what others have deleted is taken, too.
        container.run("dd if=/dev/zero bs=1M >>/fill; sync; dd if=/dev/zero bs=4k >>/rest; sync")
        return location.node().status().disk_free_bytes < 16 << 20

    wait_for(is_full, SOON_S, "there is still room")
    return container


def test_spawn_on_a_full_disk(full: Location) -> None:
    node = full.node()
    bystander = node.spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    greedy = fill(full)
    container = node.spawn("busybox", ["true"])
    with pytest.raises(DiskFull, match=r"no room to create .* bytes are free, .* larger disk"):
        container.wait_until_ready()
    assert container.exit is not None and container.exit.cause is Cause.FAILED_TO_START
    assert bystander.run("echo fine").stdout == b"fine\n"
    greedy.destroy()
    assert node.spawn("busybox", ["true"]).wait(SOON_S) == Exit(Cause.EXITED, 0)


def test_files_on_a_full_disk(full: Location, tmp_path: Path) -> None:
    container = full.node().spawn("busybox", ["sleep", "1000"])
    container.put("/file", b"old")
    greedy = fill(full)
    with pytest.raises(DiskFull, match="/file: no space is left.* the node's disk is full: remove images"):
        container.put("/file", io.BytesIO(os.urandom(16 << 20)))
    assert container.fetch("/file") == b"old"
    greedy.destroy()


def test_import_on_a_full_disk(full: Location) -> None:
    greedy = fill(full)
    before = full.images()
    with pytest.raises(DiskFull, match="the node's disk is full .*remove images or containers"):
        full.import_image(IMAGES / "nginx-oci.tar", "nginx")
    assert full.images() == before
    greedy.destroy()
    full.node().spawn("busybox", ["true"]).wait(SOON_S)  # waits for the room to come back
    assert full.import_image(IMAGES / "nginx-oci.tar", "nginx").names == ["nginx:latest"]
    full.remove_image("nginx")
