"""All removals: what is taken away, one protection after the other, and whose tests must notice."""

from __future__ import annotations

from typing import Final

from tests.protections.removal import Removal
from tests.protections.table import (
    clients,
    confinement,
    containers,
    images,
    kills,
    network,
    protocols,
    resources,
)

REMOVALS: Final[tuple[Removal, ...]] = (
    *resources.REMOVALS,
    *containers.REMOVALS,
    *clients.REMOVALS,
    *images.REMOVALS,
    *protocols.REMOVALS,
    *confinement.REMOVALS,
    *network.REMOVALS,
    *kills.REMOVALS,
)
