"""Imports point one way, and what is written where can be guessed: the architecture, read from the source itself."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Where each of our packages is found.
PACKAGES = {"tfnz": ROOT, "tfnz_command": ROOT, "tfnz_node": ROOT / "node", "bench": ROOT}

#: Adapters: one room for each outside thing. They know the core's words and the kernel, and not each other.
ADAPTERS = {"sandbox", "rootfs", "storage", "images", "store", "links", "firewall", "resolver", "keeper"}
#: The rooms of the daemon, and which others each may enter. A new room must be entered here, with a decision.
ROOMS: dict[str, set[str]] = {
    # Leaves: they know nobody.
    "kernel": set(),
    "core": set(),
    # A seam for tests: a daemon that ends at a named point.
    "crash_points": set(),
    "init_binary": set(),
    "instance": set(),
    "keys": set(),
    "loop_watch": set(),
    "notify": set(),
    "workers": set(),
    # A default must be possible.
    "config": {"core"},
    **{adapter: {"kernel", "core"} for adapter in ADAPTERS},
    # The catalogue of images is kept in the store.
    "images": {"kernel", "core", "store"},
    "gateway": {"core"},
    "accounts": {"gateway", "store"},
    "host_errors": {"config", "kernel", "keys", "store"},
    "supervisor": {"core", "crash_points", *ADAPTERS},
    "handlers": {"core", "crash_points", "gateway", "supervisor", *ADAPTERS},
    "doctor": {"config", "init_binary", "kernel"},
}
#: Where it is all put together, from the inside out; each may enter every room, and those before it.
TOP = ("assembly", "daemon", "cli", "__main__")
for _index, _room in enumerate(TOP):
    ROOMS[_room] = {*ROOMS} - {*TOP[_index:]}
#: What `tfnz_command` begins.
COMMANDS = ("tfnz.cli", "tfnz_node.cli")
#: What the daemon shares with the SDK; it knows neither side, and may know the protocol.
SHARED = {"tfnz.framing", "tfnz.joint", "tfnz.protocol", "tfnz.systemd"}
#: What the purest rooms may import that is neither ours nor Python's.
THIRD_PARTY: dict[str, set[str]] = {
    "tfnz.protocol": {"msgspec"},
    "tfnz.framing": set(),
    "tfnz.joint": set(),
    "tfnz.systemd": set(),
    "tfnz_node.core": {"msgspec"},
    "tfnz_node.kernel": set(),
}
#: Names that say nothing about what is inside.
EMPTY_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}
#: Tests of more than one module, or of what is none. A command line and tfnz-init are tested by what they do.
WITHOUT_MIRROR = {
    "cli",
    "confinement",
    "docs",
    "examples",
    "fuzz",
    "guard",
    "init",
    "library",
    "protections",
    "roles",
    "scripts",
    "soak",
    "system",
    "systemd",
    "test_architecture.py",
    "test_built_images.py",
    "test_project.py",
}

#: Tests of what several modules of a package do together: a contract that all keep, an attack that all withstand.
TOPICS = {
    "connections",
    "contract",
    "doubt",
    "kills",
    "matrix",
    "mutations",
    "openness",
    "restarts",
    "restored",
    "resuming",
    "rule_breakers",
    "shares",
    "traversal",
    "whiteouts",
}

#: A module's name, and the full names of what it imports.
Imports = dict[str, set[str]]


def find_modules(packages: dict[str, Path]) -> dict[str, Path]:
    """Every module of our packages, by its full name."""
    modules = {}
    for package, base in packages.items():
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def parse_imports(module: str, source: str, *, is_package: bool, known: set[str]) -> set[str]:
    """What a module imports, wherever in its text: full names of modules, not of what is in them."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import name` is of a module when there is one of this name.
            found |= {full if (full := f"{origin}.{alias.name}") in known else origin for alias in node.names}
    return found


def read_imports(packages: dict[str, Path]) -> Imports:
    modules = find_modules(packages)
    return {
        module: parse_imports(
            module, path.read_text(), is_package=path.name == "__init__.py", known=set(modules)
        )
        for module, path in modules.items()
    }


def find_room(module: str) -> str:
    """The room of a module: the package or module right beneath the top."""
    return ".".join(module.split(".")[:2])


def find_back_edges(imports: Imports) -> list[str]:
    """Every import that the architecture does not allow, with the reason."""
    return [
        f"{module} imports {target}: {reason}"
        for module, targets in sorted(imports.items())
        for target in sorted(targets)
        for reason in judge_import(module, target)
    ]


