#!/usr/bin/env python3
"""Builds the images that tests and examples use, from Debian packages, into a directory.

    scripts/build_images.py OUTDIR [busybox|python|nginx ...]

An image that is there already, built by these very scripts, is left alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from scripts.image_builder.packages import BuildFailed, PackageCache  # noqa: E402
from scripts.image_builder.recipes import RECIPES  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Build what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("outdir", type=Path, help="directory the images are written to")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help=f"any of {', '.join(RECIPES)}; default all"
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.images if name not in RECIPES]
    if unknown:
        parser.error(f"there is no image {unknown[0]!r}; choose from {', '.join(RECIPES)}")
    chosen.outdir.mkdir(parents=True, exist_ok=True)
    try:
        with only_builder(chosen.outdir):
            build(chosen.outdir, chosen.images or list(RECIPES))
    except BuildFailed as failure:
        print(f"build_images.py: {failure}", file=sys.stderr)
        return 1
    return 0


def build(outdir: Path, names: Sequence[str]) -> None:
    """Build each image whose file is missing or was built by other scripts."""
    version = scripts_version()
    missing = [name for name in names if not is_current(outdir, name, version)]
    if not missing:
        return
    packages = PackageCache(outdir.resolve() / ".packages")  # apt takes a relative directory to be its own
    with step("package lists"):
        packages.update()
    for name in missing:
        file_name, recipe = RECIPES[name]
        with step(f"image {name}"):
            write_atomically(outdir / file_name, recipe(packages))
            stamp(outdir, name).write_text(version)
        print(f"  {outdir / file_name}: {(outdir / file_name).stat().st_size / 1e6:.1f} MB", flush=True)


def scripts_version() -> str:
    """Return a digest of everything that decides what an image contains, packages apart."""
    sources = [Path(__file__), *sorted((HERE / "image_builder").glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def stamp(outdir: Path, name: str) -> Path:
    """Return the file that says which scripts built an image."""
    return outdir / f".{name}.built-by"


def is_current(outdir: Path, name: str, version: str) -> bool:
    """Tell whether an image is there and was built by these scripts."""
    file_name, _ = RECIPES[name]
    made = stamp(outdir, name)
    return (outdir / file_name).exists() and made.exists() and made.read_text() == version


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees part of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


@contextmanager
def only_builder(outdir: Path) -> Iterator[None]:
    """Wait while another process builds into the same directory."""
    with (outdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    print(f"building {title} ...", end="" if os.isatty(1) else "\n", flush=True)
    started = time.monotonic()
    yield
    print(f" done in {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
