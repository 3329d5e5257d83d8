"""Releases on a host: bundles unpacked beside each other, one of which is in use through a symbolic link.

A bundle is a tar that the controller has made for this host's Python (see the module tfnz_bundle):

    bundle.json     what it is: its id, the Python it is for, the commands in it
    site/           site-packages: the program and all that it needs
    source/         files that are not a package, if there are any
    libexec/        programs that are not Python, if there are any

A release is a virtual environment of that, with the name of the bundle's id. It is put in place whole, by a rename
after everything is on the disk: whatever is there is complete, even after a power cut.

Private to the modules of this project: it may change with any release.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.tfnz_files import DRAFT, name_draft

DESCRIPTION = "bundle.json"
KEYS = {"id", "python", "commands", "source"}


class BadBundle(Exception):
    """It is no bundle, or not for this host."""


def read_bundle(archive: Path) -> dict[str, Any]:
    """What a bundle says of itself.

    Raises:
        BadBundle: it is not one.
    """
    try:
        with tarfile.open(archive) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member is not None and member.name == DESCRIPTION else None
            if file is None:
                raise BadBundle(f"{archive} is no bundle: it does not begin with {DESCRIPTION}")
            description = json.loads(file.read(1 << 20))
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as exc:
        raise BadBundle(f"{archive} is no bundle: {exc}") from exc
    if not isinstance(description, dict) or KEYS - set(description):
        raise BadBundle(f"{archive} is no bundle: its {DESCRIPTION} lacks one of {', '.join(sorted(KEYS))}")
    return description


def check_python(description: Mapping[str, Any], version: str) -> None:
    """That a bundle is for this Python, as `3.11`.

    Raises:
        BadBundle: it is for another.
    """
    if description["python"] != version:
        raise BadBundle(
            f"the bundle is for Python {description['python']}, and this host has {version}: make one for it"
        )


def expect_bundle(archive: Path, identity: str | None) -> dict[str, Any]:
    """What a bundle says of itself, which is for this Python and, if `identity` is given, has that id.

    Raises:
        BadBundle: what is there is none for this host, or another.
    """
    description = read_bundle(archive)
    check_python(description, "{}.{}".format(*sys.version_info))
    if identity not in (None, description["id"]):
        raise BadBundle(f"{archive} is the bundle {description['id']}, and not {identity}")
    return description


def render_command(interpreter: Path, target: str) -> str:
    """A command of an environment: a Python program that calls `target`, as `package.module:function`."""
    module, _, function = target.partition(":")
    return f"#!{interpreter}\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


def install_release(archive: Path, folder: Path, python: str) -> bool:
    """Makes a release of a bundle, beside others in `folder`; whether there was none yet.

    Args:
        python: the interpreter that the environment is made with.

    Raises:
        BadBundle: it is not one, is damaged, or cannot be unpacked; nothing of it is left then.
    """
    description = read_bundle(archive)
    release = folder / description["id"]
    if release.is_dir():
        return False
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    draft = name_draft(release)
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was interrupted
    try:
        _fill(draft, archive, description, python, release)
        os.sync()  # or the rename might be on the disk before what is renamed
        draft.rename(release)
    except subprocess.CalledProcessError as exc:
        said = " ".join(exc.stderr.decode(errors="replace").split())
        raise BadBundle(f"{python} cannot make a virtual environment: {said}") from exc
    except (OSError, EOFError, zlib.error, tarfile.TarError) as exc:
        raise BadBundle(f"{archive} cannot be unpacked to {folder}: {exc}") from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _fill(draft: Path, archive: Path, description: Mapping[str, Any], python: str, release: Path) -> None:
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", str(draft)], check=True, capture_output=True)
    with tarfile.open(archive) as tar:
        # Debian 12's Python has no filters yet. A bundle comes from the controller, which is root here anyway.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(draft)
    [packages] = (draft / "lib").glob("python*/site-packages")
    if (draft / "site").is_dir():
        packages.rmdir()
        (draft / "site").rename(packages)
    for name, target in description["commands"].items():
        command = draft / "bin" / name
        command.write_text(render_command(release / "bin" / "python", target))
        command.chmod(0o755)


def find_current(link: Path) -> str | None:
    """The name of the release in use."""
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return None


def switch(link: Path, release: Path) -> None:
    """Has the link lead to a release, at once."""
    draft = name_draft(link)
    draft.unlink(missing_ok=True)
    draft.symlink_to(release)
    os.replace(draft, link)


def find_others(folder: Path, keep: int, *names: str | None) -> list[Path]:
    """The releases that need not be kept: all but the `keep` latest and those that are named. Drafts, too."""
    if not folder.is_dir():
        return []
    present = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    releases = [path for path in present if not path.name.startswith(DRAFT)]
    drafts = [path for path in present if path.name.startswith(DRAFT)]
    return [path for path in releases[keep:] if path.name not in names] + drafts
