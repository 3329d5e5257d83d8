"""What the command needs of the SDK: the seam where tests put a fake, and where the real one is imported, late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from typing import IO, Any, Protocol

from tfnz.protocol.exits import Exit
from tfnz.protocol.messages import ConnectionInfo, ContainerInfo, ImageInfo, NodeStatus

#: Called with how many bytes of an archive have been sent, and how many there are if that is known.
Progress = Callable[[int, int | None], object]


class SomeTunnel(Protocol):
    """A tunnel, as `tfnz run` and `tunnel` use it."""

    def localport(self) -> int: ...


class SomeContainer(Protocol):
    """A container, as `tfnz run` uses it."""

    @property
    def uuid(self) -> str: ...
    @property
    def exit(self) -> Exit | None: ...
    def wait_until_ready(self, timeout: float = ...) -> object: ...
    def stdin(self, data: bytes, *, timeout_s: float | None = ...) -> None: ...
    def close_stdin(self) -> None: ...
    def resize(self, columns: int, rows: int, *, timeout_s: float | None = ...) -> None: ...
    def attach_tunnel(self, port: int | str, localport: int, bind: str) -> SomeTunnel: ...


class SomeExternal(Protocol):
    """A container of another session, as `tfnz tunnel` uses it."""

    termination_callback: Callable[[Any, int], object] | None

    @property
    def uuid(self) -> str: ...
    @property
    def tag(self) -> str: ...
    @property
    def exit(self) -> Exit | None: ...
    def attach_tunnel(self, port: int | str, localport: int, bind: str) -> SomeTunnel: ...


class SomeNode(Protocol):
    """A node, as the commands use it."""

    def status(self) -> NodeStatus: ...
    def spawn(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] = ...,
        pre_boot_files: Mapping[str, bytes] = ...,
        memory: int | str = ...,
        cpus: float = ...,
        pids: int = ...,
        disk: int | str = ...,
        user: str | None = ...,
        workdir: str | None = ...,
        tag: str | None = ...,
        timeout_s: float | None = ...,
        pty: bool = ...,
        interactive: bool = ...,
        size: tuple[int, int] = ...,
        egress: str | Sequence[str] = ...,
        stdout_callback: Callable[[Any, bytes], object] | None = ...,
        stderr_callback: Callable[[Any, bytes], object] | None = ...,
        termination_callback: Callable[[Any, int], object] | None = ...,
    ) -> SomeContainer: ...


class SomeLocation(Protocol):
    """A location, as the commands use it."""

    def node(self) -> SomeNode: ...
    def containers(self) -> list[ContainerInfo]: ...
    def external_container(self, key: str) -> SomeExternal: ...
    def connections(self) -> list[ConnectionInfo]: ...
    def images(self) -> list[ImageInfo]: ...
    def import_image(
        self,
        source: str | PathLike[str] | IO[bytes],
        name: str | None = None,
        progress: Progress | None = None,
    ) -> ImageInfo: ...
    def remove_image(self, name: str) -> None: ...


@dataclass(frozen=True)
class Target:
    """Which location is meant: a name, a socket, a private node, or by default whatever the SDK finds."""

    location: str | None = None
    socket: str | None = None
    embedded: bool = False
    data_dir: str | None = None


Connect = Callable[[Target], AbstractContextManager[SomeLocation]]


def connect(target: Target) -> AbstractContextManager[SomeLocation]:
    """A session with the location that is meant; the end of the context ends it."""
    from tfnz import Location  # late, so that `tfnz --help` need not wait for it

    if target.embedded:
        return Location.embedded(target.data_dir)
    return Location(target.location, socket=target.socket, quiet=True)
