"""Daemons of peers: started, and ended by their process ids; what they leave running, the keeper ends."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.contender import ContenderFailed

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0


@contextmanager
def running_daemon(
    command: Sequence[str], *, socket: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A daemon that is listening on its socket, for the length of the block.

    Raises:
        ContenderFailed: it does not start; the message has the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        _wait_for_socket(process, command[0], socket, log)
        yield
    finally:
        _stop(process)


def _wait_for_socket(process: subprocess.Popen[bytes], program: str, path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-1500:].strip()
            raise ContenderFailed(f"{program} did not start: {said or 'it said nothing'}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
