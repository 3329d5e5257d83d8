"""A container: an isolated root file system, process tree and network address."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, final

from . import aio
from .aio.arguments import Command, Egress, Env, TerminalSize
from .connectable import Connectable
from .container_tunnels import ContainerTunnels
from .face import described, find_callback
from .lifetime import Lifetime
from .portal import Portal
from .process import Process
from .results import Result

if TYPE_CHECKING:
    from .location import Location
    from .node import Node

_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.Container)
class Container(Lifetime, Connectable, ContainerTunnels):
    """An isolated root file system, process tree and network address, made by `Node.spawn`.

    Unless a method says otherwise it raises `ObjectDead` (a ValueError) when the container has ended, or what kept it
    from starting; and it waits, up to 60 seconds, until the container is ready.

    Example:
        >>> container = location.node().spawn("busybox", "sleep 1000")
        >>> container.put("/greeting", b"hello")
        >>> container.run("cat /greeting").stdout
        b'hello'
        >>> container.destroy()
    """

    _core: aio.Container

    def __init__(self, core: aio.Container, portal: Portal) -> None:
        self._core = core
        self._portal = portal

    # --- what it is

    @property
    def ip(self) -> str:
        """Its address."""
        return self._core.ip

    @property
    def image(self) -> str:
        """What it was made from, as it was asked for."""
        return self._core.image

    @property
    def tag(self) -> str | None:
        """Its human name, if it has one."""
        return self._core.tag

    @property
    def env(self) -> list[tuple[str, str]]:
        """The variables that were given to spawn."""
        return self._core.env

    @property
    def docker_config(self) -> dict[str, Any]:
        """The image's configuration, as ``docker inspect`` names its parts."""
        return self._core.docker_config

    @property
    def processes(self) -> dict[str, Process]:
        """What `spawn` and `spawn_shell` started in it and has not ended, by uuid."""
        return {uuid: self._portal.face(core) for uuid, core in list(self._core.processes.items())}

    @property
    def stdout_callback(self) -> Callable[[Container, bytes], object] | None:
        """Called with the container and each part of its output; may be changed at any time."""
        return find_callback(self._core.stdout_callback)

    @stdout_callback.setter
    def stdout_callback(self, callback: Callable[[Container, bytes], object] | None) -> None:
        self._core.stdout_callback = self._portal.adopt(callback)

    @property
    def stderr_callback(self) -> Callable[[Container, bytes], object] | None:
        """Called with the container and each part of its errors, when it has no terminal."""
        return find_callback(self._core.stderr_callback)

    @stderr_callback.setter
    def stderr_callback(self, callback: Callable[[Container, bytes], object] | None) -> None:
        self._core.stderr_callback = self._portal.adopt(callback)

    @property
    def termination_callback(self) -> Callable[[Container, int], object] | None:
        """Called once with the container and its return code."""
        return find_callback(self._core.termination_callback)

    @termination_callback.setter
    def termination_callback(self, callback: Callable[[Container, int], object] | None) -> None:
        self._core.termination_callback = self._portal.adopt(callback)

    def parent(self) -> Node:
        node: Node = self._portal.face(self._core.parent())
        return node

    def node(self) -> Node:
        return self.parent()

    def location(self) -> Location:
        location: Location = self._portal.face(self._core.location())
        return location

    def ensure_alive(self) -> None:
        self._core.ensure_alive()

    def is_ready(self) -> bool:
        return self._core.is_ready()

    # --- its life

    def wait_until_ready(self, timeout: float | None = 60.0) -> Container:
        self._portal.call(self._core.wait_until_ready(timeout))
        return self

    def private_ip(self) -> str:
        return self._portal.call(self._core.private_ip())

    def start(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.start(timeout_s=timeout_s))

    def reboot(self, reset_filesystem: bool = False, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.reboot(reset_filesystem, timeout_s=timeout_s))

    def destroy(self, *, grace_s: float = 0.0, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.destroy(grace_s=grace_s, timeout_s=timeout_s))

    # --- its main process

    def stdin(self, data: bytes | str, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.stdin(data, timeout_s=timeout_s))

    def close_stdin(self) -> None:
        self._portal.post(self._core.close_stdin)

    def signal(self, number: int | None = None, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.signal(number, timeout_s=timeout_s))

    def resize(self, columns: int, rows: int, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.resize(columns, rows, timeout_s=timeout_s))

    # --- further processes

    def run(
        self,
        command: Command,
        *,
        input: bytes | str = b"",
        env: Env | None = None,
        cwd: str = "/",
        user: str = "root",
        timeout_s: float | None = None,
        check: bool = False,
        data_callback: Callable[[Container, bytes], object] | None = None,
        stderr_callback: Callable[[Container, bytes], object] | None = None,
        nolog: bool = False,
    ) -> Result:
        return self._portal.call(
            self._core.run(
                command,
                input=input,
                env=env,
                cwd=cwd,
                user=user,
                timeout_s=timeout_s,
                check=check,
                data_callback=self._portal.adopt(data_callback),
                stderr_callback=self._portal.adopt(stderr_callback),
                nolog=nolog,
            )
        )

    run_process = run

    def spawn(
        self,
        command: Command,
        data_callback: Callable[[Process, bytes], object] | None = None,
        termination_callback: Callable[[Process, int], object] | None = None,
        stderr_callback: Callable[[Process, bytes], object] | None = None,
        *,
        pty: bool = False,
        env: Env | None = None,
        cwd: str = "/",
        user: str = "root",
        timeout_s: float | None = None,
        interactive: bool = True,
        size: TerminalSize = (80, 24),
    ) -> Process:
        core = self._portal.call(
            self._core.spawn(
                command,
                self._portal.adopt(data_callback),
                self._portal.adopt(termination_callback),
                self._portal.adopt(stderr_callback),
                pty=pty,
                env=env,
                cwd=cwd,
                user=user,
                timeout_s=timeout_s,
                interactive=interactive,
                size=size,
            )
        )
        process: Process = self._portal.face(core)
        return process

    spawn_process = spawn

    def spawn_shell(
        self,
        *,
        data_callback: Callable[[Process, bytes], object] | None = None,
        termination_callback: Callable[[Process, int], object] | None = None,
        echo: bool = False,
        size: TerminalSize = (80, 24),
    ) -> Process:
        core = self._portal.call(
            self._core.spawn_shell(
                data_callback=self._portal.adopt(data_callback),
                termination_callback=self._portal.adopt(termination_callback),
                echo=echo,
                size=size,
            )
        )
        process: Process = self._portal.face(core)
        return process

    def all_processes(self) -> list[Process]:
        return list(self.processes.values())

    def destroy_process(self, process: Process, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.destroy_process(process._core, timeout_s=timeout_s))

    # --- files

    def put(
        self, path: str, data: bytes | str | IO[bytes], *, mode: int = 0o644, timeout_s: float | None = None
    ) -> None:
        self._portal.call(self._core.put(path, data, mode=mode, timeout_s=timeout_s))

    def fetch(self, path: str, into: IO[bytes] | None = None, *, timeout_s: float | None = None) -> bytes:
        return self._portal.call(self._core.fetch(path, into, timeout_s=timeout_s))

    def put_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        self._portal.call(self._core.put_tree(path, local_dir, timeout_s=timeout_s))

    def fetch_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        self._portal.call(self._core.fetch_tree(path, local_dir, timeout_s=timeout_s))

    # --- the firewall

    def set_egress(self, egress: Egress, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.set_egress(egress, timeout_s=timeout_s))
