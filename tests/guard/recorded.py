"""What each thing cost when it was last measured and found right: ``python -m tests.guard.recorded`` measures anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.guard.counts import Counts, count_all

#: By the node's version of cgroups, whose files it reads and writes differ in number.
FILE = Path(__file__).with_name("recorded.json")


def read_recorded(version: str) -> Counts | None:
    """None when nothing was recorded for this version of cgroups."""
    recorded: dict[str, Counts] = json.loads(FILE.read_text())
    return recorded.get(version)


def find_grown(counted: Counts, recorded: Counts) -> list[str]:
    """What costs more than it did, a line each.

    A twentieth and three more are left to chance: acknowledgements that find no frame to go with, reads that come
    early.
    """
    return [
        f"{operation}: {count} {name}, recorded {recorded.get(operation, {}).get(name, 0)}"
        for operation, costs in counted.items()
        for name, count in costs.items()
        if count > 1.05 * recorded.get(operation, {}).get(name, 0) + 3
    ]


def record() -> None:
    """Keep what is counted now."""
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as directory:
        version, counts = count_all(Path(directory))
    FILE.write_text(json.dumps(recorded | {version: counts}, indent=2) + "\n")


if __name__ == "__main__":
    record()
