"""What a link is: an ordered way for whole frames that works until it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from tfnz.protocol.errors import NotAuthorised
from tfnz.protocol.frames import FrameBytes


class LinkBroken(Exception):
    """The link carries nothing any more; a new one may."""


class Unproven(NotAuthorised):
    """The connection ended before the peer had proved who it is: it cannot, or the network broke just then."""


class Link(Protocol):
    """One connection to a node. Used by one event loop only."""

    def send(self, frame: bytes) -> None:
        """Send a frame, at once and without waiting; on a broken link it is lost."""

    async def receive(self) -> FrameBytes:
        """The next frame.

        Raises:
            LinkBroken: there is none, and never will be.
        """

    async def hand_over(self, on_frame: Callable[[FrameBytes], None]) -> NoReturn:
        """Have `on_frame` called with each frame that arrives from now on, in the turn of the loop in which it does.

        Raises:
            LinkBroken: there will be no more.
            Exception: whatever `on_frame` raised; it is not called again.
        """

    async def wait_closed(self) -> None:
        """Return when the link is broken or closed."""

    def close(self) -> None:
        """Give up the link; calling it again does nothing."""


class Connector(Protocol):
    """Makes links to one address."""

    @property
    def address(self) -> str:
        """What is connected to, for people."""

    async def connect(self) -> Link:
        """A new link, on which the peer has proved who it is.

        Raises:
            ConnectionFailed: nothing answers there.
            NotAuthorised: one of the two does not accept the other; `Unproven` when that is not certain.
        """

    def close(self) -> None:
        """Free what the links shared; they are closed."""
