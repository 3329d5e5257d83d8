"""The daemon dies at each of the points at which something is half done: nothing is lost, and nothing is left."""

from __future__ import annotations

import ast
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import pytest

from tests.system.conftest import ROOT, RunningNode
from tests.system.host_state import count_scratches
from tests.system.told import Told
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location, NodeRestarted, TfnzError
from tfnz.protocol.exits import Cause
from tfnz_node.crash_points import Point

SLEEP = ["sleep", "1000"]
#: For what is asked for while one daemon dies after the other.
ASKED_S = 2 * SOON_S
POINTS = get_args(Point)


def test_the_points_are_all_there_are() -> None:
    used = set()
    for path in (ROOT / "node" / "tfnz_node").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "crash_point"
            ):
                [argument] = call.args
                assert isinstance(argument, ast.Constant)
                used.add(argument.value)
    assert used == set(POINTS)


class Trial:
    """One operation, during which the daemon dies; and what may be true afterwards."""

    def __init__(self, node: RunningNode, location: Location) -> None:
        self.node = node
        self.location = location

    def attempt(self, action: Callable[[], Any]) -> bool:
        """Whether it was done, as far as the client was told."""
        try:
            action()
        except NodeRestarted:
            return False
        return True

    def ask(self, container: Container, command: str) -> bytes:
        """What a command says that may be asked again, when another daemon dies meanwhile."""
        said: list[bytes] = []
        while not self.attempt(lambda: said.append(container.run(command).stdout)):
            pass
        [answer] = said
        return answer

    def create(self) -> None:
        told = Told()
        made: list[Container] = []
        self.attempt(
            lambda: made.append(
                self.location.node().spawn(
                    "busybox",
                    ["sh", "-c", "echo begun; sleep 1000"],
                    pty=False,
                    stdout_callback=told.say,
                    termination_callback=told.end,
                )
            )
        )
        for container in made:
            container.wait_until_ready()
            wait_for(lambda: told.output == b"begun\n", SOON_S, "it has not begun once")
            assert container.run("echo usable").stdout == b"usable\n"
        self.check([container.uuid for container in made])
        assert told.ends == []

    def start(self) -> None:
        container = self.location.node().spawn("busybox", SLEEP, sleep=True)
        if not self.attempt(partial(container.start, timeout_s=ASKED_S)):
            container.start(timeout_s=ASKED_S)
        assert b"sleep 1000" in container.run("ps").stdout.replace(b"\0", b" ")
        assert container.run("ps").stdout.count(b"sleep 1000") == 1
        self.check([container.uuid])

    def exec(self) -> None:
        container = self.location.node().spawn("busybox", SLEEP).wait_until_ready()
        told = Told()
        # It does not end before it may: what is not begun is ended.
        command = "echo said; while [ ! -e /go ]; do sleep 0.1; done; exit 3"
        begun = self.attempt(
            lambda: container.spawn(command, data_callback=told.say, termination_callback=told.end)
        )
        if begun:
            self.ask(container, "touch /go")
            assert told.wait_for_end() == 3
            assert told.output == b"said\n"
        else:
            wait_for(lambda: b"echo said" not in self.ask(container, "ps"), SOON_S, "it is half there")
            assert told.ends == []
        self.check([container.uuid])

    def reboot(self) -> None:
        for reset in (False, True):
            container = self.location.node().spawn("busybox", SLEEP).wait_until_ready()
            container.put("/file", b"kept")
            self.attempt(partial(container.reboot, reset_filesystem=reset, timeout_s=ASKED_S))
            assert self.ask(container, "ps").count(b"sleep 1000") == 1
            assert (self.ask(container, "cat /file") == b"kept") is not reset
            self.check([container.uuid])
            container.destroy()

    def destroy(self) -> None:
        told = Told()
        container = self.location.node().spawn("busybox", SLEEP, termination_callback=told.end)
        container.wait_until_ready()
        with contextlib.suppress(TfnzError):
            container.destroy(timeout_s=ASKED_S)
        told.wait_for_end()
        self.check([])
        assert len(told.ends) == 1
        assert container.exit is not None and container.exit.cause is Cause.DESTROYED

    def session(self) -> None:
        with contextlib.suppress(TfnzError), self.node.location() as other:
            other.node().spawn("busybox", SLEEP).wait_until_ready()
        self.check([])

    def check(self, expected: list[str]) -> None:
        """The node has these containers, and of no other anything is left."""

        def state() -> tuple[list[str], int, int]:
            pid = self.node.process.pid if self.node.process is not None else 0
            return (
                [one.container for one in self.location.containers(timeout_s=ASKED_S)],
                self.location.node().status(timeout_s=ASKED_S).containers,
                count_scratches(pid, self.node.data_dir),
            )

        wanted = (expected, len(expected), len(expected))
        wait_for(lambda: state() == wanted, SOON_S, f"expected {wanted}")


