"""Giving a sandbox its root file system, and what belongs into it before anything runs."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from tfnz.protocol.errors import DiskFull, ObjectDead, StartFailed, TfnzError, TimedOut
from tfnz.protocol.messages import PreBootFile
from tfnz_node.rootfs.overlay import build_rootfs
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.pool import Sandbox

from .failures import explain_file
from .spec import Host, Spec


async def boot(host: Host, sandbox: Sandbox, spec: Spec, scratch: Path, *, with_files: bool) -> None:
    """Boot the container's init.

    Secrets live in the init's memory file system and are written at every boot. Other files are part of the
    container's own file system, and only written `with_files`.

    Raises:
        DiskFull, FileError, ...: it has no room, or a file cannot be.
        ObjectDead: init has been killed meanwhile.
        StartFailed, TimedOut: init cannot do it.
    """
    init, slot = sandbox.init, sandbox.slot
    root = await asyncio.get_running_loop().run_in_executor(
        host.executor, build_rootfs, spec.layers, scratch, init.userns_fd, host.staging, slot.id_base
    )
    try:
        await init.boot(root, hostname=spec.hostname, address=slot.address)
    except (InitGone, InitFailed, TimeoutError) as exc:
        raise _explain_boot(exc) from exc
    finally:
        os.close(root)
    if with_files:
        await _write(host, init, spec, PreBootFile("/etc/hostname", f"{spec.hostname}\n".encode()))
        await _write(host, init, spec, PreBootFile("/etc/hosts", hosts_file(spec.hostname, slot.address)))
    for file in spec.files:
        if with_files or file.secret:
            await _write(host, init, spec, file)


async def _write(host: Host, init: InitProcess, spec: Spec, file: PreBootFile) -> None:
    content = host.unseal(file.data) if file.secret else file.data
    # A secret is its owner's alone: the user that the main process runs as.
    owner, mode = (spec.main.user.encode(), file.mode & 0o700) if file.secret else (b"", file.mode)
    try:
        await init.write_file(file.path.encode(), content, mode=mode, owner=owner, secret=file.secret)
    except InitFailed as exc:
        raise explain_file(exc.errno or 0, f"pre-boot file {file.path}: {exc}") from exc
    except (InitGone, TimeoutError) as exc:
        raise _explain_boot(exc) from exc


def _explain_boot(exc: InitGone | InitFailed | TimeoutError) -> TfnzError:
    if isinstance(exc, InitGone):
        return ObjectDead("the container ended while it was booted")
    if isinstance(exc, InitFailed):
        kind = DiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StartFailed
        return kind(f"the container could not be booted: {exc}")
    return TimedOut(f"the container could not be booted: {exc}")


def hosts_file(hostname: str, address: str) -> bytes:
    """What /etc/hosts says until the network brings more names."""
    return (
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n".encode()
    )
