"""A service in a container through a tunnel, and the same program by other ways: loopback, ssh, docker's ports."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench.contender import ContenderFailed
from bench.measures.rhythm import PEER_ERRORS
from bench.ours import OurBox
from bench.outcome import Outcome
from bench.peers.docker import Docker
from bench.peers.ssh import forwarding
from bench.plan import Plan
from bench.statistics import Better, summarise

T = TypeVar("T")

LOOPBACK: Final = "loopback"
SSH: Final = "ssh"
DOCKER_PORT: Final = "docker-port"
TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 10.0
#: Before each small request.
REST_S: Final = 0.005
#: In the container; on the host they are any that are free.
_ECHO_PORT, _SOURCE_PORT = 7, 9


@dataclass(frozen=True)
class Way:
    """How the services are reached: the local ports of one that echoes, and of one that sends and closes."""

    echo: int
    source: int


def measure_tunnel(plan: Plan) -> Iterator[Outcome]:
    """One stream, one byte there and back, one connection after the other, and how many of them in a second."""
    size_bytes = plan.sizes.large_bytes
    plan.say(f"tunnel, {size_bytes >> 20} MiB and {plan.sizes.runs} small requests")
    with contextlib.ExitStack() as stack:
        box = plan.ours.spawn()
        stack.callback(box.destroy)
        ways = {
            plan.ours.name: _serve_inside(box, size_bytes),
            LOOPBACK: (here := stack.enter_context(_serving_here(box, size_bytes))),
        }
        for name, opening in _find_peers(plan, here, size_bytes).items():
            try:
                ways[name] = stack.enter_context(opening)
            except PEER_ERRORS as exc:
                plan.say(f"{name} is left out: {exc}")
        rates = _take_turns(
            ways, lambda way: size_bytes / 1e6 / _receive(way, size_bytes), plan.sizes.repeats
        )
        yield _report(plan, "stream", "MB/s", "higher", rates)
        echoes = {who: stack.enter_context(_connect(way.echo)) for who, way in ways.items()}
        trips = _take_turns(echoes, _go_and_return, plan.sizes.runs)
        yield _report(plan, "round trip", "ms", "lower", trips)
        connections = _take_turns(ways, _connect_and_ask, plan.sizes.runs)
        yield _report(plan, "connection", "ms", "lower", connections)
        many = _take_turns(ways, lambda way: _connect_often(way, plan.sizes.runs), plan.sizes.repeats)
        yield _report(plan, "connections", "1/s", "higher", many)


def _find_peers(plan: Plan, here: Way, size_bytes: int) -> dict[str, AbstractContextManager[Way]]:
    """Nobody, if there are no peers: /run is that of the system then."""
    dockers = [peer for peer in plan.peers if isinstance(peer, Docker) and peer.name == "docker"]
    found: dict[str, AbstractContextManager[Way]] = {SSH: _through_ssh(here)} if plan.peers else {}
    if dockers:
        found[DOCKER_PORT] = _through_docker(dockers[0], size_bytes)
    return found


def _report(plan: Plan, detail: str, unit: str, better: Better, samples: dict[str, list[float]]) -> Outcome:
    summaries = {who: summarise(values, better) for who, values in samples.items()}
    return Outcome("tunnel", unit, better, summaries.pop(plan.ours.name), summaries, detail=detail)


def _take_turns(those: Mapping[str, T], measure: Callable[[T], float], times: int) -> dict[str, list[float]]:
    """What each of them needs, in turns; once before that does not count."""
    samples: dict[str, list[float]] = {who: [] for who in those}
    for number in range(times + 1):
        for who, one in those.items():
            time.sleep(REST_S)
            value = measure(one)
            if number:
                samples[who].append(value)
    return samples


# --- requests


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive(way: Way, size_bytes: int) -> float:
    """The seconds that a stream takes from one end to the other."""
    room, total = memoryview(bytearray(1 << 20)), 0
    with _connect(way.source) as connection:
        started = time.perf_counter()
        while count := connection.recv_into(room):
            total += count
        elapsed = time.perf_counter() - started
    if total != size_bytes:
        raise ContenderFailed(f"of {size_bytes} bytes {total} came through")
    return elapsed


def _go_and_return(connection: socket.socket) -> float:
    started = time.perf_counter()
    connection.send(b"x")
    if connection.recv(1) != b"x":
        raise ContenderFailed("the echo is another")
    return (time.perf_counter() - started) * 1000


def _connect_and_ask(way: Way) -> float:
    started = time.perf_counter()
    with _connect(way.echo) as connection:
        _go_and_return(connection)
        return (time.perf_counter() - started) * 1000


def _connect_often(way: Way, times: int) -> float:
    """How many connections in a second, one right after the other."""
    started = time.perf_counter()
    for _ in range(times):
        _connect_and_ask(way)
    return times / (time.perf_counter() - started)


# --- the services


def _commands(echo: int, source: int, size_bytes: int) -> tuple[list[str], list[str]]:
    """Busybox's nc, which starts a program for each connection."""
    send = ["dd", "if=/dev/zero", "bs=1M", f"count={size_bytes >> 20}"]
    return (
        ["nc", "-ll", "-p", str(echo), "-e", "cat"],
        ["nc", "-ll", "-p", str(source), "-e", *send],
    )


