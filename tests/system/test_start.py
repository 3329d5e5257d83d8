"""The commands while they start: whoever interrupts them is not shown what they were about to import."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs a command, and interrupts it, as Ctrl-C does, when it looks for a module.
INTERRUPTED = """
import importlib.abc, os, signal, sys
import tfnz_command

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

command, module, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Interrupting())
getattr(tfnz_command, command)()
"""


@pytest.mark.parametrize(
    ("command", "module", "argument"),
    [
        ("tfnz", "tfnz", "--version"),
        ("tfnz", "tfnz.accounts", "--version"),
        ("tfnz", "tfnz.cli.main", "--version"),
        ("tfnz_node", "tfnz", "--version"),
        ("tfnz_node", "tfnz_node.accounts", "--version"),
        # What only one command needs is imported by that.
        ("tfnz_node", "tfnz_node.daemon", "serve"),
    ],
)
def test_an_interrupt_while_they_are_imported_is_quiet(command: str, module: str, argument: str) -> None:
    words = [sys.executable, "-c", INTERRUPTED, command, module, argument]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("command", ["tfnz", "tfnz-node"])
def test_the_commands_that_are_installed_begin_there(command: str) -> None:
    script = Path(sys.executable).with_name(command)
    assert "from tfnz_command import" in script.read_text()
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
