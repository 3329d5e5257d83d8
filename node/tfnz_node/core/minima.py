"""The least that a container can live with, whoever sets its limits."""

from __future__ import annotations

from typing import Final

#: Measured: with 1 MiB some containers are killed while they boot, with 1.5 a shell and transfers of files work, with 2
#: nginx does, with 4 a Python. Less than that is a mistake in the unit rather than a wish.
MEMORY_BYTES: Final = 4 << 20
DISK_BYTES: Final = 1 << 20
#: Init, and the main process.
PIDS: Final = 2
CPUS: Final = 0.01