def judge_import(module: str, target: str) -> Iterator[str]:
    """What is wrong with one import; nothing if it is allowed."""
    room, target_room = find_room(module), find_room(target)
    top, target_top = module.split(".")[0], target.split(".")[0]
    if target_top not in PACKAGES:
        allowed = THIRD_PARTY.get(room)
        if allowed is not None and target_top not in {*sys.stdlib_module_names, *allowed}:
            yield f"{room} is to need nothing but Python and {sorted(allowed) or 'itself'}"
    elif top == "bench":
        if target_top != "bench" and target != "tfnz":
            yield "the benchmark is a program: it imports tfnz, and runs the daemon as others do"
    elif target_top == "bench":
        yield "what is measured knows nothing of it"
    elif top == "tfnz_command":
        if not target.startswith(COMMANDS):
            yield "the beginning of the commands imports nothing else of ours, so that it begins at once"
    elif target_top == "tfnz_command":
        yield "commands begin there; nobody else does"
    elif top == "tfnz" and target_top == "tfnz_node":
        yield "the SDK knows the daemon by its messages only"
    elif top == "tfnz_node" and target_top == "tfnz":
        if target_room not in SHARED:
            yield f"the daemon shares only {', '.join(sorted(SHARED))} with the SDK"
        elif room == "tfnz_node.kernel":
            yield "kernel knows Python's standard library only"
    elif room == target_room:
        return
    elif room in SHARED:
        if target_room == "tfnz.protocol":
            return
        yield f"{room} knows neither side"
    elif target_room == "tfnz.cli":
        yield "only people use the command line; programs use what it uses"
    elif top == "tfnz_node":
        yield from judge_rooms(module, target)


def judge_rooms(module: str, target: str) -> Iterator[str]:
    # The package itself holds nothing but its docstring, and everybody passes through it.
    if "." not in module or "." not in target:
        return
    room, target_room = module.split(".")[1], target.split(".")[1]
    if room not in ROOMS:
        yield f"the room {room} is not in this test's table: decide what it may import, and enter it"
    elif target_room not in ROOMS[room]:
        yield f"{room} may import only {', '.join(sorted(ROOMS[room])) or 'from itself'}"


def test_imports_point_one_way() -> None:
    back_edges = find_back_edges(read_imports(PACKAGES))
    assert not back_edges, "\n".join(back_edges)


def test_the_table_of_rooms_has_no_circle() -> None:
    graphlib.TopologicalSorter(ROOMS).prepare()


