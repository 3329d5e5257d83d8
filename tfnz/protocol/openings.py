"""Which streams a request opens; pure."""

from __future__ import annotations

from .messages import (
    FetchFile,
    FetchTree,
    ImportImage,
    OpenConnection,
    PutFile,
    PutTree,
    RequestBody,
    RunProcess,
    SpawnContainer,
    StartProcess,
)


def find_streams(body: RequestBody) -> tuple[list[int], list[int]]:
    """The streams that a request opens: those to the node, those from it."""
    match body:
        case SpawnContainer() | StartProcess() | RunProcess():
            inputs, outputs = [body.streams.stdin], [body.streams.stdout, body.streams.stderr]
        case PutFile() | PutTree() | ImportImage():
            inputs, outputs = [body.stream], []
        case FetchFile() | FetchTree():
            inputs, outputs = [], [body.stream]
        case OpenConnection():
            inputs, outputs = [body.to_container], [body.from_container]
        case _:
            return [], []
    return [number for number in inputs if number], [number for number in outputs if number]
