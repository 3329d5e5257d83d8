"""20ft itself, through the blocking SDK, as any program would use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.bytestream import Sink, Source
from bench.contender import (
    CPUS,
    MEMORY_BYTES,
    PIDS,
    SMALL,
    Box,
    Contender,
    ContenderFailed,
    check_small,
    make_mark,
)
from bench.node import RunningNode, running_node
from tfnz import Container, Location

#: How long anything may take before it counts as broken.
TIMEOUT_S = 60.0


class OurBox(Box):
    """A container of 20ft."""

    def __init__(self, container: Container, mark: str) -> None:
        self.container = container
        self.mark = mark

    def run_true(self) -> None:
        if self.container.run(["true"]).exit_code != 0:
            raise ContenderFailed("`true` did not end well")

    def put_small(self) -> None:
        self.container.put("/small", SMALL)

    def fetch_small(self) -> None:
        check_small(self.container.fetch("/small"))

    def put_large(self, size_bytes: int) -> None:
        self.container.put("/large", Source(size_bytes))

    def fetch_large(self, size_bytes: int) -> None:
        sink = Sink()
        self.container.fetch("/large", sink)
        if sink.size_bytes != size_bytes:
            raise ContenderFailed(f"of {size_bytes} bytes {sink.size_bytes} came back")

    def reboot(self) -> None:
        self.container.reboot()

    def reboot_reset(self) -> None:
        self.container.reboot(reset_filesystem=True)

    def expect_end(self) -> Callable[[], float]:
        told, moments = threading.Event(), list[float]()

        def note(_container: Container, _returncode: int) -> None:
            moments.append(time.perf_counter())
            told.set()

        self.container.termination_callback = note

        def wait() -> float:
            if not told.wait(TIMEOUT_S):
                raise ContenderFailed(f"no callback within {TIMEOUT_S:.0f} s of the end of a container")
            return moments[0]

        return wait

    def destroy(self) -> None:
        if not self.container.dead:
            self.container.destroy()


class Ours(Contender):
    """A session with a node of our own."""

    name = "20ft"

    def __init__(self, location: Location, node: RunningNode) -> None:
        self.location = location
        self.daemon = node
        self._node = location.node()

    def spawn(self) -> OurBox:
        mark = make_mark()
        box = OurBox(self._spawn(["sleep", mark]), mark)
        box.container.wait_until_ready(TIMEOUT_S)
        return box

    def spawn_first_byte(self) -> OurBox:
        mark, arrived = make_mark(), threading.Event()
        container = self._spawn(
            ["sh", "-c", f"echo here; exec sleep {mark}"],
            pty=False,
            stdout_callback=lambda _container, _data: arrived.set(),
        )
        if not arrived.wait(TIMEOUT_S):
            raise ContenderFailed(f"no output of a container within {TIMEOUT_S:.0f} s")
        return OurBox(container, mark)

    def _spawn(self, command: list[str], **how: Any) -> Container:
        return self._node.spawn("busybox", command, memory=MEMORY_BYTES, cpus=CPUS, pids=PIDS, **how)


@contextmanager
def running_ours(directory: Path, image: Path) -> Iterator[Ours]:
    """A node with the image, and a session with it."""
    with running_node(directory) as node, Location(socket=node.socket, quiet=True) as location:
        location.import_image(image, "busybox")
        yield Ours(location, node)
