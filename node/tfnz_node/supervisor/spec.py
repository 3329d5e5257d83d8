"""What a container is made of, and what it is to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from tfnz.protocol.messages import PreBootFile, Size
from tfnz_node.core.access import OPEN, Egress
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.sandbox.pool import Pool
from tfnz_node.sandbox.roots import RootKind
from tfnz_node.storage.base import Storage

from .connections import Places
from .ledger import Ledger
from .network import Network


@dataclass(frozen=True)
class Host:
    """What of the host containers are made from."""

    pool: Pool
    storage: Storage
    staging: Path
    executor: Executor
    unseal: Callable[[bytes], bytes]
    network: Network
    places: Places = field(default_factory=Places)
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Spec:
    """What a container is to be; everything in it has been checked."""

    id: str
    account: str
    session: str
    image_digest: str
    layers: Sequence[Path]  # the topmost first
    main: ProcessPlan
    files: Sequence[PreBootFile]
    limits: CgroupLimits
    disk_bytes: int
    stop_signal: int
    tag: str | None = None
    sleep: bool = False
    timeout_s: float | None = None
    pty: bool = True
    interactive: bool = False
    size: Size = Size()
    egress: Egress = OPEN

    @property
    def root_kind(self) -> RootKind:
        """The root that it needs."""
        return RootKind(self.image_digest, tuple(self.layers), self.disk_bytes)

    @property
    def files_bytes(self) -> int:
        """The size of all pre-boot files together."""
        return sum(len(file.data) for file in self.files)

    @property
    def hostname(self) -> str:
        """What the container calls itself."""
        return self.tag or self.id[:12]
