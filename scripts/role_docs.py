#!/usr/bin/env python3
"""Writes docs/roles.md, the variables of the roles, from what the roles say of themselves.

scripts/role_docs.py            writes the file
scripts/role_docs.py --check    fails if it is not current
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "roles.md"
HEAD = """\
# Roles and their variables

Made by `scripts/role_docs.py` of the roles' `meta/argument_specs.yml`; do not edit. [ansible.md](ansible.md) is the
guide to them.
"""


def as_lines(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text


def plain(text: str) -> str:
    """Ansible's marks for values, code and options, as those of this document; bars end cells of tables."""
    return re.sub(r"\b[VCO]\(([^)]*)\)", r"`\1`", text).replace("|", "\\|")


def render_default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "**needed**"
    default = option.get("default")
    if isinstance(default, str) and " " in default:
        return default  # said in words
    shown = {"": "", True: "true", False: "false"}.get(default) if isinstance(default, str | bool) else None
    text = str(default).replace("'", "") if shown is None else shown
    return f"`{text}`" if text else ""


def render_option(name: str, option: dict[str, Any]) -> str:
    words = " ".join(as_lines(option["description"]))
    choices = option.get("choices")
    kind = " or ".join(f"`{choice}`" for choice in choices) if choices else option["type"]
    if "elements" in option:
        kind = f"{kind} of {option['elements']}"
    return f"| `{name}` | {kind} | {render_default(option)} | {plain(words)} |"


def render_role(role: str, spec: dict[str, Any]) -> str:
    rows = []
    for name, option in sorted(
        spec["options"].items(), key=lambda item: (not item[1].get("required"), item[0])
    ):
        rows.append(render_option(name, option))
        rows += [
            render_option(f"{name}[].{inner}", part) for inner, part in option.get("options", {}).items()
        ]
    return "\n".join(
        [
            f"## {role}",
            "",
            f"{plain(spec['short_description'])}.",
            "",
            *[plain(line) for line in as_lines(spec["description"])],
            "",
            "| variable | type | default | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def render() -> str:
    parts = [HEAD]
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        spec = yaml.safe_load(path.read_text())["argument_specs"]["main"]
        parts.append(render_role(path.parents[1].name, spec))
    return "\n".join(parts)


def main() -> None:
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is not current: run scripts/role_docs.py")


if __name__ == "__main__":
    main()
