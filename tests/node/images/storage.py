"""A storage directory, and imports into it without a process in between."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path

from tfnz.protocol.errors import restore_error
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.worker import Arguments, ImportResult, main


class InPieces:
    """A source that gives less than it is asked for, as pipes do."""

    def __init__(self, data: bytes, most: int = 50_000) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._most))


class Storage:
    """A storage directory, and imports into it without a process in between."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("layers", "tmp"):
            (root / name).mkdir(parents=True)

    def load(
        self, archive: bytes, *, name: str | None = None, limits: ImportLimits | None = None
    ) -> ImportResult:
        """Import an archive; raises what the importing process reports."""
        scratch = self.root / "tmp" / uuid.uuid4().hex
        arguments = Arguments(str(self.root), str(scratch), os.getpid(), name, limits or ImportLimits())
        answer = main(arguments, InPieces(archive))
        assert list((self.root / "tmp").iterdir()) == []
        if answer.error is not None:
            raise restore_error(answer.error)
        assert answer.result is not None
        return answer.result

    def unpack(self, layer: bytes) -> Path:
        """Import a root file system and return where its files are."""
        (image,) = self.load(layer).images
        return self.root / "layers" / image.layers[0]

    def layers(self) -> list[str]:
        return sorted(path.name for path in (self.root / "layers").iterdir())
