"""A location without a node, at the seam of the command line, and streams that are pipes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tfnz.cli.main import cli
from tfnz.cli.sdk import Progress, Target
from tfnz.cli.settings import Settings
from tfnz.cli.stdio import Stdio
from tfnz.protocol.errors import ContainerNotFound, ImageNotFound, ObjectDead, TfnzError
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ConnectionInfo, ContainerInfo, ImageInfo, NodeStatus

#: The SDK logs under this name, and the command shows it.
log = logging.getLogger("tfnz.aio")

Script = Callable[["FakeContainer"], object]


class FakeContainer:
    """A container whose life is a function, run on a thread as callbacks are."""

    uuid = "22222222222222222222aa"
    listen_error: TfnzError | None = None

    def __init__(self, script: Script, **options: Any) -> None:
        self.options = options
        self.exit: Exit | None = None
        self.received = bytearray()
        self.arrived = threading.Condition()
        self.input_closed = False
        self.sizes: list[tuple[int, int]] = []
        self.tunnels: list[FakeTunnel] = []
        self.start_error: TfnzError | None = None
        self.on_resize: Script | None = None
        self._script = script
        self.thread = threading.Thread(target=self._live, daemon=True)

    def _live(self) -> None:
        self._script(self)

    # what a script does

    def print(self, data: bytes) -> None:
        self.options["stdout_callback"](self, data)

    def complain(self, data: bytes) -> None:
        self.options["stderr_callback"](self, data)

    def finish(self, code: int | Exit = 0) -> None:
        self.exit = code if isinstance(code, Exit) else Exit(Cause.EXITED, code=code)
        self.options["termination_callback"](self, self.exit.returncode)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.arrived:
            assert self.arrived.wait_for(condition, timeout=10)

    # what the command does

    def wait_until_ready(self, timeout: float = 60) -> FakeContainer:
        if self.start_error:
            raise self.start_error
        log.info("Container is running: %s", self.uuid)
        return self

    def stdin(self, data: bytes, *, timeout_s: float | None = 60) -> None:
        assert timeout_s is None
        if self.exit:
            raise ObjectDead("it has ended")
        with self.arrived:
            self.received += data
            self.arrived.notify_all()

    def close_stdin(self) -> None:
        with self.arrived:
            self.input_closed = True
            self.arrived.notify_all()

    def resize(self, columns: int, rows: int, *, timeout_s: float | None = 60) -> None:
        assert timeout_s is None
        if self.on_resize:
            self.on_resize(self)
        with self.arrived:
            self.sizes.append((columns, rows))
            self.arrived.notify_all()

    def attach_tunnel(self, port: int | str, localport: int, bind: str) -> FakeTunnel:
        if self.listen_error:
            raise self.listen_error
        if self.exit:
            raise ObjectDead("it has ended")
        with self.arrived:
            self.tunnels.append(FakeTunnel(port, localport or 40000, bind))
            self.arrived.notify_all()
        return self.tunnels[-1]


class FakeExternal:
    """A container of another program; its life is a function too, which begins with the first tunnel."""

    uuid = "33333333333333333333bb"
    tag = "web"

    def __init__(self, script: Callable[[FakeExternal], object]) -> None:
        self.exit: Exit | None = None
        self.termination_callback: Callable[[Any, int], object] | None = None
        self.tunnels: list[FakeTunnel] = []
        self.listen_error: TfnzError | None = None
        self._thread = threading.Thread(target=script, args=(self,), daemon=True)

    def finish(self, exit: Exit) -> None:
        assert self.termination_callback is not None
        self.exit = exit
        self.termination_callback(self, exit.returncode)

    def attach_tunnel(self, port: int | str, localport: int, bind: str) -> FakeTunnel:
        if self.listen_error:
            raise self.listen_error
        self.tunnels.append(FakeTunnel(port, localport or 40000, bind))
        if len(self.tunnels) == 1:
            self._thread.start()
        return self.tunnels[-1]


@dataclass(frozen=True)
class FakeTunnel:
    port: int | str
    local: int
    bind: str

    def localport(self) -> int:
        return self.local


class FakeNode:
    def __init__(self, location: FakeLocation) -> None:
        self._location = location

    def status(self) -> NodeStatus:
        return NodeStatus(
            "node1",
            "2.0",
            "6.18",
            "v2",
            "btrfs",
            3,
            8,
            24 << 30,
            1536 << 20,
            10 << 30,
            2,
            0.5,
            7325.0,
            {"cpu": 1.0},
        )

    def spawn(self, image: str, command: Any = None, **options: Any) -> FakeContainer:
        if self._location.spawn_error:
            raise self._location.spawn_error
        container = FakeContainer(self._location.script, image=image, command=command, **options)
        container.start_error = self._location.start_error
        container.on_resize = self._location.on_resize
        self._location.spawned.append(container)
        container.thread.start()
        return container


class FakeLocation:
    """What a test prepares, and what it finds out afterwards."""

    def __init__(self) -> None:
        self.script: Script = FakeContainer.finish
        self.on_resize: Script | None = None
        self.spawn_error: BaseException | None = None
        self.start_error: TfnzError | None = None
        self.connect_error: BaseException | None = None
        self.spawned: list[FakeContainer] = []
        self.targets: list[Target] = []
        self.open = 0
        self.known_containers: list[ContainerInfo] = []
        self.known_connections: list[ConnectionInfo] = []
        self.known_images: list[ImageInfo] = []
        self.imported: list[tuple[Any, str | None]] = []
        self.external: FakeExternal | None = None
        self.sought: list[str] = []

    @contextlib.contextmanager
    def connect(self, target: Target) -> Iterator[FakeLocation]:
        self.targets.append(target)
        if self.connect_error:
            raise self.connect_error
        self.open += 1
        log.debug("Message loop started")
        try:
            yield self
        finally:
            self.open -= 1

    def node(self) -> FakeNode:
        return FakeNode(self)

    def containers(self) -> list[ContainerInfo]:
        return self.known_containers

    def external_container(self, key: str) -> FakeExternal:
        self.sought.append(key)
        if self.external is None:
            raise ContainerNotFound(f"the account has no container {key!r} that has a tag: see `tfnz ps`")
        return self.external

    def connections(self) -> list[ConnectionInfo]:
        return self.known_connections

    def images(self) -> list[ImageInfo]:
        return self.known_images

    def import_image(
        self, source: Any, name: str | None = None, progress: Progress | None = None
    ) -> ImageInfo:
        content = source if isinstance(source, str) else source.read()
        self.imported.append((content, name))
        digest = f"sha256:{len(self.imported):064x}"
        self.known_images.append(ImageInfo(digest, [name] if name else [], 5 << 20, 0.0, 2))
        return self.known_images[-1]

    def remove_image(self, name: str) -> None:
        for image in self.known_images:
            if name in (*image.names, image.digest):
                self.known_images.remove(image)
                return
        raise ImageNotFound(f"there is no image {name!r}")

    @property
    def container(self) -> FakeContainer:
        (only,) = self.spawned
        return only


class Streams:
    """Our ends of the pipes that are the command's standard streams."""

    def __init__(self) -> None:
        self._stdin_read, self.stdin = os.pipe()
        self.stdout, self._stdout_write = os.pipe()
        self.stderr, self._stderr_write = os.pipe()
        self.given = Stdio(self._stdin_read, self._stdout_write, self._stderr_write)
        self._open = {
            self._stdin_read,
            self.stdin,
            self.stdout,
            self._stdout_write,
            self.stderr,
            self._stderr_write,
        }

    def type(self, data: bytes, *, last: bool = True) -> None:
        os.write(self.stdin, data)
        if last:
            self.shut(self.stdin)

    def read_stdout(self) -> bytes:
        self.shut(self._stdout_write)
        return self._read_all(self.stdout)

    def read_stderr(self) -> bytes:
        self.shut(self._stderr_write)
        return self._read_all(self.stderr)

    def _read_all(self, descriptor: int) -> bytes:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b""))

    def shut(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in list(self._open):
            self.shut(descriptor)


class Tool:
    """The `tfnz` command, with a fake location."""

    def __init__(self, location: FakeLocation, streams: Streams) -> None:
        self.location = location
        self.streams = streams
        self.stdio = streams.given

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> Result:
        settings = Settings(connect=self.location.connect, stdio=lambda: self.stdio)
        result = CliRunner().invoke(cli, list(arguments), obj=settings, input=stdin, prog_name="tfnz")
        assert self.location.open == 0, "the session was left open"
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.stderr or "--debug" in arguments
        return result


@pytest.fixture
def location() -> FakeLocation:
    return FakeLocation()


@pytest.fixture
def streams() -> Iterator[Streams]:
    pipes = Streams()
    yield pipes
    pipes.close()


@pytest.fixture
def tfnz(location: FakeLocation, streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path / "20ft"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Tool(location, streams)
