"""The variables of the roles, as the documents show them, are those that there are."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_the_roles_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "role_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
