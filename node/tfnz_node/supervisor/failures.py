"""Failures of the sandbox in the words of the protocol."""

from __future__ import annotations

import errno

from tfnz.protocol.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ConnectionBroken,
    DiskFull,
    FileError,
    InvalidArgument,
    NobodyListens,
    NoCapacity,
    ObjectDead,
    PathIsDirectory,
    PathNotFound,
    PathRefused,
    StartFailed,
    TfnzError,
    TimedOut,
    UserNotFound,
    WorkdirUnusable,
    is_shortage,
)
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.jobs import RunFailed
from tfnz_node.sandbox.wire import Stage, WireError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BROKEN = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})
_ABSENT = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.ENOTDIR})
_REFUSED = frozenset({errno.ELOOP, errno.EINVAL, errno.EXDEV, errno.EMLINK})


def explain_start(exc: OSError | TimeoutError) -> TfnzError:
    """Why a process could not be started."""
    if isinstance(exc, RunFailed):
        if exc.errno in _FULL:
            return DiskFull(f"the process could not be started: {exc}")
        match exc.stage:
            case Stage.USER:
                return UserNotFound(str(exc))
            case Stage.CWD:
                return WorkdirUnusable(str(exc))
            case Stage.EXEC if exc.errno == errno.ENOENT:
                return CommandNotFound(str(exc))
            case Stage.EXEC:
                return CommandNotExecutable(str(exc))
        return StartFailed(str(exc))
    if isinstance(exc, InitGone):
        return ObjectDead("the container ended before the process could be started")
    if isinstance(exc, InitFailed) and exc.errno in (errno.EAGAIN, errno.ENOMEM):
        return NoCapacity(f"the container has no room for another process: {exc}. Raise pids= or memory=")
    return StartFailed(f"the process could not be started: {exc}")


def explain_file(number: int, text: str) -> TfnzError:
    """Why a file of a container could not be written or read, from an error number and what init says of it."""
    if number == errno.EDQUOT:
        return DiskFull(f"{text}. Raise disk=, or delete something in the container")
    if number == errno.ENOSPC:
        return DiskFull(
            f"{text}. Unless this is below /dev, in memory, the node's disk is full: remove images or containers, "
            "or give it a larger disk"
        )
    if number == errno.ENOENT:
        return PathNotFound(text)
    if number == errno.EISDIR:
        return PathIsDirectory(text)
    if number == errno.ESRCH:
        return UserNotFound(text)
    if number in _REFUSED:
        return PathRefused(text)
    return FileError(text)


def explain_connect(exc: OSError | WireError, where: str, timeout_s: float) -> TfnzError:
    """Why nothing could be connected to `where`, a port or path of a container."""
    if isinstance(exc, InitGone):
        return NobodyListens(f"{where}: the container is being rebooted, or ends")
    if isinstance(exc, TimeoutError):
        return TimedOut(
            f"{where} did not answer within {timeout_s:g} s: does its service accept connections?"
        )
    if isinstance(exc, WireError) or exc.errno in (errno.EPROTOTYPE, errno.ENAMETOOLONG):
        return InvalidArgument(f"{where} is no place to connect to: {exc}")
    if exc.errno in _BROKEN:
        return ConnectionBroken(f"{where} cut the connection off at once")
    if exc.errno == errno.EAGAIN:
        return NobodyListens(f"{where} has as many callers waiting as it takes")
    if is_shortage(exc):
        return NoCapacity(f"the node has no room for another connection: {exc}")
    if exc.errno in _ABSENT:
        return NobodyListens(f"nobody listens at {where}")
    if exc.errno in _REFUSED or exc.errno in (errno.EACCES, errno.EPERM):
        return PathRefused(f"{where} cannot be connected to: {exc}")
    return FileError(f"{where} cannot be connected to: {exc}")
