"""A file system held in memory, filled from packages and written as a tar that is the same every time."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.image_builder.packages import read_package

# Every file carries this time, so that the same packages give the same bytes.
MTIME_S = 1_700_000_000

# Debian's merged /usr: what a package installs in these directories lives below /usr.
MERGED = ("bin", "sbin", "lib", "lib64")

LEFT_OUT = (
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
)


@dataclass(frozen=True)
class Entry:
    """One file, directory or link."""

    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    target: str = ""


class Tree:
    """Paths without a leading slash, each with its entry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def directory(self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> None:
        self.entries[path] = Entry(tarfile.DIRTYPE, mode, uid, gid)

    def file(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.entries[path] = Entry(tarfile.REGTYPE, mode, content=data)

    def symlink(self, path: str, target: str) -> None:
        self.entries[path] = Entry(tarfile.SYMTYPE, 0o777, target=target)

    def whiteout(self, path: str) -> None:
        """Hide what lower layers have at path."""
        directory, name = posixpath.split(path)
        self.file(posixpath.join(directory, f".wh.{name}"), b"")

    def merge_usr(self) -> None:
        for name in MERGED:
            self.directory(f"usr/{name}")
            self.symlink(name, f"usr/{name}")

    def install(self, packages: Iterable[Path]) -> None:
        """Add the files of packages; their installation scripts are not run."""
        for package in packages:
            with tarfile.open(fileobj=io.BytesIO(read_package(package))) as archive:
                for member in archive:
                    self._add(archive, member)

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = merged_path(member.name)
        if not path or path in MERGED or path.startswith(LEFT_OUT):
            return
        if member.isdir() and path in self.entries:
            return
        if member.islnk():
            self.entries[path] = self.entries[merged_path(member.linkname)]
            return
        data = archive.extractfile(member) if member.isreg() else None
        self.entries[path] = Entry(
            kind=tarfile.REGTYPE if member.isreg() else member.type,
            mode=member.mode,
            uid=member.uid,
            gid=member.gid,
            content=data.read() if data else b"",
            target=member.linkname,
        )

    def to_tar(self) -> bytes:
        """Return the tree as a tar: sorted, with every parent directory, with fixed times."""
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self._with_parents()):
                entry = self.entries.get(path, Entry(tarfile.DIRTYPE, 0o755))
                archive.addfile(tar_header(path, entry), io.BytesIO(entry.content))
        return output.getvalue()

    def _with_parents(self) -> set[str]:
        paths = set(self.entries)
        for path in self.entries:
            while path := posixpath.dirname(path):
                paths.add(path)
        return paths


def merged_path(name: str) -> str:
    """Return where a package's path lives once /bin, /sbin and /lib are links into /usr."""
    path = posixpath.normpath(name).lstrip("/")
    if path == ".":
        return ""
    return f"usr/{path}" if path.startswith(tuple(f"{top}/" for top in MERGED)) else path


def tar_header(path: str, entry: Entry) -> tarfile.TarInfo:
    """Return the header of one entry."""
    header = tarfile.TarInfo(path)
    header.type, header.mode, header.mtime = entry.kind, entry.mode, MTIME_S
    header.uid, header.gid, header.linkname = entry.uid, entry.gid, entry.target
    header.size = len(entry.content)
    return header
