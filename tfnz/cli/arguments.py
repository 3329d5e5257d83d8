"""The arguments of `tfnz run` and `tunnel` that have a form of their own: variables, files, ports and sizes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.sizes import parse_size


def parse_env(words: Sequence[str], local: Mapping[str, str]) -> dict[str, str]:
    """The variables that `-e` gives: NAME=value, or NAME for a copy of the `local` one.

    Raises:
        click.BadParameter: one has no name, is given twice, is not set here, or cannot be sent.
    """
    env: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or "\0" in word:
            raise click.BadParameter(
                f"{word!r} has no name: write NAME=value, or NAME to copy the value it has here"
            )
        if name in env:
            raise click.BadParameter(f"{name!r} is given twice: once is meant")
        if not equals:
            if name not in local:
                raise click.BadParameter(
                    f"{name!r} is not set here, so its value cannot be copied: export it, or write {name}=value"
                )
            value = local[name]
        try:
            value.encode()
            name.encode()
        except UnicodeEncodeError as exc:
            raise click.BadParameter(f"{name!r} is not valid UTF-8, and cannot be sent") from exc
        env[name] = value
    return env


def read_files(words: Sequence[str]) -> dict[str, bytes]:
    """The files that `-f` gives: SOURCE:DESTINATION, by their absolute path in the container.

    Raises:
        click.BadParameter: one has not this form, cannot be read, or goes where another does.
    """
    files: dict[str, bytes] = {}
    for word in words:
        source, colon, destination = word.rpartition(":")
        if not colon or not source or not destination.startswith("/"):
            raise click.BadParameter(
                f"{word!r} is not SOURCE:DESTINATION, where DESTINATION begins with / as in ./site.conf:/etc/site.conf"
            )
        if destination.endswith("/"):
            destination += Path(source).name
        path = posixpath.normpath(destination)
        if path in files:
            raise click.BadParameter(f"two files go to {path}: each needs a place of its own")
        try:
            files[path] = Path(source).read_bytes()
        except OSError as exc:
            raise click.BadParameter(f"{source!r} cannot be read: {exc.strerror or exc}") from exc
    return files


def parse_egress(words: Sequence[str]) -> str | list[str]:
    """What `--egress` gives: one of the words "open" and "none", or networks and names.

    Raises:
        click.BadParameter: one of the words is among others.
    """
    alone = [word for word in words if word in ("open", "none")]
    if alone and len(words) > 1:
        raise click.BadParameter(
            f"--egress {alone[0]} says all there is to say: give it alone, or leave it out"
        )
    return alone[0] if alone else list(words)


@dataclass(frozen=True)
class Publication:
    """A local port that is to lead to a port, or the path of a unix socket, in the container."""

    local: int
    target: int | str
    bind: str = "127.0.0.1"

    @property
    def destination(self) -> str:
        """Where it leads, in words."""
        return f"port {self.target}" if isinstance(self.target, int) else self.target


def parse_publications(words: Sequence[str]) -> list[Publication]:
    """What `-p` gives: [BIND:]LOCAL:PORT, with a PATH in place of PORT for a unix socket.

    Raises:
        click.BadParameter: one has not this form, or two want the same local port.
    """
    return _check_distinct([_parse_publication(word) for word in words])


def parse_tunnels(words: Sequence[str]) -> list[Publication]:
    """What `tfnz tunnel` is given: [BIND:][LOCAL:]PORT, or [BIND:]LOCAL:PATH for a unix socket.

    Raises:
        click.BadParameter: one has not this form, or two want the same local port.
    """
    return _check_distinct([_parse_tunnel(word) for word in words])


def _check_distinct(wanted: list[Publication]) -> list[Publication]:
    publications: list[Publication] = []
    for one in wanted:
        if any((one.bind, one.local) == (other.bind, other.local) for other in publications if one.local):
            raise click.BadParameter(f"local port {one.local} is given twice: each needs one of its own")
        publications.append(one)
    return publications


def _parse_publication(word: str) -> Publication:
    rest, slash, path = word.partition(":/")
    if not slash:
        rest, _, path = word.rpartition(":")
    bind, _, local = rest.rpartition(":")
    target = f"/{path}" if slash else _parse_port(path, lowest=1)
    number = _parse_port(local, lowest=0)
    if target is None or number is None:
        raise click.BadParameter(
            f"{word!r} is not [BIND:]LOCAL:PORT, as in 8080:80 or 0.0.0.0:8080:80; ports are numbers up to 65535"
        )
    return Publication(number, target, bind.strip("[]")) if bind else Publication(number, target)


def _parse_tunnel(word: str) -> Publication:
    first, colon, port = word.rpartition(":")
    is_bind = first.endswith("]") or not (first.isdigit() or ":" in first)
    lacks_local = not port.startswith("/") and (not colon or (first != "" and is_bind))
    full = f"{first}{colon}{port}:{port}" if lacks_local else word
    try:
        return _parse_publication(full)
    except click.BadParameter as exc:
        raise click.BadParameter(
            f"{word!r} is not [BIND:][LOCAL:]PORT or [BIND:]LOCAL:/PATH, as in 80, 8080:80, 0.0.0.0:8080:80 or "
            "0:/run/app.sock; ports are numbers up to 65535"
        ) from exc


def _parse_port(text: str, *, lowest: int) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
    return number if lowest <= number <= 65535 else None


def convert_size(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """An option's callback: bytes, for a size such as 512M.

    Raises:
        click.BadParameter: it is no size.
    """
    try:
        return parse_size(value) if value is not None else None
    except InvalidArgument as exc:
        raise click.BadParameter(str(exc)) from exc
