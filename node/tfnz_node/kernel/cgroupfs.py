"""Cgroup directories, alike in v1 and v2: their files, their members, and how they end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

REMOVAL_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02
_MAX_VALUE_BYTES = 1 << 16
_ATTEMPTS = 8


class KeyedFile:
    """An open file of "key value" lines, whose values can be read again and again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, key: str) -> int:
        """The value of `key` now; 0 when the kernel does not have it."""
        for line in os.pread(self._fd, _MAX_VALUE_BYTES, 0).decode().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
        return 0

    def close(self) -> None:
        """To be called once."""
        os.close(self._fd)


class CgroupTree:
    """Reads and changes the kernel's cgroup directories."""

    def make(self, group: Path) -> None:
        """Make a cgroup, whose parent exists."""
        group.mkdir(mode=0o755)

    def make_with_parent(self, group: Path) -> None:
        """Make a cgroup that may exist, in one that may exist and that another daemon may just be removing."""
        for _ in range(_ATTEMPTS):
            for path in (group.parent, group):
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    self.make(path)
            if group.is_dir():
                return
        raise FileNotFoundError(errno.ENOENT, f"cgroup {group} is removed by others as soon as it is made")

    def remove(self, group: Path) -> None:
        """Remove a cgroup that has neither members nor children."""
        group.rmdir()

    def open(self, group: Path, file: str) -> int:
        """A descriptor to write a control file by, the caller's to close."""
        return os.open(f"{group}/{file}", os.O_WRONLY | os.O_CLOEXEC)

    def open_directory(self, group: Path) -> int:
        """A descriptor of the cgroup itself, the caller's to close."""
        return os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, group: Path, file: str, value: str) -> None:
        """Write a control file in one write, as the kernel wants it; never create one.

        Raises:
            OSError: what the kernel thinks of the value; the message names file and value.
        """
        try:
            fd = self.open(group, file)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as exc:
            raise OSError(exc.errno, f"write {value!r} to {group / file}: {exc.strerror}") from exc

    def read(self, group: Path, file: str) -> str:
        """The value of a control file."""
        fd = os.open(f"{group}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _MAX_VALUE_BYTES).decode().strip()
        finally:
            os.close(fd)

    def read_keyed(self, group: Path, file: str, key: str) -> int:
        """The value of `key` in a file of "key value" lines; 0 when the kernel does not have it."""
        with contextlib.closing(self.keyed(group, file)) as opened:
            return opened.read(key)

    def keyed(self, group: Path, file: str) -> KeyedFile:
        """A file of "key value" lines, the caller's to close."""
        return KeyedFile(os.open(f"{group}/{file}", os.O_RDONLY | os.O_CLOEXEC))

    def has(self, group: Path, file: str) -> bool:
        """Whether this kernel offers a control file."""
        return os.path.exists(f"{group}/{file}")

    def members(self, group: Path) -> list[int]:
        """The processes in the cgroup itself."""
        return [int(pid) for pid in self.read(group, "cgroup.procs").split()]

    def children(self, group: Path) -> list[str]:
        """The names of the cgroups directly below."""
        try:
            with os.scandir(group) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def kill_members(self, group: Path) -> None:
        """Send SIGKILL to every process in the cgroup, and to no process that took over a dead one's id."""
        if self.has(group, "cgroup.kill"):  # v2 from Linux 5.14 on: at once, forks included.
            self.write(group, "cgroup.kill", "1")
            return
        for pid in self.members(group):
            with contextlib.suppress(ProcessLookupError):
                self._kill(group, pid)

    def _kill(self, group: Path, pid: int) -> None:
        fd = os.pidfd_open(pid)
        try:
            if pid in self.members(group):  # Still the same process: the descriptor holds on to it.
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)

    def end(self, group: Path, *, timeout_s: float = REMOVAL_TIMEOUT_S) -> None:
        """Kill all members of a cgroup and of those below it, and remove them; nothing happens when there is none.

        A process leaves its cgroup some time after it is dead, and there is nothing to wait on in v1: hence the
        retries.

        Raises:
            TimeoutError: something in it does not die.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while not self._try_to_end(group):
            if time.monotonic() > deadline:
                raise TimeoutError(f"cgroup {group} cannot be removed: {self._survivors(group)}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _try_to_end(self, group: Path) -> bool:
        try:
            self.remove(group)
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        else:
            return True
        with contextlib.suppress(FileNotFoundError):
            self.kill_members(group)
        for child in self.children(group):
            self._try_to_end(group / child)
        return False

    def _survivors(self, group: Path) -> str:
        try:
            pids = self.members(group)
        except OSError as exc:
            return str(exc)
        return f"processes {pids} do not die" if pids else "the kernel still holds it"
