"""Fuzzes one target for a time or a number of calls, by libFuzzer, and tells what came of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.plan import CORPUS, FOUND, INIT, ROOT, TARGETS, Target

#: A call that takes longer has hung.
CALL_TIMEOUT_S = 30
#: A process that holds more has a leak, or makes of little input much memory.
MEMORY_MIB = 1024
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*([0-9]+)$", re.MULTILINE)
_COVERAGE = re.compile(r"\bcov: ([0-9]+)")


@dataclass(frozen=True)
class Outcome:
    """What came of one target.

    Attributes:
        executions: how often it was called.
        seconds: for how long.
        coverage: how many places in the code were reached, as libFuzzer counts them.
        corpus: how many inputs reach them.
        crash: the input that broke it, where there is one.
        last_words: the end of what the fuzzer said, when something broke.
    """

    target: str
    area: str
    executions: int
    seconds: float
    coverage: int
    corpus: int
    crash: str | None = None
    last_words: str = ""

    @property
    def ok(self) -> bool:
        return not self.last_words


class CannotBuild(RuntimeError):
    """The targets in C could not be compiled."""


def build(goal: str) -> None:
    """Compile the targets in C: `fuzz`, for libFuzzer, or `replay`.

    Raises:
        CannotBuild: with what the compiler said.
    """
    done = subprocess.run(["make", "-s", "-C", str(INIT), goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"make {goal} in {INIT} failed: {done.stderr[-4000:]}")


def fuzz(
    target: Target, place: Path, *, seconds: int | None = None, runs: int | None = None, seed: int = 0
) -> Outcome:
    """Fuzz a target with the seeds and what `place` has from before; what is found is kept there.

    Args:
        seconds: how long.
        runs: how often, at most.
        seed: of the fuzzer's random numbers; 0 takes another one each time.
    """
    corpus, found = place / CORPUS, place / FOUND
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    for seeds in (target.corpus, target.crashers):
        if seeds.is_dir():
            shutil.copytree(seeds, corpus, dirs_exist_ok=True)
    before = set(found.iterdir())
    options = [
        f"-max_len={target.max_bytes}",
        f"-timeout={CALL_TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-print_final_stats=1",
        *([f"-max_total_time={seconds}"] if seconds is not None else []),
        *([f"-runs={runs}"] if runs is not None else []),
        *([f"-seed={seed}"] if seed else []),
    ]
    if target.is_c:
        command = [str(target.program(replay=False)), *options, f"-artifact_prefix={found}/", str(corpus)]
    else:
        command = [sys.executable, "-m", "tests.fuzz.engine", target.name, str(place), *options]
    began = time.monotonic()
    done = subprocess.run(
        ["nice", "-n", "19", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        # The leak checker traces the process, which not every machine lets it; init ends with its process anyway.
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"},
    )
    return read_outcome(
        target,
        done.stdout.decode(errors="replace"),
        code=done.returncode,
        seconds=time.monotonic() - began,
        corpus=len(list(corpus.iterdir())),
        crashes=sorted(str(path) for path in set(found.iterdir()) - before),
    )


def read_outcome(
    target: Target, said: str, *, code: int, seconds: float, corpus: int, crashes: list[str]
) -> Outcome:
    """What libFuzzer's output means. One that does not say how often it called anything has failed."""
    counted = _EXECUTIONS.search(said)
    reached = _COVERAGE.findall(said)
    failed = code != 0 or counted is None or bool(crashes)
    return Outcome(
        target.name,
        target.area,
        int(counted[1]) if counted else 0,
        seconds,
        int(reached[-1]) if reached else 0,
        corpus,
        crashes[0] if crashes else None,
        (said[-6000:] or f"it said nothing, and ended with {code}") if failed else "",
    )


def choose(names: list[str]) -> list[Target]:
    """The targets of these names, or all. KeyError names one that is not there."""
    return [TARGETS[name] for name in names] if names else list(TARGETS.values())
