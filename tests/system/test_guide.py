"""The programs of the README and the guide run as they are, from the files that they mention, on a real node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

ROOT = Path(__file__).resolve().parents[2]
#: What the programs read where they are started.
FILES = {
    # As it must be for a server that runs as somebody else than root, and does not end at once.
    "nginx.conf": b"pid /tmp/nginx.pid;\nerror_log stderr;\nevents {}\n",
    "key.pem": b"a secret\n",
    "dump.sql": b"select 1;\n",
}
#: Programs find this machine's node by its usual place, and a node of the tests' own is elsewhere. A private one keeps
#: its images where a program has it from this.
PREAMBLE = """
from pathlib import Path
import tfnz.aio.targets
import tfnz.embedded
tfnz.aio.targets.DEFAULT_SOCKET = Path({socket!r})
tfnz.embedded.DEFAULT_DATA_DIR = Path({private!r})
"""


def find_programs() -> list[tuple[str, str]]:
    """Every Python block, and where it is."""
    programs = []
    for document in (ROOT / "README.md", ROOT / "docs" / "guide.md"):
        text = document.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1)) + 1
            programs.append((f"{document.relative_to(ROOT)}:{line}", match[1]))
    return programs


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private") / "data"


def test_there_are_programs() -> None:
    assert len(find_programs()) >= 8


@pytest.mark.timeout(300 * PATIENCE)  # whole programs, which take long on a busy machine
@pytest.mark.parametrize(("place", "program"), find_programs(), ids=lambda value: str(value)[:30])
def test_a_program_of_the_documents_runs(
    node: RunningNode,
    private: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    program: str,
) -> None:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path / "20ft"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'node'}")
    (tmp_path / "build").symlink_to(ROOT / "build")
    shutil.copytree(ROOT / "examples", tmp_path / "public")
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    script = tmp_path / "program.py"
    script.write_text(PREAMBLE.format(socket=str(node.socket), private=str(private)) + program)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        timeout=280 * PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, (place, ended.stderr.decode())
    assert b"Traceback" not in ended.stderr, (place, ended.stderr.decode())
