"""The configuration of a node: a TOML file in which every setting has a default.

The file is /etc/20ft/node.toml; there need not be one. A key that is not known is refused, because a misspelt limit
that is silently ignored is no limit. The fields below are the settings: `*_bytes` is written without its ending, as a
size ("512M"), everything else is called in the file what it is called here.

    data_dir = "/srv/20ft"
    listen = "tcp://*:2020"

    [limits]
    memory = "1G"
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.sizes import format_size, parse_size

from .core import minima

DEFAULT_PATH: Final = Path("/etc/20ft/node.toml")
#: Every container has this many user ids of its own.
IDS_PER_CONTAINER: Final = 65536
#: The highest id there is; the one above it means "none" to the kernel.
MAX_ID: Final = 2**32 - 2

#: A disk smaller than this leaves btrfs no room for its own books.
MIN_DISK_BYTES: Final = 256 << 20

_ENDPOINT: Final = re.compile(r"tcp://(\*|[0-9A-Za-z_.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", re.ASCII)

Bytes = Annotated[int, Meta(ge=0)]
Disk = Annotated[int, Meta(ge=MIN_DISK_BYTES)]
Section = TypeVar("Section", bound=Struct)


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file, the key, the value and what to try."""


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: what a container may use when nobody says otherwise."""

    memory_bytes: Annotated[int, Meta(ge=minima.MEMORY_BYTES)] = 512 << 20
    cpus: Annotated[float, Meta(ge=minima.CPUS, le=4096)] = 1.0
    pids: Annotated[int, Meta(ge=minima.PIDS, le=4_194_304)] = 256
    disk_bytes: Annotated[int, Meta(ge=minima.DISK_BYTES)] = 4 << 30


class QuotaConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[quota]: what one account may have, its containers together; 0 is no limit."""

    containers: Annotated[int, Meta(ge=0, le=65536)] = 1000
    memory_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    #: Pre-boot files, which the daemon keeps in its memory as long as their container lives.
    files_bytes: Bytes = 512 << 20
    #: What is kept in the daemon's memory of what its clients have sent and are sent; see `gateway/buffers.py`.
    buffers_bytes: Bytes = 512 << 20
    #: Fewer than max_sessions, so that no account shuts the others out.
    sessions: Annotated[int, Meta(ge=0, le=65536)] = 128
    #: Permissions between containers, each for a port or for all: they make the next daemon's start longer.
    permissions: Annotated[int, Meta(ge=0, le=65536)] = 16384


class ImagesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[images]: what an image may be at most, so that no archive fills the disk or the index of it."""

    archive_bytes: Annotated[int, Meta(ge=1 << 20)] = 32 << 30
    unpacked_bytes: Annotated[int, Meta(ge=1 << 20)] = 64 << 30
    files: Annotated[int, Meta(ge=1, le=100_000_000)] = 2_000_000
    layers: Annotated[int, Meta(ge=1, le=500)] = 127


class NodeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set on a node."""

    #: Where state, images and containers live; made when missing.
    data_dir: Path = Path("/var/lib/20ft")
    #: "btrfs" keeps quotas; "directory" needs no file system of its own; "auto" is btrfs where the kernel has it.
    storage: Literal["auto", "btrfs", "directory"] = "auto"
    #: Size of the file that holds the btrfs; 0 is as much as is sensible. Read once, when the file is made.
    disk_bytes: Bytes = 0
    #: The unix socket of this machine's own users, and the group that may use it besides root.
    socket: Path = Path("/run/20ft/node.sock")
    socket_group: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$")] = "tfnz"
    #: ZeroMQ endpoints for clients elsewhere: one, a list, or [] for none.
    listen: tuple[str, ...] = ("tcp://*:2020",)
    #: Containers get their addresses from this network; "auto" is one that is free, and with "none" they have loopback
    #: and nothing else.
    network: IPv4Network | Literal["auto", "none"] = "auto"
    #: The private networks that containers may be let out to by their owners, with egress=[...].
    private_egress: tuple[IPv4Network, ...] = tuple(
        map(IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"))
    )
    #: Addresses of the resolvers that answer containers' questions for names; [] for the node's own.
    resolvers: tuple[IPv4Address, ...] = ()
    #: How many connections one container may have at once, to others and to the outside, and begin in a second. On a
    #: host with little room for connections (nf_conntrack_max) it is an eighth of that room.
    max_connections: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096
    #: The n-th container in use has the ids from id_base + 65536 n on, n counting from 1 to id_count.
    id_base: Annotated[int, Meta(ge=65536, le=MAX_ID)] = 1_000_000
    id_count: Annotated[int, Meta(ge=1, le=65534)] = 4096
    #: Sandboxes kept ready, so that a container starts at once.
    pool_size: Annotated[int, Meta(ge=0, le=1024)] = 16
    #: So many at most, for a while after more were wanted at once than there were.
    pool_max: Annotated[int, Meta(ge=0, le=4096)] = 64
    max_sessions: Annotated[int, Meta(ge=1, le=65536)] = 256
    #: A session that has been silent this long is over.
    session_silence_s: Annotated[float, Meta(ge=1, le=86400)] = 120.0
    #: How long a client whose connection broke has to come back, and any to answer when it is asked.
    disconnect_grace_s: Annotated[float, Meta(ge=0.1, le=600)] = 1.0
    #: How long containers run on without a daemon, and their clients have to come back to the next one; with 0 they end
    #: when the daemon does.
    takeover_s: Annotated[float, Meta(ge=0, le=86400)] = 120.0
    #: The tfnz-init program; empty finds the one that came with this daemon.
    init: str = ""
    limits: LimitsConfig = LimitsConfig()
    quota: QuotaConfig = QuotaConfig()
    images: ImagesConfig = ImagesConfig()

    @property
    def host_ids(self) -> range:
        """Every id of the host that may belong to a container."""
        first = self.id_base + IDS_PER_CONTAINER
        return range(first, first + IDS_PER_CONTAINER * self.id_count)


def find_config(path: Path | None = None) -> NodeConfig:
    """Reads the configuration from a file; without a path from the usual place, or all defaults when nothing is there.

    Raises:
        ConfigError: the file cannot be read, or what it says cannot be used.
    """
    try:
        text = (path or DEFAULT_PATH).read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        if path is None:
            return NodeConfig()
        raise ConfigError(f"there is no configuration file {path}: check the name, or leave it out") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read the configuration file {path or DEFAULT_PATH}: {exc}") from exc
    return parse_config(text, source=str(path or DEFAULT_PATH))


def parse_config(text: str, *, source: str) -> NodeConfig:
    """The configuration that this text stands for; `source` is what the error messages call it.

    Raises:
        ConfigError: it is not TOML, has a key that does not exist, or a value that cannot be used.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source} is not valid TOML: {exc}") from exc
    config = _parse_section(NodeConfig, table, where=source, prefix="")
    _check_together(config, source)
    return config


def _parse_section(section: type[Section], table: dict[str, Any], *, where: str, prefix: str) -> Section:
    """One table of the file, field by field, so that an error can name the key and show the value."""
    # The name in the file, to the name and the type of the field.
    known = {
        name.removesuffix("_bytes"): (name, hint)
        for name, hint in get_type_hints(section, include_extras=True).items()
    }
    values = {}
    for key, value in table.items():
        full = prefix + key
        if key not in known:
            raise ConfigError(f"{where}: there is no setting {full!r}; {_suggest(key, list(known), prefix)}")
        name, hint = known[key]
        if isinstance(hint, type) and issubclass(hint, Struct):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {full} = {value!r} should be a section: write it as [{full}]")
            values[name] = _parse_section(hint, value, where=where, prefix=f"{full}.")
        else:
            values[name] = _parse_value(name, hint, value, where=f"{where}: {full} = {value!r}")
    return section(**values)


def _parse_value(name: str, hint: Any, value: Any, *, where: str) -> Any:
    try:
        if name.endswith("_bytes"):
            return _parse_bytes(hint, value)
        if name == "listen":
            return _parse_endpoints(value)
        if name == "network" and value in ("auto", "none"):
            return value
        if name == "network":
            hint = IPv4Network
        return msgspec.convert(value, hint, dec_hook=_parse_foreign)
    except (msgspec.ValidationError, InvalidArgument, ValueError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _parse_bytes(hint: Any, value: Any) -> int:
    size_bytes = parse_size(value)
    minimum = get_args(hint)[1].ge
    if size_bytes < minimum:
        raise ValueError(f"too little; the least that works is {format_size(minimum)}")
    return size_bytes


def _parse_foreign(kind: type, value: Any) -> Any:
    """The types that msgspec leaves to us."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    if kind is Path:
        if not value.startswith("/") or "\0" in value:
            raise ValueError("a path must be absolute, beginning with /")
        return Path(value)
    return IPv4Address(value) if kind is IPv4Address else IPv4Network(value)


def _parse_endpoints(value: Any) -> tuple[str, ...]:
    endpoints = [value] if isinstance(value, str) else value
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, str) for endpoint in endpoints):
        raise ValueError('expected text such as "tcp://*:2020", a list of such, or [] for none')
    for endpoint in endpoints:
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or int(match[2]) > 65535:
            raise ValueError(
                f'{endpoint!r} is no address to listen on; write "tcp://*:2020" or "tcp://ADDRESS:PORT"'
            )
    return tuple(endpoints)


def _suggest(key: str, known: list[str], prefix: str) -> str:
    close = get_close_matches(key, known, n=1)
    if close:
        return f"did you mean {prefix + close[0]!r}?"
    return f"there are: {', '.join(prefix + name for name in sorted(known))}"


def _check_together(config: NodeConfig, source: str) -> None:
    """What no field can know alone."""
    if config.host_ids.stop - 1 > MAX_ID:
        most = (MAX_ID + 1 - config.id_base) // IDS_PER_CONTAINER - 1
        raise ConfigError(
            f"{source}: id_base = {config.id_base} leaves room for {max(most, 0)} ranges of {IDS_PER_CONTAINER} ids "
            f"below {MAX_ID}, and id_count = {config.id_count} asks for more: lower one of them"
        )
    if isinstance(config.network, IPv4Network) and config.network.prefixlen > 29:
        raise ConfigError(
            f"{source}: network = '{config.network}' is too small for containers: use a /29 or larger"
        )
    if config.pool_size > config.id_count:
        raise ConfigError(
            f"{source}: pool_size = {config.pool_size} is more than id_count = {config.id_count}, and each sandbox "
            "that is kept ready has ids of its own: lower pool_size or raise id_count"
        )
    if 0 < config.disk_bytes < MIN_DISK_BYTES:
        raise ConfigError(
            f"{source}: disk = '{format_size(config.disk_bytes)}' is too little for a file system: use at least "
            f"{format_size(MIN_DISK_BYTES)}, or 0 for as much as is sensible"
        )
