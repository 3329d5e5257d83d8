"""Telling whoever started the daemon that it is ready: systemd, or a program that runs it for itself."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from tfnz.protocol.errors import TfnzError
from tfnz.systemd import send_state


def notify_systemd(state: str) -> None:
    """Send `state` (such as ``READY=1``) as sd_notify(3) says; outside of systemd nothing happens."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        send_state(address, state, may_wait=True)


def tell_parent_ready(endpoint: str) -> None:
    """One line of JSON for the program that embeds this node."""
    _tell({"socket": endpoint})


def tell_parent_failed(error: TfnzError) -> None:
    """One line of JSON in place of readiness."""
    _tell({"error": {"code": error.code, "message": error.message}})


def _tell(line: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
