"""What the probe has found out in one container, in a form that is kept, compared and shown."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
#: Options of a mount that take something away from whoever is in it.
GUARDS = {"ro", "nosuid", "nodev", "noexec"}
#: A filter's answers that keep a call from the kernel.
REFUSALS = {"EPERM", "ENOSYS", "SIGSYS", "absent"}
#: uretprobe and uprobe: a kernel that has them asks no filter, and serves nobody but its own trampoline.
PAST_FILTERS = {335, 336}
#: What is kept from whoever looks. A file or directory that happens to have nothing to say ("nothing") is not.
HIDDEN = {"masked", "denied"}


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One container. `about` says of whom, by which version, on which kernel."""

    about: dict[str, str]
    #: Bit masks by the kernel's names for the sets: CapBnd, ...
    capabilities: dict[str, int]
    no_new_privs: bool
    has_filter: bool
    #: The host's user id of the container's root.
    root_is: int
    #: The highest that a process may ask for; -1 is no limit.
    limits: dict[str, int]
    descriptors: list[int]
    #: Namespaces that are the host's.
    shared: list[str]
    #: Whether the path of its cgroup on the host can be read.
    names_cgroup: bool
    #: How many directories of the host the table of mounts names.
    host_paths: int
    #: Options of mounts that take something away, by where they are; devices and masks of files are left out.
    mounts: dict[str, list[str]]
    sockets: dict[str, str]
    #: What can be opened for writing in /proc and /sys, processes apart.
    writable: list[str]
    #: Of files and directories there: "content", "nothing", or why not; see HIDDEN.
    shown: dict[str, str]
    devices: dict[str, str]
    device_nodes: dict[str, str]
    #: The numbers of calls by architecture and answer; see REFUSALS.
    calls: dict[str, dict[str, list[int]]]
    #: Answers to calls with certain arguments.
    particular_calls: dict[str, str]

    def allowed(self, architecture: str) -> set[int]:
        """Numbers of calls that reach the kernel, if there is a filter that can refuse them."""
        answers = self.calls[architecture]
        allowed = {number for answer in answers for number in answers[answer] if answer not in REFUSALS}
        return allowed - PAST_FILTERS if architecture == "x86_64" else allowed

    def allowed_particular(self) -> set[str]:
        """The same of those with certain arguments."""
        return {name for name, answer in self.particular_calls.items() if answer not in REFUSALS}

    def with_content(self) -> set[str]:
        """What shows something."""
        return {path for path, state in self.shown.items() if state == "content"}


def parse_report(output: bytes, about: dict[str, str]) -> Report:
    """What the probe has said. `about` has a version of who has run it.

    To be called in the namespaces of whoever has started the container: they are what is shared, or not.
    """
    said: dict[str, Any] = json.loads(output)
    status = said["status"]
    return Report(
        about=about | {"kernel": ".".join(platform.release().split(".")[:2])},
        capabilities={name: int(status[name], 16) for name in sorted(status) if name.startswith("Cap")},
        no_new_privs=status["NoNewPrivs"] == "1",
        has_filter=status["Seccomp"] == "2",
        root_is=int(said["uid_map"].split()[1]),
        limits=said["limits"],
        descriptors=sorted(map(int, said["descriptors"])),
        shared=[kind for kind in NAMESPACES if said["namespaces"][kind] == _own_namespace(kind)],
        names_cgroup=any(line.split(":", 2)[2] != "/" for line in said["cgroups"]),
        host_paths=len(set(_find_host_paths(said["mounts"]))),
        mounts=_find_guards(said["mounts"]),
        sockets=said["sockets"],
        writable=sorted(said["writable"]),
        shown=dict(sorted(said["shown"].items())),
        # Terminals come and go.
        devices={
            path: what
            for path, what in sorted(said["devices"].items())
            if not re.fullmatch(r"/dev/pts/\d+", path)
        },
        device_nodes=said["device_nodes"],
        calls={architecture: _by_answer(answers.items()) for architecture, answers in said["calls"].items()},
        particular_calls=said["particular_calls"],
    )


def _own_namespace(kind: str) -> str:
    return str(Path(f"/proc/self/ns/{kind}").readlink())


def _by_answer(answers: Iterable[tuple[str, str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, answer in answers:
        found.setdefault(answer, []).append(int(number))
    return dict(sorted(found.items()))


def _find_host_paths(mounts: list[str]) -> Iterable[str]:
    """Directories beneath which something of the host is mounted, or is a layer of what is."""
    for line in mounts:
        head, _, tail = line.partition(" - ")
        root, (kind, _, options) = head.split()[3], tail.split(" ", 2)
        if kind not in {"proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "tmpfs"} and root != "/":
            yield root
        for layers in re.findall(r"(?:lowerdir|upperdir|workdir)=([^,]*)", options):
            # What a process has opened, which names nothing to others.
            yield from (layer for layer in layers.split(":") if not layer.startswith("/proc/self/fd/"))


def _find_guards(mounts: list[str]) -> dict[str, list[str]]:
    found = {}
    for line in mounts:
        root, target, options = line.split()[3:6]
        kind = line.partition(" - ")[2].split()[0]
        if kind != "devtmpfs" and root != "/null":
            found[target] = sorted(GUARDS & set(options.split(",")))
    return dict(sorted(found.items()))
