"""The kernel's names for its numbers, as far as the comparison shows them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tfnz_node.sandbox import syscall_policy as policy

#: In linux/capability.h, by their numbers.
CAPABILITIES: Mapping[str, int] = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "net_raw": 13,
    "sys_chroot": 18,
    "mknod": 27,
    "audit_write": 29,
    "setfcap": 31,
}


@cache
def find_call_names() -> dict[int, str]:
    """The names of all system calls that our policy knows, by their numbers on x86-64."""
    import pyseccomp  # type: ignore[import-untyped]  # it ships none

    known = [
        *policy.CONDITIONAL,
        *(name for table in (policy.ALLOWED, policy.REFUSED, policy.UNKNOWN) for name in policy.names(table)),
    ]
    return {
        policy.NUMBERS.get(name) or int(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)): name
        for name in known
    }
