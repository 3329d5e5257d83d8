"""Files of a host that are replaced whole, or stay as they are.

Private to the modules of this project: it may change with any release.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: How the names of drafts begin.
DRAFT = ".new-"


def name_draft(path: Path) -> Path:
    """Where the next content of a file is written: of a run that was cut off, the next one finds it there."""
    return path.with_name(f"{DRAFT}{path.name}")


def replace_files(texts: Mapping[Path, str], *, public: str = "") -> None:
    """Replaces files whole, all of them or, if there is no room or no right, none.

    Args:
        public: with what the names of those end that others may read; the rest is for root alone.

    Raises:
        OSError: they are as they were; its `filename` is the one that cannot be replaced.
    """
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_draft(name_draft(path), text, 0o644 if public and path.name.endswith(public) else 0o600)
        for path in texts:
            os.replace(name_draft(path), path)
    except OSError as exc:
        for each in texts:
            name_draft(each).unlink(missing_ok=True)
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _write_draft(draft: Path, text: str, mode: int) -> None:
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
