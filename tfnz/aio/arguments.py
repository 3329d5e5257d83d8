"""What users pass, checked and in the form of the wire; pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from tfnz.protocol.errors import InvalidArgument, PathRefused
from tfnz.protocol.ids import parse_tag
from tfnz.protocol.messages import Limits, PreBootFile, Size
from tfnz.protocol.sizes import parse_size
from tfnz.secret import Secret

Command: TypeAlias = str | Sequence[str]
Env: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Content: TypeAlias = bytes | str | Secret
Files: TypeAlias = Mapping[str, Content] | Sequence[tuple[str, Content]]
#: "open", "none", or what may be reached: networks, addresses and names.
Egress: TypeAlias = str | Sequence[str]
TerminalSize: TypeAlias = tuple[int, int]

#: Pre-boot files travel inside one message.
MAX_PRE_BOOT_BYTES: Final = 32 << 20
#: A secret belongs to the user that the main process runs as, who alone may read it.
SECRET_MODE: Final = 0o400
_MAX_PATH: Final = 4096


def parse_command(command: Command) -> tuple[list[str], bool]:
    """The words of a command, and whether they are one line for a shell.

    Raises:
        InvalidArgument: it is neither a line nor a list of words.
    """
    if isinstance(command, str):
        words, shell = [command], True
    elif isinstance(command, Iterable) and not isinstance(command, bytes | bytearray | Mapping):
        words, shell = list(command), False
    else:
        raise InvalidArgument(f"a command is one string for the shell, or a list of words, not {command!r}")
    if not words or not words[0]:
        raise InvalidArgument("the command is empty: give a line for the shell, or at least one word")
    for word in words:
        if not isinstance(word, str):
            raise InvalidArgument(f"the word {word!r} of a command is no string: use str, also for numbers")
        if "\0" in word:
            raise InvalidArgument(f"the word {word[:80]!r} of a command contains a NUL character")
    return words, shell


def parse_env(env: Env | None) -> list[tuple[str, str]]:
    """Variables as pairs.

    Raises:
        InvalidArgument: it is no mapping or list of pairs, or a name cannot be one.
    """
    pairs = _parse_pairs(env, "env", '{"NAME": "value"} or [("NAME", "value")]')
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"env has {name!r}: {value!r}: names and values are strings")
        if not name or "=" in name or "\0" in name:
            raise InvalidArgument(
                f"env has a variable called {name[:80]!r}: a name is not empty and has no '=' or NUL"
            )
        if "\0" in value:
            raise InvalidArgument(f"env gives {name} a value with a NUL character")
    return pairs


def parse_files(files: Files | None, seal_key: bytes) -> list[PreBootFile]:
    """Pre-boot files; secrets among them are sealed to the node's key.

    Raises:
        InvalidArgument: a wrong shape, a path that is not absolute or leaves the root, or too much.
    """
    pairs = _parse_pairs(files, "pre_boot_files", '{"/path": b"content"} or [("/path", b"content")]')
    parsed = [_parse_file(path, content, seal_key) for path, content in pairs]
    if (total := sum(len(file.data) for file in parsed)) > MAX_PRE_BOOT_BYTES:
        raise InvalidArgument(
            f"pre_boot_files hold {total} bytes, more than {MAX_PRE_BOOT_BYTES}: spawn with sleep=True, "
            "put the large ones, then start"
        )
    return parsed


def _parse_file(path: Any, content: Any, seal_key: bytes) -> PreBootFile:
    if not isinstance(path, str) or not path.startswith("/") or path.endswith("/"):
        raise InvalidArgument(f"pre_boot_files has the path {path!r}: it must be absolute, and name a file")
    if ".." in path.split("/") or "\0" in path or len(path) > _MAX_PATH:
        raise InvalidArgument(
            f"pre_boot_files has the path {path[:200]!r}: it may not have '..' or NUL, or be so long"
        )
    match content:
        case Secret():
            return PreBootFile(path, content.seal(seal_key), SECRET_MODE, secret=True)
        case str():
            return PreBootFile(path, content.encode())
        case bytes() | bytearray() | memoryview():
            return PreBootFile(path, bytes(content))
    raise InvalidArgument(f"pre_boot_files gives {path} {type(content).__name__}: use bytes, str or Secret")


def _parse_pairs(value: Any, name: str, form: str) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    items = value.items() if isinstance(value, Mapping) else value
    # A pair of strings in place of a list of pairs would otherwise pass for two pairs of two letters.
    well_formed = isinstance(items, Iterable) and not isinstance(items, str | bytes)
    pairs = list(items) if well_formed else []
    if not well_formed or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise InvalidArgument(f"{name} is {_shorten(value)}: it must look like {form}")
    return [(first, second) for first, second in pairs]


def _shorten(value: object) -> str:
    return f"of type {type(value).__name__}"  # the value itself may be a secret


def parse_limits(memory: int | str, cpus: float, pids: int, disk: int | str) -> Limits:
    """Limits as the node takes them.

    Raises:
        InvalidArgument: one of them is not a number or a size. Whether it is enough is the node's to say.
    """
    if isinstance(cpus, bool) or not isinstance(cpus, int | float) or not 0 < cpus <= 4096:
        raise InvalidArgument(f"cpus is {cpus!r}: give a number of processors such as 0.5 or 2")
    if isinstance(pids, bool) or not isinstance(pids, int) or not 0 < pids <= 2**22:
        raise InvalidArgument(f"pids is {pids!r}: give a number of processes such as 256")
    return Limits(
        memory_bytes=parse_size(memory, what="memory"),
        cpus=float(cpus),
        pids=pids,
        disk_bytes=parse_size(disk, what="disk"),
    )


def parse_egress(egress: Egress) -> list[str]:
    """What a container may reach outside, as the node takes it. Whether it may be had is the node's to say.

    Raises:
        InvalidArgument: it is none of the words, and no list.
    """
    if egress in ("open", "none"):
        return ["open"] if egress == "open" else []
    if isinstance(egress, str) or not isinstance(egress, Sequence):
        raise InvalidArgument(
            f'egress is {egress!r:.200}: use "open", "none", or a list of networks and names such as '
            '["10.1.2.0/24", "example.org"]'
        )
    for entry in egress:
        if not isinstance(entry, str) or not entry or entry in ("open", "none"):
            raise InvalidArgument(f"egress has {entry!r:.200}: a list has networks and names, as strings")
    return list(egress)


def parse_server_port(port: int | None) -> int | None:
    """A port of a container; None is every one.

    Raises:
        InvalidArgument: there is no such port.
    """
    if port is None:
        return None
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise InvalidArgument(
            f"there is no port {port!r:.200}: use a number from 1 to 65535, or None for all"
        )
    return port


def parse_optional_tag(tag: str | None) -> str | None:
    """A tag in the form it is kept, if there is one."""
    return None if tag is None else parse_tag(tag)


def parse_size_of_terminal(columns: int, rows: int) -> Size:
    """The size of a terminal.

    Raises:
        InvalidArgument: no terminal has it.
    """
    if not all(isinstance(number, int) and 1 <= number <= 65535 for number in (columns, rows)):
        raise InvalidArgument(
            f"a terminal of {columns!r} columns and {rows!r} rows: both are numbers from 1 to 65535"
        )
    return Size(columns, rows)


def parse_seconds(timeout_s: float | None) -> float | None:
    """A time limit.

    Raises:
        InvalidArgument: it is no positive number.
    """
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 10**9:
        raise InvalidArgument(
            f"timeout_s is {timeout_s!r}: give a positive number of seconds, or None for no limit"
        )
    return float(timeout_s)


def parse_signal(number: int) -> int:
    """A signal's number.

    Raises:
        InvalidArgument: there is no such signal.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 64:
        raise InvalidArgument(
            f"there is no signal {number!r}: use one of the signal module, such as signal.SIGTERM"
        )
    return int(number)


