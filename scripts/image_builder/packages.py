"""Finds and downloads Debian packages with their dependencies, through the machine's own apt configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Dependencies that only installation scripts use: nothing in an image runs those.
NOT_NEEDED = frozenset(
    {"debconf", "dpkg", "iproute2", "libbpf1", "libelf1", "libxtables12", "libmnl0", "libcap2-bin", "tar"}
)


class BuildFailed(Exception):
    """An image could not be built; the message says which step and what its tool said."""


class PackageCache:
    """Packages downloaded into a directory of our own: the machine's package state is never touched."""

    def __init__(self, directory: Path) -> None:
        self._archives = directory / "archives"
        self._lists = directory / "lists"
        self._status = directory / "status"
        self.scratch = directory
        self._empty = directory / "empty"
        for needed in (self._archives, self._lists, self._empty):
            (needed / "partial").mkdir(parents=True, exist_ok=True)
        # An empty status file: every dependency is then resolved as if nothing were installed.
        self._status.write_bytes(b"")

    def update(self) -> None:
        """Fetch what the configured package sources offer today."""
        self._apt("update")

    def download(self, names: Sequence[str], *, without: frozenset[str] = frozenset()) -> list[Path]:
        """Return the package files of names and of all they depend on, less those in `without`."""
        install = ["--no-install-recommends", "install", *names]
        # Only files that are not there yet are listed, hence a directory where none ever is.
        listing = self._apt("-o", f"Dir::Cache::Archives={self._empty}", "--print-uris", *install)
        self._apt("--yes", "--download-only", *install)
        files = [line.split()[1] for line in listing.splitlines() if line.startswith("'")]
        wanted = [name for name in files if package_name(name) not in without | NOT_NEEDED]
        return [self._archives / name for name in sorted(wanted)]

    def _apt(self, *arguments: str) -> str:
        options = {
            "Dir::State::Lists": str(self._lists),
            "Dir::State::status": str(self._status),
            "Dir::Cache::Archives": str(self._archives),
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Acquire::Languages": "none",
            # The unprivileged download user cannot enter a directory such as /root.
            "APT::Sandbox::User": "root",
            "APT::Get::List-Cleanup": "false",
            "Debug::NoLocking": "true",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return run(["apt-get", "-qq", *words, *arguments]).decode()


def package_name(file_name: str) -> str:
    """Return the package a file such as libc6_2.36-9_amd64.deb belongs to."""
    return file_name.partition("_")[0]


def read_package(package: Path) -> bytes:
    """Return the tar of all files a package installs."""
    return run(["dpkg-deb", "--fsys-tarfile", str(package)])


def run(argv: Sequence[str]) -> bytes:
    """Run a tool and return what it wrote to its standard output."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=environment
        )
    except FileNotFoundError:
        raise BuildFailed(
            f"{argv[0]} is not on this machine; images are built on Debian or a relative of it"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise BuildFailed(f"{' '.join(argv)} failed with status {done.returncode}: {said}")
    return done.stdout
