"""What counts as weaker, and what does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.confinement.recorded import read_recorded
from tests.confinement.report import Report
from tests.confinement.weaknesses import find_weaknesses


def changed(report: Report, **changes: Any) -> Report:
    return msgspec.structs.replace(report, **changes)


@pytest.fixture
def docker() -> Report:
    return read_recorded()[0]


@pytest.fixture
def ours() -> Report:
    return read_recorded()[1]


def test_nobody_is_weaker_than_themselves(docker: Report, ours: Report) -> None:
    assert find_weaknesses(docker, docker) == find_weaknesses(ours, ours) == []


def test_ours_was_not_weaker_when_it_was_recorded(docker: Report, ours: Report) -> None:
    assert find_weaknesses(ours, docker) == []


def test_docker_is_weaker_than_ours_in_each_respect(docker: Report, ours: Report) -> None:
    found = "\n".join(find_weaknesses(docker, ours))
    for expected in (
        "capabilities 0x28002100 in CapBnd",
        "no no_new_privs",
        "root is the host's root",
        "limit core is -1, not 0",
        "the user namespace is the host's",
        "the path of its cgroup is shown",
        "directories of the host are named",
        "a socket for raw IP can be opened",
        "system call 425 of x86_64",
        "system call 11 of x86\n",
        "system call socket 40",
        "system call ioctl TIOCSTI",
        "/proc/slabinfo can be written",
        "/proc/interrupts shows something",
        "/sys/devices/virtual/block shows something",
        "/ is mounted without nodev, nosuid",
        "a node for a disk can be made",
    ):
        assert expected in found


def test_each_single_step_back_is_found(ours: Report) -> None:
    more = {"allowed": [*ours.calls["x86_64"]["allowed"], 165]}
    steps: dict[str, dict[str, Any]] = {
        "system call 165 of x86_64": {"calls": ours.calls | {"x86_64": ours.calls["x86_64"] | more}},
        "descriptor 7 is open": {"descriptors": [0, 1, 2, 7]},
        "no has_filter": {"has_filter": False},
        "limit rtprio is 3, not 0": {"limits": ours.limits | {"rtprio": 3}},
        "/proc/kcore shows something": {"shown": ours.shown | {"/proc/kcore": "content"}},
        "/sys/firmware/efi shows something": {"shown": ours.shown | {"/sys/firmware/efi": "content"}},
        "the device /dev/kmsg": {"devices": ours.devices | {"/dev/kmsg": "c 1:11 r"}},
        "/sys is mounted without ro": {
            "mounts": ours.mounts | {"/sys": ["nodev", "noexec", "nosuid"]},
        },
    }
    known = changed(ours, shown=ours.shown | {"/proc/kcore": "masked"})
    for what, weaker in steps.items():
        assert find_weaknesses(changed(ours, **weaker), known) == [what]


def test_what_the_other_kernel_never_had_is_not_held_against_ours(ours: Report) -> None:
    newer = changed(ours, shown=ours.shown | {"/proc/new": "content", "/sys/kernel/new": "content"})
    assert find_weaknesses(newer, ours) == []
    without = changed(ours, calls=ours.calls | {"x86": {"absent": list(range(512))}})
    with_some = changed(ours, calls=ours.calls | {"x86": {"allowed": [1], "EPERM": list(range(2, 512))}})
    assert find_weaknesses(with_some, without) == []
    assert find_weaknesses(without, with_some) == []


def test_a_file_that_has_nothing_to_say_just_now_hides_nothing(ours: Report) -> None:
    silent = changed(ours, shown=ours.shown | {"/proc/locks": "nothing", "/sys/class/bsg": "nothing"})
    loud = changed(ours, shown=ours.shown | dict.fromkeys(("/proc/locks", "/sys/class/bsg/x"), "content"))
    assert find_weaknesses(loud, silent) == []
