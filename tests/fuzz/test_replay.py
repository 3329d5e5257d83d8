"""Every seed, and every input that has broken something once: read without a fuzzer, the same each time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.campaign import build
from tests.fuzz.plan import HERE, TARGETS, Target
from tests.fuzz.seeds import make_seeds
from tfnz_node.images.confinement import run_confined

#: Compilers are slow on a machine that is busy.
pytestmark = pytest.mark.timeout(300)
PYTHON = [target for target in TARGETS.values() if not target.is_c]
C = [target for target in TARGETS.values() if target.is_c]


def find_inputs(target: Target) -> list[Path]:
    return [
        path
        for directory in (target.corpus, target.crashers)
        if directory.is_dir()
        for path in sorted(directory.iterdir())
    ]


def replay(run: Callable[[bytes], None], inputs: list[bytes]) -> None:
    for number, data in enumerate(inputs):
        try:
            run(data)
        except Exception as exc:
            exc.add_note(f"it was input {number}")
            raise


@pytest.mark.parametrize("target", PYTHON, ids=lambda target: target.name)
def test_inputs_are_survived(tmp_path: Path, target: Target) -> None:
    inputs = [path.read_bytes() for path in find_inputs(target)]
    assert inputs
    run = target.load()
    if not target.confined:
        replay(run, inputs)
        return

    def work(outside: object) -> bytes:
        replay(run, inputs)
        return b"survived"

    assert run_confined(tmp_path, work, target.name) == b"survived"


@pytest.mark.parametrize("target", C, ids=lambda target: target.name)
def test_inputs_are_survived_by_init(target: Target) -> None:
    """Under the address and undefined-behaviour sanitizers, by the compiler that init is made with."""
    build("replay")
    directories = [str(path) for path in (target.corpus, target.crashers) if path.is_dir()]
    done = subprocess.run(
        [target.program(replay=True), *directories], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) == len(find_inputs(target)) > 0


def test_the_seeds_are_what_their_generator_makes() -> None:
    """Of images the names alone: another release of a compressor may find other bytes for the same."""
    seeds = make_seeds()
    assert set(seeds) == set(TARGETS)
    for name, files in seeds.items():
        kept = {path.name: path.read_bytes() for path in TARGETS[name].corpus.iterdir()}
        assert set(kept) == set(files), f"run python -m tests.fuzz.seeds for {name}"
        if TARGETS[name].area != "image import":
            assert kept == files, f"run python -m tests.fuzz.seeds for {name}"


def test_every_crasher_belongs_to_a_target() -> None:
    kept = {path.parent.name for path in (HERE / "crashers").glob("*/*")}
    assert kept <= set(TARGETS)
