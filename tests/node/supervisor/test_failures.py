"""What the sandbox's failures are called in the protocol: the whole table."""

from __future__ import annotations

import errno

import pytest

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
)
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.jobs import RunFailed
from tfnz_node.sandbox.wire import Stage, WireError
from tfnz_node.supervisor.failures import explain_connect, explain_file, explain_start


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (RunFailed(Stage.EXEC, errno.ENOENT, "nope: not found"), CommandNotFound),
        (RunFailed(Stage.EXEC, errno.EACCES, "nope: permission denied"), CommandNotExecutable),
        (RunFailed(Stage.EXEC, errno.ENOEXEC, "nope: exec format error"), CommandNotExecutable),
        (RunFailed(Stage.EXEC, errno.EISDIR, "nope: is a directory"), CommandNotExecutable),
        (RunFailed(Stage.USER, errno.ENOENT, "nope: no such user"), UserNotFound),
        (RunFailed(Stage.CWD, errno.ENOENT, "nope: no such directory"), WorkdirUnusable),
        (RunFailed(Stage.CWD, errno.ENOTDIR, "nope: not a directory"), WorkdirUnusable),
        (RunFailed(Stage.CWD, errno.ENOSPC, "nope: no space"), DiskFull),
        (RunFailed(Stage.CWD, errno.EDQUOT, "nope: quota"), DiskFull),
        (InitGone("nope ended"), ObjectDead),
        (InitFailed(errno.EAGAIN, "nope: fork"), NoCapacity),
        (InitFailed(errno.ENOMEM, "nope: fork"), NoCapacity),
        (InitFailed(errno.EINVAL, "nope: odd"), StartFailed),
        (TimeoutError("nope: no answer"), StartFailed),
    ],
)
def test_why_a_process_could_not_be_started(failure: OSError, error: type[TfnzError]) -> None:
    explained = explain_start(failure)
    assert type(explained) is error
    assert "nope" in explained.message or error is ObjectDead


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_has_an_explanation(stage: Stage) -> None:
    explained = explain_start(RunFailed(stage, errno.EPERM, "nope"))
    assert isinstance(explained, StartFailed)
    assert "nope" in explained.message


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOENT, PathNotFound),
        (errno.EISDIR, PathIsDirectory),
        (errno.ESRCH, UserNotFound),
        (errno.ELOOP, PathRefused),
        (errno.EINVAL, PathRefused),
        (errno.EXDEV, PathRefused),
        (errno.EMLINK, PathRefused),
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, FileError),
        (errno.ENOTDIR, FileError),
        (0, FileError),
    ],
)
def test_why_a_file_could_not_be_written_or_read(number: int, error: type[TfnzError]) -> None:
    explained = explain_file(number, "/x: nope")
    assert type(explained) is error
    assert "/x: nope" in explained.message


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), NobodyListens),
        (FileNotFoundError(errno.ENOENT, "no such file"), NobodyListens),
        (NotADirectoryError(errno.ENOTDIR, "not a directory"), NobodyListens),
        (BlockingIOError(errno.EAGAIN, "try again"), NobodyListens),
        (InitGone("init ended"), NobodyListens),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionBroken),
        (OSError(errno.ENOTCONN, "not connected"), ConnectionBroken),
        (TimeoutError(), TimedOut),
        (WireError("too long"), InvalidArgument),
        (OSError(errno.EPROTOTYPE, "wrong type"), InvalidArgument),
        (OSError(errno.ELOOP, "a loop"), PathRefused),
        (PermissionError(errno.EACCES, "permission denied"), PathRefused),
        (OSError(errno.EIO, "input/output error"), FileError),
    ],
)
def test_why_nothing_could_be_connected_to(failure: OSError | WireError, error: type[TfnzError]) -> None:
    explained = explain_connect(failure, "port 80 of container c", 5.0)
    assert type(explained) is error
    assert "port 80 of container c" in str(explained)
