"""Those who must not notice what others do on their node: one who was there before, and one who comes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.system.host_state import unchanged
from tests.system.waiting import SOON_S
from tfnz import Location
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


def another_starts(node: RunningNode) -> None:
    """Somebody who comes to the node now gets a container that starts, writes, is written to, and ends."""
    with node.location() as location:
        newcomer = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        newcomer.put("/given", b"given")
        assert newcomer.run("cat /given; echo fine").stdout == b"givenfine\n"
        newcomer.destroy()
        assert newcomer.exit == Exit(Cause.DESTROYED)


@contextmanager
def undisturbed(node: RunningNode) -> Iterator[Location]:
    """A session on a node where, whatever is done with it, a container of another session lives on.

    When it is over a new one starts, and then the host is as it was before.
    """
    assert node.process is not None
    with unchanged(node.process.pid, node.data_dir), node.location() as theirs:
        bystander = theirs.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        bystander.put("/kept", b"kept")
        with node.location() as location:
            yield location
        assert bystander.run("echo new >/new; cat /kept /new", timeout_s=SOON_S).stdout == b"keptnew\n"
        another_starts(node)
