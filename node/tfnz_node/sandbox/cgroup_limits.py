"""What one container may use of memory, processes and processors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfnz.protocol.errors import InvalidArgument

CPU_PERIOD_US = 100_000
#: What both versions call the number of processes ended for want of memory.
OOM_KILLS = "oom_kill"
_MIN_CPU_QUOTA_US = 1_000
_MAX_CPUS = 4096
_PAGE_BYTES = 4096
_MAX_PIDS = 1 << 22
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True)
class CgroupLimits:
    """Limits that the kernel enforces; swap is never added to memory.

    Attributes:
        memory_bytes: Beyond it, the kernel ends a process of the container.
        pids: Processes and threads together.
        cpus: How many processors' worth of time; 0.5 is half of one.
    """

    memory_bytes: int
    pids: int
    cpus: float

    def __post_init__(self) -> None:
        if not _PAGE_BYTES <= self.memory_bytes < 2**63:
            raise InvalidArgument(
                f"a memory limit of {self.memory_bytes} bytes makes no sense: use 4096 or more"
            )
        if not 1 <= self.pids <= _MAX_PIDS:
            raise InvalidArgument(f"a limit of {self.pids} processes makes no sense: use 1 to {_MAX_PIDS}")
        # Written so that NaN is refused too.
        if not self.cpu_quota_us_exact >= _MIN_CPU_QUOTA_US or self.cpus > _MAX_CPUS:
            raise InvalidArgument(
                f"a limit of {self.cpus} processors makes no sense: use 0.01 to {_MAX_CPUS}"
            )

    @property
    def cpu_quota_us_exact(self) -> float:
        """Microseconds of processor time in every CPU_PERIOD_US."""
        return self.cpus * CPU_PERIOD_US

    @property
    def cpu_quota_us(self) -> int:
        """The same, as the kernel takes it."""
        return round(self.cpu_quota_us_exact)


def check_group_name(name: str) -> None:
    """Refuse what is not a plain name, or could be mistaken for one of the kernel's files.

    Raises:
        InvalidArgument: naming the name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} cannot name a cgroup: use up to 128 letters, digits, '-' and '_'")
