"""Containers that talk to each other, and for comparison two bare network namespaces with a wire between them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import traffic
from bench.contender import MEMORY_BYTES, ContenderFailed
from bench.measures.rhythm import PEER_ERRORS
from bench.outcome import Outcome
from bench.peers.docker import Docker
from bench.peers.programs import find_program, run
from bench.plan import Plan
from bench.private import ROOT
from bench.statistics import summarise

VETH: Final = "veth"
IMAGE: Final = ROOT / "build" / "images" / "python.tar"
REST_S: Final = 0.2
_PROGRAM: Final = Path(traffic.__file__).read_text()
#: Of the bare wire. Nobody else is in its namespaces.
_SERVER, _CLIENT = "10.0.0.1", "10.0.0.2"

#: Runs the program of `bench.traffic` where the client is, with these arguments; what it prints.
Client = Callable[..., bytes]


@dataclass(frozen=True)
class Network:
    """Two places that reach each other: where the one listens, and how the other is used."""

    address: str
    client: Client

    def measure(self, what: str, how_much: int) -> list[float]:
        """The seconds that something takes from the client's place."""
        taken: list[float] = json.loads(self.client(what, self.address, str(how_much)))
        return taken


def measure_lan(plan: Plan) -> Iterator[Outcome]:
    """One stream of TCP, and one byte there and back."""
    size_bytes, runs = plan.sizes.large_bytes, plan.sizes.runs
    plan.say(f"lan, {size_bytes >> 20} MiB and {runs} round trips")
    with contextlib.ExitStack() as stack:
        networks = {plan.ours.name: stack.enter_context(_between_containers(plan))}
        for name, opening in _find_peers(plan).items():
            try:
                networks[name] = stack.enter_context(opening)
            except PEER_ERRORS as exc:
                plan.say(f"{name} is left out: {exc}")
        rates = {who: list[float]() for who in networks}
        trips = {who: list[float]() for who in networks}
        # What is warm afterwards does not count.
        for network in networks.values():
            network.measure("send", size_bytes // 8)
        for _ in range(plan.sizes.repeats):
            for who, network in networks.items():
                time.sleep(REST_S)
                rates[who] += [size_bytes / 1e6 / taken for taken in network.measure("send", size_bytes)]
        for who, network in networks.items():
            time.sleep(REST_S)
            trips[who] += [taken * 1000 for taken in network.measure("go_and_return", runs)]
    streams = {who: summarise(values, "higher") for who, values in rates.items()}
    yield Outcome("lan", "MB/s", "higher", streams.pop(plan.ours.name), streams, detail="stream")
    rounds = {who: summarise(values, "lower") for who, values in trips.items()}
    yield Outcome("lan", "ms", "lower", rounds.pop(plan.ours.name), rounds, detail="round trip")


def _find_dockers(plan: Plan) -> list[Docker]:
    return [peer for peer in plan.peers if isinstance(peer, Docker) and peer.name == "docker"]


def _find_peers(plan: Plan) -> dict[str, contextlib.AbstractContextManager[Network]]:
    """The bare wire is there always; docker's bridge if docker takes part."""
    return {VETH: _over_a_wire(), **{peer.name: _over_a_bridge(peer) for peer in _find_dockers(plan)}}


@contextlib.contextmanager
def _between_containers(plan: Plan) -> Iterator[Network]:
    """Two containers of ours, of which one may connect to the other."""
    if not IMAGE.exists():
        raise ContenderFailed(f"there is no {IMAGE}: make bench makes all that is needed")
    node = plan.ours.location.node()
    plan.ours.location.import_image(IMAGE, "python")
    spawn = functools.partial(node.spawn, "python", memory=MEMORY_BYTES, cpus=os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        server = spawn(["python3", "-c", _PROGRAM, "serve"])
        stack.callback(server.destroy)
        client = spawn(["sleep", "infinity"])
        stack.callback(client.destroy)
        server.allow_connection_from(client, traffic.PORT)
        if _find_dockers(plan):
            _let_pass(server.private_ip(), client.private_ip())
        yield Network(
            server.private_ip(),
            lambda *words: client.run(["python3", "-c", _PROGRAM, *words], check=True).stdout,
        )


def _let_pass(*addresses: str) -> None:
    """Docker's rules drop what they do not know; have them let pass what comes from here, as the guide says."""
    for address in addresses:
        run([find_program("iptables", "iptables"), "-I", "DOCKER-USER", "-s", address, "-j", "ACCEPT"])


@contextlib.contextmanager
def _over_a_wire() -> Iterator[Network]:
    """A veth pair between two namespaces, with nothing in between."""
    with _new_namespace() as server, _new_namespace() as client:
        ip = find_program("ip", "iproute2")
        ends = ("server", "netns", str(server), "type", "veth", "peer", "client", "netns", str(client))
        run([ip, "link", "add", *ends])
        for pid, name, address in ((server, "server", _SERVER), (client, "client", _CLIENT)):
            run([*_inside(pid), ip, "address", "add", f"{address}/24", "dev", name])
            run([*_inside(pid), ip, "link", "set", name, "up"])
        with _talking(server, client, _SERVER) as network:
            yield network


@contextlib.contextmanager
def _over_a_bridge(docker: Docker) -> Iterator[Network]:
    """Two containers of docker's; the program runs in their network, and in nothing else of them."""
    with contextlib.ExitStack() as stack:
        places = []
        for _ in range(2):
            box = docker.spawn()
            stack.callback(box.destroy)
            places.append(box.find_place())
        (server, address), (client, _) = places
        yield stack.enter_context(_talking(server, client, address))


@contextlib.contextmanager
def _talking(server: int, client: int, address: str) -> Iterator[Network]:
    """The two programs, in the network namespaces of these processes."""
    python = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen([*_inside(server), *python, "serve"], stdin=subprocess.DEVNULL) as serving:
        try:
            yield Network(address, lambda *words: run([*_inside(client), *python, *words]))
        finally:
            serving.kill()


@contextlib.contextmanager
def _new_namespace() -> Iterator[int]:
    """A process that sleeps in a network namespace of its own."""
    command = [find_program("unshare", "util-linux"), "--net", "sh", "-c", "echo here; exec sleep infinity"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as sleeper:
        try:
            assert sleeper.stdout is not None
            if sleeper.stdout.readline() != b"here\n":
                raise ContenderFailed("there is no network namespace to be had")
            yield sleeper.pid
        finally:
            sleeper.kill()


def _inside(pid: int) -> list[str]:
    return [find_program("nsenter", "util-linux"), f"--net=/proc/{pid}/ns/net"]
