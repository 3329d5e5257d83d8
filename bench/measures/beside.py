"""The time of a spawn beside a container that does its worst, and how soon that is gone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.contender import ContenderFailed
from bench.measures.rhythm import Turns, make_outcome, run_sparse
from bench.measures.trials import Spawning
from bench.neighbour import KINDS
from bench.outcome import Outcome
from bench.plan import Plan

ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 60.0


def measure_beside(plan: Plan) -> Iterator[Outcome]:
    """Spawns with rests between them, beside a quiet neighbour first; then how long the neighbour's end took.

    The floor among the peers shows what becomes of the machine meanwhile.
    """
    floors = [peer for peer in plan.peers if peer.name == "unshare"]
    here = dataclasses.replace(plan, peers=floors)
    ends: list[Outcome] = []
    for kind in KINDS:
        plan.say(f"beside, {kind}")
        with (
            neighbour(plan.ours.daemon.socket, kind) as ends_s,
            Turns(here, lambda contender: Spawning(contender.spawn)) as turns,
        ):
            run_sparse(turns, here)
        yield make_outcome("beside", turns.samples, unit="ms", factor=1000, rhythm="sparse", detail=kind)
        ends.append(
            make_outcome(
                "beside", {plan.ours.name: ends_s}, unit="ms", factor=1000, detail=f"{kind}, its destroy"
            )
        )
    yield from ends


@contextmanager
def neighbour(socket: Path, kind: str) -> Iterator[list[float]]:
    """Somebody who does this for the length of the block; afterwards the list has the seconds that the end took.

    Raises:
        ContenderFailed: the neighbour does not come, or does not go.
    """
    ends_s: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-m", "bench.neighbour", str(socket), kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        try:
            assert program.stdout is not None
            if program.stdout.readline() != b"ready\n":
                raise ContenderFailed(f"there is no neighbour for {kind}")
            yield ends_s
            said, _ = program.communicate(timeout=TIMEOUT_S)
            if program.returncode != 0:
                raise ContenderFailed(f"the neighbour for {kind} did not end well")
            ends_s.append(float(said))
        except subprocess.TimeoutExpired as exc:
            raise ContenderFailed(f"the neighbour for {kind} is there after {TIMEOUT_S:.0f} s") from exc
        finally:
            program.kill()
