"""Which run of which node this is: the lock on its data directory, and the name of what it leaves on the host.

Everything a daemon makes outside its data directory carries the name of its instance: the data directory's, the
daemon's process id, and when that process began. So the next daemon, of this data directory or another, can tell what
a dead one has left from what a living one uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from pathlib import Path

from tfnz.protocol.errors import InvalidArgument, NoCapacity

_NAME = re.compile(r"n([0-9a-f]{8})-([0-9]+)-([0-9]+)")


def lock_data_dir(data_dir: Path) -> int:
    """A lock that lasts as long as the descriptor that is returned, or the process.

    Raises:
        NoCapacity: another daemon has it.
        InvalidArgument: something else is at its place, or others than root can write there.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as exc:
        raise InvalidArgument(
            f"the data directory {data_dir} is no directory: move what is there, or set `data_dir` in node.toml"
        ) from exc
    status = data_dir.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise InvalidArgument(
            f"the data directory {data_dir} can be changed by others (owner {status.st_uid}, mode "
            f"{stat.S_IMODE(status.st_mode):o}), who could replace keys and images: "
            "chown it to root and chmod o-w it, or set `data_dir` in node.toml"
        )
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise NoCapacity(
            f"another node is using {data_dir}: stop it, or give this one a data directory of its own"
        ) from exc
    return descriptor


def name_instance(data_dir: Path, pid: int | None = None) -> str:
    """The name of this process as the daemon of `data_dir`, or of the keeper with which daemons come and go."""
    pid = os.getpid() if pid is None else pid
    return f"n{_digest(data_dir)}-{pid}-{find_start_time(pid)}"


def is_dead_instance(name: str, data_dir: Path, *, has_processes: bool, own: str = "") -> bool:
    """Whether what carries this name has no daemon any more. To be asked with the lock of `data_dir` held.

    Args:
        has_processes: something runs that carries it. The daemon of another data directory may be in a pid namespace
            that we cannot see into; its containers end with it, so where something runs it is not certainly dead.
        own: our own, if that is not named after this process.
    """
    match = _NAME.fullmatch(name)
    if match is None or name == own:
        return False
    _, pid, start_time = match.groups()
    if int(pid) == os.getpid() and int(start_time) == find_start_time(os.getpid()):
        return False
    if is_own_instance(name, data_dir):
        return True
    return not has_processes and find_start_time(int(pid)) != int(start_time)


def is_own_instance(name: str, data_dir: Path) -> bool:
    """Whether a daemon of this data directory has, or had, this name."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] == _digest(data_dir)


def find_start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (field 22 of proc_pid_stat(5)); None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _digest(data_dir: Path) -> str:
    """What names a data directory: not its path, which another root file system may have, too."""
    status = data_dir.stat()
    return hashlib.sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:8]
