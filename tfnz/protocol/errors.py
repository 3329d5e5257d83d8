"""Every error 20ft raises, and the code by which it crosses the wire.

    TfnzError
    ├── InvalidArgument (ValueError)            what was asked for makes no sense
    │   └── TagInUse                            the account already uses this tag
    ├── NotFound (ValueError, KeyError)         no such object in this session
    │   ├── ContainerNotFound
    │   ├── ProcessNotFound
    │   └── NodeNotFound
    ├── ObjectDead (ValueError, RuntimeError)   it was there, and has ended
    ├── ImageError
    │   ├── ImageNotFound (RuntimeError)
    │   ├── ImageInvalid (ValueError)           a malformed archive, or a digest that lies
    │   └── ImageInUse (ValueError)
    ├── StartFailed (RuntimeError)              the main process, or another, could not be started
    │   ├── CommandNotFound
    │   ├── CommandNotExecutable
    │   ├── UserNotFound
    │   └── WorkdirUnusable
    ├── ProcessFailed (RuntimeError)            run(check=True) and the exit code was not 0
    ├── FileError (ValueError, OSError)         put, fetch and their trees
    │   ├── PathNotFound (FileNotFoundError)
    │   ├── PathIsDirectory (IsADirectoryError)
    │   └── PathRefused                         it leaves the container, or is no ordinary file
    ├── DiskFull (OSError)
    ├── NoCapacity (RuntimeError)               the node has run out of something
    ├── QuotaExceeded (RuntimeError)            the account has
    ├── TimedOut (TimeoutError)
    │   └── NotServing (ValueError)             wait_tcp and wait_http_200 have waited long enough
    ├── ListenFailed (OSError, RuntimeError)    no tunnel can be had at a local port
    ├── NobodyListens (ConnectionRefusedError)  at this port or socket of a container, just now
    ├── ConnectionBroken (ConnectionResetError) a connection into a container was cut off
    ├── ConnectionFailed (RuntimeError, ConnectionError)
    │   ├── NoAccount                           no key files for this location
    │   ├── NotAuthorised                       the node does not know the key, or is not who we think
    │   ├── VersionMismatch
    │   ├── SessionLost                         the node has ended our session
    │   ├── NodeRestarted                       while this call was under way; the session goes on
    │   └── Disconnected                        the session was closed here
    ├── ProtocolError                           the peer broke the rules
    └── InternalError (RuntimeError)            a fault of ours

Each class also derives from the built-in type that programs of old expect, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

import errno
import os

import msgspec


class TfnzError(Exception):
    """Base of all errors of 20ft. `message` is for people; `code` is for programs and the wire."""

    code = "error"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return self.message


class InvalidArgument(TfnzError, ValueError):
    code = "invalid_argument"


class TagInUse(InvalidArgument):
    code = "tag_in_use"


class NotFound(TfnzError, ValueError, KeyError):
    code = "not_found"


class ContainerNotFound(NotFound):
    code = "container_not_found"


class ProcessNotFound(NotFound):
    code = "process_not_found"


class NodeNotFound(NotFound):
    code = "node_not_found"


class ObjectDead(TfnzError, ValueError, RuntimeError):
    code = "object_dead"


class ImageError(TfnzError):
    code = "image_error"


class ImageNotFound(ImageError, RuntimeError):
    code = "image_not_found"


class ImageInvalid(ImageError, ValueError):
    code = "image_invalid"


class ImageInUse(ImageError, ValueError):
    code = "image_in_use"


class StartFailed(TfnzError, RuntimeError):
    code = "start_failed"


class CommandNotFound(StartFailed):
    code = "command_not_found"


class CommandNotExecutable(StartFailed):
    code = "command_not_executable"


class UserNotFound(StartFailed):
    code = "user_not_found"


class WorkdirUnusable(StartFailed):
    code = "workdir_unusable"


class ProcessFailed(TfnzError, RuntimeError):
    """A command that was run with ``check=True`` exited with another code than 0; never crosses the wire.

    Attributes: stdout, stderr (bytes, whole) and exit_code (int).
    """

    code = "process_failed"

    def __init__(
        self, message: str = "", *, stdout: bytes = b"", stderr: bytes = b"", exit_code: int = 1
    ) -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr
        self.exit_code = exit_code


class FileError(TfnzError, ValueError, OSError):
    code = "file_error"


class PathNotFound(FileError, FileNotFoundError):
    code = "path_not_found"


class PathIsDirectory(FileError, IsADirectoryError):
    code = "path_is_directory"


class PathRefused(FileError):
    code = "path_refused"


class DiskFull(TfnzError, OSError):
    code = "disk_full"


class NoCapacity(TfnzError, RuntimeError):
    code = "no_capacity"


class QuotaExceeded(TfnzError, RuntimeError):
    code = "quota_exceeded"


class TimedOut(TfnzError, TimeoutError):
    code = "timed_out"


class NotServing(TimedOut, ValueError):
    code = "not_serving"


class ListenFailed(TfnzError, OSError, RuntimeError):
    code = "listen_failed"


class NobodyListens(TfnzError, ConnectionRefusedError):
    code = "nobody_listens"


class ConnectionBroken(TfnzError, ConnectionResetError):
    code = "connection_broken"


class ConnectionFailed(TfnzError, RuntimeError, ConnectionError):
    code = "connection_failed"


class NoAccount(ConnectionFailed):
    code = "no_account"


class NotAuthorised(ConnectionFailed):
    code = "not_authorised"


class VersionMismatch(ConnectionFailed):
    code = "version_mismatch"


class SessionLost(ConnectionFailed):
    code = "session_lost"


class NodeRestarted(ConnectionFailed):
    """The node's daemon ended during this call, and another goes on with the session; never crosses the wire."""

    code = "node_restarted"


class Disconnected(ConnectionFailed):
    code = "disconnected"


class ProtocolError(TfnzError):
    code = "protocol_error"


class InternalError(TfnzError, RuntimeError):
    code = "internal_error"


def _descendants(cls: type[TfnzError]) -> list[type[TfnzError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _descendants(child))]


#: Every code, and the class that a client raises for it.
ERRORS_BY_CODE: dict[str, type[TfnzError]] = {cls.code: cls for cls in _descendants(TfnzError)}


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True):
    """An error as it crosses the wire."""

    code: str
    message: str


#: What the kernel says when the host has no more to give: descriptors, memory, processes.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


def is_shortage(error: BaseException) -> bool:
    """Whether the kernel has refused something that it may give later."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


#: Longest error text that is sent: names and paths in it come from users.
MAX_ERROR_TEXT = 4096


def describe_error(error: BaseException) -> ErrorInfo:
    """What the peer is told of an error; of one that is not ours, only that there was one."""
    if isinstance(error, TfnzError):
        return ErrorInfo(error.code, error.message[:MAX_ERROR_TEXT])
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return ErrorInfo(
            NoCapacity.code,
            f"the node's host has no more to give ({os.strerror(error.errno)}): end something, or raise its limits",
        )
    return ErrorInfo(
        InternalError.code, f"the node failed unexpectedly ({type(error).__name__}); see its log"
    )


def restore_error(info: ErrorInfo) -> TfnzError:
    """The exception for an error that arrived; a code of a newer peer becomes a plain `TfnzError`."""
    error = ERRORS_BY_CODE.get(info.code, TfnzError)(info.message)
    if type(error) is TfnzError:
        error.code = info.code
    return error
