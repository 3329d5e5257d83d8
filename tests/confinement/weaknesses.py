"""Compares two containers: where one keeps less away from its processes than the other."""

from __future__ import annotations

from collections.abc import Iterator

from tests.confinement.report import HIDDEN, Report


def find_weaknesses(ours: Report, other: Report) -> list[str]:
    """Everything that is possible in ours and not in the other, a line each.

    The other may have been recorded on another kernel. So what has never been there (a file in /proc, the system calls
    of 32-bit programs) is not held against ours: only what the other could have had, and refused.
    """
    return [
        *_judge_rights(ours, other),
        *_judge_calls(ours, other),
        *_judge_paths(ours, other),
        *_judge_devices(ours, other),
    ]


def _judge_rights(ours: Report, other: Report) -> Iterator[str]:
    for name, mask in ours.capabilities.items():
        if more := mask & ~other.capabilities[name]:
            yield f"capabilities {more:#x} in {name}"
    for name in ("no_new_privs", "has_filter"):
        if getattr(other, name) and not getattr(ours, name):
            yield f"no {name}"
    if ours.root_is == 0 and other.root_is != 0:
        yield "root is the host's root"
    for name, limit in ours.limits.items():
        if other.limits[name] != -1 and not 0 <= limit <= other.limits[name]:
            yield f"limit {name} is {limit}, not {other.limits[name]}"
    for number in set(ours.descriptors) - set(other.descriptors):
        yield f"descriptor {number} is open"
    for kind in set(ours.shared) - set(other.shared):
        yield f"the {kind} namespace is the host's"
    if ours.names_cgroup and not other.names_cgroup:
        yield "the path of its cgroup is shown"
    if ours.host_paths > other.host_paths:
        yield f"{ours.host_paths} directories of the host are named"
    for name, answer in ours.sockets.items():
        if answer == "opened" and other.sockets[name] != "opened":
            yield f"a socket for {name} can be opened"


def _judge_calls(ours: Report, other: Report) -> Iterator[str]:
    for architecture in ours.calls:
        absent = set(other.calls[architecture].get("absent", ()))
        for number in sorted(ours.allowed(architecture) - other.allowed(architecture) - absent):
            yield f"system call {number} of {architecture}"
    for name in sorted(ours.allowed_particular() - other.allowed_particular()):
        yield f"system call {name}"


def _judge_paths(ours: Report, other: Report) -> Iterator[str]:
    for path in sorted(set(ours.writable) - set(other.writable)):
        yield f"{path} can be written"
    for path in sorted(ours.with_content()):
        if find_state(other, path) in HIDDEN:
            yield f"{path} shows something"
    for target, guards in other.mounts.items():
        if target in ours.mounts and (missing := set(guards) - set(ours.mounts[target])):
            yield f"{target} is mounted without {', '.join(sorted(missing))}"


def find_state(report: Report, path: str) -> str:
    """Of a path, or of the nearest of its parents that is known: what is beneath a hidden directory is hidden.

    A parent with content says nothing about what is not in it: that is "unknown".
    """
    if path in report.shown:
        return report.shown[path]
    while path := path.rpartition("/")[0]:
        if path in report.shown:
            return "unknown" if report.shown[path] == "content" else report.shown[path]
    return "unknown"


def _judge_devices(ours: Report, other: Report) -> Iterator[str]:
    known = {what.split(maxsplit=2)[1] for what in other.devices.values()}
    for path, what in ours.devices.items():
        if what.split(maxsplit=2)[1] not in known:
            yield f"the device {path}"
    order = ["EPERM", "made", "opened"]
    for name, outcome in ours.device_nodes.items():
        if order.index(outcome) > order.index(other.device_nodes[name]):
            yield f"a node for {name} can be {outcome}"
