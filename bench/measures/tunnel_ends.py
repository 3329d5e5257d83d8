"""What happens to the tunnels of a client that is killed, and to the connections through them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench.contender import ContenderFailed
from bench.measures.lan import IMAGE
from bench.outcome import Outcome
from bench.plan import Plan
from bench.proc import find_cpu_s, find_descriptors
from bench.statistics import summarise

TIMEOUT_S: Final = 60.0
#: Through each tunnel.
CONNECTIONS: Final = 10

#: Takes every connection, says a byte to it, and keeps it.
SERVICE: Final = """\
import resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
server, held = socket.create_server(("", 80), backlog=1000), []
while True:
    connection, _ = server.accept()
    connection.send(b"x")
    held.append(connection)
"""

#: A program with tunnels, that says at which ports it has them and then waits for its end.
CLIENT: Final = """\
import json, sys
from tfnz import Location
socket, service, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Location(socket=socket, quiet=True) as location:
    box = location.node().spawn("python", ["python3", "-c", service])
    box.wait_tcp(80)
    print(json.dumps([box.attach_tunnel(80).localport() for _ in range(count)]), flush=True)
    location.run()
"""


def measure_tunnels_cleanup(plan: Plan) -> Iterator[Outcome]:
    """From the SIGKILL for a client until the node has no connection and no container of its."""
    count = plan.sizes.tunnels
    plan.say(f"tunnels_cleanup, {count} tunnels of a client that is killed, {CONNECTIONS} connections each")
    plan.ours.location.import_image(IMAGE, "python")
    times, processor = list[float](), list[float]()
    for _ in range(plan.sizes.repeats):
        time.sleep(1.0)
        elapsed_s, used_s = _kill_client(plan, count)
        times.append(elapsed_s * 1000)
        processor.append(used_s * 1000)
    size = f"{count} x {CONNECTIONS} connections"
    yield Outcome("tunnels_cleanup", "ms", "lower", summarise(times, "lower"), detail=size)
    yield Outcome(
        "tunnels_cleanup", "ms", "lower", summarise(processor, "lower"), detail="processor time of the daemon"
    )


def _kill_client(plan: Plan, count: int) -> tuple[float, float]:
    """How long it took, and how long the daemon was on a processor meanwhile."""
    location, daemon = plan.ours.location, plan.ours.daemon.pid
    others = {container.container for container in location.containers()}
    before = find_descriptors(daemon)
    with ExitStack() as stack:
        client = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(plan.ours.daemon.socket), SERVICE, str(count)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(client.kill)
        assert client.stdout is not None
        ports = json.loads(client.stdout.readline() or "[]")
        if len(ports) != count:
            raise ContenderFailed(f"the client did not get its {count} tunnels")
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
            for port in ports
            for _ in range(CONNECTIONS)
        ]
        if any(connection.recv(1) != b"x" for connection in connections):
            raise ContenderFailed("a connection through a tunnel has ended by itself")
        if find_descriptors(daemon) < before + len(connections):
            raise ContenderFailed(f"the node has fewer than {len(connections)} connections")
        used_s, started = find_cpu_s(daemon), time.perf_counter()
        client.kill()
        deadline = time.monotonic() + TIMEOUT_S
        # The pool's sandboxes have descriptors too, and it may just be making another.
        while find_descriptors(daemon) > before + CONNECTIONS or _has_more_than(plan, others):
            if time.monotonic() > deadline:
                raise ContenderFailed(f"connections of a killed client are there after {TIMEOUT_S:.0f} s")
            time.sleep(0.005)
        return time.perf_counter() - started, find_cpu_s(daemon) - used_s


def _has_more_than(plan: Plan, others: set[str]) -> bool:
    return bool({container.container for container in plan.ours.location.containers()} - others)
