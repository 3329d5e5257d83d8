"""What programs written for release 1.3 ask of `Location.conn`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .protocol.errors import InvalidArgument


@dataclass(frozen=True)
class AccountKeys:
    """The account's keys, as far as they are anybody's business."""

    public: bytes

    def public_binary(self) -> bytes:
        """The public key, 32 bytes; the same as `Location.user_pk`."""
        return self.public


@dataclass(frozen=True)
class Conn:
    """Facts about a location's connection.

    Attributes:
        connect_ip: the host that is connected to, or the path of the socket.
        rid: the session's name on the node.
        keys: the account's.
    """

    connect_ip: str
    rid: str
    keys: AccountKeys
    _ask: Callable[[], object]

    def send_blocking_cmd(self, command: bytes) -> None:
        """Ask the node whether it is there, and return when it has answered; may be called from callbacks.

        Args:
            command: ``b"ping"``. All else that there was has become methods of the objects that it is about.

        Raises:
            InvalidArgument: it is another command.
            TimedOut: no answer.
        """
        if command != b"ping":
            raise InvalidArgument(f"the command is {command!r:.100}: only b'ping' can be sent like this")
        self._ask()
