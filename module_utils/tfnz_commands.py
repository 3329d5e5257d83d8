"""How modules talk to 20ft on the host where they run: by its two commands, whose JSON they read.

Private to the modules of this project: it may change with any release.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

#: Where the role tfnz_node puts the commands.
BIN_DIR = "/opt/20ft/venv/bin"

#: The option that every module has.
BIN_DIR_OPTION: dict[str, dict[str, Any]] = {"bin_dir": {"type": "path"}}
#: The options of modules that open a session with a location.
SESSION_OPTIONS: dict[str, dict[str, Any]] = {
    **BIN_DIR_OPTION,
    "location": {"type": "str"},
    "socket": {"type": "path"},
    "home": {"type": "path"},
}
SESSION_EXCLUSIVE = [("location", "socket")]


def find_command(name: str, bin_dir: str | None, path: str | None = None) -> str | None:
    """The path of a command: in `bin_dir` if that is given, else where the role puts it, else on the search path."""
    folders = (
        [bin_dir] if bin_dir else [BIN_DIR, *(path or os.environ.get("PATH", os.defpath)).split(os.pathsep)]
    )
    for folder in folders:
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def session_arguments(params: Mapping[str, Any]) -> list[str]:
    """The options of the `tfnz` command that say which location is meant."""
    arguments = []
    for name in ("location", "socket"):
        if params.get(name):
            arguments += [f"--{name}", str(params[name])]
    return arguments


def session_environment(params: Mapping[str, Any]) -> dict[str, str]:
    """The variables of the `tfnz` command that say where its accounts are."""
    return {"TFNZ_HOME": str(params["home"])} if params.get("home") else {}


def describe_failure(words: Sequence[str], rc: int, stderr: str) -> str:
    """What a command of ours that failed had to say, on one line; it names what to try itself."""
    said = " ".join(stderr.split()) or f"it said nothing, and exited with {rc}"
    return f"{' '.join(words)}: {said.removeprefix('tfnz: ').removeprefix('Error: ')}"


class Commands:
    """The commands of 20ft on this host, for one run of a module."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def find(self, name: str) -> str:
        """The path of a command; the module fails when there is none."""
        bin_dir = self._module.params.get("bin_dir")
        found = find_command(name, bin_dir)
        if found is None:
            where = bin_dir or f"{BIN_DIR} or on the search path"
            self._module.fail_json(
                msg=f"there is no command {name} in {where} of this host: install it with the role tfnz_node, "
                "or `pip install tfnz`, and set the option bin_dir if it is elsewhere"
            )
        return str(found)

    def run(
        self,
        name: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
        data: str | None = None,
        binary: bool = False,
    ) -> tuple[int, str, str]:
        """Runs a command; its exit code, output and errors, whatever they are."""
        result: tuple[int, str, str] = self._module.run_command(
            [self.find(name), *words],
            environ_update={**session_environment(self._module.params), **(environment or {})},
            data=data,
            binary_data=binary,
            handle_exceptions=True,
        )
        return result

    def change(self, name: str, *words: str, environment: Mapping[str, str] | None = None) -> str:
        """Runs a command that must succeed; its output. Otherwise the module fails with what it said."""
        rc, out, err = self.run(name, *words, environment=environment)
        if rc != 0:
            self._module.fail_json(msg=describe_failure([name, *words], rc, err), rc=rc)
        return out

    def read(self, name: str, *words: str) -> Any:
        """What a command prints with --json; the module fails with what it said if it does."""
        out = self.change(name, *words, "--json")
        try:
            return json.loads(out)
        except ValueError as exc:
            self._module.fail_json(
                msg=f"{name} {' '.join(words)} --json printed no JSON, but {out[:200]!r}: {exc}; "
                "is it of another release?"
            )
            raise  # not reached: fail_json ends the module

    def session(self, *words: str) -> Any:
        """What a command of `tfnz` says about the location that is meant."""
        return self.read("tfnz", *session_arguments(self._module.params), *words)


def describe_change(before: Any, after: Any, header: str) -> dict[str, Any]:
    """A change in the form in which --diff shows it."""
    return {
        "before": before,
        "after": after,
        "before_header": f"{header} (before)",
        "after_header": f"{header} (after)",
    }
