"""Runs the tools of the lab, and says which one failed and what it said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


class LabFailed(Exception):
    """The lab cannot be made; the message says at what."""


def run(*words: str | Path, cwd: Path | None = None, accepted: Sequence[int] = (0,)) -> str:
    """Runs a tool to its end; what it printed."""
    command = [str(word) for word in words]
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as exc:
        raise LabFailed(f"{command[0]} is not on this machine: run make molecule, which installs it") from exc
    if done.returncode not in accepted:
        said = "\n".join(done.stdout.splitlines()[-15:])
        raise LabFailed(f"{' '.join(command)} exited with {done.returncode}:\n{said}")
    return done.stdout
