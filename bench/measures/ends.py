"""What happens to the containers of a client that is killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from bench.contender import ContenderFailed, make_mark
from bench.outcome import Outcome
from bench.plan import Plan
from bench.proc import find_processes
from bench.statistics import summarise

TIMEOUT_S: Final = 60.0

#: A program with containers, that says when it has them and then waits for its end.
CLIENT: Final = """\
import sys
from tfnz import Location
socket, mark, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Location(socket=socket, quiet=True) as location:
    node = location.node()
    boxes = [node.spawn("busybox", ["sleep", mark], memory="64M") for _ in range(count)]
    for box in boxes:
        box.wait_until_ready()
    print("ready", flush=True)
    location.run()
"""


def measure_cleanup(plan: Plan) -> Iterator[Outcome]:
    """From the SIGKILL for a client until no process of its containers lives, and the node has none of them."""
    count = plan.sizes.killed
    plan.say(f"cleanup, {count} containers of a client that is killed")
    times = []
    for _ in range(plan.sizes.repeats):
        time.sleep(1.0)
        times.append(_kill_client(plan, count) * 1000)
    yield Outcome("cleanup", "ms", "lower", summarise(times, "lower"), detail=f"{count} containers")


def _kill_client(plan: Plan, count: int) -> float:
    mark, others = make_mark(), {container.container for container in plan.ours.location.containers()}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(plan.ours.daemon.socket), mark, str(count)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as client:
        try:
            assert client.stdout is not None
            if client.stdout.readline() != b"ready\n":
                raise ContenderFailed(f"the client did not get its {count} containers")
            inside = [os.pidfd_open(pid) for pid in find_processes(mark) if pid != client.pid]
            try:
                if len(inside) != count:
                    raise ContenderFailed(f"{count} containers have {len(inside)} processes")
                started = time.perf_counter()
                client.kill()
                _wait_for_ends(inside)
            finally:
                for descriptor in inside:
                    os.close(descriptor)
        finally:
            client.kill()
    deadline = time.monotonic() + TIMEOUT_S
    while {container.container for container in plan.ours.location.containers()} - others:
        if time.monotonic() > deadline:
            raise ContenderFailed(f"containers of a killed client are there after {TIMEOUT_S:.0f} s")
        time.sleep(0.005)
    return time.perf_counter() - started


def _wait_for_ends(descriptors: list[int]) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left, deadline = len(descriptors), time.monotonic() + TIMEOUT_S
    while left:
        ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ended:
            raise ContenderFailed(f"{left} containers of a killed client live after {TIMEOUT_S:.0f} s")
        for descriptor, _ in ended:
            poll.unregister(descriptor)
        left -= len(ended)