def test_every_room_is_in_the_table() -> None:
    rooms = {module.split(".")[1] for module in find_modules(PACKAGES) if module.startswith("tfnz_node.")}
    assert rooms <= set(ROOMS)


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("tfnz/protocol/planted.py", "import zmq", "nothing but Python"),
        ("tfnz/protocol/planted.py", "from tfnz import planted", "knows neither side"),
        ("tfnz/protocol/planted.py", "from ..planted import x", "knows neither side"),
        ("tfnz/protocol/planted.py", "from .. import planted", "knows neither side"),
        ("tfnz/framing.py", "import msgspec", "nothing but Python"),
        ("tfnz/framing.py", "from . import planted", "knows neither side"),
        ("tfnz/planted.py", "import tfnz_node.core", "by its messages only"),
        ("tfnz/planted.py", "def f():\n    from tfnz_node import core", "by its messages only"),
        ("tfnz/planted.py", "from .cli import main", "only people use the command line"),
        ("tfnz_node/core/planted.py", "import zmq.asyncio", "nothing but Python"),
        ("tfnz_node/core/planted.py", "from tfnz_node.kernel import x", "core may import only from itself"),
        ("tfnz_node/core/planted.py", "from ..sandbox.planted import x", "core may import only from itself"),
        ("tfnz_node/core/planted.py", "from .. import sandbox", "core may import only from itself"),
        ("tfnz_node/kernel/planted.py", "from tfnz.protocol import errors", "standard library only"),
        ("tfnz_node/gateway/planted.py", "from tfnz_node.handlers import x", "gateway may import only core"),
        ("tfnz_node/sandbox/planted.py", "import tfnz_node.storage", "sandbox may import only core, kernel"),
        (
            "tfnz_node/handlers/planted.py",
            "from tfnz import Location",
            "only tfnz.framing, tfnz.joint, tfnz.protocol",
        ),
        ("tfnz_node/planted.py", "from . import core", "not in this test's table"),
        ("bench/planted.py", "from tfnz_node import core", "runs the daemon as others do"),
        ("bench/planted.py", "from tfnz.protocol import errors", "it imports tfnz"),
        ("tfnz/planted.py", "from bench import planted", "knows nothing of it"),
        ("tfnz_command/planted.py", "from tfnz.protocol import errors", "begins at once"),
        ("tfnz/planted.py", "import tfnz_command", "nobody else does"),
    ],
)
def test_a_planted_back_edge_is_found(tmp_path: Path, path: str, text: str, reason: str) -> None:
    for part in (
        "tfnz/protocol",
        "tfnz/cli",
        "bench",
        *(f"tfnz_node/{room}" for room in ("core", "kernel", "sandbox")),
    ):
        (tmp_path / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / part / "__init__.py").touch()
    (tmp_path / "tfnz" / "planted.py").touch()
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    [found] = find_back_edges(read_imports(dict.fromkeys(PACKAGES, tmp_path)))
    assert path.removesuffix(".py").replace("/", ".") in found
    assert reason in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("tfnz/protocol/planted.py", "import msgspec, json\nfrom . import errors"),
        ("tfnz/planted.py", "from .protocol import errors\nimport zmq"),
        ("tfnz/cli/planted.py", "from tfnz import Location\nfrom ..protocol.errors import TfnzError"),
        ("tfnz_node/core/planted.py", "from tfnz.protocol.errors import TfnzError\nfrom .plan import x"),
        ("tfnz_node/sandbox/planted.py", "from tfnz_node.kernel.tools import x\nimport ctypes"),
        ("tfnz_node/gateway/planted.py", "from tfnz.framing import FramedSocket"),
        ("bench/planted.py", "from tfnz import Location\nfrom bench.planted import x"),
        ("tfnz/joint.py", "import socket\nfrom .protocol import streams"),
        ("tfnz_node/daemon.py", "from tfnz_node.sandbox import x\nfrom tfnz_node import core"),
    ],
)
def test_an_import_that_points_the_right_way_is_not(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert find_back_edges(read_imports(dict.fromkeys(PACKAGES, tmp_path))) == []


def test_modules_are_named_for_what_is_in_them() -> None:
    empty = [name for name in find_modules(PACKAGES) if name.split(".")[-1].strip("_") in EMPTY_NAMES]
    assert not empty


def test_tests_mirror_the_tree() -> None:
    strays = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if not has_mirror(path)]
    assert not strays, "tests of no module (see WITHOUT_MIRROR and TOPICS): " + ", ".join(map(str, strays))


def has_mirror(test: Path) -> bool:
    """Whether a test is of the module that its path and name say, or of a topic of that package."""
    parts = test.relative_to(ROOT / "tests").parts
    if WITHOUT_MIRROR & set(parts):
        return True
    name = test.stem.removeprefix("test_")
    bases = {"tfnz": ROOT / "tfnz", "node": ROOT / "node" / "tfnz_node", "bench": ROOT / "bench"}
    if parts[0] not in bases:
        return False
    folder = bases[parts[0]].joinpath(*parts[1:-1])
    places = (folder / f"{name}.py", folder / f"_{name}.py", folder / name / "__init__.py")
    return any(place.exists() for place in places) or (name in TOPICS and folder.is_dir())


@pytest.mark.parametrize("package", ["tfnz", "tfnz.aio"])
def test_what_is_public_is_listed_in_order_and_there(package: str) -> None:
    module = importlib.import_module(package)
    listed: list[str] = module.__all__
    assert listed == sorted(listed)
    assert [name for name in listed if not hasattr(module, name)] == []
    modules = {name.split(".")[-1] for name in find_modules(PACKAGES)}
    modules |= {"TYPE_CHECKING", "annotations", "importlib"}
    public = {name for name in vars(module) if not name.startswith("_")} - modules
    assert public <= set(listed), "imported here, and not in __all__"


def test_a_daemon_has_nothing_in_memory_of_what_is_for_applications() -> None:
    """It is started in a hurry: until it is there again, nobody is served."""
    show = "import sys, tfnz_node.cli, tfnz_node.assembly; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True).stdout
    ours = {name for name in loaded.split() if name.startswith("tfnz.")}
    assert ours and {name for name in ours if not name.startswith(tuple(SHARED))} == set()
