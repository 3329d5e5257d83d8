"""What roles say of their variables is what they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").glob("tfnz_*"))


def read(role: str, path: str) -> Any:
    return yaml.safe_load((ROOT / "roles" / role / path).read_text())


def read_options(role: str) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = read(role, "meta/argument_specs.yml")["argument_specs"]["main"][
        "options"
    ]
    return options


def test_there_are_roles() -> None:
    assert ROLES == ["tfnz_account", "tfnz_app", "tfnz_node"]


@pytest.mark.parametrize("role", ROLES)
def test_every_input_is_specified_and_has_a_default_unless_it_is_required(role: str) -> None:
    options, defaults = read_options(role), read(role, "defaults/main.yml")
    required = {name for name, option in options.items() if option.get("required")}
    assert set(options) - required == set(defaults)
    assert all(name.startswith(f"{role}_") for name in options)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_that_are_specified(role: str) -> None:
    for name, value in read(role, "defaults/main.yml").items():
        specified = read_options(role)[name]["default"]
        if isinstance(value, str) and "{{" in value:
            assert isinstance(specified, str) and specified, f"{name}: say in words what it is computed from"
        else:
            assert specified == value, name


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described_and_typed(role: str) -> None:
    for name, option in read_options(role).items():
        assert option["description"] and option["type"], name
        assert "choices" not in option or option["default"] in option["choices"], name


@pytest.mark.parametrize("role", ROLES)
def test_variables_that_are_used_are_inputs_or_the_roles_own(role: str) -> None:
    # Its variables, and modules that are called like them.
    known = set(read_options(role)) | {path.stem for path in (ROOT / "library").glob("*.py")}
    own = re.compile(rf"\b{role}_[a-z_]+\b")
    for path in sorted((ROOT / "roles" / role).rglob("*")):
        if path.is_file() and path.suffix in (".yml", ".j2"):
            used = set(own.findall(re.sub(rf"__{role}_[a-z_]+", "", path.read_text())))
            assert used <= known, path


def test_the_playbooks_set_inputs_that_there_are() -> None:
    known = {name for role in ROLES for name in read_options(role)} | {
        "tfnz_nodes",
        "tfnz_accounts",
        "tfnz_apps",
    }
    for path in [*(ROOT / "playbooks").glob("*.yml"), ROOT / "playbooks" / "inventory" / "sample.yml"]:
        used = set(re.findall(r"\b(tfnz_(?:node|account|app)_[a-z_]+)", path.read_text()))
        assert used <= known | {"tfnz_app_hosts"}, path


def test_what_the_playbook_says_that_it_knows_of_an_application_is_what_it_passes_on() -> None:
    [play] = yaml.safe_load((ROOT / "playbooks" / "deploy_app.yml").read_text())
    [passed] = [task["vars"] for task in play["tasks"] if "ansible.builtin.include_role" in task]
    assert {f"tfnz_app_{name}" for name in play["vars"]["known"]} == set(passed)


def test_what_the_playbook_passes_on_by_default_is_what_the_role_has() -> None:
    [play] = yaml.safe_load((ROOT / "playbooks" / "deploy_app.yml").read_text())
    [passed] = [task["vars"] for task in play["tasks"] if "ansible.builtin.include_role" in task]
    for name, value in read("tfnz_app", "defaults/main.yml").items():
        key = name.removeprefix("tfnz_app_")
        if isinstance(value, int | float):
            assert passed[name] == f"{{{{ app.{key} | default({json.dumps(value)}) }}}}", name
        elif name in passed:
            assert f"app.{key} | default(" in passed[name], name


def test_the_playbook_knows_every_variable_but_those_of_the_controller() -> None:
    [play] = yaml.safe_load((ROOT / "playbooks" / "deploy_app.yml").read_text())
    known = {f"tfnz_app_{name}" for name in play["vars"]["known"]}
    assert set(read_options("tfnz_app")) - known == {"tfnz_app_sdk", "tfnz_app_cache"}
