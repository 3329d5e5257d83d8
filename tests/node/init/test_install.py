"""Installing tfnz-init by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tfnz_node.init_binary import CANDIDATES

INIT = Path(__file__).resolve().parents[3] / "node" / "init"


def install(*words: str) -> None:
    subprocess.run(["make", "-s", "-C", str(INIT), "install", *words], check=True, timeout=50)


def test_it_is_installed_where_the_daemon_looks(tmp_path: Path) -> None:
    install(f"DESTDIR={tmp_path}")
    [installed] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert Path("/") / installed.relative_to(tmp_path) in CANDIDATES
    assert installed.stat().st_mode & 0o7777 == 0o755
    assert installed.read_bytes() == (INIT / "build" / "tfnz-init").read_bytes()


def test_a_prefix_is_another_place(tmp_path: Path) -> None:
    install(f"PREFIX={tmp_path}/opt")
    assert (tmp_path / "opt" / "libexec" / "20ft" / "tfnz-init").is_file()
