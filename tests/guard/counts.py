"""What each thing that users do costs, in numbers that do not depend on the machine: the least of several times.

A machine that is busy makes it more now and then, such as a read that comes too early, and never less.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guard.counters import Counters, open_counters
from tests.guard.quiet import SOON_S, wait_until_quiet
from tests.guard.system_calls import SystemCalls, find_threads
from tests.system.conftest import RunningNode, import_images, make_node
from tests.system.waiting import wait_for
from tfnz import Container, Location

#: What is counted, by what was done and what of.
Counts = dict[str, dict[str, int]]

#: So often each thing is done: first to warm up, and then to be counted.
WARM_UP, TIMES = 3, 9
#: A container for each spawn that is to find a sandbox ready, and one for all that is done in one.
POOL = WARM_UP + TIMES + 1
#: How long nothing is done, and how often.
IDLE_S, IDLE_TIMES = 5.0, 2
FILE = os.urandom(4096)


class CountedNode(RunningNode):
    """A node that is counted from its first moment.

    Its network namespace is its own: for a change of the firewall libnftables looks at all tables that there are, and
    other tests have nodes, too.
    """

    @property
    def counters(self) -> Path:
        return self.directory / "counters"

    def command(self, *words: str) -> list[str]:
        return [
            *("unshare", "--net", sys.executable, "-m", "tests.guard.counted_node", str(self.counters)),
            *("--config", str(self.config), *words),
        ]


@dataclass(frozen=True)
class Parties:
    """Who takes part, and how their work is counted."""

    counters: Counters
    daemon: SystemCalls
    inits: SystemCalls
    #: The thread that asks, and those that work for it.
    client: SystemCalls
    workers: SystemCalls
    find_threads: Callable[[], list[int]]

    def settle(self) -> None:
        """Wait until all that was begun is done."""
        wait_until_quiet(
            self.find_threads, lambda: (self.counters.read(), self.daemon.read(), self.workers.read())
        )

    def count(self, action: Callable[[], object]) -> dict[str, int]:
        """What it costs to do this once, with all that follows of it."""
        return self.count_for(action)[0]

    def count_for(self, action: Callable[[], object]) -> tuple[dict[str, int], float]:
        """The same, and for how many seconds it was counted."""
        self.settle()
        began = time.monotonic()
        before, asked = self._read(), self.client.read()
        action()
        asked = self.client.read() - asked
        self.settle()
        costs = {name: count - before[name] for name, count in self._read().items()}
        costs["client_calls"] += asked - 1  # to look was one of them
        return costs, time.monotonic() - began

    def _read(self) -> dict[str, int]:
        return self.counters.read() | {
            "daemon_calls": self.daemon.read(),
            "init_calls": self.inits.read(),
            "client_calls": self.workers.read(),
        }


def count_all(directory: Path, port: int = 2022) -> tuple[str, Counts]:
    """The node's version of cgroups, and everything counted.

    Raises:
        CannotCount: this kernel does not count system calls.
    """
    made = make_node(directory, port=port, settings=f'disk = "1G"\npool_size = {POOL}\n')
    node = CountedNode(made.directory, made.config, made.socket, made.tcp)
    try:
        node.start()
        import_images(node, "busybox")
        with open_counters(node.counters) as counters, node.location() as location:
            wait_for(lambda: location.node().status().sandboxes_ready == POOL, SOON_S, "the pool is not full")
            with meet(node, counters) as parties:
                return location.node().status().cgroups, count_operations(parties, location)
    finally:
        node.kill()


@contextlib.contextmanager
def meet(node: RunningNode, counters: Counters) -> Iterator[Parties]:
    """Begin to count."""
    assert node.process is not None
    daemon = node.process.pid
    me = threading.get_native_id()
    inits = find_children(daemon)

    def find_workers() -> list[int]:
        return [thread for thread in find_threads(os.getpid()) if thread != me]

    def find_all() -> list[int]:
        return [*find_threads(daemon), *inits, *find_workers()]

    with (
        SystemCalls(find_threads(daemon), with_new_threads=True) as of_daemon,
        SystemCalls(inits, with_new_threads=False) as of_inits,
        SystemCalls([me], with_new_threads=False) as of_client,
        SystemCalls(find_workers(), with_new_threads=True) as of_workers,
    ):
        yield Parties(counters, of_daemon, of_inits, of_client, of_workers, find_all)


def find_children(pid: int) -> list[int]:
    return [
        int(child)
        for thread in find_threads(pid)
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    ]


def count_operations(parties: Parties, location: Location) -> Counts:
    node = location.node()
    spawned: list[Container] = []

    def spawn() -> Container:
        spawned.append(node.spawn("busybox", ["sleep", "1000"]).wait_until_ready())
        return spawned[-1]

    def destroy() -> None:
        spawned.pop().destroy()

    counts = {"spawn": count_typical(parties, spawn)}
    container = spawn()
    counts |= {
        name: count_typical(parties, action)
        for name, action in {
            "run_true": lambda: container.run("true"),
            "put_4k": lambda: container.put("/file", FILE),
            "fetch_4k": lambda: container.fetch("/file"),
        }.items()
    }
    counts["idle_second"] = count_idle(parties)
    counts["reboot"] = count_typical(parties, container.reboot)
    counts["reboot_reset"] = count_typical(parties, lambda: container.reboot(reset_filesystem=True))
    spawned.pop()
    counts["destroy"] = count_typical(parties, destroy)
    container.destroy()
    counts["spawn_without_pool"] = count_typical(parties, spawn)
    for name in ("reboot", "reboot_reset", "spawn_without_pool"):
        # Of inits that were not there when we began to look.
        del counts[name]["init_calls"]
    return counts


def count_typical(parties: Parties, action: Callable[[], object]) -> dict[str, int]:
    for _ in range(WARM_UP):
        action()
    costs = [parties.count(action) for _ in range(TIMES)]
    return {name: min(cost[name] for cost in costs) for name in costs[0]}


def count_idle(parties: Parties) -> dict[str, int]:
    """What happens in a second when nothing is to be done, rounded up: the least of several times."""
    looks = [parties.count_for(lambda: time.sleep(IDLE_S)) for _ in range(IDLE_TIMES)]
    return {name: min(-int(-costs[name] // seconds) for costs, seconds in looks) for name in looks[0][0]}
