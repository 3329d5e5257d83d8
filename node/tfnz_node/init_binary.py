"""Where the tfnz-init program is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: Beside the package in a checkout; then where a package of the distribution puts it.
PLACES: Final = (Path(__file__).resolve().parents[1] / "init" / "tfnz-init", Path("/usr/lib/20ft/tfnz-init"))


def find_init(configured: str) -> Path:
    """The program that the configuration names, or else the first that is there.

    When none is there it is the first place, so that whoever starts it names that one.
    """
    if configured:
        return Path(configured)
    return next((place for place in PLACES if place.is_file()), PLACES[0])
