"""The node that is soaked: a daemon of its own, with a network that no other has."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from tests.system.conftest import RunningNode, make_node
from tfnz_node.core.lan import Lan

LAN: Final = Lan(IPv4Network("10.224.0.0/16"))
_PORT: Final = 2051
#: As many sandboxes wait after a burst as before it, so that processes can be compared. A client over TCP that is
#: killed while there is no daemon is waited for as long as takeover_s says.
TAKEOVER_S: Final = 30
_SETTINGS: Final = f"""
disk = "8G"
pool_size = 6
pool_max = 6
takeover_s = {TAKEOVER_S}
network = "{LAN.network}"
"""


def make_soak_node(directory: Path) -> RunningNode:
    """A node that has not been started."""
    return make_node(directory, port=_PORT, settings=_SETTINGS)