def parse_path(path: str) -> str:
    """A path in a container, absolute; a relative one begins at the root.

    Raises:
        PathRefused: it leaves the container.
        InvalidArgument: it is no path.
    """
    if (
        not isinstance(path, str)
        or not path
        or "\0" in path
        or len(path.encode(errors="replace")) > _MAX_PATH - 1
    ):
        raise InvalidArgument(f"{path!r:.200} is no path in a container")
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            raise PathRefused(f"{path!r:.200} leaves the container")
    return posixpath.join("/", path)


def parse_target(port: int | str) -> int | str:
    """Where in a container a connection leads: a port, or the path of a unix socket.

    Args:
        port: a number, also as digits, or an absolute path.

    Raises:
        InvalidArgument: it is neither.
        PathRefused: the path leaves the container.
    """
    if isinstance(port, str) and port.startswith("/"):
        return parse_path(port)
    if isinstance(port, str) and not port.isdigit():
        raise InvalidArgument(
            f"port is {port!r:.100}: give the number that the service in the container listens at, or the absolute "
            "path of its unix socket, which begins with /"
        )
    number = parse_port(port, what="port")
    if number == 0:
        raise InvalidArgument("port is 0: give the number that the service in the container listens at")
    return number


def parse_port(port: int | str, *, what: str) -> int:
    """A port's number, from 0 to 65535.

    Raises:
        InvalidArgument: there is no such port.
    """
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 65535:
        raise InvalidArgument(f"{what} is {port!r:.100}: give a number up to 65535")
    return number


def parse_input(data: Any) -> bytes:
    """Bytes for a process; text is encoded as UTF-8.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise InvalidArgument(f"input is bytes, not {type(data).__name__}")
