"""Turns of contenders, of whom some cannot do it."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from bench.contender import Box, Contender, ContenderFailed, NotMeasured
from bench.measures.rhythm import measure_rhythms
from bench.measures.trials import Spawning, Trial
from bench.ours import Ours
from bench.plan import QUICK, Plan


class Nothing(Box):
    def destroy(self) -> None:
        pass


class Scripted(Contender):
    """A contender that fails from its n-th spawn on."""

    def __init__(self, name: str, error: Exception | None = None, *, after: int = 0) -> None:
        self.name = name
        self._error = error
        self._left = after

    def spawn(self) -> Box:
        if self._error is not None:
            if self._left == 0:
                raise self._error
            self._left -= 1
        return Nothing()


def make_plan(ours: Scripted, *peers: Scripted, said: list[str]) -> Plan:
    # Only its name and its spawn are asked for.
    return Plan(cast(Ours, ours), peers, dataclasses.replace(QUICK, runs=4), said.append)


def spawning(contender: Contender) -> Trial:
    return Spawning(contender.spawn)


def test_everybody_is_measured_in_both_rhythms() -> None:
    said: list[str] = []
    plan = make_plan(Scripted("20ft"), Scripted("docker"), said=said)
    sparse, tight = measure_rhythms("spawn", plan, spawning)
    assert (sparse.rhythm, tight.rhythm) == ("sparse", "tight")
    for outcome in (sparse, tight):
        assert outcome.ours.n == 4
        assert {peer: summary.n for peer, summary in outcome.peers.items()} == {"docker": 4}
    assert said == ["spawn, sparse", "spawn, tight"]


@pytest.mark.parametrize("after", [0, 3])
def test_a_peer_that_fails_is_left_out_and_named(after: int) -> None:
    said: list[str] = []
    broken = Scripted("podman", ContenderFailed("no storage"), after=after)
    outcomes = list(measure_rhythms("spawn", make_plan(Scripted("20ft"), broken, said=said), spawning))
    assert [list(outcome.peers) for outcome in outcomes] == [[], []]
    assert "podman is left out: no storage" in said


def test_a_peer_that_has_no_such_thing_is_left_out_silently() -> None:
    said: list[str] = []
    plan = make_plan(Scripted("20ft"), Scripted("unshare", NotMeasured()), said=said)
    assert [list(outcome.peers) for outcome in measure_rhythms("exec", plan, spawning)] == [[], []]
    assert said == ["exec, sparse", "exec, tight"]


def test_what_happens_to_us_is_no_matter_of_taste() -> None:
    plan = make_plan(Scripted("20ft", ContenderFailed("broken"), after=2), said=[])
    with pytest.raises(ContenderFailed, match="broken"):
        list(measure_rhythms("spawn", plan, spawning))
