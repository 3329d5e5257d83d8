"""What the modules say of themselves is what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.library.conftest import MODULES, ROOT, load

#: What a documented option and an argument spec say in the same words.
SAME = ("type", "required", "default", "choices", "elements")


def documented(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a DOCUMENTATION, as an argument spec would have them."""
    return {
        name: {key: option[key] for key in SAME if option.get(key) not in (None, False)}
        | ({"options": documented(option["suboptions"])} if "suboptions" in option else {})
        for name, option in options.items()
    }


def specified(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: argument[key] for key in SAME if argument.get(key) not in (None, False)}
        | ({"options": specified(argument["options"])} if "options" in argument else {})
        for name, argument in spec.items()
    }


def test_there_are_modules() -> None:
    assert len(MODULES) >= 8


@pytest.mark.parametrize("name", MODULES)
def test_the_documentation_equals_the_argument_spec(name: str) -> None:
    module = load(name)
    assert documented(yaml.safe_load(module.DOCUMENTATION)["options"]) == specified(module.ARGUMENT_SPEC)


@pytest.mark.parametrize("name", MODULES)
def test_the_documentation_is_complete(name: str) -> None:
    module = load(name)
    found = yaml.safe_load(module.DOCUMENTATION)
    assert found["module"] == name
    assert set(found["attributes"]) == {"check_mode", "diff_mode", "idempotent"}
    for option in found["options"].values():
        assert option["description"]
    for task in yaml.safe_load(module.EXAMPLES):
        assert task["name"]
        for used, arguments in task.items():
            if used in MODULES:
                assert set(arguments or {}) <= set(load(used).ARGUMENT_SPEC)
    for value in yaml.safe_load(module.RETURN).values():
        assert value["description"] and value["type"] and value["returned"]


@pytest.mark.parametrize("name", MODULES)
def test_what_is_called_secret_is_not_logged(name: str) -> None:
    for option, argument in load(name).ARGUMENT_SPEC.items():
        if "secret" in option:
            assert argument["no_log"] is True


def test_ansible_renders_them_all(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-doc", "--json", "--type", "module", *MODULES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(json.loads(done.stdout)) == MODULES


def test_what_they_share_is_not_taken_for_a_module() -> None:
    assert not [name for name in MODULES if (ROOT / "module_utils" / f"{name}.py").exists()]
    folders = [
        path.name for path in (ROOT / "library").iterdir() if path.is_dir() and path.name != "__pycache__"
    ]
    assert not folders, "a directory in library would be searched for modules"
