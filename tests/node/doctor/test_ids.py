"""Who else has the ids of containers, by recorded files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.config import NodeConfig
from tfnz_node.doctor.ids import (
    IdUse,
    judge_ids,
    overlaps,
    parse_id_ranges,
    parse_single_ids,
    plan_id_base,
)

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
+nis
big:x:1065536:100::/:/bin/sh
odd:x:x:0::/:/bin/sh
"""
SUBUID = "alice:100000:65536\nroot:1000000:1000000000\n# no range\nbob:-5:10\ncarol:1:2:3\n"


def test_accounts() -> None:
    uses = parse_single_ids("/etc/passwd", PASSWD)
    assert [(use.owner, use.ids.start, len(use.ids)) for use in uses] == [
        ("root", 0, 1),
        ("nobody", 65534, 1),
        ("big", 1065536, 1),
    ]


def test_ranges() -> None:
    uses = parse_id_ranges("/etc/subuid", SUBUID)
    assert [(use.owner, use.ids) for use in uses] == [
        ("alice", range(100000, 165536)),
        ("root", range(1000000, 1001000000)),
    ]


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    parse_single_ids("/etc/passwd", text)
    parse_id_ranges("/etc/subuid", text)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (range(10), range(10, 20), False),
        (range(11), range(10, 20), True),
        (range(12, 13), range(10, 20), True),
        (range(12, 12), range(10, 20), False),
    ],
)
def test_overlaps(one: range, other: range, expected: bool) -> None:
    assert overlaps(one, other) is expected
    assert overlaps(other, one) is expected


def use(file: str, start: int, count: int) -> IdUse:
    return IdUse(file, "alice", range(start, start + count))


@pytest.mark.parametrize(
    ("uses", "level", "what", "remedy"),
    [
        ([], "ok", "1065536 to 269500991 belong to nobody else", ""),
        ([use("/etc/subuid", 100000, 65536)], "ok", "nobody else", ""),
        ([use("/etc/subuid", 1000000, 10**9)], "warn", "alice in /etc/subuid", "set id_base = 1001000000"),
        ([use("/etc/passwd", 1065536, 1)], "fail", "alice in /etc/passwd", "set id_base = 1100000"),
        (
            [use("/etc/passwd", 2000000 + n, 1) for n in range(5)],
            "fail",
            "and 2 more",
            "set id_base = 2100000",
        ),
        ([use("/etc/subgid", 0, 2**32)], "warn", "alice in /etc/subgid", "lower id_count"),
    ],
)
def test_collisions(uses: list[IdUse], level: str, what: str, remedy: str) -> None:
    finding = judge_ids(NodeConfig(), uses)
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy


@given(
    st.integers(1, 60000),
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 2**31)), max_size=8),
)
def test_a_place_that_is_proposed_is_free(id_count: int, taken: list[tuple[int, int]]) -> None:
    uses = [use("/etc/subuid", start, count) for start, count in taken]
    base = plan_id_base(id_count, uses)
    if base is not None:
        assert judge_ids(NodeConfig(id_base=base, id_count=id_count), uses).level == "ok"
