"""What is fuzzed: each target by its name, what reads its inputs, and how much of it is a short run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
#: What a long run has found so far, and goes on from.
KEPT: Final = ROOT / "build" / "fuzz"
INIT: Final = ROOT / "node" / "init"
#: Where a target is fuzzed: what it goes on from, and what broke it. A confined target has that place as its root, and
#: leaves alone what is called so.
CORPUS: Final = "20ft-fuzz-corpus"
FOUND: Final = "20ft-fuzz-found"


@dataclass(frozen=True)
class Target:
    """One function that takes any bytes.

    Attributes:
        area: which is fuzzed by it: the protocol, names, image import or init's socket.
        max_bytes: the largest input that is tried.
        short_runs: how often it is called in the tests.
        confined: it runs in a process that is confined as one that unpacks layers is.
    """

    name: str
    area: str
    max_bytes: int
    short_runs: int
    confined: bool = False

    @property
    def is_c(self) -> bool:
        """Whether it is one of `node/init/fuzz`, and not of `tests/fuzz/targets`."""
        return self.name.startswith("init-")

    @property
    def corpus(self) -> Path:
        """The seeds, made by `seeds.py`."""
        return HERE / "corpus" / self.name

    @property
    def crashers(self) -> Path:
        """Inputs that have broken it once."""
        return HERE / "crashers" / self.name

    def program(self, *, replay: bool) -> Path:
        """The binary of a target in C: for libFuzzer, or to call it once for each file."""
        name = f"fuzz_{self.name.removeprefix('init-')}"
        return INIT / "build" / "fuzz" / ("replay" if replay else "") / name

    def load(self) -> Callable[[bytes], None]:
        """The function of a target in Python."""
        module = importlib.import_module(f"tests.fuzz.targets.{self.name}")
        return cast("Callable[[bytes], None]", module.run)


TARGETS: Final = {
    target.name: target
    for target in (
        Target("frames", "protocol", 4096, 20_000),
        Target("framing", "protocol", 2048, 2_000),
        Target("trees", "protocol", 2048, 5_000),
        Target("channel", "protocol", 1024, 3_000),
        Target("sessions", "protocol", 1024, 1_000),
        Target("questions", "names", 2048, 5_000),
        Target("tar", "image import", 8192, 2_000),
        Target("archive", "image import", 16384, 1_000),
        Target("layer", "image import", 8192, 500, confined=True),
        Target("imports", "image import", 16384, 50),
        Target("wire", "init's socket", 4096, 20_000),
        Target("init-socket", "init's socket", 4096, 50_000),
        Target("init-packet", "init's socket", 4096, 500_000),
        Target("init-path", "init's socket", 8192, 100_000),
        Target("init-tree", "init's socket", 4096, 100_000),
        Target("init-users", "init's socket", 4096, 50_000),
    )
}

#: One that breaks on one input, so that the tests can see what becomes of that.
PLANTED: Final = Target("planted", "protocol", 16, 200_000)


def find_target(name: str) -> Target:
    """KeyError when there is none."""
    return PLANTED if name == PLANTED.name else TARGETS[name]
