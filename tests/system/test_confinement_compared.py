"""Our containers beside docker's default one: the same probe in both, and nothing possible in ours alone."""

from __future__ import annotations

import pytest

from tests.confinement.in_docker import ask_docker, is_docker_here
from tests.confinement.in_ours import ask_ours
from tests.confinement.recorded import read_recorded
from tests.confinement.report import Report
from tests.confinement.weaknesses import find_weaknesses
from tests.system.waiting import PATIENCE
from tfnz import Location

#: Docker needs some seconds to start, and a busy machine more.
TIMEOUT_S = 180 * PATIENCE


@pytest.fixture
def ours(location: Location) -> Report:
    return ask_ours(location)


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("docker", ["recorded", *(["here"] if is_docker_here() else [])])
def test_ours_is_never_weaker_than_docker(ours: Report, docker: str) -> None:
    other = ask_docker() if docker == "here" else read_recorded()[0]
    weaknesses = find_weaknesses(ours, other)
    assert not weaknesses, "\n".join(["possible in ours, and not in docker's:", *weaknesses])


def test_what_is_recorded_of_ours_is_still_so(ours: Report) -> None:
    """As far as it is ours to decide, and not the kernel's. If it is not, it is to be recorded anew."""
    recorded = read_recorded()[1]
    assert find_weaknesses(ours, recorded) == []
    assert ours.allowed("x86_64") == recorded.allowed("x86_64")
    for name in (
        "capabilities",
        "no_new_privs",
        "has_filter",
        "limits",
        "descriptors",
        "shared",
        "names_cgroup",
        "host_paths",
        "sockets",
        "writable",
        "devices",
        "device_nodes",
        "particular_calls",
    ):
        assert getattr(ours, name) == getattr(recorded, name), name
