"""A node, asynchronously."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.messages import (
    ContainerCreated,
    DestroyContainer,
    GetNodeStatus,
    NodeOffer,
    NodeStatus,
    SpawnContainer,
)
from tfnz.protocol.messages import Result as Answer

from .arguments import (
    Command,
    Egress,
    Env,
    Files,
    TerminalSize,
    parse_command,
    parse_egress,
    parse_env,
    parse_files,
    parse_limits,
    parse_optional_tag,
    parse_path,
    parse_seconds,
    parse_size_of_terminal,
)
from .callbacks import Callback
from .container import Container
from .requests import REQUEST_TIMEOUT_S, expect
from .session import Session

if TYPE_CHECKING:
    from .location import Location


class NodeStats(dict[str, float]):
    """How much of a node is free: ``memory`` in MB, ``cpu``, ``paging``, ``ave_start_time`` in seconds."""

    def __call__(self) -> NodeStats:
        """The same; older programs call it."""
        return self


@final
class Node:
    """A machine that runs containers; see `tfnz.Node`.

    Attributes:
        name: its name, as requests have it.
        pk: its public key, 32 bytes; secrets are sealed to it.
        stats: how much of it is free, as it last said.
        containers: what this session has spawned on it and has not ended, by uuid.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(self, location: Location, session: Session, offer: NodeOffer) -> None:
        self.name = offer.name
        self.pk = offer.seal_key
        self.stats = NodeStats(offer.stats)
        self.containers: dict[str, Container] = {}
        self._session = session
        self._location = location

    def parent(self) -> Location:
        """The location that it belongs to."""
        return self._location

    def location(self) -> Location:
        """The location that it belongs to."""
        return self._location

    def __repr__(self) -> str:
        return f"<Node {self.name}: {len(self.containers)} containers of ours>"

    async def status(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> NodeStatus:
        """What the node is and how it does; `stats` is brought up to date too."""
        answer = await self._session.request(
            self.name, GetNodeStatus(), what=f"the status of node {self.name}", timeout_s=timeout_s
        )
        status = expect(NodeStatus, answer)
        self.stats.update(status.stats)
        return status

    async def spawn(
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
        stdout_callback: Callback | None = None,
        stderr_callback: Callback | None = None,
        termination_callback: Callback | None = None,
        no_image_check: bool = False,
    ) -> Container:
        """Make a container. It is returned as soon as the node is sure to try; most methods wait until it is ready.

        Args:
            image: a name or a digest of an image that the node has.
            command: in place of the image's own: a line for ``sh -c``, or a list of exactly the words.
            env: variables, a mapping or pairs; they win over the image's.
            pre_boot_files: absolute paths and their content (bytes, str or `Secret`), a mapping or pairs. They are
                there before the main process starts, and after a reset.
            volumes: come with a later release.
            memory: a number of bytes, or text such as "512M".
            cpus: processors, also in part.
            pids: processes and threads at most.
            disk: what may be written, like `memory`.
            user: who the main process runs as, in place of the image's.
            workdir: where it starts, in place of the image's.
            tag: a human name, unique in the account.
            sleep: don't start the main process before `Container.start`; everything else works.
            timeout_s: seconds after which the container is ended.
            pty: give the main process a terminal; its errors are then part of its output.
            interactive: the terminal echoes and translates newlines, as for a person.
            stdin: let the main process wait for input; without, it finds the end of it.
            size: of the terminal: columns and rows.
            egress: what it may reach outside: "open" is everything but private networks, "none" nothing; or a list of
                networks and names ("10.1.2.0/24", "example.org", "*.example.org"), of which a name stands for the
                addresses that the container was given when it asked for it.
            stdout_callback: called with the container and each part of its output, bytes.
            stderr_callback: the same for errors, without a terminal.
            termination_callback: called once with the container and its return code; `Container.exit` says more.
            no_image_check: for older programs; ignored.

        Raises:
            ImageNotFound, TagInUse, InvalidArgument, NoCapacity, QuotaExceeded: the node will not try.
        """
        if volumes:
            raise InvalidArgument("volumes come with a later release: leave volumes empty")
        words, shell = (None, False) if command is None else parse_command(command)
        pairs = parse_env(env)
        files = parse_files(pre_boot_files, self.pk)
        limits = parse_limits(memory, cpus, pids, disk)
        terminal = parse_size_of_terminal(*size)
        outside = parse_egress(egress)
        limit_s = parse_seconds(timeout_s)
        place = None if workdir is None else parse_path(workdir)
        if not isinstance(image, str) or not 0 < len(image) <= 255:
            raise InvalidArgument(
                f"image is {image!r:.200}: give the name or the digest of one, see Location.images()"
            )
        container = Container(
            self,
            image=image,
            tag=parse_optional_tag(tag),
            env=pairs,
            sleep=sleep,
            pty=pty,
            stdin=stdin,
            stdout_callback=stdout_callback,
            stderr_callback=stderr_callback,
            termination_callback=termination_callback,
        )
        body = SpawnContainer(
            image,
            container._streams.numbers,
            command=words,
            shell=shell,
            env=pairs,
            files=files,
            limits=limits,
            user=user,
            workdir=place,
            tag=container.tag,
            sleep=sleep,
            timeout_s=limit_s,
            pty=pty,
            interactive=interactive,
            size=terminal,
            egress=outside,
        )
        return await self._spawn(container, body)

    spawn_container = spawn

    async def _spawn(self, container: Container, body: SpawnContainer) -> Container:
        def adopt(answer: Answer) -> None:
            container._on_created(answer)
            self.containers[container.uuid] = container

        try:
            await self._session.request(
                self.name,
                body,
                what=f"the spawn of {body.image}",
                on_result=adopt,
                on_late=lambda answer: self._end_stray(expect(ContainerCreated, answer).container),
            )
        except BaseException:
            if container.uuid and not container.dead:  # it was made, and just then nobody wanted it any more
                self._end_stray(container.uuid)
            container._close()
            raise
        return container

    def _end_stray(self, container: str) -> None:
        request = self._session.request(
            self.name, DestroyContainer(container), what=f"the end of container {container}"
        )
        self._session.start_chore(request, f"end container {container}")

    def all_containers(self) -> list[Container]:
        """The containers of this session on it that have not ended."""
        return list(self.containers.values())

    async def destroy_container(
        self, container: Container, *, grace_s: float = 0.0, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> None:
        """End a container of this node and remove all of it, as `Container.destroy`, but not one that has ended.

        Raises:
            ObjectDead: it has ended; a ValueError, which programs of old expect.
            InvalidArgument: it is none of this node.
        """
        if container.parent() is not self:
            raise InvalidArgument(f"container {container.uuid} is none of node {self.name}")
        container.ensure_alive()
        await container.destroy(grace_s=grace_s, timeout_s=timeout_s)

    def _forget(self, container: Container) -> None:
        """It has ended."""
        self.containers.pop(container.uuid, None)

    def _refresh(self, offer: NodeOffer) -> None:
        """What the node says of itself has changed."""
        self.pk = offer.seal_key
        self.stats.update(offer.stats)
