"""Containers as function calls: what an application imports.

Names are imported when they are first used: a daemon that is started in a hurry shares the protocol with the SDK, and
has no use for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .container import Container
    from .external import ExternalContainer
    from .location import Location
    from .node import Node
    from .process import Process
    from .protocol.errors import (
        CommandNotExecutable,
        CommandNotFound,
        ConnectionBroken,
        ConnectionFailed,
        ContainerNotFound,
        Disconnected,
        DiskFull,
        FileError,
        ImageError,
        ImageInUse,
        ImageInvalid,
        ImageNotFound,
        InternalError,
        InvalidArgument,
        ListenFailed,
        NoAccount,
        NobodyListens,
        NoCapacity,
        NodeNotFound,
        NodeRestarted,
        NotAuthorised,
        NotFound,
        NotServing,
        ObjectDead,
        PathIsDirectory,
        PathNotFound,
        PathRefused,
        ProcessFailed,
        ProcessNotFound,
        ProtocolError,
        QuotaExceeded,
        SessionLost,
        StartFailed,
        TagInUse,
        TfnzError,
        TimedOut,
        UserNotFound,
        VersionMismatch,
        WorkdirUnusable,
    )
    from .protocol.exits import Cause, Exit
    from .protocol.messages import ContainerInfo, ImageInfo, NodeStatus
    from .results import Result
    from .secret import Secret
    from .tunnel import Tunnel
    from .waitable import Killable, Waitable

__all__ = [
    "Cause",
    "CommandNotExecutable",
    "CommandNotFound",
    "ConnectionBroken",
    "ConnectionFailed",
    "Container",
    "ContainerInfo",
    "ContainerNotFound",
    "Disconnected",
    "DiskFull",
    "Exit",
    "ExternalContainer",
    "FileError",
    "ImageError",
    "ImageInUse",
    "ImageInfo",
    "ImageInvalid",
    "ImageNotFound",
    "InternalError",
    "InvalidArgument",
    "Killable",
    "ListenFailed",
    "Location",
    "NoAccount",
    "NoCapacity",
    "NobodyListens",
    "Node",
    "NodeNotFound",
    "NodeRestarted",
    "NodeStatus",
    "NotAuthorised",
    "NotFound",
    "NotServing",
    "ObjectDead",
    "PathIsDirectory",
    "PathNotFound",
    "PathRefused",
    "Process",
    "ProcessFailed",
    "ProcessNotFound",
    "ProtocolError",
    "QuotaExceeded",
    "Result",
    "Secret",
    "SessionLost",
    "StartFailed",
    "TagInUse",
    "TfnzError",
    "TimedOut",
    "Tunnel",
    "UserNotFound",
    "VersionMismatch",
    "Waitable",
    "WorkdirUnusable",
]

#: Where each name is, but for errors.
_HOMES = {
    "Cause": "protocol.exits",
    "Container": "container",
    "ContainerInfo": "protocol.messages",
    "Exit": "protocol.exits",
    "ExternalContainer": "external",
    "ImageInfo": "protocol.messages",
    "Killable": "waitable",
    "Location": "location",
    "Node": "node",
    "NodeStatus": "protocol.messages",
    "Process": "process",
    "Result": "results",
    "Secret": "secret",
    "Tunnel": "tunnel",
    "Waitable": "waitable",
}

if not TYPE_CHECKING:  # else any name at all would seem to be there

    def __getattr__(name: str) -> object:
        if name == "aio":
            return importlib.import_module(".aio", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f".{_HOMES.get(name, 'protocol.errors')}", __name__)
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
