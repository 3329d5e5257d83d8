"""What containers that do nothing cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.contender import Box
from bench.outcome import Outcome
from bench.plan import Plan
from bench.proc import (
    find_available_bytes,
    find_cpu_s,
    find_private_bytes,
    find_resident_bytes,
    wait_for_process,
)
from bench.statistics import summarise

#: Where the memory of the daemon is looked at first.
FIRST = 100
#: What the machine gets to come to rest.
REST_S = 2.0


def measure_memory(plan: Plan) -> Iterator[Outcome]:
    """Memory for each container, everything counted but what its application has to itself; and the daemon."""
    count, ours = plan.sizes.population, plan.ours
    plan.say(f"memory, up to {count} containers")
    boxes: list[Box] = []

    def look(detail: str, unit: str, value: float) -> Outcome:
        return Outcome("memory", unit, "lower", summarise([value], "lower"), detail=detail)

    try:
        boxes.append(ours.spawn())
        time.sleep(REST_S)
        before_bytes = find_available_bytes()
        for size in sorted({min(FIRST, count), count}):
            while len(boxes) < size:
                boxes.append(ours.spawn())
            time.sleep(REST_S)
            yield look(f"daemon at {size}", "MB", find_resident_bytes(ours.daemon.pid) / 1e6)
        each_bytes = (before_bytes - find_available_bytes()) / (len(boxes) - 1)
        application_bytes = find_private_bytes(wait_for_process(boxes[0].mark))
        yield look(f"per container at {count}", "MB", (each_bytes - application_bytes) / 1e6)
        yield look(f"application at {count}", "MB", application_bytes / 1e6)
        started, used_s = time.perf_counter(), find_cpu_s(ours.daemon.pid)
        time.sleep(plan.sizes.idle_s)
        busy = (find_cpu_s(ours.daemon.pid) - used_s) / (time.perf_counter() - started)
        yield look(f"idle daemon at {count}", "% of a core", busy * 100)
    finally:
        for box in boxes:
            box.destroy()
