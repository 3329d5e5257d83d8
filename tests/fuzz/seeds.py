"""The inputs that fuzzing begins with: ``python -m tests.fuzz.seeds`` writes them anew. All are made here.

A seed shows the fuzzer what a thing looks like when it is well, or nearly so; the rest it finds by itself.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import shutil
import struct
import tarfile
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import dns.message
import dns.name
import dns.rrset
import msgspec
import zstandard

from tests.fuzz.plan import TARGETS
from tests.node.images.archives import Tar, docker_files, new_layout, pack
from tfnz.framing import LENGTH
from tfnz.protocol.frames import encode, pack_view
from tfnz.protocol.messages import (
    Ack,
    ClientBody,
    ClientEnvelope,
    ClientFrame,
    ClientView,
    Hello,
    NodeBody,
    NodeEnvelope,
    NodeFrame,
    Request,
    RequestBody,
)
from tfnz.protocol.trees import (
    Directory,
    FileData,
    FileEnd,
    FileStart,
    Symlink,
    TreeEnd,
    TreeItem,
    encode_failure,
    encode_item,
)
from tfnz_node.sandbox.wire import FileFlag, Kind, RunFlag, pack_packet

#: By target, then by name.
Seeds = dict[str, dict[str, bytes]]


def make_seeds() -> Seeds:
    """Everything that belongs in `corpus/`."""
    return {
        "frames": dict(_frames()),
        "framing": _framing(),
        "trees": {name: b"\x06" + tree for name, tree in _trees().items()},
        "channel": {
            "both-ways": bytes([1, 3, 3, 0, 4, 4, 7, 6, 7, 6]),
            "breaks": bytes([1, 1, 1, 2, 2, 2, 5, 40, 11, 7, 10, 1, 3, 3, 11]),
            "again": bytes([1, 8, 8, 15, 7, 15, 7, 7, 13, 2, 12, 1]),
        },
        "sessions": _sessions(),
        "questions": dict(_questions()),
        "tar": {name: b"\x30" + tar for name, tar in _tars().items()},
        "archive": _archives(),
        "layer": _tars() | _compressed(),
        "imports": {
            name: data for name, data in _archives().items() if name in ("docker", "oci-gzip", "root-xz")
        },
        "wire": dict(_packets_of_init()),
        "init-socket": _conversations(),
        "init-packet": dict(_packets_of_the_daemon()),
        "init-path": {
            "file": b"/etc/hosts",
            "dots": b"a/../b/./c//d/",
            "long": b"/" + b"n" * 255,
            "too-long": b"/" + b"d/" * 2048 + b"f",
            "strange": b"/\x1b[2J\n\x7f\xff",
        },
        "init-tree": {name: b"\x06" + tree for name, tree in _trees().items()},
        "init-users": _users(),
    }


def write_seeds(seeds: Seeds, *, directory: Path | None = None) -> None:
    """Replace what is there."""
    for name, files in seeds.items():
        place = (directory / name) if directory else TARGETS[name].corpus
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for file, data in files.items():
            (place / file).write_bytes(data)


# --- the protocol


def make_value(kind: Any) -> Any:
    """Some value of a message's type, with everything in it that may be left out."""
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return make_value(get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return make_value(get_args(kind)[0])
    if origin is list:
        return [make_value(get_args(kind)[0])]
    if origin is tuple:
        return tuple(make_value(one) for one in get_args(kind))
    if origin is dict:
        return {"key": make_value(get_args(kind)[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return make_message(kind)
    simple: dict[Any, Any] = {
        str: "x",
        bytes: b"x",
        int: 1,
        float: 1.5,
        bool: True,
        Any: [None, {"a": 1}],
        None: None,
    }
    if kind in simple:
        return simple[kind]
    return next(iter(kind))  # an enumeration


def make_message(kind: type[msgspec.Struct], **fields: Any) -> Any:
    """A message with all of its fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**({name: make_value(hints[name]) for name in kind.__struct_fields__} | fields))


def _name(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag or kind.__name__)


def _frames() -> Iterator[tuple[str, bytes]]:
    requests = [make_message(kind) for kind in get_args(RequestBody)]
    for request in requests:
        yield f"request-{_name(type(request))}", encode(ClientEnvelope(1, 0, Request(1, "", request)))
    for side, bodies, envelope in (("c", ClientBody, ClientEnvelope), ("n", NodeBody, NodeEnvelope)):
        for kind in get_args(bodies):
            if kind is not Request:
                yield f"{side}-{_name(kind)}", encode(envelope(1, 0, make_message(kind)))
    for kind in {*get_args(ClientFrame), *get_args(NodeFrame)} - {ClientEnvelope, NodeEnvelope}:
        yield _name(kind), encode(make_message(kind))
    yield "c-view", encode(ClientEnvelope(1, 0, pack_view(make_message(ClientView))))
    yield "deep", b"\x91" * 1000


def _framing() -> dict[str, bytes]:
    small = LENGTH.pack(5) + b"hello"
    return {
        "small": bytes([len(small)]) + small + bytes([4]) + LENGTH.pack(0),
        "large": bytes([128]) + struct.pack("<H", 9000) + bytes([131]) + struct.pack("<H", 20_000),
        "cut-off": bytes([132]) + struct.pack("<H", 30_000) + bytes([2, 0, 0]),
        "too-large": bytes([4]) + b"\xff\xff\xff\xff" + b"rest",
    }


def _trees() -> dict[str, bytes]:
    items: list[TreeItem] = [
        Directory(b"d", 0o755),
        FileStart(b"d/f", 0o644),
        FileData(b"content"),
        FileData(b"and more"),
        FileEnd(),
        Symlink(b"d/l", b"../f"),
        TreeEnd(),
    ]
    whole = b"".join(map(encode_item, items))
    return {
        "whole": whole,
        "goes-on": whole + b"D",
        "failed": encode_item(items[0]) + encode_failure(b"d/x", "Permission denied"),
        "cut-off": whole[:40],
        "upwards": struct.pack("<BIH", ord("D"), 0o755, 4) + b"../x",
    }


def _sessions() -> dict[str, bytes]:
    """Steps of `targets/sessions.py`, by their numbers there."""
    hello, settle = bytes([1]), bytes([8, 1])
    run_process = bytes([11, 6, 0, 0, 1, 2, 3])  # Request 1: RunProcess with streams 1, 2 and 3
    data, credit, end, stop, cancel = (
        bytes([11, 0, 0, 4, 0]),
        bytes([11, 2, 1, 200, 0, 3]),
        bytes([11, 3, 0]),
        bytes([11, 4, 1]),
        bytes([11, 5, 0, 0]),
    )
    connect = bytes([11, 7, 3, 1, 5, 6])
    raw = encode(Hello([1], client="raw"))
    return {
        "process": hello + run_process + settle + data + credit + settle + end + settle,
        "stopped": hello + run_process + settle + stop + cancel + settle,
        "tunnel": hello + connect + settle + bytes([11, 0, 3, 4, 0]) + settle + bytes([11, 3, 3]) + settle,
        "resumed": hello + run_process + bytes([6, 7, 0, 1, 0x12, 1, 1, 0]) + settle + bytes([3, 1]) + settle,
        "thief": hello + bytes([7, 1, 1, 0x12, 0, 0, 0]) + settle,
        "raw": bytes([0, len(raw)]) + raw + settle + bytes([0, 3]) + encode(Ack(1))[:3] + settle,
        "numbers": hello + bytes([9, 0, 0, 6, 0, 0, 9, 5, 0, 5, 1, 1]) + settle,
        "silent": bytes([7, 0, 0, 0x11, 8, 255, 8, 255]),
    }


# --- images


@functools.cache
def _questions() -> Iterator[tuple[str, bytes]]:
    """Each with an answer behind it."""
    for name, kind in (
        ("db", "A"),
        ("example.org", "A"),
        ("www.example.com", "AAAA"),
        ("example.net", "MX"),
        ("1.2.0.192.in-addr.arpa", "PTR"),
    ):
        question = dns.message.make_query(name, kind, use_edns=0, id=1)
        answer = dns.message.make_response(question)
        alias = dns.name.from_text("alias.example.net")
        answer.answer += [
            dns.rrset.from_text(question.question[0].name, 60, "IN", "CNAME", alias.to_text()),
            dns.rrset.from_text(alias, 60, "IN", "A", "192.0.2.1"),
        ]
        asked = question.to_wire()
        yield f"{kind}-{name}", struct.pack("<H", len(asked)) + asked + answer.to_wire()


def _tars() -> dict[str, bytes]:
    rich = Tar().directory("./").directory("etc", mode=0o700).file("etc/passwd", b"root" * 30, uid=3)
    rich.symlink("lib", "usr/lib").file("lib/x", b"y").hard_link("etc/same", "etc/passwd").file(".wh.gone")
    rich.file("etc/.wh..wh..opq").add("pipe", tarfile.FIFOTYPE).file("long/" + "n" * 150, b"z", mtime=1.5)
    hostile = Tar().file("../up", b"x").file("/abs").symlink("a", "/").file("a/b").hard_link("c", "a/../d")
    hostile.add("disk", tarfile.BLKTYPE, devmajor=8).add("tty", tarfile.CHRTYPE).file(".wh.").file(".wh.a")
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0).decode("utf-8", "surrogateescape")
    pax = Tar().file(
        "ping", b"x", pax_headers={"SCHILY.xattr.security.capability": capability, "mtime": "1e9"}
    )
    pax.file("big", pax_headers={"size": "99999999999", "path": "p" * 300, "uid": "70000"})
    return {name: _trimmed(tar) for name, tar in (("rich", rich), ("hostile", hostile), ("pax", pax))} | {
        "gnu": _gnu(),
        "lying-size": _lying_size(),
        "foreign-ids": _trimmed(Tar().file("mine").file("theirs", uid=70_000).directory("d", gid=65_536)),
    }


def _trimmed(tar: Tar) -> bytes:
    """Without the zeros that fill the last record up, but for the two blocks that end an archive."""
    data = tar.bytes()
    return data[: -(-len(data.rstrip(b"\0")) // 512) * 512] + bytes(1024)


def _gnu() -> bytes:
    header = tarfile.TarInfo("n" * 200)
    header.linkname, header.type = "l" * 200, tarfile.SYMTYPE
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _lying_size() -> bytes:
    header = tarfile.TarInfo("f")
    header.size = 1 << 40
    return header.tobuf(tarfile.GNU_FORMAT) + b"little" + bytes(506)


@functools.cache
def _compressed() -> dict[str, bytes]:
    tar = _tars()["rich"]
    return {
        "gzip": gzip.compress(tar, mtime=0),
        "bzip2": bz2.compress(tar),
        "xz": lzma.compress(tar),
        "zstd": zstandard.ZstdCompressor().compress(tar),
    }


@functools.cache
def _archives() -> dict[str, bytes]:
    rich, other = _tars()["rich"], _trimmed(Tar().file("b", b"b"))
    config = {
        "Env": ["A=b"],
        "Cmd": ["sh"],
        "Entrypoint": ["/x"],
        "User": "1:2",
        "WorkingDir": "/w",
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGTERM",
        "Labels": {"a": "b"},
    }
    layout = new_layout()
    layout.image([gzip.compress(other, mtime=0)], plain=[other], name="app", config=config)
    layout.image([rich], platform={"architecture": "arm64", "os": "linux"})
    links = Tar().symlink("manifest.json", "a").symlink("a", "manifest.json")
    whole = {
        "docker": pack(docker_files([other, rich], config=config)),
        "oci-gzip": layout.bytes(),
        "links": _trimmed(links),
        "not-json": pack({"manifest.json": b"[[[[", "oci-layout": b"{}"}),
    }
    return {name: data.rstrip(b"\0") + bytes(1536) for name, data in whole.items()} | {
        "root-xz": _compressed()["xz"],
        "root-zstd": _compressed()["zstd"],
    }


# --- init's socket


def _packets_of_the_daemon() -> Iterator[tuple[str, bytes]]:
    yield "unshare", pack_packet(Kind.UNSHARE)
    yield "boot", pack_packet(Kind.BOOT, id=1, strings=[b"host", b"10.0.0.1"])
    yield (
        "file",
        pack_packet(Kind.FILE, id=2, arguments=[0o644, FileFlag.SECRET, 0, 5], strings=[b"/f", b"root"]),
    )
    yield "run", _run(3)
    yield "terminal", _run(4, RunFlag.PTY | RunFlag.MAIN, arguments=[24, 80])
    yield "signal", pack_packet(Kind.SIGNAL, id=3, arguments=[15, 1])
    yield "signal-0", pack_packet(Kind.SIGNAL, id=3, arguments=[0, 1])
    yield "signal-65", pack_packet(Kind.SIGNAL, id=3, arguments=[65])
    yield "signal-all", pack_packet(Kind.SIGNAL, id=3, arguments=[0xFFFFFFFF, 1])
    yield (
        "run-miscounted",
        pack_packet(Kind.RUN, id=3, arguments=[4, 0, 0, 1], strings=[b"", b"/", b"a", b"b", b"c"]),
    )
    yield "connect", pack_packet(Kind.CONNECT, id=5, arguments=[80], strings=[b"127.0.0.1"])
    yield "connect-path", pack_packet(Kind.CONNECT, id=6, strings=[b"/run/socket"])


def _run(id: int, flags: RunFlag = RunFlag.BUILTIN, arguments: list[int] | None = None) -> bytes:
    size = arguments or [0, 0]
    strings = [b"root", b"/", b"sh", b"-c", b"true", b"A=b"]
    return pack_packet(Kind.RUN, id=id, arguments=[flags, *size, 3, 1], strings=strings)


def _packets_of_init() -> Iterator[tuple[str, bytes]]:
    for kind in (Kind.UNSHARED, Kind.READY, Kind.DONE):
        yield kind.name.lower(), pack_packet(kind)
    for kind in (Kind.FORKED, Kind.STARTED, Kind.EXITED):
        yield kind.name.lower(), pack_packet(kind, id=7, arguments=[100])
    yield "failed", pack_packet(Kind.FAILED, id=7, arguments=[2], strings=[b"/x: No such file or directory"])
    yield "exec", struct.pack("<Ii", 4, 2) + b"no such program"


def _conversations() -> dict[str, bytes]:
    """Steps of `fuzz_socket.c`: 0 is a packet with its descriptors and size, 2 the end of a process, 3 is to listen."""
    packets = dict(_packets_of_the_daemon())

    def say(name: str, fds: int) -> bytes:
        return bytes([0, fds]) + struct.pack("<H", len(packets[name])) + packets[name]

    # What follows a request is whether the parts that it needs succeed: 0 is a failure, but of a fork 255 is.
    boot, run = say("boot", 1) + bytes([1, 1]), say("run", 4) + bytes([1, 0])
    signal = say("signal", 0) + bytes([0])
    end, listen = bytes([2, 0]), bytes([3])
    return {
        "life": boot + say("file", 1) + b"\1" + run + signal + end + listen,
        "terminal": boot + say("terminal", 1) + bytes([1, 1, 0]) + listen + end,
        "same-again": boot + run + run,
        "after-its-end": boot + run + end + signal + run,
        "miscounted": boot + say("run-miscounted", 4) + bytes([1, 0]),
        "no-signal": boot + run + say("signal-0", 0),
        "no-signal-65": boot + run + say("signal-65", 0),
        "no-signal-all": boot + run + say("signal-all", 0),
        "connections": boot + say("connect", 0) + b"\1" + say("connect-path", 0) + listen,
        "too-early": say("run", 4) + say("connect", 0) + say("boot", 1) + b"\0" + say("boot", 1) + listen,
        "too-many-descriptors": say("run", 9),
        "formed": bytes([1, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4]) + b"h\0a\0" + bytes([0, 0]) + listen,
        "full": boot + b"".join(say("signal", 0) for _ in range(30)),
    }


def _users() -> dict[str, bytes]:
    passwd = b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n"
    group = b"root:x:0:\nstaff:x:50:bob,ann\naudio:x:63:annie\n"
    return {
        name: b"\0".join((spec, passwd, group))
        for name, spec in (("name", b"ann"), ("group", b"ann:staff"), ("numbers", b"7:8"), ("nobody", b""))
    } | {"long-line": b"ann\0" + b"x" * 9000 + b"\n" + passwd}


if __name__ == "__main__":
    write_seeds(make_seeds())
