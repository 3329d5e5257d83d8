"""The command of the lab.

python -m scripts.lab image                        have a disk for virtual machines
python -m scripts.lab tree                         have a directory for machines of nspawn
python -m scripts.lab [--nspawn] up DIR NAME...    start machines, and wait until they can be logged in to
python -m scripts.lab ssh DIR NAME WORDS           run a command on one of them
python -m scripts.lab cut DIR NAME                 take its power away, give it back, and wait until it is up
python -m scripts.lab down DIR                     take all of them away
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from scripts.lab.image import find_image, name_image
from scripts.lab.machines import Lab
from scripts.lab.nspawn import NspawnLab
from scripts.lab.tools import LabFailed
from scripts.lab.tree import find_tree, name_tree
from scripts.lab.virtual import VirtualLab

CACHE = Path(__file__).resolve().parents[2] / "build" / "lab"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nspawn", action="store_true", help="machines of nspawn, and not virtual ones")
    parser.add_argument("verb", choices=["image", "tree", "up", "ssh", "cut", "down"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.verb not in ("image", "tree") and options.folder is None:
        parser.error("say in which directory the machines are")
    try:
        perform(options.verb, options.folder, options.words, nspawn=options.nspawn)
    except LabFailed as exc:
        sys.exit(f"lab: {exc}")


def find_lab(verb: str, folder: Path, *, nspawn: bool) -> Lab:
    """The machines of a folder. What has been started knows its disk; only a start may have to make one."""
    starting = verb == "up"
    if nspawn or (folder / NspawnLab.LOG).exists():
        return NspawnLab(folder, find_tree(CACHE) if starting else name_tree(CACHE))
    return VirtualLab(folder, find_image(CACHE) if starting else name_image(CACHE))


def perform(verb: str, folder: Path | None, words: list[str], *, nspawn: bool) -> None:
    if folder is None:
        find_tree(CACHE) if verb == "tree" else find_image(CACHE)
        return
    lab = find_lab(verb, folder.resolve(), nspawn=nspawn)
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