@contextlib.contextmanager
def revived(node: RunningNode, *points: str) -> Iterator[None]:
    """Within the context, a daemon that dies is followed by another, and that one dies at the next of these points."""
    over, last = threading.Event(), threading.Event()

    def revive() -> None:
        for point in points:
            if died():
                with contextlib.suppress(AssertionError):  # it may die before it is ready
                    node.start(crash_at=point)
        if died():
            last.set()
            node.start()

    def died() -> bool:
        assert node.process is not None
        while node.process.poll() is None and not over.is_set():
            over.wait(0.01)
        return not over.is_set()

    thread = threading.Thread(target=revive)
    thread.start()
    try:
        yield
        # What was asked for may be done before the daemon has come to all that it does about it.
        assert last.wait(SOON_S), "not every daemon has come to its point"
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("adopt")])
def test_a_crash_at_any_point_leaves_nothing_half_done(own: RunningNode, point: str) -> None:
    kind = point.partition(":")[0]
    if kind == "session":  # that which has imported the image would pass the point, too
        wait_for(lambda: "closed by the client" in own.log, SOON_S, "the first session does not end")
    # A container that is made passes the points of its boot, and those of the start of its main process.
    made = kind == "boot" or (kind == "start" and point != "start: intended")
    crash_in(own, "create" if made else kind, point)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("create", "create: kept", "adopt: taken over"),
        ("start", "start: executed", "adopt: done"),
        ("exec", "exec: exit kept", "adopt: taken over"),
        ("reboot", "reboot: intended", "adopt: taken over"),
        ("reboot", "reboot: intended", "reboot: renewed"),
        ("destroy", "destroy: kept", "adopt: done"),
        ("destroy", "destroy: kept", "destroy: end kept"),
        ("destroy", "destroy: end kept", "destroy: told"),
    ],
)
def test_the_next_daemon_may_die_of_what_is_half_done_as_well(
    own: RunningNode, kind: str, first: str, second: str
) -> None:
    crash_in(own, kind, first, second)


def crash_in(node: RunningNode, kind: str, first: str, *others: str) -> None:
    """Have daemons die at these points during one operation, one after the other."""
    with node.location() as location:
        trial = Trial(node, location)
        node.crash()
        node.start(crash_at=first)
        location.containers(timeout_s=ASKED_S)  # it has come back
        with revived(node, *others):
            getattr(trial, kind)()


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("adopt")])
def test_a_crash_while_taking_over_is_a_crash_like_others(own: RunningNode, point: str) -> None:
    with own.location() as location:
        told = Told()
        container = location.node().spawn(
            "busybox", ["cat"], pty=False, stdout_callback=told.say, termination_callback=told.end
        )
        container.wait_until_ready()
        container.stdin(b"one\n")
        wait_for(lambda: told.output == b"one\n", SOON_S, "it does not answer")
        own.crash()
        with pytest.raises(AssertionError, match="did not start"):
            own.start(crash_at=point)
        assert own.process is not None
        assert own.process.wait() == -signal.SIGKILL
        own.start()
        container.stdin(b"two\n")
        wait_for(lambda: told.output == b"one\ntwo\n", SOON_S, "it does not answer any more")
        container.destroy()
        assert len(told.ends) == 1
