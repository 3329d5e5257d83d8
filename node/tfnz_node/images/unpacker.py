"""Turns a layer's tar into files below `/`, which is the layer's own directory: its caller has changed root.

Whatever a name or a link says, it cannot mean anything outside. Names are checked all the same, so that a hostile
archive is refused with a reason instead of making something surprising.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.compression import CHUNK_BYTES
from tfnz_node.images.limits import Budget
from tfnz_node.images.tar_reader import Member, TarReader
from tfnz_node.kernel.remove_tree import remove_tree

MAX_ID = 65535
# Every system call walks the whole path: depth is what would make a small archive slow.
MAX_DEPTH = 256
WHITEOUT_PREFIX = b".wh."
AUFS_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"

_CAPABILITY = "security.capability"
# struct vfs_cap_data: VFS_CAP_REVISION_2 with or without the effective flag, then two pairs of 32-bit sets.
_VFS_CAP_REVISION_2 = 0x02000000
_VFS_CAP_FLAGS_EFFECTIVE = 1
_VFS_CAP_SIZE = 20

# What an archive can cause by its own contradictions; any other failure is the node's.
_ARCHIVES_FAULT = frozenset(
    {
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
    }
)


class Unpacker:
    """Makes each member in turn; a later one replaces an earlier one of the same name."""

    def __init__(self, reader: TarReader, budget: Budget, mark_opaque: Callable[[bytes], None]) -> None:
        self._reader = reader
        self._budget = budget
        self._mark_opaque = mark_opaque
        self._directory_times: dict[bytes, int] = {}
        self._known_parent = b""
        self.skipped = 0
        """Members that no container is given: device nodes, and kinds nobody knows."""

    def run(self) -> None:
        for member in self._reader:
            self._budget.spend_entry()
            with self._fault_of(member):
                self._make(member)
        self._set_directory_times()

    def _make(self, member: Member) -> None:
        path = self._parse_path(member, member.name)
        if not 0 <= member.uid <= MAX_ID or not 0 <= member.gid <= MAX_ID:
            raise self._invalid(member, f"belongs to {member.uid}:{member.gid}; ids go from 0 to {MAX_ID}")
        parent, name = os.path.split(path)
        if name.startswith(WHITEOUT_PREFIX):
            self._whiteout(member, parent, name)
        elif member.kind == tarfile.DIRTYPE:
            self._directory(member, path)
        elif path == b"/":
            raise self._invalid(member, "is the root, and no directory")
        elif member.is_file:
            self._file(member, path)
        elif member.kind == tarfile.SYMTYPE:
            self._symlink(member, path)
        elif member.kind == tarfile.LNKTYPE:
            self._hard_link(member, path)
        elif member.kind == tarfile.FIFOTYPE:
            self._fifo(member, path)
        else:
            self.skipped += 1

    def _directory(self, member: Member, path: bytes) -> None:
        if path != b"/":
            self._make_parent(path)
            self._make_directory(path)
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        os.chmod(path, member.mode)
        self._directory_times[path] = member.mtime_ns

    def _file(self, member: Member, path: bytes) -> None:
        self._clear(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while data := self._reader.read(CHUNK_BYTES):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            # In this order: a change of owner clears set-user-id bits and capabilities.
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            capability = member.xattrs.get(_CAPABILITY)
            if capability is not None and is_valid_capability(capability):
                os.setxattr(fd, _CAPABILITY, capability)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _symlink(self, member: Member, path: bytes) -> None:
        self._clear(path)
        os.symlink(member.linkname, path)
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)

    def _hard_link(self, member: Member, path: bytes) -> None:
        target = self._parse_path(member, member.linkname)
        if target == path:
            return
        if not os.path.lexists(target):
            raise self._invalid(
                member, f"is a hard link to {member.linkname[:200]!r}, which is not in the layer"
            )
        self._clear(path)
        os.link(target, path, follow_symlinks=False)

    def _fifo(self, member: Member, path: bytes) -> None:
        self._clear(path)
        os.mkfifo(path, 0o600)
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        os.chmod(path, member.mode)
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)

    def _whiteout(self, member: Member, parent: bytes, name: bytes) -> None:
        """Hide what lower layers have; what this layer itself has of that name stays, wherever it comes in the tar."""
        if name == OPAQUE_NAME:
            self._make_parent(os.path.join(parent, name))
            self._mark_opaque(parent)
            return
        if name.startswith(AUFS_PREFIX):
            # Records of a file system nobody uses any more.
            return
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise self._invalid(member, "is a whiteout of nothing")
        path = os.path.join(parent, hidden)
        self._make_parent(path)
        try:
            there = os.lstat(path)
        except FileNotFoundError:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            os.chown(path, 0, 0, follow_symlinks=False)
            return
        if stat.S_ISDIR(there.st_mode):
            self._mark_opaque(path)

    def _clear(self, path: bytes) -> None:
        """Make room for path: its parents exist afterwards, and it does not."""
        self._make_parent(path)
        if os.path.lexists(path):
            remove_tree(path)
            self._known_parent = b""

    def _make_parent(self, path: bytes) -> None:
        parent = os.path.dirname(path)
        if parent in (b"/", self._known_parent):
            return
        so_far = b""
        for part in parent.split(b"/")[1:]:
            so_far += b"/" + part
            if not os.path.isdir(so_far):
                self._make_directory(so_far)
        self._known_parent = parent

    def _make_directory(self, path: bytes) -> None:
        """Make path a directory of its own, keeping one that is there.

        Where this layer has a whiteout already, the directory hides the lower one whole: it is opaque.
        """
        opaque = False
        try:
            there = os.lstat(path)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(there.st_mode):
                return
            os.unlink(path)
            self._known_parent = b""
            # No other device node is ever made.
            opaque = stat.S_ISCHR(there.st_mode)
        os.mkdir(path, 0o755)
        os.chown(path, 0, 0)
        if opaque:
            self._mark_opaque(path)

    def _set_directory_times(self) -> None:
        """Give directories their times, which filling them has changed; some may have been replaced meanwhile."""
        for path, mtime_ns in self._directory_times.items():
            try:
                there = os.lstat(path)
                if stat.S_ISDIR(there.st_mode):
                    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in _ARCHIVES_FAULT:
                    raise

    def _parse_path(self, member: Member, name: bytes) -> bytes:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if len(parts) > MAX_DEPTH:
            raise self._invalid(member, f"lies {len(parts)} directories deep; the limit is {MAX_DEPTH}")
        if b".." in parts:
            raise self._invalid(member, f"names {name[:200]!r}, which leads out of the image")
        return b"/" + b"/".join(parts)

    @contextmanager
    def _fault_of(self, member: Member) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno in _ARCHIVES_FAULT:
                raise self._invalid(member, f"cannot be made: {exc.strerror}") from exc
            raise

    def _invalid(self, member: Member, reason: str) -> ImageInvalid:
        return self._reader.fail(f"the member {member} {reason}", member.offset)


def is_valid_capability(value: bytes) -> bool:
    """Tell whether an attribute is file capabilities as the kernel stores them, bound to no user namespace."""
    if len(value) != _VFS_CAP_SIZE:
        return False
    magic = int.from_bytes(value[:4], "little")
    return magic & ~_VFS_CAP_FLAGS_EFFECTIVE == _VFS_CAP_REVISION_2
