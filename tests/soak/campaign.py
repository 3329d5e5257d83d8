"""A run: a node of its own, clients that tell stories, disturbances, and rests at which the host must be as before."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.soak.disturbances import Disturber
from tests.soak.host import SoakState, compare, look_all, look_all_at_rest, take_sample
from tests.soak.model import DESTROYED, Life
from tests.soak.node import TAKEOVER_S, make_soak_node
from tests.soak.player import CallFailed, ClientGone, NoAnswer, Player
from tests.soak.report import Report
from tests.soak.stage import Stage
from tests.soak.story import Lane, start_lanes
from tests.system.conftest import RunningNode, import_images
from tests.system.host_state import adopt_orphans, find_zombies
from tests.system.people import introduce_to
from tests.system.waiting import wait_for

#: How long stories that have begun may take to end.
STORY_S: Final = 600.0
#: Children of a daemon that outlive it.
LEFT: Final = ("tfnz-init", "tfnz-keeper")


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seconds: for how long; None is until `operations`.
        operations: after how many calls of clients it ends; None is after `seconds`.
        clients: programs, every second of them over TCP.
        lanes: stories that each client tells at the same time.
        every: after how many calls, in the mean, something is disturbed.
        rest_s: how long until everything is closed again and the host compared.
        stop_at_first: end with the first violation.
    """

    seed: int
    seconds: float | None = None
    operations: int | None = None
    clients: int = 4
    lanes: int = 3
    every: int = 25
    rest_s: float = 60.0
    stop_at_first: bool = False


