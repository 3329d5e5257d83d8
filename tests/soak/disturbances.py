"""What is done to the daemon, to clients, to containers and to the network while clients tell their stories."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Final

from tests.soak.host import find_init, find_main, find_processes
from tests.soak.model import DESTROYED, SESSION_OVER, End, Life, signalled
from tests.soak.node import LAN
from tests.soak.player import CallFailed, ClientGone, NoAnswer, Player
from tests.soak.stage import Stage
from tests.soak.story import MAIN, SOON_S
from tests.system.conftest import RunningNode
from tests.system.waiting import wait_for
from tfnz import TfnzError
from tfnz.protocol.exits import Cause
from tfnz_node.kernel.rtnetlink import RouteSocket

#: The longest time for which a client stands still.
MAX_STILL_S: Final = 3.0


class Disturber:
    """One thread that disturbs, each time after some calls of clients.

    Args:
        every: after how many calls, in the mean.
    """

    def __init__(
        self, stage: Stage, node: RunningNode, players: list[Player], chance: random.Random, every: int
    ) -> None:
        self._stage = stage
        self._node = node
        self._players = players
        self._chance = chance
        self._every = every
        self._kinds: list[tuple[str, Callable[[], bool], int]] = [
            ("daemon killed", self._kill_daemon, 5),
            ("daemon killed twice", self._kill_daemon_twice, 1),
            ("daemon handed over (SIGUSR1)", self._hand_over, 2),
            ("daemon restarted (SIGTERM)", self._restart_daemon, 1),
            ("client killed", self._kill_client, 3),
            ("client killed while there was no daemon", self._kill_client_without_daemon, 1),
            ("client stood still", self._hold_client, 2),
            ("daemon killed while a client stood still", self._kill_daemon_of_still_client, 1),
            ("client disconnected", self._disconnect_client, 2),
            ("main process killed from the host", self._kill_main, 3),
            ("init killed from the host", self._kill_init, 2),
            ("nftables flushed", self._flush_rules, 1),
            ("link of a container set down", self._set_link_down, 2),
        ]

    def run(self) -> None:
        """Disturb until the run is over. Whatever fails here is a violation, and ends the run."""
        try:
            while not self._stage.over.is_set():
                self._await_calls(self._chance.randrange(1, 2 * self._every))
                with self._stage.gate.passing():
                    if not self._stage.over.is_set():
                        self._disturb()
        except Exception as exc:
            self._stage.violate("disturbance", f"{type(exc).__name__}: {exc}")
            self._stage.finish()
            raise

    def _await_calls(self, count: int) -> None:
        wanted = self._stage.operations + count
        self._stage.wait(lambda _: self._stage.operations >= wanted or self._stage.over.is_set(), SOON_S)

    def _disturb(self) -> None:
        [(name, do)] = self._chance.choices(
            [(name, do) for name, do, _ in self._kinds], [weight for _, _, weight in self._kinds]
        )
        if do():
            self._stage.hits[name] += 1

    # --- the daemon

    def _kill_daemon(self) -> bool:
        with self._restarting():
            self._node.crash()
        return True

    def _kill_daemon_twice(self) -> bool:
        self._kill_daemon()
        return self._kill_daemon()

    def _hand_over(self) -> bool:
        with self._restarting():
            self._end_daemon(signal.SIGUSR1)
        return True

    def _kill_client_without_daemon(self) -> bool:
        player = self._choose_player()
        with self._restarting():
            self._node.crash()
            prefix = self._kill(player)
        self._replace(player, prefix)
        return True

    def _kill_daemon_of_still_client(self) -> bool:
        with self._still(self._choose_player()):
            self._kill_daemon()
            self._pause()
        return True

    def _restart_daemon(self) -> bool:
        """All sessions end with it, and so do all containers."""
        with self._stage.holding() as model:
            for player in self._players:
                model.end_sessions(player.name, *SESSION_OVER)
        begun = time.monotonic()
        self._end_daemon(signal.SIGTERM)
        self._node.start()
        self._measure_gap(begun)
        for player in self._players:
            player.close_session()
            self._reopen(player)
        return True

    def _end_daemon(self, number: signal.Signals) -> None:
        process = self._node.process
        assert process is not None
        process.send_signal(number)
        try:
            code = process.wait(SOON_S)
        except subprocess.TimeoutExpired:
            self._stage.violate("daemon", f"it does not end by {number.name}")
            self._node.crash()
            return
        if code:
            self._stage.violate("daemon", f"it ended with {code} by {number.name}")

    @contextmanager
    def _restarting(self) -> Iterator[None]:
        """What is done to it in the block ends the daemon; another is started after it."""
        restart = self._stage.restarts.begin(self._stage.now())
        begun = time.monotonic()
        yield
        self._node.start()
        restart.ready = self._stage.now()
        self._measure_gap(begun)

    def _measure_gap(self, begun: float) -> None:
        """Whoever comes now is served. That is a session of its own: those of clients go on by themselves."""
        try:
            with self._node.location() as location:
                location.node().status()
        except TfnzError as exc:
            self._stage.violate("daemon", f"it is ready, and does not serve: {exc}")
        self._stage.gaps_s.append(time.monotonic() - begun)

    # --- clients

    def _kill_client(self) -> bool:
        player = self._choose_player()
        self._replace(player, self._kill(player))
        return True

    def _kill(self, player: Player) -> str:
        """Kill it; what the names of its containers begin with."""
        prefix = player.prefix
        self._stage.killed = True
        player.kill()
        with self._stage.holding() as model:
            model.abandon(player.name)
        return prefix

    def _replace(self, player: Player, prefix: str) -> None:
        """All that a killed client had ends; another takes its place."""
        try:
            wait_for(lambda: not find_processes(prefix), SOON_S, "")
        except AssertionError:
            self._stage.violate(
                player.name, f"it was killed, and {find_processes(prefix)} of its containers go on"
            )
        player.begin()
        self._open(player)

    def _hold_client(self) -> bool:
        with self._still(self._choose_player()):
            self._pause()
        return True

    @contextmanager
    def _still(self, player: Player) -> Iterator[None]:
        player.freeze()
        try:
            yield
        finally:
            player.thaw()

    def _disconnect_client(self) -> bool:
        player = self._choose_player()
        with self._stage.holding() as model:
            model.end_sessions(player.name, DESTROYED)
        player.close_session()
        self._reopen(player)
        return True

    def _reopen(self, player: Player) -> None:
        try:
            self._open(player)
        except (ClientGone, NoAnswer) as exc:
            self._stage.violate(player.name, f"it cannot begin another session: {exc}")
            player.kill()
            with self._stage.holding() as model:
                model.abandon(player.name)
            player.begin()
            self._open(player)

    def _open(self, player: Player) -> None:
        try:
            player.open_session()
        except CallFailed as exc:
            self._stage.violate(player.name, f"it cannot begin a session: {exc}")
            raise
        with self._stage.holding() as model:
            model.begin_session(player.name)

    def _choose_player(self) -> Player:
        return self._chance.choice(self._players)

    def _pause(self) -> None:
        threading.Event().wait(self._chance.uniform(0.0, MAX_STILL_S))

    # --- containers

    def _kill_main(self) -> bool:
        return self._kill_from_host(find_main)

    def _kill_init(self) -> bool:
        return self._kill_from_host(find_init)

    def _kill_from_host(self, find: Callable[[str, str], int | None]) -> bool:
        with self._stage.holding() as model:
            lives = sorted(
                (life for life in model.living() if life.parent is None and not life.starting), key=_by_name
            )
            if not lives:
                return False
            life = self._chance.choice(lives)
        pid = find(life.name, MAIN)
        if pid is None:
            return False
        with contextlib.closing(_Pid(pid)) as held:
            # It is still that process: the number of another was not found in its place.
            if find(life.name, MAIN) != pid:
                return False
            with self._stage.holding() as model:
                reboots = life.reboots
                model.note(life, "killed from the host")
                # A reboot that begins meanwhile may find nothing to boot.
                model.may_end(life, signalled(signal.SIGKILL), End(Cause.FAILED_TO_START))
            if not held.kill():
                return False
        # What was killed may have been what a reboot was ending anyway.
        self._stage.wait(lambda _: life.over or life.abandoned or life.reboots > reboots, SOON_S)
        with self._stage.holding() as model:
            if life.reboots == reboots:
                model.check_ended(life)
        return True

    # --- the network

    def _flush_rules(self) -> bool:
        """Of ours nothing is gone: the table is the daemon's own."""
        subprocess.run(["nft", "flush", "ruleset"], check=True, capture_output=True)
        return True

    def _set_link_down(self) -> bool:
        with self._stage.holding() as model:
            lives = sorted((life for life in model.living() if life.ip), key=_by_name)
            if not lives:
                return False
            life = self._chance.choice(lives)
            model.note(life, "its link is set down")
        link = LAN.interface(IPv4Address(life.ip))
        done = subprocess.run(["ip", "link", "set", link, "down"], check=False, capture_output=True)
        if done.returncode:  # it has ended
            return False
        try:
            wait_for(lambda: _is_up(link) or life.over or life.abandoned, SOON_S, "")
        except AssertionError:
            self._stage.violate(life, f"its link {link} stays down")
        return True


class _Pid:
    """A process that is held, so that no other is hit."""

    def __init__(self, pid: int) -> None:
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = None

    def kill(self) -> bool:
        """Whether it was there to be killed."""
        if self._fd is None:
            return False
        try:
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _by_name(life: Life) -> str:
    return life.name


def _is_up(link: str) -> bool:
    try:
        with RouteSocket() as kernel:  # /sys may show the interfaces of another namespace
            return kernel.find_link(link).up
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise
        return True  # it is gone, and so is its container
