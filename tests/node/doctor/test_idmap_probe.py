"""The real try to map ids, in a process of its own as the doctor runs it."""

import subprocess
import sys
from pathlib import Path


def probe(directory: Path, id_base: int = 1_000_000) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfnz_node.doctor.idmap_probe", str(directory), str(id_base)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_works_here_and_leaves_no_mount(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    result = probe(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert Path("/proc/self/mounts").read_text() == mounts


def test_it_says_why_not() -> None:
    result = probe(Path("/proc"))
    assert result.returncode == 1
    assert result.stderr == "mount_setattr 0x100000: Invalid argument\n"


def test_it_says_when_ids_are_impossible(tmp_path: Path) -> None:
    result = probe(tmp_path, 2**32 - 10)
    assert (result.returncode, result.stderr) == (1, "Invalid argument\n")
