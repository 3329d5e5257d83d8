"""The same over and over: spawn and destroy, and programs that are killed; the host is as before, and memory flat."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.soak.host import compare, look_all, look_all_at_rest, take_sample
from tests.soak.node import make_soak_node
from tests.soak.player import ROOT
from tests.soak.report import Report
from tests.soak.restarts import Outcome
from tests.soak.stage import Stage
from tests.system.conftest import RunningNode, import_images
from tests.system.host_state import adopt_orphans, count_scratches
from tests.system.waiting import wait_for
from tfnz import Location

#: Containers that a killed client has.
CONTAINERS: Final = 3
THREADS: Final = 3
#: So often memory is looked at.
SAMPLES: Final = 40
SOON_S: Final = 120.0


@dataclass
class Cycles:
    """One run.

    Args:
        cycles: how often a container is spawned and destroyed.
        killed: how many programs with containers are killed meanwhile.
    """

    cycles: int
    killed: int
    seed: int
    command: str
    progress: Callable[[str], object] = lambda _: None
    keep: Callable[[Report], object] = lambda _: None
    _stage: Stage = field(default_factory=Stage)

    def run(self) -> Report:
        self._report = Report(self.command, self.seed)
        adopt_orphans()
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            node = make_soak_node(Path(directory))
            before = look_all_at_rest(node)
            try:
                node.start()
                import_images(node, "busybox")
                self._run_on(node)
                node.stop()
            finally:
                node.kill()
            if (difference := compare(before, lambda: look_all(node))) is not None:
                self._stage.violate("host", f"after the daemon was stopped it is not as before: {difference}")
            self._stage.violate_for_each("daemon's log", node.faults)
        self._report.finished = True
        return self._sum_up()

    def _run_on(self, node: RunningNode) -> None:
        with self._doomed(node) as doomed:
            # What is made when it is first needed is there before the first look.
            self._cycle(node, 20)
            self._kill_one(node, doomed)
            before = look_all_at_rest(node)
            self._take_sample(node)
            for part in range(SAMPLES):
                self._cycle(node, _share(self.cycles, part))
                for _ in range(_share(self.killed, part)):
                    self._kill_one(node, doomed)
                self._take_sample(node)
            self._report.rests += 1
            if (difference := compare(before, lambda: look_all(node))) is not None:
                self._stage.violate("host", f"it is not as before: {difference}")

    def _cycle(self, node: RunningNode, count: int) -> None:
        with node.location() as location, ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda number: self._spawn_and_destroy(location, number), range(count)))

    def _spawn_and_destroy(self, location: Location, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        ends: list[int] = []
        container = location.node().spawn(
            "busybox", ["sleep", "1000"], termination_callback=lambda _, code: ends.append(code)
        )
        self._stage.count("spawn", Outcome.DONE)
        if chance.random() < 0.7:
            container.wait_until_ready()
        if chance.random() < 0.2:
            container.put("/file", bytes(10_000))
        container.destroy()
        self._stage.count("destroy", Outcome.DONE)
        if ends != [0]:
            self._stage.violate(container.uuid, f"its end was told with {ends}, expected once with 0")

    def _doomed(self, node: RunningNode) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.soak.doomed", str(node.socket), str(CONTAINERS)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def _kill_one(self, node: RunningNode, doomed: subprocess.Popen[bytes]) -> None:
        assert doomed.stdin is not None and doomed.stdout is not None and node.process is not None
        daemon = node.process.pid
        doomed.stdin.write(b".")
        pid = int(doomed.stdout.readline())
        os.kill(pid, signal.SIGKILL)
        self._stage.hits["client killed"] += 1
        try:
            wait_for(lambda: not count_scratches(daemon, node.data_dir), SOON_S, "")
        except AssertionError:
            self._stage.violate("a killed client", "its containers are left on the disk")

    def _take_sample(self, node: RunningNode) -> None:
        stage = self._stage
        self._report.samples.append(take_sample(node, stage.now()))
        self.progress(
            f"{stage.now():.0f} s: {stage.outcomes['destroy', Outcome.DONE]:,} of {self.cycles:,} cycles, "
            f"{stage.hits['client killed']} of {self.killed} clients killed, "
            f"daemon {self._report.samples[-1].daemon_bytes / 2**20:.1f} MiB"
        )
        self.keep(self._sum_up())

    def _sum_up(self) -> Report:
        self._report.sum_up(self._stage)
        self._report.containers += CONTAINERS * self._stage.hits["client killed"]
        return self._report


def _share(total: int, part: int) -> int:
    """How many of all come in one of the parts."""
    return total * (part + 1) // SAMPLES - total * part // SAMPLES
