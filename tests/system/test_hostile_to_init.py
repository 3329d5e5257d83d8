"""Process 1 of a container ends when its container does: not by those inside, and not without it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.bystanders import another_starts, undisturbed
from tests.system.host_state import find_descendants
from tests.system.waiting import SOON_S
from tfnz.protocol.errors import TfnzError
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@pytest.mark.parametrize(
    "weapon",
    [
        "kill -KILL -1",
        "for s in 1 2 3 6 9 11 15 19; do kill -$s 1; done",
        "echo 1000 >/proc/1/oom_score_adj; echo x >/proc/1/mem; echo >/proc/1/attr/current",
        "reboot -f; poweroff -f; halt -f",
    ],
)
def test_init_cannot_be_ended_by_its_own_children(node: RunningNode, weapon: str) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn("busybox", ["sleep", "1000"], sleep=True).wait_until_ready()
        container.run(weapon)
        another_starts(node)
        assert container.run("echo alive").stdout == b"alive\n"
        container.start()
        container.destroy()


def test_who_ends_everything_inside_ends_the_container(node: RunningNode) -> None:
    with undisturbed(node) as location:
        container = location.node().spawn("busybox", "sleep 1000 & sleep 1000 & sleep 1000")
        container.wait_until_ready()
        container.spawn("kill -KILL -1")
        assert container.wait(SOON_S) == Exit(Cause.SIGNALLED, signal=9)


def test_an_init_that_is_killed_from_outside_takes_its_container_with_it(node: RunningNode) -> None:
    """As the kernel would if the host had no memory left: told to the owner, cleaned up, and to nobody's harm."""
    assert node.process is not None
    with undisturbed(node) as location:
        for asleep in (False, True):
            container = location.node().spawn("busybox", ["sleep", "1000"], sleep=asleep).wait_until_ready()
            base = int(container.run(["cat", "/proc/self/uid_map"]).stdout.split()[1])
            os.kill(find_init(node.process.pid, base), 9)
            assert container.wait(SOON_S).cause is Cause.SIGNALLED
            with pytest.raises(TfnzError, match="has ended"):
                container.run("true")


def find_init(daemon: int, id_base: int) -> int:
    """Process 1 of the container whose root is this id of the host."""
    inits = [pid for pid, command in find_descendants(daemon).items() if command == "tfnz-init"]
    return next(pid for pid in inits if _first_id(pid) == id_base)


def _first_id(pid: int) -> int:
    """The host's id of the root of its user namespace; -1 of a process that has ended meanwhile."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
    return -1
