"""Images that are named by the path of an archive: told from names, imported with progress, recognised again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from tfnz.protocol.messages import ImageInfo

from .output import say
from .sdk import Progress, SomeLocation

_ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_PATH_PREFIXES: Final = ("/", "./", "../", "~/")
_MAX_REMEMBERED: Final = 256


def is_path(image: str) -> bool:
    """Whether an image is given as a path: it begins like one, or ends like an archive, as no name does."""
    return image in (".", "..") or image.startswith(_PATH_PREFIXES) or image.endswith(_ARCHIVE_SUFFIXES)


def import_with_progress(
    location: SomeLocation, source: str | IO[bytes], *, name: str | None, show: bool
) -> ImageInfo:
    """Imports an archive; if `show` is set, with a bar on stderr, or one line where that is no terminal."""
    if not show:
        return location.import_image(source, name)
    title = Path(source).name if isinstance(source, str) else "standard input"
    if not sys.stderr.isatty():
        say(f"tfnz: importing {title}")
        return location.import_image(source, name)
    with _progress_bar(f"importing {title}") as progress:
        return location.import_image(source, name, progress)


@contextlib.contextmanager
def _progress_bar(title: str) -> Iterator[Progress]:
    from rich.console import Console  # late: most commands have no use for them
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(title), total=None)
        yield lambda sent, total: bar.update(task, completed=sent, total=total)


def ensure_imported(location: SomeLocation, path: str, *, show: bool) -> str:
    """The digest of the image in an archive, imported unless the location has it and the file has not changed."""
    source = os.path.expanduser(path)
    state = _describe_state(source)
    known = _read_memory().get(state) if state else None
    if known is not None and any(image.digest == known for image in location.images()):
        return known
    digest = import_with_progress(location, source, name=None, show=show).digest
    if state:
        _remember(state, digest)
    return digest


# --- memory: which file held which image ---------------------------------------------------------------------------


def _describe_state(path: str) -> str | None:
    """Words that change whenever the content of an archive does; None when that cannot be told cheaply."""
    try:
        real = os.path.realpath(path)
        if os.path.isdir(real):  # an OCI layout, whose index names all the rest by digest
            index = Path(real, "index.json").read_bytes()
            return f"{real} {hashlib.sha256(index).hexdigest()}"
        found = os.stat(real)
    except OSError:
        return None
    # The time of the inode's change cannot be set back, as that of the content can.
    return f"{real} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _memory_file() -> Path | None:
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # there is no home
        return None
    return Path(base) / "20ft" / "archives.json"


def _read_memory() -> dict[str, str]:
    path = _memory_file()
    try:
        content = json.loads(path.read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def _remember(state: str, digest: str) -> None:
    """Notes which image a file held. It only saves time, so failing at it does not matter."""
    path = _memory_file()
    if path is None:
        return
    place = state.split(" ", 1)[0]
    memory = {k: v for k, v in _read_memory().items() if k.split(" ", 1)[0] != place}
    kept = dict([*memory.items(), (state, digest)][-_MAX_REMEMBERED:])
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
