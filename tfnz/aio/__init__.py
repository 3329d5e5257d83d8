"""The SDK for asyncio: the names of `tfnz`, with methods to await. The logic is here."""

from __future__ import annotations

from tfnz.protocol.exits import Cause, Exit
from tfnz.results import Result
from tfnz.secret import Secret

from .container import Container
from .external import ExternalContainer
from .location import Location
from .node import Node
from .process import Process
from .tunnel import Tunnel

__all__ = [
    "Cause",
    "Container",
    "Exit",
    "ExternalContainer",
    "Location",
    "Node",
    "Process",
    "Result",
    "Secret",
    "Tunnel",
]
