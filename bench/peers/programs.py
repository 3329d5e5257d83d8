"""The programs of peers that are run for each request, and what is asked of them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from bench.contender import ContenderFailed

TIMEOUT_S: Final = 120.0


def find_program(name: str, package: str) -> str:
    """Where a program is.

    Raises:
        ContenderFailed: it is not there.
    """
    # Not every user's path has the directories of daemons.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise ContenderFailed(f"there is no {name}: install Debian's {package} (make bench does)")
    return path


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, input: bytes = b"") -> bytes:
    """What a command prints.

    Raises:
        ContenderFailed: it failed; the message has what it said.
    """
    done = subprocess.run(command, input=input, capture_output=True, env=environment, timeout=TIMEOUT_S)
    if done.returncode != 0:
        _fail(command, done.returncode, done.stderr)
    return done.stdout


def _fail(command: Sequence[str], returncode: int, errors: bytes) -> NoReturn:
    said = errors.decode(errors="replace").strip()[-1000:]
    raise ContenderFailed(
        f"{' '.join(command)[:80]} ... ended with {returncode}: {said or 'it said nothing'}"
    )


def start_detached(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
    """A command that returns, and leaves behind processes that must not hold our pipes."""
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            timeout=TIMEOUT_S,
        )
        if done.returncode != 0:
            errors.seek(0)
            _fail(command, done.returncode, errors.read())


def start_reading(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A command that goes on, and has written its first byte, which is read."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        bufsize=0,
    )
    assert process.stdout is not None
    if not process.stdout.read(1):
        process.stdout.close()
        _fail(command, process.wait(), b"no output")
    return process
