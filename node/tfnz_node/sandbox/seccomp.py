"""The system call filter of every process in a container, compiled by libseccomp."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from typing import Any

from tfnz.protocol.errors import InternalError
from tfnz_node.kernel import syscalls
from tfnz_node.sandbox import syscall_policy as policy

_LOW_32_BITS = 0xFFFFFFFF

NAMESPACE_FLAGS = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)

AF_UNIX = 1
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
# ROUTE, SOCK_DIAG, AUDIT (which pam only asks in order to hear no), KOBJECT_UEVENT and GENERIC; not netfilter.
NETLINK_PROTOCOLS = (0, 4, 9, 15, 16)

TIOCSTI = 0x5412
TIOCLINUX = 0x541C
TIOCSETD = 0x5423
REFUSED_IOCTLS = (TIOCSTI, TIOCLINUX, TIOCSETD)

# PER_LINUX and PER_LINUX32, each plain or with UNAME26; and the question which one it is.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# The kernel adds some eight calls a year; those past this reach would get EPERM instead of ENOSYS.
_FUTURE_CALLS = 64

_OPTIMIZE_TREE = 2


def compile_filter() -> bytes:
    """The filter as an array of struct sock_filter, ready for PR_SET_SECCOMP; the same bytes every time.

    Calls of other architectures (32-bit, x32) are refused altogether.

    Raises:
        InternalError: libseccomp is missing or refused a rule.
    """
    library = _load_library()
    compiled = library.SyscallFilter(library.ERRNO(errno.EPERM))
    try:
        compiled.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM))
        compiled.set_attr(library.Attr.CTL_OPTIMIZE, _OPTIMIZE_TREE)
        _add_rules(library, compiled)
        return _export(compiled)
    except OSError as exc:
        raise InternalError(f"libseccomp cannot compile the system call filter: {exc}") from exc


def _load_library() -> Any:
    """pyseccomp, which has no types and which fails at import where the C library is missing."""
    try:
        import pyseccomp  # type: ignore[import-untyped]  # it ships none
    except (ImportError, RuntimeError) as exc:
        raise InternalError(
            f"system call filters cannot be made: {exc}; install libseccomp with `apt-get install libseccomp2`"
        ) from exc
    return pyseccomp


def complement(values: Collection[int], bits: int = 32) -> list[tuple[int, int]]:
    """(mask, value) pairs such that every number of `bits` bits matches exactly one, and those in `values` none.

    A filter compares 64 bits where the kernel looks at an int's 32: a plain "not equal" would let a forbidden value
    through once a high bit is set beside it. libseccomp masks in equality only; so what is allowed is spelt out, as
    all prefixes at which a number can part from every forbidden one.
    """
    pairs = {
        (mask, (value ^ (1 << bit)) & mask)
        for value in values
        for bit in range(bits)
        for mask in [((1 << bits) - 1) & ~((1 << bit) - 1)]
    }
    return sorted(pair for pair in pairs if all(value & pair[0] != pair[1] for value in values))


def _add_rules(library: Any, compiled: Any) -> None:
    allow, unknown = library.ALLOW, library.ERRNO(errno.ENOSYS)

    def equals(argument: int, value: int, mask: int = _LOW_32_BITS) -> Any:
        return library.Arg(argument, library.MASKED_EQ, mask, value)

    for name in policy.names(policy.ALLOWED):
        compiled.add_rule(allow, _find_number(library, name))
    for name in policy.names(policy.UNKNOWN):
        compiled.add_rule(unknown, _find_number(library, name))
    for number in range(policy.NEWEST + 1, policy.NEWEST + 1 + _FUTURE_CALLS):
        compiled.add_rule(unknown, number)

    compiled.add_rule(allow, "clone", equals(0, 0, NAMESPACE_FLAGS))
    for family in (AF_UNIX, AF_INET, AF_INET6):
        compiled.add_rule(allow, "socket", equals(0, family))
    for protocol in NETLINK_PROTOCOLS:
        compiled.add_rule(allow, "socket", equals(0, AF_NETLINK), equals(2, protocol))
    compiled.add_rule(allow, "socketpair", equals(0, AF_UNIX))
    for mask, value in complement(REFUSED_IOCTLS):
        compiled.add_rule(allow, "ioctl", equals(1, value, mask))
    for personality in PERSONALITIES:
        compiled.add_rule(allow, "personality", equals(0, personality))


def _find_number(library: Any, name: str) -> int:
    number = policy.NUMBERS.get(name)
    if number is None:
        number = int(library.resolve_syscall(library.Arch.X86_64, name))
    if number < 0:  # libseccomp would silently leave out what it does not know.
        raise InternalError(
            f"libseccomp does not know the system call {name}: add its number to syscall_policy"
        )
    return number


def _export(compiled: Any) -> bytes:
    with open(os.memfd_create("seccomp"), "w+b") as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
