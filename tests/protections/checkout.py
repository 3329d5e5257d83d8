"""Copies of this checkout that may be changed: what git has or would add, and what is built."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.protections.removal import Edit

ROOT = Path(__file__).resolve().parents[2]
#: What tests need of what git does not have: to be changed by a build, and only to be read.
BUILT = ("node/init/build", "node/keeper/build")
IMAGES = "build/images"
#: Programs in C, by where their sources are.
PROGRAMS = ("node/init", "node/keeper")
BUILD_TIMEOUT_S = 300.0


class CannotBuild(Exception):
    """A program does not compile without the protection; the message is the compiler's."""


def copy_checkout(target: Path) -> None:
    """A copy of this checkout, built as this one is.

    The times of files are kept, so that nothing is compiled again that has not changed.
    """
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # git has it still
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    for name in BUILT:
        with contextlib.suppress(FileNotFoundError):
            shutil.copytree(ROOT / name, target / name, symlinks=True, dirs_exist_ok=True)
    build(target, PROGRAMS)
    (target / IMAGES).parent.mkdir(parents=True, exist_ok=True)
    (target / IMAGES).symlink_to(ROOT / IMAGES)


@contextlib.contextmanager
def copied(original: Path, target: Path) -> Iterator[Path]:
    """A copy of a copy, with what Python has compiled in it, until the context ends."""
    shutil.copytree(original, target, symlinks=True)
    try:
        yield target
    finally:
        shutil.rmtree(target)


def rebuild(checkout: Path, edits: tuple[Edit, ...]) -> None:
    """Build the programs whose sources were changed.

    Raises:
        CannotBuild: it does not compile.
    """
    build(checkout, [program for program in PROGRAMS if any(e.file.startswith(f"{program}/") for e in edits)])


def build(checkout: Path, programs: tuple[str, ...] | list[str]) -> None:
    """Build programs in C, where anything has changed.

    Raises:
        CannotBuild: one does not compile.
    """
    for program in programs:
        made = subprocess.run(
            ["make", "-s", "-C", str(checkout / program)],
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        )
        if made.returncode:
            raise CannotBuild(f"{program}: {made.stderr.strip()}")
