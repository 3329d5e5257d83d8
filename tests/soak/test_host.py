"""What is left on the host is told, whatever it is."""

from __future__ import annotations

import dataclasses
import subprocess
from collections import Counter
from typing import Any

import pytest

from tests.soak import host
from tests.soak.host import SoakState, compare, count_rules, describe
from tests.system.host_state import HostState

CLEAN = SoakState(
    HostState(
        processes=Counter(["tfnz-init"]),
        cgroups=Counter({"/sys/fs/cgroup/memory": 6}),
        mounts=Counter(["/"]),
        interfaces=Counter(["lo"]),
        loop_devices=frozenset(["/data/disk.btrfs"]),
        disk=frozenset(["0 scratches"]),
        descriptors=Counter(["socket"]),
        roots_exceed=False,
        threads_exceed=False,
    ),
    rules=Counter(["table tfnz"]),
    keeper=Counter(["socket"]),
)


def test_the_same_is_the_same() -> None:
    assert compare(CLEAN, lambda: CLEAN) is None


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("processes", Counter(["tfnz-init", "sh"]), "processes"),
        ("cgroups", Counter({"/sys/fs/cgroup/memory": 7}), "cgroups"),
        ("mounts", Counter(["/", "/left"]), "/left"),
        ("interfaces", Counter(["lo", "tf"]), "interfaces"),
        ("disk", frozenset(["1 scratches"]), "1 scratches"),
        ("descriptors", Counter(["socket", "pipe"]), "pipe"),
        ("threads_exceed", True, "threads_exceed"),
    ],
)
def test_what_is_left_of_a_container_is_told(field: str, value: Any, named: str) -> None:
    after = dataclasses.replace(CLEAN, host=dataclasses.replace(CLEAN.host, **{field: value}))
    told = compare(CLEAN, lambda: after, 0.0)
    assert told is not None and named in told


def test_rules_and_what_the_keeper_holds_are_told() -> None:
    after = dataclasses.replace(
        CLEAN, rules=Counter(["table tfnz", "element of inet allowed"]), keeper=Counter(["socket", "/memfd"])
    )
    told = describe(CLEAN, after)
    assert "element of inet allowed" in told
    assert "keeper: too many Counter({'/memfd': 1})" in told


def test_rules_are_counted_by_place_and_elements_that_pass_are_not() -> None:
    objects: list[dict[str, Any]] = [
        {"metainfo": {"version": "1"}},
        {"table": {"family": "inet", "name": "t"}},
        {"chain": {"table": "t", "name": "c"}},
        {"rule": {"table": "t", "chain": "c", "expr": []}},
        {"set": {"table": "t", "name": "s", "elem": ["10.0.0.1", "10.0.0.2"]}},
        {"set": {"table": "t", "name": "d", "flags": ["dynamic"], "elem": ["10.0.0.1"]}},
        {"set": {"table": "another", "name": "s", "elem": ["10.0.0.1"]}},
    ]
    assert Counter(count_rules(objects, "t")) == Counter(
        ["table t", "chain c", "rule c", "set s", "set d", *["element of s"] * 2]
    )


def test_a_main_process_that_has_ended_since_has_no_init(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(host, "find_main", lambda name, word: ended.pid)
    assert host.find_init("box", "main") is None