def _serve_inside(box: OurBox, size_bytes: int) -> Way:
    for command in _commands(_ECHO_PORT, _SOURCE_PORT, size_bytes):
        box.container.spawn(command)
    for port in (_ECHO_PORT, _SOURCE_PORT):
        box.container.wait_tcp(port)
    echo, source = (box.container.attach_tunnel(port) for port in (_ECHO_PORT, _SOURCE_PORT))
    return Way(echo.localport(), source.localport())


@contextlib.contextmanager
def _serving_here(box: OurBox, size_bytes: int) -> Iterator[Way]:
    """The same programs, outside of any container; busybox is static, and the container has one."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        busybox = Path(directory) / "busybox"
        busybox.write_bytes(box.container.fetch("/bin/busybox"))
        busybox.chmod(0o700)
        way = Way(_find_free_port(), _find_free_port())
        for port, command in zip(
            (way.echo, way.source), _commands(way.echo, way.source, size_bytes), strict=True
        ):
            stack.enter_context(_running([str(busybox), *command]))
            _wait_for(port)
        yield way


@contextlib.contextmanager
def _through_ssh(here: Way) -> Iterator[Way]:
    """To the services on this machine."""
    with tempfile.TemporaryDirectory() as directory:
        way = Way(_find_free_port(), _find_free_port())
        forwarded = [(way.echo, here.echo), (way.source, here.source)]
        with forwarding(Path(directory), _find_free_port(), forwarded):
            _wait_for_echo(way.echo)
            yield way


@contextlib.contextmanager
def _through_docker(docker: Docker, size_bytes: int) -> Iterator[Way]:
    """To the services in a container of docker's, at ports that it publishes."""
    way = Way(_find_free_port(), _find_free_port())
    echo, source = (shlex.join(words) for words in _commands(_ECHO_PORT, _SOURCE_PORT, size_bytes))
    box = docker.publish(
        ["sh", "-c", f"{echo} & exec {source}"], {_ECHO_PORT: way.echo, _SOURCE_PORT: way.source}
    )
    try:
        _wait_for_echo(way.echo)
        yield way
    finally:
        box.destroy()


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            _connect(port).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise ContenderFailed(f"nothing listens at port {port}") from None
            time.sleep(0.01)


def _wait_for_echo(port: int) -> None:
    """Somebody may listen before the service behind does, and close what comes."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            _wait_for(port)
            with _connect(port) as connection:
                _go_and_return(connection)
                return
        except (ContenderFailed, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
