"""Docker, and whoever speaks its interface, through the socket."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.bytestream import iterate_blocks
from bench.contender import (
    CPUS,
    MEMORY_BYTES,
    PIDS,
    SMALL,
    Box,
    Contender,
    ContenderFailed,
    check_small,
    make_mark,
    refuse,
)
from bench.peers.docker_api import DockerApi

#: What a tar archive's parts are multiples of.
_TAR_BYTES: Final = 512
#: Before each piece of output: which stream, and how much.
_STREAM_HEADER_BYTES: Final = 8


class DockerBox(Box):
    """A container of docker."""

    def __init__(self, peer: Docker, id: str, mark: str) -> None:
        self._peer = peer
        self._api = peer.api
        self._id = id
        self.mark = mark

    def run_true(self) -> None:
        made = self._api.ask("POST", f"/containers/{self._id}/exec", {"Cmd": ["true"], "AttachStdout": True})
        with self._api.stream("POST", f"/exec/{made['Id']}/start", {"Detach": False}) as output:
            output.read()
        if self._api.ask("GET", f"/exec/{made['Id']}/json")["ExitCode"] != 0:
            raise ContenderFailed("`true` did not end well")

    def put_small(self) -> None:
        self._put(_make_tar_header("small", len(SMALL)) + SMALL + bytes(2 * _TAR_BYTES))

    def fetch_small(self) -> None:
        with self._api.answer("GET", f"/containers/{self._id}/archive?path=/small") as response:
            archive = response.read()
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            content = tar.extractfile("small")
            check_small(content.read() if content else b"")

    def put_large(self, size_bytes: int) -> None:
        def generate() -> Iterator[bytes]:
            yield _make_tar_header("large", size_bytes)
            yield from iterate_blocks(size_bytes)
            yield bytes(-size_bytes % _TAR_BYTES + 2 * _TAR_BYTES)

        self._put(generate())

    def fetch_large(self, size_bytes: int) -> None:
        count = 0
        with self._api.answer("GET", f"/containers/{self._id}/archive?path=/large") as response:
            while part := response.read(1 << 20):
                count += len(part)
        if count < size_bytes:
            raise ContenderFailed(f"of {size_bytes} bytes {count} came back")

    def _put(self, body: bytes | Iterator[bytes]) -> None:
        path = f"/containers/{self._id}/archive?path=/"
        with self._api.answer("PUT", path, body, {"Content-Type": "application/x-tar"}):
            pass

    def reboot(self) -> None:
        self._api.ask("POST", f"/containers/{self._id}/restart?t=0")

    def reboot_reset(self) -> None:
        """There is no such thing: another container in its place, which may get another address."""
        self.destroy()
        self._id = self._peer.create(["sleep", self.mark])
        self._peer.start(self._id)

    def expect_end(self) -> Callable[[], float]:
        if not self._peer.tells_ends:
            refuse()
        stack = ExitStack()
        # The head of the answer comes as soon as docker waits.
        path = f"/containers/{self._id}/wait?condition=not-running"
        answer = stack.enter_context(self._api.stream("POST", path))

        def wait() -> float:
            with stack:
                answer.read()
                return time.perf_counter()

        return wait

    def find_place(self) -> tuple[int, str]:
        """A process in it, by which its network is found, and its address there."""
        found = self._api.ask("GET", f"/containers/{self._id}/json")
        return found["State"]["Pid"], found["NetworkSettings"]["IPAddress"]

    def destroy(self) -> None:
        self._api.ask("DELETE", f"/containers/{self._id}?force=true")


class Docker(Contender):
    """A daemon, and the network that its containers are to have."""

    def __init__(
        self, name: str, api: DockerApi, *, network: str, cgroup: str, tells_ends: bool = True
    ) -> None:
        self.name = name
        self.api = api
        #: Whether a wait for a container's end is worth being measured.
        self.tells_ends = tells_ends
        self._network = network
        self._cgroup = cgroup

    def spawn(self) -> DockerBox:
        mark = make_mark()
        id = self.create(["sleep", mark])
        self.start(id)
        return DockerBox(self, id, mark)

    def spawn_first_byte(self) -> DockerBox:
        mark = make_mark()
        id = self.create(["sh", "-c", f"echo here; exec sleep {mark}"])
        with self.api.stream("POST", f"/containers/{id}/attach?stream=1&stdout=1") as output:
            self.start(id)
            if not output.read(_STREAM_HEADER_BYTES + 1):
                raise ContenderFailed("a container ended without output")
        return DockerBox(self, id, mark)

    def publish(self, command: list[str], ports: Mapping[int, int]) -> DockerBox:
        """A container that runs this, some of whose ports (the keys) are published at some of loopback."""
        id = self.create(command, ports)
        self.start(id)
        return DockerBox(self, id, "")

    def create(self, command: list[str], ports: Mapping[int, int] | None = None) -> str:
        """A container that has not been started."""
        bindings = {
            f"{inside}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(outside)}]
            for inside, outside in (ports or {}).items()
        }
        limits = {"Memory": MEMORY_BYTES, "NanoCpus": CPUS * 10**9, "PidsLimit": PIDS}
        made = self.api.ask(
            "POST",
            "/containers/create",
            {
                "Image": "busybox",
                "Cmd": command,
                "AttachStdout": True,
                "ExposedPorts": {port: {} for port in bindings},
                "HostConfig": {
                    "PortBindings": bindings,
                    "NetworkMode": self._network,
                    "CgroupParent": f"/{self._cgroup}",
                    **limits,
                },
            },
        )
        id: str = made["Id"]
        return id

    def start(self, id: str) -> None:
        """Start its main process."""
        self.api.ask("POST", f"/containers/{id}/start")


def _make_tar_header(name: str, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    return member.tobuf(tarfile.GNU_FORMAT)


@contextmanager
def imported(api: DockerApi, archive: bytes) -> Iterator[None]:
    """With the image, from the archive of its root file system."""
    with api.answer(
        "POST", "/images/create?fromSrc=-&repo=busybox", archive, {"Content-Type": "application/x-tar"}
    ):
        pass
    yield
