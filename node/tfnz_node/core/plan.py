"""From what was asked for and what the image says to what is run: pure, and the place where values are checked."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tfnz.protocol.errors import InvalidArgument, PathRefused
from tfnz.protocol.messages import Limits, PreBootFile, RunProcess, SpawnContainer, StartProcess
from tfnz.protocol.sizes import format_size

from . import minima

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The words and environment of a process; they travel to the sandbox in one packet.
MAX_PROCESS_BYTES = 120 * 1024
MAX_PRE_BOOT_BYTES = 32 << 20

#: Login shells, the best first.
SHELLS = ("bash", "ash", "sh", "zsh", "ksh", "fish")


@dataclass(frozen=True)
class ProcessPlan:
    """What one process is to be: words, environment (``NAME=value``), user, and working directory."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    cwd: str


class ImageDefaults:
    """What of an image's configuration its main process inherits."""

    def __init__(
        self,
        *,
        entrypoint: Sequence[str] = (),
        cmd: Sequence[str] = (),
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
    ) -> None:
        self.entrypoint = tuple(entrypoint)
        self.cmd = tuple(cmd)
        self.env = tuple(env)
        self.user = user
        self.workdir = workdir


def plan_main(spec: SpawnContainer, image: ImageDefaults) -> ProcessPlan:
    """The main process of a container.

    A command replaces both Entrypoint and Cmd of the image.

    Raises:
        InvalidArgument: there is nothing to run, or a value cannot be.
    """
    if spec.command is None:
        argv = image.entrypoint + image.cmd
        if not argv:
            raise InvalidArgument(f"image {spec.image!r} says no command: give one to spawn")
    else:
        argv = plan_words(spec.command, shell=spec.shell)
    env = merge_env([DEFAULT_PATH, *(["TERM=xterm"] if spec.pty else [])], image.env, join_env(spec.env))
    user = spec.user or image.user or "root"
    return checked(ProcessPlan(argv, env, user, spec.workdir or image.workdir or "/"))


def plan_process(spec: StartProcess, container_env: Sequence[str]) -> ProcessPlan:
    """A further process of a container, which has the container's environment beneath its own.

    Raises:
        InvalidArgument: a value cannot be.
    """
    if spec.login_shell:
        argv: tuple[str, ...] = ("sh", "-c", LOGIN_SHELL)
    else:
        argv = plan_words(spec.command, shell=spec.shell)
    terminal = ["TERM=xterm"] if spec.pty or spec.login_shell else []
    env = merge_env([DEFAULT_PATH, *terminal], container_env, join_env(spec.env))
    return checked(ProcessPlan(argv, env, spec.user, spec.cwd))


def plan_run(spec: RunProcess, container_env: Sequence[str]) -> ProcessPlan:
    """The same for one that is run to its end, which has no terminal."""
    argv = plan_words(spec.command, shell=spec.shell)
    env = merge_env([DEFAULT_PATH], container_env, join_env(spec.env))
    return checked(ProcessPlan(argv, env, spec.user, spec.cwd))


#: Becomes the first shell there is, as a login shell.
LOGIN_SHELL = "; ".join(
    f"[ -x {directory}/{shell} ] && exec {directory}/{shell} -l"
    for shell in SHELLS
    for directory in ("/bin", "/usr/bin", "/sbin")
)


def plan_words(command: Sequence[str], *, shell: bool) -> tuple[str, ...]:
    """The words to execute: `command` as it is, or its only word as a line for the shell."""
    if shell:
        if len(command) != 1:
            raise InvalidArgument("a command for the shell is one string")
        return ("/bin/sh", "-c", command[0])
    if not command or not command[0]:
        raise InvalidArgument("the command is empty")
    return tuple(command)


def join_env(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs as ``NAME=value``.

    Raises:
        InvalidArgument: a name is empty or has a ``=``.
    """
    result = []
    for name, value in pairs:
        if not name or "=" in name:
            raise InvalidArgument(f"environment name {name[:80]!r} is not valid: it is empty or contains '='")
        result.append(f"{name}={value}")
    return result


def merge_env(*sources: Iterable[str]) -> tuple[str, ...]:
    """One environment, in which a later source wins and a name stands once, where it first stood."""
    merged: dict[str, str] = {}
    for entry in (entry for source in sources for entry in source):
        name, _, value = entry.partition("=")
        merged[name] = value
    return tuple(f"{name}={value}" for name, value in merged.items())


def checked(plan: ProcessPlan) -> ProcessPlan:
    """`plan`, if the kernel can be given it.

    Raises:
        InvalidArgument: a NUL is in it, or it is too large.
    """
    texts = [*plan.argv, *plan.env, plan.user, plan.cwd]
    if any("\0" in text for text in texts):
        raise InvalidArgument(
            "commands, environment, user and working directory cannot contain NUL characters"
        )
    size = sum(len(text.encode()) + 1 for text in texts)
    if size > MAX_PROCESS_BYTES:
        raise InvalidArgument(
            f"command and environment are {size} bytes together; at most {MAX_PROCESS_BYTES} can be passed. "
            "Put large values into a file"
        )
    return plan


def check_limits(limits: Limits) -> None:
    """Whether a container can live within `limits`.

    Raises:
        InvalidArgument: it cannot; the message names the limit, the value and the minimum.
    """
    checks: list[tuple[str, float, float, str]] = [
        ("memory", limits.memory_bytes, minima.MEMORY_BYTES, f"bytes ({format_size(minima.MEMORY_BYTES)})"),
        ("disk", limits.disk_bytes, minima.DISK_BYTES, f"bytes ({format_size(minima.DISK_BYTES)})"),
        ("pids", limits.pids, minima.PIDS, "processes"),
        ("cpus", limits.cpus, minima.CPUS, "processors"),
    ]
    for name, value, minimum, unit in checks:
        if not value >= minimum:  # also when it is not a number
            raise InvalidArgument(f"{name}={value} is below the minimum of {minimum} {unit}")


def plan_path(path: str) -> str:
    """`path` as an absolute path of the container; a relative one begins at its root.

    This is the first of two guards, for the sake of its clear message: the sandbox resolves every path beneath the
    container's root again, where symbolic links are known.

    Raises:
        PathRefused: it leaves the container, or has a NUL.
    """
    if "\0" in path:
        raise PathRefused(f"path {path[:80]!r} contains a NUL character")
    depth = 0
    for part in path.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            raise PathRefused(f"path {path[:200]!r} leaves the container")
    return posixpath.normpath("/" + path.lstrip("/"))


def plan_files(files: Sequence[PreBootFile]) -> list[PreBootFile]:
    """The pre-boot files, with absolute paths.

    Raises:
        PathRefused: a path is relative, leaves the container, or names no file.
        InvalidArgument: they are too large together.
    """
    total = sum(len(file.data) for file in files)
    if total > MAX_PRE_BOOT_BYTES:
        raise InvalidArgument(
            f"pre-boot files are {total} bytes together, more than {MAX_PRE_BOOT_BYTES}; use put"
        )
    planned = []
    for file in files:
        if not file.path.startswith("/"):
            raise PathRefused(f"pre-boot path {file.path[:200]!r} is not absolute")
        path = plan_path(file.path)
        if path == "/" or file.path.endswith(("/", "/.")):
            raise PathRefused(f"pre-boot path {file.path[:200]!r} names a directory, not a file")
        planned.append(PreBootFile(path, file.data, file.mode, file.secret))
    return planned
