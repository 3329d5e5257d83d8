"""Giving a sandbox its root file system, and what belongs into it before anything runs.

First everything that may block, in one go on a worker thread: limits, a scratch, the root, the contents of files; of a
sandbox that has its root already there is mostly nothing that could. Then all that init is to do is sent to it at once,
the main process included: init does it in order, and does not start that process when something before it has failed.
So a container is up after one trip to init, and at most one to another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tfnz.protocol.errors import DiskFull, ObjectDead, StartFailed, TfnzError, TimedOut
from tfnz.protocol.messages import PreBootFile
from tfnz_node.rootfs.overlay import build_rootfs
from tfnz_node.sandbox.control import Asked, InitFailed, InitGone
from tfnz_node.sandbox.memory import find_parts, memory_file
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.roots import ReadyRoot

from .failures import explain_file
from .spec import Host, Spec

#: So many files are on their way at most: what the socket does not take at once costs a descriptor each.
FILES_AT_ONCE = 32
#: Pre-boot files of so many bytes in all are copied at once.
QUICK_BYTES = 64 * 1024

#: A root that is ready, or what makes a directory for one and may block.
NewRoot: TypeAlias = ReadyRoot | Callable[[], Path]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What init gets, in descriptors of ours."""

    root: int
    contents: int
    files: list[PreBootFile]
    sizes: list[int]

    def close(self) -> None:
        os.close(self.root)
        os.close(self.contents)


class Booting:
    """A boot that init has been asked for.

    Attributes:
        scratch: where the container's own files are.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.root: Asked | None = None
        self.files: list[tuple[str, Asked]] = []

    async def done(self) -> None:
        """Wait until everything is there.

        Raises:
            DiskFull, FileError, ...: it has no room, or a file cannot be.
            ObjectDead: init has been killed meanwhile.
            StartFailed, TimedOut: init cannot do it.
        """
        try:
            if self.root is not None:
                await self.root
            for path, written in self.files:
                try:
                    await written
                except InitFailed as exc:
                    raise explain_file(exc.errno or 0, f"pre-boot file {path}: {exc}") from exc
        except (InitGone, InitFailed, TimeoutError) as exc:
            raise _explain_boot(exc) from exc


async def boot(
    host: Host,
    sandbox: Sandbox,
    spec: Spec,
    root: NewRoot,
    *,
    with_files: bool,
) -> Booting:
    """Ask the container's init to boot. Its main process may be asked for as soon as this returns.

    Secrets live in the init's memory file system and are written at every boot. Other files are part of the
    container's own file system, and only written `with_files`.

    Args:
        root: a ready one is taken over; what makes a directory is called on a worker thread.

    Raises:
        DiskFull, ...: what the making of the directory raises, and the making of the root.
        ObjectDead: init has been killed meanwhile.
    """
    if isinstance(root, ReadyRoot) and _is_quick(sandbox, spec):
        scratch, prepared = _prepare(host, sandbox, spec, root, with_files)
    else:
        scratch, prepared = await asyncio.get_running_loop().run_in_executor(
            host.executor, _prepare, host, sandbox, spec, root, with_files
        )
    try:
        return await _ask(host, sandbox, spec, scratch, prepared)
    except InitGone as exc:
        raise _explain_boot(exc) from exc
    finally:
        prepared.close()


def _is_quick(sandbox: Sandbox, spec: Spec) -> bool:
    """Whether what is left to do for a root that is ready takes less than a trip to a worker thread."""
    return (
        sandbox.limits == spec.limits
        and not any(file.secret for file in spec.files)
        and sum(len(file.data) for file in spec.files) <= QUICK_BYTES
    )


def _prepare(
    host: Host, sandbox: Sandbox, spec: Spec, root: NewRoot, with_files: bool
) -> tuple[Path, _Prepared]:
    with contextlib.ExitStack() as undo:
        if isinstance(root, ReadyRoot):
            undo.callback(os.close, root.fd)
        sandbox.limit(spec.limits)
        scratch = root.scratch if isinstance(root, ReadyRoot) else root()
        files = list(_choose_files(host, sandbox, spec, with_files=with_files))
        plain = [host.unseal(file.data) if file.secret else file.data for file in files]
        contents = memory_file("files", *plain)
        undo.callback(os.close, contents)
        if isinstance(root, ReadyRoot):
            fd = root.fd
        else:
            fd = build_rootfs(
                spec.layers, scratch, sandbox.init.userns_fd, host.staging, sandbox.slot.id_base
            )
        undo.pop_all()
    return scratch, _Prepared(fd, contents, files, [len(content) for content in plain])


def _choose_files(host: Host, sandbox: Sandbox, spec: Spec, *, with_files: bool) -> Iterator[PreBootFile]:
    if with_files:
        yield PreBootFile("/etc/hostname", f"{spec.hostname}\n".encode())
        yield PreBootFile("/etc/hosts", hosts_file(spec.hostname, sandbox.slot.address))
        if (resolver := host.network.resolver) is not None:
            yield PreBootFile("/etc/resolv.conf", f"nameserver {resolver}\n".encode())
    for file in spec.files:
        if with_files or file.secret:
            yield file


async def _ask(host: Host, sandbox: Sandbox, spec: Spec, scratch: Path, prepared: _Prepared) -> Booting:
    init = sandbox.init
    booting = Booting(scratch)
    # Without a network the address is on the loopback, where it leads nowhere.
    address = sandbox.slot.address if host.network.lan is None else ""
    booting.root = init.boot(prepared.root, hostname=spec.hostname, address=address)
    for file, content in zip(prepared.files, find_parts(prepared.contents, prepared.sizes), strict=True):
        # A secret is its owner's alone: the user that the main process runs as.
        owner, mode = (spec.main.user.encode(), file.mode & 0o700) if file.secret else (b"", file.mode)
        written = init.write_file(file.path.encode(), content, mode=mode, owner=owner, secret=file.secret)
        booting.files.append((file.path, written))
        if len(booting.files) % FILES_AT_ONCE == 0:
            with contextlib.suppress(InitFailed, TimeoutError):  # told by `done`
                await written
    return booting


def _explain_boot(exc: InitGone | InitFailed | TimeoutError) -> TfnzError:
    if isinstance(exc, InitGone):
        return ObjectDead("the container ended while it was booted")
    if isinstance(exc, InitFailed):
        kind = DiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StartFailed
        return kind(f"the container could not be booted: {exc}")
    return TimedOut(f"the container could not be booted: {exc}")


def hosts_file(hostname: str, address: str) -> bytes:
    """What /etc/hosts says; names of others are the resolver's to know."""
    return (
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n".encode()
    )
