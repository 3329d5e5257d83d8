"""Asking an HTTP service in a container for a page; how HTTP is spoken is the standard library's affair."""

from __future__ import annotations

import asyncio
import http.client
import io
from typing import Any, Final

from tfnz.protocol.errors import InvalidArgument, NobodyListens
from tfnz.protocol.flows import Inflow

from .container_connections import ContainerConnections, leave

#: The longest request, and the longest beginning of an answer.
MAX_REQUEST: Final = 16 * 1024
MAX_HEAD: Final = 64 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"


class _Written(io.BytesIO):
    """Takes the place of a socket: what is sent is kept, what was kept is read."""

    sendall = io.BytesIO.write

    def makefile(self, *_: object, **__: object) -> io.BytesIO:
        return self


def build_request(host: str, path: str) -> bytes:
    """A GET request.

    Raises:
        InvalidArgument: `host` or `path` cannot be in one.
    """
    connection = http.client.HTTPConnection("localhost")
    written = _Written()
    connection.sock = written
    try:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        connection.putheader("Connection", "close")
        connection.endheaders()
    except (http.client.HTTPException, ValueError) as exc:
        raise InvalidArgument(f"fqdn {host!r:.100} or path {path!r:.100} cannot be asked for: {exc}") from exc
    request = written.getvalue()
    if len(request) > MAX_REQUEST:
        raise InvalidArgument(f"the request has {len(request)} bytes, more than {MAX_REQUEST}")
    return request


def parse_status(head: bytes) -> int:
    """The status of an answer that begins like this.

    Raises:
        http.client.HTTPException: it is no HTTP.
    """
    socket: Any = _Written(head)
    response = http.client.HTTPResponse(socket, method="GET")
    try:
        response.begin()
    except ValueError as exc:
        raise http.client.HTTPException(str(exc)) from exc
    return response.status


async def ask(container: ContainerConnections, target: int | str, request: bytes) -> int:
    """The status that a service answers; how long it may take is the caller's to limit.

    Raises:
        NobodyListens, TimedOut: there is no service just now, or it does not answer.
        http.client.HTTPException: what it answers is no HTTP.
    """
    inflow, outflow = await container._connect(target)
    try:
        outflow.write(request)
        return parse_status(await _read_head(inflow))
    finally:
        leave(inflow, outflow)


async def _read_head(inflow: Inflow) -> bytes:
    head = bytearray()
    complete = asyncio.Event()

    def take(data: bytes) -> None:
        head.extend(data)
        inflow.consumed(len(data))
        if _END_OF_HEAD in head or len(head) > MAX_HEAD:
            complete.set()

    inflow.attach(take, lambda _: complete.set())
    await complete.wait()
    if not head:
        raise NobodyListens("the service has closed the connection without an answer")
    return bytes(head)
