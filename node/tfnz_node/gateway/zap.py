"""Authentication over TCP, by the ZeroMQ Authentication Protocol (RFC 27): who may connect, and as which account.

libzmq asks here during every handshake and stamps our answer on every later message of that connection as its
User-Id, in C; nothing that a client writes can change it. The key pair of the client has been proved by CURVE and
names the account, if it is authorised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq
import zmq.asyncio

from .account_names import account_of_key
from .turns import receive_in_turn

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
TCP_DOMAIN = "tcp"
VERSION = b"1.0"


class Authenticator:
    """Answers libzmq's questions until it is closed.

    Args:
        authorised: whether an account may connect.
    """

    def __init__(self, context: zmq.asyncio.Context, *, authorised: Callable[[str], bool]) -> None:
        self._authorised = authorised
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)

    async def serve(self) -> None:
        """Answer for ever."""
        async for request in receive_in_turn(self._socket.recv_multipart):
            sequence = request[1] if len(request) > 1 else b""
            try:
                account = self.decide(request)
            except Exception:  # a question we cannot read, or a store that fails: nobody enters
                log.exception("authentication failed")
                account = None
            status, text = (b"200", b"OK") if account else (b"400", b"not authorised")
            user = (account or "").encode()
            await self._socket.send_multipart([VERSION, sequence, status, text, user, b""])

    def decide(self, request: list[bytes]) -> str | None:
        """The account of a ZAP request, or None to refuse it."""
        if len(request) < 6 or request[0] != VERSION:
            return None
        domain, address, mechanism = request[2].decode(), request[3].decode(), request[5]
        if domain == TCP_DOMAIN and mechanism == b"CURVE" and len(request) == 7 and len(request[6]) == 32:
            account = account_of_key(request[6])
            if self._authorised(account):
                return account
            log.warning("refused %s from %s: not authorised", account, address)
            return None
        return None

    def close(self) -> None:
        self._socket.close()


def as_account(value: object) -> str:
    """The account that libzmq has stamped on a message; asyncio.InvalidStateError when there is none."""
    if not isinstance(value, str) or not value:
        raise asyncio.InvalidStateError("a message arrived without an authenticated account")
    return value
