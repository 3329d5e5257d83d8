"""The peers: others who start containers, each by its own fast path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.contender import Contender, ContenderFailed
from bench.keeper import name_cgroup
from bench.peers import docker, podman
from bench.peers.crun import Crun
from bench.peers.daemons import running_daemon
from bench.peers.docker_api import DockerApi
from bench.peers.floor import Floor
from bench.peers.places import cover_places
from bench.peers.programs import find_program

#: Starts a peer, in one or more ways of using it: what is to be ended goes to the stack.
Starter = Callable[[ExitStack, Path, Path], list[Contender]]

#: The addresses of containers; the network ends at this private host.
_DOCKER_BRIDGE: Final = "10.201.0.1/16"


@contextmanager
def running_peers(directory: Path, image: Path, say: Callable[[str], None]) -> Iterator[list[Contender]]:
    """Every peer that this machine has; what is missing is said, and left out."""
    try:
        cover_places(directory / "places")
    except ContenderFailed as exc:
        say(f"all peers are left out: {exc}")
        yield []
        return
    with starting_each(_STARTERS, directory, image, say) as peers:
        yield peers


@contextmanager
def starting_each(
    starters: Mapping[str, Starter], directory: Path, image: Path, say: Callable[[str], None]
) -> Iterator[list[Contender]]:
    """The peers of all starters that do not fail."""
    with ExitStack() as stack:
        peers: list[Contender] = []
        for what, start in starters.items():
            say(f"starting {what}")
            try:
                with ExitStack() as attempt:
                    peers += start(attempt, directory, image)
                    stack.push(attempt.pop_all())
            except (ContenderFailed, OSError) as exc:
                say(f"{what} is left out: {exc}")
        yield peers


def start_docker(stack: ExitStack, directory: Path, image: Path) -> list[Contender]:
    """A daemon that keeps everything in this directory, with the image."""
    home = directory / "docker"
    home.mkdir(mode=0o711)
    socket, config = home / "docker.sock", home / "daemon.json"
    config.write_text(
        json.dumps(
            {
                "data-root": str(home / "data"),
                "exec-root": str(home / "exec"),
                "pidfile": str(home / "pid"),
                "hosts": [f"unix://{socket}"],
                "bip": _DOCKER_BRIDGE,
                "exec-opts": ["native.cgroupdriver=cgroupfs"],
            }
        )
    )
    command = [find_program("dockerd", "docker.io"), f"--config-file={config}"]
    stack.enter_context(running_daemon(command, socket=socket, log=home / "log"))
    api = DockerApi(socket)
    stack.enter_context(docker.imported(api, image.read_bytes()))
    cgroup = name_cgroup(directory)
    return [
        docker.Docker("docker", api, network="bridge", cgroup=cgroup),
        docker.Docker("docker-nonet", api, network="none", cgroup=cgroup),
    ]


def _start_podman(stack: ExitStack, directory: Path, image: Path) -> list[Contender]:
    environment = podman.configure(directory / "podman")
    stack.enter_context(podman.imported(environment, image))
    cgroup = name_cgroup(directory)
    return [
        podman.Podman("podman", environment, "bridge", cgroup),
        podman.Podman("podman-nonet", environment, "none", cgroup),
    ]


def _start_podman_service(stack: ExitStack, directory: Path, image: Path) -> list[Contender]:
    home = directory / "podman-api"
    environment, socket = podman.configure(home), home / "podman.sock"
    stack.enter_context(podman.imported(environment, image))
    command = [find_program("podman", "podman"), "system", "service", "--time=0", f"unix://{socket}"]
    stack.enter_context(running_daemon(command, socket=socket, log=home / "log", environment=environment))
    api = DockerApi(socket)
    cgroup = name_cgroup(directory)
    # It tells the end of a container that something else has killed after 20 s, which compares with nothing.
    return [
        docker.Docker("podman-api", api, network="bridge", cgroup=cgroup, tells_ends=False),
        docker.Docker("podman-api-nonet", api, network="none", cgroup=cgroup, tells_ends=False),
    ]


def _start_crun(_stack: ExitStack, directory: Path, image: Path) -> list[Contender]:
    return [Crun(directory / "crun", image, name_cgroup(directory))]


def _start_floor(_stack: ExitStack, _directory: Path, _image: Path) -> list[Contender]:
    return [Floor()]


_STARTERS: Final[dict[str, Starter]] = {
    "docker": start_docker,
    "podman": _start_podman,
    "podman's service": _start_podman_service,
    "crun": _start_crun,
    "unshare": _start_floor,
}
