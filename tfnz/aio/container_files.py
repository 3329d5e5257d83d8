"""Files of a container: put and fetched, alone or as trees, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import IO, Any, Protocol

from tfnz.protocol.messages import FetchFile, FetchTree, PutFile, PutTree

from .arguments import parse_input, parse_path
from .container_base import ContainerBase
from .local_trees import TreeWriter, read_tree
from .transfers import MakeBody, download, once, parts_from, parts_of, upload
from .worker import run_blocking


class ContainerFiles(ContainerBase):
    """A container as a place for files. They are root's, and paths begin at the container's root."""

    async def put(
        self, path: str, data: bytes | str | IO[bytes], *, mode: int = 0o644, timeout_s: float | None = None
    ) -> None:
        """Write a file, owned by root; its directories are made, and a file that is there is replaced at once.

        Args:
            path: in the container; a relative one begins at the root.
            data: bytes, text that is encoded as UTF-8, or an open binary file, which is read to its end in bounded
                memory and left open.
            mode: the file's permissions.
            timeout_s: how long it may take; None is for as long as the session lives.

        Raises:
            PathRefused, PathIsDirectory: `path` leaves the container, or is no file; both ValueErrors.
            DiskFull: it does not fit.
        """
        target = parse_path(path)
        parts = self._parts(data)
        await self._upload(
            lambda stream: PutFile(self.uuid, target, stream, mode), parts, repr(path), timeout_s
        )

    @staticmethod
    def _parts(data: Any) -> AsyncIterator[bytes]:
        return parts_of(data) if hasattr(data, "read") else once(parse_input(data))

    async def fetch(
        self, path: str, into: IO[bytes] | None = None, *, timeout_s: float | None = None
    ) -> bytes:
        """Read a file.

        Args:
            path: in the container; a relative one begins at the root.
            into: an open binary file that the content is written to, in bounded memory; it is left open.
            timeout_s: how long it may take; None is for as long as the session lives.

        Returns:
            The content, or nothing when it was written to `into`.

        Raises:
            PathNotFound, PathIsDirectory, PathRefused: there is no such file, or it is no ordinary one.
        """
        source = parse_path(path)
        content: list[bytes] = []

        async def take(parts: list[bytes]) -> None:
            if into is None:
                content.extend(parts)
            else:
                await run_blocking(partial(_write_all, into, parts))

        await self._download(lambda stream: FetchFile(self.uuid, source, stream), take, path, timeout_s)
        return b"".join(content)

    async def put_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        """Write a local directory and all in it to `path`; files, directories and links, owned by root.

        Raises:
            PathNotFound: there is no such local directory.
            FileError: the container refuses.
        """
        target = parse_path(path)
        parts = parts_from(read_tree(local_dir))
        what = repr(os.fspath(local_dir))
        await self._upload(lambda stream: PutTree(self.uuid, target, stream), parts, what, timeout_s)

    async def fetch_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        """Read the directory `path` and all in it into a local directory, which is made if need be.

        Nothing is written outside of `local_dir`, whatever the container does: links in it are made but not followed.

        Raises:
            PathNotFound: there is no such directory in the container.
            FileError: it cannot be read there, or written here.
        """
        source = parse_path(path)
        with TreeWriter(local_dir) as writer:

            async def take(parts: list[bytes]) -> None:
                await run_blocking(partial(_write_all, writer, parts))

            await self._download(lambda stream: FetchTree(self.uuid, source, stream), take, path, timeout_s)
            writer.finish()

    async def _upload(
        self, make_body: MakeBody, parts: AsyncIterator[bytes], source: str, timeout_s: float | None
    ) -> None:
        await self.wait_until_ready()
        what = f"put {source} into container {self.uuid}"
        with self._found_by_node():
            await upload(self._session, self._node_name, make_body, parts, what=what, timeout_s=timeout_s)

    async def _download(
        self,
        make_body: MakeBody,
        take: Callable[[list[bytes]], Awaitable[None]],
        path: str,
        timeout_s: float | None,
    ) -> None:
        await self.wait_until_ready()
        what = f"fetch {path!r} from container {self.uuid}"
        with self._found_by_node():
            await download(self._session, self._node_name, make_body, take, what=what, timeout_s=timeout_s)


class _Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


def _write_all(into: _Writer, parts: list[bytes]) -> None:
    for part in parts:
        left = part
        # An unbuffered file may take a part of it, and says how much; other writers may say nothing.
        while left and isinstance(written := into.write(left), int) and written < len(left):
            left = left[written:]
