"""A node: a machine that runs containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from . import aio
from .aio.arguments import Command, Egress, Env, Files, TerminalSize
from .aio.node import NodeStats
from .container import Container
from .face import described
from .portal import Portal
from .protocol.messages import NodeStatus

if TYPE_CHECKING:
    from .location import Location

_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.Node)
class Node:
    """A machine that runs containers, one of `Location.nodes`.

    Example:
        >>> container = location.node().spawn("busybox", ["sleep", "1000"], env={"NAME": "value"}, memory="64M")
        >>> container.run("echo $NAME").stdout
        b'value\\n'
    """

    def __init__(self, core: aio.Node, portal: Portal) -> None:
        self._core = core
        self._portal = portal

    @property
    def name(self) -> str:
        """Its name, as requests have it."""
        return self._core.name

    @property
    def pk(self) -> bytes:
        """Its public key, 32 bytes; secrets are sealed to it."""
        return self._core.pk

    @property
    def stats(self) -> NodeStats:
        """How much of it is free, as it last said: ``memory`` (MB), ``cpu``, ``paging``, ``ave_start_time`` (s)."""
        return self._core.stats

    @property
    def containers(self) -> dict[str, Container]:
        """What this session has spawned on it and has not ended, by uuid."""
        return {uuid: self._portal.face(core) for uuid, core in list(self._core.containers.items())}

    def parent(self) -> Location:
        location: Location = self._portal.face(self._core.parent())
        return location

    def location(self) -> Location:
        return self.parent()

    def __repr__(self) -> str:
        return repr(self._core)

    def status(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> NodeStatus:
        return self._portal.call(self._core.status(timeout_s=timeout_s))

    def spawn(
        self,
        image: str,
        command: Command | None = None,
        *,
        env: Env | None = None,
        pre_boot_files: Files | None = None,
        volumes: Any = None,
        memory: int | str = "512M",
        cpus: float = 1.0,
        pids: int = 256,
        disk: int | str = "4G",
        user: str | None = None,
        workdir: str | None = None,
        tag: str | None = None,
        sleep: bool = False,
        timeout_s: float | None = None,
        pty: bool = True,
        interactive: bool = False,
        stdin: bool = True,
        size: TerminalSize = (80, 24),
        egress: Egress = "open",
        stdout_callback: Callable[[Container, bytes], object] | None = None,
        stderr_callback: Callable[[Container, bytes], object] | None = None,
        termination_callback: Callable[[Container, int], object] | None = None,
        no_image_check: bool = False,
    ) -> Container:
        core = self._portal.call(
            self._core.spawn(
                image,
                command,
                env=env,
                pre_boot_files=pre_boot_files,
                volumes=volumes,
                memory=memory,
                cpus=cpus,
                pids=pids,
                disk=disk,
                user=user,
                workdir=workdir,
                tag=tag,
                sleep=sleep,
                timeout_s=timeout_s,
                pty=pty,
                interactive=interactive,
                stdin=stdin,
                size=size,
                egress=egress,
                stdout_callback=self._portal.adopt(stdout_callback),
                stderr_callback=self._portal.adopt(stderr_callback),
                termination_callback=self._portal.adopt(termination_callback),
                no_image_check=no_image_check,
            )
        )
        container: Container = self._portal.face(core)
        return container

    spawn_container = spawn

    def all_containers(self) -> list[Container]:
        return list(self.containers.values())

    def destroy_container(
        self, container: Container, *, grace_s: float = 0.0, timeout_s: float | None = _REQUEST_TIMEOUT_S
    ) -> None:
        self._portal.call(self._core.destroy_container(container._core, grace_s=grace_s, timeout_s=timeout_s))
