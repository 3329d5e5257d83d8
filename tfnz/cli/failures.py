"""How a failure is told: one line that says what, one that says what to try, and an exit code."""

from __future__ import annotations

import re
import traceback

from tfnz.protocol.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ConnectionFailed,
    DiskFull,
    ImageInUse,
    ImageNotFound,
    NoAccount,
    NoCapacity,
    NodeRestarted,
    NotAuthorised,
    TagInUse,
    TfnzError,
    TimedOut,
    VersionMismatch,
)

from .output import say

FAILED = 1  # of every command but `run`
USAGE = 2
RUN_FAILED = 125  # `tfnz run` itself, as docker and podman have it
NOT_EXECUTABLE = 126
NOT_FOUND = 127

#: What to try, for errors that do not say it themselves; the first class that fits is meant.
_HINTS: tuple[tuple[type[TfnzError], str], ...] = (
    # Both have many reasons, and their messages say what to do about each: one hint for all would mislead.
    (NoAccount, ""),
    (NotAuthorised, ""),
    (VersionMismatch, "install the same release of tfnz here and on the node"),
    (NodeRestarted, "try it again; tfnz ps and tfnz image ls show what is there"),
    (ConnectionFailed, "is the node running? start one with: tfnz-node serve; or run with --embedded"),
    (ImageNotFound, "tfnz image ls shows what there is; import one with: tfnz image import PATH"),
    (ImageInUse, "tfnz ps shows the containers that use it"),
    (TagInUse, "tfnz ps shows the containers with tags"),
    (CommandNotFound, "look at what the image has with: tfnz run IMAGE ls -l /bin /usr/bin"),
    (DiskFull, "make room on the node, or give the container more with --disk"),
    (NoCapacity, "tfnz node status shows what the node has left"),
    (TimedOut, "tfnz node status shows how busy the node is"),
)

_NAMES_COMMAND = re.compile(r"\btfnz(-node)? [a-z]+")


def find_hint(error: BaseException) -> str | None:
    """What to try about an error, unless its message names a command of ours itself."""
    if _NAMES_COMMAND.search(str(error)):
        return None
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)


def choose_run_code(error: BaseException) -> int:
    """The exit code of `tfnz run` for an error, as a shell or docker would choose it."""
    if isinstance(error, CommandNotFound):
        return NOT_FOUND
    if isinstance(error, CommandNotExecutable):
        return NOT_EXECUTABLE
    return RUN_FAILED


def report(error: BaseException, *, debug: bool) -> None:
    """Tells an error on stderr."""
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    known = isinstance(error, TfnzError | OSError)
    text = str(error) if known else f"an error of tfnz itself, {type(error).__name__}: {error}"
    say(f"tfnz: {' '.join(text.split()) or type(error).__name__}")
    hint = find_hint(error) if known else "with --debug it shows where"
    if hint and not (debug and not known):
        say(f"      {hint}")
