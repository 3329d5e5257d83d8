"""Reads the configuration of an image, which is an attacker's JSON."""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.record import ImageConfig

MAX_WORDS = 1024
MAX_TEXT_BYTES = 64 * 1024
MAX_USER_LENGTH = 256
MAX_PATH_BYTES = 4096

_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")
_PORT = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?")
_REAL_TIME_SIGNAL = re.compile(r"RTM(IN\+|AX-)[0-9]{1,2}")
_T = TypeVar("_T")


class Process(msgspec.Struct, rename="pascal"):
    """The `config` object, as tools write it."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    exposed_ports: dict[str, Any] | None = None
    labels: dict[str, str] | None = None


class RootFs(msgspec.Struct):
    """The `rootfs` object: the digest of every uncompressed layer, lowest first."""

    diff_ids: list[str]


class Document(msgspec.Struct):
    """The part of a configuration that concerns us."""

    rootfs: RootFs
    architecture: str = ""
    os: str = ""
    config: Process | None = None


class ParsedConfig(msgspec.Struct, frozen=True):
    """A configuration that has been checked, and the layers it claims (`sha256:...`, lowest first)."""

    config: ImageConfig
    diff_ids: list[str]


def parse_document(data: bytes, kind: type[_T], what: str) -> _T:
    """Decode one of an archive's JSON documents.

    Raises:
        ImageInvalid: names the document and the field at fault.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ImageInvalid(f"{what} cannot be read: {exc}") from None


def parse_config(data: bytes, *, what: str, max_layers: int) -> ParsedConfig:
    """Decode and check an image's configuration; the error names the field at fault."""
    document = parse_document(data, Document, what)
    platform = f"{document.os or 'linux'}/{document.architecture or 'amd64'}"
    if platform != "linux/amd64":
        raise ImageInvalid(f"{what} is for {platform}; this node runs linux/amd64")
    diff_ids = document.rootfs.diff_ids
    if not diff_ids:
        raise ImageInvalid(f"{what}: rootfs.diff_ids is empty, so the image has no files")
    if len(diff_ids) > max_layers:
        raise ImageInvalid(f"{what}: {len(diff_ids)} layers are more than the limit layers, {max_layers}")
    for diff_id in diff_ids:
        if not _DIFF_ID.fullmatch(diff_id):
            raise ImageInvalid(f"{what}: rootfs.diff_ids has {shorten(diff_id)}, which is no SHA-256 digest")
    return ParsedConfig(_checked(document.config or Process(), what), diff_ids)


def synthesise_config(diff_id: str) -> bytes:
    """Return the configuration of an image made from a bare root file system, whose only layer is diff_id.

    Such a file says nothing of what to run, so it is a shell, as in the base images of all distributions.
    """
    document = {
        "architecture": "amd64",
        "config": {"Cmd": ["/bin/sh"]},
        "os": "linux",
        "rootfs": {"diff_ids": [diff_id], "type": "layers"},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def shorten(text: str) -> str:
    """Return hostile text so that it fits an error message."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _checked(process: Process, what: str) -> ImageConfig:
    entrypoint, cmd = process.entrypoint or [], process.cmd or []
    _check_texts([*entrypoint, *cmd], "Entrypoint and Cmd", what)
    labels = process.labels or {}
    _check_texts([text for pair in labels.items() for text in pair], "Labels", what)
    return ImageConfig(
        entrypoint=entrypoint,
        cmd=cmd,
        env=_checked_env(process.env or [], what),
        user=_checked_user(process.user or "", what),
        workdir=_checked_workdir(process.working_dir or "", what),
        stop_signal=_checked_signal(process.stop_signal or "SIGTERM", what),
        exposed=_checked_ports(process.exposed_ports or {}, what),
        labels=labels,
    )


def _check_texts(texts: list[str], field: str, what: str) -> None:
    if len(texts) > MAX_WORDS:
        raise ImageInvalid(f"{what}: {field} has {len(texts)} words, more than {MAX_WORDS}")
    if sum(len(text.encode()) + 1 for text in texts) > MAX_TEXT_BYTES:
        raise ImageInvalid(f"{what}: {field} is longer than {MAX_TEXT_BYTES} bytes")
    for text in texts:
        if "\0" in text:
            raise ImageInvalid(f"{what}: {field} has a zero byte in {shorten(text)}")


def _checked_env(env: list[str], what: str) -> list[str]:
    _check_texts(env, "Env", what)
    for text in env:
        if not text.partition("=")[0] or "=" not in text:
            raise ImageInvalid(f"{what}: Env has {shorten(text)}, which is not NAME=value")
    return env


def _checked_user(user: str, what: str) -> str:
    if len(user) > MAX_USER_LENGTH or any(character.isspace() or character == "\0" for character in user):
        raise ImageInvalid(f"{what}: User {shorten(user)} is no user name")
    return user


def _checked_workdir(workdir: str, what: str) -> str:
    if len(workdir.encode()) >= MAX_PATH_BYTES or "\0" in workdir:
        raise ImageInvalid(f"{what}: WorkingDir {shorten(workdir)} is no path")
    # Some builders write it as it was typed, relative to the root.
    return posixpath.normpath(posixpath.join("/", workdir)) if workdir else ""


def _checked_signal(text: str, what: str) -> str:
    name = text.upper().removeprefix("SIG")
    if name in {known.name.removeprefix("SIG") for known in signal.Signals} or _REAL_TIME_SIGNAL.fullmatch(
        name
    ):
        return f"SIG{name}"
    if name.isascii() and name.isdecimal() and len(name) <= 2 and int(name) in signal.valid_signals():
        return _signal_name(int(name))
    raise ImageInvalid(f"{what}: StopSignal {shorten(text)} is no signal; write for example SIGTERM")


def _signal_name(number: int) -> str:
    if number > signal.SIGRTMIN:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name


def _checked_ports(ports: Iterable[str], what: str) -> list[str]:
    chosen = sorted(ports)
    _check_texts(chosen, "ExposedPorts", what)
    for port in chosen:
        if not _PORT.fullmatch(port):
            raise ImageInvalid(f"{what}: ExposedPorts has {shorten(port)}, which is not like 80/tcp")
    return chosen
