"""Who attends to virtual machines: passes frames between them, and takes them away when their owner has ended.

    python -m scripts.lab.attendant FOLDER COUNT OWNER

OWNER is a descriptor of a process, or empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.lab.image import Image
from scripts.lab.switch import serve
from scripts.lab.virtual import VirtualLab


def attend(folder: Path, count: int, owner: int | None) -> None:
    """Returns when there are no machines any more."""
    serve(folder, count, owner)
    # Whoever takes machines away need not know what they were made of.
    VirtualLab(folder, Image(folder)).down()


if __name__ == "__main__":
    FOLDER, COUNT, OWNER = sys.argv[1:]
    attend(Path(FOLDER), int(COUNT), int(OWNER) if OWNER else None)
