"""Modules as Ansible runs them: in this process, with their parameters, and what they print read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Ansible finds what modules share by its setting module_utils, Python by the path of the package.
if str(ROOT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))

RunModule = Callable[..., dict[str, Any]]


def load(name: str) -> Any:
    """A module, by its name."""
    return importlib.import_module(f"library.{name}")


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Runs a module with parameters and returns its result; `check=True` is --check."""
    from ansible.module_utils.testing import patch_module_args

    def run(module: str, /, *, check: bool = False, **params: Any) -> dict[str, Any]:
        capsys.readouterr()
        # A module is a program: the path it is to look for commands in is the test's.
        with (
            patch_module_args({**params, "_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            load(module).main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run
