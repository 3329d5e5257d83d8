"""Requests of Docker's HTTP interface over a unix socket: the fast path of whoever speaks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.contender import ContenderFailed

TIMEOUT_S: Final = 120.0
#: The version of the interface that Debian 12's docker speaks; newer ones still do.
_VERSION: Final = "/v1.41"

Body = bytes | Iterable[bytes]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class DockerApi:
    """One daemon. Every thread keeps a connection open, as a good client would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A request with JSON, and its answer: JSON, or None if there is none."""
        content = None if body is None else json.dumps(body).encode()
        with self.answer(method, path, content, {"Content-Type": "application/json"}) as response:
            text = response.read()
        return json.loads(text) if text.startswith((b"{", b"[")) else None

    @contextmanager
    def answer(
        self, method: str, path: str, body: Body | None = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A request over the connection of this thread; the answer is to be read to its end."""
        connection = self._connection()
        try:
            response = _exchange(connection, method, path, body, headers)
            yield response
            response.read()
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def stream(self, method: str, path: str, body: object = None) -> Iterator[http.client.HTTPResponse]:
        """A request whose answer comes bit by bit, over a connection of its own."""
        with contextlib.closing(UnixConnection(self._path)) as connection:
            content = None if body is None else json.dumps(body).encode()
            yield _exchange(connection, method, path, content, {"Content-Type": "application/json"})

    def _connection(self) -> UnixConnection:
        connection: UnixConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = UnixConnection(self._path)
        # Between two answers there is nothing to be read but the end: the daemon has tired of waiting.
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # the next request opens it again
        return connection


def _exchange(
    connection: UnixConnection, method: str, path: str, body: Body | None, headers: dict[str, str] | None
) -> http.client.HTTPResponse:
    try:
        connection.request(method, _VERSION + path, body=body, headers=headers or {})
        response = connection.getresponse()
    except http.client.HTTPException as exc:
        raise ContenderFailed(f"{method} {path}: {type(exc).__name__}: {exc}") from exc
    if response.status >= 400:
        raise ContenderFailed(
            f"{method} {path}: {response.status} {response.read().decode(errors='replace').strip()}"
        )
    return response
