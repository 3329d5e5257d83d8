"""The real try to make namespaces, in a process of its own as the doctor runs it."""

import errno
import subprocess
import sys
from pathlib import Path

PROBE = [sys.executable, "-m", "tfnz_node.doctor.namespace_probe"]


def answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_it_works_here() -> None:
    assert answer(*PROBE) == "0\n"


def test_a_chroot_is_the_reason(tmp_path: Path) -> None:
    script = 'mount --rbind / "$1" && exec chroot "$@"'
    shown = answer("unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), *PROBE)
    assert shown == f"{errno.EPERM} chroot\n"


def test_what_was_switched_off_is_no_chroot(tmp_path: Path) -> None:
    # The bound is that of a user namespace of our own.
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    shown = answer("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *PROBE)
    assert shown == f"{errno.ENOSPC}\n"
