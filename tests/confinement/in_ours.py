"""Runs the probe in a container of ours."""

from __future__ import annotations

from importlib.metadata import version

from tests.confinement.probe import PLACE, build_probe
from tests.confinement.report import Report, parse_report
from tfnz import Location


def ask_ours(location: Location) -> Report:
    """What the probe says in a container that was spawned with nothing said about it."""
    container = location.node().spawn("busybox", ["sleep", "1000"])
    container.put(PLACE, build_probe(), mode=0o755)
    output = container.run([PLACE], check=True).stdout
    container.destroy()
    return parse_report(output, {"version": version("tfnz")})
