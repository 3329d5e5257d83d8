"""What the documents show is real: Python compiles and imports what there is, commands and options exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from scripts.image_builder.recipes import RECIPES
from tfnz.cli.main import cli as tfnz
from tfnz_node.cli import main as tfnz_node

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "examples" / "README.md"]
COMMANDS: dict[str, click.Command] = {"tfnz": tfnz, "tfnz-node": tfnz_node}


def find_blocks(language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language, each with where it is."""
    blocks = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1)) + 1
            blocks.append((f"{document.relative_to(ROOT)}:{line}", match[1]))
    return blocks


def find_commands() -> list[tuple[str, str]]:
    """Lines of shell blocks, and words between backquotes, that begin with a command of ours."""
    lines = [
        (place, line) for place, block in find_blocks("sh") for line in block.splitlines() if line.split()
    ]
    for document in DOCUMENTS:
        for quoted in re.findall(r"`(tfnz(?:-node)? [^`]+)`", document.read_text()):
            lines.append((document.name, quoted.replace("\n", " ")))
    return [(place, line) for place, line in lines if line.split()[0] in COMMANDS]


@pytest.mark.parametrize(("place", "source"), find_blocks("python"), ids=lambda value: str(value)[:40])
def test_python_compiles_and_imports_what_there_is(place: str, source: str) -> None:
    tree = ast.parse(source, filename=place)
    compile(tree, place, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tfnz":
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def test_the_guide_says_first_where_its_images_come_from() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    made = set(
        " ".join(re.findall(r"^\S+ scripts/build_images\.py build/images ([a-z ]+)", text, re.M)).split()
    )
    assert made and made <= set(RECIPES)
    archives = {RECIPES[name][0] for name in made}
    imports = re.findall(r"^tfnz image import build/images/(\S+) --name (\w+)$", text, re.M)
    assert {archive for archive, _ in imports} == archives
    used = list(
        re.finditer(r"""spawn\(\s*"(\w+)"|^tfnz run [^#\n]*?\b(busybox|nginx|debian|python)\b""", text, re.M)
    )
    first = min(match.start() for match in used if "nginx" in match[0])
    assert {match[1] or match[2] for match in used} <= {name for _, name in imports}
    assert text.index("tfnz image import build/images/nginx") < first


def test_commands_are_found() -> None:
    assert len(find_commands()) > 15


@pytest.mark.parametrize(("place", "line"), find_commands(), ids=lambda value: str(value)[:60])
def test_commands_and_their_options_exist(place: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    command = COMMANDS[words[0]]
    rest = words[1:]
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-") and rest[0].islower():
        found = command.commands.get(rest[0])
        assert found is not None, f"{command.name} has no {rest[0]}"
        command, rest = found, rest[1:]
    context = click.Context(command)
    known = {
        name
        for parameter in command.get_params(context)
        for name in parameter.opts + parameter.secondary_opts
    }
    for word in rest:
        if not word.startswith("-"):
            if command.name == "run":  # the rest is the container's
                break
            continue
        assert word in known, f"{line}: {command.name} has no option {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert "://" in target or not path or (document.parent / path).exists(), target
        assert not (anchor and not path) or anchor in headings, target
