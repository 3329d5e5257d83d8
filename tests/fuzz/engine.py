"""The process that fuzzes one target in Python: ``python -m tests.fuzz.engine NAME PLACE [OPTION...]``.

PLACE is a directory with the corpus and room for what is found; the options are libFuzzer's. The product's own modules
are instrumented, so that the fuzzer sees how far an input comes.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

from tests.fuzz.plan import CORPUS, FOUND, find_target

#: What inputs find their way through. The rest of the SDK would only take time to begin.
INSTRUMENTED = [
    "tfnz.framing",
    "tfnz.protocol",
    "tfnz_node.gateway",
    "tfnz_node.images",
    "tfnz_node.sandbox.wire",
    "tests.fuzz.targets.planted",
]


def main(name: str, place: Path, options: list[str]) -> None:
    """Fuzz until an option says that it is enough, or something is found. Does not return."""
    target = find_target(name)
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        run = target.load()
        from tfnz_node.images.confinement import confine
    if target.confined:
        # Nothing can be imported any more when the root has changed, and it imports this only when it begins.
        importlib.import_module("atheris.core_with_libfuzzer")
        confine(place)
        place = Path("/")
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={place / FOUND}/", str(place / CORPUS)],
        run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
