"""How long it takes to open the firewall between two containers, and to close it, with few rules and with many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.outcome import Outcome
from bench.plan import Plan
from bench.statistics import summarise


def measure_allow(plan: Plan) -> Iterator[Outcome]:
    """Each call to its return; the rules that are there meanwhile are ports between two other containers."""
    many = plan.sizes.rules
    plan.say(f"allow, with 0 and {many} rules")
    with ExitStack() as stack:
        boxes = []
        for _ in range(4):
            boxes.append(box := plan.ours.spawn())
            stack.callback(box.destroy)
        server, client, other_server, other_client = (box.container for box in boxes)
        for rules in (0, many):
            for port in range(1, rules + 1):
                other_server.allow_connection_from(other_client, port)
            calls: dict[str, Callable[[], None]] = {
                "allow": lambda: server.allow_connection_from(client),
                "disallow": lambda: server.disallow_connection_from(client),
            }
            times: dict[str, list[float]] = {name: [] for name in calls}
            for number in range(plan.sizes.runs + 1):
                for name, call in calls.items():
                    started = time.perf_counter()
                    call()
                    if number:
                        times[name].append((time.perf_counter() - started) * 1000)
            for name, values in times.items():
                detail = f"{name} at {rules} rules"
                yield Outcome("allow", "ms", "lower", summarise(values, "lower"), detail=detail)
