"""podman: as a command for each request, and as a service that speaks docker's interface."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.contender import CPUS, MEMORY_BYTES, PIDS, Box, Contender, make_mark
from bench.peers.programs import find_program, run, start_detached, start_reading

_PID_MAX: Final = Path("/proc/sys/kernel/pid_max")
_STORAGE: Final = """\
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "{directory}/run"
"""
#: Without systemd there is neither its journal nor its cgroups.
_CONTAINERS: Final = """\
[containers]
log_driver = "k8s-file"
cgroups = "enabled"
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{directory}/tmp"
static_dir = "{directory}/static"
volume_path = "{directory}/volumes"
runtime = "crun"

[network]
network_config_dir = "{directory}/networks"
"""


def configure(directory: Path) -> dict[str, str]:
    """The environment in which podman keeps everything in this directory."""
    directory.mkdir(mode=0o711)
    (directory / "storage.conf").write_text(_STORAGE.format(directory=directory))
    # Its own defaults are more than every root may allow, and it has already lowered one for itself.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    most = int(_PID_MAX.read_text())
    processes = most if processes == resource.RLIM_INFINITY else min(processes, most)
    settings = _CONTAINERS.format(directory=directory, files=files, processes=processes)
    (directory / "containers.conf").write_text(settings)
    return {
        **os.environ,
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        "TMPDIR": str(directory),
        "HOME": str(directory),
    }


class PodmanBox(Box):
    """A container of podman; `process` is the command that shows its output."""

    def __init__(self, peer: Podman, mark: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self._peer = peer
        self._process = process
        self.mark = mark

    def run_true(self) -> None:
        self._peer.podman("exec", self.mark, "true")

    def reboot(self) -> None:
        self._peer.podman("restart", "--time=0", self.mark)

    def destroy(self) -> None:
        self._peer.podman("rm", "--force", "--time=0", self.mark)
        if self._process is not None:
            self._process.communicate()


class Podman(Contender):
    """The command, and the network that its containers are to have."""

    def __init__(self, name: str, environment: Mapping[str, str], network: str, cgroup: str) -> None:
        self.name = name
        self._environment = environment
        self._podman = find_program("podman", "podman")
        self._limits = [
            f"--network={network}",
            f"--cgroup-parent=/{cgroup}",
            f"--memory={MEMORY_BYTES}",
            f"--cpus={CPUS}",
            f"--pids-limit={PIDS}",
        ]

    def podman(self, *words: str) -> None:
        """Run it, and wait for its end."""
        run([self._podman, *words], environment=self._environment)

    def spawn(self) -> PodmanBox:
        mark = make_mark()
        command = [self._podman, "run", "--detach", f"--name={mark}", *self._limits, "busybox", "sleep", mark]
        start_detached(command, environment=self._environment)
        return PodmanBox(self, mark)

    def spawn_first_byte(self) -> PodmanBox:
        mark = make_mark()
        script = f"echo here; exec sleep {mark}"
        command = [self._podman, "run", f"--name={mark}", *self._limits, "busybox", "sh", "-c", script]
        return PodmanBox(self, mark, start_reading(command, environment=self._environment))


@contextmanager
def imported(environment: Mapping[str, str], image: Path) -> Iterator[None]:
    """With the image, from the archive of its root file system."""
    run([find_program("podman", "podman"), "import", str(image), "busybox"], environment=environment)
    yield