@dataclass
class Campaign:
    """One run.

    Args:
        progress: told in a line how far it is.
        keep: given the report so far, after each rest.
    """

    plan: Plan
    command: str
    progress: Callable[[str], object] = lambda _: None
    keep: Callable[[Report], object] = lambda _: None
    _stage: Stage = field(default_factory=Stage)
    _players: list[Player] = field(default_factory=list)
    _lanes: list[Lane] = field(default_factory=list)

    def run(self) -> Report:
        """Do it all. What was interrupted from the keyboard has a report, too."""
        self._report = Report(self.command, self.plan.seed)
        adopt_orphans()
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            node = make_soak_node(Path(directory))
            before = look_all_at_rest(node)
            try:
                self._run_on(node)
                self._stop_players()
                self._stop_daemon(node)
            finally:
                for player in self._players:
                    player.kill()
                node.kill()
            self._reap()
            self._compare(before, node, "after everything was stopped")
            self._stage.violate_for_each("daemon's log", node.faults)
        return self._sum_up()

    def _run_on(self, node: RunningNode) -> None:
        node.start()
        import_images(node, "busybox")
        self._make_players(node)
        self._warm_up()
        self._baseline = look_all_at_rest(node)
        self._report.samples.append(take_sample(node, self._stage.now()))
        chance = random.Random(self.plan.seed)
        self._lanes = [
            Lane(self._stage, player, number, random.Random(chance.random()))
            for player in self._players
            for number in range(self.plan.lanes)
        ]
        disturber = Disturber(
            self._stage, node, self._players, random.Random(chance.random()), self.plan.every
        )
        self._open_sessions()
        threads = start_lanes(self._lanes)
        threads.append(threading.Thread(target=disturber.run, name="disturber", daemon=True))
        threads[-1].start()
        try:
            while self._goes_on():
                self._wait_until_rest()
                self._rest(node)
            self._report.finished = True
        except KeyboardInterrupt:
            self.progress("interrupted: all stories come to their end")
        finally:
            self._stage.finish()
            self._stage.gate.open()
            for player in self._players:
                player.give_up()
        for thread in threads:
            thread.join(STORY_S)
            if thread.is_alive():
                self._stage.violate(thread.name, "it does not end")

    def _goes_on(self) -> bool:
        plan, stage = self.plan, self._stage
        if plan.stop_at_first and self._violation_count():
            return False
        return not (
            stage.over.is_set()
            or (plan.seconds is not None and stage.now() >= plan.seconds)
            or (plan.operations is not None and stage.operations >= plan.operations)
        )

    def _wait_until_rest(self) -> None:
        until = self._stage.now() + self.plan.rest_s
        while self._goes_on() and self._stage.now() < until:
            self._stage.wait(lambda _: not self._goes_on(), min(5.0, until - self._stage.now()))
            self._tell_progress()

    # --- clients

    def _make_players(self, node: RunningNode) -> None:
        introduce = introduce_to(node, node.directory / "homes")
        # Who is killed cannot remove its temporary files: they go with the node's.
        scratch = node.directory / "scratch"
        scratch.mkdir()
        for number in range(self.plan.clients):
            name = f"client{number}"
            if number % 2:
                person = introduce(name)
                person.administer("authorise", person.public_key)
                where, env = {"account": person.account.name}, {"TFNZ_HOME": str(person.home)}
            else:
                where, env = {"socket": str(node.socket)}, {}
            player = Player(name, where, self._stage, env | {"TMPDIR": str(scratch)})
            self._players.append(player)
            player.begin()

    def _open_sessions(self) -> None:
        for player in self._players:
            player.open_session()

    def _warm_up(self) -> None:
        """What the daemon makes when it is first needed, it has made; then all sessions are closed."""
        for player in self._players:
            session = player.open_session()
            life = self._begin_warm(player)
            name = {"name": life.name}
            command = ["sleep", "1000"]
            player.call(
                session, "spawn", {**name, "command": command, "files": {}, "env": {"SOAK": life.name}}
            )
            player.call(session, "put", {**name, "path": "/file", "seed": 1, "size": 3_000_000})
            player.call(session, "fetch", {**name, "path": "/file"})
            player.call(session, "destroy", name)
            player.tell("forget", {"names": [life.name]})
            player.close_session()
            player.tell("disconnect", {})

    def _begin_warm(self, player: Player) -> Life:
        with self._stage.holding() as model:
            return model.begin(
                f"{player.prefix}warm{self._report.rests}", player.name, prints=False, ends=[DESTROYED]
            )

    def _stop_players(self) -> None:
        for player in self._players:
            try:
                player.stop()
            except Exception as exc:
                self._stage.violate(player.name, f"it does not end: {exc}")

    def _stop_daemon(self, node: RunningNode) -> None:
        try:
            node.stop()
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            self._stage.violate("daemon", f"it does not stop as it should: {exc}")

    # --- rests

    def _rest(self, node: RunningNode) -> None:
        """Have all stories end and all sessions closed, and look at what is left."""
        stage = self._stage
        if not stage.gate.shut(STORY_S):
            stage.violate("rest", "stories do not end")
            stage.finish()
            return
        for player in self._players:
            player.close_session()
            try:
                player.tell("disconnect", {})
            except (CallFailed, NoAnswer) as exc:
                stage.violate(player.name, f"it cannot disconnect: {exc}")
        self._check_no_containers(node)
        self._report.rests += 1
        try:
            self._warm_up()
        except (CallFailed, NoAnswer, ClientGone) as exc:
            stage.violate("rest", f"a container cannot be used as at first: {exc}")
        self._reap()
        if not self._compare(self._baseline, node, "at rest"):
            self._baseline = look_all_at_rest(node)  # what differs has been told
        self._report.samples.append(take_sample(node, stage.now()))
        self.keep(self._sum_up())
        self._open_sessions()
        stage.gate.open()

    def _check_no_containers(self, node: RunningNode) -> None:
        with node.location() as location:

            def count() -> int:
                return location.node().status().containers

            # What a killed client had may have ended, and wait for it after a restart of the daemon. A session that was
            # closed has ended all that it had, before that call returned.
            if self._stage.killed:
                with contextlib.suppress(AssertionError):
                    wait_for(lambda: not count(), 2 * TAKEOVER_S, "")
                self._stage.killed = False
            if left := count():
                self._stage.violate("rest", f"the node has {left} containers, and no session")

    def _compare(self, before: SoakState, node: RunningNode, when: str) -> bool:
        difference = compare(before, lambda: look_all(node))
        if difference is not None:
            self._stage.violate("host", f"{when} it is not as before: {difference}")
        return difference is None

    def _reap(self) -> None:
        """Bury what former daemons have left to us. What we have started ourselves is waited for where that was."""
        for pid, command in find_zombies().items():
            if command in LEFT:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    # --- what is told

    def _violation_count(self) -> int:
        with self._stage.holding() as model:
            return model.violation_count

    def _sum_up(self) -> Report:
        self._report.sum_up(self._stage)
        return self._report

    def _tell_progress(self) -> None:
        stage = self._stage
        with stage.holding() as model:
            living = sum(life.parent is None for life in model.living())
            wrong = model.violation_count
        self.progress(
            f"{stage.now():.0f} s: {stage.operations:,} calls, {living} containers, "
            f"{sum(stage.hits.values()):,} disturbances, {wrong} violations"
        )
