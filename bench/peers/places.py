"""Places outside our directory where peers write: everything there is ours alone, and is gone afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.peers.programs import run

#: What they leave here is for the running system.
_EMPTIED: Final = Path("/run")
#: What they find here they may change, without changing it for others.
_COVERED: Final = (Path("/etc"), Path("/var/lib"))
#: Of both kinds of cgroups at once crun understands the older alone, and refuses if it finds the other too.
_SECOND_CGROUPS: Final = Path("/sys/fs/cgroup/unified")


def cover_places(directory: Path) -> None:
    """Mount over them, in this process's own mount namespace. Daemons of the host are out of reach by that, too."""
    directory.mkdir()
    if _SECOND_CGROUPS.is_mount():
        run(["umount", str(_SECOND_CGROUPS)])
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_EMPTIED)])
    for place in _COVERED:
        upper, work = (directory / f"{kind}{str(place).replace('/', '-')}" for kind in ("upper", "work"))
        upper.mkdir(mode=0o755)
        work.mkdir()
        options = f"lowerdir={place},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", str(place)])
