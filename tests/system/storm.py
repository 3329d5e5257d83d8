"""A storm of SIGKILLs: a daemon that is killed again and again beneath containers that print numbered lines.

    scripts/private-host .venv/bin/python -m tests.system.storm --kills 300 --containers 50

It prints what it found as JSON, and exits with 1 when anything was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.system.conftest import RunningNode, measured_node
from tests.system.waiting import wait_for
from tfnz import Container, Location, NodeRestarted

#: How long what was begun may take to end once nobody kills any more.
CALM_S = 120.0
#: Ten lines, a pause, and so on; with the last line the end. $0 is how many lines, $1 the code.
PRINT = """
i=0
while [ $i -lt $0 ]; do
  j=$((i+10))
  while [ $i -lt $j ]; do echo $i; i=$((i+1)); done
  usleep 100000
done
exit $1
"""


@dataclass
class Life:
    """What was heard of one container or process."""

    lines: int
    code: int
    output: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)

    def complaints(self, name: str) -> list[str]:
        numbers = [int(line) for line in self.output.split()]
        wrong = []
        if numbers != list(range(self.lines)):
            wrong.append(f"{name} said {summarise(numbers)}, expected 0..{self.lines - 1}")
        if self.ends != [self.code]:
            wrong.append(f"{name} ended with {self.ends}, expected once with {self.code}")
        return wrong


def summarise(numbers: list[int]) -> str:
    """Runs of numbers that follow each other, and no more than the first few."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}..{last}" for first, last in runs[:8]) or "nothing"


class Storm:
    """Args:
    kills: how often the daemon is killed.
    containers: how many live at the same time.
    """

    def __init__(self, node: RunningNode, *, kills: int, containers: int, seed: int) -> None:
        self._node = node
        self._kills = kills
        self._count = containers
        self._random = random.Random(seed)
        self._lives: dict[str, Life] = {}
        self._alive: set[str] = set()
        self._changed = threading.Event()
        self.gaps_s: list[float] = []
        self._unserved: list[str] = []
        self.counts: Counter[str] = Counter()

    def run(self) -> list[str]:
        """All that went wrong."""
        with self._node.location() as location:
            for _ in range(self._count):
                self._spawn(location)
            for _ in range(self._kills):
                self._kill(location)
                while len(self._alive) < self._count:
                    self._spawn(location)
            wait_for(lambda: not self._alive, CALM_S, "not everything ended")
            wait_for(
                lambda: all(life.ends for life in self._lives.values()), CALM_S, "not every end was told"
            )
            # What has been told of may still be removed.
            wait_for(lambda: not location.containers(), CALM_S, "containers are left that nobody knows")
        return [
            *self._unserved,
            *(text for name, life in self._lives.items() for text in life.complaints(name)),
        ]

    def _spawn(self, location: Location) -> None:
        life = Life(10 * self._random.randrange(1, 100), self._random.randrange(7))

        def end(container: Container, code: int) -> None:
            life.ends.append(code)
            self._alive.discard(container.uuid)

        def say(_: Any, data: bytes) -> None:
            life.output += data

        try:
            container = location.node().spawn(
                "busybox",
                ["sh", "-c", PRINT, str(life.lines), str(life.code)],
                pty=self._random.random() < 0.5,
                stdout_callback=say,
                termination_callback=end,
            )
        except NodeRestarted:
            self.counts["spawns interrupted"] += 1
            return
        self.counts["containers"] += 1
        self._lives[container.uuid] = life
        if not life.ends:
            self._alive.add(container.uuid)
        if life.ends:
            self._alive.discard(container.uuid)

    def _kill(self, location: Location) -> None:
        wait = threading.Event()
        wait.wait(self._random.uniform(0.0, 0.6))
        asked: list[float] = []
        begun = time.monotonic()
        self._node.crash()

        def ask() -> None:
            location.node().status()
            asked.append(time.monotonic())

        caller = threading.Thread(target=ask)
        caller.start()
        self._node.start()
        caller.join(CALM_S)
        self.counts["kills"] += 1
        if asked:
            self.gaps_s.append(asked[0] - begun)
        else:
            self._unserved.append(
                f"after kill {self.counts['kills']} nobody was served within {CALM_S:.0f} s"
            )


def run_storm(node: RunningNode, *, kills: int, containers: int, seed: int) -> tuple[Storm, list[str]]:
    """On a node that runs and has the image busybox."""
    storm = Storm(node, kills=kills, containers=containers, seed=seed)
    return storm, storm.run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    with measured_node(port=2047) as node:
        storm, wrong = run_storm(node, kills=options.kills, containers=options.containers, seed=options.seed)
        node.stop()
        wrong += node.faults
    gaps = sorted(storm.gaps_s)
    found = {
        "seed": options.seed,
        **storm.counts,
        "gap_p50_ms": round(gaps[len(gaps) // 2] * 1000),
        "gap_p95_ms": round(gaps[int(len(gaps) * 0.95)] * 1000),
        "wrong": wrong,
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
