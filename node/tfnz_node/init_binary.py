"""Where tfnz-init and tfnz-keeper are: built beside the daemon's sources, in its environment, or on the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tfnz.protocol.errors import InvalidArgument

CANDIDATES = (
    Path(__file__).parent.parent / "init" / "build" / "tfnz-init",
    # Of a daemon in an environment of its own: it is of the same release then.
    Path(sys.prefix, "libexec", "20ft", "tfnz-init"),
    Path("/usr/libexec/20ft/tfnz-init"),
    Path("/usr/local/libexec/20ft/tfnz-init"),
)


def find_init(configured: str = "") -> Path:
    """The program.

    Raises:
        InvalidArgument: it is in none of the places.
    """
    for path in [Path(configured)] if configured else CANDIDATES:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    looked = configured or ", ".join(map(str, CANDIDATES))
    raise InvalidArgument(
        f"tfnz-init is not at {looked}: build it with `make -C node/init install` in a checkout, "
        "or set `init` in node.toml"
    )


def find_keeper(configured_init: str = "") -> Path:
    """The program that holds what outlives the daemon, which comes with tfnz-init. Raises as `find_init`."""
    inits = [Path(configured_init), *CANDIDATES] if configured_init else CANDIDATES
    candidates = [_beside(path) for path in inits]
    for path in candidates:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise InvalidArgument(
        f"tfnz-keeper is not at {', '.join(map(str, candidates))}: build it with `make -C node/keeper install` in a "
        "checkout, or set `takeover_s = 0` in node.toml, and containers end with the daemon"
    )


def _beside(init: Path) -> Path:
    """Where the keeper is when init is there."""
    if init.parent.name == "build":
        return init.parent.parent.parent / "keeper" / "build" / "tfnz-keeper"
    return init.with_name("tfnz-keeper")
