"""Runs the probe in docker's default container, in a process of its own that `ask_docker` starts."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.keeper import name_cgroup, remove_cgroups
from bench.peers import start_docker
from bench.peers.docker import Docker
from bench.peers.docker_api import DockerApi
from bench.peers.places import cover_places
from tests.confinement.probe import PLACE, build_probe
from tests.confinement.report import Report, parse_report

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "build" / "images" / "busybox.tar"
TIMEOUT_S = 120


def is_docker_here() -> bool:
    """Whether there is a daemon to start; a client alone is none."""
    return shutil.which("dockerd") is not None or shutil.which("dockerd", path="/usr/sbin:/sbin") is not None


def ask_docker() -> Report:
    """What the probe says in docker's default container.

    The daemon is our own, in namespaces of its own: it changes the firewall, and what it leaves running ends with
    them. One that runs on the host already is out of its reach.
    """
    build_probe()
    with tempfile.TemporaryDirectory(prefix="docker-") as name:
        directory = Path(name)
        # A process in a user namespace must be able to reach the root that it is given.
        directory.chmod(0o711)
        try:
            done = subprocess.run(
                [
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *(ROOT / "scripts" / "private-host", sys.executable),
                    *("-m", "tests.confinement.in_docker", directory),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        finally:
            remove_cgroups(name_cgroup(directory))
    if done.returncode != 0:
        raise RuntimeError(f"docker could not be asked: {done.stderr[-3000:].decode()}")
    return msgspec.json.decode(done.stdout, type=Report)


def main(directory: Path) -> None:
    """The same, inside of those namespaces."""
    cover_places(directory / "places")
    with ExitStack() as stack:
        docker, *_ = start_docker(stack, directory, IMAGE)
        assert isinstance(docker, Docker)
        output = run_probe(docker.api, name_cgroup(directory))
        version = docker.api.ask("GET", "/version")
        report = parse_report(output, {"version": version["Version"]})
        sys.stdout.buffer.write(msgspec.json.encode(report))


def run_probe(api: DockerApi, cgroup: str) -> bytes:
    """The probe's output in a container of which nothing is said but what runs in it."""
    container = api.ask(
        "POST",
        "/containers/create",
        {"Image": "busybox", "Cmd": [PLACE], "HostConfig": {"CgroupParent": f"/{cgroup}"}},
    )["Id"]
    try:
        path = f"/containers/{container}/archive?path=/"
        with api.answer("PUT", path, make_archive(build_probe()), {"Content-Type": "application/x-tar"}):
            pass
        api.ask("POST", f"/containers/{container}/start")
        ended = api.ask("POST", f"/containers/{container}/wait")
        out, err = (read_log(api, container, name) for name in ("stdout", "stderr"))
        if ended["StatusCode"] != 0:
            raise RuntimeError(f"the probe ended with {ended['StatusCode']}: {err.decode()}")
        return out
    finally:
        api.ask("DELETE", f"/containers/{container}?force=true")


def read_log(api: DockerApi, container: str, stream: str) -> bytes:
    """What a container has written to one of its streams: parts, each with a header that ends with its length."""
    with api.answer("GET", f"/containers/{container}/logs?{stream}=1") as answer:
        data = io.BytesIO(answer.read())
    parts = bytearray()
    while header := data.read(8):
        parts += data.read(int.from_bytes(header[4:], "big"))
    return bytes(parts)


def make_archive(program: bytes) -> bytes:
    """A tar with the probe alone."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(PLACE.lstrip("/"))
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    return archive.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
