"""What systemd is told by what it runs, as sd_notify(3) says; both sides use it."""

from __future__ import annotations

import contextlib
import socket


def send_state(address: str, state: str, *, may_wait: bool) -> None:
    """Send `state` (such as ``READY=1``). That nobody hears it is no reason to end.

    Args:
        address: what NOTIFY_SOCKET says.
        may_wait: whether to wait while systemd has no room for it; it is lost otherwise.
    """
    with (
        contextlib.suppress(OSError),  # also when there is no descriptor for a socket
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier,
    ):
        notifier.setblocking(may_wait)
        notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
