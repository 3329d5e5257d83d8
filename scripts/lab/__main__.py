"""The command of the lab.

python -m scripts.lab image               have a disk for machines
python -m scripts.lab up DIR NAME...      start machines, and wait until they can be logged in to
python -m scripts.lab ssh DIR NAME WORDS  run a command on one of them
python -m scripts.lab cut DIR NAME        take its power away, give it back, and wait until it is up
python -m scripts.lab down DIR            take all of them away
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from scripts.lab.image import find_image, name_image
from scripts.lab.machines import Lab
from scripts.lab.tools import LabFailed

CACHE = Path(__file__).resolve().parents[2] / "build" / "lab"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.lab", description=__doc__, add_help=True)
    parser.add_argument("verb", choices=["image", "up", "ssh", "cut", "down"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.verb != "image" and options.folder is None:
        parser.error("say in which directory the machines are")
    try:
        perform(options.verb, options.folder, options.words)
    except LabFailed as exc:
        sys.exit(f"lab: {exc}")


def perform(verb: str, folder: Path | None, words: list[str]) -> None:
    # What has been started knows its disk; only a start may have to make one.
    image = find_image(CACHE) if verb in ("image", "up") else name_image(CACHE)
    if folder is None:
        return
    lab = Lab(folder.resolve(), image)
    started = time.monotonic()
    match verb:
        case "up":
            lab.up(words)
        case "down":
            lab.down()
        case "ssh":
            print(lab.ssh(lab.machine(words[0]), " ".join(words[1:])), end="")
            return
        case "cut":
            machine = lab.machine(words[0])
            lab.cut(machine)
            lab.start(machine)
            lab.wait_for(machine)
    print(f"lab: {verb} {' '.join(words)} took {time.monotonic() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
