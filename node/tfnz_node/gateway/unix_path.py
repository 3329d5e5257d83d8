"""The file of a unix socket: room is made for it, and who may connect is written on it."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tfnz.protocol.errors import NoCapacity

log = logging.getLogger(__name__)


def prepare_unix_path(path: Path) -> None:
    """Make room for a unix socket at `path`: its directory exists, and no dead socket is in the way.

    Raises:
        NoCapacity: somebody is listening there, or it is another kind of file.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_socket():
        raise NoCapacity(f"{path} is in the way and is no socket: move it, or set `socket` in node.toml")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # it has more callers than it can take: it lives
            pass
        except OSError as exc:
            raise NoCapacity(
                f"{path} is in the way and is no socket of ours ({exc.strerror}): move it, or set `socket` in node.toml"
            ) from exc
    raise NoCapacity(f"another node is listening on {path}: stop it, or set `socket` in node.toml")


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Files made meanwhile, such as a socket, are root's alone."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def share_unix_path(path: Path, group: str) -> None:
    """Let `group` connect beside root."""
    try:
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
    except KeyError:
        log.warning("there is no group %r: only root can use %s", group, path)
    else:
        os.chmod(path, 0o660)
