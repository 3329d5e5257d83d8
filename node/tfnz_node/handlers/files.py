"""Requests that move files and trees into and out of containers."""

from __future__ import annotations

from tfnz.protocol.errors import Disconnected
from tfnz.protocol.messages import Done, FetchFile, FetchTree, PutFile, PutTree
from tfnz_node.core.flow import Sink, Source
from tfnz_node.core.plan import plan_path
from tfnz_node.gateway.session import Session
from tfnz_node.supervisor import files

from .context import Node


async def put_file(node: Node, session: Session, request: PutFile) -> Done:
    words = ["put", plan_path(request.path), f"{request.mode:o}"]
    container, source = node.container(session, request.container), _source(session, request.stream)
    await files.put(container, words, source, sealed=True)
    return Done()


async def put_tree(node: Node, session: Session, request: PutTree) -> Done:
    words = ["put-tree", plan_path(request.path)]
    container, source = node.container(session, request.container), _source(session, request.stream)
    await files.put(container, words, source, sealed=False)  # its last record says that it is
    return Done()


async def fetch_file(node: Node, session: Session, request: FetchFile) -> Done:
    words = ["get", plan_path(request.path)]
    await files.fetch(node.container(session, request.container), words, _sink(session, request.stream))
    return Done()


async def fetch_tree(node: Node, session: Session, request: FetchTree) -> Done:
    words = ["get-tree", plan_path(request.path)]
    await files.fetch(node.container(session, request.container), words, _sink(session, request.stream))
    return Done()


def _source(session: Session, number: int) -> Source:
    stream = session.wide_input(number)
    if stream is None:
        raise Disconnected("the session has ended")
    return stream


def _sink(session: Session, number: int) -> Sink:
    stream = session.output(number)
    if stream is None:
        raise Disconnected("the session has ended")
    return stream
