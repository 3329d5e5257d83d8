"""Links: how frames get from the client to a node, over a unix socket, ZeroMQ or through memory."""

from __future__ import annotations

from .base import Connector, Link, LinkBroken, Unproven

__all__ = ["Connector", "Link", "LinkBroken", "Unproven"]
