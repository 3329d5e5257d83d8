"""The doctor looks at the kernel: its version, namespaces, system calls, seccomp and idmapped mounts."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Final

from tfnz_node.kernel.syscalls import RESOLVE_IN_ROOT, openat2
from tfnz_node.kernel.tools import ToolFailed, run_tool

from .findings import Finding, fail, ok, warn

#: Overlays on idmapped layers came with 5.19; nothing older than 6.1 has ever been tried.
NEEDED_VERSION: Final = (5, 19)
TRIED_VERSION: Final = (6, 1)
NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

#: What forbids to make user namespaces when it is 0, and the value that allows it.
_SWITCHED_ON: Final = {"kernel.unprivileged_userns_clone": 1, "user.max_user_namespaces": 15000}

_VERSION: Final = re.compile(r"([0-9]+)\.([0-9]+)")


def parse_version(release: str) -> tuple[int, int]:
    """Major and minor number of a kernel release such as "6.1.0-56-amd64"; (0, 0) when it is none."""
    match = _VERSION.match(release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def judge_kernel(release: str, machine: str) -> Finding:
    version = parse_version(release)
    if machine != "x86_64":
        return fail(
            "kernel", f"{release} for {machine}", "use an x86-64 machine; there is no tfnz-init for others"
        )
    if version < NEEDED_VERSION:
        return fail("kernel", f"{release} has no overlays on idmapped layers", "install Linux 6.1 or newer")
    if version < TRIED_VERSION:
        return warn("kernel", f"{release} is older than any that was tried", "install Linux 6.1 or newer")
    return ok("kernel", f"{release} for {machine}")


def check_kernel() -> Finding:
    host = os.uname()
    return judge_kernel(host.release, host.machine)


def judge_namespaces(present: set[str], maxima: dict[str, int], needed: int) -> Finding:
    """Judges the kinds of namespaces there are, and the sysctls that bound how many (by kind; missing is no bound)."""
    missing = sorted(set(NAMESPACES) - present)
    if missing:
        return fail(
            "namespaces", f"this kernel has none of: {', '.join(missing)}", "use a distribution's own kernel"
        )
    tight = {kind: most for kind, most in sorted(maxima.items()) if most < needed}
    if not tight:
        return ok("namespaces", f"all {len(NAMESPACES)} kinds, enough of each")
    what = ", ".join(f"user.max_{kind}_namespaces = {most}" for kind, most in tight.items())
    remedy = "sysctl -w " + " ".join(f"user.max_{kind}_namespaces={needed * 2}" for kind in tight)
    if 0 in tight.values():
        return fail("namespaces", f"switched off: {what}", f"{remedy} (and in /etc/sysctl.d to keep it)")
    return warn("namespaces", f"too few for {needed} containers: {what}", remedy)


def check_namespaces(id_count: int) -> Finding:
    present = {entry.name for entry in Path("/proc/self/ns").iterdir()}
    maxima: dict[str, int] = {}
    for kind in NAMESPACES:
        bound = Path(f"/proc/sys/user/max_{kind}_namespaces")
        if bound.exists():
            maxima[kind] = int(bound.read_text())
    return judge_namespaces(present, maxima, id_count)


def judge_making_namespaces(problem: int, *, in_chroot: bool, switches: dict[str, int]) -> Finding:
    """Judges a real try to make a container's namespaces.

    Args:
        problem: the number of the error; 0 is none.
        in_chroot: whether the root directory is the reason.
        switches: sysctls that may forbid it with 0, with their values.
    """
    name = "making namespaces"
    if not problem:
        return ok(name, "works")
    what = f"does not work: {os.strerror(problem)}"
    if in_chroot:
        return fail(
            name,
            f"{what}, because this is a chroot",
            "start the node outside of it, or enter its files by pivot_root instead, as systemd-nspawn does",
        )
    off = sorted(switch for switch, value in switches.items() if value == 0)
    if off:
        remedy = "sysctl -w " + " ".join(f"{switch}={_SWITCHED_ON[switch]}" for switch in off)
        return fail(
            name,
            f"{what}, switched off by {' and '.join(f'{switch} = 0' for switch in off)}",
            f"{remedy} (and in /etc/sysctl.d to keep it)",
        )
    return fail(
        name,
        what,
        "run on the host itself as root, not in a container; RestrictNamespaces= of a systemd unit, AppArmor and "
        "SELinux can forbid it, too",
    )


def check_making_namespaces() -> Finding:
    # In a process of its own, because making a namespace changes the one that makes it.
    answer = run_tool([sys.executable, "-m", "tfnz_node.doctor.namespace_probe"], timeout_s=20).split()
    switches = {switch: Path("/proc/sys", *switch.split(".")) for switch in _SWITCHED_ON}
    values = {switch: int(path.read_text()) for switch, path in switches.items() if path.exists()}
    return judge_making_namespaces(int(answer[0]), in_chroot=b"chroot" in answer, switches=values)


def judge_seccomp(actions: str | None, library: bool) -> Finding:
    if actions is None or "errno" not in actions.split():
        return fail(
            "seccomp", "this kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER"
        )
    if not library:
        return fail("seccomp", "libseccomp.so.2 is not on this host", "apt-get install libseccomp2")
    return ok("seccomp", "filters in the kernel, libseccomp to make them")


def check_seccomp() -> Finding:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    return judge_seccomp(actions.read_text() if actions.exists() else None, _has_libseccomp())


def _has_libseccomp() -> bool:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return True


def judge_calls(refused: dict[str, str]) -> Finding:
    """Judges the system calls that were tried, by name, with the reason for those that were refused."""
    if refused:
        what = "; ".join(f"{call}: {reason}" for call, reason in refused.items())
        return fail(
            "system calls", what, "run on the host itself, not in a container that filters system calls"
        )
    return ok("system calls", "pidfd_open and openat2 work")


def check_calls() -> Finding:
    refused = {}
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as exc:
        refused["pidfd_open"] = exc.strerror or str(exc)
    try:
        os.close(openat2(Path("/"), flags=os.O_PATH | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT))
    except OSError as exc:
        refused["openat2"] = exc.strerror or str(exc)
    return judge_calls(refused)


def judge_idmap(directory: Path, problem: str, *, needed: bool) -> Finding:
    """Judges a real try to map ids in this directory; it must work there when containers are to live right there."""
    name = "idmapped mounts"
    if not problem:
        return ok(name, f"work in {directory}")
    remedy = (
        "put data_dir on ext4, xfs or btrfs, or set storage = 'btrfs'; the kernel must have user namespaces"
    )
    return (fail if needed else warn)(name, f"do not work in {directory}: {problem}", remedy)


def check_idmap(directory: Path, id_base: int, *, needed: bool) -> Finding:
    try:
        # In a process of its own, because making a user namespace changes the one that makes it.
        run_tool(
            [sys.executable, "-m", "tfnz_node.doctor.idmap_probe", str(directory), str(id_base)], timeout_s=20
        )
    except ToolFailed as exc:
        return judge_idmap(directory, exc.stderr_tail or str(exc), needed=needed)
    return judge_idmap(directory, "", needed=needed)
