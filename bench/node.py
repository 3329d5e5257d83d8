"""A node of the benchmark's own: the daemon as it is installed, with its data in a directory that goes away."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contender import ContenderFailed
from tfnz import TfnzError

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0

#: All defaults but for places, and for room for a thousand containers of one account besides what else is measured.
_CONFIG: Final = """\
data_dir = "{directory}/data"
socket = "{socket}"
listen = []
disk = "32G"

[quota]
containers = {containers}
"""
_MOST_CONTAINERS: Final = 4000


@dataclass(frozen=True)
class RunningNode:
    """The daemon, and where it listens."""

    pid: int
    socket: Path


@contextmanager
def running_node(directory: Path) -> Iterator[RunningNode]:
    """A daemon that is ready, for the length of the block.

    Raises:
        ContenderFailed: it does not start; the message has the end of its log.
    """
    directory.mkdir(mode=0o700)
    path = directory / "node.sock"
    config = directory / "node.toml"
    config.write_text(_CONFIG.format(directory=directory, socket=path, containers=_MOST_CONTAINERS))
    log = directory / "log"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(str(directory / "notify"))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    # What is later hidden from the peers in our mounts is not hidden from it. It keeps this process id.
                    *("unshare", "--mount", "--propagation", "private"),
                    *(sys.executable, "-m", "tfnz_node", "--config", str(config), "serve"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"NOTIFY_SOCKET": str(directory / "notify")},
                # An interrupt from the terminal is for us alone: the node ends when we have taken leave of it.
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, listener, log)
            yield RunningNode(process.pid, path)
        except TfnzError as exc:
            raise ContenderFailed(f"{exc}; the node said: {_read_tail(log)}") from exc
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], listener: socket.socket, log: Path) -> None:
    ended = os.pidfd_open(process.pid)
    try:
        heard, _, _ = select.select([listener.fileno(), ended], [], [], START_TIMEOUT_S)
    finally:
        os.close(ended)
    if heard != [listener.fileno()] or listener.recv(100) != b"READY=1":
        raise ContenderFailed(f"the node did not start: {_read_tail(log)}")


def _read_tail(log: Path) -> str:
    return log.read_text()[-4000:] or "nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
