"""crun, bare: from a bundle that is prepared beforehand, without anybody who would supervise it."""

from __future__ import annotations

import itertools
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

from bench.contender import CPUS, MEMORY_BYTES, PIDS, SMALL, Box, Contender, check_small, make_mark
from bench.peers.programs import find_program, run, start_detached, start_reading

#: The ids of its containers; 20ft has them too.
_FIRST_ID: Final = 2_000_000_000
_IDS: Final = 65536
_PERIOD_US: Final = 100_000


class CrunBox(Box):
    """A container of crun; `process` is what holds on to it when it is not detached."""

    def __init__(
        self, crun: list[str], id: str, mark: str, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._crun = crun
        self._id = id
        self._process = process
        self.mark = mark

    def run_true(self) -> None:
        run([*self._crun, "exec", self._id, "true"])

    def put_small(self) -> None:
        run([*self._crun, "exec", self._id, "sh", "-c", "cat >/tmp/small"], input=SMALL)

    def fetch_small(self) -> None:
        check_small(run([*self._crun, "exec", self._id, "cat", "/tmp/small"]))

    def destroy(self) -> None:
        if self._process is None:
            run([*self._crun, "delete", "--force", self._id])
        else:  # it removes the container when that has ended
            run([*self._crun, "kill", self._id, "KILL"])
            self._process.communicate()


class Crun(Contender):
    """Namespaces, limits and an empty network like ours; the root is one directory that all containers read."""

    name = "crun"

    def __init__(self, directory: Path, image: Path, cgroup: str) -> None:
        crun = find_program("crun", "crun")
        self._directory = directory
        self._cgroup = cgroup
        self._ids = itertools.count()
        directory.mkdir(mode=0o711)
        self._crun: Final = [crun, f"--root={directory / 'state'}", "--cgroup-manager=cgroupfs"]
        root = directory / "root"
        with tarfile.open(image) as tar:
            tar.extractall(root, filter="fully_trusted")  # we have built it
        root.chmod(0o755)

    def spawn(self) -> CrunBox:
        mark = make_mark()
        id, bundle = self._prepare(["sleep", mark])
        start_detached([*self._crun, "run", "--detach", f"--bundle={bundle}", id])
        return CrunBox(self._crun, id, mark)

    def spawn_first_byte(self) -> CrunBox:
        mark = make_mark()
        id, bundle = self._prepare(["sh", "-c", f"echo here; exec sleep {mark}"])
        process = start_reading([*self._crun, "run", f"--bundle={bundle}", id])
        return CrunBox(self._crun, id, mark, process)

    def _prepare(self, command: list[str]) -> tuple[str, Path]:
        id = f"bench-{next(self._ids)}"
        bundle = self._directory / id
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self._configure(id, command)))
        return id, bundle

    def _configure(self, id: str, command: list[str]) -> dict[str, Any]:
        mappings = [{"containerID": 0, "hostID": _FIRST_ID, "size": _IDS}]
        return {
            "ociVersion": "1.0.0",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": command,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": str(self._directory / "root"), "readonly": True},
            "hostname": id,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755"],
                },
                {
                    "destination": "/tmp",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=1777"],
                },
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("user", "pid", "ipc", "uts", "mount", "network")],
                "uidMappings": mappings,
                "gidMappings": mappings,
                "cgroupsPath": f"/{self._cgroup}/{id}",
                "resources": {
                    "memory": {"limit": MEMORY_BYTES},
                    "pids": {"limit": PIDS},
                    "cpu": {"quota": CPUS * _PERIOD_US, "period": _PERIOD_US},
                },
            },
        }
