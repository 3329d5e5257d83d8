"""What systemd hears of a program that it runs as a service: that it is ready, and that it is alive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tfnz.systemd import send_state


@asynccontextmanager
async def serving() -> AsyncIterator[None]:
    """Within it the program is ready; and alive, as long as the event loop is. Outside of systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        yield
        return
    limit_us = find_watchdog_limit_us(os.environ, os.getpid())
    _notify(address, "READY=1" if limit_us is None else f"READY=1\nWATCHDOG_USEC={limit_us}")
    feeding = asyncio.create_task(_feed(address, limit_us / 2_000_000)) if limit_us else None
    try:
        yield
    finally:
        if feeding is not None:
            feeding.cancel()
            # What the program does after it is its own business, and may take its time.
            _notify(address, "WATCHDOG_USEC=0")


def find_watchdog_limit_us(environment: Mapping[str, str], pid: int) -> int | None:
    """For how long the watchdog lets this process be silent; None if it does not mind."""
    try:
        limit_us = int(environment.get("WATCHDOG_USEC", "0"))
        meant = int(environment.get("WATCHDOG_PID", str(pid)))
    except ValueError:
        return None
    return limit_us if limit_us > 0 and meant == pid else None


async def _feed(address: str, interval_s: float) -> None:
    while True:
        _notify(address, "WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _notify(address: str, state: str) -> None:
    """The event loop does not wait for systemd."""
    send_state(address, state, may_wait=False)
